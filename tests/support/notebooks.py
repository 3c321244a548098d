"""The committed notebooks, each read and validated once a process: that takes longer than most of their tests."""

import functools
from pathlib import Path

import nbformat
from nbformat import NotebookNode


@functools.cache
def read(path: Path) -> NotebookNode:
    """A notebook that all tests share, so nobody may change it: to do so, take a `copy.deepcopy`."""
    return nbformat.read(path, as_version=4)


def code_cells(path: Path) -> list[NotebookNode]:
    return [cell for cell in read(path).cells if cell.cell_type == "code"]


def text_of(path: Path) -> str:
    """What a notebook says outside of its code."""
    return "\n".join(cell.source for cell in read(path).cells if cell.cell_type == "markdown")
