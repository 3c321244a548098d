"""What the site needs beyond Sphinx: anchors as JupyterLab makes them, and formulas that need no JavaScript."""

import re

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml


def heading_anchor(title: str) -> str:
    """The anchor that JupyterLab gives a heading, so that the notebooks' own links work here too.

    >>> heading_anchor("1.12 How much? Regression")
    '1.12-How-much?-Regression'

    Entries of the error index are linked by their number alone.

    >>> heading_anchor("E8 · A threshold that is documented and never used")
    'E8'
    """
    entry = re.match(r"(E\d+) · ", title)
    if entry:
        return entry[1]
    return title.replace(" ", "-")


# LaTeX of the lessons that docutils does not know, in words that it knows.
SYNONYMS = {r"\dots": r"\ldots", "…": r"\ldots ", "≈": r"\approx ", r"\Big(": r"\left(", r"\Big)": r"\right)"}


def mathml(formula: str, as_block: bool = False) -> str:
    """A LaTeX formula as MathML, which browsers draw themselves: no script, no fonts, and screen readers read it."""
    for ours, known in SYNONYMS.items():
        formula = formula.replace(ours, known)
    return tex2mathml(formula, as_block=as_block)


def inline_formula(writer, node: nodes.math) -> None:
    writer.body.append(mathml(node.astext()))
    raise nodes.SkipNode


def block_formula(writer, node: nodes.math_block) -> None:
    # A long formula scrolls on a phone, and whatever scrolls must be reachable with the keyboard.
    writer.body.append(f'<div class="formula" tabindex="0">{mathml(node.astext(), as_block=True)}</div>\n')
    raise nodes.SkipNode


def plain_docstring(app, kind: str, name: str, thing, options, lines: list[str]) -> None:
    """Our docstrings are plain text with `code` in backticks: signs that mean something to Sphinx are taken literally.

    Examples are left alone, from their first `>>>` to the end of the paragraph.
    """
    in_example = False
    for index, line in enumerate(lines):
        in_example = line.lstrip().startswith(">>>") or (in_example and bool(line.strip()))
        if not in_example:
            parts = line.split("`")  # every second one is code
            parts[::2] = [re.sub(r"([|*]|(?<=\w)_(?!\w))", r"\\\1", part) for part in parts[::2]]
            parts[2::2] = [re.sub(r"^(?=\w)", r"\\ ", part) for part in parts[2::2]]  # as in `Evaluation`s
            lines[index] = "`".join(parts)


def finish_page(app, pagename: str, templatename: str, context: dict, doctree) -> None:
    """Tell the template which notebook a page was made from, and leave no heading of a column empty."""
    is_notebook = pagename.split("/")[0] in ("notebooks", "exercises")
    if (
        "body" in context
    ):  # an empty corner of a table is a cell: a screen reader would announce a heading without words
        context["body"] = re.sub(r"<th([^>]*)>(?:<p></p>)?</th>", r"<td\1></td>", context["body"])
    context["notebook"] = f"{pagename}.ipynb" if is_notebook else ""


def setup(app) -> dict:
    app.add_html_math_renderer("mathml", (inline_formula, None), (block_formula, None))
    app.connect("autodoc-process-docstring", plain_docstring, priority=1)  # before napoleon adds signs of its own
    app.connect("html-page-context", finish_page)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
