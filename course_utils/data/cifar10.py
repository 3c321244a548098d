"""CIFAR-10 for the capstone: a verified local copy, a download, or, offline, the course's own images."""

import hashlib
import os
import pickle
import socket
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

import torch
from torch import Tensor

from course_utils.data.images import generate_images
from course_utils.foundation.arguments import check_choice, check_count, check_number
from course_utils.foundation.results import Result, short
from course_utils.foundation.seeding import make_generator

SOURCES = ("auto", "cifar10", "shapes")
DOWNLOAD_TIMEOUT = 30.0  # seconds without any data
_FOLDER = "cifar-10-batches-py"
_SHAPES_TRAIN, _SHAPES_TEST = 10_000, 2_000


@dataclass(frozen=True, eq=False, repr=False)
class ImageSet(Result):
    """Images with their classes.

    Attributes:
        images: uint8 (N, 3, 32, 32), RGB.
        target: class indices, int64 (N,).
    """

    images: Tensor
    target: Tensor

    per_sample: ClassVar = ("images", "target")
    _repr_html_ = None  # a table of pixel values says nothing


@dataclass(frozen=True, eq=False, repr=False)
class ImageData:
    """An image data set in three parts.

    Attributes:
        train, validation, test: `ImageSet`s. Validation is a part of the official training set.
        class_names: C names, indexed by `target`.
        name: "cifar10", or "shapes" for the course's own images.
        mean, std: of the training images, float32 (3,), RGB, in units in which a pixel lies in [0, 1].
    """

    train: ImageSet
    validation: ImageSet
    test: ImageSet
    class_names: tuple[str, ...]
    name: str
    mean: Tensor
    std: Tensor

    def limit(self, num_images: int) -> Self:
        """The same data with at most the first `num_images` of each part, for a quick look; mean and std stay."""
        check_count(num_images, "num_images")
        parts = (self.train, self.validation, self.test)
        first = [ImageSet(part.images[:num_images], part.target[:num_images]) for part in parts]
        return ImageData(*first, self.class_names, self.name, self.mean, self.std)

    def __repr__(self) -> str:
        sizes = ", ".join(f"{part}={len(getattr(self, part)):,}" for part in ("train", "validation", "test"))
        return f"ImageData({self.name}: {sizes} images of {short(self.train.images[0])})"


def load_cifar10(
    root: str | os.PathLike | None = None, *, source: str = "auto", validation_fraction: float = 0.1, seed: int = 0
) -> ImageData:
    """Load CIFAR-10, 60,000 images of ten kinds of things, and set a validation part aside.

    Looked for, in this order: `root`, the folder in the environment variable COURSE_DATA_DIR, and a per-user cache. A
    folder counts if it holds `cifar-10-batches-py`. If none does, the data are downloaded into the cache (170 MB,
    through torchvision). Without a network, "auto" draws the course's own images instead, and warns.

    Every file is compared with its published MD5 sum before it is opened. A file that differs is an error: nothing is
    replaced by anything else behind your back. Source: Krizhevsky (2009), "Learning multiple layers of features from
    tiny images".

    Args:
        root: the folder that holds, or shall hold, `cifar-10-batches-py`.
        source: "auto", "cifar10" (an error without a network) or "shapes" (generated, nothing is read or downloaded).
        validation_fraction: share of the training images set aside, the same in each class; strictly between 0 and 1.
        seed: of the choice of the validation images.

    Raises:
        ValueError: a truncated, changed or missing file; the message names it and says what to do.
        ConnectionError: source="cifar10", and the download failed.
    """
    check_choice(source, "source", SOURCES)
    check_number(validation_fraction, "validation_fraction", above=0, below=1)
    check_count(seed, "seed", minimum=0)
    folder = None if source == "shapes" else _find(root)
    if folder is None and source != "shapes":
        folder = _download(Path(root) if root is not None else cache_folder(), required=source == "cifar10")
    if folder is None:
        if source == "auto":
            warnings.warn(
                "NOT CIFAR-10: no local copy was found and none could be downloaded, so these are the course's own "
                "generated images of ten shapes. Every figure below is about them, not about CIFAR-10.",
                stacklevel=2,
            )
        return _shapes(validation_fraction, seed)
    return _read(folder, validation_fraction, seed)


def cache_folder() -> Path:
    """Where downloads are kept: below XDG_CACHE_HOME, or ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "neural-network-outputs"


def _published_files() -> dict[str, str]:
    """File name → MD5 sum, as torchvision publishes them."""
    from torchvision.datasets import CIFAR10

    return dict(CIFAR10.train_list + CIFAR10.test_list) | {CIFAR10.meta["filename"]: CIFAR10.meta["md5"]}


def _find(root: str | os.PathLike | None) -> Path | None:
    candidates = [root, os.environ.get("COURSE_DATA_DIR") or None, cache_folder()]
    folders = [Path(candidate) / _FOLDER for candidate in candidates if candidate is not None]
    return next((folder for folder in folders if folder.exists()), None)


def _verify(folder: Path) -> None:
    for name, md5 in _published_files().items():
        path = folder / name
        advice = f"Delete the folder {folder} and call load_cifar10 again to download it anew, or name another root."
        if not path.is_file():
            raise ValueError(f"{path} is missing, so this copy of CIFAR-10 is not complete. {advice}")
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "md5").hexdigest()
        if found != md5:
            raise ValueError(f"{path} is truncated or not the published file (MD5 {found}, not {md5}). {advice}")


def _download(root: Path, *, required: bool) -> Path | None:
    """Fetch into a folder of its own, and move it to its place only when it is complete and verified."""
    try:
        missing = [folder for folder in (root, *root.parents) if not folder.exists()]
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if required:
            raise ValueError(f"{root} cannot be made ({error}), so nothing can be downloaded to it") from error
        return None
    try:
        return _download_into(root, required=required)
    finally:
        with suppress(OSError):  # not empty: the download is there
            for folder in missing:  # without it, the folders made for it go again
                folder.rmdir()


def _download_into(root: Path, *, required: bool) -> Path | None:
    from torchvision.datasets import CIFAR10

    with tempfile.TemporaryDirectory(dir=root, prefix="download-") as folder:
        try:
            with _socket_timeout(DOWNLOAD_TIMEOUT):
                CIFAR10(folder, download=True)
        except (OSError, RuntimeError) as error:  # no network, a server that is silent, a broken archive
            if required:
                raise ConnectionError(
                    f"CIFAR-10 could not be downloaded ({error}). Check the network and call again: it starts anew. "
                    f"Or put the folder {_FOLDER} of the official archive into {root}."
                ) from error
            return None
        _verify(Path(folder) / _FOLDER)
        try:
            os.rename(Path(folder) / _FOLDER, root / _FOLDER)  # on the same file system, so it is one step
        except OSError:
            if not (root / _FOLDER).exists():  # if it does, another process was faster, and _read verifies it
                raise
    return root / _FOLDER


@contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _read(folder: Path, validation_fraction: float, seed: int) -> ImageData:
    _verify(folder)  # before anything is unpickled

    def batches(*names: str) -> ImageSet:
        parts = [pickle.loads((folder / name).read_bytes(), encoding="latin1") for name in names]
        images = torch.cat([torch.from_numpy(part["data"]) for part in parts]).reshape(-1, 3, 32, 32)
        return ImageSet(images, torch.cat([torch.tensor(part["labels"]) for part in parts]))

    names = pickle.loads((folder / "batches.meta").read_bytes(), encoding="latin1")["label_names"]
    official = batches(*(f"data_batch_{i}" for i in range(1, 6)))
    return _split(official, batches("test_batch"), tuple(names), "cifar10", validation_fraction, seed)


def _shapes(validation_fraction: float, seed: int) -> ImageData:
    train, test = generate_images(_SHAPES_TRAIN, seed=seed), generate_images(_SHAPES_TEST, seed=seed + 1_000_003)
    parts = [ImageSet(part.images, part.target) for part in (train, test)]
    return _split(*parts, train.class_names, "shapes", validation_fraction, seed)


def _split(
    official: ImageSet, test: ImageSet, class_names: tuple[str, ...], name: str, validation_fraction: float, seed: int
) -> ImageData:
    """Set aside the same share of each class for validation."""
    generator = make_generator(seed)
    held_out = torch.zeros(len(official), dtype=torch.bool)
    for label in range(len(class_names)):
        members = torch.nonzero(official.target == label)[:, 0]
        count = max(1, round(validation_fraction * len(members)))
        if count >= len(members):
            raise ValueError(f"validation_fraction={validation_fraction} leaves no training image of class {label}")
        held_out[members[torch.randperm(len(members), generator=generator)[:count]]] = True
    train = ImageSet(official.images[~held_out], official.target[~held_out])
    validation = ImageSet(official.images[held_out], official.target[held_out])
    # float64 sums of whole numbers are exact, so the same on every machine.
    pixels = train.images.transpose(0, 1).flatten(1)  # (3, N·H·W)
    mean = torch.stack([channel.sum(dtype=torch.int64) for channel in pixels]).double() / pixels.shape[1]
    squares = torch.stack([(channel.int() ** 2).sum(dtype=torch.int64) for channel in pixels]).double()
    std = (squares / pixels.shape[1] - mean**2).sqrt()
    return ImageData(train, validation, test, class_names, name, (mean / 255).float(), (std / 255).float())
