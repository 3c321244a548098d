"""Which runs are run again, at what cost, and what chaos excuses."""

import json
from dataclasses import replace

import numpy as np
import pytest

from course_utils.homework import Comparison, Setting, compare, repetition, submission, validate_submission
from course_utils.homework.data import load_splits
from course_utils.homework.repetition import CheckOptions, Repetition
from course_utils.homework.runs import Item, RunRecord
from tests.support.homework import resigned, saved, untrained

OPTIONS = CheckOptions(seed=0)


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


class TestCost:
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


class TestChaos:
    def test_chaotic_runs_are_judged_by_their_own_spread(self, iris):
        item = Item(0, Setting(16, lr=3.0, batch_size=8, epochs=60), 0)
        (claim,) = repetition.repeat(repetition.perturbed(iris, 99), [item], "loss")
        (found,) = repetition.repeat(iris, [item], "loss")
        assert claim.losses != pytest.approx(found.losses, abs=1e-3)  # another computer's rounding changes the curve
        comparison = Comparison(
            (item.setting,), (0,), (claim,), (90, 30, 30), "iris", iris.digest, "loss", "holdout", "auto"
        )
        problems, excused = repetition.judge(comparison, iris, [claim], OPTIONS)
        assert (problems, len(excused)) == ([], 1)

    def test_a_curve_that_is_the_same_where_chaos_rules_comes_from_the_same_rounding(self, iris):
        """So its figures must be the same as well."""
        item = Item(0, Setting(16, lr=3.0, batch_size=8, epochs=60), 0)
        (found,) = repetition.repeat(iris, [item], "accuracy")
        (other,) = repetition.repeat(repetition.perturbed(iris, 99), [item], "accuracy")
        verdicts = []
        for run in (found, other):
            claim = replace(run, validation=found.validation + (1 / 30 if found.validation < 1 else -1 / 30))
            comparison = Comparison(
                (item.setting,), (0,), (claim,), (90, 30, 30), "iris", iris.digest, "accuracy", "holdout", "auto"
            )
            problems, _ = repetition.judge(comparison, iris, [claim], OPTIONS)
            verdicts.append(any("validation figure" in problem for problem in problems))
        assert verdicts == [True, False]


class TestFavour:
    @pytest.fixture
    def repetitions(self, honest):
        """A function: setting and claimed − found → a run that chaos excuses."""
        copies = np.array([[0.5, 0.5 + step, 0.5] for step in (-0.1, 0.0, 0.1) * 2])

        def make(*pairs: tuple[int, float]) -> list[Repetition]:
            return [
                Repetition(
                    *(RunRecord(number, 0, 0.5, 0.5 + d, 0.5, False, 0.1, "none", ()) for d in (difference, 0.0)),
                    *(np.full(3, 0.3), np.full(3, 1 / 60), copies),
                )
                for number, difference in pairs
            ]

        return make

    def test_p2_the_sum_has_a_direction(self, honest, repetitions):
        """P2: differences that only chaos explains are no problem unless they favour the best setting together."""
        comparison = honest["chaos"]
        best = comparison.best().setting
        runs = (*range(4), best, best)
        honest_ones = repetitions(*((number, 0.1 * sign) for number in range(4) for sign in (-1, 1)))
        assert repetition.favoured(comparison, honest_ones) == []
        against = repetitions(*((number, -0.25 if number == best else 0.25) for number in runs))
        assert repetition.favoured(comparison, against) == []
        for_it = repetitions(*((number, 0.25 if number == best else -0.25) for number in runs))
        (text,) = repetition.favoured(comparison, for_it)
        assert "their validation figures differ in favour of the best setting, by 1.5 in sum" in text

    def test_one_rival_is_seen_among_many(self, honest, repetitions):
        """Over all settings the differences cancel: the others make good what was taken from one."""
        comparison = honest["chaos"]
        _, rival, third, fourth = comparison.summary()["setting"].tolist()
        pairs = [(rival, -0.25)] * 6 + [(third, 0.12), (fourth, 0.12)] * 6
        (text,) = repetition.favoured(comparison, repetitions(*pairs))
        assert f"in favour of the best setting, in the runs of setting {rival}, by 1.5 in sum" in text
        assert repetition.favoured(comparison, repetitions(*[(rival, 0.25)] * 6)) == []
