"""Files of a comparison: written whole or not at all, read without trusting them. Nothing in them is executed.

A file that `Comparison.save` writes is one JSON document; a log is JSON lines, one for each finished run.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from course_utils.foundation.arguments import describe_value
from course_utils.foundation.files import write_atomically
from course_utils.homework.data import DATA, PARTS, VALIDATIONS
from course_utils.homework.metrics import METRICS, bounds, is_share
from course_utils.homework.results import ComparedRuns
from course_utils.homework.runs import ENGINES, RunRecord, logged_epochs
from course_utils.homework.settings import NAMES, Setting

FORMAT = "course_utils.homework comparison 2"
LOG_FORMAT = "course_utils.homework log 1"
MAX_BYTES = 16 * 2**20  # about 10,000 runs
MAX_AUTHOR = 200  # characters, as the next one
MAX_VERSIONS = 300
MAX_SETTINGS, MAX_SEEDS = 10_000, 10_000
MAX_DIGITS = 1_000  # of a whole number; Python refuses those of more than 4,300 in words of its own
MAX_PROBLEMS = 20  # of one file; more would bury the first
FIELDS = ("data", "data_digest", "metric", "validation", "engine")  # of a comparison, in JSON as they are
KEYS = ("format", "author", "plan", *FIELDS, "sizes", "settings", "seeds", "runs", "summary", "curves_digest")


# Bytes and JSON


def write_new(path: str | os.PathLike, content: bytes) -> Path:
    """Write a file in one step: whatever stops the program, `path` holds all of it or what it held before.

    Raises:
        FileExistsError: `path` holds something else.
    """
    path = Path(path)
    if path.exists() and path.read_bytes() != content:
        raise FileExistsError(f"{path} exists and holds something else; name another file, or delete that one")
    return write_atomically(path, lambda file: file.write(content))


def read_limited(path: str | os.PathLike) -> bytes:
    """The contents of an ordinary file.

    Raises:
        ValueError: no ordinary file, or one of more than 16 MiB.
    """
    path = Path(path)
    if not path.is_file():  # a pipe or a device would block or never end
        raise ValueError("there is no such file" if not path.exists() else "this is not an ordinary file")
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ValueError(f"the file is too large: more than {MAX_BYTES / 2**20:g} MiB")
    return content


def to_json(value: Any) -> str:
    """One line of strict JSON; the same value gives the same text."""
    return json.dumps(value, allow_nan=False, separators=(",", ":"))


def parse_json(content: bytes) -> Any:
    """Strict JSON: no NaN or Infinity, no number beyond float64, no name given twice in an object.

    A byte order mark in front, as some editors write it, is no part of the text.

    Raises:
        ValueError: what is wrong, in words.
    """
    try:
        return json.loads(
            content.decode("utf-8-sig"),
            parse_constant=_refuse_constant,
            parse_float=_finite_float,
            parse_int=_whole_number,
            object_pairs_hook=_without_duplicates,
        )
    except UnicodeDecodeError:
        raise ValueError("the file is not text in UTF-8") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"the file is not JSON, or it is cut off: {error}") from None
    except RecursionError:
        raise ValueError("the file is nested too deeply") from None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"the file holds {name}, which is not JSON; what is not a number is written as null")


def _finite_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:20]} is too large")
    return value


def _whole_number(text: str) -> int:
    if (num_digits := len(text.removeprefix("-"))) > MAX_DIGITS:
        raise ValueError(f"the number {text[:20]}… has {num_digits:,} digits; at most {MAX_DIGITS:,} are allowed")
    return int(text)


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("an object of the file gives a name twice")
    return found


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    # The limit refuses infinities, and whole numbers that no float64 can hold.
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300


def _brief(value: Any) -> str:
    """A foreign value in a message, cut to a sensible length."""
    is_plain = isinstance(value, (str, float, bool, type(None))) or _is_number(value)
    text = repr(value) if is_plain else type(value).__name__
    return text if len(text) <= 40 else f"{text[:40]}…"


# Zero-width joiners: some languages and emoji need them, and they move nothing else.
_HARMLESS_FORMATS = "\u200c\u200d"


def _is_plain(character: str) -> bool:
    """Does it stand for itself, and move or end nothing around it? (Surrogates cannot even be written to a file.)"""
    kind = unicodedata.category(character)
    return kind not in ("Cc", "Cf", "Cs", "Zl", "Zp") or character in _HARMLESS_FORMATS


def plain(text: str) -> str:
    """Text from outside, in a form that can be shown and written everywhere: what is not plain is escaped.

    >>> plain("a\\ud800\\rb")
    'a\\\\ud800\\\\rb'
    """
    return "".join(c if _is_plain(c) else c.encode("unicode_escape").decode() for c in text)


Check = tuple[Callable[[Any], bool], str]  # what a value must pass, and that in words


def wrong_values(plain: Mapping[str, Any], checks: Mapping[str, Check]) -> list[str]:
    """What is wrong with the values of a JSON object, in words."""
    return [
        f"{name} must be {wanted}, but is {_brief(plain[name])}"
        for name, (is_right, wanted) in checks.items()
        if not is_right(plain[name])
    ]


def _is_text(value: Any, max_length: int) -> bool:
    return isinstance(value, str) and 0 < len(value) <= max_length and all(map(_is_plain, value))


# Runs and settings as JSON values; NaN becomes null

_COUNT: Check = (lambda v: _is_whole(v) and v >= 0), "a whole number ≥ 0"
_FIGURE: Check = (lambda v: v is None or _is_number(v)), "a number or null"
RUN_CHECKS: dict[str, Check] = {
    "setting": _COUNT,
    "seed": _COUNT,
    **dict.fromkeys(PARTS, _FIGURE),
    "diverged": (lambda v: isinstance(v, bool), "true or false"),
    "seconds": (lambda v: _is_number(v) and v > 0, "a number > 0"),
    "versions": (
        lambda v: _is_text(v, MAX_VERSIONS),
        f"a text of 1 to {MAX_VERSIONS} characters without control characters",
    ),
    "losses": (lambda v: isinstance(v, list) and all(map(_FIGURE[0], v)), "a list of numbers or nulls"),
}


def record_to_json(record: RunRecord) -> dict[str, Any]:
    plain = {field.name: _null_for_nan(getattr(record, field.name)) for field in fields(RunRecord)}
    return plain | {"losses": [_null_for_nan(loss) for loss in record.losses]}


def record_from_json(plain: Any) -> RunRecord:
    """The reverse of `record_to_json`.

    Raises:
        ValueError: what is wrong with `plain`, which may come from anywhere.
    """
    names = [field.name for field in fields(RunRecord)]
    if not isinstance(plain, dict) or set(plain) != set(names):
        raise ValueError(f"a run must have exactly the keys {', '.join(names)}")
    if problems := wrong_values(plain, RUN_CHECKS):
        raise ValueError(f"a run's {problems[0]}")
    figures = {name: _nan_for_null(plain[name]) for name in (*PARTS, "seconds")}
    return RunRecord(**(plain | figures | {"losses": tuple(map(_nan_for_null, plain["losses"]))}))


def _null_for_nan(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value


def _nan_for_null(value: float | None) -> float:
    return math.nan if value is None else float(value)


def setting_to_json(setting: Setting) -> dict[str, Any]:
    return {name: list(v) if isinstance(v := getattr(setting, name), tuple) else v for name in NAMES}


# The document


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


DOCUMENT_CHECKS: dict[str, Check] = {
    "author": (
        lambda v: v is None or _is_text(v, MAX_AUTHOR),
        f"null or a text of 1 to {MAX_AUTHOR} characters without control characters",
    ),
    "plan": (lambda v: v is None or _is_digest(v), "null or the SHA-256 digest of a plan"),
    "data": (lambda v: v is None or v in DATA, f"null or one of {', '.join(DATA)}"),
    "data_digest": (lambda v: _is_digest(v), "a SHA-256 digest"),
    "metric": (lambda v: v in tuple(METRICS), f"one of {', '.join(METRICS)}"),
    "validation": (lambda v: v in VALIDATIONS, f"one of {', '.join(VALIDATIONS)}"),
    "engine": (lambda v: v in ENGINES, f"one of {', '.join(ENGINES)}"),
    "sizes": (
        lambda v: isinstance(v, list) and len(v) == 3 and all(_is_whole(n) and 0 < n < 2**40 for n in v),
        "the numbers of training, validation and test samples",
    ),
}


def to_bytes(comparison: ComparedRuns, author: str | None) -> bytes:
    """The contents of a file.

    Raises:
        ValueError: an author that is too long or no text, or so many runs that `read_limited` would refuse the file.
    """
    if author is not None and not _is_text(author, MAX_AUTHOR):
        raise ValueError(
            f"author must be a text of 1 to {MAX_AUTHOR} characters without control characters, but is "
            f"{describe_value(author)}"
        )
    content = (to_json(_to_document(comparison, author)) + "\n").encode()
    if len(content) > MAX_BYTES:
        raise ValueError(f"the file would have more than {MAX_BYTES / 2**20:g} MiB; compare fewer runs at a time")
    return content


def from_bytes(content: bytes) -> dict[str, Any]:
    """The fields of the `ComparedRuns` in a file whose form and summary are in order.

    Raises:
        ValueError: what is wrong, in words; BadDocument with a list of problems where the file is whole.
    """
    document = parse_json(content)
    compared = from_document(document)
    _check_summary(document, ComparedRuns(**compared))
    return compared


def _to_document(comparison: ComparedRuns, author: str | None) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "author": author,
        "plan": comparison.plan,
        **{name: getattr(comparison, name) for name in FIELDS},
        "sizes": list(comparison.sizes),
        "settings": [setting_to_json(setting) for setting in comparison.settings],
        "seeds": list(comparison.seeds),
        "runs": [record_to_json(record) for record in comparison.records],
        "summary": summary_to_json(comparison),
        "curves_digest": curves_digest(comparison.records),
    }


def summary_to_json(comparison: ComparedRuns) -> list[dict[str, Any]]:
    """The summary's figures."""
    names = ["setting", "mean", "std", "n", "diverged", "rank"]
    rows = comparison.summary()[names].to_dict("records")
    return [{name: _null_for_nan(value) for name, value in row.items()} for row in rows]


def curves_digest(records: Sequence[RunRecord]) -> str:
    """SHA-256 of all curves, in the order of the records."""
    curves = [[record.setting, record.seed, record_to_json(record)["losses"]] for record in records]
    return hashlib.sha256(to_json(curves).encode()).hexdigest()


class BadDocument(ValueError):
    """A document that describes no comparison. `problems` says why, one text each."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = list(problems)
        if len(self.problems) > MAX_PROBLEMS:
            more = len(self.problems) - MAX_PROBLEMS
            self.problems = [*self.problems[:MAX_PROBLEMS], f"and {more} more problem(s)"]
        super().__init__("; ".join(self.problems))


def from_document(document: Any) -> dict[str, Any]:
    """The fields of the `ComparedRuns` that a document describes. Its summary is not looked at.

    Raises:
        BadDocument: what is wrong with it.
    """
    _check_top(document)
    settings, seeds = read_settings(document["settings"]), read_seeds(document["seeds"])
    records = _read_runs(document["runs"], settings, seeds, document["metric"])
    return {
        "settings": settings,
        "seeds": seeds,
        "records": records,
        "sizes": tuple(document["sizes"]),
        **{name: document[name] for name in (*FIELDS, "author", "plan")},
    }


def _refuse(problems: Sequence[str]) -> None:
    if problems:
        raise BadDocument(problems)


def _check_top(document: Any) -> None:
    found = document.get("format") if isinstance(document, dict) else None
    if found != FORMAT:
        named = f"its format is {_brief(found)}" if found else "it names no format"
        raise BadDocument([f"this is not a file that Comparison.save of this version wrote: {named}, not {FORMAT!r}"])
    missing, foreign = (sorted(map(str, a)) for a in (set(KEYS) - set(document), set(document) - set(KEYS)))
    _refuse([f"the key {name!r} is missing" for name in missing] + [f"{_brief(n)} is a foreign key" for n in foreign])
    _refuse(wrong_values(document, DOCUMENT_CHECKS))


def read_settings(plain: Any) -> tuple[Setting, ...]:
    """The settings that a list of JSON objects describes.

    Raises:
        BadDocument: what is wrong with it; so does `read_seeds`.
    """
    if not isinstance(plain, list) or not 0 < len(plain) <= MAX_SETTINGS:
        raise BadDocument([f"settings must be a list of 1 to {MAX_SETTINGS} settings"])
    settings, problems = [], []
    for number, values in enumerate(plain):
        if not isinstance(values, dict) or set(values) != set(NAMES):
            problems.append(f"setting {number} must have exactly the keys {', '.join(NAMES)}")
            continue
        try:
            setting = Setting(**values)
        except (ValueError, OverflowError) as error:
            problems.append(f"setting {number}: {str(error)[:200]}")
            continue
        if max(setting.epochs, *setting.hidden_features, setting.batch_size or 1) >= 2**40:
            problems.append(f"setting {number} has an absurdly large number")
        settings.append(setting)
    if len(set(settings)) < len(settings):
        problems.append("a setting is listed twice")
    _refuse(problems)
    return tuple(settings)


def read_seeds(plain: Any) -> tuple[int, ...]:
    """Different whole numbers that a run can have as its seed."""
    if not isinstance(plain, list) or not 0 < len(plain) <= MAX_SEEDS:
        raise BadDocument([f"seeds must be a list of 1 to {MAX_SEEDS} seeds"])
    if not all(_is_whole(seed) and 0 <= seed < 2**32 for seed in plain):
        raise BadDocument(["every seed must be a whole number from 0 to 2**32 − 1"])
    if len(set(plain)) < len(plain):
        raise BadDocument(["a seed is listed twice"])
    return tuple(plain)


def _read_runs(plain: Any, settings: Sequence[Setting], seeds: Sequence[int], metric: str) -> tuple[RunRecord, ...]:
    """The runs, setting by setting and in each seed by seed."""
    if not isinstance(plain, list):
        raise BadDocument(["runs must be a list"])
    found: dict[tuple[int, int], RunRecord] = {}
    problems = []
    wanted = {(number, seed) for number in range(len(settings)) for seed in seeds}
    for place, values in enumerate(plain):
        try:
            record = record_from_json(values)
        except ValueError as error:
            problems.append(f"run {place}: {error}")
            continue
        key = record.setting, record.seed
        where = f"the run of setting {key[0]}, seed {key[1]}"
        if key not in wanted:
            problems.append(f"{where} belongs to no listed setting and seed")
        elif key in found:
            problems.append(f"{where} is there twice")
        else:
            found[key] = record
            problems += [f"{where} {what}" for what in _impossible_figures(record, settings[key[0]], metric)]
    _refuse(problems)
    missing = sorted(wanted - set(found))
    _refuse([f"the run of setting {number}, seed {seed} is missing" for number, seed in missing])
    return tuple(found[number, seed] for number in range(len(settings)) for seed in seeds)


def _impossible_figures(record: RunRecord, setting: Setting, metric: str) -> list[str]:
    """What no run of this setting can have given."""
    problems, (low, high) = [], bounds(metric)
    for name in PARTS:
        value = getattr(record, name)
        if math.isnan(value):
            if is_share(metric) or not record.diverged:
                problems.append(f"has no {name}_{metric}, though it did not diverge to no number")
        elif not low <= value <= high:
            limits = f"from {low:g} to {high:g}" if is_share(metric) else f"{low:g} or more"
            problems.append(f"has a {name}_{metric} of {value:g}, which must be {limits}")
    if len(record.losses) != len(logged_epochs(setting.epochs)):
        problems.append(f"has a curve of {len(record.losses)} points, but {len(logged_epochs(setting.epochs))} belong")
    elif math.isnan(record.losses[-1]) and not record.diverged:
        problems.append("has a curve that ends without a number, but is not marked as diverged")
    if any(loss < 0 for loss in record.losses):
        problems.append("has a negative training loss")
    return problems


def _check_summary(document: Mapping[str, Any], comparison: ComparedRuns) -> None:
    """Raise BadDocument where the document's summary and digest do not follow from its runs."""
    problems = []
    found, expected = document["summary"], summary_to_json(comparison)
    if not isinstance(found, list) or len(found) != len(expected):
        problems.append("the summary does not have one row for each setting")
    elif not all(_is_same_row(a, b) for a, b in zip(found, expected, strict=True)):
        problems.append("the summary does not follow from the runs")
    if document["curves_digest"] != curves_digest(comparison.records):
        problems.append("the curves do not have the digest that the file states: they were changed")
    _refuse(problems)


def _is_same_row(found: Any, expected: Mapping[str, Any]) -> bool:
    if not isinstance(found, dict) or set(found) != set(expected):
        return False
    for name, value in expected.items():
        if isinstance(value, float) and _is_number(found[name]):
            if abs(found[name] - value) > 1e-9 * max(1.0, abs(value)):
                return False
        elif type(found[name]) is not type(value) or found[name] != value:
            return False
    return True


# The log


class Journal:
    """A log of finished runs on the disk, from which an interrupted comparison goes on.

    The first line says what is compared; then comes one for each finished run. A line counts once its newline is on the
    disk. What a killed program left of a line behind the last newline is cut.

    Args:
        path: of the log; made if it is not there.
        compared: what is compared, as JSON values.

    Attributes:
        records: the runs that the log held when it was opened, by (setting, seed).

    Raises:
        ValueError: the file is no log, is damaged, or belongs to another comparison.
    """

    def __init__(self, path: str | os.PathLike, compared: dict[str, Any]) -> None:
        self.path = Path(path)
        self.records: dict[tuple[int, int], RunRecord] = {}
        self._header = {"format": LOG_FORMAT, **compared}
        whole = self._read(self.path.read_bytes() if self.path.exists() else b"")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("r+b" if self.path.exists() else "w+b")
        self._file.truncate(whole)
        self._file.seek(whole)
        if not whole:
            self._write(self._header)

    def _read(self, content: bytes) -> int:
        """Take in the finished lines. Returns their length in bytes."""
        whole = content.rfind(b"\n") + 1
        if not whole:  # nothing yet, or a header that was cut off
            if not (to_json(self._header) + "\n").encode().startswith(content):
                raise ValueError(f"{self.path} is not the log of a comparison; name another file")
            return 0
        header, *lines = content[:whole].split(b"\n")[:-1]
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
        if not isinstance(found, dict) or found.get("format") != LOG_FORMAT:
            raise ValueError(f"{self.path} is not the log of a comparison; name another file")
        different = [name for name in self._header if found.get(name) != self._header[name]]
        if different:
            raise ValueError(
                f"{self.path} is the log of another comparison: it differs in {', '.join(different)}. "
                "Name another log, or repeat the call that began this one"
            )

    def _record(self, line: bytes, number: int) -> RunRecord:
        try:
            record = record_from_json(parse_json(line))
            self._header["settings"][record.setting]  # an IndexError if there is no such setting
        except (ValueError, IndexError):
            raise ValueError(
                f"line {number} of {self.path} is damaged; delete this line to repeat its run, or name another log"
            ) from None
        return record

    def append(self, records: Sequence[RunRecord]) -> None:
        """Add finished runs. When this returns they are on the disk."""
        self._write(*map(record_to_json, records))

    def _write(self, *values: dict[str, Any]) -> None:
        self._file.write("".join(to_json(value) + "\n" for value in values).encode())
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()
