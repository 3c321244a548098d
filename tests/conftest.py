"""The environment of every test: quiet, on the CPU, one thread a worker, the same as the recorded notebooks."""

import os

from rewrite_notebooks import RUN_ENVIRONMENT

os.environ.update(RUN_ENVIRONMENT)  # before torch is imported, and inherited by every notebook's kernel

import pytest
from hypothesis import settings

from tests.support.models import ModelWithState, model_with_state

# Property tests draw the same examples in every run, so that a red run can be repeated.
settings.register_profile("course", deadline=None, derandomize=True, max_examples=40)
settings.load_profile("course")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest chains first, so that the workers end together: the browser's tests, then the notebooks."""
    items.sort(key=lambda item: (item.path.stem not in ("test_browser", "test_site"), item.path.suffix != ".ipynb"))


def pytest_terminal_summary(terminalreporter) -> None:
    """A skipped check is never silent."""
    for report in terminalreporter.getreports("skipped"):
        terminalreporter.write_line(f"SKIPPED, so not checked here: {report.nodeid}: {report.longrepr[2]}", yellow=True)


@pytest.fixture
def stateful_model() -> ModelWithState:
    return model_with_state()
