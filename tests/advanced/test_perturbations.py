"""Occlusion against captum and loops, RISE against its expectation on a linear model."""

import numpy as np
import pytest
import torch
from captum.attr import Occlusion
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from course_utils.advanced import occlusion_map, rise_map
from course_utils.advanced.perturbations import _random_masks
from tests.support.images import classes, convolutional, images, linear
from tests.support.values import NAN, seeds


class TestOcclusion:
    @given(seeds, st.integers(1, 8), st.integers(1, 8), st.sampled_from([0.0, 0.5, -1.0]))
    @settings(max_examples=25)
    def test_by_a_loop(self, seed, window, stride, fill):
        stride = min(stride, window)
        model, x, y = convolutional(seed), images(seed, 3), classes(3)
        drops, covered = torch.zeros(3, 8, 8).double(), torch.zeros(8, 8)
        with torch.no_grad():
            before = model(x).gather(1, y[:, None])[:, 0]
            top = 0
            while top == 0 or top - stride + window < 8:  # until the last one has reached the border
                left = 0
                while left == 0 or left - stride + window < 8:
                    changed = x.clone()
                    changed[:, :, top : top + window, left : left + window] = fill
                    drop = before - model(changed).gather(1, y[:, None])[:, 0]
                    drops[:, top : top + window, left : left + window] += drop[:, None, None]
                    covered[top : top + window, left : left + window] += 1
                    left += stride
                top += stride
        result = occlusion_map(model, x, y, window=window, stride=stride, fill=fill)
        assert torch.allclose(result, drops / covered)

    @pytest.mark.parametrize(("window", "stride"), [(1, 1), (3, 2), (4, 4), (5, 3), (8, 8)])
    def test_equals_captum(self, window, stride):
        model, x, y = convolutional(), images(), classes()
        sizes = {"sliding_window_shapes": (3, window, window), "strides": (3, stride, stride)}
        oracle = Occlusion(model).attribute(x, **sizes, target=y, baselines=0.25)[:, 0]
        result = occlusion_map(model, x, y, window=window, stride=stride, fill=0.25)
        assert torch.allclose(result, oracle.double(), atol=1e-6)

    def test_one_pixel_of_a_linear_model_is_what_it_gives(self):
        """w · (x − fill), summed over the channels; and all pixels together are completeness."""
        model, x, y, colour = linear(), images(), classes(), torch.tensor([0.2, 0.5, 0.9]).double()[:, None, None]
        expected = (model[1].weight[y].reshape(5, 3, 8, 8) * (x - colour)).sum(1)
        result = occlusion_map(model, x, y, window=1, fill=colour)
        assert torch.allclose(result, expected)
        fall = model(x) - model(colour.expand_as(x))
        assert torch.allclose(result.sum((1, 2)), fall.gather(1, y[:, None])[:, 0])

    def test_images_that_are_not_square(self):
        model, x = linear(features=3 * 6 * 9), torch.rand(2, 3, 6, 9, dtype=torch.float64)
        assert occlusion_map(model, x, window=4).shape == (2, 6, 9)
        whole = occlusion_map(model, x, 1, window=6, stride=3)
        assert (whole == whole[:, :1]).all()  # it covers all rows at once
        assert len(whole[0, 0].unique()) == 3


def expectation(weight: torch.Tensor, x: torch.Tensor, grid: int, keep: float) -> torch.Tensor:
    """E[s M(λ)] / E[M(λ)] − E[s] of a linear score s = Σ w x M, exactly: over all shifts, by the cells' covariance."""
    size = x.shape[-1]
    step = -(-size // grid)
    # The share of each cell in each enlarged position: linear interpolation between the cells' centres, by hand.
    where = (np.arange((grid + 1) * step) + 0.5) * grid / ((grid + 1) * step) - 0.5
    shares = np.maximum(0, 1 - np.abs(np.clip(where, 0, grid - 1)[:, None] - np.arange(grid)))  # (positions, grid)
    gives = (weight * x).sum(1).numpy()  # (N, H, W)
    total = np.zeros_like(gives)
    for down in range(step):
        for right in range(step):
            a, b = shares[down : down + size], shares[right : right + size]
            both = np.einsum("ic,kc,jd,ld->ijkl", a, a, b, b)  # Σ over cells of u(μ) u(λ)
            second = keep**2 + keep * (1 - keep) * both  # E[M(μ) M(λ)]
            total += np.einsum("nij,ijkl->nkl", gives, second)
    return torch.from_numpy(total / step**2 / keep - keep * gives.sum((1, 2), keepdims=True))


class TestRise:
    @pytest.mark.parametrize(("grid", "keep"), [(3, 0.5), (4, 0.3), (8, 0.5)])
    def test_its_expectation_on_a_linear_model(self, grid, keep):
        """24 runs of 500 masks: their mean is within what chance allows of the exact expectation."""
        model, x, y = linear(3), images(1, 2), classes(2)
        with torch.no_grad():
            model[1].bias.zero_()
        exact = expectation(model[1].weight[y].detach().reshape(2, 3, 8, 8), x, grid, keep)
        runs = torch.stack([rise_map(model, x, y, n_masks=500, grid=grid, keep=keep, seed=seed) for seed in range(24)])
        error = runs.std(0) / 24**0.5
        z = (runs.mean(0) - exact) / error
        assert z.abs().max() < 4.5  # of 128 pixels, which depend on each other
        assert z.square().mean() < 2.5
        assert (runs.mean(0) - exact).abs().mean() < 0.1 * exact.std()

    def test_the_error_falls_with_the_root_of_the_masks(self):
        model, x, y = linear(3), images(1, 8), classes(8)
        few, many = (
            torch.stack([rise_map(model, x, y, n_masks=n, seed=seed) for seed in range(40)]).var(0).mean().sqrt()
            for n in (60, 540)
        )
        assert float(few / many) == pytest.approx(3, rel=0.2)

    def test_a_single_cell_shows_all_or_nothing(self):
        """Shown in k of 20 masks: everywhere s(x) − (k s(x) + (20 − k) s(0)) / 20."""
        model, x, y = linear(), images(), classes()
        with torch.no_grad():
            fall = (model(x) - model(0 * x)).gather(1, y[:, None])[:, :, None]
        ratio = rise_map(model, x, y, n_masks=20, grid=1) / fall
        assert torch.allclose(ratio, ratio[0, 0, 0].expand(5, 8, 8))
        assert float(20 * ratio[0, 0, 0]) == pytest.approx(round(float(20 * ratio[0, 0, 0])))
        assert 0 < ratio[0, 0, 0] < 1

    def test_the_masks_by_hand(self):
        """Each is linear interpolation of zeros and ones, and a cut out of it."""
        masks = _random_masks(50, 4, 0.5, torch.Size([8, 10]), torch.Generator().manual_seed(0))
        assert masks.shape == (50, 8, 10)
        assert masks.min() >= 0
        assert masks.max() <= 1
        assert float(masks.mean()) == pytest.approx(0.5, abs=0.03)
        assert len({tuple(mask.flatten().tolist()) for mask in masks}) == 50
        ones = _random_masks(3, 4, 1 - 1e-12, torch.Size([8, 10]), torch.Generator().manual_seed(0))
        assert torch.allclose(ones, torch.ones(3, 8, 10))

    def test_a_score_that_is_the_same_behind_all_masks(self):
        model = linear()
        with torch.no_grad():
            model[1].weight.zero_()
        result = rise_map(model, images(), 1, n_masks=20)
        assert torch.allclose(result, torch.zeros(5, 8, 8).double(), atol=1e-12)

    def test_one_pixel_that_decides_is_found(self):
        model, x = nn.Sequential(nn.Flatten(), nn.Linear(192, 2)).double(), torch.ones(1, 3, 8, 8).double()
        with torch.no_grad():
            model[1].weight.zero_()
            model[1].weight[1].reshape(3, 8, 8)[:, 5, 2] = 1
        result = rise_map(model, x, 1, n_masks=600, grid=8)[0]
        assert divmod(int(result.argmax()), 8) == (5, 2)


@pytest.mark.parametrize("function", [occlusion_map, lambda *a, **k: rise_map(*a, **k, n_masks=150)])
class TestBoth:
    def test_the_batch_size_changes_nothing(self, function):
        model, x, seen = convolutional(), images(), []
        expected = function(model, x, classes())
        handle = model.register_forward_hook(lambda module, args, output: seen.append(len(output)))
        assert torch.allclose(function(model, x, classes(), batch_size=7), expected)
        handle.remove()
        assert max(seen) == 7

    def test_images_do_not_mix(self, function):
        model, x = convolutional(), images()
        alone = torch.cat([function(model, x[i : i + 1], classes()[i : i + 1]) for i in range(5)])
        assert torch.allclose(function(model, x, classes()), alone)

    def test_the_models_answer_is_explained_by_default(self, function):
        model, x = convolutional(), images()
        assert torch.equal(function(model, x), function(model, x, model(x).argmax(1)))

    def test_the_odds_of_a_binary_model(self, function):
        model, x = linear(c=1), images()
        assert torch.allclose(function(model, x, 1, task="binary"), -function(model, x, 0, task="binary"))

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision_is_summed_in_full(self, function, dtype):
        model, x = linear(scale=3.0), images()
        result = function(model.to(dtype), x.to(dtype), 1)
        assert result.dtype == torch.float32
        exact = function(model.double(), x.to(dtype).double(), 1)
        assert torch.allclose(result.double(), exact, atol=0.1 * float(exact.abs().max()))

    def test_fills_differ(self, function):
        model, x = convolutional(), images()
        maps = [function(model, x, 1, fill=fill) for fill in (0.0, 0.5, x.roll(1, 0), torch.rand(3, 1, 1).double())]
        assert len({tuple(part.flatten().tolist()) for part in maps}) == 4

    @pytest.mark.parametrize(
        ("inputs", "options", "error", "words"),
        [
            (images().flatten(1), {}, ValueError, "4 dimension"),
            (images() * NAN, {}, ValueError, "NaN"),
            (images(), {"fill": torch.zeros(4)}, ValueError, "fill must be a number or broadcast"),
            (images(), {"target": 3}, ValueError, "0 to 2"),
            (images(), {"batch_size": 0}, ValueError, "batch_size must be at least 1"),
            (images(), {"task": "multilabel"}, ValueError, "task must be one of"),
        ],
    )
    def test_bad_input(self, function, inputs, options, error, words):
        with pytest.raises(error, match=words):
            function(convolutional(), inputs, **options)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: occlusion_map(linear(), images(), window=9), "window must fit into the images, 8 × 8"),
        (lambda: occlusion_map(linear(), images(), window=0), "at least 1"),
        (lambda: occlusion_map(linear(), images(), window=2, stride=3), "or pixels are left out"),
        (lambda: rise_map(linear(), images(), grid=9), "grid must be at most the images' sides"),
        (lambda: rise_map(linear(), images(), keep=1.0), "keep must be strictly between 0 and 1"),
        (lambda: rise_map(linear(), images(), n_masks=0), "n_masks must be at least 1"),
    ],
)
def test_bad_options(call, words):
    with pytest.raises(ValueError, match=words):
        call()
