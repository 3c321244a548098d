"""The check-up of a network: run it once, forward and backward, and say in words what looks wrong."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call

from course_utils.foundation.arguments import check_tensor, describe_value
from course_utils.foundation.devices import in_double
from course_utils.foundation.evaluation import check_model, output_tensor
from course_utils.foundation.seeding import isolated_randomness
from course_utils.foundation.values import value_kinds
from course_utils.pitfalls.nonfinite import detect_nan_inf, first_nonfinite_layer

# What the common losses read: name of the function or class → the kind of value they need.
_WANTED = {
    "cross_entropy": "logits",
    "CrossEntropyLoss": "logits",
    "binary_cross_entropy_with_logits": "logits",
    "BCEWithLogitsLoss": "logits",
    "nll_loss": "log_probabilities",
    "NLLLoss": "log_probabilities",
    "binary_cross_entropy": "probabilities",
    "BCELoss": "probabilities",
}
_OVER_CLASSES = ("cross_entropy", "CrossEntropyLoss", "nll_loss", "NLLLoss")
# Losses that compare element by element, and so broadcast.
_ELEMENTWISE = ("mse_loss", "MSELoss", "l1_loss", "L1Loss", "smooth_l1_loss", "SmoothL1Loss", "huber_loss", "HuberLoss")
_SQUASHING = (nn.Softmax, nn.Softmax2d, nn.Sigmoid)
_LARGE_INPUT, _LARGE_GRADIENT, _VANISHED = 100.0, 1e3, 1e-5


@dataclass(frozen=True)
class Finding:
    """One thing that was found.

    Attributes:
        severity: "problem" (results or training are wrong), "warning" (probably not meant) or "note" (good to know).
        check: the name of the check, for example "broadcasting loss".
        message: what was seen, and what to do.
    """

    severity: str
    check: str
    message: str


@dataclass(frozen=True)
class Diagnosis:
    """What `diagnose` found, the worst first. `str()` says it in words; `ok` is True without problems and warnings."""

    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        return all(finding.severity == "note" for finding in self.findings)

    def __str__(self) -> str:
        lines = [f"{finding.severity.upper()} · {finding.check}: {finding.message}" for finding in self.findings]
        return "\n".join(lines) or "Nothing suspicious was found."

    def __repr__(self) -> str:
        return str(self)


def diagnose(model: nn.Module, inputs: Tensor, target: Tensor | None = None, loss: Callable | None = None) -> Diagnosis:
    """Look for the usual faults of a network, its inputs, its target and its loss.

    Looked at: values that are not finite and the layer where they start; the size of the inputs; train and eval mode;
    the batch axis; outputs that do not fit the loss (a softmax too many or too few); outputs that are the same for
    every sample; losses that broadcast; labels out of range; frozen and unused parameters; exploding, vanishing and
    zero gradients; dead ReLUs (layers: `torch.relu` in a forward cannot be seen). The model runs in the mode it is in,
    on copies of its buffers, with its own gradients put aside: nothing is changed. A clean report does not prove a
    right model; every finding is worth a look.

    Args:
        model: returns a tensor, or an object with `.logits`.
        inputs: a batch; a dozen samples or more tell most.
        target: what the loss compares the output with; needed for the checks of loss and gradients.
        loss: called as loss(output, target), for example F.cross_entropy or nn.MSELoss().

    Returns:
        Diagnosis, with its `findings`.

    >>> model = nn.Sequential(nn.Linear(4, 3), nn.Softmax(dim=1)).eval()
    >>> found = diagnose(model, torch.rand(8, 4), torch.zeros(8, dtype=torch.long), nn.functional.cross_entropy)
    >>> [finding.check for finding in found.findings if finding.severity == "problem"]
    ['output and loss']
    """
    check_model(model)
    check_tensor(inputs, "inputs", floating=None, finite=False)
    if (target is None) != (loss is None):
        raise ValueError("give target and loss together: one without the other says nothing about training")
    if target is not None and not isinstance(target, Tensor):
        raise TypeError(f"target must be a torch.Tensor, but is {describe_value(target)}")
    if loss is not None and not callable(loss):
        raise TypeError(f"loss must be callable as loss(output, target), but is {describe_value(loss)}")

    findings = [*_inputs(inputs), *_mode(model), *_parameters(model)]
    if sick := first_nonfinite_layer(model, inputs):
        where = "is in the inputs already" if detect_nan_inf(inputs.detach()) else f"starts in the layer {sick!r}"
        findings.append(Finding("problem", "NaN or Inf", f"a value is not finite; it {where}"))
    with torch.inference_mode(False), torch.enable_grad(), isolated_randomness(0):
        output, parameters, silent, squashed = _run(model, inputs)
        findings += _output(output, inputs)
        if silent:
            findings.append(_dead(silent))
        if loss is not None:
            findings += _loss(output.detach(), target.clone(), loss, squashed)
            findings += _training(output, target.clone(), loss, parameters)
    order = ("problem", "warning", "note")
    return Diagnosis(tuple(sorted(findings, key=lambda finding: order.index(finding.severity))))


def _run(model: nn.Module, inputs: Tensor) -> tuple[Tensor, dict[str, Tensor], dict[str, float], str | None]:
    """One forward pass.

    Returns:
        The output with its graph, the trainable parameters it hangs on, the share of silent units of each ReLU layer
        in which half of them are, and the name of the softmax or sigmoid layer that made the output, if one did.
    """
    parameters = {name: p.detach().requires_grad_() for name, p in model.named_parameters() if p.requires_grad}
    frozen = {name: p.detach() for name, p in model.named_parameters() if not p.requires_grad}
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    silent: dict[str, float] = {}
    squashed: list[tuple[str, Tensor]] = []

    def watch(name: str) -> Callable:
        def hook(module: nn.Module, args: tuple, output: Tensor) -> None:
            if isinstance(module, _SQUASHING):
                squashed.append((type(module).__name__, output))
            elif output.ndim > 1 and len(output) >= 8:  # with fewer samples a unit may be silent by chance
                dead = (output.detach() <= 0).all(0)
                if output.ndim > 3:  # a picture's unit is a whole channel
                    dead = dead.flatten(1).all(1)
                if (share := float(dead.float().mean())) >= 0.5:
                    silent[name] = share

        return hook

    handles = []
    try:
        for name, module in model.named_modules():
            if isinstance(module, (nn.ReLU, nn.ReLU6, *_SQUASHING)):
                handles.append(module.register_forward_hook(watch(name)))
        output = output_tensor(functional_call(model, parameters | frozen | buffers, (inputs.detach().clone(),)))
    finally:
        for handle in handles:
            handle.remove()
    made_by = next((name for name, made in squashed if made is output), None)
    return output, parameters, silent, made_by


def _inputs(inputs: Tensor) -> list[Finding]:
    inputs = inputs.detach()
    if report := detect_nan_inf(inputs, "inputs"):
        return [Finding("problem", "inputs", str(report))]
    if inputs.is_floating_point() and float(inputs.abs().max()) > _LARGE_INPUT:
        low, high = map(float, inputs.aminmax())
        text = f"values from {low:.4g} to {high:.4g}; networks learn best from inputs of about −3 to 3, so scale them"
        return [Finding("warning", "inputs", text)]
    return []


def _mode(model: nn.Module) -> list[Finding]:
    sensitive = [
        module
        for module in model.modules()
        if isinstance(module, (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd))
    ]
    if not sensitive:
        return []
    training = sum(module.training for module in sensitive)
    if training == 0:
        return [Finding("note", "mode", "eval mode: right for reading outputs; before training call model.train()")]
    which = "all" if training == len(sensitive) else f"{training} of {len(sensitive)}"
    text = (
        f"{which} Dropout and BatchNorm layers are in train mode: outputs are random or depend on the batch. "
        "Right while training; before you read outputs call model.eval()"
    )
    return [Finding("note", "mode", text)]


def _parameters(model: nn.Module) -> list[Finding]:
    found = []
    for name, parameter in model.named_parameters():
        if report := detect_nan_inf(parameter, name):
            found.append(Finding("problem", "parameters", f"{report}; go back to a checkpoint before that"))
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    if frozen:
        found.append(Finding("note", "frozen parameters", f"{_list(frozen)}: training will not change them"))
    return found


def _output(output: Tensor, inputs: Tensor) -> list[Finding]:
    if output.ndim == 0 or len(output) != len(inputs):
        text = (
            f"{len(inputs)} samples went in, {describe_value(output)} came out: the first axis must count the samples. "
            "Look for a squeeze(), a mean over the batch, or a reshape"
        )
        return [Finding("problem", "batch axis", text)]
    values = output.detach()
    different = len(inputs) > 1 and bool((inputs != inputs[:1]).any())
    spread = float((values - values[:1]).abs().max()) if values.numel() else 0.0
    if different and values.numel() and values.isfinite().all() and spread <= 1e-6 * float(values.abs().max()):
        return [Finding("warning", "constant output", "every sample gets the same output, whatever goes in")]
    return []


def _dead(silent: dict[str, float]) -> Finding:
    layers = _list([f"{name} ({share:.0%})" for name, share in silent.items()])
    text = f"units that are 0 for every sample of this batch: {layers}; they get no gradient. Lower the learning rate"
    return Finding("warning", "dead ReLUs", text)


def _loss(output: Tensor, target: Tensor, loss: Callable, squashed: str | None) -> list[Finding]:
    """Does the output fit the loss, and does the target fit both?"""
    name = _loss_name(loss)
    found = []
    if name in _OVER_CLASSES:
        found += _classes(output, target, name, getattr(loss, "ignore_index", -100))
    # An unknown loss may take class indices, which are whole numbers of another shape.
    elif (name in _ELEMENTWISE or (name not in _WANTED and target.is_floating_point())) and _broadcast(output, target):
        text = (
            f"the output has the shape {tuple(output.shape)}, the target {tuple(target.shape)}: the loss compares "
            "every sample with every other one. Give both the same shape (check_and_reshape_output)"
        )
        found.append(Finding("problem", "broadcasting loss", text))
    wanted = _WANTED.get(name)
    if wanted is None or output.numel() == 0 or detect_nan_inf(output):
        return found
    exclusive = name in _OVER_CLASSES and output.ndim > 1
    kinds = value_kinds(output, class_dim=1 if exclusive else None, exclusive=exclusive)
    if wanted == "logits":
        if squashed:
            text = f"{name} takes logits and does the softmax or sigmoid itself, but the last layer is {squashed}"
            found.append(Finding("problem", "output and loss", f"{text}: once too often"))
        elif "probabilities" in kinds.kinds and output.numel() >= 16:
            text = (
                f"{name} takes logits and does the softmax or sigmoid itself, but these values look like probabilities"
            )
            # Yes/no logits may all lie in [0, 1] by chance; rows that sum to 1 do not.
            found.append(Finding("problem" if exclusive else "warning", "output and loss", text))
    elif wanted not in kinds.kinds:
        reason = kinds.reasons[wanted].removeprefix("no: ")
        text = f"{name} takes {wanted.replace('_', '-')}, but these values cannot be: {reason}"
        found.append(Finding("problem", "output and loss", text))
    return found


def _loss_name(loss: Callable) -> str:
    """The name by which the tables above know a loss: also behind functools.partial, and of a derived class."""
    while isinstance(loss, partial):
        loss = loss.func
    names = [loss.__name__] if hasattr(loss, "__name__") else [cls.__name__ for cls in type(loss).__mro__]
    return next((name for name in names if name in _WANTED or name in _ELEMENTWISE), names[0])


def _classes(output: Tensor, target: Tensor, name: str, ignored: int) -> list[Finding]:
    if output.ndim < 2:
        return [
            Finding("problem", "output and loss", f"{name} needs an axis of classes, (N, C), but got {output.ndim}-D")
        ]
    classes = output.shape[1]
    if classes == 1:
        text = f"{name} over a single class is always 0; for yes/no use binary_cross_entropy_with_logits"
        return [Finding("problem", "output and loss", text)]
    if target.is_floating_point() or target.numel() == 0:
        return []
    labels = target[target != ignored]
    low, high = (int(labels.min()), int(labels.max())) if len(labels) else (0, 0)
    if high >= classes or low < 0:
        text = f"labels range from {low} to {high}, but there are {classes} classes: 0 to {classes - 1}"
        return [Finding("problem", "labels", text)]
    return []


def _broadcast(output: Tensor, target: Tensor) -> bool:
    """Do two different shapes broadcast to more than one number?"""
    if output.shape == target.shape:
        return False
    try:
        return max(torch.broadcast_shapes(output.shape, target.shape).numel(), 1) > 1
    except RuntimeError:
        return False


def _training(output: Tensor, target: Tensor, loss: Callable, parameters: dict[str, Tensor]) -> list[Finding]:
    """Run the loss, and look at the gradient of every trainable parameter."""
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
    return _judge_gradients(dict(zip(parameters, dense, strict=True)))


def _judge_gradients(gradients: dict[str, Tensor | None]) -> list[Finding]:
    found = []
    unused = [name for name, gradient in gradients.items() if gradient is None]
    if unused:
        text = f"{_list(unused)}: the loss does not depend on them, so they never learn. Are they called in forward?"
        found.append(Finding("warning", "unused parameters", text))
    used = {name: gradient for name, gradient in gradients.items() if gradient is not None}
    if sick := [name for name, gradient in used.items() if not gradient.isfinite().all()]:
        found.append(Finding("problem", "gradients", f"NaN or Inf in the gradients of {_list(sick)}"))
        return found
    sizes = {name: float(in_double(gradient).square().mean().sqrt()) for name, gradient in used.items()}
    if zero := [name for name, size in sizes.items() if size == 0]:
        text = f"exactly 0 for {_list(zero)}: look for saturated or dead units behind them"
        found.append(Finding("warning", "zero gradients", text))
    norm = math.sqrt(sum(float(in_double(gradient).square().sum()) for gradient in used.values()))
    if norm > _LARGE_GRADIENT:
        text = f"their total norm is {norm:.3g}; scale inputs and targets, lower the learning rate, or clip"
        found.append(Finding("warning", "exploding gradients", text))
    weights = {name: size for name, size in sizes.items() if used[name].ndim > 1 and size > 0}
    if len(weights) > 1:
        smallest, largest = min(weights, key=weights.get), max(weights, key=weights.get)
        if weights[smallest] < _VANISHED * weights[largest]:
            text = (
                f"those of {smallest} are {weights[largest] / weights[smallest]:.0e} times smaller than those of "
                f"{largest}: use ReLU for sigmoid or tanh, normalisation layers, or skip connections"
            )
            found.append(Finding("warning", "vanishing gradients", text))
    return found


def _list(names: list[str], shown: int = 4) -> str:
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more
