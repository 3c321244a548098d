"""Scores that honest probabilities cannot lose: the Brier score and its parts."""

from dataclasses import dataclass

import torch
from torch import Tensor

from course_utils.foundation.arguments import check_count, check_labels, check_tensor
from course_utils.foundation.devices import in_double
from course_utils.foundation.probabilities import check_probabilities


@dataclass(frozen=True)
class BrierScore:
    """A Brier score and what it consists of: score = reliability − resolution + uncertainty + within_bins.

    Attributes:
        score: the mean squared difference between probabilities and what happened; 0 is perfect.
        reliability: how far the probabilities are from the frequencies they announce; 0 is perfectly calibrated.
        resolution: how far the frequencies in the bins lie from the base rate; more is better.
        uncertainty: the score of always announcing the base rate.
        within_bins: what the binning hides; 0 where all probabilities of a bin are equal.
    """

    score: float
    reliability: float
    resolution: float
    uncertainty: float
    within_bins: float


def brier_score(probabilities: Tensor, target: Tensor, *, n_bins: int = 15) -> BrierScore:
    """The Brier score with Murphy's decomposition, over bins of equal width.

    Binary: mean of (p − y)². Multiclass: mean of Σ_c (p_c − y_c)², the sum of the binary scores of all classes, from 0
    to 2 (Brier 1950). With b the bins, p̄_b and ȳ_b their means: reliability Σ (n_b/N)(p̄_b − ȳ_b)², resolution
    Σ (n_b/N)(ȳ_b − ȳ)², uncertainty ȳ(1 − ȳ), summed over the classes. Sources: Murphy (1973), "A new vector partition
    of the probability score"; Stephenson et al. (2008) for the rest within the bins.

    Args:
        probabilities, target: as in `reliability_diagram`.
        n_bins: of the decomposition; the score itself does not depend on it.

    >>> brier_score(torch.tensor([0.5, 0.5]), torch.tensor([0, 1])).score
    0.25
    """
    check_tensor(probabilities, "probabilities", ndim=(1, 2))
    check_count(n_bins, "n_bins")
    is_binary = probabilities.ndim == 1
    check_probabilities(probabilities, class_dim=None if is_binary else 1)
    num_classes = 2 if is_binary else probabilities.shape[1]
    target = check_labels(target, "target", num_samples=len(probabilities), num_classes=num_classes)
    p = in_double(probabilities.detach())
    p = p[:, None] if is_binary else p  # (N, C), or (N, 1)
    classes = torch.tensor([1], device=p.device) if is_binary else torch.arange(num_classes, device=p.device)
    y = (target.to(p.device)[:, None] == classes).double()
    parts = torch.tensor([_parts(*column, n_bins) for column in zip(p.T, y.T, strict=True)], dtype=torch.float64)
    return BrierScore(*parts.sum(0).tolist())


def _parts(p: Tensor, y: Tensor, n_bins: int) -> tuple[float, ...]:
    """The five figures of one class; p and y are (N,)."""
    bins = (p * n_bins).ceil().long().clamp(1, n_bins) - 1  # (a, b], the first one closed
    counts = torch.bincount(bins, minlength=n_bins).double()
    filled = counts > 0
    share = counts[filled] / len(p)
    mean_p, mean_y = (torch.bincount(bins, weights=v, minlength=n_bins)[filled] / counts[filled] for v in (p, y))
    base = y.mean()
    score = (p - y).square().mean()
    reliability = (share * (mean_p - mean_y).square()).sum()
    resolution = (share * (mean_y - base).square()).sum()
    uncertainty = base * (1 - base)
    within_bins = score - (reliability - resolution + uncertainty)
    return tuple(map(float, (score, reliability, resolution, uncertainty, within_bins)))
