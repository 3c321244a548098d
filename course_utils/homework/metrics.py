"""The three metrics of a comparison."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

METRICS = {"accuracy": "accuracy", "loss": "loss (nats per sample)", "f1_macro": "macro F1"}  # with axis labels


def higher_is_better(metric: str) -> bool:
    return metric != "loss"


def is_share(metric: str) -> bool:
    """Does it lie from 0 to 1, moved in steps by single answers? A loss is any number ≥ 0, or NaN if it diverged."""
    return metric != "loss"


def bounds(metric: str) -> tuple[float, float]:
    """The smallest and the largest value that the metric can have."""
    return (0.0, 1.0) if is_share(metric) else (0.0, math.inf)


def measure(metric: str, logits: Tensor, y: Tensor) -> float:
    """One metric of logits (N, C) for the labels y (N,).

    "accuracy": the share of right answers. "loss": the mean cross-entropy in nats per sample, NaN unless finite.
    "f1_macro": the mean over the classes of 2·TP / (samples of the class + answers of the class), 0 for a class with
    neither.

    >>> measure("accuracy", torch.eye(3), torch.tensor([0, 1, 0]))
    0.6666666666666666
    """
    if metric == "loss":
        loss = F.cross_entropy(logits, y).item()
        return loss if np.isfinite(loss) else float("nan")
    answers = logits.argmax(1)
    right = answers == y
    if metric == "accuracy":
        return int(right.sum()) / len(y)
    num_classes = logits.shape[1]
    hits, answered, true = (torch.bincount(labels, minlength=num_classes) for labels in (y[right], answers, y))
    return (2 * hits / (answered + true).clamp_min(1)).double().mean().item()


def one_sample(metric: str, y: Tensor) -> float:
    """The most by which the metric moves when one answer changes; 0 for the loss.

    For the macro F1 of C classes: the class that loses a right answer loses at most 2/T of its F1, the one that gets a
    wrong one at most 1/T, with T the samples of the smallest class; together 3 / (C·T).
    """
    if not is_share(metric):
        return 0.0
    if metric == "accuracy":
        return 1 / len(y)
    counts = torch.bincount(y)
    return 3 / (len(counts) * int(counts.min()))
