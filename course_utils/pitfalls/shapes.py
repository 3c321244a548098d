"""Changing a shape without mixing up what the axes mean."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from course_utils.foundation.arguments import check_count, check_tensor, describe_value
from course_utils.foundation.devices import full_precision


def check_and_reshape_output(output: Tensor, target_shape: Sequence[int], *, dims: str | None = None) -> Tensor:
    """Bring an output into a shape if that moves whole axes only; refuse what would scramble samples.

    Without `dims`, axes of size 1 are added, or dropped, but not both: (1, 5) as (5, 1) would make five samples with
    one value of one sample with five. With `dims`, axes are named and put into another order first.
    `reshape` would fill any shape of the same size, in memory order: rows that belonged together are torn apart, and
    no error tells. `squeeze` would also drop a batch of one.

    Args:
        output: any shape.
        target_shape: the shape wanted.
        dims: for example "T N C -> N T C": names of the output's axes, an arrow, and their new order. A name that is
            left out on the right must have size 1; a 1 on the right adds an axis of size 1.

    Raises:
        ValueError: the shape cannot be reached that way; the message says why, and what would.

    >>> check_and_reshape_output(torch.zeros(4, 1), (4,)).shape
    torch.Size([4])
    >>> check_and_reshape_output(torch.zeros(5, 2, 3), (2, 5, 3), dims="T N C -> N T C").shape
    torch.Size([2, 5, 3])
    """
    if not isinstance(output, torch.Tensor) or output.ndim:
        check_tensor(output, "output", floating=None)
    shape = _check_shape(target_shape)
    if dims is not None:
        output = _permute(output, dims)
    if tuple(output.shape) == shape:
        return output
    if _is_part(shape, output.shape) or _is_part(output.shape, shape):
        return output.reshape(shape)  # axes of size 1 come or go, and every other axis keeps its place
    raise ValueError(_refusal(output, shape, dims))


def _is_part(shape: Sequence[int], longer: Sequence[int]) -> bool:
    """Is `longer` the same shape with more axes of size 1?"""
    remaining = iter(longer)
    return all(size in remaining for size in shape) and math.prod(shape) == math.prod(longer)


def _refusal(output: Tensor, shape: tuple[int, ...], dims: str | None) -> str:
    start = f"the output has the shape {tuple(output.shape)}{' after ' + repr(dims) if dims else ''}, not {shape}"
    if sorted(size for size in output.shape if size != 1) == sorted(size for size in shape if size != 1):
        hint = "Look at its right side" if dims else 'Say which is which, for example dims="T N C -> N T C"'
        length_one = ", even if one has size 1 here" if 1 in output.shape else ""
        return f"{start}: the axes are in another order{length_one}. {hint}"
    if output.numel() == math.prod(shape):
        return f"{start}: reshape could fill it, but would tear samples apart and mix them. Look at the model instead"
    return f"{start}: the number of values differs, {output.numel()} against {math.prod(shape)}"


def _check_shape(shape: Sequence[int]) -> tuple[int, ...]:
    if isinstance(shape, (str, Tensor)) or not isinstance(shape, Sequence):
        raise TypeError(f"target_shape must be a tuple of sizes, but is {describe_value(shape)}")
    return tuple(check_count(size, "each size of target_shape") for size in shape)


def _permute(output: Tensor, dims: str) -> Tensor:
    if not isinstance(dims, str) or dims.count("->") != 1:
        raise ValueError(f'dims must look like "T N C -> N T C", but is {dims!r}')
    before, after = (side.split() for side in dims.split("->"))
    if len(before) != output.ndim:
        raise ValueError(f"dims names {len(before)} axes, but the output has {output.ndim}: {tuple(output.shape)}")
    kept = [name for name in after if name != "1"]
    if len(set(before)) != len(before) or len(set(kept)) != len(kept) or "1" in before:
        raise ValueError(f"each axis needs a name of its own, but dims is {dims!r}")
    if unknown := [name for name in kept if name not in before]:
        raise ValueError(f"dims has {', '.join(unknown)} on the right, but not on the left: {dims!r}")
    for name, size in zip(before, output.shape, strict=True):
        if name not in kept and size != 1:
            raise ValueError(f"the axis {name} has size {size} and cannot be dropped; average or index it on purpose")
    dropped = [i for i, name in enumerate(before) if name not in kept]
    output = output.permute([before.index(name) for name in kept] + dropped)
    output = output.reshape(output.shape[: len(kept)])  # the dropped axes are the last ones now, all of size 1
    for position, name in enumerate(after):
        if name == "1":
            output = output.unsqueeze(position)
    return output


def adaptive_pooling(output: Tensor, target_shape: Sequence[int]) -> Tensor:
    """Average over space or time until the sizes fit; the batch and the channels must fit already.

    Args:
        output: (N, C, L), (N, C, H, W) or (N, C, D, H, W).
        target_shape: the whole shape wanted, with the same N and C and sizes that are not larger; or just (N, C),
            which averages everything away ("global average pooling").

    Raises:
        ValueError: another batch or another number of channels is asked for. Pooling that reaches across the batch, or
            loses a batch of one, gives numbers that belong to nobody.

    >>> adaptive_pooling(torch.ones(1, 64, 7, 7), (1, 64)).shape
    torch.Size([1, 64])
    """
    check_tensor(output, "output", ndim=(3, 4, 5))
    shape = _check_shape(target_shape)
    if len(shape) not in (2, output.ndim):
        raise ValueError(
            f"target_shape must be the whole shape, {output.ndim} sizes or (N, C), but is {shape} for an output of "
            f"shape {tuple(output.shape)}"
        )
    if shape[:2] != tuple(output.shape[:2]):
        raise ValueError(
            f"pooling leaves the batch and the channels alone: the output has (N, C) = {tuple(output.shape[:2])}, "
            f"target_shape asks for {shape[:2]}; to change the channels use a linear layer or a 1×1 convolution"
        )
    sizes = shape[2:] or (1,) * (output.ndim - 2)
    if any(new > old for new, old in zip(sizes, output.shape[2:], strict=True)):
        raise ValueError(
            f"pooling cannot enlarge {tuple(output.shape[2:])} to {sizes}; use torch.nn.functional.interpolate"
        )
    pool = {3: F.adaptive_avg_pool1d, 4: F.adaptive_avg_pool2d, 5: F.adaptive_avg_pool3d}[output.ndim]
    # Sums of half precision overflow.
    return pool(full_precision(output), sizes).to(output.dtype).reshape(shape)
