"""Boxes: suppression against torchvision and exact fractions, average precision by the book."""

import itertools
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from course_utils.interpretation import detection, evaluate_detections, interpret_detection_output
from tests.support.detections import CLASSES, as_arguments, raw_output
from tests.support.values import DTYPES, NAN, seeds


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


def dtype_value(value: float, dtype: torch.dtype) -> float:
    return torch.tensor(value, dtype=dtype).item()


class TestDetection:
    @given(batches_and_thresholds(), st.booleans())
    def test_equals_torchvision_batched_nms(self, case, agnostic):
        from torchvision.ops import batched_nms

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
