"""Clipping gradients without hiding that they were broken."""

import math
from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from course_utils.foundation.arguments import check_number, check_tensor, describe_value
from course_utils.foundation.devices import in_double


class NonFiniteGradientError(ValueError, RuntimeError):
    """The gradients hold NaN or Inf. Also a RuntimeError, because torch's own clip_grad_norm_ raises one."""


@torch.no_grad()
def gradient_clipping(
    model_or_parameters: nn.Module | Tensor | Iterable[Tensor],
    max_norm: float,
    *,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = True,
) -> float:
    """Scale all gradients together, in place, so that their total norm is at most `max_norm`.

    Call it between `loss.backward()` and `optimizer.step()`. The direction stays; only the length is limited. Source:
    Pascanu et al. (2013), "On the difficulty of training recurrent neural networks".

    Args:
        model_or_parameters: a module, a parameter, or an iterable of parameters. Those without a gradient are skipped.
        max_norm: > 0; math.inf only measures.
        norm_type: ≥ 1; math.inf takes the largest absolute value.
        error_if_nonfinite: raise before anything is changed if the norm is NaN or Inf. One NaN would make all gradients
            NaN, one Inf would make all others 0. With False the gradients stay as they are, and the norm says so:
            skip that step.

    Returns:
        The total norm *before* clipping. Log it: a norm that grows over the steps announces a divergence.

    Raises:
        NonFiniteGradientError: see above; it is a ValueError and a RuntimeError.

    >>> weight = nn.Parameter(torch.zeros(2))
    >>> weight.grad = torch.tensor([3.0, 4.0])
    >>> gradient_clipping(weight, max_norm=1.0), weight.grad
    (5.0, tensor([0.6000, 0.8000]))
    """
    parameters = _parameters(model_or_parameters)
    if not check_number(max_norm, "max_norm", finite=False) > 0:  # false for NaN as well
        raise ValueError(f"max_norm must be greater than 0, but is {max_norm}")
    if check_number(norm_type, "norm_type", finite=False) < 1 or math.isnan(norm_type):
        raise ValueError(f"norm_type must be at least 1, but is {norm_type}")
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not gradients:
        return 0.0
    norm = _total_norm(gradients, norm_type)
    if not math.isfinite(norm):
        if error_if_nonfinite:
            broken = sum(not bool(_norm(gradient, math.inf).isfinite()) for gradient in gradients)
            raise NonFiniteGradientError(
                f"the total norm of the gradients is {norm}: {broken} of {len(gradients)} gradients hold NaN or Inf; "
                "nothing was changed. Find the layer with first_nonfinite_layer, or skip this step"
            )
        return norm
    if norm > max_norm:
        _scale(gradients, max_norm / norm)
    return norm


def _scale(gradients: list[Tensor], factor: float) -> None:
    """Multiply all gradients in place: one call for all of a kind, with a factor of that kind.

    With a Python number, torch would make a tensor of it for each gradient again, which takes longer than the product.
    """
    kinds = defaultdict(list)
    for gradient in gradients:
        kinds[gradient.device, gradient.dtype].append(gradient)
    for (device, dtype), alike in kinds.items():
        precise = torch.promote_types(dtype, torch.float32)  # a factor in half precision would have three digits
        torch._foreach_mul_(alike, torch.tensor(factor, dtype=precise, device=device))


def _parameters(model_or_parameters: nn.Module | Tensor | Iterable[Tensor]) -> list[Tensor]:
    if not isinstance(model_or_parameters, (nn.Module, Tensor, Iterable)):
        wanted = "a module, a parameter or an iterable of parameters"
        raise TypeError(f"model_or_parameters must be {wanted}, but is {describe_value(model_or_parameters)}")
    if isinstance(model_or_parameters, nn.Module):
        model_or_parameters = model_or_parameters.parameters()
    parameters = [model_or_parameters] if isinstance(model_or_parameters, Tensor) else list(model_or_parameters)
    if not parameters:
        raise ValueError("there are no parameters; a generator such as model.parameters() can be used only once")
    for parameter in parameters:
        if not isinstance(parameter, Tensor):
            check_tensor(parameter, "each parameter")
    return parameters


def _total_norm(gradients: list[Tensor], norm_type: float) -> float:
    """The norm of all gradients together: quickly in their own precision where it is enough, otherwise in float64."""
    dtypes = {gradient.dtype for gradient in gradients}
    quick = dtypes <= {torch.float32, torch.float64} and not any(gradient.is_sparse for gradient in gradients)
    if quick and norm_type == 2:
        norm = _quick_euclidean_norm(gradients)
        # Squares below the smallest normal number are rounded or lost, those above the largest one are infinite. Beside
        # a sum of 1e20 times the smallest normal number, any number of lost squares is negligible.
        smallest_sum = 1e20 * max(torch.finfo(dtype).smallest_normal for dtype in dtypes)
        if smallest_sum**0.5 < norm < math.inf:  # false for NaN as well
            return norm
    return float(_norm(torch.stack([_norm(gradient, norm_type).cpu() for gradient in gradients]), norm_type))


# In float32 the norm of one row of this length is right to about 1e-7; that of 20,000,000 values at once, to 1e-3.
_ROW = 2**14


def _quick_euclidean_norm(gradients: list[Tensor]) -> float:
    """The norm by torch, with large gradients cut into rows: the rows' norms have the same norm as all the values."""
    parts = []
    for gradient in gradients:
        if gradient.numel() <= _ROW:
            parts.append(gradient)
        else:
            values = gradient.flatten()
            end = len(values) // _ROW * _ROW
            row_norms = torch.linalg.vector_norm(values[:end].view(-1, _ROW), dim=1)
            parts += [row_norms, values[end:]]
    return float(nn.utils.get_total_norm(parts))


def _norm(values: Tensor, norm_type: float) -> Tensor:
    """The norm in float64, of values divided by the largest one: no power overflows, whatever the dtype and order."""
    values = values.coalesce().values() if values.is_sparse else values  # of an embedding
    values = in_double(values.abs())
    if values.numel() == 0:
        return values.sum()
    largest = values.max()
    if largest == 0 or not largest.isfinite():
        return largest
    return largest * torch.linalg.vector_norm(values / largest, norm_type)
