"""Conformal sets: the exact count that exchangeability gives, by leaving one out, and the Beta law by simulation."""

import math

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course_utils.advanced import conformal_sets, coverage_distribution
from tests.support.values import NAN, random_normal, sampled_labels, seeds

ALPHAS = (0.05, 0.1, 0.2, 0.5)


def predictions(seed: int, n: int, c: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    p = random_normal(n, c, seed=seed, scale=2).softmax(1)
    return p, sampled_labels(p, seed + 1)


def left_out_and_covered(p, y, **options) -> torch.Tensor:
    """Each sample in turn is the new one, and the others calibrate."""
    covered = []
    for i in range(len(p)):
        rest = torch.arange(len(p)) != i
        sets = conformal_sets(p[rest], y[rest], p[i : i + 1], **options)
        covered.append(sets[0, y[i]])
    return torch.stack(covered)


@given(seeds, st.sampled_from(ALPHAS), st.integers(1, 30))
@settings(max_examples=25)
def test_of_n_plus_one_samples_exactly_as_many_as_promised(seed, alpha, n):
    """With distinct scores the left-out sample is covered if its rank is at most k: of n + 1 samples exactly k."""
    p, y = predictions(seed, n + 1)
    k = min(math.ceil(round((n + 1) * (1 - alpha), 9)), n + 1)
    assert left_out_and_covered(p, y, alpha=alpha).sum() == k


@given(seeds, st.sampled_from(ALPHAS))
@settings(max_examples=10)
def test_by_class_the_count_holds_in_each_class(seed, alpha):
    p, y = predictions(seed, 40)
    covered = left_out_and_covered(p, y, alpha=alpha, by_class=True)
    for c in range(4):
        n = int((y == c).sum())  # n − 1 calibrate the n-th
        assert covered[y == c].sum() == min(math.ceil(round(n * (1 - alpha), 9)), n)


def brute_force(p_known, y_known, p_new, alpha, method, u_known, u_new):
    def score(p, y, u):
        if method == "lac":
            return 1 - p[y]
        ahead = [j for j in range(len(p)) if p[j] > p[y] or (p[j] == p[y] and j < y)]
        return sum(p[j] for j in ahead) + u * p[y]

    known = sorted(score(p, y, u) for p, y, u in zip(p_known, y_known, u_known, strict=True))
    rank = math.ceil(round((len(known) + 1) * (1 - alpha), 9))
    limit = known[rank - 1] if rank <= len(known) else math.inf
    return [[score(p, y, u) <= limit for y in range(len(p))] for p, u in zip(p_new, u_new, strict=True)]


@given(seeds, st.sampled_from(ALPHAS), st.sampled_from(["lac", "aps"]), st.booleans())
def test_sets_by_brute_force(seed, alpha, method, by_class):
    p, y = predictions(seed, 25, 3)
    new, _ = predictions(seed + 2, 15, 3)
    result = conformal_sets(p, y, new, alpha=alpha, method=method, by_class=by_class, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    u, u_new = (torch.rand(n, 1, generator=generator, dtype=torch.float64)[:, 0] for n in (25, 15))
    for c in range(3):
        rows = y == c if by_class else torch.ones(25, dtype=torch.bool)
        arrays = [part.numpy() for part in (p[rows], y[rows], new)]
        expected = brute_force(*arrays, alpha, method, u[rows].numpy(), u_new.numpy())
        assert result[:, c].tolist() == [row[c] for row in expected]


def test_aps_covers_what_it_promises_and_its_sets_are_more_even():
    """Samples of two kinds: on the hard ones LAC misses more often than promised, and pays with the easy ones."""
    n = 4000
    logits = random_normal(n, 6, seed=0)
    logits[: n // 2] *= 6  # the easy half
    p = logits.softmax(1)
    y = sampled_labels(p, 1)
    known, new = torch.arange(n) % 2 == 0, torch.arange(n) % 2 == 1
    hard = torch.arange(n)[new] >= n // 2
    coverage = {}
    for method in ("lac", "aps"):
        sets = conformal_sets(p[known], y[known], p[new], alpha=0.1, method=method)
        hits = sets.gather(1, y[new][:, None])[:, 0].double()
        assert float(hits.mean()) == pytest.approx(0.9, abs=0.02)
        coverage[method] = float(hits[hard].mean())
    assert coverage["lac"] < 0.87
    assert coverage["aps"] == pytest.approx(0.9, abs=0.03)


def test_too_few_samples_for_the_promise():
    p, y = predictions(0, 8)
    assert conformal_sets(p, y, p, alpha=0.1).all()
    assert not conformal_sets(p, y, p, alpha=0.12).all()
    y = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])  # none of classes 2 and 3
    sets = conformal_sets(p, y, p, alpha=0.3, by_class=True)
    assert sets[:, 2:].all()
    assert not sets[:, :2].all()


@pytest.mark.parametrize(("n", "alpha"), [(9, 0.1), (99, 0.01), (19, 0.05), (49, 0.02), (9, 0.7)])
def test_a_whole_rank_is_not_lifted_by_rounding(n, alpha):
    """(n + 1)(1 − alpha) is a whole number, and floating point must not make the next one of it."""
    k = round((n + 1) * (1 - alpha))
    assert coverage_distribution(n, alpha=alpha).args == (k, n + 1 - k)


@pytest.mark.parametrize(("n", "alpha"), [(20, 0.1), (50, 0.2)])
def test_the_beta_law_by_simulation(n, alpha):
    """2,000 calibration sets of uniform scores: the share that each covers is its k-th smallest score itself."""
    distribution = coverage_distribution(n, alpha=alpha)
    scores = np.sort(np.random.default_rng(0).random((2000, n)), axis=1)
    k = math.ceil(round((n + 1) * (1 - alpha), 9))
    assert scipy.stats.kstest(scores[:, k - 1], distribution.cdf).pvalue > 0.01
    assert distribution.mean() == pytest.approx(k / (n + 1))
    assert distribution.mean() >= 1 - alpha


def test_what_can_be_measured_has_the_beta_binomial_law():
    """Sets of one calibration set on 60 test samples, 400 times, of a model that makes no difference between them."""
    counts, generator = [], torch.Generator().manual_seed(0)
    p = torch.rand(400, 100, 2, generator=generator, dtype=torch.float64)
    p = p / p.sum(2, keepdim=True)
    for one in p:
        y = torch.zeros(40, dtype=torch.int64)
        counts.append(int(conformal_sets(one[:40], y, one[40:], alpha=0.2)[:, 0].sum()))
    expected = coverage_distribution(40, alpha=0.2, num_test=60)
    assert np.mean(counts) == pytest.approx(expected.mean(), abs=4 * expected.std() / 400**0.5)
    assert np.std(counts) == pytest.approx(expected.std(), rel=0.15)
    low, high = expected.interval(0.95)
    assert 0.92 < np.mean([low <= count <= high for count in counts]) < 0.99


def test_the_spread_of_250_samples():
    assert coverage_distribution(250, alpha=0.1).std() == pytest.approx(0.019, abs=0.0005)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_other_dtypes(dtype):
    p, y = predictions(0, 60)
    assert conformal_sets(p.to(dtype), y, p.to(dtype), alpha=0.1).dtype == torch.bool


P, Y = predictions(0, 12)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: conformal_sets(P.log(), Y, P, alpha=0.1), ValueError, "of logits take softmax"),
        (lambda: conformal_sets(P, Y, P * 2, alpha=0.1), ValueError, "probabilities must be .* rows that sum to 1"),
        (lambda: conformal_sets(P, Y, predictions(0, 5, 3)[0], alpha=0.1), ValueError, "the same classes"),
        (lambda: conformal_sets(P, Y[:5], P, alpha=0.1), ValueError, "each of the 12"),
        (lambda: conformal_sets(P, Y + 1, P, alpha=0.1), ValueError, "0 to 3"),
        (lambda: conformal_sets(P, Y, P, alpha=0), ValueError, "alpha must be strictly between"),
        (lambda: conformal_sets(P, Y, P, alpha=0.1, method="raps"), ValueError, "'lac', 'aps'"),
        (lambda: conformal_sets(P * NAN, Y, P, alpha=0.1), ValueError, "NaN"),
        (lambda: coverage_distribution(8, alpha=0.1), ValueError, "at least 1 / .n . 1. = 0.111"),
        (lambda: coverage_distribution(0, alpha=0.1), ValueError, "n must be at least 1"),
        (lambda: coverage_distribution(50, alpha=0.1, num_test=0), ValueError, "num_test must be at least 1"),
    ],
)
def test_bad_input(call, error, words):
    with pytest.raises(error, match=words):
        call()
