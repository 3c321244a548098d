"""Files that are whole or not there: written aside, then put in place in one step."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO


def write_atomically(path: str | os.PathLike, write: Callable[[BinaryIO], object]) -> Path:
    """Let `write(file)` fill a temporary file beside `path`, force it to the disk, and rename it to `path`.

    Whatever stops the program, `path` holds the old contents or the new ones, never a part.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # A short name of its own: the file's name with something added could be longer than the file system allows.
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".writing-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.umask(mask := os.umask(0))  # the only way to read it
        os.chmod(temporary, 0o666 & ~mask)  # mkstemp's own permissions would hide the file from others
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path


def check_writable(path: str | os.PathLike) -> None:
    """Raise now what writing a file to `path` would raise later. Nothing is left behind, and no folder is made.

    Raises:
        ValueError: a name that is too long, a folder that cannot be written to, a file where a folder should be.
    """
    try:
        whole = Path(path).absolute()
        folder = next(parent for parent in whole.parents if parent.exists())
        longest = os.pathconf(folder, "PC_NAME_MAX") if hasattr(os, "pathconf") else 255
        for name in whole.parts:
            if len(os.fsencode(name)) > longest:
                raise OSError(f"the name {name[:20]}… has {len(os.fsencode(name))} bytes, and {longest} are allowed")
        if "\0" in str(whole):
            raise OSError("a name must not hold the character 0")
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"?")
    except (OSError, ValueError) as error:
        raise ValueError(f"no file can be written to {str(path)[:200]!r} ({error}); name another place") from error
