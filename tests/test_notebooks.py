"""The recorded notebooks: executed, normalised, readable diffs; and a proof that nbval can fail."""

import copy
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from rewrite_notebooks import generate_exercises, normalise, sources, write

REPOSITORY = Path(__file__).parent.parent
RECORDED = sources()
EXERCISES = sorted(REPOSITORY.glob("exercises/*/*.ipynb"))


def name_of(path: Path) -> str:
    return str(path.relative_to(REPOSITORY))


@pytest.mark.parametrize("path", RECORDED, ids=name_of)
class TestRecorded:
    def test_every_code_cell_was_executed_in_order(self, path):
        code = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
        assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
        assert not [output for cell in code for output in cell.outputs if output.output_type == "error"]

    def test_the_normaliser_changes_nothing(self, path, tmp_path):
        copy_of_it = tmp_path / path.name
        write(normalise(nbformat.read(path, as_version=4)), copy_of_it)
        assert copy_of_it.read_bytes() == path.read_bytes()

    def test_ids_are_names(self, path):
        ids = [cell.id for cell in nbformat.read(path, as_version=4).cells]
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
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type != "code" or "nbval-ignore-output" in cell.metadata.get("tags", []):
                continue
            for output in cell.outputs:
                data = output.get("data", {})
                text = output.get("text", "") + data.get("text/plain", "") + data.get("text/html", "")
                assert not re.search(r"\d\.\d{5,}", text), f"{cell.id}: {text[:200]}"

    def test_size(self, path):
        assert path.stat().st_size < 600_000


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


@pytest.mark.parametrize("path", EXERCISES, ids=name_of)
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
        notebook = nbformat.read(RECORDED[0], as_version=4)
        once = normalise(copy.deepcopy(notebook))
        assert normalise(copy.deepcopy(once)) == once


def small_notebook() -> nbformat.NotebookNode:
    """Three cells as they are recorded: a printed number, a table, a plain value."""
    cells = [
        new_code_cell("print(f'{0.8675:.3f}')", execution_count=1, id="number"),
        new_code_cell("import pandas as pd\npd.DataFrame({'f1': [0.5, 0.75]})", execution_count=2, id="table"),
        new_code_cell("21 * 2", execution_count=3, id="value"),
    ]
    html = (
        "<div>\n<style scoped>\n    .dataframe tbody tr th:only-of-type {\n        vertical-align: middle;\n    }\n\n"
        "    .dataframe tbody tr th {\n        vertical-align: top;\n    }\n\n    .dataframe thead th {\n"
        '        text-align: right;\n    }\n</style>\n<table border="1" class="dataframe">\n  <thead>\n'
        '    <tr style="text-align: right;">\n      <th></th>\n      <th>f1</th>\n    </tr>\n  </thead>\n  <tbody>\n'
        "    <tr>\n      <th>0</th>\n      <td>0.50</td>\n    </tr>\n    <tr>\n      <th>1</th>\n      <td>0.75</td>\n"
        "    </tr>\n  </tbody>\n</table>\n</div>"
    )
    cells[0].outputs = [new_output("stream", name="stdout", text="0.868\n")]
    table = {"text/html": html, "text/plain": "     f1\n0  0.50\n1  0.75"}
    cells[1].outputs = [new_output("execute_result", table, execution_count=2)]
    cells[2].outputs = [new_output("execute_result", {"text/plain": "42"}, execution_count=3)]
    return normalise(new_notebook(cells=cells))


def change_digit(notebook):
    notebook.cells[0].outputs[0].text = "0.869\n"


def change_table_cell(notebook):
    data = notebook.cells[1].outputs[0].data
    data["text/html"] = data["text/html"].replace("<td>0.75</td>", "<td>0.76</td>")


def drop_output(notebook):
    notebook.cells[2].outputs = []


def strip(notebook):
    for cell in notebook.cells:
        cell.outputs, cell.execution_count = [], None


def run_nbval(folder: Path) -> dict[str, list[bool]]:
    """Run nbval over a folder's notebooks, outside this project's settings: notebook → did each of its cells pass?"""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "-c",
        os.devnull,
        "--rootdir",
        str(folder),
        "-v",
    ]
    options = ["--nbval", "--nbval-current-env", "--nbval-sanitize-with", str(REPOSITORY / "tests/nbval_sanitize.cfg")]
    done = subprocess.run([*command, *options, str(folder)], cwd=folder, capture_output=True, text=True)
    found: dict[str, list[bool]] = {}
    for name, outcome in re.findall(r"(\w+)(?:\.|::)ipynb::Cell \d+ (PASSED|FAILED)", done.stdout):
        found.setdefault(name, []).append(outcome == "PASSED")
    assert done.returncode == (not all(map(all, found.values()))), done.stdout
    return found


class TestTheHarnessCanFail:
    """Each change to a recorded notebook turns the tests red; the unchanged one is green."""

    def test_unchanged_is_green_and_each_change_is_red(self, tmp_path):
        write(small_notebook(), tmp_path / "unchanged.ipynb")
        for mutate in (change_digit, change_table_cell, drop_output):
            notebook = small_notebook()
            mutate(notebook)
            write(notebook, tmp_path / f"{mutate.__name__}.ipynb")
        assert run_nbval(tmp_path) == {
            "unchanged": [True, True, True],
            "change_digit": [False, True, True],
            "change_table_cell": [True, False, True],
            "drop_output": [True, True, False],
        }

    def test_a_stripped_notebook_is_red(self, tmp_path):
        """nbval alone would pass it, because there is nothing to compare; the test of execution counts does not."""
        notebook = small_notebook()
        strip(notebook)
        path = tmp_path / "stripped.ipynb"
        write(notebook, path)
        with pytest.raises(AssertionError):
            TestRecorded().test_every_code_cell_was_executed_in_order(path)

    def test_the_suite_runs_every_recorded_notebook(self):
        """nbval is on, and its paths hold all lessons and solutions."""
        import tomllib

        options = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["tool"]["pytest"]["ini_options"]
        assert "--nbval --nbval-current-env" in options["addopts"]
        assert {"notebooks", "solutions"} <= set(options["testpaths"])
        assert {path.relative_to(REPOSITORY).parts[0] for path in RECORDED} == {"notebooks", "solutions"}
