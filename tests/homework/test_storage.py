"""Files and logs: whole or not there, after kill -9 too; foreign and damaged ones are refused."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from course_utils.homework import compare, runs
from course_utils.homework.storage import write_new
from tests.support.homework import GRID, OPTIONS, assert_same, own_data

KILLED = """
import sys, time
from course_utils.homework import compare, runs

train = runs.train_sequentially
runs.train_sequentially = lambda *run: (time.sleep(0.1), train(*run))[1]  # there shall be time to kill it
compare({"lr": [0.01, 0.3], "hidden_features": [3, 8]}, seeds=5, epochs=40, progress=False, engine="loop",
        log=sys.argv[1])
"""


class TestLog:
    @pytest.mark.slow
    def test_after_kill_9_the_same_call_goes_on_and_repeats_nothing(self, tmp_path, monkeypatch):
        log = tmp_path / "runs.jsonl"
        process = subprocess.Popen([sys.executable, "-c", KILLED, log])
        while not log.exists() or log.read_bytes().count(b"\n") < 4:
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        finished = log.read_bytes().count(b"\n") - 1
        assert 3 <= finished < 20
        trained = []
        train = runs.train_sequentially
        monkeypatch.setattr(runs, "train_sequentially", lambda *a: trained.append(a) or train(*a))
        options = OPTIONS | {"engine": "loop"}
        resumed = compare(GRID, **options, log=log)
        assert len(trained) == 20 - finished
        assert log.read_bytes().count(b"\n") == 21
        assert_same(resumed, compare(GRID, **options))
        assert_same(compare(GRID, **options, log=log), resumed)
        assert len(trained) == 40 - finished  # the last call trained nothing

    @pytest.mark.parametrize("cut", [1, 40, 5000])
    def test_a_torn_line_is_cut(self, tmp_path, cut):
        log = tmp_path / "runs.jsonl"
        whole = compare(GRID, **OPTIONS, log=log)
        content = log.read_bytes()
        log.write_bytes(content[:-cut])
        resumed = compare(GRID, **OPTIONS, log=log)
        assert_same(resumed, whole, atol=1e-5)
        lines = log.read_bytes().splitlines()
        assert len(lines) == 21
        assert all(json.loads(line) for line in lines)

    def test_a_torn_header_and_an_empty_file_begin_anew(self, tmp_path, small):
        log = tmp_path / "runs.jsonl"
        compare(GRID, **OPTIONS, log=log)
        header = log.read_bytes().partition(b"\n")[0]
        for content in (b"", header[:30], header):
            log.write_bytes(content)
            assert_same(compare(GRID, **OPTIONS, log=log), small)

    @pytest.mark.parametrize(
        ("changes", "name"),
        [
            ({"grid": GRID | {"dropout": 0.1}}, "settings"),
            ({"epochs": 41}, "settings"),
            ({"seeds": 6}, "seeds"),
            ({"data": "digits"}, "data, data_digest"),
            ({"metric": "loss"}, "metric"),
            ({"validation": "repeated_kfold"}, "validation"),
            ({"engine": "loop"}, "engine"),
        ],
    )
    def test_the_log_of_another_call_is_refused_and_kept(self, tmp_path, changes, name):
        log = tmp_path / "runs.jsonl"
        compare(GRID, **OPTIONS, log=log)
        before = log.read_bytes()
        with pytest.raises(ValueError, match=f"another comparison: it differs in {name}"):
            compare(**({"grid": GRID, "log": log} | OPTIONS | changes))
        assert log.read_bytes() == before

    @pytest.mark.parametrize("content", [b"notes of mine", b"notes\nof mine\n", b'{"a": 1}\n', b"[1]\n"])
    def test_a_foreign_file_is_refused_and_kept(self, tmp_path, content):
        log = tmp_path / "notes.txt"
        log.write_bytes(content)
        with pytest.raises(ValueError, match="not the log of a comparison"):
            compare(GRID, **OPTIONS, log=log)
        assert log.read_bytes() == content

    def test_a_damaged_line_is_named(self, tmp_path):
        log = tmp_path / "runs.jsonl"
        compare(GRID, **OPTIONS, log=log)
        lines = log.read_bytes().splitlines(keepends=True)
        for bad in (b"\0\0\0\n", b"{}\n", lines[2].replace(b'"setting":', b'"setting":9')):
            log.write_bytes(b"".join([*lines[:2], bad, *lines[3:]]))
            with pytest.raises(ValueError, match="line 3 of .* is damaged"):
                compare(GRID, **OPTIONS, log=log)

    def test_own_data_are_recognised_by_their_values(self, tmp_path):
        x, y = own_data()
        log = tmp_path / "runs.jsonl"
        compare({"lr": [0.1]}, data=(x, y), seeds=1, epochs=1, progress=False, log=log)
        with pytest.raises(ValueError, match="data_digest"):
            compare({"lr": [0.1]}, data=(x + 1, y), seeds=1, epochs=1, progress=False, log=log)


class TestWriting:
    def test_a_failed_write_leaves_what_was_there(self, tmp_path, monkeypatch):
        (tmp_path / "old.json").write_bytes(b"old")

        def full_disk(descriptor):
            raise OSError("no space left")

        monkeypatch.setattr(os, "fsync", full_disk)
        for name in ("old.json", "new.json"):
            with pytest.raises(OSError, match="no space"):
                write_new(tmp_path / name, b"old")
        assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("old.json", b"old")]

    def test_other_contents_are_kept(self, tmp_path):
        write_new(tmp_path / "sub" / "a.json", b"old")
        write_new(tmp_path / "sub" / "a.json", b"old")
        with pytest.raises(FileExistsError, match="name another file, or delete that one"):
            write_new(tmp_path / "sub" / "a.json", b"new")
        assert (tmp_path / "sub" / "a.json").read_bytes() == b"old"
