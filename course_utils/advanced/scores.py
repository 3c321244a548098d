"""Is an attribution right? Scores against true masks, and against what the model does when pixels go."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_utils.advanced.input_gradients import Target, check_target, in_fastest_layout
from course_utils.advanced.perturbations import check_fill
from course_utils.foundation.arguments import check_choice, check_count, check_tensor, describe_value
from course_utils.foundation.devices import in_double
from course_utils.foundation.evaluation import classifier_logits
from course_utils.foundation.intervals import wilson_interval

if TYPE_CHECKING:
    import pandas as pd


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


def grow_masks(masks: Tensor, pixels: int = 2) -> Tensor:
    """The objects with a margin: True up to `pixels` rows and columns away from them, bool (N, H, W).

    An edge is read by the pixels on both sides of it, and coarse maps are blurred when they are enlarged. A score with
    a grown mask tells apart "beside the object" and "somewhere else".

    >>> grow_masks(torch.tensor([[[True, False, False]]]), 1)
    tensor([[[ True,  True, False]]])
    """
    check_tensor(masks, "masks", ndim=3, floating=False)
    width = 2 * check_count(pixels, "pixels", minimum=0) + 1
    return F.max_pool2d(masks.float()[:, None], width, stride=1, padding=pixels)[:, 0] > 0


def centre_first(maps: Tensor) -> Tensor:
    """A map of the same shape that has looked at nothing: a bell around the middle of each image.

    Photographers, and most data sets, put objects there; so this, and not chance, is what an attribution has to beat.
    Its width, a standard deviation of a sixth of the side, matters for the energy inside, and not for the order of the
    pixels.

    Args:
        maps: (N, H, W).
    """
    height, width = check_tensor(maps, "maps", ndim=3).shape[1:]
    rows, columns = (
        torch.exp(-0.5 * ((torch.arange(size) - (size - 1) / 2) / (size / 6)) ** 2) for size in (height, width)
    )
    return (rows[:, None] * columns).to(maps).expand_as(maps)


def score_maps(maps: Mapping[str, Tensor], masks: Tensor, *, grow: int = 0) -> pd.DataFrame:
    """Maps against true masks, with intervals, and each beside "centre first".

    Such a score says how *plausible* a map is to somebody who knows the object. Whether it is *faithful* to the network
    is another question, which `deletion_curve` asks.

    Args:
        maps: name → attributions (N, H, W), of the same images. The pointing game takes them with their sign, the
            energy without.
        masks: bool (N, H, W), True on the object.
        grow: pixels by which the masks are grown first (`grow_masks`).

    Returns:
        A row for each score ("pointing", "energy") and map, and for "centre first" and "chance", the masks' mean share
        of the image. Columns: mean, low, high (95 %: Wilson for pointing, else mean ± 1.96 standard errors over the
        images), and the same for the paired difference to "centre first". A map that is 0 all over has no energy and
        is left out of that mean.
    """
    if not isinstance(maps, Mapping) or not maps:
        raise TypeError(f"maps must be a dict from names to attributions, but is {describe_value(maps)}")
    import pandas as pd

    for values in maps.values():
        _check_maps(values, masks)
    masks = grow_masks(masks, grow)
    maps = {name: values.detach() for name, values in maps.items()}
    named = {**maps, "centre first": centre_first(next(iter(maps.values())))}
    rows = {}
    for score, function in (("pointing", pointing_game), ("energy", energy_inside)):
        centre = function(named["centre first"], masks).double().cpu()
        for name, values in named.items():
            hits = function(values, masks).double().cpu()
            beside = _mean_and_interval(hits - centre)
            own = _mean_and_interval(hits)
            if score == "pointing":
                own = (own[0], *wilson_interval(int(hits.sum()), len(hits)))
            rows[score, name] = (*own, *beside)
        rows[score, "chance"] = (float(masks.double().mean()), *(math.nan,) * 5)
    columns = ["mean", "low", "high", "minus_centre", "minus_centre_low", "minus_centre_high"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns).set_index(
        pd.MultiIndex.from_tuples(rows, names=["score", "map"])
    )


def _mean_and_interval(values: Tensor) -> tuple[float, float, float]:
    """Mean and 95 % interval over the samples; NaN are left out."""
    values = values[~values.isnan()]
    mean = float(values.mean())
    half = 1.96 * float(values.std()) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return mean, mean - half, mean + half


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
    reduction: str = "mean",
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
            a mean colour (channels, 1, 1) or blurred images. A map may be ahead with one fill and behind with another.
        reduction: "mean" over the samples, or "none" for a curve of each, from which an interval can be made.
        batch_size: samples that go through the model at a time; None takes all.
        seed: of what a random model draws: the same at every point; None draws fresh numbers.

    Returns:
        The share of pixels changed, (n_points,), and the mean probability at each, (n_points,), or with "none" each
        sample's, (n_points, N), float32 or better.
    """
    check_tensor(inputs, "inputs", ndim=(2, 4))
    expected = inputs[:, 0].shape if inputs.ndim == 4 else inputs.shape
    _refuse_channels(attributions)
    if check_tensor(attributions, "attributions").shape != expected:
        raise ValueError(f"attributions must have the shape {tuple(expected)}, but is {describe_value(attributions)}")
    check_count(n_points, "n_points", minimum=2)
    check_choice(reduction, "reduction", ("mean", "none"))
    fill = check_fill(fill, inputs)
    order = attributions.detach().to(inputs.device).flatten(1).argsort(dim=1, descending=True, stable=True)
    rank = order.argsort(1).reshape(expected)  # 0: the most important one
    options = {"task": task, "batch_size": batch_size, "seed": seed}
    target = check_target(target, classifier_logits(model, inputs, **options))
    shares = torch.linspace(0, 1, n_points)
    curves = []
    for share in shares.tolist():
        changed = rank < round(share * rank[0].numel())
        gone = ~changed if insertion else changed
        x = torch.where(gone[:, None] if inputs.ndim == 4 else gone, fill, inputs)
        logits = classifier_logits(model, in_fastest_layout(model, x), **options)
        probabilities = torch.softmax(in_double(logits), 1).gather(1, target.to(logits.device)[:, None])[:, 0]
        if reduction == "mean":
            probabilities = probabilities.mean()  # in float64 the order of the samples does not matter
        curves.append(probabilities.to(logits.dtype))
    return shares, torch.stack(curves)
