"""Choosing where, and how precisely, to compute."""

import torch
from torch import Tensor, nn

from course_utils.foundation.arguments import check_choice

DEVICES = ("auto", "cuda", "mps", "cpu")


def available_devices() -> list[str]:
    """The kinds of device that work here, fastest first; the CPU always does."""
    works = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    return [name for name, here in works.items() if here]


def choose_device(preference: str = "auto") -> torch.device:
    """The device to compute on: the best one here for "auto" (cuda, else mps, else cpu), or the one asked for.

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


def layout(model: nn.Module) -> torch.memory_format:
    """The layout of images in memory in which a model runs fastest, as far as it is known to work in it.

    Small convolutions are faster in channels-last, but a class that someone wrote may call `x.view(N, −1)`, which fails
    on it (error E62, chapter 4's index). Torch's own layers and the course's networks do not; and a model whose weights
    are stored in channels-last computes in it anyway.
    """
    weights = [value for value in model.parameters() if value.ndim == 4]
    stored = any(w.is_contiguous(memory_format=torch.channels_last) and not w.is_contiguous() for w in weights)
    known = all(type(part).__module__.startswith(("torch.nn.", "course_utils.")) for part in model.modules())
    return torch.channels_last if stored or known else torch.contiguous_format


def full_precision(values: Tensor) -> Tensor:
    """The values in float32 or better. Half precision becomes float32, exactly; what is computed next keeps its digits.

    In half precision a softmax has ties where the logits have none, and sums and sizes overflow or lose their last
    digits. Everything that decides, ranks or adds up goes through here first.
    """
    return values.float() if values.is_floating_point() and values.element_size() < 4 else values


def in_double(values: Tensor) -> Tensor:
    """The values in float64 or complex128, on the CPU where the device has none (Apple's MPS)."""
    values = values.cpu() if values.device.type == "mps" else values
    return values.to(torch.complex128) if values.is_complex() else values.double()
