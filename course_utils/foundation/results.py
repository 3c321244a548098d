"""The common behaviour of results: small frozen dataclasses of tensors, one row a sample."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

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
        if isinstance(index, slice):
            raise TypeError(f"index one sample at a time, or slice the fields: result.{self.per_sample[0]}[{index}]")
        index = range(len(self))[index]  # IndexError out of range; negative indices count from the end
        return {name: plain(getattr(self, name)[index]) for name in self.per_sample}

    def to_frame(self) -> pd.DataFrame:
        """One row a sample. A field with several values a sample becomes several columns, `name_0`, `name_1`, …"""
        import pandas as pd

        columns = {}
        for name in self.per_sample:
            values = getattr(self, name)
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
        corner = dataclasses.replace(self, **{name: _corner(getattr(self, name)) for name in self.per_sample})
        frame = corner.to_frame()
        cut_off = sum(_width(getattr(self, name)) - _width(getattr(corner, name)) for name in self.per_sample)
        table = short_table(frame, len(self), frame.shape[1] + cut_off)
        return f"<p>{type(self).__name__}, {len(self)} rows</p>{table}"


_ROWS, _COLUMNS = 10, 20  # of a table in a notebook


def _corner(values: Any) -> Any:
    """The first rows of a field and, where a sample has several values, the first of those."""
    if values is None:
        return None
    if not isinstance(values, Tensor) or values.ndim == 1:
        return values[:_ROWS]
    return values[:_ROWS].flatten(1)[:, :_COLUMNS]


def _width(values: Any) -> int:
    """How many columns of a table a field fills."""
    if values is None:
        return 0
    return values.shape[1:].numel() if isinstance(values, Tensor) else 1


def short_table(frame: pd.DataFrame, rows: int, columns: int) -> str:
    """A table's first ten rows and twenty columns as HTML, and how many more of its `rows` and `columns` there are."""
    shown = frame.iloc[:_ROWS, :_COLUMNS]
    hidden = {"rows": rows - shown.shape[0], "columns": columns - shown.shape[1]}
    more = " and ".join(f"{count:,} more {what}" for what, count in hidden.items() if count)
    return shown.round(3).to_html() + (f"<p>… {more}</p>" if more else "")


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
