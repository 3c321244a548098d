"""Comparing hyperparameters fairly: the same seeds, splits and starting weights for every setting."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from course_utils.foundation.arguments import check_choice
from course_utils.foundation.html import render
from course_utils.foundation.plotting import figure_png
from course_utils.foundation.progress import progress_bar
from course_utils.homework import plotting
from course_utils.homework.data import PARTS, TEST_SIZE, DataSplits, load_splits
from course_utils.homework.metrics import METRICS
from course_utils.homework.plans import Plan, check_kept, is_kept
from course_utils.homework.results import ComparedRuns, requirements
from course_utils.homework.runs import (
    ENGINES,
    Item,
    RunRecord,
    check_different_runs,
    check_engine,
    check_seeds,
    one_thread,
    plan_jobs,
    spread,
)
from course_utils.homework.settings import expand_grid
from course_utils.homework.storage import Journal, from_bytes, read_limited, setting_to_json, to_bytes, write_new

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def compare(
    grid: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    *,
    data: Any = "iris",
    seeds: int | Sequence[int] = 10,
    epochs: int | None = None,
    validation: str = "holdout",
    metric: str = "accuracy",
    engine: str = "auto",
    progress: bool = True,
    log: str | os.PathLike | None = None,
    plan: Plan | None = None,
) -> Comparison:
    """Train every setting of a grid with every seed, and measure each network on training, validation and test part.

    What is fair about it: a stratified fifth of the data is set aside as the test part first, the same one for all
    runs. From the rest each seed draws its own training and validation part, the same for all settings, as are the
    first weights of networks of one shape. So settings are compared pair by pair. Features are standardised with the
    mean and standard deviation of the training part alone. Metrics are measured without dropout.

    The work goes through joblib: one process by default, several inside `joblib.parallel_config("loky", n_jobs=2)`, a
    cluster inside `joblib.parallel_config("dask")`. The results are the same. Each job uses one thread.

    Args:
        grid: as for `expand_grid`, name → value or list of values, or a list of such dicts.
        data: "iris", "digits", "breast_cancer", or a pair (x, y): (N, D) floats, a tensor, an array or a DataFrame,
            and (N,) class indices or names of classes, a tensor, an array, a Series or a list; at least 10 samples of
            each class.
        seeds: their number n, for 0 … n − 1, or a list or array of them.
        epochs: for all settings, where the grid names none; None is the default of `Setting`, 20,000.
        validation: "holdout" takes a stratified quarter of the rest for validation, another one for each seed.
            "repeated_kfold" trains on 5 stratified folds of the rest, drawn anew for each seed; a run's figures and
            curve are the means over its folds.
        metric: "accuracy"; "loss", mean cross-entropy in nats per sample, lower is better; "f1_macro".
        engine: "batched" trains many runs at once, "loop" one after the other, with the same results up to rounding.
            "auto" takes the batched one for all settings that it can train, and warns of the others.
        progress: show a bar.
        log: a file to which every finished run is added at once. The same call with the same log, after whatever
            stopped the first one, goes on where that one was.
        plan: what `register` returned for these arguments; the result carries its digest.

    Raises:
        TypeError, ValueError: an argument that does not fit, or that was planned otherwise; two settings that are the
            same runs on these data, as batch sizes None and 1,000 on 90 samples are; a log of another comparison.

    >>> comparison = compare({"lr": [0.01, 0.1]}, seeds=3, epochs=5, progress=False)
    >>> comparison
    Comparison(2 settings × 3 seeds on iris, accuracy, holdout)
    >>> list(comparison.runs)[:6]
    ['setting', 'lr', 'seed', 'train_accuracy', 'validation_accuracy', 'test_accuracy']
    """
    settings, seeds = expand_grid(grid, epochs=epochs), check_seeds(seeds)
    check_choice(metric, "metric", tuple(METRICS))
    check_choice(engine, "engine", ENGINES)
    check_engine(settings, engine)
    splits = load_splits(data, validation)
    check_different_runs(settings, splits, seeds[0])
    items = [Item(number, setting, seed) for number, setting in enumerate(settings) for seed in seeds]
    compared = {
        "data": splits.name,
        "data_digest": splits.digest,
        "metric": metric,
        "validation": validation,
        "engine": engine,
    }
    if plan is not None:
        check_kept(plan, Plan(tuple(settings), seeds, metric, validation, splits.name, splits.digest))
    if log is None:
        records = _train(splits, items, engine, metric, progress)
    else:
        header = compared | {"settings": [setting_to_json(setting) for setting in settings], "seeds": list(seeds)}
        with closing(Journal(log, header)) as journal:
            records = _train(splits, items, engine, metric, progress, journal)
    ordered = tuple(records[item.number, item.seed] for item in items)
    return Comparison(tuple(settings), seeds, ordered, splits.sizes(seeds[0]), plan=plan and plan.digest, **compared)


def _train(
    splits: DataSplits, items: Sequence[Item], engine: str, metric: str, progress: bool, journal: Journal | None = None
) -> dict[tuple[int, int], RunRecord]:
    """The records of all items by (setting, seed): those of the journal, and the others trained now."""
    done = dict(journal.records) if journal else {}
    # Planned for all runs: those that are left are trained with the same neighbours as in a call without interruption.
    plan = ([item for item in job if (item.number, item.seed) not in done] for job in plan_jobs(splits, items, engine))
    jobs = [job for job in plan if job]
    with (
        one_thread(),
        progress_bar(total=len(items), description="comparing", unit="run", enabled=progress) as bar,
    ):
        bar.update(len(done))
        for records in spread(splits, jobs, engine, metric):
            if journal:
                journal.append(records)
            done |= {(record.setting, record.seed): record for record in records}
            bar.update(len(records))
    return done


_PLAN_TEXTS = {
    None: "none was registered before the runs.",
    True: "registered and kept; settings, seeds, metric and data are those planned. Digest",
    False: "not kept; what was compared is not what was planned. Digest",
}


@dataclass(frozen=True, eq=False, repr=False)
class Comparison(ComparedRuns):
    """The result of `compare`: all tables of the runs, their figures, and ways to keep and to show them.

    Its fields are those of `ComparedRuns`: settings, seeds, records, sizes, data, data_digest, metric, validation,
    engine, author and plan.
    """

    plot_curves = plotting.plot_curves
    plot_heatmap = plotting.plot_heatmap
    plot_seeds = plotting.plot_seeds
    plot_importance = plotting.plot_importance

    def _repr_html_(self) -> str:
        return render("homework/templates/preview.html", text=repr(self), table=self.summary(), limit=10)

    def report(self, path: str | os.PathLike) -> None:
        """Write one HTML page that needs no other file: the conclusion, the tables, the figures with texts.

        Raises:
            FileExistsError: `path` holds something else.
        """
        page = render(
            "homework/templates/comparison.html",
            title=f"Comparison of {len(self.settings)} settings on {self.data or 'unnamed data'}",
            comparison=self,
            sizes=[f"{size:,} {name}" for name, size in zip(PARTS, self.sizes, strict=True)],
            test_size=f"{TEST_SIZE:.0%}",
            unmet=requirements(self),
            plan=_PLAN_TEXTS[is_kept(self)],
            best=self.best(),
            table=self.summary(),
            figures=[{"png": figure_png(figure), "note": note} for figure, note in self._figures()],
            versions=dict.fromkeys(record.versions for record in self.records),
            trained_alone=Counter(self.one_by_one.values()),
        )
        write_new(path, page.encode())

    def _figures(self) -> list[tuple[Figure, str]]:
        """The report's figures, each with a text for those who cannot see it."""
        best = self.best()
        top = self.label(best.setting)
        seeds = f"Validation {self.metric} of each run, best setting first: {top}, mean {best.validation:.4f}."
        curves = f"Training loss against the epoch for the best settings; rank 1 is {top}."
        heatmap = f"Mean validation {self.metric} by the two names with the most values, as numbers and colours."
        figures = [(self.plot_seeds(), seeds), (self.plot_curves(), curves)]
        if self.varied:
            figures.append((self.plot_heatmap(), heatmap))
        if self.why_no_importance() is None:
            shares = self.importance().dropna()
            listed = ", ".join(f"{name} {share:.0%}" for name, share in shares.items())
            figures.append((self.plot_importance(), f"Shares of the variance explained: {listed or 'none'}."))
        return figures

    def save(self, path: str | os.PathLike, *, author: str | None = None) -> None:
        """Write one JSON file, to be handed in and to be loaded again.

        Args:
            path: of the file.
            author: who hands it in, at most 200 characters; None keeps what was loaded.

        Raises:
            FileExistsError: `path` holds something else.
        """
        write_new(path, to_bytes(self, self.author if author is None else author))

    @classmethod
    def load(cls, path: str | os.PathLike) -> Comparison:
        """Read what `save` wrote. Nothing in the file is executed.

        Raises:
            FileNotFoundError: no such file.
            ValueError: the file is damaged, changed, or something else; the message says what is wrong.
        """
        if not os.path.exists(path):
            raise FileNotFoundError(f"there is no file {path}")
        try:
            return cls(**from_bytes(read_limited(path)))
        except ValueError as error:
            raise ValueError(f"{path} cannot be loaded: {error}") from None
