"""What the progress bar and the logging of `course_utils.iris.train` cost, against a bare loop.

    uv run --all-groups benchmarks/training_loop.py

Both run 20,000 full-batch epochs of the same model on one thread, in turns, in one process. The bar is really drawn.
"""

import torch
import torch.nn.functional as F
from timing import Report

from course_utils.iris import MLP, load_iris_split, train

EPOCHS = 20_000


def bare(split) -> None:
    model = MLP().train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for _ in range(EPOCHS):
        optimizer.zero_grad()
        F.cross_entropy(model(split.x_train), split.y_train).backward()
        optimizer.step()


def ours(split) -> None:
    train(MLP(), split.x_train, split.y_train, epochs=EPOCHS)


def main() -> None:
    torch.set_num_threads(1)
    split = load_iris_split()
    report = Report("training_loop")
    report.compare(
        f"training, {EPOCHS:,} full-batch epochs",
        {"ours": lambda: ours(split), "bare loop": lambda: bare(split)},
        at_most={"bare loop": 1.02},
    )
    report.save()


if __name__ == "__main__":
    main()
