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

    A bar without an iterable is moved by hand, with `.update(n)`, up to `total` units. With `enabled=False` it shows
    nothing and costs nothing.
    """
    from tqdm.auto import tqdm

    quiet = os.environ.get("COURSE_QUIET", "") not in ("", "0")
    return tqdm(iterable, total=total, desc=description, unit=unit, disable=quiet or not enabled)
