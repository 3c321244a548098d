"""HTML pages that need no other file."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from typing import TYPE_CHECKING

from course_utils.homework.fairness import requirements
from course_utils.homework.parts import TEST_SIZE
from course_utils.homework.running import PARTS

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from course_utils.homework.classroom import ClassReport
    from course_utils.homework.comparison import Comparison

_STYLE = """
body { font-family: sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; line-height: 1.45 }
img { max-width: 100% } .table { overflow-x: auto } table { border-collapse: collapse; margin: 1rem 0 }
th, td { padding: .25rem .7rem; border-bottom: 1px solid #ccc; text-align: right }
td.text { text-align: left }
.notice { background: #fde9d9; padding: .6rem }
"""
MAX_SHOWN = 100  # rows of a table


def comparison_page(comparison: Comparison) -> str:
    best = comparison.best()
    title = f"Comparison of {len(comparison.settings)} settings on {comparison.data or 'own data'}"
    sizes = ", ".join(f"{size:,} {name}" for size, name in zip(comparison.sizes, PARTS, strict=True))
    unmet = requirements(comparison)
    parts = [
        f"<p>{len(comparison.records):,} runs: {len(comparison.seeds)} seeds for each setting. Samples: {sizes}. "
        f"The test part ({TEST_SIZE:.0%}) was set aside first. Validation: {comparison.validation}. "
        f"Metric: {comparison.metric}. By: {html.escape(comparison.author or 'not named')}.</p>",
        _notice("Not met: " + "; ".join(unmet)) if unmet else "",
        "<h2>The best setting, chosen on validation</h2>",
        f"<p>{html.escape(comparison.label(best.setting))}</p>"
        f"<p>{comparison.metric} {best.validation:.4f} on validation, <b>{best.test:.4f} on test</b>. "
        f"Optimism (validation − test): {best.optimism:+.4f}. "
        f"{len(best.tied)} other setting(s) cannot be told apart from it.</p>",
        "<h2>All settings</h2>",
        _table(comparison.summary()),
        "<p>Intervals are 95 % t-intervals over the seeds. p_value: paired t-test against the best, after Holm.</p>",
        *_figures(comparison),
        "<h2>Made with</h2>",
        *(f"<p>{html.escape(text)}</p>" for text in dict.fromkeys(record.versions for record in comparison.records)),
        *(_notice(f"Setting {n} was trained by the loop: {why}") for n, why in comparison.one_by_one.items()),
    ]
    return _page(title, parts)


def _figures(comparison: Comparison) -> list[str]:
    table = comparison.summary()
    top = comparison.label(int(table["setting"][0]))
    parts = [
        _image(
            comparison.plot_seeds(),
            f"Validation {comparison.metric} of each run, best setting first: {top}, mean {table['mean'][0]:.4f}.",
        ),
        _image(comparison.plot_curves(), f"Training loss against the epoch for the best settings; rank 1 is {top}."),
    ]
    if comparison.varied:
        text = f"Mean validation {comparison.metric} by the two names with the most values, as numbers and colours."
        parts.append(_image(comparison.plot_heatmap(), text))
    try:
        shares = comparison.importance()
    except ValueError as error:
        return [*parts, f"<p>No figure of importance: {html.escape(str(error))}.</p>"]
    listed = ", ".join(f"{name} {share:.0%}" for name, share in shares.items() if share == share)
    return [*parts, _image(comparison.plot_importance(), f"Shares of the variance explained: {listed or 'none'}.")]


def class_page(report: ClassReport) -> str:
    parts = [
        f"<p>{len(report.table)} submission(s), {len(report.problems)} file(s) with problems.</p>",
        "<h2>Submissions</h2>",
        _table(report.table),
    ]
    if report.problems:
        rows = "".join(
            f"<tr><th>{html.escape(name)}</th><td class=text>{'<br>'.join(map(html.escape, texts))}</td></tr>"
            for name, texts in report.problems.items()
        )
        parts += ["<h2>Files with problems</h2>", f"<div class=table><table>{rows}</table></div>"]
    if len(report.table):
        parts += [
            "<h2>Figures</h2>",
            _image(report.plot_best(), "Validation and test figure of everybody's best setting; the table has them."),
            _image(report.plot_effects(), "Best minus worst setting of everybody, with 95 % intervals."),
            _image(report.plot_seeds(), "The runs of everybody's best setting, one dot a seed."),
        ]
    return _page("The class", parts)


def _table(frame: pd.DataFrame) -> str:
    more = f"<p>… and {len(frame) - MAX_SHOWN} more rows</p>" if len(frame) > MAX_SHOWN else ""
    shown = frame.head(MAX_SHOWN).to_html(index=False, border=0, float_format=lambda value: f"{value:.4g}", na_rep="")
    return f"<div class=table>{shown}</div>{more}"  # to_html escapes what others have written


def _notice(text: str) -> str:
    return f"<p class=notice>{html.escape(text)}</p>"


def _image(figure: Figure, text: str) -> str:
    data = base64.b64encode(figure._repr_png_()).decode()
    return f'<p><img alt="{html.escape(text, quote=True)}" src="data:image/png;base64,{data}"></p>'


def _page(title: str, parts: Sequence[str]) -> str:
    return (
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{_STYLE}</style>\n<h1>{html.escape(title)}</h1>\n" + "\n".join(parts) + "\n</html>\n"
    )
