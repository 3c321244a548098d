"""Figures of chapter 3."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from course_utils.foundation.arguments import check_class_names, check_labels, check_tensor
from course_utils.foundation.plotting import PALETTE, axes_or_new, course_style, draw_confusion, finish, new_figure
from course_utils.optimization.calibration import ReliabilityDiagram
from course_utils.optimization.thresholds import ThresholdResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def _line(i: int) -> dict[str, str]:
    """Colour and dashes of the i-th of several lines; both differ, for readers who print in grey."""
    return {"color": PALETTE[i % len(PALETTE)], "linestyle": ("-", "--", "-.", ":")[i % 4]}


def _check_filled(named: Mapping, name: str) -> None:
    if not named:
        raise ValueError(f"{name} is empty: there is nothing to draw")


@course_style()
def plot_reliability(diagrams: Mapping[str, ReliabilityDiagram]) -> Figure:
    """One panel for each diagram: accuracy against confidence, with the numbers of samples below."""
    _check_filled(diagrams, "diagrams")
    columns = len(diagrams)
    figure, axes = new_figure(2, columns, size=(3.8 * columns, 4.6), height_ratios=(3, 1), sharex="col", sharey="row")
    for i, (name, diagram) in enumerate(diagrams.items()):
        upper, lower = axes[i], axes[columns + i]
        edges = diagram.bin_edges.cpu().double()
        widths = (edges[1:] - edges[:-1]).numpy()
        left = edges[:-1].numpy()
        accuracy, confidence = diagram.accuracy.cpu().numpy(), diagram.confidence.cpu().numpy()
        upper.bar(left, accuracy, widths, align="edge", color=PALETTE[0], edgecolor="white", label="accuracy")
        gap = accuracy - confidence
        upper.bar(
            left, gap, widths, confidence, align="edge", fill=False, hatch="///", edgecolor=PALETTE[5], label="gap"
        )
        upper.plot([0, 1], [0, 1], color="black", linestyle="--", linewidth=1, label="honest")
        upper.set(title=name, ylim=(0, 1), xlim=(0, 1))
        lower.bar(left, diagram.counts.cpu().numpy(), widths, align="edge", color="#999999", edgecolor="white")
        lower.set(xlabel="confidence")
        lower.yaxis.get_major_locator().set_params(integer=True, nbins=3)
    axes[0].set_ylabel("accuracy")
    axes[columns].set_ylabel("samples")
    axes[0].legend(loc="upper left")
    return finish(figure)


@course_style()
def plot_threshold(results: Mapping[str, ThresholdResult], *, ax: Axes | None = None) -> Figure:
    """Metrics against the threshold, each with its best point."""
    _check_filled(results, "results")
    figure, ax = axes_or_new(ax)
    for i, (name, result) in enumerate(results.items()):
        x, y = result.thresholds.cpu().double(), result.scores.cpu()
        finite = torch.isfinite(x)
        ax.plot(x[finite], y[finite], drawstyle="steps-pre", label=name, **_line(i))
        if result.threshold <= 1:
            ax.plot(result.threshold, result.score, "o", color=_line(i)["color"])
    ax.set(xlabel="threshold", ylabel="metric", ylim=(0, 1.02))
    ax.legend()
    return finish(figure)


@course_style()
def plot_confusion(
    labels: Tensor,
    target: Tensor,
    class_names: Sequence[str],
    *,
    title: str = "",
    ax: Axes | None = None,
) -> Figure:
    """The confusion matrix as counts: rows are true classes, columns what was predicted.

    Chapter 6 draws the same matrix of an `Evaluation` in per cent of each true class
    (`course_utils.capstone.plot_confusion_matrix`).

    More than 20 classes are drawn without the counts, as colours with a bar beside them.
    """
    c = len(class_names)
    names = check_class_names(class_names, c)  # a dict from class to name becomes a tuple
    check_tensor(labels, "labels", ndim=1, floating=False)
    check_labels(labels, "labels", num_samples=len(labels), num_classes=c)
    check_labels(target, "target", num_samples=len(labels), num_classes=c)
    counts = torch.bincount(target.cpu().long() * c + labels.cpu().long(), minlength=c * c).reshape(c, c)
    texts = [[str(count) for count in row] for row in counts.tolist()]
    size = (1.2 + 0.9 * c, 0.9 + 0.75 * c)
    figure, ax = draw_confusion(counts, texts, names, cmap="Blues", unit="samples", size=size, ax=ax)
    ax.set_title(title)
    return finish(figure)


@course_style()
def plot_groups(
    groups: Mapping[str, Tensor],
    *,
    label: str,
    ax: Axes | None = None,
) -> Figure:
    """The distribution of one quantity in several groups of samples, as outlines of histograms with equal areas."""
    import seaborn

    _check_filled(groups, "groups")
    for name, values in groups.items():
        check_tensor(values, name)
    figure, ax = axes_or_new(ax)
    values = {name: value.detach().cpu().flatten().float() for name, value in groups.items()}
    low, high = min(float(v.min()) for v in values.values()), max(float(v.max()) for v in values.values())
    for i, (name, value) in enumerate(values.items()):
        options = {"bins": 30, "binrange": (low, high + 1e-6), "stat": "density", "element": "step", "fill": i == 0}
        seaborn.histplot(value.numpy(), ax=ax, label=name, **_line(i), **options)
    ax.set(xlabel=label, ylabel="density")
    ax.legend()
    return finish(figure)


@course_style()
def plot_risk_coverage(curves: Mapping[str, tuple[Tensor, Tensor]], *, ax: Axes | None = None) -> Figure:
    """Error among the answered samples against the share that is answered, one line for each name."""
    _check_filled(curves, "curves")
    figure, ax = axes_or_new(ax)
    for i, (name, (coverage, risk)) in enumerate(curves.items()):
        ax.plot(coverage, risk, label=name, **_line(i))
    ax.set(xlabel="coverage (share of samples answered)", ylabel="error among them", xlim=(0, 1), ylim=(0, None))
    ax.legend()
    return finish(figure)
