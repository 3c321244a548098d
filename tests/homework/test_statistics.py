"""Intervals, tests and shares against scipy, least squares and brute force; error rates by simulation."""

import math
from itertools import permutations, product

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from course_utils.homework.statistics import explained_variance, p_values_against_best, summarize, t_interval

HOLDOUT = 1 / 3  # validation samples by training samples


class TestIntervals:
    @given(values=st.lists(st.floats(-10, 10).map(lambda v: round(v, 3)), min_size=2, max_size=12))
    def test_without_overlap_they_equal_scipy(self, values):
        values = np.array(values)
        if np.ptp(values) == 0:
            assert t_interval(values, overlap=0) == pytest.approx((values[0], values[0]))
            return
        expected = scipy.stats.t.interval(0.95, len(values) - 1, values.mean(), scipy.stats.sem(values))
        assert t_interval(values, overlap=0) == pytest.approx(expected)

    def test_p11_the_overlap_adds_the_variance_of_nadeau_and_bengio(self):
        """P11: ten seeds, a third as many validation as training samples: √(1/10 + 1/3) instead of √(1/10)."""
        values = np.random.default_rng(0).normal(size=10)
        plain, corrected = (np.diff(t_interval(values, overlap=overlap))[0] for overlap in (0, HOLDOUT))
        assert corrected / plain == pytest.approx(math.sqrt(1 + 10 / 3))

    def test_intervals_of_a_table_are_those_of_its_rows(self):
        values = np.random.default_rng(0).normal(size=(7, 5))
        values[3] = 0.5
        values[4, 1] = np.nan
        rows = [t_interval(row, overlap=0.25) for row in values]
        assert pytest.approx(np.array(rows), nan_ok=True) == np.array(t_interval(values, overlap=0.25)).T
        assert np.isnan(t_interval(values, overlap=0.25)[0]).tolist() == [False] * 4 + [True] + [False] * 2

    @given(values=st.lists(st.floats(0, 1), min_size=2, max_size=6))
    def test_p20_they_end_where_the_metric_ends(self, values):
        """P20: an accuracy is no larger than 1."""
        low, high = t_interval(np.array(values), overlap=HOLDOUT, bounds=(0, 1))
        assert 0 <= low <= high <= 1


def by_definition(values: np.ndarray, overlap: float) -> list[float]:
    """The p-values of one step: every arrangement, one setting after the other."""
    num_seeds = values.shape[1]

    def t_values(table: np.ndarray) -> list[float]:
        best = table[int(table.mean(1).argmax())]
        middle = sorted(np.std(best - row, ddof=1) for row in table)[len(table) // 2]  # the first is that of the best
        gaps = [(np.mean(best - row), max(np.std(best - row, ddof=1), middle)) for row in table]
        return [0.0 if gap < 1e-9 else gap / spread if spread > 1e-9 else math.inf for gap, spread in gaps]

    inflation = math.sqrt(1 + num_seeds * overlap)
    columns = [list(permutations(column)) for column in values.T]
    drawn = [inflation * max(t_values(np.array(arrangement).T)) for arrangement in product(*columns)]
    return [float(np.mean([t >= found * (1 - 1e-9) for t in drawn])) for found in t_values(values)]


class TestComparisonWithTheBest:
    @given(values=st.lists(st.lists(st.integers(0, 30), min_size=3, max_size=3), min_size=2, max_size=3))
    def test_small_ones_equal_the_definition(self, values):
        values = np.array(values) / 30
        found = p_values_against_best(values, higher_is_better=True, overlap=HOLDOUT)
        expected = by_definition(values, HOLDOUT)
        if min(expected) > 0.05:  # otherwise a second step follows
            assert found == pytest.approx(expected)

    @given(values=st.lists(st.integers(0, 30), min_size=2, max_size=10))
    def test_p9_two_settings_give_the_exact_sign_flip_p_value(self, values):
        """P9: equal differences gave p = 0 from two seeds. Half of the 2^K sign patterns are a mirror image."""
        differences = np.array(values)
        table = np.stack([differences + 1, np.zeros(len(values))])
        found = p_values_against_best(table, higher_is_better=True, overlap=0)
        signs = np.array(list(product((-1, 1), repeat=len(values))))
        mean = np.abs((signs * (differences + 1)).mean(1))  # t grows with it: the squares stay the same
        assert found.tolist() == [1.0, pytest.approx((mean >= mean.max() - 1e-9).mean())]

    def test_p9_equal_differences_of_two_seeds_prove_nothing(self):
        """P9: with K seeds p is at least 1/2^(K−1)."""
        table = np.array([[0.9, 0.9], [0.8, 0.8]])
        assert p_values_against_best(table, higher_is_better=True, overlap=HOLDOUT).tolist() == [1.0, 0.5]

    @pytest.mark.parametrize("overlap", [0, HOLDOUT])
    @pytest.mark.parametrize(("num_settings", "num_seeds"), [(20, 10), (2, 10), (6, 5)])
    def test_p11_of_equal_settings_one_is_told_apart_in_5_of_100(self, num_settings, num_seeds, overlap):
        """P11: it were 17 of 100 with 20 settings, because the best one was picked.

        With overlap each setting has luck with the data set, which no number of seeds averages away: of variance n₂/n₁
        times that of a run, as Nadeau and Bengio's rule assumes.
        """
        numbers, repetitions = np.random.default_rng(1), 300
        told_apart = 0
        for _ in range(repetitions):
            values = numbers.normal(size=(num_settings, num_seeds)) + numbers.normal(size=num_seeds)
            values += math.sqrt(overlap) * numbers.normal(size=(num_settings, 1))
            told_apart += p_values_against_best(values, higher_is_better=True, overlap=overlap).min() <= 0.05
        assert told_apart / repetitions < 0.05 + 3 * math.sqrt(0.05 * 0.95 / repetitions)
        # Not for nothing: without any error the test would never find anything.
        assert told_apart > 0

    def test_p11_equal_accuracies_of_30_flowers(self):
        """P11: discrete figures with many ties."""
        tables = np.random.default_rng(2).binomial(30, 0.95, size=(200, 20, 10)) / 30
        found = [p_values_against_best(table, higher_is_better=True, overlap=0).min() for table in tables]
        assert np.mean(np.array(found) <= 0.05) <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 200)

    @pytest.mark.parametrize("num_settings", [2, 3, 20])
    def test_one_clearly_better_setting_is_found(self, num_settings):
        numbers = np.random.default_rng(0)
        values = numbers.normal(size=(num_settings, 10)) + 3 * numbers.normal(size=10)
        values[1] += 6
        found = p_values_against_best(values, higher_is_better=True, overlap=HOLDOUT)
        assert np.flatnonzero(found > 0.05).tolist() == [1]
        assert p_values_against_best(-values, higher_is_better=False, overlap=HOLDOUT) == pytest.approx(found)

    def test_a_hopeless_setting_does_not_hide_the_others(self):
        """The steps: what is told apart leaves, and with it the spread that it brings into the arrangements."""
        values = np.random.default_rng(3).normal(size=(4, 10))
        values += [[0], [-8], [-50], [-500]]
        values[3] *= np.linspace(0.5, 1.5, 10)
        found = p_values_against_best(values, higher_is_better=True, overlap=HOLDOUT)
        assert (found[1:] <= 0.05).all()

    @given(seed=st.integers(0, 10**6), num_settings=st.integers(2, 12), num_seeds=st.integers(2, 8))
    def test_p9_p_values_are_never_0_and_do_not_depend_on_the_order(self, seed, num_settings, num_seeds):
        """P9: nor does any figure depend on the order of the settings."""
        numbers = np.random.default_rng(seed)
        values = numbers.integers(20, 31, size=(num_settings, num_seeds)) / 30
        found = p_values_against_best(values, higher_is_better=True, overlap=HOLDOUT)
        assert (found > 0).all()
        assert (found <= 1).all()
        assert found[values.mean(1).argmax()] == 1
        order = numbers.permutation(num_settings)
        assert (
            p_values_against_best(values[order], higher_is_better=True, overlap=HOLDOUT).tolist()
            == found[order].tolist()
        )

    def test_a_steady_setting_far_behind_is_told_apart_beside_erratic_ones(self):
        """Losses: a mean spread of all settings, taken from the erratic ones, would hide the steady one."""
        numbers = np.random.default_rng(0)
        values = np.concatenate([numbers.normal(0.1, 0.02, (3, 10)), numbers.normal(0.8, 0.02, (1, 10))])
        values = np.concatenate([values, numbers.gamma(1, 0.5, (4, 10))])
        assert p_values_against_best(values, higher_is_better=False, overlap=HOLDOUT)[3] <= 0.05

    def test_a_single_seed_or_setting_has_no_p_value(self):
        for shape in ((3, 1), (1, 3)):
            assert np.isnan(p_values_against_best(np.zeros(shape), higher_is_better=True, overlap=0)).all()

    def test_settings_that_are_all_the_same(self):
        assert p_values_against_best(np.full((3, 4), 0.9), higher_is_better=True, overlap=0).tolist() == [1] * 3

    def test_the_global_random_state_stays(self):
        before = np.random.get_state()[1].tolist()  # noqa: NPY002
        p_values_against_best(np.eye(20), higher_is_better=True, overlap=0)
        assert np.random.get_state()[1].tolist() == before  # noqa: NPY002


class TestSummary:
    def test_known_figures(self):
        values = np.array([[0.5, 0.6, 0.7, 0.6], [0.9, 0.8, 0.9, 0.9], [0.9, 0.9, 0.8, 0.9], [0.95, 0.95, 0.95, 0.95]])
        diverged = np.zeros((4, 4), dtype=bool)
        diverged[3, 0] = True
        table = summarize(values, diverged, higher_is_better=True, overlap=0)
        assert table["setting"].tolist() == [1, 2, 0, 3]
        assert table["rank"].tolist() == [1, 1, 3, 4]  # the best figures of all, but one run diverged
        assert table["tied_with_best"].tolist() == [True, True, False, False]
        assert table["std"][0] == pytest.approx(np.std(values[1], ddof=1))
        assert table["p_value"].isna().tolist() == [True, False, False, True]
        smaller = summarize(values, diverged, higher_is_better=False, overlap=0)
        assert smaller["setting"].tolist() == [0, 1, 2, 3]

    def test_nothing_can_be_told_apart_from_one_seed(self):
        one_seed = np.zeros((2, 1), dtype=bool)
        table = summarize(np.array([[0.1], [0.9]]), one_seed, higher_is_better=True, overlap=HOLDOUT)
        assert table["tied_with_best"].all()
        assert table["low"].isna().all()

    def test_losses_that_are_no_numbers(self):
        values = np.array([[np.nan, 1.0], [0.5, 0.4], [np.nan, np.nan]])
        table = summarize(values, np.isnan(values), higher_is_better=False, overlap=HOLDOUT)
        assert table["setting"].tolist() == [1, 0, 2]
        assert table["tied_with_best"].tolist() == [True, False, False]
        nothing = summarize(values[2:], np.isnan(values[2:]), higher_is_better=False, overlap=HOLDOUT)
        assert nothing["tied_with_best"].tolist() == [True]


def grid(*sizes: int) -> list[dict]:
    return [dict(zip("abc", values, strict=False)) for values in product(*map(range, sizes))]


class TestShares:
    @given(seed=st.integers(0, 1000))
    def test_p10_they_add_up_and_equal_an_analysis_of_variance(self, seed):
        """P10: ω² from the sums of squares of least squares, one model inside the other."""
        numbers = np.random.default_rng(seed)
        settings = grid(3, 2)
        values = numbers.normal(size=(6, 4)) + 2 * numbers.normal(size=(6, 1)) + 2 * numbers.normal(size=4)
        shares = explained_variance(settings, values)
        assert list(shares.index) == ["a", "b", "interactions", "seeds", "luck"]
        assert shares.sum() == pytest.approx(1)

        def explained(*columns: list) -> float:
            """The sum of squares that one-hot columns explain."""
            dummies = np.concatenate([pd.get_dummies(np.array(c)).to_numpy(float) for c in columns], axis=1)
            y = values.ravel() - values.mean()
            return float(y @ y - ((y - dummies @ np.linalg.lstsq(dummies, y, rcond=None)[0]) ** 2).sum())

        a, b = (np.repeat([setting[name] for setting in settings], 4) for name in "ab")
        setting, of_seed = np.repeat(range(6), 4), np.tile(range(4), 6)
        total = ((values - values.mean()) ** 2).sum()
        residual = (total - explained(setting, of_seed)) / (5 * 3)
        both = explained(a, b)
        parts = {
            "a": (explained(a), 2),
            "b": (explained(b), 1),
            "interactions": (explained(setting) - both, 2),
            "seeds": (explained(of_seed), 3),
        }
        for name, (squares, freedom) in parts.items():
            assert shares[name] == pytest.approx(max(0, (squares - freedom * residual) / (total + residual)), abs=1e-9)

    def test_p10_pure_noise_explains_about_nothing(self):
        """P10: the shares of the squares were 19 % with five seeds and 19 degrees of freedom."""
        numbers = np.random.default_rng(0)
        found = [explained_variance(grid(5, 4), numbers.normal(size=(20, 5))) for _ in range(200)]
        mean = pd.concat(found, axis=1).mean(axis=1)
        assert mean[["a", "b"]].max() < 0.02  # 0 but for what the floor at 0 leaves of both sides
        assert mean[["interactions", "seeds"]].max() < 0.04
        assert mean["luck"] > 0.9

    def test_a_large_effect_is_found_for_what_it_is(self):
        numbers = np.random.default_rng(0)
        settings = grid(5, 4)
        values = numbers.normal(size=(20, 50)) + np.array([[setting["a"]] for setting in settings]) / math.sqrt(2)
        shares = explained_variance(settings, values)  # variance 1 of "a" (0 … 4: 2, halved), 1 of luck
        assert shares["a"] == pytest.approx(0.5, abs=0.03)

    def test_equal_runs_have_no_shares(self):
        assert explained_variance(grid(2, 2), np.full((4, 3), 0.9)).isna().all()
