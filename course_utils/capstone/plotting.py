"""The figures of the capstone."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from course_utils.basics import plot_images
from course_utils.capstone.evaluation import Evaluation, ImageReadings, readings_of
from course_utils.capstone.images import check_images
from course_utils.capstone.robustness import RobustnessCurve
from course_utils.capstone.training import TrainingHistory
from course_utils.foundation.arguments import check_count, describe_value
from course_utils.foundation.intervals import wilson_interval
from course_utils.foundation.plotting import (
    MARKERS,
    PALETTE,
    axes_or_new,
    course_style,
    draw_confusion,
    finish,
    literal,
    new_figure,
)
from course_utils.optimization import plot_reliability, reliability_diagram

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def _check_kind(value: object, name: str, kind: type) -> None:
    if not isinstance(value, kind):
        raise TypeError(f"{name} must be of type {kind.__name__}, but is {describe_value(value)}")


def plot_readings(readings: ImageReadings, images: Tensor) -> Figure:
    """The images of `interpret_model_outputs`, each with its true class and the model's decision.

    Args:
        readings: about some of `images`.
        images: all of them, uint8 (N, 3, H, W).
    """
    _check_kind(readings, "readings", ImageReadings)
    check_images(images)
    if int(readings.index.max()) >= len(images):
        raise ValueError(f"readings are about image {int(readings.index.max())}, but images has {len(images)}")
    rows = zip(readings.target.tolist(), readings.labels.tolist(), readings.confidence.tolist(), strict=True)
    names = [literal(name) for name in readings.class_names]
    titles = [
        f"{names[true]}\n{'✓' if predicted == true else '✗'} {names[predicted]} {confidence:.0%}"
        for true, predicted, confidence in rows
    ]
    return plot_images(images[readings.index.to(images.device)], titles, columns=6)


@course_style()
def plot_training(history: TrainingHistory) -> Figure:
    """Loss, validation accuracy and learning rate against the epoch."""
    _check_kind(history, "history", TrainingHistory)
    if len(history) == 0:
        raise ValueError("the history is empty: training stopped in its first epoch")
    figure, (left, middle, right) = new_figure(1, 3, size=(11.0, 3.2))

    def draw(ax: Axes, values: Tensor, i: int, label: str, linestyle: str = "-") -> None:
        style = {"color": PALETTE[i], "marker": MARKERS[i], "markevery": max(1, len(history) // 12)}
        ax.plot(history.epochs.tolist(), values, label=label, linestyle=linestyle, **style)
        ax.xaxis.get_major_locator().set_params(integer=True)

    draw(left, history.train_loss, 0, "training")
    draw(left, history.validation_loss, 1, "validation", "--")
    draw(middle, history.validation_accuracy, 1, "validation", "--")
    draw(right, history.lr, 2, "learning rate")
    left.legend()
    left.set(xlabel="epoch", ylabel="loss (nats)", ylim=(0, None))
    middle.set(xlabel="epoch", ylabel="validation accuracy", ylim=(None, 1))
    right.set(xlabel="epoch", ylabel="learning rate at the epoch's end", ylim=(0, None))
    return finish(figure)


@course_style()
def plot_confusion_matrix(evaluation: Evaluation, *, title: str = "", ax: Axes | None = None) -> Figure:
    """The confusion matrix in per cent of each true class. Colours show the mistakes; the right answers stay white.

    Chapter 3 draws the same matrix of labels and targets as counts (`course_utils.optimization.plot_confusion`).

    More than 20 classes are drawn without the figures, as colours with a bar beside them.
    """
    _check_kind(evaluation, "evaluation", Evaluation)
    counts = evaluation.confusion_matrix.double()
    percent = 100 * counts / counts.sum(1, keepdim=True).clamp(min=1)
    mistakes = percent - torch.diag(percent.diagonal())
    texts = [[str(int(value + 0.5)) if value >= 0.5 else "" for value in row] for row in percent.tolist()]
    names = evaluation.class_names
    figure, ax = draw_confusion(
        mistakes, texts, names, cmap="Oranges", unit="per cent of the true class", ax=ax,
        size=(1.8 + 0.62 * len(names), 1.4 + 0.5 * len(names)), annot_kws={"fontsize": 9}, linewidths=0.5,
    )  # fmt: skip
    ax.set_title(title or "per cent of each true class")
    ax.tick_params(axis="x", rotation=45)
    return finish(figure)


@course_style()
def plot_metrics(evaluation: Evaluation, *, ax: Axes | None = None) -> Figure:
    """Recall and precision of each class as points with their 95 % intervals; the dashed line is the accuracy."""
    _check_kind(evaluation, "evaluation", Evaluation)
    counts = evaluation.confusion_matrix
    hits = counts.diagonal().tolist()
    order = sorted(range(len(hits)), key=lambda k: float(evaluation.per_class["recall"].iloc[k]))
    figure, ax = axes_or_new(ax, size=(6.4, 1.2 + 0.36 * len(hits)))
    for j, (name, totals) in enumerate({"recall": counts.sum(1), "precision": counts.sum(0)}.items()):
        totals = totals.tolist()
        drawn = [(row, k) for row, k in enumerate(order) if totals[k] > 0]
        shares = [hits[k] / totals[k] for _, k in drawn]
        ends = [wilson_interval(hits[k], totals[k]) for _, k in drawn]
        bars = list(zip(*[(p - low, high - p) for p, (low, high) in zip(shares, ends, strict=True)], strict=True))
        rows = [row + 0.16 * (1 - 2 * j) for row, _ in drawn]
        ax.errorbar(shares, rows, xerr=bars, fmt=MARKERS[j], color=PALETTE[j], capsize=2, label=name)
    ax.axvline(evaluation.accuracy, color="black", linestyle="--", linewidth=1, label="accuracy")
    ax.set_yticks(range(len(order)), [literal(evaluation.class_names[k]) for k in order])
    ax.set(xlabel="share, with 95 % interval", xlim=(None, 1.005))
    ax.locator_params(axis="x", nbins=6)
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return finish(figure)


@course_style()
def plot_robustness(curves: dict[str, RobustnessCurve], *, ax: Axes | None = None) -> Figure:
    """Accuracy under attack against the attack's strength, each with its 95 % interval as a band."""
    if not isinstance(curves, dict) or not curves:
        raise ValueError("curves is empty or no dict; pass at least one name with its RobustnessCurve")
    figure, ax = axes_or_new(ax)
    for i, (name, curve) in enumerate(curves.items()):
        _check_kind(curve, f"the curve {name!r}", RobustnessCurve)
        x = (curve.eps * 255).tolist()
        color = PALETTE[i % len(PALETTE)]
        ax.plot(x, curve.accuracy, color=color, marker=MARKERS[i % len(MARKERS)], label=name)
        ax.fill_between(x, curve.low, curve.high, color=color, alpha=0.2, linewidth=0)
    ax.set(xlabel="eps: largest change of a pixel, in 1/255", ylabel="accuracy under attack", ylim=(0, 1))
    if len(curves) > 1:
        ax.legend()
    return finish(figure)


def visualize_results(
    evaluation: Evaluation,
    images: Tensor,
    *,
    calibrated: Evaluation | None = None,
    num_samples: int = 12,
    save_folder: str | os.PathLike | None = None,
) -> dict[str, Figure]:
    """The figures of a report by their names: "predictions", "confusion_matrix", "metrics", "reliability".

    Args:
        evaluation: of `images`.
        images: uint8 (N, 3, H, W), those that were evaluated.
        calibrated: the same images after temperature scaling; drawn beside the first in the reliability diagram.
        num_samples: images in the grid, the first ones.
        save_folder: also write each figure there, as NAME.png. Files of these names are replaced.
    """
    _check_kind(evaluation, "evaluation", Evaluation)
    check_images(images)
    if calibrated is not None:
        _check_kind(calibrated, "calibrated", Evaluation)
        if calibrated.class_names != evaluation.class_names or not torch.equal(calibrated.target, evaluation.target):
            raise ValueError("calibrated is about other images or classes than evaluation")
    if len(images) != len(evaluation):
        raise ValueError(f"evaluation is about {len(evaluation)} images, but images has {len(images)}")
    shown = torch.arange(min(check_count(num_samples, "num_samples"), len(images)))
    stages = {"as trained": evaluation} | ({"calibrated": calibrated} if calibrated is not None else {})
    figures = {
        "predictions": plot_readings(readings_of(evaluation, shown), images),
        "confusion_matrix": plot_confusion_matrix(evaluation),
        "metrics": plot_metrics(evaluation),
        "reliability": plot_reliability(
            {f"{name}, ECE {e.ece:.3f}": reliability_diagram(e.probabilities, e.target) for name, e in stages.items()}
        ),
    }
    if save_folder is not None:
        folder = Path(save_folder)
        folder.mkdir(parents=True, exist_ok=True)
        for name, figure in figures.items():
            figure.savefig(folder / f"{name}.png", bbox_inches="tight")
    return figures
