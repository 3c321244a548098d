"""What the numbers of a tensor can be: logits, probabilities, log-probabilities."""

from dataclasses import dataclass

import torch
from torch import Tensor

from course_utils.foundation.devices import in_double
from course_utils.foundation.probabilities import sum_tolerance, sums_to_one, value_tolerance

KINDS = ("logits", "probabilities", "log_probabilities")
_ALONE = "one class alone is no choice between classes"


@dataclass(frozen=True)
class ValueKinds:
    """The kinds that a tensor's values can be, and a sentence on each of `KINDS` saying why or why not."""

    kinds: tuple[str, ...]
    reasons: dict[str, str]


def value_kinds(values: Tensor, *, class_dim: int | None, exclusive: bool | None) -> ValueKinds:
    """Tell which kinds of value a tensor can hold.

    Any real number can be a logit, so probabilities pass as logits too: the check says what is possible, not what was
    meant. That is why a softmax forgotten or done twice is never visible from a type, only from the values.

    Args:
        values: a floating point tensor of any shape.
        class_dim: the axis of the classes, along which exclusive probabilities sum to 1; None where there is none.
        exclusive: True for one class of several (multiclass), False for independent yes/no decisions (binary,
            multilabel), None when unknown: then both are possible.
    """
    if values.numel() == 0:
        return ValueKinds((), dict.fromkeys(KINDS, "no: the tensor is empty"))
    if not values.is_floating_point():
        return ValueKinds((), dict.fromkeys(KINDS, f"no: {values.dtype} holds labels or counts, not scores"))
    if torch.isnan(values).any():
        return ValueKinds((), dict.fromkeys(KINDS, "no: there are NaN values"))

    low, high = map(float, values.aminmax())
    classes = None if class_dim is None or values.shape[class_dim] < 2 else class_dim
    checks = {
        "logits": _can_be_logits(low, high),
        "probabilities": _can_be_probabilities(values, low, high, classes, exclusive),
        "log_probabilities": _can_be_log_probabilities(values, low, high, classes, exclusive),
    }
    kinds = tuple(kind for kind, (possible, _) in checks.items() if possible)
    reasons = {kind: f"{'yes' if possible else 'no'}: {why}" for kind, (possible, why) in checks.items()}
    return ValueKinds(kinds, reasons)


def _can_be_logits(low: float, high: float) -> tuple[bool, str]:
    if high == float("inf"):
        return False, "+inf is no logit: softmax of it is NaN"
    if low == float("-inf"):
        return True, "any real number can be one, and −inf masks a class out"
    return True, "any real number can be one"


def _can_be_probabilities(
    values: Tensor, low: float, high: float, classes: int | None, exclusive: bool | None
) -> tuple[bool, str]:
    if low < 0 or high > 1 + value_tolerance(values.dtype):
        return False, f"the range [{low:.3g}, {high:.3g}] leaves [0, 1]"
    if exclusive is False or classes is None:
        return (False, _ALONE) if exclusive else (True, "all values lie in [0, 1]")
    return _judge_sums(sums_to_one(values, classes), exclusive, "values", "in [0, 1]")


def _can_be_log_probabilities(
    values: Tensor, low: float, high: float, classes: int | None, exclusive: bool | None
) -> tuple[bool, str]:
    if high > value_tolerance(values.dtype):  # log(1 + eps) is about eps
        return False, f"the maximum {high:.3g} is above 0"
    if exclusive is False or classes is None:
        return (False, _ALONE) if exclusive else (True, "no value is above 0")
    wide = in_double(values)
    # A log-probability is rounded relative to its own size: by half an eps of |log p|, and on the whole by half an eps
    # of Σ p·|log p|, the entropy. With many classes that is much: of 50,000 equal ones, 11 · eps / 2.
    entropy = torch.special.entr(wide.exp()).sum(classes)
    tolerance = sum_tolerance(values.dtype) + entropy * torch.finfo(_coarsest_dtype(values)).eps
    log_total = wide.logsumexp(classes)
    return _judge_sums(log_total.abs() <= tolerance, exclusive, "exp of the values", "at most 0")


def _coarsest_dtype(values: Tensor) -> torch.dtype:
    """The dtype with the fewest digits that holds these values: what was rounded to half precision stays rounded."""
    halves = (torch.bfloat16, torch.float16)
    return next((half for half in halves if torch.equal(values.to(half).to(values.dtype), values)), values.dtype)


def _judge_sums(good: Tensor, exclusive: bool | None, what: str, where: str) -> tuple[bool, str]:
    if good.all():
        return True, f"all values are {where} and {what} sum to 1 over the classes"
    share = f"{what} sum to 1 over the classes in {int(good.sum())} of {good.numel()} rows"
    if exclusive:
        return False, share
    return True, f"only of independent yes/no decisions: all values are {where}, but {share}"
