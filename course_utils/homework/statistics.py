"""What several runs of each setting say, and what they cannot say: intervals, comparisons, shares of the variance.

Everywhere `values` is (S, K): S settings, and K seeds that are the same for all of them. `overlap` is the number of
validation samples divided by that of training samples, n₂/n₁: all seeds draw their training parts from one data set, so
the parts share samples, and means over the seeds are less certain than the spread of the runs says.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import permutations, product

import numpy as np
import pandas as pd

CONFIDENCE = 0.95
MAX_PERMUTED = 10_000_000  # values in all permutations of one step: a tenth of a second
MIN_PERMUTATIONS, MAX_PERMUTATIONS = 199, 1_999


def t_interval(
    values: np.ndarray, *, overlap: float, bounds: tuple[float, float] = (-math.inf, math.inf)
) -> tuple[np.ndarray, np.ndarray]:
    """The ends of the 95 % interval of the mean over the last axis, by the corrected resampled t.

        mean ± t(0.975; K − 1) · s · √(1/K + n₂/n₁)

    With the overlap 0 it is the interval of K independent values. The second term stays, however many seeds there are:
    it stands for the one data set that all of them share (Nadeau, Bengio 2003, Inference for the generalization error).

    Args:
        values: (…, K).
        overlap: n₂/n₁.
        bounds: what the metric can be; the interval is cut there.

    Returns:
        Both ends, (…); NaN for K = 1.

    >>> low, high = t_interval(np.array([0.8, 0.9, 1.0]), overlap=1 / 3, bounds=(0, 1))
    >>> round(float(low), 3), float(high)
    (0.549, 1.0)
    """
    from scipy import stats

    num_seeds = values.shape[-1]
    mean = values.mean(-1)
    if num_seeds < 2:
        return np.full_like(mean, math.nan), np.full_like(mean, math.nan)
    half = (
        stats.t.ppf((1 + CONFIDENCE) / 2, num_seeds - 1) * values.std(-1, ddof=1) * math.sqrt(1 / num_seeds + overlap)
    )
    return np.clip(mean - half, *bounds), np.clip(mean + half, *bounds)


def p_values_against_best(values: np.ndarray, *, higher_is_better: bool, overlap: float) -> np.ndarray:
    """For each setting the p-value of its gap to the setting with the best mean, valid although that one was picked.

    With d(k) the difference between the best setting and setting j in seed k, its gap in units of its spread is

        t(j) = mean of d / max(s(j), s̃),    s(j) the standard deviation (n − 1) of d, s̃ the median of all s(j)

    (The median in the denominator, because over a few seeds some s(j) is very small by chance, of discrete figures
    even 0.) If all settings were equally good, the values of a seed could be exchanged between them. So they are
    permuted within each seed, at random (all arrangements where those are fewer), and each time the best is picked
    anew and its largest t is taken, t*. So t* contains the luck of the one that is picked, and of many comparisons.
    With the correction for overlapping training parts,

        p(j) = share of the arrangements, the given one among them, with t* · √(1 + K·n₂/n₁) ≥ t(j)

    The settings with p ≤ 0.05 are told apart from the best and leave; the others are tested anew among themselves,
    until none leaves. No p-value is below one of a setting that left before, and none is 0.

    Two settings have 2^(K−1) arrangements, so with five seeds p is at least 1/16: they cannot be told apart.
    Of equal settings one is told apart in about 5 of 100 comparisons (6 of 100 in simulations, with an error of about
    2). Where one of 20 settings is five times as erratic as the others, it is 9 (ten seeds) to 17 (three seeds).

    Sources: Westfall, Young 1993, Resampling-based multiple testing (the step-down test with the maximum of t); Hsu
    1996, Multiple comparisons (with the best); Nadeau, Bengio 2003 (the correction).

    Args:
        values: (S, K), all finite.
        higher_is_better: of the metric.
        overlap: n₂/n₁.

    Returns:
        (S,), 1 for the best; NaN for a single seed or setting.
    """
    num_settings, num_seeds = values.shape
    p_values = np.full(num_settings, math.nan)
    if min(values.shape) < 2:
        return p_values
    values = values if higher_is_better else -values
    inflation = math.sqrt(1 + num_seeds * overlap)
    generator = np.random.default_rng(0)
    left = _in_one_order(values)
    smallest = 0.0
    while len(left) > 1:
        p_values[left] = np.maximum(_p_values_of_one_step(values[left], inflation, generator), smallest)
        apart = p_values[left] <= 1 - CONFIDENCE
        if not apart.any():
            break
        smallest = p_values[left[apart]].max()
        left = left[~apart]
    if len(left) == 1:  # all others are told apart
        p_values[left] = 1.0
    return p_values


def _in_one_order(values: np.ndarray) -> np.ndarray:
    """An order of the settings that depends on their values only, so that the random permutations do too."""
    return np.lexsort(values.T[::-1])


def _p_values_of_one_step(values: np.ndarray, inflation: float, generator: np.random.Generator) -> np.ndarray:
    """p-values (S,) of the gaps between the settings of values (S, K) and the best of them."""
    centred = values - values.mean(0)  # a seed's mean is in no difference
    largest = np.abs(centred).max()
    if largest < 1e-12:
        return np.ones(len(values))
    centred /= largest
    arrangements, is_complete = _arrangements(centred, generator)
    drawn = np.sort(inflation * np.concatenate([_gaps(some).max(-1) for some in arrangements]))
    observed = _gaps(centred)
    reached = len(drawn) - np.searchsorted(drawn, observed * (1 - 1e-9))
    return reached / len(drawn) if is_complete else (reached + 1) / (len(drawn) + 1)


def _gaps(values: np.ndarray) -> np.ndarray:
    """t (…, S) of the settings of values (…, S, K) of about 1; 0 for the best and those that equal it."""
    num_settings, num_seeds = values.shape[-2:]
    best = values.mean(-1).argmax(-1)[..., None, None]
    differences = np.take_along_axis(values, best, -2) - values
    gaps = differences.mean(-1)
    differences -= gaps[..., None]
    spread = np.sqrt(np.einsum("...k,...k->...", differences, differences) / (num_seeds - 1))
    # That of the best to itself is 0, the smallest; behind it stand those of the others.
    middle = np.partition(spread, num_settings // 2, -1)[..., num_settings // 2, None]
    spread = np.maximum(spread, middle)
    clear = gaps > 1e-9
    with np.errstate(divide="ignore", invalid="ignore"):  # a gap that is the same in every seed is infinitely clear
        return np.where(clear, gaps / np.where(spread > 1e-9, spread, 0.0), 0.0)


def _arrangements(values: np.ndarray, generator: np.random.Generator) -> tuple[Iterable[np.ndarray], bool]:
    """Permute the settings of values (S, K) within each seed, in many ways.

    Returns:
        Arrangements (A, S, K), some at a time, and whether these are all there are. Of all, one seed is left as it is:
        to exchange names in all seeds alike changes no gap.
    """
    num_settings, num_seeds = values.shape
    wanted = int(np.clip(MAX_PERMUTED // values.size, MIN_PERMUTATIONS, MAX_PERMUTATIONS))
    # The factorial is only computed where it is small.
    if num_settings < 8 and math.factorial(num_settings) ** (num_seeds - 1) <= wanted:
        orders = list(permutations(range(num_settings)))
        chosen = np.array(list(product(orders[:1], *[orders] * (num_seeds - 1))))  # (A, K, S)
        return [np.take_along_axis(values[None], chosen.swapaxes(1, 2), 1)], True
    at_once = max(1, 500_000 // values.size)  # what fits into a processor's cache
    counts = [min(at_once, wanted - start) for start in range(0, wanted, at_once)]
    by_seed = (np.broadcast_to(values.T, (count, num_seeds, num_settings)) for count in counts)
    return (generator.permuted(some, axis=2).swapaxes(1, 2) for some in by_seed), False


def summarize(
    values: np.ndarray,
    diverged: np.ndarray,
    *,
    higher_is_better: bool,
    overlap: float,
    bounds: tuple[float, float] = (-math.inf, math.inf),
) -> pd.DataFrame:
    """One row for each of S settings, the best first.

    Args:
        values: (S, K) the metric, one column a seed.
        diverged: bool (S, K).
        higher_is_better: of the metric.
        overlap, bounds: as for `t_interval`.
    """
    mean, num_diverged = values.mean(1), diverged.sum(1)
    low, high = t_interval(values, overlap=overlap, bounds=bounds)
    # The fewest diverged runs first, then the best mean (NaN last), then the order of the grid.
    cost = np.where(np.isnan(mean), math.inf, -mean if higher_is_better else mean)
    cost = cost.round(12)  # the same figures in another order have the same mean
    order = np.lexsort((cost, num_diverged))
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
    # Settings that diverge more often than the best are behind it for that reason alone.
    tested = (num_diverged == num_diverged[order[0]]) & np.isfinite(mean)
    frame["p_value"] = math.nan
    frame.loc[tested, "p_value"] = p_values_against_best(
        values[tested], higher_is_better=higher_is_better, overlap=overlap
    )
    frame.loc[order[0], "p_value"] = math.nan
    frame = frame.iloc[order].reset_index(drop=True)
    frame.insert(len(frame.columns) - 1, "rank", _ranks(num_diverged[order], cost[order]))
    told_apart = (frame["p_value"] <= 1 - CONFIDENCE) | (frame["diverged"] > frame["diverged"][0])
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


def explained_variance(settings: Sequence[Mapping[str, object]], values: np.ndarray) -> pd.Series:
    """Shares ω² of the variance of all runs, after an analysis of variance with the seeds as blocks.

    With the sum of squares SS and the degrees of freedom df of a part, and the residual mean square MS of the runs
    (what neither the setting nor the seed explains, (S−1)(K−1) degrees of freedom):

        ω² = (SS − df·MS) / (SS of all runs + MS), and 0 where that is negative

    SS alone would be η², which is flattered: even pure noise "explains" df/(S·K − 1) of the variance on average.
    (Hays 1963, Statistics for psychologists; the parts of a factorial design: Fisher 1935.)

    Args:
        settings: S ≥ 2 dicts, name → value, that together are a full grid.
        values: (S, K) the metric, K ≥ 2.

    Returns:
        The main effects by name, "interactions", "seeds" (what all settings have in common in a seed, such as a hard
        split) and "luck", the rest, what is left to a single run; they add up to 1. All NaN if every run gave the same.
    """
    (num_settings, num_seeds), mean = values.shape, values.mean()
    mean_of_setting = values.mean(1)
    total = float(((values - mean) ** 2).sum())
    between = num_seeds * float(((mean_of_setting - mean) ** 2).sum())
    parts = {}  # name → (sum of squares, degrees of freedom)
    for name in settings[0]:
        groups = pd.Series(mean_of_setting).groupby([setting[name] for setting in settings], sort=False)
        squares = num_seeds * float((groups.size() * (groups.mean() - mean) ** 2).sum())
        parts[name] = squares, len(groups) - 1
    squares, freedom = map(sum, zip(*parts.values(), strict=True))
    parts["interactions"] = between - squares, num_settings - 1 - freedom
    parts["seeds"] = num_settings * float(((values.mean(0) - mean) ** 2).sum()), num_seeds - 1
    if total < 1e-20:
        return pd.Series(dict.fromkeys([*parts, "luck"], math.nan))
    residual = max(0.0, total - between - parts["seeds"][0]) / ((num_settings - 1) * (num_seeds - 1))
    shares = {
        name: max(0.0, squares - freedom * residual) / (total + residual) for name, (squares, freedom) in parts.items()
    }
    return pd.Series(shares | {"luck": max(0.0, 1 - sum(shares.values()))})
