"""Figures of a comparison."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np

from course_utils.foundation.plotting import MARKERS, PALETTE, axes_or_new, course_style, finish, new_figure
from course_utils.homework.measuring import higher_is_better

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from course_utils.homework.comparison import Comparison

MAX_CURVES = 8  # one for each colour of the palette
MAX_ROWS = 25
UNITS = {"accuracy": "accuracy", "loss": "loss (nats per sample)", "f1_macro": "macro F1"}


@course_style()
def plot_curves(
    comparison: Comparison, *, ax: Axes | None = None, save_path: str | os.PathLike | None = None
) -> Figure:
    numbers = comparison.summary()["setting"].tolist()
    shown = numbers[:MAX_CURVES]
    # Beside the axes, and long labels need room.
    figure, ax = axes_or_new(ax, size=(9.0, 4.2))
    curves = comparison.curves
    ends = []
    for i, number in enumerate(shown):
        own = curves[curves["setting"] == number].pivot(index="epoch", columns="seed", values="loss")  # (epochs, seeds)
        style = {"color": PALETTE[i % len(PALETTE)], "zorder": 3 - i / 10}
        marks = {"marker": MARKERS[i % len(MARKERS)], "markevery": (i, max(1, len(own) // 8)), "markersize": 5}
        ax.fill_between(own.index, own.min(axis=1), own.max(axis=1), alpha=0.12, linewidth=0, color=style["color"])
        ax.plot(own.index, own.median(axis=1), label=f"{i + 1}. {comparison.label(number)}", **style, **marks)
        ends.append(own)
    lowest = min((float(own[own > 0].min().min()) for own in ends if (own > 0).any().any()), default=0.0)
    if lowest > 0:
        ax.set_yscale("log")
    title = "Training loss" if len(shown) == len(numbers) else f"Training loss of the {len(shown)} best settings"
    ax.set(xlabel="epoch", ylabel="training loss (nats per sample)", title=f"{title}: median and range of the seeds")
    ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), title="by validation rank", fontsize=9)
    return finish(figure, save_path)


@course_style()
def plot_heatmap(
    comparison: Comparison, x: str | None, y: str | None, *, save_path: str | os.PathLike | None = None
) -> Figure:
    from matplotlib.colors import LogNorm, Normalize

    x, y = _axes_names(comparison, x, y)
    rows = comparison.runs[[f"validation_{comparison.metric}"]].copy()
    rows["x"] = comparison.runs[x] if x else ""
    rows["y"] = comparison.runs[y] if y else ""
    means = rows.groupby(["y", "x"], sort=False)[f"validation_{comparison.metric}"].mean().unstack()
    means = means.loc[_in_order(means.index), _in_order(means.columns)]
    figure, (ax,) = new_figure(size=(2.6 + 0.9 * means.shape[1], 1.7 + 0.55 * means.shape[0]))
    values = means.to_numpy(dtype=float)
    finite = values[np.isfinite(values)]
    # Without finite values there is nothing to scale; with a single one matplotlib would divide by zero.
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    high = high if high > low else low + 1e-9
    norm = LogNorm(low, high) if _spans_decades(finite) else Normalize(low, high)
    image = ax.imshow(values, aspect="auto", norm=norm)
    for row, column in np.ndindex(*values.shape):
        value = values[row, column]
        if not np.isfinite(value):
            ax.text(column, row, "–", ha="center", va="center", color="black")
            continue
        dark = norm(value) < 0.55  # the lower half of cividis is dark
        text = f"{value:.3f}" if abs(value) < 100 else f"{value:.1e}"
        ax.text(column, row, text, ha="center", va="center", color="white" if dark else "black", fontsize=10)
    ax.set_xticks(range(means.shape[1]), [_tick(value) for value in means.columns])
    ax.set_yticks(range(means.shape[0]), [_tick(value) for value in means.index])
    ax.set(xlabel=x or "", ylabel=y or "", title=f"Mean validation {UNITS[comparison.metric]}")
    ax.grid(visible=False)
    better = "higher" if higher_is_better(comparison.metric) else "lower"
    figure.colorbar(image, ax=ax, label=f"{better} is better")
    return finish(figure, save_path)


def _axes_names(comparison: Comparison, x: str | None, y: str | None) -> tuple[str, str | None]:
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


def _in_order(values: object) -> list:
    """Numbers ascending, text in the order of the grid."""
    values = list(values)
    return sorted(values) if all(isinstance(value, (int, float)) for value in values) else values


def _tick(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


@course_style()
def plot_seeds(comparison: Comparison, *, ax: Axes | None = None, save_path: str | os.PathLike | None = None) -> Figure:
    table = comparison.summary().head(MAX_ROWS)
    values = comparison.matrix()
    figure, ax = axes_or_new(ax, size=(8.5, 1.5 + 0.32 * len(table)))
    for place, row in enumerate(table.itertuples()):
        own = values[row.setting]
        own = own[np.isfinite(own)]
        color = PALETTE[0] if row.tied_with_best else "#777777"
        # Runs with equal figures are moved apart, so that their number can be seen.
        spread = np.linspace(-0.22, 0.22, len(own)) if len(own) > 1 else np.zeros(len(own))
        if row.low == row.low:
            ax.plot([row.low, row.high], [place, place], color="black", linewidth=1.5, zorder=2)
        mean = {"marker": "D" if row.tied_with_best else "o", "markeredgecolor": "white", "markersize": 7}
        ax.plot(row.mean, place, color="black", zorder=5, **mean)
        ax.scatter(own, place + spread, s=18, color=color, alpha=0.8, linewidth=0, zorder=4)
        if row.diverged:
            where = {"xycoords": ("axes fraction", "data"), "ha": "right", "va": "center", "fontsize": 9}
            ax.annotate(f"{row.diverged} of {row.n} diverged", (0.99, place), **where)
    drawn = values[table["setting"]]
    drawn = drawn[np.isfinite(drawn)]
    if comparison.metric == "loss" and _spans_decades(drawn):
        ax.set_xscale("log")
        ax.set_xlim(drawn.min() / 2, drawn.max() * 2)  # an interval's lower end can be negative
    ax.set_yticks(range(len(table)), [comparison.label(number) for number in table["setting"]], fontsize=9)
    ax.set_ylim(len(table) - 0.5, -0.5)
    ax.grid(axis="y", visible=False)
    ax.set_xlabel(f"validation {UNITS[comparison.metric]}, one dot a seed")
    title = "Mean and 95 % interval; diamond: cannot be told apart from the best"
    ax.set_title(title, fontsize=10.5)
    return finish(figure, save_path)


@course_style()
def plot_importance(
    comparison: Comparison, *, ax: Axes | None = None, save_path: str | os.PathLike | None = None
) -> Figure:
    shares = comparison.importance()
    figure, ax = axes_or_new(ax, size=(7.0, 1.4 + 0.42 * len(shares)))
    rest = ("interactions", "seeds")
    colors = ["#999999" if name in rest else PALETTE[0] for name in shares.index]
    bars = ax.barh(range(len(shares)), shares.fillna(0).to_numpy(), color=colors)
    ax.bar_label(bars, [f"{share:.0%}" if share == share else "–" for share in shares], padding=3)
    ax.set_yticks(range(len(shares)), list(shares.index))
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    ax.set_xlim(0, 1.08)
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    ax.set_xlabel(f"share of the variance of the validation {UNITS[comparison.metric].partition(' (')[0]}")
    ax.set_title("Main effects (blue), and the rest (grey)")
    return finish(figure, save_path)
