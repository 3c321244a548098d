"""The gradients of all parameters: there at all, finite, neither exploding nor vanishing."""

import math
import warnings
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from course_utils.foundation.arguments import describe_value
from course_utils.foundation.devices import in_double
from course_utils.pitfalls.findings import Finding, listed

_LARGE_GRADIENT, _VANISHED = 1e3, 1e-5


def check_gradients(output: Tensor, target: Tensor, loss: Callable, parameters: dict[str, Tensor]) -> list[Finding]:
    """Run loss(output, target), and look at the gradient of every trainable parameter; the output has its graph."""
    if not parameters:
        return [Finding("warning", "gradients", "no parameter is trainable, so there is nothing to train")]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of a loss that broadcasts; that is a finding already
            value = loss(output, target)
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        return [Finding("problem", "loss", f"it raises {type(error).__name__}: {str(error).splitlines()[0]}")]
    if not isinstance(value, Tensor) or value.numel() != 1:
        return [Finding("problem", "loss", f"it must be one number, but is {describe_value(value)}; take its mean")]
    if not value.isfinite():
        return [Finding("problem", "loss", f"it is {value.item()}; nothing can be learned from it")]
    if not value.requires_grad:
        text = "the loss hangs on no parameter: look for detach(), argmax, .item(), NumPy or no_grad on the way"
        return [Finding("problem", "gradients", text)]
    try:
        gradients = torch.autograd.grad(value, list(parameters.values()), allow_unused=True)
    except RuntimeError as error:
        return [Finding("problem", "gradients", f"the backward pass raises {str(error).splitlines()[0]}")]
    if value == 0:
        return []  # nothing left to learn here, so the gradients say nothing
    dense = [gradient.to_dense() if gradient is not None else None for gradient in gradients]  # sparse embeddings
    return list(_judge_gradients(dict(zip(parameters, dense, strict=True))))


def _judge_gradients(gradients: dict[str, Tensor | None]) -> Iterator[Finding]:
    if unused := [name for name, gradient in gradients.items() if gradient is None]:
        text = f"{listed(unused)}: the loss does not depend on them, so they never learn. Are they called in forward?"
        yield Finding("warning", "unused parameters", text)
    used = {name: gradient for name, gradient in gradients.items() if gradient is not None}
    if nonfinite := [name for name, gradient in used.items() if not gradient.isfinite().all()]:
        yield Finding("problem", "gradients", f"NaN or Inf in the gradients of {listed(nonfinite)}")
        return
    sizes = {name: float(in_double(gradient.abs()).square().mean().sqrt()) for name, gradient in used.items()}
    if zero := [name for name, size in sizes.items() if size == 0]:
        text = f"exactly 0 for {listed(zero)}: look for saturated or dead units behind them"
        yield Finding("warning", "zero gradients", text)
    norm = math.sqrt(sum(float(in_double(gradient.abs()).square().sum()) for gradient in used.values()))
    if norm > _LARGE_GRADIENT:
        text = f"their total norm is {norm:.3g}; scale inputs and targets, lower the learning rate, or clip"
        yield Finding("warning", "exploding gradients", text)
    weights = {name: size for name, size in sizes.items() if used[name].ndim > 1 and size > 0}
    if len(weights) > 1:
        smallest, largest = min(weights, key=weights.get), max(weights, key=weights.get)
        if weights[smallest] < _VANISHED * weights[largest]:
            text = (
                f"those of {smallest} are {weights[largest] / weights[smallest]:.0e} times smaller than those of "
                f"{largest}: use ReLU for sigmoid or tanh, normalisation layers, or skip connections"
            )
            yield Finding("warning", "vanishing gradients", text)
