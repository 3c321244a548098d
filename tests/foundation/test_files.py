"""Files that are written whole or not at all."""

import os

import pytest

from course_utils.foundation.files import write_atomically


class TestWriteAtomically:
    @pytest.mark.parametrize("fails", ["write", "fsync", "replace"])
    def test_a_failing_write_leaves_the_old_file(self, fails, tmp_path, monkeypatch):
        def full(*_):
            raise OSError("no space left on device")

        path = tmp_path / "file"
        write_atomically(path, lambda file: file.write(b"old"))
        if fails != "write":
            monkeypatch.setattr(os, fails, full)

        def write(file):
            file.write(b"new, but only a p")
            if fails == "write":
                full()

        with pytest.raises(OSError, match="no space"):
            write_atomically(path, write)
        assert path.read_bytes() == b"old"
        assert os.listdir(tmp_path) == ["file"]

    def test_others_may_read_what_the_umask_allows(self, tmp_path):
        before = os.umask(0o027)
        try:
            path = write_atomically(tmp_path / "file", lambda file: file.write(b"x"))
            assert os.umask(0o027) == 0o027
        finally:
            os.umask(before)
        assert path.stat().st_mode & 0o777 == 0o640
