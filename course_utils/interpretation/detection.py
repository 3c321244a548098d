"""Reading a detector's raw output: decode boxes, score them, and let the best of each group survive."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import box_convert, box_iou, nms

from course_utils.foundation.arguments import (
    check_choice,
    check_class_names,
    check_count,
    check_labels,
    check_logits,
    check_share,
    check_tensor,
    describe_value,
)
from course_utils.foundation.devices import full_precision
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
    objectness: bool = True,
    class_agnostic: bool = False,
    max_detections: int | None = None,
) -> list[dict]:
    """Turn a detector's raw output into the objects it found, in torchvision's convention.

    score = objectness × largest class score, or the latter alone. Boxes below the score threshold go; of the others,
    non-maximum suppression walks from the best down and drops every box of the same class (or, class-agnostic, of any
    class) whose IoU with a kept one is *greater than* iou_threshold. Logits are ranked before they are rounded to
    scores. Of boxes with the same score the one further left comes first, then the one further up: the order in which
    a detector lists its boxes decides nothing.

    Args:
        preds: floating point (batch, B, 5 + C): four box numbers, objectness, C class scores. Without objectness
            (batch, B, 4 + C). B may be 0. Detectors that put the boxes last, as YOLOv8 does with (batch, 4 + C, B),
            need `preds.mT` and `objectness=False`; the layout is never guessed.
        score_threshold: boxes with a score of at least this are candidates, in [0, 1].
        iou_threshold: in [0, 1].
        box_format: "cxcywh" (centre and size), "xyxy" (corners) or "xywh" (top left corner and size).
        class_names: C names; each dict then also holds a list `class_names`.
        logits: True if objectness and class scores are logits; they then go through a sigmoid. −inf is a masked class.
        objectness: False if there is none, as in YOLOv8 and RT-DETR.
        class_agnostic: suppress across classes.
        max_detections: keep at most this many of each image, the best; None keeps all.

    Returns:
        For each image a dict: boxes (M, 4) as x1, y1, x2, y2; scores (M,); labels (M,) int64; best first. Half
        precision becomes float32.

    Raises:
        TypeError, ValueError: a wrong shape, values that are not finite, scores outside [0, 1] without `logits=True`,
            thresholds out of range, a wrong number of names, only boxes of negative size. If some candidates have a
            negative size, which no box can, they are left out with a warning.

    >>> raw = torch.tensor([[[10.0, 10, 4, 4, 0.9, 0.9, 0.1], [10.0, 10, 4, 5, 0.8, 0.9, 0.1]]])
    >>> interpret_detection_output(raw)[0]["boxes"]
    tensor([[ 8.,  8., 12., 12.]])
    """
    num_classes = _check_layout(preds, objectness)
    check_share(score_threshold, "score_threshold")
    check_share(iou_threshold, "iou_threshold")
    check_choice(box_format, "box_format", BOX_FORMATS)
    names = _check_names(class_names, preds, num_classes, objectness)
    if max_detections is not None:
        check_count(max_detections, "max_detections")

    factors, labels = _factors(preds, num_classes, logits=logits)  # (F, batch, B), (batch, B)
    scores = (factors.sigmoid() if logits else factors).prod(0)
    image, box = torch.nonzero(scores >= score_threshold, as_tuple=True)  # of the candidates
    boxes, is_box = _corners(full_precision(preds[image, box, :4]), box_format)
    image, box, boxes = image[is_box], box[is_box], boxes[is_box]
    scores, labels = scores[image, box], labels[image, box]
    # From here on the candidates are sorted, best first, so that positions are ranks.
    order = _best_first(_ranks(factors[:, image, box], logits=logits), boxes, labels)
    image, boxes, scores, labels = image[order], boxes[order], scores[order], labels[order]
    group = image if class_agnostic else image * num_classes + labels
    keep = _suppress(boxes, group, iou_threshold)
    keep = keep[image[keep].argsort(stable=True)]  # image by image, best first in each
    sizes = torch.bincount(image[keep], minlength=len(preds)).tolist()
    found = []
    for chosen in keep.split(sizes):
        chosen = chosen[:max_detections]
        detection = {"boxes": boxes[chosen], "scores": scores[chosen], "labels": labels[chosen]}
        if names is not None:
            detection["class_names"] = [names[label] for label in detection["labels"].tolist()]
        found.append(detection)
    return found


def _check_layout(preds: Any, objectness: bool) -> int:
    """C, after a look at the shape and at the four box numbers."""
    if not isinstance(objectness, bool):
        raise TypeError(f"objectness must be True or False, but is {describe_value(objectness)}")
    if isinstance(preds, (Mapping, tuple, list)) or hasattr(preds, "pred_boxes"):
        raise TypeError(
            f"preds must be one torch.Tensor, but is {describe_value(preds)}; pick the tensor you mean, or put boxes "
            "and class scores together with torch.cat([boxes, scores], dim=2)"
        )
    columns = 5 if objectness else 4
    wanted = f"(batch, B, {columns} + C)"
    if isinstance(preds, Tensor) and preds.ndim == 3 and len(preds) and preds.shape[1] == 0:
        check_tensor(preds.new_ones(1), "preds")  # no candidate at all, but the dtype still matters
    else:
        check_tensor(preds, "preds", ndim=3, finite=False)
        check_tensor(preds[..., :4], "the boxes in preds")
    if preds.shape[2] <= columns:
        hint = "; without objectness pass objectness=False" if preds.shape[2] == 5 else ""
        raise ValueError(f"preds must be {wanted} with C ≥ 1, but is {describe_value(preds)}{hint}")
    return preds.shape[2] - columns


def _check_names(class_names: Any, preds: Tensor, num_classes: int, objectness: bool) -> tuple[str, ...] | None:
    try:
        return check_class_names(class_names, num_classes)
    except ValueError as error:
        hint = _transpose_hint(preds)
        if objectness and len(class_names) == num_classes + 1:
            hint = f"; if preds {tuple(preds.shape)} holds no objectness, pass objectness=False"
        raise ValueError(f"{error}{hint}") from None


def _transpose_hint(preds: Tensor) -> str:
    """What to do if the axes may be exchanged: there are usually more boxes than numbers for each box."""
    if preds.shape[2] <= preds.shape[1]:
        return ""
    return f"; if preds {tuple(preds.shape)} is (batch, 4 + C, B), pass preds.mT (YOLOv8: with objectness=False)"


def _factors(preds: Tensor, num_classes: int, *, logits: bool) -> tuple[Tensor, Tensor]:
    """What the scores are products of, (F, batch, B): objectness, if there is one, and the best class; and labels."""
    parts = preds[..., 4:]
    if parts.numel() == 0:
        empty = full_precision(preds.new_empty(1, *preds.shape[:2]))
        return empty, torch.empty_like(empty[0], dtype=torch.int64)
    if logits:
        check_logits(parts, "objectness and class scores")
    else:
        hint = f"if they are logits, pass logits=True{_transpose_hint(preds)}"
        check_probabilities(parts, "objectness and class scores", hint=hint)
    best, labels = parts[..., -num_classes:].max(dim=-1)  # sigmoid keeps the order, so the maximum may come first
    factors = best[None] if parts.shape[2] == num_classes else torch.stack([parts[..., 0], best])
    return full_precision(factors), labels


def _ranks(factors: Tensor, *, logits: bool) -> Tensor:
    """What detections are ranked by, (M,): their score in double precision and, of logits, its logarithm.

    The scores of sure detections all round to 1, and would be equal; their logarithms are not: log σ(20) = −2e-9.
    """
    factors = factors.detach()
    factors = factors if factors.is_mps else factors.double()
    return F.logsigmoid(factors).sum(0) if logits else factors.prod(0)


def _corners(boxes: Tensor, box_format: str) -> tuple[Tensor, Tensor]:
    """Boxes (M, 4) as corners, and which of them are boxes at all, bool (M,): their size is not negative."""
    corners = boxes if box_format == "xyxy" else box_convert(boxes, box_format, "xyxy")
    sizes = boxes[:, 2:] if box_format != "xyxy" else boxes[:, 2:] - boxes[:, :2]
    is_box = (sizes >= 0).all(1)
    if not is_box.all():
        count = f"{int((~is_box).sum())} of the {len(boxes)} candidates"
        question = f"is box_format={box_format!r} right?"
        if not is_box.any():
            raise ValueError(f"boxes must not have a negative size, but {count} do; {question}")
        warnings.warn(f"left out {count}, whose boxes have a negative size; {question}", stacklevel=3)
    return corners, is_box


def _best_first(scores: Tensor, boxes: Tensor, labels: Tensor) -> Tensor:
    """The order of detections by falling score; among equal scores by x1, y1, x2, y2 and label."""
    order = scores.argsort(descending=True, stable=True)
    if (scores[order][1:] == scores[order][:-1]).any():  # rare with real numbers, and then worth six sorts
        order = torch.arange(len(scores), device=scores.device)
        for key in (labels, boxes[:, 3], boxes[:, 2], boxes[:, 1], boxes[:, 0]):
            order = order[key[order].argsort(stable=True)]
        order = order[scores[order].argsort(descending=True, stable=True)]
    return order


def _suppress(boxes: Tensor, group: Tensor, iou_threshold: float) -> Tensor:
    """Which boxes (M, 4), best first, survive non-maximum suppression within their group (a class in an image).

    Returns their positions, ascending.
    """
    if len(boxes) == 0:
        return group
    order = group.argsort(stable=True)  # group by group, the best first in each
    sizes = torch.unique_consecutive(group[order], return_counts=True)[1]
    boxes = boxes[order]
    if len(sizes) * int(sizes.max()) ** 2 <= _MOST_PAIRS:
        return order[_suppress_together(boxes, sizes, iou_threshold)].sort().values
    # torchvision compares in double, where float32's 0.6 is above 0.6: round the threshold as the boxes are.
    iou_threshold = torch.tensor(iou_threshold, dtype=boxes.dtype, device="cpu").item()
    rank = torch.arange(len(boxes), 0, -1, dtype=boxes.dtype, device=boxes.device)  # nms wants scores; exact to 2**24
    parts = (values.split(sizes.tolist()) for values in (order, boxes, rank))
    kept = torch.cat([index[nms(box, score, iou_threshold)] for index, box, score in zip(*parts, strict=True)])
    return kept.sort().values


# Up to this many pairs of boxes are compared at once (16 MiB in float32); more go group by group.
_MOST_PAIRS = 4_000_000


def _suppress_together(boxes: Tensor, sizes: Tensor, iou_threshold: float) -> Tensor:
    """Non-maximum suppression in all groups at once: bool (M,), for boxes (M, 4) that lie group by group, best first.

    The groups become the rows of one padded table. Column by column, from the best down, each kept box drops the later
    ones that it overlaps, in all groups at the same time.
    """
    groups, width = len(sizes), int(sizes.max())
    filled = torch.arange(width, device=boxes.device) < sizes[:, None]  # (groups, width)
    table = boxes.new_zeros(groups, width, 4)
    table[filled] = boxes
    x1, y1, x2, y2 = table.unbind(-1)  # (groups, width) each
    area = (x2 - x1) * (y2 - y1)

    def overlap(low: Tensor, high: Tensor) -> Tensor:  # along one axis, of every pair: (groups, width, width)
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
        precision: (K,), share of the detections with at least this score that are right. Detections of equal score
            pass a threshold together, so their values are the same.
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

    From the best score down, a detection is right if a true object of its class in its image, not taken by a better
    detection, overlaps it with IoU ≥ iou_threshold; it takes the one that overlaps most. Average precision is the mean,
    over 101 recalls from 0 to 1, of the best precision at that recall or beyond, as in COCO's evaluation (after
    Everingham et al. 2010, VOC).

    No figure depends on the order of images, detections or objects. Of several detections with one score a threshold
    takes all or none, where COCO's own code counts them one by one, in the order in which they come.

    Args:
        detections: N dicts with boxes (M, 4) as x1, y1, x2, y2, scores (M,), labels (M,).
        true_boxes: N tensors (G, 4) as x1, y1, x2, y2. Without an object an empty tensor of any shape and dtype.
        true_labels: N tensors (G,).
        num_classes: C.
        iou_threshold: in [0, 1].

    Raises:
        TypeError, ValueError: different numbers of images, a missing key, boxes or scores that are NaN or infinite,
            boxes of negative size, labels that are no class indices, no true object at all.
    """
    detections, true_boxes, true_labels = list(detections), list(true_boxes), list(true_labels)
    if not len(detections) == len(true_boxes) == len(true_labels):
        raise ValueError(
            "detections, true_boxes and true_labels must have one entry for each image, but have "
            f"{len(detections)}, {len(true_boxes)} and {len(true_labels)}"
        )
    check_share(iou_threshold, "iou_threshold")
    check_count(num_classes, "num_classes")
    found = [read_detection(each, f"detections[{i}]", num_classes=num_classes) for i, each in enumerate(detections)]
    boxes = [read_boxes(each, f"true_boxes[{i}]") for i, each in enumerate(true_boxes)]
    truth = [
        (there, _read_labels(labels, f"true_labels[{i}]", there, num_classes))
        for i, (there, labels) in enumerate(zip(boxes, true_labels, strict=True))
    ]
    if sum(len(labels) for _, labels in truth) == 0:
        raise ValueError("there is no true object in any image, so recall means nothing")
    objects = torch.bincount(torch.cat([labels for _, labels in truth]), minlength=num_classes)
    matched = [_match(*each, *objects_there, iou_threshold) for each, objects_there in zip(found, truth, strict=True)]
    right, scores, labels = (torch.cat(parts) for parts in zip(*matched, strict=True))
    order = scores.argsort(descending=True, stable=True)
    right, scores, labels = right[order].double(), scores[order], labels[order]
    precision, recall = _curve(right, scores, int(objects.sum()))
    every = torch.stack(
        [_average_precision(right[labels == c], scores[labels == c], int(objects[c])) for c in range(num_classes)]
    )
    return DetectionEvaluation(scores, precision, recall, every, float(every.nanmean()))


def read_detection(found: Any, name: str, *, num_classes: int, scores: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes (M, 4), scores (M,) and labels (M,) of one image, checked. Without `scores` these may be missing: NaN."""
    needed = ("boxes", "scores", "labels") if scores else ("boxes", "labels")
    if not isinstance(found, Mapping) or not all(key in found for key in needed):
        raise TypeError(
            f"{name} must be a dict with the keys {', '.join(needed)}, as interpret_detection_output returns it, but "
            f"is {describe_value(found)}"
        )
    boxes = read_boxes(found["boxes"], f"the boxes of {name}")
    labels = _read_labels(found["labels"], f"the labels of {name}", boxes, num_classes)
    values = _as_tensor(found["scores"]).to(boxes.device) if "scores" in found else boxes[:, 0] * torch.nan
    if len(boxes) == 0:
        return boxes, full_precision(values.new_empty(0) if values.is_floating_point() else boxes.new_empty(0)), labels
    check_tensor(values, f"the scores of {name}", ndim=1, finite=scores)
    if len(values) != len(boxes):
        raise ValueError(f"{name} must have one score for each of its {len(boxes)} boxes, but has {len(values)}")
    return boxes, full_precision(values), labels


def _as_tensor(value: Any) -> Tensor:
    """Lists and arrays as tensors, without a graph.

    A tensor stays on its device, where torch.as_tensor would take the default one.
    """
    return value.detach() if isinstance(value, Tensor) else torch.as_tensor(value)


def read_boxes(value: Any, name: str) -> Tensor:
    """Corners (M, 4) in float32 or better. Without an object a tensor is often empty, (0,), and always float."""
    boxes = _as_tensor(value)
    if boxes.numel() == 0:
        return full_precision(boxes if boxes.is_floating_point() else boxes.float()).reshape(0, 4)
    boxes = full_precision(check_tensor(boxes, name, ndim=2, floating=None))
    if boxes.shape[1] != 4:
        raise ValueError(f"{name} must be (M, 4) as x1, y1, x2, y2, but is {describe_value(value)}")
    if (wrong := (boxes[:, 2:] < boxes[:, :2]).any(1)).any():
        raise ValueError(
            f"{name} must be corners x1 ≤ x2, y1 ≤ y2, but {int(wrong.sum())} of {len(boxes)} are not; boxes given as "
            "centre and size go through torchvision.ops.box_convert first"
        )
    return boxes


def _read_labels(value: Any, name: str, boxes: Tensor, num_classes: int) -> Tensor:
    labels = _as_tensor(value).to(boxes.device)
    if labels.numel() == 0 and len(boxes) == 0:
        return labels.long().reshape(0)
    return check_labels(labels, name, num_samples=len(boxes), num_classes=num_classes).long()


def _match(
    boxes: Tensor, scores: Tensor, labels: Tensor, true_boxes: Tensor, true_labels: Tensor, iou_threshold: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Which detections of one image are right, with their scores and labels, (M,) each, best first."""
    order = _best_first(scores, boxes, labels)
    boxes, scores, labels = boxes[order], scores[order], labels[order]
    right = torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
    if len(boxes) == 0 or len(true_boxes) == 0:
        return right, scores, labels
    # Objects in an order of their own too: a detection may overlap two of them equally, and takes the first.
    place = _best_first(torch.zeros_like(true_labels), true_boxes, true_labels).to(boxes.device)
    true_boxes, true_labels = true_boxes.to(boxes.device)[place], true_labels.to(boxes.device)[place]
    overlap = box_iou(boxes.double(), true_boxes.double())  # (M, G)
    overlap[labels[:, None] != true_labels] = -1
    for detection in range(len(boxes)):
        best = int(overlap[detection].argmax())
        if overlap[detection, best] >= iou_threshold:
            right[detection] = True
            overlap[:, best] = -1  # taken
    return right, scores, labels


def _curve(right: Tensor, scores: Tensor, objects: int) -> tuple[Tensor, Tensor]:
    """Precision and recall (K,) at each score, of hits (K,) sorted by it. Equal scores pass a threshold together."""
    counted = torch.searchsorted(-scores, -scores, right=True)  # (K,), detections of at least this score
    found = right.cumsum(0)[counted - 1]
    return found / counted, found / objects


def _average_precision(right: Tensor, scores: Tensor, objects: int) -> Tensor:
    """COCO's average precision of one class, from its detections' hits and scores (K,), best first."""
    if objects == 0:
        return torch.tensor(torch.nan, dtype=torch.float64, device=right.device)
    precision, recall = _curve(right, scores, objects)
    best_beyond = F.pad(precision.flip(0).cummax(0).values.flip(0), (0, 1))  # 0 for a recall that is never reached
    recalls = torch.arange(101, dtype=torch.float64, device=right.device) / 100
    return best_beyond[torch.searchsorted(recall, recalls)].mean()  # from the first detection that reaches it
