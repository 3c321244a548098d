"""nbval with our comparison can fail: what changes in a recorded notebook turns red, what may change stays green."""

import copy
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_notebook, new_output
from rewrite_notebooks import REPOSITORY, execute, write

TABLE = "import pandas as pd\npd.DataFrame({'f1': [0.5, 0.75]})"
FIGURE = """from course_utils.foundation.plotting import plot_curves
plot_curves({"train": ([1, 2], [3.0, 0.5])}, xlabel="epoch", ylabel="nats", title="Loss")"""
SLIDER = """from ipywidgets import interact
interact(lambda x: print(x), x=3);"""
WIDE = {"course": {"tolerance": {"relative": 0.1, "why": "trained"}}}
FREE = {"course": {"tolerance": {"any_quoted_text": True, "why": "generated text"}}}


@dataclass
class Change:
    """A cell, a change of what is recorded for it, and whether the tests must notice."""

    source: str
    before: str = ""
    after: str = ""
    red: bool = True
    metadata: dict | None = None
    kinds: tuple[str, ...] = ("text/html", "text/plain")

    def apply(self, cell: NotebookNode) -> None:
        for output in cell.outputs:
            texts = output if output.output_type == "stream" else output.data
            for kind in ("text", *self.kinds):
                if kind in texts:
                    texts[kind] = texts[kind].replace(self.before, self.after)


class Dropped(Change):
    def apply(self, cell: NotebookNode) -> None:
        cell.outputs = []


class Added(Change):
    def apply(self, cell: NotebookNode) -> None:
        cell.outputs = [*cell.outputs, new_output("display_data", {"text/plain": "more"})]


ROW = "    <tr>\n      <th>1</th>\n      <td>0.75</td>\n    </tr>\n"
CHANGES = {
    "nothing": Change("print(0.25, 'words', 7)", red=False),
    "a digit within the printed precision": Change("print(f'{0.8675:.3f}')", "0.868", "0.869", red=False),
    "a digit beyond it": Change("print(f'{0.8675:.3f}')", "0.868", "0.870"),
    "a whole number": Change("print(450)", "450", "451"),
    "a number within the cell's tolerance": Change("print(450)", "450", "480", red=False, metadata=WIDE),
    "a number beyond the cell's tolerance": Change("print(450)", "450", "510", metadata=WIDE),
    "a word": Change("print('loss 0.5')", "loss", "lost"),
    "quoted text that the cell leaves free": Change(
        "print('p = 0.5', repr('of'))", "'of'", "'to'", red=False, metadata=FREE
    ),
    "a word beside free quoted text": Change("print('p = 0.5', repr('of'))", "p =", "q =", metadata=FREE),
    "a word beside a tolerance": Change("print('loss 0.5')", "loss", "lost", metadata=WIDE),
    "a missing number": Change("print(0.25, 0.75)", "0.25 ", ""),
    "a sign": Change("print(0.25, -0.75)", "-0.75", "0.75"),
    "a dropped output": Dropped("21 * 2"),
    "an added output": Added("21 * 2"),
    "a table's cell within the printed precision": Change(TABLE, "0.75", "0.74", red=False),
    "a table's cell beyond it": Change(TABLE, "0.75", "0.79", kinds=("text/html",)),
    "a table's dropped row": Change(TABLE, ROW, "", kinds=("text/html",)),
    "a table's index": Change(TABLE, "<th>1</th>", "<th>2</th>", kinds=("text/html",)),
    "a figure's title": Change(FIGURE, '"Loss"', '"Lost"'),
    "a figure's number of lines": Change(FIGURE, "lines: 1", "lines: 2"),
    "a widget, whose inside is not recorded": Change(SLIDER, red=False),
    "an output recorded for a widget's cell": Added(SLIDER),
}


@pytest.fixture(scope="module")
def recorded(tmp_path_factory) -> NotebookNode:
    """A notebook with one cell for each change, executed and written as the lessons are."""
    cells = [new_code_cell(change.source, metadata=change.metadata or {}) for change in CHANGES.values()]
    path = tmp_path_factory.mktemp("recorded") / "recorded.ipynb"
    write(new_notebook(cells=cells), path)
    try:
        execute(path, timeout=60)
    except (RuntimeError, TimeoutError):
        # Kernels that start at the same moment may draw the same TCP port, and then one client waits in vain.
        execute(path, timeout=60)
    return nbformat.read(path, as_version=4)


def run_nbval(folder: Path) -> dict[str, list[bool]]:
    """Run nbval over a folder's notebooks, outside this project's settings: notebook → did each of its cells pass?"""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", str(folder)]
    options = ["-v", "-p", "nbval_tolerance", "--nbval", "--nbval-current-env"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "tools")])}
    done = subprocess.run(
        [*command, *options, str(folder)], cwd=folder, env=environment, capture_output=True, text=True
    )
    found: dict[str, list[bool]] = {}
    for name, outcome in re.findall(r"(\w+)(?:\.|::)ipynb::Cell \d+ (PASSED|FAILED)", done.stdout):
        found.setdefault(name, []).append(outcome == "PASSED")
    assert done.returncode == (not all(map(all, found.values()))), done.stdout
    return found


@pytest.mark.slow
def test_each_change_is_red_or_green_as_it_should_be(recorded, tmp_path):
    changed = copy.deepcopy(recorded)
    for cell, before, change in zip(changed.cells, recorded.cells, CHANGES.values(), strict=True):
        change.apply(cell)
        assert cell != before or not change.before, f"this change changes nothing: {change}"
    write(recorded, tmp_path / "unchanged.ipynb")
    write(changed, tmp_path / "changed.ipynb")
    passed = run_nbval(tmp_path)
    assert dict(zip(CHANGES, passed["unchanged"], strict=True)) == dict.fromkeys(CHANGES, True)
    assert dict(zip(CHANGES, passed["changed"], strict=True)) == {name: not c.red for name, c in CHANGES.items()}
