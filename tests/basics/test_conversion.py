"""Logits, probabilities and labels against torch, scipy and torchmetrics, and the errors E1 and E20."""

import math

import numpy as np
import pytest
import scipy.special
import torch
from hypothesis import given
from hypothesis import strategies as st

from course_utils.basics import describe_output, logits_to_probabilities, probabilities_to_labels
from course_utils.data import load_split

finite = st.floats(-80, 80, width=32)


def rows(min_classes: int = 2):
    """Logits (N, C) as nested lists."""
    sizes = st.tuples(st.integers(1, 5), st.integers(min_classes, 6))
    return sizes.flatmap(
        lambda size: st.lists(st.lists(finite, min_size=size[1], max_size=size[1]), min_size=size[0], max_size=size[0])
    )


class TestLogitsToProbabilities:
    @given(rows())
    def test_multiclass_equals_scipy(self, values):
        logits = torch.tensor(values, dtype=torch.float64)
        expected = scipy.special.softmax(np.array(values), axis=1)
        assert np.allclose(logits_to_probabilities(logits, "multiclass"), expected, atol=1e-12)

    @given(rows(min_classes=1))
    def test_multilabel_equals_scipy(self, values):
        logits = torch.tensor(values, dtype=torch.float64)
        assert np.allclose(logits_to_probabilities(logits, "multilabel"), scipy.special.expit(np.array(values)))

    @given(rows(), st.floats(-50, 50))
    def test_shift_invariant(self, values, shift):
        logits = torch.tensor(values, dtype=torch.float64)
        shifted = logits_to_probabilities(logits + shift, "multiclass")
        assert torch.allclose(shifted, logits_to_probabilities(logits, "multiclass"), atol=1e-9)

    @given(st.lists(finite, min_size=1, max_size=6))
    def test_binary_is_softmax_of_zero_and_z(self, values):
        z = torch.tensor(values, dtype=torch.float64)
        two = torch.stack([torch.zeros_like(z), z], 1)
        expected = logits_to_probabilities(two, "multiclass")[:, 1]
        assert torch.allclose(logits_to_probabilities(z, "binary"), expected, atol=1e-12)
        assert torch.equal(logits_to_probabilities(z[:, None], "binary")[:, 0], logits_to_probabilities(z, "binary"))

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
    def test_keeps_dtype_and_stays_finite(self, dtype):
        logits = torch.tensor([[60000.0, -60000.0], [0.0, 1.0]], dtype=dtype)
        for task in ("multiclass", "multilabel"):
            probabilities = logits_to_probabilities(logits, task)
            assert probabilities.dtype == dtype
            assert torch.isfinite(probabilities).all()

    def test_e64_segmentation_softmax_is_over_dim_1(self):
        logits = torch.linspace(-4, 4, 2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
        probabilities = logits_to_probabilities(logits, "multiclass")
        assert torch.allclose(probabilities.sum(1), torch.ones(2, 4, 5))
        assert probabilities_to_labels(probabilities, "multiclass").shape == (2, 4, 5)
        assert describe_output(logits, task="segmentation").kinds == ("logits",)

    def test_e1_one_logit_is_never_softmaxed(self):
        logit = torch.tensor([[-3.0]])
        assert torch.softmax(logit, 1).item() == 1.0  # the error: class 0 with certainty
        assert logits_to_probabilities(logit, "binary").item() == pytest.approx(0.0474, abs=1e-4)
        with pytest.raises(ValueError, match="one logit per sample is 'binary'"):
            logits_to_probabilities(logit, "multiclass")

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
    def test_f21_masked_classes_have_probability_0(self, dtype):
        masked = torch.tensor([[1.0, -math.inf, 0.0]], dtype=dtype)
        p = logits_to_probabilities(masked, "multiclass")
        assert p[0, 1] == 0
        assert torch.equal(p[:, [0, 2]], masked[:, [0, 2]].softmax(1))
        assert logits_to_probabilities(masked, "multilabel")[0, 1] == 0
        assert logits_to_probabilities(masked[0], "binary")[1] == 0

    def test_gradients_flow(self):
        logits = torch.zeros(2, 3, requires_grad=True)
        logits_to_probabilities(logits, "multiclass")[:, 0].sum().backward()
        assert logits.grad.abs().sum() > 0

    @pytest.mark.parametrize(
        ("logits", "task", "error", "words"),
        [
            (torch.zeros(3, 2), "multi", ValueError, "'binary', 'multiclass', 'multilabel'"),
            (torch.zeros(3), "multiclass", ValueError, r"\(N, C\)"),
            (torch.zeros(3, 2), "binary", ValueError, r"\(N,\) or \(N, 1\)"),
            (torch.zeros(3), "multilabel", ValueError, r"\(N, C, …\)"),
            (torch.zeros(0, 2), "multiclass", ValueError, "empty"),
            (torch.tensor([[math.nan, 0.0]]), "multiclass", ValueError, "1 NaN"),
            (torch.tensor([math.inf]), "binary", ValueError, r"1 \+inf"),
            (torch.full((2, 3), -math.inf), "multiclass", ValueError, r"2 row\(s\) are all −inf"),
            (torch.zeros(3, 2, dtype=torch.long), "multiclass", TypeError, "floating"),
            ([[0.0, 1.0]], "multiclass", TypeError, "torch.Tensor"),
        ],
    )
    def test_bad_input(self, logits, task, error, words):
        with pytest.raises(error, match=words):
            logits_to_probabilities(logits, task)


class TestProbabilitiesToLabels:
    @given(rows())
    def test_multiclass_equals_argmax_of_logits(self, values):
        logits = torch.tensor(values, dtype=torch.float64)
        labels = probabilities_to_labels(logits_to_probabilities(logits, "multiclass"), "multiclass")
        top = logits.gather(1, labels[:, None])[:, 0]
        assert torch.allclose(top, logits.amax(1), atol=1e-9)
        assert labels.dtype == torch.int64

    def test_threshold_is_inclusive(self):
        p = torch.tensor([0.3, 0.5, 0.5000001, 0.9])
        assert probabilities_to_labels(p, "binary").tolist() == [0, 1, 1, 1]
        assert probabilities_to_labels(p, "binary", threshold=0.9).tolist() == [0, 0, 0, 1]
        assert probabilities_to_labels(p, "binary", threshold=0).tolist() == [1, 1, 1, 1]
        assert probabilities_to_labels(p, "binary", threshold=math.inf).tolist() == [0, 0, 0, 0]

    @given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=9), st.floats(0, 1))
    def test_a_higher_threshold_never_adds_positives(self, values, threshold):
        p = torch.tensor(values)
        some = probabilities_to_labels(p, "binary", threshold=threshold)
        more = probabilities_to_labels(p, "binary", threshold=threshold / 2)
        assert (more >= some).all()

    def test_e8_the_threshold_is_used(self):
        p = torch.tensor([[0.6, 0.2]])
        assert probabilities_to_labels(p, "multilabel", threshold=0.7).tolist() == [[0, 0]]

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision_softmax_is_accepted(self, dtype):
        p = torch.softmax(torch.linspace(-8, 8, 1000, dtype=dtype).reshape(1, -1), 1)
        assert probabilities_to_labels(p, "multiclass").tolist() == [999]

    @pytest.mark.parametrize(
        ("p", "task", "threshold", "words"),
        [
            (torch.tensor([[2.0, -1.0]]), "multiclass", None, "look like logits"),
            (torch.tensor([-0.1]), "binary", None, "look like logits"),
            (torch.tensor([[0.6, 0.6]]), "multiclass", None, "1 of 1 do not"),
            (torch.tensor([[0.4, 0.6]]), "multiclass", 0.5, "no threshold"),
            (torch.tensor([0.4]), "binary", 1.5, r"\[0, 1\]"),
            (torch.tensor([0.4]), "binary", -0.1, r"\[0, 1\]"),
            (torch.tensor([0.4]), "binary", math.nan, r"\[0, 1\]"),
            (torch.tensor([[1.0]]), "multiclass", None, "C ≥ 2"),
            (torch.tensor([math.nan]), "binary", None, "NaN"),
        ],
    )
    def test_bad_input(self, p, task, threshold, words):
        with pytest.raises(ValueError, match=words):
            probabilities_to_labels(p, task, threshold=threshold)

    def test_threshold_of_the_wrong_type(self):
        with pytest.raises(TypeError, match="threshold"):
            probabilities_to_labels(torch.tensor([0.4]), "binary", threshold="high")


def test_conversions_give_torchmetrics_accuracy_on_real_models():
    from sklearn.linear_model import LogisticRegression
    from torchmetrics.functional.classification import binary_accuracy, multiclass_accuracy

    for name, task, oracle in (
        ("digits", "multiclass", multiclass_accuracy),
        ("breast_cancer", "binary", binary_accuracy),
    ):
        split = load_split(name)
        model = LogisticRegression(max_iter=300).fit(split.x_train.numpy(), split.y_train.numpy())
        logits = torch.as_tensor(model.decision_function(split.x_test.numpy()))
        labels = probabilities_to_labels(logits_to_probabilities(logits, task), task)
        mine = (labels == split.y_test).double().mean()
        options = {"num_classes": 10, "average": "micro"} if task == "multiclass" else {}
        assert mine.item() == pytest.approx(oracle(logits, split.y_test, **options).item(), abs=1e-6)
        assert mine.item() == pytest.approx(model.score(split.x_test.numpy(), split.y_test.numpy()))
