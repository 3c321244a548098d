"""Trained once for all tests of the homework."""

import pytest

from course_utils.homework import Comparison, compare
from tests.support.homework import GRID, OPTIONS


@pytest.fixture(scope="session")
def small() -> Comparison:
    """Four settings, five seeds, accuracy."""
    return compare(GRID, **OPTIONS)


@pytest.fixture(scope="session")
def with_loss() -> Comparison:
    """Two settings, three seeds, loss; the runs of the second setting diverge."""
    return compare({"lr": [0.1, 1e25]}, metric="loss", seeds=3, epochs=12, progress=False)
