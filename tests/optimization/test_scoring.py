"""The Brier score against scikit-learn, and its parts against what they must be."""

import numpy as np
import pytest
import torch
from hypothesis import given
from sklearn.metrics import brier_score_loss

from course_utils.optimization import brier_score
from tests.support.values import honest_binary, random_normal, sampled_labels, seeds


@given(seeds)
def test_binary_equals_sklearn_and_the_parts_add_up(seed):
    p, y = honest_binary(60, seed)
    found = brier_score(p, y)
    assert found.score == pytest.approx(brier_score_loss(y.numpy(), p.numpy(), pos_label=1))
    total = found.reliability - found.resolution + found.uncertainty + found.within_bins
    assert found.score == pytest.approx(total)
    assert found.reliability >= 0
    assert found.resolution >= 0


@given(seeds)
def test_multiclass_is_the_sum_over_the_classes(seed):
    p = random_normal(50, 4, seed=seed).softmax(1)
    y = sampled_labels(p, seed)
    one_hot = np.eye(4)[y.numpy()]
    assert brier_score(p, y).score == pytest.approx(((p.numpy() - one_hot) ** 2).sum(1).mean())
    columns = [brier_score(p[:, c], (y == c).long()) for c in range(4)]
    for part in ("score", "reliability", "resolution", "uncertainty"):
        assert getattr(brier_score(p, y), part) == pytest.approx(sum(getattr(one, part) for one in columns))


def test_the_parts_mean_what_they_say():
    p, y = honest_binary(200_000, seed=0)
    honest, shifted = brier_score(p, y), brier_score(p**3, y)
    constant = brier_score(torch.full_like(p, float(y.double().mean())), y)
    assert honest.reliability < 1e-3 < 0.05 < shifted.reliability
    assert constant.resolution < 1e-12
    assert constant.score == pytest.approx(constant.uncertainty)
    assert honest.score < constant.score
    equal_in_bins = brier_score(torch.tensor([0.1, 0.1, 0.9, 0.9]), torch.tensor([0, 1, 1, 1]), n_bins=2)
    assert equal_in_bins.within_bins == pytest.approx(0, abs=1e-12)


def test_the_order_of_the_samples_does_not_matter():
    p, y = honest_binary(500, seed=3)
    order = torch.randperm(500, generator=torch.Generator().manual_seed(0))
    assert brier_score(p, y).score == pytest.approx(brier_score(p[order], y[order]).score, rel=1e-12)


def test_bad_input():
    with pytest.raises(ValueError, match="look like logits"):
        brier_score(torch.tensor([2.0, -1.0]), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="sum to 1"):
        brier_score(torch.rand(3, 2) / 10, torch.tensor([0, 1, 1]))
