"""Argument checks whose messages say what was expected, what came, and what to do.

Each takes the value that the caller passed and its name in the message, and returns the value.
"""

import math
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import fields, is_dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

TASKS = ("binary", "multiclass", "multilabel")  # of a classifier


def describe_value(value: Any) -> str:
    """Say in a few words what a value is.

    >>> describe_value(torch.zeros(3, 4))
    'a float32 tensor of shape (3, 4)'
    >>> describe_value([1, 2])
    'a list of length 2'
    """
    if isinstance(value, Tensor):
        return f"a {dtype_name(value.dtype)} tensor of shape {tuple(value.shape)}"
    if hasattr(value, "shape"):  # an array, a DataFrame
        return f"a {type(value).__module__.partition('.')[0]} {type(value).__name__} of shape {tuple(value.shape)}"
    if isinstance(value, Mapping):
        return f"a {type(value).__name__} with the keys {list(value)}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"a {type(value).__name__} of length {len(value)}"
    if is_dataclass(value) and not isinstance(value, type):
        return f"a {type(value).__name__} with the fields {[field.name for field in fields(value)]}"
    text = repr(value)
    # What takes many lines to print would hide the message.
    return f"{text} ({type(value).__name__})" if len(text) <= 100 and "\n" not in text else f"a {type(value).__name__}"


def dtype_name(dtype: torch.dtype) -> str:
    """`torch.float32` → `"float32"`."""
    return str(dtype).removeprefix("torch.")


def holds_tensors(value: Any) -> bool:
    """Is it a tuple, list or dict with tensors in it?"""
    parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, (tuple, list)) else ()
    return any(isinstance(part, Tensor) for part in parts)


def check_tensor(
    value: Any,
    name: str,
    *,
    ndim: int | tuple[int, ...] | None = None,
    floating: bool | None = True,
    finite: bool = True,
    sparse: bool = False,
) -> Tensor:
    """Return `value` if it is a non-empty tensor of the wanted kind; raise an error that says what to do if not.

    Quantised and nested tensors, and floating point numbers of 8 bits, are refused: most functions of torch cannot read
    them.

    Args:
        ndim: allowed number(s) of dimensions; None allows any but 0.
        floating: True wants a floating point dtype, False a whole-number one (bool counts as one), None takes both.
        finite: True refuses NaN and infinities.
        sparse: False refuses sparse tensors.

    Raises:
        TypeError: not a tensor, or of the wrong dtype or layout.
        ValueError: wrong number of dimensions, no elements, NaN or Inf.
    """
    if not isinstance(value, Tensor):
        advice = "pass a single tensor" if holds_tensors(value) else "convert it with torch.as_tensor"
        raise TypeError(f"{name} must be a torch.Tensor, but is {describe_value(value)}; {advice}")
    if advice := _plain_advice(value, sparse=sparse):
        raise TypeError(f"{name} must be an ordinary tensor, but is {advice}")
    if floating is True and not value.is_floating_point():
        raise TypeError(
            f"{name} must have a floating point dtype, but is {describe_value(value)}; convert it with .float()"
        )
    if floating is False and (value.is_floating_point() or value.is_complex()):
        raise TypeError(f"{name} must have an integer dtype, but is {describe_value(value)}; convert it with .long()")
    allowed = (ndim,) if isinstance(ndim, int) else ndim
    if value.ndim == 0 or (allowed is not None and value.ndim not in allowed):
        wanted = "at least 1" if allowed is None else " or ".join(map(str, allowed))
        raise ValueError(f"{name} must have {wanted} dimension(s), but is {describe_value(value)}")
    if value.numel() == 0:
        raise ValueError(f"{name} is empty: {describe_value(value)}; pass at least one sample")
    # A finite sum means that all values are finite, and summing is about 20 times as fast as testing each value. An
    # infinite sum can also come from an overflow, so then each value is tested.
    if finite and value.is_floating_point() and not value.detach().sum().isfinite() and not torch.isfinite(value).all():
        nan = int(torch.isnan(value).sum())
        inf = int(torch.isinf(value).sum())
        raise ValueError(
            f"{name} must be finite, but {describe_value(value)} holds {nan} NaN and {inf} infinite value(s); "
            "find where they start with course_utils.basics.describe_output on the layers before"
        )
    return value


def _plain_advice(value: Tensor, *, sparse: bool) -> str | None:
    """What kind of tensor it is, and how to make an ordinary one of it; None if it is one."""
    if value.is_nested:
        return "nested; pad it with .to_padded_tensor(0.0)"
    if value.is_quantized:
        return f"quantised, {dtype_name(value.dtype)}; convert it with .dequantize()"
    if value.layout != torch.strided and not sparse:
        return "sparse; convert it with .to_dense()"
    if value.is_floating_point() and value.element_size() == 1:
        return f"{dtype_name(value.dtype)}; convert it with .float()"
    return None


def check_logits(
    value: Any, name: str = "logits", *, ndim: int | tuple[int, ...] | None = None, class_dim: int | None = None
) -> Tensor:
    """Return `value` if it holds logits. −inf is one: it masks a class out. NaN and +inf are none.

    Args:
        ndim: allowed number(s) of dimensions; None allows any but 0.
        class_dim: the axis of classes that exclude each other: along it at least one logit must be finite.
    """
    logits = check_tensor(value, name, ndim=ndim, finite=False)
    values = logits.detach()
    if values.sum().isfinite():  # then all values are finite
        return logits
    wrong = values.isnan() | (values == math.inf)
    if wrong.any():
        nan = int(values.isnan().sum())
        raise ValueError(
            f"{name} must be finite, or −inf for a masked class, but {describe_value(value)} holds {nan} NaN and "
            f"{int(wrong.sum()) - nan} +inf value(s); see course_utils.pitfalls.first_nonfinite_layer"
        )
    if class_dim is not None and (masked := (values == -math.inf).all(class_dim)).any():
        raise ValueError(f"{name} must leave at least one class unmasked, but {int(masked.sum())} row(s) are all −inf")
    return logits


def as_labels(value: Any, name: str, *, num_samples: int) -> Tensor:
    """Class indices in any usual form as a tensor (N,): a tensor, a list, an array, a column of a table.

    One number stands for all samples.

    Raises:
        TypeError: numbers that are not whole.
    """
    if isinstance(value, Tensor):
        labels = value
    else:
        try:
            # A column of pandas is read row by row, whatever its index says; torch would look rows up by the index.
            plain = value.to_numpy() if hasattr(value, "to_numpy") else value
            labels = torch.as_tensor(plain.copy() if isinstance(plain, np.ndarray) else plain)  # some are read-only
        except (TypeError, ValueError, RuntimeError):
            raise TypeError(f"{name} must be whole numbers, one a sample, but is {describe_value(value)}") from None
    if labels.dtype in (torch.uint16, torch.uint32, torch.uint64):  # NumPy's, with which torch cannot compute
        labels = labels.long()
    return labels.expand(num_samples) if labels.ndim == 0 else labels


def check_labels(value: Any, name: str, *, num_samples: int, num_classes: int | None) -> Tensor:
    """Return class indices 0 … C−1 as a tensor (N,); raise an error that says what to do if they are none.

    Taken are a tensor, a list or an array of N of them, or a single one for all samples. As long as C is not known,
    None, their range is not looked at.
    """
    target = check_tensor(as_labels(value, name, num_samples=num_samples), name, ndim=1, floating=False)
    if len(target) != num_samples:
        raise ValueError(f"{name} must hold one label for each of the {num_samples} samples, but has {len(target)}")
    if num_classes is None:
        return target
    low, high = int(target.min()), int(target.max())
    if low < 0 or high >= num_classes:
        raise ValueError(
            f"{name} must hold class indices from 0 to {num_classes - 1}, but its range is {low} to {high}"
        )
    return target


def check_class_names(
    class_names: Any, num_classes: int, *, name: str = "class_names", of: str = "classes"
) -> tuple[str, ...] | None:
    """Return the names as a tuple (None stays None); raise if there is not one for each class.

    Taken are a sequence, an array or a pandas Index of strings, or a dict from class index to name, such as the
    `id2label` of transformers. `name` and `of` are words of the message: how the argument is called, and what it names.
    """
    if class_names is None:
        return None
    names = class_names
    if isinstance(names, Mapping):
        if set(names) != set(range(len(names))):
            raise ValueError(f"{name} must name the {of} 0 to {num_classes - 1}, but has the keys {list(names)}")
        names = [names[i] for i in range(len(names))]
    is_list = isinstance(names, Iterable) and hasattr(names, "__len__") and not isinstance(names, (str, Tensor, Set))
    names = tuple(names) if is_list else ()
    if not is_list or not all(isinstance(each, str) for each in names):
        raise TypeError(f"{name} must be a list of strings, but is {describe_value(class_names)}")
    if len(names) != num_classes:
        raise ValueError(f"{name} must name {num_classes} {of}, but has {len(names)} names")
    return tuple(map(str, names))


def check_choice(value: Any, name: str, options: Sequence[str]) -> str:
    """Return `value` if it is one of `options`; the error lists them."""
    if value not in options:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, options))}, but is {value!r}")
    return value


def check_count(value: Any, name: str, *, minimum: int = 1) -> int:
    """Return `value` if it is a whole number ≥ `minimum` (True and 3.0 are not whole numbers here)."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be an int, but is {describe_value(value)}")
    if value < minimum:
        raise ValueError(f"{name} must be at least {minimum}, but is {value}")
    return int(value)


def check_number(
    value: Any, name: str, *, above: float = -math.inf, below: float = math.inf, finite: bool = True
) -> float:
    """Return `value` as a float if it is a number strictly between `above` and `below`.

    With `finite=False` infinities pass, and the caller judges the range.
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, but is {describe_value(value)}")
    if finite and not above < value < below:  # also False for NaN
        limits = {
            (True, True): "finite",
            (False, True): f"finite and greater than {above}",
            (True, False): f"finite and less than {below}",
        }.get((above == -math.inf, below == math.inf), f"strictly between {above} and {below}")
        raise ValueError(f"{name} must be {limits}, but is {value}")
    return float(value)


def check_share(value: Any, name: str) -> float:
    """Return `value` as a float if it is a number in [0, 1]."""
    share = check_number(value, name)
    if not 0 <= share <= 1:
        raise ValueError(f"{name} must lie in [0, 1], but is {value}")
    return share


def check_pair(value: Any, name: str, parts: str) -> tuple[Any, Any]:
    """Return `value` if it is a sequence of two; `parts` names them in the message, for example "(mean, std)"."""
    if isinstance(value, (str, Tensor)) or not isinstance(value, Sequence) or len(value) != 2:
        raise ValueError(f"{name} must be a pair {parts}, but is {describe_value(value)}")
    return value[0], value[1]


def check_range(value: Any, name: str) -> tuple[float, float]:
    """Return `value` as two floats if it is a pair (low, high) with low < high."""
    low, high = (check_number(limit, name) for limit in check_pair(value, name, "(low, high)"))
    if low >= high:
        raise ValueError(f"{name} must be (low, high) with low < high, but is ({low}, {high})")
    return low, high


def check_normalization(value: Any, *, channels: int) -> tuple[Tensor, Tensor]:
    """Return (mean, std) as float64 tensors on the CPU, each with 1 value or one for each channel; std is positive."""
    pair = check_pair(value, "normalization", "(mean, std)")
    try:
        mean, std = (torch.as_tensor(part, dtype=torch.float64).cpu().flatten() for part in pair)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"normalization must be a pair (mean, std) of numbers, but is {value!r}") from None
    for name, part in (("mean", mean), ("std", std)):
        if len(part) not in (1, channels) or not part.isfinite().all():
            raise ValueError(
                f"normalization's {name} must be {channels} finite numbers, one a channel, but is {part.tolist()}"
            )
    if (std <= 0).any():
        raise ValueError(f"normalization's std must be positive, but is {std.tolist()}")
    return mean, std


def check_threshold(threshold: float | None, task: str) -> float:
    """The decision threshold of a binary or multilabel task: in [0, 1] or +inf ("never"); None is 0.5."""
    if threshold is None:
        return 0.5
    if task == "multiclass":
        raise ValueError(
            "multiclass takes the most probable class and no threshold; "
            "to refuse unsure answers, compare the largest probability with your threshold"
        )
    threshold = check_number(threshold, "threshold", finite=False)
    if not (0 <= threshold <= 1 or threshold == math.inf):
        raise ValueError(f"threshold must lie in [0, 1], or be +inf for 'never positive', but is {threshold}")
    return threshold
