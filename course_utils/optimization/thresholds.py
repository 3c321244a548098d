"""The best decision threshold, exactly: every distinct score is tried, in one sort."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from course_utils.foundation.arguments import check_choice, check_labels, check_share
from course_utils.foundation.probabilities import check_probabilities
from course_utils.foundation.results import Result

METRICS = ("f1", "accuracy", "balanced_accuracy", "precision", "recall")


@dataclass(frozen=True, eq=False, repr=False)
class ThresholdResult(Result):
    """The best threshold and the whole curve that it was chosen from.

    Attributes:
        threshold: positive means probability >= threshold; +inf means "predict none".
        score: the metric there.
        thresholds: (K,), ascending, all distinct probabilities (and +inf for the two accuracies).
        scores: (K,) float64, the metric at each of them.
    """

    threshold: float
    score: float
    thresholds: Tensor
    scores: Tensor

    per_sample: ClassVar = ("thresholds", "scores")


def adjust_threshold(
    probabilities: Tensor,
    target: Tensor,
    *,
    metric: str = "f1",
    min_precision: float | None = None,
    min_recall: float | None = None,
) -> ThresholdResult:
    """Find the threshold that maximises a metric; among equals the highest one.

    Tune it on validation data and report it on test data: the score at its own optimum flatters (E23).

    Args:
        probabilities: (N,) of class 1, in [0, 1].
        target: (N,) of 0 and 1, with at least one 1.
        metric: "f1" = 2·TP / (2·TP + FP + FN), "accuracy", "balanced_accuracy" (mean of both classes' recalls),
            "precision" (needs min_recall) or "recall" (needs min_precision): alone, each of the last two has a useless
            optimum, one sure hit or everything positive.
        min_precision, min_recall: only thresholds that reach these are considered.

    Raises:
        TypeError, ValueError: values that are no probabilities or labels, different lengths, no positives, a missing
            constraint, or one that no threshold meets.

    >>> found = adjust_threshold(torch.tensor([0.1, 0.4, 0.35, 0.8]), torch.tensor([0, 0, 1, 1]))
    >>> round(found.threshold, 2), round(found.score, 2)
    (0.35, 0.8)
    """
    probabilities = check_probabilities(probabilities, ndim=1).detach().clamp(max=1)
    check_labels(target, "target", num_samples=len(probabilities), num_classes=2)
    check_choice(metric, "metric", METRICS)
    for needed, given, name in (("precision", min_recall, "min_recall"), ("recall", min_precision, "min_precision")):
        if metric == needed and given is None:
            raise ValueError(f"metric={needed!r} alone has a useless optimum; give {name}")
        if given is not None:
            check_share(given, name)

    scores, true_positives, predicted = _counts(probabilities, target)
    positives = true_positives[0]
    if positives == 0:
        raise ValueError("target has no positives, so no threshold can find any")
    if metric in ("accuracy", "balanced_accuracy"):
        scores = torch.cat([scores, scores.new_tensor([math.inf])])
        true_positives, predicted = _with_zero(true_positives), _with_zero(predicted)
    values = _metric(metric, true_positives, predicted, positives, len(target))
    candidates = values
    if min_precision is not None:
        precise = (predicted == 0) | (true_positives / predicted >= min_precision)
        candidates = torch.where(precise, candidates, -math.inf)
    if min_recall is not None:
        candidates = torch.where(true_positives / positives >= min_recall, candidates, -math.inf)
    highest = candidates.max()
    if highest == -math.inf:
        raise ValueError(f"no threshold reaches min_precision={min_precision} and min_recall={min_recall}")
    best = int(torch.nonzero(candidates == highest)[-1])  # the last one: the highest threshold
    return ThresholdResult(float(scores[best]), float(values[best]), scores, values)


def _counts(probabilities: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Distinct scores, ascending, with the true positives and predicted positives at each as threshold: (K,) each."""
    # The bits of a non-negative float, read as an integer, are in the float's order. With the label as one more bit,
    # a single sort of integers sorts both together.
    wide = probabilities if probabilities.dtype == torch.float64 else probabilities.float()
    wide = wide + 0.0  # turns −0.0, whose sign bit would make it large, into 0.0
    integer = torch.int64 if wide.dtype == torch.float64 else torch.int32
    packed = (wide.view(integer) << 1) | target.to(integer)
    packed = packed.sort().values
    bits = packed >> 1
    is_first = torch.ones_like(bits, dtype=torch.bool)
    is_first[1:] = bits[1:] != bits[:-1]
    first = torch.nonzero(is_first)[:, 0]  # (K,) where each distinct score begins
    begins = packed.index_select(0, first)
    positives = torch.cumsum(packed & 1, 0, dtype=torch.int32)  # up to and with each score
    below = positives.index_select(0, first) - (begins & 1)
    return (
        (begins >> 1).view(wide.dtype).to(probabilities.dtype),
        (positives[-1] - below).double(),
        (len(packed) - first).double(),
    )


def _with_zero(counts: Tensor) -> Tensor:
    return torch.cat([counts, counts.new_zeros(1)])


def _metric(metric: str, tp: Tensor, predicted: Tensor, positives: Tensor, n: int) -> Tensor:
    if metric == "f1":
        return 2 * tp / (predicted + positives)
    if metric == "precision":
        return tp / predicted
    if metric == "recall":
        return tp / positives
    negatives = n - positives
    true_negatives = negatives - (predicted - tp)
    if metric == "accuracy":
        return (tp + true_negatives) / n
    if negatives == 0:
        raise ValueError("balanced_accuracy needs both classes, but target has no negatives")
    # One division of whole numbers, so that equal values are equal to the last bit.
    return (tp * negatives + true_negatives * positives) / (2 * positives * negatives)
