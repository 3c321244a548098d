"""Randomized smoothing where the truth is known: a linear model's smoothed class, probability and radius."""

import numpy as np
import pytest
import scipy.stats
import torch
from torch import nn

from course_utils.advanced import certify, pgd_attack, smoothed_predict
from tests.support.images import images, linear
from tests.support.models import Function
from tests.support.values import NAN, random_normal

SIGMA = 0.5


def plane(features: int = 6, seed: int = 0) -> nn.Linear:
    """Class 1 on one side of a plane, class 0 on the other."""
    model = nn.Linear(features, 2).double()
    with torch.no_grad():
        model.weight.zero_()
        model.bias.zero_()
        model.weight[1] = random_normal(features, seed=seed)
        model.bias[1] = 0.3
    return model


def distance(model: nn.Linear, x: torch.Tensor) -> torch.Tensor:
    """From the plane, signed; by symmetry its size is the smoothed classifier's exact radius too, (N,)."""
    return ((x @ model.weight[1] + model.bias[1]) / model.weight[1].norm()).detach()


class TestCertify:
    def test_the_radius_of_a_linear_model(self):
        """With many draws the bound comes near the truth, P = Φ(|d|/σ) and r = |d|, from below."""
        model, x = plane(), random_normal(32, 6, seed=1)
        exact = distance(model, x)
        found = certify(model, x, sigma=SIGMA, n=4000, alpha=0.001, seed=0)
        sure = found.labels >= 0
        assert torch.equal(found.labels[sure], (exact[sure] > 0).long())
        assert (exact.abs()[~sure] < 0.05).all()
        assert (found.radius <= exact.abs()).all()
        near = sure & (exact.abs() < 2 * SIGMA)
        assert near.sum() > 12
        assert ((exact.abs() - found.radius)[near] < 0.12).all()
        truth = torch.from_numpy(scipy.stats.norm.cdf(exact.abs() / SIGMA))
        assert (found.probability <= truth).all()

    def test_a_bound_is_wrong_as_seldom_as_alpha_says(self):
        """3,000 samples at the same distance, alpha = 0.1: about 10 of 100 bounds are above the truth, not more."""
        model = plane()
        normal = (model.weight[1] / model.weight[1].norm()).detach()
        x = (0.4 - distance(model, torch.zeros(1, 6).double())) * normal.expand(3000, 6)
        assert torch.allclose(distance(model, x), torch.tensor(0.4).double())
        found = certify(model, x, sigma=SIGMA, n=200, n_selection=20, alpha=0.1, seed=0)
        right = found.labels == 1
        wrong = float(((found.radius > 0.4) & right).double().mean())
        exact = 1 - scipy.stats.binom.cdf(first_violation(200, 0.1, 0.4 / SIGMA) - 1, 200, scipy.stats.norm.cdf(0.8))
        assert wrong == pytest.approx(exact, abs=0.02)  # of a discrete count: at most alpha
        assert exact <= 0.1

    @pytest.mark.parametrize(
        ("hits", "n", "alpha"), [(95, 100, 0.001), (51, 100, 0.05), (100, 100, 0.01), (7, 10, 0.3)]
    )
    def test_the_bound_is_clopper_and_pearsons(self, hits, n, alpha):
        """A model that says class 0 in exactly so many of its answers, whatever it is given."""
        asked = []

        def answer(x):
            asked.append(len(x))
            zero = len(asked) <= 1 + hits  # the selection first
            return torch.tensor([[1.0, 0.0] if zero else [0.0, 1.0]]).repeat(len(x), 1) + 0 * x[:, :1]

        found = certify(Function(answer), torch.zeros(3, 4), sigma=1.0, n=n, n_selection=1, alpha=alpha)
        exact = scipy.stats.binomtest(hits, n, alternative="greater").proportion_ci(1 - alpha, "exact").low
        assert found.probability.tolist() == pytest.approx([exact] * 3)
        radius = max(0.0, scipy.stats.norm.ppf(exact)) if exact > 0.5 else 0.0
        assert found.radius.tolist() == pytest.approx([radius] * 3)
        assert found.labels.tolist() == [0 if exact > 0.5 else -1] * 3

    def test_no_hit_at_all_abstains(self):
        asked = []

        def answer(x):
            asked.append(1)
            return torch.tensor([[float(len(asked) <= 1), 0.5]]).repeat(len(x), 1)

        found = certify(Function(answer), torch.zeros(2, 4), sigma=1.0, n=5, n_selection=1)
        assert found.labels.tolist() == [-1, -1]
        assert found.probability.tolist() == [0, 0]

    def test_the_largest_radius_that_n_draws_can_give(self):
        model = plane()
        x = random_normal(1, 6) + 1000 * model.weight[1:].detach()
        found = certify(model, x, sigma=SIGMA, n=100, alpha=0.001)
        assert float(found.radius) == pytest.approx(SIGMA * scipy.stats.norm.ppf(0.001 ** (1 / 100)))

    def test_a_certificate_holds_against_an_attack(self):
        """Every point of the ball keeps the smoothed answer: PGD on the smoothed linear model, inside the radius."""
        model, x = plane(), random_normal(10, 6, seed=3).clamp(-3, 3)
        found = certify(model, x, sigma=SIGMA, n=1000, seed=0)
        sure = found.labels >= 0
        eps = float(found.radius[sure].min()) / 6**0.5  # the cube inside the smallest ball
        attacked = pgd_attack(model, x[sure], found.labels[sure], eps=eps, bounds=(-9, 9), seed=0)
        again = smoothed_predict(model, attacked, sigma=SIGMA, n=3000)
        assert torch.equal(again, found.labels[sure])

    def test_sigma_is_in_pixel_units(self):
        mean, std = torch.tensor([0.4, 0.5, 0.6]).double(), torch.tensor([0.2, 0.3, 0.1]).double()
        pixels, model = images(0, 8), linear(c=2, scale=3.0)
        shape = (3, 1, 1)
        inside = nn.Sequential(Function(lambda x: x * std.reshape(shape) + mean.reshape(shape)), model)
        x = (pixels - mean.reshape(shape)) / std.reshape(shape)
        options = {"sigma": 0.2, "n": 200, "seed": 0}
        plain = certify(model, pixels, **options)
        normalised = certify(inside, x, **options, normalization=(mean, std))
        assert torch.equal(plain.labels, normalised.labels)
        assert torch.allclose(plain.radius, normalised.radius)

    def test_the_batch_size_changes_nothing_and_bounds_what_runs_at_once(self):
        model, x, seen = plane(), random_normal(70, 6), []
        expected = certify(model, x, sigma=SIGMA, n=50, seed=0)
        handle = model.register_forward_hook(lambda module, args, output: seen.append(len(output)))
        found = certify(model, x, sigma=SIGMA, n=50, seed=0, batch_size=9)
        handle.remove()
        assert torch.equal(found.radius, expected.radius)
        assert max(seen) == 9

    def test_as_other_results(self):
        found = certify(plane(), random_normal(5, 6), sigma=SIGMA, n=30)
        assert len(found) == 5
        assert set(found[0]) == {"labels", "radius", "probability"}
        assert found.to_frame().shape == (5, 3)


def first_violation(n: int, alpha: float, truth: float) -> int:
    """The smallest count of n whose lower bound lies above the true probability Φ(truth)."""
    counts = np.arange(1, n + 1)
    bounds = scipy.stats.beta.ppf(alpha, counts, n - counts + 1)
    return int(counts[bounds > scipy.stats.norm.cdf(truth)][0])


class TestPredict:
    def test_the_smoothed_class_of_a_linear_model(self):
        model, x = plane(), random_normal(60, 6, seed=1)
        exact = distance(model, x)
        found = smoothed_predict(model, x, sigma=SIGMA, n=400, seed=0)
        sure = found >= 0
        assert torch.equal(found[sure], (exact[sure] > 0).long())
        assert (exact.abs()[~sure] < 0.2).all()
        assert sure.double().mean() > 0.8

    def test_it_abstains_on_the_border(self):
        """At distance 0 both classes have probability 1/2: an answer would be chance, and alpha bounds how often."""
        model = plane()
        x = -model.bias[1].detach() / model.weight[1].norm() ** 2 * model.weight[1].detach().expand(2000, 6)
        answered = (smoothed_predict(model, x, sigma=SIGMA, n=100, alpha=0.05, seed=0) >= 0).double().mean()
        exact = 2 * scipy.stats.binom.cdf(39, 100, 0.5)  # p ≤ 0.05 from 39 to 61 on
        assert float(answered) == pytest.approx(exact, abs=0.012)

    def test_only_the_two_most_frequent_classes_are_compared(self):
        asked = []

        def answer(x):
            asked.append(1)
            first = nn.functional.one_hot(torch.tensor([len(asked) % 4 % 3]), 3)  # 0 half the time, 1 and 2 a quarter
            return first.double().repeat(len(x), 1)

        assert smoothed_predict(Function(answer), torch.zeros(1, 2), sigma=1.0, n=100, alpha=0.01).item() == 0

    def test_seeds(self):
        model, x = plane(), random_normal(50, 6) * 0.1
        one, again, other = (smoothed_predict(model, x, sigma=1.0, n=20, alpha=0.2, seed=seed) for seed in (0, 0, 1))
        assert torch.equal(one, again)
        assert not torch.equal(one, other)

    def test_a_binary_model(self):
        model, x = linear(c=1, scale=30.0), images()
        expected = (model(x)[:, 0] >= 0).long()
        assert torch.equal(smoothed_predict(model, x, sigma=1e-3, n=20, task="binary"), expected)


@pytest.mark.parametrize("function", [certify, smoothed_predict])
@pytest.mark.parametrize(
    ("inputs", "options", "error", "words"),
    [
        (torch.zeros(3, 6).double(), {"sigma": 0}, ValueError, "sigma must be finite and greater than 0"),
        (torch.zeros(3, 6).double(), {"n": 0}, ValueError, "n must be at least 1"),
        (torch.zeros(3, 6).double(), {"alpha": 1.0}, ValueError, "alpha must be strictly between 0 and 1"),
        (torch.zeros(3, 6).double(), {"batch_size": 0}, ValueError, "batch_size must be at least 1"),
        (torch.zeros(3, 6).long(), {}, TypeError, "floating point"),
        (torch.full((3, 6), NAN).double(), {}, ValueError, "NaN"),
    ],
)
def test_bad_input(function, inputs, options, error, words):
    with pytest.raises(error, match=words):
        function(plane(), inputs, **{"sigma": 0.5, **options})
