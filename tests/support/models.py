"""Models that several test files share."""

import torch
import torch.nn.functional as F
from torch import nn

from course_utils.iris import MLP
from tests.support.values import random_normal


class Returns(nn.Module):
    """A model that answers with what it was given."""

    def __init__(self, logits) -> None:
        super().__init__()
        self.register_buffer("logits", torch.as_tensor(logits))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.logits


def members_of(seed: int, m: int = 3, n: int = 5, c: int = 4) -> list[Returns]:
    return [Returns(logits) for logits in random_normal(m, n, c, seed=seed, scale=3.0)]


class Apply(nn.Module):
    """A function as a layer."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def mlp(*between: nn.Module, inputs: int = 64, hidden: int = 32, outputs: int = 10, seed: int = 0) -> nn.Sequential:
    """Linear, the layers in between (a ReLU if there are none), Linear."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(inputs, hidden), *(between or [nn.ReLU()]), nn.Linear(hidden, outputs))


def seeded_mlp(**options) -> MLP:
    """Chapter 7's network, always with the same weights."""
    torch.manual_seed(0)
    return MLP(**options)


class Function(Apply):
    """A function as a model with one parameter, as other libraries expect it."""

    def __init__(self, function) -> None:
        super().__init__(function)
        self.unused = nn.Parameter(torch.zeros(()))


class PurposeError(Exception):
    """Raised by a test's model, and by nothing else."""


class ModelWithState(nn.Module):
    """A classifier with everything that a careless function can disturb, of rows (N, 4) or images (N, 3, H, W).

    It has dropout, BatchNorm and an in-place layer; it fails half way in its `fail_at`-th call, or on the way back.
    """

    def __init__(self, *, images: bool = False) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1) if images else nn.Linear(4, 8)
        self.norm = nn.BatchNorm2d(8) if images else nn.BatchNorm1d(8)
        self.relu, self.dropout = nn.ReLU(inplace=True), nn.Dropout(0.5)
        self.last = nn.Linear(8, 3)
        self.calls, self.fail_at, self.fail_backward, self.error = 0, None, False, RuntimeError

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.dropout(self.relu(self.norm(self.first(x))))
        self.calls += 1
        if self.fail_at is not None and self.calls >= self.fail_at:
            raise self.error("failed on purpose, half way")
        if self.fail_backward and hidden.requires_grad:
            hidden.register_hook(self.refuse)
        return self.last(hidden.mean((2, 3)) if hidden.ndim == 4 else hidden)

    def refuse(self, gradient: torch.Tensor) -> None:
        raise self.error("failed on purpose, on the way back")


def model_with_state(*, images: bool = False, training: bool = True) -> ModelWithState:
    """The same weights every time, gradients from before, mixed modes, and a frozen parameter."""
    torch.manual_seed(0)
    model = ModelWithState(images=images)
    model(torch.rand((6, 3, 8, 8) if images else (6, 4))).sum().backward()
    model.train(training)
    model.norm.train(not training)
    model.first.weight.requires_grad_(False)
    model.calls = 0
    return model


class Careless(nn.Module):
    """The first layer writes to its input, and a function drops out in every mode."""

    def __init__(self, *, images: bool = False) -> None:
        super().__init__()
        self.relu, self.dropout = nn.ReLU(inplace=True), nn.Dropout(0.5, inplace=True)
        self.first = nn.Conv2d(3, 3, 3) if images else nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = self.first(self.dropout(self.relu(x)))
        return F.dropout(logits.mean((2, 3)) if logits.ndim == 4 else logits, 0.5)


class TwoHeads(nn.Module):
    """A classifier's logits as both tasks of a multi-task model."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.training = model.training

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = self.model(x)
        return {"classification": logits, "regression": logits[:, :1]}


class OneTokenModel(nn.Module):
    """Makes a classifier of 4 numbers a language model of 3 tokens, to be read by a beam search."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, token_ids: torch.Tensor) -> torch.Tensor:  # (N, T) → (N, T, 3)
        last = self.model(token_ids[:, -4:].float())
        return last[:, None].expand(-1, token_ids.shape[1], -1)
