"""Figures of chapter 1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from course_utils.foundation.arguments import (
    check_class_names,
    check_count,
    check_labels,
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
    true: int | None = None,
    title: str = "",
    ax: Axes | None = None,
) -> Figure:
    """Bars of one sample's probabilities: the largest one is blue, the true class is marked.

    Args:
        probabilities: (C,).
        class_names: C names; None numbers the classes.
        true: the index of the true class; None marks none.
        title: the message of the figure.
        ax: draw here instead of in a new figure.
    """
    check_probabilities(probabilities, ndim=1)
    figure, ax = axes_or_new(ax)
    _draw_bars(ax, probabilities, class_names, true)
    ax.set(ylim=(0, 1), ylabel="probability", title=title)
    return finish(figure)


@course_style()
def plot_logits(logits: Tensor, class_names: Sequence[str] | None = None, *, true: int | None = None) -> Figure:
    """One sample's logits z, their powers e^z, and the probabilities, as three panels of bars.

    Args:
        logits: (C,), finite, each below 80: a power beyond that has no place on an axis.
        class_names: C names; None numbers the classes.
        true: the index of the true class; None marks none.
    """
    check_tensor(logits, "logits", ndim=1)
    if logits.max() > 80:
        raise ValueError(f"logits must be below 80, so that e^z can be drawn, but reach {float(logits.max()):.4g}")
    powers = logits.detach().double().exp()
    columns = {
        "1 · logits z: evidence": (logits, "logit"),
        "2 · e^z: all positive": (powers, "e^z"),
        "3 · e^z / sum: probabilities": (powers / powers.sum(), "probability"),
    }
    figure, axes = new_figure(1, 3, size=(12.0, 3.2))
    for ax, (title, (values, ylabel)) in zip(axes, columns.items(), strict=True):
        _draw_bars(ax, values, class_names, true)
        ax.set(title=title, ylabel=ylabel)
    axes[0].axhline(0, color="#444444", linewidth=0.8)
    axes[2].set_ylim(0, 1)
    return finish(figure)


@course_style()
def plot_output_path(
    image: Tensor, logits: Tensor, class_names: Sequence[str] | None = None, *, true: int | None = None
) -> Figure:
    """The whole path of one image as four panels: input, logits, probabilities, decision.

    Args:
        image: (H, W) grey or (3, H, W) RGB, as in `plot_images`.
        logits: (C,) of this image.
        class_names: C names; None numbers the classes.
        true: the index of the true class; None marks none.
    """
    check_tensor(logits, "logits", ndim=1)
    probabilities = torch.softmax(logits.detach().float(), dim=0)
    best = int(probabilities.argmax())
    name = (check_class_names(class_names, len(logits)) or list(map(str, range(len(logits)))))[best]
    figure, axes = new_figure(1, 4, size=(13.0, 3.0), width_ratios=(1, 1.7, 1.7, 1))
    shown = _as_shown(image[None])[0]
    axes[0].imshow(shown, cmap="gray_r" if shown.ndim == 2 else None)
    axes[0].set_title("input")
    _draw_bars(axes[1], logits, class_names, true)
    axes[1].axhline(0, color="#444444", linewidth=0.8)
    axes[1].set(title="network → logits", ylabel="logit")
    plot_probabilities(probabilities, class_names, true=true, title="softmax → probabilities", ax=axes[2])
    axes[3].text(0.5, 0.55, f'"{literal(name)}"', ha="center", va="center", fontsize=24, color=PALETTE[0])
    axes[3].text(0.5, 0.25, f"with p = {float(probabilities[best]):.2f}", ha="center", va="center")
    axes[3].set_title("argmax → decision")
    for ax in (axes[0], axes[3]):
        ax.set_axis_off()
    return finish(figure)


def _draw_bars(ax: Axes, values: Tensor, class_names: Sequence[str] | None, true: int | None) -> None:
    """One bar a class. The largest is blue; the true class has a black frame and the word "true"."""
    names = check_class_names(class_names, len(values)) or [str(i) for i in range(len(values))]
    names = [literal(name) for name in names]
    heights = values.detach().cpu().double()
    best = int(heights.argmax())
    colours = [PALETTE[0] if i == best else "#b3b3b3" for i in range(len(heights))]
    bars = ax.bar(range(len(heights)), heights.numpy(), color=colours)
    if true is not None:
        check_count(true, "true", minimum=0)
        if true >= len(heights):
            raise ValueError(f"true must be a class below {len(heights)}, but is {true}")
        bars[true].set(edgecolor="black", linewidth=1.6)
        above = max(float(heights[true]), 0.0)
        ax.annotate("true", (true, above), xytext=(0, 2), textcoords="offset points", ha="center", fontsize=9)
    ax.set_xticks(range(len(heights)), names, rotation=45 if max(map(len, names)) > 3 else 0)
    ax.set_xlabel("class")
    ax.grid(axis="x", visible=False)


@course_style()
def plot_temperature(
    logits: Tensor, temperatures: Sequence[float] = (0.5, 1.0, 2.0, 5.0), *, true: int | None = None
) -> Figure:
    """Two rows of panels, a column for each temperature T: the logits / T of one sample, and their softmax.

    Args:
        logits: (C,); −inf is a masked class.
        temperatures: positive numbers.
        true: the index of the true class; None marks none.
    """
    logits = full_precision(check_logits(logits, ndim=1, class_dim=0).detach())
    if not isinstance(temperatures, Sequence) or not temperatures:
        raise ValueError(f"temperatures must be a list of positive numbers, but is {describe_value(temperatures)}")
    columns = len(temperatures)
    figure, axes = new_figure(2, columns, size=(3.0 * columns, 5.0), sharey="row")
    for above, below, temperature in zip(axes[:columns], axes[columns:], temperatures, strict=True):
        check_number(temperature, "temperature", above=0)
        scaled = logits / temperature
        _draw_bars(above, scaled, None, true)
        above.axhline(0, color="#444444", linewidth=0.8)
        above.set(title=f"T = {temperature:g}", xlabel="")
        plot_probabilities(torch.softmax(scaled, dim=0), true=true, ax=below)
        below.set_ylabel("")
    axes[0].set_ylabel("logit / T")
    axes[columns].set_ylabel("probability")
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
def plot_weights(weights: Tensor, titles: Sequence[str], *, columns: int = 5, label: str = "weight") -> Figure:
    """Signed numbers as small images on one scale: blue is negative, white is 0, red is positive.

    Args:
        weights: (N, H, W), for example the rows of a linear layer as images.
        titles: N texts, one above each image.
        columns: images in a row.
        label: what the numbers are, at the colour bar.
    """
    check_tensor(weights, "weights", ndim=3)
    if len(titles) != len(weights) or not len(weights):
        raise ValueError(f"titles must have one text for each of the {len(weights)} images, but has {len(titles)}")
    columns = min(check_count(columns, "columns"), len(weights))
    rows = -(-len(weights) // columns)
    shown = weights.detach().cpu().float().numpy()
    largest = float(abs(shown).max()) or 1.0
    figure, axes = new_figure(rows, columns, size=(1.7 * columns + 0.9, 1.9 * rows))
    for ax in axes:
        ax.set_axis_off()
    for ax, image, title in zip(axes, shown, titles, strict=False):
        scale = ax.imshow(image, cmap="RdBu_r", vmin=-largest, vmax=largest)
        ax.set_title(title, fontsize=10, loc="center")
    figure.colorbar(scale, ax=axes, label=label, shrink=0.8)
    return finish(figure)


@course_style()
def plot_segmentation(
    image: Tensor,
    probabilities: Tensor,
    class_names: Sequence[str] | None = None,
    *,
    true: Tensor | None = None,
) -> Figure:
    """An image, each pixel's probability of every class, each pixel's most probable class, and the true classes.

    Args:
        image: (3, H, W), uint8 or floats in [0, 1].
        probabilities: (C, H, W).
        class_names: C names; None numbers the classes.
        true: (H, W) the true class of each pixel; None leaves the last panel out.
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
    maps = {"most probable": shown.argmax(0)}
    if true is not None:
        if check_tensor(true, "true", ndim=2, floating=False).shape != image.shape[-2:]:
            raise ValueError(f"true must be {tuple(image.shape[-2:])} like the image, but is {tuple(true.shape)}")
        check_labels(true.flatten(), "true", num_samples=true.numel(), num_classes=len(names))
        maps["true"] = true.cpu().numpy()
    panels = 1 + len(names) + len(maps)
    figure, axes = new_figure(1, panels, size=(2.1 * panels, 2.6))
    for ax in axes:
        ax.set_axis_off()
    axes[0].imshow(_as_shown(image[None])[0])
    axes[0].set_title("input")
    planes = axes[1 : 1 + len(names)]
    for ax, name, plane in zip(planes, names, shown, strict=True):
        scale = ax.imshow(plane, vmin=0, vmax=1)
        ax.set_title(f"p({name})")
    figure.colorbar(scale, ax=planes, label="probability", shrink=0.8)
    colours = ("#eeeeee", *PALETTE)[: len(names)]
    if len(colours) < len(names):
        raise ValueError(f"there are colours for {len(colours)} classes, but {len(names)} names")
    for ax, (title, labels) in zip(axes[1 + len(names) :], maps.items(), strict=True):
        ax.imshow(labels, cmap=ListedColormap(colours), vmin=-0.5, vmax=len(names) - 0.5)
        ax.set_title(title)
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
