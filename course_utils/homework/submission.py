"""Checking a handed-in comparison: its form, its arithmetic, and its runs, which are run again."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

from course_utils.foundation.arguments import describe_value
from course_utils.homework.comparison import Comparison
from course_utils.homework.data import PARTS, DataSplits, load_splits
from course_utils.homework.plans import Plan, is_kept, plan_of
from course_utils.homework.repetition import (
    CheckOptions,
    estimated_bytes,
    estimated_seconds,
    listed,
    repeat_runs,
    twins,
)
from course_utils.homework.runs import Item, check_different_runs, plan_jobs
from course_utils.homework.storage import BadDocument, from_bytes, plain, read_limited

MAX_SECONDS = 120  # estimated for one run
MAX_MEMORY = 2 * 2**30  # bytes, estimated for one run


@dataclass(frozen=True)
class Verdict:
    """Is a submission in order?

    Attributes:
        ok: no problem was found, and nothing is undecided.
        problems: what is wrong, in words.
        notes: what is not wrong, but should be known: which runs there was no time to repeat, what chaotic training
            leaves open, settings that have the same curves as others, times that `compare` does not write.
        undecided: why the file is neither in order nor wrong, if there is no problem: there was no time to repeat one
            run of each setting and all of the best one; or training is so chaotic that the result is another one here.
            That is no accusation.
    """

    ok: bool
    problems: tuple[str, ...]
    notes: tuple[str, ...] = ()
    undecided: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return self.ok

    def __str__(self) -> str:
        verdict = self.problems or [f"undecided: {text}" for text in self.undecided] or ["in order"]
        return "\n".join([*verdict, *(f"note: {note}" for note in self.notes)])


def validate_submission(
    path: str | os.PathLike,
    *,
    rerun: int | None = None,
    tolerance: float = 1e-3,
    seed: int | None = None,
    first_seed: int = 0,
    num_seeds: int | None = None,
    minutes: float = 5.0,
    plan: Plan | None = None,
) -> Verdict:
    """Check a file that was handed in as one of `Comparison.save`. A bad file gives a verdict, never an exception.

    First what needs no run: size and JSON; the keys and their values; every setting with every seed exactly once;
    figures that are possible, for an accuracy also whole numbers of samples; a summary and a curves digest that follow
    from the runs; the data set; seeds that nobody picked; no run counted twice; a plan, if one is named, that was kept;
    no run that is too long or too large to be repeated. Then runs are run again, on this computer's copy of the data:
    one of each setting, then all others of the best one, then all others, as far as the time goes. Nothing in the file
    is executed.

    A run is reproduced if its accuracies or F1 are equal, its losses to 1e-6·max(1, loss), each point of the curve to
    `tolerance`·max(1, loss), and if it diverged then and now, or neither. A run that does not agree is also run with
    inputs changed by 1e-7 and 1e-6, three times each. If these agree with each other, so must the claim (a loss to
    twice what they differ). Where they separate, training is chaotic: the rounding of another computer would change
    the result as much. The curve must agree up to that point; behind it, and for the figures, the claim is taken as one
    more draw. If the curve is the same to every digit there too, there is no excuse: the rounding was the same.

    - The draws have no direction in an honest file. So the sums of the differences, over all settings and for each, of
      the best one with a plus, of its rivals with a minus, are compared with what the draws make possible. A sum that
      honest files reach in less than 3 of 1,000 cases is a problem.
    - A claim farther outside its draws than the widest range of its setting's draws (of a loss: of its logarithm), and
      than 3 samples, is drawn 30 times more. If it still is, the file is undecided.
    - The winner is determined once more, with the mean figures of the draws. If it is another one, a note says so; if
      the claimed one is told apart from it, or was luckier against it than 9 of 10 honest ones, the file is undecided.

    The first run that chaos does not excuse ends the check. The verdict of a file is always the same, as long as the
    time allows all of its runs.

    What is not repeated is not certified: without one run of each setting and all of the best one the file is
    undecided, the rest is said in the notes. And of chaotic training no check can say more than that its figures are
    possible: a note says of how many runs, and how the mean of the best setting came out here.

    Cost: about that of the student's own `compare`, seven times that of a run for each that does not come out at once,
    and 37 times for each that chaos hardly explains.

    Args:
        path: of the file.
        rerun: how many runs of each setting are repeated, of the best one always all; None: all of all settings. 0
            checks the form only.
        tolerance: of the loss, > 0.
        seed: of the order; None draws another one each time, so that nobody can foresee what is left out.
        first_seed: n seeds must be first_seed … first_seed + n − 1. Who may choose them can look for those that show
            a difference.
        num_seeds: n, if the teacher has set it; None takes any. Who may choose it can stop when a difference shows.
        minutes: what repeating may take, as estimated for one core; three times as long where training is chaotic.
        plan: the one that was handed in before the runs; anything else is a problem. None: the file need not have one.

    Returns:
        The verdict, whose problems and notes are texts for the student.

    Raises:
        TypeError, ValueError: an argument that does not fit.
    """
    options = CheckOptions(rerun, tolerance, seed, first_seed, num_seeds, minutes)
    if plan is not None and not isinstance(plan, Plan):
        raise TypeError(f"plan must be what register or Plan.load returned, but is {describe_value(plan)}")
    verdict, comparison = check_submission(path, options, plan)
    if plan is None and comparison is not None and comparison.plan is not None and not verdict.problems:
        note = f"names a plan (digest {comparison.plan[:12]}…); whether it came before the runs is not checked"
        verdict = replace(verdict, notes=(*verdict.notes, note))
    return verdict


def check_submission(
    path: str | os.PathLike, options: CheckOptions, plan: Plan | None = None
) -> tuple[Verdict, Comparison | None]:
    """The verdict, and the comparison if the file is whole."""
    comparison, undecided, notes = None, [], []
    try:
        comparison = Comparison(**from_bytes(read_limited(path)))
        problems = form_problems(comparison, options, plan)
        if not problems and options.rerun != 0:
            found = repeat_runs(comparison, load_splits(comparison.data, comparison.validation), options)
            problems, undecided, notes = found.problems, found.undecided, [*found.notes]
        if not problems:
            notes += equal_curves(comparison) + odd_times(comparison)
    except BadDocument as error:
        problems = error.problems
    except ValueError as error:
        problems = [str(error)]
    except Exception as error:  # the file comes from anywhere, and one bad file must not stop a class
        problems = [f"the file cannot be checked ({type(error).__name__}: {str(error)[:200]})"]
    texts = (tuple(map(plain, some)) for some in (problems, notes, undecided))
    return Verdict(not problems and not undecided, *texts), comparison


def form_problems(comparison: Comparison, options: CheckOptions, plan: Plan | None) -> list[str]:
    """What can be seen without a run."""
    if comparison.data is None:
        return ["the data set has no name, so its runs cannot be repeated; hand in a comparison on a named one"]
    splits = load_splits(comparison.data, comparison.validation)
    if comparison.data_digest != splits.digest:
        return [f"the data are not the {comparison.data} data of this computer"]
    if comparison.sizes != splits.sizes(comparison.seeds[0]):
        return ["the sizes of the parts are not those of this data set"]
    problems = picked_seeds(comparison, options.first_seed, options.num_seeds)
    problems += broken_plan(comparison, plan) + too_much(comparison, splits)
    try:
        check_different_runs(comparison.settings, splits, comparison.seeds[0])
    except ValueError as error:
        problems.append(str(error))
    return problems + broken_samples(comparison, splits)


def picked_seeds(comparison: Comparison, first_seed: int, num_seeds: int | None) -> list[str]:
    last = first_seed + (num_seeds or len(comparison.seeds)) - 1
    if sorted(comparison.seeds) == list(range(first_seed, last + 1)):
        return []
    return [
        f"the seeds are {listed(sorted(comparison.seeds))}, but must be {first_seed} to {last}: seeds that were picked "
        "can show any difference"
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


def too_much(comparison: Comparison, splits: DataSplits) -> list[str]:
    """Settings whose runs would take too long or too much memory."""
    problems = []
    for number, setting in enumerate(comparison.settings):
        seconds, size = sum(estimated_seconds(setting, splits)), estimated_bytes(setting, splits)
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


def equal_curves(comparison: Comparison) -> list[str]:
    """Settings whose curves are, to a thousandth, those of another one with every seed."""
    equal = [f"{number} (as {first})" for number, first in twins(comparison).items()]
    text = "setting(s) with the same curves as another one, so that what differs between them changes nothing"
    return [f"{text}: {listed(equal)}"] if equal else []


def odd_times(comparison: Comparison) -> list[str]:
    """Are the seconds other ones than `compare` writes? Runs of a job share its time; no two jobs take the same."""
    items = [Item(record.setting, comparison.settings[record.setting], record.seed) for record in comparison.records]
    num_jobs = len(plan_jobs(load_splits(comparison.data, comparison.validation), items, comparison.engine))
    num_times = len({record.seconds for record in comparison.records})
    # A job that was interrupted and went on from its log has two times.
    if num_jobs <= num_times <= 2 * num_jobs:
        return []
    return [
        f"{len(comparison)} runs in {num_jobs} job(s) have {num_times} different times, as compare never writes them"
    ]
