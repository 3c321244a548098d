"""Metrics against scikit-learn."""

import random

import numpy as np
import pytest
import sklearn.metrics
import torch
from hypothesis import given
from hypothesis import strategies as st

from course_utils.homework.metrics import measure, one_sample


class TestMetrics:
    @given(
        y=st.lists(st.integers(0, 2), min_size=9, max_size=30).map(lambda y: [0, 1, 2, *y]),
        seed=st.integers(0, 2**32 - 1),
    )
    def test_equal_scikit_learn(self, y, seed):
        y = torch.tensor(y)
        logits = torch.randn(len(y), 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        answers = logits.argmax(1)
        assert measure("accuracy", logits, y) == pytest.approx(sklearn.metrics.accuracy_score(y, answers))
        assert measure("f1_macro", logits, y) == pytest.approx(
            sklearn.metrics.f1_score(y, answers, average="macro", zero_division=0)
        )
        assert measure("loss", logits, y) == pytest.approx(sklearn.metrics.log_loss(y, logits.softmax(1)))

    @given(seed=st.integers(0, 2**32 - 1))
    def test_one_answer_moves_a_metric_by_at_most_one_sample(self, seed):
        numbers = random.Random(seed)
        y = torch.tensor([0, 1, 2] * 3 + numbers.choices(range(3), k=10))
        logits = torch.eye(3)[numbers.choices(range(3), k=len(y))]
        changed = logits.clone()
        changed[numbers.randrange(len(y))] = torch.eye(3)[numbers.randrange(3)]
        for metric in ("accuracy", "f1_macro"):
            moved = abs(measure(metric, logits, y) - measure(metric, changed, y))
            assert moved <= one_sample(metric, y) * 1.0001

    def test_a_class_without_samples_and_answers(self):
        logits, y = torch.eye(4)[[0, 1, 1]], torch.tensor([0, 1, 0])
        expected = sklearn.metrics.f1_score(y, logits.argmax(1), labels=range(4), average="macro", zero_division=0)
        assert measure("f1_macro", logits, y) == pytest.approx(expected)

    @pytest.mark.parametrize("bad", [float("nan"), float("inf")])
    def test_what_is_not_finite(self, bad):
        logits = torch.full((4, 3), bad)
        assert np.isnan(measure("loss", logits, torch.tensor([0, 1, 2, 0])))
        assert 0 <= measure("accuracy", logits, torch.tensor([0, 1, 2, 0])) <= 1
