"""One look for every figure of the course: colour-blind-safe, readable in grey, nothing left behind in pyplot."""

from __future__ import annotations

import io
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

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
            buffer = io.BytesIO()
            # Without the software's version in it, the same figure is the same bytes on the same machine.
            self.savefig(buffer, format="png", bbox_inches="tight", metadata={"Software": None})
            return buffer.getvalue()

        def __repr__(self) -> str:
            return f"<Figure with {len(self.axes)} axes>"

    return CourseFigure


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
        always works (E69).
    """
    figure = _figure_class()(figsize=size, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **subplot_options)
    return figure, list(axes.flat)


def axes_or_new(ax: Axes | None, *, size: tuple[float, float] = (6.0, 3.6)) -> tuple[Figure, Axes]:
    """The caller's axes with their figure, or a new figure with one axes."""
    if ax is not None:
        return ax.get_figure(root=True), ax
    figure, axes = new_figure(size=size)
    return figure, axes[0]


def finish(figure: Figure, save_path: str | os.PathLike | None = None) -> Figure:
    """Last step of a plotting function: warn of text that no font can show, save if asked, hand the figure back."""
    from matplotlib.text import Text

    tick_labels = [label for ax in figure.axes for label in ax.get_xticklabels() + ax.get_yticklabels()]
    if find_cjk_font() is None and any(_CJK.search(text.get_text()) for text in figure.findobj(Text) + tick_labels):
        warnings.warn(
            "This figure has Chinese, Japanese or Korean text, but no font for it was found, so it shows empty boxes. "
            "Install one, for example Noto Sans CJK SC, and restart the kernel.",
            stacklevel=4,
        )
    if save_path is not None:
        figure.savefig(save_path, bbox_inches="tight")
    return figure


@cache
def find_cjk_font() -> str | None:
    """The name of an installed font with Chinese glyphs, or None."""
    from matplotlib import font_manager

    installed = {font.name for font in font_manager.fontManager.ttflist}
    return next((name for name in _CJK_FONTS if name in installed), None)
