"""Kernels that start in a moment: forked from a process that has imported torch and its friends once.

A kernel needs seconds of processor time for such imports alone, and the tests start one for each lesson and each
notebook of solutions. Each is still a process of its own with an empty namespace; what they share is that
`import torch` finds it loaded. `nbval_tolerance.py` uses this on Linux, where it is safe to fork such a process.
tests/test_browser.py starts JupyterLab's own kernels, which import everything anew.

Run as a program, this file is the process that forks. It reads requests, one JSON object a line, and each new kernel
answers with its process id as soon as it listens.
"""

import atexit
import functools
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from importlib import import_module
from pathlib import Path

from jupyter_client.blocking import BlockingKernelClient

# What other people wrote; the course's own modules are imported by each kernel. None of these starts a thread. pandas
# is left out on purpose, and scikit-learn, which imports it: it asks while it loads whether it is in a notebook.
PRELOADED = (
    *("ipykernel.kernelapp", "ipykernel.ipkernel", "ipywidgets", "IPython.core.pylabtools", "numpy", "scipy.stats"),
    *("torch", "torchvision", "torchinfo", "matplotlib.figure", "matplotlib.backends.backend_agg"),
)


class WarmKernel:
    """What nbval asks of a `jupyter_client.KernelManager`, for one forked kernel."""

    def __init__(self, cwd: str, *, startup_timeout: float = 60) -> None:
        # The kernel chooses its ports and writes them to this file, so that two kernels never draw the same one.
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "kernel.json"
            self.pid = ask(forking_process(), {"connection_file": str(file), "cwd": cwd}, startup_timeout)
            self.connection = json.loads(file.read_text("utf-8"))

    def client(self) -> BlockingKernelClient:
        client = BlockingKernelClient()
        client.load_connection_info(self.connection)
        return client

    def is_alive(self) -> bool:
        with suppress(ProcessLookupError):
            os.kill(self.pid, 0)
            return True
        return False

    def interrupt_kernel(self) -> None:
        os.kill(self.pid, signal.SIGINT)

    def shutdown_kernel(self, now: bool = True) -> None:
        """As nbval wants it, at once: there is nothing to save."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)


@functools.cache
def forking_process() -> subprocess.Popen:
    """Started when the first kernel is wanted; it ends, and its kernels with it, when this process ends."""
    process = subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    atexit.register(process.communicate)  # closes its input, and waits
    return process


def ask(process: subprocess.Popen, request: dict[str, str], timeout: float) -> int:
    """The process id of a new kernel.

    Raises:
        RuntimeError: no kernel got ready in time.
    """
    process.stdin.write(json.dumps(request).encode() + b"\n")
    process.stdin.flush()
    ready, _, _ = select.select([process.stdout], [], [], timeout)
    answer = process.stdout.readline() if ready else b""
    if not answer:
        process.kill()  # an answer that comes late must not be taken for the next kernel's
        forking_process.cache_clear()
        raise RuntimeError(f"no kernel got ready within {timeout:g} seconds; its request was {request}")
    return int(answer)


def fork_on_request() -> None:
    sys.path.remove(str(Path(__file__).parent))  # a kernel does not find the tools
    answers = os.dup(sys.stdout.fileno())
    silence = os.open(os.devnull, os.O_RDWR)
    os.dup2(silence, sys.stdout.fileno())
    os.environ.setdefault("MPLBACKEND", "module://matplotlib_inline.backend_inline")  # as ipykernel sets it, but later
    for name in PRELOADED:
        import_module(name)
    signal.signal(signal.SIGCHLD, reap)
    for line in sys.stdin:
        request = json.loads(line)
        if os.fork() == 0:
            os.dup2(silence, sys.stdin.fileno())
            run_kernel(request["connection_file"], request["cwd"], answers)


def reap(*_) -> None:
    """Take note of the kernels that have ended, so that nothing remains of them."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def run_kernel(connection_file: str, cwd: str, answers: int) -> None:
    """What `python -m ipykernel_launcher` does, in a forked process; it does not return."""
    from ipykernel.kernelapp import IPKernelApp

    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        os.chdir(cwd)
        app = IPKernelApp.instance(parent_handle=os.getppid())  # it ends when its parent does
        app.initialize(["-f", connection_file])
        os.write(answers, f"{os.getpid()}\n".encode())
        app.start()
    finally:
        os._exit(0)


if __name__ == "__main__":
    fork_on_request()
