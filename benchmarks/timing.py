"""One clock for every benchmark: candidates take turns, figures come with their range, results go to a JSON file.

report = Report("numerics")
timing = take_turns({"ours": ours, "torch": theirs}, rounds=7)
report.row("clipping gradients, against torch", timing.ratios("ours", "torch"), "times", at_most=1.2)
report.save()  # writes benchmarks/results/numerics.json
"""

import json
import multiprocessing
import platform
import statistics
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"


def seconds(function: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """How long one call takes, on a clock of your choice; `time.process_time` does not count what others compute."""
    start = clock()
    function()
    return clock() - start


@dataclass(frozen=True)
class Timing:
    """The seconds of each candidate, one for each round."""

    seconds: dict[str, list[float]]

    def ratios(self, side: str, to: str) -> list[float]:
        """For each round: the seconds of one candidate, divided by those of another."""
        mine, theirs = self.seconds[side], self.seconds[to]
        rounds = max(len(mine), len(theirs))
        # A candidate that was measured once stands beside every round of the other.
        mine, theirs = (times * rounds if len(times) == 1 else times for times in (mine, theirs))
        return [a / b for a, b in zip(mine, theirs, strict=True)]


def take_turns(
    candidates: Mapping[str, Callable[[], object]],
    *,
    rounds: int = 5,
    calls: int = 1,
    once: Collection[str] = (),
    clock: Callable[[], float] = time.perf_counter,
) -> Timing:
    """Time candidates in turns, round after round, so that a machine that gets busy slows down all of them.

    Args:
        candidates: name → function without arguments. Each is called once before the first round, to warm up.
        rounds: how often each is timed.
        calls: how many calls make one round. A single call of a few milliseconds is doubled by any interruption.
        once: names of candidates so slow that one call without warming up must do.
        clock: gives seconds.
    """
    for name, function in candidates.items():
        if name not in once:
            function()
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for i in range(rounds):
        for name, function in candidates.items():
            if i == 0 or name not in once:
                times[name].append(seconds(partial(_repeat, function, calls), clock) / calls)
    return Timing(times)


def _repeat(function: Callable[[], object], calls: int) -> None:
    for _ in range(calls):
        function()


def peak_memory(prepare: Callable[..., Callable[[], object]], *arguments: object) -> float:
    """The most that one call adds to the memory of its process, its result included, in MB (10⁶ bytes).

    The call runs in a process of its own: memory that earlier calls gave back to the allocator would hide its growth.

    Args:
        prepare: a function at the top of a module. It makes what the call needs, and returns the call.
        arguments: of `prepare`.
    """
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak_memory_here, (prepare, torch.get_num_threads(), arguments))


def _peak_memory_here(prepare: Callable[..., Callable[[], object]], threads: int, arguments: tuple) -> float:
    import psutil

    torch.set_num_threads(threads)
    process, done = psutil.Process(), threading.Event()
    function = prepare(*arguments)
    before = peak = process.memory_info().rss

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.001):
            peak = max(peak, process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    result = function()
    peak = max(peak, process.memory_info().rss)  # with the result alive
    done.set()
    watcher.join()
    del result
    return (peak - before) / 1e6


class Report:
    """The rows of one benchmark file, printed as they are measured and saved together at the end."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.rows: list[dict] = []

    def row(
        self,
        subject: str,
        values: Sequence[float],
        unit: str,
        *,
        at_most: float | None = None,
        at_least: float | None = None,
    ) -> None:
        """One figure: the median of `values` with its range, and the target that the median should reach.

        Args:
            subject: what was measured, on what.
            values: one for each round.
            unit: "s", "MB", "times", …
            at_most, at_least: the target; without one the row only informs.
        """
        median = statistics.median(values)
        met = (at_most is None or median <= at_most) and (at_least is None or median >= at_least)
        self.rows.append(
            {
                "subject": subject,
                "median": median,
                "low": min(values),
                "high": max(values),
                "unit": unit,
                "at_most": at_most,
                "at_least": at_least,
                "met": met,
            }
        )
        targets = {"at most": at_most, "at least": at_least}
        wanted = " and ".join(f"{words} {target:g}" for words, target in targets.items() if target is not None)
        print(
            f"{subject:64s} {median:9.4g} {unit:6s} ({min(values):.4g} to {max(values):.4g})"
            f"{'   wanted: ' + wanted if wanted else ''}{'' if met else '   MISSED'}",
            flush=True,
        )

    def compare(
        self,
        subject: str,
        candidates: Mapping[str, Callable[[], object]],
        *,
        at_most: Mapping[str, float | None] | None = None,
        times_as_fast: Mapping[str, float | None] | None = None,
        **options: Any,
    ) -> Timing:
        """Rows that time the first candidate, and hold it against others.

        Args:
            subject: what is done, on what.
            candidates: as in `take_turns`; the first one is ours.
            at_most: name → the largest share of that candidate's time which ours may take; None only informs.
            times_as_fast: name → how many times as long that candidate must take; None only informs.
            options: of `take_turns`.
        """
        timing = take_turns(candidates, **options)
        ours = next(iter(candidates))
        self.row(subject, timing.seconds[ours], "s")
        for name, target in (at_most or {}).items():
            self.row(f"{subject}: ours / {name}", timing.ratios(ours, name), "times", at_most=target)
        for name, target in (times_as_fast or {}).items():
            self.row(f"{subject}: {name} / ours", timing.ratios(name, ours), "times", at_least=target)
        return timing

    def save(self) -> None:
        """Write the rows, and where they were measured, to `benchmarks/results/<name>.json`."""
        RESULTS.mkdir(exist_ok=True)
        record = {"name": self.name, "threads": torch.get_num_threads(), "torch": torch.__version__}
        record |= {"python": platform.python_version(), "processor": processor(), "rows": self.rows}
        (RESULTS / f"{self.name}.json").write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", "utf-8")
        missed = [row["subject"] for row in self.rows if not row["met"]]
        print(f"targets missed: {len(missed)}" + "".join(f"\n  {subject}" for subject in missed))


def processor() -> str:
    """The processor's name where the system tells it, and the instructions that torch uses on it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{name}, {torch.backends.cpu.get_cpu_capability()}"
