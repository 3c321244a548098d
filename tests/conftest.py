"""The environment of every test: quiet, on the CPU, one thread a worker, the same as the recorded notebooks."""

import gc
import os
from collections.abc import Generator

from rewrite_notebooks import RUN_ENVIRONMENT

os.environ.update(RUN_ENVIRONMENT)  # before torch is imported, and inherited by every notebook's kernel

import pytest
from hypothesis import settings

from tests.support.models import ModelWithState, model_with_state

# Property tests draw the same examples in every run, so that a red run can be repeated.
settings.register_profile("course", deadline=None, derandomize=True, max_examples=40)
settings.load_profile("course")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What is imported and collected stays to the end: no search for garbage goes through it, now or later."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_sessionfinish() -> None:
    gc.unfreeze()  # or what is still alive at the end is reported as a leak


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


@pytest.fixture
def few_shapes(monkeypatch) -> None:
    """Without the real images, `load_cifar10` draws 600 of its own instead of 12,000, which take three seconds."""
    monkeypatch.setattr("course_utils.data.cifar10._SHAPES_TRAIN", 500)
    monkeypatch.setattr("course_utils.data.cifar10._SHAPES_TEST", 100)
