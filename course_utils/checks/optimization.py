"""The exercises of chapter 3 and the mistakes they are known for.

Exercises: 1 the cheapest action; 2 the cheapest threshold; 3 chosen here, reported there; 4 the calibration error;
5 a temperature; 6 an ensemble, find and fix; 7 how much several opinions disagree.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from course_utils.checks.basics import linear_logits, some
from course_utils.checks.exercise import Exercise
from course_utils.data import load_split
from course_utils.foundation.seeding import make_generator
from course_utils.optimization import adjust_threshold, expected_calibration_error

# Three actions for two diseases and health: send home, examine, operate. Each row costs what its action costs.
_COSTS = torch.tensor([[0.0, 40.0, 90.0], [5.0, 8.0, 30.0], [60.0, 20.0, 0.0]])


def _action_cases(seed: int) -> list[tuple]:
    probabilities = (some(linear_logits("digits"), 40, seed)[:, :3] / 8).softmax(1)
    with_a_person = torch.cat([_COSTS[::2], torch.full((2, 3), 15.0)[:1]])  # the last action: ask, at a fixed price
    return [(probabilities, with_a_person), (probabilities, _COSTS), (probabilities[:5], _COSTS[:2])]


def _expected_costs(probabilities: Tensor, costs: Tensor) -> Tensor:
    return probabilities @ costs.T  # (N, A)


ACTION = Exercise(
    name="optimization.cheapest_action",
    praise="Decide by expected costs, and the most probable class may lose.",
    reference=lambda p, costs: _expected_costs(p, costs).argmin(1),
    cases=_action_cases,
    wrong_answers={
        "the most probable class": (
            "This is the most probable class. The costs have no say in it, and an action need not be a class.",
            lambda p, costs: p.argmax(1),
        ),
        "the best action for the most probable class": (
            "This acts as if the most probable class were certain. Weigh the cost of each class by its probability.",
            lambda p, costs: costs[:, p.argmax(1)].argmin(0),
        ),
        "the dearest action": (
            "This is the largest expected cost. The smallest one is wanted.",
            lambda p, costs: _expected_costs(p, costs).argmax(1),
        ),
        "rows and columns of the costs swapped": (
            "costs[a, c] is what action a costs if the truth is c: the sum runs over the second axis of costs.",
            lambda p, costs: (p @ costs).argmin(1) if costs.shape[0] == costs.shape[1] else p.argmax(1),
        ),
        "the expected costs themselves": (
            "These are the expected costs. Return the number of the cheapest action for each sample.",
            _expected_costs,
        ),
        "the costs without the probabilities": (
            "The same action comes out for everybody. Each sample has probabilities of its own.",
            lambda p, costs: costs.mean(1).argmin().expand(len(p)).clone(),
        ),
    },
)


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
        "the threshold of the formula": (
            "This is the Bayes threshold, right for honest probabilities. Here the cheapest of the probabilities that "
            "occur is asked for.",
            lambda p, y, missed: 1 / (1 + missed),
        ),
        "strictly greater": (
            "Positive means probability ≥ threshold; with > the sample at the threshold itself is missed.",
            lambda p, y, missed: _cheapest(p, y, missed, value=p.unique().nextafter(torch.tensor(2.0))),
        ),
    },
)


def _two_parts(seed: int) -> list[tuple]:
    """A validation and a test part of one classifier's answers, several times; the last with many equal answers."""
    parts = [(*_binary_data(s, 60), *_binary_data(s + 100, 60)) for s in range(seed, seed + 5)]
    p, y, p_test, y_test = parts[-1]
    return [*parts[:-1], (p.round(decimals=1), y, p_test.round(decimals=1), y_test)]


def _f1(p: Tensor, y: Tensor, threshold: float, *, strict: bool = False) -> float:
    yes = p > threshold if strict else p >= threshold
    return float(2 * (yes & (y == 1)).sum() / (yes.sum() + (y == 1).sum()))


def _report(chosen_on: Callable, reported_on: Callable, *, strict: bool = False) -> Callable:
    """An answer that chooses on one pair (p, y) and reports on another one."""

    def answer(p_validation: Tensor, y_validation: Tensor, p_test: Tensor, y_test: Tensor) -> tuple[float, float]:
        parts = (p_validation, y_validation, p_test, y_test)
        threshold = adjust_threshold(*chosen_on(*parts)).threshold
        return threshold, _f1(*reported_on(*parts), threshold, strict=strict)

    return answer


def _validation(p: Tensor, y: Tensor, _p: Tensor, _y: Tensor) -> tuple[Tensor, Tensor]:
    return p, y


def _test(_p: Tensor, _y: Tensor, p: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    return p, y


REPORT = Exercise(
    name="optimization.choose_and_report",
    praise="What was chosen on one part is believed on another one only.",
    reference=_report(_validation, _test),
    cases=_two_parts,
    tolerance=1e-6,
    wrong_answers={
        "chosen on the test part": (
            "The threshold was chosen on the test part, and so the F1 that you report flatters.",
            _report(_test, _test),
        ),
        "reported on the validation part": (
            "The F1 is that of the validation part, on which it was made as large as possible. Report the test part's.",
            _report(_validation, _validation),
        ),
        "the conventional 0.5": (
            "0.5 is a convention. Choose the threshold with the best F1 on the validation part.",
            lambda p, y, p_test, y_test: (0.5, _f1(p_test, y_test, 0.5)),
        ),
        "strictly greater": (
            "Positive means probability ≥ threshold, as in `adjust_threshold`.",
            _report(_validation, _test, strict=True),
        ),
        "the accuracy": (
            "This is the accuracy on the test part. Report F1 = 2·TP / (2·TP + FP + FN).",
            lambda p, y, p_test, y_test: (
                adjust_threshold(p, y).threshold,
                float(((p_test >= adjust_threshold(p, y).threshold) == (y_test == 1)).float().mean()),
            ),
        ),
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


def _bin_gaps(
    confidence: Tensor, correct: Tensor, *, closed_left: bool = False, skip_empty: bool = True
) -> tuple[Tensor, Tensor]:
    """Share of the samples and gap, signed, in each filled bin of ten."""
    shares, gaps = [], []
    for k in range(10):
        low, high = k / 10, (k + 1) / 10
        here = (confidence >= low) & (confidence < high) if closed_left else (confidence > low) & (confidence <= high)
        if here.any() or not skip_empty:
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
        "bins closed on the left": (
            "A confidence of exactly 0.5 belongs to (0.4, 0.5] here, not to [0.5, 0.6).",
            lambda p, y: float(
                (lambda shares, gaps: (shares * gaps.abs()).sum())(*_bin_gaps(*_read(p, y), closed_left=True))
            ),
        ),
        "empty bins not skipped": (
            "The mean of an empty bin is NaN, and NaN spreads through the sum. Skip bins without samples.",
            lambda p, y: float(
                (lambda shares, gaps: (shares * gaps.abs()).sum())(*_bin_gaps(*_read(p, y), skip_empty=False))
            ),
        ),
        "fifteen bins": ("The task asks for ten.", lambda p, y: expected_calibration_error(p, y, n_bins=15)),
    },
)


_TEMPERATURES = torch.arange(1, 51) / 10  # 0.1 to 5.0


def _temperature_cases(seed: int) -> list[tuple]:
    logits, target = linear_logits("digits"), load_split("digits").y_test
    noisy = logits + torch.randn(logits.shape, generator=make_generator(seed))
    wine, kinds = linear_logits("wine"), load_split("wine").y_test
    blurred = wine + 2 * torch.randn(wine.shape, generator=make_generator(seed))
    return [(3 * noisy, target, _TEMPERATURES), (noisy / 4, target, _TEMPERATURES), (blurred, kinds, _TEMPERATURES)]


def _best_of(temperatures: Tensor, badness: Callable[[float], Tensor | float]) -> float:
    return float(temperatures[torch.stack([torch.as_tensor(badness(float(T))) for T in temperatures]).argmin()])


def _nll_at(logits: Tensor, target: Tensor) -> Callable[[float], Tensor]:
    return lambda T: torch.nn.functional.cross_entropy(logits / T, target)


TEMPERATURE = Exercise(
    name="optimization.best_temperature",
    praise="One number, fitted where the network was not trained, and not one label has changed.",
    reference=lambda logits, target, temperatures: _best_of(temperatures, _nll_at(logits, target)),
    cases=_temperature_cases,
    tolerance=1e-4,
    wrong_answers={
        "multiplied by T": (
            "Divide the logits by T: a larger T means less sure.",
            lambda z, y, ts: _best_of(ts, lambda T: torch.nn.functional.cross_entropy(z * T, y)),
        ),
        "the smallest temperature of all": (
            "The accuracy is the same for every T, so it cannot choose one; and probabilities divided by T are no "
            "probabilities. Divide the *logits* by T and compare the negative log-likelihoods.",
            lambda z, y, ts: _best_of(ts, lambda T: -((z / T).argmax(1) == y).float().mean()),
        ),
        "by the calibration error": (
            "The calibration error is no proper score, and depends on the bins. Use the negative log-likelihood.",
            lambda z, y, ts: _best_of(ts, lambda T: expected_calibration_error((z / T).softmax(1), y)),
        ),
        "softmax twice": (
            "cross_entropy takes logits. Give it logits / T, not their softmax.",
            lambda z, y, ts: _best_of(ts, lambda T: torch.nn.functional.cross_entropy((z / T).softmax(1), y)),
        ),
        "the loss instead of the temperature": (
            "This is the smallest loss. Return the temperature at which it occurs.",
            lambda z, y, ts: float(min(_nll_at(z, y)(float(T)) for T in ts)),
        ),
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
            "There are two bugs: what is averaged, and along which axis the softmax runs.",
            lambda members: members.mean(0).softmax(0),
        ),
        "an average of logits": (
            "This is the logarithmic pool: a very sure member weighs more. The task asks for the mean of the "
            "probabilities, so softmax first, then the mean.",
            lambda members: members.mean(0).softmax(-1),
        ),
        "averaged log-probabilities": (
            "This averages log p, which is the logarithmic pool again. Average the probabilities themselves.",
            lambda members: members.log_softmax(-1).mean(0).exp(),
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

EXERCISES = (ACTION, COST, REPORT, ECE, TEMPERATURE, AVERAGE, DISAGREEMENT)
