"""Maps against masks in one table, with what has looked at nothing beside them; curves of single samples."""

import math

import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st

from course_utils.advanced import centre_first, deletion_curve, energy_inside, grow_masks, pointing_game, score_maps
from course_utils.iris import wilson_interval
from tests.advanced.test_scores import random_masks
from tests.support.images import classes, convolutional, images
from tests.support.values import seeds


@given(seeds, st.integers(0, 3))
def test_grown_masks_by_a_loop(seed, pixels):
    masks = random_masks(seed, 2, 6) & random_masks(seed + 1, 2, 6)
    expected = torch.zeros_like(masks)
    for n, row, column in masks.nonzero().tolist():
        expected[n, max(row - pixels, 0) : row + pixels + 1, max(column - pixels, 0) : column + pixels + 1] = True
    assert torch.equal(grow_masks(masks, pixels), expected)


def test_centre_first():
    maps = centre_first(torch.zeros(3, 9, 13))
    assert maps.shape == (3, 9, 13)
    assert [divmod(int(i), 13) for i in maps.flatten(1).argmax(1)] == [(4, 6)] * 3
    assert torch.allclose(maps, maps.flip(1))
    assert torch.allclose(maps, maps.flip(2))
    assert float(maps[0, 4, 6]) == 1
    one_deviation = centre_first(torch.zeros(1, 13, 13))[0, 6]
    assert float(one_deviation[6 - 2]) == pytest.approx(math.exp(-0.5 * (2 / (13 / 6)) ** 2))


@given(seeds, st.integers(0, 2))
def test_the_table_by_its_parts(seed, grow):
    maps = {"a": images(seed, 20, 1)[:, 0] - 0.3, "b": images(seed + 1, 20, 1)[:, 0]}
    masks = random_masks(seed, 20, 8) & random_masks(seed + 1, 20, 8)
    masks[:, 2, 3] = True
    table = score_maps(maps, masks, grow=grow)
    grown = grow_masks(masks, grow)
    for name, values in {**maps, "centre first": centre_first(maps["a"])}.items():
        hits = pointing_game(values, grown)
        assert table.loc[("pointing", name), ["low", "high"]].tolist() == pytest.approx(
            wilson_interval(int(hits.sum()), 20)
        )
        assert table.loc[("pointing", name), "mean"] == pytest.approx(float(hits.double().mean()))
        energy = energy_inside(values, grown).numpy()
        half = 1.96 * scipy.stats.sem(energy)
        assert table.loc[("energy", name), ["mean", "low", "high"]].tolist() == pytest.approx(
            [energy.mean(), energy.mean() - half, energy.mean() + half]
        )
        paired = energy - energy_inside(centre_first(values), grown).numpy()
        half = 1.96 * scipy.stats.sem(paired)
        columns = ["minus_centre", "minus_centre_low", "minus_centre_high"]
        assert table.loc[("energy", name), columns].tolist() == pytest.approx(
            [paired.mean(), paired.mean() - half, paired.mean() + half]
        )
    assert table.loc[("energy", "chance"), "mean"] == pytest.approx(float(grown.double().mean()))


def test_the_true_mask_is_the_best_there_is():
    masks = random_masks(0, 12, 8)
    table = score_maps({"mask": masks.double(), "empty": torch.zeros(12, 8, 8)}, masks)
    assert table.loc[("energy", "mask"), "mean"] == 1
    assert table.loc[("pointing", "mask"), "mean"] == 1
    assert table.loc[("pointing", "empty"), "mean"] == 0
    assert math.isnan(table.loc[("energy", "empty"), "mean"])


@given(seeds, st.booleans())
def test_curves_of_single_samples_have_the_mean_curve(seed, insertion):
    model, x, maps = convolutional(seed), images(seed), images(seed + 1)[:, 0]
    options = {"n_points": 5, "insertion": insertion, "fill": 0.5}
    shares, mean = deletion_curve(model, x, maps, classes(), **options)
    same, each = deletion_curve(model, x, maps, classes(), **options, reduction="none")
    assert torch.equal(shares, same)
    assert each.shape == (5, 5)
    assert torch.allclose(each.mean(1), mean)
    alone = deletion_curve(model, x[2:3], maps[2:3], classes()[2:3], **options)[1]
    assert torch.allclose(each[:, 2], alone)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: score_maps({}, random_masks(0)), TypeError, "maps must be a dict"),
        (lambda: score_maps(torch.rand(6, 5, 5), random_masks(0)), TypeError, "maps must be a dict"),
        (lambda: score_maps({"a": torch.rand(6, 4, 4)}, random_masks(0)), ValueError, "masks must be a bool tensor"),
        (lambda: score_maps({"a": torch.rand(6, 5, 5)}, random_masks(0), grow=-1), ValueError, "at least 0"),
        (lambda: grow_masks(torch.ones(2, 4, 4)), TypeError, "integer dtype"),
        (lambda: centre_first(torch.ones(2, 3, 4, 4)), ValueError, "3 dimension"),
        (
            lambda: deletion_curve(convolutional(), images(), images()[:, 0], reduction="sum"),
            ValueError,
            "reduction must be one of 'mean', 'none'",
        ),
    ],
)
def test_bad_input(call, error, words):
    with pytest.raises(error, match=words):
        call()
