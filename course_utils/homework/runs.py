"""The runs of a comparison: planned as jobs, spread by joblib, trained by one of the engines, and measured."""

from __future__ import annotations

import importlib.metadata
import math
import platform
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from itertools import islice

import torch

from course_utils import __version__
from course_utils.foundation.arguments import check_count, describe_value
from course_utils.homework.data import PARTS, DataSplits, Fold
from course_utils.homework.engine.base import TrainedRun
from course_utils.homework.engine.batched import can_be_batched, plan_chunks, train_batched
from course_utils.homework.engine.reference import Network, train_sequentially
from course_utils.homework.metrics import measure
from course_utils.homework.settings import Setting

ENGINES = ("auto", "batched", "loop")
# Fewer runs at once would be slower; more would leave a second core idle, and lose more when a program is stopped.
RUNS_PER_JOB = 100
# From this many numbers in a training part on, a seed's runs share one copy of it, which is twice as fast on the
# digits. Below, all seeds train together, each run with a copy of its data.
SHARED_FROM = 20_000
MAX_LOGGED = 100  # epochs of a curve
_PACKAGES = ("torch", "scikit-learn", "numpy")


@dataclass(frozen=True)
class Item:
    """A run to do: the setting's number in the grid, the setting, the seed."""

    number: int
    setting: Setting
    seed: int


@dataclass(frozen=True)
class RunRecord:
    """A finished run.

    Attributes:
        setting: its number in the grid.
        seed: of the run.
        train, validation, test: the metric on each part, in eval mode; NaN for a loss that is not finite.
        diverged: is the network's loss or one of its outputs no finite number any more?
        seconds: wall time; for runs trained together an equal share.
        versions: of Python and the packages.
        losses: the training loss at the epochs of `logged_epochs`, to 7 digits; NaN where not finite.
    """

    setting: int
    seed: int
    train: float
    validation: float
    test: float
    diverged: bool
    seconds: float
    versions: str
    losses: tuple[float, ...]


def check_seeds(seeds: int | Sequence[int]) -> tuple[int, ...]:
    """The seeds of a comparison: n stands for 0 … n − 1."""
    if hasattr(seeds, "tolist"):  # a NumPy array or number, a tensor
        seeds = seeds.tolist()
    if not isinstance(seeds, (list, tuple, range)):
        return tuple(range(check_count(seeds, "seeds")))
    if not seeds:
        raise ValueError("seeds is empty; give at least one seed, for a fair comparison five or more")
    checked = tuple(check_count(seed, "each seed", minimum=0) for seed in seeds)
    if max(checked) >= 2**32:
        raise ValueError(f"each seed must be less than 2**32, but one is {max(checked)}")
    if len(set(checked)) < len(checked):
        raise ValueError(f"seeds must differ from each other, but are {describe_value(seeds)} with repetitions")
    return checked


def check_different_runs(settings: Sequence[Setting], splits: DataSplits, seed: int) -> None:
    """Raise for two settings that are the same runs, as both batch sizes take all samples: they would count as two."""
    full = splits.full_batch(seed)
    found: dict[Setting, int] = {}
    for number, setting in enumerate(settings):
        in_effect = replace(setting, batch_size=None) if (setting.batch_size or 0) >= full else setting
        first = found.setdefault(in_effect, number)
        if first != number:
            raise ValueError(
                f"settings {first} and {number} are the same runs: the batch sizes {settings[first].batch_size} and "
                f"{setting.batch_size} both take all {full} training samples at once; leave one of them out"
            )


def check_engine(settings: Sequence[Setting], engine: str) -> None:
    """Raise for settings that the batched engine was asked to train but cannot; warn where "auto" avoids it."""
    refused = [reason for setting in settings if (reason := can_be_batched(setting))]
    reasons = "; ".join(dict.fromkeys(refused))
    if refused and engine == "batched":
        raise ValueError(f"engine 'batched' cannot train this grid: {reasons}; use 'auto' or 'loop'")
    if refused and engine == "auto":
        text = f"{len(refused)} of {len(settings)} settings are trained one run after the other: {reasons}"
        warnings.warn(text, stacklevel=3)


def logged_epochs(epochs: int) -> list[int]:
    """The epochs of a curve, counted from 1: all of them, or 100 evenly spread from the first to the last.

    >>> logged_epochs(3), len(logged_epochs(20_000)), logged_epochs(20_000)[-2:]
    ([1, 2, 3], 100, [19798, 20000])
    """
    if epochs <= MAX_LOGGED:
        return list(range(1, epochs + 1))
    return [1 + round(i * (epochs - 1) / (MAX_LOGGED - 1)) for i in range(MAX_LOGGED)]


@cache
def versions() -> str:
    """Of Python, this package and what it computes with."""
    packages = (f"{name} {importlib.metadata.version(name)}" for name in _PACKAGES)
    return ", ".join((f"course_utils {__version__}", f"python {platform.python_version()}", *packages))


def is_batched(setting: Setting, engine: str) -> bool:
    return engine == "batched" or (engine == "auto" and can_be_batched(setting) is None)


def plan_jobs(splits: DataSplits, items: Sequence[Item], engine: str) -> list[list[Item]]:
    """Which runs are trained in one job. Single runs for the loop, chunks of them for the batched engine.

    The plan depends on the runs only, never on the number of processes: so the results do not either.
    """
    batched = [item for item in items if is_batched(item.setting, engine)]
    jobs = [[item] for item in items if not is_batched(item.setting, engine)]
    num_samples, in_features = splits.train_shape
    shared = num_samples * in_features >= SHARED_FROM
    groups = [[i for i in batched if i.seed == seed] for seed in _unique(batched)] if shared else [batched]
    for group in filter(None, groups):
        for indices in plan_chunks([(i.setting, i.seed) for i in group], num_samples, in_features, splits.num_classes):
            chunk = [group[i] for i in indices]
            jobs += [chunk[start : start + RUNS_PER_JOB] for start in range(0, len(chunk), RUNS_PER_JOB)]
    return jobs


def _unique(items: Sequence[Item]) -> list[int]:
    """Their seeds, each once."""
    return list(dict.fromkeys(item.seed for item in items))


def spread(splits: DataSplits, jobs: Sequence[list[Item]], engine: str, metric: str) -> Iterator[list[RunRecord]]:
    """The jobs' records, job by job as they finish, from the joblib backend that the caller has chosen."""
    import joblib
    from joblib.parallel import get_active_backend

    calls = [joblib.delayed(run_job)(splits, job, is_batched(job[0].setting, engine), metric) for job in jobs]
    backend, num_processes = get_active_backend()
    if backend.supports_return_generator or num_processes == 1:
        yield from joblib.Parallel(return_as="generator_unordered")(calls)
        return
    # "multiprocessing", and Ray, which is built on it, give back whole lists only. In rounds, a log still grows.
    step = 4 * max(1, backend.effective_n_jobs(num_processes))
    for start in range(0, len(calls), step):
        yield from joblib.Parallel()(calls[start : start + step])


def run_job(splits: DataSplits, items: Sequence[Item], batched: bool, metric: str) -> list[RunRecord]:
    """Train and measure some runs. A figure of a run is the mean over its folds."""
    start = time.perf_counter()
    with one_thread():
        folds = {seed: splits.folds(seed) for seed in _unique(items)}
        pieces = [(item, fold) for item in items for fold in folds[item.seed]]
        trained = _train_together(pieces, splits.num_classes) if batched else _train_alone(pieces, splits.num_classes)
        in_order = iter(trained)
        records = [
            _record(item, folds[item.seed], list(islice(in_order, len(folds[item.seed]))), metric) for item in items
        ]
    # To the nanosecond: no two honest comparisons took the same time, so equal ones give copies away.
    seconds = round((time.perf_counter() - start) / len(items), 9)
    return [replace(record, seconds=seconds) for record in records]


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread for torch: sums do not depend on the number of cores. More cores are joblib's business."""
    before = torch.get_num_threads()
    try:
        if before != 1:
            torch.set_num_threads(1)
        yield
    finally:
        if before != 1:
            torch.set_num_threads(before)


def _train_alone(pieces: list[tuple[Item, Fold]], num_classes: int) -> list[TrainedRun]:
    return [train_sequentially(item.setting, item.seed, *fold["train"], num_classes) for item, fold in pieces]


def _train_together(pieces: list[tuple[Item, Fold]], num_classes: int) -> list[TrainedRun]:
    groups: dict[int, list[int]] = {}
    for i, (_, fold) in enumerate(pieces):
        x = fold["train"][0]
        # Data of one length can be stacked; large data is not copied, but shared by the runs of a seed.
        groups.setdefault(id(fold) if x.numel() >= SHARED_FROM else len(x), []).append(i)
    trained: dict[int, TrainedRun] = {}
    for indices in groups.values():
        parts = [pieces[i][1]["train"] for i in indices]
        shared = all(part is parts[0] for part in parts)
        x, y = parts[0] if shared else (torch.stack(tensors) for tensors in zip(*parts, strict=True))
        runs = [(pieces[i][0].setting, pieces[i][0].seed) for i in indices]
        trained |= zip(indices, train_batched(runs, x, y, num_classes), strict=True)
    return [trained[i] for i in range(len(pieces))]


@torch.no_grad()
def _record(item: Item, folds: list[Fold], trained: list[TrainedRun], metric: str) -> RunRecord:
    figures = {name: 0.0 for name in PARTS}
    finite = True
    for fold, run in zip(folds, trained, strict=True):
        network = Network(run.parameters, item.setting.activation)  # called without masks: no dropout
        finite &= bool(run.losses[-1].isfinite())
        for name in PARTS:
            x, y = fold[name]
            logits = network(x)
            finite &= bool(logits.isfinite().all())
            figures[name] += measure(metric, logits, y) / len(folds)
    finite &= not any(map(math.isnan, figures.values()))
    curve = torch.stack([run.losses for run in trained]).mean(0)
    return RunRecord(
        setting=item.number,
        seed=item.seed,
        **figures,
        diverged=not finite,
        seconds=math.nan,
        versions=versions(),
        losses=tuple(_seven_digits(curve[epoch - 1].item()) for epoch in logged_epochs(item.setting.epochs)),
    )


def _seven_digits(value: float) -> float:
    """What float32 knows of a value, in half the space of a file; NaN if it is not finite."""
    return float(f"{value:.7g}") if math.isfinite(value) else math.nan
