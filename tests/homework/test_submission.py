"""Handing in: honest files are in order, forgeries are found and named, nothing in a file raises."""

import json
import os
import random
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from course_utils.homework import Comparison, Setting, compare, submission, validate_submission
from course_utils.homework.data import load_splits
from course_utils.homework.runs import Item
from course_utils.homework.storage import KEYS
from tests.support.homework import resigned, saved


def edited(change, *, resign: bool = False):
    def forge(document: dict) -> str:
        change(document)
        return json.dumps(resigned(document) if resign else document)

    return forge


def set_run(name, value, place=0, **options):
    return edited(lambda document: document["runs"][place].update({name: value}), **options)


def set_setting(name, value):
    return edited(lambda document: document["settings"][0].update({name: value}))


FORGERIES = {
    "empty": (lambda d: "", "not JSON, or it is cut off"),
    "truncated": (lambda d: json.dumps(d)[:-100], "not JSON, or it is cut off"),
    "not text": (lambda d: b"\x80\x04\x95\xff", "not text in UTF-8"),
    "a program": (lambda d: "__import__('os').system('echo')", "not JSON"),
    "huge": (lambda d: " " * (16 * 2**20 + 1), "too large: more than 16 MiB"),
    "nesting bomb": (lambda d: "[" * 1_000_000, "nested too deeply"),
    "nested objects": (lambda d: '{"a":' * 200_000, "nested too deeply"),
    "NaN text": (lambda d: json.dumps(d).replace('"seconds": 0.', '"seconds": NaN, "x": 0.', 1), "holds NaN"),
    "infinite number": (lambda d: json.dumps(d).replace('"sizes": [90', '"sizes": [1e999', 1), "too large"),
    "endless number": (lambda d: '{"a": ' + "9" * 5000 + "}", "."),
    "a name twice": (lambda d: json.dumps(d)[:-1] + ', "author": null}', "a name twice"),
    "a list": (lambda d: "[1, 2]", "not a file that Comparison.save"),
    "other schema": (edited(lambda d: d.update(format="notebook 4")), "not a file that Comparison.save"),
    "missing key": (edited(lambda d: d.pop("summary")), "the key 'summary' is missing"),
    "foreign key": (edited(lambda d: d.update(__reduce__="os.system")), "'__reduce__' is a foreign key"),
    "foreign key of a run": (set_run("grade", 1), "run 0: a run must have exactly the keys"),
    "foreign key of a setting": (set_setting("secret", 1), "setting 0 must have exactly the keys"),
    "other data": (edited(lambda d: d.update(data=["iris"])), "data must be null or one of"),
    "other data's digest": (edited(lambda d: d.update(data="digits")), "not the digits data"),
    "own data": (edited(lambda d: d.update(data=None)), "has no name, so its runs cannot be repeated"),
    "other sizes": (edited(lambda d: d.update(sizes=[120, 15, 15])), "sizes of the parts"),
    "bad author": (edited(lambda d: d.update(author="x" * 201)), "author must be"),
    "missing seed": (edited(lambda d: d.update(runs=[r for r in d["runs"] if r["seed"] != 3])), "seed 3 is missing"),
    "unlisted seed": (edited(lambda d: d["seeds"].remove(3)), "belongs to no listed setting and seed"),
    "duplicated run": (edited(lambda d: d["runs"].append(d["runs"][0])), "setting 0, seed 0 is there twice"),
    "duplicated seed": (edited(lambda d: d["seeds"].append(3)), "a seed is listed twice"),
    "duplicated setting": (edited(lambda d: d["settings"].append(d["settings"][0])), "a setting is listed twice"),
    "huge seed": (edited(lambda d: d["seeds"].append(10**30)), "whole number from 0"),
    "accuracy above 1": (set_run("test", 1.5), "test_accuracy of 1.5, which must be from 0 to 1"),
    "negative accuracy": (set_run("test", -0.5), "must be from 0 to 1"),
    "missing accuracy": (set_run("validation", None), "has no validation_accuracy"),
    "number as text": (set_run("train", "0.9"), "a run's train must be a number or null, but is '0.9'"),
    "truth as number": (set_run("train", True), "must be a number or null, but is True"),
    "giant number": (set_run("train", 10**400), "must be a number or null"),
    "no versions": (set_run("versions", ""), "versions must be a text of 1 to 300 characters, but is ''"),
    "short curve": (edited(lambda d: d["runs"][0]["losses"].pop()), "a curve of 39 points, but 40 belong"),
    "negative curve": (edited(lambda d: d["runs"][0].update(losses=[-1] * 40)), "negative training loss"),
    "curve without end": (edited(lambda d: d["runs"][0].update(losses=[None] * 40)), "not marked as diverged"),
    "edited accuracy": (set_run("validation", 1.0), "summary does not follow from the runs"),
    "edited curve": (edited(lambda d: d["runs"][0]["losses"].__setitem__(5, 0.01)), "were changed"),
    "edited summary": (edited(lambda d: d["summary"][0].update(mean=0.999)), "summary does not follow"),
    "no summary": (edited(lambda d: d.update(summary=7)), "one row for each setting"),
    "not a whole sample": (set_run("validation", 0.951, resign=True), "no whole number of 30 samples"),
    "rerun: accuracy": (
        edited(lambda d: [run.update(test=run["test"] / 2) for run in d["runs"]], resign=True),
        "no whole number of 30|its test figure is .* comes out",
    ),
    "rerun: all right": (
        edited(lambda d: [run.update(validation=1.0) for run in d["runs"][:5]], resign=True),
        "is not reproduced: its validation figure is 1, but",
    ),
    "rerun: curves": (
        edited(lambda d: [run["losses"].__setitem__(-1, 0.01) for run in d["runs"]], resign=True),
        "its curve differs at 1 point",
    ),
    "rerun: other settings": (
        edited(lambda d: [setting.update(lr=setting["lr"] / 2) for setting in d["settings"]]),
        "its curve differs at",
    ),
    "hours of epochs": (set_setting("epochs", 10**9), "curve of 40 points, but 100 belong"),
    "unknown optimizer": (set_setting("optimizer", "lbfgs"), "setting 0: optimizer must be one of"),
    "width beyond sense": (set_setting("hidden_features", [10**15]), "an absurdly large number"),
    "hours of width": (set_setting("hidden_features", [10**7]), "would take about .* to repeat"),
    "lr of text": (set_setting("lr", "0.1"), "setting 0: lr must be a number"),
    "lr of digits": (set_setting("lr", 10**400), "setting 0"),
}


class TestSubmission:
    def test_an_honest_one_is_in_order(self, tmp_path, small, with_loss):
        for name, comparison in {"a": small, "b": with_loss}.items():
            comparison.save(tmp_path / f"{name}.json", author=name)
            verdict = validate_submission(tmp_path / f"{name}.json", rerun=20, seed=0)
            assert verdict.ok, verdict
            assert bool(verdict)
            assert str(verdict) == "in order"

    def test_folds_f1_and_the_loop_are_reproduced_too(self, tmp_path):
        for i, options in enumerate(
            (
                {"validation": "repeated_kfold"},
                {"metric": "f1_macro", "data": "breast_cancer"},
                {"engine": "loop", "metric": "loss", "data": "digits"},
            )
        ):
            grid = {"lr": [0.05, 0.1], "dropout": 0.2, "batch_size": 64, "optimizer": "adam"}
            compare(grid, seeds=2, epochs=4, progress=False, **options).save(tmp_path / f"{i}.json")
            verdict = validate_submission(tmp_path / f"{i}.json", seed=0)
            assert verdict.ok, verdict

    @pytest.mark.parametrize("name", FORGERIES)
    def test_a_forgery_is_found_and_named(self, name, tmp_path, small):
        forge, message = FORGERIES[name]
        content = forge(saved(tmp_path / "a.json", small))
        (tmp_path / "a.json").write_bytes(content if isinstance(content, bytes) else content.encode())
        # One that asks for hours of training is refused before any: otherwise this test runs into its time limit.
        verdict = validate_submission(tmp_path / "a.json", rerun=20, seed=0)
        assert not verdict.ok
        assert re.search(message, "\n".join(verdict.problems)), verdict.problems
        assert all(len(problem) < 500 for problem in verdict.problems)

    def test_long_epochs_with_a_fitting_curve_are_refused_before_they_run(self, tmp_path, small):
        document = saved(tmp_path / "a.json", small)
        for setting in document["settings"]:
            setting["epochs"] = 10**9
        for run in document["runs"]:
            run["losses"] = [0.5] * 100
        (tmp_path / "a.json").write_text(json.dumps(resigned(document)))
        verdict = validate_submission(tmp_path / "a.json")
        assert "would take about 56 hours to repeat" in verdict.problems[0]

    @pytest.mark.parametrize("make", [lambda p: None, Path.mkdir, os.mkfifo], ids=["missing", "folder", "pipe"])
    def test_what_is_no_file(self, make, tmp_path):
        make(tmp_path / "a.json")
        verdict = validate_submission(tmp_path / "a.json")
        assert re.search("no such file|not an ordinary file", str(verdict))

    def test_the_number_of_problems_is_limited(self, tmp_path, small):
        document = saved(tmp_path / "a.json", small)
        (tmp_path / "a.json").write_text(json.dumps(document | {"runs": [0] * 100_000}))
        assert len(validate_submission(tmp_path / "a.json").problems) == 21

    @given(seed=st.integers(0, 10**6))
    def test_random_damage_never_raises(self, seed, tmp_path_factory, with_loss):
        path = tmp_path_factory.getbasetemp() / "damaged.json"
        path.unlink(missing_ok=True)
        with_loss.save(path)
        numbers, content = random.Random(seed), bytearray(path.read_bytes())
        for _ in range(numbers.randint(1, 3)):
            content[numbers.randrange(len(content))] = numbers.randrange(32, 127)
        path.write_bytes(bytes(content))
        verdict = validate_submission(path, rerun=0)
        assert verdict.ok == (verdict.problems == ())

    @given(
        value=st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        ),
        key=st.sampled_from(KEYS),
    )
    def test_any_json_value_anywhere_never_raises(self, value, key, tmp_path_factory, small):
        path = tmp_path_factory.getbasetemp() / "foreign.json"
        document = saved(path.with_name("whole.json"), small)
        path.write_text(json.dumps(document | {key: value}))
        assert isinstance(validate_submission(path, rerun=0).ok, bool)

    def test_chaotic_runs_are_judged_by_their_own_spread(self):
        splits, item = load_splits("iris", "holdout"), Item(0, Setting(16, lr=3.0, batch_size=8, epochs=60), 0)
        claim = submission.repeat(submission.perturbed(splits, 99), item, "loss")
        found = submission.repeat(splits, item, "loss")
        assert claim.losses != pytest.approx(found.losses, abs=1e-3)  # another computer's rounding changes the curve
        comparison = Comparison(
            (item.setting,), (0,), (claim,), (90, 30, 30), "iris", splits.digest, "loss", "holdout", "auto"
        )
        assert submission.not_reproduced(comparison, splits, claim, 1e-3) == []

    @pytest.mark.parametrize(
        ("options", "error"),
        [
            ({"rerun": -1}, ValueError),
            ({"rerun": 1.5}, TypeError),
            ({"tolerance": 0}, ValueError),
            ({"seed": -1}, ValueError),
        ],
    )
    def test_bad_arguments(self, options, error, tmp_path):
        with pytest.raises(error):
            validate_submission(tmp_path / "a.json", **options)
