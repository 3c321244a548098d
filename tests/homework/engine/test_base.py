"""What both engines share: first weights and random numbers."""

from itertools import product

import pytest
import torch

from course_utils.homework import Setting
from course_utils.homework.engine.base import Dropout, initial_parameters, run_generator
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
        masks = Dropout([(Setting(8, dropout=dropout), 0), (Setting(8), 1)], 8192, torch.float64)
        masks.words.view(2, -1)[:] = torch.arange(-(2**15), 2**15).to(torch.int16)  # every word once
        mask = torch.empty(2, 8, 8192, dtype=torch.float64)
        masks.write_mask(0, slice(None), mask)
        assert mask.mean((1, 2)).tolist() == pytest.approx([1, 1])
        assert (mask[0] == 0).double().mean().item() == pytest.approx(dropout, abs=2**-15)
        assert 1 <= mask[0].max() <= 2**16
        assert mask[1].unique().tolist() == [1]

    def test_purposes_have_streams_of_their_own(self):
        draws = [
            torch.rand(3, generator=run_generator(seed, purpose)).tolist()
            for seed, purpose in product((0, 1, 2**32 - 1), ("weights", "order", "dropout"))
        ]
        assert len(set(map(tuple, draws))) == 9
