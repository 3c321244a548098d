"""The teacher's side: nbgrader's own commands on a right, a faulty and a tampered submission."""

import csv
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

REPOSITORY = Path(__file__).parent.parent
CHAPTER = "01_basics"
# `python -m nbgrader`, without the two seconds that a grammar of web addresses takes (see tools/nbval_tolerance.py).
NBGRADER = """
import runpy
import sys

sys.modules["rfc3987_syntax"] = None
runpy.run_module("nbgrader", run_name="__main__")
"""


def nbgrader(folder: Path, *arguments: str) -> str:
    command = [sys.executable, "-c", NBGRADER, *arguments]
    # nbgrader calls alembic by name, so the environment's programs must be found.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=os.environ | {"PATH": path})
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stderr


def submit(folder: Path, student: str, edit) -> None:
    """A student's copy of the released exercises, changed by `edit(cells by id)`."""
    notebook = nbformat.read(folder / "exercises" / CHAPTER / "exercises.ipynb", as_version=4)
    edit({cell.id: cell for cell in notebook.cells})
    path = folder / "submitted" / student / CHAPTER / "exercises.ipynb"
    path.parent.mkdir(parents=True)
    nbformat.write(notebook, path)


def solve(cells) -> None:
    solved = nbformat.read(REPOSITORY / "solutions" / CHAPTER / "exercises.ipynb", as_version=4)
    for cell in solved.cells:
        if cell.metadata.get("nbgrader", {}).get("solution"):
            cells[cell.id].source = cell.source


def solve_with_two_faults(cells) -> None:
    """One known mistake, and one answer that is right on the samples that a learner sees and wrong on all others: only
    the hidden tests notice."""
    solve(cells)
    cells["ex01-tumour"].source = "def tumour_probability(logits):\n    return torch.softmax(logits, dim=1)[:, 0]"
    cells["ex01-next"].source = (
        "from course_utils.checks import exercises\n\n"
        'EXERCISE = exercises()["basics.next_character"]\n'
        "SEEN = EXERCISE.cases(0)[0]\n\n"
        "def next_character(logits):\n"
        "    return EXERCISE.reference(*SEEN)"
    )


def tamper(cells) -> None:
    """Nothing solved, and two tricks, each of which would give points: an answer cell with a `check` of its own, and
    checks replaced by ones that are content."""
    cells["ex01-tumour"].source = "def check(*arguments, **options):\n    pass"
    for name, cell in cells.items():
        if name.endswith("-check") and name != "ex01-tumour-check":
            cell.source = "print('all points, please')"


@pytest.fixture(scope="module")
def graded(tmp_path_factory) -> Path:
    """The six commands of TEACHING.md, run once in a folder of their own."""
    folder = tmp_path_factory.mktemp("classroom")
    shutil.copy(REPOSITORY / "nbgrader_config.py", folder)
    shutil.copytree(REPOSITORY / "solutions", folder / "solutions")
    nbgrader(folder, "generate_assignment", CHAPTER, "--force")
    submit(folder, "right", solve)
    submit(folder, "faulty", solve_with_two_faults)
    submit(folder, "tampered", tamper)
    nbgrader(folder, "autograde", CHAPTER)
    nbgrader(folder, "generate_feedback", CHAPTER)
    nbgrader(folder, "export")
    return folder


def scores(folder: Path) -> dict[str, float]:
    with (folder / "grades.csv").open(newline="") as file:
        return {row["student_id"]: float(row["score"]) for row in csv.DictReader(file)}


@pytest.mark.slow
def test_points(graded):
    assert scores(graded) == {"right": 16, "faulty": 12, "tampered": 0}


@pytest.mark.slow
def test_the_release_is_the_committed_one(graded):
    released = graded / "exercises" / CHAPTER / "exercises.ipynb"
    assert released.read_bytes() == (REPOSITORY / "exercises" / CHAPTER / "exercises.ipynb").read_bytes()


@pytest.mark.slow
def test_feedback_tells_the_mistake(graded):
    page = (graded / "feedback" / "faulty" / CHAPTER / "exercises.html").read_text("utf-8")
    assert "This looks like: softmax over a single logit" in page


@pytest.mark.slow
def test_an_unsolved_exercise_is_told_so_whatever_was_done_to_its_check(graded):
    page = (graded / "feedback" / "tampered" / CHAPTER / "exercises.html").read_text("utf-8")
    assert "not implemented yet" in page


def test_teaching_md_names_the_commands_that_ran():
    text = (REPOSITORY / "TEACHING.md").read_text("utf-8")
    commands = re.findall(r"^uv run --all-groups nbgrader (\w+)", text, flags=re.M)
    assert commands == ["generate_assignment", "autograde", "generate_feedback", "export"]


def test_what_nbgrader_writes_stays_out_of_git():
    ignored = (REPOSITORY / ".gitignore").read_text("utf-8").split()
    assert {"gradebook.db", "submitted/", "autograded/", "feedback/", "my_work/", "grades.csv"} <= set(ignored)
