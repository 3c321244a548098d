"""The best decision threshold, exactly: every distinct score is tried, in one sort."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from course_utils.foundation.arguments import (
    check_choice,
    check_labels,
    check_number,
    check_pair,
    check_share,
    check_tensor,
    describe_value,
)
from course_utils.foundation.devices import in_double
from course_utils.foundation.probabilities import check_probabilities
from course_utils.foundation.results import Result

METRICS = ("f1", "f_beta", "accuracy", "balanced_accuracy", "mcc", "cost", "precision", "recall")
Metric = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]  # TP, FP, FN, TN, (K,) each → scores (K,)


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
    metric: str | Metric = "f1",
    beta: float = 1.0,
    costs: tuple[float, float] | None = None,
    min_precision: float | None = None,
    min_recall: float | None = None,
    sample_weight: Tensor | None = None,
) -> ThresholdResult | list[ThresholdResult]:
    """Find the threshold that maximises a metric; among equals the highest one.

    Tune it on validation data and report it on test data: the score at its own optimum flatters.

    Args:
        probabilities: (N,) or (N, 1) of class 1, in [0, 1]; or (N, C) of C independent labels, each of which gets a
            threshold of its own: then the result is a list of C.
        target: 0 and 1 in the same shape, with at least one 1 for each label.
        metric: "f1" = 2·TP / (2·TP + FP + FN); "f_beta" = (1 + β²)·TP / ((1 + β²)·TP + β²·FN + FP); "accuracy";
            "balanced_accuracy" (mean of both classes' recalls); "mcc", Matthews' correlation; "cost", minus the mean
            cost of a sample; "precision" (needs min_recall) or "recall" (needs min_precision): alone, each of the last
            two has a useless optimum, one sure hit or everything positive. Or a function of four tensors (K,), the
            numbers (weights) of true positives, false positives, false negatives and true negatives at each candidate,
            that returns a score (K,) for each.
        beta: of "f_beta": how many times as much recall counts as precision, > 0.
        costs: of "cost": (of a false positive, of a false negative), ≥ 0 and not both 0. For calibrated probabilities
            the best threshold is known without a search: `bayes_threshold`.
        min_precision, min_recall: only thresholds that reach these are considered.
        sample_weight: (N,) ≥ 0, how much each sample counts; None counts all alike.

    Raises:
        TypeError, ValueError: values that are no probabilities or labels, different lengths, no positives, a missing
            constraint, or one that no threshold meets.

    >>> found = adjust_threshold(torch.tensor([0.1, 0.4, 0.35, 0.8]), torch.tensor([0, 0, 1, 1]))
    >>> round(found.threshold, 2), round(found.score, 2)
    (0.35, 0.8)
    """
    check_tensor(probabilities, "probabilities", ndim=(1, 2), finite=False)  # check_probabilities refuses NaN below
    options = {"metric": metric, "beta": beta, "costs": costs, "min_precision": min_precision, "min_recall": min_recall}
    if probabilities.ndim == 2 and probabilities.shape[1] > 1:
        if not isinstance(target, Tensor) or target.shape != probabilities.shape:
            wanted = f"the probabilities' shape {tuple(probabilities.shape)}"
            raise ValueError(f"target must have {wanted}, one label for each, but is {describe_value(target)}")
        columns = zip(probabilities.T, target.T, strict=True)
        return [adjust_threshold(*column, **options, sample_weight=sample_weight) for column in columns]
    probabilities = check_probabilities(probabilities.reshape(len(probabilities))).detach()
    # Adding 0.0 makes −0.0 the same number as 0.0 in its bits too; one rounding above 1 is 1.
    probabilities = (probabilities + 0.0).clamp_(max=1)
    if isinstance(target, Tensor) and target.shape == (len(probabilities), 1):
        target = target[:, 0]
    target = check_labels(target, "target", num_samples=len(probabilities), num_classes=2).to(probabilities.device)
    _check_options(**options)
    if sample_weight is None:
        scores, true_positives, predicted = _counts(probabilities, target)
    else:
        scores, true_positives, predicted = _weighted_counts(probabilities, target, sample_weight)
    positives, total = true_positives[0], predicted[0]  # at the lowest score all are predicted positive
    if positives == 0:
        raise ValueError("target has no positives, so no threshold can find any")
    if callable(metric) or metric in ("accuracy", "balanced_accuracy", "mcc", "cost"):
        scores = torch.cat([scores, scores.new_tensor([math.inf])])  # "predict none"
        true_positives, predicted = (F.pad(counts, (0, 1)) for counts in (true_positives, predicted))
    values = _metric(metric, _Table(true_positives, predicted, positives, total), beta, costs)
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


def _check_options(
    metric: str | Metric,
    beta: float,
    costs: tuple[float, float] | None,
    min_precision: float | None,
    min_recall: float | None,
) -> None:
    if not callable(metric):
        check_choice(metric, "metric", METRICS)
    check_number(beta, "beta", above=0)
    if (metric == "cost") != (costs is not None):
        raise ValueError("metric='cost' and costs=(of a false positive, of a false negative) belong together")
    if costs is not None:
        numbers = [check_number(cost, "costs") for cost in check_pair(costs, "costs", "of numbers")]
        if min(numbers) < 0 or not any(numbers):
            raise ValueError(f"costs must be at least 0 and not both 0, but are {costs}")
    for needed, given, name in (("precision", min_recall, "min_recall"), ("recall", min_precision, "min_precision")):
        if metric == needed and given is None:
            raise ValueError(f"metric={needed!r} alone has a useless optimum; give {name}")
        if given is not None:
            check_share(given, name)


def _counts(probabilities: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Distinct scores, ascending, with the true positives and predicted positives at each as threshold: (K,) each."""
    # The bits of a non-negative float, read as an integer, are in the float's order. With the label as one more bit,
    # a single sort of integers sorts both together.
    wide = probabilities if probabilities.dtype == torch.float64 else probabilities.float()
    integer = torch.int64 if wide.dtype == torch.float64 else torch.int32
    packed = (wide.view(integer) << 1) | target.to(integer)
    # NumPy sorts several times as fast as torch, which keeps track of the places too.
    packed = torch.from_numpy(np.sort(packed.cpu().numpy())).to(packed.device)
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


def _weighted_counts(probabilities: Tensor, target: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """As `_counts`, with sums of weights instead of numbers of samples."""
    weight = in_double(check_tensor(weight, "sample_weight", ndim=1, floating=None)).to(probabilities.device)
    if len(weight) != len(probabilities) or (weight < 0).any() or weight.sum() == 0:
        raise ValueError(
            f"sample_weight must be {len(probabilities)} numbers, at least 0 and not all 0, but is "
            f"{describe_value(weight)} with a minimum of {float(weight.min()):g}"
        )
    scores, place = probabilities.unique(return_inverse=True)  # ascending
    by_score = torch.zeros(2, len(scores), dtype=weight.dtype, device=weight.device)  # weight of all, of the positives
    by_score.index_add_(1, place, torch.stack([weight, weight * target]))
    predicted, true_positives = by_score.flip(1).cumsum(1).flip(1)  # at least this score
    return scores, true_positives, predicted


@dataclass(frozen=True)
class _Table:
    """The confusion matrix at each of K candidates. Most metrics need two of its numbers: each is computed when asked.

    Attributes:
        tp: (K,), true positives.
        predicted: (K,), predicted positives, right or wrong.
        positives, total: of all samples, 0-d.
    """

    tp: Tensor
    predicted: Tensor
    positives: Tensor
    total: Tensor

    @property
    def fp(self) -> Tensor:
        return self.predicted - self.tp

    @property
    def fn(self) -> Tensor:
        return self.positives - self.tp

    @property
    def tn(self) -> Tensor:
        return self.total - self.positives - self.fp


def _metric(metric: str | Metric, table: _Table, beta: float, costs: tuple[float, float] | None) -> Tensor:
    tp, predicted, positives = table.tp, table.predicted, table.positives
    if callable(metric):
        return _own_metric(metric, table)
    if metric in ("f1", "f_beta"):
        square = 1.0 if metric == "f1" else beta**2
        return (1 + square) * tp / (predicted + square * positives)  # TP + FP = predicted, TP + FN = positives
    if metric == "precision":
        return tp / predicted
    if metric == "recall":
        return tp / positives
    if metric == "accuracy":
        return (tp + table.tn) / table.total
    if metric == "cost":
        return -(costs[0] * table.fp + costs[1] * table.fn) / table.total
    negatives = table.total - positives
    if negatives <= 0:
        raise ValueError(f"{metric} needs both classes, but target has no negatives")
    if metric == "mcc":
        root = (predicted * (table.total - predicted) * positives * negatives).sqrt()
        return torch.where(root > 0, (tp * table.tn - table.fp * table.fn) / root.clamp(min=1e-300), 0.0)
    # One division of whole numbers, so that equal values are equal to the last bit.
    return (tp * negatives + table.tn * positives) / (2 * positives * negatives)


def _own_metric(metric: Metric, table: _Table) -> Tensor:
    values, shape = metric(table.tp, table.fp, table.fn, table.tn), tuple(table.tp.shape)
    if not isinstance(values, Tensor) or values.shape != shape:
        raise ValueError(
            f"the metric must return a score for each of the {shape[0]} candidates, a tensor of the shape "
            f"{shape}, but returned {describe_value(values)}"
        )
    return values.double().nan_to_num(nan=-math.inf)
