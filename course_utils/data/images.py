"""The course's own images and scenes: ten shapes whose true masks and boxes are known to the pixel.

Colour, texture, place, size and angle are drawn independently of the class, so only the shape tells it. Noise and an
occluding bar make the task real: a network has to learn it, and can be wrong.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from course_utils.foundation.arguments import check_choice, check_count
from course_utils.foundation.results import Result, short
from course_utils.foundation.seeding import make_generator

IMAGE_CLASSES = ("disc", "ring", "square", "triangle", "cross", "star", "crescent", "heart", "bar", "bow tie")


@dataclass(frozen=True, eq=False, repr=False)
class GeneratedImages(Result):
    """Generated images, one shape in each.

    Attributes:
        images: uint8 (N, 3, H, W), RGB.
        target: class indices, int64 (N,).
        masks: bool (N, H, W), True on the visible pixels of the shape.
        boxes: float32 (N, 4), the mask's tight box as x1, y1, x2, y2 in pixels (x2 and y2 exclusive).
        class_names: the names that `target` indexes.
    """

    images: Tensor
    target: Tensor
    masks: Tensor
    boxes: Tensor
    class_names: tuple[str, ...]

    per_sample: ClassVar = ("images", "target", "masks", "boxes")

    def __repr__(self) -> str:
        return f"GeneratedImages(images={short(self.images)}, {len(self.class_names)} classes)"

    _repr_html_ = None  # a table of pixel values says nothing


def generate_images(
    num_images: int, *, classes: Sequence[str] = IMAGE_CLASSES, size: int = 32, seed: int | None = 0
) -> GeneratedImages:
    """Draw images with one shape each.

    Args:
        num_images: N.
        classes: which of `IMAGE_CLASSES` appear; `target` indexes this list.
        size: height and width in pixels, at least 16.
        seed: the same seed gives the same images; None draws fresh ones.

    Raises:
        ValueError: an unknown class, fewer than one image, a size below 16.

    >>> generate_images(4, seed=1)
    GeneratedImages(images=uint8[4, 3, 32, 32], 10 classes)
    """
    check_count(num_images, "num_images")
    check_count(size, "size", minimum=16)
    classes = _check_classes(classes)
    generator = make_generator(seed)

    target = torch.randint(len(classes), (num_images,), generator=generator)
    u, v = _shape_coordinates(num_images, size, generator)  # (N, H, W) each
    shape = _draw(classes, target, u, v)
    occluder = _occluding_bars(u, v, generator)
    masks = shape & ~occluder

    background, foreground, bar = _contrasting_colours(num_images, generator)  # (N, 3, 1, 1) each
    images = background + _texture(num_images, size, generator)
    images = torch.where(shape[:, None], foreground + _texture(num_images, size, generator), images)
    images = torch.where(occluder[:, None], bar, images)
    images += 0.05 * torch.randn(images.shape, dtype=torch.float32, generator=generator)
    return GeneratedImages(
        images=(images.clamp(0, 1) * 255).round().to(torch.uint8),
        target=target,
        masks=masks,
        boxes=mask_boxes(masks),
        class_names=classes,
    )


@dataclass(frozen=True, eq=False, repr=False)
class Scenes(Result):
    """Generated scenes with several shapes.

    Attributes:
        images: uint8 (N, 3, H, W), RGB.
        boxes: N tensors float32 (M, 4), tight boxes as x1, y1, x2, y2 in pixels (ends exclusive).
        labels: N tensors int64 (M,), class indices.
        masks: N tensors bool (M, H, W), True on the visible pixels of each shape.
        class_names: the names that `labels` index.
    """

    images: Tensor
    boxes: list[Tensor]
    labels: list[Tensor]
    masks: list[Tensor]
    class_names: tuple[str, ...]

    per_sample: ClassVar = ("images", "boxes", "labels", "masks")

    def __repr__(self) -> str:
        objects = sum(len(labels) for labels in self.labels)
        return f"Scenes(images={short(self.images)}, {objects} objects of {len(self.class_names)} classes)"

    _repr_html_ = None


def generate_scenes(
    num_scenes: int,
    *,
    classes: Sequence[str] = IMAGE_CLASSES,
    size: int = 64,
    max_objects: int = 4,
    seed: int | None = 0,
) -> Scenes:
    """Draw scenes with one to `max_objects` shapes each. Shapes may touch and hide a part of each other.

    Args:
        num_scenes: N.
        classes, seed: as in `generate_images`.
        size: height and width in pixels, at least 32.
        max_objects: 1 to 9; each object's centre lies in a square of its own of a 3×3 grid.

    Raises:
        ValueError: an unknown class, counts or sizes out of range.

    >>> generate_scenes(2, seed=1)
    Scenes(images=uint8[2, 3, 64, 64], 6 objects of 10 classes)
    """
    check_count(num_scenes, "num_scenes")
    check_count(size, "size", minimum=32)
    if check_count(max_objects, "max_objects") > 9:
        raise ValueError(f"max_objects must be at most 9, but is {max_objects}")
    classes = _check_classes(classes)
    generator = make_generator(seed)
    counts = torch.randint(1, max_objects + 1, (num_scenes,), generator=generator)
    # A random order of the grid's squares.
    squares = torch.rand((num_scenes, 9), dtype=torch.float32, generator=generator).argsort(1)

    background, _, _ = _contrasting_colours(num_scenes, generator)
    images = background + _texture(num_scenes, size, generator)
    shapes, labels = [], []
    for place in range(max_objects):  # one layer of objects at a time, in all scenes at once
        target = torch.randint(len(classes), (num_scenes,), generator=generator)
        square = squares[:, place, None, None]
        jitter = _uniform(-0.25, 0.25, (2, num_scenes, 1, 1), generator)
        cx = size * ((square % 3) + 0.5 + jitter[0]) / 3
        cy = size * ((square // 3) + 0.5 + jitter[1]) / 3
        radius = size * _uniform(0.11, 0.17, (num_scenes, 1, 1), generator)
        u, v = _shape_frame(size, cx, cy, radius, generator)
        shape = _draw(classes, target, u, v) & (place < counts)[:, None, None]
        colour = _contrast_to(background, generator)
        images = torch.where(shape[:, None], colour + _texture(num_scenes, size, generator), images)
        shapes = [lower & ~shape for lower in shapes]  # what is drawn later hides what was there
        shapes.append(shape)
        labels.append(target)
    images += 0.04 * torch.randn(images.shape, dtype=torch.float32, generator=generator)
    masks, labels = torch.stack(shapes, 1), torch.stack(labels, 1)  # (N, M, H, W), (N, M)
    visible = masks.flatten(2).sum(2) >= 12  # a shape of which less is seen does not count as an object
    return Scenes(
        images=(images.clamp(0, 1) * 255).round().to(torch.uint8),
        boxes=[mask_boxes(m[seen]) for m, seen in zip(masks, visible, strict=True)],
        labels=[label[seen] for label, seen in zip(labels, visible, strict=True)],
        masks=[m[seen] for m, seen in zip(masks, visible, strict=True)],
        class_names=classes,
    )


def mask_boxes(masks: Tensor) -> Tensor:
    """The tight boxes of non-empty masks: bool (N, H, W) → float32 (N, 4) as x1, y1, x2, y2 (ends exclusive)."""
    from torchvision.ops import masks_to_boxes

    return masks_to_boxes(masks) + torch.tensor([0, 0, 1, 1])  # there the ends are inclusive


def _check_classes(classes: Sequence[str]) -> tuple[str, ...]:
    names = tuple(check_choice(name, "classes", IMAGE_CLASSES) for name in classes)
    if not names:
        raise ValueError("classes is empty; name at least one of " + ", ".join(IMAGE_CLASSES))
    return names


def _draw(classes: tuple[str, ...], target: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """The pixels inside each sample's shape, bool (N, H, W), given its class (N,) and frame (N, H, W)."""
    shape = torch.zeros(u.shape, dtype=torch.bool)
    for index, name in enumerate(classes):
        of_class = target == index
        shape[of_class] = _INSIDE[name](u[of_class], v[of_class])
    return shape


def _uniform(low: float, high: float, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    # The dtype is named everywhere: with another default, the same seed would draw other numbers.
    return low + (high - low) * torch.rand(shape, dtype=torch.float32, generator=generator)


def _shape_coordinates(n: int, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Frames of shapes placed anywhere in an image: two tensors (N, H, W), see `_shape_frame`."""
    radius = size * _uniform(0.24, 0.40, (n, 1, 1), generator)
    # The centre stays far enough from the edge for most of the shape to be seen.
    room = size / 2 - 0.8 * radius
    cx = size / 2 + room * _uniform(-1, 1, (n, 1, 1), generator)
    cy = size / 2 + room * _uniform(-1, 1, (n, 1, 1), generator)
    return _shape_frame(size, cx, cy, radius, generator)


def _shape_frame(
    size: int, cx: Tensor, cy: Tensor, radius: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Each pixel's position in its shape's own, slightly turned frame, where the shape fills about [−1, 1]²."""
    axis = torch.arange(size, dtype=torch.float32) + 0.5
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    angle = _uniform(-math.pi / 5, math.pi / 5, radius.shape, generator)
    dx, dy = (x - cx) / radius, (y - cy) / radius
    return dx * angle.cos() + dy * angle.sin(), dy * angle.cos() - dx * angle.sin()


def _occluding_bars(u: Tensor, v: Tensor, generator: torch.Generator) -> Tensor:
    """In three images of ten, a thin bar across the shape: bool (N, H, W)."""
    n = len(u)
    angle = _uniform(0, math.pi, (n, 1, 1), generator)
    offset = _uniform(-0.6, 0.6, (n, 1, 1), generator)
    occluded = torch.rand((n, 1, 1), dtype=torch.float32, generator=generator) < 0.3
    return occluded & ((u * angle.cos() + v * angle.sin() - offset).abs() < 0.15)


def _contrasting_colours(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Colours of background, shape and bar, (N, 3, 1, 1) each; shape and background differ clearly."""
    background = _uniform(0.1, 0.9, (n, 3, 1, 1), generator)
    foreground = _contrast_to(background, generator)
    return background, foreground, _uniform(0.0, 1.0, (n, 3, 1, 1), generator)


def _contrast_to(background: Tensor, generator: torch.Generator) -> Tensor:
    """A step of 0.3 to 0.5 in each channel, towards the side with more room."""
    step = _uniform(0.3, 0.5, background.shape, generator)
    return torch.where(background < 0.5, background + step, background - step)


def _texture(n: int, size: int, generator: torch.Generator) -> Tensor:
    """Faint stripes of random angle, width and strength: (N, 1, H, W)."""
    axis = torch.arange(size, dtype=torch.float32)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    angle = _uniform(0, math.pi, (n, 1, 1, 1), generator)
    frequency = _uniform(0.3, 1.5, (n, 1, 1, 1), generator)  # radians per pixel
    strength = _uniform(0.0, 0.12, (n, 1, 1, 1), generator)
    return strength * torch.sin(frequency * (x * angle.cos() + y * angle.sin()))


def _star(u: Tensor, v: Tensor) -> Tensor:
    # The distance to the edge falls linearly from a tip to the notch beside it, five times around.
    turn = torch.atan2(u, -v) * 5 / (2 * math.pi)
    to_tip = (turn - turn.round()).abs() * 2  # 0 at a tip, 1 in a notch
    return torch.hypot(u, v) < 1.1 - 0.68 * to_tip


def _heart(u: Tensor, v: Tensor) -> Tensor:
    x, y = 1.15 * u, -1.15 * v + 0.1
    return (x * x + y * y - 1) ** 3 - x * x * y**3 < 0


# Is the point (u, v) inside the shape? Each fills about [−1, 1]², with v pointing down as in an image.
_INSIDE = {
    "disc": lambda u, v: torch.hypot(u, v) < 0.9,
    "ring": lambda u, v: (torch.hypot(u, v) < 1) & (torch.hypot(u, v) > 0.55),
    "square": lambda u, v: torch.maximum(u.abs(), v.abs()) < 0.8,
    "triangle": lambda u, v: (v < 0.7) & (v > -1 + 1.75 * u.abs()),
    "cross": lambda u, v: (torch.minimum(u.abs(), v.abs()) < 0.3) & (torch.maximum(u.abs(), v.abs()) < 1),
    "star": _star,
    "crescent": lambda u, v: (torch.hypot(u, v) < 1) & (torch.hypot(u - 0.5, v) > 0.85),
    "heart": _heart,
    "bar": lambda u, v: (u.abs() < 1) & (v.abs() < 0.32),
    "bow tie": lambda u, v: (u.abs() < 1) & (v.abs() < 0.08 + 0.75 * u.abs()),
}
