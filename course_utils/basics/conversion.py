"""From logits to probabilities, and from probabilities to labels."""

import torch
from torch import Tensor

from course_utils.foundation.arguments import (
    TASKS,
    check_choice,
    check_logits,
    check_tensor,
    check_threshold,
    describe_value,
)
from course_utils.foundation.probabilities import check_probabilities


def logits_to_probabilities(logits: Tensor, task: str) -> Tensor:
    """Turn a classifier's raw outputs into probabilities.

    multiclass: softmax over the classes, p_c = exp(z_c) / Σ_k exp(z_k), C ≥ 2. One class of several is right.
    binary: sigmoid of the one logit, p = 1 / (1 + exp(−z)), the probability of class 1.
    multilabel: sigmoid of every logit on its own. Any number of classes can be right at once.

    Args:
        logits: floating point. multiclass (N, C) or (N, C, …) with the classes in dim 1; binary (N,) or (N, 1);
            multilabel (N, C) or (N, C, …). −inf is a masked class, of probability 0.
        task: "binary", "multiclass" or "multilabel".

    Returns:
        Probabilities in [0, 1], of the logits' shape, dtype and device; gradients flow through.

    Raises:
        TypeError: not a floating point tensor.
        ValueError: an unknown task, a shape that does not fit it, NaN or +inf, only masked classes.

    >>> logits_to_probabilities(torch.tensor([[2.0, 1.0, 0.0]]), "multiclass")
    tensor([[0.6652, 0.2447, 0.0900]])
    >>> logits_to_probabilities(torch.tensor([-3.0]), "binary")
    tensor([0.0474])
    """
    check_choice(task, "task", TASKS)
    _check_shape(check_tensor(logits, "logits", finite=False), "logits", task)
    check_logits(logits, class_dim=1 if task == "multiclass" else None)
    return torch.softmax(logits, dim=1) if task == "multiclass" else torch.sigmoid(logits)


def probabilities_to_labels(probabilities: Tensor, task: str, *, threshold: float | None = None) -> Tensor:
    """Decide: turn probabilities into labels.

    multiclass: the class of highest probability; among equals the lowest index.
    binary, multilabel: 1 where the probability is at least `threshold`, else 0.

    Args:
        probabilities: floating point in [0, 1]. multiclass (N, C) or (N, C, …), summing to 1 over dim 1; binary (N,)
            or (N, 1), the probability of class 1; multilabel (N, C) or (N, C, …).
        task: "binary", "multiclass" or "multilabel".
        threshold: for binary and multilabel, in [0, 1] or +inf ("never"); None is 0.5. Multiclass takes none.

    Returns:
        int64 labels. multiclass (N,) or (N, …); binary and multilabel the shape of `probabilities`.

    Raises:
        TypeError: not a floating point tensor.
        ValueError: an unknown task, a wrong shape, values that are no probabilities, a threshold out of range or
            given for multiclass.

    >>> probabilities_to_labels(torch.tensor([[0.1, 0.7, 0.2]]), "multiclass")
    tensor([1])
    >>> probabilities_to_labels(torch.tensor([0.2, 0.5, 0.9]), "binary")
    tensor([0, 1, 1])
    """
    check_choice(task, "task", TASKS)
    _check_shape(check_tensor(probabilities, "probabilities"), "probabilities", task)
    check_probabilities(probabilities, class_dim=1 if task == "multiclass" else None)
    threshold = check_threshold(threshold, task)
    if task == "multiclass":
        return probabilities.argmax(dim=1)
    return (probabilities >= threshold).long()


def _check_shape(values: Tensor, name: str, task: str) -> None:
    if task == "multiclass" and (values.ndim < 2 or values.shape[1] < 2):
        raise ValueError(
            f"{name} of a multiclass task must be (N, C) or (N, C, …) with C ≥ 2 classes in dim 1, but is "
            f"{describe_value(values)}; softmax over a single value is always 1, so one logit per sample is 'binary'"
        )
    if task == "binary" and not (values.ndim == 1 or (values.ndim == 2 and values.shape[1] == 1)):
        raise ValueError(
            f"{name} of a binary task must be (N,) or (N, 1), but is {describe_value(values)}; "
            "two columns are a multiclass task with C = 2"
        )
    if task == "multilabel" and values.ndim < 2:
        raise ValueError(f"{name} of a multilabel task must be (N, C, …), but is {describe_value(values)}")
