"""Reading a trained classifier: predictions in evaluation mode, and an accuracy with its uncertainty."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from course_utils.foundation.arguments import check_class_names, check_labels, check_number
from course_utils.foundation.evaluation import classifier_logits
from course_utils.foundation.inputs import Inputs
from course_utils.foundation.intervals import Interval, wilson_interval
from course_utils.foundation.predictions import Prediction


def predict(
    model: nn.Module,
    x: Inputs | DataLoader,
    class_names: Sequence[str] | None = None,
    *,
    task: str = "multiclass",
    batch_size: int | None = None,
) -> Prediction:
    """Classify: run the model in evaluation mode, without a graph, and read its logits.

    The decisions are taken on the logits, in float32 or better; probabilities may be rounded to ties.

    Args:
        model: returns logits (N, C); for "binary" (N,) or (N, 1). Every submodule keeps its mode.
        x: (N, …) finite inputs on the model's device, of any dtype; several as a tuple or dict; or a DataLoader,
            which must not shuffle.
        class_names: C names, for "binary" two; None leaves them out.
        task: "multiclass" or "binary". Binary: class 1 where its probability is at least 0.5.
        batch_size: samples that go through the model at a time; None takes all.

    Raises:
        TypeError, ValueError: inputs that are no finite tensors, logits that are not (N, C), a wrong number of names.

    >>> from course_utils.iris import MLP, load_iris_split
    >>> split = load_iris_split()
    >>> len(predict(MLP(), split.x_test, split.class_names))
    30
    """
    logits = classifier_logits(model, x, task=task, batch_size=batch_size)  # (N, C), for binary (N, 2)
    class_names = check_class_names(class_names, logits.shape[1])
    labels = logits.argmax(1)
    probabilities = torch.softmax(logits, dim=1)
    confidence = probabilities.gather(1, labels[:, None])[:, 0]
    return Prediction(labels, confidence, probabilities[:, 1] if task == "binary" else probabilities, class_names)


def accuracy(
    model: nn.Module,
    x: Inputs,
    y: Any,
    *,
    confidence: float = 0.95,
    task: str = "multiclass",
    batch_size: int | None = None,
) -> Interval:
    """The share of right answers with its Wilson score interval, whose formula stands in `wilson_interval`.

    Args:
        model, x, task, batch_size: as in `predict`; x must not be a DataLoader.
        y: N class indices, as a tensor, list or array.
        confidence: strictly between 0 and 1.

    >>> from course_utils.iris import MLP, load_iris_split
    >>> split = load_iris_split()
    >>> accuracy(MLP(), split.x_test, split.y_test).n
    30
    """
    check_number(confidence, "confidence", above=0, below=1)
    if isinstance(x, DataLoader):
        raise TypeError("x must hold tensors, not a DataLoader, whose order may differ from y's; pass batch_size=…")
    logits = classifier_logits(model, x, task=task, batch_size=batch_size)
    y = check_labels(y, "y", num_samples=len(logits), num_classes=logits.shape[1]).to(logits.device)
    correct, n = int((logits.argmax(1) == y).sum()), len(y)
    low, high = wilson_interval(correct, n, confidence)
    return Interval(correct / n, low, high, n)
