"""Is an attribution right? Scores against true masks, and against what the model does when pixels go."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from course_utils.advanced.gradients import check_target
from course_utils.foundation.arguments import check_count, check_number, check_tensor, describe_value
from course_utils.foundation.devices import in_double
from course_utils.foundation.evaluation import classifier_logits


def pointing_game(attributions: Tensor, masks: Tensor) -> Tensor:
    """Does the strongest pixel lie on the object? Source: Zhang et al. (2018), "Top-down neural attention".

    Args:
        attributions: (N, H, W); the larger, the more important.
        masks: bool (N, H, W), True on the object.

    Returns:
        bool (N,).

    >>> pointing_game(torch.tensor([[[0.1, 0.9]]]), torch.tensor([[[False, True]]]))
    tensor([True])
    """
    _check_maps(attributions, masks)
    flat = attributions.flatten(1)
    points = (flat != flat[:, :1]).any(1)  # a map that is the same everywhere points nowhere
    return points & masks.flatten(1).gather(1, flat.argmax(1, keepdim=True))[:, 0]


def energy_inside(attributions: Tensor, masks: Tensor) -> Tensor:
    """The share of the attribution's mass that lies on the object.

    Compare it with the mask's share of the picture, which is what an attribution without any idea gets. Source: Wang
    et al. (2020), "Score-CAM", the energy-based pointing game.

    Args:
        attributions: (N, H, W); of signed ones the absolute value is taken.
        masks: bool (N, H, W).

    Returns:
        (N,), in [0, 1]; NaN where an attribution is 0 everywhere.
    """
    _check_maps(attributions, masks)
    energy = in_double(attributions).abs().flatten(1)  # sums of half precision overflow
    return ((energy * masks.flatten(1).to(energy.device)).sum(1) / energy.sum(1)).to(attributions)


def _check_maps(attributions: Tensor, masks: Tensor) -> None:
    check_tensor(attributions, "attributions", ndim=3)
    if not isinstance(masks, Tensor) or masks.dtype != torch.bool or masks.shape != attributions.shape:
        raise ValueError(
            f"masks must be a bool tensor in the attributions' shape {tuple(attributions.shape)}, but is "
            f"{describe_value(masks)}"
        )


def deletion_curve(
    model: nn.Module,
    inputs: Tensor,
    attributions: Tensor,
    target: Tensor | int | None = None,
    *,
    n_points: int = 11,
    insertion: bool = False,
    fill: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """The class's mean probability while the most important pixels go (or, with `insertion`, come) first.

    A good attribution makes the probability fall fast in deletion and rise fast in insertion. Source: Petsiuk et al.
    (2018), "RISE".

    Args:
        model: returns logits (N, C).
        inputs: pictures (N, channels, H, W).
        attributions: (N, H, W).
        target: the class whose probability is followed: (N,), one for all, or None for the model's answer.
        n_points: at least 2 points from 0 to all pixels.
        insertion: begin with the empty picture instead.
        fill: the value of a pixel that is gone.

    Returns:
        The share of pixels changed, (n_points,), and the mean probability at each, (n_points,).
    """
    check_tensor(inputs, "inputs", ndim=4)
    check_tensor(attributions, "attributions", ndim=3)
    if attributions.shape != inputs[:, 0].shape:
        expected = tuple(inputs[:, 0].shape)
        raise ValueError(f"attributions must have the shape {expected}, but are {describe_value(attributions)}")
    check_count(n_points, "n_points", minimum=2)
    fill = check_number(fill, "fill")
    rank = attributions.detach().flatten(1).argsort(1, descending=True).argsort(1).reshape(attributions.shape)
    target = check_target(target, classifier_logits(model, inputs))
    shares = torch.linspace(0, 1, n_points)
    means = []
    for share in shares.tolist():
        changed = (rank < round(share * rank[0].numel()))[:, None]  # (N, 1, H, W), the most important ones
        gone = ~changed if insertion else changed
        logits = classifier_logits(model, inputs.masked_fill(gone, fill))
        means.append(torch.softmax(logits, 1).gather(1, target[:, None]).mean())
    return shares, torch.stack(means)
