"""What the runs of a comparison say: intervals, ranks, which settings cannot be told apart, which name matters."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

CONFIDENCE = 0.95


def t_interval(values: np.ndarray) -> tuple[float, float]:
    """The 95 % t-interval of the mean of n values, mean ± t(0.975; n − 1)·s/√n; NaN for one value."""
    from scipy.special import stdtrit

    n = len(values)
    if n < 2:
        return math.nan, math.nan
    mean = values.mean()
    half = stdtrit(n - 1, 0.5 + CONFIDENCE / 2) * values.std(ddof=1) / math.sqrt(n)
    return float(mean - half), float(mean + half)


def paired_p_value(one: np.ndarray, other: np.ndarray) -> float:
    """Two-sided p-value of the paired t-test of n pairs; NaN for one pair or NaN values, 1 if all pairs are equal."""
    from scipy.special import stdtr

    difference = one - other
    if len(difference) < 2 or np.isnan(difference).any():
        return math.nan
    if np.ptp(difference) < 1e-12 * max(
        1.0, np.abs(difference).max()
    ):  # the same difference everywhere: rounding aside
        return 1.0 if abs(difference.mean()) < 1e-12 else 0.0
    t = difference.mean() / (difference.std(ddof=1) / math.sqrt(len(difference)))
    return float(2 * stdtr(len(difference) - 1, -abs(t)))


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
    intervals = [t_interval(row) for row in values]
    mean = values.mean(1)
    frame = pd.DataFrame(
        {
            "setting": np.arange(len(values)),
            "mean": mean,
            "std": values.std(1, ddof=1) if values.shape[1] > 1 else math.nan,
            "low": [low for low, _ in intervals],
            "high": [high for _, high in intervals],
            "n": values.shape[1],
            "diverged": diverged.sum(1),
        }
    )
    # The fewest diverged runs first, then the best mean (NaN last), then the order of the grid.
    cost = np.where(np.isnan(mean), math.inf, -mean if higher_is_better else mean)
    cost = cost.round(12)  # the same figures in another order have the same mean
    order = np.lexsort((cost, frame["diverged"]))
    sorted_keys = list(zip(frame["diverged"].to_numpy()[order], cost[order], strict=True))
    frame = frame.iloc[order].reset_index(drop=True)
    frame["rank"] = [sorted_keys.index(key) + 1 for key in sorted_keys]  # equals share a rank
    best = values[order[0]]
    p_values = np.array([math.nan, *(paired_p_value(best, values[i]) for i in order[1:])])
    frame["p_value"] = holm(p_values)
    told_apart = (frame["p_value"] < 1 - CONFIDENCE) | (frame["diverged"] > frame["diverged"][0])
    frame["tied_with_best"] = ~told_apart
    return frame


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


def is_full_grid(settings: Sequence[Mapping[str, object]]) -> bool:
    """Is every combination of the values that occur there exactly once?"""
    values = [{setting[name] for setting in settings} for name in settings[0]]
    combinations = {tuple(setting.values()) for setting in settings}
    return len(combinations) == len(settings) == math.prod(map(len, values))
