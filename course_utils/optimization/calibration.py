"""Is a confidence honest? Reliability diagram, calibration error, and what honest predictions would show."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from course_utils.foundation.arguments import check_choice, check_count, check_labels, check_number, check_tensor
from course_utils.foundation.probabilities import check_probabilities
from course_utils.foundation.results import Result
from course_utils.foundation.seeding import make_generator

NORMS = ("l1", "l2", "max")


@dataclass(frozen=True)
class HonestError:
    """The calibration errors of perfectly calibrated predictions: their mean, and the ends of an interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, eq=False, repr=False)
class ReliabilityDiagram(Result):
    """Confidence against accuracy, bin by bin.

    Attributes:
        bin_edges: (n_bins + 1,), from 0 to 1. Bins are (a, b], the first one [0, b].
        counts: int64 (n_bins,), samples in each bin.
        confidence: float64 (n_bins,), mean confidence; NaN in an empty bin.
        accuracy: float64 (n_bins,), share of right ones; NaN in an empty bin.
    """

    bin_edges: Tensor
    counts: Tensor
    confidence: Tensor
    accuracy: Tensor

    per_sample: ClassVar = ("counts", "confidence", "accuracy")


def reliability_diagram(
    probabilities: Tensor, target: Tensor, *, n_bins: int = 15, task: str | None = None
) -> ReliabilityDiagram:
    """Sort predictions by confidence into bins of equal width, and compare confidence and accuracy in each.

    Multiclass: the confidence is the largest probability, "accuracy" whether its class is right. Binary: the confidence
    is the probability of class 1, "accuracy" the observed share of class 1. Sums are taken in float64; a probability
    of exactly k/n_bins in its own dtype belongs to the lower of the two bins it borders.

    Args:
        probabilities: (N, C) with rows that sum to 1, or (N,) = P(class 1); in [0, 1].
        target: (N,) class indices, or 0 and 1.
        n_bins: at least 1.
        task: "multiclass" or "binary"; None takes it from the shape. With "binary", (N, 1) is P(class 1) too.

    Raises:
        TypeError, ValueError: logits, NaN, labels out of range (for example −1 and 1), different lengths.

    >>> diagram = reliability_diagram(torch.tensor([0.1, 0.2, 0.9, 0.8]), torch.tensor([0, 0, 1, 1]), n_bins=2)
    >>> diagram.counts.tolist(), diagram.accuracy.tolist()
    ([2, 2], [0.0, 1.0])
    """
    confidence, correct = _confidence_and_hits(probabilities, target, task)
    check_count(n_bins, "n_bins")
    edges = _bin_edges(n_bins, confidence)
    index = torch.bucketize(confidence, edges[1:-1], out_int32=True)  # counts the inner edges below: (a, b]
    counts = torch.bincount(index, minlength=n_bins)
    sums = torch.bincount(index, weights=confidence.double(), minlength=n_bins)
    hits = torch.bincount(index, weights=correct.double(), minlength=n_bins)
    return ReliabilityDiagram(edges, counts, sums / counts, hits / counts)


def _bin_edges(n_bins: int, like: Tensor) -> Tensor:
    """k/n for k = 0 … n, rounded to the probabilities' dtype: there, 0.3 equals the edge 3/10."""
    return (torch.arange(n_bins + 1, dtype=torch.float64, device=like.device) / n_bins).to(like.dtype)


def expected_calibration_error(
    probabilities: Tensor,
    target: Tensor,
    *,
    n_bins: int = 15,
    norm: str = "l1",
    debias: bool = False,
    task: str | None = None,
) -> float:
    """The gap between confidence and accuracy, over the bins of `reliability_diagram`.

    l1: Σ_b (n_b/N)·|acc_b − conf_b|. l2: the root of Σ_b (n_b/N)·(acc_b − conf_b)². max: the largest gap. The estimate
    is biased upward: even perfectly calibrated predictions have a gap in a bin of finite size. With `debias`, l2
    subtracts acc_b·(1 − acc_b)/(n_b − 1) in each bin, skips bins of one sample, and is at least 0 (Kumar et al. 2019,
    "Verified uncertainty calibration"). Source of l1: Naeini et al. (2015).

    Args:
        probabilities, target, n_bins, task: as in `reliability_diagram`.
        norm: "l1", "l2" or "max".
        debias: only with norm="l2".

    >>> expected_calibration_error(torch.tensor([[0.75, 0.25]] * 4), torch.tensor([0, 0, 0, 1]))
    0.0
    """
    check_choice(norm, "norm", NORMS)
    if debias and norm != "l2":
        raise ValueError(f"debias is defined for norm='l2' only, but norm is {norm!r}")
    diagram = reliability_diagram(probabilities, target, n_bins=n_bins, task=task)
    filled = diagram.counts > 0
    counts, accuracy = diagram.counts[filled].double(), diagram.accuracy[filled]
    gap = (accuracy - diagram.confidence[filled]).abs()
    weight = counts / counts.sum()
    if norm == "max":
        return float(gap.max())
    if norm == "l1":
        return float((weight * gap).sum())
    squared = gap.square()
    if debias:
        variance = accuracy * (1 - accuracy) / (counts - 1)
        squared = torch.where(counts > 1, squared - variance, 0.0)
    return math.sqrt(max(0.0, float((weight * squared).sum())))


def honest_calibration_error(
    probabilities: Tensor,
    *,
    n_bins: int = 15,
    n_resamples: int = 1000,
    seed: int | None = 0,
    confidence: float = 0.95,
    task: str | None = None,
) -> HonestError:
    """The calibration errors (l1) that perfectly calibrated predictions would show on as many samples.

    A measured ECE is above 0 for honest predictions too. So compare it with what honesty looks like: draw the labels
    from the probabilities themselves, measure, and repeat. Source: Bröcker & Smith (2007), "Increasing the reliability
    of reliability diagrams" (consistency resampling).

    Args:
        probabilities, n_bins, task: as in `reliability_diagram`.
        n_resamples: how often labels are drawn.
        seed: of the draws; None draws fresh ones.
        confidence: the share of the errors that the interval holds, strictly between 0 and 1.

    >>> honest_calibration_error(torch.full((100,), 0.5), n_resamples=200).mean < 0.1
    True
    """
    check_count(n_bins, "n_bins")
    check_count(n_resamples, "n_resamples")
    check_number(confidence, "confidence", above=0, below=1)
    p, _ = _confidence_and_hits(probabilities, 0, task)  # any labels do: of each sample only p matters
    generator = make_generator(seed)
    index = torch.bucketize(p, _bin_edges(n_bins, p)[1:-1]).cpu()  # in its own dtype, as in `reliability_diagram`
    p = p.double().cpu()
    sums = torch.bincount(index, weights=p, minlength=n_bins)
    errors = []
    for count in torch.ones(n_resamples).split(max(1, 10_000_000 // len(p))):
        hits = torch.rand(len(count), len(p), generator=generator, dtype=torch.float64) < p  # (R, N)
        by_bin = torch.zeros(len(count), n_bins, dtype=torch.float64).index_add_(1, index, hits.double())
        errors.append((by_bin - sums).abs().sum(1) / len(p))
    errors = torch.cat(errors)
    low, high = errors.quantile(torch.tensor([(1 - confidence) / 2, (1 + confidence) / 2], dtype=torch.float64))
    return HonestError(float(errors.mean()), float(low), float(high))


def _confidence_and_hits(probabilities: Tensor, target: Tensor, task: str | None) -> tuple[Tensor, Tensor]:
    """Confidence (N,) and whether the event happened, bool (N,), after checking that these are probabilities."""
    check_tensor(probabilities, "probabilities", ndim=(1, 2), finite=False)  # check_probabilities refuses NaN below
    if task is not None:
        check_choice(task, "task", ("multiclass", "binary"))
    if task == "binary" and probabilities.shape[1:] == (1,):
        probabilities = probabilities[:, 0]
    if (task or "binary") == "binary" and probabilities.ndim == 1:
        probabilities = check_probabilities(probabilities).detach()
        target = check_labels(target, "target", num_samples=len(probabilities), num_classes=2)
        return probabilities.clamp(max=1), target.to(probabilities.device) == 1
    if task == "binary" or probabilities.ndim == 1:
        wanted = "(N,) or (N, 1) = P(class 1)" if task == "binary" else "(N, C)"
        raise ValueError(
            f"probabilities of a {task} task must be {wanted}, but have the shape {tuple(probabilities.shape)}"
        )
    num_classes = probabilities.shape[1]
    if num_classes < 2:
        raise ValueError(
            "probabilities (N, 1) say nothing about other classes; if they are P(class 1), pass task='binary'"
        )
    probabilities = check_probabilities(probabilities, class_dim=1).detach()
    target = check_labels(target, "target", num_samples=len(probabilities), num_classes=num_classes)
    confidence, labels = probabilities.max(1)
    return confidence.clamp(max=1), labels == target.to(labels.device)
