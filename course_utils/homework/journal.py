"""A log of finished runs on the disk, from which an interrupted comparison goes on."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from course_utils.homework.files import parse_json, to_json
from course_utils.homework.running import RunRecord

FORMAT = "course_utils.homework log 1"


class Journal:
    """JSON lines: what is compared, then one line for each finished run.

    A line counts once its newline is on the disk. What a killed program left of a line behind the last newline is cut.

    Args:
        path: of the log; made if it is not there.
        fingerprint: what is compared, as JSON values.

    Attributes:
        records: the runs that the log held when it was opened, by (setting, seed).

    Raises:
        ValueError: the file is no log, is damaged, or belongs to another comparison.
    """

    def __init__(self, path: str | os.PathLike, fingerprint: dict[str, Any]) -> None:
        self.path = Path(path)
        self.records: dict[tuple[int, int], RunRecord] = {}
        self._header = {"format": FORMAT, **fingerprint}
        content = self.path.read_bytes() if self.path.exists() else b""
        whole = self._read(content)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("r+b" if self.path.exists() else "w+b")
        self._file.truncate(whole)
        self._file.seek(whole)
        if not whole:
            self._write(self._header)

    def _read(self, content: bytes) -> int:
        """Take in the finished lines. Returns their length in bytes."""
        whole = content.rfind(b"\n") + 1
        header, *lines = content[:whole].split(b"\n")[:-1] or [b""]
        if not whole:  # nothing yet, or a header that was cut off
            if not (to_json(self._header) + "\n").encode().startswith(content):
                raise ValueError(f"{self.path} is not the log of a comparison; name another file")
            return 0
        self._check_header(header)
        for number, line in enumerate(lines, start=2):
            record = self._record(line, number)
            self.records.setdefault((record.setting, record.seed), record)
        return whole

    def _check_header(self, line: bytes) -> None:
        try:
            found = parse_json(line)
        except ValueError:
            found = None
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            raise ValueError(f"{self.path} is not the log of a comparison; name another file")
        different = [name for name in self._header if found.get(name) != self._header[name]]
        if different:
            raise ValueError(
                f"{self.path} is the log of another comparison: it differs in {', '.join(different)}. "
                "Name another log, or repeat the call that began this one"
            )

    def _record(self, line: bytes, number: int) -> RunRecord:
        try:
            record = RunRecord.from_json(parse_json(line))
            self._header["settings"][record.setting]
        except (ValueError, IndexError):
            raise ValueError(
                f"line {number} of {self.path} is damaged; delete this line to repeat its run, or name another log"
            ) from None
        return record

    def append(self, records: Sequence[RunRecord]) -> None:
        """Add finished runs. When this returns they are on the disk."""
        self._write(*(record.to_json() for record in records))

    def _write(self, *values: dict[str, Any]) -> None:
        self._file.write("".join(to_json(value) + "\n" for value in values).encode())
        self._file.flush()
        os.fsync(self._file.fileno())

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
