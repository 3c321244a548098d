"""Running a model to read its outputs, and leaving it as it was."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from course_utils.foundation.arguments import check_tensor, describe_value
from course_utils.foundation.seeding import isolated_randomness


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[nn.Module]:
    """Put a model into evaluation mode for a `with` block, then give every submodule its own mode back.

    `model.train()` afterwards would not do: it also wakes layers that were frozen in eval mode on purpose, such as
    the BatchNorm layers of a fine-tuned backbone. The modes come back after an exception too.

    >>> model = nn.Sequential(nn.Linear(2, 2), nn.Dropout())
    >>> with evaluation_mode(model):
    ...     model.training, model[1].training
    (False, False)
    >>> model.training, model[1].training
    (True, True)
    """
    check_model(model)
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        yield model
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def training_mode(model: nn.Module) -> Iterator[None]:
    """Train mode for a `with` block; every submodule's mode and every parameter's `.grad` come back as they were.

    A model in train mode is left alone, so that submodules which were put into eval mode on purpose stay in it.
    """
    modes = [(module, module.training) for module in model.modules()]
    gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
    try:
        if not model.training:
            model.train()
        yield
    finally:
        for module, training in modes:
            module.training = training
        for parameter, gradient in gradients:
            parameter.grad = gradient


def check_model(model: Any, name: str = "model") -> nn.Module:
    """Return `model` if it is an `nn.Module`; raise a TypeError if not."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"{name} must be a torch.nn.Module, but is {describe_value(model)}")
    return model


def classifier_logits(model: nn.Module, x: Tensor) -> Tensor:
    """A classifier's finite logits (N, C), C ≥ 2: in evaluation mode, without a graph or any trace.

    In-place layers get a copy of the inputs, and what the forward pass draws leaves the global random state alone.
    """
    with evaluation_mode(model), torch.no_grad(), isolated_randomness(0):
        logits = output_tensor(model(x.detach().clone()))
    if logits.ndim != 2 or len(logits) != len(x) or logits.shape[1] < 2:
        raise ValueError(
            f"the model must return logits (N, C) with N = {len(x)} and C ≥ 2, but returned {describe_value(logits)}"
        )
    return check_tensor(logits, "the model's logits")


def output_tensor(output: Any) -> Tensor:
    """The tensor in a model's output: the output itself, or its `.logits` (the convention of transformers).

    Raises:
        TypeError: any other tuple, dict or object; the message names what came.
    """
    if isinstance(output, Tensor):
        return output
    logits = getattr(output, "logits", None)
    if isinstance(logits, Tensor):
        return logits
    raise TypeError(
        f"the model must return a tensor or an object with a tensor .logits, but returned {describe_value(output)}; "
        "wrap it in a module that picks the tensor you mean"
    )
