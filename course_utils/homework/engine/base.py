"""What both engines share: a network's shape and first weights, a run's random numbers, and what training leaves.

Random numbers come from a run's seed alone, whichever engine trains it and whatever runs beside it. Each purpose has a
generator of its own, so that a run with dropout starts from the same weights, and sees the samples in the same order,
as the run of this seed without dropout.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn

from course_utils.foundation.arguments import check_count, check_labels, check_tensor, describe_value
from course_utils.foundation.results import Result
from course_utils.foundation.seeding import make_generator
from course_utils.homework.settings import Setting

Run = tuple[Setting, int]  # a setting and a seed
Parameters = list[tuple[Tensor, Tensor]]  # (weight (out, in), bias (out,)) of each layer, first to last

MOMENTUM = 0.9  # of "momentum" and "nesterov"
# Torch's CPU generator uses the lowest 32 bits of its seed. Flipping some of them by purpose gives other streams. The
# weights take the seed as it is: with init "default" they are those of nn.Linear after torch.manual_seed(seed).
_PURPOSES = {"weights": 0, "order": 0x9E3779B9, "dropout": 0x7F4A7C15}
_LEVELS = 2**16  # values of the random word that decides whether a unit is switched off


@dataclass(frozen=True, eq=False, repr=False)
class TrainedRun(Result):
    """What training one network leaves.

    Attributes:
        losses: float64 (epochs,). The loss of an epoch is the mean over its batches, weighted by their size, of the
            cross-entropy before the batch's step, dropout active, in nats per sample. With the full batch that is the
            training loss before the epoch's only step.
        parameters: the weight (out, in) and bias (out,) of each layer after the last step.
    """

    losses: Tensor
    parameters: Parameters

    per_sample: ClassVar = ("losses",)


def check_training_data(x: Tensor, y: Tensor, num_classes: int, *, ndim: int | tuple[int, ...]) -> None:
    """Raise unless x is (…, N, D) with float32 or float64 on the CPU, and y (…, N) with classes 0 … C−1."""
    check_count(num_classes, "num_classes", minimum=2)
    check_tensor(x, "x", ndim=ndim)
    check_tensor(y, "y", ndim=x.ndim - 1, floating=False)
    if x.dtype not in (torch.float32, torch.float64) or x.device.type != "cpu":
        raise ValueError(f"x must be float32 or float64 on the CPU, but is {describe_value(x)} on {x.device}")
    if y.shape != x.shape[:-1]:
        raise ValueError(f"y must have the shape {tuple(x.shape[:-1])}, one label a sample, but has {tuple(y.shape)}")
    check_labels(y.flatten(), "y", num_samples=y.numel(), num_classes=num_classes)


def layer_sizes(setting: Setting, in_features: int, num_classes: int) -> tuple[int, ...]:
    """(D, H₁, …, C).

    >>> layer_sizes(Setting(hidden_features=(8, 16)), 4, 3)
    (4, 8, 16, 3)
    """
    return (in_features, *setting.hidden_features, num_classes)


def count_parameters(sizes: tuple[int, ...]) -> int:
    """The numbers in a network with the layer sizes (D, H₁, …, C).

    >>> count_parameters((4, 10, 3))
    83
    """
    return sum(fan_out * (fan_in + 1) for fan_in, fan_out in pairwise(sizes))


def run_generator(seed: int, purpose: str) -> torch.Generator:
    """The generator of one run for one purpose: "weights", "order" (of the samples) or "dropout".

    Raises:
        TypeError, ValueError: a seed that is no int from 0 to 2**32 − 1.

    >>> first, again = (torch.rand(2, generator=run_generator(7, "order")) for _ in range(2))
    >>> torch.equal(first, again), torch.equal(first, torch.rand(2, generator=run_generator(7, "dropout")))
    (True, False)
    """
    if check_count(seed, "seed", minimum=0) >= 2**32:
        raise ValueError(f"seed must be less than 2**32, but is {seed}")
    return make_generator(int(seed) ^ _PURPOSES[purpose])


def initial_parameters(
    setting: Setting, seed: int, in_features: int, num_classes: int, dtype: torch.dtype = torch.float32
) -> Parameters:
    """The weights that a run starts with. They depend on the shape, the init and the seed, and on nothing else.

    >>> [tuple(weight.shape) for weight, bias in initial_parameters(Setting(), 0, 4, 3)]
    [(10, 4), (3, 10)]
    """
    generator = run_generator(seed, "weights")
    sizes = layer_sizes(setting, in_features, num_classes)
    layers = [_initial_layer(setting.init, *shape, generator) for shape in pairwise(sizes)]
    return [(weight.to(dtype), bias.to(dtype)) for weight, bias in layers]


def _initial_layer(init: str, fan_in: int, fan_out: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    # float32 for every dtype, so that a run in double precision is the same run, computed more precisely.
    weight, bias = torch.zeros(fan_out, fan_in), torch.zeros(fan_out)
    if init == "default":  # what nn.Linear.reset_parameters does
        nn.init.kaiming_uniform_(weight, a=math.sqrt(5), generator=generator)
        bound = 1 / math.sqrt(fan_in)
        nn.init.uniform_(bias, -bound, bound, generator=generator)
    elif init == "xavier":
        nn.init.xavier_uniform_(weight, generator=generator)
    elif init == "kaiming":
        nn.init.kaiming_uniform_(weight, nonlinearity="relu", generator=generator)
    return weight, bias  # "zeros" stays as it is


class Dropout:
    """The dropout masks of R runs with layers of the same widths, each run's from its own generator.

    A unit is off in a sample where a random word of 16 bits is small; four words come from one 64-bit number. That
    makes a mask an eighth as expensive as torch.bernoulli does. What is on is multiplied by 1 / P(on), so that the
    expectation stays what it is without dropout.

    Args:
        runs: R pairs of a setting and a seed.
        num_samples: N of an epoch.
        dtype: of the masks.
    """

    def __init__(self, runs: Sequence[Run], num_samples: int, dtype: torch.dtype) -> None:
        widths = runs[0][0].hidden_features
        words_off = torch.tensor([min(round(setting.dropout * _LEVELS), _LEVELS - 1) for setting, _ in runs])
        self.on_from = (words_off - _LEVELS // 2).to(torch.int16)[:, None, None]
        self.scale = (_LEVELS / (_LEVELS - words_off.double())).to(dtype)[:, None, None]
        self.generators = [run_generator(seed, "dropout") for _, seed in runs]
        num_words = sum(widths) * num_samples
        self.words = torch.empty(len(runs), -(-num_words // 4) * 4, dtype=torch.int16)  # whole 64-bit numbers
        units = self.words[:, :num_words].view(len(runs), sum(widths), num_samples)
        self.by_layer = units.split(widths, dim=1)  # (R, H, N) each

    def draw_epoch(self) -> None:
        for words, generator in zip(self.words, self.generators, strict=True):
            words.view(torch.int64).random_(-(2**63), None, generator=generator)

    def write_mask(self, layer: int, positions: slice, out: Tensor) -> None:
        """The mask (R, H, B) of a batch, at its positions in the epoch: 0 for what is off, 1 / P(on) for what is on."""
        torch.ge(self.by_layer[layer][:, :, positions], self.on_from, out=out)
        out.mul_(self.scale)
