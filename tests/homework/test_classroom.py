"""A class: good files in a table, bad ones with their problems."""

import json

import pandas as pd
import pytest

from course_utils.homework import collect_class
from tests.support.homework import resigned
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

    def test_runs_are_repeated_on_request(self, class_folder):
        document = json.loads((class_folder / "ada.json").read_text())
        for run in document["runs"]:
            run["validation"] = 1.0
        (class_folder / "ada.json").write_text(json.dumps(resigned(document)))
        assert "ada.json" in collect_class(class_folder).comparisons
        assert "not reproduced" in collect_class(class_folder, rerun=8, seed=1).problems["ada.json"][0]

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
