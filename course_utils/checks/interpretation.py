"""The exercises of chapter 2 and the mistakes they are known for.

Exercises: 1 the smallest margins; 2 the width of a conformal interval; 3 IoU, find and fix; 4 top-p.
"""

import math
from functools import partial

import torch
from torch import Tensor
from torchvision.ops import box_convert, box_iou

from course_utils.checks.basics import bigram_logits, linear_logits, some
from course_utils.checks.exercise import Exercise
from course_utils.data import generate_scenes, load_text
from course_utils.foundation.seeding import make_generator


def _margin(values: Tensor) -> Tensor:
    top = values.topk(2, dim=1).values
    return top[:, 0] - top[:, 1]


MARGINS = Exercise(
    name="interpretation.smallest_margins",
    praise="These are the pictures to look at first.",
    reference=lambda logits, k: _margin(logits.softmax(1)).argsort()[:k],
    cases=lambda seed: [(some(linear_logits("digits"), n, seed + i), k) for i, n, k in ((0, 200, 40), (1, 30, 3))],
    wrong_answers={
        "the largest margins": (
            "These are the samples the model is most sure of. argsort sorts from small to large: take the first k.",
            lambda logits, k: _margin(logits.softmax(1)).argsort(descending=True)[:k],
        ),
        "the right ones in reverse order": (
            "Smallest margin first: do not sort the chosen ones the other way round.",
            lambda logits, k: _margin(logits.softmax(1)).argsort()[:k].flip(0),
        ),
        "the smallest confidences": (
            "A low confidence is not yet a small margin: the margin also looks at the runner-up.",
            lambda logits, k: logits.softmax(1).amax(1).argsort()[:k],
        ),
        "margins between logits": (
            "The margin is meant in probability. Put softmax first.",
            lambda logits, k: _margin(logits).argsort()[:k],
        ),
        "the margins instead of the indices": (
            "argsort gives the indices, sort the values.",
            lambda logits, k: _margin(logits.softmax(1)).sort().values[:k],
        ),
        "softmax over the batch": (
            "dim=0 runs over the samples. The classes are in dim 1.",
            lambda logits, k: _margin(logits.softmax(0)).argsort()[:k],
        ),
    },
)


def _interval_cases(seed: int) -> list[tuple]:
    # Real residuals: how far the bigram model's surprise at each character lies from its mean.
    text = load_text()
    ids = text.encode(text.characters[:4000])
    surprise = -bigram_logits().log_softmax(1)[ids[:-1], ids[1:]]
    errors = (surprise - surprise.mean()).abs()
    exact = (torch.tensor([3.0, 1.0, 2.0]), 0.75)  # a whole rank, and the last one
    return [(some(errors, 50, seed), 0.9), (some(errors, 200, seed + 1), 0.8), (some(errors, 5, seed + 2), 0.9), exact]


def _width(errors: Tensor, rank: int) -> float:
    return errors.sort().values[rank - 1].item() if rank <= len(errors) else math.inf


WIDTH = Exercise(
    name="interpretation.interval_width",
    praise="With too few samples the honest answer is an infinite interval.",
    reference=lambda errors, coverage: _width(errors, math.ceil((len(errors) + 1) * coverage)),
    cases=_interval_cases,
    wrong_answers={
        "n instead of n + 1": (
            "The new sample counts too: the rank is ⌈(n + 1)·coverage⌉, rounded up. Without the +1, or rounded down, "
            "the interval is a little too narrow, most of all for few samples.",
            lambda errors, coverage: _width(errors, math.ceil(len(errors) * coverage)),
        ),
        "an interpolated quantile": (
            "torch.quantile interpolates between two errors and leaves out the +1. Take the sorted error of the rank.",
            lambda errors, coverage: errors.quantile(coverage).item(),
        ),
        "a rank counted from 0": (
            "The rank counts from 1 and Python's index from 0: take [rank - 1].",
            lambda errors, coverage: _width(errors, math.ceil((len(errors) + 1) * coverage) + 1),
        ),
        "the complement": (
            "This is the error that only 1 − coverage of the samples stay below.",
            lambda errors, coverage: _width(errors, math.ceil((len(errors) + 1) * (1 - coverage))),
        ),
        "a multiple of the standard deviation": (
            "±1.645 standard deviations hold 90 % only of a normal distribution. Errors rarely have one.",
            lambda errors, coverage: 1.645 * errors.std().item(),
        ),
    },
)


def _iou_cases(seed: int) -> list[tuple]:
    boxes = torch.cat(generate_scenes(4, max_objects=9, seed=seed).boxes)
    jitter = 3 * torch.rand(boxes.shape, generator=make_generator(seed))
    return [(boxes, boxes + jitter), (boxes[:3], boxes[3:5])]


def _iou_with(*bugs: str):
    def answer(a: Tensor, b: Tensor) -> Tensor:
        width = torch.minimum(a[:, None, 2], b[:, 2]) - torch.maximum(a[:, None, 0], b[:, 0])
        height = torch.minimum(a[:, None, 3], b[:, 3]) - torch.maximum(a[:, None, 1], b[:, 1])
        if "negative" not in bugs:
            width, height = width.clamp(min=0), height.clamp(min=0)
        shared = width * height
        if "late" in bugs:
            shared = shared.clamp(min=0)
        area_a, area_b = ((boxes[:, 2:] - boxes[:, :2]).prod(1) for boxes in (a, b))
        union = area_a[:, None] + area_b
        return shared / (union if "union" in bugs else union - shared)

    return answer


IOU = Exercise(
    name="interpretation.pairwise_iou",
    praise="Far apart is 0, the same box is 1.",
    reference=box_iou,
    cases=_iou_cases,
    wrong_answers={
        "the broken function unchanged": (
            "There are two bugs: what happens to negative widths and heights, and how often the shared area counts.",
            _iou_with("negative", "union"),
        ),
        "the shared area counted twice in the union": (
            "area(a) + area(b) holds the shared area two times: subtract it once.",
            _iou_with("union"),
        ),
        "negative widths and heights": (
            "Boxes apart have a negative width or height. If both are negative, their product is positive again: clamp "
            "each at 0.",
            _iou_with("negative"),
        ),
        "the product clamped instead of its factors": (
            "Two negative factors make a positive product, which a clamp lets through. Clamp width and height.",
            _iou_with("negative", "late"),
        ),
        "the boxes read as centre and size": (
            "They are corners already: x1, y1, x2, y2.",
            lambda a, b: box_iou(box_convert(a, "cxcywh", "xyxy"), box_convert(b, "cxcywh", "xyxy")),
        ),
        "the table transposed": ("Rows are the boxes of a, columns those of b.", lambda a, b: box_iou(b, a)),
    },
)


def _top_p_cases(seed: int) -> list[tuple]:
    text = load_text()
    logits = bigram_logits()
    logits = logits + 0.01 * torch.rand(logits.shape, generator=make_generator(seed))  # no two are equally probable
    letters = some(text.encode("aeiotnrs q"), 3, seed).tolist()
    return [(logits[letters[0]], 0.8), (logits[letters[1]], 0.5), (logits[letters[2]], 1.0)]


def _top_p(logits: Tensor, p: float, *, before: bool = True, renormalise: bool = True, ordered: bool = False) -> Tensor:
    values, order = logits.softmax(0).sort(descending=True)
    total = values.cumsum(0) - values if before else values.cumsum(0)
    keep = total < p if before else total <= p
    result = torch.zeros_like(logits)
    result[torch.arange(len(order))[keep] if ordered else order[keep]] = values[keep]
    return result / result.sum() if renormalise else result


TOP_P = Exercise(
    name="interpretation.top_p_probabilities",
    praise="The token that crosses p stays, the tail goes, and the rest sums to 1.",
    reference=_top_p,
    cases=_top_p_cases,
    wrong_answers={
        "the token that crosses p left out": (
            "The kept probabilities must *reach* p. Ask for the sum before each token: cumsum − its own p_i < p.",
            partial(_top_p, before=False),
        ),
        "probabilities that do not sum to 1 any more": (
            "Divide by their sum at the end.",
            partial(_top_p, renormalise=False),
        ),
        "probabilities in sorted order": (
            "Write them back to the places of their tokens: result[order[keep]] = …",
            partial(_top_p, ordered=True),
        ),
        "every token with a probability of at least p": (
            "p is a sum over the kept tokens, not a limit for each.",
            lambda logits, p: torch.where(logits.softmax(0) >= p, logits.softmax(0), 0),
        ),
        "no token cut off": ("This is plain softmax.", lambda logits, p: logits.softmax(0)),
    },
)

EXERCISES = (MARGINS, WIDTH, IOU, TOP_P)
