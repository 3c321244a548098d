"""What attacks and attributions share: gradients with respect to the inputs, and nothing left behind."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from course_utils.foundation.arguments import check_choice, check_labels, check_tensor, describe_value, holds_tensors
from course_utils.foundation.devices import layout
from course_utils.foundation.evaluation import check_model, class_logits, output_tensor, reading
from course_utils.foundation.inputs import Inputs, call_arguments, failure_noted, map_inputs

Target = Tensor | Sequence[int] | int | None  # arrays too


class FrozenModel:
    """A classifier in which only the inputs have gradients: its parameters are read, but no graph hangs on them.

    That makes a backward pass cheaper, and the caller's `.grad` fields cannot be reached at all (error E51, chapter 4's
    index). Its parameters are exchanged while it runs, so two threads must not do this with one model at the same time.
    The model is in evaluation mode; with `task="binary"` it has one logit a sample.
    """

    def __init__(self, model: nn.Module, task: str = "multiclass") -> None:
        self.model, self.task = model, check_choice(task, "task", ("multiclass", "binary"))
        self.memory_format = layout(model)
        self.state: dict[str, Tensor] | None = None
        if not isinstance(model, torch.jit.ScriptModule):  # a compiled TorchScript keeps its parameters
            # No graph can be built on what was made in inference mode; a copy is an ordinary tensor.
            parameters = {name: p.clone() if p.is_inference() else p for name, p in model.named_parameters()}
            self.state = {name: value.detach() for name, value in parameters.items()}
            self.state |= {name: value.clone() for name, value in model.named_buffers()}  # some models write to theirs

    def __call__(self, inputs: Inputs) -> Tensor:
        """Inputs of N samples → logits (N, C), C ≥ 2, in float32 or better."""
        inputs = map_inputs(self._copy, inputs)
        args, kwargs = call_arguments(inputs)
        with failure_noted(inputs):
            if self.state is None:
                output = self.model(*args, **kwargs)
            else:
                output = functional_call(self.model, self.state, args, kwargs)
        return class_logits(output_tensor(output), task=self.task, n=len((*args, *kwargs.values())[0]))

    def score(self, logits: Tensor, target: Tensor) -> Tensor:
        """What is explained, (N,): the target's logit; of a binary model its log-odds, z for class 1 and −z for 0."""
        own = logits.gather(1, target[:, None])[:, 0]
        if (own == -torch.inf).any():
            raise ValueError("a target's logit is −inf, so this class is masked out; explain another one")
        # The two logits of a binary model are 0 and z, and class 0's own one has no gradient.
        return own - logits.gather(1, 1 - target[:, None])[:, 0] if self.task == "binary" else own

    def _copy(self, x: Tensor) -> Tensor:
        """In-place layers write to this one: the inputs are a leaf, and a leaf must not be written to."""
        return x.clone(memory_format=self.memory_format if x.ndim == 4 else torch.contiguous_format)


def in_fastest_layout(model: nn.Module, x: Tensor) -> Tensor:
    """The same values, for models that are run without gradients."""
    return x.contiguous(memory_format=layout(check_model(model))) if x.ndim == 4 else x


@contextmanager
def input_gradients(model: nn.Module, *, task: str = "multiclass", seed: int | None = 0) -> Iterator[FrozenModel]:
    """Evaluation mode, gradients on (also inside the caller's no_grad), nothing that the model draws or writes stays.

    `seed` is that of what the model draws: each of its runs draws further numbers. None: fresh ones.
    """
    with torch.inference_mode(False), reading(model, seed=seed) as model, torch.enable_grad():
        yield FrozenModel(model, task)


def gradients_of(score: Tensor, leaves: Sequence[Tensor]) -> list[Tensor]:
    """∂ score / ∂ each of the leaves, as new tensors; nothing accumulates anywhere (errors E50, E56)."""
    found = raw_gradients(score, leaves) if score.requires_grad else [None]
    if all(gradient is None for gradient in found):
        raise ValueError("the model's output does not depend on its inputs through differentiable steps")
    return [
        torch.zeros_like(leaf) if gradient is None else check_tensor(gradient, "the gradient")
        for gradient, leaf in zip(found, leaves, strict=True)
    ]


def raw_gradients(score: Tensor, leaves: Sequence[Tensor]) -> Sequence[Tensor | None]:
    """The gradients as autograd returns them: None for a leaf that the score does not depend on."""
    try:
        return torch.autograd.grad(score, leaves, allow_unused=True)
    except RuntimeError as error:
        if "checkpoint" not in str(error):
            raise
        # The second forward pass would run with the model's own parameters, and not with those without gradients.
        raise ValueError(
            "the model computes its activations a second time on the way back (torch.utils.checkpoint), which cannot "
            "be done here; let it do so in train mode only, as the models of transformers do: if self.training: …"
        ) from error


def chunk_size(x: Tensor) -> int:
    """Samples in one pass: on a CPU, larger batches fall out of the cache and run slower; a GPU wants them all."""
    return 32 if x.device.type == "cpu" else max(1, len(x))


def check_inputs(inputs: Tensor, name: str = "inputs") -> Tensor:
    """The inputs as a leaf of their own, without the caller's graph."""
    if holds_tensors(inputs):
        raise TypeError(
            f"{name} must be one torch.Tensor here, but is {describe_value(inputs)}; for a model with several inputs "
            "pass a module that takes one and holds the others fixed (integrated_gradients takes several)"
        )
    if isinstance(inputs, Tensor) and not inputs.is_floating_point():
        raise TypeError(
            f"{name} must have a floating point dtype, because gradients are taken by them, but is "
            f"{describe_value(inputs)}; images: pass .float() / 255; token ids: pass their embeddings, to a module "
            "that begins behind the embedding"
        )
    check_tensor(inputs, name)
    if inputs.ndim < 2:
        raise ValueError(f"{name} must have a batch axis and at least one more, but is {describe_value(inputs)}")
    return inputs.detach().clone()


def check_target(target: Any, logits: Tensor) -> Tensor:
    """Class indices int64 (N,): the given ones, one for all, or the model's own answer for None."""
    if target is None:
        return logits.detach().argmax(1)
    if isinstance(target, bool):
        raise TypeError(f"target must be class indices, but is {target}")
    labels = check_labels(target, "target", num_samples=len(logits), num_classes=logits.shape[1])
    return labels.to(logits.device, torch.int64, copy=True)


def check_one_target_each(target: Target, inputs: Tensor) -> Tensor:
    """The true classes, one for each sample; their range is checked when the logits are there."""
    if target is None or isinstance(target, bool):
        raise TypeError(f"target must be the true classes, one a sample, but is {target}")
    return check_labels(target, "target", num_samples=len(inputs), num_classes=None).to(inputs.device, torch.int64)
