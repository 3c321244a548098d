"""Is a confidence honest, and how to make it so: reliability diagram, calibration error, temperature scaling."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from course_utils.foundation.arguments import check_choice, check_count, check_labels, check_tensor
from course_utils.foundation.devices import in_double
from course_utils.foundation.probabilities import check_probabilities
from course_utils.foundation.results import Result

NORMS = ("l1", "l2", "max")
_SMALLEST, _LARGEST = 1e-4, 1e4  # bounds of the temperature


class TemperatureScaler(nn.Module):
    """Divides logits by a fitted temperature. Made by `temperature_scaling`.

    Attributes:
        temperature: T, a float64 buffer: saved with the state dict, never trained.
        nll_before, nll_after: mean negative log-likelihood on the fitting data, in nats, at T = 1 and at T.
        converged: False if T stopped at a bound or the iterations ran out.
    """

    def __init__(self, temperature: float, nll_before: float, nll_after: float, converged: bool) -> None:
        super().__init__()
        self.register_buffer("temperature", torch.tensor(temperature, dtype=torch.float64))
        self.nll_before, self.nll_after, self.converged = nll_before, nll_after, converged

    def forward(self, logits: Tensor) -> Tensor:
        """Logits (N, C) → logits / T, in their dtype."""
        check_tensor(logits, "logits", ndim=2)
        return logits / self.temperature.to(logits.device, logits.dtype)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Logits (N, C) → calibrated probabilities (N, C)."""
        check_tensor(logits, "logits", ndim=2)
        scaled = in_double(logits) / self.temperature.to(in_double(logits).device)  # half precision would overflow
        return torch.softmax(scaled, dim=1).to(logits)

    def extra_repr(self) -> str:
        return f"temperature={float(self.temperature):.4g}, converged={self.converged}"


@torch.no_grad()
def temperature_scaling(logits: Tensor, target: Tensor, *, max_iter: int = 50) -> TemperatureScaler:
    """Fit the temperature T that minimises the mean negative log-likelihood of softmax(logits / T).

    With β = 1/T the loss is convex, with derivative E_p[z] − z_y and curvature Var_p[z] (means over the samples), so
    Newton's method on log β finds the optimum in a few steps; a bracket catches steps that go astray. Fit it on
    validation data.
    Source: Guo et al. (2017), "On calibration of modern neural networks".

    Args:
        logits: (N, C), finite, C ≥ 2. A graph behind them is ignored.
        target: (N,) class indices.
        max_iter: most Newton steps.

    Returns:
        TemperatureScaler. T lies in [1e-4, 1e4]; perfectly separated data have no optimum, and T at a bound comes with
        a warning and `converged=False`.

    >>> logits = torch.tensor([[4.0, 0.0], [4.0, 0.0], [4.0, 0.0], [4.0, 0.0]])
    >>> scaler = temperature_scaling(logits, torch.tensor([0, 0, 0, 1]))
    >>> round(float(scaler.probabilities(logits)[0, 0]), 4)
    0.75
    """
    check_tensor(logits, "logits", ndim=2)
    if logits.shape[1] < 2:
        raise ValueError(f"logits must have at least 2 classes, but have {logits.shape[1]}")
    check_labels(target, "target", num_samples=len(logits), num_classes=logits.shape[1])
    check_count(max_iter, "max_iter")
    z = in_double(logits.detach())
    target = target.to(z.device)
    z = z - z.amax(1, keepdim=True)  # softmax does not change, and exp(βz) cannot overflow
    own = z.gather(1, target.long()[:, None]).mean()

    beta, low, high = 1.0, 1 / _LARGEST, 1 / _SMALLEST
    converged, before, after = False, None, None
    for _ in range(max_iter):
        after, slope, curvature = _derivatives(z, own, beta)
        before = after if before is None else before
        low, high = (low, beta) if slope > 0 else (beta, high)
        bend = slope + beta * curvature  # times β: the second derivative with respect to log β
        step = -slope / bend if bend > 0 else math.inf  # of log β
        proposal = beta * math.exp(min(step, 100))
        if not low <= proposal <= high:
            proposal = math.sqrt(low * high)  # halve the bracket on the scale of log β
        change, beta = proposal - beta, proposal
        if abs(change) <= 1e-5 * beta:  # Newton's error is about squared in each step: now it is about 1e-10
            after += slope * change + curvature * change**2 / 2  # Taylor's next term is below rounding
            converged = 1.001 / _LARGEST < beta < 0.999 / _SMALLEST
            break
    if not converged:
        after = _derivatives(z, own, beta)[0]
        warnings.warn(
            f"temperature scaling did not converge: T = {1 / beta:.3g}; data that the logits separate perfectly, "
            "or not at all, have no best temperature",
            stacklevel=3,
        )
    if after >= before:  # stopped too early, or the logits say nothing
        beta, after = 1.0, before
    return TemperatureScaler(1 / beta, before, after, converged)


def _derivatives(z: Tensor, own: Tensor, beta: float) -> tuple[float, float, float]:
    """The mean negative log-likelihood, and its first and second derivative with respect to β."""
    weights = torch.mul(z, beta).exp_()  # (N, C)
    total = weights.sum(1)
    weighted = weights.mul_(z)
    mean = weighted.sum(1) / total
    second = weighted.mul_(z).sum(1) / total
    nll = total.log().mean() - beta * own
    return float(nll), float(mean.mean() - own), float((second - mean.square()).mean())


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


def reliability_diagram(probabilities: Tensor, target: Tensor, *, n_bins: int = 15) -> ReliabilityDiagram:
    """Sort predictions by confidence into bins of equal width, and compare confidence and accuracy in each.

    Multiclass: the confidence is the largest probability, "accuracy" whether its class is right. Binary: the confidence
    is the probability of class 1, "accuracy" the observed share of class 1. Sums are taken in float64; a probability
    of exactly k/n_bins in its own dtype belongs to the lower of the two bins it borders.

    Args:
        probabilities: (N, C) with rows that sum to 1, or (N,) = P(class 1); in [0, 1].
        target: (N,) class indices, or 0 and 1.
        n_bins: at least 1.

    Raises:
        TypeError, ValueError: logits, NaN, labels out of range (for example −1 and 1), different lengths.

    >>> diagram = reliability_diagram(torch.tensor([0.1, 0.2, 0.9, 0.8]), torch.tensor([0, 0, 1, 1]), n_bins=2)
    >>> diagram.counts.tolist(), diagram.accuracy.tolist()
    ([2, 2], [0.0, 1.0])
    """
    confidence, correct = _confidence_and_hits(probabilities, target)
    check_count(n_bins, "n_bins")
    # k/n rounded to the probabilities' dtype: there, 0.3 equals the edge 3/10.
    edges = (torch.arange(n_bins + 1, dtype=torch.float64, device=confidence.device) / n_bins).to(confidence.dtype)
    index = torch.bucketize(confidence, edges[1:-1], out_int32=True)  # counts the inner edges below: (a, b]
    counts = torch.bincount(index, minlength=n_bins)
    sums = torch.bincount(index, weights=confidence.double(), minlength=n_bins)
    hits = torch.bincount(index, weights=correct.double(), minlength=n_bins)
    return ReliabilityDiagram(edges, counts, sums / counts, hits / counts)


def expected_calibration_error(
    probabilities: Tensor, target: Tensor, *, n_bins: int = 15, norm: str = "l1", debias: bool = False
) -> float:
    """The gap between confidence and accuracy, over the bins of `reliability_diagram`.

    l1: Σ_b (n_b/N)·|acc_b − conf_b|. l2: the root of Σ_b (n_b/N)·(acc_b − conf_b)². max: the largest gap. The estimate
    is biased upward: even perfectly calibrated predictions have a gap in a bin of finite size (E27). With `debias`, l2
    subtracts acc_b·(1 − acc_b)/(n_b − 1) in each bin, skips bins of one sample, and is at least 0 (Kumar et al. 2019,
    "Verified uncertainty calibration"). Source of l1: Naeini et al. (2015).

    Args:
        probabilities, target, n_bins: as in `reliability_diagram`.
        norm: "l1", "l2" or "max".
        debias: only with norm="l2".

    >>> expected_calibration_error(torch.tensor([[0.75, 0.25]] * 4), torch.tensor([0, 0, 0, 1]))
    0.0
    """
    check_choice(norm, "norm", NORMS)
    if debias and norm != "l2":
        raise ValueError(f"debias is defined for norm='l2' only, but norm is {norm!r}")
    diagram = reliability_diagram(probabilities, target, n_bins=n_bins)
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


def _confidence_and_hits(probabilities: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Confidence (N,) and whether the event happened, bool (N,), after checking that these are probabilities."""
    check_tensor(probabilities, "probabilities", ndim=(1, 2))
    if probabilities.ndim == 1:
        probabilities = check_probabilities(probabilities).detach()
        check_labels(target, "target", num_samples=len(probabilities), num_classes=2)
        return probabilities.clamp(max=1), target == 1
    num_classes = probabilities.shape[1]
    if num_classes < 2:
        raise ValueError("probabilities (N, 1) say nothing about other classes; pass P(class 1) in the shape (N,)")
    probabilities = check_probabilities(probabilities, class_dim=1).detach()
    check_labels(target, "target", num_samples=len(probabilities), num_classes=num_classes)
    confidence, labels = probabilities.max(1)
    return confidence.clamp(max=1), labels == target
