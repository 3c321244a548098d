"""What chaos excuses: what draws make possible, and nothing that has a direction."""

import json
from dataclasses import replace

import numpy as np
import pytest

from course_utils.homework import Comparison, Setting, chaos, compare, comparison, repetition, validate_submission
from course_utils.homework.chaos import Repetition
from course_utils.homework.data import load_splits
from course_utils.homework.repetition import CheckOptions
from course_utils.homework.runs import Item, RunRecord
from tests.support.homework import resigned, saved

OPTIONS = CheckOptions(seed=0)
CHAOTIC = Setting(16, lr=3.0, batch_size=8, epochs=60)


@pytest.fixture
def iris():
    return load_splits("iris", "holdout")


@pytest.fixture(scope="module")
def by_other_rounding():
    """A function: a comparison as another computer would make it, whose inputs round otherwise."""

    def make(grid, **options) -> Comparison:
        with pytest.MonkeyPatch.context() as patch:
            load = comparison.load_splits
            patch.setattr(comparison, "load_splits", lambda *args: repetition.perturbed(load(*args), 100))
            return compare(grid, progress=False, **options)

    return make


@pytest.fixture(scope="module")
def wide(by_other_rounding) -> Comparison:
    """A setting that learns slowly and surely beside one whose accuracy rounding moves by ten samples."""
    return by_other_rounding({"lr": [0.003, 3.0], "batch_size": 8, "hidden_features": 16}, seeds=8, epochs=30)


@pytest.fixture(scope="module")
def wide_loss(by_other_rounding) -> Comparison:
    grid = {"lr": [0.003, 3.0], "batch_size": 8, "hidden_features": 16}
    return by_other_rounding(grid, seeds=8, epochs=30, metric="loss")


def one_run(iris, claim: RunRecord, metric: str) -> Comparison:
    return Comparison((CHAOTIC,), (0,), (claim,), (90, 30, 30), "iris", iris.digest, metric, "holdout", "auto")


def repetition_of(
    claimed: float, drawn: list[float], number: int = 0, metric: str = "accuracy", **changes
) -> Repetition:
    """A run whose three figures are these; its curve is chaotic unless `losses` says otherwise."""
    runs = [
        RunRecord(number, 0, *[value] * 3, False, 0.1, "none", changes.get("losses", (1.0, 1.0 + place)))
        for place, value in enumerate([claimed, *drawn])
    ]
    return Repetition(runs[0], tuple(runs[1:]), metric, np.full(3, 1 / 30) * (metric == "accuracy"), 1e-3)


class TestRepetition:
    def test_chaotic_runs_are_judged_by_their_own_spread(self, iris):
        item = Item(0, CHAOTIC, 0)
        (claim,) = repetition.repeat(repetition.perturbed(iris, 99), [item], "loss")
        (found,) = repetition.repeat(iris, [item], "loss")
        assert claim.losses != pytest.approx(found.losses, abs=1e-3)  # another computer's rounding changes the curve
        findings = repetition.judge(one_run(iris, claim, "loss"), iris, [claim], OPTIONS)
        assert (findings.problems, findings.undecided) == ((), [])
        assert "training is chaotic in 1 of 1 repeated runs, 1 of the best setting's 1" in findings.notes[0]

    def test_a_curve_that_is_the_same_where_chaos_rules_comes_from_the_same_rounding(self, iris):
        """So its figures must be the same as well, also if the last digits of the curve are changed."""
        item = Item(0, CHAOTIC, 0)
        (found,) = repetition.repeat(iris, [item], "accuracy")
        (other,) = repetition.repeat(repetition.perturbed(iris, 99), [item], "accuracy")
        nearly = replace(found, losses=tuple(loss * (1 + 1e-7) for loss in found.losses))
        verdicts = []
        for run in (found, nearly, other):
            claim = replace(run, validation=found.validation + (1 / 30 if found.validation < 1 else -1 / 30))
            problems = repetition.judge(one_run(iris, claim, "accuracy"), iris, [claim], OPTIONS).problems
            verdicts.append(any("validation figure" in problem for problem in problems))
        assert verdicts == [True, True, False]

    def test_the_end_of_a_chaotic_curve_lies_within_the_draws(self, iris):
        """It could be anything, also no number."""
        item = Item(0, CHAOTIC, 0)
        (claim,) = repetition.repeat(repetition.perturbed(iris, 99), [item], "accuracy")
        honest = repetition._repetitions(one_run(iris, claim, "accuracy"), iris, [claim], 1e-3)
        (tried,) = repetition._with_copies(one_run(iris, claim, "accuracy"), iris, honest, range(repetition.COPIES))
        assert tried.impossible(tried.ranges) == []
        for end in (float("nan"), 1e30):
            forged = replace(tried, claim=replace(claim, losses=(*claim.losses[:-1], end)))
            (text,) = forged.impossible(tried.ranges)
            assert "its curve differs at 1 point(s); at point 60 it is" in text

    @pytest.mark.parametrize(("metric", "moved"), [("loss", 2e-6), ("loss", 9e-5), ("accuracy", 1 / 30)])
    def test_where_nothing_is_chaotic_figures_agree_closely(self, metric, moved):
        """A loss could be moved by 1e-4, so that of two nearly equal settings the worse one won."""
        steady = {"metric": metric, "losses": (1.0, 0.5)}
        drawn = [0.5, *[0.5 + 1e-7 * (metric == "loss")] * 6]
        for tried in (repetition_of(0.5 - moved, drawn[:1], **steady), repetition_of(0.5 - moved, drawn, **steady)):
            assert len(tried.contradictions()) == 3
            assert not tried.is_chaotic
        assert repetition_of(0.5 + 3e-7 * (metric == "loss"), drawn, **steady).contradictions() == []

    def test_one_doubtful_sample_excuses_no_other_part(self):
        """A test sample that noise moves excused three samples of validation as well."""
        runs = [RunRecord(0, 0, 0.9, 0.8, test, False, 0.1, "none", (1.0, 0.5)) for test in (0.9, *[0.9, 14 / 15] * 3)]
        tried = Repetition(replace(runs[0], test=14 / 15), tuple(runs), "accuracy", np.full(3, 1 / 30), 1e-3)
        assert tried.contradictions() == tried.impossible(tried.ranges) == []
        (text,) = replace(tried, claim=replace(runs[0], validation=0.8 + 1 / 30)).contradictions()
        assert "its validation figure is 0.833333, but 0.8 comes out" in text

    def test_what_a_setting_makes_possible_is_known_from_all_its_runs(self):
        """One run of ten may end in another valley, and seven draws of this seed may not show it."""
        same = repetition_of(0.5, [0.9] * 7)
        ((_, texts),) = chaos.outliers([same])
        assert texts[0] == (
            "the run of setting 0, seed 0: its train figure is 0.5, but 0.9 comes out at best, in 7 tries with other "
            "rounding"
        )
        other = repetition_of(0.5, [0.9] * 6 + [0.45])
        assert chaos.outliers([same, other]) == []
        assert len(chaos.outliers([same, replace(other, claim=replace(other.claim, setting=1))])) == 1

    def test_a_loss_of_chaos_is_judged_by_its_logarithm(self):
        """Draws of 0.5 to 2 made everything from 0 to 17 possible."""
        drawn = [0.5, 1.0, 2.0, 1.0, 1.0, 1.0, 1.0]
        verdicts = {
            value: bool(chaos.outliers([repetition_of(value, drawn, metric="loss")])) for value in (0.02, 0.2, 6, 9)
        }
        assert verdicts == {0.02: True, 0.2: False, 6: False, 9: True}


class TestFavour:
    @pytest.fixture
    def repetitions(self):
        """A function: setting and claimed − found → a run that chaos excuses."""

        def make(*pairs: tuple[int, float]) -> list[Repetition]:
            drawn = [0.5, *[0.5 + step for step in (-0.1, 0.0, 0.1) * 2]]
            return [repetition_of(0.5 + difference, drawn, number) for number, difference in pairs]

        return make

    def test_p2_the_sum_has_a_direction(self, honest, repetitions):
        """P2: differences that only chaos explains are no problem unless they favour the best setting together."""
        comparison = honest["chaos"]
        best = comparison.best().setting
        runs = (*range(4), best, best)
        honest_ones = repetitions(*((number, 0.1 * sign) for number in range(4) for sign in (-1, 1)))
        assert chaos.favoured(comparison, honest_ones) == []
        against = repetitions(*((number, -0.25 if number == best else 0.25) for number in runs))
        assert chaos.favoured(comparison, against) == []
        for_it = repetitions(*((number, 0.25 if number == best else -0.25) for number in runs))
        text = chaos.favoured(comparison, for_it)[0]
        assert "their validation figures differ in favour of the best setting, by 1.312 in sum" in text

    def test_one_rival_is_seen_among_many(self, honest, repetitions):
        """Over all settings the differences cancel: the others make good what was taken from one."""
        comparison = honest["chaos"]
        _, rival, third, fourth = comparison.summary()["setting"].tolist()
        pairs = [(rival, -0.25)] * 6 + [(third, 0.12), (fourth, 0.12)] * 6
        text = chaos.favoured(comparison, repetitions(*pairs))[0]
        assert f"in favour of the best setting, in the runs of setting {rival}, by 1.312 in sum" in text
        assert chaos.favoured(comparison, repetitions(*[(rival, 0.25)] * 6)) == []

    def test_honest_claims_seldom_seem_to_favour(self, honest):
        """Also if one draw of eight is far from the others: a t-test gave alarm in 2 to 4 of 100 such files."""
        generator = np.random.default_rng(0)
        alarms = 0
        for _ in range(200):
            values = generator.normal(0.5, 0.01, (24, 8)) + 0.4 * (generator.random((24, 8)) < 0.125)
            tried = [repetition_of(v[0], v[1:].tolist(), place % 4) for place, v in enumerate(values)]
            alarms += bool(chaos.favoured(honest["chaos"], tried))
        assert alarms <= 2


class TestWinner:
    def lifted(self, honest: Comparison, num_runs: int, value: float, path) -> dict:
        """Some runs of the second setting, the chaotic one, get this figure."""
        document = saved(path, honest)
        runs = [run for run in document["runs"] if run["setting"] == 1]
        for run in sorted(runs, key=lambda run: run["validation"], reverse=honest.metric == "loss")[:num_runs]:
            run["validation"] = value
        return resigned(document)

    @pytest.mark.parametrize("num_runs", [2, 4, 6])
    @pytest.mark.parametrize("metric", ["accuracy", "loss"])
    def test_a_winner_by_lifted_chaotic_seeds_is_marked(self, metric, num_runs, wide, wide_loss, tmp_path):
        """29 of 30 for 20 of 30 was excused, and the winner was another one."""
        honest, value = (wide, 29 / 30) if metric == "accuracy" else (wide_loss, 0.01)
        document = self.lifted(honest, num_runs, value, tmp_path / "honest.json")
        (tmp_path / "a.json").write_text(json.dumps(document))
        verdict = validate_submission(tmp_path / "a.json")
        assert verdict.ok is False or "training is chaotic in" in verdict.notes[0]
        if document["summary"][0]["setting"] == 1 and honest.best().setting == 0:
            assert not verdict.ok or "setting 0 is the best one, not setting 1" in str(verdict)
        assert num_runs < 6 or not verdict.ok

    def test_an_honest_student_with_chaos_gets_an_explanation(self, wide, wide_loss, tmp_path):
        for name, honest in {"a": wide, "b": wide_loss}.items():
            honest.save(tmp_path / f"{name}.json")
            verdict = validate_submission(tmp_path / f"{name}.json")
            assert verdict.problems == verdict.undecided == ()
            assert "rounding decides there, so their figures are possible, but cannot be confirmed" in verdict.notes[0]

    def test_one_file_has_one_verdict(self, by_other_rounding, tmp_path):
        """It changed with the order in which the checker drew the runs."""
        honest = by_other_rounding(
            {"lr": [2.0, 3.0], "batch_size": 8, "hidden_features": 16}, seeds=2, epochs=24, metric="loss"
        )
        honest.save(tmp_path / "a.json")
        verdicts = {validate_submission(tmp_path / "a.json", seed=seed) for seed in range(20)}
        assert len(verdicts) == 1
        assert "chaotic" in str(verdicts)
