"""Write docs/models.md: which kinds of model each public function reads.

    uv run tools/write_model_table.py

The table is the one that tests/test_models_people_bring.py proves cell by cell.
"""

import sys
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent
sys.path.insert(0, str(REPOSITORY))

from tests.support.calls_with_models import CALLS  # noqa: E402
from tests.support.kinds_of_models import KINDS  # noqa: E402
from tests.support.verdicts_on_models import (  # noqa: E402
    DOES_NOT_APPLY,
    EXCEPTIONS,
    REFUSED,
    RIGHT,
    verdicts,
)

PAGE = REPOSITORY / "docs" / "models.md"
SIGNS = {RIGHT: "✓", REFUSED: "✗", DOES_NOT_APPLY: "–"}
INTRODUCTION = """# Which models the package reads

<!-- Written by tools/write_model_table.py; do not edit. -->

- ✓ The answer is that of a plain model with the same weights, up to the rounding of the dtype.
- ✗ The function raises an error that says what came and what to do. The sentences stand below.
- – There is nothing to ask. The reasons stand below.

Every cell is a test, in `tests/test_models_people_bring.py`. A model in DataParallel or from `torch.compile` is taken
out of it first, so that its layers can be seen.
"""


def page() -> str:
    """The whole text."""
    return "\n".join([INTRODUCTION, *_kinds(), *_tables(), *_exceptions()]) + "\n"


def _kinds() -> Iterator[str]:
    yield "| kind | what it is |"
    yield "|---|---|"
    yield from (f"| {name} | {kind.meaning} |" for name, kind in KINDS.items())
    yield ""


def _tables() -> Iterator[str]:
    """A table for each chapter, with a column for each function."""
    table = verdicts()
    for chapter, of_chapter in groupby(CALLS, key=lambda function: function.partition(".")[0]):
        functions = list(of_chapter)
        yield f"## `course_utils.{chapter}`\n"
        names = [f"`{function.partition('.')[2]}`" for function in functions]
        yield f"| | {' | '.join(names)} |"
        yield "|---|" + ":-:|" * len(functions)
        for kind in KINDS:
            yield f"| {kind} | {' | '.join(SIGNS[table[function, kind].verdict] for function in functions)} |"
        yield ""


def _exceptions() -> Iterator[str]:
    yield "## The sentences and the reasons\n"
    for verdict, why, kinds, functions in EXCEPTIONS:
        names = ", ".join(f"`{function}`" for function in functions)
        yield f"- {SIGNS[verdict]} {', '.join(kinds)}: {why}. In {names}."


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page(), encoding="utf-8", newline="\n")
    print(f"{PAGE.relative_to(REPOSITORY)} written")
