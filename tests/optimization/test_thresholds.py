"""Thresholds against brute force in exact fractions and scikit-learn."""

import math
import warnings
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course_utils.optimization import adjust_threshold
from tests.support.values import DTYPES, honest_binary, random_normal, seeds


@st.composite
def scored(draw, dtype=None):
    """Probabilities with many ties, in any dtype, with 0.0, −0.0 and 1.0, and labels with at least one 1."""
    dtype = draw(st.sampled_from(DTYPES)) if dtype is None else dtype
    value = st.one_of(st.sampled_from([0.0, -0.0, 1.0, 0.5, 0.25, 0.75, 1e-7]), st.floats(0, 1))
    values = draw(st.lists(value, min_size=1, max_size=10))
    labels = draw(st.lists(st.integers(0, 1), min_size=len(values), max_size=len(values)))
    labels[draw(st.integers(0, len(values) - 1))] = 1
    return torch.tensor(values, dtype=torch.float64).to(dtype), torch.tensor(labels)


def exact_metric(metric: str, tp: int, fp: int, fn: int, tn: int) -> Fraction:
    if metric == "balanced_accuracy":
        return (Fraction(tp, tp + fn) + Fraction(tn, tn + fp)) / 2
    numerator, denominator = {
        "f1": (2 * tp, 2 * tp + fp + fn),
        "accuracy": (tp + tn, tp + fp + fn + tn),
        "precision": (tp, tp + fp),
        "recall": (tp, tp + fn),
    }[metric]
    return Fraction(numerator, denominator)


def brute_force(p, y, metric, *, min_precision=None, min_recall=None):
    """Exact fractions at every distinct score: [(threshold, value)] of the allowed ones, ascending."""
    p, y = p.double().tolist(), y.tolist()
    thresholds = sorted(set(p)) + [math.inf] * (metric in ("accuracy", "balanced_accuracy"))
    found = []
    for t in thresholds:
        cells = Counter((value >= t, label) for value, label in zip(p, y, strict=True))
        tp, fp, fn, tn = cells[True, 1], cells[True, 0], cells[False, 1], cells[False, 0]
        if min_precision is not None and tp + fp > 0 and tp / (tp + fp) < min_precision:
            continue
        if min_recall is not None and tp / (tp + fn) < min_recall:
            continue
        found.append((t, exact_metric(metric, tp, fp, fn, tn)))
    return found


def same_as_brute_force(p, y, metric, **limits):
    """Compare `adjust_threshold` with `brute_force`: the highest of the best, or an error when none is allowed."""
    allowed = brute_force(p, y, metric, **limits)
    if not allowed:
        with pytest.raises(ValueError, match="no threshold reaches"):
            adjust_threshold(p, y, metric=metric, **limits)
        return
    best = max(value for _, value in allowed)
    result = adjust_threshold(p, y, metric=metric, **limits)
    assert result.threshold == max(t for t, value in allowed if value == best)
    assert result.score == float(best)


class TestThresholds:
    @pytest.mark.parametrize("metric", ["f1", "accuracy", "balanced_accuracy"])
    @given(scored())
    def test_equals_brute_force_and_takes_the_highest_of_the_best(self, metric, data):
        p, y = data
        if metric == "balanced_accuracy" and y.all():
            with pytest.raises(ValueError, match="no negatives"):
                adjust_threshold(p, y, metric=metric)
            return
        same_as_brute_force(p, y, metric)
        result, expected = adjust_threshold(p, y, metric=metric), brute_force(p, y, metric)
        assert result.thresholds.dtype == p.dtype
        assert result.thresholds.tolist() == [t for t, _ in expected]
        assert result.scores.tolist() == [float(value) for _, value in expected]

    @given(scored(), st.integers(0, 8), st.integers(1, 8))
    def test_constraints_equal_brute_force(self, data, numerator, denominator):
        p, y = data
        limit = min(1.0, numerator / denominator)
        same_as_brute_force(p, y, "precision", min_recall=limit)
        same_as_brute_force(p, y, "recall", min_precision=limit)
        same_as_brute_force(p, y, "f1", min_precision=limit, min_recall=limit / 2)
        same_as_brute_force(p, y, "accuracy", min_recall=limit)

    @pytest.mark.parametrize(("hits", "predicted"), [(7, 25), (14, 25), (7, 100), (29, 100), (57, 100)])
    def test_a_constraint_that_is_met_exactly_is_met(self, hits, predicted):
        """7/25 of the predicted positives are right, and .28 was asked for; 0.28·25 is a hair above 7."""
        p, y = torch.full((predicted,), 0.5), (torch.arange(predicted) < hits).long()
        assert adjust_threshold(p, y, metric="recall", min_precision=hits / predicted).threshold == 0.5
        p = torch.tensor([0.9] * hits + [0.1] * (predicted - hits))
        found = adjust_threshold(p, torch.ones_like(y), metric="precision", min_recall=hits / predicted)
        assert found.threshold == pytest.approx(0.9)

    @settings(max_examples=10)
    @given(scored(dtype=torch.float64))
    def test_curves_equal_scikit_learns(self, data):
        from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, precision_score, recall_score

        p, y = data
        limits = {"precision": {"min_recall": 0}, "recall": {"min_precision": 0}}
        for metric, oracle in (
            ("f1", f1_score),
            ("accuracy", accuracy_score),
            ("balanced_accuracy", balanced_accuracy_score),
            ("precision", precision_score),
            ("recall", recall_score),
        ):
            if metric == "balanced_accuracy" and y.all():
                continue
            result = adjust_threshold(p, y, metric=metric, **limits.get(metric, {}))
            expected = [oracle(y, p >= t) for t in result.thresholds]
            assert result.scores.tolist() == pytest.approx(expected, abs=1e-12)
            assert result.score == pytest.approx(oracle(y, p >= result.threshold), abs=1e-12)

    @given(seeds)
    def test_f1_equals_the_precision_recall_curve(self, seed):
        from sklearn.metrics import precision_recall_curve

        p, y = honest_binary(200, seed)
        p = (50 * p).round() / 50  # with ties
        precision, recall, thresholds = precision_recall_curve(y, p)
        f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
        result = adjust_threshold(p, y)
        assert result.thresholds.tolist() == thresholds.tolist()
        assert result.scores.tolist() == pytest.approx(f1[:-1].tolist())
        assert result.score == pytest.approx(f1.max())

    @given(scored(), st.randoms(use_true_random=False))
    def test_the_order_of_the_samples_does_not_matter(self, data, random):
        p, y = data
        order = list(range(len(p)))
        random.shuffle(order)
        assert adjust_threshold(p[order], y[order]).threshold == adjust_threshold(p, y).threshold

    def test_infinity_means_predict_none(self):
        p, y = torch.tensor([0.9, 0.8, 0.1]), torch.tensor([0, 0, 1])
        for metric, score in (("accuracy", 2 / 3), ("balanced_accuracy", 0.5)):
            result = adjust_threshold(p, y, metric=metric)
            assert (result.threshold, result.score) == (math.inf, pytest.approx(score))
            assert result.thresholds[-1] == math.inf
        assert adjust_threshold(p, y).threshold == pytest.approx(0.1)

    def test_minus_zero_is_zero(self):
        result = adjust_threshold(torch.tensor([-0.0, 0.0, 1.0]), torch.tensor([1, 0, 1]), metric="accuracy")
        assert result.thresholds.tolist() == [0, 1, math.inf]
        assert result.threshold == 1

    @pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int32])
    def test_labels_of_any_whole_number_type(self, dtype):
        p, y = honest_binary(50, 3)
        assert adjust_threshold(p, y.to(dtype)).threshold == adjust_threshold(p, y).threshold

    def test_a_graph_behind_the_probabilities_is_ignored_without_a_warning(self):
        p = torch.tensor([0.2, 0.7, 0.4], requires_grad=True) * 1
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            result = adjust_threshold(p, torch.tensor([0, 1, 0]))
        assert not result.thresholds.requires_grad
        assert result.threshold == pytest.approx(0.7)

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_a_row_and_the_frame(self, dtype):
        p = torch.tensor([0.5, 0.25, 0.5], dtype=dtype)
        result = adjust_threshold(p, torch.tensor([1, 0, 1]), metric="accuracy")
        assert len(result) == 3
        assert result[0] == {"thresholds": 0.25, "scores": pytest.approx(2 / 3)}
        assert result.to_frame()["thresholds"].tolist() == [0.25, 0.5, math.inf]
        assert "threshold=0.5, score=1" in repr(result)

    @pytest.mark.parametrize(
        ("change", "error", "words"),
        [
            ({"probabilities": torch.tensor([-1.0, 2.0, 0.5])}, ValueError, "look like logits"),
            ({"probabilities": torch.tensor([0.1, math.nan, 0.5])}, ValueError, "1 NaN"),
            ({"probabilities": torch.rand(3, 1)}, ValueError, "1 dimension"),
            ({"probabilities": torch.tensor([0, 1, 1])}, TypeError, "floating"),
            ({"probabilities": [0.1, 0.2, 0.3]}, TypeError, "torch.Tensor"),
            ({"probabilities": torch.rand(0), "target": torch.zeros(0).long()}, ValueError, "empty"),
            ({"target": torch.tensor([0, 1])}, ValueError, "each of the 3"),
            ({"target": torch.tensor([0, -1, 1])}, ValueError, "0 to 1"),
            ({"target": torch.tensor([0, 2, 1])}, ValueError, "0 to 1"),
            ({"target": torch.tensor([0.0, 1.0, 1.0])}, TypeError, "integer"),
            ({"target": torch.tensor([0, 0, 0])}, ValueError, "no positives"),
            ({"metric": "auc"}, ValueError, "'f1', 'accuracy', 'balanced_accuracy', 'precision', 'recall'"),
            ({"min_recall": 1.5}, ValueError, r"min_recall must lie in \[0, 1\]"),
            ({"min_precision": math.nan}, ValueError, "min_precision"),
            ({"min_precision": "high"}, TypeError, "min_precision"),
            ({"target": torch.tensor([0, 0, 1]), "min_precision": 0.9}, ValueError, "no threshold reaches"),
        ],
    )
    def test_bad_input(self, change, error, words):
        arguments = {"probabilities": torch.tensor([0.9, 0.8, 0.1]), "target": torch.tensor([0, 1, 1])} | change
        with pytest.raises(error, match=words):
            adjust_threshold(**arguments)

    def test_e21_a_grid_of_100_misses_a_rare_class(self):
        from sklearn.metrics import f1_score

        y = (torch.arange(2000) < 44).long()
        p = torch.sigmoid(random_normal(2000, scale=0.5) - 9 + 2 * y)
        on_the_grid = max(f1_score(y, p >= t, zero_division=0) for t in np.linspace(0, 1, 100))
        assert on_the_grid == pytest.approx(0.043, abs=1e-3)  # the error: every score is below the second point
        result = adjust_threshold(p, y)
        assert result.score > 0.7
        assert result.score == pytest.approx(f1_score(y, p >= result.threshold))

    def test_e22_recall_or_precision_alone_is_refused(self):
        from sklearn.metrics import precision_score, recall_score

        p, y = honest_binary(100, 0)
        assert recall_score(y, p >= 0.0) == 1  # the error's answer: everything is positive
        with pytest.raises(ValueError, match="useless optimum; give min_precision"):
            adjust_threshold(p, y, metric="recall")
        with pytest.raises(ValueError, match="useless optimum; give min_recall"):
            adjust_threshold(p, y, metric="precision", min_precision=0.5)
        found = adjust_threshold(p, y, metric="recall", min_precision=0.8)
        assert found.threshold > 0
        assert precision_score(y, p >= found.threshold) >= 0.8

    def test_e23_the_score_at_its_own_optimum_flatters(self):
        from sklearn.metrics import accuracy_score

        tuned, held_out = [], []
        for seed in range(100):
            generator = torch.Generator().manual_seed(seed)
            p, y = torch.rand(2, 100, generator=generator), torch.randint(2, (2, 100), generator=generator)
            found = adjust_threshold(p[0], y[0], metric="accuracy")
            tuned.append(found.score)
            held_out.append(accuracy_score(y[1], p[1] >= found.threshold))
        assert np.mean(tuned) > 0.56  # noise looks like skill where it was tuned
        assert np.mean(held_out) == pytest.approx(0.5, abs=0.02)
