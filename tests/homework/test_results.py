"""Tables and statistics against scipy and least squares, and the rules of a fair comparison."""

import importlib.metadata
from itertools import product

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from course_utils.homework import compare, requirements
from course_utils.homework.results import (
    changes_one_thing,
    explained_variance,
    holm,
    paired_p_values,
    summarize,
    t_interval,
)
from tests.support.homework import OPTIONS, untrained


class TestStatistics:
    @given(values=st.lists(st.floats(-10, 10).map(lambda v: round(v, 3)), min_size=2, max_size=12))
    def test_intervals_equal_scipy(self, values):
        values = np.array(values)
        if np.ptp(values) == 0:
            assert t_interval(values) == pytest.approx((values[0], values[0]))
            return
        expected = scipy.stats.t.interval(0.95, len(values) - 1, values.mean(), scipy.stats.sem(values))
        assert t_interval(values) == pytest.approx(expected)

    @given(pairs=st.lists(st.tuples(*[st.integers(0, 30)] * 2), min_size=3, max_size=12))
    def test_paired_tests_equal_scipy(self, pairs):
        one, other = (np.array(values) / 30 for values in zip(*pairs, strict=True))
        found = paired_p_values(one, np.stack([other, one, one + 0.1, np.full_like(one, np.nan)]))
        assert found[1:] == pytest.approx([1, 0, np.nan], nan_ok=True)
        if np.ptp(one - other) < 1e-9:
            assert found[0] == (1.0 if np.allclose(one, other) else 0.0)
            return
        assert found[0] == pytest.approx(scipy.stats.ttest_rel(one, other).pvalue, abs=1e-12)

    @given(p_values=st.lists(st.floats(0, 1), min_size=1, max_size=8))
    def test_holm_rejects_what_its_steps_reject(self, p_values):
        adjusted = holm(np.array(p_values))
        for alpha in (0.01, 0.05, 0.3):
            rejected = set()
            for k, i in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
                if p_values[i] * (len(p_values) - k) > alpha:
                    break
                rejected.add(i)
            assert set(np.flatnonzero(adjusted <= alpha)) == rejected

    def test_intervals_of_a_table_are_those_of_its_rows(self):
        values = np.random.default_rng(0).normal(size=(7, 5))
        values[3] = 0.5
        values[4, 1] = np.nan
        rows = [t_interval(row) for row in values]
        assert pytest.approx(np.array(rows), nan_ok=True) == np.array(t_interval(values)).T
        assert np.isnan(t_interval(values)[0]).tolist() == [False] * 4 + [True] + [False] * 2

    def test_holm_leaves_missing_values_out(self):
        assert holm(np.array([np.nan, 0.02, 0.03])).tolist()[1:] == pytest.approx([0.04, 0.04])

    def test_summary_of_known_figures(self):
        values = np.array([[0.5, 0.6, 0.7, 0.6], [0.9, 0.8, 0.9, 0.9], [0.9, 0.9, 0.8, 0.9], [0.95, 0.95, 0.95, 0.95]])
        diverged = np.zeros((4, 4), dtype=bool)
        diverged[3, 0] = True
        table = summarize(values, diverged, higher_is_better=True)
        assert table["setting"].tolist() == [1, 2, 0, 3]
        assert table["rank"].tolist() == [1, 1, 3, 4]  # the best figures of all, but one run diverged
        assert table["tied_with_best"].tolist() == [True, True, False, False]
        assert table["std"][0] == pytest.approx(np.std(values[1], ddof=1))
        assert summarize(values, diverged, higher_is_better=False)["setting"].tolist() == [0, 1, 2, 3]

    def test_nothing_can_be_told_apart_from_one_seed(self):
        table = summarize(np.array([[0.1], [0.9]]), np.zeros((2, 1), dtype=bool), higher_is_better=True)
        assert table["tied_with_best"].all()
        assert table["low"].isna().all()

    @given(seed=st.integers(0, 1000))
    def test_variance_shares_add_up_and_equal_an_analysis_of_variance(self, seed):
        numbers = np.random.default_rng(seed)
        settings = [{"a": a, "b": b} for a in (1, 2, 3) for b in ("x", "y")]
        values = numbers.normal(size=(6, 4)) + numbers.normal(size=(6, 1))
        effects, interactions, seeds = explained_variance(settings, values)
        assert sum(effects.values()) + interactions + seeds == pytest.approx(1)
        # The oracle: R² of least squares on one-hot columns of one name, of all settings.
        for name, share in effects.items():
            dummies = np.repeat(pd.get_dummies([s[name] for s in settings]).to_numpy(float), 4, axis=0)
            residual = values.ravel() - dummies @ np.linalg.lstsq(dummies, values.ravel(), rcond=None)[0]
            assert share == pytest.approx(1 - residual.var() / values.var())
        assert seeds == pytest.approx((values - values.mean(1, keepdims=True)).var() / values.var())


class TestTables:
    def test_tables(self, small):
        assert list(small.runs) == [
            *("setting", "hidden_features", "lr", "seed", "train_accuracy", "validation_accuracy", "test_accuracy"),
            *("diverged", "seconds", "versions"),
        ]
        assert len(small) == len(small.runs) == 4 * 5
        assert not small.runs.duplicated(["setting", "seed"]).any()
        assert (small.runs["seconds"] > 0).all()
        assert small.runs["versions"].str.contains(f"torch {importlib.metadata.version('torch')}", regex=False).all()
        assert small.curves.groupby(["setting", "seed"]).size().tolist() == [40] * 20
        assert small.sizes == (90, 30, 30)

    def test_values_that_a_number_cannot_show(self):
        grid = {"batch_size": [None, 16], "hidden_features": [8, [8, 4]]}
        comparison = compare(grid, seeds=1, epochs=1, progress=False)
        assert comparison.runs["batch_size"].tolist() == ["full", "full", 16, 16]
        assert set(comparison.runs["hidden_features"]) == {"8", "8-4"}

    def test_diverged_runs_stay_and_rank_last(self, with_loss):
        assert with_loss.runs["diverged"].tolist() == [False] * 3 + [True] * 3
        assert with_loss.runs["validation_loss"].isna().tolist() == [False] * 3 + [True] * 3
        assert with_loss.summary()["setting"].tolist() == [0, 1]
        assert not with_loss.summary()["tied_with_best"][1]
        accuracy = compare({"lr": [1e25, 0.1]}, **OPTIONS)
        assert accuracy.runs["validation_accuracy"].between(0, 1).all()
        assert accuracy.best().setting == 1

    def test_best_is_chosen_on_validation(self, small, with_loss):
        best, runs = small.best(), small.runs
        means = runs.groupby("setting")["validation_accuracy"].mean()
        assert best.setting == means.idxmax()
        assert best.validation == pytest.approx(means.max())
        assert best.test == pytest.approx(runs.query(f"setting == {best.setting}")["test_accuracy"].mean())
        assert best.optimism == pytest.approx(best.validation - best.test)
        assert "optimism" in str(best)
        assert with_loss.best().setting == 0

    def test_a_table_that_the_caller_changes_is_a_copy(self, small):
        table = small.summary()
        table["mean"] = 0
        assert small.summary()["mean"].min() > 0
        small.values_of(0)["lr"] = 7
        assert small.values_of(0)["lr"] == 0.01

    def test_curves_of_a_setting_are_those_of_the_long_table(self, small):
        wide = small.curves.query("setting == 2").pivot(index="epoch", columns="seed", values="loss")
        pd.testing.assert_frame_equal(small.curves_of(2), wide, check_names=False, check_index_type=False)

    def test_importance(self, small):
        shares = small.importance()
        assert shares.sum() == pytest.approx(1)
        assert shares.index[0] == "lr"
        with pytest.raises(ValueError, match="full grid"):
            untrained([{"lr": [0.1, 0.2]}, {"dropout": 0.3}]).plot_importance()
        with pytest.raises(ValueError, match="single setting"):
            untrained({"lr": 0.1}).plot_importance()
        assert untrained({"lr": [0.1, 0.2]}).importance().isna().all()


class TestRequirements:
    @given(
        settings=st.lists(st.tuples(*[st.integers(0, 2)] * 3), min_size=1, max_size=7, unique=True).map(
            lambda rows: [dict(zip(("lr", "dropout", "batch_size"), row, strict=True)) for row in rows]
        )
    )
    def test_one_thing_at_a_time_is_what_the_definition_says(self, settings):
        def differences(one, other):
            return sum(one[name] != other[name] for name in one)

        expected = any(all(differences(base, other) <= 1 for other in settings) for base in settings)
        assert changes_one_thing(settings) == expected

    def test_values_of_mixed_kinds(self):
        settings = [{"batch_size": size, "init": init} for size, init in product(("full", 16), ("default", "zeros"))]
        assert changes_one_thing(settings[:3])
        assert not changes_one_thing(settings[::3])

    @pytest.mark.parametrize(
        ("grid", "seeds", "unmet"),
        [
            ({"lr": [0.1, 0.2], "dropout": [0, 0.1, 0.2]}, 5, []),
            ([{"lr": [0.1, 0.2]}, {"lr": 0.1, "dropout": [0.1, 0.2]}, {"lr": 0.1, "batch_size": 8}], 5, []),
            ({"lr": [0.1, 0.2]}, 4, ["5 seeds"]),
            ({"lr": 0.1}, 1, ["5 seeds", "two settings"]),
            ([{"lr": 0.1}, {"lr": 0.2, "dropout": 0.1}], 5, ["one thing"]),
            ([{"lr": [0.1, 0.2], "dropout": [0, 0.5]}, {"lr": 0.3}], 5, ["one thing"]),
        ],
    )
    def test_rules(self, grid, seeds, unmet):
        found = requirements(untrained(grid, seeds))
        assert len(found) == len(unmet)
        assert all(part in text for part, text in zip(unmet, found, strict=True))
