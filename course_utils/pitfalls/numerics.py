"""Functions that stay finite at the edges of their domain, and scalings that do what their names say."""

import math
from numbers import Real

import torch
from torch import Tensor

from course_utils.foundation.arguments import check_number, check_range, check_tensor, describe_value
from course_utils.foundation.devices import in_double


def safe_softmax(logits: Tensor, dim: int = -1, *, mask: Tensor | None = None) -> Tensor:
    """Softmax that also has an answer for infinite logits and for rows in which everything is masked.

    For finite logits it is `torch.softmax`, which subtracts the maximum itself and needs no help. An entry of
    +inf is infinitely more likely than any finite one, so the +inf entries of a row share its mass; −inf gets 0, and
    a row without any candidate gives zeros, never NaN.

    Args:
        logits: any shape; ±inf allowed.
        dim: the axis of the classes.
        mask: bool, broadcastable to the logits' shape; True keeps an entry, False gives it probability 0.

    Raises:
        TypeError, ValueError: NaN among the logits, a mask that is not bool or does not fit, no such axis.

    >>> safe_softmax(torch.tensor([[0.0, float("inf"), float("inf")], [float("-inf")] * 3]))
    tensor([[0.0000, 0.5000, 0.5000],
            [0.0000, 0.0000, 0.0000]])
    """
    check_tensor(logits, "logits", finite=False)
    if logits.isnan().any():
        raise ValueError(f"logits must not hold NaN, but {int(logits.isnan().sum())} values do; find where they start")
    _check_dim(dim, logits, "logits")
    if mask is not None:
        logits = logits.masked_fill(~_check_mask(mask, logits), -math.inf)
    infinite = logits == math.inf
    shares = torch.where(infinite, 0.0, -math.inf).to(logits)  # softmax of this divides the mass among the +inf
    logits = torch.where(infinite.any(dim, keepdim=True), shares, logits)
    hopeless = (logits == -math.inf).all(dim, keepdim=True)
    # Two times where: the first keeps NaN out of the gradient, the second out of the values.
    return torch.where(hopeless, 0.0, torch.softmax(torch.where(hopeless, 0.0, logits), dim))


def _check_dim(dim: int, values: Tensor, name: str) -> None:
    if not isinstance(dim, int) or isinstance(dim, bool) or not -values.ndim <= dim < values.ndim:
        raise ValueError(f"dim must be an axis of the {name} {tuple(values.shape)}, but is {dim!r}")


def _check_mask(mask: Tensor, logits: Tensor) -> Tensor:
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        raise TypeError(f"mask must be a bool tensor (True keeps an entry), but is {describe_value(mask)}")
    try:
        return mask.to(logits.device).expand(logits.shape)
    except RuntimeError:
        raise ValueError(
            f"mask must be broadcastable to the logits' shape {tuple(logits.shape)}, but is {describe_value(mask)}"
        ) from None


def safe_divide(numerator: Tensor | float, denominator: Tensor | float, *, fill: float = 0.0) -> Tensor:
    """Division that is exact wherever the denominator is not 0, and gives `fill` where it is.

    Adding a small number to the denominator instead changes every quotient, and turns 1/−1e-12 into infinity.
    Gradients are finite everywhere: 0 where the denominator is 0, and the largest number of their dtype where the
    true one is larger. A quotient itself may overflow, as any division may.

    Args:
        numerator, denominator: tensors whose shapes broadcast, of floating point or of whole numbers such as counts;
            one of them may be a number.
        fill: the value where the denominator is 0.

    Returns:
        The quotient, in the floating point dtype of the tensors; of two whole numbers in torch's default dtype.

    >>> safe_divide(torch.tensor([1.0, 1.0]), torch.tensor([-2.0, 0.0]))
    tensor([-0.5000,  0.0000])
    """
    a, b = _as_pair(numerator, denominator)
    fill = check_number(fill, "fill", finite=False)
    given = [value for value in (numerator, denominator) if isinstance(value, Tensor)]
    whole = not any(value.is_floating_point() for value in given)
    zero, dtype = b == 0, torch.get_default_dtype() if whole else torch.result_type(a, b)
    a, b = _finite_gradient(a), _finite_gradient(b)
    if torch.finfo(dtype).bits < 32:  # a number beyond half precision may have a quotient within it
        a, b = a.float(), b.float()
    # Dividing by 1 where the quotient is thrown away keeps 0/0 out of the gradient.
    return torch.where(zero, fill, a / torch.where(zero, 1.0, b)).to(dtype)


def _as_pair(numerator: Tensor | float, denominator: Tensor | float) -> tuple[Tensor, Tensor]:
    values = {"numerator": numerator, "denominator": denominator}
    like = next((value for value in values.values() if isinstance(value, Tensor)), None)
    if like is None:
        raise TypeError("numerator or denominator must be a tensor; two numbers need no help from torch")
    for name, value in values.items():
        if isinstance(value, Real) and not isinstance(value, bool):
            check_number(value, name)
            # Not in the tensor's own dtype, where 1e-10 may be 0; as a number of no dimension it promotes nothing.
            wide = torch.float32 if like.device.type == "mps" else torch.float64
            values[name] = torch.tensor(float(value), dtype=wide, device=like.device)
        elif isinstance(value, Tensor) and (value.is_complex() or value.dtype == torch.bool):
            raise TypeError(f"{name} must hold real numbers, but is {describe_value(value)}")
        elif not isinstance(value, Tensor) or value.ndim:
            check_tensor(value, name, floating=None)
        elif not value.isfinite():
            raise ValueError(f"{name} must be a finite number, but is {describe_value(value)}: {value}")
    a, b = values.values()
    try:
        torch.broadcast_shapes(a.shape, b.shape)
    except RuntimeError:
        raise ValueError(
            f"the shapes of numerator {tuple(a.shape)} and denominator {tuple(b.shape)} do not broadcast"
        ) from None
    return a, b


def _finite_gradient(x: Tensor) -> Tensor:
    """The same values; a gradient that overflowed on its way back becomes the largest finite number."""
    if not x.requires_grad:
        return x
    x = x.view_as(x)  # a node of our own, so that the hook leaves the caller's tensor alone
    x.register_hook(lambda gradient: None if gradient is None else gradient.nan_to_num())
    return x


def clamp_output(output: Tensor, *, min: float | None = None, max: float | None = None) -> Tensor:
    """Limit values to [min, max]. The gradient is 0 outside: what is clamped does not learn.

    Args:
        output: any shape, finite.
        min, max: limits; None leaves that side open, but not both.

    >>> clamp_output(torch.tensor([-1.0, 0.5, 3.0]), min=0, max=1)
    tensor([0.0000, 0.5000, 1.0000])
    """
    check_tensor(output, "output")
    if min is None and max is None:
        raise ValueError("give min, max or both; without a limit there is nothing to clamp")
    low = -math.inf if min is None else check_number(min, "min")
    high = math.inf if max is None else check_number(max, "max")
    if low > high:
        raise ValueError(f"min must not be greater than max, but min is {low} and max is {high}")
    limits = torch.finfo(output.dtype)
    if low > limits.max or high < limits.min:
        raise ValueError(
            f"[{low}, {high}] lies outside the range of {output.dtype}, {limits.min:.4g} to {limits.max:.4g}"
        )
    # A limit beyond the dtype's own range limits nothing.
    return output.clamp(low if low > limits.min else None, high if high < limits.max else limits.max)


def normalize_output(output: Tensor, *, dim: int = -1, p: float = 2, eps: float = 1e-12) -> Tensor:
    """Divide vectors by their p-norm, output / max(‖output‖ₚ, eps), so that they have length 1; zeros stay zeros.

    `sqrt(Σ x² + eps)` instead of the maximum shortens small vectors. Computed in float64 wherever the vectors'
    own dtype could spoil the norm: squares of half precision overflow, and its smallest number is far above eps.

    Args:
        output: any shape, finite.
        dim: the axis along which the vectors lie.
        p: ≥ 1, or math.inf for the largest absolute value.
        eps: > 0, the smallest norm to divide by.

    >>> normalize_output(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    tensor([[0.6000, 0.8000],
            [0.0000, 0.0000]])
    """
    check_tensor(output, "output", finite=False)
    _check_dim(dim, output, "output")
    if check_number(p, "p", finite=False) < 1 or math.isnan(p):
        raise ValueError(f"p must be at least 1, but is {p}")
    eps = check_number(eps, "eps", above=0)
    if p == 2 and output.dtype == torch.float32 and output.shape[dim] <= _longest_float32_vector(output, dim):
        norm = torch.linalg.vector_norm(output, 2, dim, keepdim=True)
        shortest, longest = norm.detach().aminmax()
        # Squares of shorter vectors may be lost, those of longer ones overflow; NaN fails the comparison too.
        if shortest > max(eps, _SHORTEST_FLOAT32_NORM) and longest < math.inf:
            return output / norm
    check_tensor(output, "output")
    wide = in_double(output)
    largest = wide.detach().abs().amax(dim, keepdim=True)
    largest = torch.where(largest > 0, largest, 1.0)
    # Powers of values up to 1 cannot overflow. The largest value cancels out, so it needs no gradient.
    unit = wide / largest
    norm = torch.linalg.vector_norm(unit, p, dim, keepdim=True)
    return (unit / torch.maximum(norm, eps / largest)).to(output)


# Its square is 1e20 times float32's smallest normal number: beside that, any number of lost squares is negligible.
_SHORTEST_FLOAT32_NORM = (1e20 * torch.finfo(torch.float32).smallest_normal) ** 0.5


def _longest_float32_vector(output: Tensor, dim: int) -> int:
    """Up to this length a sum of squares in float32 is right to a few units in the last place.

    torch sums neighbours in memory on many lanes side by side, and other vectors one value after the other.
    """
    return 2**14 if output.stride(dim) == 1 else 512


def scale_output(
    output: Tensor, *, current_range: tuple[float, float], target_range: tuple[float, float] = (0, 1)
) -> Tensor:
    """Map `current_range` linearly onto `target_range`.

    The current range is one that was *fitted*, on training data, say. The batch's own minimum and maximum would give
    the same value another result in every batch. Values outside the range are mapped by the same line.

    Args:
        output: any shape, finite.
        current_range, target_range: (low, high) with low < high.

    >>> scale_output(torch.tensor([0.0, 127.5, 255.0]), current_range=(0, 255), target_range=(-1, 1))
    tensor([-1.,  0.,  1.])
    """
    check_tensor(output, "output")
    low, high = check_range(current_range, "current_range")
    new_low, new_high = check_range(target_range, "target_range")
    if max(-new_low, new_high) > torch.finfo(output.dtype).max:
        raise ValueError(f"target_range must lie in the range of {output.dtype}, but is ({new_low}, {new_high})")
    # Halves, where the width of a range overflows (float64's largest number is 1.8e308).
    half = 0.5 if math.isinf(high - low) else 1.0
    share = (in_double(output) * half - low * half) / (high * half - low * half)  # 0 … 1 within the range
    if math.isinf(new_high - new_low):
        return (new_low * (1 - share) + new_high * share).to(output)
    return (new_low + share * (new_high - new_low)).to(output)


def log_transform(output: Tensor, *, eps: float | None = None) -> Tensor:
    """log(max(output, eps)): finite for zeros. Negative values raise: their logarithm is no number.

    For skewed data, such as prices or counts. Not for the probabilities of a loss: whatever lies below `eps` has the
    same logarithm and no gradient, so the loss has a ceiling, and a network that is sure and wrong learns
    nothing. Take log_softmax or logsigmoid of the logits there.

    Args:
        output: any shape, finite, ≥ 0.
        eps: > 0; None is the smallest normal number of the dtype. A fixed 1e-12 is 0 in half precision.

    >>> log_transform(torch.tensor([1.0, 0.0])).round()
    tensor([  0., -87.])
    """
    check_tensor(output, "output")
    if (output < 0).any():
        raise ValueError(
            f"output must not be negative, but its minimum is {float(output.detach().min()):.4g}; "
            "a clamp would hide it and stop its gradient"
        )
    limits = torch.finfo(output.dtype)
    if eps is None:
        eps = limits.smallest_normal
    elif not limits.smallest_normal <= check_number(eps, "eps", above=0) <= limits.max:
        raise ValueError(
            f"eps must lie between {limits.smallest_normal:.3g}, {output.dtype}'s smallest normal number, and "
            f"{limits.max:.4g}, but is {eps}"
        )
    return output.clamp(min=eps).log()


def exp_transform(output: Tensor, *, max: float | None = None) -> Tensor:
    """exp(min(output, max)): finite, with finite gradients. The bound comes first: exp, then clamp gives NaN.

    Args:
        output: any shape, finite.
        max: bound of the exponent; None is the largest one whose exp is finite in the dtype.

    >>> exp_transform(torch.tensor([0.0, 1000.0])).isfinite().all()
    tensor(True)
    """
    check_tensor(output, "output")
    largest = _largest_exponent(output.dtype)
    if max is None:
        max = largest
    elif check_number(max, "max") > largest:
        raise ValueError(f"max must be at most {largest:.6g}, the largest exponent of {output.dtype}, but is {max}")
    return clamp_output(output, max=max).exp()


def _largest_exponent(dtype: torch.dtype) -> float:
    """The largest number of a dtype whose exp is finite in that dtype."""
    bound = torch.tensor(math.log(torch.finfo(dtype).max), dtype=dtype)
    while bound.exp().isinf():  # its rounding may have gone up
        bound = bound * (1 - torch.finfo(dtype).eps)
    return float(bound)
