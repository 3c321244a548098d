"""The package as a whole: importing it is cheap, and a wrong name is told the right ones."""

import subprocess
import sys

import pytest


def test_importing_the_package_loads_nothing_heavy():
    """What a chapter needs loads when it is used; benchmarks/import_cost.py measures the seconds."""
    code = (
        "import sys, course_utils.basics, course_utils.iris, course_utils.optimization, course_utils.checks;"
        "print([m for m in ('pandas', 'seaborn', 'sklearn', 'matplotlib', 'torchinfo') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_unknown_attribute_of_the_package():
    import course_utils

    assert "basics" in dir(course_utils)
    with pytest.raises(AttributeError, match="it has advanced, basics"):
        course_utils.chapter_one  # noqa: B018
