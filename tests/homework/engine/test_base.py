"""What both engines share: first weights and random numbers."""

from itertools import product

import pytest
import torch

from course_utils.homework import Setting
from course_utils.homework.engine.base import dropout_rule, initial_parameters, run_generator
from course_utils.homework.settings import INITS


class TestRandomNumbers:
    @pytest.mark.parametrize("init", INITS)
    def test_first_weights(self, init):
        (weight, bias), (_, last_bias) = initial_parameters(Setting(1000, init=init), 0, 4, 3)
        bound = {"default": 1 / 4**0.5, "xavier": (6 / 1004) ** 0.5, "kaiming": (6 / 4) ** 0.5, "zeros": 0}[init]
        assert weight.abs().max().item() == pytest.approx(bound, rel=0.01)
        assert init == "default" or not (bias.any() or last_bias.any())

    @pytest.mark.parametrize("dropout", [1e-9, 0.25, 0.5, 1 - 1e-9])
    def test_dropout_keeps_the_expectation(self, dropout):
        keep_from, scale = dropout_rule(dropout)
        kept = (torch.arange(-(2**15), 2**15) >= keep_from).double().mean().item()
        assert kept * scale == pytest.approx(1)
        assert kept == pytest.approx(1 - dropout, abs=2**-15)

    def test_purposes_have_streams_of_their_own(self):
        draws = [
            torch.rand(3, generator=run_generator(seed, purpose)).tolist()
            for seed, purpose in product((0, 1, 2**32 - 1), ("weights", "order", "dropout"))
        ]
        assert len(set(map(tuple, draws))) == 9
