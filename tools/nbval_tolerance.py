"""A pytest plugin: nbval runs the notebooks as ever, but compares their outputs as `compare_outputs.py` does.

pyproject.toml loads it with `-p nbval_tolerance`. All of nbval's options and tags keep their meaning.
"""

import os
import tempfile

from compare_outputs import Tolerance, cell_differences
from nbformat import NotebookNode
from nbval.plugin import IPyNbCell
from rewrite_notebooks import RUN_ENVIRONMENT

# The kernels inherit it, also when pytest is given notebooks only and tests/conftest.py stays out.
os.environ.update(RUN_ENVIRONMENT)
os.environ.setdefault("COURSE_WORK_DIR", os.path.join(tempfile.mkdtemp(), "my_work"))


def compare_outputs(self: IPyNbCell, test: list[NotebookNode], ref: list[NotebookNode], skip_compare=None) -> bool:
    """Takes the place of nbval's method of this name: is what came (`test`) what is recorded (`ref`)?"""
    outputs, found = self.sanitize_outputs(ref), self.sanitize_outputs(test)
    self.comparison_traceback = cell_differences(outputs, found, Tolerance.of_cell(self.cell))
    return not self.comparison_traceback


# nbval has no hook for the comparison, so its method is replaced: here, and nowhere else.
IPyNbCell.compare_outputs = compare_outputs
