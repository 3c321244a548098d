"""AUROC and FPR95 against scikit-learn, and the interval against repeated draws."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score, roc_curve

from course_utils.optimization import separation
from tests.support.values import random_normal, seeds


@given(seeds, st.sampled_from([torch.float32, torch.float64, torch.bfloat16]))
def test_equals_sklearn_with_ties_too(seed, dtype):
    known = (3 * random_normal(40, seed=seed)).round().to(dtype)  # many equal scores
    unknown = (3 * random_normal(25, seed=seed + 1) + 2).round().to(dtype)
    found = separation(known, unknown)
    truth = np.r_[np.zeros(40), np.ones(25)]
    scores = torch.cat([known, unknown]).double().numpy()
    assert found.auroc == pytest.approx(roc_auc_score(truth, scores))
    # Known inputs are the positives of FPR95, and a low score says "known".
    false_positive, true_positive, _ = roc_curve(1 - truth, -scores, drop_intermediate=False)
    assert found.fpr95 == pytest.approx(false_positive[true_positive >= 0.95].min())
    assert found.low <= found.auroc <= found.high


@given(seeds)
def test_neither_order_nor_scale_matters(seed):
    known, unknown = random_normal(30, seed=seed), random_normal(20, seed=seed + 1) + 1
    found = separation(known, unknown)
    order = torch.randperm(30)
    assert vars(separation(known[order], unknown)) == pytest.approx(vars(found))
    assert separation(known.double() * 3 - 7, unknown.double() * 3 - 7).auroc == pytest.approx(found.auroc)
    assert separation(unknown, known).auroc == pytest.approx(1 - found.auroc)


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    truth = torch.distributions.Normal(0.0, 1.0).cdf(torch.tensor(1.0 / 2**0.5)).item()  # shift 1, variance 2
    hits = 0
    for seed in range(300):
        found = separation(random_normal(80, seed=2 * seed), random_normal(60, seed=2 * seed + 1) + 1)
        hits += found.low <= truth <= found.high
    assert 0.91 <= hits / 300 <= 0.98


def test_a_clean_cut_has_no_width():
    found = separation(torch.tensor([0.0, 0.1]), torch.tensor([1.0, 2.0]))
    assert (found.auroc, found.low, found.high, found.fpr95) == (1, 1, 1, 0)


@pytest.mark.parametrize(
    ("known", "unknown", "message"),
    [
        (torch.rand(1), torch.rand(3), "known must hold at least two"),
        (torch.rand(3), torch.tensor([0.1, float("nan")]), "NaN"),
        (torch.rand(3, 1), torch.rand(3), "known"),
    ],
)
def test_bad_scores_are_refused(known, unknown, message):
    with pytest.raises(ValueError, match=message):
        separation(known, unknown)
