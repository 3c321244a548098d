"""The exercises of chapter 6 and the mistakes they are known for.

Exercises: 1 normalising images; 2 the worst mistakes; 3 a threshold that keeps a promise; 4 two classifiers on the
same images.
"""

import math
from functools import partial

import torch
from torch import Tensor

from course_utils.checks.exercise import Exercise
from course_utils.data import generate_images, load_recorded_outputs
from course_utils.foundation.seeding import make_generator


def _recorded(seed: int, count: int) -> tuple[Tensor, Tensor]:
    """Recorded logits and true classes of `count` test images of CIFAR-10."""
    recorded = load_recorded_outputs()
    index = torch.randperm(len(recorded.test_target), generator=make_generator(seed))[:count]
    return recorded.test_logits[index], recorded.test_target[index]


def _prepare_cases(seed: int) -> list[tuple]:
    images = generate_images(6, seed=seed).images
    mean, std = torch.tensor([0.49, 0.48, 0.44]), torch.tensor([0.25, 0.24, 0.26])
    return [(images, mean, std), (images[:1], mean, std), (images[:3, :, :3, :3], mean, std)]


def _columns(values: Tensor) -> Tensor:
    return values[:, None, None]


def _prepare(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    return (images / 255 - _columns(mean)) / _columns(std)


PREPARE = Exercise(
    name="capstone.prepare",
    praise="These are the numbers that the network was trained on.",
    reference=_prepare,
    cases=_prepare_cases,
    tolerance=1e-4,
    wrong_answers={
        "pixels from 0 to 255": (
            "mean and std are in units in which a pixel lies in [0, 1]: divide by 255 first.",
            lambda images, mean, std: (images - _columns(mean)) / _columns(std),
        ),
        "the mean left in": (
            "Subtract the mean, then divide by the standard deviation.",
            lambda images, mean, std: images / 255 / _columns(std),
        ),
        "divided before subtracting": (
            "The mean is that of the pixels, not of the scaled pixels: subtract first.",
            lambda images, mean, std: images / 255 / _columns(std) - _columns(mean),
        ),
        "the batch's own statistics": (
            "Then a picture's numbers depend on its neighbours (E46). Use the mean and std you were given.",
            lambda images, *_: _prepare(images, (images / 255).mean((0, 2, 3)), (images / 255).std((0, 2, 3))),
        ),
        "not divided by the spread": (
            "Divide by std as well.",
            lambda images, mean, std: images / 255 - _columns(mean),
        ),
        "divided by the variance": (
            "Divide by std, not by its square.",
            lambda images, mean, std: _prepare(images, mean, std**2),
        ),
        "whole-number division": (
            "images // 255 keeps only black and white. Use /, which gives floats.",
            lambda images, mean, std: (images // 255 - _columns(mean)) / _columns(std),
        ),
        "channels along the wrong axis": (
            "mean[:, None, None] stands for the channels; a plain mean of shape (3,) meets the last axis, the width.",
            lambda images, mean, std: (images / 255 - mean) / std,
        ),
    },
)


def _log_true(logits: Tensor, target: Tensor) -> Tensor:
    return logits.log_softmax(1).gather(1, target[:, None])[:, 0]


def _surest_mistakes(logits: Tensor, target: Tensor, k: int) -> Tensor:
    confidence, labels = logits.softmax(1).max(1)
    return torch.where(labels != target, confidence, -1.0).argsort(descending=True)[:k]


WORST = Exercise(
    name="capstone.worst_mistakes",
    praise="Now look at these pictures: they teach more than the average.",
    reference=lambda logits, target, k: _log_true(logits, target).argsort()[:k],
    # 60 of 400 are more than are wrong, so right answers are among them.
    cases=lambda seed: [(*_recorded(seed, 400), 60), (*_recorded(seed + 1, 1000), 5)],
    wrong_answers={
        "the best pictures first": (
            "The least probability comes first: sort in ascending order.",
            lambda logits, target, k: _log_true(logits, target).argsort(descending=True)[:k],
        ),
        "the least sure pictures": (
            "A picture can be unsure and right. What counts is the probability of its *true* class.",
            lambda logits, target, k: logits.softmax(1).max(1).values.argsort()[:k],
        ),
        "raw logits compared between pictures": (
            "Logits of two pictures have no common zero. Softmax makes them comparable.",
            lambda logits, target, k: logits.gather(1, target[:, None])[:, 0].argsort()[:k],
        ),
        "the surest wrong answers": (
            "Close, but the confidence in the wrong class is another quantity: the rest may lie on the true class.",
            _surest_mistakes,
        ),
        "values instead of positions": (
            "Return which pictures, not their probabilities: argsort instead of sort.",
            lambda logits, target, k: _log_true(logits, target).exp().sort().values[:k],
        ),
        "softmax over the pictures": (
            "dim=0 runs over the pictures; the classes are dim 1.",
            lambda logits, target, k: logits.softmax(0).gather(1, target[:, None])[:, 0].argsort()[:k],
        ),
    },
)


# Two dozen images, made by hand so that each known mistake gives another threshold.
_FEW_CONFIDENCES = (
    *(0.5, 0.65, 0.5, 0.95, 0.65, 0.7, 0.7, 0.5, 0.5, 0.99, 0.85, 0.85),
    *(0.6, 0.85, 0.7, 0.95, 0.9, 0.85, 0.85, 0.65, 0.75, 0.85, 0.65, 0.55),
)
_FEW_RIGHT = (0, 1, 0, 1, 0, 1, 1, 1, 0, 1, 1, 1, 1, 0, 1, 1, 0, 1, 1, 1, 0, 1, 0, 1)


def _promise_cases(seed: int) -> list[tuple]:
    cases = [(torch.tensor(_FEW_CONFIDENCES), torch.tensor(_FEW_RIGHT).bool(), 0.21)]
    # Limits that no share of so few images hits exactly: there rounding would decide.
    for offset, count, max_error in ((0, 3000, 0.0207), (1, 1500, 0.0513), (2, 600, 0.0107)):
        logits, target = _recorded(seed + offset, count)
        # Rounded to two digits as people do, so that there are ties.
        confidence, labels = (logits / 0.6).softmax(1).max(1)
        cases.append(((confidence * 100).round() / 100, labels == target, max_error))
    # One that no threshold keeps, and one that is kept exactly, in numbers without rounding.
    cases.append((torch.tensor([0.6, 0.9, 0.7]), torch.tensor([True, False, True]), 0.1))
    cases.append((torch.tensor([0.5, 0.625, 0.75, 0.875]), torch.tensor([False, True, True, True]), 0.25))
    return cases


def _promise(
    confidence: Tensor, right: Tensor, max_error: float, *, strict=False, highest=False, of_all=False
) -> float:
    """The lowest threshold whose answers have at most the wanted error; each distinct confidence is tried."""
    kept = []
    for threshold in confidence.unique().tolist():  # ascending
        answered = confidence > threshold if strict else confidence >= threshold
        if not answered.any():
            continue
        wrong = (~right[answered]).sum().item() / (len(right) if of_all else int(answered.sum()))
        if wrong <= max_error:
            kept.append(threshold)
    return max(kept, default=math.inf) if highest else min(kept, default=math.inf)


def _promise_one_by_one(confidence: Tensor, right: Tensor, max_error: float, *, to_first_failure=False) -> float:
    """As if pictures of equal confidence could be answered apart."""
    order = confidence.argsort(descending=True, stable=True)
    error = (~right[order]).double().cumsum(0) / torch.arange(1, len(order) + 1)
    kept, broken = (torch.nonzero(places)[:, 0] for places in (error <= max_error, error > max_error))
    last = max(0, int(broken.min()) - 1) if to_first_failure else int(kept.max())
    return confidence[order][last].item()


PROMISE = Exercise(
    name="capstone.threshold_for_error",
    praise="As many answers as the promise allows. Measure it on other pictures before you sign.",
    reference=_promise,
    cases=_promise_cases,
    wrong_answers={
        "the highest threshold": (
            "Any threshold that is high enough keeps the promise. The *lowest* answers the most pictures.",
            partial(_promise, highest=True),
        ),
        "errors divided by all pictures": (
            "The promise is about the answered pictures: divide by their number.",
            partial(_promise, of_all=True),
        ),
        "greater instead of at least": (
            "A picture whose confidence equals the threshold is answered: >=.",
            partial(_promise, strict=True),
        ),
        "stopped in the middle of equal confidences": (
            "Pictures of equal confidence are answered together or not at all. Try each distinct value.",
            _promise_one_by_one,
        ),
        "stopped at the first failure": (
            "The error does not grow steadily: one early mistake may push it over the limit, and it falls back.",
            partial(_promise_one_by_one, to_first_failure=True),
        ),
        "one minus the error": (
            "A calibrated confidence of 0.98 is 98 % right *at that confidence*. All above it are better still.",
            lambda c, r, e: 1 - e,
        ),
    },
)


def _paired_cases(seed: int) -> list[tuple]:
    cases = []
    for offset, count, shift in ((0, 2000, 1.0), (1, 1000, 3.0)):
        logits, target = _recorded(seed + offset, count)
        careful = logits.clone()
        careful[:, 3] -= shift  # a second classifier: it says "cat" only when it is surer
        cases.append((logits.argmax(1), careful.argmax(1), target))
    return cases


def _differences(first: Tensor, second: Tensor, target: Tensor) -> Tensor:
    return (second == target).double() - (first == target).double()


def _paired(first: Tensor, second: Tensor, target: Tensor) -> tuple[float, float]:
    d = _differences(first, second, target)
    return d.mean().item(), (d.std() / len(d) ** 0.5).item()


def _unpaired(first: Tensor, second: Tensor, target: Tensor) -> tuple[float, float]:
    p, q = ((labels == target).double().mean() for labels in (first, second))
    return (q - p).item(), ((p * (1 - p) + q * (1 - q)) / len(target)).sqrt().item()


PAIRED = Exercise(
    name="capstone.paired_difference",
    praise="Pictures on which both agree say nothing about the difference, and no longer blur it.",
    reference=_paired,
    cases=_paired_cases,
    wrong_answers={
        "two separate samples": (
            "Both classifiers saw the same pictures. Take the difference picture by picture (−1, 0 or 1), then its "
            "standard error; adding two variances makes it about twice as large or more.",
            _unpaired,
        ),
        "the first minus the second": ("Positive means that the second is better.", lambda a, b, t: _paired(b, a, t)),
        "the spread of single pictures": (
            "A standard error is the standard deviation divided by the root of the number of pictures.",
            lambda a, b, t: (_paired(a, b, t)[0], _differences(a, b, t).std().item()),
        ),
        "divided by n instead of its root": (
            "The standard error falls with the *square root* of the number of pictures.",
            lambda a, b, t: (_paired(a, b, t)[0], (_differences(a, b, t).std() / len(t)).item()),
        ),
        "different answers counted": (
            "Where the two differ, both may be wrong. Compare each with the true class.",
            lambda a, b, t: ((a != b).double().mean().item(), ((a != b).double().std() / len(t) ** 0.5).item()),
        ),
    },
)

EXERCISES = (PREPARE, WORST, PROMISE, PAIRED)
