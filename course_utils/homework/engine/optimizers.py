"""The steps of torch.optim for many runs at once: one flat parameter buffer, each number with its run's own lr.

torch.optim itself has one lr for a group of tensors; here neighbours in one tensor have different ones.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from course_utils.homework.engine.base import MOMENTUM

BETA1, BETA2, EPS = 0.9, 0.999, 1e-8  # torch's defaults


class BatchedOptimizer:
    """SGD, with momentum and Nesterov's variant, Adam and AdamW.

    Args:
        name: as in a `Setting`.
        parameters, gradients: flat buffers; `step` writes to both.
        lr: float64, of the same length.
        weight_decay: the same; None: of no run.
    """

    def __init__(
        self, name: str, parameters: Tensor, gradients: Tensor, lr: Tensor, weight_decay: Tensor | None
    ) -> None:
        self.name, self.parameters, self.gradients = name, parameters, gradients
        self.lr = lr.to(parameters.dtype)
        self.shrink = self.weight_decay = None
        if weight_decay is not None and name == "adamw":
            # In double precision, as torch does it: a rounded factor would act anew in each of thousands of steps.
            self.shrink = (1 - lr * weight_decay).to(parameters.dtype)
        elif weight_decay is not None:
            self.weight_decay = weight_decay.to(parameters.dtype)
        # The running mean of the gradients (momentum's velocity), and Adam's of their squares.
        self.mean = None if name == "sgd" else torch.zeros_like(parameters)
        self.is_adam = name in ("adam", "adamw")
        if self.is_adam:
            self.square, self.direction = torch.zeros_like(parameters), torch.empty_like(parameters)
        self.count = 0

    def step(self) -> None:
        if self.shrink is not None:
            self.parameters.mul_(self.shrink)
        if self.weight_decay is not None:
            self.gradients.addcmul_(self.parameters, self.weight_decay)
        self.count += 1
        if self.is_adam:
            self._adam_step()
        else:
            self._sgd_step()

    def _sgd_step(self) -> None:
        direction = self.gradients
        if self.mean is not None:
            self.mean.mul_(MOMENTUM).add_(direction)
            direction = direction.add_(self.mean, alpha=MOMENTUM) if self.name == "nesterov" else self.mean
        self.parameters.addcmul_(direction, self.lr, value=-1)

    def _adam_step(self) -> None:
        self.mean.lerp_(self.gradients, 1 - BETA1)
        self.square.mul_(BETA2).addcmul_(self.gradients, self.gradients, value=1 - BETA2)
        torch.sqrt(self.square, out=self.direction)
        self.direction.div_(math.sqrt(1 - BETA2**self.count)).add_(EPS)
        torch.div(self.mean, self.direction, out=self.direction)
        self.parameters.addcmul_(self.direction, self.lr, value=-1 / (1 - BETA1**self.count))
