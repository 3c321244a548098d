"""Models that several test files share."""

import torch
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


class Stateful(nn.Module):
    """A classifier of 3 × 8 × 8 pictures with everything that a careless function can disturb."""

    def __init__(self, multitask: bool = False) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.relu, self.dropout = nn.ReLU(inplace=True), nn.Dropout(0.5)
        self.fc = nn.Linear(256, 3)
        self.value = nn.Linear(256, 1)
        self.multitask = multitask
        self.calls, self.fail_at, self.fail_backward, self.error = 0, None, False, PurposeError

    def forward(self, x):
        hidden = self.dropout(self.relu(self.norm(self.conv(x))))
        self.calls += 1
        if self.fail_at is not None and self.calls >= self.fail_at:
            raise self.error("failed on purpose, half way")
        if self.fail_backward and hidden.requires_grad:
            hidden.register_hook(self.refuse)
        hidden = hidden.flatten(1)
        if self.multitask:
            return {"classification": self.fc(hidden), "regression": self.value(hidden)}
        return self.fc(hidden)

    def refuse(self, gradient):
        raise self.error("failed on purpose, on the way back")


def stateful(*, multitask: bool = False, training: bool = True) -> Stateful:
    torch.manual_seed(0)
    model = Stateful(multitask)
    output = model(torch.rand(6, 3, 8, 8))
    (sum(part.sum() for part in output.values()) if multitask else output.sum()).backward()
    model.train(training)
    model.norm.train(not training)  # mixed modes on purpose
    model.conv.weight.requires_grad_(False)  # frozen, with a gradient from before
    model.calls = 0
    return model
