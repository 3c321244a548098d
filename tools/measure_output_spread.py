"""Measure how far the notebooks' numbers move between processors and thread counts, and whether the tolerances hold.

    uv run --all-groups tools/measure_output_spread.py                             # all lessons and solutions
    uv run --all-groups tools/measure_output_spread.py notebooks/01_basics.ipynb   # one of them

Runs each notebook with one and two threads, limited to AVX2 and to AVX-512, without writing it. Prints each cell whose
outputs moved: by how much at most, what share of its tolerance that is, and what lies beyond it. A tolerance should be
at least twice the spread (a share of 50 %), and so narrow that no sentence of the lesson turns around within it.
The AVX-512 runs need a processor that has it. Ends with 1 if a tolerance does not hold.
"""

import argparse
import os
import sys
import tempfile
from decimal import Decimal
from pathlib import Path

import nbformat
from compare_outputs import Tolerance, cell_differences, comparable_texts, paired_numbers, value_of
from nbclient import NotebookClient
from nbformat import NotebookNode
from rewrite_notebooks import REPOSITORY, RUN_ENVIRONMENT, normalise, sources

ENVIRONMENTS = {
    f"{threads} thread(s), {aten}": RUN_ENVIRONMENT
    | {"OMP_NUM_THREADS": threads, "ATEN_CPU_CAPABILITY": aten, "ONEDNN_MAX_CPU_ISA": onednn}
    for aten, onednn in (("avx2", "AVX2"), ("avx512", "AVX512_CORE"))
    for threads in ("1", "2")
}


def run(path: Path, environment: dict[str, str]) -> NotebookNode:
    """The notebook, executed in an environment and normalised. A failed assertion is one of its outputs."""
    os.environ.update(environment, COURSE_WORK_DIR=str(Path(tempfile.mkdtemp(), "my_work")))
    notebook = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": path.parent}}
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources=resources, allow_errors=True).execute()
    return normalise(notebook)


def deviations(recorded: list[NotebookNode], found: list[NotebookNode], tolerance: Tolerance) -> list[tuple[str, str]]:
    """The recorded numbers that came out differently, each with what came, from all texts that have a counterpart."""
    expected, came = comparable_texts(recorded), comparable_texts(found)
    texts = [pair for kind in expected for pair in zip(expected[kind], came[kind], strict=False)]
    return [(a, b) for pair in texts for a, b in paired_numbers(*pair, tolerance) if value_of(a) != value_of(b)]


def distance(pair: tuple[str, str]) -> Decimal:
    recorded, found = pair
    return abs(value_of(found) - value_of(recorded))


def share_of_tolerance(pair: tuple[str, str], tolerance: Tolerance) -> Decimal:
    limit = tolerance.limit(pair[0])
    return distance(pair) / limit if limit else Decimal("inf")


def measure(path: Path) -> tuple[int, list[tuple[Decimal, str]]]:
    """Print what moved in a notebook; return how many cells broke their tolerance, and every share of one used."""
    runs = {name: run(path, environment) for name, environment in ENVIRONMENTS.items()}
    broken, shares = 0, []
    for i, cell in enumerate(nbformat.read(path, as_version=4).cells):
        if cell.cell_type != "code":
            continue
        tolerance = Tolerance.of_cell(cell)
        ignored = "nbval-ignore-output" in cell.metadata.get("tags", [])
        found = {name: executed.cells[i].outputs for name, executed in runs.items()}
        moved = [pair for outputs in found.values() for pair in deviations(cell.outputs, outputs, tolerance)]
        if moved:
            widest = max(moved, key=lambda pair: share_of_tolerance(pair, tolerance))
            share = share_of_tolerance(widest, tolerance)
            how_far = "ignored" if ignored else f"{share:.0%} of the tolerance"
            text = f"{cell.id}: {widest[0]} → {widest[1]}, {how_far}"
            print(text)
            shares += [] if ignored else [(share, f"{path.name}, {text}")]
        messages = {name: cell_differences(cell.outputs, outputs, tolerance) for name, outputs in found.items()}
        if any(messages.values()) and not ignored:
            broken += 1
            for name in filter(messages.get, messages):
                print(f"{cell.id}: BEYOND THE TOLERANCE with {name}", *messages[name], sep="\n    ")
    return broken, shares


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebooks", nargs="*", type=Path, help="default: all lessons and solutions")
    broken, shares = 0, []
    for path in [path.resolve() for path in parser.parse_args().notebooks] or sources():
        print(f"\n{path.relative_to(REPOSITORY)}", flush=True)
        broken_here, shares_here = measure(path)
        broken, shares = broken + broken_here, shares + shares_here
    if shares:
        print(f"\nwidest of all: {max(shares)[1]}")
    sys.exit(f"{broken} cell(s) beyond their tolerance" if broken else 0)


if __name__ == "__main__":
    main()
