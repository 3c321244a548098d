"""The exercises of chapter 3 and the mistakes they are known for.

Exercises: 1 the cheapest threshold; 2 the calibration error; 3 an ensemble, find and fix; 4 mutual information.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from course_utils.checks.basics import linear_logits, some
from course_utils.checks.exercise import Exercise
from course_utils.data import load_split
from course_utils.foundation.seeding import make_generator
from course_utils.optimization import expected_calibration_error


def _binary_data(seed: int, count: int) -> tuple[Tensor, Tensor]:
    """Probabilities of a real, softened classifier with its labels, both classes present."""
    logits, target = linear_logits("breast_cancer")[:, 0], load_split("breast_cancer").y_test
    order = torch.randperm(len(logits), generator=make_generator(seed))[:count]
    noise = torch.randn(len(logits), generator=make_generator(seed + 7))
    return torch.sigmoid(logits / 4 + noise)[order], target[order]


def _cost_cases(seed: int) -> list[tuple]:
    tie = (torch.tensor([0.6, 0.8, 0.4, 0.2]), torch.tensor([0, 1, 0, 1]), 2.0)  # 0.2 and 0.8 cost the same
    # 1/8 has no rounding, so equal costs are equal in every arithmetic.
    return [(*_binary_data(seed, 80), 30.0), (*_binary_data(seed + 1, 80), 0.125), tie]


def _cheapest(p: Tensor, target: Tensor, missed: float, *, alarm: float = 1.0, last: bool = True, value=None):
    candidates = p.unique() if value is None else value
    misses = ((p[None] < candidates[:, None]) & (target == 1)).sum(1)
    alarms = ((p[None] >= candidates[:, None]) & (target == 0)).sum(1)
    cost = missed * misses + alarm * alarms
    places = torch.nonzero(cost == cost.min())[:, 0]
    return candidates[places[-1 if last else 0]].item()


COST = Exercise(
    name="optimization.cheapest_threshold",
    praise="The price of the errors moves the threshold.",
    reference=_cheapest,
    cases=_cost_cases,
    wrong_answers={
        "the costs swapped": (
            "A *missed positive* costs `missed`, a false alarm costs 1.",
            lambda p, y, missed: _cheapest(p, y, 1.0, alarm=missed),
        ),
        "both errors at the same price": (
            "The misses must be multiplied by `missed`.",
            lambda p, y, missed: _cheapest(p, y, 1.0),
        ),
        "a fixed grid of thresholds": (
            "The best threshold lies between two points of a grid. Try the probabilities that occur.",
            lambda p, y, missed: _cheapest(p, y, missed, value=torch.linspace(0, 1, 100)),
        ),
        "the lowest of equal thresholds": (
            "Among thresholds of equal cost take the highest.",
            partial(_cheapest, last=False),
        ),
        "the conventional 0.5": ("0.5 is a convention; the costs decide.", lambda p, y, missed: 0.5),
    },
)


def _ece_cases(seed: int) -> list[tuple]:
    logits, target = linear_logits("digits"), load_split("digits").y_test
    order = torch.randperm(len(logits), generator=make_generator(seed))[:200]
    # Half of the answers are too unsure and half too sure, so that gaps of both signs meet.
    mixed = torch.cat([(logits[order] / 3).softmax(1), (logits * 3).softmax(1)])
    # Confidences of exactly 1/2 belong to the lower of two bins.
    half = torch.tensor([[0.5, 0.25, 0.25], [0.5, 0.3125, 0.1875], [0.4375, 0.3125, 0.25], [0.5625, 0.25, 0.1875]])
    edge = (half, torch.tensor([0, 0, 1, 0]))
    return [(mixed, torch.cat([target[order], target])), ((logits[order] / 3).softmax(1), target[order]), edge]


def _bin_gaps(confidence: Tensor, correct: Tensor) -> tuple[Tensor, Tensor]:
    """Share of the samples and gap, signed, in each filled bin of ten."""
    shares, gaps = [], []
    for k in range(10):
        here = (confidence > k / 10) & (confidence <= (k + 1) / 10)
        if here.any():
            shares.append(here.float().mean())
            gaps.append(confidence[here].mean() - correct[here].mean())
    return torch.stack(shares), torch.stack(gaps)


def _read(probabilities: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    confidence, label = probabilities.max(1)
    return confidence, (label == target).float()


def _ece_with(total: Callable[[Tensor, Tensor], Tensor], read: Callable = _read) -> Callable[[Tensor, Tensor], float]:
    """An answer that adds up the bins' shares and gaps in another way."""
    return lambda probabilities, target: total(*_bin_gaps(*read(probabilities, target))).item()


ECE = Exercise(
    name="optimization.calibration_error",
    praise="Top label, ten bins, weighted by how many samples each holds.",
    reference=lambda probabilities, target: expected_calibration_error(probabilities, target, n_bins=10),
    cases=_ece_cases,
    tolerance=1e-4,
    wrong_answers={
        "no bins at all": (
            "This is the difference of mean confidence and accuracy. Too sure here and too unsure there cancel; the "
            "bins keep them apart.",
            lambda p, y: (p.amax(1).mean() - (p.argmax(1) == y).float().mean()).abs().item(),
        ),
        "gaps that cancel": (
            "Take the absolute value of each bin's gap before you add them up.",
            _ece_with(lambda shares, gaps: (shares * gaps).sum()),
        ),
        "every bin with the same weight": (
            "A bin of one sample counts as much as a bin of a hundred. Weigh each by its share of the samples.",
            _ece_with(lambda shares, gaps: gaps.abs().mean()),
        ),
        "squared gaps": (
            "The l1 error adds absolute gaps, not their squares.",
            _ece_with(lambda shares, gaps: (shares * gaps.square()).sum()),
        ),
        "only the probability of class 1": (
            "In a task of several classes the confidence is the largest probability of the row.",
            _ece_with(lambda shares, gaps: (shares * gaps.abs()).sum(), read=lambda p, y: (p[:, 1], (y == 1).float())),
        ),
        "fifteen bins": ("The task asks for ten.", lambda p, y: expected_calibration_error(p, y, n_bins=15)),
    },
)


def _member_cases(seed: int) -> list[tuple]:
    logits = some(linear_logits("digits"), 12, seed)
    noise = 3 * torch.randn(4, *logits.shape, generator=make_generator(seed))
    scale = torch.tensor([0.3, 1.0, 3.0, 0.5])[:, None, None]  # members speak with different loudness
    return [(scale * (logits + noise),)]


AVERAGE = Exercise(
    name="optimization.average_members",
    praise="A mean of probabilities lets no single sure member overrule the others.",
    reference=lambda members: members.softmax(-1).mean(0),
    cases=_member_cases,
    wrong_answers={
        "the broken function unchanged": (
            "There are two bugs: what is averaged, and the axis of softmax.",
            lambda members: members.mean(0).softmax(0),
        ),
        "an average of logits": (
            "A member with large logits outvotes the others. Softmax first, then the mean.",
            lambda members: members.mean(0).softmax(-1),
        ),
        "softmax over the members": (
            "dim=0 runs over the members. The classes are in the last axis.",
            lambda members: members.softmax(0).mean(0),
        ),
        "softmax over the samples": (
            "dim=1 of (M, N, C) runs over the samples. The classes are in the last axis.",
            lambda members: members.softmax(1).mean(0),
        ),
        "a sum instead of a mean": (
            "Divide by the number of members, or the rows sum to M.",
            lambda members: members.softmax(-1).sum(0),
        ),
        "a mean over the samples": ("Average over the members, dim=0.", lambda members: members.softmax(-1).mean(1)),
    },
)


def _opinion_cases(seed: int) -> list[tuple]:
    (members,) = _member_cases(seed)[0]
    probabilities = members.softmax(-1)
    certain = torch.nn.functional.one_hot(members.argmax(-1), 10).float()  # zeros and ones: 0·log 0 must be 0
    return [(probabilities,), (certain,)]


def _entropy(p: Tensor, *, safe: bool = True) -> Tensor:
    return torch.special.entr(p).sum(-1) if safe else -(p * p.log()).sum(-1)


DISAGREEMENT = Exercise(
    name="optimization.disagreement",
    praise="Zero where all agree, whatever they agree on.",
    reference=lambda p: _entropy(p.mean(0)) - _entropy(p).mean(0),
    cases=_opinion_cases,
    wrong_answers={
        "0·log 0": (
            "log(0) is −∞ and 0·∞ is NaN. Use torch.special.entr, or skip probabilities of 0.",
            lambda p: _entropy(p.mean(0), safe=False) - _entropy(p, safe=False).mean(0),
        ),
        "only the entropy of the mean": (
            "That is the predictive entropy, all uncertainty together. Subtract the mean of the opinions' entropies.",
            lambda p: _entropy(p.mean(0)),
        ),
        "the mean of the entropies": (
            "That is the part all opinions share. The mutual information is the entropy of the mean minus this.",
            lambda p: _entropy(p).mean(0),
        ),
        "the wrong sign": (
            "Entropy of the mean first, minus the mean of the entropies: never negative.",
            lambda p: _entropy(p).mean(0) - _entropy(p.mean(0)),
        ),
        "bits instead of nats": (
            "The natural logarithm gives nats; log2 gives bits.",
            lambda p: (_entropy(p.mean(0)) - _entropy(p).mean(0)) / torch.log(torch.tensor(2.0)),
        ),
        "a variance": (
            "The variance of the probabilities is another measure of disagreement.",
            lambda p: p.var(0, correction=0).sum(-1),
        ),
    },
)

EXERCISES = (COST, ECE, AVERAGE, DISAGREEMENT)
