"""Handing in: honest files are in order, forgeries are found and named, nothing in a file raises."""

import contextlib
import copy
import json
import os
import random
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from course_utils.homework import compare, register, validate_submission
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
    "endless number": (lambda d: '{"a": ' + "9" * 5001 + "}", "the number 99999.* has 5,001 digits"),
    "a name twice": (lambda d: json.dumps(d)[:-1] + ', "author": null}', "a name twice"),
    "a list": (lambda d: "[1, 2]", "not a file that Comparison.save"),
    "other schema": (edited(lambda d: d.update(format="notebook 4")), "its format is 'notebook 4', not 'course_utils"),
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
    "no time": (set_run("seconds", 0), "a run's seconds must be a number > 0, but is 0"),
    "negative time": (set_run("seconds", -0.1), "a run's seconds must be a number > 0, but is -0.1"),
    "no versions": (
        set_run("versions", ""),
        "versions must be a text of 1 to 300 characters without control characters, but is ''",
    ),
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

    @pytest.mark.parametrize(
        ("options", "error"),
        [
            ({"rerun": -1}, ValueError),
            ({"rerun": 1.5}, TypeError),
            ({"tolerance": 0}, ValueError),
            ({"seed": -1}, ValueError),
            ({"first_seed": -1}, ValueError),
            ({"num_seeds": 0}, ValueError),
            ({"minutes": 0}, ValueError),
            ({"plan": "plan.json"}, TypeError),
        ],
    )
    def test_bad_arguments(self, options, error, tmp_path):
        with pytest.raises(error):
            validate_submission(tmp_path / "a.json", **options)


# Careful forgeries: everything fits together, and the figures are possible


def best_of(document: dict) -> int:
    return document["summary"][0]["setting"]


def add_samples(document: dict, part: str, favourite: int, rivals: int = 0, step: float = 1 / 30) -> None:
    """Move a figure of every run by whole samples, within what is possible."""
    best = best_of(document)
    for run in document["runs"]:
        moved = run[part] + step * (favourite if run["setting"] == best else rivals)
        run[part] = min(1.0, max(0.0, moved))


def all_right(document: dict) -> None:
    """The last setting wins in every seed."""
    for run in document["runs"][-5:]:
        run["validation"] = 1.0


def mark_rivals_as_diverged(document: dict) -> None:
    for run in document["runs"]:
        run["diverged"] = run["setting"] != 7


def unmark(document: dict) -> None:
    for run in document["runs"]:
        run["diverged"] = False
        run["losses"] = [0.5 if loss is None else loss for loss in run["losses"]]


def move_losses(amount: float):
    def change(document: dict) -> None:
        best = best_of(document)
        for run in document["runs"]:
            run["validation"] += -amount if run["setting"] == best else amount

    return change


def count_a_run_twice(document: dict) -> None:
    document["settings"].append(document["settings"][-1] | {"batch_size": 1000})
    document["runs"] += [run | {"setting": len(document["settings"]) - 1} for run in document["runs"][-5:]]


def claim_a_network(widths: list[int], epochs: int):
    def change(document: dict) -> None:
        document["settings"][0].update(hidden_features=widths, epochs=epochs)
        for run in document["runs"][:5]:
            run["losses"] = [0.5] * min(epochs, 100)

    return change


def exchange(*names: str):
    """Exchange figures of the best and the last setting, seed by seed."""

    def change(document: dict) -> None:
        best, last = (document["summary"][place]["setting"] for place in (0, -1))
        rows = [[run for run in document["runs"] if run["setting"] == number] for number in (best, last)]
        for first, second in zip(*rows, strict=True):
            for name in names:
                first[name], second[name] = second[name], first[name]

    return change


def report_the_lucky_seed(document: dict) -> None:
    best = best_of(document)
    rows = [run for run in document["runs"] if run["setting"] == best]
    lucky = max(rows, key=lambda run: run["validation"])
    for run in rows:
        run.update({name: lucky[name] for name in ("train", "validation", "test")})
        run["losses"] = list(lucky["losses"])


def turn_seeds(document: dict) -> None:
    """The figures of seed k for seed k + 1, in the best setting: its hard splits no longer meet those of the rivals."""
    best = best_of(document)
    rows = [run for run in document["runs"] if run["setting"] == best]
    old = copy.deepcopy(rows)
    for run, before in zip(rows, old[-1:] + old[:-1], strict=True):
        run.update({name: before[name] for name in ("train", "validation", "test", "losses")})


def smoother_curves(document: dict) -> None:
    best = best_of(document)
    for run in document["runs"]:
        if run["setting"] == best:
            run["losses"] = [round(loss * 0.99, 6) for loss in run["losses"]]


def better_rate(document: dict) -> None:
    """The runs are those of another learning rate than the file says."""
    for setting in document["settings"]:
        setting["lr"] *= 1.01


def suppress(num_runs: int, samples: int, places: tuple[int, ...] = (0,)):
    """Make runs of the settings in these places of the ranking worse, so that a lesser one wins."""

    def change(document: dict) -> None:
        numbers = [document["summary"][place]["setting"] for place in places]
        for number in numbers:
            runs = [run for run in document["runs"] if run["setting"] == number]
            for run in sorted(runs, key=lambda run: -run["validation"])[:num_runs]:
                run["validation"] = max(0.0, run["validation"] - samples / 30)

    return change


def raise_one_run(document: dict) -> None:
    best = best_of(document)
    run = min((run for run in document["runs"] if run["setting"] == best), key=lambda run: run["validation"])
    run["validation"] = round(run["validation"] * 30 + 1) / 30


def mark_the_winner_as_diverged_once(document: dict) -> None:
    runs = [run for run in document["runs"] if run["setting"] == best_of(document)]
    runs[2]["diverged"] = True


def let_twins_win(document: dict) -> None:
    """Two settings that are nearly one take both first places, and all others are made worse."""
    for run in document["runs"]:
        if run["setting"] % 3 == 0:  # of three rates, the two that are no twins of each other
            run["validation"] = max(0.0, run["validation"] - 5 / 30)


def copy_the_best(document: dict) -> None:
    """One setting's runs are handed in as those of another one as well."""
    best, rival = (document["summary"][place]["setting"] for place in (0, 9))
    for run, other in zip(document["runs"][best * 5 :], document["runs"][rival * 5 : rival * 5 + 5], strict=False):
        other.update(run | {"setting": rival})


def exchange_seeds_of_a_rival(document: dict) -> None:
    """Its mean stays, but its hard splits no longer meet those of the best setting."""
    rival = document["summary"][9]["setting"]
    runs = [run for run in document["runs"] if run["setting"] == rival]
    for name in ("train", "validation", "test", "losses"):
        values = [run[name] for run in runs]
        for run, value in zip(runs, values[-1:] + values[:-1], strict=True):
            run[name] = value


def set_key(name, value):
    return lambda document: document.update({name: value})


# What the review and the public reports found, then what forgers with the sources tried. Each: the honest file, the
# change, a part of the verdict.
CAREFUL = {
    "P1: seeds that were picked": ("other seeds", lambda d: None, "must be 0 to 4"),
    "P1: seeds from a place of one's own": ("later seeds", lambda d: None, "must be 0 to 4"),
    "P2: one sample for the favourite, one off its rivals": (
        "twenty",
        lambda d: add_samples(d, "validation", 1, -1),
        "reprod",
    ),
    "P2: three samples in chaos": ("chaos", lambda d: add_samples(d, "validation", 3, -3), "reprod"),
    "P3: rivals marked as diverged": ("twenty", mark_rivals_as_diverged, "says that it diverged, but it did not"),
    "P3: diverged runs unmarked": ("diverging", unmark, "says that it did not diverge, but it diverged"),
    "P4: one setting of twenty": ("twenty", all_right, "its validation figure is 1, but"),
    "P6: an author that cannot be written": ("twenty", set_key("author", "\ud800"), "author must be"),
    "P7: a network of 36 GB": ("twenty", claim_a_network([10**8], 1), "GiB of memory"),
    "P21: a run counted as two settings": ("twenty", count_a_run_twice, "settings 19 and 20 are the same runs"),
    "F7: an author that begins a row": ("twenty", set_key("author", "\r=1+1"), "author must be"),
    "F7: versions that begin a row": ("twenty", lambda d: d["runs"][0].update(versions="a\n=1+1"), "versions must be"),
    "a plan that nobody registered": ("twenty", set_key("plan", "0" * 64), "is not what that plan says"),
    "the plan of something else": ("planned", lambda d: d["settings"][0].update(lr=0.2), "is not what that plan says"),
    "losses moved by less than the tolerance": ("loss", move_losses(9e-4), "its validation figure is"),
    "losses moved by less than what was compared": ("loss", move_losses(9e-5), "its validation figure is"),
    "test figures of the favourite": ("twenty", lambda d: add_samples(d, "test", -1), "its test figure is"),
    "a thousandth on folds": (
        "folds",
        lambda d: add_samples(d, "validation", -1, 0, 0.001),
        "its validation figure is",
    ),
    "half a thousandth of F1": (
        "f1",
        lambda d: add_samples(d, "validation", -1, 0, 0.0005),
        "its validation figure is",
    ),
    "two settings exchanged": ("twenty", exchange("train", "validation", "test", "losses"), "is not reproduced"),
    "only their validation figures exchanged": ("twenty", exchange("validation"), "is not reproduced"),
    "the lucky seed in place of all": ("twenty", report_the_lucky_seed, "is not reproduced"),
    "pairs that do not belong together": ("twenty", turn_seeds, "is not reproduced"),
    "smoother curves": ("twenty", smoother_curves, "its curve differs"),
    "a slightly better learning rate": ("twenty", better_rate, "its curve differs"),
    "a winner made worse": ("twenty", suppress(5, 6), "its validation figure is"),
    "a winner made worse in two of five runs": ("twenty", suppress(2, 10), "its validation figure is"),
    "a winner made worse in one of five runs": ("twenty", suppress(1, 6), "its validation figure is"),
    "the six best made worse": ("twenty", suppress(5, 9, tuple(range(6))), "its validation figure is"),
    "a winner that diverges once": (
        "twenty",
        mark_the_winner_as_diverged_once,
        "says that it diverged, but it did not",
    ),
    "twins in both first places": ("twins", let_twins_win, "its validation figure is"),
    "one run of the best setting, by one sample": ("twenty", raise_one_run, "its validation figure is"),
    "one rival of chaos made worse": ("chaos", suppress(6, 3, (1,)), "in favour of the best setting|reproduced"),
    "three samples for the favourite of chaos alone": (
        "chaos",
        lambda d: add_samples(d, "validation", 3),
        "its validation figure is",
    ),
    "a winner of chaos made worse by a sample": ("chaos", suppress(6, 1), "its validation figure is"),
    "the best setting's runs for a rival too": ("twenty", copy_the_best, "is not reproduced"),
    "a rival's seeds exchanged": ("twenty", exchange_seeds_of_a_rival, "is not reproduced"),
    "hours in many layers": ("twenty", claim_a_network([1] * 20_000, 100), "would take about"),
}


class TestCarefulForgeries:
    @pytest.mark.parametrize("name", CAREFUL)
    def test_none_gets_through(self, name, honest, tmp_path):
        """P1, P2, P3, P4, P6, P7, P21, F7, and more that were invented: with the usual options."""
        source, change, message = CAREFUL[name]
        document = saved(tmp_path / "honest.json", honest[source])
        change(document)
        with contextlib.suppress(ValueError):  # what cannot even be read
            document = resigned(document)
        (tmp_path / "a.json").write_text(json.dumps(document))
        for seed in range(2):
            verdict = validate_submission(tmp_path / "a.json", seed=seed)
            assert not verdict.ok
            assert re.search(message, str(verdict)), verdict
            assert str(verdict).isprintable() or "\n" in str(verdict)

    def test_the_same_files_are_in_order_without_the_change(self, honest, tmp_path):
        for name, comparison in honest.items():
            comparison.save(tmp_path / f"{name}.json")
            first_seed = 100 if name == "later seeds" else 0
            verdict = validate_submission(tmp_path / f"{name}.json", rerun=12, seed=0, first_seed=first_seed)
            assert verdict.ok == (name != "other seeds"), verdict

    @pytest.mark.slow
    def test_p2_honest_files_of_a_computer_that_rounds_otherwise_are_in_order(self, tmp_path):
        """P2: accuracies must be equal, but not those of chaos: the loop rounds otherwise than the batched engine."""
        grids = {
            "accuracy": {"lr": [0.3, 3.0], "batch_size": [8, None], "hidden_features": 16},
            "f1_macro": {"lr": [0.03, 0.3], "dropout": [0, 0.3], "optimizer": "adam", "batch_size": 16},
            "loss": {"lr": [0.3, 3.0], "hidden_features": [8, [16, 16]], "activation": "tanh"},
        }
        # All copies agree in the training figure of seed 4, and the loop does not: their curves are far apart.
        agreeing = {"lr": 3.0, "activation": "tanh", "optimizer": "nesterov", "hidden_features": 8, "epochs": 300}
        for metric, grid in [*grids.items(), ("f1_macro", agreeing)]:
            epochs = None if "epochs" in grid else 60
            comparison = compare(grid, seeds=5, epochs=epochs, metric=metric, engine="loop", progress=False)
            path = tmp_path / f"{len(comparison)}-{metric}.json"
            comparison.save(path)
            verdict = validate_submission(path, rerun=len(comparison), seed=0)
            assert verdict.ok, verdict


class TestNotes:
    def test_without_time_nothing_is_decided(self, honest, tmp_path):
        """It was in order, with a note: one run of each setting and all of the best one are the least."""
        honest["twenty"].save(tmp_path / "a.json")
        verdict = validate_submission(tmp_path / "a.json", minutes=1e-9)
        assert not verdict.ok
        assert verdict.problems == verdict.notes == ()
        listed = ", ".join(map(str, range(10)))
        text = f"there was time to repeat 0 of 100 runs, 0 of the best setting's 5, and none of setting(s) {listed} and"
        assert verdict.undecided[0].startswith(text)
        assert str(verdict) == f"undecided: {verdict.undecided[0]}"
        enough = float(re.search(r"at least minutes=([\d.]+) is needed", str(verdict))[1])
        assert validate_submission(tmp_path / "a.json", minutes=enough).ok
        assert not validate_submission(tmp_path / "a.json", minutes=enough / 2).ok

    def test_a_plan_that_nobody_compared_with_is_named(self, honest, tmp_path):
        honest["planned"].save(tmp_path / "a.json")
        (note,) = validate_submission(tmp_path / "a.json", rerun=0).notes
        assert re.fullmatch("names a plan \\(digest .{12}…\\); whether it came before the runs is not checked", note)

    def test_settings_with_equal_curves_are_named(self, tmp_path):
        grid = {"weight_decay": [0.0, 1e-9], "lr": [0.1, 0.3]}
        compare(grid, seeds=2, epochs=5, progress=False).save(tmp_path / "a.json")
        verdict = validate_submission(tmp_path / "a.json")
        assert verdict.ok
        assert "what differs between them changes nothing: 2 (as 0), 3 (as 1)" in verdict.notes[0]

    @pytest.mark.parametrize("changed", [lambda place: 0.01, lambda place: 0.01 + 0.001 * place], ids=["all", "none"])
    def test_times_that_compare_never_writes_are_named(self, changed, tmp_path):
        grid = {"lr": [0.1, 0.3], "optimizer": ["sgd", "adam"]}
        comparison = compare(grid, seeds=3, epochs=5, progress=False)
        records = tuple(replace(record, seconds=changed(place)) for place, record in enumerate(comparison.records))
        replace(comparison, records=records).save(tmp_path / "a.json")
        (note,) = validate_submission(tmp_path / "a.json").notes
        assert re.fullmatch("12 runs in 2 job\\(s\\) have (1|12) different times, as compare never writes them", note)

    def test_an_ordinary_file_has_none(self, small, tmp_path):
        small.save(tmp_path / "a.json")
        assert validate_submission(tmp_path / "a.json").notes == ()


class TestSeeds:
    def test_their_number_can_be_demanded(self, small, tmp_path):
        """Who may choose how many can stop when a difference shows."""
        small.save(tmp_path / "a.json")
        assert validate_submission(tmp_path / "a.json", rerun=0, num_seeds=5).ok
        verdict = validate_submission(tmp_path / "a.json", rerun=0, num_seeds=10)
        assert "the seeds are 0, 1, 2, 3, 4, but must be 0 to 9" in str(verdict)


class TestPlans:
    def test_a_plan_that_was_handed_in_must_be_kept(self, honest, tmp_path):
        honest["planned"].save(tmp_path / "planned.json")
        honest["twenty"].save(tmp_path / "without.json")
        plan = register({"lr": [0.3, 0.1]}, seeds=5, epochs=40)
        assert honest["planned"].plan == plan.digest
        assert validate_submission(tmp_path / "planned.json", plan=plan).ok
        other = register({"lr": [0.1, 0.3]}, seeds=5, epochs=50)
        verdict = validate_submission(tmp_path / "planned.json", plan=other)
        assert verdict.problems == ("it is not what was planned: settings differ(s) from the plan",)
        assert "settings differ" in str(validate_submission(tmp_path / "without.json", plan=plan))
        unnamed = replace(honest["planned"], plan=None)
        unnamed.save(tmp_path / "unnamed.json")
        assert "does not name the plan" in str(validate_submission(tmp_path / "unnamed.json", plan=plan))
