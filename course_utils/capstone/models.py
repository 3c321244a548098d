"""Two networks for images of 32×32 pixels: the tutorials' one, and one that learns ten times as fast."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_utils.capstone.images import normalize
from course_utils.capstone.recipes import Recipe
from course_utils.data import ImageData
from course_utils.foundation.arguments import check_count


class NormalizedImageClassifier(nn.Module):
    """Base of the capstone's networks: it knows how the images it was trained on were normalised.

    `forward` takes normalised images, `normalize` makes them. The statistics are buffers, so they are saved with the
    weights, and a model that is loaded elsewhere still sees images as it did in training.

    Attributes:
        recipe: how `train_model` trains it, unless told otherwise.
        cam_layer: the layer for `grad_cam`.
        mean, std: of the training images, float32 (3,), in units in which a pixel lies in [0, 1].
    """

    recipe: ClassVar[Recipe] = Recipe()
    cam_layer: ClassVar[str]
    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(3))
        self.register_buffer("std", torch.zeros(3))  # 0: not known yet

    @torch.no_grad()
    def learn_statistics(self, data: ImageData) -> None:
        """Take over what is measured on the training images and not trained."""
        self.mean.copy_(data.mean)
        self.std.copy_(data.std)

    def normalize(self, images: Tensor) -> Tensor:
        """Images uint8 (N, 3, H, W) → (pixel/255 − mean)/std, float32 (N, 3, H, W), on the model's device."""
        if not self.std.all():
            raise ValueError(
                "this model does not know how its training images were normalised; train it with train_model, or "
                "call learn_statistics(data)"
            )
        return normalize(images.to(self.mean.device), self.mean, self.std)


def dtype_of(model: nn.Module) -> torch.dtype:
    """In which precision a model takes its images: that of its parameters, float32 if it has none."""
    return next((value.dtype for value in model.parameters() if value.is_floating_point()), torch.float32)


class ImageClassifier(NormalizedImageClassifier):
    """The tutorials' network: three 3×3 convolutions of 32, 64 and 128 channels, and two linear layers.

    Each convolution is followed by ReLU and 2×2 max pooling, the first linear layer by ReLU and dropout. It takes
    normalised images (N, 3, 32, 32) and returns logits (N, num_classes).

    >>> ImageClassifier()(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """

    cam_layer = "features.7"  # (N, 128, 8, 8): the last one before pooling leaves 4×4

    def __init__(self, num_classes: int = 10, *, dropout: float = 0.5) -> None:
        super().__init__()
        check_count(num_classes, "num_classes", minimum=2)
        nn.Dropout(dropout)  # refuses what is no probability, before anything is built
        self.features = nn.Sequential(
            nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),  # (N, 32, 16, 16)
            nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),  # (N, 64, 8, 8)
            nn.Conv2d(64, 128, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),  # (N, 128, 4, 4)
        )  # fmt: skip
        self.head = nn.Sequential(
            nn.Flatten(), nn.Linear(128 * 4 * 4, 256), nn.ReLU(), nn.Dropout(dropout), nn.Linear(256, num_classes)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


class FastClassifier(NormalizedImageClassifier):
    """A small convolutional network whose layers start well, so that the first epochs are not spent on
    what initial weights can give.

    1. A fixed first layer turns each 2×2 patch of the image into uncorrelated numbers of equal variance (whitening),
       with the eigenvectors of the training patches. `train_model` computes them before the first epoch.
    2. Three blocks of 3×3 convolution, pooling, BatchNorm, GELU, convolution, BatchNorm, GELU. Convolutions begin as
       the identity in their first channels (Dirac), so that images reach the last layer from the first step on.
    3. The largest value of each channel goes to a linear layer whose logits are scaled down.

    What Grad-CAM means here: at `cam_layer`, the last 3×3 feature maps, a channel's weight is the linear layer's for
    that class (up to a factor), so the map is the classic class activation map (Zhou et al. 2016) of 3×3 fields. But
    only the largest value of a channel decided, and the map also shows where else the channel is active; with average
    pooling the two would be the same. One block further down the gradient reaches only the few places from which the
    maxima come, and its mean over space, which Grad-CAM takes as a weight, says little: that map is no better than the
    image's centre.

    It takes normalised images (N, 3, H, W) with H, W ≥ 16 and returns logits (N, num_classes). After the design of
    Jordan (2024), "94% on CIFAR-10 in 3.29 seconds on a single GPU", with narrower blocks.

    >>> FastClassifier()(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """

    recipe = Recipe(
        optimizer="sgd",
        lr=0.2,
        batch_size=256,
        weight_decay=1.3e-3,
        momentum=0.9,
        bias_lr_factor=16,
        label_smoothing=0.1,
        early_size=24,
    )

    cam_layer = "features.3"  # (N, 256, 3, 3)

    def __init__(self, num_classes: int = 10, *, widths: tuple[int, int, int] = (48, 128, 256)) -> None:
        super().__init__()
        check_count(num_classes, "num_classes", minimum=2)
        # 12 eigenvectors and their negatives. Nothing in it is trained, so training needs no gradient of its outputs.
        self.whitening = nn.Conv2d(3, 24, kernel_size=2, bias=False)
        self.whitening.weight.requires_grad = False
        self.register_buffer("whitened", torch.tensor(False))
        self.features = nn.Sequential(
            nn.GELU(), _block(24, widths[0]), _block(widths[0], widths[1]), _block(widths[1], widths[2])
        )
        self.head = nn.Linear(widths[2], num_classes, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        features = self.features(self.whitening(x))  # (N, C, 3, 3) for images of 32×32
        return self.head(features.amax((2, 3))) / 9

    @torch.no_grad()
    def learn_statistics(self, data: ImageData) -> None:
        """Also set the first layer, unless it was set before: a model that is trained further keeps its own.

        With the covariance V Λ Vᵀ of the patches of 2,000 images, a patch p becomes Λ^(−1/2) Vᵀ p; a small number
        added to Λ keeps directions that hardly vary from growing into noise.
        """
        super().learn_statistics(data)
        if self.whitened:
            return
        x = self.normalize(data.train.images[:2000])
        patches = F.unfold(x.double(), 2).transpose(1, 2).flatten(0, 1)  # (N·(H−1)·(W−1), 12)
        variances, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
        directions = (vectors / (variances + 5e-4).sqrt()).T.reshape(12, 3, 2, 2)
        self.whitening.weight.copy_(torch.cat([directions, -directions]))
        self.whitened.fill_(True)


def _block(in_channels: int, channels: int) -> nn.Sequential:
    return nn.Sequential(
        _convolution(in_channels, channels), nn.MaxPool2d(2), _norm(channels), nn.GELU(),
        _convolution(channels, channels), _norm(channels), nn.GELU(),
    )  # fmt: skip


def _convolution(in_channels: int, channels: int) -> nn.Conv2d:
    layer = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
    nn.init.dirac_(layer.weight[:in_channels].data)
    return layer


def _norm(channels: int) -> nn.BatchNorm2d:
    """BatchNorm that forgets fast, because a whole training has a few hundred steps, and shifts but does not scale."""
    layer = nn.BatchNorm2d(channels, momentum=0.4)
    layer.weight.requires_grad = False
    return layer
