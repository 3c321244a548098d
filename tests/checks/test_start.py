"""Copies of the exercises that are never overwritten, and a self-check in words."""

from pathlib import Path

import pytest

from course_utils.checks import self_check, start_exercises
from course_utils.checks import start as start_module

REPOSITORY = Path(__file__).parents[2]


class TestStartExercises:
    def test_copies_everything_and_never_overwrites(self, tmp_path, capsys):
        work = tmp_path / "my_work"
        copies = start_exercises(folder=work)
        assert {path.relative_to(work) for path in copies} == {
            path.relative_to(REPOSITORY / "exercises") for path in REPOSITORY.glob("exercises/*/*.ipynb")
        }
        mine = copies[0]
        mine.write_text("my work", encoding="utf-8")
        copies[1].unlink()
        assert start_exercises(folder=work) == [copies[1]]
        assert mine.read_text(encoding="utf-8") == "my work"
        assert f"1 exercise notebook(s) copied to my_work/, {len(copies) - 1} of yours kept" in capsys.readouterr().out

    def test_one_chapter(self, tmp_path):
        (copy,) = start_exercises("07_iris_mlp", folder=tmp_path)
        assert copy.parent.name == "07_iris_mlp"

    def test_bad_input(self, tmp_path, monkeypatch):
        with pytest.raises(ValueError, match="'01_basics', '02_interpretation'"):
            start_exercises("08", folder=tmp_path)
        monkeypatch.setattr(start_module, "REPOSITORY", tmp_path)
        with pytest.raises(FileNotFoundError, match="clone"):
            start_exercises(folder=tmp_path)


def test_self_check_says_in_words_what_works(capsys, monkeypatch):
    self_check()
    out = capsys.readouterr().out
    for words in ("Python 3.", "torch ", "Device: cpu", "120 + 30 iris flowers", "Font for Chinese", "Free disk space"):
        assert words in out
    assert "Everything that the lessons need is here." in out
    monkeypatch.setattr(start_module, "PACKAGES", ("torch", "no-such-package"))
    self_check()
    assert "PROBLEM: missing no-such-package" in capsys.readouterr().out
