"""Boxes: suppression against torchvision and exact fractions, average precision by the book."""

import itertools
import math
import random
import warnings
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from course_utils.interpretation import detection, evaluate_detections, interpret_detection_output
from tests.support.detections import CLASSES, as_arguments, raw_output
from tests.support.values import DTYPES, INF, NAN, seeds


def rows(found: dict) -> list[tuple]:
    """An image's detections as a sorted list: equal scores may come in any order."""
    columns = (found["boxes"].tolist(), found["scores"].tolist(), found["labels"].tolist())
    return sorted((score, label, *box) for box, score, label in zip(*columns, strict=True))


def overlap(a, b) -> Fraction:
    """The IoU of two such boxes; 0 if both have no area."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    union = a[2] * a[3] + b[2] * b[3] - shared
    return Fraction(shared, union) if union else Fraction(0)


def canonical(image) -> list[tuple]:
    """Best first; of equal scores the one further left, then further up, then the smaller one, then the first class."""
    return sorted(image, key=lambda box: (-box[4], *box[:4], box[5]))


def exact_nms(image, threshold: Fraction, *, agnostic: bool = False) -> list[tuple]:
    """Suppression by the book, in fractions: no rounding at all."""
    kept = []
    for box in canonical(image):
        rivals = [k for k in kept if agnostic or k[5] == box[5]]
        if all(overlap(box, rival) <= threshold for rival in rivals):
            kept.append(box)
    return sorted((s / 16, c, float(x), float(y), float(x + w), float(y + h)) for x, y, w, h, s, c in kept)


@st.composite
def batches(draw) -> list[list[tuple]]:
    """Up to three images of small whole-number boxes: many without area, many that overlap in simple fractions."""
    coordinate = st.integers(0, 5)
    box = st.tuples(*[coordinate] * 4, st.integers(0, 16), st.integers(0, CLASSES - 1))
    count = draw(st.integers(1, 9))
    return draw(st.lists(st.lists(box, min_size=count, max_size=count), min_size=1, max_size=3))


@st.composite
def batches_and_thresholds(draw) -> tuple[list[list[tuple]], Fraction]:
    """The threshold is a simple fraction or exactly the IoU of two of the boxes."""
    images = draw(batches())
    pairs = [pair for image in images for pair in itertools.combinations(image, 2)]
    ious = sorted({overlap(*pair) for pair in pairs} - {0})
    simple = st.sampled_from([Fraction(a, b) for b in range(1, 11) for a in range(b + 1)])
    return images, draw(st.sampled_from(ious) | simple if ious else simple)


EVERYTHING = {"score_threshold": 0.0, "box_format": "xyxy"}


def dtype_value(value: float, dtype: torch.dtype) -> float:
    return torch.tensor(value, dtype=dtype).item()


class TestDetection:
    @given(batches_and_thresholds(), st.booleans())
    def test_equals_torchvision_batched_nms(self, case, agnostic):
        from torchvision.ops import batched_nms

        images, share = case
        preds = raw_output([canonical(image) for image in images])
        options = EVERYTHING | {"iou_threshold": float(share), "class_agnostic": agnostic}
        for image, found in zip(preds, interpret_detection_output(preds, **options), strict=True):
            boxes, scores, labels = image[:, :4], image[:, 4], image[:, 5:].argmax(1)
            keep = batched_nms(boxes, scores, torch.zeros_like(labels) if agnostic else labels, float(share))
            assert rows(found) == rows({"boxes": boxes[keep], "scores": scores[keep], "labels": labels[keep]})
            assert found["scores"].tolist() == scores[keep].tolist()  # best first

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("most_pairs", [4_000_000, 0])
    @given(case=batches_and_thresholds(), agnostic=st.booleans())
    def test_equals_exact_fractions_in_every_dtype_on_both_paths(self, case, agnostic, dtype, most_pairs):
        """The padded table and torchvision's nms group by group: the same survivors, also at IoU == threshold."""
        images, share = case
        options = EVERYTHING | {"iou_threshold": float(share), "class_agnostic": agnostic}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(detection, "_MOST_PAIRS", most_pairs)
            found = interpret_detection_output(raw_output(images, dtype), **options)
        assert [rows(image) for image in found] == [exact_nms(p, share, agnostic=agnostic) for p in images]

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
        assert [rows(image) for image in found[0]] == [rows(image) for image in found[1]]

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
        from torchvision.ops import box_convert

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
    def test_permuted_images_permute_the_result(self, images, seed):
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
        preds = raw_output(images)
        found, permuted = (interpret_detection_output(p, **EVERYTHING) for p in (preds, preds[order]))
        assert [rows(image) for image in permuted] == [rows(found[i]) for i in order.tolist()]

    @pytest.mark.parametrize("most_pairs", [4_000_000, 0])
    @given(images=batches(), seed=seeds, agnostic=st.booleans())
    def test_f5_permuted_boxes_change_nothing_not_even_with_equal_scores(self, images, seed, agnostic, most_pairs):
        preds = raw_output(images)
        order = torch.randperm(preds.shape[1], generator=torch.Generator().manual_seed(seed))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(detection, "_MOST_PAIRS", most_pairs)
            options = EVERYTHING | {"iou_threshold": 0.3, "class_agnostic": agnostic}
            found, permuted = (interpret_detection_output(p, **options) for p in (preds, preds[:, order]))
        for a, b in zip(found, permuted, strict=True):
            assert all(torch.equal(a[name], b[name]) for name in ("boxes", "scores", "labels"))

    @given(seeds)
    def test_permuted_boxes_change_nothing(self, seed):
        generator = torch.Generator().manual_seed(seed)
        preds = torch.rand(2, 30, 5 + CLASSES, dtype=torch.float64, generator=generator)
        order = torch.randperm(30, generator=generator)
        found, permuted = (interpret_detection_output(p, score_threshold=0.1) for p in (preds, preds[:, order]))
        for a, b in zip(found, permuted, strict=True):
            assert all(torch.equal(a[name], b[name]) for name in ("boxes", "scores", "labels"))

    @given(batches(), st.integers(1, 5))
    def test_max_detections_keeps_the_best(self, images, most):
        preds = raw_output(images)
        found, few = (interpret_detection_output(preds, **EVERYTHING, max_detections=m) for m in (None, most))
        for a, b in zip(found, few, strict=True):
            assert all(torch.equal(b[name], a[name][:most]) for name in ("boxes", "scores", "labels"))

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("most_pairs", [4_000_000, 0])
    def test_results_are_in_float32_or_better(self, dtype, most_pairs, monkeypatch):
        monkeypatch.setattr(detection, "_MOST_PAIRS", most_pairs)
        (found,) = interpret_detection_output(raw_output([[(0, 0, 2, 2, 16, 0), (3, 3, 2, 2, 12, 2)]], dtype))
        wanted = torch.promote_types(dtype, torch.float32)
        assert (found["boxes"].dtype, found["scores"].dtype, found["labels"].dtype) == (wanted, wanted, torch.int64)
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
            assert [rows(image) for image in mine] == [rows(image) for image in copied]

    def test_score_is_objectness_times_the_best_class_and_the_threshold_is_inclusive(self):
        preds = torch.tensor([[[5.0, 5, 2, 2, 0.5, 0.25, 0.5], [9.0, 9, 2, 2, 0.5, 0.125, 0.25]]])
        (found,) = interpret_detection_output(preds, score_threshold=0.125, class_names=["cat", "dog"])
        assert found["scores"].tolist() == [0.25, 0.125]
        assert (found["labels"].tolist(), found["class_names"]) == ([1, 1], ["dog", "dog"])
        (found,) = interpret_detection_output(preds, score_threshold=0.126)
        assert found["scores"].tolist() == [0.25]
        assert "class_names" not in found

    def test_images_without_a_detection(self):
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
            (lambda p: p[:0], {}, ValueError, "empty"),
            (lambda p: p[:, :0].long(), {}, TypeError, "floating"),
            (lambda p: p * NAN, {}, ValueError, "NaN"),
            (lambda p: p.long(), {}, TypeError, "floating"),
            (lambda p: p.tolist(), {}, TypeError, "torch.Tensor"),
            (lambda p: p + 1, {}, ValueError, "pass logits=True"),
            (lambda p: p - 1, {}, ValueError, "pass logits=True"),
            (lambda p: p * torch.tensor([1, 1, -1, 1, 1, 1, 1, 1]), {}, ValueError, "negative size, but 2 of the 2"),
            (lambda p: p, {"box_format": "xyxy"}, ValueError, "box_format='xyxy'"),
            (lambda p: p, {"box_format": "yolo"}, ValueError, "'cxcywh', 'xyxy', 'xywh'"),
            (lambda p: p, {"score_threshold": 1.1}, ValueError, r"score_threshold must lie in \[0, 1\]"),
            (lambda p: p, {"iou_threshold": -0.1}, ValueError, r"iou_threshold must lie in \[0, 1\]"),
            (lambda p: p, {"iou_threshold": NAN}, ValueError, "iou_threshold"),
            (lambda p: p, {"iou_threshold": "half"}, TypeError, "iou_threshold"),
            (lambda p: p, {"class_names": ["a"]}, ValueError, "3 classes, but has 1"),
            (lambda p: p, {"class_names": list("abcd")}, ValueError, "objectness=False"),
            (lambda p: p, {"objectness": None}, TypeError, "objectness must be True or False"),
            (lambda p: (p, p), {}, TypeError, "must be one torch.Tensor"),
            (lambda p: {"logits": p, "pred_boxes": p}, {}, TypeError, "keys.*torch.cat"),
            (lambda p: p * torch.tensor([INF, 1, 1, 1, 1, 1, 1, 1]), {"logits": True}, ValueError, "boxes in preds"),
            (lambda p: p * torch.tensor([1, 1, 1, 1, INF, 1, 1, 1]), {"logits": True}, ValueError, r"\+inf"),
            (lambda p: p, {"max_detections": 0}, ValueError, "max_detections"),
            (lambda p: p, {"max_detections": 2.0}, TypeError, "max_detections"),
        ],
    )
    def test_bad_input(self, change, options, error, words):
        preds = raw_output([[(5, 5, -3, -3, 9, 0), (7, 7, -3, -3, 8, 1)]])  # as centre and size: 2 × 2 and 4 × 4
        with pytest.raises(error, match=words):
            interpret_detection_output(change(preds), **options)

    def test_f4_sure_detections_are_ranked_by_their_logits(self):
        """Half precision, 8.5 and 12: both scores round to 1, and the worse box used to win."""
        boxes = [[0.0, 0, 10, 10, 8.5, 8.5], [0.0, 0, 10, 9, 12, 12]]
        for dtype in DTYPES:
            preds = torch.tensor([boxes]).to(dtype)
            (found,) = interpret_detection_output(preds, box_format="xyxy", logits=True)
            assert found["boxes"].tolist() == [[0.0, 0, 10, 9]]

    @given(
        st.lists(st.tuples(*[st.sampled_from([-40.0, -1.0, 0.0, 1e-3, 9.0, 17.0, 17.5, 40.0, 90.0])] * 2), min_size=1),
        st.sampled_from(DTYPES),
        st.booleans(),
    )
    def test_f4_the_order_is_that_of_the_exact_scores(self, pairs, dtype, objectness):
        """Boxes far apart, so all stay. Python's floats know the logarithms of the scores to 16 digits."""
        rows = [[100.0 * i, 0, 100.0 * i + 8, 8, *pair] for i, pair in enumerate(pairs)]
        preds = torch.tensor([rows], dtype=dtype)
        (found,) = interpret_detection_output(
            preds, box_format="xyxy", logits=True, objectness=objectness, score_threshold=0.0
        )

        def exact(row) -> float:
            factors = row[4:] if objectness else [max(row[4:])]  # without objectness: the better of two classes
            return sum(-math.log1p(math.exp(-z)) for z in factors)

        kept = preds[0].double().tolist()
        order = sorted(range(len(kept)), key=lambda i: (-exact(kept[i]), kept[i]))
        places = {tuple(row[:4]): i for i, row in enumerate(kept)}
        if len(places) == len(kept):  # half precision may round two places to one
            assert [places[tuple(box)] for box in found["boxes"].double().tolist()] == order

    def test_f17_yolov8s_layout(self):
        """(1, 4 + C, n) without objectness: the hint is the transpose, and the option reads it."""
        n = 50
        boxes = torch.rand(1, n, 4, generator=torch.Generator().manual_seed(0)) * 600
        scores = torch.rand(1, n, 3, generator=torch.Generator().manual_seed(1))
        exported = torch.cat([boxes, scores], 2).mT  # (1, 7, 50)
        with pytest.raises(ValueError, match=r"\(1, 7, 50\) is \(batch, 4 \+ C, B\), pass preds.mT"):
            interpret_detection_output(exported)
        with pytest.raises(ValueError, match=r"pass preds.mT"):
            interpret_detection_output(exported, class_names=["a", "b", "c"])
        (found,) = interpret_detection_output(exported.mT, objectness=False, iou_threshold=1.0)
        sure = scores[0].amax(1) >= 0.5
        assert found["scores"].tolist() == scores[0].amax(1)[sure].sort(descending=True).values.tolist()
        assert len(interpret_detection_output(exported.mT[..., :5], objectness=False)[0]["boxes"]) > 0  # one class
        with pytest.raises(ValueError, match="pass objectness=False"):
            interpret_detection_output(exported.mT[..., :5])

    def test_f21_masked_classes(self):
        preds = torch.tensor([[[5.0, 5, 2, 2, 3, -INF, 2], [9.0, 9, 2, 2, -INF, 1, 1]]])
        (found,) = interpret_detection_output(preds, logits=True, score_threshold=0.0)
        assert found["labels"].tolist() == [1, 0]
        assert found["scores"][1] == 0

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_q13_corners_are_computed_in_float32(self, dtype):
        """1001.5 − 3/2: in half precision there is no such centre, but also no corner of the one that there is."""
        preds = torch.tensor([[[1001.5, 1001.5, 3.0, 3.0, 0.875, 1.0]]], dtype=dtype)
        (found,) = interpret_detection_output(preds)
        x, width = preds[0, 0, 0].double(), preds[0, 0, 2].double()
        assert found["boxes"][0, 0].double() == x - width / 2
        assert found["boxes"][0, 2].double() == x + width / 2

    @pytest.mark.parametrize("options", [{}, {"logits": True}, {"class_agnostic": True}, {"class_names": ["a", "b"]}])
    def test_q24_no_candidate_at_all(self, options):
        found = interpret_detection_output(torch.zeros(2, 0, 7).half(), **options)
        assert [f["boxes"].shape for f in found] == [(0, 4), (0, 4)]
        assert [(f["scores"].dtype, f["labels"].dtype) for f in found] == [(torch.float32, torch.int64)] * 2

    def test_q24_one_negative_size_does_not_cost_the_batch(self):
        good, bad = [5.0, 5, 2, 2, 0.9, 1.0], [9.0, 9, 2, -0.1, 0.9, 1.0]
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # below the score threshold nothing is said
            unlikely = [*bad[:4], 0.1, 1.0]
            (found,) = interpret_detection_output(torch.tensor([[good, unlikely]]))
            assert len(found["boxes"]) == 1
        with pytest.warns(UserWarning, match="left out 1 of the 2 candidates.*box_format='cxcywh'"):
            (found,) = interpret_detection_output(torch.tensor([[good, bad]]))
        assert found["boxes"].tolist() == [[4.0, 4, 6, 6]]

    def test_e9_nms_is_per_class(self):
        preds = raw_output([[(0, 0, 4, 4, 15, 0), (0, 0, 4, 4, 12, 1)]])
        (together,) = interpret_detection_output(preds, box_format="xyxy", class_agnostic=True)
        assert together["labels"].tolist() == [0]  # the error, here asked for
        (found,) = interpret_detection_output(preds, box_format="xyxy")
        assert found["labels"].tolist() == [0, 1]

    def test_e10_centre_boxes_are_not_top_left_boxes(self):
        from torchvision.ops import box_convert, box_iou

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
        from torchvision.ops import box_iou

        monkeypatch.setattr(detection, "_MOST_PAIRS", most_pairs)
        preds = raw_output([[(0, 0, 10, 1, 15, 0), (0, 0, tenths, 1, 12, 0)]], dtype)
        iou = box_iou(preds[0, :1, :4], preds[0, 1:, :4]).item()
        assert not iou < dtype_value(tenths / 10, dtype)  # the error: kept only below
        (found,) = interpret_detection_output(preds, box_format="xyxy", iou_threshold=tenths / 10)
        assert len(found["boxes"]) == 2
        (found,) = interpret_detection_output(preds, box_format="xyxy", iou_threshold=tenths / 10 - 1e-3)
        assert len(found["boxes"]) == 1

    def test_e12_boxes_without_area_do_not_delete_each_other(self):
        from torchvision.ops import box_convert

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
    """Precision, recall and COCO's average precision in loops; boxes as in `raw_output`. A threshold takes all
    detections of one score or none."""
    candidates = []  # (box, is it right?)
    for boxes, objects in zip(found, truth, strict=True):
        free = canonical(objects)
        for box in canonical(boxes):
            rivals = [other for other in free if other[5] == box[5] and overlap(box, other) >= share]
            candidates.append((box, bool(rivals)))
            if rivals:
                free.remove(max(rivals, key=lambda other: overlap(box, other)))  # the first one of the largest
    candidates.sort(key=lambda entry: -entry[0][4])

    def curve(candidates, objects):
        points = []
        for box, _ in candidates:
            taken = [hit for other, hit in candidates if other[4] >= box[4]]
            points.append((Fraction(sum(taken), len(taken)), Fraction(sum(taken), objects)))
        return [p for p, _ in points], [r for _, r in points]

    average = {}
    for c in range(CLASSES):
        objects = sum(box[5] == c for boxes in truth for box in boxes)
        if objects:
            of_class = [entry for entry in candidates if entry[0][5] == c]
            points = list(zip(*curve(of_class, objects), strict=True))
            best = [max((p for p, r in points if r >= Fraction(i, 100)), default=0) for i in range(101)]
            average[c] = float(sum(best) / 101)
    return *curve(candidates, sum(map(len, truth))), average


@st.composite
def evaluations(draw) -> tuple:
    """Images with detections, of all different or of a few scores, and true boxes; at least one true box in all."""
    coordinate, size, label = st.integers(0, 3), st.integers(1, 4), st.integers(0, CLASSES - 1)
    box = st.tuples(coordinate, coordinate, size, size, st.just(0), label)
    images = draw(st.lists(st.tuples(st.lists(box, max_size=6), st.lists(box, max_size=5)), min_size=1, max_size=3))
    scores = iter(draw(st.permutations(range(20)) | st.lists(st.integers(0, 3), min_size=20, max_size=20)))
    found = [[(*b[:4], next(scores), b[5]) for b in boxes] for boxes, _ in images]
    truth = [boxes for _, boxes in images]
    truth[0] = [*truth[0], draw(box)]
    return found, truth


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

    @given(evaluations(), seeds)
    def test_f5_no_figure_depends_on_any_order(self, case, seed):
        """Images, detections in an image and objects in an image: all permuted."""
        found, truth = case
        shuffle = random.Random(seed)
        order = shuffle.sample(range(len(found)), len(found))
        mixed = [[shuffle.sample(images[i], len(images[i])) for i in order] for images in (found, truth)]
        a, b = (evaluate_detections(*as_arguments(*each), num_classes=CLASSES) for each in (case, mixed))
        for name in (*a.per_sample, "average_precision"):
            assert torch.equal(getattr(a, name).nan_to_num(-1), getattr(b, name).nan_to_num(-1)), name
        assert a.mean_average_precision == b.mean_average_precision

    def test_f5_two_images_one_score_one_hit(self):
        found = [[(*self.box, 9, 0)], [(*self.box, 9, 0)]]
        for truth in ([[(*self.box, 0, 0)], []], [[], [(*self.box, 0, 0)]]):
            result = evaluate_detections(*as_arguments(found, truth), num_classes=1)
            assert result.precision.tolist() == [0.5, 0.5]
            assert result.mean_average_precision == 0.5  # was 0.5 or 1.0

    @pytest.mark.parametrize(
        "nothing", [torch.tensor([]), torch.zeros(0, 4), torch.zeros(0, 4).half(), [], np.zeros(0)]
    )
    def test_f16_images_without_objects(self, nothing):
        """Half of the objects found with full precision: 51 of COCO's 101 recalls are reached."""
        detections, boxes, labels = as_arguments([[(*self.box, 9, 0)], []], [[(*self.box, 0, 0)] * 2, []])
        boxes[0][1] += 50
        empty = {"boxes": nothing, "scores": nothing, "labels": nothing}
        for found in (detections, [detections[0], empty]):
            result = evaluate_detections(found, [boxes[0], nothing], [labels[0], torch.tensor([])], num_classes=1)
            assert result.average_precision.item() == pytest.approx(51 / 101)
        nowhere = evaluate_detections([empty, empty], boxes, labels, num_classes=1)
        assert (len(nowhere), nowhere.mean_average_precision) == (0, 0.0)

    def test_a_detector_of_torchvision_as_it_is(self):
        """Its outputs carry a graph, and are read one after the other; right is what it found itself."""
        from torchvision.models.detection import ssdlite320_mobilenet_v3_large

        with torch.random.fork_rng():
            torch.manual_seed(0)
            options = {"weights": None, "weights_backbone": None, "num_classes": 4}
            model = ssdlite320_mobilenet_v3_large(**options, score_thresh=0.2, detections_per_img=5).eval()
            found = model([torch.rand(3, 64, 64), torch.rand(3, 80, 64)])
        assert found[0]["boxes"].requires_grad
        truth = [[each[name].detach() for each in found] for name in ("boxes", "labels")]
        result = evaluate_detections(iter(found), *truth, num_classes=4)
        assert result.mean_average_precision == 1.0
        assert not result.scores.requires_grad
        with pytest.raises(TypeError, match="preds must be one torch.Tensor, but is a list of length 2"):
            interpret_detection_output(found)

    def test_what_the_reader_returns_is_taken(self):
        """Also half-precision outputs with float64 truth, lists of labels, and images in which nothing was found."""
        preds = raw_output([[(0, 0, 2, 2, 15, 0)], [(0, 0, 2, 2, 1, 0)]], torch.bfloat16)
        found = interpret_detection_output(preds, box_format="xyxy", class_names=["a", "b", "c"])
        boxes = [torch.tensor([[0.0, 0, 2, 2]], dtype=torch.float64), torch.tensor([])]
        result = evaluate_detections(found, boxes, [[0], []], num_classes=3)
        assert result.mean_average_precision == 1.0

    def test_a_second_detection_of_the_same_object_is_wrong(self):
        found = [[(*self.box, 9, 0), (*self.box, 8, 0)]]
        result = evaluate_detections(*as_arguments(found, [[(*self.box, 0, 0)]]), num_classes=1)
        assert (result.precision.tolist(), result.recall.tolist()) == ([1.0, 0.5], [1.0, 1.0])
        assert (len(result), result[0]["precision"], result.mean_average_precision) == (2, 1.0, 1.0)

    def test_the_image_and_the_class_count(self):
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
            (lambda f, b, n: ([f[0] | {"labels": f[0]["labels"] + 7}], b, n), {}, "labels of .* must hold class"),
            (lambda f, b, n: ([], [], []), {}, "no true object"),
            (lambda f, b, n: (f, b, [n[0].repeat(2)]), {}, "true_labels"),
            (lambda f, b, n: (f, b, [n[0].float()]), {}, r"true_labels\[0\] must have an integer dtype"),
            # Q6: boxes that are none; Q30: a key that is missing
            (lambda f, b, n: (f, [b[0] * NAN], n), {}, r"true_boxes\[0\] must be finite"),
            (lambda f, b, n: (f, [b[0].flip(1)], n), {}, r"true_boxes\[0\] must be corners.*1 of 1.*box_convert"),
            (lambda f, b, n: ([f[0] | {"boxes": f[0]["boxes"] * INF}], b, n), {}, r"boxes of detections\[0\]"),
            (lambda f, b, n: ([f[0] | {"boxes": f[0]["boxes"].flip(1)}], b, n), {}, r"detections\[0\] must be corners"),
            (lambda f, b, n: ([f[0] | {"scores": f[0]["scores"] * NAN}], b, n), {}, "scores of .* must be finite"),
            (lambda f, b, n: ([f[0] | {"scores": torch.ones(2)}], b, n), {}, "one score for each of its 1 boxes"),
            (lambda f, b, n: ([f[0] | {"boxes": torch.ones(1, 5)}], b, n), {}, r"\(M, 4\)"),
            (lambda f, b, n: ([{"boxes": f[0]["boxes"], "labels": n[0]}], b, n), {}, "keys boxes, scores, labels"),
            (lambda f, b, n: ([f[0]["boxes"]], b, n), {}, "keys boxes, scores, labels"),
        ],
    )
    def test_bad_input_also_q6_and_q30(self, change, options, words):
        arguments = as_arguments([[(*self.box, 9, 0)]], [[(*self.box, 0, 1)]])
        with pytest.raises((TypeError, ValueError), match=words):
            evaluate_detections(*change(*arguments), **{"num_classes": 2} | options)
