"""How long a slow reader needs for a lesson, in minutes: what the start page says is computed here.

    python tools/study_time.py

120 words a minute, a minute and a half for each code cell with its output, and the minutes on the exercises' cards.
"""

import json
import re
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent
WORDS_PER_MINUTE = 120
MINUTES_PER_CODE_CELL = 1.5


def study_minutes(name: str) -> float:
    """Minutes for the lesson and the exercises of a chapter, for example "01_basics"."""
    lesson = _cells(REPOSITORY / "notebooks" / f"{name}.ipynb")
    words = sum(len(source.split()) for kind, source in lesson if kind == "markdown")
    cells = sum(kind == "code" for kind, _ in lesson)
    cards = (source for kind, source in _cells(REPOSITORY / "exercises" / name / "exercises.ipynb"))
    exercises = sum(int(minutes) for card in cards for minutes in re.findall(r"\*\*Time:\*\* (\d+) minutes", card))
    return words / WORDS_PER_MINUTE + cells * MINUTES_PER_CODE_CELL + exercises


def in_words(minutes: float) -> str:
    """Rounded to half hours, to at least one half.

    >>> in_words(62), in_words(140), in_words(10)
    ('1 hour', '2½ hours', '½ hour')
    """
    halves = max(1, round(minutes / 30))
    whole, half = divmod(halves, 2)
    number = f"{whole or ''}{'½' if half else ''}"
    return f"{number} hour{'s' if halves > 2 else ''}"


def _cells(path: Path) -> list[tuple[str, str]]:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [(cell["cell_type"], "".join(cell["source"])) for cell in cells]


if __name__ == "__main__":
    for lesson in sorted((REPOSITORY / "notebooks").glob("0[1-9]_*.ipynb")):
        print(f"{lesson.stem:28s} {study_minutes(lesson.stem):4.0f} min: {in_words(study_minutes(lesson.stem))}")
