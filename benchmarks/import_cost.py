"""What `import course_utils` adds to `import torch`, in milliseconds and MiB of memory.

    uv run --all-groups benchmarks/import_cost.py

Each figure is the median over fresh processes. Wanted: at most 50 ms and 15 MiB.
"""

import statistics
import subprocess
import sys

ROUNDS = 7
CODE = """
import time, psutil, torch
memory, start = psutil.Process().memory_info().rss, time.perf_counter()
{statement}
print((time.perf_counter() - start) * 1e3, (psutil.Process().memory_info().rss - memory) / 2**20)
"""


def cost(statement: str) -> tuple[float, float]:
    """Median milliseconds and MiB of a statement after `import torch`."""
    runs = []
    for _ in range(ROUNDS):
        done = subprocess.run([sys.executable, "-c", CODE.format(statement=statement)], capture_output=True, check=True)
        runs.append([float(word) for word in done.stdout.split()])
    return tuple(statistics.median(column) for column in zip(*runs, strict=True))


def main() -> None:
    for statement in ("import course_utils", "import course_utils.basics", "import course_utils.iris"):
        milliseconds, mebibytes = cost(statement)
        print(f"{statement:28s} {milliseconds:6.1f} ms {mebibytes:6.1f} MiB")


if __name__ == "__main__":
    main()
