"""Reading a trained classifier: predictions in evaluation mode, and an accuracy with its uncertainty."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from course_utils.foundation.arguments import (
    check_class_names,
    check_count,
    check_labels,
    check_number,
    check_tensor,
)
from course_utils.foundation.evaluation import classifier_logits
from course_utils.foundation.results import Result


@dataclass(frozen=True, eq=False, repr=False)
class Prediction(Result):
    """What a classifier says of N samples.

    Attributes:
        labels: int64 (N,), the most probable class.
        confidence: (N,), its probability.
        probabilities: (N, C), rows sum to 1.
        class_names: C names, or None.
    """

    labels: Tensor
    confidence: Tensor
    probabilities: Tensor
    class_names: tuple[str, ...] | None

    per_sample: ClassVar = ("labels", "confidence", "probabilities")

    def __getitem__(self, index: int) -> dict[str, Any]:
        sample = super().__getitem__(index)
        if self.class_names is not None:
            sample["class_name"] = self.class_names[sample["labels"]]
        return sample

    def to_frame(self):
        frame = super().to_frame()
        if self.class_names is not None:
            frame.insert(1, "class_name", [self.class_names[label] for label in self.labels.tolist()])
            frame.columns = [*frame.columns[:3], *(f"p({name})" for name in self.class_names)]
        return frame


def predict(model: nn.Module, x: Tensor, class_names: Sequence[str] | None = None) -> Prediction:
    """Classify: run the model in evaluation mode, without a graph, and read its logits.

    Args:
        model: returns logits (N, C); every submodule keeps its mode.
        x: (N, …) inputs, finite, on the model's device.
        class_names: C names; None leaves them out.

    Raises:
        TypeError, ValueError: inputs that are no finite tensor, logits that are not (N, C), a wrong number of names.

    >>> from course_utils.iris import MLP, load_iris_split
    >>> split = load_iris_split()
    >>> len(predict(MLP(), split.x_test, split.class_names))
    30
    """
    logits = classifier_logits(model, check_tensor(x, "x"))
    probabilities = torch.softmax(logits, dim=1)
    confidence, labels = probabilities.max(dim=1)
    return Prediction(labels, confidence, probabilities, check_class_names(class_names, logits.shape[1]))


@dataclass(frozen=True)
class Interval:
    """A measured share with its interval.

    Attributes:
        value: the share, in [0, 1].
        low, high: ends of the interval.
        n: how many samples it was measured on.
    """

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}], n = {self.n}"


def accuracy(model: nn.Module, x: Tensor, y: Tensor, *, confidence: float = 0.95) -> Interval:
    """The share of right answers with its Wilson score interval.

    With k of n right and z the normal quantile of the confidence, the interval is
    (k + z²/2 ± z·√(k(n−k)/n + z²/4)) / (n + z²). It stays inside [0, 1] and keeps a width at k = n, where the
    textbook's p ± z·√(p(1−p)/n) collapses to a point. Source: Wilson (1927), JASA 22, 209–212.

    Args:
        model: returns logits (N, C); it runs in evaluation mode and keeps its modes.
        x: (N, …) inputs.
        y: (N,) class indices.
        confidence: strictly between 0 and 1.

    >>> from course_utils.iris import MLP, load_iris_split
    >>> split = load_iris_split()
    >>> accuracy(MLP(), split.x_test, split.y_test).n
    30
    """
    check_number(confidence, "confidence", above=0, below=1)
    logits = classifier_logits(model, check_tensor(x, "x"))
    check_labels(y, "y", num_samples=len(logits), num_classes=logits.shape[1])
    correct, n = int((logits.argmax(1) == y).sum()), len(y)
    low, high = wilson_interval(correct, n, confidence)
    return Interval(correct / n, low, high, n)


def wilson_interval(correct: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """The Wilson score interval of `correct` successes in `n` ≥ 1 trials; the formula stands in `accuracy`.

    >>> [round(end, 3) for end in wilson_interval(30, 30)]
    [0.886, 1.0]
    """
    check_count(n, "n")
    if check_count(correct, "correct", minimum=0) > n:
        raise ValueError(f"correct must be at most n, {n}, but is {correct}")
    check_number(confidence, "confidence", above=0, below=1)
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    middle = correct + z * z / 2
    half = z * math.sqrt(correct * (n - correct) / n + z * z / 4)
    # At k = 0 and at k = n one end is exactly 0 or 1; the formula's rounding must not move it.
    low = 0.0 if correct == 0 else (middle - half) / (n + z * z)
    high = 1.0 if correct == n else (middle + half) / (n + z * z)
    return low, high
