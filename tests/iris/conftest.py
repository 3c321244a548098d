"""What the tests of this chapter share."""

import pytest

from course_utils.data import Split
from course_utils.iris import load_iris_split


@pytest.fixture(scope="session")
def split() -> Split:
    return load_iris_split()
