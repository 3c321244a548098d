"""Sets of classes that hold the truth as often as promised: split conformal prediction."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from course_utils.advanced.input_gradients import Target
from course_utils.foundation.arguments import check_choice, check_count, check_labels, check_number, check_tensor
from course_utils.foundation.devices import in_double
from course_utils.foundation.seeding import make_generator

if TYPE_CHECKING:
    from scipy.stats.distributions import rv_frozen

METHODS = ("lac", "aps")


def conformal_sets(
    calibration_probabilities: Tensor,
    calibration_target: Target,
    probabilities: Tensor,
    *,
    alpha: float,
    method: str = "lac",
    by_class: bool = False,
    seed: int | None = 0,
) -> Tensor:
    """Sets of classes that hold the truth in at least 1 − alpha of the cases, on average over calibration sets.

    A score says how strange a class y is for a sample; the set holds the classes whose score is at most the
    ⌈(n + 1)(1 − alpha)⌉-th smallest score of the n calibration samples' true classes. All that this needs is that the
    new samples come from where the calibration samples came from. If there is no such rank, a set holds all classes.

    - "lac": 1 − p_y. The smallest sets on average; hard samples may get empty ones. Source: Sadinle et al. (2019),
      "Least ambiguous set-valued classifiers".
    - "aps": the probability of all classes more probable than y, plus a uniformly random share of p_y. Larger sets
      that are more even: easy samples get small ones, hard samples large ones. Source: Romano et al. (2020),
      "Classification with valid and adaptive coverage".

    Args:
        calibration_probabilities: (n, C), of samples that the model was not trained on. Equal ones rank by class.
        calibration_target: their true classes.
        probabilities: (N, C), of the new samples.
        alpha: in (0, 1), the share of sets that may miss the truth.
        by_class: a rank of its own for each class, from its own calibration samples, so that the promise holds for the
            samples of each class. Source: Vovk (2012), "Conditional validity of inductive conformal predictors".
        seed: of the random shares of "aps"; None draws fresh ones.

    Returns:
        bool (N, C), True where a class is in the set.

    >>> calibration = torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]])
    >>> conformal_sets(calibration, [0, 0, 1], torch.tensor([[0.7, 0.3], [0.55, 0.45]]), alpha=0.3)
    tensor([[ True, False],
            [False, False]])
    """
    known, new = (
        _check_probabilities(values, name)
        for values, name in ((calibration_probabilities, "calibration_probabilities"), (probabilities, "probabilities"))
    )
    if known.shape[1] != new.shape[1]:
        raise ValueError(f"both must have the same classes, but have {known.shape[1]} and {new.shape[1]}")
    target = check_labels(calibration_target, "calibration_target", num_samples=len(known), num_classes=known.shape[1])
    target = target.to(known.device, torch.int64)
    check_number(alpha, "alpha", above=0, below=1)
    check_choice(method, "method", METHODS)
    generator = make_generator(seed)
    strange = _scores(known, method, generator).gather(1, target[:, None])[:, 0]  # (n,)
    if by_class:
        limits = torch.stack([_limit(strange[target == c], alpha) for c in range(known.shape[1])])
    else:
        limits = _limit(strange, alpha)
    return (_scores(new, method, generator) <= limits.to(new.device)).to(probabilities.device)


def _check_probabilities(values: Tensor, name: str) -> Tensor:
    p = in_double(check_tensor(values, name, ndim=2).detach())
    if p.shape[1] < 2 or p.min() < 0 or ((p.sum(1) - 1).abs() > 1e-2).any():
        raise ValueError(f"{name} must be (N, C) with C ≥ 2 and rows that sum to 1; of logits take softmax(1) first")
    return p


def _scores(p: Tensor, method: str, generator: torch.Generator) -> Tensor:
    """How strange each class is for each sample, (N, C)."""
    if method == "lac":
        return 1 - p
    order = p.argsort(dim=1, descending=True, stable=True)
    sorted_p = p.gather(1, order)
    before = sorted_p.cumsum(1) - sorted_p  # the probability of all that are more probable
    share = torch.rand(len(p), 1, generator=generator, dtype=torch.float64).to(p)  # one for each sample
    return torch.empty_like(p).scatter_(1, order, before + share * sorted_p)


def _limit(scores: Tensor, alpha: float) -> Tensor:
    rank = _rank(len(scores), alpha)
    return scores.sort().values[rank - 1] if rank <= len(scores) else scores.new_tensor(math.inf)


def _rank(n: int, alpha: float) -> int:
    """⌈(n + 1)(1 − alpha)⌉; 1 − 0.1 is not exactly 0.9, and must not lift a whole number to the next one."""
    return math.ceil((n + 1) * (1 - alpha) - 1e-9)


def coverage_distribution(n: int, *, alpha: float, num_test: int | None = None) -> rv_frozen:
    """How often the sets made with *one* calibration set of n samples hold the truth.

    The promise 1 − alpha is about the mean over calibration sets. With k = ⌈(n + 1)(1 − alpha)⌉, the share that one
    calibration set's sets cover is distributed as Beta(k, n + 1 − k), if no two scores are equal. Source: Vovk (2012);
    Angelopoulos & Bates (2021), "A gentle introduction to conformal prediction", section 3.2.

    Args:
        n: calibration samples, of a class if the ranks are by class.
        alpha: as in `conformal_sets`, large enough that k ≤ n.
        num_test: None for the share of all samples there may ever be; else the distribution of *how many* of so many
            test samples are covered, which is what can be measured: Beta-binomial.

    Returns:
        A frozen distribution of SciPy, with `.mean()`, `.std()`, `.interval(0.95)`, `.pdf` or `.pmf`, `.cdf`.

    >>> beta = coverage_distribution(250, alpha=0.1)
    >>> print(f"{beta.mean():.3f} ± {beta.std():.3f}")
    0.900 ± 0.019
    """
    from scipy.stats import beta, betabinom

    k = _rank(check_count(n, "n"), check_number(alpha, "alpha", above=0, below=1))
    if k > n:
        raise ValueError(
            f"with {n} calibration samples and alpha = {alpha} all sets hold all classes and cover everything; take "
            f"alpha of at least 1 / (n + 1) = {1 / (n + 1):.3g}"
        )
    if num_test is None:
        return beta(k, n + 1 - k)
    return betabinom(check_count(num_test, "num_test"), k, n + 1 - k)
