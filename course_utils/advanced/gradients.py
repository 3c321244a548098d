"""What attacks and attributions share: gradients with respect to the inputs, and nothing left behind."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.func import functional_call

from course_utils.foundation.arguments import check_labels, check_tensor, describe_value
from course_utils.foundation.evaluation import evaluation_mode, output_tensor
from course_utils.foundation.seeding import isolated_randomness


class FrozenModel:
    """A classifier in which only the inputs have gradients: its parameters are read, but no graph hangs on them.

    That makes a backward pass cheaper, and the caller's `.grad` fields cannot be reached at all (E51).
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.state = {name: value.detach() for name, value in model.named_parameters()}
        self.state |= {name: value.clone() for name, value in model.named_buffers()}  # some models write to theirs
        self.memory_format = torch.channels_last

    def __call__(self, x: Tensor) -> Tensor:
        """Inputs (N, …) → logits (N, C), C ≥ 2."""
        try:
            logits = output_tensor(functional_call(self.model, self.state, (self._copy(x),)))
        except RuntimeError:
            if x.ndim != 4 or self.memory_format is None:
                raise
            # x.view(N, -1) in a model fails on channels_last (E62); an error of another kind comes again here.
            self.memory_format = None
            logits = output_tensor(functional_call(self.model, self.state, (self._copy(x),)))
        if logits.ndim != 2 or len(logits) != len(x) or logits.shape[1] < 2:
            wanted = f"logits (N, C) with N = {len(x)} and C ≥ 2"
            raise ValueError(f"the model must return {wanted}, but returned {describe_value(logits)}")
        check_tensor(logits.detach(), "the model's logits")  # argmax and sign would hide a NaN
        return logits.float() if logits.element_size() < 4 else logits

    def _copy(self, x: Tensor) -> Tensor:
        """In-place layers write to this one: the inputs are a leaf, and a leaf must not be written to."""
        if x.ndim == 4 and self.memory_format is not None:
            return x.clone(memory_format=self.memory_format)  # convolutions run faster on it
        return x.clone(memory_format=torch.contiguous_format)


@contextmanager
def input_gradients(model: nn.Module) -> Iterator[FrozenModel]:
    """Evaluation mode, gradients on (also inside the caller's no_grad), the random state put aside."""
    with evaluation_mode(model), torch.inference_mode(False), torch.enable_grad(), isolated_randomness(0):
        yield FrozenModel(model)


def gradient_of(score: Tensor, x: Tensor) -> Tensor:
    """∂ score / ∂ x as a new tensor; nothing accumulates anywhere (E50, E56)."""
    gradient = torch.autograd.grad(score, x, allow_unused=True)[0] if score.requires_grad else None
    if gradient is None:
        raise ValueError("the model's output does not depend on its inputs through differentiable steps")
    return check_tensor(gradient, "the gradient")


def chunk_size(x: Tensor) -> int:
    """Samples in one pass: on a CPU, larger batches fall out of the cache and run slower; a GPU wants them all."""
    return 32 if x.device.type == "cpu" else max(1, len(x))


def check_inputs(inputs: Tensor) -> Tensor:
    """The inputs as a leaf of their own, without the caller's graph."""
    check_tensor(inputs, "inputs")
    if inputs.ndim < 2:
        raise ValueError(f"inputs must have a batch axis and at least one more, but are {describe_value(inputs)}")
    return inputs.detach().clone()


def check_target(target: Tensor | int | None, logits: Tensor) -> Tensor:
    """Class indices (N,): the given ones, one for all, or the model's own answer for None."""
    if target is None:
        return logits.detach().argmax(1)
    if isinstance(target, int) and not isinstance(target, bool):
        target = torch.full((len(logits),), target)
    return (
        check_labels(target, "target", num_samples=len(logits), num_classes=logits.shape[1])
        .clone()
        .long()
        .to(logits.device)
    )
