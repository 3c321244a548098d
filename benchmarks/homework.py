"""How much sooner a grid is trained at once, with the same results, and how long the tables of a big comparison take.

    uv run --all-groups benchmarks/homework.py

One thread, whose processor time is taken (on an idle machine that is the wall time). The loop, `train_sequentially`,
runs a random sample of the grid's runs for the same number of epochs, and its time is scaled to the whole grid. Sample
and grid take turns, so that a busy machine slows down both.
"""

import random
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from course_utils.homework import Comparison, expand_grid, requirements, train_batched, train_sequentially
from course_utils.homework.runs import RunRecord
from course_utils.iris import load_iris_split

SEEDS, ROUNDS, SAMPLE = 10, 5, 12
GRIDS = {
    "300 runs of SGD, full batch (wanted: 50 times)": expand_grid(
        {"lr": [0.003, 0.01, 0.03, 0.1, 0.3], "hidden_features": [2, 4, 8, 10, 16, 32]}, epochs=1_000
    ),
    "600 runs of Adam, two hidden layers, tanh, dropout, batches of 32 (wanted: 20 times)": expand_grid(
        {
            "lr": [0.0003, 0.001, 0.003, 0.01, 0.03],
            "hidden_features": [[4, 4], [8, 8], [16, 16], [32, 32]],
            "dropout": [0.1, 0.3, 0.5],
            "optimizer": "adam",
            "activation": "tanh",
            "batch_size": 32,
        },
        epochs=100,
    ),
}


def measure_engines(name: str, settings: list, x: torch.Tensor, y: torch.Tensor) -> None:
    runs = [(setting, seed) for setting in settings for seed in range(SEEDS)]
    train_sequentially(*runs[0], x[:2], y[:2], 3)  # what torch loads at the first step belongs to neither side
    ratios, differences = [], []
    for round_ in range(ROUNDS):
        sample = random.Random(round_).sample(range(len(runs)), SAMPLE)
        start = time.process_time()
        plain = [train_sequentially(*runs[i], x, y, 3) for i in sample]
        middle = time.process_time()
        batched = train_batched(runs, x, y, 3)
        end = time.process_time()
        ratios.append((middle - start) * len(runs) / SAMPLE / (end - middle))
        differences += [
            (batched[i].losses - run.losses).abs().max().item() for i, run in zip(sample, plain, strict=True)
        ]
    print(f"{name}, {settings[0].epochs:,} epochs, 1 thread, median of {ROUNDS}")
    print(f"  loop / batched {statistics.median(ratios):.1f} times (from {min(ratios):.1f} to {max(ratios):.1f})")
    close = sum(difference < 1e-4 for difference in differences)
    # Some runs are chaotic: there a first weight changed by 1e-7 moves the loop's own curve as much.
    print(f"  loss curves equal to 1e-4: {close} of {len(differences)}; median {statistics.median(differences):.1e}")


def big_comparison(num_seeds: int = 6) -> Comparison:
    """5,000 settings × 6 seeds with invented figures: widths and learning rates matter a little, luck does more."""
    settings = expand_grid(
        {
            "lr": np.geomspace(1e-4, 1, 50),
            "hidden_features": list(range(2, 22)),
            "dropout": [0, 0.1, 0.2, 0.3, 0.4],
        },
        epochs=100,
    )
    numbers = np.random.default_rng(0)
    curve = tuple(np.exp(-np.arange(100) / 50).tolist())
    records = []
    for number, setting in enumerate(settings):
        likely = 0.9 - 0.01 * abs(np.log10(setting.lr) + 2)
        for seed in range(num_seeds):
            figures = (numbers.binomial(30, likely, size=3) / 30).tolist()
            records.append(RunRecord(number, seed, *figures, False, 0.1, "invented", curve))
    return Comparison(
        *(tuple(settings), tuple(range(num_seeds)), tuple(records), (90, 30, 30)),
        *("iris", "0" * 64, "accuracy", "holdout", "auto"),
    )


def measure_tables() -> None:
    parts = {
        "runs (wanted: 3 s)": lambda comparison: comparison.runs,
        "curves (3 s)": lambda comparison: comparison.curves,
        "summary (3 s)": lambda comparison: comparison.summary(),
        "importance (3 s)": lambda comparison: comparison.importance(),
        "best (3 s)": lambda comparison: comparison.best(),
        "requirements (3 s)": requirements,
        "_repr_html_, the first (3 s)": lambda comparison: comparison._repr_html_(),
        "report (3 s)": write_report,
    }
    for compute in parts.values():
        compute(big_comparison())  # loads the libraries
    print("5,000 settings × 6 seeds, 1 thread")
    for name, compute in parts.items():
        comparison = big_comparison()  # which has cached nothing yet
        start = time.process_time()
        compute(comparison)
        print(f"  {name}: {time.process_time() - start:.3f} s")
    comparison.summary()
    start = time.process_time()
    page = comparison._repr_html_()
    seconds = time.process_time() - start
    print(f"  _repr_html_ once more (0.05 s, 200 kB): {seconds:.4f} s, {len(page.encode()) / 1000:.1f} kB")


def write_report(comparison: Comparison) -> None:
    with tempfile.TemporaryDirectory() as folder:
        comparison.report(Path(folder) / "report.html")


def main() -> None:
    torch.set_num_threads(1)
    measure_tables()
    split = load_iris_split()
    for name, settings in GRIDS.items():
        measure_engines(name, settings, split.x_train, split.y_train)


if __name__ == "__main__":
    main()
