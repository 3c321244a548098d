"""Randomness on purpose: explicit generators, and a global random state that comes back."""

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from course_utils.foundation.arguments import check_count


def make_generator(seed: int | None) -> torch.Generator:
    """A CPU generator of its own: the same stream for the same seed, fresh entropy for None.

    >>> torch.equal(torch.rand(3, generator=make_generator(7)), torch.rand(3, generator=make_generator(7)))
    True
    """
    generator = torch.Generator()
    if seed is None:
        generator.seed()
    else:
        if check_count(seed, "seed", minimum=0) >= 2**63:
            raise ValueError(f"seed must be less than 2**63, but is {seed}")
        generator.manual_seed(seed)
    return generator


def derived_seed(seed: int, *purpose: str | int) -> int:
    """A seed of its own for each purpose: two streams of one run must not be the same numbers.

    >>> derived_seed(0, "shuffle", 1) == derived_seed(0, "shuffle", 1) != derived_seed(0, "dropout", 1)
    True
    """
    text = "/".join(map(str, (seed, *purpose)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6])


@contextmanager
def isolated_randomness(seed: int | None) -> Iterator[None]:
    """Seed torch's global generators for a `with` block, then give back the state they had.

    For library code that draws from the global state and takes no generator, dropout for one. None draws fresh entropy.
    Only generators that exist are seeded: torch.manual_seed would also plant its seed in devices not used yet.
    """
    seed = make_generator(seed).initial_seed()
    generators = [torch.default_generator]
    if torch.cuda.is_initialized():
        generators += torch.cuda.default_generators
    if torch.backends.mps.is_available():
        generators.append(torch.mps._get_default_mps_generator())
    states = [generator.get_state() for generator in generators]
    try:
        for generator in generators:
            generator.manual_seed(seed)
        yield
    finally:
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)


def seed_everything(seed: int, *, deterministic: bool = False) -> None:
    """Seed Python's, NumPy's and torch's global generators. A side effect on purpose: call it once, at the top.

    Args:
        seed: a whole number ≥ 0 and < 2**32 (NumPy's limit).
        deterministic: also ask torch for deterministic algorithms, with a warning where it has none.
    """
    import numpy as np

    seed = check_count(seed, "seed", minimum=0)
    if seed >= 2**32:
        raise ValueError(f"seed must be less than 2**32, but is {seed}")
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002  (some libraries draw from this global state)
    torch.manual_seed(seed)
    if deterministic:
        torch.use_deterministic_algorithms(True, warn_only=True)
