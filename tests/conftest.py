"""The environment of every test: quiet, on the CPU, one thread a worker, the same as the recorded notebooks."""

import os
import tempfile

from rewrite_notebooks import RUN_ENVIRONMENT

os.environ.update(RUN_ENVIRONMENT)  # before torch is imported, and inherited by every notebook's kernel
os.environ.setdefault("COURSE_WORK_DIR", os.path.join(tempfile.mkdtemp(), "my_work"))

import pytest
import torch
from hypothesis import settings
from torch import nn

pytest.register_assert_rewrite("tests.support")  # an assert that fails there shows its values too

# Property tests draw the same examples in every run, so that a red run can be repeated.
settings.register_profile("course", deadline=None, derandomize=True, max_examples=40)
settings.load_profile("course")


def pytest_terminal_summary(terminalreporter) -> None:
    """A skipped check is never silent."""
    for report in terminalreporter.getreports("skipped"):
        terminalreporter.write_line(f"SKIPPED, so not checked here: {report.nodeid}: {report.longrepr[2]}", yellow=True)


class ModelWithState(nn.Module):
    """A classifier with everything a careless function can disturb: dropout, BatchNorm, mixed modes, gradients."""

    def __init__(self, in_features: int = 4, num_classes: int = 3) -> None:
        super().__init__()
        self.first = nn.Linear(in_features, 8)
        self.norm = nn.BatchNorm1d(8)
        self.dropout = nn.Dropout(0.5)
        self.last = nn.Linear(8, num_classes)
        self.fail = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.dropout(self.norm(self.first(x)))
        if self.fail:
            raise RuntimeError("failed on purpose, half way")
        return self.last(hidden)


@pytest.fixture
def stateful_model() -> ModelWithState:
    torch.manual_seed(0)
    model = ModelWithState()
    model(torch.rand(6, 4)).sum().backward()
    model.norm.eval()  # frozen on purpose, while the rest is in train mode
    return model
