"""Speed of chapter 4's functions on many numbers, against torch's own.

    uv run --all-groups benchmarks/numerics.py

One process, one thread, whose processor time is taken; both sides of a ratio run in turns on the same data.
"""

import itertools
import time
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from timing import Report
from torch import nn

from course_utils.pitfalls import detect_nan_inf, gradient_clipping, normalize_output


def parameters_with_gradients(count: int, size: int) -> list[nn.Parameter]:
    parameters = [nn.Parameter(torch.zeros(size)) for _ in range(count)]
    for parameter in parameters:
        parameter.grad = torch.randn(size)
    return parameters


def limits_below(start: float) -> Iterator[float]:
    """Each a little less than the one before, so that there is something to clip in every call."""
    return (start * 0.999**i for i in itertools.count())


def clipping(report: Report) -> None:
    for count, size in ((1_000, 64), (200, 10_000), (1, 20_000_000)):
        for clipped in (True, False):
            mine, torchs = parameters_with_gradients(count, size), parameters_with_gradients(count, size)
            start = 1.0 if clipped else 1e30
            my_limits, torchs_limits = limits_below(start), limits_below(start)

            def by_torch(parameters=torchs, limits=torchs_limits) -> float:
                return float(nn.utils.clip_grad_norm_(parameters, next(limits), error_if_nonfinite=True))

            report.compare(
                f"gradient_clipping, {count:,} x {size:,}, {'too long' if clipped else 'short enough'}",
                {"ours": lambda p=mine, limits=my_limits: gradient_clipping(p, next(limits)), "torch": by_torch},
                at_most={"torch": 1.2},
                calls=1 if size > 1_000_000 else 10,
                rounds=15,
                clock=time.process_time,
            )


def normalizing(report: Report) -> None:
    for shape in ((10_000, 512), (1_000, 10_000), (1_000_000, 3)):
        x = torch.randn(shape)
        report.compare(
            f"normalize_output, {shape[0]:,} x {shape[1]:,}, float32",
            {"ours": lambda x=x: normalize_output(x), "F.normalize": lambda x=x: F.normalize(x, dim=-1)},
            at_most={"F.normalize": 1.2},
            rounds=15,
            clock=time.process_time,
        )


def checking(report: Report) -> None:
    values = torch.randn(10_000_000)
    report.compare(
        "detect_nan_inf, 10,000,000 values",
        {"ours": lambda: detect_nan_inf(values), "isnan, isinf": lambda: values.isnan().any() or values.isinf().any()},
        at_most={"isnan, isinf": 0.125},
        rounds=7,
        clock=time.process_time,
    )


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    report = Report("numerics")
    for benchmark in (clipping, normalizing, checking):
        benchmark(report)
    report.save()


if __name__ == "__main__":
    main()
