"""A class's submissions in one table."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from course_utils.foundation.html import render
from course_utils.foundation.plotting import PALETTE, course_style, figure_png, finish, new_figure
from course_utils.homework.comparison import Comparison
from course_utils.homework.metrics import METRICS
from course_utils.homework.plans import Plan
from course_utils.homework.results import requirements
from course_utils.homework.statistics import t_interval
from course_utils.homework.storage import plain, runs_digest, write_new
from course_utils.homework.submission import check_submission, checked_options

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = (
    *("file", "name", "data", "metric", "settings", "seeds", "best_setting", "validation", "test", "optimism"),
    *("effect", "tied_with_best", "seed_range", "plan", "same_runs_as", "unmet_requirements"),
)
MAX_FILES = 2_000


@dataclass(frozen=True, eq=False, repr=False)
class ClassReport:
    """What a class handed in.

    Attributes:
        table: one row a submission that is in order: file, name (of the author, if given), data, metric, settings and
            seeds (their numbers), best_setting, its validation and test figures and optimism, effect (best minus worst
            setting on validation, without those that diverge), tied_with_best (how many others cannot be told apart
            from the best), seed_range (the first and the last), plan ("none"; "kept" with the file of the plan, or with
            the beginning of its digest if that file is not in the folder), same_runs_as (other files with the
            same runs to the microsecond, so copies), unmet_requirements.
        problems: file → what is wrong with it.
        comparisons: file → its comparison, for the files of the table.

    Names of files are shown with what cannot be written everywhere escaped, such as control characters.
    """

    table: pd.DataFrame
    problems: Mapping[str, tuple[str, ...]]
    comparisons: Mapping[str, Comparison]

    def __len__(self) -> int:
        return len(self.table)

    def __repr__(self) -> str:
        return f"ClassReport({len(self.table)} submissions, {len(self.problems)} files with problems)"

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
        """Write the table, and below it the files with problems, as CSV in UTF-8.

        Raises:
            FileExistsError: `path` holds something else.
        """
        bad = pd.DataFrame({"file": list(self.problems), "problems": ["; ".join(p) for p in self.problems.values()]})
        table = pd.concat([self.table, bad], ignore_index=True) if len(bad) else self.table
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
    rerun: int = 3,
    tolerance: float = 1e-3,
    seed: int | None = None,
    first_seed: int = 0,
) -> ClassReport:
    """Read all JSON files of a folder as submissions, and repeat some runs of each. Bad ones are listed with problems.

    Plans that `Plan.save` wrote may lie beside the submissions; the table says which submission kept which.

    Args:
        folder: with the files, `*.json` in upper or lower case; folders inside it are not entered.
        rerun, tolerance, seed, first_seed: as for `validate_submission`. Three runs of each file take seconds to
            minutes, as the class has chosen its epochs; with rerun=0 thirty files take seconds, and any figures pass
            that fit together.

    Raises:
        NotADirectoryError: no such folder.
        ValueError: it has no JSON file.
    """
    options = checked_options(rerun=rerun, tolerance=tolerance, seed=seed, first_seed=first_seed)
    folder = Path(folder)
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is not a folder")
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() == ".json")
    if not paths:
        raise ValueError(f"{folder} has no *.json file")
    if len(paths) > MAX_FILES:
        raise ValueError(f"{folder} has {len(paths):,} *.json files, more than the {MAX_FILES:,} of any class")
    plans, problems, comparisons = {}, {}, {}
    for path in paths:
        if plan := _plan_in(path):
            plans[plan.digest] = _shown(path)
            continue
        verdict, comparison = check_submission(path, **options)
        if verdict.ok:
            comparisons[_shown(path)] = comparison
        else:
            problems[_shown(path)] = verdict.problems
    digests = {file: runs_digest(comparison) for file, comparison in comparisons.items()}
    rows = [_row(file, comparison, plans, digests) for file, comparison in comparisons.items()]
    return ClassReport(pd.DataFrame(rows, columns=COLUMNS), problems, comparisons)


def _shown(path: Path) -> str:
    """The file's name as text that can be written everywhere; other names give other texts."""
    return plain(path.name.replace("\\", "\\\\"))


def _plan_in(path: Path) -> Plan | None:
    try:
        return Plan.load(path)
    except (ValueError, OSError):
        return None


def _row(file: str, comparison: Comparison, plans: Mapping[str, str], digests: Mapping[str, str]) -> dict[str, object]:
    best, seeds = comparison.best(), comparison.seeds
    return {
        "file": file,
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
        "plan": _plan_text(comparison, plans),
        "same_runs_as": "; ".join(other for other in digests if other != file and digests[other] == digests[file]),
        "unmet_requirements": "; ".join(requirements(comparison)),
    }


def _plan_text(comparison: Comparison, plans: Mapping[str, str]) -> str:
    """A plan that was not kept is a problem of the submission, so these are all kinds."""
    if comparison.plan is None:
        return "none"
    return f"kept ({plans.get(comparison.plan, f'not in this folder, digest {comparison.plan[:12]}…')})"


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
