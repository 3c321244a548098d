"""Parameters counted, weights described, summaries without traces."""

import contextlib
import io
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from course_utils.iris import MLP, count_parameters, model_summary, parameter_table, weight_statistics
from tests.support.models import seeded_mlp


class TestInspection:
    def test_count_by_hand(self):
        count = count_parameters(MLP())
        assert (count.total, count.trainable, count.frozen) == (4 * 10 + 10 + 10 * 3 + 3, 83, 0)

    @given(st.lists(st.integers(1, 20), min_size=2, max_size=5))
    def test_count_equals_torchinfo(self, sizes):
        import torchinfo

        model = nn.Sequential(*(nn.Linear(a, b) for a, b in pairwise(sizes)))
        assert count_parameters(model).total == torchinfo.summary(model, verbose=0).total_params

    def test_shared_parameters_count_once(self):
        layer = nn.Linear(10, 10)
        assert count_parameters(nn.Sequential(layer, nn.ReLU(), layer)).total == 110

    def test_e66_frozen_parameters_are_listed_and_marked(self):
        model = MLP()
        model.hidden.requires_grad_(False)
        table = parameter_table(model)
        assert table["name"].tolist() == ["hidden.weight", "hidden.bias", "output.weight", "output.bias"]
        assert table["trainable"].tolist() == [False, False, True, True]
        assert table["count"].sum() == 83
        assert count_parameters(model).frozen == 50

    def test_e67_neither_activation_nor_loss_has_parameters(self):
        names = set(parameter_table(MLP())["name"])
        assert names == {"hidden.weight", "hidden.bias", "output.weight", "output.bias"}

    def test_statistics(self):
        model = seeded_mlp()
        row = weight_statistics(model).set_index("name").loc["hidden.weight"]
        values = model.hidden.weight.detach().double().numpy()
        assert (row["mean"], row["std"]) == pytest.approx((values.mean(), values.std()))
        assert (row["min"], row["max"]) == pytest.approx((values.min(), values.max()))

    def test_e2_statistics_of_one_number_are_finite(self):
        assert weight_statistics(nn.Linear(1, 1))["std"].tolist() == [0.0, 0.0]

    def test_not_a_model(self):
        for function in (count_parameters, parameter_table, weight_statistics):
            with pytest.raises(TypeError, match="torch.nn.Module"):
                function([1, 2])


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(10, 10)

    def forward(self, x):
        return self.layer(self.layer(x))


class TestSummary:
    @pytest.mark.parametrize("engine", ["torchinfo", "torchsummary"])
    def test_names_the_parameters(self, engine):
        assert "Total params: 83" in model_summary(MLP(), input_size=(1, 4), engine=engine)

    def test_input_data_and_size_agree(self, split):
        assert model_summary(MLP(), input_data=split.x_test) == model_summary(MLP(), input_size=(30, 4))

    def test_e68_what_torchsummary_really_does(self):
        import torchsummary

        assert "Total params: 220" in model_summary(Twice(), input_size=(1, 10), engine="torchsummary")
        assert "Total params: 110" in model_summary(Twice(), input_size=(1, 10), engine="torchinfo")
        with pytest.raises(RuntimeError, match="try engine='torchinfo'"):
            model_summary(nn.LSTM(4, 8), input_size=(1, 5, 4), engine="torchsummary")
        norm, state = nn.BatchNorm1d(4), torch.get_rng_state()
        with contextlib.redirect_stdout(io.StringIO()):
            torchsummary.summary(nn.Sequential(norm), (4,), device="cpu")
        assert norm.running_mean.abs().sum() > 0  # the raw library leaves traces
        assert not torch.equal(state, torch.get_rng_state())

    def test_half_and_double_models(self, split):
        for dtype in (torch.float64, torch.float32):
            text = model_summary(MLP().to(dtype), input_data=split.x_test.to(dtype), engine="torchinfo")
            assert "Total params: 83" in text
        assert "Total params: 83" in model_summary(MLP().double(), input_size=(1, 4), engine="torchsummary")

    @pytest.mark.parametrize(
        ("options", "error", "words"),
        [
            ({}, ValueError, "exactly one"),
            ({"input_size": (1, 4), "input_data": torch.zeros(2, 4)}, ValueError, "exactly one"),
            ({"input_size": (1, 4), "engine": "keras"}, ValueError, "'torchinfo', 'torchsummary'"),
            ({"input_size": (0, 4)}, ValueError, "at least 1"),
            ({"input_size": (1, 4.0)}, TypeError, "int"),
            ({"input_data": [[1.0]]}, TypeError, "torch.Tensor"),
            ({"input_size": (1, 5)}, RuntimeError, "could not run the model on an input of shape"),
        ],
    )
    def test_bad_input(self, options, error, words):
        with pytest.raises(error, match=words):
            model_summary(MLP(), **options)
