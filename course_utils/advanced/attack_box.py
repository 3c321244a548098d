"""Where an attack may go: within eps of each input, and inside the range of a pixel."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from course_utils.advanced.input_gradients import check_inputs
from course_utils.foundation.arguments import check_normalization, check_number, check_range
from course_utils.foundation.devices import full_precision
from course_utils.foundation.seeding import make_generator

Normalization = tuple[Sequence[float], Sequence[float]]
_TOLERANCE = 1e-4  # how far pixels may lie outside the bounds, as a share of their distance


class AttackBox:
    """The points that an attack may reach: within eps of the inputs and inside the bounds, both in pixel units.

    The corners are rounded towards the inputs, so that (corner − input)·std never exceeds eps, not by one bit.
    """

    def __init__(
        self, inputs: Tensor, eps: float, bounds: tuple[float, float], normalization: Normalization | None
    ) -> None:
        x = check_inputs(inputs)
        self.dtype = x.dtype
        self.eps = check_number(eps, "eps")
        low, high = check_range(bounds, "bounds")
        if self.eps < 0:
            raise ValueError(f"eps must not be negative, but is {eps}")
        if self.eps > high - low:
            raise ValueError(
                f"eps must not be larger than the bounds are apart, {high - low:g}, but is {eps:g}; it is in the units "
                f"of a pixel: {eps:g} grey levels of 255 are {eps:g} / 255 if pixels lie in [0, 1]"
            )
        mean, self.std = mean_and_std(normalization, x)
        exact = widest(x)
        pixels = exact * self.std + mean
        least, most = map(float, pixels.aminmax())
        if max(low - least, most - high) > _TOLERANCE * (high - low):
            outside = torch.maximum(low - pixels, pixels - high)
            if (outside > rounding(x, mean, self.std, (low, high))).any():
                raise ValueError(
                    f"inputs must lie in the bounds [{low}, {high}] in pixel units, but range from {least:.4g} to "
                    f"{most:.4g}; for normalised images pass normalization=(mean, std)"
                )
        self.mean, self.limits = mean, (low, high)
        self.lower = self._corner(x, exact, -1)
        self.upper = self._corner(x, exact, +1)

    def _corner(self, x: Tensor, exact: Tensor, sign: int) -> Tensor:
        """The farthest allowed point in the inputs' dtype, below (sign −1) or above (+1) each input."""
        if sign < 0:
            limit, nearer, farther, is_beyond = self.limits[0], torch.maximum, torch.minimum, torch.lt
        else:
            limit, nearer, farther, is_beyond = self.limits[1], torch.minimum, torch.maximum, torch.gt

        def outside(corner: Tensor) -> Tensor:
            corner = corner.to(exact.dtype)
            too_far = is_beyond((corner - exact) * self.std, sign * self.eps)
            return too_far | is_beyond(corner * self.std + self.mean, limit)

        corner = nearer(exact + sign * self.eps / self.std, (limit - self.mean) / self.std).to(x.dtype)
        for _ in range(3):
            if not (wrong := outside(corner)).any():
                break
            corner = torch.where(wrong, torch.nextafter(corner, x), corner)
        else:
            corner = torch.where(outside(corner), x, corner)
        return farther(corner, x)  # an input that rounding has carried out of the bounds may stay where it is

    def __getitem__(self, rows: Tensor) -> AttackBox:
        """The same box for some of the samples."""
        part = copy.copy(self)
        part.lower, part.upper = self.lower[rows], self.upper[rows]
        return part

    def clamp(self, x: Tensor) -> Tensor:
        return torch.minimum(torch.maximum(x, full_precision(self.lower)), full_precision(self.upper))

    def random_point(self, x: Tensor, seed: int | None) -> Tensor:
        # The default dtype of the caller would change the numbers that a seed draws.
        share = 2 * torch.rand(x.shape, generator=make_generator(seed), dtype=torch.float32).to(x) - 1
        return self.clamp(x + share * (self.eps / self.std).clamp(max=torch.finfo(x.dtype).max / 4).to(x.dtype))


def mean_and_std(normalization: Normalization | None, x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation, float64, in a shape that broadcasts over the channels."""
    like = {"dtype": widest(x[:1]).dtype, "device": x.device}
    if normalization is None:
        return torch.zeros((), **like), torch.ones((), **like)
    pair = check_normalization(normalization, channels=x.shape[1])
    return tuple(value.to(**like).reshape(1, -1, *(1,) * (x.ndim - 2)) for value in pair)


def widest(x: Tensor) -> Tensor:
    """In float64, where the device has it."""
    return x.double() if x.device.type != "mps" else x.float()


def rounding(x: Tensor, mean: Tensor, std: Tensor, bounds: tuple[float, float]) -> Tensor:
    """How far rounding may have carried each pixel that was normalised in the dtype of `x`: some of its last digits."""
    largest = torch.maximum(widest(x).abs() * std, mean.abs()).clamp(min=max(map(abs, bounds)))
    return 4 * torch.finfo(x.dtype).eps * largest
