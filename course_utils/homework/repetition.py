"""Running claimed runs again: which of them, in a limited time, and what chaos excuses where they do not come out."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from course_utils.foundation.arguments import check_count, check_number
from course_utils.homework.comparison import Comparison
from course_utils.homework.data import FOLDS, PARTS, DataSplits
from course_utils.homework.engine.base import count_parameters, layer_sizes
from course_utils.homework.engine.batched import can_be_batched
from course_utils.homework.metrics import higher_is_better, is_share, one_sample
from course_utils.homework.runs import Item, RunRecord, is_batched, plan_jobs, run_job
from course_utils.homework.settings import Setting

SECONDS_A_STEP, SECONDS_AN_OPERATION = 2e-4, 2e-10
SECONDS_A_LAYER = 6e-5  # and step, for each hidden layer but the first
# Of the inputs, relative: the rounding of float32, and ten times as much, since a figure that stays the same under both
# is demanded to the last sample.
NOISES = (1e-7, 1e-6)
COPIES = 6
CHANCE = 0.001  # that an honest file of a computer that rounds otherwise seems to favour its best setting


@dataclass(frozen=True)
class CheckOptions:
    """What a check demands, and how much it repeats; `validate_submission` says what each option means."""

    rerun: int | None = None
    tolerance: float = 1e-3
    seed: int | None = None
    first_seed: int = 0
    num_seeds: int | None = None
    minutes: float = 5.0

    def __post_init__(self) -> None:
        check_number(self.tolerance, "tolerance", above=0)
        check_number(self.minutes, "minutes", above=0)
        check_count(self.first_seed, "first_seed", minimum=0)
        for name, minimum in {"rerun": 0, "seed": 0, "num_seeds": 1}.items():
            if getattr(self, name) is not None:
                check_count(getattr(self, name), name, minimum=minimum)


def repeat_runs(comparison: Comparison, splits: DataSplits, options: CheckOptions) -> tuple[list[str], list[str]]:
    """Run runs again. Returns what does not come out as claimed, and what the time did not allow."""
    drawn = draw(comparison, options.rerun, options.seed)
    claims = affordable(comparison, splits, drawn, 60 * options.minutes)
    problems, excused = judge(comparison, splits, claims, options)
    return problems or favoured(comparison, excused), left_out(comparison, drawn, claims)


def _key(record: RunRecord) -> tuple[int, int]:
    return record.setting, record.seed


# Which runs


def draw(comparison: Comparison, rerun: int | None, seed: int | None) -> list[RunRecord]:
    """The runs to repeat, the most telling first.

    One of each setting: of the best, of the runner-up, then of the others at random. Then all others of the best
    setting, then others at random, until there are `rerun` of each; None: until there are all.
    """
    numbers, num_seeds = random.Random(seed), len(comparison.seeds)
    best, *rivals = comparison.summary()["setting"].tolist()
    # A twin of the best setting (with a dropout of 1e-9, say) is no runner-up: between the two nothing was decided.
    runner_up = next((number for number in rivals if not _are_twins(comparison, best, number)), None)
    numbers.shuffle(rivals)
    order = [best, *sorted(rivals, key=lambda number: number != runner_up)]
    runs = {number: comparison.records[number * num_seeds : (number + 1) * num_seeds] for number in order}
    first, *others = (numbers.sample(runs[number], num_seeds) for number in order)
    more = [runs[place] for place in range(1, min(rerun or num_seeds, num_seeds)) for runs in others]
    return [runs[0] for runs in (first, *others)] + first[1:] + more


def _are_twins(comparison: Comparison, first: int, second: int) -> bool:
    one, other = comparison.curves_of(first), comparison.curves_of(second)
    return one.shape == other.shape and np.allclose(one, other, rtol=1e-3, equal_nan=True)


def estimated_seconds(setting: Setting, splits: DataSplits) -> tuple[float, float]:
    """About how long a run takes on one core: for starting its operations, and for computing them.

    Runs of networks of one form that are trained together share the first part.
    """
    num_samples, in_features = splits.train_shape
    steps = -(-num_samples // min(setting.batch_size or num_samples, num_samples))
    parameters = count_parameters(layer_sizes(setting, in_features, splits.num_classes))
    epochs = setting.epochs * (FOLDS if splits.validation == "repeated_kfold" else 1)
    starting = steps * (SECONDS_A_STEP + SECONDS_A_LAYER * (len(setting.hidden_features) - 1))
    # Each step also updates every parameter, whatever the size of the batch.
    computing = (6 * num_samples + 10 * steps) * parameters * SECONDS_AN_OPERATION
    return epochs * starting, epochs * computing


def estimated_bytes(setting: Setting, splits: DataSplits) -> int:
    """About how much memory one run takes: weights, gradients, two moments, a copy; five numbers for each unit."""
    num_samples, in_features = splits.train_shape
    parameters = count_parameters(layer_sizes(setting, in_features, splits.num_classes))
    numbers = 5 * parameters + 5 * num_samples * sum(setting.hidden_features)
    return numbers * splits.x.itemsize * (FOLDS if splits.validation == "repeated_kfold" else 1)


def affordable(
    comparison: Comparison, splits: DataSplits, claims: Sequence[RunRecord], seconds: float
) -> list[RunRecord]:
    """As many of the claims as can be repeated in this time, in order. What does not fit any more is passed over."""
    chosen, forms = [], set()
    for claim in claims:
        setting = comparison.settings[claim.setting]
        form = replace(setting, lr=1.0, weight_decay=0.0, init="default", dropout=0.5 if setting.dropout else 0.0)
        starting, computing = estimated_seconds(setting, splits)
        cost = computing if form in forms else starting + computing
        if cost <= seconds:
            chosen.append(claim)
            seconds -= cost
            if can_be_batched(setting) is None:
                forms.add(form)
    return chosen


def left_out(comparison: Comparison, drawn: Sequence[RunRecord], repeated: Sequence[RunRecord]) -> list[str]:
    """What the time did not allow to repeat."""
    if len(drawn) == len(repeated):
        return []
    numbers = [record.setting for record in repeated]
    missing = [number for number in range(len(comparison.settings)) if number not in set(numbers)]
    of_best = numbers.count(comparison.best().setting)
    return [
        f"there was time to repeat {len(repeated)} of {len(drawn)} runs, {of_best} of the best setting's "
        f"{len(comparison.seeds)}" + (f", and none of setting(s) {listed(missing)}" if missing else "")
    ]


def listed(values: Sequence[object]) -> str:
    """Values in a message, the first ten of them."""
    return ", ".join(map(str, values[:10])) + (f" and {len(values) - 10} more" if len(values) > 10 else "")


# What comes out


@dataclass(frozen=True)
class Repetition:
    """A claimed run beside what comes out here.

    Attributes:
        claim, found: the run as handed in, and as repeated.
        allowed: (F,) by how much each of the three figures and each point of the curve may differ.
        least_spread: (3,) what the standard deviation of each figure is taken for at least.
        copies: (COPIES, F) what comes out with perturbed inputs; None if that was not tried.
        diverges_by_chance: did only some of the copies diverge?
    """

    claim: RunRecord
    found: RunRecord
    allowed: np.ndarray
    least_spread: np.ndarray
    copies: np.ndarray | None = None
    diverges_by_chance: bool = False

    def disagreements(self) -> list[str]:
        """What does not come out as claimed, in words."""
        claimed, found = _figures(self.claim), _figures(self.found)
        difference = np.where(np.isnan(claimed) & np.isnan(found), 0.0, np.abs(claimed - found))
        wrong = ~(difference <= self.allowed) & ~np.isinf(self.allowed)
        texts = [
            f"its {name} figure is {claimed[i]:.6g}, but {found[i]:.6g} comes out"
            for i, name in enumerate(PARTS)
            if wrong[i]
        ]
        if self.claim.diverged != self.found.diverged and not self.diverges_by_chance:
            did = {True: "diverged", False: "did not diverge"}
            texts.append(f"it says that it {did[self.claim.diverged]}, but it {did[self.found.diverged]}")
        points = np.flatnonzero(wrong[len(PARTS) :])
        if len(points):
            first = len(PARTS) + points[0]
            texts.append(
                f"its curve differs at {len(points)} point(s); at point {points[0] + 1} it is {claimed[first]:.6g}, "
                f"but {found[first]:.6g} comes out"
            )
        where = f"the run of setting {self.claim.setting}, seed {self.claim.seed} is not reproduced"
        return [f"{where}: {text}" for text in texts]


def judge(
    comparison: Comparison, splits: DataSplits, claims: Sequence[RunRecord], options: CheckOptions
) -> tuple[list[str], list[Repetition]]:
    """Repeat runs, and where they do not come out as claimed, look whether that is chaos.

    Returns:
        What is wrong, and the repetitions that chaos excuses.
    """
    found = repeat(splits, _items(comparison, claims), comparison.metric)
    samples = {seed: _one_sample(comparison.metric, splits, seed) for seed in {claim.seed for claim in claims}}
    repeated = {
        _key(claim): _compared(comparison.metric, claim, run, samples[claim.seed], options.tolerance)
        for claim, run in zip(claims, found, strict=True)
    }
    suspects = [one.claim for one in repeated.values() if one.disagreements()]
    in_time = affordable(comparison, splits, suspects, 60 * options.minutes / COPIES)
    excused: list[Repetition] = []
    # The first one alone: if chaos does not excuse it, the others need not be tried.
    for group in filter(None, (in_time[:1], in_time[1:])):
        tried = _with_copies(comparison, splits, [repeated[_key(claim)] for claim in group], options.tolerance)
        if problems := [text for one in tried for text in one.disagreements()]:
            return problems, []
        excused += tried
    if num_left := len(suspects) - len(in_time):
        text = f"{num_left} run(s) do not come out as claimed, and to see whether rounding explains it takes too long"
        return [f"{text}; hand in fewer epochs, or check it with more minutes"], []
    return [], excused


def _items(comparison: Comparison, claims: Sequence[RunRecord]) -> list[Item]:
    return [Item(claim.setting, comparison.settings[claim.setting], claim.seed) for claim in claims]


def repeat(splits: DataSplits, items: Sequence[Item], metric: str) -> list[RunRecord]:
    """The runs' records, in order; what can be trained together is."""
    records = {}
    for job in plan_jobs(splits, items, "auto"):
        for record in run_job(splits, job, is_batched(job[0].setting, "auto"), metric):
            records[_key(record)] = record
    return [records[item.number, item.seed] for item in items]


def perturbed(splits: DataSplits, copy: int) -> DataSplits:
    noise = np.random.default_rng(copy).standard_normal(splits.x.shape).astype(splits.x.dtype)
    return replace(splits, x=splits.x * (1 + NOISES[copy % len(NOISES)] * noise))


def _figures(record: RunRecord) -> np.ndarray:
    """The three figures and the curve, (F,)."""
    return np.array([record.train, record.validation, record.test, *record.losses])


def _tolerances(found: RunRecord, tolerance: float) -> np.ndarray:
    """(F,) what losses may differ by."""
    return tolerance * np.maximum(1.0, np.nan_to_num(_figures(found)))


def _one_sample(metric: str, splits: DataSplits, seed: int) -> np.ndarray:
    """(3,) by how much one answer changes the metric on each part; 0 for the loss."""
    fold = splits.folds(seed)[0]
    return np.array([one_sample(metric, fold[part][1]) for part in PARTS])


def _compared(metric: str, claim: RunRecord, found: RunRecord, sample: np.ndarray, tolerance: float) -> Repetition:
    allowed = _tolerances(found, tolerance)
    # Shares must be equal. Losses are compared closely at first, so that small favours are seen.
    exact = 1e-9 if is_share(metric) else allowed[: len(PARTS)] / 10
    allowed[: len(PARTS)] = exact
    return Repetition(claim, found, allowed, np.maximum(sample / 2, exact))


def _with_copies(
    comparison: Comparison, splits: DataSplits, repetitions: Sequence[Repetition], tolerance: float
) -> list[Repetition]:
    """The same, after a look at what a little noise does to these runs."""
    items = _items(comparison, [one.claim for one in repetitions])
    by_copy = [repeat(perturbed(splits, copy), items, comparison.metric) for copy in range(COPIES)]
    tried = []
    for one, runs in zip(repetitions, zip(*by_copy, strict=True), strict=True):
        copies = np.stack([_figures(run) for run in runs])
        sample = 2 * one.least_spread if is_share(comparison.metric) else None
        allowed = _allowed_in_chaos(_figures(one.found), copies, _tolerances(one.found, tolerance), sample)
        by_chance = any(run.diverged != one.found.diverged for run in runs)
        if _rounds_alike(one, copies, tolerance):
            allowed[: len(PARTS)] = one.allowed[: len(PARTS)]
        tried.append(replace(one, allowed=allowed, copies=copies, diverges_by_chance=by_chance))
    return tried


def _allowed_in_chaos(
    found: np.ndarray, copies: np.ndarray, allowed: np.ndarray, sample: np.ndarray | None
) -> np.ndarray:
    """The allowed differences, widened by what rounding alone does to this run.

    Args:
        found: (F,) as `_figures` gives them.
        copies: (COPIES, F) the same of runs with slightly perturbed inputs.
        allowed: (F,) for losses that rounding moves a little.
        sample: (3,) what one answer moves; None for the loss.
    """
    spread = np.abs(copies - found)
    # NaN in some of them only: whether this run diverges is itself a matter of rounding.
    spread = np.where(np.isnan(copies) & np.isnan(found), 0.0, np.nan_to_num(spread, nan=np.inf)).max(0)
    apart = spread > allowed / 10
    widened = np.where(apart, 3 * allowed + 10 * spread, allowed)
    if sample is not None:  # 0 where nothing separates. Where the curves do, equal figures of the copies are luck.
        figures = 6 * spread[: len(PARTS)]
        widened[: len(PARTS)] = np.maximum(figures, 3 * sample if apart.any() else 1e-9)
    # Differences grow exponentially: behind the first point where the copies separate, the curve is another one.
    widened[len(PARTS) :][np.maximum.accumulate(apart[len(PARTS) :])] = np.inf
    return widened


def _rounds_alike(one: Repetition, copies: np.ndarray, tolerance: float) -> bool:
    """Is the claimed curve, where those of the copies are apart, the one that comes out here, to every digit?

    Then the claim was computed with the same rounding, and chaos is no excuse for other figures.
    """
    claimed, found = (np.array(record.losses) for record in (one.claim, one.found))
    spread = np.nan_to_num(np.abs(copies[:, len(PARTS) :] - found), nan=0.0).max(0)
    apart = spread > tolerance * np.maximum(1.0, np.nan_to_num(found))
    return bool(apart.any()) and np.array_equal(claimed[apart], found[apart])


def favoured(comparison: Comparison, excused: Sequence[Repetition]) -> list[str]:
    """Do the differences that chaos excuses favour the best setting, taken together?

    An honest run is one more draw beside the n that were made here, whose standard deviation is s (n − 1): its distance
    from their mean has the variance s²(1 + 1/n). The distances are taken in the direction of better, with a plus for
    the best setting and a minus for any other. Their sum, over all runs and over those of each setting, is compared
    with the t-distribution with as many degrees of freedom as all the s have; the chance of a false alarm is shared
    among the sums.
    """
    best = comparison.best().setting
    numbers = sorted({one.claim.setting for one in excused})
    groups = {"the best setting": list(excused)}
    groups |= {
        f"the best setting, in the runs of setting {number}": [one for one in excused if one.claim.setting == number]
        for number in numbers
    }
    better = 1 if higher_is_better(comparison.metric) else -1
    problems = []
    for part in ("validation", "test"):
        for name, group in groups.items():
            total, spread, limit = _signed_sum(group, part, best, better, CHANCE / len(groups))
            if total > limit:
                problems.append(
                    f"where runs are not reproduced exactly, their {part} figures differ in favour of {name}, by "
                    f"{total:.4g} in sum; rounding explains about ±{spread:.2g}"
                )
                break
    return problems


def _signed_sum(
    group: Sequence[Repetition], part: str, best: int, better: int, chance: float
) -> tuple[float, float, float]:
    """The sum of the distances that `favoured` describes, its standard deviation, and what it may reach."""
    from scipy import stats

    column = PARTS.index(part)
    total, variance, freedom = 0.0, 0.0, 0
    for one in group:
        draws = np.r_[one.copies[:, column], getattr(one.found, part)]
        distance = getattr(one.claim, part) - draws.mean()
        if np.isfinite(distance):
            total += distance * better * (1 if one.claim.setting == best else -1)
            variance += max(draws.std(ddof=1), one.least_spread[column]) ** 2 * (1 + 1 / len(draws))
            freedom += len(one.copies)
    spread = variance**0.5
    return total, spread, stats.t.ppf(1 - chance, freedom) * spread if freedom else np.inf
