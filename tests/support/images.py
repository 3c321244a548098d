"""Small images in [0, 1], and small double networks that classify them."""

import copy

import torch
from torch import nn


def images(seed: int = 0, n: int = 5, channels: int = 3, size: int = 8, dtype=torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, channels, size, size, generator=generator, dtype=torch.float64).to(dtype)


def classes(n: int = 5, c: int = 3) -> torch.Tensor:
    return torch.arange(n) % c


def linear(seed: int = 0, features: int = 192, c: int = 3, scale: float = 1.0) -> nn.Sequential:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(features, c)).double()
    with torch.no_grad():
        model[1].weight.mul_(scale)
    return model


def convolutional(seed: int = 0, activation: nn.Module | None = None, size: int = 8, width: int = 4) -> nn.Sequential:
    """A tiny double network on 3 × size × size images: conv, activation, conv, activation, linear."""
    torch.manual_seed(seed)
    activation = nn.Tanh() if activation is None else activation
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1),
        activation,
        nn.Conv2d(width, width, 3, stride=2, padding=1),
        copy.deepcopy(activation),
        nn.Flatten(),
        nn.Linear(width * (size // 2) ** 2, 3),
    ).double()


def small_classifier(num_classes: int = 3) -> nn.Sequential:
    """Layers "2", "6" and "9" are the blocks' outputs; the last maps are a quarter of the image's size."""
    return nn.Sequential(
        *(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(inplace=True), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(inplace=True), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(inplace=True)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, num_classes)),
    )


@torch.no_grad()
def share_right(model, x, y) -> float:
    return float((model(x).argmax(1) == y).double().mean())


def caller_tensors() -> tuple[torch.Tensor, torch.Tensor]:
    x = images(dtype=torch.float32).requires_grad_()
    x.grad = torch.ones_like(x)
    return x, classes()
