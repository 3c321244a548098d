"""Figures of chapter 2."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torchvision.ops import box_iou

from course_utils.foundation.arguments import check_class_names, check_labels, check_tensor, describe_value
from course_utils.foundation.plotting import MARKERS, PALETTE, axes_or_new, course_style, finish, literal, new_figure
from course_utils.foundation.results import as_numpy
from course_utils.interpretation.decoding import Hypothesis
from course_utils.interpretation.detection import read_boxes, read_detection
from course_utils.interpretation.regression import RegressionResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@course_style()
def plot_samples(
    images: Tensor,
    probabilities: Tensor,
    target: Tensor,
    class_names: Sequence[str],
) -> Figure:
    """Images with the probabilities of their three best classes below: the best is blue, the true class framed.

    Args:
        images: (N, H, W), grey.
        probabilities: (N, C).
        target: (N,) true classes.
        class_names: C names.
    """
    check_tensor(probabilities, "probabilities", ndim=2)
    if not len(images) == len(probabilities) == len(target):
        lengths = f"{len(images)}, {len(probabilities)} and {len(target)}"
        raise ValueError(f"images, probabilities and target must have the same length, but have {lengths}")
    names = check_class_names(class_names, probabilities.shape[1])
    if names is None:
        raise TypeError("class_names must be a list of strings, but is None")
    names = [literal(name) for name in names]
    target = check_labels(target, "target", num_samples=len(images), num_classes=probabilities.shape[1]).tolist()
    n = len(images)
    figure, axes = new_figure(2, n, size=(1.7 * n, 3.2), height_ratios=(1.4, 1))
    values, classes = probabilities.detach().cpu().sort(dim=1, descending=True, stable=True)
    values, classes = values[:, :3].float(), classes[:, :3]  # of equal probabilities the first class
    for i in range(n):
        axes[i].imshow(images[i].detach().cpu().numpy(), cmap="gray_r")
        axes[i].set_axis_off()
        axes[i].set_title(f"true: {names[target[i]]}", fontsize=10, loc="center")
        bars = axes[n + i]
        colours = [PALETTE[0]] + ["#b3b3b3"] * (len(values[i]) - 1)
        drawn = bars.bar(range(len(values[i])), values[i].numpy(), color=colours)
        for bar, c in zip(drawn, classes[i].tolist(), strict=True):
            if c == target[i]:
                bar.set(edgecolor="black", linewidth=1.6)
        bars.set_xticks(range(len(values[i])), [names[c] for c in classes[i].tolist()])
        bars.set_ylim(0, 1)
        bars.grid(axis="x", visible=False)
        if i:
            bars.set_yticklabels([])
    axes[n].set_ylabel("probability")
    return finish(figure)


@course_style()
def plot_residuals(result: RegressionResult) -> Figure:
    """One panel for each output: the error (prediction − target) against the prediction, in the output's own unit."""
    if result.error is None:
        raise ValueError("the result has no errors: it was made without a target")
    names = list(result.statistics.index)
    figure, axes = new_figure(1, len(names), size=(4.6 * len(names), 3.6))
    for d, (ax, name) in enumerate(zip(axes, names, strict=True)):
        ax.scatter(as_numpy(result.preds[:, d]), as_numpy(result.error[:, d]), s=18, color=PALETTE[0])
        ax.axhline(0, color="black", linewidth=1)
        ax.set(xlabel=f"prediction, {literal(name)}", ylabel="prediction − target")
    return finish(figure)


@course_style()
def plot_intervals(
    preds: Tensor,
    target: Tensor,
    low: Tensor,
    high: Tensor,
    *,
    label: str = "value",
    ax: Axes | None = None,
) -> Figure:
    """Prediction intervals, sorted by prediction; targets outside their interval are crosses.

    Args:
        preds, target, low, high: (N,) each.
        label: what is predicted, with its unit.
        ax: draw here instead of in a new figure.
    """
    check_tensor(preds, "preds", ndim=1)
    if not preds.shape == target.shape == low.shape == high.shape:
        raise ValueError("preds, target, low and high must have the same shape")
    order = preds.argsort()
    preds, target, low, high = (values[order].detach().cpu() for values in (preds, target, low, high))
    inside = (target >= low) & (target <= high)
    place = torch.arange(len(preds))
    figure, ax = axes_or_new(ax, size=(7.5, 3.8))
    ax.fill_between(place, low, high, color=PALETTE[0], alpha=0.25, label="interval", linewidth=0)
    ax.plot(place, preds, color=PALETTE[0], label="prediction")
    ax.plot(place[inside], target[inside], "o", color="black", markersize=4, label="target inside")
    ax.plot(place[~inside], target[~inside], "x", color=PALETTE[5], markersize=8, mew=2, label="target outside")
    ax.set(xlabel="sample, sorted by prediction", ylabel=label)
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return finish(figure)


@course_style()
def plot_detections(
    images: Tensor,
    detections: Sequence[Mapping],
    class_names: Sequence[str],
    *,
    true_boxes: Sequence[Tensor] | None = None,
    titles: Sequence[str] | None = None,
) -> Figure:
    """Images with their detected boxes (solid, with class and score) and, if given, the true ones (dashed).

    Where boxes lie on each other (IoU > 0.45), only the first one is named: the best, as they come.

    Args:
        images: (N, 3, H, W), uint8 or floats in [0, 1].
        detections: N dicts as `interpret_detection_output` returns them; "scores" may be missing.
        class_names: C names.
        true_boxes: N tensors (M, 4) as x1, y1, x2, y2.
        titles: N texts.
    """
    from matplotlib.patches import Rectangle

    check_tensor(images, "images", floating=images.is_floating_point() if isinstance(images, Tensor) else True)
    if images.ndim != 4 or images.shape[1] != 3 or len(images) != len(detections):
        raise ValueError(f"images must be (N, 3, H, W) with N = {len(detections)}, but is {describe_value(images)}")
    for name, values in (("true_boxes", true_boxes), ("titles", titles)):
        if values is not None and len(values) != len(images):
            raise ValueError(f"{name} must have {len(images)} entries, but has {len(values)}")
    names = check_class_names(class_names, len(class_names)) if hasattr(class_names, "__len__") else ()
    if not names:
        raise TypeError(f"class_names must be a list of strings, but is {describe_value(class_names)}")
    top = max((int(max(found["labels"])) for found in detections if len(found["labels"])), default=-1)
    if top >= len(names):
        raise ValueError(f"class_names has {len(names)} names, but a detection is of class {top}")
    n = len(images)
    read = [
        read_detection(found, f"detections[{i}]", num_classes=len(names), scores=False)
        for i, found in enumerate(detections)
    ]
    figure, axes = new_figure(1, n, size=(3.3 * n, 3.5))

    def draw(ax, box, **style):
        x1, y1, x2, y2 = box.tolist()
        ax.add_patch(Rectangle((x1 - 0.5, y1 - 0.5), x2 - x1, y2 - y1, fill=False, **style))

    for i, ax in enumerate(axes):
        ax.imshow(images[i].permute(1, 2, 0).cpu().numpy())
        ax.set_axis_off()
        for box in read_boxes(true_boxes[i], f"true_boxes[{i}]") if true_boxes is not None else ():
            draw(ax, box, edgecolor="white", linestyle="--", linewidth=1.5)
        boxes, scores, labels = read[i]
        covered = box_iou(boxes, boxes).tril(-1) > 0.45  # by a box before it
        for k, (box, score, label) in enumerate(zip(boxes, scores.tolist(), labels.tolist(), strict=True)):
            draw(ax, box, edgecolor="black", linewidth=3)
            draw(ax, box, edgecolor=PALETTE[7], linewidth=1.5)
            if covered[k].any():
                continue
            text = literal(names[label]) if math.isnan(score) else f"{literal(names[label])} {score:.2f}"
            inside = box[1] < 6  # above the box there is no room
            style = {"facecolor": "white", "pad": 1, "linewidth": 0}
            position = (box[0] - 0.5, box[1] + 0.5 if inside else box[1] - 1.5)
            ax.text(*position, text, fontsize=7, va="top" if inside else "baseline", bbox=style)
        if titles is not None:
            ax.set_title(titles[i])
    return finish(figure)


@course_style()
def plot_detector_cell(image: Tensor, box: Tensor, *, row: int, column: int, cells: int = 8) -> Figure:
    """An image with a detector's grid, one cell of it, and the box that this cell predicts.

    Args:
        image: (3, H, W), uint8 or floats in [0, 1].
        box: (4,) centre x, centre y, width and height in pixels.
        row, column: of the cell.
        cells: in a row and in a column of the grid.
    """
    from matplotlib.patches import Rectangle

    check_tensor(image, "image", ndim=3, floating=None)
    check_tensor(box, "box", ndim=1)
    height, width = image.shape[1:]
    figure, axes = new_figure(size=(4.4, 4.4))
    ax = axes[0]
    ax.imshow(image.permute(1, 2, 0).cpu().numpy())
    for k in range(cells + 1):
        ax.axhline(k * height / cells - 0.5, color="white", linewidth=0.6)
        ax.axvline(k * width / cells - 0.5, color="white", linewidth=0.6)
    corner = (column * width / cells - 0.5, row * height / cells - 0.5)
    ax.add_patch(Rectangle(corner, width / cells, height / cells, fill=False, edgecolor="white", linewidth=3))
    x, y, w, h = box.detach().tolist()
    style = {"fill": False, "edgecolor": PALETTE[7], "linewidth": 2}
    ax.add_patch(Rectangle((x - w / 2 - 0.5, y - h / 2 - 0.5), w, h, **style))
    ax.plot(x - 0.5, y - 0.5, marker="+", color=PALETTE[7], markersize=12, markeredgewidth=2)
    ax.set(title=f"row {row}, column {column}: the cell and its box", xlabel="x (pixels)", ylabel="y (pixels)")
    ax.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
    ax.grid(visible=False)
    return finish(figure)


@course_style()
def plot_precision_recall(
    curves: Mapping[str, tuple[Tensor, Tensor]],
    *,
    points: Mapping[str, tuple[float, float]] | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Precision against recall, one line for each name → (recall, precision).

    Args:
        curves: name → (recall, precision), two tensors of the same length.
        points: name → (recall, precision) of single working points, marked on the figure.
        ax: draw here instead of in a new figure.
    """
    if not curves:
        raise ValueError("curves is empty: there is nothing to draw")
    figure, ax = axes_or_new(ax, size=(5.4, 3.8))
    for i, (name, (recall, precision)) in enumerate(curves.items()):
        ax.plot(recall, precision, label=name, linestyle=("-", "--", "-.", ":")[i % 4], color=PALETTE[i % len(PALETTE)])
    for i, (name, (recall, precision)) in enumerate((points or {}).items()):
        ax.plot(recall, precision, color="black", marker=MARKERS[i % len(MARKERS)], linestyle="", label=name)
    ax.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    ax.legend()
    return finish(figure)


@course_style()
def plot_beam_tree(
    hypotheses: Sequence[Hypothesis],
    *,
    discarded: Sequence[Hypothesis] = (),
    prompt: str = "",
    ax: Axes | None = None,
) -> Figure:
    """The continuations that a beam search returned as a tree of shared prefixes, the best one drawn heavily.

    Args:
        hypotheses: of one prompt, best first, with tokens (pass `vocab` to the search).
        discarded: prefixes that the search looked at and gave up, drawn dotted and grey.
        prompt: the text at the root.
        ax: draw here instead of in a new figure.
    """
    if not hypotheses or any(hypothesis.tokens is None for hypothesis in (*hypotheses, *discarded)):
        raise ValueError("hypotheses must hold at least one hypothesis with tokens; pass vocab to beam_search_decode")
    leaves = sorted([*hypotheses, *discarded], key=lambda hypothesis: hypothesis.tokens)  # neighbours share prefixes
    figure, ax = axes_or_new(ax, size=(9.0, 0.5 * len(leaves) + 1.2))
    rows: dict[tuple[str, ...], float] = {}
    for row, hypothesis in enumerate(leaves):
        for length in range(len(hypothesis.tokens) + 1):
            rows.setdefault(tuple(hypothesis.tokens[:length]), row)
    best = tuple(hypotheses[0].tokens)
    kept = {tuple(h.tokens[:length]) for h in hypotheses for length in range(len(h.tokens) + 1)}
    for prefix, row in rows.items():
        on_best = prefix == best[: len(prefix)]
        if prefix:
            start, end = (len(prefix) - 1, rows[prefix[:-1]]), (len(prefix), row)
            style = {"color": "black" if on_best else "#999999", "linewidth": 3 if on_best else 1}
            ax.plot(*zip(start, end, strict=True), linestyle="-" if prefix in kept else ":", **style)
        shown = literal(prefix[-1] if prefix else prompt).replace("\n", "⏎").replace(" ", "␣")
        frame = {"facecolor": "white", "edgecolor": "#999999", "boxstyle": "round,pad=0.25"}
        style = {"fontweight": "bold" if on_best else "normal", "color": "black" if prefix in kept else "#777777"}
        ax.text(len(prefix), row, shown, ha="center", va="center", bbox=frame, family="monospace", **style)
    right = max(len(hypothesis.tokens) for hypothesis in leaves)
    for row, hypothesis in enumerate(leaves):
        given_up = any(hypothesis is other for other in discarded)
        position = len(hypothesis.tokens) + 0.3 if given_up else right + 0.6
        ax.text(position, row, f"{hypothesis.score:.2f}", va="center", color="#777777" if given_up else "black")
    ax.text(right + 0.6, -0.8, "score", va="center")
    ax.set(xlim=(-0.6, right + 1.6), ylim=(len(leaves) - 0.4, -1.1))
    ax.set_axis_off()
    return finish(figure)
