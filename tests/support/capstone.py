"""Drawn images, small classifiers and short trainings for the tests of chapter 6."""

import dataclasses
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from course_utils import capstone
from course_utils.capstone import FastClassifier, ImageClassifier, ImageData, ImageSet, train_model
from course_utils.data import generate_images


def make_data(n: int = 96, *, held_out: int = 31, seed: int = 0) -> ImageData:
    generated = generate_images(n + 2 * held_out, seed=seed)
    ends = ((0, n), (n, n + held_out), (n + held_out, n + 2 * held_out))
    parts = [ImageSet(generated.images[a:b].clone(), generated.target[a:b].clone()) for a, b in ends]
    pixels = parts[0].images.double() / 255
    mean, std = pixels.mean((0, 2, 3)).float(), pixels.std((0, 2, 3), correction=0).float()
    return ImageData(*parts, generated.class_names, "shapes", mean, std)


DATA = make_data()


IMAGES, TARGET, NAMES = DATA.test.images, DATA.test.target, DATA.class_names


STATISTICS = (DATA.mean, DATA.std)


OPTIONS = {"epochs": 2, "batch_size": 48, "lr": 0.02, "amp": False, "progress": False}


def seeded(make, *arguments, seed=0, **options) -> nn.Module:
    torch.manual_seed(seed)
    return make(*arguments, **options)


def linear(seed: int = 0) -> nn.Module:
    """A foreign classifier, as small as can be."""
    return seeded(lambda: nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(192, 10)), seed=seed)


def tiny(seed: int = 0) -> FastClassifier:
    return seeded(FastClassifier, widths=(8, 8, 8), seed=seed)


def tutorial(seed: int = 0) -> ImageClassifier:
    return seeded(ImageClassifier, seed=seed)


def fit(model, data=DATA, **options):
    return train_model(model, data, **(OPTIONS | options))


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(a: nn.Module | dict, b: nn.Module | dict) -> bool:
    """Bit by bit, parameters and buffers."""
    a, b = (value.state_dict() if isinstance(value, nn.Module) else value for value in (a, b))
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def curves(history) -> dict[str, list[float]]:
    """All of a history that follows from the seed."""
    return {name: getattr(history, name).tolist() for name in history.per_sample if name != "seconds"}


def part(name: str, **changes) -> ImageData:
    return dataclasses.replace(DATA, **{name: dataclasses.replace(getattr(DATA, name), **changes)})


def stop_at_call(model: nn.Module, call: int, error: type[BaseException] = KeyboardInterrupt):
    """Raise in the forward pass of the `call`-th training batch."""
    calls = iter(range(1, 10_000))

    def hook(module, _):
        if module.training and next(calls) == call:
            raise error("on purpose")

    return model.register_forward_pre_hook(hook)


def interrupted(model, call: int, **options):
    handle = stop_at_call(model, call)
    try:
        with pytest.warns(UserWarning, match="interrupted in epoch"):
            return fit(model, **options)
    finally:
        handle.remove()


def child_environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(Path(capstone.__file__).parents[2])}


class OldStyle(nn.Module):
    """PyTorch's classic tutorial network: `view` between convolutions and linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.last = nn.Conv2d(3, 6, 5), nn.Linear(6 * 14 * 14, 10)

    def forward(self, x):
        return self.last(F.max_pool2d(F.relu(self.conv(x)), 2).view(-1, 6 * 14 * 14))


class WithLogits(nn.Module):
    """The convention of transformers: an object with a tensor `.logits`."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x):
        return SimpleNamespace(logits=self.model(x))


def random_outputs(seed: int, n: int, c: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(n, c, generator=generator)
    target = torch.randint(0, c, (n,), generator=generator)
    return logits + F.one_hot(target, c) * torch.randint(0, 4, (n, 1), generator=generator), target
