"""Parameters counted, weights described, summaries without traces."""

import contextlib
import copy
import functools
import io
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import prune

from course_utils.iris import (
    MLP,
    ParameterCount,
    count_parameters,
    model_summary,
    parameter_table,
    plot_weight_distributions,
    weight_statistics,
)
from tests.support.models import seeded_mlp
from tests.support.snapshots import snapshot


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

    def test_f9_complex_parameters(self):
        """std 3 where the imaginary parts are ±3, and not 0."""
        layer = nn.Linear(2, 2, bias=False).to(torch.complex64)
        layer.weight.data = torch.tensor([[3j, -3j], [3j, -3j]])
        row = weight_statistics(layer).iloc[0]
        assert (row["mean"], row["std"], row["min"], row["max"]) == (0, 3, 3, 3)
        layer.weight.data = torch.tensor([[1 + 1j, 3 - 2j], [2j, 5]])
        row, values = weight_statistics(layer).iloc[0], layer.weight.detach().numpy()
        assert row["mean"] == pytest.approx(values.mean())
        assert row["std"] == pytest.approx(values.std())
        assert (row["min"], row["max"]) == pytest.approx((abs(values).min(), abs(values).max()))
        with pytest.raises(TypeError, match="weight is complex.*weight_statistics"):
            plot_weight_distributions(layer)

    def test_f8_shared_parameters_have_one_row(self):
        table = parameter_table(Tied())
        assert table["name"].tolist() == ["embedding.weight"]
        assert table["count"].sum() == count_parameters(Tied()).total == 800

    @pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
    def test_p19_quantised_layers_are_counted(self):
        plain = nn.Sequential(nn.Linear(4, 10), nn.ReLU(), nn.Linear(10, 3))
        quantised = torch.ao.quantization.quantize_dynamic(copy.deepcopy(plain), {nn.Linear})
        assert not list(quantised.parameters())
        assert count_parameters(quantised) == ParameterCount(83, 0, 83)
        assert parameter_table(quantised)["name"].tolist() == parameter_table(plain)["name"].tolist()
        of_both = [weight_statistics(model).set_index("name")["std"] for model in (plain, quantised)]
        assert of_both[0].to_dict() == pytest.approx(of_both[1].to_dict(), abs=0.01)
        lstm = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.LSTM(4, 8, 2)), {nn.LSTM})
        assert count_parameters(lstm).total == count_parameters(nn.LSTM(4, 8, 2)).total
        assert "The model has 83 parameters" in model_summary(quantised, input_size=(1, 4))

    @pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
    def test_p19_layers_quantised_together_with_their_relu_are_counted(self):
        """They are of another module of torch, and 27 of 83 parameters were found."""
        from torch.ao.quantization import get_default_qconfig_mapping
        from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

        plain, x = nn.Sequential(nn.Linear(4, 10), nn.ReLU(), nn.Linear(10, 3)).eval(), torch.rand(9, 4)
        prepared = prepare_fx(copy.deepcopy(plain), get_default_qconfig_mapping(), (x,))
        prepared(x)
        quantised = convert_fx(prepared)
        assert "intrinsic" in type(quantised.get_submodule("0")).__module__
        assert count_parameters(quantised) == ParameterCount(83, 0, 83)
        assert parameter_table(quantised)["name"].tolist() == parameter_table(plain)["name"].tolist()

    @pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
    @pytest.mark.parametrize("look", [count_parameters, parameter_table, weight_statistics])
    def test_a_frozen_torchscript_has_no_parameters_left(self, look):
        frozen = torch.jit.freeze(torch.jit.script(MLP().eval()))
        with pytest.raises(TypeError, match="as constants.*pass the model that it was made from"):
            look(frozen)

    @pytest.mark.parametrize("look", [count_parameters, parameter_table, weight_statistics, model_summary])
    def test_f13_lazy_layers_are_refused_with_a_sentence(self, look):
        with pytest.raises(ValueError, match="lazy layers that do not know their sizes yet; run it once"):
            look(nn.Sequential(nn.LazyLinear(3)))

    @pytest.mark.parametrize("wrap", [nn.DataParallel, functools.partial(torch.compile, backend="eager")])
    def test_q23_wrappers_are_taken_off(self, wrap):
        assert count_parameters(wrap(MLP())).total == 83
        assert parameter_table(wrap(MLP()))["name"].tolist() == parameter_table(MLP())["name"].tolist()
        assert model_summary(wrap(MLP()), (1, 4)) == model_summary(MLP(), (1, 4))

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


class Tied(nn.Module):
    """The output layer of a language model is its embedding."""

    def __init__(self):
        super().__init__()
        self.embedding, self.head = nn.Embedding(100, 8), nn.Linear(8, 100, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, x):
        return self.head(self.embedding(x))


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(4, 3), nn.Linear(5, 3)

    def forward(self, a, b):
        return self.left(a) + self.right(b)


def last_line(*arguments, **options) -> str:
    return model_summary(*arguments, **options).splitlines()[-1]


class TestSummaryOfEveryKind:
    def test_f8_the_true_total_of_tied_parameters(self):
        text = model_summary(Tied(), input_data=torch.tensor([[1, 2]]))
        assert "Total params: 1,600" in text  # torchinfo's own
        assert text.splitlines()[-1].startswith(
            "The model has 800 parameters (count_parameters); those that layers share"
        )
        assert "110 parameters" in last_line(Twice(), input_size=(1, 10), engine="torchsummary")
        assert "count_parameters" not in model_summary(MLP(), input_size=(1, 4))

    @pytest.mark.filterwarnings("ignore::FutureWarning")
    @pytest.mark.parametrize(
        ("change", "total"),
        [
            (lambda layer: prune.l1_unstructured(layer, "weight", amount=0.5), 67),
            (nn.utils.weight_norm, 75),
            (nn.utils.spectral_norm, 67),
            (nn.utils.parametrizations.weight_norm, 75),
        ],
        ids=["pruned", "weight_norm", "spectral_norm", "parametrized"],
    )
    def test_f12_layers_whose_weight_is_made_in_forward(self, change, total):
        model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        change(model[0])
        model(torch.ones(1, 4))  # now the weight belongs to a graph, and deepcopy refuses it
        weight, before = vars(model[0]).get("weight"), snapshot(model)
        text = model_summary(model, input_size=(1, 4))
        assert count_parameters(model).total == total
        assert f"Total params: {total}" in text or f"The model has {total} parameters" in text
        assert vars(model[0]).get("weight") is weight
        assert snapshot(model) == before

    @pytest.mark.parametrize("engine", ["torchinfo", "torchsummary"])
    def test_f22_several_inputs(self, engine):
        a, b = torch.ones(2, 4), torch.ones(2, 5)
        texts = {
            model_summary(TwoInputs(), input_data=data, engine=engine) for data in ([a, b], (a, b), {"a": a, "b": b})
        }
        assert all("Total params: 33" in text for text in texts)
        with pytest.raises(ValueError, match="same number of samples"):
            model_summary(TwoInputs(), input_data=[a, b[:1]], engine=engine)

    def test_f22_a_size_for_tokens_advises_data(self):
        with pytest.raises(RuntimeError, match="whole numbers, pass some as input_data instead of an input_size"):
            model_summary(Tied(), input_size=(1, 2))
        assert "[1, 2, 100]" in model_summary(Tied(), input_data=torch.tensor([[1, 2]]))

    def test_p29_in_inference_mode(self):
        with torch.inference_mode():
            assert "Total params: 83" in model_summary(MLP(), input_data=torch.ones(1, 4))


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
