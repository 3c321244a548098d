"""The capstone from one command: load, train, evaluate, calibrate, attack, explain, report.

python -m course_utils.capstone                                  # FastClassifier, 5 epochs
python -m course_utils.capstone --model tutorial --epochs 10
torchrun --nproc-per-node 2 -m course_utils.capstone             # two processes train one model
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from course_utils.capstone.distributed import process_group, rank
from course_utils.capstone.models import FastClassifier, ImageClassifier
from course_utils.capstone.report import write_report
from course_utils.capstone.training import train_model
from course_utils.data import load_cifar10
from course_utils.data.cifar10 import SOURCES
from course_utils.foundation.seeding import isolated_randomness

AMP = {"auto": "auto", "on": True, "off": False}


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    folder = Path(options.out)
    if (folder / "metrics.json").exists():
        raise SystemExit(f"{folder} holds a report already, and it is not overwritten; choose another --out")
    with process_group(options.device):
        data = load_cifar10(options.root, source=options.source, seed=options.seed)
        data = data if options.limit is None else data.limit(options.limit)
        with isolated_randomness(options.seed):  # the initial weights
            model = make_model(options, len(data.class_names))
        history = train_model(
            model,
            data,
            epochs=options.epochs,
            batch_size=options.batch_size,
            lr=options.lr,
            device=options.device,
            augment=not options.no_augment,
            amp=AMP[options.amp],
            seed=options.seed,
            checkpoint=folder / "checkpoint.pt",
        )
        if history.interrupted:
            raise SystemExit("interrupted; no report was written. The same command goes on from the last whole epoch.")
        first = rank() == 0
    if first:  # the others are done
        settings = {name: value for name, value in vars(options).items() if name not in ("out", "root")}
        figures = write_report(model, data, folder, history=history, run={"options": settings})["as_trained"]
        low, high = figures["intervals"]["accuracy"]
        print(f"{data.name}: accuracy {figures['accuracy']:.3f} [{low:.3f}, {high:.3f}] on the test pictures")
        print(f"written: {folder / 'report.html'}")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m course_utils.capstone", description=__doc__.split("\n")[0])
    parser.add_argument("--out", default="capstone_report", help="folder of the report, and of the checkpoint")
    parser.add_argument("--model", choices=("fast", "tutorial"), default="fast")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--batch-size", type=int, help="default: the model's recipe")
    parser.add_argument("--lr", type=float, help="default: the model's recipe")
    parser.add_argument("--dropout", type=float, default=0.5, help="of the tutorial's model")
    parser.add_argument("--no-augment", action="store_true", help="neither shift nor flip")
    parser.add_argument("--amp", choices=tuple(AMP), default="auto", help="bfloat16: measured, always or never")
    parser.add_argument("--device", choices=("auto", "cuda", "mps", "cpu"), default="auto")
    parser.add_argument("--source", choices=SOURCES, default="auto", help="of the pictures")
    parser.add_argument("--root", help="folder that holds cifar-10-batches-py")
    parser.add_argument("--limit", type=int, help="use only so many pictures of each part, for a quick look")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(arguments)


def make_model(options: argparse.Namespace, num_classes: int) -> FastClassifier | ImageClassifier:
    if options.model == "fast":
        return FastClassifier(num_classes)
    return ImageClassifier(num_classes, dropout=options.dropout)


if __name__ == "__main__":
    main()
