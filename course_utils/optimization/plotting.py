"""Figures of chapter 3."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from course_utils.foundation.arguments import check_class_names, check_labels, check_tensor
from course_utils.foundation.intervals import wilson_interval
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
    """One panel for each diagram: accuracy against confidence, with the numbers of samples below.

    A point is a bin; its bar is the Wilson interval (95 %) of the accuracy. Below the dashed line the answers are too
    sure, above it they are not sure enough.
    """
    _check_filled(diagrams, "diagrams")
    columns = len(diagrams)
    figure, axes = new_figure(2, columns, size=(3.8 * columns, 4.6), height_ratios=(3, 1), sharex="col", sharey="row")
    for i, (name, diagram) in enumerate(diagrams.items()):
        upper, lower = axes[i], axes[columns + i]
        upper.plot([0, 1], [0, 1], color="black", linestyle="--", linewidth=1, label="confidence = accuracy")
        upper.errorbar(*_bins_with_intervals(diagram), fmt="o", color=PALETTE[0], capsize=3, label="one bin, 95 %")
        upper.text(0.96, 0.06, "too sure", ha="right", color="#444444")
        upper.text(0.04, 0.92, "not sure enough", color="#444444")
        upper.set(title=name, ylim=(0, 1.02), xlim=(0, 1.02))
        edges = diagram.bin_edges.cpu().double().numpy()
        counts = diagram.counts.cpu().numpy()
        lower.bar(edges[:-1], counts, edges[1:] - edges[:-1], align="edge", color="#999999", edgecolor="white")
        lower.set(xlabel="confidence")
        lower.yaxis.get_major_locator().set_params(integer=True, nbins=3)
    axes[0].set_ylabel("accuracy")
    axes[columns].set_ylabel("samples")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return finish(figure)


def _bins_with_intervals(diagram: ReliabilityDiagram) -> tuple[Tensor, Tensor, Tensor]:
    """Of the filled bins: mean confidence (K,), accuracy (K,), and the intervals' lengths below and above (2, K)."""
    filled = diagram.counts.cpu() > 0
    counts, accuracy = diagram.counts.cpu()[filled], diagram.accuracy.cpu()[filled]
    hits = (accuracy * counts).round().long()
    ends = [wilson_interval(*pair) for pair in zip(hits.tolist(), counts.tolist(), strict=True)]
    low, high = torch.tensor(ends, dtype=torch.float64).reshape(-1, 2).T
    lengths = torch.stack([accuracy - low, high - accuracy]).clamp(min=0)  # rounding may cross the ends
    return diagram.confidence.cpu()[filled], accuracy, lengths


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
    """One quantity in several groups of samples: for each value, the share of the group that lies at or below it."""
    import seaborn

    _check_filled(groups, "groups")
    for name, values in groups.items():
        check_tensor(values, name)
    figure, ax = axes_or_new(ax)
    for i, (name, values) in enumerate(groups.items()):
        seaborn.ecdfplot(values.detach().cpu().flatten().float().numpy(), ax=ax, label=name, **_line(i))
    ax.set(xlabel=label, ylabel="share of the group up to here", ylim=(0, 1.02))
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
