"""Predictions and accuracy against scikit-learn, intervals against scipy."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from course_utils.iris import accuracy, predict, wilson_interval
from tests.support.models import seeded_mlp


class TestInference:
    model = seeded_mlp(dropout=0.5)

    def test_predict_reads_the_logits(self, split):
        prediction = predict(self.model, split.x_test, split.class_names)
        with torch.no_grad():
            expected = torch.softmax(self.model.eval()(split.x_test), 1)
        self.model.train()
        assert torch.allclose(prediction.probabilities, expected)
        assert torch.equal(prediction.labels, expected.argmax(1))
        assert torch.allclose(prediction.confidence, expected.amax(1))
        assert not prediction.probabilities.requires_grad

    def test_a_sample_and_the_frame(self, split):
        prediction = predict(self.model, split.x_test, split.class_names)
        assert prediction[0]["predicted_class_name"] in split.class_names
        frame = prediction.to_frame()
        assert list(frame.columns[-3:]) == ["p(setosa)", "p(versicolor)", "p(virginica)"]
        assert len(frame) == 30
        assert "predicted_class_name" not in predict(self.model, split.x_test)[0]

    def test_accuracy_equals_scikit_learn(self, split):
        from sklearn.metrics import accuracy_score

        result = accuracy(self.model, split.x_test, split.y_test)
        expected = accuracy_score(split.y_test.numpy(), predict(self.model, split.x_test).labels.numpy())
        assert result.value == pytest.approx(expected)
        assert result.n == 30
        assert f"{expected:.3f}" in str(result)

    @given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.floats(0.5, 0.999))
    def test_e70_wilson_equals_scipy(self, counts, confidence):
        from scipy.stats import binomtest

        correct, n = counts
        expected = binomtest(correct, n).proportion_ci(confidence, method="wilson")
        low, high = wilson_interval(correct, n, confidence)
        assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-9)
        assert 0 <= low <= correct / n <= high <= 1

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [((0, 0), "n must be at least 1"), ((5, 3), "at most n, 3"), ((-1, 3), "at least 0"), ((1, 2, 1.0), "between")],
    )
    def test_counts_that_cannot_be(self, arguments, words):
        with pytest.raises(ValueError, match=words):
            wilson_interval(*arguments)

    def test_e70_thirty_of_thirty_is_not_certainty(self):
        low, high = wilson_interval(30, 30)
        assert low == pytest.approx(0.886, abs=1e-3)
        assert high == 1

    @pytest.mark.parametrize(
        ("call", "error", "words"),
        [
            (lambda m, split: predict(m, split.x_test, ["a"]), ValueError, "3 classes"),
            (lambda m, split: predict(m, split.x_test[:0]), ValueError, "empty"),
            (lambda m, split: predict(m, split.x_test * math.inf), ValueError, "infinite"),
            (lambda m, split: predict(nn.Linear(4, 1), split.x_test), ValueError, "C ≥ 2"),
            (lambda m, split: predict(nn.Flatten(0), split.x_test), ValueError, r"logits \(N, C\)"),
            (lambda m, split: accuracy(m, split.x_test, split.y_test[:3]), ValueError, "each of the 30"),
            (lambda m, split: accuracy(m, split.x_test, split.y_test, confidence=1.0), ValueError, "confidence"),
        ],
    )
    def test_bad_input(self, split, call, error, words):
        with pytest.raises(error, match=words):
            call(self.model, split)

    def test_e65_eval_mode_neither_stops_updates_nor_gradients(self, split):
        model = seeded_mlp().eval()
        before = model.hidden.weight.detach().clone()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        F.cross_entropy(model(split.x_train), split.y_train).backward()
        optimizer.step()
        assert not torch.equal(before, model.hidden.weight)

    def test_e63_the_mean_counts_every_sample_once(self, split):
        """65 samples with a last batch of one: the sum over batches divided once equals the loss in one batch."""
        model = seeded_mlp()
        x, y = split.x_train[:65], split.y_train[:65]
        with torch.no_grad():
            whole = F.cross_entropy(model(x), y)
            parts = [
                F.cross_entropy(model(a), b, reduction="sum") for a, b in zip(x.split(64), y.split(64), strict=True)
            ]
            means = [F.cross_entropy(model(a), b) for a, b in zip(x.split(64), y.split(64), strict=True)]
        assert torch.allclose(sum(parts) / 65, whole)
        assert not torch.allclose(sum(means) / 2, whole, atol=1e-3)
