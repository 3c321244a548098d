"""How much sooner a whole grid is trained at once than one run after another, with the same results.

    uv run --all-groups benchmarks/homework.py

One thread, whose processor time is taken (on an idle machine that is the wall time). The loop, `train_sequentially`,
runs a random sample of the grid's runs for the same number of epochs, and its time is scaled to the whole grid. Sample
and grid take turns, so that a busy machine slows down both.
"""

import random
import statistics
import time

import torch

from course_utils.homework import expand_grid, train_batched, train_sequentially
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


def measure(name: str, settings: list, x: torch.Tensor, y: torch.Tensor) -> None:
    runs = [(setting, seed) for setting in settings for seed in range(SEEDS)]
    ratios, loop_seconds, batched_seconds, differences = [], [], [], []
    for round_ in range(ROUNDS):
        sample = random.Random(round_).sample(range(len(runs)), SAMPLE)
        start = time.process_time()
        plain = [train_sequentially(*runs[i], x, y, 3) for i in sample]
        middle = time.process_time()
        batched = train_batched(runs, x, y, 3)
        end = time.process_time()
        loop_seconds.append((middle - start) * len(runs) / SAMPLE)
        batched_seconds.append(end - middle)
        ratios.append(loop_seconds[-1] / batched_seconds[-1])
        differences += [
            (batched[i].losses - run.losses).abs().max().item() for i, run in zip(sample, plain, strict=True)
        ]
    print(f"{name}, {settings[0].epochs:,} epochs, 1 thread, median of {ROUNDS}")
    print(f"  loop {statistics.median(loop_seconds):.1f} s (scaled from {SAMPLE} of {len(runs)} runs drawn at random)")
    print(f"  batched {statistics.median(batched_seconds):.2f} s")
    print(f"  ratio {statistics.median(ratios):.1f} (from {min(ratios):.1f} to {max(ratios):.1f})")
    close = sum(difference < 1e-4 for difference in differences)
    # Some runs are chaotic: there a first weight changed by 1e-7 moves the loop's own curve as much.
    print(f"  loss curves equal to 1e-4: {close} of {len(differences)}; median {statistics.median(differences):.1e}")


def main() -> None:
    torch.set_num_threads(1)
    split = load_iris_split()
    for name, settings in GRIDS.items():
        measure(name, settings, split.x_train, split.y_train)


if __name__ == "__main__":
    main()
