"""The shape of a run's network and its first weights, the same for both engines."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from course_utils.homework.randomness import run_generator
from course_utils.homework.settings import Setting

Parameters = list[tuple[Tensor, Tensor]]  # (weight (out, in), bias (out,)) of each layer, first to last


def layer_sizes(setting: Setting, in_features: int, num_classes: int) -> tuple[int, ...]:
    """(D, H₁, …, C).

    >>> layer_sizes(Setting(hidden_features=(8, 16)), 4, 3)
    (4, 8, 16, 3)
    """
    return (in_features, *setting.hidden_features, num_classes)


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
