"""The clock that all benchmarks share."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch

FILE = Path(__file__).parents[2] / "benchmarks" / "timing.py"


@pytest.fixture(scope="module")
def timing():
    """The module itself: benchmarks are scripts in a folder, not a package."""
    spec = importlib.util.spec_from_file_location("timing", FILE)
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:  # a dataclass looks its module up by name, and so does a new process
        patch.setitem(importlib.sys.modules, "timing", module)
        patch.syspath_prepend(str(FILE.parent))
        spec.loader.exec_module(module)
        yield module


def fill(megabytes: int):
    """For the process of `peak_memory`: a call whose result holds that much, and that needs as much again."""
    size = megabytes * 250_000
    return lambda: torch.ones(size) + torch.ones(size)


def test_candidates_take_turns(timing):
    calls = []
    sides = {name: lambda name=name: calls.append(name) for name in "ab"}
    times = timing.take_turns(sides, rounds=3)
    assert calls == [*"ab", *"ababab"]  # the first two warm up
    assert [len(values) for values in times.seconds.values()] == [3, 3]


def test_a_slow_candidate_is_called_once(timing):
    calls = []
    sides = {name: lambda name=name: calls.append(name) for name in ("ours", "slow")}
    times = timing.take_turns(sides, rounds=3, once=("slow",))
    assert calls.count("slow") == 1
    assert calls.count("ours") == 4
    assert len(times.ratios("slow", "ours")) == 3


def test_a_round_of_several_calls_gives_the_seconds_of_one(timing):
    clock, calls = [0.0], []

    def work():
        calls.append("ours")
        clock[0] += 2.0

    times = timing.take_turns({"ours": work}, rounds=2, calls=3, clock=lambda: clock[0])
    assert times.seconds == {"ours": [2.0, 2.0]}
    assert len(calls) == 1 + 2 * 3


def test_ratios_are_taken_round_by_round(timing):
    times = timing.Timing({"a": [1.0, 6.0], "b": [2.0, 3.0], "once": [12.0]})
    assert times.ratios("a", "b") == [0.5, 2.0]
    assert times.ratios("once", "a") == [12.0, 2.0]


def test_the_clock_is_the_callers(timing):
    ticks = iter([0.0, 2.5])
    assert timing.seconds(lambda: None, clock=lambda: next(ticks)) == 2.5


def test_peak_memory_counts_what_is_freed_before_the_end(timing):
    assert timing.peak_memory(fill, 100) == pytest.approx(300, abs=40)


def test_a_report_says_what_was_missed(timing, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(timing, "RESULTS", tmp_path / "results")
    report = timing.Report("subject")
    report.row("fast enough", [0.1, 0.3, 0.2], "s", at_most=0.2)
    report.row("too slow", [0.1, 0.3, 0.2], "times", at_least=0.25)
    report.row("for information", [7.0], "MB")
    report.save()
    printed = capsys.readouterr().out
    assert "wanted: at most 0.2\n" in printed
    assert "wanted: at least 0.25   MISSED" in printed
    assert printed.endswith("targets missed: 1\n  too slow\n")
    saved = json.loads((tmp_path / "results" / "subject.json").read_text("utf-8"))
    assert saved["threads"] == torch.get_num_threads()
    assert saved["torch"] == torch.__version__
    assert saved["processor"]
    assert [row["met"] for row in saved["rows"]] == [True, False, True]
    assert [saved["rows"][0][key] for key in ("median", "low", "high", "at_most")] == [0.2, 0.1, 0.3, 0.2]


def test_a_comparison_has_a_row_for_each_target(timing, monkeypatch):
    times = timing.Timing({"ours": [1.0, 2.0], "library": [2.0, 2.0], "loop": [10.0]})
    monkeypatch.setattr(timing, "take_turns", lambda candidates, **_: times)
    report = timing.Report("subject")
    candidates = dict.fromkeys(("ours", "library", "loop"), list)
    assert report.compare("work", candidates, at_most={"library": 0.8}, times_as_fast={"loop": 8}) is times
    found = [(row["subject"], row["median"], row["met"]) for row in report.rows]
    assert found == [("work", 1.5, True), ("work: ours / library", 0.75, True), ("work: loop / ours", 7.5, False)]
