"""What makes numbers probabilities: values in [0, 1], summing to 1 over the classes. One tolerance for all chapters."""

from typing import Any

import torch
from torch import Tensor

from course_utils.foundation.arguments import check_tensor


def sum_tolerance(dtype: torch.dtype) -> float:
    """How far the sum of rounded probabilities may lie from 1.

    Each term is rounded by at most half an eps of itself, and the terms sum to 1, so their number does not matter (but
    see `sums_to_one`). The floor of 0.004 is half an eps of bfloat16: it lets through what was computed in half
    precision and converted later.
    """
    return max(0.004, 4 * torch.finfo(dtype).eps)


def value_tolerance(dtype: torch.dtype) -> float:
    """How far a probability may lie above 1: one rounding, as a softmax in half precision gives it."""
    return torch.finfo(dtype).eps


def sums_to_one(probabilities: Tensor, dim: int) -> Tensor:
    """For each position along the other axes: do the values along `dim` sum to 1, up to rounding?"""
    # In float32 the rounding of the sum itself is far below the tolerance; in half precision it would not be.
    wide = probabilities.float() if probabilities.element_size() < 4 else probabilities
    # Below float16's smallest normal number a term is rounded by a fixed amount, so there the number of terms matters.
    smallest_step = torch.finfo(probabilities.dtype).smallest_normal * torch.finfo(probabilities.dtype).eps
    tolerance = sum_tolerance(probabilities.dtype) + probabilities.shape[dim] * smallest_step / 2
    return (wide.sum(dim) - 1).abs() <= tolerance


def check_probabilities(
    value: Any,
    name: str = "probabilities",
    *,
    ndim: int | tuple[int, ...] | None = None,
    class_dim: int | None = None,
    hint: str = "these look like logits, so call course_utils.basics.logits_to_probabilities first",
) -> Tensor:
    """Return `value` if its elements are probabilities; raise an error that says what to do if not.

    Args:
        ndim: allowed number(s) of dimensions; None allows any but 0.
        class_dim: the axis over which exclusive classes must sum to 1; None for independent probabilities.
        hint: what to do about values outside [0, 1].

    Raises:
        TypeError: not a floating point tensor.
        ValueError: a wrong shape, NaN, values outside [0, 1], rows that do not sum to 1.

    >>> check_probabilities(torch.tensor([[0.25, 0.75]]), class_dim=1).shape
    torch.Size([1, 2])
    """
    probabilities = check_tensor(value, name, ndim=ndim)
    low, high = map(float, probabilities.detach().aminmax())
    if low < 0 or high > 1 + value_tolerance(probabilities.dtype):
        raise ValueError(f"{name} must lie in [0, 1], but range from {low:.3g} to {high:.3g}; {hint}")
    if class_dim is not None:
        good = sums_to_one(probabilities.detach(), class_dim)
        if not good.all():
            raise ValueError(
                f"{name} must sum to 1 over dim {class_dim}, but {int((~good).sum())} of {good.numel()} do not; are "
                f"the classes in dim {class_dim}, or are these independent probabilities ('multilabel')?"
            )
    return probabilities
