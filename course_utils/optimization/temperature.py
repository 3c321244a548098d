"""Making a confidence honest with one number: temperature scaling."""

import math
import warnings

import torch
from torch import Tensor, nn

from course_utils.foundation.arguments import check_choice, check_count, check_labels, check_logits, describe_value
from course_utils.foundation.devices import full_precision, in_double
from course_utils.foundation.evaluation import two_logits

_SMALLEST, _LARGEST = 1e-4, 1e4  # bounds of the temperature
_MASKED = -1e30  # stands for −inf: its exponential is 0 too, but 0 times it is 0 and not NaN


class TemperatureScaler(nn.Module):
    """Divides logits by a fitted temperature. Made by `temperature_scaling`.

    Attributes:
        task: "multiclass" for logits (N, C), or "binary" for logits (N,) or (N, 1).
        temperature: T, a float64 buffer: saved with the state dict, never trained.
        nll_before, nll_after: mean negative log-likelihood on the fitting data, in nats, at T = 1 and at T.
        converged: False if T stopped at a bound or the iterations ran out.
    """

    def __init__(
        self, temperature: float, nll_before: float, nll_after: float, converged: bool, task: str = "multiclass"
    ) -> None:
        super().__init__()
        self.task = task
        self.register_buffer("temperature", torch.tensor(temperature, dtype=torch.float64))
        self.nll_before, self.nll_after, self.converged = nll_before, nll_after, converged

    def forward(self, logits: Tensor) -> Tensor:
        """Logits → logits / T, in their shape and dtype."""
        _check_logits(logits, self.task)
        return logits / self.temperature.to(logits.device, logits.dtype)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Logits (N, C) → calibrated probabilities (N, C); for binary, logits (N,) or (N, 1) → P(class 1) (N,).

        In float32 or better: in half precision many of them would be equal whose logits are not.
        """
        _check_logits(logits, self.task)
        scaled = in_double(logits) / self.temperature.to(in_double(logits).device)  # half precision would overflow
        p = torch.sigmoid(scaled.reshape(len(scaled))) if self.task == "binary" else torch.softmax(scaled, dim=1)
        return p.to(full_precision(logits))

    def extra_repr(self) -> str:
        return f"temperature={float(self.temperature):.4g}, converged={self.converged}"


@torch.no_grad()
def temperature_scaling(
    logits: Tensor, target: Tensor, *, max_iter: int = 50, task: str = "multiclass"
) -> TemperatureScaler:
    """Fit the temperature T that minimises the mean negative log-likelihood of softmax(logits / T).

    With β = 1/T the loss is convex, with derivative E_p[z] − z_y and curvature Var_p[z] (means over the samples), so
    Newton's method on log β finds the optimum in a few steps; a bracket catches steps that go astray. Fit it on
    validation data.
    Source: Guo et al. (2017), "On calibration of modern neural networks".

    Args:
        logits: (N, C), C ≥ 2; −inf masks a class. For binary (N,) or (N, 1). A graph behind them is ignored.
        target: (N,) class indices, or 0 and 1.
        max_iter: most Newton steps.
        task: "multiclass" or "binary".

    Returns:
        TemperatureScaler. T lies in [1e-4, 1e4]; perfectly separated data have no optimum, and T at a bound comes with
        a warning and `converged=False`.

    >>> logits = torch.tensor([[4.0, 0.0], [4.0, 0.0], [4.0, 0.0], [4.0, 0.0]])
    >>> scaler = temperature_scaling(logits, torch.tensor([0, 0, 0, 1]))
    >>> round(float(scaler.probabilities(logits)[0, 0]), 4)
    0.75
    """
    z = in_double(_check_logits(logits, task).detach())
    z = two_logits(z) if task == "binary" else z  # (N, C)
    target = check_labels(target, "target", num_samples=len(z), num_classes=z.shape[1]).to(z.device)
    check_count(max_iter, "max_iter")
    z = z - z.amax(1, keepdim=True)  # softmax does not change, and exp(βz) cannot overflow
    own = z.gather(1, target.long()[:, None]).mean()
    if own == -math.inf:
        raise ValueError("target names a class whose logit is −inf, so no temperature gives it any probability")
    z.clamp_(min=_MASKED)

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
        if _derivatives(z, own, 1 / _SMALLEST)[1] <= 0:  # the loss falls all the way: the data are separable
            beta = 1 / _SMALLEST
        after = _derivatives(z, own, beta)[0]
        warnings.warn(
            f"temperature scaling did not converge: T = {1 / beta:.3g}; data that the logits separate perfectly, "
            "or not at all, have no best temperature",
            stacklevel=3,
        )
    if after >= before:  # stopped too early, or the logits say nothing
        beta, after = 1.0, before
    return TemperatureScaler(1 / beta, before, after, converged, task)


def _check_logits(logits: Tensor, task: str) -> Tensor:
    check_choice(task, "task", ("multiclass", "binary"))
    if task == "binary":
        check_logits(logits, ndim=(1, 2))
        if logits.ndim == 2 and logits.shape[1] != 1:
            raise ValueError(f"logits of a binary task must be (N,) or (N, 1), but are {describe_value(logits)}")
        return logits
    check_logits(logits, ndim=2, class_dim=1)
    if logits.shape[1] < 2:
        raise ValueError(
            f"logits must have at least 2 classes, but have {logits.shape[1]}; for one logit a sample pass "
            "task='binary'"
        )
    return logits


def _derivatives(z: Tensor, own: Tensor, beta: float) -> tuple[float, float, float]:
    """The mean negative log-likelihood, and its first and second derivative with respect to β."""
    weights = torch.mul(z, beta).exp_()  # (N, C)
    total = weights.sum(1)
    weighted = weights.mul_(z)
    mean = weighted.sum(1) / total
    second = weighted.mul_(z).sum(1) / total
    nll = total.log().mean() - beta * own
    return float(nll), float(mean.mean() - own), float((second - mean.square()).mean())
