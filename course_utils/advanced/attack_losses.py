"""What an attack climbs: cross-entropy before its last logarithm, the margin, and the difference of logits ratio."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from course_utils.advanced.input_gradients import check_target


def attack_loss(logits: Tensor, target: Tensor) -> Tensor:
    """How much the other classes together beat the target: logsumexp of their logits minus the target's, (N,).

    Cross-entropy is log(1 + e^loss), so the gradients point the same way. But cross-entropy's shrinks to exactly 0 as
    the model becomes sure, and then the attack goes nowhere (error E54, chapter 4's index); this one never does.
    """
    others = _others(logits, target)
    return others.logsumexp(1) - _own(logits, target)


def margin_loss(logits: Tensor, target: Tensor, goal: Tensor | None = None) -> Tensor:
    """How much the best other class beats the target, max over j ≠ y of z_j − z_y, (N,): positive where the model errs.

    With a `goal` (N,) only that class counts: z_goal − z_y. Source: Carlini & Wagner (2017), "Towards evaluating the
    robustness of neural networks".

    >>> margin_loss(torch.tensor([[5.0, 3.0, 1.0]]), torch.tensor([0]))
    tensor([-2.])
    """
    best = _others(logits, target).amax(1) if goal is None else _own(logits, goal)
    return best - _own(logits, target)


def dlr_loss(logits: Tensor, target: Tensor, goal: Tensor | None = None) -> Tensor:
    """The difference of logits ratio: the margin, divided by how far the largest logits are apart, (N,).

    With the logits sorted, z_π1 ≥ z_π2 ≥ …, it is (max over j ≠ y of z_j − z_y) / (z_π1 − z_π3), and with a `goal`
    (z_goal − z_y) / (z_π1 − (z_π3 + z_π4) / 2). Neither a factor nor a constant on all logits changes it. Source: Croce
    & Hein (2020), "Reliable evaluation of adversarial robustness", the loss of AutoAttack.

    Raises:
        ValueError: fewer than three classes that are not masked out; with a goal, fewer than four.

    >>> dlr_loss(torch.tensor([[5.0, 3.0, 1.0]]), torch.tensor([0]))
    tensor([-0.5000])
    """
    needed = 3 if goal is None else 4
    top = logits.topk(min(needed, logits.shape[1]), dim=1).values  # (N, 3 or 4), descending
    if top.shape[1] < needed or (top == -torch.inf).any():
        aimed = "" if goal is None else " of a targeted attack"
        raise ValueError(f"the loss 'dlr'{aimed} needs at least {needed} classes with finite logits; use 'margin'")
    spread = top[:, 0] - top[:, 2:].mean(1)
    return margin_loss(logits, target, goal) / (spread + 1e-12)  # all logits equal: 0, and not 0 / 0


def _own(logits: Tensor, classes: Tensor) -> Tensor:
    return logits.gather(1, classes[:, None])[:, 0]


def _others(logits: Tensor, target: Tensor) -> Tensor:
    """The logits with −inf in the target's place, (N, C)."""
    others = logits.scatter(1, target[:, None], -torch.inf)
    if (others.amax(1) == -torch.inf).any():
        raise ValueError("the logits of all classes but the target are −inf, so no attack can change the answer")
    return others


LOSSES = ("cross-entropy", "margin", "dlr")


@dataclass(frozen=True, eq=False)
class Objective:
    """The loss that an attack climbs, for N samples.

    Attributes:
        loss: one of LOSSES.
        target: the true classes, int64 (N,).
        goal: the classes to be reached, int64 (N,); None for any but the true one.
    """

    loss: str
    target: Tensor
    goal: Tensor | None = None

    def __getitem__(self, rows: Tensor | slice) -> Objective:
        """The same for some of the samples."""
        return Objective(self.loss, self.target[rows], None if self.goal is None else self.goal[rows])

    def __call__(self, logits: Tensor) -> Tensor:
        """Logits (N, C) → (N,), larger where the attack has come farther."""
        target = check_target(self.target, logits)
        if self.loss == "margin":
            return margin_loss(logits, target, self.goal)
        if self.loss == "dlr":
            return dlr_loss(logits, target, self.goal)
        return attack_loss(logits, target) if self.goal is None else -attack_loss(logits, self.goal)


def likely_others(logits: Tensor, target: Tensor, rank: int) -> Tensor:
    """A wrong class for each sample, int64 (N,): the likeliest for rank 0, then the next, and round again."""
    others = _others(logits, check_target(target, logits))
    available = others.isfinite().sum(1)  # a class that is masked out cannot be reached
    order = others.argsort(dim=1, descending=True, stable=True)
    return order.gather(1, (rank % available)[:, None])[:, 0]
