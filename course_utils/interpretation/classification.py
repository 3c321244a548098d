"""Reading a classifier's output: labels, confidence, the runners-up."""

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
    check_logits,
    check_tensor,
    check_threshold,
    describe_value,
)
from course_utils.foundation.devices import full_precision
from course_utils.foundation.evaluation import tensor_in, two_logits
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

    Classes are chosen and ranked by their logits, in float32 or better: probabilities that round to the same number, 1
    or 0 above all, would hide which is larger. Likewise p ≥ 0.5 is asked as logit ≥ 0. Any other threshold is compared
    with the probabilities that are reported. Among equal logits the first class comes first.

    Args:
        logits: floating point. multiclass and multilabel (N, C), binary (N,) or (N, 1); or a model's output that holds
            them as `.logits` or under "logits". −inf is a masked class; NaN and +inf are refused.
        class_names: C names, or a dict from class to name; two for binary. None leaves names out.
        task: "binary", "multiclass" or "multilabel".
        threshold: for binary and multilabel, in [0, 1] or +inf; None is 0.5. An error for multiclass.
        top_k: how many of the most probable classes to keep, 1 to C (binary: to 2).

    Returns:
        ClassificationResult; `result[i]` is one sample as a dict with predicted_class, confidence, probabilities and,
        with names, predicted_class_name. Half precision becomes float32.

    Raises:
        TypeError, ValueError: logits that do not fit the task, NaN or +inf, a row of −inf only, a wrong number of
            names, a threshold for multiclass or out of range, a top_k larger than C.

    >>> result = interpret_classification_output(torch.tensor([[2.0, 0.0, 0.0]]), ["cat", "dog", "cow"])
    >>> result[0]["predicted_class_name"], round(result[0]["confidence"], 3)
    ('cat', 0.787)
    """
    check_choice(task, "task", TASKS)
    logits = check_tensor(tensor_in(logits), "logits", ndim=(1, 2) if task == "binary" else 2, finite=False)
    logits = full_precision(logits)
    check_count(top_k, "top_k")
    threshold = check_threshold(threshold, task)
    if task == "multiclass":
        return _interpret_multiclass(logits, class_names, top_k)
    check_logits(logits)
    if task == "multilabel":
        probabilities = over_classes = torch.sigmoid(logits)  # (N, C)
        names = check_class_names(class_names, logits.shape[1])
        ranked = logits
    else:
        if logits.ndim == 2 and logits.shape[1] != 1:
            raise ValueError(
                f"logits of a binary task must be (N,) or (N, 1), but are {describe_value(logits)}; "
                "two columns are a multiclass task with C = 2"
            )
        logits = logits.reshape(len(logits))  # (N,)
        probabilities = torch.sigmoid(logits)
        names = check_class_names(class_names, 2)
        over_classes = torch.stack([1 - probabilities, probabilities], dim=1)  # (N, 2)
        ranked = two_logits(logits)
    positive = logits >= 0 if threshold == 0.5 else probabilities >= threshold
    confidence = torch.where(positive, probabilities, 1 - probabilities)
    return ClassificationResult(positive.long(), confidence, probabilities, names, *_top_k(ranked, over_classes, top_k))


def _interpret_multiclass(logits: Tensor, class_names: Sequence[str] | None, top_k: int) -> ClassificationResult:
    if logits.shape[1] < 2:
        raise ValueError(
            f"logits of a multiclass task must be (N, C) with C ≥ 2, but are {describe_value(logits)}; "
            "softmax over a single value is always 1, so one logit per sample is task='binary'"
        )
    names = check_class_names(class_names, logits.shape[1])
    if top_k > 1:
        check_logits(logits, class_dim=1)
        probabilities = torch.softmax(logits, dim=1)
        classes, values = _top_k(logits, probabilities, top_k)
        return ClassificationResult(classes[:, 0], values[:, 0], probabilities, names, classes, values)
    best = logits.detach().max(dim=1)  # several times faster than topk
    if not best.values.isfinite().all():  # the maximum of a row shows a NaN or +inf anywhere in it, or that all is −inf
        check_logits(logits, class_dim=1)
    probabilities = torch.softmax(logits, dim=1)
    confidence = probabilities.gather(1, best.indices[:, None])
    return ClassificationResult(best.indices, confidence[:, 0], probabilities, names, best.indices[:, None], confidence)


def _top_k(logits: Tensor, probabilities: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """Classes with the k largest logits (N, C), best first, and their probabilities: (N, k) each."""
    logits = logits.detach()
    if top_k == 1:  # max is several times faster than topk
        classes = logits.max(dim=1, keepdim=True).indices
        return classes, probabilities.gather(1, classes)
    if top_k > logits.shape[1]:
        raise ValueError(f"top_k must be at most the number of classes, {logits.shape[1]}, but is {top_k}")
    best = logits.topk(min(top_k + 1, logits.shape[1]), dim=1)
    classes = best.indices[:, :top_k]
    # Among equal values topk takes any of them, in any order; here it is the first class, as in argmax.
    if top_k < logits.shape[1] and (tied := best.values[:, -2] == best.values[:, -1]).any():
        classes[tied] = _first_top_k(logits[tied], best.values[tied, -1:], top_k)
    classes = classes.sort(dim=1).values
    order = logits.gather(1, classes).argsort(dim=1, descending=True, stable=True)
    classes = classes.gather(1, order)
    return classes, probabilities.gather(1, classes)


def _first_top_k(logits: Tensor, smallest: Tensor, top_k: int) -> Tensor:
    """Which classes of (N, C) are above the k-th value, (N, 1), and the first of those that equal it; ascending."""
    above, equal = logits > smallest, logits == smallest
    places = top_k - above.sum(1, keepdim=True)  # (N, 1), left for the equal ones
    chosen = above | (equal & (equal.cumsum(1, dtype=torch.int32) <= places))
    return chosen.nonzero()[:, 1].view(-1, top_k)
