"""Compare what a notebook cell shows with what was recorded: words equal, numbers within a tolerance.

The last digits of trained numbers differ between processors and thread counts. So a number may move by one unit of
its last printed digit, and a whole number not at all; a cell whose numbers move further names its own tolerance:

    "metadata": {"course": {"tolerance": {"absolute": 0.02, "relative": 0.1, "why": "trained in float32"}}}

Text in quotation marks may be any other where "any_quoted_text" is true: what a trained model writes, or names its
pictures. Tables (HTML) are compared by their text, cell by cell; pictures by the description that stands beside them.
`nbval_tolerance.py` lets pytest use this, and `measure_output_spread.py` shows how far the numbers really move.
"""

import difflib
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from html.parser import HTMLParser

from nbformat import NotebookNode

WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
PICTURES = ("image/png", "image/jpeg")

# Digits that belong to a name, a date, a time or a version (conv2, 2026-11-28, 12:30, 2.15.0) are words, not numbers.
# `++` takes all digits there are, so that 2.15.0 cannot be read as 2.1 and something else.
NUMBER = re.compile(
    r"""((?:(?<![\w)\]])[-+−])?              # a sign; after a word or a bracket it is a hyphen or an operator
         (?<!\w)(?<!\d[-.:])                # not inside of a word, a date, a time or a version
         (?:\d{1,3}(?:,\d{3})++|\d++)       # 12,345 or 12345
         (?:\.\d++)?(?:[eE][-+]?\d++)?      # 0.868, 1e-3
         (?![-.:]?\d))""",
    re.VERBOSE,
)


# 'like this' or "like this", with escaped quotation marks inside.
QUOTED = re.compile(r"""'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*\"""")


@dataclass(frozen=True)
class Tolerance:
    """How far a number may lie from the recorded one: the widest of printed precision, `absolute` and `relative`."""

    absolute: float = 0.0
    relative: float = 0.0  # share of the recorded number's size
    any_quoted_text: bool = False

    @classmethod
    def of_cell(cls, cell: NotebookNode) -> "Tolerance":
        """The tolerance in a cell's metadata, or the printed precision where none is named.

        Raises:
            ValueError: the metadata hold anything but limits above 0, "any_quoted_text" and "why", or give no reason.
        """
        named = cell.metadata.get("course", {}).get("tolerance")
        if named is None:
            return cls()
        allowed = {name: value for name, value in named.items() if name != "why"}
        if not allowed or not set(allowed) <= set(cls.__dataclass_fields__) or not all(v > 0 for v in allowed.values()):
            names = ", ".join(cls.__dataclass_fields__)
            raise ValueError(f"cell {cell.id}: a tolerance holds one or more of {names}, above 0 or true; got {named}")
        if not named.get("why"):
            raise ValueError(f'cell {cell.id}: a tolerance needs its reason, "why"; got {named}')
        return cls(**allowed)

    def limit(self, recorded: str) -> Decimal:
        """The widest allowed distance from a recorded number, 0 for "exactly this"."""
        # str(0.02) is what the author wrote; the float itself is a little more.
        absolute, relative = Decimal(str(self.absolute)), Decimal(str(self.relative))
        return max(printed_precision(recorded), absolute, relative * abs(value_of(recorded)))

    def compared_part(self, text: str) -> str:
        return QUOTED.sub("'…'", text) if self.any_quoted_text else text

    def allows(self, recorded: str, found: str) -> bool:
        limit = self.limit(recorded)
        return recorded == found if limit == 0 else abs(value_of(found) - value_of(recorded)) <= limit


def value_of(number: str) -> Decimal:
    """The value of a printed number: "−1,234.5" → −1234.5, exactly."""
    return Decimal(number.replace(",", "").replace("−", "-"))


def printed_precision(number: str) -> Decimal:
    """One unit of the last printed digit: 0.868 → 0.001; 0 for numbers without a decimal point, which are exact."""
    if "." not in number:
        return Decimal(0)
    return Decimal(1).scaleb(value_of(number).as_tuple().exponent)


def differences(recorded: str, found: str, tolerance: Tolerance = Tolerance()) -> list[str]:
    """What differs between two texts beyond the tolerance, one message each; an empty list if nothing does."""
    recorded, found = tolerance.compared_part(recorded), tolerance.compared_part(found)
    if recorded == found:
        return []
    lines = _paired_lines(recorded, found)
    if lines is None:
        return [_changed_lines(recorded, found)]
    messages = []
    for i, (line, found_line) in enumerate(lines, 1):
        words, numbers = _split(line)
        found_words, found_numbers = _split(found_line)
        # With another count of numbers, the words between them differ, too.
        if words != found_words:
            messages.append(f"line {i}: expected {line!r}, found {found_line!r}")
            continue
        messages += [
            f"line {i}: expected {a}, found {b} (allowed: {_explain(a, tolerance)}) in {line!r}"
            for a, b in zip(numbers, found_numbers, strict=True)
            if not tolerance.allows(a, b)
        ]
    return messages


def paired_numbers(recorded: str, found: str, tolerance: Tolerance) -> Iterator[tuple[str, str]]:
    """Each recorded number beside the one found in its place, from all lines whose words agree."""
    lines = _paired_lines(tolerance.compared_part(recorded), tolerance.compared_part(found))
    for line, found_line in lines or []:
        (words, numbers), (found_words, found_numbers) = _split(line), _split(found_line)
        if words == found_words:
            yield from zip(numbers, found_numbers, strict=True)


def _paired_lines(recorded: str, found: str) -> list[tuple[str, str]] | None:
    """The lines of two texts side by side, or None if one text has more of them."""
    if NUMBER.findall(recorded) != NUMBER.findall(found):
        # 9.99 became 10.00, and moved everything beside it. Where the numbers stay, blanks must stay, too.
        recorded, found = _single_blanks(recorded), _single_blanks(found)
    lines, found_lines = recorded.split("\n"), found.split("\n")
    return list(zip(lines, found_lines, strict=True)) if len(lines) == len(found_lines) else None


def _single_blanks(text: str) -> str:
    return "\n".join(re.sub(" +", " ", line).strip() for line in text.split("\n"))


def _split(line: str) -> tuple[list[str], list[str]]:
    """The words between the numbers, and the numbers."""
    parts = NUMBER.split(line)
    return parts[::2], parts[1::2]


def _explain(number: str, tolerance: Tolerance) -> str:
    limit = tolerance.limit(number)
    if limit == 0:
        return "exactly this"
    source = "the printed precision" if limit == printed_precision(number) else "the cell's tolerance"
    return f"±{limit.normalize():f}, {source}"


def _changed_lines(recorded: str, found: str) -> str:
    lines, found_lines = recorded.splitlines(), found.splitlines()
    changed = [line for line in difflib.ndiff(lines, found_lines) if line.startswith(("- ", "+ "))]
    return "\n".join([f"expected {len(lines)} lines (-), found {len(found_lines)} (+):", *changed])


def cell_differences(recorded: list[NotebookNode], found: list[NotebookNode], tolerance: Tolerance) -> list[str]:
    """What differs between the outputs of a cell beyond its tolerance. The order of unlike outputs does not count."""
    expected, came = comparable_texts(recorded), comparable_texts(found)
    messages = []
    for kind in sorted(expected.keys() | came.keys()):
        if len(expected[kind]) != len(came[kind]):
            messages.append(f"{kind}: expected {len(expected[kind])} outputs, found {len(came[kind])}: {came[kind]}")
            continue
        for text, found_text in zip(expected[kind], came[kind], strict=True):
            messages += [f"{kind}: {message}" for message in differences(text, found_text, tolerance)]
    return messages


def comparable_texts(outputs: list[NotebookNode]) -> defaultdict[str, list[str]]:
    """Kind of output ("stdout", "text/html", …) → its texts, in order."""
    texts = defaultdict(list)
    if any(WIDGET_VIEW in output.get("data", {}) for output in outputs):
        # What is shown within a widget reaches us beside it, and a recorded notebook holds no widgets. So a widget's
        # cell has nothing to compare, and should show nothing else.
        return texts
    for output in outputs:
        if output.output_type == "stream":
            # A kernel sends a stream in pieces of any size.
            texts[output.name] = ["".join([*texts[output.name], output.text])]
            continue
        data = output.get("data", {"error": output.get("evalue")})
        for kind, content in data.items():
            if kind not in PICTURES:
                texts[kind].append(text_of_html(content) if kind == "text/html" else str(content))
    return texts


class _HtmlText(HTMLParser):
    """Collects what a reader sees: a line for each block or row, " | " before each cell of a table, alt for <img>."""

    HIDDEN = ("style", "script")
    BLOCKS = ("br", "caption", "div", "h1", "h2", "h3", "h4", "li", "p", "table", "tr")

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []
        self.hidden = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.hidden = self.hidden or tag in self.HIDDEN
        if tag in self.BLOCKS:
            self.parts.append("\n")
        elif tag in ("td", "th"):
            self.parts.append(" | ")
        elif tag == "img":
            self.parts.append(f"[picture: {dict(attrs).get('alt')}]")

    def handle_endtag(self, tag: str) -> None:
        self.hidden = self.hidden and tag not in self.HIDDEN
        if tag in self.BLOCKS:
            self.parts.append("\n")

    def handle_data(self, data: str) -> None:
        if not self.hidden:
            self.parts.append(re.sub(r"\s+", " ", data))  # as a browser shows it


def text_of_html(html: str) -> str:
    """The text of HTML as lines; `<td></td>` is an empty cell of its row: " | "."""
    parser = _HtmlText()
    parser.feed(html)
    parser.close()
    lines = (re.sub(" +", " ", line).strip() for line in "".join(parser.parts).split("\n"))
    return "\n".join(line for line in lines if line)
