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
from course_utils.homework.metrics import higher_is_better
from course_utils.homework.runs import RunRecord, logged_epochs
from course_utils.homework.settings import NAMES, Setting

CONFIDENCE = 0.95
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
        check_choice(part, "part", PARTS)
        return np.array(self._column(part)).reshape(len(self.settings), -1)

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
        return self._summary.copy()  # which the caller may change

    @cached_property
    def _summary(self) -> pd.DataFrame:
        diverged = np.array(self._column("diverged")).reshape(len(self.settings), -1)
        table = summarize(self.matrix(), diverged, higher_is_better=higher_is_better(self.metric))
        values = pd.DataFrame([self._values[number] for number in table["setting"]], index=table.index)
        return pd.concat([table[["setting"]], values, table.drop(columns="setting")], axis=1)

    def best(self) -> Best:
        """The setting with the best mean validation metric, reported on the test part, with its optimism."""
        table = self._summary
        number = int(table["setting"][0])
        validation, test = (float(self.matrix(part)[number].mean()) for part in ("validation", "test"))
        tied = tuple(table["setting"][1:][table["tied_with_best"][1:]].tolist())
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
        if reason := self.why_no_importance():
            raise ValueError(reason)
        effects, interactions, seeds = explained_variance(self._values, self.matrix())
        sorted_effects = dict(sorted(effects.items(), key=lambda item: -item[1]))
        return pd.Series(sorted_effects | {"interactions": interactions, "seeds": seeds}, name="share of variance")

    def why_no_importance(self) -> str | None:
        """None if `importance` is defined for these runs, else the reason why not."""
        if not self.varied:
            return "the comparison has a single setting, so nothing is varied"
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


def t_interval(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The ends of the 95 % t-interval of the mean over the last axis, mean ± t(0.975; n − 1)·s/√n; NaN for n = 1."""
    from scipy import stats

    n = values.shape[-1]
    mean = values.mean(-1)
    if n < 2:
        return np.full_like(mean, math.nan), np.full_like(mean, math.nan)
    low, high = stats.t.interval(CONFIDENCE, n - 1)
    standard_error = values.std(-1, ddof=1) / math.sqrt(n)
    return mean + low * standard_error, mean + high * standard_error


def paired_p_values(one: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Two-sided p-values (S,) of the paired t-tests of one (n,) with each of S others (S, n).

    NaN for n = 1 and where a value is NaN. Where all n differences are the same, t is no number: 1 if they are 0, else
    0.
    """
    from scipy import stats

    difference = one - others
    p_values = np.full(len(others), math.nan)
    if len(one) < 2:
        return p_values
    finite = np.isfinite(difference).all(1)
    largest = np.abs(difference).max(1)
    constant = np.ptp(difference, axis=1) < 1e-12 * np.maximum(1, largest)  # the same, rounding aside
    p_values[finite & constant] = largest[finite & constant] < 1e-12
    tested = finite & ~constant
    if tested.any():
        p_values[tested] = stats.ttest_rel(np.broadcast_to(one, others.shape)[tested], others[tested], axis=1).pvalue
    return p_values


def holm(p_values: np.ndarray) -> np.ndarray:
    """Holm's (1979) correction for m tests: the k-th smallest is multiplied by m − k + 1; NaN stay, and do not count.

    >>> holm(np.array([0.01, 0.04, 0.03])).tolist()
    [0.03, 0.06, 0.06]
    """
    adjusted = np.full(len(p_values), math.nan)
    order = np.argsort(p_values)[: np.isfinite(p_values).sum()]  # NaN are sorted to the end
    factors = np.arange(len(order), 0, -1)
    adjusted[order] = np.maximum.accumulate(np.minimum(1.0, p_values[order] * factors))
    return adjusted


def summarize(values: np.ndarray, diverged: np.ndarray, *, higher_is_better: bool) -> pd.DataFrame:
    """One row for each of S settings, the best first.

    Args:
        values: (S, K) the metric, one column a seed.
        diverged: bool (S, K).
        higher_is_better: of the metric.
    """
    mean, (low, high), num_diverged = values.mean(1), t_interval(values), diverged.sum(1)
    # The fewest diverged runs first, then the best mean (NaN last), then the order of the grid.
    cost = np.where(np.isnan(mean), math.inf, -mean if higher_is_better else mean)
    cost = cost.round(12)  # the same figures in another order have the same mean
    order = np.lexsort((cost, num_diverged))
    best, *_ = values[order]
    frame = pd.DataFrame(
        {
            "setting": np.arange(len(values)),
            "mean": mean,
            "std": values.std(1, ddof=1) if values.shape[1] > 1 else math.nan,
            "low": low,
            "high": high,
            "n": values.shape[1],
            "diverged": num_diverged,
        }
    )
    frame = frame.iloc[order].reset_index(drop=True)
    frame["rank"] = _ranks(num_diverged[order], cost[order])
    p_values = np.r_[math.nan, paired_p_values(best, values[order[1:]])]
    frame["p_value"] = holm(p_values)
    told_apart = (frame["p_value"] < 1 - CONFIDENCE) | (frame["diverged"] > frame["diverged"][0])
    frame["tied_with_best"] = ~told_apart
    return frame


def _ranks(*sorted_keys: np.ndarray) -> np.ndarray:
    """Ranks from 1 of sorted rows, of which equals share one.

    >>> _ranks(np.array([0, 0, 0, 1]), np.array([0.1, 0.2, 0.2, 0.1])).tolist()
    [1, 2, 2, 4]
    """
    keys = np.stack(sorted_keys)
    is_new = np.r_[True, (keys[:, 1:] != keys[:, :-1]).any(0)]
    return np.maximum.accumulate(np.where(is_new, np.arange(1, len(is_new) + 1), 0))


def explained_variance(
    settings: Sequence[Mapping[str, object]], values: np.ndarray
) -> tuple[dict[str, float], float, float]:
    """Shares of the variance of all runs: of each name's main effect, of interactions, of the seeds.

    Args:
        settings: S dicts, name → value, that together are a full grid.
        values: (S, K) the metric.

    Returns:
        The main effects by name, the interactions, the rest; they add up to 1. All NaN if every run gave the same.
    """
    mean_by_setting, mean = values.mean(1), values.mean()
    total = ((values - mean) ** 2).sum()
    between = values.shape[1] * ((mean_by_setting - mean) ** 2).sum()
    effects = {}
    for name in settings[0]:
        groups = pd.Series(mean_by_setting).groupby([setting[name] for setting in settings], sort=False)
        effects[name] = values.shape[1] * float((groups.size() * (groups.mean() - mean) ** 2).sum())
    if total < 1e-20:
        return dict.fromkeys(effects, math.nan), math.nan, math.nan
    interactions = max(0.0, between - sum(effects.values()))  # below 0 by rounding only
    return {name: float(ss / total) for name, ss in effects.items()}, interactions / total, 1 - between / total
