"""The exercises of chapter 8 and the mistakes they are known for.

Exercises: 1 an interval over seeds; 2 choose, then report; 3 is it the setting, or luck?; 4 the homework.
"""

import math
from collections.abc import Callable
from functools import cache, partial

import torch
from scipy import stats
from torch import Tensor

from course_utils.checks.exercise import Exercise
from course_utils.data import load_split
from course_utils.foundation.seeding import make_generator
from course_utils.homework import Comparison, compare, requirements


@cache
def _comparison(data: str) -> Comparison:
    """Three widths and two learning rates over eight seeds."""
    grid = {"hidden_features": [2, 4, 16], "lr": [0.03, 0.3]}
    return compare(grid, data=data, seeds=8, epochs=60, progress=False)


def _validation(data: str) -> Tensor:
    return torch.from_numpy(_comparison(data).matrix("validation"))  # (settings, seeds)


def _interval_cases(seed: int) -> list[tuple]:
    generator = make_generator(seed)
    rows = _validation("iris")[torch.randperm(6, generator=generator)[:3]]
    # Without the runs that agree by chance: seven or six of eight seeds, another choice for each grading seed.
    return [(row[torch.randperm(8, generator=generator)[: 8 - i]],) for i, row in enumerate(rows)]


def _interval(values: Tensor, *, quantile: float | None = None, correction: int = 1, root: bool = True) -> tuple:
    n = len(values)
    t = stats.t.ppf(0.975, n - 1) if quantile is None else quantile
    half = t * values.std(correction=correction).item() / (math.sqrt(n) if root else 1)
    return values.mean().item() - half, values.mean().item() + half


INTERVAL = Exercise(
    name="homework.seed_interval",
    praise="Now everybody can see how much the mean is worth.",
    tolerance=1e-4,  # 1.96 and 1.95996 are the same mistake
    reference=_interval,
    cases=_interval_cases,
    wrong_answers={
        "the normal quantile": (
            "With eight seeds the spread itself is uncertain: t with n − 1 degrees of freedom, not 1.96.",
            partial(_interval, quantile=1.96),
        ),
        "the spread of single runs": (
            "The interval of a *mean* shrinks with the number of seeds: divide by √n.",
            partial(_interval, root=False),
        ),
        "divided by n": (
            "The mean was estimated from the same values: the standard deviation divides by n − 1.",
            partial(_interval, correction=0),
        ),
        "one side only": (
            "Both sides have 2.5 %, so the quantile is 0.975, not 0.95.",
            lambda values: _interval(values, quantile=stats.t.ppf(0.95, len(values) - 1)),
        ),
        "n degrees of freedom": (
            "One is used up by the mean: n − 1.",
            lambda values: _interval(values, quantile=stats.t.ppf(0.975, len(values))),
        ),
        "smallest and largest run": (
            "The range grows with the number of seeds; the interval of the mean shrinks.",
            lambda values: (values.min().item(), values.max().item()),
        ),
    },
)


def _choose_cases(seed: int) -> list[tuple]:
    cases = []
    for data in ("iris", "breast_cancer"):
        validation = _validation(data)
        test = torch.from_numpy(_comparison(data).matrix("test"))
        order = torch.randperm(len(validation), generator=make_generator(seed))
        cases.append((validation[order], test[order]))
    # A few numbers by hand, in which every known mistake chooses something else.
    validation = torch.tensor([[0.9, 0.9, 0.9], [1.0, 0.7, 0.85], [0.8, 0.96, 0.93], [0.82, 0.93, 0.86]]).double()
    test = torch.tensor([[0.84, 0.8, 0.85], [0.7, 0.8, 0.75], [0.95, 0.93, 0.9], [0.86, 0.88, 0.81]]).double()
    steady = torch.tensor([[0.9, 0.6], [0.7, 0.7]]).double(), torch.tensor([[0.8, 0.9], [0.6, 0.6]]).double()
    return [(validation[[2, 0, 3, 1]], test[[2, 0, 3, 1]]), (validation, test), *cases, steady]


def _choose(validation: Tensor, test: Tensor, chosen: int | None = None) -> tuple[int, float, float]:
    chosen = int(validation.mean(1).argmax()) if chosen is None else chosen
    reported = test[chosen].mean().item()
    return chosen, reported, validation[chosen].mean().item() - reported


CHOOSE = Exercise(
    name="homework.choose_and_report",
    praise="The test part had no say, so its figure is the one to print.",
    reference=_choose,
    cases=_choose_cases,
    wrong_answers={
        "chosen on test": (
            "If the test part chooses, nothing is left that is not flattered.",
            lambda v, t: _choose(v, t, int(t.mean(1).argmax())),
        ),
        "the single best run": (
            "One lucky seed must not decide: compare the means over the seeds.",
            lambda v, t: _choose(v, t, int(v.max(1).values.argmax())),
        ),
        "the validation figure reported": (
            "That figure made the choice. Report the test figure of the chosen setting.",
            lambda v, t: (int(v.mean(1).argmax()), v.mean(1).max().item(), 0.0),
        ),
        "the best test figure reported": (
            "Report the test figure *of the chosen setting*, not the best one.",
            lambda v, t: (
                int(v.mean(1).argmax()),
                t.mean(1).max().item(),
                v.mean(1).max().item() - t.mean(1).max().item(),
            ),
        ),
        "the optimism with the wrong sign": (
            "Optimism is validation minus test: positive where validation promised too much.",
            lambda v, t: (*_choose(v, t)[:2], -_choose(v, t)[2]),
        ),
        "means over the settings": (
            "Rows are settings, columns seeds: the mean over the seeds is over dim 1.",
            lambda v, t: _choose(v, t, int(v.mean(0).argmax())),
        ),
    },
)


def _paired_cases(seed: int) -> list[tuple]:
    rows, generator = _validation("iris"), make_generator(seed)
    pairs = ((4, 0, 8), (5, 1, 7), (2, 0, 6))
    orders = [torch.randperm(8, generator=generator)[:count] for _, _, count in pairs]
    cases = [(rows[i][order], rows[j][order]) for (i, j, _), order in zip(pairs, orders, strict=True)]
    return [*cases, cases[0][::-1]]  # the difference in both signs


PAIRED = Exercise(
    name="homework.paired_p_value",
    praise="Now the luck of the splits, which both share, has dropped out.",
    reference=lambda a, b: float(stats.ttest_rel(a.numpy(), b.numpy()).pvalue),
    cases=_paired_cases,
    wrong_answers={
        "two independent samples": (
            "Entry i of both is the same seed, so the same split: stats.ttest_rel, not stats.ttest_ind.",
            lambda a, b: float(stats.ttest_ind(a.numpy(), b.numpy()).pvalue),
        ),
        "Welch's test": (
            "It, too, takes the samples as independent. They are pairs: stats.ttest_rel.",
            lambda a, b: float(stats.ttest_ind(a.numpy(), b.numpy(), equal_var=False).pvalue),
        ),
        "one side only": (
            "You did not know beforehand which is better: two-sided.",
            lambda a, b: float(stats.ttest_rel(a.numpy(), b.numpy(), alternative="greater").pvalue),
        ),
        "the statistic instead of the p-value": (
            "The result has both; return its .pvalue.",
            lambda a, b: float(stats.ttest_rel(a.numpy(), b.numpy()).statistic),
        ),
    },
)


def _observe_homework(answer: Callable[[], Comparison]) -> dict:
    comparison = answer()
    if not isinstance(comparison, Comparison):
        raise TypeError(f"homework() must return what compare returns, but returned {type(comparison).__name__}")
    return {
        "at least two settings": len(comparison.settings) >= 2,
        "at least five seeds": len(comparison.seeds) >= 5,
        "unmet requirements": len(requirements(comparison)),
        "on a named data set": comparison.data is not None,
    }


def _hand_in(grid, seeds: int = 5, data="iris") -> Comparison:
    return compare(grid, data=data, seeds=seeds, epochs=30, progress=False)


HOMEWORK = Exercise(
    name="homework.comparison",
    praise="A fair comparison. Now the part that no machine can grade: what does it show?",
    reference=lambda: _hand_in({"lr": [0.03, 0.3], "hidden_features": [4, 16]}),
    cases=lambda seed: [()],
    observe=_observe_homework,
    wrong_answers={
        "too few seeds": (
            "With one run of each setting nobody can tell a setting from luck, and below five seeds an interval says "
            "little. Take five or more.",
            lambda: _hand_in({"lr": [0.03, 0.3]}, seeds=3),
        ),
        "a single setting": (
            "There is nothing to compare. Give at least one hyperparameter several values.",
            lambda: _hand_in({"lr": 0.3}),
        ),
        "two things changed at once": (
            "If both differ, nobody can say which of them did it. Change one thing at a time, or run all combinations. "
            "(Tuning each optimizer in its own range is fair too, but the check cannot see it: run the full grid.)",
            lambda: _hand_in([{"lr": 0.03, "hidden_features": 4}, {"lr": 0.3, "hidden_features": 16}]),
        ),
        "data of your own": (
            "Nobody else has them, so nobody can repeat a run. Hand in a comparison on iris, digits or breast_cancer.",
            lambda: _hand_in({"lr": [0.03, 0.3]}, data=(load_split("iris").x_train, load_split("iris").y_train)),
        ),
        "the summary instead of the comparison": (
            "Return the object that compare returns; its summary can be made from it, and not the other way.",
            lambda: _hand_in({"lr": [0.03, 0.3]}).summary(),
        ),
    },
)

EXERCISES = (INTERVAL, CHOOSE, PAIRED, HOMEWORK)
