"""Clipping gradients without hiding that they were broken."""

import math
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
        max_norm: > 0.
        norm_type: ≥ 1; math.inf takes the largest absolute value.
        error_if_nonfinite: raise before anything is changed if the norm is NaN or Inf. One NaN would make all gradients
            NaN, one Inf would make all others 0 (E41). With False the gradients stay as they are, and the norm says so:
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
    max_norm = check_number(max_norm, "max_norm", above=0)
    if check_number(norm_type, "norm_type", finite=False) < 1 or math.isnan(norm_type):
        raise ValueError(f"norm_type must be at least 1, but is {norm_type}")
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not gradients:
        return 0.0
    norm = _total_norm(gradients, norm_type)
    if not math.isfinite(norm):
        if error_if_nonfinite:
            sick = sum(not bool(_norm(gradient, math.inf).isfinite()) for gradient in gradients)
            raise NonFiniteGradientError(
                f"the total norm of the gradients is {norm}: {sick} of {len(gradients)} gradients hold NaN or Inf; "
                "nothing was changed. Find the layer with first_nonfinite_layer, or skip this step"
            )
        return norm
    if norm > max_norm:
        for gradient in gradients:
            gradient.mul_(max_norm / norm)
    return norm


def _parameters(model_or_parameters: nn.Module | Tensor | Iterable[Tensor]) -> list[Tensor]:
    if isinstance(model_or_parameters, nn.Module):
        parameters = list(model_or_parameters.parameters())
    elif isinstance(model_or_parameters, Tensor):
        parameters = [model_or_parameters]
    elif isinstance(model_or_parameters, Iterable):
        parameters = list(model_or_parameters)
    else:
        wanted = "a module, a parameter or an iterable of parameters"
        raise TypeError(f"model_or_parameters must be {wanted}, but is {describe_value(model_or_parameters)}")
    if not parameters:
        raise ValueError("there are no parameters; a generator such as model.parameters() can be used only once")
    for parameter in parameters:
        if not isinstance(parameter, Tensor):
            check_tensor(parameter, "each parameter")
    return parameters


def _total_norm(gradients: list[Tensor], norm_type: float) -> float:
    return float(_norm(torch.stack([_norm(gradient, norm_type).cpu() for gradient in gradients]), norm_type))


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
