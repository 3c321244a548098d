"""Checkpoints of a training: whole or not there, and verified when they are read."""

import os
import zipfile
from pathlib import Path
from typing import Any

import torch

from course_utils.foundation.files import write_atomically

FORMAT = 1
_OPTIMIZER = {"state": dict, "param_groups": list}


def save_checkpoint(path: str | os.PathLike, state: dict[str, Any]) -> None:
    """Write tensors, numbers and strings in nested dicts and lists."""
    write_atomically(path, lambda file: torch.save(state, file))


def load_checkpoint(path: str | os.PathLike) -> dict[str, Any]:
    """Read what `save_checkpoint` wrote. Nothing in the file is executed.

    Raises:
        ValueError: it is damaged, incomplete, of another version, or something else; the message says what to do.
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
    if fault := _fault_of(state):
        raise ValueError(f"{path} is not a checkpoint that this course can go on from: {fault}. {advice}")
    return state


def _fault_of(state: dict[str, Any]) -> str | None:
    """What is wrong with a checkpoint's contents, as far as that can be told without the model; None if nothing is."""
    settings, log = state["settings"], state["log"]
    if state["format"] != FORMAT:
        return f"its format is {state['format']}, and this version of the course reads format {FORMAT}"
    for name, kind in {"epochs": int, "seed": int, "amp": bool}.items():
        if type(settings.get(name)) is not kind:
            return f"its settings have no {name}"
    if not all(isinstance(column, list) for column in log.values()) or "epochs" not in log:
        return "its log is none"
    finished = len(log["epochs"])
    if log["epochs"] != list(range(1, finished + 1)) or any(len(column) != finished for column in log.values()):
        return "the columns of its log do not have one row for each epoch"
    if not 1 <= finished <= settings["epochs"]:
        return f"its log has {finished} epochs of a training of {settings['epochs']}"
    for name, value in state["model"].items():
        if not isinstance(value, torch.Tensor) or (value.is_floating_point() and value.isnan().any()):
            return f"its weights {name} are NaN or no tensor"
    if not all(isinstance(state["optimizer"].get(name), kind) for name, kind in _OPTIMIZER.items()):
        return "it holds no state of an optimizer"
    return None
