"""Costs, base rates and refusals, against brute force and simulations whose truth is known."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from course_utils.optimization import adjust_for_prior, adjust_threshold, bayes_threshold, risk_coverage
from tests.support.values import honest_binary, random_normal, seeds


class TestBayesThreshold:
    @pytest.mark.parametrize("costs", [(1, 9), (1, 1), (10, 1), (0, 1)])
    def test_no_other_threshold_is_cheaper_for_honest_probabilities(self, costs):
        p, y = honest_binary(200_000, seed=0)
        threshold = bayes_threshold(*costs)

        def cost(t):
            positive = p >= t
            return float((costs[0] * (positive & (y == 0)) + costs[1] * (~positive & (y == 1))).double().mean())

        best = min(cost(t) for t in np.linspace(0, 1, 101))
        assert cost(threshold) <= best + 0.005 * max(costs)

    def test_the_search_agrees_on_honest_probabilities(self):
        p, y = honest_binary(200_000, seed=1)
        found = adjust_threshold(p, y, metric="cost", costs=(1, 4))
        assert found.threshold == pytest.approx(bayes_threshold(1, 4), abs=0.02)

    def test_bad_input(self):
        with pytest.raises(ValueError, match="both costs are 0"):
            bayes_threshold(0, 0)
        with pytest.raises(ValueError, match="cost_false_negative must be at least 0"):
            bayes_threshold(1, -1)


class TestAdjustForPrior:
    def test_the_posterior_of_bayes_rule_comes_out(self):
        """Two normal distributions: the logit with any prior is known in closed form."""
        x = torch.linspace(-3, 3, 13, dtype=torch.float64)
        evidence = 2 * x  # log N(x; 1, 1) − log N(x; −1, 1)
        for trained, prior in ((0.5, 0.1), (0.01, 0.5), (0.3, 0.3)):
            logits = evidence + math.log(trained / (1 - trained))
            truth = evidence + math.log(prior / (1 - prior))
            assert torch.allclose(adjust_for_prior(logits, train_prior=trained, prior=prior), truth)
            columns = torch.stack([torch.zeros_like(x), logits], 1)
            adjusted = adjust_for_prior(
                columns, train_prior=torch.tensor([1 - trained, trained]), prior=torch.tensor([1 - prior, prior])
            )
            assert torch.allclose(adjusted[:, 1] - adjusted[:, 0], truth, atol=1e-6)

    def test_pos_weight_is_undone(self):
        """A constant logit fitted with pos_weight ends at w times the odds; corrected, at the odds."""
        w, positives, n = 5.0, 30, 100
        logit = torch.tensor([math.log(w * positives / (n - positives))])
        assert adjust_for_prior(logit, pos_weight=w).sigmoid().item() == pytest.approx(positives / n)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
    def test_keeps_shape_and_dtype(self, dtype):
        for shape in ((3,), (3, 1)):
            adjusted = adjust_for_prior(torch.zeros(shape, dtype=dtype), train_prior=0.5, prior=0.2)
            assert (adjusted.shape, adjusted.dtype) == (shape, dtype)

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({}, "give train_prior and prior, or pos_weight"),
            ({"prior": 0.1}, "give train_prior and prior, or pos_weight"),
            ({"prior": 0.1, "train_prior": 0.2, "pos_weight": 2.0}, "give train_prior and prior, or pos_weight"),
            ({"prior": 1.0, "train_prior": 0.5}, "prior"),
            ({"pos_weight": 0.0}, "pos_weight"),
        ],
    )
    def test_bad_input(self, options, words):
        with pytest.raises(ValueError, match=words):
            adjust_for_prior(torch.zeros(4), **options)
        with pytest.raises(ValueError, match="one logit a sample"):
            adjust_for_prior(torch.zeros(4, 3), pos_weight=2.0)
        with pytest.raises(ValueError, match="prior must be 3 positive numbers"):
            adjust_for_prior(torch.zeros(4, 3), train_prior=torch.ones(3) / 3, prior=torch.ones(2) / 2)
        with pytest.raises(TypeError, match="prior must be 3 numbers, but is 'rare'"):
            adjust_for_prior(torch.zeros(4, 3), train_prior=torch.ones(3) / 3, prior="rare")


class TestRiskCoverage:
    @given(seeds, st.integers(1, 5))
    def test_f6_the_order_of_the_samples_does_not_matter(self, seed, levels):
        scores = (random_normal(30, seed=seed) * levels).round()  # many ties
        correct = random_normal(30, seed=seed + 1) > 0
        order = torch.randperm(30, generator=torch.Generator().manual_seed(seed))
        one, other = risk_coverage(scores, correct), risk_coverage(scores[order], correct[order])
        assert torch.equal(one.coverage, other.coverage)
        assert torch.equal(one.risk, other.risk)
        assert one.aurc == pytest.approx(other.aurc, abs=1e-12)

    @given(seeds)
    def test_without_ties_equals_sorting_by_hand(self, seed):
        scores, correct = random_normal(20, seed=seed), random_normal(20, seed=seed + 1) > 0
        wrong = (~correct[scores.argsort(descending=True)]).double()
        by_hand = wrong.cumsum(0) / torch.arange(1, 21)
        curve = risk_coverage(scores, correct)
        assert torch.allclose(curve.risk, by_hand)
        assert curve.aurc == pytest.approx(float(by_hand.mean()))

    def test_f6_four_equal_scores_are_one_point(self):
        curve = risk_coverage(torch.ones(4), torch.tensor([False, True, True, True]))
        assert (curve.coverage.tolist(), curve.risk.tolist(), curve.aurc) == ([1.0], [0.25], 0.25)

    def test_bad_input(self):
        with pytest.raises(ValueError, match="bool tensor of length 3"):
            risk_coverage(torch.rand(3), torch.tensor([0, 1, 1]))
        with pytest.raises(ValueError, match="NaN"):
            risk_coverage(torch.tensor([math.nan]), torch.tensor([True]))
