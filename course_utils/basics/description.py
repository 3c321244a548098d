"""`describe_output`: everything one should know of an output before using it."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor

from course_utils.foundation.arguments import check_choice, describe_value, dtype_name
from course_utils.foundation.devices import in_double
from course_utils.foundation.html import render
from course_utils.foundation.outputs import has_named_parts, parts_of
from course_utils.foundation.probabilities import sums_to_one
from course_utils.foundation.values import KINDS, value_kinds

# What the axes of an output mean, by task and number of dimensions.
_AXES = {
    "binary": {1: ("N samples",), 2: ("N samples", "1 logit")},
    "multiclass": {2: ("N samples", "C classes"), 3: ("N samples", "C classes", "L positions")},
    "multilabel": {2: ("N samples", "C classes")},
    "regression": {1: ("N samples",), 2: ("N samples", "D outputs")},
    "segmentation": {4: ("N samples", "C classes", "H rows", "W columns")},
    "sequence": {3: ("N samples", "T time steps", "V vocabulary")},
}
_GUESSED_AXES = {
    0: (),
    1: ("N samples",),
    2: ("N samples", "C classes or D outputs"),
    3: ("N samples", "T time steps (or C classes)", "V vocabulary (or L positions)"),
    4: ("N samples", "C classes or channels", "H rows", "W columns"),
}
TASKS = tuple(_AXES)
_SHOWN = 20  # tensors of a nested output, in a notebook


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class OutputReport:
    """What `describe_output` found; `print(report)` says it in words.

    Attributes:
        path: where in a nested output this part is, for example "['boxes'][0]"; empty at the top.
        shape, dtype, device: of the tensor; None for a container.
        axes: what each axis means; guessed from the number of dimensions when no task was given.
        requires_grad: is it still attached to a graph?
        nan_count, inf_count: numbers of NaN and of infinite values.
        minimum, maximum: over the finite values, of complex ones over their magnitudes; None where there are none.
        kinds: what the values can be, of "logits", "probabilities" and "log_probabilities"; of a container, what
            all its tensors can be, the empty ones left aside.
        reasons: a sentence on each kind, saying why or why not.
        parts: the reports of a container's parts, by key, index or name.
        skipped: paths and types of what is no tensor, a cache for example.
    """

    path: str
    shape: tuple[int, ...] | None = None
    dtype: torch.dtype | None = None
    device: torch.device | None = None
    axes: tuple[str, ...] = ()
    requires_grad: bool
    nan_count: int
    inf_count: int
    minimum: float | None
    maximum: float | None
    kinds: tuple[str, ...]
    reasons: dict[str, str] = field(default_factory=dict)
    parts: dict[Any, Self] = field(default_factory=dict)
    skipped: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.parts)

    def __bool__(self) -> bool:
        return True  # also without parts

    def __iter__(self) -> Iterator:
        return iter(self.parts)

    def __getitem__(self, key: Any) -> Self:
        return self.parts[key]

    def to_frame(self):
        """A DataFrame with one row per tensor."""
        import pandas as pd

        names = ("path", "shape", "dtype", "requires_grad", "nan_count", "inf_count", "minimum", "maximum", "kinds")
        return pd.DataFrame([{name: getattr(leaf, name) for name in names} for leaf in self._leaves()])

    def _leaves(self) -> list[Self]:
        if self.shape is not None:
            return [self]
        return [leaf for part in self.parts.values() for leaf in part._leaves()]

    def __repr__(self) -> str:
        if self.shape is None:
            skipped = [f"not described, because it is no tensor: {', '.join(self.skipped)}"] if self.skipped else []
            return "\n\n".join([*map(repr, self._leaves()), *skipped]) or "an output without tensors"
        graph = "attached to a graph (requires_grad)" if self.requires_grad else "detached"
        lines = [
            f"{'output' + self.path}: {dtype_name(self.dtype)} {self.shape} on {self.device}, {graph}",
            *(f"  axis {i}: {n} = {axis}" for i, (n, axis) in enumerate(zip(self.shape, self.axes, strict=True))),
            f"  values: {self._values()}",
            *(f"  {kind.replace('_', '-')}? {self.reasons[kind]}" for kind in KINDS if kind in self.reasons),
        ]
        return "\n".join(lines)

    def _values(self) -> str:
        if not math.prod(self.shape):
            return "none, the tensor is empty"
        values = "none finite" if self.minimum is None else f"{self.minimum:.4g} to {self.maximum:.4g}"
        values = f"magnitudes {values}" if self.dtype.is_complex else values
        nonfinite = self.nan_count or self.inf_count
        return f"{values}, {self.nan_count} NaN, {self.inf_count} infinite" if nonfinite else f"{values}, all finite"

    def _repr_html_(self) -> str:
        leaves = self._leaves()
        more = f"\n\n… {len(leaves) - _SHOWN:,} more tensors" if len(leaves) > _SHOWN else ""
        text = "\n\n".join(map(repr, leaves[:_SHOWN])) + more if more else repr(self)
        return render("foundation/templates/preformatted.html", text=text)


def describe_output(output: Any, *, task: str | None = None) -> OutputReport:
    """Report the contract of a model's output: shape and meaning of each axis, dtype, device, gradient, range, kind.

    The kinds say what the values *can* be. Any real number can be a logit, so "probabilities" in the kinds comes
    together with "logits"; the absence of a kind is the strong statement.

    Args:
        output: a tensor, or dicts, lists, tuples, dataclasses and objects with `.logits`, nested as deep as you like.
            NaN and Inf are welcome: they are counted. So are empty parts, as a detector makes them of an image without
            objects. A part that is no tensor, such as the cache of a language model, is skipped and named. Sparse,
            quantised and 8-bit tensors are read as the numbers that they stand for, a nested one as a list.
        task: "binary", "multiclass", "multilabel", "regression", "segmentation" (N, C, H, W) or "sequence" (N, T, V);
            None guesses from the shape.

    Raises:
        TypeError: there is no tensor in the output, or an array that should be one.
        ValueError: an unknown task, a shape that does not fit it, or an empty tensor on its own.

    >>> report = describe_output(torch.tensor([[2.0, -1.0, 0.5]]), task="multiclass")
    >>> report.kinds
    ('logits',)
    >>> describe_output(torch.softmax(torch.tensor([[2.0, -1.0, 0.5]]), dim=1)).kinds
    ('logits', 'probabilities')
    """
    if task is not None:
        check_choice(task, "task", TASKS)
    if isinstance(output, Tensor) and output.numel() == 0:
        raise ValueError(f"output is empty: {describe_value(output)}; there is nothing to describe")
    report = _describe(output, task, path="")
    if report is None:
        raise TypeError(f"output must be a tensor or a dict, list or tuple of tensors, but is {describe_value(output)}")
    if report.skipped and not report._leaves():
        raise TypeError(f"output must hold a tensor, but holds only {', '.join(report.skipped)}")
    return report


def _describe(output: Any, task: str | None, path: str) -> OutputReport | None:
    """The report of one part; None if it is neither tensor nor container."""
    if isinstance(output, Tensor) and output.is_nested:
        output = list(output.unbind())
    if isinstance(output, Tensor):
        return _describe_tensor(output, task, path)
    values = parts_of(output)
    if values is None:
        if hasattr(output, "dtype") and hasattr(output, "shape"):
            raise TypeError(f"output{path} must be a tensor, but is {describe_value(output)}; use torch.as_tensor")
        return None
    paths = {key: f"{path}.{key}" if has_named_parts(output) else f"{path}[{key!r}]" for key in values}
    if has_named_parts(output) and list(values) == ["logits"]:
        return _describe(values["logits"], task, paths["logits"])
    found = {key: _describe(value, task, paths[key]) for key, value in values.items()}
    parts = {key: part for key, part in found.items() if part is not None}
    foreign = [f"output{paths[key]} ({type(values[key]).__name__})" for key, part in found.items() if part is None]
    return _summary(path, parts, (*foreign, *(name for part in parts.values() for name in part.skipped)))


def _summary(path: str, parts: dict[Any, OutputReport], skipped: tuple[str, ...]) -> OutputReport:
    """The report of a container."""
    filled = [leaf for part in parts.values() for leaf in part._leaves() if math.prod(leaf.shape)]
    return OutputReport(
        path=path,
        requires_grad=any(part.requires_grad for part in parts.values()),
        nan_count=sum(part.nan_count for part in parts.values()),
        inf_count=sum(part.inf_count for part in parts.values()),
        minimum=min((part.minimum for part in parts.values() if part.minimum is not None), default=None),
        maximum=max((part.maximum for part in parts.values() if part.maximum is not None), default=None),
        kinds=tuple(kind for kind in KINDS if filled and all(kind in leaf.kinds for leaf in filled)),
        parts=parts,
        skipped=skipped,
    )


def _describe_tensor(output: Tensor, task: str | None, path: str) -> OutputReport:
    values = _readable(output.detach())
    axes = _axes(values, task)
    real = values if values.is_floating_point() else in_double(values)
    finite = real[torch.isfinite(real)]
    finite = finite.abs() if finite.is_complex() else finite
    if task == "regression":
        kinds, reasons = (), dict.fromkeys(KINDS, "no: a regression's outputs are values in the target's own unit")
    else:
        exclusive = None if task is None else task not in ("binary", "multilabel")
        found = value_kinds(values, class_dim=_class_dim(values, task), exclusive=exclusive)
        kinds, reasons = found.kinds, found.reasons
    return OutputReport(
        path=path,
        shape=tuple(values.shape),
        dtype=output.dtype,
        device=values.device,
        axes=axes,
        requires_grad=output.requires_grad,
        nan_count=int(torch.isnan(real).sum()),
        inf_count=int(torch.isinf(real).sum()),
        minimum=float(finite.min()) if finite.numel() else None,
        maximum=float(finite.max()) if finite.numel() else None,
        kinds=kinds,
        reasons=reasons,
    )


def _readable(values: Tensor) -> Tensor:
    """The same values in a layout and dtype in which torch can compute with them."""
    if values.is_quantized:
        return values.dequantize()
    values = values if values.layout == torch.strided else values.to_dense()
    return values.float() if values.is_floating_point() and values.element_size() == 1 else values


def _axes(values: Tensor, task: str | None) -> tuple[str, ...]:
    if task is None:
        return _GUESSED_AXES.get(values.ndim) or tuple(f"axis {i}" for i in range(values.ndim))
    known = _AXES[task]
    if task == "binary" and values.ndim == 2 and values.shape[1] != 1:
        raise ValueError(
            f"the output of a binary task is one logit a sample, (N,) or (N, 1), but this is {describe_value(values)}; "
            "two columns are a multiclass output of two classes, or multilabel"
        )
    if values.ndim not in known and not (task in ("multiclass", "multilabel") and values.ndim > 2):
        wanted = " or ".join(f"({', '.join(name.split()[0] for name in axes)})" for axes in known.values())
        raise ValueError(f"the output of a {task} task has the shape {wanted}, but this is {describe_value(values)}")
    return known.get(values.ndim) or ("N samples", "C classes", *(f"axis {i}" for i in range(2, values.ndim)))


def _class_dim(values: Tensor, task: str | None) -> int | None:
    """The axis of the classes: the last one of a sequence's (N, T, V), dim 1 otherwise, none in a flat tensor."""
    if values.ndim < 2:
        return None
    if task is None and values.ndim == 3:
        # (N, C, L) or (N, T, V)? Sums of 1 along dim 1 settle it; otherwise read it as a sequence.
        return 1 if values.is_floating_point() and values.numel() and sums_to_one(values, 1).all() else 2
    return values.ndim - 1 if task == "sequence" else 1
