"""The figure of chapter 4 that no other chapter needs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from course_utils.foundation.arguments import check_tensor
from course_utils.foundation.plotting import axes_or_new, course_style, finish

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@course_style()
def plot_sizes(
    values: Mapping[str, Tensor],
    limits: Mapping[str, float],
    *,
    label: str,
    title: str = "",
    ax: Axes | None = None,
) -> Figure:
    """Histograms of the orders of magnitude of values, zeros left out, with limits as vertical lines.

    Args:
        values: name → tensor of any shape.
        limits: name → a positive number, for example the smallest one of a dtype.
        label: of the x-axis, with units.
        title: of the figure.
        ax: draw here instead of into a new figure.
    """
    if not values:
        raise ValueError("values is empty; pass at least one tensor with its name")
    from matplotlib.ticker import MaxNLocator

    if wrong := {name: limit for name, limit in limits.items() if not 0 < limit < float("inf")}:
        raise ValueError(f"limits must be positive and finite, but are {wrong}")
    figure, ax = axes_or_new(ax)
    exponents = {}
    for name, tensor in values.items():
        sizes = check_tensor(tensor, f"values[{name!r}]").detach().double().abs().flatten()
        if not (sizes > 0).any():
            raise ValueError(f"values[{name!r}] holds only zeros, which have no order of magnitude")
        exponents[name] = torch.log10(sizes[sizes > 0])
    low, high = (float(pick(torch.cat(list(exponents.values())))) for pick in (torch.min, torch.max))
    for name, values_of_one in exponents.items():
        bins = np.arange(np.floor(low), np.floor(high) + 1.25, 0.25)
        ax.hist(values_of_one.numpy(), bins=bins, histtype="step", linewidth=1.8, label=name)
    for name, limit in limits.items():
        ax.axvline(np.log10(limit), color="black", linestyle="--", linewidth=1)
        where = {"xycoords": ("data", "axes fraction"), "ha": "right", "va": "top"}
        ax.annotate(f"{name} ", (np.log10(limit), 0.97), **where, fontsize=9)
    ax.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    ax.xaxis.set_major_formatter(lambda exponent, _: f"$10^{{{exponent:.0f}}}$")
    ax.set(xlabel=label, ylabel="how many", title=title)
    ax.set_ylim(top=1.25 * ax.get_ylim()[1])  # room for the legend above the peaks
    ax.legend(loc="upper right")
    return finish(figure)
