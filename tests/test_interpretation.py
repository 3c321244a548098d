"""Chapter 2: classes, numbers, boxes and text against other libraries and brute force, and the errors E1 to E19."""

import itertools
import math
import warnings
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.special
import sklearn.metrics
import torch
import torch.nn.functional as F
import torchmetrics.functional as tm
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torchvision.ops import batched_nms, box_convert, box_iou, masks_to_boxes

from course_utils.data import PICTURE_CLASSES, generate_scenes
from course_utils.interpretation import (
    SimpleLanguageModel,
    beam_search_decode,
    detection,
    evaluate_detections,
    greedy_decode,
    interpret_classification_output,
    interpret_detection_output,
    interpret_regression_output,
    plot_beam_tree,
    plot_detections,
    plot_intervals,
    plot_precision_recall,
    plot_residuals,
    plot_samples,
)

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
PNG = b"\x89PNG"
INF, NAN = math.inf, math.nan
seeds = st.integers(0, 10_000)


def random_tensor(*shape: int, seed: int = 0, scale: float = 2.0) -> torch.Tensor:
    return scale * torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


# --- classes ---------------------------------------------------------------------------------------------------------


class TestClassification:
    @given(seeds, st.integers(1, 8), st.integers(2, 7))
    def test_multiclass_equals_scipy(self, seed, n, classes):
        logits = random_tensor(n, classes, seed=seed, scale=20)
        result = interpret_classification_output(logits)
        expected = scipy.special.softmax(logits.numpy(), axis=1)
        assert np.allclose(result.probabilities, expected, atol=1e-12)
        assert result.labels.tolist() == expected.argmax(1).tolist()
        assert np.allclose(result.confidence, expected.max(1), atol=1e-12)
        assert result.labels.dtype == torch.int64
        assert (result.topk_labels.tolist(), result.topk_confidence.shape) == (result.labels[:, None].tolist(), (n, 1))

    @pytest.mark.parametrize("threshold", [None, 0.0, 0.3, 0.9, 1.0, INF])
    def test_binary_and_multilabel_equal_scipy(self, threshold):
        logits = random_tensor(50, 4)
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
        logits, target = random_tensor(200, 6), torch.arange(200) % 6
        result = interpret_classification_output(logits, top_k=3)
        mine = (result.labels == target).double().mean().item()
        metrics = tm.classification
        assert mine == pytest.approx(metrics.multiclass_accuracy(logits, target, num_classes=6, average="micro").item())
        among = (result.topk_labels == target[:, None]).any(1).double().mean().item()
        assert among == pytest.approx(sklearn.metrics.top_k_accuracy_score(target.numpy(), logits.numpy(), k=3))
        truth = (random_tensor(200, 6, seed=1) > 0).long()
        several = interpret_classification_output(logits, task="multilabel", threshold=0.3)
        mine = (several.labels == truth).double().mean().item()
        oracle = metrics.multilabel_accuracy(logits.sigmoid(), truth, num_labels=6, threshold=0.3, average="micro")
        assert mine == pytest.approx(oracle.item())

    @pytest.mark.parametrize("task", ["multiclass", "multilabel", "binary"])
    def test_top_k_is_sorted_and_belongs_to_the_probabilities(self, task):
        logits = random_tensor(30, 5)[:, 0] if task == "binary" else random_tensor(30, 5)
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
        logits = random_tensor(7, 4, seed=seed)
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
        wide = random_tensor(6, 8)
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


# --- numbers ---------------------------------------------------------------------------------------------------------


class TestRegression:
    @given(st.integers(2, 9), st.integers(1, 4), seeds)
    def test_every_statistic_equals_scikit_learn(self, n, outputs, seed):
        preds, target = random_tensor(n, outputs, seed=seed), random_tensor(n, outputs, seed=seed + 1)
        table = interpret_regression_output(preds, target).statistics
        both, raw = (target.numpy(), preds.numpy()), {"multioutput": "raw_values"}
        metrics = sklearn.metrics
        assert np.allclose(table["mean_absolute_error"], metrics.mean_absolute_error(*both, **raw))
        assert np.allclose(table["root_mean_squared_error"], metrics.root_mean_squared_error(*both, **raw))
        assert np.allclose(table["r2"], metrics.r2_score(*both, **raw))
        columns = zip(*(values.T for values in both), strict=True)
        assert np.allclose(table["max_absolute_error"], [metrics.max_error(y, p) for y, p in columns])
        absolute = np.abs(preds.numpy() - target.numpy())
        assert np.allclose(table["mean_error"], (preds.numpy() - target.numpy()).mean(0))
        assert np.allclose(table["min_absolute_error"], absolute.min(0))
        assert np.allclose(table["std_absolute_error"], absolute.std(0))

    def test_equals_torchmetrics(self):
        preds, target = random_tensor(40, 3), random_tensor(40, 3, seed=1)
        table = interpret_regression_output(preds, target).statistics
        rmse = tm.mean_squared_error(preds, target, squared=False, num_outputs=3)
        assert np.allclose(table["root_mean_squared_error"], rmse)
        assert np.allclose(table["r2"], tm.r2_score(preds, target, multioutput="raw_values"))

    def test_error_is_prediction_minus_target(self):
        result = interpret_regression_output(torch.tensor([3.0, 1.0]), torch.tensor([1.0, 2.0]))
        assert result.error.tolist() == [[2.0], [-1.0]]
        assert result[1] == {"preds": torch.tensor([1.0]), "target": torch.tensor([2.0]), "error": torch.tensor([-1.0])}
        assert list(result.to_frame().columns) == ["preds_0", "target_0", "error_0"]
        assert "2 samples, 1 output(s)" in repr(result)

    def test_names_are_the_index(self):
        table = interpret_regression_output(torch.rand(3, 2), torch.rand(3, 2), names=["weight in g", "age"]).statistics
        assert list(table.index) == ["weight in g", "age"]
        assert list(interpret_regression_output(torch.rand(3, 2), torch.rand(3, 2)).statistics.index) == [
            "output 0",
            "output 1",
        ]

    def test_without_target(self):
        result = interpret_regression_output(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
        with pytest.raises(TypeError, match="one sample at a time"):
            result[0:1]
        assert (result.target, result.error, result.statistics) == (None, None, None)
        assert result[-1]["preds"].tolist() == [3.0, 4.0]
        assert list(result[0]) == ["preds"]
        assert list(result.to_frame().columns) == ["preds_0", "preds_1"]

    @pytest.mark.parametrize("constant", [0.0, 0.1, 1e-12, 1e9 + 0.1])
    def test_r2_of_a_constant_target_is_nan(self, constant):
        target = torch.full((7, 1), constant, dtype=torch.float64)
        table = interpret_regression_output(target + 1, target).statistics
        assert math.isnan(table["r2"].iloc[0])
        assert table["mean_absolute_error"].iloc[0] == pytest.approx(1)

    @given(seeds)
    def test_permuted_samples_permute_the_errors_and_keep_the_statistics(self, seed):
        preds, target = random_tensor(9, 2, seed=seed), random_tensor(9, 2, seed=seed + 1)
        order = torch.randperm(9, generator=torch.Generator().manual_seed(seed))
        result, permuted = (
            interpret_regression_output(preds, target),
            interpret_regression_output(preds[order], target[order]),
        )
        assert torch.equal(permuted.error, result.error[order])
        assert np.allclose(permuted.statistics, result.statistics)

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_keeps_dtype_and_has_a_frame(self, dtype):
        preds, target = random_tensor(5, 2).to(dtype), random_tensor(5, 2, seed=1).to(dtype)
        result = interpret_regression_output(preds, target)
        assert result.preds.dtype == result.error.dtype == dtype
        assert len(result.to_frame()) == 5
        assert "5 rows" in result._repr_html_()

    def test_statistics_of_half_precision_are_exact_and_finite(self):
        preds, target = torch.tensor([60000.0, 1000.0]).half(), torch.tensor([-60000.0, 0.3]).half()
        table = interpret_regression_output(preds, target).statistics
        expected = sklearn.metrics.mean_absolute_error(target.double().numpy(), preds.double().numpy())
        assert table["mean_absolute_error"].iloc[0] == pytest.approx(expected, rel=1e-12)
        assert np.isfinite(table).all(axis=None)

    def test_non_contiguous_tensors(self):
        preds, target = random_tensor(3, 8).T, random_tensor(16, 6, seed=1)[::2, ::2]
        mine = interpret_regression_output(preds, target).statistics
        assert np.allclose(mine, interpret_regression_output(preds.contiguous(), target.contiguous()).statistics)

    @pytest.mark.parametrize(
        ("preds", "target", "names", "error", "words"),
        [
            (torch.zeros(3, 2), torch.zeros(2, 3), None, ValueError, r"\(3, 2\) and \(2, 3\)"),
            (torch.zeros(3, 2), torch.zeros(3), None, ValueError, "same shape"),
            (torch.zeros(2, 3, 4), None, None, ValueError, "1 or 2 dimension"),
            (torch.zeros(3, 0), None, None, ValueError, "empty"),
            (torch.tensor([NAN]), None, None, ValueError, "preds must be finite"),
            (torch.zeros(1), torch.tensor([INF]), None, ValueError, "target must be finite"),
            (torch.zeros(3).long(), None, None, TypeError, "preds must have a floating"),
            (torch.zeros(3), torch.zeros(3).long(), None, TypeError, "target must have a floating"),
            ([1.0, 2.0], None, None, TypeError, "torch.Tensor"),
            (torch.zeros(3, 2), torch.zeros(3, 2), ["a"], ValueError, "^names must .*2.* 1"),
            (torch.zeros(3, 2), None, ["a", "b", "c"], ValueError, "^names must .*2.* 3"),
        ],
    )
    def test_bad_input(self, preds, target, names, error, words):
        with pytest.raises(error, match=words):
            interpret_regression_output(preds, target, names=names)

    def test_e2_statistics_of_one_sample(self):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert torch.tensor([2.0]).std().isnan()  # the error: std with correction 1
        table = interpret_regression_output(torch.tensor([[3.0]]), torch.tensor([[1.0]])).statistics
        assert table["std_absolute_error"].iloc[0] == 0
        assert table["mean_absolute_error"].iloc[0] == 2
        assert math.isnan(table["r2"].iloc[0])  # undefined, as documented

    def test_e3_one_dimension_means_one_output(self):
        result = interpret_regression_output(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([1.0, 2.0, 3.0]))
        assert result.preds.shape == (3, 1)
        assert result.statistics["max_absolute_error"].tolist() == [1.0]

    def test_e4_units_are_never_pooled(self):
        target = torch.tensor([[1.0, 1000.0], [2.0, 3000.0]])
        preds = target + torch.tensor([1.0, -50.0])
        assert (preds - target).abs().mean().item() == 25.5  # the error
        assert interpret_regression_output(preds, target).statistics["mean_absolute_error"].tolist() == [1.0, 50.0]

    def test_e5_float64_stays_float64(self):
        value = 123456789.123
        preds = torch.tensor([value], dtype=torch.float64)
        assert torch.tensor(preds.tolist()).item() == 123456792.0  # the error: through a list into float32
        result = interpret_regression_output(preds, torch.zeros(1, dtype=torch.float64))
        assert result.error.dtype == torch.float64
        assert result.statistics["max_absolute_error"].iloc[0] == value

    def test_e6_unequal_and_empty_batches_are_refused(self):
        with pytest.raises(ValueError, match=r"\(3, 1\) and \(5, 1\)"):
            interpret_regression_output(torch.zeros(3, 1), torch.zeros(5, 1))
        with pytest.raises(ValueError, match="at least one sample"):
            interpret_regression_output(torch.zeros(0, 1), torch.zeros(0, 1))

    def test_e7_a_column_is_never_broadcast_against_a_row(self):
        values = torch.tensor([1.0, 2.0, 3.0, 4.0])
        assert (values[:, None] - values).square().mean().item() == 2.5  # the error: for identical data
        with pytest.raises(ValueError, match="broadcast"):
            interpret_regression_output(values[:, None], values)
        table = interpret_regression_output(values, values.clone()).statistics
        assert table["root_mean_squared_error"].iloc[0] == 0


# --- boxes -----------------------------------------------------------------------------------------------------------

CLASSES = 3


def raw_output(pictures, dtype=torch.float64) -> torch.Tensor:
    """Pictures of (x1, y1, width, height, score in sixteenths, class) → preds (batch, B, 5 + C) as corners.

    The class scores are 0 and 1, so that the score is exact in every dtype.
    """
    table = torch.tensor(pictures, dtype=torch.float64)  # (batch, B, 6)
    corners = torch.cat([table[..., :2], table[..., :2] + table[..., 2:4]], -1)
    return torch.cat([corners, table[..., 4:5] / 16, F.one_hot(table[..., 5].long(), CLASSES)], -1).to(dtype)


def rows(found: dict) -> list[tuple]:
    """A picture's detections as a sorted list: equal scores may come in any order."""
    columns = (found["boxes"].tolist(), found["scores"].tolist(), found["labels"].tolist())
    return sorted((score, label, *box) for box, score, label in zip(*columns, strict=True))


def overlap(a, b) -> Fraction:
    """The IoU of two such boxes; 0 if both have no area."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    union = a[2] * a[3] + b[2] * b[3] - shared
    return Fraction(shared, union) if union else Fraction(0)


def exact_nms(picture, threshold: Fraction, *, agnostic: bool = False) -> list[tuple]:
    """Suppression by the book, in fractions: no rounding at all."""
    kept = []
    for box in sorted(picture, key=lambda box: -box[4]):  # a stable sort, as everywhere
        rivals = [k for k in kept if agnostic or k[5] == box[5]]
        if all(overlap(box, rival) <= threshold for rival in rivals):
            kept.append(box)
    return sorted((s / 16, c, float(x), float(y), float(x + w), float(y + h)) for x, y, w, h, s, c in kept)


@st.composite
def batches(draw) -> list[list[tuple]]:
    """Up to three pictures of small whole-number boxes: many without area, many that overlap in simple fractions."""
    coordinate = st.integers(0, 5)
    box = st.tuples(*[coordinate] * 4, st.integers(0, 16), st.integers(0, CLASSES - 1))
    count = draw(st.integers(1, 9))
    return draw(st.lists(st.lists(box, min_size=count, max_size=count), min_size=1, max_size=3))


@st.composite
def batches_and_thresholds(draw) -> tuple[list[list[tuple]], Fraction]:
    """The threshold is a simple fraction or exactly the IoU of two of the boxes."""
    pictures = draw(batches())
    pairs = [pair for picture in pictures for pair in itertools.combinations(picture, 2)]
    ious = sorted({overlap(*pair) for pair in pairs} - {0})
    simple = st.sampled_from([Fraction(a, b) for b in range(1, 11) for a in range(b + 1)])
    return pictures, draw(st.sampled_from(ious) | simple if ious else simple)


EVERYTHING = {"score_threshold": 0.0, "box_format": "xyxy"}


class TestDetection:
    @given(batches_and_thresholds(), st.booleans())
    def test_equals_torchvision_batched_nms(self, case, agnostic):
        pictures, share = case
        preds = raw_output(pictures)
        options = EVERYTHING | {"iou_threshold": float(share), "class_agnostic": agnostic}
        for picture, found in zip(preds, interpret_detection_output(preds, **options), strict=True):
            boxes, scores, labels = picture[:, :4], picture[:, 4], picture[:, 5:].argmax(1)
            keep = batched_nms(boxes, scores, torch.zeros_like(labels) if agnostic else labels, float(share))
            assert rows(found) == rows({"boxes": boxes[keep], "scores": scores[keep], "labels": labels[keep]})
            assert found["scores"].tolist() == scores[keep].tolist()  # best first

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("most_pairs", [4_000_000, 0])
    @given(case=batches_and_thresholds(), agnostic=st.booleans())
    def test_equals_exact_fractions_in_every_dtype_on_both_paths(self, case, agnostic, dtype, most_pairs):
        """The padded table and torchvision's nms heap by heap: the same survivors, also at IoU == threshold."""
        pictures, share = case
        options = EVERYTHING | {"iou_threshold": float(share), "class_agnostic": agnostic}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(detection, "_MOST_PAIRS", most_pairs)
            found = interpret_detection_output(raw_output(pictures, dtype), **options)
        assert [rows(picture) for picture in found] == [exact_nms(p, share, agnostic=agnostic) for p in pictures]

    @given(seeds, st.sampled_from(DTYPES), st.sampled_from([0.0, 0.3, 0.45, 0.8]))
    def test_both_paths_agree_on_real_numbers(self, seed, dtype, threshold):
        generator = torch.Generator().manual_seed(seed)
        preds = torch.rand(2, 40, 5 + CLASSES, generator=generator)
        preds[..., 2:4] = 0.3 + 0.3 * preds[..., 2:4]
        found = []
        for most_pairs in (4_000_000, 0):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(detection, "_MOST_PAIRS", most_pairs)
                options = {"score_threshold": 0.2, "iou_threshold": threshold}
                found.append(interpret_detection_output(preds.to(dtype), **options))
        assert [rows(picture) for picture in found[0]] == [rows(picture) for picture in found[1]]

    def test_both_paths_are_taken(self, monkeypatch):
        """A test of the tests above: the patched limit really chooses the path."""
        taken = []
        together, alone = detection._suppress_together, detection.nms
        monkeypatch.setattr(detection, "_suppress_together", lambda *a: taken.append("together") or together(*a))
        monkeypatch.setattr(detection, "nms", lambda *a: taken.append("alone") or alone(*a))
        preds = raw_output([[(0, 0, 2, 2, 9, 0), (0, 0, 2, 2, 8, 1)]])
        interpret_detection_output(preds, box_format="xyxy")
        monkeypatch.setattr(detection, "_MOST_PAIRS", 0)
        interpret_detection_output(preds, **EVERYTHING)
        assert taken == ["together", "alone", "alone"]

    @given(seeds, st.sampled_from(["cxcywh", "xyxy", "xywh"]))
    def test_formats_equal_torchvision_box_convert(self, seed, box_format):
        generator = torch.Generator().manual_seed(seed)
        corners = 10 * torch.rand(2, 6, 4, dtype=torch.float64, generator=generator)
        corners[..., 2:] += corners[..., :2]
        given_boxes = box_convert(corners, "xyxy", box_format)
        scores = torch.linspace(0.9, 0.5, 6, dtype=torch.float64).expand(2, 6)[..., None]
        preds = torch.cat([given_boxes, scores, torch.ones_like(scores)], -1)
        options = {"box_format": box_format, "iou_threshold": 1.0, "score_threshold": 0.0}
        for expected, found in zip(corners, interpret_detection_output(preds, **options), strict=True):
            assert torch.allclose(found["boxes"], expected, atol=1e-12)

    @given(batches(), seeds)
    def test_permuted_pictures_permute_the_result(self, pictures, seed):
        order = torch.randperm(len(pictures), generator=torch.Generator().manual_seed(seed))
        preds = raw_output(pictures)
        found, permuted = (interpret_detection_output(p, **EVERYTHING) for p in (preds, preds[order]))
        assert [rows(picture) for picture in permuted] == [rows(found[i]) for i in order.tolist()]

    @given(seeds)
    def test_permuted_boxes_change_nothing(self, seed):
        generator = torch.Generator().manual_seed(seed)
        preds = torch.rand(2, 30, 5 + CLASSES, dtype=torch.float64, generator=generator)
        order = torch.randperm(30, generator=generator)
        found, permuted = (interpret_detection_output(p, score_threshold=0.1) for p in (preds, preds[:, order]))
        for a, b in zip(found, permuted, strict=True):
            assert all(torch.equal(a[name], b[name]) for name in ("boxes", "scores", "labels"))

    @given(batches(), st.integers(1, 5))
    def test_max_detections_keeps_the_best(self, pictures, most):
        preds = raw_output(pictures)
        found, few = (interpret_detection_output(preds, **EVERYTHING, max_detections=m) for m in (None, most))
        for a, b in zip(found, few, strict=True):
            assert all(torch.equal(b[name], a[name][:most]) for name in ("boxes", "scores", "labels"))

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("most_pairs", [4_000_000, 0])
    def test_keeps_dtype(self, dtype, most_pairs, monkeypatch):
        monkeypatch.setattr(detection, "_MOST_PAIRS", most_pairs)
        (found,) = interpret_detection_output(raw_output([[(0, 0, 2, 2, 16, 0), (3, 3, 2, 2, 12, 2)]], dtype))
        assert (found["boxes"].dtype, found["scores"].dtype, found["labels"].dtype) == (dtype, dtype, torch.int64)
        assert found["scores"].tolist() == [1.0, 0.75]

    def test_areas_beyond_half_precision(self):
        """600 × 600 = 360,000 is infinite in float16."""
        corners = [[0.0, 0, 600, 600, 1, 1], [0.0, 0, 600, 500, 0.75, 1], [0.0, 0, 300, 300, 0.5, 1]]
        (found,) = interpret_detection_output(torch.tensor([corners]).half(), box_format="xyxy")
        assert found["scores"].tolist() == [1.0, 0.5]

    def test_non_contiguous_preds(self):
        preds = torch.rand(3, 8, 20, generator=torch.Generator().manual_seed(0))
        for view in (preds.mT, preds.mT[:, ::2], preds.permute(2, 0, 1)):
            assert not view.is_contiguous()
            mine, copied = (interpret_detection_output(p, score_threshold=0.1) for p in (view, view.contiguous()))
            assert [rows(picture) for picture in mine] == [rows(picture) for picture in copied]

    def test_score_is_objectness_times_the_best_class_and_the_threshold_is_inclusive(self):
        preds = torch.tensor([[[5.0, 5, 2, 2, 0.5, 0.25, 0.5], [9.0, 9, 2, 2, 0.5, 0.125, 0.25]]])
        (found,) = interpret_detection_output(preds, score_threshold=0.125, class_names=["cat", "dog"])
        assert found["scores"].tolist() == [0.25, 0.125]
        assert (found["labels"].tolist(), found["class_names"]) == ([1, 1], ["dog", "dog"])
        (found,) = interpret_detection_output(preds, score_threshold=0.126)
        assert found["scores"].tolist() == [0.25]
        assert "class_names" not in found

    def test_pictures_without_a_detection(self):
        preds = raw_output([[(0, 0, 2, 2, 1, 0)], [(0, 0, 2, 2, 15, 0)]])
        empty, full = interpret_detection_output(preds, class_names=["a", "b", "c"])
        assert (empty["boxes"].shape, empty["scores"].shape, empty["labels"].shape) == ((0, 4), (0,), (0,))
        assert (empty["class_names"], full["class_names"]) == ([], ["a"])
        (nothing,) = interpret_detection_output(preds[:1])
        assert nothing["boxes"].shape == (0, 4)
        assert nothing["labels"].dtype == torch.int64

    @pytest.mark.parametrize(
        ("change", "options", "error", "words"),
        [
            (lambda p: p[0], {}, ValueError, "3 dimension"),
            (lambda p: p[..., :5], {}, ValueError, "C ≥ 1"),
            (lambda p: p[:, :0], {}, ValueError, "empty"),
            (lambda p: p * NAN, {}, ValueError, "NaN"),
            (lambda p: p.long(), {}, TypeError, "floating"),
            (lambda p: p.tolist(), {}, TypeError, "torch.Tensor"),
            (lambda p: p + 1, {}, ValueError, "pass logits=True"),
            (lambda p: p - 1, {}, ValueError, "pass logits=True"),
            (lambda p: p * torch.tensor([1, 1, -1, 1, 1, 1, 1, 1]), {}, ValueError, "negative size, but 2 do"),
            (lambda p: p, {"box_format": "xyxy"}, ValueError, "box_format='xyxy'"),
            (lambda p: p, {"box_format": "yolo"}, ValueError, "'cxcywh', 'xyxy', 'xywh'"),
            (lambda p: p, {"score_threshold": 1.1}, ValueError, r"score_threshold must lie in \[0, 1\]"),
            (lambda p: p, {"iou_threshold": -0.1}, ValueError, r"iou_threshold must lie in \[0, 1\]"),
            (lambda p: p, {"iou_threshold": NAN}, ValueError, "iou_threshold"),
            (lambda p: p, {"iou_threshold": "half"}, TypeError, "iou_threshold"),
            (lambda p: p, {"class_names": ["a"]}, ValueError, "3 classes, but has 1"),
            (lambda p: p, {"max_detections": 0}, ValueError, "max_detections"),
            (lambda p: p, {"max_detections": 2.0}, TypeError, "max_detections"),
        ],
    )
    def test_bad_input(self, change, options, error, words):
        preds = raw_output([[(5, 5, -3, -3, 9, 0), (7, 7, -3, -3, 8, 1)]])  # as centre and size: 2 × 2 and 4 × 4
        with pytest.raises(error, match=words):
            interpret_detection_output(change(preds), **options)

    def test_e9_nms_is_per_class(self):
        preds = raw_output([[(0, 0, 4, 4, 15, 0), (0, 0, 4, 4, 12, 1)]])
        (together,) = interpret_detection_output(preds, box_format="xyxy", class_agnostic=True)
        assert together["labels"].tolist() == [0]  # the error, here asked for
        (found,) = interpret_detection_output(preds, box_format="xyxy")
        assert found["labels"].tolist() == [0, 1]

    def test_e10_centre_boxes_are_not_top_left_boxes(self):
        boxes = torch.tensor([[10.0, 10, 2, 8], [10.0, 15, 4, 4]])
        wrong, right = (box_convert(boxes, name, "xyxy") for name in ("xywh", "cxcywh"))
        assert box_iou(wrong[:1], wrong[1:]).item() == pytest.approx(0.231, abs=1e-3)  # the error
        assert box_iou(right[:1], right[1:]).item() == pytest.approx(0.067, abs=1e-3)
        preds = torch.cat([boxes, torch.tensor([[0.9, 1.0], [0.8, 1.0]])], 1)[None]
        counts = [
            len(interpret_detection_output(preds, iou_threshold=0.1, box_format=name)[0]["boxes"])
            for name in ("xywh", "cxcywh")
        ]
        assert counts == [1, 2]
        assert torch.equal(interpret_detection_output(preds, iou_threshold=0.1)[0]["boxes"], right)

    @pytest.mark.parametrize("most_pairs", [4_000_000, 0])
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
    @pytest.mark.parametrize("tenths", range(1, 10))
    def test_e11_iou_equal_to_the_threshold_survives(self, tenths, dtype, most_pairs, monkeypatch):
        """float32's 0.6 is above 0.6, so comparing it with a double drops a box that only touches the threshold."""
        monkeypatch.setattr(detection, "_MOST_PAIRS", most_pairs)
        preds = raw_output([[(0, 0, 10, 1, 15, 0), (0, 0, tenths, 1, 12, 0)]], dtype)
        iou = box_iou(preds[0, :1, :4], preds[0, 1:, :4]).item()
        assert not iou < dtype_value(tenths / 10, dtype)  # the error: kept only below
        (found,) = interpret_detection_output(preds, box_format="xyxy", iou_threshold=tenths / 10)
        assert len(found["boxes"]) == 2
        (found,) = interpret_detection_output(preds, box_format="xyxy", iou_threshold=tenths / 10 - 1e-3)
        assert len(found["boxes"]) == 1

    def test_e12_boxes_without_area_do_not_delete_each_other(self):
        preds = torch.tensor([[[0.0, 0, 0, 0, 0.9, 1], [500.0, 500, 0, 0, 0.8, 1]]])
        corners = box_convert(preds[0, :, :4], "cxcywh", "xyxy")
        iou = torch.zeros(()) / (corners[0, 2] - corners[0, 0])
        assert not iou <= 0.45  # the error: NaN passes no such test, so the second box goes
        assert len(interpret_detection_output(preds)[0]["boxes"]) == 2

    def test_e13_logits_go_through_a_sigmoid(self):
        preds = torch.tensor([[[5.0, 5, 2, 2, -2, -3]]])
        assert (preds[0, 0, 4] * preds[0, 0, 5]).item() == 6.0  # the error: a "confidence" of 6
        (found,) = interpret_detection_output(preds, logits=True, score_threshold=0)
        assert found["scores"].item() == pytest.approx(0.0057, abs=1e-4)
        with pytest.raises(ValueError, match="pass logits=True"):
            interpret_detection_output(preds)


def by_the_book(found, truth, share: Fraction) -> tuple[list, list, dict]:
    """Precision, recall and COCO's average precision in loops; boxes as in `raw_output`, all scores different."""
    candidates = sorted(
        ((box, picture) for picture, boxes in enumerate(found) for box in boxes), key=lambda entry: -entry[0][4]
    )
    taken, hits = set(), []
    for box, picture in candidates:
        rivals = [
            (overlap(box, other), -j)
            for j, other in enumerate(truth[picture])
            if other[5] == box[5] and (picture, j) not in taken and overlap(box, other) >= share
        ]
        hits.append(bool(rivals))
        if rivals:
            taken.add((picture, -max(rivals)[1]))

    def curve(hits, objects):
        right = list(itertools.accumulate(map(int, hits)))
        return [Fraction(r, i + 1) for i, r in enumerate(right)], [Fraction(r, objects) for r in right]

    average = {}
    for c in range(CLASSES):
        objects = sum(box[5] == c for boxes in truth for box in boxes)
        if objects:
            of_class = [hit for hit, (box, _) in zip(hits, candidates, strict=True) if box[5] == c]
            points = list(zip(*curve(of_class, objects), strict=True))
            best = [max((p for p, r in points if r >= Fraction(i, 100)), default=0) for i in range(101)]
            average[c] = float(sum(best) / 101)
    return *curve(hits, sum(map(len, truth))), average


@st.composite
def evaluations(draw) -> tuple:
    """Pictures with detections, all of different scores, and true boxes; at least one true box in all."""
    coordinate, size, label = st.integers(0, 3), st.integers(1, 4), st.integers(0, CLASSES - 1)
    box = st.tuples(coordinate, coordinate, size, size, st.just(0), label)
    pictures = draw(st.lists(st.tuples(st.lists(box, max_size=6), st.lists(box, max_size=5)), min_size=1, max_size=3))
    scores = iter(draw(st.permutations(range(20))))
    found = [[(*b[:4], next(scores), b[5]) for b in boxes] for boxes, _ in pictures]
    truth = [boxes for _, boxes in pictures]
    truth[0] = [*truth[0], draw(box)]
    return found, truth


def as_arguments(found, truth) -> tuple[list, list, list]:
    def part(boxes):
        table = torch.tensor(boxes, dtype=torch.float64).reshape(-1, 6)
        return {
            "boxes": torch.cat([table[:, :2], table[:, :2] + table[:, 2:4]], 1),
            "scores": table[:, 4] / 20,
            "labels": table[:, 5].long(),
        }

    true = [part(boxes) for boxes in truth]
    return [part(boxes) for boxes in found], [t["boxes"] for t in true], [t["labels"] for t in true]


class TestEvaluateDetections:
    box = (0, 0, 2, 2)

    @given(evaluations(), st.sampled_from([Fraction(1, 2), Fraction(1, 3), Fraction(3, 4)]))
    def test_equals_the_definition_in_loops(self, case, share):
        result = evaluate_detections(*as_arguments(*case), num_classes=CLASSES, iou_threshold=float(share))
        precision, recall, average = by_the_book(*case, share)
        assert result.precision.tolist() == pytest.approx([float(p) for p in precision])
        assert result.recall.tolist() == pytest.approx([float(r) for r in recall])
        assert result.scores.tolist() == sorted(result.scores.tolist(), reverse=True)
        expected = [average.get(c, NAN) for c in range(CLASSES)]
        assert result.average_precision.tolist() == pytest.approx(expected, nan_ok=True)
        assert result.mean_average_precision == pytest.approx(np.mean(list(average.values())))

    def test_a_second_detection_of_the_same_object_is_wrong(self):
        found = [[(*self.box, 9, 0), (*self.box, 8, 0)]]
        result = evaluate_detections(*as_arguments(found, [[(*self.box, 0, 0)]]), num_classes=1)
        assert (result.precision.tolist(), result.recall.tolist()) == ([1.0, 0.5], [1.0, 1.0])
        assert (len(result), result[0]["precision"], result.mean_average_precision) == (2, 1.0, 1.0)

    def test_the_picture_and_the_class_count(self):
        truth = [[(*self.box, 0, 0)], []]
        for found in ([[], [(*self.box, 9, 0)]], [[(*self.box, 9, 1)], []], [[], []]):
            result = evaluate_detections(*as_arguments(found, truth), num_classes=2)
            assert result.average_precision.tolist() == pytest.approx([0.0, NAN], nan_ok=True)

    @pytest.mark.parametrize(
        ("change", "options", "words"),
        [
            (lambda f, b, n: (f, b[:0], n), {}, "1, 0 and 1"),
            (lambda f, b, n: (f, [b[0][:0]], [n[0][:0]]), {}, "no true object"),
            (lambda f, b, n: (f, b, n), {"iou_threshold": 1.5}, r"\[0, 1\]"),
            (lambda f, b, n: (f, b, n), {"num_classes": 0}, "num_classes"),
            (lambda f, b, n: (f, b, n), {"num_classes": 1}, "from 0 to 0"),
            (lambda f, b, n: ([f[0] | {"labels": f[0]["labels"] + 7}], b, n), {}, "labels must hold class indices"),
            (lambda f, b, n: ([], [], []), {}, "no true object"),
            (lambda f, b, n: (f, b, [n[0].repeat(2)]), {}, "true_labels"),
        ],
    )
    def test_bad_input(self, change, options, words):
        arguments = as_arguments([[(*self.box, 9, 0)]], [[(*self.box, 0, 1)]])
        with pytest.raises(ValueError, match=words):
            evaluate_detections(*change(*arguments), **{"num_classes": 2} | options)


def dtype_value(value: float, dtype: torch.dtype) -> float:
    return torch.tensor(value, dtype=dtype).item()


# --- text ------------------------------------------------------------------------------------------------------------


class Refed(nn.Module):
    """A language model without `advance`: it gets the whole prefix in every step. It keeps the shapes it was given."""

    def __init__(self, inner: nn.Module, *, as_object: bool = False) -> None:
        super().__init__()
        self.inner, self.as_object, self.shapes = inner, as_object, []

    def forward(self, token_ids):
        self.shapes.append(tuple(token_ids.shape))
        logits = self.inner(token_ids)
        return SimpleNamespace(logits=logits) if self.as_object else logits


class Rule(nn.Module):
    """A language model whose logits are a function of the token ids (N, T) → (N, T, V)."""

    def __init__(self, rule) -> None:
        super().__init__()
        self.rule = rule

    def forward(self, token_ids):
        return self.rule(token_ids)


def language_model(vocab_size: int, seed: int = 0, sharpness: float = 4.0) -> SimpleLanguageModel:
    """Random weights in float64, scaled so that the next tokens differ clearly in probability."""
    torch.manual_seed(seed)
    model = SimpleLanguageModel(vocab_size, 6).double()
    for parameter in model.parameters():
        parameter.data.mul_(sharpness)
    return model.eval()


@torch.no_grad()
def all_continuations(model, prompt: list[int], length: int, penalty: float, eos: int | None) -> list[tuple]:
    """Every continuation there is, as (score, tokens), best first: brute force."""
    vocab_size = model.output.out_features
    found = []
    for t in range(1, length + 1):
        for tokens in itertools.product(range(vocab_size), repeat=t):
            if eos in tokens[:-1] or (t < length and tokens[-1] != eos):
                continue  # it would have ended before, or has not ended yet
            logits = model(torch.tensor([[*prompt, *tokens]]))[0, len(prompt) - 1 : -1]
            total = logits.log_softmax(-1).gather(1, torch.tensor(tokens)[:, None]).sum().item()
            found.append((total / t**penalty, tokens))
    return sorted(found, reverse=True)


@torch.no_grad()
def plain_beam_search(model, prompt: list[int], k: int, length: int, penalty: float, eos: int | None) -> list[tuple]:
    """The contract's beam search in lists, one prefix at a time, and without stopping early."""
    alive, pool = [(0.0, ())], []
    for _ in range(length):
        extensions = []
        for total, tokens in alive:
            step = model(torch.tensor([[*prompt, *tokens]]))[0, -1].log_softmax(-1).tolist()
            extensions += [(total + value, (*tokens, token)) for token, value in enumerate(step)]
        extensions.sort(reverse=True)
        pool += [found for found in extensions[:k] if found[1][-1] == eos]
        if k == 1 and pool:
            alive = []
            break
        alive = [found for found in extensions if found[1][-1] != eos][:k]
    return sorted(((total / len(tokens) ** penalty, tokens) for total, tokens in pool + alive), reverse=True)[:k]


@torch.no_grad()
def plain_greedy(model, prompt: list[int], length: int, eos: int | None) -> tuple[float, list[int]]:
    tokens, total = [], 0.0
    for _ in range(length):
        step = model(torch.tensor([[*prompt, *tokens]]))[0, -1].log_softmax(-1)
        tokens.append(step.argmax().item())
        total += step.max().item()
        if tokens[-1] == eos:
            break
    return total, tokens


def assert_same(found, expected) -> None:
    """Hypotheses against (score, tokens), best first."""
    assert [tuple(h.token_ids.tolist()) for h in found] == [tuple(tokens) for _, tokens in expected]
    assert [h.score for h in found] == pytest.approx([score for score, _ in expected], abs=1e-10)


class TestGreedyDecode:
    @given(seeds, st.integers(1, 4), st.integers(1, 6), st.integers(1, 5), st.booleans())
    def test_best_token_at_each_position_until_the_end(self, seed, n, time, vocab_size, ends):
        logits = random_tensor(n, time, vocab_size, seed=seed)
        eos = 0 if ends else None
        p = scipy.special.log_softmax(logits.numpy(), axis=-1)
        for i, decoded in enumerate(greedy_decode(logits, eos_token_id=eos)):
            best = p[i].argmax(-1).tolist()
            best = best[: best.index(0) + 1] if ends and 0 in best else best
            assert decoded.token_ids.tolist() == best
            assert decoded.token_ids.dtype == torch.int64
            assert decoded.score == pytest.approx(sum(p[i, t, v] for t, v in enumerate(best)), abs=1e-10)
            assert (decoded.tokens, decoded.text) == (None, None)

    def test_score_is_torchmetrics_perplexity(self):
        logits = random_tensor(1, 9, 5)
        (decoded,) = greedy_decode(logits)
        perplexity = tm.text.perplexity(logits, decoded.token_ids[None])
        assert math.exp(-decoded.score / 9) == pytest.approx(perplexity.item(), rel=1e-6)

    @pytest.mark.parametrize("vocab", ["ab", ["a", "b"], {0: "a", 1: "b"}])
    def test_vocab_is_a_sequence_or_a_mapping(self, vocab):
        logits = torch.tensor([[[0.0, 5.0], [5.0, 0.0], [0.0, 5.0]]])
        (decoded,) = greedy_decode(logits, vocab=vocab, eos_token_id=0)
        assert (decoded.tokens, decoded.text) == (["b", "a"], "ba")

    @given(seeds)
    def test_permuted_samples_permute_the_result(self, seed):
        logits = random_tensor(5, 4, 3, seed=seed)
        order = torch.randperm(5, generator=torch.Generator().manual_seed(seed))
        decoded, permuted = greedy_decode(logits, eos_token_id=1), greedy_decode(logits[order], eos_token_id=1)
        for i, j in enumerate(order.tolist()):
            assert torch.equal(permuted[i].token_ids, decoded[j].token_ids)
            assert permuted[i].score == decoded[j].score

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_every_dtype_stays_finite(self, dtype):
        (decoded,) = greedy_decode(torch.tensor([[[60000.0, -60000.0], [0.0, 0.0]]], dtype=dtype))
        assert decoded.token_ids.tolist() == [0, 0]
        assert decoded.score == pytest.approx(-math.log(2), abs=5e-3)

    def test_non_contiguous_logits(self):
        logits = random_tensor(4, 3, 5)
        decoded, copied = greedy_decode(logits.mT), greedy_decode(logits.mT.contiguous())
        assert [d.token_ids.tolist() for d in decoded] == [d.token_ids.tolist() for d in copied]

    @pytest.mark.parametrize(
        ("logits", "options", "error", "words"),
        [
            (torch.zeros(2, 3), {}, ValueError, "3 dimension"),
            (torch.zeros(0, 2, 3), {}, ValueError, "empty"),
            (torch.zeros(2, 0, 3), {}, ValueError, "empty"),
            (torch.full((1, 1, 2), NAN), {}, ValueError, "2 NaN"),
            (torch.zeros(1, 2, 3).long(), {}, TypeError, "floating"),
            ([[[0.0]]], {}, TypeError, "torch.Tensor"),
            (torch.zeros(1, 2, 3), {"eos_token_id": 3}, ValueError, "0 to 2, but is 3"),
            (torch.zeros(1, 2, 3), {"eos_token_id": -1}, ValueError, "eos_token_id"),
            (torch.zeros(1, 2, 3), {"eos_token_id": 1.0}, TypeError, "eos_token_id"),
            (torch.eye(3)[None], {"vocab": "ab"}, ValueError, "vocab has no string"),
            (torch.eye(3)[None], {"vocab": {0: "a", 1: "b"}}, ValueError, "token 2; it has 2 entries"),
        ],
    )
    def test_bad_input(self, logits, options, error, words):
        with pytest.raises(error, match=words):
            greedy_decode(logits, **options)

    def test_e14_the_layout_is_said_and_never_guessed(self):
        logits = 9 * F.one_hot(torch.tensor([[0, 1], [2, 3]]), 4).double()  # batch == time: nothing to guess from
        first, second = ([d.token_ids.tolist() for d in greedy_decode(logits, batch_first=b)] for b in (True, False))
        assert first == [[0, 1], [2, 3]]
        assert second == [[0, 2], [1, 3]]
        longer = random_tensor(5, 2, 4)
        decoded = greedy_decode(longer, batch_first=False)
        assert [d.token_ids.tolist() for d in decoded] == longer.argmax(-1).T.tolist()


class TestBeamSearch:
    @pytest.mark.parametrize("cached", [True, False])
    @pytest.mark.parametrize("penalty", [0.0, 1.0, 2.0, -1.0])
    @pytest.mark.parametrize("eos", [None, 0, 2])
    @pytest.mark.parametrize("more", [0, 5])
    def test_enough_beams_equal_exhaustive_search(self, eos, penalty, cached, more):
        """V ** max_new_tokens beams, and a few too many, for several prompts at once."""
        inner = language_model(3, seed=3)
        prompts = [[0, 1], [2, 2], [1, 0]]
        found = beam_search_decode(
            inner if cached else Refed(inner),
            torch.tensor(prompts),
            num_beams=27 + more,
            max_new_tokens=3,
            length_penalty=penalty,
            eos_token_id=eos,
        )
        for prompt, hypotheses in zip(prompts, found, strict=True):
            expected = all_continuations(inner, prompt, 3, penalty, eos)
            assert len(expected) == (27 if eos is None else 1 + 2 + 4 * 3)
            assert_same(hypotheses, expected)

    @given(
        seed=seeds,
        vocab_size=st.integers(1, 5),
        length=st.integers(1, 4),
        k=st.integers(1, 7),
        penalty=st.sampled_from([0.0, 0.5, 1.0, 2.0, -1.0]),
        ends=st.booleans(),
        cached=st.booleans(),
    )
    def test_equals_a_plain_search_that_never_stops_early(self, seed, vocab_size, length, k, penalty, ends, cached):
        inner = language_model(vocab_size, seed=seed, sharpness=2 + seed % 3)
        generator = torch.Generator().manual_seed(seed)
        prompts = torch.randint(vocab_size, (2, 3), generator=generator)
        eos = seed % vocab_size if ends else None
        if ends:  # ends that come often
            inner.output.bias.data[eos] += seed % 4
        found = beam_search_decode(
            inner if cached else Refed(inner),
            prompts,
            num_beams=k,
            max_new_tokens=length,
            length_penalty=penalty,
            eos_token_id=eos,
        )
        for prompt, hypotheses in zip(prompts.tolist(), found, strict=True):
            assert_same(hypotheses, plain_beam_search(inner, prompt, k, length, penalty, eos))

    @given(seeds, st.integers(1, 6), st.integers(1, 6), st.sampled_from([0.0, 1.0, 2.0, -1.0]), st.booleans())
    def test_one_beam_is_greedy_and_stops_at_its_first_end(self, seed, vocab_size, length, penalty, ends):
        model = language_model(vocab_size, seed=seed)
        prompts = torch.arange(6).reshape(3, 2) % vocab_size
        eos = 0 if ends else None
        options = {"num_beams": 1, "max_new_tokens": length, "length_penalty": penalty, "eos_token_id": eos}
        for prompt, hypotheses in zip(prompts.tolist(), beam_search_decode(model, prompts, **options), strict=True):
            total, tokens = plain_greedy(model, prompt, length, eos)
            assert_same(hypotheses, [(total / len(tokens) ** penalty, tokens)])

    @given(seeds, st.booleans())
    def test_exhaustive_beams_are_never_worse_than_greedy(self, seed, ends):
        model, prompt = language_model(3, seed=seed), torch.tensor([1, 2])
        options = {"max_new_tokens": 3, "length_penalty": 0.0, "eos_token_id": 0 if ends else None}
        (greedy,), (beams,) = (beam_search_decode(model, prompt, num_beams=k, **options) for k in (1, 27))
        assert beams[0].score >= greedy[0].score - 1e-12

    def test_beams_can_beat_greedy(self):
        """The best first token leads into a flat continuation, the second best into a sure one."""
        table = torch.tensor([[0.0, 0.6, 0.4], [0.34, 0.33, 0.33], [0.01, 0.01, 0.98]]).log()
        model, prompt = Rule(lambda ids: table[ids]), torch.tensor([0])
        (greedy,), (beams,) = (beam_search_decode(model, prompt, num_beams=k, max_new_tokens=2) for k in (1, 2))
        assert greedy[0].token_ids.tolist() == [1, 0]
        assert beams[0].token_ids.tolist() == [2, 2]
        assert beams[0].score == pytest.approx(math.log(0.4 * 0.98) / 2, abs=1e-6)

    @given(seeds, st.booleans())
    def test_permuted_prompts_permute_the_result(self, seed, cached):
        inner = language_model(4, seed=seed)
        prompts = torch.randint(4, (5, 2), generator=torch.Generator().manual_seed(seed))
        order = torch.randperm(5, generator=torch.Generator().manual_seed(seed))
        model = inner if cached else Refed(inner)
        options = {"num_beams": 3, "max_new_tokens": 3, "eos_token_id": 1}
        found, permuted = (beam_search_decode(model, p, **options) for p in (prompts, prompts[order]))
        for i, j in enumerate(order.tolist()):
            assert_same(permuted[i], [(h.score, h.token_ids.tolist()) for h in found[j]])
        (alone,) = beam_search_decode(model, prompts[0], **options)
        assert_same(alone, [(h.score, h.token_ids.tolist()) for h in found[0]])

    def test_all_beams_of_all_prompts_in_one_call_and_each_token_read_once(self):
        inner, prompts = language_model(7), torch.zeros(4, 3, dtype=torch.int64)
        refed = Refed(inner)
        beam_search_decode(refed, prompts, num_beams=5, max_new_tokens=4)
        assert refed.shapes == [(4, 3), (20, 4), (20, 5), (20, 6)]
        read, advance = [], inner.advance
        inner.advance = lambda ids, state=None: read.append(tuple(ids.shape)) or advance(ids, state)
        beam_search_decode(inner, prompts, num_beams=5, max_new_tokens=4)
        assert read == [(4, 3), (20, 1), (20, 1), (20, 1)]

    def test_stops_when_no_living_prefix_can_win(self):
        sure = Refed(Rule(lambda ids: torch.tensor([0.0, -20.0, -21.0]).expand(*ids.shape, 3)))
        (found,) = beam_search_decode(sure, torch.tensor([1]), num_beams=1, max_new_tokens=50, eos_token_id=0)
        assert len(sure.shapes) == 1
        assert found[0].token_ids.tolist() == [0]
        sure.shapes.clear()
        beam_search_decode(sure, torch.tensor([1]), num_beams=2, length_penalty=0.0, eos_token_id=0)
        assert len(sure.shapes) == 2

    def test_goes_on_while_a_long_continuation_can_still_win(self):
        """Both beams want to end in step 2; what goes on looks bad there, but is sure from then on."""
        table = torch.tensor([[1e-9, 0.51, 0.49], [0.9, 0.06, 0.04], *[[1e-9, 1 - 2e-9, 1e-9]] * 20]).double().log()
        model = Rule(lambda ids: table[: ids.shape[1]].expand(len(ids), -1, -1))
        options = {"num_beams": 2, "max_new_tokens": 20, "eos_token_id": 0}
        (found,) = beam_search_decode(model, torch.tensor([1]), **options)
        assert found[0].token_ids.tolist() == [1] * 20
        assert found[0].score == pytest.approx(math.log(0.51 * 0.06) / 20, abs=1e-6)
        (sums,) = beam_search_decode(model, torch.tensor([1]), length_penalty=0.0, **options)
        assert [h.token_ids.tolist() for h in sums] == [[1, 0], [2, 0]]

    def test_num_return_sequences_and_text(self):
        model = language_model(3)
        options = {"num_beams": 6, "max_new_tokens": 2, "vocab": {0: "x", 1: "yy", 2: "z"}}
        (every,), (two,) = (
            beam_search_decode(model, torch.tensor([1]), **options, num_return_sequences=n) for n in (None, 2)
        )
        assert (len(every), len(two)) == (6, 2)
        assert_same(two, [(h.score, h.token_ids.tolist()) for h in every[:2]])
        for hypothesis in every:
            assert hypothesis.tokens == [options["vocab"][i] for i in hypothesis.token_ids.tolist()]
            assert hypothesis.text == "".join(hypothesis.tokens)
        assert beam_search_decode(model, torch.tensor([1]), max_new_tokens=1)[0][0].text is None

    def test_impossible_tokens_are_never_returned(self):
        allowed = Rule(lambda ids: torch.tensor([-INF, 1.0, 0.0]).expand(*ids.shape, 3))
        (found,) = beam_search_decode(allowed, torch.tensor([1]), num_beams=9, max_new_tokens=2)
        assert sorted(h.token_ids.tolist() for h in found) == [[1, 1], [1, 2], [2, 1], [2, 2]]
        assert all(math.isfinite(h.score) for h in found)

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_scores_follow_the_models_dtype(self, dtype):
        """float64 to the last digit; half precision adds up in float32."""
        logits = torch.tensor([0.1, 0.7, -0.4], dtype=dtype)
        model = Rule(lambda ids: logits.expand(*ids.shape, 3))
        (found,) = beam_search_decode(model, torch.tensor([0]), num_beams=1, max_new_tokens=50, length_penalty=0.0)
        expected = 50 * logits.double().log_softmax(0).max().item()
        assert found[0].score == pytest.approx(expected, rel=1e-13 if dtype == torch.float64 else 1e-5)

    @pytest.mark.parametrize("penalty", [-10.0, 10.0])
    def test_the_strongest_penalties_keep_every_hypothesis(self, penalty):
        options = {"num_beams": 2, "max_new_tokens": 200, "length_penalty": penalty}
        (found,) = beam_search_decode(language_model(4), torch.tensor([1]), **options)
        assert len(found) == 2
        assert all(math.isfinite(hypothesis.score) for hypothesis in found)

    @pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
    def test_prompts_of_any_integer_dtype_and_stride(self, dtype):
        model, prompts = language_model(4), torch.tensor([[1, 2, 3], [0, 1, 2]])
        options = {"num_beams": 2, "max_new_tokens": 2}
        view = prompts.T.contiguous().T.to(dtype)
        expected = beam_search_decode(model, prompts, **options)
        for mine, other in zip(beam_search_decode(model, view, **options), expected, strict=True):
            assert_same(mine, [(h.score, h.token_ids.tolist()) for h in other])
            assert mine[0].token_ids.dtype == torch.int64

    @pytest.mark.parametrize(
        ("change", "error", "words"),
        [
            ({"prompt": torch.zeros(0, dtype=torch.int64)}, ValueError, "prompt is empty"),
            ({"prompt": torch.zeros(2, 0, dtype=torch.int64)}, ValueError, "prompt is empty"),
            ({"prompt": torch.zeros(2)}, TypeError, "prompt must have an integer dtype"),
            ({"prompt": torch.zeros(1, 1, 1).long()}, ValueError, "1 or 2 dimension"),
            ({"prompt": [1, 2]}, TypeError, "torch.Tensor"),
            ({"prompt": torch.tensor([4])}, ValueError, "prompt"),
            ({"prompt": torch.tensor([-1])}, ValueError, "prompt"),
            ({"num_beams": 0}, ValueError, "num_beams"),
            ({"num_beams": 2.0}, TypeError, "num_beams"),
            ({"max_new_tokens": -1}, ValueError, "max_new_tokens"),
            ({"length_penalty": NAN}, ValueError, "length_penalty"),
            ({"length_penalty": 11.0}, ValueError, "length_penalty"),
            ({"length_penalty": 1000.0}, ValueError, "length_penalty"),
            ({"length_penalty": -1000.0}, ValueError, "length_penalty"),
            ({"eos_token_id": 4}, ValueError, "0 to 3, but is 4"),
            ({"num_beams": 2, "num_return_sequences": 3}, ValueError, "at most num_beams, 2"),
            ({"num_return_sequences": 0}, ValueError, "num_return_sequences"),
            ({"vocab": "a", "num_beams": 9, "max_new_tokens": 1}, ValueError, "vocab has no string"),
            ({"model": lambda ids: ids}, TypeError, "torch.nn.Module"),
            ({"model": Rule(lambda ids: torch.zeros(len(ids), 4))}, ValueError, r"logits \(N, T, V\)"),
            ({"model": Rule(lambda ids: torch.zeros(len(ids), 9, 4))}, ValueError, r"logits \(N, T, V\)"),
            ({"model": Rule(lambda ids: torch.full((*ids.shape, 4), NAN))}, ValueError, "NaN"),
            ({"model": Rule(lambda ids: torch.tensor([0.0, INF]).expand(*ids.shape, 2))}, ValueError, "logits"),
            ({"model": Rule(lambda ids: torch.full((*ids.shape, 4), -INF))}, ValueError, "logits"),
        ],
    )
    def test_bad_input(self, change, error, words):
        arguments = {"model": language_model(4), "prompt": torch.tensor([1]), "max_new_tokens": 3} | change
        with pytest.raises(error, match=words):
            beam_search_decode(arguments.pop("model"), arguments.pop("prompt"), **arguments)

    def test_the_logits_of_advance_are_checked_too(self):
        model = language_model(4)
        model.advance = lambda ids, state=None: (torch.zeros(*ids.shape, 4), ())  # (N, T, V), not (N, V)
        with pytest.raises(ValueError, match=r"logits \(N, V\)"):
            beam_search_decode(model, torch.tensor([1, 2]))

    def test_e15_generation_feeds_tokens_back_and_has_a_score(self):
        successor = Rule(lambda ids: 9.0 * F.one_hot((ids + 1) % 6, 6))
        prompt = torch.tensor([[0]])
        assert [greedy_decode(successor(prompt))[0].token_ids.tolist() for _ in range(3)] == [[1]] * 3  # the error
        (found,) = beam_search_decode(successor, prompt, num_beams=1, max_new_tokens=3)
        assert found[0].token_ids.tolist() == [1, 2, 3]
        step = math.log(math.exp(9) / (math.exp(9) + 5))
        assert found[0].score == pytest.approx(step, abs=1e-6)
        assert greedy_decode(successor(prompt))[0].score == pytest.approx(step, abs=1e-6)

    @pytest.mark.parametrize("num_beams", [1, 3])
    def test_e16_every_step_sees_the_whole_prompt(self, num_beams):
        """The next token is the number of tokens read so far."""
        counting = Rule(lambda ids: 20.0 * F.one_hot(torch.arange(1, ids.shape[1] + 1), 8).expand(len(ids), -1, -1))
        context, wrong = torch.tensor([[0]]), []
        for _ in range(5):
            wrong.append(counting(context)[0, -1].argmax().item())
            context = torch.tensor([wrong])  # the error: only the new tokens go on
        assert wrong == [1, 1, 2, 3, 4]
        (found,) = beam_search_decode(counting, torch.tensor([[0]]), num_beams=num_beams, max_new_tokens=5)
        assert found[0].token_ids.tolist() == [1, 2, 3, 4, 5]
        (found,) = beam_search_decode(counting, torch.tensor([0, 0, 0]), num_beams=num_beams, max_new_tokens=2)
        assert found[0].token_ids.tolist() == [3, 4]

    def test_e17_more_beams_than_words(self):
        with pytest.raises(RuntimeError, match="out of range"):
            torch.zeros(3).topk(8)  # the error
        model = language_model(3)
        (found,) = beam_search_decode(model, torch.tensor([1]), num_beams=8, max_new_tokens=1)
        assert_same(found, all_continuations(model, [1], 1, 1.0, None))
        assert len(found) == 3

    def test_e18_length_is_normalised(self):
        """Token 0 ends: with p = 0.3 at once, with 0.07 later."""
        probabilities = torch.tensor([[0.3, 0.7], *[[0.07, 0.93]] * 20], dtype=torch.float64)
        model = Rule(lambda ids: probabilities[: ids.shape[1]].log().expand(len(ids), -1, -1))
        options = {"num_beams": 2, "max_new_tokens": 15, "eos_token_id": 0}
        (unnormalised,) = beam_search_decode(model, torch.tensor([1]), length_penalty=0.0, **options)
        assert unnormalised[0].token_ids.tolist() == [0]  # the error: the empty answer wins
        assert unnormalised[0].score == pytest.approx(-1.204, abs=1e-3)
        (found,) = beam_search_decode(model, torch.tensor([1]), **options)
        assert found[0].token_ids.tolist() == [1] * 15
        assert found[0].score * 15 == pytest.approx(-1.373, abs=1e-3)

    def test_e19_objects_eval_mode_and_a_limit_of_zero(self):
        inner, prompt = language_model(4), torch.tensor([[1, 2]])
        options = {"num_beams": 3, "max_new_tokens": 3}
        (expected,) = beam_search_decode(inner, prompt, **options)
        noisy = Refed(nn.Sequential(inner, nn.Dropout(0.9)), as_object=True).train()
        inner.eval()  # mixed modes, on purpose
        (found,) = beam_search_decode(noisy, prompt, **options)
        assert_same(found, [(h.score, h.token_ids.tolist()) for h in expected])
        assert [m.training for m in (noisy, noisy.inner[1], inner, inner.lstm)] == [True, True, False, False]
        for several in ((1, 2), {"a": 1}):
            with pytest.raises(TypeError, match="tensor .logits, but returned a (tuple|dict)"):
                beam_search_decode(Rule(lambda ids, several=several: several), prompt)
        for found in beam_search_decode(inner, prompt.expand(2, -1), max_new_tokens=0, vocab="abcd"):
            assert [(h.token_ids.tolist(), h.score, h.tokens, h.text) for h in found] == [([], 0.0, [], "")]
            assert found[0].token_ids.dtype == torch.int64


class TestSimpleLanguageModel:
    def test_is_embedding_lstm_and_linear(self):
        model, ids = language_model(5), torch.tensor([[1, 2, 3], [4, 0, 1]])
        hidden, _ = model.lstm(F.embedding(ids, model.embedding.weight))
        assert torch.equal(model(ids), F.linear(hidden, model.output.weight, model.output.bias))
        assert model(ids).shape == (2, 3, 5)

    def test_advance_continues_where_it_stopped(self):
        model, ids = language_model(5), torch.tensor([[1, 2, 3, 4], [4, 0, 1, 1]])
        _, state = model.advance(ids[:, :2])
        logits, _ = model.advance(ids[:, 2:], state)
        assert torch.allclose(logits, model(ids)[:, -1])

    @pytest.mark.parametrize(
        ("sizes", "error", "words"),
        [((0, 4), ValueError, "vocab_size"), ((4, 0), ValueError, "hidden_size"), ((4.0, 4), TypeError, "vocab_size")],
    )
    def test_bad_sizes(self, sizes, error, words):
        with pytest.raises(error, match=words):
            SimpleLanguageModel(*sizes)


# --- what all of them keep -------------------------------------------------------------------------------------------

RAW = raw_output([[(0, 0, 4, 4, 15, 0), (1, 1, 4, 4, 12, 0), (1, 1, 4, 4, 11, 2)]])
MODEL = language_model(4)
VALUES, OTHERS, PROMPTS = random_tensor(3, 4), random_tensor(3, 4, seed=1), torch.tensor([[1], [2]])
EVALUATED = as_arguments([[(0, 0, 2, 2, 9, 0)], []], [[(0, 0, 2, 2, 0, 0)], [(0, 0, 2, 2, 0, 1)]])
READERS = {
    "multiclass": lambda: interpret_classification_output(VALUES, top_k=2),
    "binary": lambda: interpret_classification_output(VALUES[:, 0], task="binary", top_k=2),
    "multilabel": lambda: interpret_classification_output(VALUES, task="multilabel"),
    "regression": lambda: interpret_regression_output(VALUES, OTHERS),
    "detection": lambda: interpret_detection_output(RAW, box_format="xyxy"),
    "evaluation": lambda: evaluate_detections(*EVALUATED, num_classes=CLASSES),
    "greedy": lambda: greedy_decode(VALUES[None], eos_token_id=1, vocab="abcd"),
    "greedy without an end": lambda: greedy_decode(VALUES[None], batch_first=False),
    "beams": lambda: beam_search_decode(MODEL, PROMPTS, num_beams=6, max_new_tokens=3, eos_token_id=0),
    "re-fed beams": lambda: beam_search_decode(Refed(MODEL), PROMPTS, num_beams=6, max_new_tokens=3, eos_token_id=0),
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("most_pairs", [4_000_000, 0])
def test_e19_new_tensors_are_made_on_the_inputs_device(name, most_pairs, monkeypatch):
    """A tensor made without `device=` would land on the default device, here one that holds no values."""
    monkeypatch.setattr(detection, "_MOST_PAIRS", most_pairs)
    with torch.device("meta"):
        assert torch.zeros(1).is_meta
        READERS[name]()


@pytest.mark.parametrize(
    "read",
    [
        lambda values: interpret_classification_output(values, top_k=2)[0],
        lambda values: interpret_classification_output(values, task="multilabel").to_frame(),
        lambda values: interpret_regression_output(values, values * 2).to_frame(),
        lambda values: greedy_decode(values[None], eos_token_id=1),
        lambda values: interpret_detection_output(torch.cat([values.abs(), values.sigmoid()[:, :3]], 1)[None]),
        lambda values: interpret_detection_output(torch.cat([values.abs(), values[:, :3]], 1)[None], logits=True),
    ],
)
def test_outputs_that_require_grad_are_read_without_a_warning(read):
    values = random_tensor(5, 4).requires_grad_()
    always = torch.is_warn_always_enabled()
    torch.set_warn_always(True)  # torch says some things only once in a process
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            read(values * 1)
    finally:
        torch.set_warn_always(always)


# --- figures ---------------------------------------------------------------------------------------------------------


class TestFigures:
    names = ("cat", "dog", "cow", "hen")
    images, colour = torch.rand(2, 8, 8), torch.rand(1, 3, 16, 16)
    probabilities = torch.tensor([[0.1, 0.6, 0.05, 0.25], [0.7, 0.1, 0.15, 0.05]])
    detections = interpret_detection_output(RAW, box_format="xyxy", iou_threshold=0.3)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_samples(self, dtype, tmp_path):
        path = tmp_path / "samples.png"
        p = self.probabilities.to(dtype).requires_grad_()
        figure = plot_samples(self.images, p, torch.tensor([3, 0]), self.names, save_path=path)
        first, _, bars, _ = figure.axes
        assert first.get_title() == "true: hen"
        assert first.images[0].get_array().shape == (8, 8)
        assert [bar.get_height() for bar in bars.patches] == pytest.approx([0.6, 0.25, 0.1], abs=2e-3)
        assert [label.get_text() for label in bars.get_xticklabels()] == ["dog", "hen", "cat"]
        assert len({bar.get_facecolor() for bar in bars.patches}) == 2
        assert bars.patches[1].get_facecolor() != bars.patches[0].get_facecolor() == bars.patches[2].get_facecolor()
        assert path.read_bytes().startswith(PNG)

    @pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
    def test_residuals(self, dtype, tmp_path):
        path = tmp_path / "residuals.png"
        result = interpret_regression_output(
            torch.tensor([[1.0, 2], [3, 4], [5, 6]], dtype=dtype, requires_grad=True),
            torch.tensor([[0.0, 2], [3, 5], [9, 6]], dtype=dtype),
            names=["g", "cm"],
        )
        figure = plot_residuals(result, save_path=path)
        points = [ax.collections[0].get_offsets().tolist() for ax in figure.axes]
        assert points == [[[1, 1], [3, 0], [5, -4]], [[2, 0], [4, -1], [6, 0]]]
        assert [ax.get_xlabel() for ax in figure.axes] == ["prediction, g", "prediction, cm"]
        assert path.read_bytes().startswith(PNG)

    def test_intervals_cross_the_targets_outside(self, tmp_path):
        path = tmp_path / "intervals.png"
        preds, target = torch.tensor([3.0, 1.0, 2.0]), torch.tensor([3.5, 9.0, 1.0])
        figure = plot_intervals(preds, target, preds - 1, preds + 1, label="height in cm", save_path=path)
        ax = figure.axes[0]
        line, inside, outside = ax.lines
        assert line.get_ydata().tolist() == [1.0, 2.0, 3.0]
        assert (inside.get_ydata().tolist(), inside.get_xdata().tolist()) == ([1.0, 3.5], [1, 2])
        assert (outside.get_ydata().tolist(), outside.get_marker()) == ([9.0], "x")
        assert len(ax.collections) == 1
        assert ax.get_ylabel() == "height in cm"
        assert path.read_bytes().startswith(PNG)

    def test_detections_solid_and_true_boxes_dashed(self, tmp_path):
        path = tmp_path / "detections.png"
        truth = [torch.tensor([[0.0, 0.0, 4.0, 4.0]])]
        figure = plot_detections(
            self.colour, self.detections, self.names[:3], true_boxes=truth, titles=["scene"], save_path=path
        )
        ax = figure.axes[0]
        dashed = [patch for patch in ax.patches if patch.get_linestyle() == "--"]
        solid = [patch for patch in ax.patches if patch.get_linestyle() != "--"]
        assert [(p.get_x(), p.get_y(), p.get_width(), p.get_height()) for p in dashed] == [(-0.5, -0.5, 4, 4)]
        corners = {(p.get_x() + 0.5, p.get_y() + 0.5, p.get_width(), p.get_height()) for p in solid}
        assert corners == {(0, 0, 4, 4), (1, 1, 4, 4)}
        assert [text.get_text() for text in ax.texts] == ["cat 0.94", "cow 0.69"]
        assert ax.get_title("left") == "scene"
        assert path.read_bytes().startswith(PNG)

    def test_precision_recall_has_a_line_and_a_name_for_each_curve(self, tmp_path):
        path = tmp_path / "curves.png"
        curve = (torch.tensor([0.0, 0.5, 1.0]), torch.tensor([1.0, 0.8, 0.2]))
        figure = plot_precision_recall({"disc": curve, "star": curve}, save_path=path)
        ax = figure.axes[0]
        assert [line.get_xdata().tolist() for line in ax.lines] == [[0.0, 0.5, 1.0]] * 2
        assert ax.lines[0].get_ydata().tolist() == pytest.approx([1.0, 0.8, 0.2])
        assert [text.get_text() for text in ax.get_legend().get_texts()] == ["disc", "star"]
        assert (ax.get_xlabel(), ax.get_ylabel()) == ("recall", "precision")
        assert len({line.get_linestyle() for line in ax.lines}) == 2
        assert path.read_bytes().startswith(PNG)

    def test_beam_tree_shares_prefixes_and_draws_the_best_heavily(self, tmp_path):
        path = tmp_path / "tree.png"
        table = torch.tensor([0.6, 0.3, 0.1]).log()
        model = Rule(lambda ids: table.expand(*ids.shape, 3))
        (found,) = beam_search_decode(model, torch.tensor([0]), num_beams=3, max_new_tokens=2, vocab="a \n")
        figure = plot_beam_tree(found, prompt="go", save_path=path)
        ax = figure.axes[0]
        prefixes = {tuple(h.tokens[:t]) for h in found for t in (1, 2)}
        assert len(ax.lines) == len(prefixes)
        assert sum(line.get_linewidth() == 3 for line in ax.lines) == 2
        shown = [text.get_text() for text in ax.texts]
        assert "go" in shown
        assert "␣" in shown
        assert [f"{h.score:.2f}" in shown for h in found] == [True] * 3
        assert path.read_bytes().startswith(PNG)

    def test_a_tree_of_one_empty_continuation(self):
        (found,) = beam_search_decode(MODEL, torch.tensor([0]), max_new_tokens=0, vocab="abcd")
        assert [text.get_text() for text in plot_beam_tree(found, prompt="go").axes[0].texts] == ["go", "0.00", "score"]

    def test_draws_into_given_axes(self):
        from matplotlib.figure import Figure

        values = torch.tensor([0.0, 1.0])
        (found,) = beam_search_decode(MODEL, torch.tensor([0]), max_new_tokens=1, vocab="abcd")
        for draw in (
            lambda ax: plot_intervals(values, values, values, values, ax=ax),
            lambda ax: plot_precision_recall({"a": (values, values)}, ax=ax),
            lambda ax: plot_beam_tree(found, ax=ax),
        ):
            ax = Figure().subplots()
            assert draw(ax) is ax.figure
            assert ax.lines

    @pytest.mark.parametrize(
        ("draw", "error", "words"),
        [
            (lambda t: plot_samples(t.images, t.probabilities, torch.tensor([0]), t.names), ValueError, "2, 2 and 1"),
            (lambda t: plot_samples(t.images, t.probabilities[0], torch.tensor([0, 1]), t.names), ValueError, "2 dim"),
            (
                lambda t: plot_samples(t.images[:0], t.probabilities[:0], torch.tensor([]), t.names),
                ValueError,
                "empty",
            ),
            (
                lambda t: plot_samples(t.images, t.probabilities, torch.tensor([0, 1]), ["cat"]),
                ValueError,
                "4 classes, but has 1",
            ),
            (
                lambda t: plot_samples(t.images, t.probabilities, torch.tensor([0, 1]), [*t.names, "fox"]),
                ValueError,
                "4 classes, but has 5",
            ),
            (
                lambda t: plot_samples(t.images, t.probabilities, torch.tensor([0, 4]), t.names),
                ValueError,
                "from 0 to 3",
            ),
            (lambda t: plot_residuals(interpret_regression_output(torch.zeros(3))), ValueError, "without a target"),
            (lambda t: plot_intervals(*[torch.zeros(2)] * 3, torch.zeros(3)), ValueError, "same shape"),
            (lambda t: plot_intervals(*[torch.zeros(2, 1)] * 4), ValueError, "1 dimension"),
            (lambda t: plot_intervals([0.0], [0.0], [0.0], [0.0]), TypeError, "torch.Tensor"),
            (lambda t: plot_detections(t.images, t.detections, t.names), ValueError, r"\(N, 3, H, W\)"),
            (lambda t: plot_detections(t.colour, t.detections * 2, t.names), ValueError, "N = 2"),
            (lambda t: plot_detections([t.colour[0]], t.detections, t.names), TypeError, "images"),
            (lambda t: plot_detections(t.colour, t.detections, ["cat"]), ValueError, "class_names"),
            (lambda t: plot_detections(t.colour, t.detections, t.names, titles=[]), ValueError, "titles"),
            (lambda t: plot_detections(t.colour, t.detections, t.names, true_boxes=[]), ValueError, "true_boxes"),
            (lambda t: plot_precision_recall({}), ValueError, "empty"),
            (lambda t: plot_beam_tree([]), ValueError, "at least one"),
            (lambda t: plot_beam_tree(beam_search_decode(MODEL, torch.tensor([0]))[0]), ValueError, "pass vocab"),
        ],
    )
    def test_bad_input(self, draw, error, words):
        with pytest.raises(error, match=words):
            draw(self)


# --- scenes ----------------------------------------------------------------------------------------------------------


class TestScenes:
    scenes = generate_scenes(60, seed=3)

    def test_shapes_and_dtypes(self):
        scenes = self.scenes
        assert (scenes.images.shape, scenes.images.dtype) == ((60, 3, 64, 64), torch.uint8)
        assert len(scenes) == 60
        assert set(scenes[0]) == {"images", "boxes", "labels", "masks"}
        for boxes, labels, masks in zip(scenes.boxes, scenes.labels, scenes.masks, strict=True):
            count = len(labels)
            assert (boxes.shape, labels.shape, masks.shape) == ((count, 4), (count,), (count, 64, 64))
            assert (boxes.dtype, labels.dtype, masks.dtype) == (torch.float32, torch.int64, torch.bool)
        assert "Scenes(images=uint8[60, 3, 64, 64]" in repr(scenes)

    def test_boxes_are_the_masks_tight_boxes(self):
        for boxes, masks in zip(self.scenes.boxes, self.scenes.masks, strict=True):
            expected = masks_to_boxes(masks)  # its ends are inclusive
            expected[:, 2:] += 1
            assert torch.equal(boxes, expected)

    def test_one_to_max_objects_of_every_class(self):
        counts = torch.tensor([len(labels) for labels in self.scenes.labels])
        assert counts.min() >= 1
        assert counts.max() == 4
        assert torch.cat(self.scenes.labels).unique().tolist() == list(range(len(PICTURE_CLASSES)))
        assert {len(labels) for labels in generate_scenes(20, max_objects=1).labels} == {1}

    def test_a_pixel_belongs_to_one_object_and_enough_is_seen(self):
        for masks in self.scenes.masks:
            assert masks.sum(0).max() == 1
            assert masks.flatten(1).sum(1).min() >= 12

    def test_the_mask_is_where_the_shape_is(self):
        """The colours inside a mask lie far from those of the corners of the picture, by far more than the noise."""
        differences = []
        for image, masks in zip(self.scenes.images.float() / 255, self.scenes.masks, strict=True):
            background = image[:, ~masks.any(0)].median(1).values
            differences += [(image[:, mask].mean(1) - background).abs().amax().item() for mask in masks]
        assert np.mean(np.array(differences) > 0.2) > 0.97

    def test_labels_belong_to_their_masks(self):
        """A disc fills π/4 of its box, a ring with its hole about 0.55."""
        scenes = generate_scenes(60, classes=("ring", "disc"), max_objects=1, seed=1)
        full = [(mask.sum() / mask[:, mask.any(0)][mask.any(1)].numel()).item() for (mask,) in scenes.masks]
        agree = (torch.tensor(full) > 0.67).long() == torch.cat(scenes.labels)
        assert agree.double().mean() > 0.9

    def test_seeds(self):
        same, again, other = (generate_scenes(3, seed=seed) for seed in (1, 1, 2))
        assert torch.equal(same.images, again.images)
        for name in ("boxes", "labels", "masks"):
            pairs = zip(getattr(same, name), getattr(again, name), strict=True)
            assert all(torch.equal(a, b) for a, b in pairs)
        assert not torch.equal(same.images, other.images)
        assert not torch.equal(generate_scenes(3, seed=None).images, generate_scenes(3, seed=None).images)

    @given(size=st.integers(32, 72), count=st.integers(1, 4), most=st.integers(1, 9), seed=seeds)
    def test_any_size(self, size, count, most, seed):
        scenes = generate_scenes(count, size=size, max_objects=most, classes=("star", "bar"), seed=seed)
        assert scenes.images.shape == (count, 3, size, size)
        assert scenes.class_names == ("star", "bar")
        for boxes, labels in zip(scenes.boxes, scenes.labels, strict=True):
            assert 1 <= len(labels) <= most
            assert set(labels.tolist()) <= {0, 1}
            assert boxes.min() >= 0
            assert boxes.max() <= size
            assert (boxes[:, 2:] > boxes[:, :2]).all()

    @pytest.mark.parametrize(
        ("count", "options", "error", "words"),
        [
            (0, {}, ValueError, "num_scenes"),
            (2.0, {}, TypeError, "num_scenes"),
            (2, {"size": 31}, ValueError, "at least 32"),
            (2, {"max_objects": 0}, ValueError, "max_objects"),
            (2, {"max_objects": 10}, ValueError, "at most 9, but is 10"),
            (2, {"classes": ("disc", "cat")}, ValueError, "'cat'"),
            (2, {"classes": ()}, ValueError, "empty"),
            (2, {"seed": -1}, ValueError, "seed"),
        ],
    )
    def test_bad_input(self, count, options, error, words):
        with pytest.raises(error, match=words):
            generate_scenes(count, **options)
