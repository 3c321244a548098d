"""The parts of a nested output: of dicts, lists, and objects such as those of transformers."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor


def parts_of(value: Any) -> dict[Any, Any] | None:
    """The parts of a container by key, index or name; None if it is no container.

    Containers are dicts, lists, tuples, dataclasses, and objects with a tensor `.logits`. A part that is None is left
    out: it stands for an output that the model did not make.

    >>> parts_of({"a": 1, "b": None}), parts_of([2, 3]), parts_of(4)
    ({'a': 1}, {0: 2, 1: 3}, None)
    """
    if isinstance(value, Mapping):
        parts = dict(value)
    elif isinstance(value, (list, tuple)):
        parts = dict(enumerate(value))
    elif is_dataclass(value) and not isinstance(value, type):
        parts = {field.name: getattr(value, field.name) for field in fields(value)}
    elif isinstance(getattr(value, "logits", None), Tensor):
        parts = vars(value) if "logits" in getattr(value, "__dict__", {}) else {"logits": value.logits}
    else:
        return None
    return {key: part for key, part in parts.items() if part is not None}


def has_named_parts(container: Any) -> bool:
    """Are the parts reached by `.name`, or by `[key]`?"""
    return not isinstance(container, (Mapping, list, tuple))
