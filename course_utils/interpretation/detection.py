"""Reading a detector's raw output: decode boxes, score them, and let the best of each heap survive."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torchvision.ops import box_convert, box_iou, nms

from course_utils.foundation.arguments import (
    check_choice,
    check_class_names,
    check_count,
    check_labels,
    check_share,
    check_tensor,
    describe_value,
)
from course_utils.foundation.probabilities import check_probabilities
from course_utils.foundation.results import Result

BOX_FORMATS = ("cxcywh", "xyxy", "xywh")


def interpret_detection_output(
    preds: Tensor,
    *,
    score_threshold: float = 0.5,
    iou_threshold: float = 0.45,
    box_format: str = "cxcywh",
    class_names: Sequence[str] | None = None,
    logits: bool = False,
    class_agnostic: bool = False,
    max_detections: int | None = None,
) -> list[dict]:
    """Turn a detector's raw output into the objects it found, in torchvision's convention.

    score = objectness × largest class score. Boxes below the score threshold go; of the others, non-maximum
    suppression walks from the best down and drops every box of the same class (or, class-agnostic, of any class)
    whose IoU with a kept one is *greater than* iou_threshold.

    Args:
        preds: floating point (batch, B, 5 + C): four box numbers, objectness, C class scores.
        score_threshold: boxes with a score of at least this are candidates, in [0, 1].
        iou_threshold: in [0, 1].
        box_format: "cxcywh" (centre and size), "xyxy" (corners) or "xywh" (top left corner and size).
        class_names: C names; each dict then also holds a list `class_names`.
        logits: True if objectness and class scores are logits; they then go through a sigmoid.
        class_agnostic: suppress across classes.
        max_detections: keep at most this many of each picture, the best; None keeps all.

    Returns:
        For each picture a dict: boxes (M, 4) as x1, y1, x2, y2; scores (M,); labels (M,) int64; best first.

    Raises:
        TypeError, ValueError: a wrong shape, values that are not finite, scores outside [0, 1] without `logits=True`,
            boxes of negative size, thresholds out of range, a wrong number of names.

    >>> raw = torch.tensor([[[10.0, 10, 4, 4, 0.9, 0.9, 0.1], [10.0, 10, 4, 5, 0.8, 0.9, 0.1]]])
    >>> interpret_detection_output(raw)[0]["boxes"]
    tensor([[ 8.,  8., 12., 12.]])
    """
    check_tensor(preds, "preds", ndim=3)
    if preds.shape[2] < 6:
        raise ValueError(f"preds must be (batch, B, 5 + C) with C ≥ 1, but is {describe_value(preds)}")
    check_share(score_threshold, "score_threshold")
    check_share(iou_threshold, "iou_threshold")
    check_choice(box_format, "box_format", BOX_FORMATS)
    names = check_class_names(class_names, preds.shape[2] - 5)
    if max_detections is not None:
        check_count(max_detections, "max_detections")

    scores, labels = _scores(preds, logits)  # (batch, B) each
    picture, box = torch.nonzero(scores >= score_threshold, as_tuple=True)  # of the candidates
    boxes = _corners(preds[..., :4], box_format)[picture, box]
    scores, labels = scores[picture, box], labels[picture, box]
    num_classes = preds.shape[2] - 5
    heap = picture if class_agnostic else picture * num_classes + labels
    keep = _suppress(boxes, scores, heap, iou_threshold)
    # Best first within each picture: sort by score, then stably by picture.
    keep = keep[scores[keep].argsort(descending=True, stable=True)]
    keep = keep[picture[keep].argsort(stable=True)]
    sizes = torch.bincount(picture[keep], minlength=len(preds)).tolist()
    found = []
    for chosen in keep.split(sizes):
        chosen = chosen[:max_detections]
        detection = {"boxes": boxes[chosen], "scores": scores[chosen], "labels": labels[chosen]}
        if names is not None:
            detection["class_names"] = [names[label] for label in detection["labels"].tolist()]
        found.append(detection)
    return found


def _scores(preds: Tensor, logits: bool) -> tuple[Tensor, Tensor]:
    objectness = preds[..., 4]
    best, labels = preds[..., 5:].max(dim=-1)  # sigmoid keeps the order, so the maximum may come first
    if logits:
        return objectness.sigmoid() * best.sigmoid(), labels
    check_probabilities(preds[..., 4:], "objectness and class scores", hint="if they are logits, pass logits=True")
    return objectness * best, labels


def _corners(boxes: Tensor, box_format: str) -> Tensor:
    corners = boxes if box_format == "xyxy" else box_convert(boxes, box_format, "xyxy")
    sizes = boxes[..., 2:] if box_format != "xyxy" else boxes[..., 2:] - boxes[..., :2]
    if (sizes < 0).any():
        count = int((sizes < 0).any(-1).sum())
        raise ValueError(f"boxes must not have a negative size, but {count} do; is box_format={box_format!r} right?")
    return corners


def _suppress(boxes: Tensor, scores: Tensor, heap: Tensor, iou_threshold: float) -> Tensor:
    """Indices of the boxes that survive non-maximum suppression within their heap (a class in a picture)."""
    if len(boxes) == 0:
        return heap
    order = scores.argsort(descending=True, stable=True)
    order = order[heap[order].argsort(stable=True)]  # heap by heap, the best first in each
    sizes = torch.unique_consecutive(heap[order], return_counts=True)[1]
    # Half precision would round the corners away, and torchvision's nms has no kernel for it on the CPU.
    full = torch.float64 if boxes.dtype == torch.float64 else torch.float32
    boxes, scores = boxes[order].to(full), scores[order].to(full)
    if len(sizes) * int(sizes.max()) ** 2 <= _MOST_PAIRS:
        return order[_suppress_together(boxes, sizes, iou_threshold)]
    # torchvision compares in double, where float32's 0.6 is above 0.6: round the threshold as the boxes are.
    iou_threshold = torch.tensor(iou_threshold, dtype=full, device="cpu").item()
    parts = (order.split(sizes.tolist()), boxes.split(sizes.tolist()), scores.split(sizes.tolist()))
    return torch.cat([index[nms(box, score, iou_threshold)] for index, box, score in zip(*parts, strict=True)])


# Up to this many pairs of boxes are compared at once (16 MiB in float32); more go heap by heap.
_MOST_PAIRS = 4_000_000


def _suppress_together(boxes: Tensor, sizes: Tensor, iou_threshold: float) -> Tensor:
    """Non-maximum suppression in all heaps at once: bool (M,), for boxes (M, 4) that lie heap by heap, best first.

    The heaps become the rows of one padded table. Column by column, from the best down, each kept box drops the later
    ones that it overlaps, in all heaps at the same time.
    """
    heaps, width = len(sizes), int(sizes.max())
    filled = torch.arange(width, device=boxes.device) < sizes[:, None]  # (heaps, width)
    table = boxes.new_zeros(heaps, width, 4)
    table[filled] = boxes
    x1, y1, x2, y2 = table.unbind(-1)  # (heaps, width) each
    area = (x2 - x1) * (y2 - y1)

    def overlap(low: Tensor, high: Tensor) -> Tensor:  # along one axis, of every pair: (heaps, width, width)
        return (torch.minimum(high[:, :, None], high[:, None]) - torch.maximum(low[:, :, None], low[:, None])).clamp_(0)

    shared = overlap(x1, x2).mul_(overlap(y1, y2))
    # 0/0, two boxes without area, is NaN: not greater than any threshold, so both stay.
    too_close = shared / (area[:, :, None] + area[:, None] - shared) > iou_threshold
    kept = filled.clone()
    for best in range(width - 1):
        kept[:, best + 1 :] &= ~(too_close[:, best, best + 1 :] & kept[:, best : best + 1])
    return kept[filled]


@dataclass(frozen=True, eq=False, repr=False)
class DetectionEvaluation(Result):
    """How good detections are, over all score thresholds at once.

    Attributes:
        scores: (K,), the detections' scores, descending; a threshold at each of them.
        precision: (K,), share of the detections with at least this score that are right.
        recall: (K,), share of the true objects that they find.
        average_precision: (C,), of each class at this IoU threshold; NaN for a class without a true object.
        mean_average_precision: their mean over the classes that have objects.
    """

    scores: Tensor
    precision: Tensor
    recall: Tensor
    average_precision: Tensor
    mean_average_precision: float

    per_sample: ClassVar = ("scores", "precision", "recall")


def evaluate_detections(
    detections: Sequence[Mapping],
    true_boxes: Sequence[Tensor],
    true_labels: Sequence[Tensor],
    *,
    num_classes: int,
    iou_threshold: float = 0.5,
) -> DetectionEvaluation:
    """Precision and recall of detections, and COCO's average precision at one IoU threshold.

    From the best score down, a detection is right if a true object of its class in its picture, not taken by a better
    detection, overlaps it with IoU ≥ iou_threshold; it takes the one that overlaps most. Average precision is the mean,
    over 101 recalls from 0 to 1, of the best precision at that recall or beyond, as in COCO's evaluation (after
    Everingham et al. 2010, VOC).

    Args:
        detections: N dicts with boxes (M, 4), scores (M,), labels (M,).
        true_boxes: N tensors (G, 4) as x1, y1, x2, y2.
        true_labels: N tensors (G,).
        num_classes: C.
        iou_threshold: in [0, 1].

    Raises:
        TypeError, ValueError: different numbers of pictures, labels that are no class indices, no true object at all.
    """
    if not len(detections) == len(true_boxes) == len(true_labels):
        raise ValueError(
            "detections, true_boxes and true_labels must have one entry for each picture, but have "
            f"{len(detections)}, {len(true_boxes)} and {len(true_labels)}"
        )
    check_share(iou_threshold, "iou_threshold")
    for i, (boxes, labels) in enumerate(zip(true_boxes, true_labels, strict=True)):
        if len(boxes) != len(labels):
            raise ValueError(f"true_labels[{i}] must have {len(boxes)} labels, one a box, but has {len(labels)}")
    check_count(num_classes, "num_classes")
    if sum(len(labels) for labels in true_labels) == 0:
        raise ValueError("there is no true object in any picture, so recall means nothing")
    for name, parts in (("true_labels", true_labels), ("labels", [found["labels"] for found in detections])):
        joined = torch.cat(list(parts))
        if len(joined):
            check_labels(joined, name, num_samples=len(joined), num_classes=num_classes)
    objects = torch.bincount(torch.cat(list(true_labels)), minlength=num_classes)
    right = [
        _match(found, boxes, labels, iou_threshold)
        for found, boxes, labels in zip(detections, true_boxes, true_labels, strict=True)
    ]
    right, scores, labels = (
        torch.cat(parts)
        for parts in (right, [found["scores"] for found in detections], [found["labels"] for found in detections])
    )
    order = scores.argsort(descending=True, stable=True)
    right, scores, labels = right[order].double(), scores[order], labels[order]
    found = right.cumsum(0)
    every = torch.stack([_average_precision(right[labels == c], int(objects[c])) for c in range(num_classes)])
    return DetectionEvaluation(
        scores=scores,
        precision=found / torch.arange(1, len(found) + 1, device=found.device),
        recall=found / objects.sum(),
        average_precision=every,
        mean_average_precision=float(every.nanmean()),
    )


def _match(found: Mapping, true_boxes: Tensor, true_labels: Tensor, iou_threshold: float) -> Tensor:
    """Which detections of one picture are right, bool (M,)."""
    right = torch.zeros(len(found["boxes"]), dtype=torch.bool, device=true_boxes.device)
    if len(right) == 0 or len(true_boxes) == 0:
        return right
    overlap = box_iou(found["boxes"].double(), true_boxes.double())  # (M, G)
    overlap[found["labels"][:, None] != true_labels] = -1
    for detection in found["scores"].argsort(descending=True, stable=True).tolist():
        best = int(overlap[detection].argmax())
        if overlap[detection, best] >= iou_threshold:
            right[detection] = True
            overlap[:, best] = -1  # taken
    return right


def _average_precision(right: Tensor, objects: int) -> Tensor:
    """COCO's average precision of one class, from its detections' hits (K,), best first."""
    if objects == 0:
        return torch.tensor(torch.nan, dtype=torch.float64, device=right.device)
    found = right.cumsum(0)
    precision = found / torch.arange(1, len(found) + 1, device=found.device)
    best_beyond = precision.flip(0).cummax(0).values.flip(0)
    recalls = torch.arange(101, dtype=torch.float64, device=right.device) / 100
    place = torch.searchsorted(found / objects, recalls)  # the first detection that reaches it
    reached = place < len(found)
    return torch.where(reached, best_beyond[place.clamp(max=len(found) - 1)], 0).mean() if len(found) else recalls[0]
