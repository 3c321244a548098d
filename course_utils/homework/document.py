"""A comparison as one JSON document: written, checked, read back. The document is data; nothing in it is executed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from course_utils.homework.files import to_json
from course_utils.homework.measuring import METRICS
from course_utils.homework.parts import DATA, VALIDATIONS
from course_utils.homework.running import ENGINES, RunRecord, brief, is_number, is_whole, logged_epochs
from course_utils.homework.settings import NAMES, Setting

if TYPE_CHECKING:
    from course_utils.homework.comparison import Comparison

FORMAT = "course_utils.homework comparison 1"
MAX_BYTES = 16 * 2**20  # about 10,000 runs
MAX_AUTHOR = 200
MAX_SETTINGS, MAX_SEEDS = 10_000, 10_000
MAX_PROBLEMS = 20  # of one file; more would bury the first
KEYS = (
    *("format", "author", "data", "data_digest", "metric", "validation", "engine", "sizes"),
    *("settings", "seeds", "runs", "summary", "curves_digest"),
)


def plain_setting(setting: Setting) -> dict[str, Any]:
    """A setting as JSON values."""
    return {name: list(v) if isinstance(v := getattr(setting, name), tuple) else v for name in NAMES}


def to_document(comparison: Comparison, author: str | None) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "author": author,
        "data": comparison.data,
        "data_digest": comparison.data_digest,
        "metric": comparison.metric,
        "validation": comparison.validation,
        "engine": comparison.engine,
        "sizes": list(comparison.sizes),
        "settings": [plain_setting(setting) for setting in comparison.settings],
        "seeds": list(comparison.seeds),
        "runs": [record.to_json() for record in comparison.records],
        "summary": plain_summary(comparison),
        "curves_digest": curves_digest(comparison.records),
    }


def plain_summary(comparison: Comparison) -> list[dict[str, Any]]:
    """The summary's figures as JSON values, NaN as null."""
    names = ["setting", "mean", "std", "n", "diverged", "rank", "tied_with_best"]
    rows = comparison.summary()[names].to_dict("records")
    return [{name: None if value != value else value for name, value in row.items()} for row in rows]


def curves_digest(records: Sequence[RunRecord]) -> str:
    """SHA-256 of all curves, in the order of the records."""
    curves = [[record.setting, record.seed, record.to_json()["losses"]] for record in records]
    return hashlib.sha256(to_json(curves).encode()).hexdigest()


def from_document(document: Any) -> dict[str, Any]:
    """The arguments of the `Comparison` that a document describes.

    Raises:
        BadDocument: what is wrong with it.
    """
    _check_top(document)
    settings, seeds = _read_settings(document["settings"]), _read_seeds(document["seeds"])
    records = _read_runs(document["runs"], settings, seeds, document["metric"])
    return {
        "settings": settings,
        "seeds": seeds,
        "records": records,
        "sizes": tuple(document["sizes"]),
        **{name: document[name] for name in ("data", "data_digest", "metric", "validation", "engine", "author")},
    }


class BadDocument(ValueError):
    """A document that describes no comparison. `problems` says why, one text each."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = list(problems)
        if len(self.problems) > MAX_PROBLEMS:
            more = len(self.problems) - MAX_PROBLEMS
            self.problems = [*self.problems[:MAX_PROBLEMS], f"and {more} more problem(s)"]
        super().__init__("; ".join(self.problems))


def _refuse(problems: Sequence[str]) -> None:
    if problems:
        raise BadDocument(problems)


def _check_top(document: Any) -> None:
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise BadDocument([f"this is not a file that Comparison.save of this version wrote (format {FORMAT!r})"])
    missing, foreign = (sorted(map(str, a)) for a in (set(KEYS) - set(document), set(document) - set(KEYS)))
    _refuse([f"the key {name!r} is missing" for name in missing] + [f"{brief(n)} is a foreign key" for n in foreign])
    author, data, digest, sizes = (document[name] for name in ("author", "data", "data_digest", "sizes"))
    problems = []
    if author is not None and not (isinstance(author, str) and 0 < len(author) <= MAX_AUTHOR):
        problems.append(f"author must be null or a text of at most {MAX_AUTHOR} characters")
    if data is not None and data not in DATA:
        problems.append(f"data must be null or one of {', '.join(DATA)}, but is {brief(data)}")
    if not isinstance(digest, str) or len(digest) != 64:
        problems.append("data_digest must be a SHA-256 digest")
    if not isinstance(sizes, list) or len(sizes) != 3 or not all(is_whole(n) and 0 < n < 2**40 for n in sizes):
        problems.append("sizes must be the numbers of training, validation and test samples")
    for name, options in (("metric", METRICS), ("validation", VALIDATIONS), ("engine", ENGINES)):
        if document[name] not in options:
            problems.append(f"{name} must be one of {', '.join(options)}, but is {brief(document[name])}")
    _refuse(problems)


def _read_settings(plain: Any) -> tuple[Setting, ...]:
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


def _read_seeds(plain: Any) -> tuple[int, ...]:
    if not isinstance(plain, list) or not 0 < len(plain) <= MAX_SEEDS:
        raise BadDocument([f"seeds must be a list of 1 to {MAX_SEEDS} seeds"])
    if not all(is_whole(seed) and 0 <= seed < 2**32 for seed in plain):
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
            record = RunRecord.from_json(values)
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
            problems += [f"{where} {what}" for what in impossible_figures(record, settings[key[0]], metric)]
    _refuse(problems)
    missing = sorted(wanted - set(found))
    _refuse([f"the run of setting {number}, seed {seed} is missing" for number, seed in missing])
    return tuple(found[number, seed] for number in range(len(settings)) for seed in seeds)


def impossible_figures(record: RunRecord, setting: Setting, metric: str) -> list[str]:
    """What no run of this setting can have given."""
    problems = []
    for name in ("train", "validation", "test"):
        value = getattr(record, name)
        if value != value:
            if metric != "loss" or not record.diverged:
                problems.append(f"has no {name}_{metric}, though it did not diverge to no number")
        elif value < 0 or (metric != "loss" and value > 1):
            limits = "0 or more" if metric == "loss" else "from 0 to 1"
            problems.append(f"has a {name}_{metric} of {value:g}, which must be {limits}")
    if len(record.losses) != len(logged_epochs(setting.epochs)):
        problems.append(f"has a curve of {len(record.losses)} points, but {len(logged_epochs(setting.epochs))} belong")
    elif record.losses[-1] != record.losses[-1] and not record.diverged:
        problems.append("has a curve that ends without a number, but is not marked as diverged")
    if any(loss < 0 for loss in record.losses):
        problems.append("has a negative training loss")
    return problems


def summary_differences(document: Mapping[str, Any], comparison: Comparison) -> list[str]:
    """Where the document's summary and digest do not follow from its runs."""
    problems = []
    found, expected = document["summary"], plain_summary(comparison)
    if not isinstance(found, list) or len(found) != len(expected):
        problems.append("the summary does not have one row for each setting")
    elif not all(_same_row(a, b) for a, b in zip(found, expected, strict=True)):
        problems.append("the summary does not follow from the runs")
    if document["curves_digest"] != curves_digest(comparison.records):
        problems.append("the curves do not have the digest that the file states: they were changed")
    return problems


def _same_row(found: Any, expected: Mapping[str, Any]) -> bool:
    if not isinstance(found, dict) or set(found) != set(expected):
        return False
    for name, value in expected.items():
        if isinstance(value, float) and is_number(found[name]):
            if abs(found[name] - value) > 1e-9 * max(1.0, abs(value)):
                return False
        elif type(found[name]) is not type(value) or found[name] != value:
            return False
    return True
