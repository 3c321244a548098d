"""Figures of chapter 1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from course_utils.foundation.arguments import (
    check_class_names,
    check_count,
    check_logits,
    check_number,
    check_tensor,
    describe_value,
)
from course_utils.foundation.devices import full_precision
from course_utils.foundation.plotting import PALETTE, axes_or_new, course_style, finish, literal, new_figure
from course_utils.foundation.probabilities import check_probabilities

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@course_style()
def plot_probabilities(
    probabilities: Tensor,
    class_names: Sequence[str] | None = None,
    *,
    title: str = "",
    ax: Axes | None = None,
) -> Figure:
    """Bars of one sample's probabilities; the largest one stands out.

    Args:
        probabilities: (C,).
        class_names: C names; None numbers the classes.
        title: the message of the figure.
        ax: draw here instead of in a new figure.
    """
    check_probabilities(probabilities, ndim=1)
    names = check_class_names(class_names, len(probabilities)) or [str(i) for i in range(len(probabilities))]
    names = [literal(name) for name in names]
    figure, ax = axes_or_new(ax)
    values = probabilities.detach().cpu().float()
    best = int(values.argmax())
    colours = [PALETTE[0] if i == best else "#b3b3b3" for i in range(len(values))]
    ax.bar(range(len(values)), values.numpy(), color=colours)
    ax.set_xticks(range(len(values)), names, rotation=45 if max(map(len, names)) > 3 else 0)
    ax.set(ylim=(0, 1), ylabel="probability", xlabel="class", title=title)
    ax.grid(axis="x", visible=False)
    return finish(figure)


@course_style()
def plot_temperature(logits: Tensor, temperatures: Sequence[float] = (0.5, 1.0, 2.0, 5.0)) -> Figure:
    """One panel for each temperature T: the probabilities softmax(logits / T) of one sample.

    Args:
        logits: (C,); −inf is a masked class.
        temperatures: positive numbers.
    """
    logits = full_precision(check_logits(logits, ndim=1, class_dim=0).detach())
    if not isinstance(temperatures, Sequence) or not temperatures:
        raise ValueError(f"temperatures must be a list of positive numbers, but is {describe_value(temperatures)}")
    figure, axes = new_figure(1, len(temperatures), size=(3.0 * len(temperatures), 3.0), sharey=True)
    for ax, temperature in zip(axes, temperatures, strict=True):
        check_number(temperature, "temperature", above=0)
        probabilities = torch.softmax(logits / temperature, dim=0)
        plot_probabilities(probabilities, title=f"T = {temperature:g}", ax=ax)
    for ax in axes[1:]:
        ax.set_ylabel("")
    return finish(figure)


@course_style()
def plot_images(
    images: Tensor,
    titles: Sequence[str] | None = None,
    *,
    columns: int = 8,
) -> Figure:
    """A grid of images, grey or in colour.

    Args:
        images: (N, H, W) grey, any range; or (N, 3, H, W) RGB, uint8 or floats in [0, 1].
        titles: N texts, one above each image.
        columns: images in a row.
    """
    shown = _as_shown(images)
    if titles is not None and len(titles) != len(shown):
        raise ValueError(f"titles must have one text for each of the {len(shown)} images, but has {len(titles)}")
    columns = min(check_count(columns, "columns"), len(shown))
    rows = -(-len(shown) // columns)
    figure, axes = new_figure(rows, columns, size=(1.35 * columns, 1.6 * rows))
    for ax in axes:
        ax.set_axis_off()
    for i, (ax, image) in enumerate(zip(axes, shown, strict=False)):
        ax.imshow(image, cmap="gray_r" if image.ndim == 2 else None)
        if titles is not None:
            ax.set_title(titles[i], fontsize=9, loc="center")
    return finish(figure)


@course_style()
def plot_segmentation(
    image: Tensor,
    probabilities: Tensor,
    class_names: Sequence[str] | None = None,
) -> Figure:
    """An image, each pixel's probability of every class, and each pixel's most probable class.

    Args:
        image: (3, H, W), uint8 or floats in [0, 1].
        probabilities: (C, H, W).
        class_names: C names; None numbers the classes.
    """
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch

    check_probabilities(probabilities, ndim=3)
    names = check_class_names(class_names, len(probabilities)) or [f"class {c}" for c in range(len(probabilities))]
    names = [literal(name) for name in names]
    if image.shape[-2:] != probabilities.shape[-2:]:
        sizes = f"{tuple(image.shape[-2:])} and {tuple(probabilities.shape[-2:])}"
        raise ValueError(f"image and probabilities must have the same height and width, but have {sizes}")
    shown = probabilities.detach().cpu().float().numpy()  # (C, H, W)
    figure, axes = new_figure(1, len(names) + 2, size=(2.1 * (len(names) + 2), 2.6))
    for ax in axes:
        ax.set_axis_off()
    axes[0].imshow(_as_shown(image[None])[0])
    axes[0].set_title("input")
    for ax, name, plane in zip(axes[1:-1], names, shown, strict=True):
        scale = ax.imshow(plane, vmin=0, vmax=1)
        ax.set_title(f"p({name})")
    figure.colorbar(scale, ax=axes[1:-1], label="probability", shrink=0.8)
    colours = ("#eeeeee", *PALETTE)[: len(names)]
    if len(colours) < len(names):
        raise ValueError(f"there are colours for {len(colours)} classes, but {len(names)} names")
    axes[-1].imshow(shown.argmax(0), cmap=ListedColormap(colours), vmin=-0.5, vmax=len(names) - 0.5)
    axes[-1].set_title("label")
    patches = [
        Patch(facecolor=colour, edgecolor="#444444", label=name) for colour, name in zip(colours, names, strict=True)
    ]
    axes[-1].legend(handles=patches, loc="upper left", bbox_to_anchor=(1, 1), fontsize=9)
    return finish(figure)


def _as_shown(images: Tensor) -> list:
    """Images as arrays that imshow understands: (H, W) or (H, W, 3)."""
    if not isinstance(images, Tensor) or images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[1] != 3):
        raise ValueError(f"images must be a tensor (N, H, W) or (N, 3, H, W), but is {describe_value(images)}")
    if len(images) == 0:
        raise ValueError("images is empty; pass at least one image")
    shown = images.detach().cpu()
    if shown.is_floating_point():
        low, high = map(float, check_tensor(shown, "images").aminmax())
        if shown.ndim == 4 and (low < 0 or high > 1):
            span = f"range from {low:.3g} to {high:.3g}"
            raise ValueError(f"floating-point images must lie in [0, 1], but {span}; normalised?")
        shown = shown.float()
    return list((shown if shown.ndim == 3 else shown.permute(0, 2, 3, 1)).numpy())
