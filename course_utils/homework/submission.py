"""Checking a handed-in comparison: its form, its arithmetic, and a sample of its runs, which are run again."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from course_utils.foundation.arguments import check_count, check_number, describe_value
from course_utils.homework.comparison import Comparison
from course_utils.homework.data import FOLDS, PARTS, DataSplits, load_splits
from course_utils.homework.engine.base import count_parameters, layer_sizes
from course_utils.homework.metrics import higher_is_better, one_sample
from course_utils.homework.plans import Plan, is_kept, plan_of
from course_utils.homework.runs import Item, RunRecord, is_batched, plan_jobs, run_job, same_runs
from course_utils.homework.settings import Setting
from course_utils.homework.storage import BadDocument, from_bytes, plain, read_limited

MAX_SECONDS = 120  # estimated for one run; a class of thirty has to be checked in an evening
MAX_MEMORY = 2 * 2**30  # bytes, estimated for one run
SECONDS_A_STEP, SECONDS_AN_OPERATION = 2e-4, 2e-10
SECONDS_A_LAYER = 6e-5  # and step, for each hidden layer but the first
# Of the inputs, relative: the rounding of float32, and ten times as much, since a figure that stays the same under both
# is demanded to the last sample.
NOISES = (1e-7, 1e-6)
COPIES = 6
MORE_IN_CHAOS = 5  # times as many runs are repeated where some could only be excused
CHANCE = 0.001  # that honest runs of a computer that rounds otherwise seem to favour their best setting


@dataclass(frozen=True)
class Verdict:
    """Is a submission in order?

    Attributes:
        ok: no problem was found.
        problems: what is wrong, in words.
    """

    ok: bool
    problems: tuple[str, ...]

    def __bool__(self) -> bool:
        return self.ok

    def __str__(self) -> str:
        return "in order" if self.ok else "\n".join(self.problems)


def validate_submission(
    path: str | os.PathLike,
    *,
    rerun: int = 3,
    tolerance: float = 1e-3,
    seed: int | None = None,
    first_seed: int = 0,
    plan: Plan | None = None,
) -> Verdict:
    """Check a file that was handed in as one of `Comparison.save`. A bad file gives a verdict, never an exception.

    In order: size and JSON; the keys and their values; every setting with every seed exactly once; figures that are
    possible, for an accuracy also whole numbers of samples; a summary and a curves digest that follow from the runs;
    the data set; seeds that nobody picked; no run counted twice; a plan, if one is named, that was kept; that no run is
    too long or too large to be repeated. Then a sample of the runs is run again, on the data set as this computer has
    it: one of the best setting, one of the runner-up, and then at random. Nothing in the file is executed.

    A run is reproduced if its accuracies or F1 are equal, and the loss, and each point of the curve, agrees to
    `tolerance`·max(1, loss), and if it diverged then and now, or neither. A run that does not agree is also run with
    inputs changed by 1e-7 and 1e-6, three times each. If their curves and figures agree, so must the claim. Where they
    separate, training is chaotic: the rounding of another computer would change the result as much. Then the curve is
    compared only up to that point, and the figures may differ by 3 times the spread of those runs, at least 3 samples
    (losses: 10 times the spread). Such differences have no direction in an honest file. So the sum of all of them, of
    the best setting with a plus, of its rivals with a minus, is compared with what the spread explains; for this, up to
    five times as many runs are repeated.

    What the sample misses it cannot find: a change of a few runs of settings that are neither first nor second is found
    with the share of the runs that are repeated.

    Args:
        path: of the file.
        rerun: how many runs are repeated at first; 0 checks the form only.
        tolerance: of the loss, > 0.
        seed: of the sample; None draws another sample each time, which nobody can foresee.
        first_seed: n seeds must be first_seed … first_seed + n − 1. Who may choose them can look for those that show
            a difference.
        plan: the one that was handed in before the runs; anything else is a problem. None: the file need not have one.

    Returns:
        The verdict, whose problems are texts for the student.

    Raises:
        TypeError, ValueError: an argument that does not fit.
    """
    checks = checked_options(rerun=rerun, tolerance=tolerance, seed=seed, first_seed=first_seed)
    if plan is not None and not isinstance(plan, Plan):
        raise TypeError(f"plan must be what register or Plan.load returned, but is {describe_value(plan)}")
    return check_submission(path, plan=plan, **checks)[0]


def checked_options(*, rerun: int, tolerance: float, seed: int | None, first_seed: int) -> dict:
    """The options of a check, after a look at each."""
    check_count(rerun, "rerun", minimum=0)
    check_number(tolerance, "tolerance", above=0)
    check_count(first_seed, "first_seed", minimum=0)
    if seed is not None:
        check_count(seed, "seed", minimum=0)
    return {"rerun": rerun, "tolerance": tolerance, "seed": seed, "first_seed": first_seed}


def check_submission(
    path: str | os.PathLike,
    *,
    rerun: int,
    tolerance: float,
    seed: int | None,
    first_seed: int,
    plan: Plan | None = None,
) -> tuple[Verdict, Comparison | None]:
    """The verdict, and the comparison if the file is whole."""
    comparison = None
    try:
        comparison = Comparison(**from_bytes(read_limited(path)))
        problems = form_problems(comparison, first_seed, plan)
        if not problems and rerun:
            problems = rerun_problems(comparison, draw(comparison, MORE_IN_CHAOS * rerun, seed), rerun, tolerance)
    except BadDocument as error:
        problems = error.problems
    except ValueError as error:
        problems = [str(error)]
    except Exception as error:  # the file comes from anywhere, and one bad file must not stop a class
        problems = [f"the file cannot be checked ({type(error).__name__}: {str(error)[:200]})"]
    return Verdict(not problems, tuple(map(plain, problems))), comparison


# What can be seen without a run


def form_problems(comparison: Comparison, first_seed: int, plan: Plan | None) -> list[str]:
    if comparison.data is None:
        return ["the data set has no name, so its runs cannot be repeated; hand in a comparison on a named one"]
    splits = load_splits(comparison.data, comparison.validation)
    if comparison.data_digest != splits.digest:
        return [f"the data are not the {comparison.data} data of this computer"]
    if comparison.sizes != splits.sizes(comparison.seeds[0]):
        return ["the sizes of the parts are not those of this data set"]
    problems = picked_seeds(comparison, first_seed) + broken_plan(comparison, plan) + too_much(comparison, splits)
    if pair := same_runs(comparison.settings, splits, comparison.seeds[0]):
        problems.append(f"settings {pair[0]} and {pair[1]} are the same runs on these data: both take the full batch")
    return problems + broken_samples(comparison, splits)


def picked_seeds(comparison: Comparison, first_seed: int) -> list[str]:
    seeds, last = sorted(comparison.seeds), first_seed + len(comparison.seeds) - 1
    if seeds == list(range(first_seed, last + 1)):
        return []
    listed = ", ".join(map(str, seeds[:10])) + (", …" if len(seeds) > 10 else "")
    return [
        f"the seeds are {listed}, but must be {first_seed} to {last}: seeds that were picked can show any difference"
    ]


def broken_plan(comparison: Comparison, plan: Plan | None) -> list[str]:
    problems = []
    if is_kept(comparison) is False:
        problems.append("it names a plan, but what was compared is not what that plan says")
    if plan is not None and (different := plan_of(comparison).differences(plan)):
        problems.append(f"it is not what was planned: {', '.join(different)} differ(s) from the plan")
    elif plan is not None and comparison.plan is None:
        problems.append("it does not name the plan that was handed in; run compare with plan=…")
    return problems


def estimated_seconds(setting: Setting, splits: DataSplits) -> float:
    """About how long one run takes on one core."""
    num_samples, in_features = splits.train_shape
    steps = -(-num_samples // min(setting.batch_size or num_samples, num_samples))
    parameters = count_parameters(layer_sizes(setting, in_features, splits.num_classes))
    each_step = SECONDS_A_STEP + SECONDS_A_LAYER * (len(setting.hidden_features) - 1)
    each_epoch = steps * each_step + 6 * num_samples * parameters * SECONDS_AN_OPERATION
    # Each step also updates every parameter, whatever the size of the batch.
    each_epoch += 10 * steps * parameters * SECONDS_AN_OPERATION
    return setting.epochs * each_epoch * (FOLDS if splits.validation == "repeated_kfold" else 1)


def estimated_bytes(setting: Setting, splits: DataSplits) -> int:
    """About how much memory one run takes: weights, gradients, two moments, a copy; five numbers for each unit."""
    num_samples, in_features = splits.train_shape
    parameters = count_parameters(layer_sizes(setting, in_features, splits.num_classes))
    numbers = 5 * parameters + 5 * num_samples * sum(setting.hidden_features)
    return numbers * splits.x.itemsize * (FOLDS if splits.validation == "repeated_kfold" else 1)


def too_much(comparison: Comparison, splits: DataSplits) -> list[str]:
    """Settings whose runs would take too long or too much memory."""
    problems = []
    for number, setting in enumerate(comparison.settings):
        seconds, size = estimated_seconds(setting, splits), estimated_bytes(setting, splits)
        if seconds > MAX_SECONDS:
            problems.append(
                f"a run of setting {number} would take about {_duration(seconds)} to repeat, and more than "
                f"{MAX_SECONDS} seconds are not allowed; hand in fewer epochs or smaller networks"
            )
        if size > MAX_MEMORY:
            problems.append(
                f"a run of setting {number} would take about {size / 2**30:,.0f} GiB of memory to repeat, and more "
                f"than {MAX_MEMORY / 2**30:g} are not allowed; hand in smaller networks"
            )
    return problems


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} seconds" if seconds < 7200 else f"{seconds / 3600:,.0f} hours"


def broken_samples(comparison: Comparison, splits: DataSplits) -> list[str]:
    """Accuracies that no whole number of right answers gives."""
    if comparison.metric != "accuracy" or splits.validation != "holdout":  # a mean over folds can be almost anything
        return []
    problems = []
    for name, size in zip(PARTS, comparison.sizes, strict=True):
        for record in comparison.records:
            right = getattr(record, name) * size
            if abs(right - round(right)) > 1e-6:
                problems.append(
                    f"the run of setting {record.setting}, seed {record.seed} has a {name}_accuracy of "
                    f"{getattr(record, name):.6g}, which is no whole number of {size} samples"
                )
    return problems


# What a second run shows


def draw(comparison: Comparison, count: int, seed: int | None) -> list[RunRecord]:
    """The runs to repeat: one of the best setting, one of the runner-up, the others at random."""
    in_random_order = random.Random(seed).sample(comparison.records, len(comparison.records))
    first_two = comparison.summary()["setting"].tolist()[:2]
    chosen = [next(record for record in in_random_order if record.setting == number) for number in first_two]
    taken = {(record.setting, record.seed) for record in chosen}
    chosen += [record for record in in_random_order if (record.setting, record.seed) not in taken]
    return chosen[:count]


@dataclass(frozen=True)
class Repetition:
    """A claimed run beside what comes out here.

    Attributes:
        claim, found: the run as handed in, and as repeated.
        copies: (COPIES, F) figures of the run with perturbed inputs, as `_figures` gives them; (0, F) if all agreed.
        least_spread: (3,) what the standard deviation of each figure is taken for at least.
        allowed: (F,) the differences that are allowed.
        diverges_by_chance: did only some of the copies diverge?
    """

    claim: RunRecord
    found: RunRecord
    copies: np.ndarray
    least_spread: np.ndarray
    allowed: np.ndarray
    diverges_by_chance: bool = False


def rerun_problems(comparison: Comparison, claims: Sequence[RunRecord], rerun: int, tolerance: float) -> list[str]:
    """Run the first `rerun` runs again, all of them if chaos was an excuse. What of their claims does not come out?"""
    splits = load_splits(comparison.data, comparison.validation)
    repetitions = repeat_claims(comparison, splits, claims[:rerun], tolerance)
    problems = _unexplained(repetitions)
    if not problems and any(len(one.copies) for one in repetitions):
        # One excuse says little, many that favour the same setting say much.
        repetitions += repeat_claims(comparison, splits, claims[rerun:], tolerance)
        problems = _unexplained(repetitions)
    return problems + [text for part in ("validation", "test") for text in favoured(comparison, repetitions, part)]


def repeat_claims(
    comparison: Comparison, splits: DataSplits, claims: Sequence[RunRecord], tolerance: float
) -> list[Repetition]:
    items = [Item(claim.setting, comparison.settings[claim.setting], claim.seed) for claim in claims]
    found = repeat(splits, items, comparison.metric)
    return [compare_with(comparison, splits, *pair, tolerance) for pair in zip(claims, found, strict=True)]


def _unexplained(repetitions: Sequence[Repetition]) -> list[str]:
    return [
        f"the run of setting {one.claim.setting}, seed {one.claim.seed} is not reproduced: {text}"
        for one in repetitions
        for text in _disagreements(one)
    ]


def compare_with(
    comparison: Comparison, splits: DataSplits, claim: RunRecord, found: RunRecord, tolerance: float
) -> Repetition:
    """Repeat a run with perturbed inputs if it did not come out as claimed."""
    allowed = tolerance * np.maximum(1.0, np.nan_to_num(_figures(found)))
    # Losses are compared closely at first, so that small favours are seen; other figures must be equal.
    exact, one = allowed.copy(), _one_sample(comparison.metric, splits, claim.seed)
    exact[: len(PARTS)] = allowed[: len(PARTS)] / 10 if one is None else 1e-9
    least_spread = exact[: len(PARTS)] if one is None else one / 2
    without = Repetition(claim, found, np.empty((0, len(exact))), least_spread, exact)
    if not _disagreements(without):
        return without
    item = Item(claim.setting, comparison.settings[claim.setting], claim.seed)
    runs = [repeat(perturbed(splits, copy), [item], comparison.metric)[0] for copy in range(COPIES)]
    copies = np.stack([_figures(run) for run in runs])
    allowed = _allowed_in_chaos(_figures(found), copies, allowed, one)
    return Repetition(claim, found, copies, least_spread, allowed, any(run.diverged != found.diverged for run in runs))


def _one_sample(metric: str, splits: DataSplits, seed: int) -> np.ndarray | None:
    """(3,) by how much one answer changes the metric on each part; None for the loss."""
    if metric == "loss":
        return None
    fold = splits.folds(seed)[0]
    return np.array([one_sample(metric, fold[part][1]) for part in PARTS])


def _allowed_in_chaos(found: np.ndarray, copies: np.ndarray, allowed: np.ndarray, one: np.ndarray | None) -> np.ndarray:
    """The allowed differences, widened by what rounding alone does to this run.

    Args:
        found: (F,) as `_figures` gives them.
        copies: (COPIES, F) the same of runs with slightly perturbed inputs.
        allowed: (F,) before.
        one: as `_one_sample` gives it.
    """
    spread = np.abs(copies - found)
    # NaN in some of them only: whether this run diverges is itself a matter of rounding.
    spread = np.where(np.isnan(copies) & np.isnan(found), 0.0, np.nan_to_num(spread, nan=np.inf)).max(0)
    apart = spread > allowed / 10
    widened = np.where(apart, 3 * allowed + 10 * spread, allowed)
    if one is not None:  # 0 where nothing separates. Where the curves do, equal figures of the copies are luck.
        figures = spread[: len(PARTS)]
        is_chaotic = apart.any()
        widened[: len(PARTS)] = 3 * np.maximum(figures, one) if is_chaotic else np.maximum(3 * figures, 1e-9)
    # Differences grow exponentially: behind the first point where the copies separate, the curve is another one.
    widened[len(PARTS) :][np.maximum.accumulate(apart[len(PARTS) :])] = np.inf
    return widened


def favoured(comparison: Comparison, repetitions: Sequence[Repetition], part: str) -> list[str]:
    """Do the differences that chaos allows, taken together, favour the best setting?

    For each run that differs: claimed − found, in the direction of better, + for the best setting and − for any other.
    An honest run is one more draw beside the n that were made here, with the standard deviation s (n − 1): the
    difference of two such draws has the variance 2s². Their sum is compared with the t-distribution with as many
    degrees of freedom as all the s have.
    """
    from scipy import stats

    column, best = PARTS.index(part), comparison.best().setting
    better = 1 if higher_is_better(comparison.metric) else -1
    total, variance, freedom = 0.0, 0.0, 0
    for one in repetitions:
        draws = np.r_[one.copies[:, column], getattr(one.found, part)]
        difference = getattr(one.claim, part) - getattr(one.found, part)
        if not len(one.copies) or not np.isfinite([difference, *draws]).all():
            continue
        total += difference * better * (1 if one.claim.setting == best else -1)
        variance += 2 * max(draws.std(ddof=1), one.least_spread[column]) ** 2
        freedom += len(one.copies)
    if variance == 0 or total <= stats.t.ppf(1 - CHANCE, freedom) * variance**0.5:
        return []
    return [
        f"where runs are not reproduced exactly, their {part} figures differ in favour of the best setting, by "
        f"{total:.4g} in sum; rounding explains about ±{variance**0.5:.2g}"
    ]


def repeat(splits: DataSplits, items: Sequence[Item], metric: str) -> list[RunRecord]:
    """The runs' records, in order; what can be trained together is."""
    records = {}
    for job in plan_jobs(splits, items, "auto"):
        for record in run_job(splits, job, is_batched(job[0].setting, "auto"), metric):
            records[record.setting, record.seed] = record
    return [records[item.number, item.seed] for item in items]


def perturbed(splits: DataSplits, copy: int) -> DataSplits:
    noise = np.random.default_rng(copy).standard_normal(splits.x.shape).astype(splits.x.dtype)
    return replace(splits, x=splits.x * (1 + NOISES[copy % len(NOISES)] * noise))


def _figures(record: RunRecord) -> np.ndarray:
    """The three figures and the curve, in one row."""
    return np.array([record.train, record.validation, record.test, *record.losses])


def _disagreements(one: Repetition) -> list[str]:
    claimed, repeated = _figures(one.claim), _figures(one.found)
    difference = np.where(np.isnan(claimed) & np.isnan(repeated), 0.0, np.abs(claimed - repeated))
    wrong = ~(difference <= one.allowed) & ~np.isinf(one.allowed)
    problems = [
        f"its {name} figure is {claimed[i]:.6g}, but {repeated[i]:.6g} comes out"
        for i, name in enumerate(PARTS)
        if wrong[i]
    ]
    if one.claim.diverged != one.found.diverged and not one.diverges_by_chance:
        texts = {True: "diverged", False: "did not diverge"}
        problems.append(f"it says that it {texts[one.claim.diverged]}, but it {texts[one.found.diverged]}")
    points = np.flatnonzero(wrong[len(PARTS) :])
    if len(points):
        first = len(PARTS) + points[0]
        problems.append(
            f"its curve differs at {len(points)} point(s); at point {points[0] + 1} it is {claimed[first]:.6g}, but "
            f"{repeated[first]:.6g} comes out"
        )
    return problems
