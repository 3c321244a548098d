"""Which runs are run again, and at what cost."""

import json
import time
from dataclasses import replace

import numpy as np
import pytest

from course_utils.homework import Setting, compare, repetition, submission, validate_submission
from course_utils.homework.data import load_splits
from course_utils.homework.runs import Item
from tests.support.homework import resigned, saved, untrained


@pytest.fixture
def iris():
    return load_splits("iris", "holdout")


@pytest.fixture
def num_repeated(monkeypatch) -> list[int]:
    """The numbers of runs that are trained, call by call."""
    numbers, repeat = [], repetition.repeat

    def counted(splits, items, metric):
        numbers.append(len(items))
        return repeat(splits, items, metric)

    monkeypatch.setattr(repetition, "repeat", counted)
    return numbers


class TestDraw:
    def test_p4_every_setting_and_all_of_the_best(self, honest):
        """P4: a uniform draw of three found one forged setting of twenty in 14 of 100 files."""
        comparison = honest["twenty"]
        first, second = comparison.summary()["setting"].tolist()[:2]
        orders = set()
        for seed in range(20):
            drawn = repetition.draw(comparison, 3, seed)
            assert [record.setting for record in drawn[:2]] == [first, second]
            assert {record.setting for record in drawn[:20]} == set(range(20))
            assert [record.setting for record in drawn[20:24]] == [first] * 4
            counts = np.bincount([record.setting for record in drawn])
            assert counts.tolist() == [5 if number == first else 3 for number in range(20)]
            assert len({(record.setting, record.seed) for record in drawn}) == len(drawn)
            orders.add(tuple((record.setting, record.seed) for record in drawn))
        assert len(orders) == 20  # nobody can foresee them
        for everything in (repetition.draw(comparison, rerun, 0) for rerun in (None, 5, 10**6)):
            assert len(set(everything)) == len(everything) == len(comparison)

    def test_a_twin_of_the_best_is_no_runner_up(self):
        grid = {"lr": [0.3, 0.30000001, 0.1, 0.01]}
        comparison = compare(grid, seeds=3, epochs=40, progress=False, metric="loss")
        best, second, third = comparison.summary()["setting"].tolist()[:3]
        assert {best, second} == {0, 1}
        assert [record.setting for record in repetition.draw(comparison, 1, 0)[:2]] == [best, third]


class TestTwins:
    def test_curves_that_are_nearly_the_same(self):
        """They were compared byte by byte, so a change of 1e-9 hid them."""
        comparison = untrained({"lr": [0.1, 0.2, 0.3, 0.4], "epochs": [100, 50]}, seeds=2)
        changed = {4: 1 + 1e-9, 6: 1.1}  # settings → factor of their curves
        records = tuple(
            replace(r, losses=tuple(x * changed.get(r.setting, 1) for x in r.losses[: 50 + 50 * (r.setting % 2 == 0)]))
            for r in comparison.records
        )
        comparison = replace(comparison, records=records)
        assert repetition.twins(comparison) == {2: 0, 4: 0, 3: 1, 5: 1, 7: 1}
        first, last = records[0], replace(records[-1], losses=(*records[-1].losses[:-1], float("nan")))
        assert 7 not in repetition.twins(replace(comparison, records=(first, *records[1:-1], last)))


class TestCost:
    @pytest.mark.parametrize("widths", [[1] * 1500, [1025] + [1] * 500], ids=["together", "alone"])
    def test_deep_networks_take_no_longer_than_estimated(self, widths, iris):
        """8,000 layers of one unit took seven times the estimate: to build them was not in it."""
        setting = Setting(widths, epochs=2)
        comparison = untrained({"hidden_features": [widths], "epochs": 2}, seeds=3)
        estimated = repetition._spend(comparison, iris, comparison.records, np.inf)[1]
        start = time.process_time()
        repetition.repeat(iris, [Item(0, setting, seed) for seed in range(3)], "accuracy")
        assert time.process_time() - start < 2 * estimated

    def test_p7_memory_is_estimated(self, iris):
        """P7: hidden_features=10**8 passed the estimate of time."""
        assert repetition.estimated_bytes(Setting(10**8, epochs=1), iris) > 16 * 10**9
        assert repetition.estimated_bytes(Setting(1000), iris) < 10**8
        assert repetition.estimated_bytes(Setting([2000, 2000]), iris) < submission.MAX_MEMORY

    def test_what_fits_into_the_time_comes_in_order(self, iris):
        comparison = untrained([{"hidden_features": [1, 2], "epochs": [1000, 100_000]}])
        starting, computing = np.array([repetition.estimated_seconds(s, iris) for s in comparison.settings]).T
        everything = repetition.affordable(comparison, iris, comparison.records, 1e9)
        assert everything == list(comparison.records)
        # The first form's runs share their steps; the second setting does not fit, the third one does.
        seconds = starting[0] + 5 * computing[0] + starting[2] + 2.5 * computing[2]
        assert seconds < starting[1]
        chosen = repetition.affordable(comparison, iris, comparison.records, seconds)
        assert [(record.setting, record.seed) for record in chosen] == [(0, s) for s in range(5)] + [(2, 0), (2, 1)]

    def test_runs_that_are_trained_alone_share_nothing(self, iris):
        comparison = untrained({"hidden_features": [2000, 2001], "epochs": 100}, seeds=2)
        seconds = sum(repetition.estimated_seconds(comparison.settings[0], iris))
        chosen = repetition.affordable(comparison, iris, comparison.records, 1.99 * seconds)
        assert [(record.setting, record.seed) for record in chosen] == [(0, 0)]

    def test_a_wrong_file_costs_its_sample_and_one_look_at_chaos(self, honest, num_repeated, tmp_path):
        """It cost 70 times as much as a run: fifteen runs, and six copies of each that chaos did not excuse at once."""
        document = saved(tmp_path / "honest.json", honest["chaos"])
        for run in document["runs"]:
            run["losses"][0] += 0.1  # before the first step nothing is chaotic
        (tmp_path / "a.json").write_text(json.dumps(resigned(document)))
        verdict = validate_submission(tmp_path / "a.json", seed=0)
        assert len(verdict.problems) == 1
        assert num_repeated == [len(honest["chaos"])] + [1] * repetition.COPIES

    def test_what_there_is_no_time_to_explain_is_not_in_order(self, honest, iris, tmp_path):
        comparison = honest["chaos"]
        document = saved(tmp_path / "honest.json", comparison)
        for run in document["runs"]:
            run["validation"] = max(0.0, run["validation"] - 1 / 30)
        (tmp_path / "a.json").write_text(json.dumps(resigned(document)))
        splits = load_splits("iris", "holdout")
        forms = sum(
            repetition.estimated_seconds(Setting(width, batch_size=8, epochs=20), splits)[0] for width in (8, 16)
        )
        verdict = validate_submission(tmp_path / "a.json", seed=0, minutes=1.1 * forms / 60)
        assert "to see whether rounding explains it takes too long" in str(verdict)
