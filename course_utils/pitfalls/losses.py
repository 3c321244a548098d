"""Does the output fit the loss, and does the target fit both? Seen by running the loss."""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from course_utils.foundation.devices import full_precision
from course_utils.foundation.values import ValueKinds, value_kinds
from course_utils.pitfalls.findings import Finding
from course_utils.pitfalls.nonfinite import detect_nan_inf

# The functions of torch that a loss hands the output to → the kind of value they need.
_WANTED = {
    "cross_entropy": "logits",
    "softmax": "logits",
    "log_softmax": "logits",
    "binary_cross_entropy_with_logits": "logits",
    "nll_loss": "log_probabilities",
    "kl_div": "log_probabilities",
    "binary_cross_entropy": "probabilities",
}
_OVER_CLASSES = ("cross_entropy", "nll_loss")
_YES_NO = ("binary_cross_entropy", "binary_cross_entropy_with_logits")
_EXCLUSIVE = (*_OVER_CLASSES, "softmax", "log_softmax", "kl_div")
# Losses that compare element by element, and so broadcast.
_ELEMENTWISE = ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss")
_LARGE_TARGET = 100.0
_WORSE_THAN_GUESSING = 2.0  # nats


@dataclass(frozen=True)
class Call:
    """A call of one of the functions above: its name, the values it reads, its target (or None) and its options."""

    name: str
    values: Tensor
    target: Tensor | None
    options: dict[str, Any]


class _WrongLabels(Exception):
    """Stops a loss before it runs on labels out of range: on a GPU that kills the process."""


class _Recorder(TorchFunctionMode):
    """Notes the calls of losses while a function runs, however they are wrapped."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []

    def __torch_function__(self, function: Callable, types: tuple, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(function, "__name__", "")
        if name in _WANTED or name in _ELEMENTWISE:
            values = args[0] if args else kwargs.get("input")
            target = args[1] if len(args) > 1 else kwargs.get("target")
            if isinstance(values, Tensor):
                dim = {"dim": target} if isinstance(target, int) else {}  # softmax has an axis there
                call = Call(name, values, target if isinstance(target, Tensor) else None, dim | kwargs)
                self.calls.append(call)
                if _labels(call):
                    raise _WrongLabels
        return function(*args, **kwargs)


def check_loss(output: Tensor, target: Tensor, loss: Callable, *, made_by: str | None) -> list[Finding]:
    """Look at what loss(output, target) does; `made_by` names the softmax or sigmoid layer that made the output."""
    output = output.detach().clone()  # a loss may write to it
    recorder = _Recorder()
    try:
        with recorder, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of a loss that broadcasts; that is a finding already
            loss(output, target)
    except Exception:
        pass  # a loss that raises is a finding of the backward pass; what it was called with is known
    found = [finding for call in recorder.calls for finding in _check_call(call, made_by, call.values is output)]
    known = any(call.name in _WANTED for call in recorder.calls)
    # An unknown loss may take class indices, which are whole numbers of another shape.
    if not recorder.calls and target.is_floating_point():
        found += _broadcasting(output, target)
    if not known and target.is_floating_point():
        found += _large_target(output, target)
    return list(dict.fromkeys(found))  # a loss may be called once for each of its parts


def _check_call(call: Call, made_by: str | None, is_output: bool) -> list[Finding]:
    if call.name in _ELEMENTWISE:
        return [] if call.target is None else _broadcasting(call.values, call.target)
    if found := _classes(call):
        return found
    return [*_labels(call), *_kind(call, made_by if is_output else None)] or _worse_than_guessing(call)


def _kind(call: Call, made_by: str | None) -> list[Finding]:
    """Are the values of the kind that the loss takes?"""
    name, values, wanted = call.name, call.values, _WANTED[call.name]
    if values.numel() == 0 or detect_nan_inf(values):
        return []
    exclusive = name in _EXCLUSIVE and values.ndim > 1
    usual = values.ndim - 1 if name == "kl_div" else 1
    class_dim = call.options.get("dim", usual) if exclusive else None
    kinds = value_kinds(values, class_dim=class_dim, exclusive=exclusive)
    takes_logits = f"{name} takes logits and does the softmax or sigmoid itself, but"
    if wanted == "logits":
        if made_by:
            return [
                Finding("problem", "output and loss", f"{takes_logits} the last layer is {made_by}: once too often")
            ]
        if "probabilities" in kinds.kinds and values.numel() >= 16:
            # Yes/no logits may all lie in [0, 1] by chance; rows that sum to 1 do not.
            severity = "problem" if exclusive else "warning"
            return [Finding(severity, "output and loss", f"{takes_logits} these values look like probabilities")]
        return []
    if wanted not in kinds.kinds:
        text = f"{name} takes {_cannot_be(kinds, wanted, 'these values')}"
        return [Finding("problem", "output and loss", text)]
    if name == "kl_div" and exclusive:
        wanted = "log_probabilities" if call.options.get("log_target") else "probabilities"
        kinds = value_kinds(call.target, class_dim=class_dim, exclusive=True)
        if wanted not in kinds.kinds:
            text = f"kl_div compares with {_cannot_be(kinds, wanted, 'those of the target')}"
            return [Finding("problem", "target", text)]
    return []


def _cannot_be(kinds: ValueKinds, wanted: str, values: str) -> str:
    return f"{wanted.replace('_', '-')}, but {values} cannot be: {kinds.reasons[wanted].removeprefix('no: ')}"


def _classes(call: Call) -> list[Finding]:
    """Is there an axis with more than one class?"""
    if call.name not in _OVER_CLASSES:
        return []
    if call.values.ndim < 2:
        text = f"{call.name} needs an axis of classes, (N, C), but got {call.values.ndim}-D"
        return [Finding("problem", "output and loss", text)]
    if call.values.shape[1] == 1:
        text = f"{call.name} over a single class is always 0; for yes/no use binary_cross_entropy_with_logits"
        return [Finding("problem", "output and loss", text)]
    return []


def _labels(call: Call) -> list[Finding]:
    """Are the labels in the range that the loss reads? Not all losses raise, and on a GPU raising kills the process."""
    if call.target is None or not call.target.numel() or detect_nan_inf(call.target):
        return []
    if call.name in _YES_NO:
        low, high = (float(limit) for limit in call.target.detach().aminmax())
        if low >= 0 and high <= 1:
            return []
        how = "(y + 1) / 2" if (low, high) == (-1, 1) else f"y / {high:g}" if low >= 0 else "0 for no, 1 for yes"
        text = f"{call.name} reads targets from 0 to 1, but these range from {low:g} to {high:g}; pass {how}"
        return [Finding("problem", "labels", text)]
    if call.name not in _OVER_CLASSES or call.target.is_floating_point() or call.values.ndim < 2:
        return []
    classes = call.values.shape[1]
    labels = call.target[call.target != call.options.get("ignore_index", -100)]
    low, high = (int(labels.min()), int(labels.max())) if len(labels) else (0, 0)
    if classes > 1 and (high >= classes or low < 0):
        text = f"labels range from {low} to {high}, but there are {classes} classes: 0 to {classes - 1}"
        return [Finding("problem", "labels", text)]
    return []


def _worse_than_guessing(call: Call) -> list[Finding]:
    """Is the loss far above that of equal probabilities for all classes, ln C?"""
    if call.target is None or not call.values.is_floating_point():
        return []
    values = full_precision(call.values)
    try:
        if call.name in _YES_NO:
            classes, mean = 2, float(getattr(F, call.name)(values, call.target.to(values)))
        elif call.name in _OVER_CLASSES:
            target = call.target.to(values) if call.target.is_floating_point() else call.target
            ignored = call.options.get("ignore_index", -100)
            classes, mean = values.shape[1], float(getattr(F, call.name)(values, target, ignore_index=ignored))
        else:
            return []
    except (RuntimeError, ValueError, IndexError):
        return []  # shapes that do not fit: the loss itself will raise
    if not math.isfinite(mean) or mean <= math.log(classes) + _WORSE_THAN_GUESSING:
        return []
    text = (
        f"the loss is {mean:.3g} nats a sample; a network that knows nothing and gives all {classes} classes the same "
        f"probability has ln {classes} = {math.log(classes):.3g}, and a new one should start near it. Look for inputs "
        "or weights that are too large, and for labels in another order"
    )
    return [Finding("warning", "worse than guessing", text)]


def _broadcasting(output: Tensor, target: Tensor) -> list[Finding]:
    """Do two different shapes broadcast to more than one number?"""
    if output.shape == target.shape:
        return []
    try:
        broadcasts = max(torch.broadcast_shapes(output.shape, target.shape).numel(), 1) > 1
    except RuntimeError:
        broadcasts = False
    text = (
        f"the output has the shape {tuple(output.shape)}, the target {tuple(target.shape)}: the loss compares "
        "every sample with every other one. Give both the same shape (check_and_reshape_output)"
    )
    return [Finding("problem", "broadcasting loss", text)] if broadcasts else []


def _large_target(output: Tensor, target: Tensor) -> list[Finding]:
    """Is the target far larger than all outputs? Then the first steps are huge, and the training explodes."""
    low, high = (float(limit) for limit in target.detach().aminmax())
    size = max(-low, high)
    if not _LARGE_TARGET < size < math.inf or not 10 * float(output.abs().max()) < size:
        return []
    text = (
        f"values from {low:.4g} to {high:.4g}, while the outputs end at {float(output.abs().max()):.2g}: such errors "
        "make huge gradients, and training explodes at all but tiny learning rates. Subtract the training target's "
        "mean and divide by its standard deviation"
    )
    return [Finding("warning", "target", text)]
