"""What a network's answers depend on: on every sample, on nothing but that sample, on all of it."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from course_utils.foundation.arguments import describe_value
from course_utils.foundation.evaluation import evaluation_mode, output_tensor
from course_utils.foundation.inputs import Inputs, map_inputs, tensors_of
from course_utils.foundation.outputs import parts_of
from course_utils.foundation.seeding import isolated_randomness
from course_utils.pitfalls.findings import Finding, listed
from course_utils.pitfalls.forward import detached_parameters, run_once, run_with

_LARGE_OUTPUT = 1e4  # times the largest input


def check_output(output: Tensor, parts: dict[str, Tensor]) -> list[Finding]:
    """The first axis of an output, its size, and whether the samples differ; `parts` are the inputs, (N, …) each."""
    n = len(next(iter(parts.values())))
    if output.ndim == 0 or len(output) != n:
        text = (
            f"{n} samples went in, {describe_value(output)} came out: the first axis must count the samples. "
            "Look for a squeeze(), a mean over the batch, or a reshape"
        )
        return [Finding("problem", "batch axis", text)]
    values = _as_numbers(output.detach())
    if not values.numel() or not values.isfinite().all():
        return []
    largest = float(values.abs().max())
    different = any((value != value[:1]).any() for value in parts.values())
    if different and float((values - values[:1]).abs().max()) <= 1e-6 * largest:
        return [Finding("warning", "constant output", "every sample gets the same output, whatever goes in")]
    inputs = max(float(value.detach().abs().max()) for value in parts.values())
    if largest > _LARGE_OUTPUT * max(inputs, 1):
        text = (
            f"values up to {largest:.3g} from inputs up to {inputs:.3g}: the weights have grown, or were too large "
            "from the start. Go back, lower the learning rate, clip the gradients"
        )
        return [Finding("warning", "exploding output", text)]
    return []


def check_answers(model: nn.Module, inputs: Inputs) -> list[Finding]:
    """What a sample's answer depends on in evaluation mode: only on that sample, and on all of it."""
    with evaluation_mode(model):
        answer = _answer(model, inputs)
        parts = tensors_of(inputs, finite=False)
        n = len(next(iter(parts.values())))
        if n < 2 or answer is None or not answer.numel() or answer.ndim == 0 or len(answer) != n:
            return []
        if not answer.isfinite().all() or _difference(answer, _answer(model, inputs)):
            return []  # not finite, or random in evaluation mode too: nothing can be compared
        if found := _depends_on_the_batch(model, inputs, answer):
            return found
        if (answer == answer[:1]).all():
            return []  # of no input at all, which is another finding
        whole = _tensors(run_once(model, inputs))
        return [*_unread_parts(model, inputs, whole), *_unread_places(model, inputs, whole)]


def _answer(model: nn.Module, inputs: Inputs) -> Tensor | None:
    """The output's main tensor in evaluation mode; None if there is none to compare."""
    output = run_once(model, inputs)
    try:
        return _as_numbers(output_tensor(output))
    except TypeError:
        return None


def _as_numbers(values: Tensor) -> Tensor:
    """Labels and masks in a dtype that can be subtracted."""
    return values if values.is_floating_point() or values.is_complex() else values.double()


def _difference(answer: Tensor, other: Tensor | None) -> float:
    """The largest difference of two answers; 0 if it is rounding, or cannot be told."""
    if other is None or other.shape != answer.shape:
        return 0.0
    difference = float((other - answer).abs().max())
    # The shapes are the same, and so is the order of all sums: rounding is far below this.
    return difference if difference > max(1e-4, 4 * torch.finfo(answer.dtype).eps) * float(answer.abs().max()) else 0.0


def _tensors(output: Any) -> list[Tensor]:
    """All tensors of an output. Labels among the inputs may reach only the loss that a model puts beside its logits."""
    if isinstance(output, Tensor):
        return [output]
    return [tensor for part in (parts_of(output) or {}).values() for tensor in _tensors(part)]


def _depends_on_the_batch(model: nn.Module, inputs: Inputs, answer: Tensor) -> list[Finding]:
    """Do the last samples get another answer when the first ones are replaced by copies of the last?"""
    n = len(answer)
    kept = n // 2
    rows = torch.arange(n)
    rows[: n - kept] = n - kept + rows[: n - kept] % kept
    other = _answer(model, map_inputs(lambda values: values[rows.to(values.device)], inputs))
    difference = _difference(answer[-kept:], None if other is None else other[-kept:])
    if not difference:
        return []
    text = (
        f"the same sample gets another answer, by up to {difference:.2g}, when the other samples of its batch change, "
        "in evaluation mode too: look for BatchNorm without running statistics, scaling by the batch's own statistics "
        "(dynamic quantisation does it too), or attention or recurrence along the batch axis (batch_first)"
    )
    return [Finding("warning", "answers depend on the batch", text)]


def _unread_parts(model: nn.Module, inputs: Inputs, output: list[Tensor]) -> list[Finding]:
    """Of several inputs: those that can be exchanged between the samples without changing any answer."""
    parts = tensors_of(inputs, finite=False)
    if len(parts) == 1:
        return []
    unread = [
        name
        for name, values in parts.items()
        if not torch.equal(values.roll(1, 0), values)
        and _same_output(model, _changed(inputs, values, values.roll(1, 0)), output)
    ]
    if not unread:
        return []
    text = f"{listed(unread)}: the answers stay the same, to the last digit, when it is exchanged between the samples"
    return [Finding("warning", "unread inputs", text)]


def _unread_places(model: nn.Module, inputs: Inputs, output: list[Tensor]) -> Iterator[Finding]:
    """Features, channels or time steps (axis 1) of an input that do not reach the output."""
    gradients = _input_gradients(model, inputs)
    for name, values in tensors_of(inputs, finite=False).items():
        if values.ndim < 2 or values.shape[1] < 2:
            continue
        if name in gradients:  # the places where it is exactly 0 for every sample
            places = torch.nonzero((gradients[name].movedim(1, 0).flatten(1) == 0).all(1)).flatten()
        else:
            places = _unread_half(model, inputs, values, output)
        if not len(places) or len(places) == values.shape[1]:
            continue
        # No gradient may also mean a step function, so the values are changed as well.
        changed = values.detach().clone()
        changed[:, places] = changed[:, places].roll(1, 0) + (1 if values.is_floating_point() else 0)
        if _same_output(model, _changed(inputs, values, changed), output):
            text = (
                f"{len(places)} of {values.shape[1]} places along axis 1 of {name} do not reach the output, whatever "
                f"stands there: {listed(places.tolist())}. Look for an index or a slice that leaves them out"
            )
            yield Finding("warning", "unread inputs", text)


def _input_gradients(model: nn.Module, inputs: Inputs) -> dict[str, Tensor]:
    """The gradient of a random mix of all outputs with respect to each input that can have one."""
    leaves = map_inputs(lambda values: values.detach().clone().requires_grad_(values.is_floating_point()), inputs)
    parts = {name: values for name, values in tensors_of(leaves, finite=False).items() if values.requires_grad}
    with isolated_randomness(0):
        output = output_tensor(run_with(model, detached_parameters(model), leaves))
        if not parts or not output.requires_grad:
            return {}
        mix = torch.randn_like(output)
        try:
            gradients = torch.autograd.grad(output, list(parts.values()), mix, allow_unused=True)
        except RuntimeError:  # some layers have no backward pass in evaluation mode, an LSTM on a GPU for one
            return {}
    return {name: gradient for name, gradient in zip(parts, gradients, strict=True) if gradient is not None}


def _unread_half(model: nn.Module, inputs: Inputs, values: Tensor, output: list[Tensor]) -> Tensor:
    """Tokens have no gradient: the half of the positions that can be exchanged between samples without any effect."""
    middle = values.shape[1] // 2
    for half in (slice(None, middle), slice(middle, None)):
        changed = values.clone()
        changed[:, half] = values[:, half].roll(1, 0)
        if not torch.equal(changed, values) and _same_output(model, _changed(inputs, values, changed), output):
            return torch.arange(values.shape[1])[half]
    return torch.arange(0)


def _changed(inputs: Inputs, values: Tensor, new: Tensor) -> Inputs:
    """The inputs with one of their tensors replaced."""
    return map_inputs(lambda part: new if part is values else part, inputs)


def _same_output(model: nn.Module, inputs: Inputs, output: list[Tensor]) -> bool:
    other = _tensors(run_once(model, inputs))
    return len(other) == len(output) and all(map(torch.equal, other, output))
