"""The capstone from one command: load, train, evaluate, calibrate, attack, explain, report.

python -m course_utils.capstone                                  # FastClassifier, 5 epochs
python -m course_utils.capstone --model tutorial --epochs 10
torchrun --nproc-per-node 2 -m course_utils.capstone             # two processes train one model
"""

import argparse
import math
from collections.abc import Callable, Sequence
from pathlib import Path

from course_utils.capstone.distributed import process_group, rank
from course_utils.capstone.models import FastClassifier, ImageClassifier, NormalizedImageClassifier
from course_utils.capstone.report import write_report
from course_utils.capstone.training import TrainingHistory, train_model
from course_utils.data import ImageData, load_cifar10
from course_utils.data.cifar10 import SOURCES
from course_utils.foundation.devices import DEVICES, choose_device
from course_utils.foundation.files import check_writable
from course_utils.foundation.seeding import isolated_randomness

PROGRAM = "python -m course_utils.capstone"
AMP = {"auto": "auto", "on": True, "off": False}


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    folder = Path(options.out)
    if (folder / "metrics.json").exists():
        raise SystemExit(f"{folder} holds a report already, and it is not overwritten; choose another --out")
    with process_group(options.device):
        try:
            data, model, history = train(options, folder / "checkpoint.pt")
        except (ValueError, ConnectionError, FloatingPointError) as error:  # its message says what to do
            raise SystemExit(f"{PROGRAM}: error: {error}") from error
        if history.interrupted:
            raise SystemExit("interrupted; no report was written. The same command goes on from the last whole epoch.")
        first = rank() == 0
    if first:  # the others are done
        settings = {name: value for name, value in vars(options).items() if name not in ("out", "root")}
        figures = write_report(model, data, folder, history=history, run={"options": settings})["as_trained"]
        low, high = figures["intervals"]["accuracy"]
        print(f"{data.name}: accuracy {figures['accuracy']:.3f} [{low:.3f}, {high:.3f}] on the test images")
        print(f"written: {folder / 'report.html'}")


def train(
    options: argparse.Namespace, checkpoint: Path
) -> tuple[ImageData, NormalizedImageClassifier, TrainingHistory]:
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
        checkpoint=checkpoint,
    )
    return data, model, history


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=PROGRAM, description=__doc__.split("\n")[0])
    parser.add_argument("--out", default="capstone_report", help="folder of the report, and of the checkpoint")
    parser.add_argument("--model", choices=("fast", "tutorial"), default="fast")
    positive = number(int, lambda n: n >= 1, "a whole number of at least 1")
    parser.add_argument("--epochs", type=positive, default=5)
    parser.add_argument("--batch-size", type=positive, help="default: the model's recipe")
    lr = number(float, lambda lr: 0 < lr < 1e30, "a number greater than 0 and less than 1e+30")
    parser.add_argument("--lr", type=lr, help="default: the model's recipe")
    share = number(float, lambda share: 0 <= share <= 1, "a number from 0 to 1")
    parser.add_argument("--dropout", type=share, default=0.5, help="of the tutorial's model")
    parser.add_argument("--no-augment", action="store_true", help="neither shift nor flip")
    parser.add_argument("--amp", choices=tuple(AMP), default="auto", help="bfloat16: measured, always or never")
    parser.add_argument("--device", choices=DEVICES, default="auto")
    parser.add_argument("--source", choices=SOURCES, default="auto", help="of the images")
    parser.add_argument("--root", help="folder that holds cifar-10-batches-py")
    limit = number(int, lambda n: n >= 100, "a whole number of at least 100")
    parser.add_argument("--limit", type=limit, help="use only so many images of each part, for a quick look")
    seed = number(int, lambda n: 0 <= n < 2**32, f"a whole number of at least 0 and at most {2**32 - 1}")
    parser.add_argument("--seed", type=seed, default=0)
    options = parser.parse_args(arguments)
    try:
        choose_device(options.device)
        check_writable(Path(options.out) / "checkpoint.pt")
    except ValueError as error:
        parser.error(str(error))
    return options


def number(kind: type, fits: Callable[[float], bool], wanted: str) -> Callable[[str], float]:
    """What argparse makes a number of a kind with; `wanted` says in words what `fits` asks."""

    def convert(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan  # fits nowhere
        if not fits(value):
            raise argparse.ArgumentTypeError(f"must be {wanted}, but is {text!r}")
        return value

    return convert


def make_model(options: argparse.Namespace, num_classes: int) -> FastClassifier | ImageClassifier:
    if options.model == "fast":
        return FastClassifier(num_classes)
    return ImageClassifier(num_classes, dropout=options.dropout)


if __name__ == "__main__":
    main()
