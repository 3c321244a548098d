"""One trunk, two heads: a class and a number from the same input."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_utils.foundation.arguments import (
    check_count,
    check_labels,
    check_logits,
    check_number,
    check_share,
    check_tensor,
    describe_value,
)
from course_utils.foundation.devices import full_precision
from course_utils.foundation.evaluation import class_logits, reading
from course_utils.foundation.results import Result

TASKS = ("classification", "regression")


class MultiTaskModel(nn.Module):
    """A shared layer, `hidden_features` wide, with two heads.

    Inputs (N, in_features) → {"classification": logits (N, C) with C = num_classes ≥ 2, "regression": (N, 1)}.
    """

    def __init__(self, in_features: int, num_classes: int, hidden_features: int = 64) -> None:
        super().__init__()
        check_count(num_classes, "num_classes", minimum=2)
        self.trunk = nn.Sequential(
            nn.Linear(check_count(in_features, "in_features"), check_count(hidden_features, "hidden_features")),
            nn.ReLU(),
        )
        self.classification = nn.Linear(hidden_features, num_classes)
        self.regression = nn.Linear(hidden_features, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        shared = self.trunk(x)  # (N, hidden)
        return {"classification": self.classification(shared), "regression": self.regression(shared)}


class MultiTaskLoss(nn.Module):
    """Cross-entropy plus mean squared error, with fixed or with learned weights.

    With "uncertainty", each task has a learned log-variance s, and the loss is e^(−s_c)·CE + ½·e^(−s_r)·MSE +
    ½·(s_c + s_r): a task whose error stays large is given less weight, and the last terms keep the weights from
    vanishing. Give `loss.parameters()` to the optimizer too. Source: Kendall et al. (2018), "Multi-task learning using
    uncertainty to weigh losses".

    Args:
        task_weights: None (both 1), {"classification": w, "regression": w} with weights ≥ 0, or "uncertainty".

    >>> outputs = {"classification": torch.zeros(2, 2), "regression": torch.ones(2, 1)}
    >>> targets = {"classification": torch.tensor([0, 1]), "regression": torch.zeros(2, 1)}
    >>> round(float(MultiTaskLoss()(outputs, targets)), 3)  # log 2 + 1
    1.693
    """

    def __init__(self, task_weights: Mapping[str, float] | str | None = None) -> None:
        super().__init__()
        self.log_variances: nn.ParameterDict | None = None
        self.weights = dict.fromkeys(TASKS, 1.0)
        if task_weights == "uncertainty":
            self.log_variances = nn.ParameterDict({task: nn.Parameter(torch.zeros(())) for task in TASKS})
        elif task_weights is not None:
            self.weights = _check_weights(task_weights)

    def forward(self, outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> Tensor:
        """Outputs as of `MultiTaskModel`; targets: class indices (N,), and values in the shape of the regression."""
        losses = self.losses(outputs, targets)
        if self.log_variances is None:
            return sum(self.weights[task] * losses[task] for task in TASKS)
        s = self.log_variances
        return (
            torch.exp(-s["classification"]) * losses["classification"]
            + 0.5 * torch.exp(-s["regression"]) * losses["regression"]
            + 0.5 * (s["classification"] + s["regression"])
        )

    def losses(self, outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Both losses without their weights: what to log, because the weighted sum of two units means little."""
        for name, value in (("outputs", outputs), ("targets", targets)):
            if not isinstance(value, Mapping) or any(task not in value for task in TASKS):
                raise TypeError(f"{name} must be a dict with the keys {list(TASKS)}, but is {describe_value(value)}")
        logits = check_logits(outputs["classification"], "outputs['classification']", ndim=2, class_dim=1)
        n, c = logits.shape
        labels = check_labels(targets["classification"], "targets['classification']", num_samples=n, num_classes=c)
        if c < 2:
            raise ValueError("outputs['classification'] has one class only, so its loss is always 0")
        preds = check_tensor(outputs["regression"], "outputs['regression']")
        values = check_tensor(targets["regression"], "targets['regression']")
        if preds.shape != values.shape:
            raise ValueError(
                f"the regression's outputs {tuple(preds.shape)} and targets {tuple(values.shape)} must have the same "
                "shape; they would broadcast every prediction against every target"
            )
        if len(preds) != n:
            raise ValueError(f"both tasks must have the same samples, but have {n} and {len(preds)}")
        return {"classification": F.cross_entropy(logits, labels.long()), "regression": F.mse_loss(preds, values)}


def _check_weights(weights: Mapping[str, float] | str) -> dict[str, float]:
    if not isinstance(weights, Mapping):
        raise ValueError(f"task_weights must be None, a dict of weights or 'uncertainty', but is {weights!r}")
    if set(weights) != set(TASKS):
        raise ValueError(f"task_weights must have the keys {list(TASKS)}, but has {list(weights)}")
    checked = {task: check_number(weights[task], f"task_weights[{task!r}]") for task in TASKS}
    if min(checked.values()) < 0:
        raise ValueError(f"task_weights must not be negative, but are {checked}")
    return checked


@dataclass(frozen=True, eq=False, repr=False)
class MultiTaskResult(Result):
    """What both heads say about N samples.

    Attributes:
        labels: int64 (N,), the most probable class; −1 where the confidence is below the threshold.
        confidence: (N,), the largest probability.
        probabilities: (N, C).
        regression: (N, 1).
    """

    labels: Tensor
    confidence: Tensor
    probabilities: Tensor
    regression: Tensor

    per_sample: ClassVar = ("labels", "confidence", "probabilities", "regression")


def multi_task_inference(model: nn.Module, inputs: Tensor, *, classification_threshold: float = 0.0) -> MultiTaskResult:
    """Read both heads, in evaluation mode; the model's modes come back afterwards.

    Args:
        model: returns a dict as `MultiTaskModel` does.
        inputs: (N, …).
        classification_threshold: in [0, 1]; a class less probable than this is refused, its label is −1.
    """
    threshold = check_share(classification_threshold, "classification_threshold")
    check_tensor(inputs, "inputs", floating=None)
    with reading(model) as model, torch.no_grad():
        outputs = model(inputs.detach().clone())
    if not isinstance(outputs, Mapping) or any(task not in outputs for task in TASKS):
        raise TypeError(f"the model must return a dict with {list(TASKS)}, but returned {describe_value(outputs)}")
    logits = class_logits(outputs["classification"], task="multiclass", n=len(inputs))
    values = check_tensor(outputs["regression"], "the model's regression")
    if len(values) != len(inputs):
        raise ValueError(
            f"the model must return values (N, …) for N = {len(inputs)} samples, but returned {describe_value(values)}"
        )
    probabilities = torch.softmax(logits, dim=1)
    labels = logits.argmax(dim=1)
    confidence = probabilities.gather(1, labels[:, None])[:, 0]
    labels = torch.where(confidence < threshold, -1, labels)
    return MultiTaskResult(labels, confidence, probabilities, full_precision(values))
