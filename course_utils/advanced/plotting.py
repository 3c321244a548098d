"""The figures of chapter 5."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from course_utils.foundation.arguments import check_tensor, describe_value
from course_utils.foundation.plotting import PALETTE, axes_or_new, course_style, finish, new_figure
from course_utils.foundation.results import as_numpy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@course_style()
def visualize_attributions(
    inputs: Tensor,
    attributions: Tensor,
    *,
    titles: Sequence[str] | None = None,
    title: str = "",
    save_path: str | os.PathLike | None = None,
) -> Figure:
    """Images above, the same images in grey under their attributions below.

    Args:
        inputs: (N, 1 or 3, H, W), at most 8 are shown. Values outside [0, 1], of normalised images, are stretched
            to that range for showing.
        attributions: (N, H, W), or (N, channels, H, W), which is summed over the channels. Without negative values
            stronger colour means more; with them, orange speaks for the class and violet against it.
        titles: one for each image.
        title: of the whole figure, for example the name of the method.
        save_path: also write the figure there.
    """
    check_tensor(inputs, "inputs", ndim=4)
    check_tensor(attributions, "attributions", ndim=(3, 4))
    if inputs.shape[1] not in (1, 3):
        raise ValueError(f"inputs must have 1 or 3 channels, but are {describe_value(inputs)}")
    maps = attributions.detach().sum(1) if attributions.ndim == 4 else attributions.detach()
    if maps.shape != inputs[:, 0].shape:
        expected = f"({len(inputs)}, {inputs.shape[2]}, {inputs.shape[3]})"
        raise ValueError(f"attributions must have the shape {expected}, but are {describe_value(attributions)}")
    shown = min(len(inputs), 8)
    if titles is not None and len(titles) < shown:
        raise ValueError(f"titles must have one text for each of {shown} images, but has {len(titles)}")
    figure, axes = new_figure(2, shown, size=(1.6 * shown + 0.8, 3.6))
    signed = bool((maps < 0).any())
    colours = {"cmap": "PuOr_r", "vmin": -1, "vmax": 1} if signed else {"cmap": "inferno", "vmin": 0, "vmax": 1}
    for i in range(shown):
        image = _displayable(inputs[i].detach())  # (H, W, 3)
        _show(axes[i], image, titles[i] if titles else "")
        grey = image.mean(2, keepdim=True).expand(-1, -1, 3) * 0.5 + 0.25
        _show(axes[shown + i], grey, "")
        # A few extreme pixels would leave the rest invisible, so the strongest hundredth shares the last colour.
        size = maps[i].abs().float()
        full = torch.quantile(size, 0.99) or size.max() or torch.tensor(1.0)  # 0 where hardly a pixel is named
        strength = (maps[i].float() / full).clamp(-1, 1)
        drawn = axes[shown + i].imshow(as_numpy(strength), **colours, alpha=as_numpy(strength.abs().sqrt()))
    if title:
        figure.suptitle(title)
    bar = figure.colorbar(drawn, ax=axes[shown:], shrink=0.8, ticks=[-1, 0, 1] if signed else [0, 1])
    bar.set_label("attribution\n(1: its 99th percentile)")
    finish(figure)
    if save_path is not None:
        figure.savefig(save_path, bbox_inches="tight")
    return figure


@course_style()
def plot_attack(
    inputs: Tensor,
    adversarial: Tensor,
    *,
    titles: Sequence[str] | None = None,
) -> Figure:
    """Images, the same after an attack, and the difference, stretched so that grey is no change.

    Args:
        inputs, adversarial: (N, 1 or 3, H, W) in pixel units [0, 1]; at most 8 are shown.
        titles: two texts an image, for the clean and the attacked one: [clean 0, attacked 0, clean 1, …].
    """
    check_tensor(inputs, "inputs", ndim=4)
    check_tensor(adversarial, "adversarial", ndim=4)
    if inputs.shape != adversarial.shape or inputs.shape[1] not in (1, 3):
        raise ValueError(
            "inputs and adversarial must be images of the same shape with 1 or 3 channels, but are "
            f"{describe_value(inputs)} and {describe_value(adversarial)}"
        )
    shown = min(len(inputs), 8)
    if titles is not None and len(titles) < 2 * shown:
        raise ValueError(f"titles must have two texts for each of {shown} images, but has {len(titles)}")
    figure, axes = new_figure(3, shown, size=(1.5 * shown + 0.6, 5.0))
    difference = (adversarial - inputs).detach()
    largest = float(difference.abs().max()) or 0.5
    rows = (inputs.detach(), adversarial.detach(), 0.5 + 0.5 * difference / largest)
    for row, images in enumerate(rows):
        for i in range(shown):
            title = titles[2 * i + row] if titles and row < 2 else ""
            _show(axes[row * shown + i], _displayable(images[i]), title)
    for row, label in enumerate(("clean", "attacked", f"difference\n× {0.5 / largest:.0f}")):
        axes[row * shown].set_ylabel(label)
    return finish(figure)


def _displayable(image: Tensor) -> Tensor:
    """(1 or 3, H, W) → (H, W, 3) in [0, 1]."""
    image = image.float()
    if image.min() < 0 or image.max() > 1:
        image = (image - image.min()) / (image.max() - image.min()).clamp(min=1e-12)
    return image.expand(3, -1, -1).permute(1, 2, 0)


def _show(ax: Axes, image: Tensor, title: str) -> None:
    ax.imshow(as_numpy(image))
    ax.set_title(title, fontsize=9)
    ax.set(xticks=[], yticks=[])
    ax.grid(False)


@course_style()
def plot_scores_by_seed(
    results: Mapping[str, Sequence[float] | Tensor],
    *,
    label: str,
    title: str = "",
    ax: Axes | None = None,
) -> Figure:
    """One row for each setting: a dot for every seed, and a line at their mean.

    Args:
        results: name → one number for each seed.
        label: of the x-axis, with units.
        title: of the figure.
        ax: draw here instead of into a new figure.
    """
    if not results or not all(len(values) for values in results.values()):
        raise ValueError("results must have at least one setting, and each at least one number")
    figure, ax = axes_or_new(ax, size=(6.0, 0.8 + 0.5 * len(results)))
    for row, values in enumerate(results.values()):
        numbers = [float(value) for value in values]
        ax.plot(numbers, [row] * len(numbers), "o", color=PALETTE[0], alpha=0.6)
        ax.plot([sum(numbers) / len(numbers)] * 2, [row - 0.3, row + 0.3], color="black", linewidth=2)
    ax.set_yticks(range(len(results)), list(results))
    ax.locator_params(axis="x", nbins=6)
    ax.invert_yaxis()  # the first setting on top
    ax.set(xlabel=label, title=title)
    return finish(figure)
