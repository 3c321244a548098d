"""Training on CIFAR-10: the tutorials' loop against the capstone's, to the end, in one run.

    uv run --all-groups benchmarks/capstone.py                 # about 25 minutes on two cores
    uv run --all-groups benchmarks/capstone.py --only evaluation

1. The tutorials' loop: `ImageClassifier`, torchvision's CIFAR10 with transforms for each image, a DataLoader, Adam
   1e-3, batches of 64, ten epochs, each followed by a look at the held-out images.
2. The same network from memory, channels last, one-cycle AdamW, bfloat16 where it is faster.
3. `FastClassifier`, one pass over a part of the images: the tutorials' accuracy, in bfloat16 (where it is faster) and
   in float32.
4. `FastClassifier`, ten epochs and thirteen epochs, with and without the mirror image.
5. Evaluation of 10,000 images against a loop that extends lists, for both networks.

All threads that torch takes by default; the real data are read from where `load_cifar10` looks for them, or downloaded
there. Processor time stands beside wall time, because a machine that others use stretches only the second.
"""

import argparse
import os
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from timing import Report
from torch.utils.data import DataLoader, Subset
from torchvision import transforms
from torchvision.datasets import CIFAR10

from course_utils.capstone import (
    FastClassifier,
    FlipAverage,
    ImageClassifier,
    evaluate_model,
    load_cifar10,
    train_model,
)
from course_utils.data.cifar10 import cache_folder
from course_utils.foundation.progress import progress_bar

PARTS = ("tutorials", "from_memory", "short", "ten", "full", "evaluation")


def data_folder() -> Path:
    """Where `load_cifar10` found the images."""
    folders = [Path(os.environ.get("COURSE_DATA_DIR") or cache_folder()), cache_folder()]
    return next(folder for folder in folders if (folder / "cifar-10-batches-py").exists())


def loader(data, *, train: bool) -> DataLoader:
    """The tutorials' way. The official training images are cut as `load_cifar10` cuts them, only at random."""
    steps = [transforms.ToTensor(), transforms.Normalize(data.mean.tolist(), data.std.tolist())]
    images = CIFAR10(data_folder(), train=train, transform=transforms.Compose(steps))
    if train:
        images = Subset(images, range(len(data.train)))
    return DataLoader(images, batch_size=64, shuffle=train)


class Clock:
    """Wall and processor seconds since it was made."""

    def __init__(self) -> None:
        self.wall, self.processor = time.perf_counter(), time.process_time()

    def read(self) -> tuple[float, float]:
        return time.perf_counter() - self.wall, time.process_time() - self.processor


def tutorials(data, epochs: int = 10) -> ImageClassifier:
    torch.manual_seed(0)
    model, batches, held_out = ImageClassifier(), loader(data, train=True), loader(data, train=False)
    model.learn_statistics(data)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in progress_bar(range(epochs), description="tutorials"):
        model.train()
        for inputs, target in batches:
            optimizer.zero_grad()
            F.cross_entropy(model(inputs), target).backward()
            optimizer.step()
        evaluate_with_lists(model, held_out)
    return model


def ours(model, data, **options):
    train_model(model, data, **options)
    return model


def evaluate_with_lists(model, batches) -> float:
    predictions, target = [], []
    model.eval()
    with torch.no_grad():
        for inputs, labels in batches:
            predictions.extend(model(inputs).argmax(1).tolist())
            target.extend(labels.tolist())
    return sum(p == t for p, t in zip(predictions, target, strict=True)) / len(target)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", choices=PARTS, nargs="*", default=PARTS)
    parser.add_argument("--checkpoint", type=Path, help="of part 4, for tools/train_capstone.py to go on with")
    options = parser.parse_args()
    data = load_cifar10(source="cifar10")
    report = Report("capstone")
    test = data.test.images, data.test.target
    base = None

    def run(name: str, train, *arguments, **settings) -> None:
        nonlocal base
        torch.manual_seed(0)
        clock = Clock()
        model = train(*arguments, **settings)
        seconds = clock.read()
        base = base or seconds
        for clock_name, mine, first in zip(("wall", "processor"), seconds, base, strict=True):
            report.row(f"{name}: {clock_name} time", [mine], "s")
            report.row(f"{name}: {clock_name} time, of the first row's", [mine / first], "times")
        report.row(f"{name}: test accuracy", [evaluate_model(model, *test).accuracy], "")
        report.row(f"{name}: with the mirror image", [evaluate_model(FlipAverage(model), *test).accuracy], "")

    if "tutorials" in options.only:
        run("tutorials, 10 epochs", tutorials, data)
    if "from_memory" in options.only:
        settings = {"epochs": 6, "batch_size": 256, "augment": False}
        run("the same network from memory, 6 epochs", lambda: ours(ImageClassifier(), data, **settings))
    if "short" in options.only:
        part = data.limit(40_000)
        for amp in ("auto", False):
            run(
                f"FastClassifier, 40,000 images, amp={amp}",
                lambda amp=amp: ours(FastClassifier(), part, epochs=1, batch_size=128, amp=amp),
            )
    if "ten" in options.only:
        run("FastClassifier, 10 epochs", lambda: ours(FastClassifier(), data, epochs=10))
    if "full" in options.only:
        run("FastClassifier, 13 epochs", lambda: ours(FastClassifier(), data, epochs=13, checkpoint=options.checkpoint))
    if "evaluation" in options.only:
        batches = loader(data, train=False)
        for network, amp in ((ImageClassifier, False), (FastClassifier, False), (FastClassifier, True)):
            model = network()
            model.learn_statistics(data)
            ratios = []
            for _ in range(3):
                clock = Clock()
                expected = evaluate_with_lists(model, batches)
                theirs, clock = clock.read()[0], Clock()
                assert abs(evaluate_model(model, *test, amp=amp).accuracy - expected) < (1e-2 if amp else 1e-3)
                ratios.append(theirs / clock.read()[0])
            name = f"evaluating 10,000 images, {network.__name__}, amp={amp}"
            report.row(f"{name}: a loop that extends lists / ours", ratios, "times")
    report.save()


if __name__ == "__main__":
    main()
