"""One look for every figure of the course: colour-blind-safe, readable in grey, nothing left behind in pyplot."""

from __future__ import annotations

import io
import math
import re
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, lru_cache
from typing import TYPE_CHECKING

from course_utils.foundation.arguments import check_choice, describe_value
from course_utils.foundation.figure_description import describe_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Text
    from torch import Tensor

# Okabe & Ito (2008), "Color Universal Design", in an order whose first four also differ clearly in grey.
PALETTE = ("#0072B2", "#E69F00", "#000000", "#CC79A7", "#56B4E9", "#D55E00", "#009E73", "#F0E442")
# A second sign beside the colour, for readers who print in grey.
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")

_STYLE = {
    "figure.dpi": 100,
    "savefig.dpi": 100,
    "font.size": 11,
    "axes.titlesize": 12,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "axes.axisbelow": True,
    "legend.frameon": False,
    "image.cmap": "cividis",
    "image.interpolation": "nearest",
}
_CJK = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff]")
_CJK_FONTS = (
    "Noto Sans CJK SC",
    "Noto Sans SC",
    "Source Han Sans SC",
    "Source Han Sans CN",
    "WenQuanYi Micro Hei",
    "WenQuanYi Zen Hei",
    "Microsoft YaHei",
    "SimHei",
    "PingFang SC",
    "Hiragino Sans GB",
    "Arial Unicode MS",
)


@cache
def _figure_class() -> type[Figure]:
    # Made on first use, so that importing a chapter does not import matplotlib.
    from matplotlib.figure import Figure

    class CourseFigure(Figure):
        """A figure that pyplot does not keep, and that shows itself as the value of a notebook cell."""

        def _repr_png_(self) -> bytes:
            return figure_png(self)

        def __repr__(self) -> str:
            return describe_figure(self)  # stands beside the picture in a notebook, as its text

    if "IPython" in sys.modules:
        from IPython import get_ipython

        # As soon as something imports pyplot, IPython registers a printer of its own for every Figure. A printer for
        # our class wins over that one.
        if shell := get_ipython():
            shell.display_formatter.formatters["image/png"].for_type(CourseFigure, CourseFigure._repr_png_)
    return CourseFigure


def figure_png(figure: Figure) -> bytes:
    """A figure as the bytes of a PNG file, cropped to what is drawn.

    Drawings without images are stored with at most 256 colours, so that recorded notebooks stay small.
    """
    buffer = io.BytesIO()
    # Without the software's version in it, the same figure is the same bytes on the same machine.
    figure.savefig(buffer, format="png", bbox_inches="tight", metadata={"Software": None})
    return buffer.getvalue() if any(ax.images for ax in figure.axes) else _with_palette(buffer)


def _with_palette(png: io.BytesIO) -> bytes:
    """The same drawing with at most 256 colours, a third of the bytes: notebooks stay small enough to be read."""
    from PIL import Image

    smaller = io.BytesIO()
    Image.open(png).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(smaller, "png", optimize=True)
    return smaller.getvalue()


@contextmanager
def course_style() -> Iterator[None]:
    """The course's look for a `with` block or, as a decorator, for a plotting function.

    matplotlib's global settings come back afterwards, also after an exception.
    """
    import matplotlib
    from cycler import cycler

    style = _STYLE | {"axes.prop_cycle": cycler(color=PALETTE)}
    if font := find_cjk_font():
        # The second family serves the characters that the first one lacks.
        style["font.family"] = ["sans-serif", font]
    # rc_context would also restore the backend, and so load one if none is chosen yet; touch only what we set.
    before = {name: matplotlib.rcParams[name] for name in style}
    matplotlib.rcParams.update(style)
    try:
        yield
    finally:
        matplotlib.rcParams.update(before)


def new_figure(
    rows: int = 1, columns: int = 1, *, size: tuple[float, float] = (6.0, 3.6), **subplot_options
) -> tuple[Figure, list[Axes]]:
    """A figure with `rows` × `columns` axes; call it inside `course_style()`.

    Args:
        rows, columns: the grid.
        size: width and height of the whole figure in inches.
        subplot_options: passed to `Figure.subplots`, for example `sharey=True`.

    Returns:
        The figure and its axes as a flat list, row by row. It is a list for a single axes too, so that `axes[0]`
        always works.
    """
    figure = _figure_class()(figsize=size, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **subplot_options)
    return figure, list(axes.flat)


def literal(name: str) -> str:
    r"""A name from data as matplotlib shall show it: between two `$` it would read a formula.

    Titles and labels that a caller writes may hold formulas on purpose; see `finish` for those that do not parse.

    >>> print(literal("US$ and A$"))
    US\$ and A\$
    """
    return name.replace("$", r"\$")


def _show_broken_formulas_as_text(texts: Iterable[Text]) -> None:
    """A `$` in someone's text need not begin a formula; one that cannot be parsed would stop the whole figure."""
    for text in texts:
        if text.get_text().count("$") > 1 and text.get_parse_math() and not _parses(text.get_text()):
            text.set_parse_math(False)


@lru_cache(1_000)  # parsing is slow, and every tick of a logarithmic axis is a formula
def _parses(formula: str) -> bool:
    from matplotlib.mathtext import MathTextParser

    try:
        MathTextParser("agg").parse(formula)
    except ValueError:
        return False
    return True


def axes_or_new(ax: Axes | None, *, size: tuple[float, float] = (6.0, 3.6)) -> tuple[Figure, Axes]:
    """The caller's axes with their figure, or a new figure with one axes."""
    if ax is not None:
        return ax.get_figure(root=True), ax
    figure, axes = new_figure(size=size)
    return figure, axes[0]


def finish(figure: Figure) -> Figure:
    """Last step of a plotting function: see to texts that cannot be shown, and hand the figure back.

    A formula that does not parse is shown as the text it is; characters that no font has are warned of.
    """
    from matplotlib.text import Text

    tick_labels = [label for ax in figure.axes for label in ax.get_xticklabels() + ax.get_yticklabels()]
    texts = figure.findobj(Text) + tick_labels
    _show_broken_formulas_as_text(texts)
    if find_cjk_font() is None and any(_CJK.search(text.get_text()) for text in texts):
        warnings.warn(
            "This figure has Chinese, Japanese or Korean text, but no font for it was found, so it shows empty boxes. "
            "Install one, for example Noto Sans CJK SC, and restart the kernel.",
            stacklevel=4,
        )
    return figure


@course_style()
def plot_curves(
    curves: Mapping[str, tuple[Sequence[float] | Tensor, Sequence[float] | Tensor]],
    *,
    xlabel: str,
    ylabel: str,
    title: str = "",
    log: str = "",
    ylim: tuple[float, float] | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Lines with markers, one for each name: loss against steps, accuracy against eps, and the like.

    Where a curve stops being finite it ends, and a dotted line says so.

    Args:
        curves: name → (x, y), two sequences of numbers of the same length.
        xlabel, ylabel, title: with units.
        log: "x" or "y" for a logarithmic axis, "" for none.
        ylim: limits of the y-axis.
        ax: draw here instead of into a new figure.
    """
    if not isinstance(curves, Mapping) or not curves:
        raise ValueError("curves is empty or no dict; pass at least one name with its (x, y)")
    check_choice(log, "log", ("", "x", "y"))
    figure, ax = axes_or_new(ax)
    for i, (name, curve) in enumerate(curves.items()):
        if not isinstance(curve, (tuple, list)) or len(curve) != 2:
            raise ValueError(f"the curve {name!r} must be a pair (x, y)")
        x, y = ([float(v.detach() if hasattr(v, "detach") else v) for v in values] for values in curve)
        if len(x) != len(y) or not x:
            raise ValueError(f"the curve {name!r} has {len(x)} x and {len(y)} y; each point needs both")
        end = next((j for j, value in enumerate(y) if not math.isfinite(value)), len(y))
        style = {"color": PALETTE[i % len(PALETTE)], "marker": MARKERS[i % len(MARKERS)]}
        ax.plot(x[:end], y[:end], **style, markevery=max(1, end // 12), label=name)
        if end < len(y):
            ax.axvline(x[end], color=style["color"], linestyle=":")
            where = {"xycoords": ("data", "axes fraction"), "rotation": 90, "ha": "right", "va": "bottom"}
            ax.annotate("NaN or Inf from here ", (x[end], 0.02), **where, fontsize=9)
    ax.set(xlabel=xlabel, ylabel=ylabel, title=title)
    if log:
        ax.set(**{f"{log}scale": "log"})
    if log == "x":
        values = sorted({value for line in ax.lines for value in line.get_xdata()})
        ax.set_xticks(values, [f"{value:g}" for value in values])
        ax.minorticks_off()
    if log != "x":
        ax.locator_params(axis="x", integer=all(value.is_integer() for value in ax.lines[0].get_xdata()))
    if ylim is not None:
        ax.set_ylim(*ylim)
    if len(curves) > 1:
        ax.legend()
    return finish(figure)


@course_style()
def plot_flow(steps: Sequence[tuple[str, str]], *, title: str = "") -> Figure:
    """Boxes from left to right with arrows between them: what goes through a network, and in which shape.

    Args:
        steps: (name, below) for each box: the name inside the box, and a text below it, for example a shape.
        title: the message of the figure.
    """
    if not steps:
        raise ValueError("steps is empty; pass at least one (name, below)")
    for step in steps:
        if not isinstance(step, (tuple, list)) or len(step) != 2:
            raise ValueError(f"each step must be a pair (name, below), but one is {describe_value(step)}")
    figure, axes = new_figure(size=(2.2 * len(steps), 1.7))
    ax = axes[0]
    for i, (name, below) in enumerate(steps):
        box = {"boxstyle": "round,pad=0.5", "facecolor": "#e8f1f8", "edgecolor": PALETTE[0]}
        ax.text(i, 0.3, name, ha="center", va="center", bbox=box)
        ax.text(i, -0.45, below, ha="center", va="top", fontsize=10)
        if i:
            ax.annotate("", (i - 0.36, 0.3), (i - 0.64, 0.3), arrowprops={"arrowstyle": "->", "linewidth": 1.5})
    ax.set(xlim=(-0.5, len(steps) - 0.5), ylim=(-1.2, 0.9), title=title)
    ax.set_axis_off()
    return finish(figure)


_MOST_CLASSES_WITH_TEXTS = 20


def draw_confusion(
    values: Tensor,
    texts: Sequence[Sequence[str]],
    class_names: Sequence[str],
    *,
    cmap: str,
    unit: str,
    size: tuple[float, float],
    ax: Axes | None = None,
    **heatmap_options,
) -> tuple[Figure, Axes]:
    """A confusion matrix as colours, with a text in each cell.

    Of more than 20 classes nobody could read the texts: a colour bar takes their place, and at most 20 are named. The
    values are (C, C), the texts C rows of C; `unit` stands at the colour bar, `size` (inches) is that of a new figure
    with texts, and other options go to `seaborn.heatmap`.
    """
    import pandas as pd
    import seaborn

    c = len(class_names)
    readable = c <= _MOST_CLASSES_WITH_TEXTS
    every = -(-c // _MOST_CLASSES_WITH_TEXTS)
    figure, ax = axes_or_new(ax, size=size if readable else (9.6, 8.0))
    options = {"annot": texts, "fmt": "", "cbar": False} if readable else {"cbar_kws": {"label": unit}}
    names = [literal(name) for name in class_names]
    table = pd.DataFrame(values.numpy(), index=names, columns=names)
    seaborn.heatmap(table, cmap=cmap, ax=ax, xticklabels=every, yticklabels=every, **options, **heatmap_options)
    ax.set(xlabel="predicted", ylabel="true")
    return figure, ax


@cache
def find_cjk_font() -> str | None:
    """The name of an installed font with Chinese glyphs, or None."""
    from matplotlib import font_manager

    installed = {font.name for font in font_manager.fontManager.ttflist}
    return next((name for name in _CJK_FONTS if name in installed), None)
