"""What the progress bar and the logging of `course_utils.iris.train` cost, against a bare loop.

    uv run --all-groups benchmarks/training_loop.py

Both run 20,000 full-batch epochs of the same model on one thread, in turns, in one process. The bar is really drawn.
"""

import statistics
import time

import torch
import torch.nn.functional as F

from course_utils.iris import MLP, load_iris_split, train

EPOCHS, ROUNDS = 20_000, 5


def bare(split) -> None:
    model = MLP().train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for _ in range(EPOCHS):
        optimizer.zero_grad()
        F.cross_entropy(model(split.x_train), split.y_train).backward()
        optimizer.step()


def ours(split) -> None:
    train(MLP(), split.x_train, split.y_train, epochs=EPOCHS)


def seconds(function, split) -> float:
    start = time.perf_counter()
    function(split)
    return time.perf_counter() - start


def main() -> None:
    torch.set_num_threads(1)
    split = load_iris_split()
    bare_times, our_times = [], []
    for _ in range(ROUNDS):
        bare_times.append(seconds(bare, split))
        our_times.append(seconds(ours, split))
    ratios = [mine / theirs for mine, theirs in zip(our_times, bare_times, strict=True)]
    print(f"1 thread, {EPOCHS:,} epochs, median of {ROUNDS}")
    print(f"bare loop {statistics.median(bare_times):.2f} s, train {statistics.median(our_times):.2f} s")
    print(f"ratio {statistics.median(ratios):.3f} (from {min(ratios):.3f} to {max(ratios):.3f}); wanted: at most 1.02")


if __name__ == "__main__":
    main()
