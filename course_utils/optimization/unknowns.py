"""How well a score tells inputs that the network knows from inputs that it has never seen the like of."""

import math
from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor

from course_utils.foundation.arguments import check_number, check_tensor
from course_utils.foundation.devices import in_double


@dataclass(frozen=True)
class Separation:
    """How well a score separates known from unknown inputs.

    Attributes:
        auroc: the chance that an unknown input scores higher than a known one; 0.5 for a coin, 1 for a clean cut.
        low, high: ends of a confidence interval of the AUROC.
        fpr95: the share of unknown inputs that pass at a threshold which lets 95 % of the known ones pass; 0 is best.
    """

    auroc: float
    low: float
    high: float
    fpr95: float


def separation(known: Tensor, unknown: Tensor, *, confidence: float = 0.95) -> Separation:
    """AUROC and FPR95 of a score that should be high for unknown inputs, for example an entropy or a distance.

    With m known and n unknown scores, AUROC is the share of the m·n pairs in which the unknown one is higher, an equal
    pair counting half. Its variance is S₁/n + S₀/m, from the variances S of each sample's own share of won pairs
    (DeLong et al. 1988); the interval is taken on the scale of the log-odds, so that it stays within [0, 1]. For a
    clean cut it has no width: then only more samples tell more. "FPR95" is the name of Hendrycks & Gimpel (2017).

    Args:
        known: (M,) scores of inputs like those in training, M ≥ 2.
        unknown: (N,) scores of others, N ≥ 2.
        confidence: of the interval, strictly between 0 and 1.

    >>> found = separation(torch.tensor([0.1, 0.2, 0.3, 0.4]), torch.tensor([0.35, 0.8]))
    >>> found.auroc, found.fpr95
    (0.875, 0.5)
    """
    check_number(confidence, "confidence", above=0, below=1)
    for name, scores in (("known", known), ("unknown", unknown)):
        if len(check_tensor(scores, name, ndim=1)) < 2:
            raise ValueError(f"{name} must hold at least two scores, or their spread cannot be told, but holds 1")
    known, unknown = in_double(known.detach()).cpu(), in_double(unknown.detach()).cpu()
    won_by_unknown = _share_below(unknown, known)  # (N,)
    won_by_known = _share_below(known, unknown)  # (M,)
    auroc = float(won_by_unknown.mean())
    variance = float(won_by_unknown.var() / len(unknown) + won_by_known.var() / len(known))
    limit = known.sort().values[math.ceil(0.95 * len(known)) - 1]  # the smallest that lets 95 % of the known pass
    return Separation(auroc, *_interval(auroc, variance, confidence), float((unknown <= limit).double().mean()))


def _share_below(scores: Tensor, others: Tensor) -> Tensor:
    """For each score, the share of the others that are lower, equal ones counting half."""
    others = others.sort().values
    lower, up_to = (torch.searchsorted(others, scores, right=right) for right in (False, True))
    return (lower + up_to).double() / (2 * len(others))


def _interval(share: float, variance: float, confidence: float) -> tuple[float, float]:
    if variance == 0 or share in (0, 1):
        return share, share
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    log_odds, width = math.log(share / (1 - share)), z * math.sqrt(variance) / (share * (1 - share))
    low, high = (1 / (1 + math.exp(-end)) for end in (log_odds - width, log_odds + width))
    return low, high
