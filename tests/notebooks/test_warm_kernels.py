"""Forked kernels are as good as new ones: each a process of its own, in its folder, with an empty namespace."""

import os
import sys
import time
from collections.abc import Iterator

import pytest
from nbval.kernel import CURRENT_ENV_KERNEL_NAME, RunningKernel
from warm_kernels import WarmKernel

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="nbval starts its own kernels here")


@pytest.fixture
def kernel(tmp_path) -> Iterator[RunningKernel]:
    """As nbval starts it for a notebook."""
    kernel = RunningKernel(CURRENT_ENV_KERNEL_NAME, cwd=str(tmp_path))
    yield kernel
    if kernel.is_alive():
        kernel.stop()


def outputs(kernel: RunningKernel, code: str) -> dict[str, dict]:
    """What a cell shows: type of message → content."""
    found, message = {}, kernel.execute_cell_input(code)
    while found.get("status", {}).get("execution_state") != "idle":
        answer = kernel.get_message("iopub", timeout=30)
        if answer["parent_header"].get("msg_id") == message:
            found[answer["msg_type"]] = answer["content"]
    return found


def printed(kernel: RunningKernel, code: str) -> str:
    return outputs(kernel, code)["stream"]["text"].strip()


def test_a_kernel_starts_in_its_folder_with_nothing_but_the_imports(kernel, tmp_path):
    assert isinstance(kernel.km, WarmKernel)
    assert printed(kernel, "import os; print(os.getcwd())") == str(tmp_path)
    assert printed(kernel, "print('torch' in globals(), 'torch' in __import__('sys').modules)") == "False True"
    assert printed(kernel, "import sys; print([p for p in sys.path if p.endswith('tools')])") == "[]"
    # Tables are printed as in a notebook: pandas was not imported before there was one.
    assert printed(kernel, "import pandas; print(pandas.get_option('display.max_columns'))") == "20"
    shown = outputs(kernel, "import matplotlib.pyplot as plt; plt.plot([1, 2]);")
    assert "image/png" in shown["display_data"]["data"]


def test_two_kernels_share_nothing_that_they_change(kernel, tmp_path):
    other = RunningKernel(CURRENT_ENV_KERNEL_NAME, cwd=str(tmp_path))
    change = "import torch; x = 1; torch.manual_seed(5); torch.set_default_dtype(torch.float64)"
    outputs(kernel, change)
    look = "import torch; print('x' in globals(), torch.initial_seed() == 5, torch.get_default_dtype())"
    assert printed(kernel, look) == "True True torch.float64"
    assert printed(other, look) == "False False torch.float32"
    assert other.km.pid != kernel.km.pid
    other.stop()
    assert kernel.is_alive()


def test_a_dead_kernel_is_noticed(kernel):
    assert kernel.is_alive()
    os.kill(kernel.km.pid, 9)
    deadline = time.monotonic() + 20
    while kernel.is_alive() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not kernel.is_alive()


def test_a_kernel_that_runs_too_long_can_be_interrupted(kernel):
    message = kernel.execute_cell_input("import time\nprint('begun', flush=True)\ntime.sleep(600)")
    while kernel.get_message("iopub", timeout=30)["msg_type"] != "stream":
        pass
    kernel.interrupt()
    kernel.await_reply(message, timeout=30)


def test_a_kernel_that_does_not_get_ready_is_an_error(tmp_path):
    with pytest.raises(RuntimeError, match="no kernel got ready"):
        WarmKernel(str(tmp_path / "no such folder"), startup_timeout=0.5)
