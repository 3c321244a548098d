"""Reading a trained classifier: predictions in evaluation mode, and an accuracy with its uncertainty."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from course_utils.foundation.arguments import check_class_names, check_labels, check_number, check_tensor
from course_utils.foundation.evaluation import classifier_logits
from course_utils.foundation.intervals import Interval, wilson_interval
from course_utils.foundation.predictions import Prediction


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


def accuracy(model: nn.Module, x: Tensor, y: Tensor, *, confidence: float = 0.95) -> Interval:
    """The share of right answers with its Wilson score interval, whose formula stands in `wilson_interval`.

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
