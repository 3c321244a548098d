"""What `import course_utils` adds to `import torch`, in milliseconds and MiB of memory.

    uv run --all-groups benchmarks/import_cost.py

Each figure is the median over fresh processes.
"""

import subprocess
import sys

from timing import Report

ROUNDS = 7
CODE = """
import time, psutil, torch
memory, start = psutil.Process().memory_info().rss, time.perf_counter()
{statement}
print((time.perf_counter() - start) * 1e3, (psutil.Process().memory_info().rss - memory) / 2**20)
"""


def costs(statement: str) -> tuple[list[float], list[float]]:
    """Milliseconds and MiB of a statement after `import torch`, of each round."""
    runs = []
    for _ in range(ROUNDS):
        done = subprocess.run([sys.executable, "-c", CODE.format(statement=statement)], capture_output=True, check=True)
        runs.append([float(word) for word in done.stdout.split()])
    milliseconds, mebibytes = zip(*runs, strict=True)
    return milliseconds, mebibytes


def main() -> None:
    report = Report("import_cost")
    # The package's own import is the one with a target: chapters bring in what they need.
    for statement, targets in {
        "import course_utils": (50, 15),
        "import course_utils.basics": (None, None),
        "import course_utils.iris": (None, None),
    }.items():
        for values, unit, at_most in zip(costs(statement), ("ms", "MiB"), targets, strict=True):
            report.row(statement, values, unit, at_most=at_most)
    report.save()


if __name__ == "__main__":
    main()
