"""Learning rates, parameter groups and image sizes of a training."""

import dataclasses
import math
from itertools import pairwise

import pytest

from course_utils.capstone import Recipe
from course_utils.capstone.recipes import one_cycle
from tests.support.capstone import fit, tiny


class TestRecipe:
    def test_one_cycle(self):
        values = [one_cycle(step / 1000) for step in range(1001)]
        assert (values[0], max(values), values.index(1.0)) == (pytest.approx(0.2), 1, 250)
        assert 0 < values[-1] < 0.1
        assert values[:251] == sorted(values[:251])
        assert values[250:] == sorted(values[250:], reverse=True)
        assert max(abs(a - b) for a, b in pairwise(values)) < 0.004

    @pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
    def test_groups(self, optimizer):
        model = tiny()
        recipe = Recipe(optimizer=optimizer, lr=0.1, weight_decay=0.02, bias_lr_factor=4, schedule="constant")
        made = recipe.make_optimizer(model)
        assert type(made).__name__.lower() == optimizer
        trainable = [p for p in model.parameters() if p.requires_grad]
        weight, bias = made.param_groups
        assert {id(p) for group in made.param_groups for p in group["params"]} == {id(p) for p in trainable}
        assert all(p.ndim > 1 for p in weight["params"])
        assert all(p.ndim == 1 for p in bias["params"])
        assert (weight["weight_decay"], bias["weight_decay"]) == (0.02, 0.005)
        recipe.set_lr(made.param_groups, 0.9)
        assert (weight["lr"], bias["lr"]) == (0.1, 0.4)
        dataclasses.replace(recipe, schedule="one-cycle").set_lr(made.param_groups, 0)
        assert (weight["lr"], bias["lr"]) == pytest.approx((0.02, 0.08))

    def test_image_sizes(self):
        recipe = Recipe(early_size=24)
        assert [recipe.size(progress) for progress in (0, 0.49, 0.5, 0.99)] == [24, 24, None, None]
        assert Recipe().size(0) is None
        seen = []
        model = tiny()
        model.register_forward_pre_hook(lambda m, x: seen.append(x[0].shape[2]))
        fit(model, epochs=2)
        assert seen[1:] == [24, 24, 24, 32, 32, 32]  # two batches and the validation images of each epoch

    @pytest.mark.parametrize(
        "bad",
        [
            {"optimizer": "rmsprop"}, {"schedule": "cosine"}, {"lr": 0}, {"lr": math.inf}, {"batch_size": 0},
            {"weight_decay": -1e-3}, {"momentum": 1}, {"label_smoothing": 1.0}, {"label_smoothing": -0.1},
            {"bias_lr_factor": 0}, {"early_size": 8},
        ],
    )  # fmt: skip
    def test_bad_recipes(self, bad):
        with pytest.raises(ValueError, match=next(iter(bad))):
            Recipe(**bad)
