"""Train the course's own CIFAR-10 model on the real images, and record its outputs and its weights.

    uv run --all-groups tools/train_capstone.py

It looks for the data where `load_cifar10` does, trains for about ten minutes on two cores (interrupted, it goes on from
its checkpoint), and writes `course_utils/data/cifar10_model/`: logits and true classes of the validation and test
images, the weights, and a record with checksums. No image is written.
"""

import argparse
import hashlib
import json
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save

from course_utils.capstone import (
    FastClassifier,
    FlipAverage,
    evaluate_logits,
    evaluate_model,
    predict_logits,
    train_model,
)
from course_utils.capstone.report import run_record
from course_utils.data import load_cifar10
from course_utils.data.recorded import FOLDER
from course_utils.foundation.files import write_atomically


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--epochs", type=int, default=13)
    parser.add_argument("--checkpoint", default=str(Path(tempfile.gettempdir()) / "cifar10_model.pt"))
    options = parser.parse_args()

    data = load_cifar10(source="cifar10")
    torch.manual_seed(0)
    model = FastClassifier()
    history = train_model(model, data, epochs=options.epochs, checkpoint=options.checkpoint)
    if history.interrupted:
        sys.exit("interrupted; nothing was written. The same command goes on from the checkpoint.")
    logits = {name: predict_logits(model, getattr(data, name).images).half() for name in ("validation", "test")}
    test = evaluate_logits(logits["test"].float(), data.test.target, data.class_names)
    flipped = evaluate_model(FlipAverage(model), data.test.images, data.test.target, data.class_names)

    files = {
        "outputs.safetensors": {
            "validation_logits": logits["validation"],
            "validation_target": data.validation.target.to(torch.uint8),
            "test_logits": logits["test"],
            "test_target": data.test.target.to(torch.uint8),
        },
        "weights.safetensors": {name: value.contiguous() for name, value in model.state_dict().items()},
    }
    about = {
        "model": "FastClassifier",
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "training_pictures": len(data.train),
        "epochs": len(history),
        "seconds": round(float(history.seconds.sum())),
        "precision": history.precision,
        "seed": history.seed,
        "validation_accuracy": history.validation_accuracy.tolist(),
        "test": test.metrics(),
        "mirror_image": {
            "accuracy": flipped.accuracy,
            "become_right": int(((flipped.predictions == flipped.target) & (test.predictions != test.target)).sum()),
            "become_wrong": int(((flipped.predictions != flipped.target) & (test.predictions == test.target)).sum()),
        },
        "run": run_record(),
    }
    sha256 = {}
    for name, tensors in files.items():
        contents = save(tensors)
        sha256[name] = hashlib.sha256(contents).hexdigest()
        write_atomically(FOLDER / name, lambda file, contents=contents: file.write(contents))
    record = {"class_names": data.class_names, "about": about, "sha256": sha256}
    write_atomically(FOLDER / "record.json", lambda file: file.write(json.dumps(record, indent=1).encode() + b"\n"))
    print(history, test, f"with flip average {flipped.accuracy:.4f}", sep="\n")


if __name__ == "__main__":
    main()
