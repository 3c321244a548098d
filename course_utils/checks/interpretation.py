"""The exercises of chapter 2 and the mistakes they are known for.

Exercises: 1 the smallest margins; 2 read a residual plot; 3 the width of a conformal interval; 4 decode a detector's
cells; 5 IoU, find and fix; 6 a sampler; 7 top-p.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import box_convert, box_iou

from course_utils.checks.basics import bigram_logits, linear_logits, some
from course_utils.checks.exercise import Exercise
from course_utils.data import generate_scenes, load_split, load_text
from course_utils.foundation.seeding import make_generator


def _margin_cases(seed: int) -> list[tuple]:
    logits = linear_logits("digits")
    return [(some(logits, 200, seed), 40), (some(logits, 30, seed + 1), 3)]


def _margin(values: Tensor) -> Tensor:
    top = values.topk(2, dim=1).values
    return top[:, 0] - top[:, 1]


MARGINS = Exercise(
    name="interpretation.smallest_margins",
    praise="These are the pictures to look at first.",
    reference=lambda logits, k: _margin(logits.softmax(1)).argsort()[:k],
    cases=_margin_cases,
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
        "the largest margins in reverse order": (
            "These are the k samples the model is most sure of. Take the first k of argsort, not the last.",
            lambda logits, k: _margin(logits.softmax(1)).argsort()[-k:],
        ),
    },
)


def _bias_cases(seed: int) -> list[tuple]:
    from sklearn.linear_model import LinearRegression

    split = load_split("diabetes", test_size=0.5)
    chosen = torch.randperm(len(split.x_test), generator=make_generator(seed))[:200]
    x, targets = split.x_test[chosen], split.y_test[chosen, 0]

    def predictions(patients: int) -> Tensor:
        """Of a linear regression that has seen this many patients: of few, and it spreads its answers too far."""
        model = LinearRegression().fit(split.x_train[:patients].numpy(), split.y_train[:patients, 0].numpy())
        return torch.as_tensor(model.predict(x.numpy())).float()

    few, many = predictions(20), predictions(len(split.x_train))
    return [(few, targets), (many, targets), (few[:8], targets[:8])]


def _bias(
    predictions: Tensor,
    targets: Tensor,
    *,
    sort_by: Callable[[Tensor, Tensor], Tensor] = lambda predictions, targets: predictions,
    summary: Callable[[Tensor], Tensor] = Tensor.mean,
) -> Tensor:
    """A summary of the errors in each quarter of the samples, right by default."""
    errors = predictions - targets
    return torch.stack([summary(errors[rows]) for rows in sort_by(predictions, targets).argsort().tensor_split(4)])


def _bias_of_range(predictions: Tensor, targets: Tensor) -> Tensor:
    low, high = predictions.min(), predictions.max()
    quarter = ((predictions - low) / (high - low) * 4).long().clamp(max=3)
    return torch.stack([(predictions - targets)[quarter == q].mean() for q in range(4)])


BIAS = Exercise(
    name="interpretation.bias_by_quarter",
    praise="These four numbers are what the eye looks for in a residual plot: does the cloud lie around 0 everywhere?",
    reference=_bias,
    cases=_bias_cases,
    tolerance=1e-4,
    wrong_answers={
        "target − prediction": (
            "The sign is turned. A bias above 0 means that the predictions are too high.",
            lambda predictions, targets: -_bias(predictions, targets),
        ),
        "sorted by the target": (
            "When you predict, the target is unknown, so sort by the prediction. Sorted by the target, every model "
            "with errors looks biased: the highest targets are mostly those that came out above their prediction.",
            lambda predictions, targets: _bias(predictions, targets, sort_by=lambda p, t: t),
        ),
        "sorted by the error": (
            "Sort by the prediction. The quarter with the largest errors always has a bias.",
            lambda predictions, targets: _bias(predictions, targets, sort_by=lambda p, t: p - t),
        ),
        "not sorted": (
            "These are quarters in the order in which the patients came. Sort by the prediction first.",
            lambda predictions, targets: _bias(
                predictions, targets, sort_by=lambda p, t: torch.arange(len(p), device=p.device)
            ),
        ),
        "the highest quarter first": (
            "The values are right. Put the quarter with the lowest predictions first.",
            lambda predictions, targets: _bias(predictions, targets).flip(0),
        ),
        "only the predictions sorted": (
            "The predictions moved and the targets did not, so each was compared with another patient's target. Take "
            "the order from argsort, and use it on both.",
            lambda predictions, targets: _bias(predictions.sort().values, targets),
        ),
        "predictions and targets sorted each by itself": (
            "Two sorts tear the pairs apart: the lowest prediction need not belong to the lowest target. Take the "
            "order of the predictions from argsort, and use it on both.",
            lambda predictions, targets: _bias(predictions.sort().values, targets.sort().values),
        ),
        "absolute errors": (
            "This is how large the errors are. A bias is their mean with the sign: too high and too low cancel.",
            lambda predictions, targets: _bias(predictions, targets, summary=lambda errors: errors.abs().mean()),
        ),
        "squared errors": (
            "This is how large the errors are. A bias is their mean with the sign: too high and too low cancel.",
            lambda predictions, targets: _bias(predictions, targets, summary=lambda errors: errors.square().mean()),
        ),
        "sums instead of means": (
            "A sum grows with the number of patients. Take the mean of each quarter.",
            lambda predictions, targets: _bias(predictions, targets, summary=Tensor.sum),
        ),
        "medians": (
            "The median is a fair question too, but another one. The exercise asks for the mean.",
            lambda predictions, targets: _bias(predictions, targets, summary=Tensor.median),
        ),
        "quarters of the range": (
            "The range from the lowest to the highest prediction was cut into four equal pieces, which may hold very "
            "few patients. Each quarter shall hold a fourth of the patients.",
            _bias_of_range,
        ),
        "one number for all patients": (
            "This is the bias over all patients. It can be near 0 while the quarters are far from it.",
            lambda predictions, targets: (predictions - targets).mean(),
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


def _rank(errors: Tensor, coverage: float) -> int:
    return math.ceil((len(errors) + 1) * coverage)


_BEYOND_HINT = (
    "The rank is larger than the number of samples: so few errors cannot promise this coverage with any finite width. "
    "Ask whether rank > n before you look the error up, and return math.inf then."
)

WIDTH = Exercise(
    name="interpretation.interval_width",
    praise="With too few samples the honest answer is an infinite interval.",
    reference=lambda errors, coverage: _width(errors, _rank(errors, coverage)),
    cases=_interval_cases,
    wrong_answers={
        "the largest error where it should be infinity": (
            f"{_BEYOND_HINT} The largest error would promise more than these samples can keep.",
            lambda errors, coverage: _width(errors, min(_rank(errors, coverage), len(errors))),
        ),
        "the right error as a tensor": (
            "The value is right. Make it a Python float: .item().",
            lambda errors, coverage: torch.tensor(_width(errors, _rank(errors, coverage))),
        ),
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
        "a rank beyond n, looked up in a tensor": (
            _BEYOND_HINT,
            lambda errors, coverage: errors.sort().values[_rank(errors, coverage) - 1].item(),
        ),
        "a rank beyond n, looked up in a list": (
            _BEYOND_HINT,
            lambda errors, coverage: sorted(errors.tolist())[_rank(errors, coverage) - 1],
        ),
        "a rank beyond n, looked up in an array": (
            _BEYOND_HINT,
            lambda errors, coverage: float(np.sort(errors.numpy())[_rank(errors, coverage) - 1]),
        ),
        "a rank beyond n, given to kthvalue": (
            _BEYOND_HINT,
            lambda errors, coverage: errors.kthvalue(_rank(errors, coverage)).values.item(),
        ),
        "a multiple of the standard deviation": (
            "±1.645 standard deviations hold 90 % only of a normal distribution. Errors rarely have one.",
            lambda errors, coverage: 1.645 * errors.std().item(),
        ),
    },
)


def _cell_rows(num_classes: int, scenes: int, seed: int) -> Tensor:
    """Rows as a grid detector returns them, (B, 5 + C): a noisy copy of every true box, and as many empty cells.

    A trained detector's objectness is high where an object is, and low elsewhere; so it is here, with noise.
    """
    generator = make_generator(seed)
    found = generate_scenes(scenes, max_objects=4, seed=seed)
    boxes = box_convert(torch.cat(found.boxes), "xyxy", "cxcywh")
    labels = torch.cat(found.labels) % num_classes

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    n = len(boxes)
    classes = 1.5 * noise(n, num_classes) - 1
    classes[torch.arange(n), labels] += 3
    objects = torch.cat([boxes + noise(n, 4), 1.5 + noise(n, 1), classes], dim=1)
    empty_boxes = 8 + 48 * torch.rand(n, 4, generator=generator)
    empty = torch.cat([empty_boxes, noise(n, 1) - 3, noise(n, num_classes) - 1], dim=1)
    rows = torch.cat([objects, empty])
    return rows[torch.randperm(2 * n, generator=generator)]


def _cell_cases(seed: int) -> list[tuple]:
    return [(_cell_rows(4, 3, seed),), (_cell_rows(10, 2, seed + 1),), (_cell_rows(3, 1, seed + 2)[:1],)]


def _decode(
    *,
    boxes: Callable[[Tensor], Tensor] = lambda boxes: box_convert(boxes, "cxcywh", "xyxy"),
    scores: Callable[[Tensor, Tensor], Tensor] = lambda objectness, best: objectness.sigmoid() * best.sigmoid(),
    classes: slice = slice(5, None),
) -> Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]:
    """The decoder, right by default; the options put one mistake into it."""

    def answer(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        best, labels = rows[:, classes].max(dim=1)
        return boxes(rows[:, :4]), scores(rows[:, 4], best), labels

    return answer


def _softmax_cells(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    best, labels = rows[:, 5:].softmax(1).max(1)
    return box_convert(rows[:, :4], "cxcywh", "xyxy"), rows[:, 4].sigmoid() * best, labels


def _full_sizes(boxes: Tensor) -> Tensor:
    return torch.cat([boxes[:, :2] - boxes[:, 2:], boxes[:, :2] + boxes[:, 2:]], dim=1)


CELLS = Exercise(
    name="interpretation.decode_cells",
    praise="A row of raw numbers became a box, a score and a class. Thresholds and NMS are all that is left to do.",
    reference=_decode(),
    cases=_cell_cases,
    tolerance=1e-4,
    wrong_answers={
        "softmax over the classes": (
            "This detector was trained with a sigmoid for each class, so read it with sigmoids. Softmax makes the "
            "classes compete, and gives a row without any object a sure class all the same.",
            _softmax_cells,
        ),
        "the objectness ignored": (
            "A cell without an object returns a class too. Only its low objectness says that the class means nothing: "
            "multiply by sigmoid(objectness).",
            _decode(scores=lambda objectness, best: best.sigmoid()),
        ),
        "the objectness alone": (
            "The score also holds how sure the class is: multiply by the sigmoid of the best class logit.",
            _decode(scores=lambda objectness, best: objectness.sigmoid()),
        ),
        "raw logits multiplied": (
            "Logits are no probabilities. The product of two negative logits is even positive. Take the sigmoid of "
            "each, then multiply.",
            _decode(scores=lambda objectness, best: objectness * best),
        ),
        "the sigmoid of a product of logits": (
            "Take the sigmoid of each logit first, and multiply the two probabilities.",
            _decode(scores=lambda objectness, best: (objectness * best).sigmoid()),
        ),
        "the sigmoid of a sum of logits": (
            "Adding logits is not multiplying probabilities. Take the sigmoid of each logit first, then multiply.",
            _decode(scores=lambda objectness, best: (objectness + best).sigmoid()),
        ),
        "the raw objectness as score": (
            "This is a logit. A score lies between 0 and 1: sigmoid(objectness) times the sigmoid of the best class.",
            _decode(scores=lambda objectness, best: objectness),
        ),
        "the raw best class logit as score": (
            "This is a logit. A score lies between 0 and 1: sigmoid(objectness) times the sigmoid of the best class.",
            _decode(scores=lambda objectness, best: best),
        ),
        "one factor left as a logit, the class": (
            "The objectness went through sigmoid and the best class logit did not.",
            _decode(scores=lambda objectness, best: objectness.sigmoid() * best),
        ),
        "centre and size read as corners": (
            "The four numbers are cx, cy, width, height. The corners are cx − width / 2 and so on.",
            _decode(boxes=lambda boxes: boxes),
        ),
        "boxes of twice the size": (
            "Half of the width lies on each side of the centre: cx − width / 2 and cx + width / 2.",
            _decode(boxes=_full_sizes),
        ),
        "the centre taken for the top left corner": (
            "Half of the width lies to the left of the centre: x1 = cx − width / 2, x2 = cx + width / 2.",
            _decode(boxes=lambda boxes: box_convert(boxes, "xywh", "xyxy")),
        ),
        "the objectness counted as a class": (
            "Column 4 is the objectness. The classes begin at column 5, so every label is one too large.",
            _decode(classes=slice(4, None)),
        ),
        "the best class looked for in all columns": (
            "The four box numbers are no classes. The classes begin at column 5.",
            _decode(classes=slice(0, None)),
        ),
        "argmax over the cells": (
            "dim=0 runs over the cells, so the best cell of each class was found. The classes are in dim 1.",
            lambda rows: (*_decode()(rows)[:2], rows[:, 5:].argmax(0)),
        ),
        "the largest class score of all cells": (
            ".max() without dim is one number for the whole tensor. Each row has its own: dim=1.",
            lambda rows: (
                box_convert(rows[:, :4], "cxcywh", "xyxy"),
                rows[:, 4].sigmoid() * rows[:, 5:].sigmoid().max(),
                rows[:, 5:].argmax(1),
            ),
        ),
        "scores in the shape (B, C)": (
            "Each class got a score. A row has one score, that of its best class.",
            lambda rows: (
                box_convert(rows[:, :4], "cxcywh", "xyxy"),
                rows[:, 4:5].sigmoid() * rows[:, 5:].sigmoid(),
                rows[:, 5:].argmax(1),
            ),
        ),
        "labels and scores swapped": (
            "The values are right. Return boxes, scores, labels, in this order.",
            lambda rows: [_decode()(rows)[i] for i in (0, 2, 1)],
        ),
    },
)


def _iou_cases(seed: int) -> list[tuple]:
    scenes = generate_scenes(4, max_objects=9, seed=seed)
    boxes = torch.cat(scenes.boxes)
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


def _sampler_cases(seed: int) -> list[tuple]:
    text = load_text()
    counted = bigram_logits()
    no_ties = counted + 0.01 * torch.rand(counted.shape, generator=make_generator(seed))
    a, b = some(text.encode("aeiotnrs"), 2, seed).tolist()
    # After a capital T the text has an h most often, and then e and r exactly as often as each other: a tie at k = 2.
    (capital_t,) = text.encode("T").tolist()
    return [(no_ties[a], 0.7, 5), (no_ties[b], 2.0, 3), (counted[capital_t], 1.5, 2)]


def _observe_sampler(answer: Callable, logits: Tensor, temperature: float, top_k: int) -> Tensor:
    """Which of several equally probable tokens stay is left open, so among equals the kept ones are put first."""
    result = answer(logits, temperature, top_k)
    if not isinstance(result, Tensor) or result.shape != logits.shape:
        return result
    result = result.clone()
    for value in logits.unique():
        equals = logits == value
        result[equals] = result[equals].sort(descending=True).values
    return result


def _top_k(logits: Tensor, k: int, *, largest: bool = True) -> Tensor:
    """Which k tokens stay, bool (V,)."""
    keep = torch.zeros_like(logits, dtype=torch.bool)
    keep[logits.topk(k, largest=largest).indices] = True
    return keep


def _sampler(logits: Tensor, temperature: float, top_k: int) -> Tensor:
    return (logits / temperature).masked_fill(~_top_k(logits, top_k), -math.inf).softmax(0)


SAMPLER = Exercise(
    name="interpretation.sampling_distribution",
    praise="Exactly k tokens stay and their probabilities sum to 1: torch.multinomial can draw from them.",
    reference=_sampler,
    cases=_sampler_cases,
    observe=_observe_sampler,
    wrong_answers={
        "the temperature without effect": (
            "Probabilities divided by T and scaled to sum to 1 are the old ones again. The temperature belongs to the "
            "logits, before softmax.",
            lambda logits, temperature, k: _sampler(logits, 1.0, k),
        ),
        "logits times the temperature": (
            "Hot means unsure: the logits are divided by T. Multiplying makes T = 2 sharper instead of softer.",
            lambda logits, temperature, k: _sampler(logits, 1 / temperature, k),
        ),
        "probabilities that do not sum to 1 any more": (
            "Cutting tokens off takes their probability away. Divide the rest by its sum.",
            lambda logits, temperature, k: (logits / temperature).softmax(0) * _top_k(logits, k),
        ),
        "no token cut off": (
            "This is softmax at temperature T. All but the k most probable tokens must get the probability 0.",
            lambda logits, temperature, k: (logits / temperature).softmax(0),
        ),
        "the k least probable tokens": (
            "argsort and sort go from small to large: take the last k, or say descending=True.",
            lambda logits, temperature, k: (
                (logits / temperature).masked_fill(~_top_k(logits, k, largest=False), -math.inf).softmax(0)
            ),
        ),
        "only the probabilities that are left": (
            "Return one probability for every token of the vocabulary, (V,): write the k values to the places of their "
            "tokens, with 0 elsewhere.",
            lambda logits, temperature, k: (logits.topk(k).values / temperature).softmax(0),
        ),
        "probabilities in the order of their size": (
            "Write them back to the places of their tokens; topk returns these as `indices`.",
            lambda logits, temperature, k: _sampler(logits, temperature, k).sort(descending=True).values,
        ),
        "logits that were set to 0": (
            "A logit of 0 is not a probability of 0: e^0 = 1, so the cut tokens came back. Set the cut logits to minus "
            "infinity.",
            lambda logits, temperature, k: (logits / temperature).masked_fill(~_top_k(logits, k), 0).softmax(0),
        ),
        "the raw logits of the tokens that stay": (
            "These are logits, not probabilities. Softmax is missing, over the tokens that stay.",
            lambda logits, temperature, k: (logits / temperature).masked_fill(~_top_k(logits, k), 0),
        ),
        "more than k tokens, because of a tie": (
            "Several tokens are exactly as probable as the k-th, and `>=` keeps them all. Take the places that topk "
            "returns: they are exactly k.",
            lambda logits, temperature, k: (
                (logits / temperature).masked_fill(logits < logits.topk(k).values[-1], -math.inf).softmax(0)
            ),
        ),
        "fewer than k tokens, because of a limit": (
            "`>` drops the k-th token itself. Take the places that topk returns: they are exactly k.",
            lambda logits, temperature, k: (
                (logits / temperature).masked_fill(logits <= logits.topk(k).values[-1], -math.inf).softmax(0)
            ),
        ),
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
            lambda logits, p: _top_p(logits, p, before=False),
        ),
        "probabilities that do not sum to 1 any more": (
            "Divide by their sum at the end.",
            lambda logits, p: _top_p(logits, p, renormalise=False),
        ),
        "probabilities in sorted order": (
            "Write them back to the places of their tokens: result[order[keep]] = …",
            lambda logits, p: _top_p(logits, p, ordered=True),
        ),
        "every token with a probability of at least p": (
            "p is a sum over the kept tokens, not a limit for each.",
            lambda logits, p: torch.where(logits.softmax(0) >= p, logits.softmax(0), 0),
        ),
        "no token cut off": ("This is plain softmax.", lambda logits, p: logits.softmax(0)),
        "the raw logits of the tokens that stay": (
            "These are logits, not probabilities. Cut the probabilities instead, and divide by their sum.",
            lambda logits, p: torch.where(_top_p(logits, p) > 0, logits, 0),
        ),
    },
)

EXERCISES = (MARGINS, BIAS, WIDTH, CELLS, IOU, SAMPLER, TOP_P)
