"""The tool that writes the notebooks: what it takes out, what it keeps, and what nbgrader makes of the solutions."""

import copy
import shutil
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from rewrite_notebooks import REPOSITORY, generate_exercises, normalise, sources

EXERCISES = sorted(REPOSITORY.glob("exercises/*/*.ipynb"))


@pytest.fixture(scope="module")
def generated(tmp_path_factory) -> Path:
    """Exercises made anew from the committed solutions."""
    root = tmp_path_factory.mktemp("generated")
    shutil.copy(REPOSITORY / "nbgrader_config.py", root)
    for path in REPOSITORY.glob("solutions/*/*.ipynb"):
        (root / "solutions" / path.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, root / "solutions" / path.parent.name)
    generate_exercises(root)
    return root


@pytest.mark.parametrize("path", EXERCISES, ids=lambda path: path.parent.name)
def test_exercises_are_what_nbgrader_makes_of_the_solutions(path, generated):
    assert (generated / path.relative_to(REPOSITORY)).read_bytes() == path.read_bytes()
    text = path.read_text("utf-8")
    assert "BEGIN SOLUTION" not in text
    assert "HIDDEN TESTS" not in text


class TestNormaliser:
    def test_takes_out_what_differs_between_runs(self):
        cell = new_code_cell("1", execution_count=17, metadata={"execution": {"iopub": "now"}, "tags": ["keep"]})
        cell.outputs = [
            new_output("stream", name="stderr", text="50%\r100%"),
            new_output("stream", name="stderr", text="\n"),
            new_output(
                "display_data", {"application/vnd.jupyter.widget-view+json": {"model_id": "x"}, "text/plain": "w"}
            ),
            new_output("execute_result", {"text/plain": "1"}, execution_count=17, metadata={"isolated": True}),
        ]
        notebook = new_notebook(cells=[new_markdown_cell("a"), cell], metadata={"widgets": {}, "orig_nbformat": 4})
        result = normalise(notebook).cells[1]
        assert result.execution_count == 1
        assert result.metadata == {"tags": ["keep"]}
        assert [output.output_type for output in result.outputs] == ["stream", "execute_result"]
        assert result.outputs[0].text == "100%\n"
        assert (result.outputs[1].execution_count, result.outputs[1].metadata) == (1, {})

    def test_is_idempotent(self):
        notebook = nbformat.read(sources()[0], as_version=4)
        once = normalise(copy.deepcopy(notebook))
        assert normalise(copy.deepcopy(once)) == once

    def test_keeps_the_metadata_that_mean_something_and_nothing_else(self):
        kept = {
            "course": {"tolerance": {"absolute": 0.02, "why": "trained"}},
            "mystnb": {"figure": {"name": "loss"}},
            "nbgrader": {"grade": True},
            "tags": ["hide-input"],
            "jupyter": {"source_hidden": True},
        }
        folded = {"jupyter": {"source_hidden": True, "outputs_hidden": True}, "collapsed": True, "vscode": {}}
        cell = new_code_cell(metadata=kept | folded)
        assert normalise(new_notebook(cells=[cell])).cells[0].metadata == kept
        cell.metadata = {"jupyter": {"outputs_hidden": True}}
        assert normalise(new_notebook(cells=[cell])).cells[0].metadata == {}
