"""Running claimed runs again: which, in a limited time, and with perturbed inputs where they do not come out."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from course_utils.foundation.arguments import check_count, check_number
from course_utils.homework.chaos import Repetition, favoured, outliers, what_chaos_means
from course_utils.homework.comparison import Comparison
from course_utils.homework.data import FOLDS, PARTS, DataSplits
from course_utils.homework.engine.base import count_parameters, layer_sizes
from course_utils.homework.engine.batched import can_be_batched
from course_utils.homework.metrics import one_sample
from course_utils.homework.runs import Item, RunRecord, is_batched, logged_epochs, plan_jobs, run_job
from course_utils.homework.settings import Setting

SECONDS_A_STEP, SECONDS_AN_OPERATION = 2e-4, 2e-10
# And step, for each hidden layer but the first: trained together, and alone.
SECONDS_A_LAYER, SECONDS_A_LAYER_ALONE = 1e-4, 3e-4
SECONDS_A_RUN, SECONDS_TO_BUILD_A_LAYER = 2e-3, 2e-4  # whatever its epochs
# Of the inputs, relative: the rounding of float32, and ten times as much, since a figure that stays the same under both
# is demanded to the last sample.
NOISES = (1e-7, 1e-6)
COPIES = 6
MORE_COPIES = 30  # where a claim lies outside what the first ones make possible


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


@dataclass(frozen=True)
class Findings:
    """What is wrong, what could not be decided, and what else should be known, in words."""

    problems: Sequence[str] = ()
    undecided: Sequence[str] = ()
    notes: Sequence[str] = ()


def repeat_runs(comparison: Comparison, splits: DataSplits, options: CheckOptions) -> Findings:
    drawn = draw(comparison, options.rerun, options.seed)
    claims = affordable(comparison, splits, drawn, 60 * options.minutes)
    # In one order, whatever the one of the draw: which runs train together changes the rounding, and so the chaos.
    found = judge(comparison, splits, sorted(claims, key=_key), options)
    undecided, notes = left_out(comparison, splits, drawn, claims)
    return replace(found, undecided=[*undecided, *found.undecided], notes=[*found.notes, *notes])


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


def _curve(comparison: Comparison, number: int) -> np.ndarray:
    """All curves of a setting in one row; a diverged loss is a number that no loss can be, and equals another one."""
    return np.nan_to_num(comparison.curves_of(number), nan=-1.0).ravel()


def _are_alike(curves: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Do rows (…, N) of curves agree to a thousandth?"""
    return np.isclose(curves, others, rtol=1e-3).all(-1)


def _are_twins(comparison: Comparison, first: int, second: int) -> bool:
    one, other = _curve(comparison, first), _curve(comparison, second)
    return one.shape == other.shape and bool(_are_alike(one, other))


def twins(comparison: Comparison) -> dict[int, int]:
    """Settings whose curves are, with every seed, those of an earlier one: number → the first that has them."""
    found = {}
    lengths = np.array([len(logged_epochs(setting.epochs)) for setting in comparison.settings])
    for length in np.unique(lengths):
        numbers = np.flatnonzero(lengths == length)
        curves = np.stack([_curve(comparison, number) for number in numbers])
        totals, firsts = curves.sum(1), np.zeros(len(numbers), bool)
        for i, number in enumerate(numbers):
            # Curves that agree to a thousandth have sums that do: most pairs need no closer look.
            alike = np.flatnonzero(firsts & (np.abs(totals - totals[i]) <= 2e-3 * np.abs(curves[i]).sum()))
            same = alike[_are_alike(curves[alike], curves[i])]
            firsts[i] = not len(same)
            if len(same):
                found[int(number)] = int(numbers[same[0]])
    return found


def estimated_seconds(setting: Setting, splits: DataSplits) -> tuple[float, float]:
    """About how long a run takes on one core: for starting its operations, and for computing them.

    Runs of networks of one form that are trained together share the first part.
    """
    num_samples, in_features = splits.train_shape
    steps = -(-num_samples // min(setting.batch_size or num_samples, num_samples))
    parameters = count_parameters(layer_sizes(setting, in_features, splits.num_classes))
    epochs = setting.epochs * (FOLDS if splits.validation == "repeated_kfold" else 1)
    num_layers = len(setting.hidden_features)
    layer = SECONDS_A_LAYER if can_be_batched(setting) is None else SECONDS_A_LAYER_ALONE
    starting = steps * (SECONDS_A_STEP + layer * (num_layers - 1))
    # Each step also updates every parameter, whatever the size of the batch.
    computing = (6 * num_samples + 10 * steps) * parameters * SECONDS_AN_OPERATION
    return epochs * starting, epochs * computing + SECONDS_A_RUN + SECONDS_TO_BUILD_A_LAYER * num_layers


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
    return _spend(comparison, splits, claims, seconds)[0]


def _spend(
    comparison: Comparison, splits: DataSplits, claims: Sequence[RunRecord], seconds: float
) -> tuple[list[RunRecord], float]:
    """The affordable claims, and what they cost."""
    chosen, forms, spent = [], set(), 0.0
    for claim in claims:
        setting = comparison.settings[claim.setting]
        form = replace(setting, lr=1.0, weight_decay=0.0, init="default", dropout=0.5 if setting.dropout else 0.0)
        starting, computing = estimated_seconds(setting, splits)
        cost = computing if form in forms else starting + computing
        if spent + cost <= seconds:
            chosen.append(claim)
            spent += cost
            if can_be_batched(setting) is None:
                forms.add(form)
    return chosen, spent


def left_out(
    comparison: Comparison, splits: DataSplits, drawn: Sequence[RunRecord], repeated: Sequence[RunRecord]
) -> tuple[list[str], list[str]]:
    """What the time did not allow to repeat: without which nothing is certified, and what is only worth a note.

    One run of each setting and all of the best one are the least; they stand first in `drawn`.
    """
    if len(drawn) == len(repeated):
        return [], []
    numbers = [record.setting for record in repeated]
    missing = [number for number in range(len(comparison.settings)) if number not in set(numbers)]
    of_best = numbers.count(comparison.best().setting)
    text = (
        f"there was time to repeat {len(repeated)} of {len(drawn)} runs, {of_best} of the best setting's "
        f"{len(comparison.seeds)}" + (f", and none of setting(s) {listed(missing)}" if missing else "")
    )
    if not missing and of_best == len(comparison.seeds):
        return [], [text]
    least = drawn[: len(comparison.settings) + len(comparison.seeds) - 1]
    minutes = _spend(comparison, splits, least, np.inf)[1] / 60
    return [f"{text}; to check the file, at least minutes={_rounded_up(minutes):g} is needed"], []


def _rounded_up(value: float) -> float:
    """To two digits, upwards."""
    unit = 10.0 ** (np.floor(np.log10(value)) - 1)
    return float(np.ceil(value / unit) * unit)


def listed(values: Sequence[object]) -> str:
    """Values in a message, the first ten of them."""
    return ", ".join(map(str, values[:10])) + (f" and {len(values) - 10} more" if len(values) > 10 else "")


# What comes out


def judge(comparison: Comparison, splits: DataSplits, claims: Sequence[RunRecord], options: CheckOptions) -> Findings:
    """Repeat runs, and where they do not come out as claimed, look whether that is chaos."""
    repeated = _repetitions(comparison, splits, claims, options.tolerance)
    suspects = [one for one in repeated if one.contradictions()]
    seconds = 60 * options.minutes
    in_time = set(map(_key, affordable(comparison, splits, [one.claim for one in suspects], seconds / COPIES)))
    first, *others = [one for one in suspects if _key(one.claim) in in_time] or [None]
    tried: list[Repetition] = []
    # The first one alone: if chaos does not excuse it, the others need not be tried.
    for group in filter(None, ([first] if first else [], others)):
        group = _with_copies(comparison, splits, group, range(COPIES))
        if problems := [text for one in group for text in one.contradictions()]:
            return Findings(problems)
        tried += group
    if problems := favoured(comparison, tried):
        return Findings(problems)
    undecided = _still_impossible(comparison, splits, tried, seconds)
    if num_left := len(suspects) - len(tried):
        text = f"{num_left} run(s) do not come out as claimed, and to see whether rounding explains it takes too long"
        undecided.append(f"{text}; hand in fewer epochs, or check it with more minutes")
    notes, against = what_chaos_means(comparison, tried, len(claims))
    return Findings(undecided=undecided + against, notes=notes)


def _repetitions(
    comparison: Comparison, splits: DataSplits, claims: Sequence[RunRecord], tolerance: float
) -> list[Repetition]:
    samples = {seed: _one_sample(comparison.metric, splits, seed) for seed in {claim.seed for claim in claims}}
    return [
        Repetition(claim, (run,), comparison.metric, samples[claim.seed], tolerance)
        for claim, run in zip(claims, repeat(splits, _items(comparison, claims), comparison.metric), strict=True)
    ]


def _with_copies(
    comparison: Comparison, splits: DataSplits, repetitions: Sequence[Repetition], copies: Sequence[int]
) -> list[Repetition]:
    """The same, after a look at what a little noise does to these runs."""
    items = _items(comparison, [one.claim for one in repetitions])
    by_copy = [repeat(perturbed(splits, copy), items, comparison.metric) for copy in copies]
    return [
        replace(one, draws=(*one.draws, *runs))
        for one, runs in zip(repetitions, zip(*by_copy, strict=True), strict=True)
    ]


def _still_impossible(
    comparison: Comparison, splits: DataSplits, tried: Sequence[Repetition], seconds: float
) -> list[str]:
    """What lies outside the draws, and still does after more of them: that no honest run gives it is not certain."""
    suspects = [one for one, _ in outliers(tried)]
    in_time = set(map(_key, affordable(comparison, splits, [one.claim for one in suspects], seconds / MORE_COPIES)))
    again = [one for one in suspects if _key(one.claim) in in_time]
    more = _with_copies(comparison, splits, again, range(COPIES, COPIES + MORE_COPIES)) if again else []
    left = {_key(one.claim): one for one in (*tried, *more)}
    texts = [text for _, texts in outliers(list(left.values())) for text in texts]
    return [f"chaos alone hardly explains {len(texts)} claim(s), of which the first: {texts[0]}"] if texts else []


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


def _one_sample(metric: str, splits: DataSplits, seed: int) -> np.ndarray:
    """(3,) by how much one answer changes the metric on each part; 0 for the loss."""
    fold = splits.folds(seed)[0]
    return np.array([one_sample(metric, fold[part][1]) for part in PARTS])
