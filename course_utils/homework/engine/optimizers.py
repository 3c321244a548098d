"""The steps of torch.optim for many runs at once: one flat parameter buffer, each number with its run's own lr.

torch.optim itself has one lr for a group of tensors; here neighbours in one tensor have different ones.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from course_utils.homework.engine.base import MOMENTUM

BETA1, BETA2, EPS = 0.9, 0.999, 1e-8  # torch's defaults


class SGD:
    """torch.optim.SGD, with momentum and Nesterov's variant.

    Args:
        parameters, gradients: flat buffers; `step` writes to both.
        lr: float64, of the same length.
        weight_decay: the same; None: of no run.
        optimizer: "sgd", "momentum" or "nesterov".
    """

    def __init__(
        self, parameters: Tensor, gradients: Tensor, lr: Tensor, weight_decay: Tensor | None, optimizer: str
    ) -> None:
        self.parameters, self.gradients, self.lr = parameters, gradients, lr.to(parameters.dtype)
        self.weight_decay = None if weight_decay is None else weight_decay.to(parameters.dtype)
        self.velocity = None if optimizer == "sgd" else torch.zeros_like(parameters)
        self.nesterov = optimizer == "nesterov"

    def step(self) -> None:
        direction = self.gradients
        if self.weight_decay is not None:
            direction.addcmul_(self.parameters, self.weight_decay)
        if self.velocity is not None:
            self.velocity.mul_(MOMENTUM).add_(direction)
            direction = direction.add_(self.velocity, alpha=MOMENTUM) if self.nesterov else self.velocity
        self.parameters.addcmul_(direction, self.lr, value=-1)


class Adam:
    """torch.optim.Adam and AdamW; the arguments are those of `SGD`, with "adam" or "adamw"."""

    def __init__(
        self, parameters: Tensor, gradients: Tensor, lr: Tensor, weight_decay: Tensor | None, optimizer: str
    ) -> None:
        self.parameters, self.gradients, self.lr = parameters, gradients, lr.to(parameters.dtype)
        self.weight_decay = self.shrink = None
        if weight_decay is not None and optimizer == "adamw":
            # In double precision, as torch does it: a rounded factor would act anew in each of thousands of steps.
            self.shrink = (1 - lr * weight_decay).to(parameters.dtype)
        elif weight_decay is not None:
            self.weight_decay = weight_decay.to(parameters.dtype)
        self.mean, self.square, self.direction = (torch.zeros_like(parameters) for _ in range(3))
        self.count = 0

    def step(self) -> None:
        if self.shrink is not None:
            self.parameters.mul_(self.shrink)
        if self.weight_decay is not None:
            self.gradients.addcmul_(self.parameters, self.weight_decay)
        self.count += 1
        self.mean.lerp_(self.gradients, 1 - BETA1)
        self.square.mul_(BETA2).addcmul_(self.gradients, self.gradients, value=1 - BETA2)
        torch.sqrt(self.square, out=self.direction)
        self.direction.div_(math.sqrt(1 - BETA2**self.count)).add_(EPS)
        torch.div(self.mean, self.direction, out=self.direction)
        self.parameters.addcmul_(self.direction, self.lr, value=-1 / (1 - BETA1**self.count))


BATCHED_OPTIMIZERS = {"sgd": SGD, "momentum": SGD, "nesterov": SGD, "adam": Adam, "adamw": Adam}
