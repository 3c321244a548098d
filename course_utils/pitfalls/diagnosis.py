"""The check-up of a network: run it forward and backward, and say in words what looks wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from course_utils.foundation.arguments import check_tensor, describe_value
from course_utils.foundation.evaluation import output_tensor, writing_undone
from course_utils.foundation.inputs import Inputs, tensors_of
from course_utils.foundation.seeding import isolated_randomness
from course_utils.pitfalls.answers import check_answers, check_output
from course_utils.pitfalls.backward import check_gradients
from course_utils.pitfalls.findings import SEVERITIES, Diagnosis, Finding, listed
from course_utils.pitfalls.forward import check_watchable, detached_parameters, explain_failure, run_with
from course_utils.pitfalls.losses import check_loss
from course_utils.pitfalls.nonfinite import detect_nan_inf, find_nonfinite

__all__ = ["Diagnosis", "Finding", "diagnose"]

_SQUASHING = (nn.Softmax, nn.Softmax2d, nn.Sigmoid)
_LARGE_INPUT = 100.0


def diagnose(model: nn.Module, inputs: Inputs, target: Tensor | None = None, loss: Callable | None = None) -> Diagnosis:
    """Look for the usual faults of a network, its inputs, its target and its loss.

    Looked at: a forward pass that fails, and in which layer; values that are not finite and the layer where they start;
    the size of the inputs, the outputs and the target; train and eval mode; the batch axis; answers that depend on the
    other samples of the batch; outputs that are the same for every sample; inputs that do not reach the output; outputs
    that do not fit the loss (a softmax too many or too few); losses that broadcast; labels out of range; a loss far
    above that of guessing; frozen and unused parameters; exploding, vanishing and zero gradients; dead ReLUs (layers:
    `torch.relu` in a forward cannot be seen).

    The loss and the gradients are those of the mode that the model is in. What its answers depend on is tried in
    evaluation mode. All runs use copies of the buffers and have gradients of their own: nothing is changed. A clean
    report does not prove a right model; every finding is worth a look.

    Args:
        model: returns a tensor, an object with `.logits` or a dict with "logits". Any module but a scripted one.
        inputs: a batch; a tuple or list of several inputs, or a dict of named ones; a dozen samples or more tell most.
        target: what the loss compares the output with; needed for the checks of loss and gradients.
        loss: called as loss(output, target), for example F.cross_entropy or nn.MSELoss(). What it computes is seen by
            running it, so a function or a module of your own around one of torch's losses is as good.

    Raises:
        TypeError, ValueError: a model that is none or has lazy layers, inputs that are no tensors, a target without a
            loss, an output in which there is no tensor to look at.

    >>> model = nn.Sequential(nn.Linear(4, 3), nn.Softmax(dim=1)).eval()
    >>> found = diagnose(model, torch.rand(8, 4), torch.zeros(8, dtype=torch.long), nn.functional.cross_entropy)
    >>> [finding.check for finding in found.findings if finding.severity == "problem"]
    ['output and loss']
    """
    model = check_watchable(model)
    parts = tensors_of(inputs, finite=False)
    for name, values in parts.items():
        check_tensor(values, name, floating=None, finite=False)  # also not sparse
    if (target is None) != (loss is None):
        raise ValueError("give target and loss together: one without the other says nothing about training")
    if target is not None and not isinstance(target, Tensor):
        raise TypeError(f"target must be a torch.Tensor, but is {describe_value(target)}")
    if loss is not None and not callable(loss):
        raise TypeError(f"loss must be callable as loss(output, target), but is {describe_value(loss)}")

    findings = [*_inputs(parts), *_parameters(model)]
    with torch.inference_mode(False), torch.enable_grad(), isolated_randomness(0):
        try:
            run = _run(model, inputs)
            sick = _nonfinite(model, inputs, parts)
        except Exception as error:
            return _report([*findings, *_mode(model), _failure(error, model)])
        findings += [*sick, *check_output(run.output, parts), *_dead(run.silent)]
        try:
            depends = check_answers(model, inputs)
        except Exception as error:
            depends = [_failure(error, model, "in evaluation mode ")]
        findings += [*depends, *([] if depends and not model.training else _mode(model))]
        if loss is not None:
            with writing_undone(loss) if isinstance(loss, nn.Module) else nullcontext():
                findings += _loss_and_gradients(run, target, loss)
    return _report(findings)


def _report(findings: list[Finding]) -> Diagnosis:
    return Diagnosis(tuple(sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))))


def _failure(error: Exception, model: nn.Module, when: str = "") -> Finding:
    """A failed forward pass as a finding. An error that is not the model's own is raised."""
    explanation = explain_failure(error, model)
    if explanation is None:
        raise error
    return Finding("problem", "forward pass", when + explanation)


def _loss_and_gradients(run: ForwardPass, target: Tensor, loss: Callable) -> list[Finding]:
    found = check_loss(run.output, target.clone(), loss, made_by=run.made_by)
    if any(finding.check == "labels" for finding in found):
        return found  # on a GPU, running such a loss would kill the process
    return [*found, *check_gradients(run.output, target.clone(), loss, run.parameters)]


@dataclass(frozen=True)
class ForwardPass:
    """One forward pass in the model's mode.

    Attributes:
        output: with its graph.
        parameters: the trainable ones that it hangs on.
        silent: the share of silent units of each ReLU layer in which half of them are.
        made_by: the name of the softmax or sigmoid layer that made the output, if one did.
    """

    output: Tensor
    parameters: dict[str, Tensor]
    silent: dict[str, float]
    made_by: str | None


def _run(model: nn.Module, inputs: Inputs) -> ForwardPass:
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    parameters = {name: value.requires_grad_(name in trainable) for name, value in detached_parameters(model).items()}
    silent: dict[str, float] = {}
    squashed: list[tuple[str, Tensor]] = []

    def watch(name: str) -> Callable:
        def hook(module: nn.Module, args: tuple, output: Tensor) -> None:
            if isinstance(module, _SQUASHING):
                squashed.append((type(module).__name__, output))
            elif output.ndim > 1 and len(output) >= 8:  # with fewer samples a unit may be silent by chance
                dead = (output.detach() <= 0).all(0)
                if output.ndim > 3:  # an image's unit is a whole channel
                    dead = dead.flatten(1).all(1)
                if (share := float(dead.float().mean())) >= 0.5:
                    silent[name] = share

        return hook

    with ExitStack() as hooks:  # they go at its end
        for name, module in model.named_modules():
            if isinstance(module, (nn.ReLU, nn.ReLU6, *_SQUASHING)):
                hooks.enter_context(module.register_forward_hook(watch(name)))
        output = output_tensor(run_with(model, parameters, inputs))
    made_by = next((name for name, made in squashed if made is output), None)
    return ForwardPass(output, {name: parameters[name] for name in parameters if name in trainable}, silent, made_by)


def _inputs(parts: dict[str, Tensor]) -> Iterator[Finding]:
    for name, values in parts.items():
        if report := detect_nan_inf(values, name):
            yield Finding("problem", "inputs", str(report))
        elif values.is_floating_point() and float(values.detach().abs().max()) > _LARGE_INPUT:
            low, high = map(float, values.detach().aminmax())
            advice = "networks learn best from inputs of about −3 to 3, so scale them"
            yield Finding("warning", "inputs", f"{name}: values from {low:.4g} to {high:.4g}; {advice}")


def _nonfinite(model: nn.Module, inputs: Inputs, parts: dict[str, Tensor]) -> list[Finding]:
    origin = find_nonfinite(model, inputs)
    if origin is None:
        return []
    nonfinite_inputs = any(detect_nan_inf(values) for values in parts.values())
    where = "is in the inputs already" if nonfinite_inputs else f"starts in the layer {origin.layer!r}"
    if origin.fused:
        where += (
            ", only on torch's fused path (evaluation mode without gradients); a sample that is all padding is the "
            "usual cause: leave one position of it unmasked"
        )
    return [Finding("problem", "NaN or Inf", f"a value is not finite; it {where}")]


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


def _parameters(model: nn.Module) -> Iterator[Finding]:
    for name, parameter in model.named_parameters():
        if report := detect_nan_inf(parameter, name):
            yield Finding("problem", "parameters", f"{report}; go back to a checkpoint before that")
    if frozen := [name for name, parameter in model.named_parameters() if not parameter.requires_grad]:
        yield Finding("note", "frozen parameters", f"{listed(frozen)}: training will not change them")


def _dead(silent: dict[str, float]) -> list[Finding]:
    if not silent:
        return []
    layers = listed([f"{name} ({share:.0%})" for name, share in silent.items()])
    text = f"units that are 0 for every sample of this batch: {layers}; they get no gradient. Lower the learning rate"
    return [Finding("warning", "dead ReLUs", text)]
