"""How much sooner a grid is trained at once, with the same results, and how long the tables of a big comparison take.

    uv run --all-groups benchmarks/homework.py

One thread, whose processor time is taken (on an idle machine that is the wall time). The loop, `train_sequentially`,
runs a random sample of the grid's runs for the same number of epochs, and its time is scaled to the whole grid. Sample
and grid take turns, so that a busy machine slows down both.
"""

import random
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from timing import Report, seconds

from course_utils.homework import Comparison, expand_grid, requirements, train_batched, train_sequentially
from course_utils.homework.runs import RunRecord
from course_utils.iris import load_iris_split

SEEDS, ROUNDS, SAMPLE = 10, 5, 12
GRIDS = {  # with the ratio that is wanted
    "300 runs of SGD, full batch, 1,000 epochs": (
        expand_grid({"lr": [0.003, 0.01, 0.03, 0.1, 0.3], "hidden_features": [2, 4, 8, 10, 16, 32]}, epochs=1_000),
        50,
    ),
    "600 runs of Adam, tanh twice, dropout, batches of 32, 100 epochs": (
        expand_grid(
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
        20,
    ),
}


def engines(report: Report) -> None:
    split = load_iris_split()
    x, y = split.x_train, split.y_train
    for name, (settings, wanted) in GRIDS.items():
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
            pairs = zip(sample, plain, strict=True)
            differences += [(batched[i].losses - run.losses).abs().max().item() for i, run in pairs]
        report.row(f"{name}, loop against batched", ratios, "times", at_least=wanted)
        # Some runs are chaotic: there a first weight changed by 1e-7 moves the loop's own curve as much.
        report.row("  largest difference of a loss curve", differences, "nats", at_most=1e-4)


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


def tables(report: Report) -> None:
    parts = {
        "runs": lambda comparison: comparison.runs,
        "curves": lambda comparison: comparison.curves,
        "summary": lambda comparison: comparison.summary(),
        "importance": lambda comparison: comparison.importance(),
        "best": lambda comparison: comparison.best(),
        "requirements": requirements,
        "the first _repr_html_": lambda comparison: comparison._repr_html_(),
        "report": write_report,
    }
    for compute in parts.values():
        compute(big_comparison())  # loads the libraries
    for name, compute in parts.items():
        comparisons = [big_comparison() for _ in range(3)]  # which have cached nothing yet
        times = [seconds(lambda c=c, compute=compute: compute(c), time.process_time) for c in comparisons]
        report.row(f"5,000 settings × 6 seeds, {name}", times, "s", at_most=3)
    comparison = big_comparison()
    comparison.summary()
    times = [seconds(comparison._repr_html_, time.process_time) for _ in range(3)]
    report.row("5,000 settings × 6 seeds, _repr_html_ once more", times, "s", at_most=0.05)
    report.row("  its size", [len(comparison._repr_html_().encode()) / 1000], "kB", at_most=200)


def write_report(comparison: Comparison) -> None:
    with tempfile.TemporaryDirectory() as folder:
        comparison.report(Path(folder) / "report.html")


def main() -> None:
    torch.set_num_threads(1)
    report = Report("homework")
    tables(report)
    engines(report)
    report.save()


if __name__ == "__main__":
    main()
