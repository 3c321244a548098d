"""Reading a regressor's output: each output on its own, in its own unit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from course_utils.foundation.arguments import check_class_names, check_tensor
from course_utils.foundation.devices import full_precision, in_double
from course_utils.foundation.evaluation import tensor_in
from course_utils.foundation.results import Result

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False, repr=False)
class RegressionResult(Result):
    """Predictions of D outputs for N samples, and how far they are off.

    Attributes:
        preds: (N, D).
        target: (N, D), or None.
        error: preds − target, (N, D), or None.
        statistics: a DataFrame with one row per output and the columns mean_error, mean_absolute_error,
            root_mean_squared_error, max_absolute_error, min_absolute_error, std_absolute_error (correction=0) and r2
            (NaN for a constant target or fewer than two samples); None without target.
    """

    preds: Tensor
    target: Tensor | None
    error: Tensor | None
    statistics: pd.DataFrame | None

    per_sample: ClassVar = ("preds", "target", "error")

    def __repr__(self) -> str:
        n, d = self.preds.shape
        table = "" if self.statistics is None else f"\n{self.statistics.round(3).to_string()}"
        return f"RegressionResult({n} samples, {d} output(s)){table}"


def interpret_regression_output(
    preds: Tensor, target: Tensor | None = None, *, names: Sequence[str] | None = None
) -> RegressionResult:
    """Compare predictions with targets, output by output: errors in different units are never pooled.

    Half precision becomes float32 first: the difference of two of its numbers may be more than it can hold.

    Args:
        preds: floating point, (N, D); (N,) means one output. Or a model's output with a tensor `.logits`.
        target: the true values in the same shape; None leaves errors and statistics out.
        names: D names, the index of `statistics`; None numbers the outputs.

    Raises:
        TypeError, ValueError: no finite floating point tensors, an empty batch, shapes that differ (they would
            broadcast), a wrong number of names.

    >>> result = interpret_regression_output(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([1.0, 2.0, 3.0]))
    >>> float(result.statistics["mean_absolute_error"].round(3).iloc[0])
    0.333
    """
    preds = full_precision(check_tensor(tensor_in(preds), "preds", ndim=(1, 2)))
    if target is not None:
        target = full_precision(check_tensor(target, "target", ndim=(1, 2)))
        if target.shape != preds.shape:
            raise ValueError(
                f"preds and target must have the same shape, but are {tuple(preds.shape)} and {tuple(target.shape)}; "
                "different shapes would broadcast every prediction against every target"
            )
    columns = preds.reshape(len(preds), -1)  # (N, D)
    num_outputs = columns.shape[1]
    labels = check_class_names(names, num_outputs, name="names", of="outputs")
    labels = labels or tuple(f"output {d}" for d in range(num_outputs))
    if target is None:
        return RegressionResult(columns, None, None, None)
    truth = target.reshape(len(target), -1).to(columns.device)
    error = columns - truth
    return RegressionResult(columns, truth, error, _statistics(columns.detach(), truth.detach(), labels))


def _statistics(preds: Tensor, target: Tensor, names: tuple[str, ...]) -> pd.DataFrame:
    import pandas as pd

    # Sums of many squares lose digits in float32, and overflow in half precision. (D, N): sums run along memory.
    n = len(preds)
    target = in_double(target).T.contiguous()
    error = preds.to(target.device).T - target
    mean_error, squared = error.mean(1), _mean_square(error)
    absolute = error.abs_()  # in place: new memory costs more time than the arithmetic
    mean_absolute, smallest, largest = absolute.mean(1), absolute.amin(1), absolute.amax(1)
    spread = _mean_square(absolute.sub_(mean_absolute[:, None])).sqrt()
    variance = _mean_square(target - target.mean(1, keepdim=True))
    # A constant target (up to the rounding of its own mean) leaves nothing to explain.
    size = torch.maximum(target.amax(1), -target.amin(1))
    rounding = (8 * torch.finfo(torch.float64).eps * size).square()
    columns = {
        "mean_error": mean_error,
        "mean_absolute_error": mean_absolute,
        "root_mean_squared_error": squared.sqrt(),
        "max_absolute_error": largest,
        "min_absolute_error": smallest,
        "std_absolute_error": spread,
        "r2": torch.where((variance > rounding) & (n > 1), 1 - squared / variance, torch.nan),
    }
    table = torch.stack(list(columns.values()), dim=1)  # (D, 7)
    return pd.DataFrame(table.cpu().numpy(), index=list(names), columns=list(columns))


def _mean_square(values: Tensor) -> Tensor:
    """(D, N) → (D,). The norm needs no memory for the squares."""
    return torch.linalg.vector_norm(values, dim=1).square() / values.shape[1]
