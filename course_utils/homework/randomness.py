"""Where the random numbers of a run come from: its seed alone, whichever engine trains it and whatever runs beside it.

A run has one generator for each purpose, so that a run with dropout starts from the same weights, and sees the batches
in the same order, as the run of this seed without.
"""

from __future__ import annotations

import torch
from torch import Tensor

from course_utils.foundation.arguments import check_count
from course_utils.foundation.seeding import make_generator

# Torch's CPU generator uses the lowest 32 bits of its seed. Flipping some of them by purpose gives other streams. The
# weights take the seed as it is: with init "default" they are those of nn.Linear after torch.manual_seed(seed).
_PURPOSES = {"weights": 0, "order": 0x9E3779B9, "dropout": 0x7F4A7C15}
_LEVELS = 2**16


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


def words_per_epoch(num_units: int, num_samples: int) -> int:
    """How many 16-bit words the dropout of one epoch takes: one for each unit and sample, in full 64-bit numbers."""
    return -(-num_units * num_samples // 4) * 4


def draw_words(words: Tensor, generator: torch.Generator) -> None:
    """Fill an int16 tensor (a multiple of 4 long) with random bits: four words from each 64-bit number.

    This makes a mask an eighth as expensive as torch.bernoulli does.
    """
    words.view(torch.int64).random_(-(2**63), None, generator=generator)


def dropout_levels(dropout: float) -> int:
    """The number of the 65,536 values of a word that switch a unit off; at least one is left to keep it on."""
    return min(round(dropout * _LEVELS), _LEVELS - 1)


def keep_from(levels: int) -> int:
    """A unit is kept where its word is at least this."""
    return levels - _LEVELS // 2


def keep_scale(levels: int) -> float:
    """The factor of the kept units, 1 / P(kept): the expectation stays what it was without dropout."""
    return _LEVELS / (_LEVELS - levels)
