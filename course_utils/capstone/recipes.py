"""The settings with which a network is trained, and the learning rate from step to step."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from course_utils.foundation.arguments import check_choice, check_count, check_number
from course_utils.foundation.training import OPTIMIZERS

SCHEDULES = ("one-cycle", "constant")


@dataclass(frozen=True)
class Recipe:
    """Hyperparameters of `train_model`.

    Attributes:
        optimizer: "sgd" (with Nesterov momentum), "adam" or "adamw".
        lr: the largest learning rate.
        batch_size: images in a step.
        weight_decay: of every parameter.
        momentum: of SGD.
        bias_lr_factor: learning rate of biases and shifts as a multiple of `lr`; their weight decay is divided by it.
        label_smoothing: share of the target probability that is spread over all classes.
        schedule: "one-cycle", a short rise and a long fall (see `one_cycle`), or "constant".
        early_size: height and width to which images are shrunk in the first half of the training; None for never.
    """

    optimizer: str = "adamw"
    lr: float = 3e-3
    batch_size: int = 512
    weight_decay: float = 0.01
    momentum: float = 0.9
    bias_lr_factor: float = 1.0
    label_smoothing: float = 0.0
    schedule: str = "one-cycle"
    early_size: int | None = None

    def __post_init__(self) -> None:
        check_choice(self.optimizer, "optimizer", tuple(OPTIMIZERS))
        check_choice(self.schedule, "schedule", SCHEDULES)
        check_number(self.lr, "lr", above=0, below=1e30)
        check_number(self.bias_lr_factor, "bias_lr_factor", above=0)
        check_count(self.batch_size, "batch_size")
        for name, below in {"weight_decay": math.inf, "momentum": 1, "label_smoothing": 1}.items():
            if check_number(getattr(self, name), name, below=below) < 0:
                raise ValueError(f"{name} must not be negative, but is {getattr(self, name)}")
        if self.early_size is not None:
            check_count(self.early_size, "early_size", minimum=16)

    def size(self, progress: float) -> int | None:
        """Height and width of the images, `progress` in [0, 1) through the training; None for their own."""
        return self.early_size if progress < 0.5 else None

    def make_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """The optimizer of what is trainable in `model`; each parameter group knows its `lr_factor`."""
        trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
        weights, biases = [p for p in trainable if p.ndim > 1], [p for p in trainable if p.ndim <= 1]
        factor, decay = self.bias_lr_factor, self.weight_decay
        groups = [
            {"params": weights, "lr_factor": 1.0, "weight_decay": decay},
            {"params": biases, "lr_factor": factor, "weight_decay": decay / factor},
        ]
        groups = [group for group in groups if group["params"]]
        if not groups:
            raise ValueError("the model has no trainable parameter; set requires_grad_(True) on what should learn")
        if self.optimizer == "sgd":
            return torch.optim.SGD(groups, lr=self.lr, momentum=self.momentum, nesterov=self.momentum > 0)
        return OPTIMIZERS[self.optimizer](groups, lr=self.lr)

    def set_lr(self, groups: Iterable[dict], progress: float) -> float:
        """Give each parameter group its learning rate, `progress` in [0, 1) through the training; return the base."""
        lr = self.lr * (one_cycle(progress) if self.schedule == "one-cycle" else 1.0)
        for group in groups:
            group["lr"] = lr * group["lr_factor"]
        return lr


def one_cycle(progress: float) -> float:
    """One cycle: from 0.2 up to 1 in the first quarter, then down to 0.02, in straight lines.

    Large steps explore while there is time, small ones settle at the end. Source: Smith & Topin (2018),
    "Super-convergence".

    >>> [round(one_cycle(progress), 3) for progress in (0, 0.25, 1)]
    [0.2, 1.0, 0.02]
    """
    rise = 0.25
    if progress < rise:
        return 0.2 + 0.8 * progress / rise
    return 1 - 0.98 * (progress - rise) / (1 - rise)
