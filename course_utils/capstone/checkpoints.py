"""Checkpoints of a training: whole or not there, and verified when they are read."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

import torch

from course_utils.foundation.files import write_atomically


def save_checkpoint(path: str | os.PathLike, state: dict[str, Any]) -> None:
    """Write tensors, numbers and strings in nested dicts and lists."""
    write_atomically(path, lambda file: torch.save(state, file))


def load_checkpoint(path: str | os.PathLike) -> dict[str, Any]:
    """Read what `save_checkpoint` wrote. Nothing in the file is executed.

    Raises:
        ValueError: the file is damaged, or something else; the message says what to do.
    """
    advice = "Delete it to start anew, or name another checkpoint."
    if Path(path).is_dir():
        raise ValueError(f"{path} is a folder; a checkpoint is a file")
    try:
        with zipfile.ZipFile(path) as archive:  # torch's format; each part carries a checksum
            damaged = archive.testzip()
        if damaged is not None:
            raise ValueError(f"the checksum of {damaged} is wrong")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (ValueError, zipfile.BadZipFile, RuntimeError, EOFError, NotImplementedError) as error:
        raise ValueError(f"{path} is not a checkpoint of this course, or it is damaged ({error}). {advice}") from error
    except Exception as error:  # weights_only refuses foreign pickles with errors of many kinds
        raise ValueError(f"{path} is not a checkpoint of this course ({type(error).__name__}). {advice}") from error
    parts = {"format": int, "settings": dict, "log": dict, "model": dict, "optimizer": dict}
    if not isinstance(state, dict) or not all(isinstance(state.get(name), kind) for name, kind in parts.items()):
        raise ValueError(f"{path} is not a checkpoint of this course. {advice}")
    return state
