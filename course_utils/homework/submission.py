"""Checking a handed-in comparison: its form, its arithmetic, and a sample of its runs, which are run again."""

from __future__ import annotations

import os
import random
from dataclasses import dataclass, replace

import numpy as np

from course_utils.foundation.arguments import check_count, check_number
from course_utils.homework.comparison import Comparison
from course_utils.homework.data import FOLDS, PARTS, DataSplits, load_splits
from course_utils.homework.engine.base import count_parameters, layer_sizes
from course_utils.homework.engine.batched import can_be_batched
from course_utils.homework.metrics import one_sample
from course_utils.homework.runs import Item, RunRecord, run_job
from course_utils.homework.settings import Setting
from course_utils.homework.storage import BadDocument, from_bytes, read_limited

MAX_SECONDS = 120  # estimated for one run; a class of thirty has to be checked in an evening
SECONDS_A_STEP, SECONDS_AN_OPERATION = 2e-4, 2e-10
NOISE = 1e-7  # relative, of the inputs: about the rounding of float32
COPIES = 4


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
    path: str | os.PathLike, *, rerun: int = 3, tolerance: float = 1e-3, seed: int | None = None
) -> Verdict:
    """Check a file that was handed in as one of `Comparison.save`. A bad file gives a verdict, never an exception.

    In order: size and JSON; the keys and their values; every setting with every seed exactly once; figures that are
    possible, for an accuracy also whole numbers of samples; a summary and a curves digest that follow from the runs;
    the data set; that no run is too long to be repeated. Then a random sample of the runs is run again, on the
    data set as this computer has it. Nothing in the file is executed.

    A figure is reproduced if the loss, and each point of the curve, agrees to `tolerance`·max(1, loss), the accuracy
    to one sample, the F1 to what one sample can change. A run that does not agree is also run with inputs changed by
    1e-7. Where the curves of such runs separate, training is chaotic: the rounding of another computer would change
    the result as much. Then the curve is compared only up to that point, and the figures may differ by three times
    the usual tolerance plus ten times the spread of those runs.

    Args:
        path: of the file.
        rerun: how many runs are repeated; 0 checks the form only.
        tolerance: of the loss, > 0.
        seed: of the sample; None draws another sample each time, which nobody can foresee.

    Returns:
        The verdict, whose problems are texts for the student.
    """
    check_count(rerun, "rerun", minimum=0)
    check_number(tolerance, "tolerance", above=0)
    if seed is not None:
        check_count(seed, "seed", minimum=0)
    return check_submission(path, rerun=rerun, tolerance=tolerance, seed=seed)[0]


def check_submission(
    path: str | os.PathLike, *, rerun: int, tolerance: float, seed: int | None
) -> tuple[Verdict, Comparison | None]:
    """The verdict, and the comparison if the file is whole."""
    comparison = None
    try:
        comparison = Comparison(**from_bytes(read_limited(path)))
        problems = check_against_data(comparison, rerun=rerun, tolerance=tolerance, seed=seed)
    except BadDocument as error:
        problems = error.problems
    except ValueError as error:
        problems = [str(error)]
    except Exception as error:  # the file comes from anywhere, and one bad file must not stop a class
        problems = [f"the file cannot be checked ({type(error).__name__}: {str(error)[:200]})"]
    return Verdict(not problems, tuple(problems)), comparison


def check_against_data(comparison: Comparison, *, rerun: int, tolerance: float, seed: int | None) -> list[str]:
    if comparison.data is None:
        return ["the data set has no name, so its runs cannot be repeated; hand in a comparison on a named one"]
    splits = load_splits(comparison.data, comparison.validation)
    if comparison.data_digest != splits.digest:
        return [f"the data are not the {comparison.data} data of this computer"]
    if comparison.sizes != splits.sizes(comparison.seeds[0]):
        return ["the sizes of the parts are not those of this data set"]
    problems = too_long(comparison, splits) + broken_samples(comparison, splits)
    if problems or rerun == 0:
        return problems
    sample = random.Random(seed).sample(comparison.records, min(rerun, len(comparison.records)))
    return [text for record in sample for text in not_reproduced(comparison, splits, record, tolerance)]


def estimated_seconds(setting: Setting, splits: DataSplits) -> float:
    """About how long one run takes on one core."""
    num_samples, in_features = splits.train_shape
    steps = -(-num_samples // min(setting.batch_size or num_samples, num_samples))
    parameters = count_parameters(layer_sizes(setting, in_features, splits.num_classes))
    each_epoch = steps * SECONDS_A_STEP + 6 * num_samples * parameters * SECONDS_AN_OPERATION
    # Each step also updates every parameter, whatever the size of the batch.
    each_epoch += 10 * steps * parameters * SECONDS_AN_OPERATION
    return setting.epochs * each_epoch * (FOLDS if splits.validation == "repeated_kfold" else 1)


def too_long(comparison: Comparison, splits: DataSplits) -> list[str]:
    problems = []
    for number, setting in enumerate(comparison.settings):
        seconds = estimated_seconds(setting, splits)
        if seconds > MAX_SECONDS:
            problems.append(
                f"a run of setting {number} would take about {_duration(seconds)} to repeat, and more than "
                f"{MAX_SECONDS} seconds are not allowed; hand in fewer epochs or smaller networks"
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


def not_reproduced(comparison: Comparison, splits: DataSplits, claim: RunRecord, tolerance: float) -> list[str]:
    """Run one run again. What of its claims does not come out?"""
    setting = comparison.settings[claim.setting]
    item = Item(claim.setting, setting, claim.seed)
    found = repeat(splits, item, comparison.metric)
    allowed = _allowed(comparison, splits, claim, found, tolerance)
    if not _disagreements(claim, found, allowed):
        return []
    copies = [_figures(repeat(perturbed(splits, i), item, comparison.metric)) for i in range(COPIES)]
    allowed = _allowed_in_chaos(_figures(found), np.stack(copies), allowed)
    where = f"the run of setting {claim.setting}, seed {claim.seed} is not reproduced: "
    return [where + text for text in _disagreements(claim, found, allowed)]


def _allowed_in_chaos(found: np.ndarray, copies: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """The allowed differences, widened by what rounding alone does to this run.

    Args:
        found: (F,) as `_figures` gives them.
        copies: (COPIES, F) the same of runs with slightly perturbed inputs.
        allowed: (F,) before.
    """
    spread = np.abs(copies - found)
    # NaN in some of them only: whether this run diverges is itself a matter of rounding.
    spread = np.where(np.isnan(copies) & np.isnan(found), 0.0, np.nan_to_num(spread, nan=np.inf)).max(0)
    apart = spread > allowed / 10
    if not apart.any():
        return allowed
    widened = 3 * allowed + 10 * spread
    # Differences grow exponentially: behind the first point where the copies separate, the curve is another one.
    widened[len(PARTS) :][np.maximum.accumulate(apart[len(PARTS) :])] = np.inf
    return widened


def repeat(splits: DataSplits, item: Item, metric: str) -> RunRecord:
    return run_job(splits, [item], can_be_batched(item.setting) is None, metric)[0]


def perturbed(splits: DataSplits, seed: int) -> DataSplits:
    noise = np.random.default_rng(seed).standard_normal(splits.x.shape).astype(splits.x.dtype)
    return replace(splits, x=splits.x * (1 + NOISE * noise))


def _figures(record: RunRecord) -> np.ndarray:
    """The three figures and the curve, in one row."""
    return np.array([record.train, record.validation, record.test, *record.losses])


def _allowed(
    comparison: Comparison, splits: DataSplits, claim: RunRecord, found: RunRecord, tolerance: float
) -> np.ndarray:
    """For each of `_figures` the difference that is allowed."""
    losses = tolerance * np.maximum(1.0, np.nan_to_num(_figures(found)))
    if comparison.metric == "loss":
        return losses
    fold = splits.folds(claim.seed)[0]
    # A little more than one sample: the difference of two shares is not exact.
    losses[: len(PARTS)] = [one_sample(comparison.metric, fold[name][1]) * 1.001 for name in PARTS]
    return losses


def _disagreements(claim: RunRecord, found: RunRecord, allowed: np.ndarray) -> list[str]:
    claimed, repeated = _figures(claim), _figures(found)
    difference = np.where(np.isnan(claimed) & np.isnan(repeated), 0.0, np.abs(claimed - repeated))
    wrong = ~(difference <= allowed) & ~np.isinf(allowed)
    problems = [
        f"its {name} figure is {claimed[i]:.6g}, but {repeated[i]:.6g} comes out"
        for i, name in enumerate(PARTS)
        if wrong[i]
    ]
    points = np.flatnonzero(wrong[len(PARTS) :])
    if len(points):
        first = len(PARTS) + points[0]
        problems.append(
            f"its curve differs at {len(points)} point(s); at point {points[0] + 1} it is {claimed[first]:.6g}, but "
            f"{repeated[first]:.6g} comes out"
        )
    return problems
