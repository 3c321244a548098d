"""Batches of images straight from one tensor in memory: shifted, flipped and normalised all at once."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from course_utils.data import ImageData
from course_utils.foundation.arguments import check_count, check_labels, check_tensor, describe_value
from course_utils.foundation.seeding import derived_seed, make_generator


def normalize(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Images uint8 (N, 3, H, W) → (pixel/255 − mean)/std, float32, in the memory layout of the images.

    mean and std are (3,), in units in which a pixel lies in [0, 1], on the images' device.
    """
    check_images(images)
    for name, value in (("mean", mean), ("std", std)):
        if check_tensor(value, name).shape != (3,):
            raise ValueError(f"{name} must have one value for each of 3 channels, but is {describe_value(value)}")
    return scaled(images, mean, std)


def scaled(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """`normalize` without its checks, and so also for no image at all: a process's share may be empty."""
    return images * (1 / (255 * std))[:, None, None] - (mean / std)[:, None, None]


@dataclass(frozen=True)
class Augmentation:
    """What happens to each of N images in one epoch: a shift by up to `padding` pixels, and perhaps a flip.

    It is drawn for all images at once, so it does not depend on how they are cut into batches, or on how many
    machines share them.

    Attributes:
        top, left: int64 (N,), where the image is cut out of its padded version.
        flip: bool (N,), left and right exchanged.
        padding: pixels added to every side, reflected.
    """

    top: Tensor
    left: Tensor
    flip: Tensor
    padding: int

    @classmethod
    def draw(cls, n: int, *, epoch: int, seed: int, padding: int = 2) -> Self:
        """The augmentation of one epoch, always the same for the same seed and epoch.

        A coin decides for each image whether it is flipped in the odd or in the even epochs, so that two epochs show
        both sides of each (Jordan 2024, "alternating flip"); independent coins would show some twice the same way.
        """
        check_count(n, "n")
        check_count(padding, "padding", minimum=0)
        shift_generator = make_generator(derived_seed(seed, "shift", epoch))
        shifts = torch.randint(0, 2 * padding + 1, (2, n), generator=shift_generator)
        coin = torch.rand(n, dtype=torch.float32, generator=make_generator(derived_seed(seed, "flip"))) < 0.5
        return cls(shifts[0], shifts[1], coin ^ (epoch % 2 == 1), padding)

    def __call__(self, images: Tensor, index: Tensor) -> Tensor:
        """`images[index]`, augmented: uint8 (N, 3, H, W), of which (B,) are chosen → (B, 3, H, W), channels last."""
        height, width = images.shape[2:]
        if self.padding >= min(height, width):
            raise ValueError(f"padding {self.padding} cannot be reflected in images of {height}×{width} pixels")
        device = images.device
        top, left, flip = (values[index.cpu()].to(device) for values in (self.top, self.left, self.flip))
        # Reflection as arithmetic on coordinates: −1 is 1, and H is H − 2. Then one gather does shift and flip.
        rows = _reflect(torch.arange(height, device=device) + top[:, None] - self.padding, height)  # (B, H)
        columns = torch.arange(width, device=device).expand(len(index), width)
        columns = torch.where(flip[:, None], width - 1 - columns, columns)
        columns = _reflect(columns + left[:, None] - self.padding, width)  # (B, W)
        batch = images.permute(0, 2, 3, 1)[index[:, None, None], rows[:, :, None], columns[:, None, :]]  # (B, H, W, 3)
        return batch.permute(0, 3, 1, 2)


def _reflect(position: Tensor, size: int) -> Tensor:
    position = position.abs()
    return torch.where(position < size, position, 2 * (size - 1) - position)


def resize(x: Tensor, size: int) -> Tensor:
    """Images (N, 3, H, W) → (N, 3, size, size), smoothed before they are thinned out."""
    return x if x.shape[2:] == (size, size) else F.interpolate(x, size=(size, size), mode="bilinear", antialias=True)


def check_images(images: Any, name: str = "images") -> Tensor:
    """Return `images` if they are uint8 (N, 3, H, W)."""
    check_tensor(images, name, ndim=4, floating=False)
    if images.dtype != torch.uint8:
        raise TypeError(f"{name} must be uint8, 0 to 255, but are {describe_value(images)}")
    if images.shape[1] != 3:
        raise ValueError(f"{name} must have 3 channels, (N, 3, H, W), but are {describe_value(images)}")
    return images


def check_data(data: Any, parts: Sequence[str] = ("train", "validation", "test")) -> ImageData:
    """Return `data` if it is an `ImageData` whose images and classes fit together in these parts."""
    if not isinstance(data, ImageData):
        raise TypeError(f"data must be an ImageData, as load_cifar10 returns it, but is {describe_value(data)}")
    for name in parts:
        part = getattr(data, name)
        check_images(part.images, f"data.{name}.images")
        num_classes = len(data.class_names)
        check_labels(part.target, f"data.{name}.target", num_samples=len(part.images), num_classes=num_classes)
        if part.target.dtype != torch.int64:
            raise TypeError(f"data.{name}.target must be int64, but is {describe_value(part.target)}")
    return data
