"""Plans: what they fix, their digest, their file, and what compare says when they are not kept."""

import json
import re
from dataclasses import FrozenInstanceError

import pytest

from course_utils.homework import Comparison, Plan, compare, register
from tests.support.homework import GRID, OPTIONS, own_data
from tests.support.html import Page

PLANNED = {"seeds": 5, "epochs": 40}


class TestPlan:
    def test_the_digest_stands_for_the_content_and_not_for_its_order(self):
        plan = register(GRID, **PLANNED)
        turned = {name: values[::-1] for name, values in reversed(GRID.items())}
        assert register(turned, seeds=[4, 2, 0, 1, 3], epochs=40).digest == plan.digest
        others = [
            register(GRID | {"dropout": 0.1}, **PLANNED),
            register(GRID, seeds=6, epochs=40),
            register(GRID, seeds=5, epochs=41),
            register(GRID, **PLANNED, metric="loss"),
            register(GRID, **PLANNED, validation="repeated_kfold"),
            register(GRID, **PLANNED, data="digits"),
            register(GRID, **PLANNED, data=own_data()),
        ]
        assert len({plan.digest, *(other.digest for other in others)}) == 8
        assert [plan.differences(other) for other in others] == [
            *(["settings"], ["seeds"], ["settings"], ["metric"], ["validation"]),
            *[["data", "data_digest"]] * 2,
        ]
        assert plan.digest[:12] in repr(plan)
        with pytest.raises(FrozenInstanceError):
            plan.metric = "loss"

    def test_the_file(self, tmp_path):
        plan = register(GRID, **PLANNED)
        plan.save(tmp_path / "plan.json")
        loaded = Plan.load(tmp_path / "plan.json")
        assert loaded.digest == plan.digest
        assert plan.differences(loaded) == []
        with pytest.raises(FileExistsError):
            register(GRID, seeds=3).save(tmp_path / "plan.json")

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda d: d["seeds"].append(5), "digest does not fit"),
            (lambda d: d.update(metric="loss"), "digest does not fit"),
            (lambda d: d.update(metric=["loss"]), "metric must be one of"),
            (lambda d: d["settings"][0].update(lr="fast"), "lr must be a number"),
            (lambda d: d.pop("data"), "keys of a plan"),
            (lambda d: d.update(format="notes"), "not a file that Plan.save"),
        ],
    )
    def test_a_changed_file_is_refused(self, change, message, tmp_path):
        register(GRID, **PLANNED).save(tmp_path / "plan.json")
        document = json.loads((tmp_path / "plan.json").read_text())
        change(document)
        (tmp_path / "plan.json").write_text(json.dumps(document))
        with pytest.raises(ValueError, match=message):
            Plan.load(tmp_path / "plan.json")

    def test_what_is_no_plan(self, tmp_path, small):
        small.save(tmp_path / "a.json")
        for path in (tmp_path / "a.json", tmp_path / "none.json"):
            with pytest.raises(ValueError, match=f"{re.escape(repr(str(path)))} cannot be loaded as a plan"):
                Plan.load(path)

    def test_it_is_refused_where_compare_would_refuse(self):
        with pytest.raises(ValueError, match="same runs"):
            register({"batch_size": [None, 1000]})
        with pytest.raises(ValueError, match="'accuracy', 'loss', 'f1_macro'"):
            register(GRID, metric="f1")


class TestKeeping:
    def test_compare_keeps_the_digest_and_the_report_says_so(self, tmp_path, small):
        plan = register(GRID, **PLANNED)
        kept = compare(GRID, **OPTIONS, plan=plan)
        kept.save(tmp_path / "a.json")
        assert Comparison.load(tmp_path / "a.json").plan == kept.plan == plan.digest
        kept.report(tmp_path / "a.html")
        assert "registered and kept" in (text := Page((tmp_path / "a.html").read_text()).text)
        assert plan.digest in text
        small.report(tmp_path / "b.html")
        assert "Plan: none was registered" in Page((tmp_path / "b.html").read_text()).text

    @pytest.mark.parametrize(
        ("changes", "name"),
        [
            ({"grid": GRID | {"dropout": 0.1}}, "settings"),
            ({"seeds": 4}, "seeds"),
            ({"metric": "loss"}, "metric"),
            ({"data": "digits"}, "data, data_digest"),
            ({"validation": "repeated_kfold"}, "validation"),
        ],
    )
    def test_anything_else_is_refused_before_it_runs(self, changes, name):
        with pytest.raises(ValueError, match=f"not what was planned: {name} differ"):
            compare(**({"grid": GRID, "plan": register(GRID, **PLANNED)} | OPTIONS | changes))

    def test_no_plan(self):
        with pytest.raises(TypeError, match="plan must be what register returned"):
            compare(GRID, **OPTIONS, plan="plan.json")
