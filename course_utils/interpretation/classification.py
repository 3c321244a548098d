"""Reading a classifier's output: labels, confidence, the runners-up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from course_utils.foundation.arguments import (
    TASKS,
    check_choice,
    check_class_names,
    check_count,
    check_tensor,
    check_threshold,
    describe_value,
)
from course_utils.foundation.predictions import Prediction


@dataclass(frozen=True, eq=False, repr=False)
class ClassificationResult(Prediction):
    """What a classifier decided for N samples, with the runners-up.

    Attributes:
        labels, confidence, probabilities, class_names: as in `Prediction`.
        topk_labels: int64 (N, k), the k most probable classes, best first.
        topk_confidence: (N, k), their probabilities.
    """

    topk_labels: Tensor
    topk_confidence: Tensor

    per_sample: ClassVar = (*Prediction.per_sample, "topk_labels", "topk_confidence")


def interpret_classification_output(
    logits: Tensor,
    class_names: Sequence[str] | None = None,
    *,
    task: str = "multiclass",
    threshold: float | None = None,
    top_k: int = 1,
) -> ClassificationResult:
    """Turn a classifier's logits into decisions with their probabilities.

    multiclass: softmax over the classes, label = argmax. binary: sigmoid of one logit, label 1 if p ≥ threshold.
    multilabel: sigmoid of each logit, label 1 for each class with p ≥ threshold.

    Args:
        logits: floating point, finite. multiclass and multilabel (N, C), binary (N,) or (N, 1).
        class_names: C names; two for binary. None leaves names out.
        task: "binary", "multiclass" or "multilabel".
        threshold: for binary and multilabel, in [0, 1] or +inf; None is 0.5. An error for multiclass.
        top_k: how many of the most probable classes to keep, 1 to C (binary: to 2).

    Returns:
        ClassificationResult; `result[i]` is one sample as a dict with predicted_class, confidence, probabilities and,
        with names, predicted_class_name.

    Raises:
        TypeError, ValueError: logits that do not fit the task or are not finite, a wrong number of names, a threshold
            for multiclass or out of range, a top_k larger than C.

    >>> result = interpret_classification_output(torch.tensor([[2.0, 0.0, 0.0]]), ["cat", "dog", "cow"])
    >>> result[0]["predicted_class_name"], round(result[0]["confidence"], 3)
    ('cat', 0.787)
    """
    check_choice(task, "task", TASKS)
    check_tensor(logits, "logits", ndim=(1, 2) if task == "binary" else 2)
    check_count(top_k, "top_k")
    threshold = check_threshold(threshold, task)
    if task == "multiclass":
        return _interpret_multiclass(logits, class_names, top_k)
    if task == "multilabel":
        probabilities = torch.sigmoid(logits)  # (N, C)
        names = check_class_names(class_names, logits.shape[1])
        over_classes = probabilities
    else:
        if logits.ndim == 2 and logits.shape[1] != 1:
            raise ValueError(
                f"logits of a binary task must be (N,) or (N, 1), but are {describe_value(logits)}; "
                "two columns are a multiclass task with C = 2"
            )
        probabilities = torch.sigmoid(logits.reshape(len(logits)))  # (N,)
        names = check_class_names(class_names, 2)
        over_classes = torch.stack([1 - probabilities, probabilities], dim=1)  # (N, 2)
    labels = (probabilities >= threshold).long()
    confidence = torch.where(labels.bool(), probabilities, 1 - probabilities)
    return ClassificationResult(labels, confidence, probabilities, names, *_top_k(over_classes, top_k))


def _interpret_multiclass(logits: Tensor, class_names: Sequence[str] | None, top_k: int) -> ClassificationResult:
    if logits.shape[1] < 2:
        raise ValueError(
            f"logits of a multiclass task must be (N, C) with C ≥ 2, but are {describe_value(logits)}; "
            "softmax over a single value is always 1, so one logit per sample is task='binary'"
        )
    names = check_class_names(class_names, logits.shape[1])
    probabilities = torch.softmax(logits, dim=1)
    if top_k == 1:  # max is several times faster than topk
        confidence, labels = probabilities.max(dim=1)
        return ClassificationResult(labels, confidence, probabilities, names, labels[:, None], confidence[:, None])
    classes, values = _top_k(probabilities, top_k)
    return ClassificationResult(classes[:, 0], values[:, 0], probabilities, names, classes, values)


def _top_k(probabilities: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """Classes and probabilities of the top k, (N, k) each, best first."""
    if top_k > probabilities.shape[1]:
        raise ValueError(f"top_k must be at most the number of classes, {probabilities.shape[1]}, but is {top_k}")
    values, indices = probabilities.sort(dim=1, descending=True, stable=True)  # in a tie the first class, as argmax
    return indices[:, :top_k], values[:, :top_k]
