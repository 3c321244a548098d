"""Rewrite the notebooks as they are committed: format, run, normalise, and generate the exercises.

    uv run --all-groups tools/rewrite_notebooks.py                                 # everything
    uv run --all-groups tools/rewrite_notebooks.py notebooks/01_basics.ipynb       # one of them

Run it after every change to a notebook or to code that a notebook shows. Outputs are committed because nbval compares
with them (numbers within a tolerance, see compare_outputs.py), and because a code host shows them.
"""

import argparse
import base64
import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from compare_outputs import WIDGET_VIEW
from nbclient import NotebookClient
from nbformat import NotebookNode

REPOSITORY = Path(__file__).parent.parent
# What a recorded output depends on. The tests run notebooks in the same environment (tests/conftest.py).
RUN_ENVIRONMENT = {
    "COURSE_PROFILE": "small",  # chapter 6 on generated pictures, the same on every machine
    "COURSE_QUIET": "1",  # no progress bars: their text holds timings
    "CUDA_VISIBLE_DEVICES": "",  # recorded on the CPU, so that the outputs mean one thing
    "OMP_NUM_THREADS": "1",  # sums in one order
    "ATEN_CPU_CAPABILITY": "avx2",  # the same vector code on old and new processors
    "ONEDNN_MAX_CPU_ISA": "AVX2",
}
# "course" holds how outputs are compared: a cell's tolerance, or why its output is ignored (compare_outputs.py).
KEPT_CELL_METADATA = ("course", "deletable", "editable", "mystnb", "nbgrader", "tags")


def sources() -> list[Path]:
    """The notebooks that are written by hand: lessons and solutions."""
    return sorted([*REPOSITORY.glob("notebooks/*.ipynb"), *REPOSITORY.glob("solutions/*/*.ipynb")])


def normalise(notebook: NotebookNode) -> NotebookNode:
    """Take out what differs between machines and runs and means nothing; doing it twice changes nothing more."""
    notebook = nbformat.from_dict(notebook)
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
    )
    count = 0
    for cell in notebook.cells:
        cell.metadata = _kept_metadata(cell.metadata)
        if cell.cell_type != "code":
            continue
        executed = cell.execution_count is not None
        count += executed
        cell.execution_count = count if executed else None
        cell.outputs = _normalise_outputs(cell.outputs, cell.execution_count)
    return notebook


def _kept_metadata(metadata: NotebookNode) -> NotebookNode:
    kept = {name: value for name, value in metadata.items() if name in KEPT_CELL_METADATA}
    # JupyterLab stores here what is folded at the moment; only folded source is meant to stay.
    if metadata.get("jupyter", {}).get("source_hidden"):
        kept["jupyter"] = {"source_hidden": True}
    return nbformat.from_dict(kept)


def _normalise_outputs(outputs: list[NotebookNode], execution_count: int | None) -> list[NotebookNode]:
    kept: list[NotebookNode] = []
    for output in outputs:
        if WIDGET_VIEW in output.get("data", {}):
            continue  # a widget without its state shows nothing; the static figure beside it does
        if output.output_type == "stream" and kept and kept[-1].get("name") == output.name:
            kept[-1].text += output.text
            continue
        if "metadata" in output:
            output.metadata = NotebookNode()
        if output.output_type == "execute_result":
            output.execution_count = execution_count
        kept.append(output)
    for output in kept:
        if output.output_type == "stream":
            # A progress bar rewrites its line; keep what it showed last, as a terminal does.
            output.text = re.sub(r"[^\n]*\r(?=[^\n])", "", output.text)
        if "image/png" in output.get("data", {}):
            output.data["image/png"] = _smaller(output.data["image/png"])
    return kept


def _smaller(png: str) -> str:
    """A large picture with at most 256 colours, a third of the bytes. In a running notebook it keeps all of them."""
    from PIL import Image

    if len(png) < 40_000:
        return png
    image = Image.open(io.BytesIO(base64.b64decode(png)))
    if image.mode == "P":
        return png
    smaller = io.BytesIO()
    image.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(smaller, "png", optimize=True)
    return base64.b64encode(smaller.getvalue()).decode() + "\n"


def execute(path: Path, *, timeout: int = 300) -> float:
    """Run a notebook in its own folder and write it back normalised; return the seconds. `timeout` is of a cell."""
    notebook = nbformat.read(path, as_version=4)
    start = time.perf_counter()
    resources = {"metadata": {"path": path.parent}}
    client = NotebookClient(notebook, timeout=timeout, kernel_name="python3", resources=resources)
    client.execute()
    seconds = time.perf_counter() - start
    write(normalise(notebook), path)
    return seconds


def write(notebook: NotebookNode, path: Path) -> None:
    """Write a notebook in one step, so that an interruption leaves the old one."""
    nbformat.validate(notebook)
    temporary = path.with_suffix(".ipynb.new")
    temporary.write_text(nbformat.writes(notebook).rstrip("\n") + "\n", encoding="utf-8", newline="\n")
    temporary.replace(path)


# nbgrader's own command for one chapter after the other, in one process: it takes two seconds to start, and as long
# again for a grammar that it does not need (see nbval_tolerance.py).
GENERATE = """
import sys

sys.modules["rfc3987_syntax"] = None
from nbgrader.apps.generateassignmentapp import GenerateAssignmentApp

for chapter in sys.argv[1:]:
    app = GenerateAssignmentApp()
    app.initialize([chapter, "--no-db", "--force"])
    app.start()
"""


def generate_exercises(root: Path = REPOSITORY) -> None:
    """Let nbgrader make `exercises/` out of `solutions/` below `root`, without its database."""
    chapters = sorted(path.name for path in (root / "solutions").iterdir() if path.is_dir())
    for chapter in chapters:
        shutil.rmtree(root / "exercises" / chapter, ignore_errors=True)
    done = subprocess.run([sys.executable, "-c", GENERATE, *chapters], cwd=root, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"nbgrader could not generate the exercises:\n{done.stderr}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebooks", nargs="*", type=Path, help="default: all lessons and solutions")
    paths = [path.resolve() for path in parser.parse_args().notebooks] or sources()
    os.environ.update(RUN_ENVIRONMENT, COURSE_WORK_DIR=str(Path(tempfile.mkdtemp(), "my_work")))
    for command in (["check", "--fix", "--quiet"], ["format", "--quiet"]):
        if subprocess.run([sys.executable, "-m", "ruff", *command, *map(str, paths)], cwd=REPOSITORY).returncode:
            sys.exit("ruff found something that it cannot fix by itself; see above")
    for path in paths:
        print(f"{path.relative_to(REPOSITORY)}: {execute(path):.1f} s")
    if any("solutions" in path.parts for path in paths):
        generate_exercises()
        print("exercises/ generated")


if __name__ == "__main__":
    main()
