"""What the runs of a comparison say: tables, intervals, ranks, which settings cannot be told apart, what matters."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from course_utils.foundation.arguments import check_choice
from course_utils.homework.data import PARTS
from course_utils.homework.engine.batched import can_be_batched
from course_utils.homework.metrics import bounds, higher_is_better
from course_utils.homework.runs import RunRecord, logged_epochs
from course_utils.homework.settings import NAMES, Setting
from course_utils.homework.statistics import explained_variance, summarize

MIN_SEEDS = 5


@dataclass(frozen=True)
class Best:
    """The setting with the best validation metric, and what that is worth.

    Attributes:
        setting: its number in the grid.
        values: the hyperparameters.
        metric: the name of the metric of the following figures, which are means over the seeds.
        validation: on the validation part, by which the setting was chosen.
        test: on the test part, which had no say.
        optimism: by how much validation promised more than test kept: validation − test, for a loss test − validation.
            It holds two things. Who chooses the best of many figures chooses luck as well, so the validation figure is
            flattered. And the test part may happen to be easier or harder than the others, which all settings have in
            common.
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
class ComparedRuns:
    """Settings, the runs of each with the same seeds, and the tables that follow from them.

    Attributes:
        settings: the grid, in order; a setting's number is its place here.
        seeds: of the runs of each setting.
        records: one for each run, setting by setting and in each seed by seed.
        sizes: the numbers of training, validation and test samples; with folds, of the first one.
        data: the name of the data set; None for the caller's own.
        data_digest: SHA-256 of the data.
        metric, validation, engine: as given to `compare`.
        author: who handed it in, if the file says so.
        plan: the digest of the plan that was registered before the runs, if there was one.
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
    plan: str | None = None

    def __len__(self) -> int:
        return len(self.records)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({len(self.settings)} settings × {len(self.seeds)} seeds on "
            f"{self.data or 'unnamed data'}, {self.metric}, {self.validation})"
        )

    @cached_property
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
        return dict(self._values[number])

    @cached_property
    def _values(self) -> list[dict[str, Any]]:
        one_layer = all(len(setting.hidden_features) == 1 for setting in self.settings)

        def shown(name: str, value: Any) -> Any:
            if name == "batch_size" and value is None:
                return "full"
            if name != "hidden_features":
                return value
            return value[0] if one_layer else "-".join(map(str, value))

        return [{name: shown(name, getattr(setting, name)) for name in self.varied} for setting in self.settings]

    def label(self, number: int) -> str:
        """A setting in a legend, by what is varied."""
        shown = (f"{name} {v:g}" if isinstance(v, float) else f"{name} {v}" for name, v in self._values[number].items())
        return ", ".join(shown) or "the only setting"

    @cached_property
    def runs(self) -> pd.DataFrame:
        """One row a run.

        setting, its varied values, seed, {train,validation,test}_{metric}, diverged, seconds, versions.

        A loss that is not finite is NaN. The seconds of runs that were trained together are equal shares.
        """
        values = {name: [self._values[record.setting][name] for record in self.records] for name in self.varied}
        return pd.DataFrame(
            {"setting": self._column("setting"), **values, "seed": self._column("seed")}
            | {f"{part}_{self.metric}": self._column(part) for part in PARTS}
            | {name: self._column(name) for name in ("diverged", "seconds", "versions")}
        )

    def _column(self, name: str) -> list[Any]:
        return [getattr(record, name) for record in self.records]

    @cached_property
    def curves(self) -> pd.DataFrame:
        """The training loss, nats per sample, dropout active: setting, seed, epoch (from 1), loss (NaN if not finite).

        At most 100 epochs of each run, evenly spread.
        """
        epochs = [logged_epochs(setting.epochs) for setting in self.settings]
        lengths = [len(epochs[record.setting]) for record in self.records]
        return pd.DataFrame(
            {
                "setting": np.repeat(self._column("setting"), lengths),
                "seed": np.repeat(self._column("seed"), lengths),
                "epoch": np.concatenate([epochs[record.setting] for record in self.records]),
                "loss": np.concatenate(self._column("losses")),
            }
        )

    def curves_of(self, number: int) -> pd.DataFrame:
        """The training loss of one setting: a row for each logged epoch, a column for each seed."""
        start = number * len(self.seeds)
        records = self.records[start : start + len(self.seeds)]
        epochs = logged_epochs(self.settings[number].epochs)
        return pd.DataFrame({record.seed: record.losses for record in records}, index=epochs)

    def matrix(self, part: str = "validation") -> np.ndarray:
        """The metric on a part, (settings, seeds)."""
        return self._matrices[check_choice(part, "part", PARTS)].copy()  # which the caller may change

    @cached_property
    def _matrices(self) -> dict[str, np.ndarray]:
        return {part: np.array(self._column(part)).reshape(len(self.settings), -1) for part in PARTS}

    @property
    def overlap(self) -> float:
        """n₂/n₁, validation samples by training samples, which says how much the seeds' training parts share."""
        num_train, num_validation, _ = self.sizes
        return num_validation / num_train

    def summary(self) -> pd.DataFrame:
        """One row a setting, the best first, by the validation metric.

        Columns: setting, its varied values; mean and std (n − 1) over the n seeds; low and high, the ends of the 95 %
        interval mean ± t(0.975; n − 1)·std·√(1/n + n₂/n₁), cut where the metric ends; n; diverged, the number of
        diverged runs; rank; p_value; tied_with_best.

        n₂/n₁, validation by training samples, is 1/3 for "holdout" and 1/4 for "repeated_kfold". This term stands for
        the samples that the training parts of all seeds share (Nadeau, Bengio 2003). With folds a figure is a mean over
        five of them, which spreads less than the rule assumes; there the interval is still rather too narrow.

        A setting with diverged runs ranks behind all settings with fewer of them, and is told apart from the best. For
        the others p_value belongs to the gap to the best one: a permutation test that takes into account that
        the best one was picked by the same figures, and that it was compared with many (formula and sources:
        `course_utils.homework.statistics.p_values_against_best`). Where it is above 0.05, or missing as with a single
        seed, the data cannot tell the two apart: tied_with_best. If all settings were equally good, one would be
        told apart in about 5 of 100 comparisons at most. A p_value belongs to the gap *and* its spread: a setting that
        is far behind, but erratic, can have a larger one than a steady setting before it.
        """
        return self._summary.copy()  # which the caller may change

    @cached_property
    def _summary(self) -> pd.DataFrame:
        diverged = np.array(self._column("diverged")).reshape(len(self.settings), -1)
        table = summarize(
            self.matrix(),
            diverged,
            higher_is_better=higher_is_better(self.metric),
            overlap=self.overlap,
            bounds=bounds(self.metric),
        )
        values = pd.DataFrame([self._values[number] for number in table["setting"]], index=table.index)
        return pd.concat([table[["setting"]], values, table.drop(columns="setting")], axis=1)

    def best(self) -> Best:
        """The setting with the best mean validation metric, reported on the test part, with its optimism."""
        table = self._summary
        number = int(table["setting"][0])
        validation, test = (float(self.matrix(part)[number].mean()) for part in ("validation", "test"))
        tied = tuple(table["setting"][1:][table["tied_with_best"][1:]].tolist())
        optimism = validation - test if higher_is_better(self.metric) else test - validation
        return Best(number, self.settings[number], self.metric, validation, test, optimism, tied)

    def importance(self) -> pd.Series:
        """Which share of the variance of the validation metric over all runs each varied name explains.

        Shares are ω², which are not flattered as plain shares of the squares are: of pure noise a name explains about
        0. The main effect of a name is how much the means of its values differ. "interactions" is what depends
        on several names together, "seeds" what all settings have in common in a seed, such as a hard split, and "luck"
        the rest, what is left to a single run. (Formula and sources:
        `course_utils.homework.statistics.explained_variance`.)

        Returns:
            Shares with the names as index, the largest main effect first; they add up to 1. All NaN if all runs gave
            the same.

        Raises:
            ValueError: a single seed, from which luck cannot be known; the settings are no full grid, or only one; a
                run has no finite metric.
        """
        if reason := self.why_no_importance():
            raise ValueError(reason)
        shares = explained_variance(self._values, self.matrix()).rename("share of variance")
        main = shares[list(self.varied)].sort_values(ascending=False, kind="stable")
        return pd.concat([main, shares.drop(list(self.varied))])

    def why_no_importance(self) -> str | None:
        """None if `importance` is defined for these runs, else the reason why not."""
        if not self.varied:
            return "the comparison has a single setting, so nothing is varied"
        if len(self.seeds) < 2:
            return (
                "the comparison has a single seed, so luck and the effect of the settings cannot be told apart; "
                "compare with at least two seeds"
            )
        if not is_full_grid(self._values):
            return (
                "the importance is defined for a full grid, where every combination of the values was run; "
                "give compare one dict with all values"
            )
        if num_missing := int(np.isnan(self.matrix()).sum()):
            return (
                f"{num_missing} run(s) diverged, and their {self.metric} is no number; "
                "compare by accuracy, or leave out what diverges"
            )
        return None


def requirements(comparison: ComparedRuns) -> list[str]:
    """The rules of a fair comparison that this one does not meet, in words; empty if it meets all.

    The rules: at least 5 seeds; at least two settings; a full grid, or one thing changed at a time (a setting from
    which every other one differs in one name). That validation and test are apart, `compare` sees to itself.

    >>> from course_utils.homework import compare
    >>> requirements(compare({"lr": [0.01, 0.1]}, seeds=3, epochs=5, progress=False))
    ['at least 5 seeds are needed, but there are 3']
    """
    unmet = []
    if len(comparison.seeds) < MIN_SEEDS:
        unmet.append(f"at least {MIN_SEEDS} seeds are needed, but there are {len(comparison.seeds)}")
    settings = [comparison.values_of(number) for number in range(len(comparison.settings))]
    if len(settings) < 2:
        unmet.append("at least two settings are needed, but there is one")
    elif not is_full_grid(settings) and not changes_one_thing(settings):
        unmet.append("the settings are neither a full grid nor one setting with one thing changed at a time")
    return unmet


def is_full_grid(settings: Sequence[Mapping[str, object]]) -> bool:
    """Is every combination of the values that occur there exactly once?"""
    values = [{setting[name] for setting in settings} for name in settings[0]]
    combinations = {tuple(setting.values()) for setting in settings}
    return len(combinations) == len(settings) == math.prod(map(len, values))


def changes_one_thing(settings: Sequence[Mapping[str, object]]) -> bool:
    """Is there a setting from which every other one differs in one name?

    >>> base = {"lr": 0.1, "dropout": 0.0}
    >>> changes_one_thing([base, base | {"lr": 0.2}, base | {"dropout": 0.5}])
    True
    """
    columns = [np.array([setting[name] for setting in settings], dtype=object) for name in settings[0]]
    codes = np.stack([pd.factorize(column)[0] for column in columns], axis=1)  # (settings, names), equal where equal

    def differences(number: int) -> np.ndarray:
        return (codes != codes[number]).sum(1)

    # The base agrees with any other setting in all names but one, so it is found among few candidates.
    candidates = np.flatnonzero(differences(0) <= 1)
    return any(differences(number).max() <= 1 for number in candidates)
