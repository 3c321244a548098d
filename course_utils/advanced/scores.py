"""Is an attribution right? Scores against true masks, and against what the model does when pixels go."""

import torch
from torch import Tensor, nn

from course_utils.advanced.input_gradients import Target, check_target, in_fastest_layout
from course_utils.foundation.arguments import check_count, check_number, check_tensor, describe_value
from course_utils.foundation.devices import in_double
from course_utils.foundation.evaluation import classifier_logits


def pointing_game(attributions: Tensor, masks: Tensor) -> Tensor:
    """Does the strongest pixel lie on the object? bool (N,). Source: Zhang et al. (2018), "Top-down neural attention".

    Args:
        attributions: (N, H, W); the larger, the more important. Of several strongest pixels the first counts, row by
            row.
        masks: bool (N, H, W), True on the object; on any device.

    >>> pointing_game(torch.tensor([[[0.1, 0.9]]]), torch.tensor([[[False, True]]]))
    tensor([True])
    """
    _check_maps(attributions, masks)
    flat = attributions.flatten(1)
    points = (flat != flat[:, :1]).any(1)  # a constant map has no maximum to point at
    return points & masks.to(flat.device).flatten(1).gather(1, flat.argmax(1, keepdim=True))[:, 0]


def energy_inside(attributions: Tensor, masks: Tensor) -> Tensor:
    """The share of the attribution's mass that lies on the object.

    Compare it with the mask's share of the image, which is what an attribution without any idea gets. Source: Wang
    et al. (2020), "Score-CAM", the energy-based pointing game.

    Args:
        attributions: (N, H, W); of signed ones the absolute value is taken.
        masks: bool (N, H, W); on any device.

    Returns:
        (N,), in [0, 1]; NaN where an attribution is 0 everywhere.
    """
    _check_maps(attributions, masks)
    energy = in_double(attributions).abs().flatten(1)  # sums of half precision overflow
    return ((energy * masks.to(energy.device).flatten(1)).sum(1) / energy.sum(1)).to(attributions)


def _check_maps(attributions: Tensor, masks: Tensor) -> None:
    _refuse_channels(attributions)
    check_tensor(attributions, "attributions", ndim=3)
    if not isinstance(masks, Tensor) or masks.dtype != torch.bool or masks.shape != attributions.shape:
        raise ValueError(
            f"masks must be a bool tensor in the attributions' shape {tuple(attributions.shape)}, but is "
            f"{describe_value(masks)}"
        )


def _refuse_channels(attributions: Tensor) -> None:
    if isinstance(attributions, Tensor) and attributions.ndim == 4:
        raise ValueError(
            f"attributions must have 3 dimensions (N, H, W), but is {describe_value(attributions)}; sum over the "
            "channels first: attributions.sum(1)"
        )


def deletion_curve(
    model: nn.Module,
    inputs: Tensor,
    attributions: Tensor,
    target: Target = None,
    *,
    n_points: int = 11,
    insertion: bool = False,
    fill: Tensor | float = 0.0,
    task: str = "multiclass",
    batch_size: int | None = None,
    seed: int | None = 0,
) -> tuple[Tensor, Tensor]:
    """The class's mean probability while the most important pixels go (or, with `insertion`, come) first.

    A good attribution makes the probability fall fast in deletion and rise fast in insertion. Source: Petsiuk et al.
    (2018), "RISE".

    Args:
        model, task: as in `course_utils.advanced.saliency_map`.
        inputs: images (N, channels, H, W), or (N, F).
        attributions: (N, H, W), or (N, F). Of equally important pixels the first ones change first, row by row.
        target: the class whose probability is followed, in any form that `saliency_map` takes.
        n_points: at least 2 points from 0 to all pixels.
        insertion: begin with the empty image instead.
        fill: what stands in place of a pixel that is gone: a number, or a tensor that broadcasts to the inputs, such as
            a mean colour (channels, 1, 1) or blurred images.
        batch_size: samples that go through the model at a time; None takes all.
        seed: of what a random model draws: the same at every point; None draws fresh numbers.

    Returns:
        The share of pixels changed, (n_points,), and the mean probability at each, (n_points,), float32 or better.
    """
    check_tensor(inputs, "inputs", ndim=(2, 4))
    expected = inputs[:, 0].shape if inputs.ndim == 4 else inputs.shape
    _refuse_channels(attributions)
    if check_tensor(attributions, "attributions").shape != expected:
        raise ValueError(f"attributions must have the shape {tuple(expected)}, but is {describe_value(attributions)}")
    check_count(n_points, "n_points", minimum=2)
    fill = _check_fill(fill, inputs)
    order = attributions.detach().to(inputs.device).flatten(1).argsort(dim=1, descending=True, stable=True)
    rank = order.argsort(1).reshape(expected)  # 0: the most important one
    options = {"task": task, "batch_size": batch_size, "seed": seed}
    target = check_target(target, classifier_logits(model, inputs, **options))
    shares = torch.linspace(0, 1, n_points)
    means = []
    for share in shares.tolist():
        changed = rank < round(share * rank[0].numel())
        gone = ~changed if insertion else changed
        x = torch.where(gone[:, None] if inputs.ndim == 4 else gone, fill, inputs)
        logits = classifier_logits(model, in_fastest_layout(model, x), **options)
        probabilities = torch.softmax(in_double(logits), 1).gather(1, target.to(logits.device)[:, None])
        means.append(probabilities.mean().to(logits.dtype))  # in float64 the order of the samples does not matter
    return shares, torch.stack(means)


def _check_fill(fill: Tensor | float, inputs: Tensor) -> Tensor:
    """In the inputs' dtype and on their device, in a shape that broadcasts to theirs."""
    if not isinstance(fill, Tensor):
        return torch.tensor(check_number(fill, "fill")).to(inputs)
    check_tensor(fill if fill.ndim else fill[None], "fill")
    try:
        fill.expand(inputs.shape)
    except RuntimeError:
        raise ValueError(
            f"fill must be a number or broadcast to the inputs' shape {tuple(inputs.shape)}, but is "
            f"{describe_value(fill)}"
        ) from None
    return fill.detach().to(inputs)
