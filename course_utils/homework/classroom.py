"""A class's submissions in one table."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from course_utils.foundation.html import render
from course_utils.foundation.plotting import PALETTE, course_style, figure_png, finish, new_figure
from course_utils.homework.comparison import Comparison
from course_utils.homework.metrics import METRICS
from course_utils.homework.plans import Plan, calls_itself_a_plan
from course_utils.homework.repetition import CheckOptions
from course_utils.homework.results import requirements
from course_utils.homework.runs import RunRecord
from course_utils.homework.statistics import t_interval
from course_utils.homework.storage import plain, write_new
from course_utils.homework.submission import check_submission

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = (
    *("file", "name", "data", "metric", "settings", "seeds", "best_setting", "validation", "test", "optimism"),
    *("effect", "tied_with_best", "seed_range", "plan", "same_runs_as", "looks_like", "same_name_as", "notes"),
    "unmet_requirements",
)
MAX_FILES = 2_000
COPIED_SHARE = 0.2  # of the runs of the smaller file, from which on two files are shown as copies
ALIKE_SHARE = 0.5  # of the runs that two files have in common, from which on their times are shown to be alike
ALIKE_TIMES = 4  # so many different times in one proportion are no accident; those of jobs scatter by some per cent


@dataclass(frozen=True, eq=False, repr=False)
class ClassReport:
    """What a class handed in.

    Attributes:
        table: one row a submission that is in order: file, name (of the author, if given), data, metric, settings and
            seeds (their numbers), best_setting, its validation and test figures and optimism, effect (best minus worst
            setting on validation, without those that diverge), tied_with_best (how many others cannot be told apart
            from the best), seed_range (the first and the last), plan (whether one was kept, and whether it was handed
            in before), same_runs_as (other files with a fifth of its runs or more, the measured seconds included, so
            copies), looks_like (other files whose seconds differ by one factor, or by next to nothing: perhaps copies
            with other seconds, and no proof), same_name_as (other files whose author's name is or looks the same),
            notes (of the verdict, and on names that mix alphabets), unmet_requirements.
        problems: file → what is wrong with it.
        undecided: file → why it is neither in order nor wrong, as `Verdict` explains it; most often more minutes help.
        comparisons: file → its comparison, for the files of the table.
        unkept_plans: the plans that were handed in before and belong to no file of the table. Who hands in many can
            choose among them afterwards.

    Names of files are shown with what cannot be written everywhere escaped, such as control characters.
    """

    table: pd.DataFrame
    problems: Mapping[str, tuple[str, ...]]
    comparisons: Mapping[str, Comparison]
    unkept_plans: tuple[str, ...] = ()
    undecided: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.table)

    def __repr__(self) -> str:
        undecided = f", {len(self.undecided)} undecided" if self.undecided else ""
        return f"ClassReport({len(self.table)} submissions, {len(self.problems)} files with problems{undecided})"

    def _repr_html_(self) -> str:
        return render("homework/templates/preview.html", text=repr(self), table=self.table, limit=50)

    def plot_best(self) -> Figure:
        """Everybody's best setting: its mean on validation (circle) and on test (diamond), one panel a kind of task."""
        return _plot_class(self, _draw_best, "Everybody's best setting", "")

    def plot_effects(self) -> Figure:
        """How much the settings matter: everybody's best minus worst setting by seed, with corrected 95 % intervals."""
        return _plot_class(self, _draw_effect, "Best minus worst setting, validation", "difference of ")

    def plot_seeds(self) -> Figure:
        """How much the seeds matter: every run of everybody's best setting, on validation."""
        return _plot_class(self, _draw_seeds, "Runs of the best setting, validation", "")

    def report(self, path: str | os.PathLike) -> None:
        """Write one HTML page that needs no other file.

        Raises:
            FileExistsError: `path` holds something else.
        """
        figures = [{"png": figure_png(figure), "note": note} for figure, note in self._figures()]
        page = render("homework/templates/class.html", title="The class", report=self, figures=figures)
        write_new(path, page.encode())

    def _figures(self) -> list[tuple[Figure, str]]:
        """The page's figures, each with a text for those who cannot see it."""
        if not len(self.table):
            return []
        return [
            (self.plot_best(), "Validation and test figure of everybody's best setting; the table has them."),
            (self.plot_effects(), "Best minus worst setting of everybody, with 95 % intervals."),
            (self.plot_seeds(), "The runs of everybody's best setting, one dot a seed."),
        ]

    def to_csv(self, path: str | os.PathLike) -> None:
        """Write the table, and below it the files with problems and the undecided ones, as CSV in UTF-8.

        Raises:
            FileExistsError: `path` holds something else.
        """
        table = self.table
        for name in ("problems", "undecided"):
            texts = {file: "; ".join(some) for file, some in getattr(self, name).items()}
            if texts:
                more = pd.DataFrame({"file": list(texts), name: list(texts.values())})
                table = pd.concat([table, more], ignore_index=True)
        safe = table.map(lambda value: _no_formula(value) if isinstance(value, str) else value)
        write_new(path, safe.to_csv(index=False).encode("utf-8-sig"))


def _no_formula(text: str) -> str:
    """Text from outside that no spreadsheet runs.

    Spreadsheets take what begins with one of = + - @, or their wide forms, for a formula, spaces in front or not. Some
    split a line at semicolons or tabs as well, so what follows these is guarded too.

    >>> _no_formula(" =1+1"), _no_formula("a;-2"), _no_formula("hidden_features 4, lr 0.1")
    ("' =1+1", "a;'-2", 'hidden_features 4, lr 0.1')
    """
    return re.sub(r"(^|[;,|\t])(?=\s*[=+\-@＝＋－＠\t\r\n])", r"\1'", plain(text))


def collect_class(
    folder: str | os.PathLike,
    *,
    plans: str | os.PathLike | None = None,
    rerun: int | None = None,
    tolerance: float = 1e-3,
    seed: int | None = None,
    first_seed: int = 0,
    num_seeds: int | None = None,
    minutes: float = 5.0,
) -> ClassReport:
    """Read all JSON files of a folder as submissions, and repeat their runs. Bad ones are listed with problems.

    Args:
        folder: with the files, `*.json` in upper or lower case; folders inside it are not entered.
        plans: another folder, with the plans (`Plan.save`) that were handed in before the runs. A plan that lies beside
            the submissions may have been made with them, and the table says so. A plan holds no name: where more files
            claim one than handed it in, the table says that too.
        rerun, tolerance, seed, first_seed, num_seeds, minutes: as for `validate_submission`. Repeating all runs takes
            as long as the students' own comparisons did: about three minutes for thirty files with 20 settings × 10
            seeds × 1,000 epochs on iris, at most `minutes` a file, three times that where training is chaotic; rerun=1
            takes about a third. With rerun=0 thirty files take seconds, and any figures pass that fit together.

    Raises:
        NotADirectoryError: no such folder.
        ValueError: it has no JSON file; plans and submissions in one folder.
    """
    options = CheckOptions(rerun, tolerance, seed, first_seed, num_seeds, minutes)
    paths = _json_files(folder)
    if not paths:
        raise ValueError(f"{folder} has no *.json file")
    problems: dict[str, tuple[str, ...]] = {}
    if plans is not None and Path(plans).resolve() == Path(folder).resolve():
        raise ValueError("plans must be another folder than that of the submissions: what lies there came with them")
    received = None if plans is None else _read_plans(_json_files(plans), problems, prefix=f"{_shown(Path(plans))}/")
    beside = [path for path in paths if calls_itself_a_plan(path)]
    late = _read_plans(beside, problems)
    verdicts, comparisons, undecided = {}, {}, {}
    for path in sorted(set(paths) - set(beside)):
        verdict, comparison = check_submission(path, options)
        if verdict.ok:
            verdicts[_shown(path)], comparisons[_shown(path)] = verdict, comparison
        elif verdict.problems:
            problems[_shown(path)] = verdict.problems
        else:
            undecided[_shown(path)] = verdict.undecided
    copies, names = _copies(comparisons), _same_names(comparisons)
    alike, claims = _alike(comparisons, copies), _claims(comparisons)
    rows = [
        _row(comparison)
        | {"file": file, "plan": _plan_text(comparison.plan, received, late, claims)}
        | {"same_runs_as": "; ".join(copies[file]), "looks_like": "; ".join(alike[file])}
        | {"same_name_as": "; ".join(names[file])}
        | {"notes": "; ".join([*verdicts[file].notes, *_mixed_alphabets(comparison.author or "")])}
        for file, comparison in comparisons.items()
    ]
    unkept = tuple(file for digest, files in (received or {}).items() if digest not in claims for file in files)
    return ClassReport(pd.DataFrame(rows, columns=COLUMNS), problems, comparisons, unkept, undecided)


def _json_files(folder: str | os.PathLike) -> list[Path]:
    folder = Path(folder)
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is not a folder")
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() == ".json")
    if len(paths) > MAX_FILES:
        raise ValueError(f"{folder} has {len(paths):,} *.json files, more than the {MAX_FILES:,} of any class")
    return paths


def _shown(path: Path) -> str:
    """The file's name as text that can be written everywhere; other names give other texts."""
    return plain(path.name.replace("\\", "\\\\"))


def _read_plans(paths: Iterable[Path], problems: dict[str, tuple[str, ...]], prefix: str = "") -> dict[str, list[str]]:
    """Digest → files. What cannot be read is added to the problems."""
    plans = defaultdict(list)
    for path in paths:
        try:
            plans[Plan.load(path).digest].append(_shown(path))
        except (ValueError, OSError) as error:
            problems[prefix + _shown(path)] = (plain(str(error)),)
    return dict(plans)


def _claims(comparisons: Mapping[str, Comparison]) -> dict[str, list[str]]:
    """Digest of a plan → the files that name it."""
    claims = defaultdict(list)
    for file, comparison in comparisons.items():
        if comparison.plan is not None:
            claims[comparison.plan].append(file)
    return dict(claims)


def _plan_text(
    digest: str | None,
    received: Mapping[str, list[str]] | None,
    late: Mapping[str, list[str]],
    claims: Mapping[str, list[str]],
) -> str:
    """A plan that was not kept is a problem of the submission, so these are all kinds."""
    if digest is None:
        return "none"
    where = f"{'; '.join(late[digest])} lies with the submissions" if digest in late else f"digest {digest[:12]}…"
    if received is None:
        return f"named ({where}); whether it came before the runs is not checked"
    if digest not in received:
        return f"not handed in before ({where})"
    files, claiming = received[digest], claims[digest]
    text = f"kept ({'; '.join(files)})"
    if len(claiming) > len(files):
        text += f"; handed in {len(files)} time(s), but claimed by {len(claiming)} files: {'; '.join(claiming)}"
    return text


def _copies(comparisons: Mapping[str, Comparison]) -> dict[str, list[str]]:
    """For each file the others that share so many runs with it that it cannot be chance.

    A run is known by its seed and seconds alone: a setting can be changed so little that its runs are the same.
    """
    holders = defaultdict(Counter)  # a run → the files that have it, and how often
    for file, comparison in comparisons.items():
        for record in comparison.records:
            holders[record.seed, record.seconds][file] += 1
    shared = Counter()
    for files in holders.values():
        for one, other in combinations(files, 2):
            shared[one, other] += min(files[one], files[other])
    found: dict[str, list[str]] = {file: [] for file in comparisons}
    for (one, other), count in sorted(shared.items()):
        if count >= COPIED_SHARE * min(len(comparisons[one]), len(comparisons[other])):
            found[one].append(other)
            found[other].append(one)
    return found


def _alike(comparisons: Mapping[str, Comparison], copies: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """For each file those that are no copies of it to the last digit, but whose runs took times in one proportion."""
    found: dict[str, list[str]] = {file: [] for file in comparisons}
    times = {
        file: {_figures(record): record.seconds for record in comparison.records}
        for file, comparison in comparisons.items()
    }
    for one, other in combinations(comparisons, 2):
        common = list(times[one].keys() & times[other].keys())
        enough = len(common) >= COPIED_SHARE * min(len(times[one]), len(times[other]))
        if (
            enough
            and other not in copies[one]
            and _in_proportion(*([times[f][run] for run in common] for f in (one, other)))
        ):
            found[one].append(other)
            found[other].append(one)
    return found


def _figures(record: RunRecord) -> tuple[float, ...]:
    """By what a run is known whose times were changed: the figures must come out, so they cannot be."""
    return record.seed, *(round(figure, 4) for figure in (record.train, record.validation, record.test))


def _in_proportion(seconds: Sequence[float], others: Sequence[float]) -> bool:
    """Do many of these times differ by one factor, by one amount, or by next to nothing?

    >>> _in_proportion([0.1, 0.2, 0.3, 0.5], [0.2, 0.4, 0.6, 1.0]), _in_proportion([0.1, 0.2], [0.2, 0.4])
    (True, False)
    """
    first, other = np.array(seconds), np.array(others)
    ratios, differences = np.log(first) - np.log(other), (first - other) / np.median(first)
    for shifts in (ratios, differences):
        in_one = np.abs(shifts - np.median(shifts)) < 1e-3
        if in_one.mean() >= ALIKE_SHARE and len(np.unique(first[in_one])) >= ALIKE_TIMES:
            return True
    return bool((np.abs(ratios) < 1e-6).mean() >= ALIKE_SHARE)


def _same_names(comparisons: Mapping[str, Comparison]) -> dict[str, list[str]]:
    """For each file the others whose author is the same, or written so that it looks the same."""
    looks = {file: _look(comparison.author) for file, comparison in comparisons.items() if comparison.author}
    files = defaultdict(list)
    for file, look in looks.items():
        files[look].append(file)
    return {
        file: [other for other in files[looks[file]] if other != file] if file in looks else [] for file in comparisons
    }


# Letters that look like Latin ones: Cyrillic, Greek, Armenian, others.
_LOOK_ALIKE = str.maketrans(
    "АВЕЅІЈКМНОРСТУХҮԌԚԜаеѕіјкмнорстухүһԁԛԝѵвгпΑΒΕΖΗΙΚΜΝΟΡΤΥΧαβεζηικμνορτυχγωօսհոցԱՕՏɑɩƖ",
    "ABESIJKMHOPCTYXYGQWaesijkmhopctyxyhdqwvbrnABEZHIKMNOPTYXabezhikmvoptyxywouhngUOSaii",
)
# Accents on Latin letters, apostrophes, fillers, and marks that only choose a variant. Indian vowel signs stay.
_UNSEEN = re.compile("[\u0300-\u036f\u115f\u1160\u17b4\u17b5\u180b-\u180f\ufe00-\ufe0f\U000e0100-\U000e01ef'’ʼʻ`´]")
_LATIN = re.compile("LATIN (?:SMALL |CAPITAL )?LETTER (?:SMALL CAPITAL |DOTLESS |SCRIPT )?([A-Z])(?: WITH .*)?")


def _look(name: str) -> str:
    """A name as letters and digits, without what is hard to see: case, accents, look-alikes, the order of the words.

    >>> _look("Ａda  Lоvelace.") == _look("lovelace, ada")  # a wide A, and a Cyrillic о
    True
    """
    seen = _UNSEEN.sub("", unicodedata.normalize("NFKD", name)).translate(_LOOK_ALIKE)
    plain_letters = "".join(m[1] if (m := _LATIN.fullmatch(unicodedata.name(c, ""))) else c for c in seen)
    seen = _UNSEEN.sub("", unicodedata.normalize("NFKD", plain_letters.casefold()))
    kept = "".join(c for c in seen if unicodedata.category(c) != "Cf")
    words = "".join(c if unicodedata.category(c)[0] in "LMN" else " " for c in kept).split()
    return "".join(sorted(words)).translate(str.maketrans("01l", "oii")) or name


def _mixed_alphabets(name: str) -> list[str]:
    """A note where a word of the name mixes Latin letters with others, as only those who imitate a name do."""
    for word in unicodedata.normalize("NFKC", name).split():
        scripts = {unicodedata.name(c, "UNKNOWN").split()[0] for c in word if c.isalpha()}
        if "LATIN" in scripts and len(scripts) > 1:
            return [f"the author's name mixes letters of {' and '.join(script.title() for script in sorted(scripts))}"]
    return []


def _row(comparison: Comparison) -> dict[str, object]:
    """What the comparison alone says."""
    best, seeds = comparison.best(), comparison.seeds
    return {
        "name": comparison.author or "",
        "data": comparison.data,
        "metric": comparison.metric,
        "settings": len(comparison.settings),
        "seeds": len(seeds),
        "best_setting": comparison.label(best.setting),
        "validation": best.validation,
        "test": best.test,
        "optimism": best.optimism,
        "effect": float(_paired_effect(comparison).mean()),
        "tied_with_best": len(best.tied),
        "seed_range": f"{min(seeds)} to {max(seeds)}",
        "unmet_requirements": "; ".join(requirements(comparison)),
    }


def _paired_effect(comparison: Comparison) -> np.ndarray:
    """Best minus worst setting on validation, for each seed; settings that diverge are left out."""
    table, values = comparison.summary(), comparison.matrix()
    ranked = table["setting"][table["diverged"] == table["diverged"][0]]
    return values[ranked.iloc[0]] - values[ranked.iloc[-1]]


Draw = Callable[["Axes", int, Comparison], None]


@course_style()
def _plot_class(report: ClassReport, draw: Draw, title: str, quantity: str) -> Figure:
    """One panel for each data set and metric, one row for each submission."""
    if not len(report.table):
        raise ValueError("there is no submission in order, so there is nothing to draw")
    kinds = list(report.table.groupby(["data", "metric"], sort=True))
    heights = [1.0 + 0.3 * len(rows) for _, rows in kinds]
    figure, axes = new_figure(len(kinds), 1, size=(8.0, sum(heights) + 0.4), height_ratios=heights)
    for ax, ((data, metric), rows) in zip(axes, kinds, strict=True):
        for place, row in enumerate(rows.itertuples()):
            draw(ax, place, report.comparisons[row.file])
        names = [_short(row.name or row.file) for row in rows.itertuples()]
        ax.set_yticks(range(len(rows)), names, fontsize=9, parse_math=False)
        ax.set_ylim(len(rows) - 0.5, -0.5)
        ax.grid(axis="y", visible=False)
        ax.set(title=f"{title}: {data}", xlabel=quantity + METRICS[metric])
        if ax.get_legend_handles_labels()[0]:
            handles = dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True))  # each label once
            ax.legend(handles.values(), handles.keys(), loc="upper left", bbox_to_anchor=(1, 1))
    return finish(figure)


def _short(text: str) -> str:
    return text if len(text) <= 28 else f"{text[:27]}…"


def _draw_best(ax: Axes, place: int, comparison: Comparison) -> None:
    best = comparison.best()
    ax.plot([best.validation, best.test], [place, place], color="#999999", linewidth=1.5)
    ax.plot(best.validation, place, "o", color=PALETTE[0], label="validation")
    ax.plot(best.test, place, "D", color=PALETTE[1], label="test", markersize=6)


def _draw_effect(ax: Axes, place: int, comparison: Comparison) -> None:
    effect = _paired_effect(comparison)
    ax.axvline(0, color="black", linewidth=1)
    ax.plot(t_interval(effect, overlap=comparison.overlap), [place, place], color=PALETTE[0], linewidth=2)
    ax.plot(effect.mean(), place, "o", color=PALETTE[0])


def _draw_seeds(ax: Axes, place: int, comparison: Comparison) -> None:
    values = comparison.matrix()[comparison.best().setting]
    values = values[np.isfinite(values)]
    ax.scatter(values, place + np.linspace(-0.2, 0.2, len(values)), s=14, color=PALETTE[0], alpha=0.6, linewidth=0)
    if len(values):
        ax.plot(values.mean(), place, "D", color="black", markersize=5)
