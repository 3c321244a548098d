"""From honest probabilities to decisions: costs, other base rates, and the right to say nothing."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from course_utils.foundation.arguments import check_logits, check_number, check_tensor, describe_value
from course_utils.foundation.devices import in_double
from course_utils.foundation.results import Result


def bayes_threshold(cost_false_positive: float, cost_false_negative: float) -> float:
    """The threshold with the smallest expected cost for calibrated probabilities: c_FP / (c_FP + c_FN).

    Saying yes at probability p costs (1 − p)·c_FP on average, saying no costs p·c_FN; yes is cheaper from
    p = c_FP / (c_FP + c_FN) on. Source: Elkan (2001), "The foundations of cost-sensitive learning".

    Args:
        cost_false_positive, cost_false_negative: ≥ 0, in one unit, not both 0.

    >>> bayes_threshold(cost_false_positive=1, cost_false_negative=9)
    0.1
    """
    costs = {"cost_false_positive": cost_false_positive, "cost_false_negative": cost_false_negative}
    for name, cost in costs.items():
        if check_number(cost, name) < 0:
            raise ValueError(f"{name} must be at least 0, but is {cost}")
    if not any(costs.values()):
        raise ValueError("both costs are 0, so every threshold costs the same")
    return cost_false_positive / (cost_false_positive + cost_false_negative)


def adjust_for_prior(
    logits: Tensor,
    *,
    train_prior: float | Tensor | None = None,
    prior: float | Tensor | None = None,
    pos_weight: float | None = None,
) -> Tensor:
    """Correct logits, in their shape and dtype, for base rates unlike those in training: add log(new / trained odds).

    A network learns the base rates of its training data. Oversampling, class weights and `pos_weight` change them, and
    so does a clinic where the disease is rarer. As long as each class still looks the same, the logits are off by a
    constant only. Source: Saerens, Latinne & Decaestecker (2002), "Adjusting the outputs of a classifier to new a
    priori probabilities".

    Args:
        logits: binary (N,) or (N, 1), multiclass (N, C).
        train_prior: how often class 1 (or each of the C classes, summing to 1) occurred in training.
        prior: how often it occurs where the model is used.
        pos_weight: of `BCEWithLogitsLoss`, instead of the two above: training counted each positive this many times.

    Raises:
        ValueError: neither pos_weight nor both priors, priors that are no probabilities strictly between 0 and 1.

    >>> adjust_for_prior(torch.tensor([0.0]), train_prior=0.5, prior=0.1).sigmoid()
    tensor([0.1000])
    """
    check_logits(logits, ndim=(1, 2))
    if (pos_weight is None) == (train_prior is None) or (train_prior is None) != (prior is None):
        raise ValueError("give train_prior and prior, or pos_weight alone")
    is_binary = logits.ndim == 1 or logits.shape[1] == 1
    if pos_weight is not None:
        if not is_binary:
            raise ValueError(f"pos_weight belongs to one logit a sample, but logits are {describe_value(logits)}")
        shift = -torch.tensor(check_number(pos_weight, "pos_weight", above=0), dtype=torch.float64).log()
    elif is_binary:
        trained, new = _share(train_prior, "train_prior"), _share(prior, "prior")
        shift = new.logit() - trained.logit()
    else:
        classes = logits.shape[1]
        trained, new = _shares(train_prior, "train_prior", classes), _shares(prior, "prior", classes)
        shift = new.log() - trained.log()  # (C,)
    wide = in_double(logits)
    return (wide + shift.to(wide.device)).to(logits)


def _share(value: float | Tensor, name: str) -> Tensor:
    value = value.item() if isinstance(value, Tensor) and value.ndim == 0 else value
    return torch.tensor(check_number(value, name, above=0, below=1), dtype=torch.float64)


def _shares(value: float | Tensor, name: str, classes: int) -> Tensor:
    try:
        shares = torch.as_tensor(value, dtype=torch.float64).cpu()
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be {classes} numbers, but is {describe_value(value)}") from None
    if shares.shape != (classes,) or not (shares > 0).all() or abs(float(shares.sum()) - 1) > 1e-3:
        raise ValueError(f"{name} must be {classes} positive numbers that sum to 1, but is {value}")
    return shares / shares.sum()


@dataclass(frozen=True, eq=False, repr=False)
class RiskCoverage(Result):
    """The error that remains if only the most confident answers are given.

    Attributes:
        coverage: (K,) float64, ascending, the share of samples that get an answer.
        risk: (K,) float64, the share of wrong ones among these.
        aurc: the mean risk over all numbers of answers, 0 for a score that puts every right answer before every wrong.
    """

    coverage: Tensor
    risk: Tensor
    aurc: float

    per_sample: ClassVar = ("coverage", "risk")


def risk_coverage(scores: Tensor, correct: Tensor) -> RiskCoverage:
    """Answer the samples with the highest scores first: the error against the share of answers.

    Samples of equal score are answered together or not at all, so the result does not depend on their order. The area
    takes such a group as if its errors were spread evenly over it. Source: Geifman & El-Yaniv (2017), "Selective
    classification for deep neural networks".

    Args:
        scores: (N,), the higher the surer, for example the largest logit's lead or the largest probability.
        correct: bool (N,), is the answer right?

    >>> curve = risk_coverage(torch.tensor([0.9, 0.8, 0.7]), torch.tensor([True, True, False]))
    >>> [round(share, 2) for share in curve.coverage.tolist()], [round(risk, 2) for risk in curve.risk.tolist()]
    ([0.33, 0.67, 1.0], [0.0, 0.0, 0.33])
    """
    check_tensor(scores, "scores", ndim=1)
    check_tensor(correct, "correct", ndim=1, floating=False)
    if correct.dtype != torch.bool or len(correct) != len(scores):
        wanted = f"a bool tensor of length {len(scores)}, one for each score"
        raise ValueError(f"correct must be {wanted}, but is {describe_value(correct)}")
    values, place, sizes = in_double(scores.detach()).unique(return_inverse=True, return_counts=True)
    wrong = torch.zeros(len(values), dtype=torch.float64, device=values.device)
    wrong.index_add_(0, place, (~correct).to(wrong))
    sizes, wrong = sizes.flip(0), wrong.flip(0)  # the surest group first
    answers, errors = sizes.cumsum(0), wrong.cumsum(0)
    # One answer after the other: within a group the errors grow in a straight line.
    position = torch.arange(1, len(scores) + 1, dtype=torch.float64, device=values.device)
    group = torch.bucketize(position, answers.double())
    answered = position - (answers - sizes)[group]  # of the group that is being answered
    expected = (errors - wrong)[group] + answered * (wrong / sizes)[group]
    return RiskCoverage(answers.double() / len(scores), errors / answers, float((expected / position).mean()))
