"""The common behaviour of results: small frozen dataclasses of tensors, one row a sample."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar, SupportsIndex

import torch
from torch import Tensor

from course_utils.foundation.arguments import describe_value
from course_utils.foundation.html import render

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd


class Result:
    """Base of result dataclasses: `len()`, indexing that gives one sample as a plain dict, `to_frame()`, a short repr.

    A subclass is decorated with `@dataclass(frozen=True, eq=False, repr=False)` and names in `per_sample` the fields
    whose first axis counts samples; the first of them gives the length.
    """

    per_sample: ClassVar[tuple[str, ...]]

    def __len__(self) -> int:
        return len(getattr(self, self.per_sample[0]))

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not isinstance(index, SupportsIndex):
            raise TypeError(
                "index one sample at a time, result[i], or slice the fields, such as "
                f"result.{self.per_sample[0]}[:10]; the index is {describe_value(index)}"
            )
        index = range(len(self))[index]  # IndexError out of range; negative indices count from the end
        return {name: plain(values[index]) for name, values in self._given().items()}

    def _given(self) -> dict[str, Any]:
        """The fields whose first axis counts samples, without those that are None."""
        fields = {name: getattr(self, name) for name in self.per_sample}
        return {name: values for name, values in fields.items() if values is not None}

    def to_frame(self) -> pd.DataFrame:
        """One row a sample. A field with several values a sample becomes several columns, `name_0`, `name_1`, …"""
        import pandas as pd

        columns = {}
        for name, values in self._given().items():
            if not isinstance(values, Tensor):  # ragged: one object a row
                columns[name] = pd.Series(list(values), dtype=object)
            elif values.ndim == 1:
                columns[name] = as_numpy(values)
            else:
                columns |= {f"{name}_{i}": as_numpy(column) for i, column in enumerate(values.flatten(1).T)}
        return pd.DataFrame(columns)

    def __repr__(self) -> str:
        fields = ", ".join(f"{f.name}={short(getattr(self, f.name))}" for f in dataclasses.fields(self))
        return f"{type(self).__name__}({fields})"

    def _repr_html_(self) -> str:
        # A table of every value could take minutes: only what is shown becomes a frame.
        given = self._given()
        corner = {name: _corner(values) for name, values in given.items()}
        frame = dataclasses.replace(self, **corner).to_frame()
        cut_off = sum(_width(given[name]) - _width(corner[name]) for name in given)
        text = f"{type(self).__name__}, {len(self)} rows"
        return short_table(text, frame, len(self), frame.shape[1] + cut_off)


_ROWS, _COLUMNS = 10, 20  # of a table in a notebook


def _corner(values: Any) -> Any:
    """The first rows of a field and, where a sample has several values, the first of those."""
    if not isinstance(values, Tensor) or values.ndim == 1:
        return values[:_ROWS]
    return values[:_ROWS].flatten(1)[:, :_COLUMNS]


def _width(values: Any) -> int:
    """How many columns of a table a field fills."""
    return values.shape[1:].numel() if isinstance(values, Tensor) else 1


def short_table(text: str, frame: pd.DataFrame, rows: int, columns: int) -> str:
    """A line of text, the first ten rows and twenty columns of a table, and how many more `rows` and `columns` it has.

    As HTML, for a notebook.
    """
    shown = frame.iloc[:_ROWS, :_COLUMNS]
    hidden = {"rows": rows - shown.shape[0], "columns": columns - shown.shape[1]}
    more = " and ".join(f"{count:,} more {what}" for what, count in hidden.items() if count)
    return render("foundation/templates/result.html", text=text, table=shown.round(3).to_html(), more=more)


def as_numpy(values: Tensor) -> np.ndarray:
    """A tensor as an array; half precision as float32, because NumPy has no bfloat16 and pandas overflows float16."""
    values = values.detach().cpu()
    return (values.float() if values.dtype in (torch.bfloat16, torch.float16) else values).numpy()


def plain(value: Any) -> Any:
    """A tensor of one element as a Python number; anything else unchanged."""
    return value.item() if isinstance(value, Tensor) and value.ndim == 0 else value


def short(value: Any) -> str:
    """A value in a few characters: tensors by dtype and shape, floats with 4 digits."""
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, (list, tuple)) and len(value) > 5:
        return f"{type(value).__name__} of {len(value)}"
    return repr(value)
