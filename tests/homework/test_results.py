"""Tables and statistics against scipy and least squares, and the rules of a fair comparison."""

import importlib.metadata
from itertools import product

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from course_utils.homework import compare, requirements, results
from course_utils.homework.results import changes_one_thing
from tests.support.homework import OPTIONS, untrained


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

    def test_p8_settings_are_read_once_for_all_rows(self, monkeypatch):
        """The work for a table grows with the settings, not with settings × rows."""
        comparison = untrained({"lr": [0.001 * (i + 1) for i in range(60)]}, seeds=10)
        read = []

        def counted(value, name):
            read.append(type(value).__name__)
            return getattr(value, name)

        monkeypatch.setattr(results, "getattr", counted, raising=False)
        assert comparison.varied == ("lr",)
        assert len(comparison.runs) == 600
        assert read.count("Setting") <= 2 * len(results.NAMES) * 60  # each name of each setting, once or twice

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

    def test_p12_optimism_is_positive_where_validation_flatters(self, with_loss):
        """P12: of a loss, test − validation."""
        best = with_loss.best()
        assert best.setting == 0
        assert best.optimism == pytest.approx(best.test - best.validation)

    def test_p20_intervals_stay_where_the_metric_is(self, small, with_loss):
        """P20: 30 samples, five seeds; accuracies near 1 had an upper end above it."""
        table = small.summary()
        assert (table["high"] == 1).any()
        assert table[["low", "high"]].stack().between(0, 1).all()
        assert with_loss.summary()["low"].iloc[0] >= 0

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
        with pytest.raises(ValueError, match="single seed"):  # P10: it blamed the interactions for the noise
            untrained({"lr": [0.1, 0.2]}, seeds=1).importance()
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
