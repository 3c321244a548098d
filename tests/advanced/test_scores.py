"""Scores of attributions against brute force."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course_utils.advanced import deletion_curve, energy_inside, pointing_game
from tests.support.pictures import classes, convolutional, linear, pictures
from tests.support.values import DTYPES, NAN, seeds


def random_masks(seed: int, n: int = 6, size: int = 5) -> torch.Tensor:
    return torch.rand(n, size, size, generator=torch.Generator().manual_seed(seed)) < 0.4


class TestScores:
    @given(seeds)
    def test_pointing_game_by_brute_force(self, seed):
        maps, masks = pictures(seed, 6, 1, 5)[:, 0] - 0.5, random_masks(seed)
        expected = []
        for one, mask in zip(maps.tolist(), masks.tolist(), strict=True):
            best = max((value, row, column) for row, line in enumerate(one) for column, value in enumerate(line))
            expected.append(mask[best[1]][best[2]])
        result = pointing_game(maps, masks)
        assert result.tolist() == expected
        assert result.dtype == torch.bool

    @given(seeds)
    def test_energy_by_brute_force(self, seed):
        maps, masks = pictures(seed, 6, 1, 5)[:, 0] - 0.5, random_masks(seed)
        expected = [
            sum(abs(v) for v, inside in zip(one, mask, strict=True) if inside) / sum(map(abs, one))
            for one, mask in zip(maps.flatten(1).tolist(), masks.flatten(1).tolist(), strict=True)
        ]
        assert energy_inside(maps, masks).tolist() == pytest.approx(expected)

    def test_energy_at_its_ends(self):
        masks = torch.zeros(3, 2, 2, dtype=torch.bool)
        masks[0] = True
        maps = torch.ones(3, 2, 2)
        maps[2] = 0
        assert energy_inside(maps, masks).tolist() == pytest.approx([1, 0, NAN], nan_ok=True)

    def test_energy_without_an_idea_is_the_masks_share(self):
        masks = random_masks(0)
        assert torch.allclose(energy_inside(torch.full((6, 5, 5), 0.3), masks), masks.float().mean((1, 2)))

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_energy_of_large_pictures_stays_finite(self, dtype):
        """The sum of 90,000 ones is beyond float16."""
        maps, masks = torch.ones(1, 300, 300, dtype=dtype), torch.zeros(1, 300, 300, dtype=torch.bool)
        masks[:, :150] = True
        result = energy_inside(maps, masks)
        assert result.dtype == dtype
        assert result.tolist() == [0.5]

    def brute_curve(self, model, x, maps, target, n_points, insertion, fill):
        means = []
        for i in range(n_points):
            k = round(i / (n_points - 1) * maps[0].numel())
            changed = torch.full_like(x, fill) if insertion else x.clone()
            for row in range(len(x)):
                for index in maps[row].flatten().sort(descending=True).indices[:k].tolist():
                    r, c = divmod(index, x.shape[3])
                    changed[row, :, r, c] = x[row, :, r, c] if insertion else fill
            with torch.no_grad():
                means.append(float(model(changed).softmax(1)[torch.arange(len(x)), target].mean()))
        return means

    @given(seeds, st.sampled_from([2, 3, 5, 9, 17, 65]), st.booleans(), st.sampled_from([0.0, 0.5, -1]))
    @settings(max_examples=20)
    def test_deletion_by_brute_force(self, seed, n_points, insertion, fill):
        model, x, maps = linear(seed, scale=5.0), pictures(seed), pictures(seed + 1)[:, 0]
        shares, means = deletion_curve(model, x, maps, classes(), n_points=n_points, insertion=insertion, fill=fill)
        assert shares.tolist() == pytest.approx(np.linspace(0, 1, n_points).tolist())
        assert means.tolist() == pytest.approx(self.brute_curve(model, x, maps, classes(), n_points, insertion, fill))

    def test_deletion_and_insertion_meet_at_their_ends(self):
        model, x, maps = convolutional(), pictures(), pictures(1)[:, 0]
        _, gone = deletion_curve(model, x, maps, classes(), fill=0.5)
        _, come = deletion_curve(model, x, maps, classes(), fill=0.5, insertion=True)
        with torch.no_grad():
            clean = model(x).softmax(1)[torch.arange(5), classes()].mean()
            blank = model(torch.full_like(x, 0.5)).softmax(1)[torch.arange(5), classes()].mean()
        assert len(gone) == 11
        assert [float(gone[0]), float(come[-1])] == pytest.approx([float(clean)] * 2)
        assert [float(gone[-1]), float(come[0])] == pytest.approx([float(blank)] * 2)

    def test_the_right_order_beats_the_wrong_one(self):
        """On a linear model, x·w is what a pixel gives."""
        model, x = linear(c=2, scale=20.0), pictures()
        y = model(x).argmax(1)
        rise = (x * (model[1].weight[y] - model[1].weight[1 - y]).reshape(5, 3, 8, 8)).sum(1).detach()
        right, wrong = (deletion_curve(model, x, maps, y)[1].mean() for maps in (rise, -rise))
        assert right < wrong - 0.2
        right, wrong = (deletion_curve(model, x, maps, y, insertion=True)[1].mean() for maps in (rise, -rise))
        assert right > wrong + 0.2

    @pytest.mark.parametrize(
        ("call", "error", "words"),
        [
            *[
                (call, error, words)
                for score in (pointing_game, energy_inside)
                for call, error, words in [
                    (lambda s=score: s(torch.rand(2, 4, 4), torch.ones(2, 4, 4)), ValueError, "bool tensor"),
                    (lambda s=score: s(torch.rand(2, 4, 4), random_masks(0, 2, 5)), ValueError, r"shape \(2, 4, 4\)"),
                    (lambda s=score: s(torch.rand(2, 4, 4), None), ValueError, "bool tensor"),
                    (lambda s=score: s(torch.rand(2, 3, 4, 4), random_masks(0, 2, 4)), ValueError, "3 dimension"),
                    (lambda s=score: s(torch.rand(0, 4, 4), random_masks(0, 0, 4)), ValueError, "empty"),
                    (lambda s=score: s(torch.full((2, 4, 4), NAN), random_masks(0, 2, 4)), ValueError, "NaN"),
                    (lambda s=score: s(torch.ones(2, 4, 4).long(), random_masks(0, 2, 4)), TypeError, "floating"),
                ]
            ],
            (lambda: deletion_curve(linear(), pictures(), pictures(), classes()), ValueError, "3 dimension"),
            (
                lambda: deletion_curve(linear(), pictures(), pictures(size=4)[:, 0], classes()),
                ValueError,
                r"shape \(5, 8, 8\)",
            ),
            (lambda: deletion_curve(linear(), pictures().flatten(1), pictures()[:, 0], classes()), ValueError, "4 dim"),
            (lambda: deletion_curve(len, pictures(), pictures()[:, 0], classes()), TypeError, "torch.nn.Module"),
            (lambda: deletion_curve(linear(), pictures(), pictures()[:, 0], classes() + 1), ValueError, "0 to 2"),
            (
                lambda: deletion_curve(linear(), pictures(), pictures()[:, 0], classes()[:3]),
                ValueError,
                "each of the 5",
            ),
            (lambda: deletion_curve(linear(), pictures(), pictures()[:, 0], classes() / 2), TypeError, "integer"),
            (lambda: deletion_curve(linear(), pictures(), pictures()[:, 0] * NAN, classes()), ValueError, "NaN"),
            (
                lambda: deletion_curve(linear(), pictures(), pictures()[:, 0], classes(), n_points=1),
                ValueError,
                "n_points must be at least 2",
            ),
            (
                lambda: deletion_curve(linear(), pictures(), pictures()[:, 0], classes(), n_points=3.0),
                TypeError,
                "n_points must be an int",
            ),
            (lambda: deletion_curve(linear(), pictures(), pictures()[:, 0], classes(), fill=NAN), ValueError, "fill"),
            (lambda: deletion_curve(linear(), pictures(), pictures()[:, 0], classes(), fill="0"), TypeError, "fill"),
        ],
    )
    def test_bad_input(self, call, error, words):
        with pytest.raises(error, match=words):
            call()
