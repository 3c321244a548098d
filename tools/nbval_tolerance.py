"""A pytest plugin: nbval runs the notebooks as ever, but compares their outputs as `compare_outputs.py` does.

Their kernels come from `warm_kernels.py`, which saves a minute. pyproject.toml loads this plugin with
`-p nbval_tolerance`. All of nbval's options and tags keep their meaning.
"""

# ruff: noqa: E402 (the imports stand below what makes them fast)
import os
import sys
import tempfile

# nbformat imports jsonschema, and that imports whatever can check the format of a string. This package compiles a
# grammar of web addresses for two seconds, in every process of the tests; the schema of notebooks asks for none.
sys.modules.setdefault("rfc3987_syntax", None)
# Many processes import the course and its tests: what the first of them compiles, the others find, also where the
# environment forbids to write it down. git ignores it.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

import nbval.kernel
from compare_outputs import Tolerance, cell_differences
from nbformat import NotebookNode
from nbval.plugin import IPyNbCell
from rewrite_notebooks import RUN_ENVIRONMENT
from warm_kernels import WarmKernel

# The kernels inherit it, also when pytest is given notebooks only and tests/conftest.py stays out.
os.environ.update(RUN_ENVIRONMENT)
os.environ.setdefault("COURSE_WORK_DIR", os.path.join(tempfile.mkdtemp(), "my_work"))


def compare_outputs(self: IPyNbCell, test: list[NotebookNode], ref: list[NotebookNode], skip_compare=None) -> bool:
    """Takes the place of nbval's method of this name: is what came (`test`) what is recorded (`ref`)?"""
    outputs, found = self.sanitize_outputs(ref), self.sanitize_outputs(test)
    self.comparison_traceback = cell_differences(outputs, found, Tolerance.of_cell(self.cell))
    return not self.comparison_traceback


def start_kernel(startup_timeout=60, kernel_name="python", cwd=None, **options):
    """Takes the place of nbval's `start_new_kernel`, for kernels of this environment."""
    if kernel_name != nbval.kernel.CURRENT_ENV_KERNEL_NAME:
        return start_new_kernel(startup_timeout, kernel_name, cwd=cwd, **options)
    manager = WarmKernel(cwd, startup_timeout=startup_timeout)
    client = manager.client()
    client.start_channels()
    client.wait_for_ready(timeout=startup_timeout)
    return manager, client


# nbval has no hook for the comparison nor for its kernels, so they are replaced: here, and nowhere else.
IPyNbCell.compare_outputs = compare_outputs
start_new_kernel = nbval.kernel.start_new_kernel
if sys.platform == "linux":
    nbval.kernel.start_new_kernel = start_kernel
