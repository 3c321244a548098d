"""Scores of attributions against brute force."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course_utils.advanced import deletion_curve, energy_inside, integrated_gradients, pointing_game, saliency_map
from tests.support.images import classes, convolutional, images, linear
from tests.support.values import DTYPES, NAN, seeds


def random_masks(seed: int, n: int = 6, size: int = 5) -> torch.Tensor:
    return torch.rand(n, size, size, generator=torch.Generator().manual_seed(seed)) < 0.4


class TestScores:
    @given(seeds)
    def test_pointing_game_by_brute_force(self, seed):
        maps, masks = images(seed, 6, 1, 5)[:, 0] - 0.5, random_masks(seed)
        expected = []
        for one, mask in zip(maps.tolist(), masks.tolist(), strict=True):
            best = max((value, row, column) for row, line in enumerate(one) for column, value in enumerate(line))
            expected.append(mask[best[1]][best[2]])
        result = pointing_game(maps, masks)
        assert result.tolist() == expected
        assert result.dtype == torch.bool

    @given(seeds)
    def test_energy_by_brute_force(self, seed):
        maps, masks = images(seed, 6, 1, 5)[:, 0] - 0.5, random_masks(seed)
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
    def test_energy_of_large_images_stays_finite(self, dtype):
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
        model, x, maps = linear(seed, scale=5.0), images(seed), images(seed + 1)[:, 0]
        shares, means = deletion_curve(model, x, maps, classes(), n_points=n_points, insertion=insertion, fill=fill)
        assert shares.tolist() == pytest.approx(np.linspace(0, 1, n_points).tolist())
        assert means.tolist() == pytest.approx(self.brute_curve(model, x, maps, classes(), n_points, insertion, fill))

    def test_deletion_and_insertion_meet_at_their_ends(self):
        model, x, maps = convolutional(), images(), images(1)[:, 0]
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
        model, x = linear(c=2, scale=20.0), images()
        y = model(x).argmax(1)
        rise = (x * (model[1].weight[y] - model[1].weight[1 - y]).reshape(5, 3, 8, 8)).sum(1).detach()
        right, wrong = (deletion_curve(model, x, maps, y)[1].mean() for maps in (rise, -rise))
        assert right < wrong - 0.2
        right, wrong = (deletion_curve(model, x, maps, y, insertion=True)[1].mean() for maps in (rise, -rise))
        assert right > wrong + 0.2

    def test_p28_ties_go_row_by_row(self):
        """A map that is the same everywhere: the pixels go in reading order, in every call."""
        model, x = linear(scale=5.0), images(size=8)
        constant = torch.zeros(5, 8, 8)
        reading_order = -torch.arange(64.0).reshape(8, 8).expand(5, 8, 8)
        for insertion in (False, True):
            tied, ordered = (
                deletion_curve(model, x, maps, classes(), n_points=65, insertion=insertion)[1]
                for maps in (constant, reading_order)
            )
            assert torch.equal(tied, ordered)
        coarse = images(1)[:, 0].mul(3).floor()  # three values
        order = torch.randperm(5, generator=torch.Generator().manual_seed(0))
        one, other = (
            deletion_curve(model, x[rows], coarse[rows], classes()[rows], n_points=9)[1]
            for rows in (torch.arange(5), order)
        )
        assert torch.allclose(one, other, atol=1e-12)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_p28_half_precision_is_averaged_in_full(self, dtype):
        """The mean of 999 half-precision probabilities has three digits, and the curve jumps between them."""
        n, y = 999, classes(999)
        model, x = linear(scale=3.0).to(dtype), images(0, n, dtype=dtype)
        maps = images(1, n)[:, 0].to(dtype)
        _, means = deletion_curve(model, x, maps, y, n_points=3)
        with torch.no_grad():
            exact = model(x).double().softmax(1).gather(1, y[:, None]).mean()
        assert means.dtype == torch.float32
        assert float(means[0]) == pytest.approx(float(exact), abs=1e-6)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            _, under = deletion_curve(linear(scale=3.0).float(), x.float(), maps.float(), y, n_points=3)
        assert under.dtype == torch.float32
        with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
            logits = linear(scale=3.0).float()(x.float())
        expected = logits.double().softmax(1).gather(1, y[:, None]).mean()
        assert float(under[0]) == pytest.approx(float(expected), abs=1e-6)

    def test_p28_fills_of_every_shape(self):
        model, x, maps = linear(scale=5.0), images(), images(1)[:, 0]
        colour = torch.tensor([0.2, 0.5, 0.7], dtype=torch.float64)
        whole = colour[:, None, None].expand(5, 3, 8, 8).contiguous()
        expected = deletion_curve(model, x, maps, classes(), fill=whole, n_points=5)[1]
        assert torch.equal(
            deletion_curve(model, x, maps, classes(), fill=colour[:, None, None], n_points=5)[1], expected
        )
        _, blurred = deletion_curve(model, x, maps, classes(), fill=x.roll(1, 0), n_points=5)
        with torch.no_grad():
            last = model(x.roll(1, 0)).softmax(1).gather(1, classes()[:, None]).mean()
        assert float(blurred[-1]) == pytest.approx(float(last))
        half = deletion_curve(model, x, maps, classes(), fill=torch.tensor(0.5), n_points=5)[1]
        assert torch.equal(deletion_curve(model, x, maps, classes(), fill=0.5, n_points=5)[1], half)
        assert len({tuple(curve.tolist()) for curve in (expected, blurred, half)}) == 3

    def test_rows_as_saliency_returns_them(self):
        model, rows = linear(features=6, scale=9.0), torch.rand(7, 6, dtype=torch.float64)
        maps = saliency_map(model, rows)
        _, means = deletion_curve(model, rows, maps, 2, n_points=7)
        for k in range(7):
            gone = rows.clone().scatter_(1, maps.topk(k, dim=1).indices, 0)
            assert float(means[k]) == pytest.approx(float(model(gone).softmax(1)[:, 2].mean().detach()))

    def test_batch_size_changes_nothing(self):
        model, x, maps, seen = convolutional(), images(), images(1)[:, 0], []
        expected = deletion_curve(model, x, maps, classes())[1]
        handle = model.register_forward_hook(lambda module, args, output: seen.append(len(output)))
        assert torch.allclose(deletion_curve(model, x, maps, classes(), batch_size=2)[1], expected)
        handle.remove()
        assert set(seen) == {2, 1}

    def test_f20_a_binary_model(self):
        model, x, maps = linear(c=1, scale=5.0), images(), images(1)[:, 0]
        ones = deletion_curve(model, x, maps, 1, task="binary")[1]
        zeros = deletion_curve(model, x, maps, 0, task="binary")[1]
        assert torch.allclose(ones + zeros, torch.ones(11, dtype=torch.float64))
        assert float(ones[0]) == pytest.approx(float(torch.sigmoid(model(x)).mean().detach()))

    @pytest.mark.parametrize("score", [pointing_game, energy_inside])
    def test_p30_masks_on_another_device(self, score):
        """Without a second device, a tensor that refuses whatever is not moved to the maps' device first."""
        maps, masks = images(channels=1)[:, 0], random_masks(0, 5, 8)
        expected = score(maps, masks)
        moved = []

        class Elsewhere(torch.Tensor):
            @classmethod
            def __torch_function__(cls, function, types, args=(), kwargs=None):
                if function is torch.Tensor.to:
                    assert args[1] == maps.device
                    moved.append(args[0])
                    return args[0].as_subclass(torch.Tensor)
                if function in (torch.Tensor.flatten, torch.Tensor.gather, torch.Tensor.mul):
                    raise RuntimeError("Expected all tensors to be on the same device")
                return super().__torch_function__(function, types, args, kwargs or {})

        assert torch.equal(score(maps, masks.as_subclass(Elsewhere)), expected)
        assert moved

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
            (
                lambda: deletion_curve(linear(), images(), images(), classes()),
                ValueError,
                "3 dimension.*sum over the",
            ),
            (
                lambda: pointing_game(integrated_gradients(linear(), images()), random_masks(0, 5, 8)),
                ValueError,
                r"attributions.sum\(1\)",
            ),
            (
                lambda: deletion_curve(linear(), images(), images()[:, 0], classes(), fill=torch.zeros(4)),
                ValueError,
                r"fill must be a number or broadcast.*\(5, 3, 8, 8\)",
            ),
            (
                lambda: deletion_curve(linear(), images(), images()[:, 0], fill=torch.tensor(NAN)),
                ValueError,
                "NaN",
            ),
            (
                lambda: deletion_curve(linear(), images(), images(size=4)[:, 0], classes()),
                ValueError,
                r"shape \(5, 8, 8\)",
            ),
            (
                lambda: deletion_curve(linear(), images().flatten(1), images()[:, 0], classes()),
                ValueError,
                r"\(5, 192\)",
            ),
            (lambda: deletion_curve(linear(), images()[0], images()[:, 0], classes()), ValueError, "2 or 4 dim"),
            (lambda: deletion_curve(len, images(), images()[:, 0], classes()), TypeError, "torch.nn.Module"),
            (lambda: deletion_curve(linear(), images(), images()[:, 0], classes() + 1), ValueError, "0 to 2"),
            (
                lambda: deletion_curve(linear(), images(), images()[:, 0], classes()[:3]),
                ValueError,
                "each of the 5",
            ),
            (lambda: deletion_curve(linear(), images(), images()[:, 0], classes() / 2), TypeError, "integer"),
            (lambda: deletion_curve(linear(), images(), images()[:, 0] * NAN, classes()), ValueError, "NaN"),
            (
                lambda: deletion_curve(linear(), images(), images()[:, 0], classes(), n_points=1),
                ValueError,
                "n_points must be at least 2",
            ),
            (
                lambda: deletion_curve(linear(), images(), images()[:, 0], classes(), n_points=3.0),
                TypeError,
                "n_points must be an int",
            ),
            (lambda: deletion_curve(linear(), images(), images()[:, 0], classes(), fill=NAN), ValueError, "fill"),
            (lambda: deletion_curve(linear(), images(), images()[:, 0], classes(), fill="0"), TypeError, "fill"),
        ],
    )
    def test_bad_input(self, call, error, words):
        with pytest.raises(error, match=words):
            call()
