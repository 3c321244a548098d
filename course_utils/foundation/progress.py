"""One progress bar for the whole course, on tqdm, with one switch that silences it."""

import os
from collections.abc import Iterable
from typing import Any


def progress_bar(
    iterable: Iterable | None = None,
    *,
    total: int | None = None,
    description: str = "",
    unit: str = "it",
    enabled: bool = True,
) -> Any:
    """A tqdm bar: a widget in a notebook, text in a terminal.

    The environment variable `COURSE_QUIET=1` silences every bar of the course. Tests and recorded notebooks use it,
    because a bar's text holds timings that differ in every run.

    Args:
        iterable: what to walk through; None for a bar that is moved by hand with `.update(n)`.
        total: number of units, where the iterable has no length.
        description: the text before the bar.
        unit: what is counted.
        enabled: False returns a bar that shows nothing and costs nothing.
    """
    from tqdm.auto import tqdm

    quiet = os.environ.get("COURSE_QUIET", "") not in ("", "0")
    return tqdm(iterable, total=total, desc=description, unit=unit, disable=quiet or not enabled)
