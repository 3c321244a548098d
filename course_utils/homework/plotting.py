"""Figures of a comparison."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from course_utils.foundation.plotting import MARKERS, PALETTE, axes_or_new, course_style, finish, new_figure
from course_utils.homework.metrics import METRICS, higher_is_better, is_share
from course_utils.homework.results import ComparedRuns

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_CURVES = 8  # one for each colour of the palette
MAX_ROWS = 25
MAX_WRITTEN = 20  # rows or columns of a heatmap whose cells have room for a number


@course_style()
def plot_curves(comparison: ComparedRuns, *, ax: Axes | None = None) -> Figure:
    """The training loss of the best settings, at most 8: median over the seeds, and the range of all seeds."""
    numbers = comparison.summary()["setting"].tolist()
    shown = numbers[:MAX_CURVES]
    figure, ax = axes_or_new(ax, size=(9.0, 4.2))  # wide: the legend stands beside the axes, and its labels are long
    curves = [comparison.curves_of(number) for number in shown]  # (epochs, seeds) each
    for i, (number, curve) in enumerate(zip(shown, curves, strict=True)):
        style = {"color": PALETTE[i], "label": f"{i + 1}. {comparison.label(number)}", "zorder": 3 - i / 10}
        marks = {"marker": MARKERS[i], "markevery": (i, max(1, len(curve) // 8)), "markersize": 5}
        ax.fill_between(curve.index, curve.min(axis=1), curve.max(axis=1), alpha=0.12, linewidth=0, color=PALETTE[i])
        ax.plot(curve.index, curve.median(axis=1), **style, **marks)
    losses = np.concatenate([curve.to_numpy().ravel() for curve in curves])
    if (losses > 0).any():
        ax.set_yscale("log")
    title = "Training loss" if len(shown) == len(numbers) else f"Training loss of the {len(shown)} best settings"
    ax.set(xlabel="epoch", ylabel="training loss (nats per sample)", title=f"{title}: median and range of the seeds")
    ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), title="by validation rank", fontsize=9)
    return finish(figure)


@course_style()
def plot_heatmap(comparison: ComparedRuns, x: str | None = None, y: str | None = None) -> Figure:
    """The mean validation metric for each pair of values of two names, over everything else.

    Args:
        comparison: two or more settings.
        x, y: varied names; None takes those with the most values.
    """
    import seaborn
    from matplotlib.colors import LogNorm, Normalize

    x, y = _axes_names(comparison, x, y)
    means = _means_by_value(comparison, x, y)
    has_room = max(means.shape) <= MAX_WRITTEN
    rows, columns = means.shape if has_room else (MAX_WRITTEN / 2, MAX_WRITTEN / 2)
    figure, (ax,) = new_figure(size=(2.6 + 0.9 * columns, 1.7 + 0.55 * rows))
    finite = means.to_numpy()[np.isfinite(means.to_numpy())]
    # Without finite values there is nothing to scale; with a single one matplotlib would divide by zero.
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    high = high if high > low else low + 1e-9
    better = "higher" if higher_is_better(comparison.metric) else "lower"
    seaborn.heatmap(
        means,
        ax=ax,
        cmap="cividis",
        norm=LogNorm(low, high) if _spans_decades(finite) else Normalize(low, high),
        annot=means.map(lambda value: f"{value:.3f}" if abs(value) < 100 else f"{value:.1e}") if has_room else None,
        fmt="",
        annot_kws={"fontsize": 10},
        cbar_kws={"label": f"{better} is better"},
    )
    for row, column in np.argwhere(means.isna().to_numpy()) if has_room else ():
        ax.text(column + 0.5, row + 0.5, "–", ha="center", va="center")
    ax.set(xlabel=x, ylabel=y or "", title=f"Mean validation {METRICS[comparison.metric]}")
    ax.tick_params(axis="y", rotation=0)
    ax.grid(visible=False)
    return finish(figure)


def _means_by_value(comparison: ComparedRuns, x: str, y: str | None) -> pd.DataFrame:
    """The mean validation metric, a row for each value of y (text), a column for each value of x."""
    runs, metric = comparison.runs, f"validation_{comparison.metric}"
    rows = pd.DataFrame({"x": runs[x], "y": runs[y] if y else "", "value": runs[metric]})
    means = rows.groupby(["y", "x"], sort=False)["value"].mean().unstack()
    means = means.loc[_in_order(means.index), _in_order(means.columns)]
    return means.set_axis(map(_tick, means.index)).set_axis(map(_tick, means.columns), axis=1)


def _axes_names(comparison: ComparedRuns, x: str | None, y: str | None) -> tuple[str, str | None]:
    """The names on the two axes; y is None if only one name is varied."""
    varied = comparison.varied
    if not varied:
        raise ValueError("the comparison has a single setting, so there is nothing to draw against each other")
    for name, axis in ((x, "x"), (y, "y")):
        if name is not None and name not in varied:
            raise ValueError(f"{axis} must be one of the varied names {', '.join(varied)}, but is {name!r}")
    if x is not None and x == y:
        raise ValueError(f"x and y must be two different names, but both are {x!r}")
    counts = {name: comparison.runs[name].nunique() for name in varied}
    free = [name for name in sorted(varied, key=lambda name: -counts[name]) if name not in (x, y)]
    x = x or free.pop(0)
    return x, y or (free[0] if free else None)


def _spans_decades(values: np.ndarray) -> bool:
    """Are there figures, as of a loss that nearly diverged, beside which all others would look the same?"""
    return len(values) > 0 and values.min() > 0 and values.max() > 100 * values.min()


def _in_order(values: pd.Index) -> list:
    """Numbers ascending, text in the order of the grid."""
    values = list(values)
    return sorted(values) if all(isinstance(value, (int, float)) for value in values) else values


def _tick(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


@course_style()
def plot_seeds(comparison: ComparedRuns, *, ax: Axes | None = None) -> Figure:
    """Each run of the best settings, at most 25, with the mean and its 95 % interval."""
    table = comparison.summary().head(MAX_ROWS)
    values = comparison.matrix()
    figure, ax = axes_or_new(ax, size=(8.5, 1.5 + 0.32 * len(table)))
    for place, row in enumerate(table.itertuples()):
        finite = values[row.setting][np.isfinite(values[row.setting])]
        color = PALETTE[0] if row.tied_with_best else "#777777"
        # Runs with equal figures are moved apart, so that their number can be seen.
        spread = np.linspace(-0.22, 0.22, len(finite)) if len(finite) > 1 else np.zeros(len(finite))
        if row.low == row.low:
            ax.plot([row.low, row.high], [place, place], color="black", linewidth=1.5, zorder=2)
        mean = {"marker": "D" if row.tied_with_best else "o", "markeredgecolor": "white", "markersize": 7}
        ax.plot(row.mean, place, color="black", zorder=5, **mean)
        ax.scatter(finite, place + spread, s=18, color=color, alpha=0.8, linewidth=0, zorder=4)
        if row.diverged:
            where = {"xycoords": ("axes fraction", "data"), "ha": "right", "va": "center", "fontsize": 9}
            ax.annotate(f"{row.diverged} of {row.n} diverged", (0.99, place), **where)
    drawn = values[table["setting"]]
    drawn = drawn[np.isfinite(drawn)]
    if not is_share(comparison.metric) and _spans_decades(drawn):
        ax.set_xscale("log")
        ax.set_xlim(drawn.min() / 2, drawn.max() * 2)  # an interval's lower end can be 0
    ax.set_yticks(range(len(table)), [comparison.label(number) for number in table["setting"]], fontsize=9)
    ax.set_ylim(len(table) - 0.5, -0.5)
    ax.grid(axis="y", visible=False)
    ax.set_xlabel(f"validation {METRICS[comparison.metric]}, one dot a seed")
    title = "Mean and corrected 95 % interval; diamond: cannot be told apart from the best"
    ax.set_title(title, fontsize=10.5)
    return finish(figure)


@course_style()
def plot_importance(comparison: ComparedRuns, *, ax: Axes | None = None) -> Figure:
    """`ComparedRuns.importance` as bars."""
    shares = comparison.importance()
    figure, ax = axes_or_new(ax, size=(7.0, 1.4 + 0.42 * len(shares)))
    rest = ("interactions", "seeds", "luck")
    colors = ["#999999" if name in rest else PALETTE[0] for name in shares.index]
    bars = ax.barh(range(len(shares)), shares.fillna(0).to_numpy(), color=colors)
    ax.bar_label(bars, [f"{share:.0%}" if share == share else "–" for share in shares], padding=3)
    ax.set_yticks(range(len(shares)), list(shares.index))
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    ax.set_xlim(0, 1.08)
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    ax.set_xlabel(f"share of the variance of the validation {METRICS[comparison.metric].partition(' (')[0]}")
    ax.set_title("Main effects (blue), and the rest (grey)")
    return finish(figure)
