"""Seeds, streams, and random states that come back."""

import random

import numpy as np
import pytest
import torch

from course_utils.foundation.seeding import isolated_randomness, make_generator, seed_everything


class TestSeeding:
    def test_none_is_fresh_and_a_seed_is_a_stream(self):
        assert not torch.equal(
            torch.rand(4, generator=make_generator(None)), torch.rand(4, generator=make_generator(None))
        )
        assert torch.equal(torch.rand(4, generator=make_generator(3)), torch.rand(4, generator=make_generator(3)))

    def test_isolated_randomness_gives_the_state_back(self):
        state = torch.get_rng_state()
        with isolated_randomness(5):
            first = torch.rand(3)
        with isolated_randomness(5):
            assert torch.equal(first, torch.rand(3))
        with pytest.raises(RuntimeError), isolated_randomness(5):
            raise RuntimeError(torch.rand(3))
        assert torch.equal(state, torch.get_rng_state())

    def test_seed_everything(self):
        def draw():
            return random.random(), np.random.rand(), torch.rand(1).item()  # noqa: NPY002

        seed_everything(1)
        first = draw()
        seed_everything(1)
        assert draw() == first

    @pytest.mark.parametrize(("seed", "error"), [(-1, ValueError), (2**32, ValueError), (1.5, TypeError)])
    def test_bad_seeds(self, seed, error):
        with pytest.raises(error, match="seed"):
            seed_everything(seed)

    def test_deterministic_is_asked_for(self):
        try:
            seed_everything(0, deterministic=True)
            assert torch.are_deterministic_algorithms_enabled()
        finally:
            torch.use_deterministic_algorithms(False)
