"""NaN and infinity counted as numpy counts them, and the first layer that makes them."""

import copy
import warnings
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch import nn
from transformers import DynamicCache

from course_utils.data import load_split
from course_utils.pitfalls import detect_nan_inf, diagnose, first_nonfinite_layer
from tests.support.models import Apply, mlp
from tests.support.snapshots import snapshot
from tests.support.values import DTYPES, INF, NAN, any_float32, random_normal


class TestDetectNanInf:
    @given(
        arrays.arrays(
            np.float32,
            arrays.array_shapes(max_dims=3, max_side=4),
            elements=st.one_of(st.sampled_from([NAN, INF, -INF]), any_float32),
        )
    )
    def test_counts_and_first_position_equal_numpys(self, values):
        report = detect_nan_inf(torch.from_numpy(values), "x")
        assert report.nan_count == np.isnan(values).sum()
        assert report.posinf_count == np.isposinf(values).sum()
        assert report.neginf_count == np.isneginf(values).sum()
        nonfinite = np.argwhere(~np.isfinite(values))
        assert bool(report) == (len(nonfinite) > 0)
        assert report.first_index == (tuple(nonfinite[0]) if len(nonfinite) else None)
        assert report.path == ("x" if len(nonfinite) else None)

    def test_nested_values_are_counted_together_and_the_first_is_named(self):
        value = {
            "loss": torch.tensor(1.0),
            "boxes": [torch.ones(2, 2), (torch.tensor([1.0, -INF]), torch.tensor([[NAN, INF]]))],
            "step": 3,
            "names": ["a", b"b", None, True],
            2: NAN,
        }
        report = detect_nan_inf(value, "outputs")
        assert (report.nan_count, report.posinf_count, report.neginf_count) == (2, 1, 1)
        assert report.path == 'outputs["boxes"][1][0]'
        assert report.first_index == (1,)
        assert str(report) == 'outputs: 2 NaN, 1 +inf, 1 -inf; the first in outputs["boxes"][1][0] at [1]'
        assert detect_nan_inf({2: NAN}, "x").path == "x[2]"

    @pytest.mark.parametrize("name", ["the model's output", 'a "name"'])
    def test_the_callers_name_stays_as_it_is(self, name):
        report = detect_nan_inf({"loss": [NAN]}, name)
        assert report.path == f'{name}["loss"][0]'

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_a_finite_tensor_whose_sum_overflows_is_finite(self, dtype):
        finite = torch.full((3, 1000), torch.finfo(dtype).max, dtype=dtype)
        assert finite.sum().isinf()
        report = detect_nan_inf(finite)
        assert not report
        assert str(report) == "tensor: all values are finite"
        finite[1, 7] = NAN
        assert detect_nan_inf(finite).first_index == (1, 7)

    def test_infinities_that_cancel_are_seen(self):
        report = detect_nan_inf(torch.tensor([INF, -INF, 0.0]))
        assert (report.nan_count, report.posinf_count, report.neginf_count) == (0, 1, 1)

    @pytest.mark.parametrize(
        "value",
        [torch.tensor([]), torch.zeros(0, 3), torch.tensor([1, 2]), torch.tensor([True]), [], {}, None, "nan", b"nan"],
        ids=repr,
    )
    def test_what_cannot_be_nonfinite_is_finite(self, value):
        assert not detect_nan_inf(value)
        assert detect_nan_inf([value, torch.tensor(NAN)]).path == "tensor[1]"

    @pytest.mark.parametrize(
        "number", [0, True, 10**400, 1.5, 1e39, -1e300, np.float64(1e300), np.int64(3), 1 + 1e300j]
    )
    def test_finite_numbers_of_any_size(self, number):
        assert not detect_nan_inf(number)
        assert not detect_nan_inf({"loss": [number]})

    @pytest.mark.parametrize(
        ("number", "counts"),
        [
            (NAN, (1, 0, 0)),
            (INF, (0, 1, 0)),
            (-INF, (0, 0, 1)),
            (np.float32(NAN), (1, 0, 0)),
            (np.float64(-INF), (0, 0, 1)),
            (complex(0, INF), (0, 1, 0)),
            (complex(NAN, 0), (1, 0, 0)),
        ],
    )
    def test_nonfinite_numbers(self, number, counts):
        report = detect_nan_inf({"loss": number}, "step")
        assert (report.nan_count, report.posinf_count, report.neginf_count) == counts
        assert report.path == 'step["loss"]'

    @pytest.mark.parametrize("number", [Fraction(1, 3), Decimal("0.5")], ids=repr)
    def test_exact_numbers_are_numbers(self, number):
        assert not detect_nan_inf([number])

    def test_complex_tensors_have_positions_of_their_own_rank(self):
        value = torch.tensor([[1 + 1j, 2], [3, complex(1, NAN)]])
        for tensor in (value, value.conj()):
            report = detect_nan_inf(tensor)
            assert report.nan_count == 1
            assert report.first_index == (1, 1)
        assert not detect_nan_inf(torch.tensor([1 + 1j]).conj())

    def test_values_of_a_graph_keep_it(self):
        leaf = torch.tensor([1.0, 0.0], requires_grad=True)
        assert detect_nan_inf({"a": leaf.log(), "b": nn.Parameter(torch.ones(1))}, "x").neginf_count == 1
        assert leaf.grad is None
        assert leaf.requires_grad

    def test_f14_caches_are_skipped_and_named(self):
        output = {"logits": torch.zeros(2), "past_key_values": DynamicCache(), "hidden": [object(), None]}
        report = detect_nan_inf(output, "output")
        assert not report
        assert report.skipped == ('output["past_key_values"] (DynamicCache)', 'output["hidden"][0] (object)')
        assert str(report).endswith(
            '; not looked into: output["past_key_values"] (DynamicCache), output["hidden"][0] (object)'
        )

    def test_f14_nan_beside_finite_logits(self):
        @dataclass
        class Output:
            logits: torch.Tensor
            hidden: tuple

        for output in (
            Output(torch.zeros(2), (torch.tensor([0, NAN]),)),
            SimpleNamespace(logits=torch.ones(1), hidden=[0, NAN]),
        ):
            assert detect_nan_inf(output, "x").path.startswith("x.hidden[")

    @pytest.mark.parametrize(
        ("value", "words"),
        [
            (object(), "tensor must be a tensor, a number, or a dict or list"),
            ({"a": [np.ones(3)]}, r'tensor\["a"\]\[0\] must be a tensor.*numpy ndarray'),
            ({1.0}, "set"),
        ],
    )
    def test_unknown_objects(self, value, words):
        with pytest.raises(TypeError, match=words):
            detect_nan_inf(value)


def found_failure(model: nn.Module, x: torch.Tensor) -> bool:
    return "failed on purpose" in str(diagnose(model, x))


def first_nonfinite_by_hand(model: nn.Sequential, x: torch.Tensor) -> str | None:
    """The oracle for a plain stack of layers: run one after the other."""
    for i, layer in enumerate(model):
        x = layer(x)
        if not torch.isfinite(x).all():
            return str(i)
    return None


class Block(nn.Module):
    """Two layers with a function between them."""

    def __init__(self, between) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 4)
        self.between = between

    def forward(self, x):
        return self.last(self.between(self.first(x)))


class PaddedEncoder(nn.Module):
    """A transformer whose padding is marked by zeros; torch's fused path makes NaN of a sample that is all padding."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.encoder, self.head = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True), nn.Linear(16, 3)

    def forward(self, x):  # (N, T, D) → (N, 3)
        return self.head(self.encoder(x, src_key_padding_mask=(x == 0).all(-1)).mean(1))


class TestFusedPath:
    """F2: hooks on its layers keep an encoder from the path that it takes without them."""

    x = random_normal(4, 5, 16).float()

    def test_f2_nan_on_the_fused_path_is_found(self):
        model, x = PaddedEncoder().eval(), self.x.index_fill(0, torch.tensor([1]), 0)
        with torch.no_grad():
            assert model(x)[1].isnan().all()
            handle = model.encoder.register_forward_hook(lambda *_: None)
            assert model(x).isfinite().all()  # the error: who looks with hooks sees nothing
            handle.remove()
        before = snapshot(model, x)
        assert first_nonfinite_layer(model, x) == "encoder"
        assert "starts in the layer 'encoder', only on torch's fused path" in str(diagnose(model, x))
        assert snapshot(model, x) == before
        assert not nn.modules.module._global_forward_hooks

    def test_f2_a_sound_encoder_and_its_nested_tensors(self):
        x = self.x.clone()
        x[0, 3:] = 0
        assert first_nonfinite_layer(PaddedEncoder().eval(), x) is None
        model = nn.TransformerEncoder(PaddedEncoder().encoder, 2).eval()
        inputs = {"src": x, "src_key_padding_mask": (x == 0).all(-1)}
        assert first_nonfinite_layer(model, inputs) is None
        with torch.no_grad():
            model.layers[1].linear2.bias[0] = NAN
        assert first_nonfinite_layer(model, inputs) == "layers.1.linear2"


class TestFirstNonfiniteLayer:
    x = random_normal(6, 4).float()

    def test_a_network_that_really_diverges(self):
        """Least squares on digits, with a learning rate far too large: finite, finite, then not."""
        raw = load_split("digits", scaling="none")
        x, y = raw.x_train[:200], raw.y_train[:200, None].float()
        model = nn.Sequential(*mlp(hidden=16, outputs=16), nn.ReLU(), *mlp(inputs=16, hidden=16, outputs=1))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        seen = []
        for _ in range(10):
            with torch.no_grad():
                expected = first_nonfinite_by_hand(model, x)
            assert first_nonfinite_layer(model, x) == expected
            seen.append(expected)
            optimizer.zero_grad()
            F.mse_loss(model(x), y).backward()
            optimizer.step()
        assert seen[:3] == [None] * 3
        assert seen[-1] in ("0", "2", "4")  # a linear layer, whose weights are NaN in the end
        assert len(set(seen)) > 2  # it is not where the divergence was first seen

    @given(st.integers(0, 5), st.sampled_from([NAN, INF, -INF]))
    def test_names_the_layer_that_was_broken(self, position, value):
        layers = [Apply(lambda x: x * 1.0) for _ in range(6)]
        layers[position] = Apply(lambda x: x.masked_fill(torch.ones_like(x, dtype=torch.bool), value))
        model = nn.Sequential(*layers)
        assert first_nonfinite_layer(model, self.x) == first_nonfinite_by_hand(model, self.x) == str(position)

    def test_dotted_names(self):
        model = nn.Sequential(
            nn.ReLU(), nn.ModuleDict({"head": nn.Sequential(nn.Identity(), Apply(torch.log))})["head"]
        )
        assert first_nonfinite_layer(model, self.x) == "1.1"
        assert first_nonfinite_layer(Apply(torch.log), self.x) == "Apply"

    @pytest.mark.parametrize("model", [nn.Identity(), mlp(inputs=4), mlp(nn.BatchNorm1d(32), nn.ReLU(True), inputs=4)])
    def test_none_when_all_is_finite(self, model):
        assert first_nonfinite_layer(model, self.x) is None

    def test_code_between_layers_is_blamed_on_the_module_around(self):
        block = Block(lambda x: (-x.abs() - 1).log())
        assert first_nonfinite_layer(block, self.x) == "Block"
        assert first_nonfinite_layer(nn.Sequential(nn.Linear(4, 4), block), self.x) == "1"
        after = nn.Sequential(Block(torch.tanh), Block(lambda x: x / 0), Block(torch.tanh))
        assert first_nonfinite_layer(after, self.x) == "1"

    def test_code_after_the_last_layer_too(self):
        class Head(nn.Linear):
            def forward(self, x):
                return super().forward(x) / 0

        assert first_nonfinite_layer(nn.Sequential(nn.ReLU(), Head(4, 2)), self.x) == "1"

    def test_shared_layers_have_their_first_name(self):
        shared = nn.Linear(4, 4)
        assert first_nonfinite_layer(nn.Sequential(shared, Apply(lambda x: x / 0), shared), self.x) == "1"
        with torch.no_grad():
            shared.weight.fill_(1e30)  # finite the first time, overflows the second
        assert first_nonfinite_layer(nn.Sequential(nn.ReLU(), shared, nn.Tanh(), shared), self.x) is None
        assert first_nonfinite_layer(nn.Sequential(nn.ReLU(), shared, nn.ReLU(), shared), self.x) == "1"

    def test_nonfinite_inputs_are_handed_on_by_the_first_layer(self):
        assert first_nonfinite_layer(Block(torch.tanh), torch.full((2, 4), NAN)) == "first"

    @pytest.mark.parametrize("wrap", [lambda z: {"a": [z]}, lambda z: (1, z), lambda z: SimpleNamespace(logits=z)])
    def test_outputs_of_any_structure(self, wrap):
        assert first_nonfinite_layer(Apply(lambda x: wrap(x.tanh())), self.x) is None
        assert first_nonfinite_layer(Apply(lambda x: wrap(x / 0)), self.x) == "Apply"

    def test_several_inputs(self):
        class Divide(nn.Module):
            def forward(self, a, b):
                return a / b

        assert first_nonfinite_layer(Divide(), (self.x, torch.ones(4))) is None
        assert first_nonfinite_layer(Divide(), (self.x, torch.zeros(4))) == "Divide"

    def test_in_place_layers_leave_the_inputs_alone(self):
        x = self.x.clone()
        model = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 4), nn.ReLU(inplace=True), Apply(lambda x: x / 0))
        before = snapshot(model, x)
        assert first_nonfinite_layer(model, x) == "3"
        assert snapshot(model, x) == before

    def test_in_place_layers_leave_a_list_of_inputs_alone(self):
        class Sum(nn.Module):
            def forward(self, parts):
                return sum(F.relu_(part) for part in parts)

        parts = [self.x.clone(), -self.x]
        assert first_nonfinite_layer(Sum(), (parts,)) is None
        assert torch.equal(parts[0], self.x)

    def test_batchnorm_in_train_mode_learns_nothing(self):
        model = mlp(nn.BatchNorm1d(32), nn.Dropout(), nn.ReLU(inplace=True), inputs=4)
        before = snapshot(model, self.x)
        assert first_nonfinite_layer(model, self.x) is None
        assert snapshot(model, self.x) == before
        model(self.x)
        assert snapshot(model, self.x) != before  # an ordinary forward pass does move the statistics

    @pytest.mark.parametrize("training", [True, False])
    def test_hooks_are_gone_after_an_exception(self, stateful_model, training):
        stateful_model.fail_at = 1
        stateful_model.train(training)
        before = snapshot(stateful_model, self.x)
        with pytest.raises(RuntimeError, match="failed on purpose"):
            first_nonfinite_layer(stateful_model, self.x)
        assert snapshot(stateful_model, self.x) == before
        assert found_failure(stateful_model, self.x)
        assert snapshot(stateful_model, self.x) == before

    def test_what_a_model_catches_is_over(self):
        """A branch that failed and was caught no longer runs, so it is not to blame."""

        class Fails(nn.Module):
            def forward(self, x):
                raise ValueError

        class Catches(nn.Module):
            def __init__(self):
                super().__init__()
                self.fails, self.last = Fails(), nn.Identity()

            def forward(self, x):
                try:
                    x = self.fails(x)
                except ValueError:
                    x = x / 0
                return self.last(x)

        assert first_nonfinite_layer(nn.Sequential(Catches()), self.x) == "0"

    def test_bad_model(self):
        with pytest.raises(TypeError, match=r"model must be a torch.nn.Module"):
            first_nonfinite_layer(torch.relu, self.x)

    def test_e58_hooks_on_in_place_layers_without_a_warning(self):
        model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True), nn.Linear(4, 3))
        broken = copy.deepcopy(model)
        for module in broken:  # the error: a full backward hook hands out a view, and the in-place layer may not write
            module.register_full_backward_hook(lambda *args: None)
        with pytest.raises(RuntimeError, match=r"view and is being modified inplace"):
            broken(self.x).sum().backward()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert first_nonfinite_layer(model, self.x) is None
            assert diagnose(model, self.x, torch.tensor([0, 1, 2, 0, 1, 2]), F.cross_entropy).ok
        model(self.x).sum().backward()  # and nothing is left that would stop this
