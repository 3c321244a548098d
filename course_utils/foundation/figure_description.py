"""A figure in words: for a notebook's text output, where a test or a reader without the picture finds it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def describe_figure(figure: Figure) -> str:
    """Size, titles, axis labels and what is drawn: a line for the figure, and one for each of its panels.

    >>> from matplotlib.figure import Figure
    >>> figure = Figure(figsize=(6, 3.6))
    >>> ax = figure.subplots()
    >>> lines = ax.plot([0, 1, 2], [2.3, 1.1, 0.7], label="training")
    >>> text = ax.set(title="Loss", xlabel="epoch", ylabel="nats")
    >>> legend = ax.legend()
    >>> print(describe_figure(figure))
    Figure of 6.0 × 3.6 inches, panels: 1
    - "Loss", x: "epoch", y: "nats", lines: 1, legend: "training"
    """
    width, height = figure.get_size_inches()
    panels = [ax for ax in figure.axes if ax.get_visible()]
    title = _quoted(" ", figure.get_suptitle())
    head = f"Figure{title} of {width:.1f} × {height:.1f} inches, panels: {len(panels)}"
    return "\n".join([head, *(f"- {_describe_panel(ax)}" for ax in panels)])


def _describe_panel(ax: Axes) -> str:
    titles = (ax.get_title(loc) for loc in ("left", "center", "right"))
    parts = [_quoted("", title) for title in titles]
    parts += [_quoted("x: ", ax.get_xlabel()), _quoted("y: ", ax.get_ylabel()), *_what_is_drawn(ax)]
    if legend := ax.get_legend():
        parts.append("legend: " + ", ".join(_quoted("", text.get_text()) for text in legend.get_texts()))
    return ", ".join(part for part in parts if part) or "empty"


def _what_is_drawn(ax: Axes) -> list[str]:
    from matplotlib.collections import PathCollection
    from matplotlib.container import BarContainer

    bars = sum(len(container) for container in ax.containers if isinstance(container, BarContainer))
    scatters = [collection for collection in ax.collections if isinstance(collection, PathCollection)]
    counts = {
        "lines": len(ax.lines),
        "bars": bars,
        "images": len(ax.images),
        "points": sum(len(scatter.get_offsets()) for scatter in scatters),
        "areas": len(ax.collections) - len(scatters),  # filled bands, contours, meshes
        "shapes": len(ax.patches) - bars,  # boxes, arrows
        "texts": len(ax.texts),
    }
    return [f"{name}: {number}" for name, number in counts.items() if number]


def _quoted(before: str, text: str) -> str:
    """The text in quotes, on one line; nothing for no text."""
    return f'{before}"{" ".join(text.split())}"' if text else ""
