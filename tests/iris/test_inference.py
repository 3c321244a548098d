"""Predictions and accuracy against scikit-learn, intervals against scipy."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from course_utils.basics import probabilities_to_labels
from course_utils.iris import accuracy, predict, wilson_interval
from tests.support.models import Returns, seeded_mlp


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

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_f4_decisions_are_taken_on_logits_in_float32(self, dtype):
        """Probabilities in half precision are tied where the logits are not: label 1, and right is 2."""
        logits = torch.tensor([[0.0, 1e-4, 2e-4], [8.0, 8.25, 8.5]]).to(dtype)
        assert logits.softmax(1)[0].unique().numel() < 3
        model = Returns(logits)
        prediction = predict(model, torch.zeros(2, 1))
        assert prediction.labels.tolist() == [2, 2]
        assert prediction.probabilities.dtype == torch.float32
        assert accuracy(model, torch.zeros(2, 1), [2, 2]).value == 1

    def test_f4_predict_and_accuracy_agree_in_bfloat16(self, split):
        model = seeded_mlp().bfloat16()
        x = split.x_test.bfloat16().repeat(20, 1)
        with torch.no_grad():  # saturated, so that many probabilities are rounded to 1 and 0
            model.output.weight.mul_(1000)
        labels = predict(model, x).labels
        assert accuracy(model, x, labels).value == 1
        assert torch.equal(labels, model(x).float().argmax(1))

    @pytest.mark.parametrize("columns", [(), (1,)])
    def test_f20_one_logit_a_sample(self, columns):
        z = torch.tensor([-3.0, 0.0, 2.0, 200.0]).reshape(4, *columns)
        model, x = Returns(z), torch.zeros(4, 1)
        prediction = predict(model, x, {0: "no", 1: "yes"}, task="binary")
        assert (
            prediction.labels.tolist()
            == probabilities_to_labels(z.sigmoid().flatten(), "binary").tolist()
            == [0, 1, 1, 1]
        )
        assert torch.allclose(prediction.probabilities, z.flatten().sigmoid())
        assert torch.allclose(prediction.confidence, z.flatten().abs().sigmoid())
        assert prediction[0]["predicted_class_name"] == "no"
        assert accuracy(model, x, [0, 0, 1, 1], task="binary").value == 0.75
        with pytest.raises(ValueError, match="for one logit a sample pass task='binary'"):
            predict(model, x)

    def test_p31_whole_numbers_and_several_inputs(self):
        tokens = torch.arange(12).reshape(4, 3)
        model = nn.Sequential(nn.Embedding(12, 5), nn.Flatten(), nn.Linear(15, 3))
        assert len(predict(model, tokens)) == 4
        assert accuracy(model, tokens, predict(model, tokens).labels).value == 1

        class Sum(nn.Module):
            def forward(self, a, b):
                return a + b

        inputs = {"a": torch.eye(3), "b": 2 * torch.eye(3).flip(0)}
        assert (
            predict(Sum(), inputs).labels.tolist()
            == predict(Sum(), tuple(inputs.values())).labels.tolist()
            == [2, 1, 0]
        )

    def test_in_batches_and_from_a_loader(self, split):
        whole = predict(self.model, split.x_test)
        loader = DataLoader(TensorDataset(split.x_test, split.y_test), batch_size=7)
        for other in (predict(self.model, split.x_test, batch_size=7), predict(self.model, loader)):
            assert torch.equal(other.labels, whole.labels)
            assert torch.allclose(other.probabilities, whole.probabilities)
        assert accuracy(self.model, split.x_test, split.y_test, batch_size=4) == accuracy(
            self.model, split.x_test, split.y_test
        )
        with pytest.raises(TypeError, match="not a DataLoader, whose order may differ"):
            accuracy(self.model, loader, split.y_test)

    def test_q31_labels_and_names_in_every_usual_form(self, split):
        expected = accuracy(self.model, split.x_test, split.y_test)
        for y in (split.y_test.tolist(), split.y_test.numpy(), split.y_test.int()):
            assert accuracy(self.model, split.x_test, y) == expected
        for names in (np.array(split.class_names), pd.Index(split.class_names), dict(enumerate(split.class_names))):
            assert predict(self.model, split.x_test, names).class_names == tuple(split.class_names)

    @pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
    def test_q23_frozen_torchscript(self, split):
        """It has no modes: the attribute `training` is gone."""
        frozen = torch.jit.freeze(torch.jit.script(seeded_mlp().eval()))
        assert torch.equal(predict(frozen, split.x_test).labels, predict(seeded_mlp(), split.x_test).labels)
        assert not hasattr(frozen, "training")

    def test_q23_wrapped_models(self, split):
        expected = predict(self.model, split.x_test).labels
        for wrapped in (nn.DataParallel(self.model), torch.compile(self.model, backend="eager")):
            assert torch.equal(predict(wrapped, split.x_test).labels, expected)

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
