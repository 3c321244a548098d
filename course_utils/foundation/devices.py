"""Choosing where, and how precisely, to compute."""

import torch
from torch import Tensor

from course_utils.foundation.arguments import check_choice

DEVICES = ("auto", "cuda", "mps", "cpu")


def available_devices() -> list[str]:
    """The kinds of device that work here, fastest first; the CPU always does."""
    cuda = ["cuda"] if torch.cuda.is_available() else []
    mps = ["mps"] if torch.backends.mps.is_available() else []
    return [*cuda, *mps, "cpu"]


def choose_device(preference: str = "auto") -> torch.device:
    """The device to compute on: the best one here, or the one asked for.

    Args:
        preference: "auto" (cuda, else mps, else cpu) or one of them by name.

    Raises:
        ValueError: an unknown name, or a device that does not work here.
    """
    check_choice(preference, "preference", DEVICES)
    available = available_devices()
    if preference == "auto":
        return torch.device(available[0])
    if preference not in available:
        raise ValueError(f"the device {preference!r} does not work here; available: {', '.join(available)}")
    return torch.device(preference)


def in_double(values: Tensor) -> Tensor:
    """The values in float64, on the CPU where the device has no float64 (Apple's MPS)."""
    return (values.cpu() if values.device.type == "mps" else values).double()
