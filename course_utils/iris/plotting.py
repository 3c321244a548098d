"""Figures of chapter 7."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from course_utils.foundation.arguments import check_class_names, check_labels, check_tensor, describe_value
from course_utils.foundation.devices import full_precision
from course_utils.foundation.evaluation import check_has_values
from course_utils.foundation.plotting import MARKERS, PALETTE, axes_or_new, course_style, finish, literal, new_figure
from course_utils.iris.inference import predict
from course_utils.iris.inspection import parameters_of
from course_utils.iris.training import TrainingLog

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@course_style()
def plot_loss(
    history: TrainingLog | Mapping[str, TrainingLog],
    *,
    ax: Axes | None = None,
) -> Figure:
    """The training loss against the epoch, for one run or for several named ones."""
    if not isinstance(history, (TrainingLog, Mapping)):
        raise TypeError(f"history must be a TrainingLog or a dict of them, but is {describe_value(history)}")
    runs = history if isinstance(history, Mapping) else {"": history}
    if not runs or any(len(run) == 0 for run in runs.values()):
        raise ValueError("history is empty: there is no logged epoch to draw")
    figure, ax = axes_or_new(ax)
    for i, (name, run) in enumerate(runs.items()):
        ax.plot(run.epochs, run.losses, label=name, linestyle=("-", "--", "-.", ":")[i % 4])
    ax.set(xlabel="epoch", ylabel="training loss (nats per sample)", ylim=(0, None))
    if isinstance(history, Mapping):
        ax.legend()
    return finish(figure)


@course_style()
def plot_weight_distributions(
    model: nn.Module,
    *,
    before: Mapping[str, Tensor] | None = None,
) -> Figure:
    """A histogram of every weight tensor, biases left out; with `before`, the older values as an outline on top.

    Args:
        model: any module with at least one parameter.
        before: an earlier copy of `model.state_dict()` to compare with (copy it: the dict shares the live tensors).
    """
    import seaborn

    parameters = {name: values for name, (values, _) in parameters_of(check_has_values(model)).items()}
    weights = {name: p for name, p in parameters.items() if p.ndim > 1} or parameters
    if not weights:
        raise ValueError("the model has no parameters to draw")
    for name, weight in weights.items():
        if weight.is_complex():
            raise TypeError(
                f"{name} is complex, and complex numbers have no histogram; look at weight_statistics(model)"
            )
        check_tensor(weight, name)
        if before is not None and (name not in before or before[name].shape != weight.shape):
            raise ValueError(f"before must be an earlier state dict of this model, but does not fit {name!r}")
    figure, axes = new_figure(1, len(weights), size=(4.5 * len(weights), 3.4))
    for ax, (name, weight) in zip(axes, weights.items(), strict=True):
        now = weight.detach().cpu().flatten().float()
        then = None if before is None else before[name].detach().cpu().flatten().float()
        both = now if then is None else torch.cat([now, then])
        low, high = float(both.min()), float(both.max()) + 1e-6
        # Narrow enough for the narrower of the two: weights grow by a factor of ten, and one bin would hold them all.
        spread = min(float(part.max() - part.min()) for part in (now, then) if part is not None)
        count = min(60, max(15, math.ceil(6 * (high - low) / max(spread, 1e-6))))
        options = {"ax": ax, "bins": count, "binrange": (low, high)}
        seaborn.histplot(now.numpy(), color=PALETTE[0], label="after", **options)
        if then is not None:
            seaborn.histplot(then.numpy(), color=PALETTE[2], element="step", fill=False, label="before", **options)
            ax.legend()
        ax.yaxis.get_major_locator().set_params(integer=True)
        ax.set(title=f"{name}, {tuple(weight.shape)}", xlabel="weight", ylabel="count")
    return finish(figure)


@course_style()
def plot_decision_regions(
    model: nn.Module,
    x: Tensor,
    y: Any,
    *,
    features: tuple[int, int] = (2, 3),
    feature_names: Sequence[str] | None = None,
    class_names: Sequence[str] | None = None,
    task: str = "multiclass",
    ax: Axes | None = None,
) -> Figure:
    """The classes a model assigns in the plane of two features, with the samples on top; wrong ones are circled.

    The other features are held at their mean over `x`, so the plane is a slice through the input space, and a sample
    far from the slice may be classified differently from the ground it lies on. The circles use the samples' own
    values. Darker ground is more confident.

    Args:
        model, task: as in `predict`.
        x: (N, D) samples.
        y: N class indices, as a tensor, list or array.
        features: the columns on the horizontal and the vertical axis.
        feature_names, class_names: D and C names; None numbers them.
        ax: draw here instead of in a new figure.
    """
    x = check_tensor(x, "x", ndim=2).detach()
    prediction = predict(model, x, task=task)
    num_classes = 2 if task == "binary" else prediction.probabilities.shape[1]
    y = check_labels(y, "y", num_samples=len(x), num_classes=num_classes).to(x.device)
    across, up = features
    if across == up or not all(isinstance(feature, int) and 0 <= feature < x.shape[1] for feature in features):
        raise ValueError(f"features must be two different columns of x from 0 to {x.shape[1] - 1}, but are {features}")
    if feature_names is not None and len(feature_names) != x.shape[1]:
        raise ValueError(f"feature_names must name {x.shape[1]} features, but has {len(feature_names)} names")
    names = check_class_names(class_names, num_classes) or [f"class {c}" for c in range(num_classes)]

    steps = 120
    low, high = x.amin(0) - 0.08, x.amax(0) + 0.08
    columns = torch.linspace(float(low[across]), float(high[across]), steps)
    rows = torch.linspace(float(low[up]), float(high[up]), steps)
    plane = x.mean(0).repeat(steps * steps, 1)  # (steps², D)
    plane[:, across] = columns.repeat(steps).to(x)
    plane[:, up] = rows.repeat_interleave(steps).to(x)
    ground = predict(model, plane, task=task)
    shown = full_precision(x).cpu().numpy()  # NumPy has no bfloat16

    figure, ax = axes_or_new(ax, size=(6.4, 4.4))
    palette = torch.tensor([[int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)] for colour in PALETTE])
    strength = (0.1 + 0.5 * (ground.confidence.cpu().float() - 1 / num_classes) / (1 - 1 / num_classes))[:, None]
    shade = 1 - strength * (1 - palette[ground.labels.cpu() % len(PALETTE)])  # (steps², 3)
    extent = (float(columns[0]), float(columns[-1]), float(rows[0]), float(rows[-1]))
    ax.imshow(shade.reshape(steps, steps, 3).clamp(0, 1).numpy(), origin="lower", extent=extent, aspect="auto")
    labels = ground.labels.reshape(steps, steps).cpu().numpy()
    if labels.min() < labels.max():
        levels = [c + 0.5 for c in range(num_classes - 1)]
        ax.contour(columns.numpy(), rows.numpy(), labels, levels=levels, colors="#444444", linewidths=1)
    for c in range(num_classes):
        points = shown[(y == c).cpu().numpy()][:, [across, up]].T
        style = {"color": PALETTE[c % len(PALETTE)], "marker": MARKERS[c % len(MARKERS)], "edgecolor": "white"}
        ax.scatter(*points, **style, linewidth=0.7, label=literal(names[c]))
    wrong = shown[(prediction.labels != y).cpu().numpy()][:, [across, up]].T
    if wrong.size:
        ax.scatter(*wrong, s=160, facecolor="none", edgecolor="black", linewidth=1.5, label="wrong")
    axis_names = feature_names or [f"feature {i}" for i in range(x.shape[1])]
    ax.set(xlabel=axis_names[across], ylabel=axis_names[up])
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
    ax.grid(visible=False)
    return finish(figure)
