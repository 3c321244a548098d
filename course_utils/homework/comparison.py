"""Comparing hyperparameters fairly: the same seeds, splits and starting weights for every setting."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from course_utils.foundation.arguments import check_choice, check_count, describe_value
from course_utils.foundation.progress import progress_bar
from course_utils.homework.batched import can_be_batched
from course_utils.homework.document import (
    MAX_AUTHOR,
    MAX_BYTES,
    BadDocument,
    from_document,
    plain_setting,
    summary_differences,
    to_document,
)
from course_utils.homework.files import parse_json, read_limited, to_json, write_new
from course_utils.homework.journal import Journal
from course_utils.homework.measuring import METRICS, higher_is_better
from course_utils.homework.parts import PARTS, Task, load_task
from course_utils.homework.running import ENGINES, Item, RunRecord, logged_epochs, one_thread, plan_jobs, spread
from course_utils.homework.settings import NAMES, Setting, expand_grid
from course_utils.homework.statistics import explained_variance, is_full_grid, summarize

if TYPE_CHECKING:
    from matplotlib.axes import Axes
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
        data: "iris", "digits", "breast_cancer", or a pair (x, y): (N, D) floats and (N,) class indices, tensors or
            arrays, at least 10 samples of each class.
        seeds: their number n, for 0 … n − 1, or a list of them.
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

    Raises:
        TypeError, ValueError: an argument that does not fit; a log of another comparison.

    >>> comparison = compare({"lr": [0.01, 0.1]}, seeds=3, epochs=5, progress=False)
    >>> comparison
    Comparison(2 settings × 3 seeds on iris, accuracy, holdout)
    >>> list(comparison.runs)[:6]
    ['setting', 'lr', 'seed', 'train_accuracy', 'validation_accuracy', 'test_accuracy']
    """
    settings, seeds = expand_grid(grid, epochs=epochs), check_seeds(seeds)
    check_choice(metric, "metric", METRICS)
    check_choice(engine, "engine", ENGINES)
    check_engine(settings, engine)
    task = load_task(data, validation)
    items = [Item(number, setting, seed) for number, setting in enumerate(settings) for seed in seeds]
    described = {
        "data": task.name,
        "data_digest": task.digest,
        "metric": metric,
        "validation": validation,
        "engine": engine,
    }
    if log is None:
        records = _run(task, items, engine, metric, progress)
    else:
        fingerprint = described | {"settings": [plain_setting(s) for s in settings], "seeds": list(seeds)}
        with Journal(log, fingerprint) as journal:
            records = _run(task, items, engine, metric, progress, journal)
    sizes = tuple(len(task.folds(seeds[0])[0][name][1]) for name in PARTS)
    ordered = tuple(records[item.number, item.seed] for item in items)
    return Comparison(settings=tuple(settings), seeds=seeds, records=ordered, sizes=sizes, **described)


def check_seeds(seeds: int | Sequence[int]) -> tuple[int, ...]:
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


def check_engine(settings: Sequence[Setting], engine: str) -> None:
    """Raise for settings that the batched engine was asked to train but cannot; warn where "auto" avoids it."""
    refused = {reason: None for setting in settings if (reason := can_be_batched(setting))}
    if not refused or engine == "loop":
        return
    if engine == "batched":
        raise ValueError(f"engine 'batched' cannot train this grid: {'; '.join(refused)}; use 'auto' or 'loop'")
    count = sum(can_be_batched(setting) is not None for setting in settings)
    warnings.warn(
        f"{count} of {len(settings)} settings are trained one run after the other: {'; '.join(refused)}", stacklevel=3
    )


def _run(
    task: Task, items: Sequence[Item], engine: str, metric: str, progress: bool, journal: Journal | None = None
) -> dict[tuple[int, int], RunRecord]:
    """The records of all items by (setting, seed): those of the journal, and the others trained now."""
    done = dict(journal.records) if journal else {}
    # Planned for all runs, so that a comparison that goes on trains the rest in the company that it had before.
    plan = ([item for item in job if (item.number, item.seed) not in done] for job in plan_jobs(task, items, engine))
    jobs = [job for job in plan if job]
    with (
        one_thread(),
        progress_bar(total=len(items), description="comparing", unit="run", enabled=progress) as bar,
    ):
        bar.update(len(done))
        for records in spread(task, jobs, engine, metric):
            if journal:
                journal.append(records)
            done |= {(record.setting, record.seed): record for record in records}
            bar.update(len(records))
    return done


@dataclass(frozen=True)
class Best:
    """The setting with the best validation metric, and what that is worth.

    Attributes:
        setting: its number in the grid.
        values: the hyperparameters.
        metric: the name of the metric of the following figures, which are means over the seeds.
        validation: on the validation part, by which the setting was chosen.
        test: on the test part, which had no say.
        optimism: validation − test. It holds two things. Who chooses the best of many figures chooses luck as well, so
            the validation figure is flattered. And the test part may happen to be easier or harder than the others,
            which all settings have in common.
        tied: numbers of the other settings that cannot be told apart from it.
    """

    setting: int
    values: Setting
    metric: str
    validation: float
    test: float
    optimism: float
    tied: tuple[int, ...]

    def __str__(self) -> str:
        return (
            f"setting {self.setting}: {self.metric} {self.validation:.4f} on validation, {self.test:.4f} on test, "
            f"optimism {self.optimism:+.4f}; {len(self.tied)} other setting(s) cannot be told apart from it"
        )


@dataclass(frozen=True, eq=False, repr=False)
class Comparison:
    """The result of `compare`.

    Attributes:
        settings: the grid, in order; a setting's number is its place here.
        seeds: of the runs of each setting.
        records: one for each run, setting by setting and in each seed by seed.
        sizes: the numbers of training, validation and test samples; with folds, of the first one.
        data: the name of the data set; None for the caller's own.
        data_digest: SHA-256 of the data.
        metric, validation, engine: as given to `compare`.
        author: who handed it in, if the file says so.
    """

    settings: tuple[Setting, ...]
    seeds: tuple[int, ...]
    records: tuple[RunRecord, ...] = field(repr=False)
    sizes: tuple[int, int, int]
    data: str | None
    data_digest: str
    metric: str
    validation: str
    engine: str
    author: str | None = None

    def __len__(self) -> int:
        return len(self.records)

    def __repr__(self) -> str:
        return (
            f"Comparison({len(self.settings)} settings × {len(self.seeds)} seeds on {self.data or 'own data'}, "
            f"{self.metric}, {self.validation})"
        )

    def _repr_html_(self) -> str:
        return f"<p>{self!r}</p>{self.summary().head(10).round(4).to_html(index=False)}"

    @property
    def varied(self) -> tuple[str, ...]:
        """The names that differ between settings."""
        return tuple(name for name in NAMES if len({getattr(setting, name) for setting in self.settings}) > 1)

    @property
    def one_by_one(self) -> dict[int, str]:
        """The settings that engine "auto" left to the loop: number → the reason."""
        reasons = {number: can_be_batched(setting) for number, setting in enumerate(self.settings)}
        return {number: reason for number, reason in reasons.items() if reason and self.engine == "auto"}

    def values_of(self, number: int) -> dict[str, Any]:
        """The varied values of a setting as a table shows them.

        Networks with several hidden layers, or beside such ones, are text ("16-16"); so is the full batch ("full").
        """
        return {name: self._shown(name, getattr(self.settings[number], name)) for name in self.varied}

    def _shown(self, name: str, value: Any) -> Any:
        if name == "batch_size" and value is None:
            return "full"
        if name != "hidden_features":
            return value
        only_one_layer = all(len(setting.hidden_features) == 1 for setting in self.settings)
        return value[0] if only_one_layer else "-".join(map(str, value))

    def label(self, number: int) -> str:
        """A setting in a legend, by what is varied."""
        shown = (
            f"{name} {v:g}" if isinstance(v, float) else f"{name} {v}" for name, v in self.values_of(number).items()
        )
        return ", ".join(shown) or "the only setting"

    @cached_property
    def runs(self) -> pd.DataFrame:
        """One row a run.

        setting, its varied values, seed, {train,validation,test}_{metric}, diverged, seconds, versions.

        A loss that is not finite is NaN. The seconds of runs that were trained together are equal shares.
        """
        rows = [
            {"setting": record.setting, **self.values_of(record.setting), "seed": record.seed}
            | {f"{part}_{self.metric}": getattr(record, part) for part in PARTS}
            | {"diverged": record.diverged, "seconds": record.seconds, "versions": record.versions}
            for record in self.records
        ]
        return pd.DataFrame(rows)

    @cached_property
    def curves(self) -> pd.DataFrame:
        """The training loss, nats per sample, dropout active: setting, seed, epoch (from 1), loss (NaN if not finite).

        At most 100 epochs of each run, evenly spread.
        """
        epochs = [logged_epochs(self.settings[record.setting].epochs) for record in self.records]
        lengths = [len(own) for own in epochs]
        return pd.DataFrame(
            {
                "setting": np.repeat([record.setting for record in self.records], lengths),
                "seed": np.repeat([record.seed for record in self.records], lengths),
                "epoch": np.concatenate(epochs),
                "loss": np.concatenate([record.losses for record in self.records]),
            }
        )

    def matrix(self, part: str = "validation") -> np.ndarray:
        """The metric on a part, (settings, seeds)."""
        check_choice(part, "part", PARTS)
        return np.array([getattr(record, part) for record in self.records]).reshape(len(self.settings), -1)

    def summary(self) -> pd.DataFrame:
        """One row a setting, the best first, by the validation metric.

        Columns: setting, its varied values; mean and std (n − 1) over the n seeds; low and high, the ends of the 95 %
        t-interval mean ± t(0.975; n − 1)·std/√n; n; diverged, the number of diverged runs; rank; p_value;
        tied_with_best.

        A setting with diverged runs ranks behind all settings with fewer of them. p_value is of the paired t-test of
        a setting against the best one, seed by seed, corrected for their number after Holm (1979). Where it is 0.05 or
        more, or missing as with a single seed, the data cannot tell the two apart: tied_with_best. Because the best
        one was chosen by the same figures, a p_value near 0.05 is weak evidence. All of this is about seeds and splits
        of one data set; the splits overlap, so other data can differ by more than the intervals say.
        """
        diverged = np.array([record.diverged for record in self.records]).reshape(len(self.settings), -1)
        table = summarize(self.matrix(), diverged, higher_is_better=higher_is_better(self.metric))
        values = pd.DataFrame([self.values_of(number) for number in table["setting"]], index=table.index)
        return pd.concat([table[["setting"]], values, table.drop(columns="setting")], axis=1)

    def best(self) -> Best:
        """The setting with the best mean validation metric, reported on the test part, with its optimism."""
        table = self.summary()
        number = int(table["setting"][0])
        validation, test = (float(self.matrix(part)[number].mean()) for part in ("validation", "test"))
        tied = tuple(int(other) for other in table["setting"][1:][table["tied_with_best"][1:]])
        return Best(number, self.settings[number], self.metric, validation, test, validation - test, tied)

    def importance(self) -> pd.Series:
        """Which share of the variance of the validation metric over all runs each varied name explains.

        With v(s, k) of setting s and seed k, m the mean of all and m(s) that of a setting:
        the total is Σ (v(s, k) − m)². A name's main effect is Σ over its values of n·(mean of the n runs with this
        value − m)². "interactions" is K·Σ (m(s) − m)², over K seeds, less all main effects: what depends on several
        names together. "seeds" is the rest: what differs between runs of one setting. In a full grid the parts are
        orthogonal and add up to 1 (the analysis of variance of a factorial design, Fisher 1935).

        Returns:
            Shares with the names as index, the largest main effect first; all NaN if all runs gave the same.

        Raises:
            ValueError: the settings are no full grid, only one of them, or a run has no finite metric.
        """
        if not self.varied:
            raise ValueError("the comparison has a single setting, so nothing is varied")
        settings = [self.values_of(number) for number in range(len(self.settings))]
        if not is_full_grid(settings):
            raise ValueError(
                "the importance is defined for a full grid, where every combination of the values was run; "
                "give compare one dict with all values"
            )
        values = self.matrix()
        if np.isnan(values).any():
            raise ValueError(
                f"{int(np.isnan(values).sum())} run(s) diverged, and their {self.metric} is no number; "
                "compare by accuracy, or leave out what diverges"
            )
        effects, interactions, seeds = explained_variance(settings, values)
        sorted_effects = dict(sorted(effects.items(), key=lambda item: -item[1]))
        return pd.Series(sorted_effects | {"interactions": interactions, "seeds": seeds}, name="share of variance")

    def plot_curves(self, *, ax: Axes | None = None, save_path: str | os.PathLike | None = None) -> Figure:
        """The training loss of the best settings, at most 8: median over the seeds, and the range of all seeds."""
        from course_utils.homework.plotting import plot_curves

        return plot_curves(self, ax=ax, save_path=save_path)

    def plot_heatmap(
        self, x: str | None = None, y: str | None = None, *, save_path: str | os.PathLike | None = None
    ) -> Figure:
        """The mean validation metric for each pair of values of two names, over everything else.

        Args:
            x, y: varied names; None takes those with the most values.
            save_path: also write the figure there.
        """
        from course_utils.homework.plotting import plot_heatmap

        return plot_heatmap(self, x, y, save_path=save_path)

    def plot_seeds(self, *, ax: Axes | None = None, save_path: str | os.PathLike | None = None) -> Figure:
        """Each run of the best settings, at most 25, with the mean and its 95 % interval."""
        from course_utils.homework.plotting import plot_seeds

        return plot_seeds(self, ax=ax, save_path=save_path)

    def plot_importance(self, *, ax: Axes | None = None, save_path: str | os.PathLike | None = None) -> Figure:
        """`importance` as bars."""
        from course_utils.homework.plotting import plot_importance

        return plot_importance(self, ax=ax, save_path=save_path)

    def report(self, path: str | os.PathLike, *, overwrite: bool = False) -> None:
        """Write one HTML page that needs no other file: the conclusion, the tables, the figures with texts.

        Raises:
            FileExistsError: `path` holds something else, and `overwrite` is False.
        """
        from course_utils.homework.pages import comparison_page

        write_new(path, comparison_page(self).encode(), overwrite=overwrite)

    def save(self, path: str | os.PathLike, *, author: str | None = None, overwrite: bool = False) -> None:
        """Write one JSON file, to be handed in and to be loaded again.

        Args:
            path: of the file.
            author: who hands it in, at most 200 characters; None keeps what was loaded.
            overwrite: replace a file of other contents.

        Raises:
            FileExistsError: `path` holds something else, and `overwrite` is False.
        """
        author = self.author if author is None else author
        if author is not None and not (isinstance(author, str) and 0 < len(author) <= MAX_AUTHOR):
            raise ValueError(
                f"author must be a text of at most {MAX_AUTHOR} characters, but is {describe_value(author)}"
            )
        content = (to_json(to_document(self, author)) + "\n").encode()
        if len(content) > MAX_BYTES:
            raise ValueError(f"the file would have more than {MAX_BYTES / 2**20:g} MiB; compare fewer runs at a time")
        write_new(path, content, overwrite=overwrite)

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
            return cls.from_content(read_limited(path, MAX_BYTES))
        except ValueError as error:
            raise ValueError(f"{path} cannot be loaded: {error}") from None

    @classmethod
    def from_content(cls, content: bytes) -> Comparison:
        """The comparison that the bytes of a file describe. Raises ValueError if they describe none."""
        document = parse_json(content)
        comparison = cls(**from_document(document))
        if problems := summary_differences(document, comparison):
            raise BadDocument(problems)
        return comparison
