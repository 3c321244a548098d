"""The check of a source text: errors that can be seen without running anything."""

from __future__ import annotations

import ast
import io
import json
import re
import tokenize
import warnings
from dataclasses import dataclass
from pathlib import Path

from course_utils.pitfalls.lint_rules import RULES, Rule
from course_utils.pitfalls.lint_rules.outputs import Outputs

__all__ = ["LintFinding", "lint_file", "lint_source"]

ATLAS = "notebooks/error_index.ipynb"
_ON_PURPOSE = "wrong on purpose"
# Cell magics whose cell is still Python.
_PYTHON_MAGICS = ("time", "timeit", "capture", "prun", "memit", "mprun")


@dataclass(frozen=True)
class LintFinding:
    """One place in a source text that looks wrong.

    Attributes:
        rule: the kind of error, for example "softmax-without-dim".
        name: the file's name.
        cell: of a notebook, the number that Jupyter shows beside the cell after "Restart and run all"; else None.
        line: in the file or in the cell, from 1.
        code: what stands there.
        why: what it does to the results.
        fix: what to write instead.
        link: where the course measures this error; "" if it does not.
    """

    rule: str
    name: str
    cell: int | None
    line: int
    code: str
    why: str
    fix: str
    link: str

    def __str__(self) -> str:
        place = (
            f"{self.name}:{self.line}" if self.cell is None else f"{self.name}: cell [{self.cell}], line {self.line}"
        )
        lines = [f"{place}: {self.rule}", f"    {self.code}", f"    Why: {self.why}.", f"    Fix: {self.fix}."]
        return "\n".join([*lines, f"    See: {self.link}"] if self.link else lines)


def lint_file(path: str | Path) -> list[LintFinding]:
    """Look for errors on network outputs in a Python file or a notebook, without running or importing it.

    What can be seen in a text is found: a softmax in front of cross-entropy, a forgotten `eval()`, a mean of batch
    means, … Most errors cannot be seen so, and a text without findings may still be wrong: `diagnose` looks at the
    network itself. A line whose comment says `wrong on purpose`, or that stands under such a comment, is passed over.

    Args:
        path: a file that ends in .py or .ipynb. IPython's magics are left out.

    Returns:
        The findings in the order of the text.

    Raises:
        OSError: the file cannot be opened.
        ValueError: it is neither kind of file, not text, or not Python; the message says where.
    """
    path = Path(path)
    if path.suffix == ".ipynb":
        cells = _cells(path)
        return _lint("\n".join(cells), str(path), cells)
    if path.suffix != ".py":
        raise ValueError(f"{path} must be a Python file (.py) or a notebook (.ipynb)")
    return lint_source(_text(path), str(path))


def lint_source(text: str, name: str = "text") -> list[LintFinding]:
    """The same for Python text in memory; `name` is what the findings call it.

    >>> findings = lint_source("import torch.nn.functional as F\\nloss = F.cross_entropy(F.softmax(z, dim=1), y)")
    >>> [(finding.line, finding.rule) for finding in findings]
    [(2, 'probabilities-into-cross-entropy')]

    Raises:
        TypeError: text that is no string.
        ValueError: text that is not Python; the message says where.
    """
    if not isinstance(text, str):
        raise TypeError(f"text must be a string of Python, but is {type(text).__name__}; lint_file takes a path")
    return _lint(text, name, None)


def _lint(text: str, name: str, cells: list[str] | None) -> list[LintFinding]:
    """Run all rules over a text; of a notebook, over all cells as one text, so that names lead from cell to cell."""
    try:
        source = Outputs(text, _parse(text, name))
        found = {(node.lineno, rule.name): (node, rule) for rule in RULES.values() for node in rule.find(source)}
    except RecursionError as error:
        raise ValueError(f"{name}: expressions are nested too deeply to be read") from error
    lines, on_purpose = text.splitlines(), _lines_on_purpose(source)
    findings = []
    for (number, _), (node, rule) in sorted(found.items()):
        statement = source.statement(node)
        last = statement.end_lineno if isinstance(statement, (ast.Expr, ast.Assign, ast.AugAssign)) else number
        if not on_purpose & set(range(min(number, statement.lineno), last + 1)):
            findings.append(_finding(rule, name, number, lines[number - 1].strip(), cells))
    return findings


def _finding(rule: Rule, name: str, line: int, code: str, cells: list[str] | None) -> LintFinding:
    link = f"{ATLAS}#E{rule.error}" if rule.error else ""
    cell = None
    if cells is not None:
        cell, line = _place(line, cells)
    return LintFinding(rule.name, name, cell, line, code, rule.why, rule.fix, link)


def _place(line: int, cells: list[str]) -> tuple[int, int]:
    """The cell's number and the line in it, of a line in all cells together."""
    for number, cell in enumerate(cells, start=1):
        length = cell.count("\n") + 1
        if line <= length:
            return number, line
        line -= length
    raise AssertionError("a finding behind the last cell")


def _lines_on_purpose(source: Outputs) -> set[int]:
    """The lines whose comment says that they are wrong on purpose, and those below a comment of its own."""
    marked: set[int] = set()
    if _ON_PURPOSE not in source.text.lower():
        return marked  # reading the comments takes longer than this look
    lines = source.text.splitlines()
    for number, comment in source.comments.items():
        if _ON_PURPOSE in comment.lower():
            alone = lines[number - 1].lstrip().startswith("#")
            marked.add(number + alone)
    return marked


def _parse(text: str, name: str) -> ast.Module:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)  # an invalid escape sequence, say
            return compile(text, name, "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    except SyntaxError as error:
        where = f", line {error.lineno}" if error.lineno else ""
        raise ValueError(f"{name}{where}: this is not Python: {error.msg}") from error
    except (ValueError, RecursionError, MemoryError) as error:  # a null byte, or nesting without end
        raise ValueError(f"{name}: this is not Python: {error}") from error


def _text(path: Path) -> str:
    """The text of a Python file in the encoding that it declares; UTF-8 if it does not."""
    content = path.read_bytes()
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(content).readline)
        return io.TextIOWrapper(io.BytesIO(content), encoding).read()  # also makes all line ends alike
    except (SyntaxError, UnicodeDecodeError, LookupError) as error:
        raise ValueError(f"{path} is not text in UTF-8, nor in an encoding that it declares: {error}") from error


def _cells(path: Path) -> list[str]:
    """The texts of a notebook's code cells, those without any left out, as Jupyter numbers them."""
    try:
        notebook = json.loads(path.read_bytes().decode("utf-8-sig"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not a notebook: it is not JSON in UTF-8 ({error})") from error
    cells = notebook.get("cells") if isinstance(notebook, dict) else None
    if not isinstance(cells, list):
        raise ValueError(f"{path} is not a notebook of format 4: it has no cells. Open and save it in Jupyter")
    language = notebook.get("metadata", {}).get("kernelspec", {}).get("language", "python")
    if language != "python":
        raise ValueError(f"{path} is a notebook in {language}, not in Python")
    texts = []
    for cell in cells:
        source = cell.get("source", "")
        text = source if isinstance(source, str) else "".join(source)
        if cell.get("cell_type") == "code" and text.strip():
            texts.append(_plain_python(text, f"{path}: cell [{len(texts) + 1}]"))
    return texts


def _plain_python(text: str, name: str) -> str:
    """A cell without IPython's own syntax, line by line, so that lines keep their numbers."""
    try:
        _parse(text, name)
        return text
    except ValueError:
        lines = text.split("\n")
    first = next(line for line in lines if line.strip())
    indent = first[: len(first) - len(first.lstrip())]
    lines, first = [line.removeprefix(indent) for line in lines], first.strip()  # IPython allows a cell to be indented
    if first.startswith("%%"):
        if first[2:].split(" ")[0] not in _PYTHON_MAGICS:
            return "\n" * (len(lines) - 1)  # a cell of another language
        lines[next(i for i, line in enumerate(lines) if line.strip())] = ""
    plain = "\n".join(map(_without_magic, lines))
    _parse(plain, name)
    return plain


def _without_magic(line: str) -> str:
    """`%matplotlib inline`, `!pip …`, `files = !ls`, `model?` as Python that does nothing."""
    indent = line[: len(line) - len(line.lstrip())]
    if line.lstrip().startswith(("%", "!", "?")) or re.fullmatch(r"\s*[\w.]+\?{1,2}\s*", line):
        return f"{indent}pass"
    return re.sub(r"^(\s*[\w., ]+?=\s*)[%!].*$", r"\1None", line)
