"""Files of the homework: written whole or not at all, read without trusting them."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

from course_utils.foundation.files import write_atomically


def write_new(path: str | os.PathLike, content: bytes, *, overwrite: bool = False) -> Path:
    """Write a file in one step: whatever stops the program, `path` holds the old contents or the new ones.

    Raises:
        FileExistsError: `path` holds something else, and `overwrite` is False.
    """
    path = Path(path)
    if path.exists() and not overwrite and path.read_bytes() != content:
        raise FileExistsError(f"{path} exists and holds something else; name another file, or pass overwrite=True")
    return write_atomically(path, lambda file: file.write(content))


def read_limited(path: str | os.PathLike, max_bytes: int) -> bytes:
    """The contents of an ordinary file.

    Raises:
        ValueError: no ordinary file, or one of more than `max_bytes`.
    """
    path = Path(path)
    if not path.is_file():  # a pipe or a device would block or never end
        raise ValueError("there is no such file" if not path.exists() else "this is not an ordinary file")
    with path.open("rb") as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise ValueError(f"the file is too large: more than {max_bytes / 2**20:g} MiB")
    return content


def parse_json(content: bytes) -> Any:
    """Strict JSON: no NaN or Infinity, no number beyond float64, no name given twice in an object.

    Raises:
        ValueError: what is wrong, in words.
    """
    try:
        return json.loads(
            content.decode(),
            parse_constant=_refuse_constant,
            parse_float=_finite_float,
            object_pairs_hook=_without_duplicates,
        )
    except UnicodeDecodeError:
        raise ValueError("the file is not text in UTF-8") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"the file is not JSON, or it is cut off: {error}") from None
    except RecursionError:
        raise ValueError("the file is nested too deeply") from None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"the file holds {name}, which is not JSON; what is not a number is written as null")


def _finite_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:20]} is too large")
    return value


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("an object of the file gives a name twice")
    return found


def to_json(value: Any) -> str:
    """One line of strict JSON; the same value gives the same text."""
    return json.dumps(value, allow_nan=False, separators=(",", ":"))
