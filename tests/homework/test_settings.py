"""A setting and a grid: every form of a value, and what is refused."""

import numpy as np
import pytest
import torch

from course_utils.homework import Setting, expand_grid


class TestGrid:
    def test_defaults_are_those_of_the_iris_lesson(self):
        setting = Setting()
        assert (setting.hidden_features, setting.activation, setting.optimizer, setting.lr) == (
            (10,),
            "relu",
            "sgd",
            0.01,
        )
        assert (setting.dropout, setting.weight_decay, setting.batch_size, setting.init) == (0, 0, None, "default")

    def test_the_full_product_in_order_without_duplicates(self):
        grid = [{"lr": [1, 0.1, 1.0], "hidden_features": [8, (8,), [16, 4]]}, {"lr": 0.1, "hidden_features": [8, 9]}]
        found = [(setting.lr, setting.hidden_features) for setting in expand_grid(grid)]
        assert found == [(1, (8,)), (1, (16, 4)), (0.1, (8,)), (0.1, (16, 4)), (0.1, (9,))]

    def test_values_come_in_many_forms(self):
        grid = {
            "lr": np.array([0.1, 0.2]),
            "hidden_features": range(3, 5),
            "dropout": np.float32(0.5),
            "batch_size": None,
        }
        assert len(expand_grid(grid)) == 4
        assert expand_grid({"epochs": torch.tensor([1, 2])}) == [Setting(epochs=1), Setting(epochs=2)]

    def test_epochs_for_all(self):
        assert {setting.epochs for setting in expand_grid({"lr": [0.1, 0.2]}, epochs=7)} == {7}
        with pytest.raises(ValueError, match="give it once"):
            expand_grid({"epochs": 3}, epochs=7)

    @pytest.mark.parametrize(
        ("grid", "message"),
        [
            ({}, "grid is empty.*hidden_features, activation"),
            ([], "grid is empty"),
            ([{"lr": 1}, {}], "grid is empty"),
            (None, "dict or a list of dicts"),
            ("lr", "dict or a list of dicts"),
            ([("lr", 1)], "dict or a list of dicts"),
            ({"lr": []}, "no value for lr"),
            ({"learning_rate": 0.1}, "'learning_rate', which is none of hidden_features, .*lr"),
            ({1: 0.1}, "none of"),
            ({"hidden_features": []}, "no value for hidden_features"),
            ({"hidden_features": [[]]}, "at least one hidden layer"),
            ({"hidden_features": (8, 8)}, "one network or several"),
            ({"hidden_features": [[8, 0]]}, "at least 1"),
            ({"hidden_features": 2.0}, "must be an int"),
            ({"hidden_features": True}, "must be an int"),
            ({"hidden_features": [[[8]]]}, "must be an int"),
            ({"activation": ["relu", "swish"]}, "'relu', 'leaky_relu', 'tanh'.*'swish'"),
            ({"activation": [["relu"]]}, "must be one of"),
            ({"dropout": 1}, r"\[0, 1\)"),
            ({"dropout": -0.1}, r"\[0, 1\)"),
            ({"dropout": "0.1"}, "must be a number"),
            ({"dropout": float("nan")}, "finite"),
            ({"optimizer": "lbfgs"}, "'sgd', 'momentum', 'nesterov', 'adam', 'adamw'"),
            ({"optimizer": None}, "must be one of"),
            ({"lr": -0.1}, "strictly between 0 and 1e.30"),
            ({"lr": 0}, "strictly between 0 and 1e.30"),
            ({"lr": float("nan")}, "strictly between 0 and 1e.30"),
            ({"lr": float("inf")}, "strictly between 0 and 1e.30"),
            ({"lr": True}, "must be a number"),
            ({"lr": None}, "must be a number"),
            ({"lr": {0.1}}, "must be a number"),
            ({"weight_decay": -1}, r"\[0, 1e.06\)"),
            ({"weight_decay": float("inf")}, "finite"),
            ({"batch_size": 0}, "at least 1"),
            ({"batch_size": 1.5}, "must be an int"),
            ({"batch_size": False}, "must be an int"),
            ({"init": "he"}, "'default', 'xavier', 'kaiming', 'zeros'"),
            ({"epochs": 0}, "at least 1"),
            ({"epochs": "many"}, "must be an int"),
        ],
    )
    def test_bad_grids(self, grid, message):
        with pytest.raises(ValueError, match=message):
            expand_grid(grid)
