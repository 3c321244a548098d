"""Values that many tests share."""

import functools
import math
from pathlib import Path

import torch
from hypothesis import strategies as st

from course_utils.data import Split, load_split

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
NAN, INF = math.nan, math.inf
seeds = st.integers(0, 2**31)


@functools.cache
def digits() -> Split:
    """The 8 × 8 digits: read when a test asks for them, not when its file is imported."""
    return load_split("digits")


def random_normal(*shape: int, seed: int = 0, scale: float = 1.0) -> torch.Tensor:
    """Normal values in float64; the same seed gives the same values."""
    return scale * torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def sampled_labels(probabilities: torch.Tensor, seed: int) -> torch.Tensor:
    """Labels drawn from (N, C) probabilities, so that these are honest."""
    return torch.multinomial(probabilities, 1, generator=torch.Generator().manual_seed(seed))[:, 0]


def honest_binary(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Uniform probabilities of class 1, and labels that keep them."""
    p, u = torch.rand(2, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return p, (u < p).long()


def is_png(path: Path) -> bool:
    return path.read_bytes().startswith(b"\x89PNG")


any_float32 = st.floats(width=32, allow_nan=False, allow_infinity=False)


def float32_vectors(elements=any_float32, min_size: int = 1, max_size: int = 8):
    return st.lists(elements, min_size=min_size, max_size=max_size).map(lambda values: torch.tensor(values))


def gradient_of(function, x: torch.Tensor) -> torch.Tensor:
    """The gradient of the sum of function(x)."""
    x = x.detach().clone().requires_grad_()
    return torch.autograd.grad(function(x).sum(), x)[0]


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal to the last bit, so −0.0 differs from 0.0."""
    return a.dtype == b.dtype and a.numpy().tobytes() == b.numpy().tobytes()
