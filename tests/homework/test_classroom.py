"""A class: good files in a table, bad ones with their problems."""

import json
import os
import re
from dataclasses import replace

import pandas as pd
import pytest

from course_utils.homework import collect_class, compare, register
from course_utils.homework.classroom import _look
from tests.support.homework import GRID, OPTIONS, resigned
from tests.support.html import Page, assert_self_contained


@pytest.fixture
def class_folder(tmp_path, small, with_loss):
    folder = tmp_path / "class"
    small.save(folder / "ada.json", author="Ada <b>")
    small.save(folder / "eve.json", author="=HYPERLINK(0)")
    with_loss.save(folder / "bob.json")
    (folder / "carl.json").write_text("{")
    (folder / "dora<i>.json").write_text("[]")
    (folder / "notes.txt").write_text("not a submission")
    return folder


def reorder_settings(document: dict) -> None:
    last = len(document["settings"]) - 1
    document["settings"].reverse()
    for run in document["runs"]:
        run["setting"] = last - run["setting"]


def drop_seeds(document: dict, num_left: int) -> None:
    document["seeds"] = document["seeds"][:num_left]
    document["runs"] = [run for run in document["runs"] if run["seed"] < num_left]


class TestClass:
    def test_table_and_problems(self, class_folder, small):
        report = collect_class(class_folder)
        assert len(report) == 3
        assert report.table["file"].tolist() == ["ada.json", "bob.json", "eve.json"]
        assert report.table["name"].tolist() == ["Ada <b>", "", "=HYPERLINK(0)"]
        assert report.table["data"].tolist() == ["iris"] * 3
        assert report.table["unmet_requirements"].tolist() == ["", "at least 5 seeds are needed, but there are 3", ""]
        assert report.table["test"][0] == small.best().test
        assert list(report.problems) == ["carl.json", "dora<i>.json"]
        assert repr(report) == "ClassReport(3 submissions, 2 files with problems)"

    def test_page_figures_and_csv(self, class_folder, tmp_path):
        report = collect_class(class_folder)
        report.report(tmp_path / "class.html")
        text = assert_self_contained(tmp_path / "class.html", images=3)
        assert "<b>" not in text
        assert "dora&lt;i&gt;.json" in text
        report.to_csv(tmp_path / "class.csv")
        table = pd.read_csv(tmp_path / "class.csv")
        assert len(table) == 5
        assert table["name"][2] == "'=HYPERLINK(0)"  # no formula for a spreadsheet
        for name in ("plot_best", "plot_effects", "plot_seeds"):
            assert getattr(report, name)()._repr_png_().startswith(b"\x89PNG")

    def test_text_from_outside_is_text(self, class_folder, tmp_path, small):
        small.save(class_folder / "<script>a.json", author="<img src=x onerror=alert(1)>")
        report = collect_class(class_folder)
        report.report(tmp_path / "class.html")
        page = Page(assert_self_contained(tmp_path / "class.html", images=3))
        for text in ("<script>a.json", "<img src=x onerror=alert(1)>", "dora<i>.json", "Ada <b>"):
            assert text in page.text
        preview = Page(report._repr_html_())
        assert {"script", "img", "b"}.isdisjoint(tag for tag, _ in preview.tags)
        assert "<script>a.json" in preview.text

    def test_p4_runs_are_repeated_by_default(self, class_folder):
        """P4: nothing was repeated unless the teacher asked for it."""
        document = json.loads((class_folder / "ada.json").read_text())
        for run in document["runs"]:
            run["validation"] = 1.0
        (class_folder / "ada.json").write_text(json.dumps(resigned(document)))
        assert "ada.json" in collect_class(class_folder, rerun=0).comparisons
        assert "not reproduced" in collect_class(class_folder).problems["ada.json"][0]

    def test_p6_no_author_and_no_file_name_stops_a_class(self, class_folder, tmp_path):
        """P6: a lone surrogate as the author, or a file name that is not UTF-8, stopped figures, CSV and report."""
        document = (class_folder / "bob.json").read_text()
        (class_folder / "eva.json").write_text(document.replace('"author":null', '"author":"\\ud800"'))
        (class_folder / os.fsdecode(b"b\xff\n.json")).write_text(document)
        (class_folder / "back\\udcff.json").write_text(document.replace('"author":null', '"author":"ガ 🙂 $x{"'))
        report = collect_class(class_folder, rerun=0)
        assert {"b\\udcff\\n.json", "back\\\\udcff.json"} < set(report.table["file"])
        assert report.problems["eva.json"] == (
            "author must be null or a text of 1 to 200 characters without control characters, but is '\\ud800'",
        )
        report.to_csv(tmp_path / "class.csv")
        assert len(pd.read_csv(tmp_path / "class.csv")) == 8
        report.report(tmp_path / "class.html")
        assert "ガ 🙂 $x{" in assert_self_contained(tmp_path / "class.html", images=3)

    def test_p27_upper_case_and_copies(self, class_folder):
        """P27: *.JSON was missed, and equal files under two names were not flagged; nor a copy with a new author."""
        document = json.loads((class_folder / "ada.json").read_text())
        (class_folder / "zoe.JSON").write_text(json.dumps(document | {"author": "Zoe"}))
        table = collect_class(class_folder, rerun=0).table.set_index("file")
        assert table["same_runs_as"].to_dict() == {
            **{"ada.json": "eve.json; zoe.JSON", "bob.json": "", "eve.json": "ada.json; zoe.JSON"},
            "zoe.JSON": "ada.json; eve.json",  # all three are the same fixture
        }

    def test_p1_the_table_shows_the_seeds(self, class_folder, tmp_path):
        """P1: and those that were picked are a problem, unless the teacher has set where they begin."""
        compare({"lr": [0.1, 0.2]}, seeds=range(7, 12), epochs=2, progress=False).save(class_folder / "seven.json")
        report = collect_class(class_folder, rerun=0)
        assert report.table["seed_range"].tolist() == ["0 to 4", "0 to 2", "0 to 4"]
        assert "must be 0 to 4" in report.problems["seven.json"][0]
        assert collect_class(class_folder, rerun=0, first_seed=7).table["file"].tolist() == ["seven.json"]

    @pytest.mark.parametrize(
        ("change", "is_a_copy"),
        [
            (lambda d: d["runs"][3].update(seconds=d["runs"][3]["seconds"] * 1.1), True),
            (lambda d: d["runs"].reverse(), True),
            (reorder_settings, True),
            (lambda d: drop_seeds(d, 2), True),
            (lambda d: [setting.update(lr=setting["lr"] * (1 + 1e-9)) for setting in d["settings"]], True),
            (lambda d: [run.update(seconds=run["seconds"] * 1.1) for run in d["runs"]], False),
        ],
        ids=[
            *("another time", "other order of runs", "other order of settings", "runs dropped"),
            *("rates changed by nothing", "all times changed"),
        ],
    )
    def test_near_copies_are_flagged(self, change, is_a_copy, class_folder):
        """A digest of everything was another one after any change; now a fifth of the runs is enough."""
        document = json.loads((class_folder / "ada.json").read_text())
        change(document)
        (class_folder / "zoe.json").write_text(json.dumps(resigned(document)))
        table = collect_class(class_folder, rerun=0).table.set_index("file")
        assert ("zoe.json" in table["same_runs_as"]["ada.json"]) == is_a_copy
        assert ("ada.json" in table["same_runs_as"]["zoe.json"]) == is_a_copy

    @pytest.mark.parametrize(
        ("change", "looks_like"),
        [
            (lambda seconds, place: seconds + 1e-9, True),
            (lambda seconds, place: seconds * 1.1, True),
            (lambda seconds, place: seconds * (1.1 if place % 3 else 2), True),
            (lambda seconds, place: seconds + 1e-4, True),
            (lambda seconds, place: seconds * (1.02 + 0.02 * (place % 5)), False),
        ],
        ids=["a nanosecond", "one factor", "one factor for most", "one amount", "a factor for each"],
    )
    def test_times_in_one_proportion_are_shown(self, change, looks_like, class_folder):
        """A copy whose seconds were all changed alike was no copy."""
        comparison = compare(GRID, seeds=5, epochs=3, engine="loop", progress=False)
        for name, changed in {"one": lambda seconds, place: seconds, "two": change}.items():
            records = tuple(
                replace(record, seconds=round(changed(0.003 + 0.0001 * place, place), 9))
                for place, record in enumerate(comparison.records)
            )
            # Nor did a rate that was changed by nothing.
            settings = tuple(replace(s, lr=s.lr * (1 + 1e-9 * (name == "two"))) for s in comparison.settings)
            replace(comparison, records=records, settings=settings).save(class_folder / f"{name}.json")
        table = collect_class(class_folder, rerun=0).table.set_index("file")
        assert table["same_runs_as"]["one.json"] == table["looks_like"]["ada.json"] == ""
        assert table["looks_like"]["one.json"] == ("two.json" if looks_like else "")
        assert table["looks_like"]["two.json"] == ("one.json" if looks_like else "")

    def test_the_same_grid_run_twice_is_no_copy(self, class_folder):
        compare(GRID, **OPTIONS).save(class_folder / "own.json")
        own = collect_class(class_folder, rerun=0).table.set_index("file").loc["own.json"]
        assert own["same_runs_as"] == own["looks_like"] == ""

    def test_authors_that_look_alike_are_flagged(self, class_folder):
        names = {"a": "Ada <B>", "b": "Ａda  <b>", "c": "a\u200dda<b>", "d": "Bob", "e": "bob "}
        document = json.loads((class_folder / "ada.json").read_text())
        for file, name in names.items():
            (class_folder / f"{file}.json").write_text(json.dumps(document | {"author": name}))
        table = collect_class(class_folder, rerun=0).table.set_index("file")["same_name_as"]
        assert table["ada.json"] == "a.json; b.json; c.json"
        assert table["d.json"] == "e.json"
        assert table["eve.json"] == table["bob.json"] == ""

    @pytest.mark.parametrize(
        "name",
        [
            *(
                "Аda Lovelace",
                "Adа Lоvеlасе",
                "Αda Lονelace",
                "Ada Lovelace\ufe0f",
                "Ada\u034f Lovelace",
                "Ada\u3164Lovelace",
            ),
            *("Ada\u2800Lovelace", "Ada Lovelace.", "Lovelace, Ada", "ADA LOVELACE", "Áda Lovelace", "Ada L0velace"),
            *(
                "Ada Love\u200blace",
                "Ada Lovelace",
                "𝐀da Lovelace",
                "Ada\u115f Lovelace",
                "Ada_Lovelace!",
                "Ada-Lovelace",
            ),
        ],
    )
    def test_look_alikes_of_one_name(self, name):
        """Cyrillic and Greek letters, fillers, points and the order of the words made another author."""
        assert _look(name).replace(" ", "") == _look("Ada Lovelace")

    def test_other_names_are_other_names(self):
        names = [
            "Ada Lovelace",
            "Ida Lovelace",
            "राम",
            "रीमा",
            "王伟",
            "王芳",
            "Нина",
            "Нана",
            "???",
            "!!!",
            "Ian",
            "Jan",
        ]
        assert len({_look(name) for name in names}) == len(names)

    def test_mixed_alphabets_are_noted(self, class_folder):
        document = json.loads((class_folder / "ada.json").read_text())
        for file, name in {"a": "Ꭺda Lovelace", "b": "Мария (Maria)", "c": "東京 たろう", "d": "Ａda ﬁsh"}.items():
            (class_folder / f"{file}.json").write_text(json.dumps(document | {"author": name}))
        notes = collect_class(class_folder, rerun=0).table.set_index("file")["notes"]
        assert notes["a.json"] == "the author's name mixes letters of Cherokee and Latin"
        assert notes["b.json"] == notes["c.json"] == notes["d.json"] == ""

    def test_what_there_was_no_time_for_is_undecided(self, class_folder, tmp_path):
        """It stood in the table as if it had been checked."""
        report = collect_class(class_folder, minutes=1e-9)
        assert list(report.undecided) == ["ada.json", "bob.json", "eve.json"]
        assert report.undecided["ada.json"][0].startswith("there was time to repeat 0 of 20 runs, 0 of the best")
        assert repr(report) == "ClassReport(0 submissions, 2 files with problems, 3 undecided)"
        report.report(tmp_path / "class.html")
        assert "Undecided: neither in order nor wrong" in Page((tmp_path / "class.html").read_text()).text
        report.to_csv(tmp_path / "class.csv")
        assert pd.read_csv(tmp_path / "class.csv")["undecided"].notna().sum() == 3
        full = collect_class(class_folder)
        assert (set(full.table["notes"]), full.undecided) == ({""}, {})

    def test_the_number_of_seeds_can_be_demanded(self, class_folder):
        report = collect_class(class_folder, rerun=0, num_seeds=3)
        assert report.table["file"].tolist() == ["bob.json"]
        assert "but must be 0 to 2" in report.problems["ada.json"][0]

    def test_f19_a_byte_order_mark_is_no_part_of_the_file(self, class_folder):
        """F19: Notepad writes one."""
        path = class_folder / "ada.json"
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
        assert "ada.json" in collect_class(class_folder, rerun=0).comparisons

    @pytest.mark.parametrize(
        "name", ["=1", " =1", "\u00a0=1", "+1", " -1", "@a", "a;=1", "a; =1", "＝1", "x,@SUM(1)", "|-1"]
    )
    def test_f7_no_cell_starts_a_formula(self, name, tmp_path, small, class_folder):
        """F7: however a spreadsheet cuts the line."""
        (class_folder / "eve.json").unlink()
        small.save(class_folder / "eve.json", author=name)
        collect_class(class_folder, rerun=0).to_csv(tmp_path / "class.csv")
        text = (tmp_path / "class.csv").read_text("utf-8-sig")
        assert len(text.splitlines()) == 1 + 5
        for cell in re.split('[,;|\t\n"]+', text):
            assert not cell.lstrip().startswith(tuple("=+-@＝＋－＠")) or re.fullmatch(r"-?[\d.e-]+", cell)

    @pytest.mark.parametrize("name", ["\r=1+1", "a\nb", "a\tb", "\x00", "\u202eabc", "\u2028", "\ufeff=1"])
    def test_f7_control_characters_are_refused_in_authors_and_escaped_in_file_names(self, name, tmp_path, small):
        """F7: an author "\\r=1+1" split the row."""
        with pytest.raises(ValueError, match="without control characters"):
            small.save(tmp_path / "a.json", author=name)
        if "\0" in name:
            return  # no file can have this name
        small.save(tmp_path / f"{name}.json", author="me")
        collect_class(tmp_path, rerun=0).to_csv(tmp_path / "class.csv")
        assert len((tmp_path / "class.csv").read_text("utf-8-sig").splitlines()) == 2

    def test_a_class_of_bad_files(self, tmp_path):
        (tmp_path / "a.json").write_text("?")
        report = collect_class(tmp_path)
        report.report(tmp_path / "class.html")
        report.to_csv(tmp_path / "class.csv")
        assert_self_contained(tmp_path / "class.html", images=0)
        with pytest.raises(ValueError, match="nothing to draw"):
            report.plot_best()

    def test_bad_folders(self, tmp_path):
        with pytest.raises(NotADirectoryError):
            collect_class(tmp_path / "none")
        with pytest.raises(ValueError, match="no .*json file"):
            collect_class(tmp_path)


class TestPlans:
    @pytest.fixture
    def folders(self, tmp_path):
        """One plan was handed in before, one came with the submissions, one never, and two more lie there."""
        for name, rate in {"early": 0.1, "late": 0.2, "never": 0.3, "unkept": 0.4}.items():
            grid = {"lr": [0.01, rate]}
            plan = register(grid, seeds=2, epochs=2)
            plan.save(tmp_path / {"late": "class", "never": "desk"}.get(name, "plans") / f"{name}-plan.json")
            if name != "unkept":
                path = tmp_path / "class" / f"{name}.json"
                compare(grid, seeds=2, epochs=2, progress=False, plan=plan).save(path)
        compare({"lr": [0.1, 0.5]}, seeds=2, epochs=2, progress=False).save(tmp_path / "class" / "without.json")
        return tmp_path / "class", tmp_path / "plans"

    def test_only_those_that_were_handed_in_before_count(self, folders, tmp_path):
        folder, plans = folders
        report = collect_class(folder, plans=plans, rerun=0)
        found = report.table.set_index("file")["plan"].to_dict()
        never = found.pop("never.json")
        assert re.fullmatch("not handed in before \\(digest [0-9a-f]{12}…\\)", never)
        assert found == {
            "early.json": "kept (early-plan.json)",
            "late.json": "not handed in before (late-plan.json lies with the submissions)",
            "without.json": "none",
        }
        assert report.problems == {}
        assert report.unkept_plans == ("unkept-plan.json",)
        report.report(tmp_path / "class.html")
        assert "belong to no submission: unkept-plan.json" in Page((tmp_path / "class.html").read_text()).text

    def test_without_their_folder_none_was_handed_in_before(self, folders):
        folder, _ = folders
        texts = collect_class(folder, rerun=0).table.set_index("file")["plan"]
        assert not texts.str.contains("kept").any()
        assert texts.str.contains("whether it came before the runs is not checked").sum() == 3
        assert "late-plan.json lies with the submissions" in texts["late.json"]

    def test_a_plan_that_several_claim_is_marked(self, folders):
        """Somebody else's digest could be named: a plan holds no author, since classmates may plan the same."""
        folder, plans = folders
        (folder / "thief.json").write_bytes((folder / "early.json").read_bytes())
        texts = collect_class(folder, plans=plans, rerun=0).table.set_index("file")["plan"]
        marked = "kept (early-plan.json); handed in 1 time(s), but claimed by 2 files: early.json; thief.json"
        assert texts["early.json"] == texts["thief.json"] == marked
        (plans / "second.json").write_bytes((plans / "early-plan.json").read_bytes())
        report = collect_class(folder, plans=plans, rerun=0)
        assert report.table.set_index("file")["plan"]["thief.json"] == "kept (early-plan.json; second.json)"
        assert report.unkept_plans == ("unkept-plan.json",)

    def test_damaged_plans_are_named_as_plans(self, folders):
        """They were said to be no file that Comparison.save wrote."""
        for folder in folders:
            path = next(folder.glob("*-plan.json"))
            (folder / "broken.json").write_text(path.read_text().replace("0.01", "0.02"))
        (folders[1] / "text.json").write_text("?")
        problems = collect_class(folders[0], plans=folders[1], rerun=0).problems
        assert list(problems) == ["plans/broken.json", "plans/text.json", "broken.json"]
        for file in ("plans/broken.json", "broken.json"):
            assert "cannot be loaded as a plan: its digest does not fit what it plans" in problems[file][0]
        assert "not JSON" in problems["plans/text.json"][0]

    def test_bad_folders(self, folders):
        folder, plans = folders
        with pytest.raises(ValueError, match="plans must be another folder"):
            collect_class(folder, plans=folder / ".." / "class")
        with pytest.raises(NotADirectoryError):
            collect_class(folder, plans=folder / "none")
        for path in plans.iterdir():
            path.unlink()
        assert collect_class(folder, plans=plans, rerun=0).table["plan"].str.contains("not handed in").sum() == 3
