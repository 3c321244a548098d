"""Getting started: does everything work here, and a learner's own copies of the exercises."""

import os
import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from course_utils.foundation.devices import choose_device
from course_utils.foundation.plotting import find_cjk_font

REPOSITORY = Path(__file__).parents[2]
PACKAGES = ("torch", "torchvision", "scikit-learn", "pandas", "matplotlib", "seaborn", "jupyterlab", "ipywidgets")


def self_check() -> None:
    """Print in words what works on this machine: versions, device, data, fonts, disk."""
    missing = [name for name in PACKAGES if _installed_version(name) is None]
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    print(f"Python {platform.python_version()} on {platform.system()}")
    print("Packages: " + ", ".join(f"{name} {_installed_version(name)}" for name in PACKAGES if name not in missing))
    if missing:
        print("PROBLEM: missing " + ", ".join(missing) + "; run the README's first command again")
        return
    import torch

    from course_utils.data import generate_images, load_split, load_text

    split = load_split("iris")
    print(f"Device: {choose_device().type}, {torch.get_num_threads()} CPU threads; the whole course runs on the CPU")
    print(f"Real data: {len(split.x_train)} + {len(split.x_test)} iris flowers")
    print(f"Real text: {len(load_text().characters):,} characters")
    print(f"Generated pictures: {len(generate_images(8))} drawn")
    print(f"Font for Chinese labels: {find_cjk_font() or 'none found; you need one only for Chinese figures'}")
    print(f"Free disk space: {free:.0f} GB")
    if free < 1:
        print("PROBLEM: less than 1 GB of disk is free, and some chapters write files")
    else:
        print("Everything that the lessons need is here.")


def _installed_version(name: str) -> str | None:
    try:
        return version(name).partition("+")[0]
    except PackageNotFoundError:
        return None


def start_exercises(chapter: str | None = None, *, folder: str | os.PathLike | None = None) -> list[Path]:
    """Copy the exercises to a folder of your own, `my_work/` beside `notebooks/`. What is there is never overwritten.

    An update of the course may change `exercises/`; your copies stay as they are. To begin an exercise anew, rename or
    delete your copy and call this again. The paths of the new copies are returned.

    Args:
        chapter: for example "01_basics"; None copies all chapters.
        folder: where to; None is the environment variable COURSE_WORK_DIR, or `my_work/`.

    Raises:
        ValueError: an unknown chapter.
        FileNotFoundError: the course's folder `exercises/` is not there (an installed package has none).
    """
    source = REPOSITORY / "exercises"
    if not source.is_dir():
        raise FileNotFoundError("the folder exercises/ is not beside course_utils/; work in a clone of the course")
    chapters = sorted(path.name for path in source.iterdir() if path.is_dir())
    if chapter is not None and chapter not in chapters:
        raise ValueError(f"chapter must be one of {', '.join(map(repr, chapters))}, but is {chapter!r}")
    target = Path(folder or os.environ.get("COURSE_WORK_DIR") or REPOSITORY / "my_work")

    copied, kept = [], 0
    for name in [chapter] if chapter else chapters:
        for notebook in sorted((source / name).glob("*.ipynb")):
            copy = target / name / notebook.name
            copy.parent.mkdir(parents=True, exist_ok=True)
            try:
                # "x" creates the file or fails if it is there: no moment between looking and writing.
                with copy.open("xb") as file:
                    file.write(notebook.read_bytes())
                copied.append(copy)
            except FileExistsError:
                kept += 1
    print(f"{len(copied)} exercise notebook(s) copied to {target.name}/, {kept} of yours kept as they are.")
    return copied
