"""Progress bars."""

import pytest

from course_utils.foundation.progress import progress_bar


class TestProgress:
    def test_walks_through_and_counts_units(self, monkeypatch, capsys):
        monkeypatch.setenv("COURSE_QUIET", "0")
        assert list(progress_bar(range(3), description="walking", unit="step")) == [0, 1, 2]
        shown = capsys.readouterr().err
        assert "walking" in shown
        assert "step/s" in shown

    @pytest.mark.parametrize(("quiet", "enabled"), [("1", True), ("0", False)])
    def test_can_be_silenced(self, monkeypatch, capsys, quiet, enabled):
        monkeypatch.setenv("COURSE_QUIET", quiet)
        assert list(progress_bar(range(3), enabled=enabled)) == [0, 1, 2]
        assert capsys.readouterr() == ("", "")
