"""The course's own CIFAR-10 model: what it answered, and its weights. Made by `tools/train_capstone.py`."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from course_utils.foundation.results import short

FOLDER = Path(__file__).parent / "cifar10_model"


@dataclass(frozen=True, eq=False, repr=False)
class RecordedOutputs:
    """Logits of the course's CIFAR-10 model, with the true classes.

    Attributes:
        validation_logits, test_logits: float32 (5000, 10) and (10000, 10), recorded in half precision.
        validation_target, test_target: int64 (5000,) and (10000,), in the order of `load_cifar10`.
        class_names: the ten classes.
        about: how the model was trained, and what it reached.
    """

    validation_logits: Tensor
    validation_target: Tensor
    test_logits: Tensor
    test_target: Tensor
    class_names: tuple[str, ...]
    about: dict[str, Any]

    def __repr__(self) -> str:
        return f"RecordedOutputs(validation {short(self.validation_logits)}, test {short(self.test_logits)})"


def load_recorded_outputs() -> RecordedOutputs:
    """What the course's own model says about CIFAR-10's validation and test images. Needs no images, no network.

    Raises:
        ValueError: the file is damaged.

    >>> load_recorded_outputs().test_logits.shape
    torch.Size([10000, 10])
    """
    record = read_record()
    kept = read_tensors("outputs.safetensors")
    return RecordedOutputs(
        validation_logits=kept["validation_logits"].float(),
        validation_target=kept["validation_target"].long(),
        test_logits=kept["test_logits"].float(),
        test_target=kept["test_target"].long(),
        class_names=tuple(record["class_names"]),
        about=record["about"],
    )


def read_record() -> dict[str, Any]:
    """The training record, and the checksum of each file."""
    return json.loads((FOLDER / "record.json").read_text("utf-8"))


def read_tensors(name: str) -> dict[str, Tensor]:
    """The tensors in a file of the folder, after its checksum was compared with the record."""
    from safetensors.torch import load

    contents = (FOLDER / name).read_bytes()
    if hashlib.sha256(contents).hexdigest() != read_record()["sha256"][name]:
        raise ValueError(f"{FOLDER / name} is damaged; get it again from the course's repository")
    return load(contents)
