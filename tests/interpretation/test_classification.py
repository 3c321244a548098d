"""Classes, top-k and thresholds against scipy, scikit-learn and torchmetrics."""

import math

import numpy as np
import pytest
import scipy.special
import torch
from hypothesis import given
from hypothesis import strategies as st

from course_utils.interpretation import interpret_classification_output
from tests.support.values import DTYPES, INF, NAN, random_normal, seeds


class TestClassification:
    @given(seeds, st.integers(1, 8), st.integers(2, 7))
    def test_multiclass_equals_scipy(self, seed, n, classes):
        logits = random_normal(n, classes, seed=seed, scale=20)
        result = interpret_classification_output(logits)
        expected = scipy.special.softmax(logits.numpy(), axis=1)
        assert np.allclose(result.probabilities, expected, atol=1e-12)
        assert result.labels.tolist() == expected.argmax(1).tolist()
        assert np.allclose(result.confidence, expected.max(1), atol=1e-12)
        assert result.labels.dtype == torch.int64
        assert (result.topk_labels.tolist(), result.topk_confidence.shape) == (result.labels[:, None].tolist(), (n, 1))

    @pytest.mark.parametrize("threshold", [None, 0.0, 0.3, 0.9, 1.0, INF])
    def test_binary_and_multilabel_equal_scipy(self, threshold):
        logits = random_normal(50, 4, scale=2.0)
        p = scipy.special.expit(logits.numpy())
        chosen = p >= (0.5 if threshold is None else threshold)
        result = interpret_classification_output(logits, task="multilabel", threshold=threshold)
        assert np.allclose(result.probabilities, p, atol=1e-15)
        assert result.labels.tolist() == chosen.astype(int).tolist()
        assert np.allclose(result.confidence, np.where(chosen, p, 1 - p), atol=1e-15)
        for column in (logits[:, 0], logits[:, :1]):
            binary = interpret_classification_output(column, task="binary", threshold=threshold)
            assert torch.equal(binary.labels, result.labels[:, 0])
            assert torch.equal(binary.confidence, result.confidence[:, 0])
            assert torch.equal(binary.probabilities, result.probabilities[:, 0])

    def test_a_probability_at_the_threshold_is_positive(self):
        for threshold in (None, 0.5):
            assert interpret_classification_output(torch.zeros(2), task="binary", threshold=threshold).labels.all()
            several = interpret_classification_output(torch.zeros(2, 3), task="multilabel", threshold=threshold)
            assert several.labels.all()

    def test_accuracies_equal_torchmetrics_and_scikit_learn(self):
        import sklearn.metrics
        import torchmetrics.functional as tm

        logits, target = random_normal(200, 6, scale=2.0), torch.arange(200) % 6
        result = interpret_classification_output(logits, top_k=3)
        mine = (result.labels == target).double().mean().item()
        metrics = tm.classification
        assert mine == pytest.approx(metrics.multiclass_accuracy(logits, target, num_classes=6, average="micro").item())
        among = (result.topk_labels == target[:, None]).any(1).double().mean().item()
        assert among == pytest.approx(sklearn.metrics.top_k_accuracy_score(target.numpy(), logits.numpy(), k=3))
        truth = (random_normal(200, 6, seed=1, scale=2.0) > 0).long()
        several = interpret_classification_output(logits, task="multilabel", threshold=0.3)
        mine = (several.labels == truth).double().mean().item()
        oracle = metrics.multilabel_accuracy(logits.sigmoid(), truth, num_labels=6, threshold=0.3, average="micro")
        assert mine == pytest.approx(oracle.item())

    @pytest.mark.parametrize("task", ["multiclass", "multilabel", "binary"])
    def test_top_k_is_sorted_and_belongs_to_the_probabilities(self, task):
        logits = random_normal(30, 5, scale=2.0)[:, 0] if task == "binary" else random_normal(30, 5, scale=2.0)
        k = 2 if task == "binary" else 4
        result = interpret_classification_output(logits, task=task, top_k=k)
        p = result.probabilities
        over_classes = torch.stack([1 - p, p], 1) if task == "binary" else p
        order = np.argsort(-over_classes.numpy(), axis=1, kind="stable")[:, :k]
        assert result.topk_labels.tolist() == order.tolist()
        assert torch.equal(result.topk_confidence, over_classes.gather(1, result.topk_labels))

    def test_labels_are_the_argmax_for_every_top_k_also_in_a_tie(self):
        logits = torch.zeros(3, 50)
        for k in (1, 2, 5, 50):
            result = interpret_classification_output(logits, top_k=k)
            assert result.labels.tolist() == [0, 0, 0]
            assert result.topk_labels[:, 0].tolist() == [0, 0, 0]

    @given(seeds, st.sampled_from(["multiclass", "multilabel"]))
    def test_permuted_samples_permute_the_result(self, seed, task):
        logits = random_normal(7, 4, seed=seed, scale=2.0)
        order = torch.randperm(7, generator=torch.Generator().manual_seed(seed))
        result = interpret_classification_output(logits, task=task, top_k=2)
        permuted = interpret_classification_output(logits[order], task=task, top_k=2)
        for name in result.per_sample:
            assert torch.allclose(getattr(permuted, name), getattr(result, name)[order], rtol=1e-12)

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel"])
    def test_keeps_dtype_stays_finite_and_has_a_frame(self, task, dtype):
        logits = torch.tensor([[60000.0, -60000.0], [0.0, 1.0]], dtype=dtype)
        result = interpret_classification_output(logits[:, 0] if task == "binary" else logits, task=task)
        for values in (result.probabilities, result.confidence, result.topk_confidence):
            assert values.dtype == dtype
            assert torch.isfinite(values).all()
        assert len(result.to_frame()) == 2
        assert "2 rows" in result._repr_html_()

    def test_non_contiguous_logits(self):
        wide = random_normal(6, 8, scale=2.0)
        for view in (wide.T, wide[::2, ::3]):
            assert not view.is_contiguous()
            mine, copied = (interpret_classification_output(z, top_k=2) for z in (view, view.contiguous()))
            assert torch.equal(mine.probabilities, copied.probabilities)
            assert torch.equal(mine.topk_labels, copied.topk_labels)

    def test_a_sample_by_index(self):
        logits = torch.tensor([[2.0, 0.0, 0.0], [0.0, 0.0, 9.0]])
        result = interpret_classification_output(logits, ["cat", "dog", "cow"])
        assert len(result) == 2
        assert set(result[0]) == {"predicted_class", "confidence", "probabilities", "predicted_class_name"}
        assert (result[0]["predicted_class"], result[0]["predicted_class_name"]) == (0, "cat")
        assert result[0]["confidence"] == pytest.approx(math.exp(2) / (math.exp(2) + 2))
        assert result[-1]["predicted_class_name"] == "cow"
        assert "predicted_class_name" not in interpret_classification_output(logits)[0]
        several = interpret_classification_output(logits - 1, ["cat", "dog", "cow"], task="multilabel")
        assert [several[i]["predicted_class_name"] for i in range(2)] == [["cat"], ["cow"]]
        binary = interpret_classification_output(torch.tensor([-3.0]), ["ham", "spam"], task="binary")
        assert binary[0]["predicted_class_name"] == "ham"
        with pytest.raises(IndexError):
            result[2]

    def test_gradients_flow(self):
        logits = torch.zeros(2, 3, requires_grad=True)
        interpret_classification_output(logits, top_k=2).topk_confidence[:, 0].sum().backward()
        assert logits.grad.abs().sum() > 0

    @pytest.mark.parametrize(
        ("logits", "options", "error", "words"),
        [
            (torch.zeros(3, 2), {"task": "multi"}, ValueError, "'binary', 'multiclass', 'multilabel'"),
            (torch.zeros(3), {}, ValueError, "2 dimension"),
            (torch.zeros(3, 1), {}, ValueError, "one logit per sample is task='binary'"),
            (torch.zeros(3, 2), {"task": "binary"}, ValueError, "multiclass task with C = 2"),
            (torch.zeros(3), {"task": "multilabel"}, ValueError, "2 dimension"),
            (torch.zeros(0, 2), {}, ValueError, "empty"),
            (torch.tensor([[NAN, 0.0]]), {}, ValueError, "1 NaN"),
            (torch.tensor([[INF, 0.0]]), {}, ValueError, "1 infinite"),
            (torch.zeros(3, 2).long(), {}, TypeError, "floating"),
            (np.zeros((3, 2)), {}, TypeError, "torch.Tensor"),
            (torch.zeros(3, 2), {"class_names": ["a"]}, ValueError, "2 classes, but has 1"),
            (torch.zeros(3), {"task": "binary", "class_names": ["spam"]}, ValueError, "2 classes, but has 1"),
            (torch.zeros(3, 2), {"class_names": "ab"}, TypeError, "list of strings"),
            (torch.zeros(3, 2), {"threshold": 0.5}, ValueError, "no threshold"),
            (torch.zeros(3), {"task": "binary", "threshold": 1.5}, ValueError, r"\[0, 1\]"),
            (torch.zeros(3, 2), {"task": "multilabel", "threshold": NAN}, ValueError, r"\[0, 1\]"),
            (torch.zeros(3, 2), {"top_k": 3}, ValueError, "number of classes, 2"),
            (torch.zeros(3), {"task": "binary", "top_k": 3}, ValueError, "number of classes, 2"),
            (torch.zeros(3, 2), {"top_k": 0}, ValueError, "top_k"),
            (torch.zeros(3, 2), {"top_k": 1.0}, TypeError, "top_k"),
        ],
    )
    def test_bad_input(self, logits, options, error, words):
        with pytest.raises(error, match=words):
            interpret_classification_output(logits, **options)

    def test_e1_one_logit_is_read_by_a_sigmoid(self):
        logit = torch.tensor([[-3.0]])
        assert torch.softmax(logit, 1).item() == 1.0  # the error: certain, whatever the logit
        result = interpret_classification_output(logit, task="binary")
        assert result.probabilities.item() == pytest.approx(0.0474, abs=1e-4)
        assert (result.labels.item(), result.confidence.item()) == (0, pytest.approx(0.9526, abs=1e-4))

    def test_e8_the_threshold_is_used(self):
        logit = torch.tensor([0.6]).logit()
        labels = [interpret_classification_output(logit, task="binary", threshold=t).labels.item() for t in (0.5, 0.7)]
        assert labels == [1, 0]
