"""The recorded notebooks: executed in order, normalised, with readable diffs, and hardly anything ignored."""

import copy
import json
import math
import re
import tomllib
from pathlib import Path

import pytest
from compare_outputs import Tolerance
from nbformat import NotebookNode
from rewrite_notebooks import REPOSITORY, normalise, sources, write

from tests.support.notebooks import code_cells, read

RECORDED = sources()


def name_of(path: Path) -> str:
    return str(path.relative_to(REPOSITORY))


def is_ignored(cell: NotebookNode) -> bool:
    return "nbval-ignore-output" in cell.metadata.get("tags", [])


def was_executed_in_order(path: Path) -> bool:
    counts = [cell.execution_count for cell in code_cells(path)]
    return counts == list(range(1, len(counts) + 1))


@pytest.mark.parametrize("path", RECORDED, ids=name_of)
class TestRecorded:
    def test_every_code_cell_was_executed_in_order(self, path):
        assert was_executed_in_order(path)
        outputs = [output for cell in code_cells(path) for output in cell.outputs]
        assert not [output for output in outputs if output.output_type == "error"]

    def test_the_normaliser_changes_nothing(self, path, tmp_path):
        copy_of_it = tmp_path / path.name
        write(normalise(copy.deepcopy(read(path))), copy_of_it)
        assert copy_of_it.read_bytes() == path.read_bytes()

    def test_ids_are_names(self, path):
        ids = [cell.id for cell in read(path).cells]
        assert len(set(ids)) == len(ids)
        assert not [i for i in ids if re.fullmatch(r"[0-9a-f]{8}", i) or re.fullmatch(r"[0-9a-f-]{32,36}", i)]

    def test_no_widget_state_no_times_no_machine(self, path):
        text = path.read_text("utf-8")
        notebook = json.loads(text)
        assert set(notebook["metadata"]) == {"kernelspec", "language_info"}
        assert notebook["metadata"]["language_info"] == {"name": "python"}
        for word in ("widget-view+json", "widget-state", "iopub", "/ipykernel_", "Traceback"):
            assert word not in text

    def test_no_unasserted_digits(self, path):
        """Numbers that come out of training are printed with four decimals at most."""
        for cell in code_cells(path):
            for output in [] if is_ignored(cell) else cell.outputs:
                data = output.get("data", {})
                text = output.get("text", "") + data.get("text/plain", "") + data.get("text/html", "")
                assert not re.search(r"\d\.\d{5,}", text), f"{cell.id}: {text[:200]}"

    def test_size(self, path):
        assert path.stat().st_size < 600_000

    def test_how_outputs_are_compared_is_stated_with_its_reason(self, path):
        for cell in code_cells(path):
            Tolerance.of_cell(cell)  # raises unless limits and reason are there
            course = cell.metadata.get("course", {})
            assert set(course) <= {"tolerance", "ignored"}, cell.id
            assert bool(course.get("ignored")) == is_ignored(cell), f"{cell.id}: the tag and its reason go together"
            assert "NBVAL_" not in cell.source, f"{cell.id}: the tag has room for a reason beside it, a comment has not"

    def test_at_most_a_tenth_of_the_outputs_is_ignored(self, path):
        """Rounded up: one cell may be ignored in any notebook."""
        with_outputs = [cell for cell in code_cells(path) if cell.outputs]
        assert sum(map(is_ignored, with_outputs)) <= math.ceil(len(with_outputs) / 10)


def test_a_stripped_notebook_does_not_count_as_executed(tmp_path):
    """nbval alone would pass it, because there is nothing to compare."""
    notebook = copy.deepcopy(read(RECORDED[0]))
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    write(notebook, tmp_path / "stripped.ipynb")
    assert not was_executed_in_order(tmp_path / "stripped.ipynb")


def test_at_most_a_tenth_of_all_outputs_is_ignored():
    with_outputs = [cell for path in RECORDED for cell in code_cells(path) if cell.outputs]
    assert sum(map(is_ignored, with_outputs)) <= len(with_outputs) / 10


def test_the_suite_runs_every_recorded_notebook():
    """nbval is on, compares with our tolerances, and its paths hold all lessons and solutions."""
    options = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["tool"]["pytest"]["ini_options"]
    assert "-p nbval_tolerance --nbval --nbval-current-env" in options["addopts"]
    assert {"notebooks", "solutions"} <= set(options["testpaths"])
    assert {path.relative_to(REPOSITORY).parts[0] for path in RECORDED} == {"notebooks", "solutions"}
