"""Chapter 4: finite numbers, honest shapes, and a check-up that neither misses nor cries wolf. E37 to E48, E58."""

import copy
import functools
import math
import warnings
from decimal import Decimal
from fractions import Fraction
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import scipy.special
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from matplotlib.figure import Figure
from torch import nn

from course_utils.data import load_split
from course_utils.pitfalls import (
    Diagnosis,
    Finding,
    NonFiniteGradientError,
    adaptive_pooling,
    check_and_reshape_output,
    clamp_output,
    detect_nan_inf,
    diagnose,
    exp_transform,
    first_nonfinite_layer,
    gradient_clipping,
    log_transform,
    normalize_output,
    plot_sizes,
    safe_divide,
    safe_softmax,
    scale_output,
)

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
NAN, INF = math.nan, math.inf
DIGITS = load_split("digits")
X, Y = DIGITS.x_train, DIGITS.y_train
seeds = st.integers(0, 2**31)
any_float32 = st.floats(width=32, allow_nan=False, allow_infinity=False)


def random_values(seed: int, *shape: int, scale: float = 1.0) -> torch.Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def float32_vectors(elements=any_float32, min_size: int = 1, max_size: int = 8):
    return st.lists(elements, min_size=min_size, max_size=max_size).map(lambda values: torch.tensor(values))


def gradient_of(function, x: torch.Tensor) -> torch.Tensor:
    """The gradient of the sum of function(x)."""
    x = x.detach().clone().requires_grad_()
    return torch.autograd.grad(function(x).sum(), x)[0]


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal to the last bit, so −0.0 differs from 0.0."""
    return a.dtype == b.dtype and a.numpy().tobytes() == b.numpy().tobytes()


class Apply(nn.Module):
    """A function as a layer."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def mlp(*between: nn.Module, inputs: int = 64, hidden: int = 32, outputs: int = 10, seed: int = 0) -> nn.Sequential:
    """Linear, the layers in between (a ReLU if there are none), Linear."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(inputs, hidden), *(between or [nn.ReLU()]), nn.Linear(hidden, outputs))


def snapshot(model: nn.Module, *tensors: torch.Tensor) -> list:
    """Everything a check-up could disturb, as comparable values."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return [
        torch.get_rng_state().tolist(),
        torch.is_grad_enabled(),
        [(name, value.tolist(), value._version) for name, value in model.state_dict(keep_vars=True).items()],
        [(name, id(value)) for name, value in [*model.named_parameters(), *model.named_buffers()]],
        [(p.requires_grad, None if p.grad is None else p.grad.tolist()) for p in model.parameters()],
        [module.training for module in model.modules()],
        [len(getattr(module, name)) for module in model.modules() for name in hooks],
        [(t.tolist(), t._version, t.requires_grad, None if t.grad is None else t.grad.tolist()) for t in tensors],
    ]


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
        sick = np.argwhere(~np.isfinite(values))
        assert bool(report) == (len(sick) > 0)
        assert report.first_index == (tuple(sick[0]) if len(sick) else None)
        assert report.path == ("x" if len(sick) else None)

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
    def test_a_healthy_tensor_whose_sum_overflows_is_healthy(self, dtype):
        healthy = torch.full((3, 1000), torch.finfo(dtype).max, dtype=dtype)
        assert healthy.sum().isinf()
        report = detect_nan_inf(healthy)
        assert not report
        assert str(report) == "tensor: all values are finite"
        healthy[1, 7] = NAN
        assert detect_nan_inf(healthy).first_index == (1, 7)

    def test_infinities_that_cancel_are_seen(self):
        report = detect_nan_inf(torch.tensor([INF, -INF, 0.0]))
        assert (report.nan_count, report.posinf_count, report.neginf_count) == (0, 1, 1)

    @pytest.mark.parametrize(
        "value",
        [torch.tensor([]), torch.zeros(0, 3), torch.tensor([1, 2]), torch.tensor([True]), [], {}, None, "nan", b"nan"],
        ids=repr,
    )
    def test_what_cannot_be_sick_is_healthy(self, value):
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
    def test_sick_numbers(self, number, counts):
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


def first_sick_by_hand(model: nn.Sequential, x: torch.Tensor) -> str | None:
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


class TestFirstNonfiniteLayer:
    x = random_values(0, 6, 4).float()

    def test_a_network_that_really_diverges(self):
        """Least squares on digits, with a learning rate far too large: healthy, healthy, then gone."""
        raw = load_split("digits", scaling="none")
        x, y = raw.x_train[:200], raw.y_train[:200, None].float()
        model = nn.Sequential(*mlp(hidden=16, outputs=16), nn.ReLU(), *mlp(inputs=16, hidden=16, outputs=1))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        seen = []
        for _ in range(10):
            with torch.no_grad():
                expected = first_sick_by_hand(model, x)
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
        assert first_nonfinite_layer(model, self.x) == first_sick_by_hand(model, self.x) == str(position)

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

    def test_sick_inputs_are_handed_on_by_the_first_layer(self):
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
        stateful_model.fail = True
        stateful_model.train(training)
        before = snapshot(stateful_model, self.x)
        for call in (first_nonfinite_layer, diagnose):
            with pytest.raises(RuntimeError, match="failed on purpose"):
                call(stateful_model, self.x)
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


class TestSafeSoftmax:
    @given(float32_vectors(), st.sampled_from([torch.float64, torch.float32]), seeds)
    def test_equals_torch_for_finite_logits_with_its_gradient(self, row, dtype, seed):
        logits = torch.stack([row, row.flip(0), row * 0]).to(dtype)
        weights = random_values(seed, *logits.shape).to(dtype)
        for dim in (0, 1, -1):
            assert same_bits(safe_softmax(logits, dim), torch.softmax(logits, dim))
            mine = gradient_of(lambda z, dim=dim: weights * safe_softmax(z, dim), logits)
            torchs = gradient_of(lambda z, dim=dim: weights * torch.softmax(z, dim), logits)
            assert torch.equal(mine, torchs)

    @given(
        st.lists(
            st.lists(st.sampled_from([0.0, 1.0, -2.0, INF, -INF]), min_size=4, max_size=4), min_size=1, max_size=4
        ),
        st.lists(st.booleans(), min_size=4, max_size=4),
    )
    def test_infinities_and_masks_by_their_definition(self, rows, keep):
        logits, mask = torch.tensor(rows, dtype=torch.float64), torch.tensor(keep)
        p = safe_softmax(logits, mask=mask)
        for row, got in zip(logits.tolist(), p.tolist(), strict=True):
            kept = [z if k else -INF for z, k in zip(row, keep, strict=True)]
            if max(kept) == INF:
                expected = [(z == INF) / kept.count(INF) for z in kept]
            elif max(kept) == -INF:
                expected = [0.0] * 4
            else:
                expected = scipy.special.softmax(kept)
            assert got == pytest.approx(list(expected), abs=1e-12)
        assert gradient_of(lambda z: safe_softmax(z, mask=mask)[..., 0], logits).isfinite().all()

    def test_masked_entries_have_no_say_and_no_gradient(self):
        logits, mask = random_values(0, 3, 5), torch.tensor([True, False, True, True, False])
        p = safe_softmax(logits, mask=mask)
        assert torch.allclose(p[:, mask], torch.softmax(logits[:, mask], 1))
        assert (p[:, ~mask] == 0).all()
        gradient = gradient_of(lambda z: safe_softmax(z, mask=mask)[:, 0], logits)
        assert (gradient[:, ~mask] == 0).all()
        assert torch.allclose(gradient[:, mask], gradient_of(lambda z: torch.softmax(z, 1)[:, 0], logits[:, mask]))

    @pytest.mark.parametrize("shape", [(5,), (1, 5), (3, 1), (3, 5)])
    def test_masks_broadcast(self, shape):
        mask = torch.arange(math.prod(shape)).reshape(shape) % 2 == 0
        logits = random_values(1, 3, 5)
        filled = logits.masked_fill(~mask, -INF)
        expected = torch.softmax(filled, 1).nan_to_num(0.0)
        assert torch.equal(safe_softmax(logits, mask=mask), expected)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision(self, dtype):
        logits = torch.tensor([[6e4, -6e4, 6e4], [INF, 0.0, -INF], [-INF, -INF, -INF]]).to(dtype)
        p = safe_softmax(logits)
        assert p.dtype == dtype
        assert p.tolist() == [[0.5, 0, 0.5], [1, 0, 0], [0, 0, 0]]

    @pytest.mark.parametrize(
        ("call", "error", "words"),
        [
            (lambda z: safe_softmax(z.tolist()), TypeError, "logits must be a torch.Tensor"),
            (lambda z: safe_softmax(z.long()), TypeError, "floating point"),
            (lambda z: safe_softmax(torch.zeros(0, 3)), ValueError, "empty"),
            (lambda z: safe_softmax(torch.tensor([1.0, NAN, NAN])), ValueError, "NaN, but 2 values do"),
            (lambda z: safe_softmax(z, 2), ValueError, r"dim must be an axis of the logits \(2, 3\), but is 2"),
            (lambda z: safe_softmax(z, -3), ValueError, "dim must be an axis"),
            (lambda z: safe_softmax(z, None), ValueError, "dim must be an axis"),
            (lambda z: safe_softmax(z, mask=torch.ones(2, 3)), TypeError, "mask must be a bool tensor.*float32"),
            (lambda z: safe_softmax(z, mask=[True] * 3), TypeError, "mask must be a bool tensor"),
            (lambda z: safe_softmax(z, mask=torch.ones(2, dtype=torch.bool)), ValueError, r"broadcastable.*\(2, 3\)"),
            (lambda z: safe_softmax(z, mask=torch.ones(4, 2, 3, dtype=torch.bool)), ValueError, "broadcastable"),
        ],
    )
    def test_bad_input(self, call, error, words):
        with pytest.raises(error, match=words):
            call(torch.zeros(2, 3))

    def test_e38_infinite_logits_and_masked_rows(self):
        logits = torch.tensor([[0.0, INF, INF], [1.0, 2.0, 3.0]])
        mask = torch.tensor([[True, True, True], [False, False, False]])
        shifted = (logits - logits.amax(1, keepdim=True)).exp()
        assert (shifted / shifted.sum(1, keepdim=True))[0].isnan().any()  # the errors: inf − inf, and 0 / 0
        assert torch.softmax(logits.masked_fill(~mask, -INF), 1)[1].isnan().all()
        assert safe_softmax(logits, mask=mask).tolist() == [[0, 0.5, 0.5], [0, 0, 0]]
        assert gradient_of(lambda z: safe_softmax(z, mask=mask).square(), logits).isfinite().all()

    def test_e39_needs_no_eps_and_has_a_dim(self):
        logits = torch.tensor([[1e4, -1e4, 0.0], [-1e4, -1e4, -1e4]])
        with pytest.raises(TypeError):
            logits.max(dim=None, keepdim=True)  # the error: the default it had
        total = (logits - logits.amax(1, keepdim=True)).exp().sum(1)
        assert torch.equal(total.clamp(min=1e-12), total)  # the maximum's own term is 1, so the clamp is never reached
        assert (total >= 1).all()
        assert torch.equal(safe_softmax(logits), F.softmax(logits, dim=-1))
        assert np.allclose(safe_softmax(logits), scipy.special.softmax(logits.numpy(), axis=1))


class TestSafeDivide:
    @given(st.lists(st.tuples(any_float32, any_float32), min_size=1, max_size=8), any_float32)
    def test_equals_true_division_off_zero_bit_for_bit(self, pairs, fill):
        a, b = torch.tensor(pairs).unbind(1)
        expected = np.where(b.numpy() == 0, np.float32(fill), 0)
        with np.errstate(over="ignore", under="ignore"):
            np.divide(a.numpy(), b.numpy(), out=expected, where=b.numpy() != 0)
        assert same_bits(safe_divide(a, b, fill=fill), torch.from_numpy(expected))

    @given(st.lists(st.tuples(any_float32, any_float32), min_size=1, max_size=8))
    def test_gradients_are_the_true_ones_and_finite(self, pairs):
        """Also where 1/b or a/b² overflow: then the largest number of the dtype, with the right sign."""
        a, b = (values.requires_grad_() for values in torch.tensor(pairs).unbind(1))
        by_a, by_b = torch.autograd.grad(safe_divide(a, b).sum(), (a, b))
        largest = torch.finfo(torch.float32).max
        wide_a, wide_b = a.detach().double(), b.detach().double()
        true_a = torch.where(wide_b == 0, 0, 1 / wide_b).clamp(-largest, largest)
        true_b = torch.where(wide_b == 0, 0, -wide_a / wide_b / wide_b).clamp(-largest, largest)
        assert torch.allclose(by_a.double(), true_a, rtol=1e-6, atol=1e-37)
        assert torch.allclose(by_b.double(), true_b, rtol=1e-6, atol=1e-37)

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_finite_gradients_at_zeros_and_subnormals(self, dtype):
        tiny = torch.finfo(dtype).smallest_normal / 4
        b = torch.tensor([0.0, -0.0, tiny, -tiny, 2.0], dtype=torch.float64).to(dtype)
        a = torch.tensor([1.0, 0.0, 1.0, 3.0, 1.0], dtype=dtype)
        assert (b[2:4] != 0).all()
        q = safe_divide(a, b)
        assert q.dtype == dtype
        assert q[:2].tolist() == [0, 0]
        assert q[4] == 0.5
        for gradient in (gradient_of(lambda x: safe_divide(a, x), b), gradient_of(lambda x: safe_divide(x, b), a)):
            assert gradient.isfinite().all()
            assert gradient[:2].tolist() == [0, 0]
            assert (gradient[2:] != 0).all()

    def test_gradcheck_and_broadcasting(self):
        a, b = random_values(0, 3, 1).requires_grad_(), (random_values(1, 4).abs() + 1).requires_grad_()
        assert torch.equal(safe_divide(a, b), a / b)
        assert torch.autograd.gradcheck(safe_divide, (a, b), check_undefined_grad=False)

    def test_branches_that_send_no_gradient_back(self):
        """A custom function may return None, and gradcheck tries that."""
        a, b = random_values(0, 3).requires_grad_(), (random_values(1, 3).abs() + 1).requires_grad_()
        assert torch.autograd.gradcheck(safe_divide, (a, b), check_undefined_grad=True)

    def test_numbers_for_either_side(self):
        x = torch.tensor([1.0, -4.0, 0.0])
        assert safe_divide(x, 2).tolist() == [0.5, -2, 0]
        assert safe_divide(2, x, fill=-1).tolist() == [2, -0.5, -1]
        assert safe_divide(x, 0.0, fill=7).tolist() == [7, 7, 7]
        assert safe_divide(x, torch.tensor(2.0)).tolist() == [0.5, -2, 0]
        assert safe_divide(torch.zeros(1), torch.zeros(1), fill=NAN).isnan().all()

    @pytest.mark.parametrize(
        ("a", "b", "expected"),
        [
            (torch.ones(1, dtype=torch.float16), 1e-10, INF),  # overflows as IEEE has it; 1e-10 is not 0
            (torch.ones(1, dtype=torch.float32), 1e-50, INF),
            (70000.0, torch.tensor([2.0], dtype=torch.float16), 35000.0),
            (torch.tensor([6e4], dtype=torch.float16), 1e5, 0.6),
        ],
    )
    def test_numbers_beyond_the_tensors_dtype(self, a, b, expected):
        tensor = a if isinstance(a, torch.Tensor) else b
        assert torch.equal(safe_divide(a, b), torch.tensor([expected]).to(tensor.dtype))

    @pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
    def test_parameters_without_a_graph(self, context):
        weight = nn.Parameter(torch.tensor([1.0, 2.0]))
        with context():
            assert safe_divide(weight, torch.tensor([2.0, 0.0])).tolist() == [0.5, 0]
        assert not weight._backward_hooks

    def test_the_callers_tensor_gets_no_hook(self):
        b = torch.tensor([2.0, 0.0], requires_grad=True)
        result = safe_divide(torch.ones(2), b)
        assert not b._backward_hooks
        (result.sum() + (b * INF).sum()).backward()
        assert b.grad.isinf().any()  # what others do to its gradient is not touched

    def test_second_derivatives(self):
        b = torch.tensor([2.0, 0.0, -4.0], dtype=torch.float64, requires_grad=True)
        (first,) = torch.autograd.grad(safe_divide(torch.ones(3).double(), b).sum(), b, create_graph=True)
        (second,) = torch.autograd.grad(first.sum(), b)
        assert first.tolist() == [-0.25, 0, -0.0625]
        assert second.tolist() == [0.25, 0, -1 / 32]

    @pytest.mark.parametrize(
        ("call", "error", "words"),
        [
            (lambda x: safe_divide(1.0, 2.0), TypeError, "numerator or denominator must be a tensor"),
            (lambda x: safe_divide(x, x.long()), TypeError, "denominator must have a floating point dtype"),
            (lambda x: safe_divide(x, [1.0, 2.0]), TypeError, "denominator must be a torch.Tensor"),
            (lambda x: safe_divide(True, x), TypeError, "numerator"),
            (lambda x: safe_divide(x, "1"), TypeError, "denominator"),
            (lambda x: safe_divide(x, NAN), ValueError, "denominator must be finite"),
            (lambda x: safe_divide(x, x * INF), ValueError, "denominator must be finite"),
            (lambda x: safe_divide(x * NAN, x), ValueError, "numerator must be finite"),
            (lambda x: safe_divide(x, torch.tensor(INF)), ValueError, "denominator must be a finite"),
            (lambda x: safe_divide(x, torch.tensor(1)), ValueError, "denominator must be a finite floating point"),
            (lambda x: safe_divide(x, torch.ones(3)), ValueError, r"\(2,\).*\(3,\).*do not broadcast"),
            (lambda x: safe_divide(torch.zeros(0), torch.zeros(0)), ValueError, "numerator is empty"),
            (lambda x: safe_divide(x, x, fill="0"), TypeError, "fill must be a number"),
        ],
    )
    def test_bad_input(self, call, error, words):
        with pytest.raises(error, match=words):
            call(torch.ones(2))

    def test_e40_safe_divide_keeps_sign(self):
        one, eps = torch.ones(1), 1e-12
        assert (one / torch.tensor([-2.0]).clamp(min=eps)).item() == pytest.approx(1e12)  # the error: should be −0.5
        assert (one.half() / torch.zeros(1).half().clamp(min=eps)).isinf().all()  # and in half precision eps is 0
        assert (one / (torch.tensor([-1e-12]) + torch.tensor(1e-12))).isinf().all()
        assert safe_divide(one, torch.tensor([-2.0])).item() == -0.5
        assert safe_divide(one, torch.tensor([-1e-12])).item() == pytest.approx(-1e12)
        assert safe_divide(one.half(), torch.zeros(1).half()).item() == 0


def with_gradients(*gradients: torch.Tensor) -> list[nn.Parameter]:
    parameters = [nn.Parameter(torch.zeros_like(gradient)) for gradient in gradients]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient.clone()
    return parameters


def gradients_of(parameters) -> list[torch.Tensor]:
    return [parameter.grad.clone() for parameter in parameters]


class TestGradientClipping:
    @given(seeds, st.floats(1e-3, 1e3), st.sampled_from([1.0, 1.5, 2.0, 3.0, INF]), st.floats(-4, 4))
    def test_equals_torchs_and_numpys(self, seed, max_norm, norm_type, log_scale):
        values = [random_values(seed + i, *shape, scale=10**log_scale) for i, shape in enumerate([(3,), (2, 4), (1,)])]
        mine, torchs = with_gradients(*values), with_gradients(*values)
        everything = np.concatenate([value.flatten().numpy() for value in values])
        norm = gradient_clipping(mine, max_norm, norm_type=norm_type)
        assert isinstance(norm, float)
        assert norm == pytest.approx(np.linalg.norm(everything, norm_type), rel=1e-12)
        expected = nn.utils.clip_grad_norm_(torchs, max_norm, norm_type=norm_type)
        assert norm == pytest.approx(float(expected), rel=1e-12)
        # torch divides by the norm + 1e-6
        assume(norm > 1e-2)
        for a, b, before in zip(gradients_of(mine), gradients_of(torchs), values, strict=True):
            assert torch.allclose(a, b, rtol=2e-4, atol=0)
            assert norm > max_norm or torch.equal(a, before)
        after = np.linalg.norm(np.concatenate([g.flatten().numpy() for g in gradients_of(mine)]), norm_type)
        assert after == pytest.approx(min(norm, max_norm), rel=1e-12)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision_whose_norm_overflows(self, dtype):
        values = torch.tensor([6e4, -6e4]).to(dtype)  # their norm is 84,853, the largest float16 65,504
        exact = np.linalg.norm(values.double().numpy())
        parameters = with_gradients(values, values * 0)
        assert gradient_clipping(parameters, 1.0) == pytest.approx(exact, rel=1e-12)
        assert parameters[0].grad.dtype == dtype
        assert parameters[0].grad.tolist() == pytest.approx([0.5**0.5, -(0.5**0.5)], rel=1e-2)

    @pytest.mark.parametrize("size", [1e4, 1e-4])
    def test_high_orders_of_the_norm(self, size):
        """The largest value is factored out in the oracle; size**100 leaves float64."""
        parameters = with_gradients(torch.tensor([size, size]), torch.tensor([-size / 2]))
        expected = np.float32(size) * np.linalg.norm([1, 1, 0.5], 100)
        assert gradient_clipping(parameters, size / 10, norm_type=100) == pytest.approx(expected, rel=1e-6)
        assert parameters[0].grad[0] == pytest.approx(size / 10, rel=0.01)

    def test_takes_a_module_a_parameter_or_an_iterable(self):
        model = mlp()
        F.cross_entropy(model(X[:50]), Y[:50]).backward()
        expected = float(nn.utils.get_total_norm([p.grad for p in model.parameters()]))
        wholes = [model, list(model.parameters()), model.parameters()]
        assert [gradient_clipping(whole, 1e6) for whole in wholes] == pytest.approx([expected] * 3, rel=1e-6)
        assert gradient_clipping(model[0].weight, 1e6) == pytest.approx(float(model[0].weight.grad.norm()), rel=1e-6)
        assert gradient_clipping(model, expected / 2) == pytest.approx(expected, rel=1e-6)
        assert gradient_clipping(model, 1e6) == pytest.approx(expected / 2, rel=1e-6)

    def test_parameters_without_a_gradient_are_skipped(self):
        with_gradient, without = with_gradients(torch.tensor([3.0, 4.0]))[0], nn.Parameter(torch.ones(2))
        assert gradient_clipping([without, with_gradient], 1.0) == 5
        assert without.grad is None
        assert gradient_clipping([without], 1.0) == 0

    def test_the_sparse_gradient_of_an_embedding(self):
        mine = nn.Embedding(5, 2, sparse=True)
        mine(torch.tensor([1, 3, 1])).sum().backward()
        torchs = copy.deepcopy(mine)
        torchs.weight.grad = mine.weight.grad.clone()
        expected = nn.utils.clip_grad_norm_(torchs.parameters(), 0.5)
        assert gradient_clipping(mine, 0.5) == pytest.approx(float(expected))
        assert torch.allclose(mine.weight.grad.to_dense(), torchs.weight.grad.to_dense(), rtol=1e-5)

    def test_a_generator_that_is_used_up(self):
        model = mlp()
        parameters = model.parameters()
        assert len(list(parameters)) == 4
        with pytest.raises(ValueError, match="no parameters; a generator .* only once"):
            gradient_clipping(parameters, 1.0)

    @pytest.mark.parametrize("bad", [NAN, INF, -INF])
    def test_nothing_is_changed_when_it_raises(self, bad):
        values = [torch.tensor([30.0, 40.0]), torch.tensor([[1.0, bad]]), torch.tensor([5.0])]
        parameters = with_gradients(*values)
        with pytest.raises(NonFiniteGradientError, match="1 of 3 gradients hold NaN or Inf; nothing was changed") as e:
            gradient_clipping(parameters, 1.0)
        assert isinstance(e.value, ValueError)
        assert isinstance(e.value, RuntimeError)
        for parameter, value in zip(parameters, values, strict=True):
            assert torch.equal(parameter.grad.nan_to_num(7.0), value.nan_to_num(7.0))

    @pytest.mark.parametrize(
        ("arguments", "options", "error", "words"),
        [
            ((3, 1.0), {}, TypeError, "a module, a parameter or an iterable"),
            (({"a": 1}, 1.0), {}, TypeError, "each parameter must be a torch.Tensor"),
            (([], 1.0), {}, ValueError, "no parameters"),
            ((mlp(), 0), {}, ValueError, "max_norm must be finite and greater than 0"),
            ((mlp(), -1.0), {}, ValueError, "max_norm"),
            ((mlp(), NAN), {}, ValueError, "max_norm"),
            ((mlp(), INF), {}, ValueError, "max_norm"),
            ((mlp(), "1"), {}, TypeError, "max_norm must be a number"),
            ((mlp(), 1.0), {"norm_type": 0.5}, ValueError, "norm_type must be at least 1"),
            ((mlp(), 1.0), {"norm_type": NAN}, ValueError, "norm_type must be at least 1"),
            ((mlp(), 1.0), {"norm_type": "fro"}, TypeError, "norm_type must be a number"),
        ],
    )
    def test_bad_input(self, arguments, options, error, words):
        with pytest.raises(error, match=words):
            gradient_clipping(*arguments, **options)

    @pytest.mark.parametrize("bad", [NAN, INF])
    def test_e41_one_bad_gradient_spoils_no_others(self, bad):
        values = [torch.tensor([3.0, 4.0]), torch.tensor([bad, 1.0])]
        naive = with_gradients(*values)
        nn.utils.clip_grad_norm_(naive, 1.0)
        spoilt = naive[0].grad
        assert spoilt.isnan().all() if math.isnan(bad) else (spoilt == 0).all()  # the error: healthy ones are lost
        parameters = with_gradients(*values)
        with pytest.raises(NonFiniteGradientError, match=f"total norm of the gradients is {bad}"):
            gradient_clipping(parameters, 1.0)
        norm = gradient_clipping(parameters, 1.0, error_if_nonfinite=False)
        assert norm == bad or (math.isnan(norm) and math.isnan(bad))  # the norm is not thrown away
        assert parameters[0].grad.tolist() == [3, 4]
        assert gradient_clipping(parameters[:1], 1.0) == 5
        assert parameters[0].grad.tolist() == pytest.approx([0.6, 0.8])


shapes = st.lists(st.integers(1, 4), min_size=1, max_size=4)


def numbered(shape) -> torch.Tensor:
    """A tensor whose values tell where they were."""
    return torch.arange(math.prod(shape)).reshape(tuple(shape))


class TestCheckAndReshapeOutput:
    @given(shapes, st.data())
    def test_axes_of_size_one_come_and_go_and_every_sample_keeps_its_values(self, shape, data):
        output = numbered(shape)
        core = [size for size in shape if size != 1]
        places = data.draw(st.lists(st.integers(0, len(core)), max_size=3))
        target = list(core)
        for place in sorted(places, reverse=True):
            target.insert(place, 1)
        result = check_and_reshape_output(output, target)
        assert result.shape == tuple(target)
        assert torch.equal(result.squeeze(), output.squeeze())

    @given(shapes, shapes)
    def test_refuses_every_other_shape(self, shape, target):
        assume([size for size in shape if size != 1] != [size for size in target if size != 1])
        with pytest.raises(ValueError, match="the output has the shape"):
            check_and_reshape_output(numbered(shape), tuple(target))

    @given(st.permutations(range(4)), st.lists(st.integers(1, 4), min_size=4, max_size=4))
    def test_dims_permute_as_named(self, order, shape):
        output, names = numbered(shape).double(), "TNCW"
        target = tuple(shape[i] for i in order)
        dims = f"{' '.join(names)} -> {' '.join(names[i] for i in order)}"
        result = check_and_reshape_output(output, target, dims=dims)
        assert torch.equal(result, torch.einsum(f"{names}->{''.join(names[i] for i in order)}", output))

    def test_dims_drop_and_add_axes_of_size_one(self):
        output = numbered((3, 1, 4))
        result = check_and_reshape_output(output, (4, 1, 3), dims="T N C -> C 1 T")
        assert torch.equal(result[:, 0], output[:, 0].T)
        result = check_and_reshape_output(output, (1, 4, 3, 1), dims="T N C -> 1 C T 1")
        assert torch.equal(result[0, :, :, 0], output[:, 0].T)
        assert torch.equal(check_and_reshape_output(output, (3, 4), dims="T N C -> T C"), output[:, 0])

    @pytest.mark.parametrize("dtype", [torch.float16, torch.int64, torch.bool])
    def test_keeps_dtype_and_graph(self, dtype):
        assert check_and_reshape_output(torch.ones(2, 1, dtype=dtype), (2,)).dtype == dtype
        weights = torch.tensor([1.0, 2.0])
        gradient = gradient_of(lambda x: weights * check_and_reshape_output(x, (2,)), torch.zeros(2, 1))
        assert gradient.tolist() == [[1], [2]]

    def test_the_message_says_what_would_help(self):
        with pytest.raises(ValueError, match=r'\(5, 2, 3\), not \(2, 5, 3\).*another order.*dims="T N C -> N T C"'):
            check_and_reshape_output(torch.zeros(5, 2, 3), (2, 5, 3))
        with pytest.raises(ValueError, match="would tear samples apart"):
            check_and_reshape_output(torch.zeros(4, 6), (8, 3))
        with pytest.raises(ValueError, match="number of values differs, 24 against 25"):
            check_and_reshape_output(torch.zeros(4, 6), (5, 5))

    @pytest.mark.parametrize(
        ("target", "dims", "error", "words"),
        [
            ("23", None, TypeError, "target_shape must be a tuple of sizes"),
            (6, None, TypeError, "target_shape must be a tuple of sizes"),
            ((2, 3.0), None, TypeError, "each size of target_shape must be an int"),
            ((-1, 3), None, ValueError, "each size of target_shape must be at least 1"),
            ((3, 2), "A B", ValueError, r'dims must look like "T N C -> N T C"'),
            ((3, 2), 7, ValueError, "dims must look like"),
            ((3, 2), "A B -> B -> A", ValueError, "dims must look like"),
            ((3, 2), "A B C -> B A C", ValueError, r"names 3 axes, but the output has 2"),
            ((3, 2), "A A -> A A", ValueError, "name of its own"),
            ((3, 2), "A B -> B B", ValueError, "name of its own"),
            ((2,), "A A -> A", ValueError, "name of its own"),
            ((3, 2), "1 B -> B 1", ValueError, "name of its own"),
            ((3, 2), "A B -> B X", ValueError, "X on the right, but not on the left"),
            ((3,), "A B -> B", ValueError, "axis A has size 2 and cannot be dropped"),
            ((2, 3), "A B -> B A", ValueError, r"\(3, 2\) after 'A B -> B A', not \(2, 3\)"),
        ],
    )
    def test_bad_input(self, target, dims, error, words):
        with pytest.raises(error, match=words):
            check_and_reshape_output(torch.zeros(2, 3), target, dims=dims)

    def test_bad_output(self):
        with pytest.raises(TypeError, match=r"output must be a torch.Tensor"):
            check_and_reshape_output([[1.0]], (1,))

    def test_e42_reshape_scrambles_permute_does_not(self):
        output = numbered((3, 4))  # 3 steps of 4 samples
        assert output.reshape(4, 3)[0].tolist() == [0, 1, 2]  # the error: three samples in one row
        with pytest.raises(ValueError, match="another order"):
            check_and_reshape_output(output, (4, 3))
        assert check_and_reshape_output(output, (4, 3), dims="T N -> N T")[0].tolist() == [0, 4, 8]
        assert numbered((2, 3)).reshape(3, 2)[1].tolist() == [2, 3]  # 2 is the first sample's, 3 the second's
        with pytest.raises(ValueError, match="another order"):
            check_and_reshape_output(numbered((2, 3)), (3, 2))

    def test_e43_squeeze_gives_what_nobody_asked_for(self):
        output = torch.zeros(3, 1, 10)
        assert output.squeeze().shape == (3, 10)  # the error: (4, 10) was wanted, and nobody says no
        with pytest.raises(ValueError, match=r"\(3, 1, 10\), not \(4, 10\)"):
            check_and_reshape_output(output, (4, 10))
        assert check_and_reshape_output(output, (3, 10)).shape == (3, 10)
        assert torch.zeros(1, 1, 10).squeeze().shape == (10,)  # and a batch of one loses its batch
        assert check_and_reshape_output(torch.zeros(1, 1, 10), (1, 10)).shape == (1, 10)


class TestAdaptivePooling:
    @given(seeds, st.lists(st.integers(1, 6), min_size=1, max_size=3), st.data())
    def test_equals_torchs(self, seed, sizes, data):
        output = random_values(seed, 2, 3, *sizes)
        smaller = [data.draw(st.integers(1, size)) for size in sizes]
        pool = [F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d][len(sizes) - 1]
        assert torch.equal(adaptive_pooling(output, (2, 3, *smaller)), pool(output, smaller))
        axes = tuple(range(2, output.ndim))
        assert torch.allclose(adaptive_pooling(output, (2, 3)), output.mean(axes))

    @pytest.mark.parametrize("sizes", [(8,), (8, 8), (8, 8, 8)])
    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision_stays_finite_and_right(self, sizes, dtype):
        output = torch.full((2, 3, *sizes), 6e4, dtype=dtype)
        pooled = adaptive_pooling(output, (2, 3, *(3 for _ in sizes)))
        assert pooled.dtype == dtype
        assert (pooled == output[0, 0].flatten()[0]).all()  # the mean of equal values is that value

    def test_gradient_spreads_evenly(self):
        gradient = gradient_of(lambda x: adaptive_pooling(x, (1, 2)), torch.zeros(1, 2, 4, 5))
        assert torch.allclose(gradient, torch.full((1, 2, 4, 5), 1 / 20))

    @pytest.mark.parametrize(
        ("target", "error", "words"),
        [
            ((2, 3, 4), ValueError, "whole shape, 4 sizes or"),
            ((6,), ValueError, "whole shape"),
            ((3, 3, 4, 4), ValueError, r"\(N, C\) = \(2, 3\), target_shape asks for \(3, 3\)"),
            ((2, 5), ValueError, "linear layer or a 1×1 convolution"),
            ((2, 3, 9, 8), ValueError, r"cannot enlarge \(8, 8\) to \(9, 8\).*interpolate"),
            ((2, 3, 0, 1), ValueError, "at least 1"),
            ((2, 3, 2.0, 1), TypeError, "must be an int"),
            (4, TypeError, "target_shape must be a tuple"),
        ],
    )
    def test_bad_shape(self, target, error, words):
        with pytest.raises(error, match=words):
            adaptive_pooling(torch.zeros(2, 3, 8, 8), target)

    @pytest.mark.parametrize(
        ("output", "error", "words"),
        [
            (torch.zeros(2, 3), ValueError, "3 or 4 or 5 dimension"),
            (torch.zeros(2, 3, 4).long(), TypeError, "floating point"),
            (torch.zeros(0, 3, 4), ValueError, "empty"),
            (torch.full((2, 3, 4), NAN), ValueError, "24 NaN"),
        ],
    )
    def test_bad_output(self, output, error, words):
        with pytest.raises(error, match=words):
            adaptive_pooling(output, (2, 3))

    def test_e44_the_batch_stays_a_batch(self):
        single = random_values(0, 1, 64, 7, 7)
        assert F.adaptive_avg_pool2d(single, 1).squeeze().shape == (64,)  # the error: the batch of one is gone
        assert torch.allclose(adaptive_pooling(single, (1, 64)), single.mean((2, 3)))
        with pytest.raises(ValueError, match="whole shape"):
            adaptive_pooling(single, (64,))
        three = random_values(1, 3, 64, 7, 7)
        assert F.adaptive_avg_pool2d(three, 1).flatten(1).shape == (3, 64)  # asked for (3, 10)
        with pytest.raises(ValueError, match=r"\(3, 64\), target_shape asks for \(3, 10\)"):
            adaptive_pooling(three, (3, 10))
        features = random_values(2, 4, 10)
        across = F.adaptive_avg_pool2d(features[None], (2, 10))[0]
        assert torch.allclose(across[0], features[:2].mean(0))  # the error: two samples averaged into one
        with pytest.raises(ValueError, match="3 or 4 or 5 dimension"):
            adaptive_pooling(features, (2, 10))
        with pytest.raises(ValueError, match="leaves the batch and the channels alone"):
            adaptive_pooling(features[..., None], (2, 10))


class TestClampOutput:
    @given(float32_vectors(), st.floats(-100, 0), st.floats(0, 100))
    def test_equals_numpys_with_gradient_zero_outside(self, x, low, high):
        assert np.array_equal(clamp_output(x, min=low, max=high), np.clip(x.numpy(), np.float32(low), np.float32(high)))
        assert torch.equal(clamp_output(x, min=low), torch.maximum(x, torch.tensor(low)))
        assert torch.equal(clamp_output(x, max=high), torch.minimum(x, torch.tensor(high)))
        gradient = gradient_of(lambda z: clamp_output(z, min=low, max=high), x)
        inside, outside = (x > low) & (x < high), (x < low - 1) | (x > high + 1)
        assert (gradient[inside] == 1).all()
        assert (gradient[outside] == 0).all()

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_keeps_the_dtype(self, dtype):
        clamped = clamp_output(torch.tensor([-2.0, 0.5, 2.0], dtype=dtype), min=-1, max=1)
        assert clamped.dtype == dtype
        assert clamped.tolist() == [-1, 0.5, 1]

    def test_limits_beyond_the_dtype_limit_nothing(self):
        x = torch.tensor([-6e4, 6e4], dtype=torch.float16)
        assert torch.equal(clamp_output(x, min=-1e6, max=1e6), x)

    @pytest.mark.parametrize(
        ("limits", "error", "words"),
        [
            ({}, ValueError, "give min, max or both"),
            ({"min": 2, "max": 1}, ValueError, "min is 2.0 and max is 1.0"),
            ({"min": NAN}, ValueError, "min must be finite"),
            ({"max": INF}, ValueError, "max must be finite"),
            ({"max": "1"}, TypeError, "max must be a number"),
            ({"min": True}, TypeError, "min must be a number"),
        ],
    )
    def test_bad_limits(self, limits, error, words):
        with pytest.raises(error, match=words):
            clamp_output(torch.ones(2), **limits)


@pytest.mark.parametrize(
    "call",
    [
        lambda x: clamp_output(x, min=0),
        normalize_output,
        lambda x: scale_output(x, current_range=(0, 1)),
        log_transform,
        exp_transform,
    ],
    ids=["clamp_output", "normalize_output", "scale_output", "log_transform", "exp_transform"],
)
@pytest.mark.parametrize(
    ("output", "error", "words"),
    [
        ([1.0], TypeError, "output must be a torch.Tensor"),
        (torch.ones(2, dtype=torch.long), TypeError, "output must have a floating point dtype"),
        (torch.zeros(0), ValueError, "output is empty"),
        (torch.tensor([1.0, NAN]), ValueError, "output must be finite.*1 NaN and 0 infinite"),
        (torch.tensor([1.0, INF]), ValueError, "output must be finite.*0 NaN and 1 infinite"),
    ],
)
def test_transforms_refuse_bad_outputs(call, output, error, words):
    with pytest.raises(error, match=words):
        call(output)


class TestNormalizeOutput:
    @given(seeds, st.sampled_from([1, 1.5, 2, 3, INF]), st.sampled_from([0, 1, -1]), st.floats(-6, 6))
    def test_equals_numpys(self, seed, p, dim, log_scale):
        x = random_values(seed, 4, 3, scale=10**log_scale)
        norms = np.linalg.norm(x.numpy(), p, axis=dim, keepdims=True)
        assert np.allclose(normalize_output(x, dim=dim, p=p), x.numpy() / norms, rtol=1e-12)
        assert torch.allclose(normalize_output(x, dim=dim, p=p), F.normalize(x, p=p, dim=dim))

    def test_gradient_is_orthogonal_to_the_vector_and_finite_at_zero(self):
        x, weights = random_values(0, 5, 3), random_values(1, 5, 3)
        gradient = gradient_of(lambda z: weights * normalize_output(z), x)
        assert torch.allclose((gradient * x).sum(1), torch.zeros(5).double(), atol=1e-12)
        assert torch.autograd.gradcheck(normalize_output, x.requires_grad_())
        assert gradient_of(lambda z: normalize_output(z), torch.zeros(2, 3)).isfinite().all()

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_vectors_at_the_ends_of_the_dtype(self, dtype):
        """Length 1 for the largest and for the smallest vectors; the oracle divides by the maximum first."""
        info = torch.finfo(dtype)
        for size in (info.max / 2, max(info.smallest_normal, 1e-11)):
            y = normalize_output(torch.tensor([[0.75 * size, -size]], dtype=torch.float64).to(dtype))
            assert y.dtype == dtype
            assert y[0].tolist() == pytest.approx([0.6, -0.8], abs=2 * info.eps)

    @pytest.mark.parametrize("size", [1e4, 1e-4])
    def test_high_orders(self, size):
        y = normalize_output(torch.tensor([size, size / 2]), p=100)
        assert y.tolist() == pytest.approx([1.0, 0.5], rel=1e-6)

    @pytest.mark.parametrize(
        ("options", "error", "words"),
        [
            ({"dim": 2}, ValueError, r"dim must be an axis of the output \(2, 3\)"),
            ({"dim": None}, ValueError, "dim must be an axis"),
            ({"p": 0.5}, ValueError, "p must be at least 1"),
            ({"p": NAN}, ValueError, "p must be at least 1"),
            ({"p": "2"}, TypeError, "p must be a number"),
            ({"eps": 0}, ValueError, "eps must be finite and greater than 0"),
            ({"eps": -1.0}, ValueError, "eps"),
            ({"eps": NAN}, ValueError, "eps"),
        ],
    )
    def test_bad_options(self, options, error, words):
        with pytest.raises(error, match=words):
            normalize_output(torch.ones(2, 3), **options)

    def test_e45_small_vectors_have_length_one_and_zeros_stay(self):
        x, eps = torch.tensor([[3e-7, 4e-7]], dtype=torch.float64), 1e-12
        naive = x / (x.square().sum(1, keepdim=True) + eps).sqrt()
        assert float(naive.norm()) == pytest.approx(0.447, abs=1e-3)  # the error
        assert float(normalize_output(x, eps=eps).norm()) == pytest.approx(1)
        zeros = torch.zeros(1, 3, dtype=torch.float16)
        assert (zeros / (zeros.square().sum(1, keepdim=True) + eps).sqrt()).isnan().all()  # eps is 0 there
        assert torch.equal(normalize_output(zeros), zeros)


class TestScaleOutput:
    @given(
        float32_vectors(st.floats(-1000, 1000, width=32)),
        st.floats(-100, 100),
        st.floats(0.1, 100),
        st.floats(-100, 100),
        st.floats(0.1, 100),
    )
    def test_equals_numpys_line(self, x, low, width, new_low, new_width):
        scaled = scale_output(x, current_range=(low, low + width), target_range=(new_low, new_low + new_width))
        line = np.polynomial.Polynomial.fit([low, low + width], [new_low, new_low + new_width], 1)
        assert np.allclose(scaled, line(x.double().numpy()), rtol=1e-5, atol=1e-5)
        back = scale_output(x.double(), current_range=(low, low + width), target_range=(new_low, new_low + new_width))
        back = scale_output(back, current_range=(new_low, new_low + new_width), target_range=(low, low + width))
        assert torch.allclose(back, x.double(), rtol=1e-9, atol=1e-9)

    def test_gradient_is_the_slope_also_outside(self):
        gradient = gradient_of(lambda x: scale_output(x, current_range=(0, 4), target_range=(-1, 1)), torch.arange(6.0))
        assert gradient.tolist() == [0.5] * 6

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_half_precision_does_not_overflow_on_the_way(self, dtype):
        x = torch.tensor([-6e4, 0.0, 6e4], dtype=dtype)
        scaled = scale_output(x, current_range=(-6e4, 6e4))
        assert scaled.dtype == dtype
        assert scaled.tolist() == pytest.approx([0, 0.5, 1], abs=2e-3)

    @pytest.mark.parametrize(
        ("ranges", "error", "words"),
        [
            ({"current_range": (1, 0)}, ValueError, r"current_range must be \(low, high\) with low < high"),
            ({"current_range": (1, 1)}, ValueError, "low < high"),
            ({"current_range": (0, 1), "target_range": (1, -1)}, ValueError, "target_range must be"),
            ({"current_range": (0, NAN)}, ValueError, "current_range must be finite"),
            ({"current_range": (0, INF)}, ValueError, "current_range must be finite"),
            ({"current_range": (0, 1, 2)}, ValueError, "pair"),
            ({"current_range": 3}, ValueError, "pair"),
            ({"current_range": "01"}, ValueError, "pair"),
            ({"current_range": (0, "1")}, TypeError, "current_range must be a number"),
            ({}, TypeError, "current_range"),
        ],
    )
    def test_bad_ranges(self, ranges, error, words):
        with pytest.raises(error, match=words):
            scale_output(torch.ones(2), **ranges)

    def test_e46_a_value_means_the_same_in_every_batch(self):
        def by_the_batch(x):
            return (x - x.min()) / (x.max() - x.min())

        one, other = torch.tensor([0.0, 5.0, 10.0]), torch.tensor([0.0, 5.0, 147.0])
        naive = by_the_batch(one)[1], by_the_batch(other)[1]
        assert [round(float(value), 3) for value in naive] == [0.5, 0.034]  # the error
        assert by_the_batch(torch.tensor([0.0, 5.0, NAN])).isnan().all()
        assert [float(scale_output(x, current_range=(0, 10))[1]) for x in (one, other)] == [0.5, 0.5]


class TestLogAndExpTransform:
    @given(float32_vectors(st.floats(0, 2.0**100, width=32)))
    def test_log_equals_numpys(self, x):
        smallest = np.finfo(np.float32).smallest_normal
        expected = np.log(np.maximum(x.double().numpy(), smallest))
        assert np.allclose(log_transform(x), expected, rtol=1e-6, atol=1e-6)
        assert np.allclose(log_transform(x, eps=0.5), np.log(np.maximum(x.double().numpy(), 0.5)), rtol=1e-6, atol=1e-6)

    @given(float32_vectors())
    def test_exp_equals_numpys(self, x):
        largest = math.log(np.finfo(np.float32).max)
        expected = np.exp(np.minimum(x.double().numpy(), largest))
        assert np.allclose(exp_transform(x), expected, rtol=1e-5, atol=0)
        assert np.allclose(exp_transform(x, max=2), np.exp(np.minimum(x.double().numpy(), 2)), rtol=1e-6)

    @pytest.mark.parametrize("dtype", DTYPES)
    @given(seed=seeds)
    @settings(max_examples=10)
    def test_round_trip(self, dtype, seed):
        x = (random_values(seed, 20) * 2).to(dtype)
        tolerance = 20 * torch.finfo(dtype).eps
        assert torch.allclose(log_transform(exp_transform(x)), x, rtol=tolerance, atol=tolerance)
        positive = x.abs() + 0.1
        assert torch.allclose(exp_transform(log_transform(positive)), positive, rtol=tolerance)

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("size", [1, 7, 64, 1000])
    def test_finite_with_finite_gradients_at_the_ends(self, dtype, size):
        """Of every length: long tensors take vectorised code, whose last bit may differ."""
        info = torch.finfo(dtype)
        for value in (0.0, -0.0, info.tiny, info.tiny / 2, 1.0, info.max):
            x = torch.full((size,), value, dtype=torch.float64).to(dtype)
            assert log_transform(x).dtype == dtype
            assert log_transform(x).isfinite().all()
            assert gradient_of(log_transform, x).isfinite().all()
        for value in (info.max, info.min, 0.0, 88.7, 709.7, 11.08):
            x = torch.full((size,), value, dtype=dtype)
            assert exp_transform(x).dtype == dtype
            assert exp_transform(x).isfinite().all()
            assert gradient_of(exp_transform, x).isfinite().all()

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_the_bounds_are_tight(self, dtype):
        """No smaller exponent than needed is cut, and the next representable one would overflow."""
        info = torch.finfo(dtype)
        top = exp_transform(torch.tensor([info.max], dtype=dtype))
        bound = log_transform(top.double()).to(dtype)
        following = torch.nextafter(bound, torch.full_like(bound, INF))
        assert torch.nextafter(following, torch.full_like(bound, INF)).exp().isinf().all()
        bottom = log_transform(torch.zeros(1, dtype=dtype))
        assert float(bottom) == pytest.approx(math.log(info.smallest_normal), rel=info.eps)

    def test_gradients_are_the_true_ones_inside_and_zero_outside(self):
        x = random_values(0, 10).abs() + 0.5
        assert torch.autograd.gradcheck(log_transform, x.requires_grad_())
        assert torch.autograd.gradcheck(exp_transform, x)
        assert gradient_of(log_transform, torch.zeros(2)).tolist() == [0, 0]
        assert gradient_of(exp_transform, torch.tensor([1e3])).tolist() == [0]
        assert gradient_of(lambda z: exp_transform(z, max=2), torch.tensor([3.0])).tolist() == [0]

    @pytest.mark.parametrize(
        ("call", "error", "words"),
        [
            (lambda x: log_transform(-x), ValueError, "must not be negative, but its minimum is -1"),
            (lambda x: log_transform(x, eps=0), ValueError, "eps must be finite and greater than 0"),
            (lambda x: log_transform(x, eps=1e-40), ValueError, r"eps must lie between 1.18e-38, torch.float32"),
            (lambda x: log_transform(x.half(), eps=1e-12), ValueError, "eps must lie between 6.1e-05, torch.float16"),
            (lambda x: log_transform(x, eps="1"), TypeError, "eps must be a number"),
            (lambda x: exp_transform(x, max=89), ValueError, "max must be at most 88.7228"),
            (lambda x: exp_transform(x.half(), max=11.1), ValueError, "max must be at most 11.0859.*float16"),
            (lambda x: exp_transform(x, max=NAN), ValueError, "max must be finite"),
            (lambda x: exp_transform(x, max="1"), TypeError, "max must be a number"),
        ],
    )
    def test_bad_input(self, call, error, words):
        with pytest.raises(error, match=words):
            call(torch.ones(2))

    def test_e47_negatives_raise_and_half_precision_stays_finite(self):
        x = torch.tensor([-1.0])
        assert x.clamp(min=1e-12).log().item() == pytest.approx(-27.6, abs=0.1)  # the error: an answer, and
        assert gradient_of(lambda z: z.clamp(min=1e-12).log(), x).item() == 0  # nothing that would correct it
        with pytest.raises(ValueError, match="must not be negative, but its minimum is -1; a clamp would hide it"):
            log_transform(x)
        zero = torch.zeros(1, dtype=torch.float16)
        assert zero.clamp(min=1e-12).log().item() == -INF
        assert log_transform(zero).item() == pytest.approx(math.log(2**-14), rel=1e-3)

    def test_e48_the_bound_comes_before_exp(self):
        x = torch.tensor([1000.0, 1.0])
        naive = gradient_of(lambda z: z.exp().clamp(max=1e6), x)
        assert naive[0].isnan()  # the error: 0 · inf
        assert gradient_of(exp_transform, x).tolist() == pytest.approx([0, math.e])
        assert gradient_of(lambda z: exp_transform(z, max=5), x).tolist() == pytest.approx([0, math.e])
        assert exp_transform(x, max=5).tolist() == pytest.approx([math.exp(5), math.e])


@functools.cache
def trained() -> nn.Sequential:
    """A healthy classifier of digits after a few steps; not to be changed."""
    model = mlp()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(30):
        optimizer.zero_grad()
        F.cross_entropy(model(X), Y).backward()
        optimizer.step()
    assert (model(DIGITS.x_test).argmax(1) == DIGITS.y_test).float().mean() > 0.9
    return model


def found(model, x=X[:64], target=Y[:64], loss=F.cross_entropy) -> dict[str, str]:
    """check → severity."""
    return {finding.check: finding.severity for finding in diagnose(model, x, target, loss).findings}


def messages(model, *arguments) -> str:
    return str(diagnose(model, *arguments))


def deep(*layers, depth: int = 12) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        hidden = [part for _ in range(depth) for part in (nn.Linear(64, 64), *(layer() for layer in layers))]
        return nn.Sequential(*hidden, nn.Linear(64, 10))


def changed(model: nn.Module, change) -> nn.Module:
    model = copy.deepcopy(model)
    with torch.no_grad():
        change(model)
    return model


class Unused(nn.Module):
    """A classifier with a second head that forward calls or forgets."""

    def __init__(self, call: bool) -> None:
        super().__init__()
        self.body, self.spare, self.call = mlp(), nn.Linear(10, 10), call

    def forward(self, x):
        logits = self.body(x)
        return logits + self.spare(logits) if self.call else logits


class CausalAttention(nn.Module):
    """A row of pixels at a time; −inf masks the future, as everywhere."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.attention, self.head = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 10)

    def forward(self, x):
        rows = x.reshape(-1, 8, 8)
        mask = torch.full((8, 8), -INF).triu(1)
        return self.head(self.attention(rows, rows, rows, attn_mask=mask)[0].mean(1))


ONES = (Y[:64] > 4).float()
IMAGES = X[:64].reshape(-1, 1, 8, 8)


def case(model=None, x=X[:64], target=Y[:64], loss=F.cross_entropy) -> tuple:
    """The arguments of diagnose; a healthy network and call where nothing else is said."""
    return model or mlp(), x, target, loss


def yes_no(*after: nn.Module, target=ONES[:, None], loss=F.binary_cross_entropy_with_logits) -> tuple:
    return case(nn.Sequential(mlp(outputs=1), *after), target=target, loss=loss)


def then(*layers, **options) -> tuple:
    """The healthy network, with layers (or functions) behind it."""
    layers = [layer if isinstance(layer, nn.Module) else Apply(layer) for layer in layers]
    return case(nn.Sequential(mlp(), *layers), **options)


def altered(change, model=None, **options) -> tuple:
    return case(changed(model or mlp(), change), **options)


def convolution() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(144, 10))


def square(output, target):
    return (output - target).square().mean()


def wrong_share(output, target):
    return (output.argmax(1) != target).float().mean()


PIXELS = {"x": IMAGES, "target": IMAGES[:, 0, 1:-1, 1:-1].long() * 0}
NO_TARGET = {"target": None, "loss": None}
MINUS_ONES = Y[:64].masked_fill(Y[:64] == 3, -1)
# the fault → check, severity, a call with that fault, the repaired call
FAULTS = {
    "broadcasting mse": (
        *("broadcasting loss", "problem"),
        yes_no(target=ONES, loss=F.mse_loss),
        yes_no(loss=F.mse_loss),
    ),
    "broadcasting the other way": (
        *("broadcasting loss", "problem"),
        yes_no(nn.Flatten(0), loss=nn.SmoothL1Loss()),
        yes_no(nn.Flatten(0), target=ONES, loss=nn.SmoothL1Loss()),
    ),
    "broadcasting by hand": (
        *("broadcasting loss", "problem"),
        yes_no(target=ONES, loss=square),
        yes_no(loss=square),
    ),
    "double softmax, module": (
        *("output and loss", "problem"),
        then(nn.Softmax(dim=1), loss=nn.CrossEntropyLoss()),
        case(loss=nn.CrossEntropyLoss()),
    ),
    "double softmax, function": (
        *("output and loss", "problem"),
        then(lambda x: torch.softmax(x, 1)),
        then(lambda x: torch.log_softmax(x, 1), loss=F.nll_loss),
    ),
    "double softmax, pixels": (
        *("output and loss", "problem"),
        case(nn.Sequential(nn.Conv2d(1, 3, 3), nn.Softmax(dim=1)), **PIXELS),
        case(nn.Conv2d(1, 3, 3), **PIXELS),
    ),
    "double sigmoid": ("output and loss", "problem", yes_no(nn.Sigmoid()), yes_no(nn.Sigmoid(), loss=nn.BCELoss())),
    "no sigmoid": ("output and loss", "problem", yes_no(loss=F.binary_cross_entropy), yes_no()),
    "no log_softmax": (
        *("output and loss", "problem"),
        case(loss=nn.NLLLoss()),
        then(nn.LogSoftmax(1), loss=nn.NLLLoss()),
    ),
    "softmax without log": (
        *("output and loss", "problem"),
        then(nn.Softmax(1), loss=nn.NLLLoss()),
        then(nn.LogSoftmax(1), loss=nn.NLLLoss()),
    ),
    "one class": (
        *("output and loss", "problem"),
        case(mlp(outputs=1), target=ONES.long()),
        case(mlp(outputs=2), target=ONES.long()),
    ),
    "labels from 1": ("labels", "problem", case(target=Y[:64] + 1), case()),
    "labels below 0": (
        *("labels", "problem"),
        case(target=MINUS_ONES, loss=nn.CrossEntropyLoss()),
        case(target=MINUS_ONES, loss=nn.CrossEntropyLoss(ignore_index=-1)),
    ),
    "constant output": ("constant output", "warning", altered(lambda m: m[2].weight.zero_()), case()),
    "unused parameters": ("unused parameters", "warning", case(Unused(call=False)), case(Unused(call=True))),
    "frozen parameters": ("frozen parameters", "note", altered(lambda m: m[0].requires_grad_(False)), case()),
    "nothing to train": (
        *("gradients", "warning"),
        altered(lambda m: m.requires_grad_(False)),
        altered(lambda m: m[0].requires_grad_(False)),
    ),
    "dead ReLUs": (
        *("dead ReLUs", "warning"),
        altered(lambda m: m[0].bias[:20].fill_(-100)),
        altered(lambda m: m[0].bias[:2].fill_(-100)),
    ),
    "dead channels": (
        *("dead ReLUs", "warning"),
        altered(lambda m: m[0].bias[:3].fill_(-100), convolution(), x=IMAGES),
        case(convolution(), x=IMAGES),
    ),
    "zero gradients": ("zero gradients", "warning", altered(lambda m: m[0].bias.fill_(-1000)), case()),
    "vanishing gradients": (
        *("vanishing gradients", "warning"),
        case(deep(nn.Sigmoid)),
        case(deep(lambda: nn.LayerNorm(64), nn.ReLU)),
    ),
    "exploding gradients": (
        *("exploding gradients", "warning"),
        altered(lambda m: [p.mul_(20) for p in m.parameters()], deep(nn.ReLU, depth=6)),
        case(deep(nn.ReLU, depth=6)),
    ),
    "layer that is not finite": (
        *("NaN or Inf", "problem"),
        case(mlp(Apply(torch.log))),
        case(mlp(Apply(lambda x: log_transform(x.relu())))),
    ),
    "inputs that are not finite": ("inputs", "problem", case(x=X[:64].masked_fill(X[:64] > 2, NAN)), case()),
    "large inputs": ("inputs", "warning", case(x=X[:64] * 100), case()),
    "parameters that are not finite": (
        *("parameters", "problem"),
        altered(lambda m: m[0].weight[0, 0].fill_(NAN)),
        case(),
    ),
    "gradients that are not finite": (
        *("gradients", "problem"),
        then(lambda x: (x * 0).sqrt() + x),
        then(lambda x: (x * 0 + 1).sqrt() + x),
    ),
    "train mode": ("mode", "note", case(mlp(nn.ReLU(), nn.Dropout())), case()),
    "batch averaged": ("batch axis", "problem", then(lambda x: x.mean(0), **NO_TARGET), case(**NO_TARGET)),
    "batch of one squeezed": (
        *("batch axis", "problem"),
        then(torch.squeeze, x=X[:1], **NO_TARGET),
        case(x=X[:1], **NO_TARGET),
    ),
    "batch reshaped": ("batch axis", "problem", then(lambda x: x.reshape(-1, 5)), case()),
    "detached output": ("gradients", "problem", then(torch.detach), case()),
    "detached loss": ("gradients", "problem", case(loss=wrong_share), case()),
    "loss that raises": ("loss", "problem", case(target=Y[:63]), case()),
    "loss that is no scalar": (
        *("loss", "problem"),
        case(loss=nn.CrossEntropyLoss(reduction="none")),
        case(loss=nn.CrossEntropyLoss(reduction="sum")),
    ),
    "loss that is infinite": (
        *("loss", "problem"),
        case(loss=lambda output, target: F.cross_entropy(output, target) / 0),
        case(loss=lambda output, target: F.cross_entropy(output, target) / 2),
    ),
}


class TestDiagnose:
    @pytest.mark.parametrize("fault", FAULTS)
    def test_finds_the_fault_and_not_its_repair(self, fault):
        check, severity, faulty, repaired = FAULTS[fault]
        assert found(*faulty).get(check) == severity
        assert check not in found(*repaired)
        assert diagnose(*faulty).ok == (severity == "note" and len(found(*faulty)) == 1)
        assert all(level == "note" for level in found(*repaired).values())

    @pytest.mark.parametrize("rows", [slice(None), slice(0, 16), slice(300, 364)], ids=str)
    @pytest.mark.parametrize("loss", [F.cross_entropy, nn.CrossEntropyLoss(label_smoothing=0.1)], ids=["F", "nn"])
    def test_a_healthy_classifier_of_digits(self, rows, loss):
        report = diagnose(trained(), X[rows], Y[rows], loss)
        assert report.ok
        assert report.findings == ()
        assert str(report) == "Nothing suspicious was found."

    @pytest.mark.parametrize(
        ("model", "x", "target", "loss"),
        [
            (trained(), X[:64], F.one_hot(Y[:64], 10).float(), F.cross_entropy),
            (trained(), X[:64], None, None),
            (copy.deepcopy(trained()).double(), X[:64].double(), Y[:64], F.cross_entropy),
            (copy.deepcopy(trained()).bfloat16(), X[:64].bfloat16(), Y[:64], F.cross_entropy),
            (mlp(nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout()), X[:64], Y[:64], F.cross_entropy),
            (mlp(nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout()).eval(), X[:64], Y[:64], F.cross_entropy),
            (mlp(nn.Sigmoid()), X[:64], Y[:64], F.cross_entropy),
            (mlp(outputs=3), X[:64], F.one_hot(Y[:64] % 3, 3).float(), nn.BCEWithLogitsLoss()),
            (
                nn.Sequential(nn.Embedding(17, 8), nn.Flatten(), nn.Linear(512, 10)),
                load_split("digits", scaling="none").x_train[:64].long(),
                Y[:64],
                F.cross_entropy,
            ),
            (nn.Sequential(mlp(), Apply(lambda x: SimpleNamespace(logits=x))), X[:64], Y[:64], F.cross_entropy),
        ],
        ids=["soft", "no target", "double", "half", "train", "eval", "sigmoid", "multilabel", "tokens", "logits"],
    )
    def test_other_healthy_networks(self, model, x, target, loss):
        assert diagnose(model, x, target, loss).ok

    def test_modes_of_layers_are_told_apart(self):
        model = mlp(nn.BatchNorm1d(32), nn.Dropout())
        assert "all Dropout and BatchNorm layers are in train mode" in messages(model, X[:64])
        model[1].eval()
        assert "1 of 2 Dropout and BatchNorm layers are in train mode" in messages(model, X[:64])
        assert "eval mode: right for reading outputs" in messages(model.eval(), X[:64])

    def test_says_it_in_words_the_worst_first(self):
        model = nn.Sequential(mlp(nn.ReLU(), nn.Dropout()), nn.Softmax(dim=1))
        model[0][0].requires_grad_(False)
        report = diagnose(model, X[:64] * 100, Y[:64] + 1, F.cross_entropy)
        severities = [finding.severity for finding in report.findings]
        assert severities == sorted(severities, key=["problem", "warning", "note"].index)
        assert set(severities) == {"problem", "warning", "note"}
        lines = str(report).splitlines()
        assert len(lines) == len(report.findings)
        assert repr(report) == str(report)
        for line, finding in zip(lines, report.findings, strict=True):
            assert line == f"{finding.severity.upper()} · {finding.check}: {finding.message}"
        assert "cross_entropy takes logits and does the softmax or sigmoid itself" in str(report)
        assert "labels range from 1 to 10, but there are 10 classes: 0 to 9" in str(report)
        assert "0.0.weight, 0.0.bias: training will not change them" in str(report)

    def test_ok_allows_notes_only(self):
        for severity, ok in (("note", True), ("warning", False), ("problem", False)):
            assert Diagnosis((Finding("note", "mode", "x"), Finding(severity, "a", "b"))).ok == ok
        assert Diagnosis(()).ok

    @pytest.mark.parametrize(
        ("fault", "words"),
        [
            ("broadcasting mse", r"output has the shape (64, 1), the target (64,)"),
            ("double softmax, module", "the last layer is Softmax"),
            ("double softmax, function", "these values look like probabilities"),
            ("layer that is not finite", "it starts in the layer '1'"),
            ("inputs that are not finite", "it is in the inputs already"),
            ("parameters that are not finite", "0.weight: 1 NaN"),
            ("unused parameters", "spare.weight, spare.bias"),
            ("dead ReLUs", "1 (62%)"),
            ("dead channels", "1 (75%)"),
            ("vanishing gradients", "those of 0.weight are"),
            ("batch averaged", "64 samples went in, a float32 tensor of shape (10,) came out"),
            ("loss that raises", "it raises ValueError"),
            ("detached loss", "argmax"),
        ],
    )
    def test_messages_name_what_was_seen(self, fault, words):
        assert words in messages(*FAULTS[fault][2])

    def test_vanishing_says_how_much(self):
        """The ratio in the message, against gradients taken by hand."""
        model = deep(nn.Sigmoid)
        F.cross_entropy(model(X[:64]), Y[:64]).backward()
        sizes = [
            float(layer.weight.grad.double().square().mean().sqrt()) for layer in model if hasattr(layer, "weight")
        ]
        ratio = max(sizes) / min(sizes)
        assert ratio > 1e5
        assert f"{ratio:.0e} times smaller" in messages(copy.deepcopy(model), X[:64], Y[:64], F.cross_entropy)

    def test_the_loss_in_train_mode_is_the_one_of_training(self):
        """The gradients are those of the mode that the model is in, with batch statistics and dropout."""
        model, seen = mlp(nn.BatchNorm1d(32), nn.Dropout(0.5)), []

        def loss(output, target):
            seen.append(output.detach())
            return F.cross_entropy(output, target)

        diagnose(model, X[:64], Y[:64], loss)
        diagnose(model.eval(), X[:64], Y[:64], loss)
        assert torch.equal(seen[-1], model(X[:64]).detach())
        assert not torch.allclose(seen[0], seen[-1])

    # False alarms: a healthy network must not be called sick.

    def test_masks_of_minus_infinity_are_no_fault(self):
        model = CausalAttention()
        assert model(X[:64]).isfinite().all()
        assert "the output is not finite" not in messages(model, X[:64], Y[:64], F.cross_entropy)
        assert diagnose(model, X[:64], Y[:64], F.cross_entropy).ok

    @pytest.mark.parametrize(
        "loss",
        [
            lambda output, target: F.cross_entropy(output, target),
            functools.partial(F.cross_entropy, label_smoothing=0.1),
            nn.MultiMarginLoss(),
        ],
        ids=["lambda", "partial", "margin"],
    )
    @pytest.mark.parametrize("n", [10, 1])
    def test_class_indices_for_as_many_samples_as_classes_do_not_broadcast(self, loss, n):
        assert "broadcasting loss" not in found(mlp(), X[:n], Y[:n], loss)

    def test_a_hidden_sigmoid_is_no_double_sigmoid(self):
        """Yes/no logits that happen to lie in [0, 1], made by a linear layer: a problem for nobody."""
        model = changed(mlp(nn.Sigmoid(), outputs=1), lambda m: (m[2].weight.mul_(0.1), m[2].bias.fill_(0.5)))
        logits = model(X[:64])
        assert (logits > 0).all()
        assert (logits < 1).all()
        assert "problem" not in found(model, X[:64], ONES[:, None], nn.BCEWithLogitsLoss()).values()

    def test_a_dark_border_is_no_dead_unit(self):
        """In a picture the unit is the channel: three quarters of its places are always 0, and it lives."""
        body = [nn.ZeroPad2d(4), nn.Conv2d(1, 2, 1, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(512, 10)]
        model = changed(nn.Sequential(*body), lambda m: m[1].weight.fill_(1))
        hidden = model[:3](IMAGES)
        assert ((hidden == 0).all(0).float().mean() > 0.7) & (hidden > 0).any()
        assert "dead ReLUs" not in found(model, IMAGES)

    def test_small_outputs_are_not_constant(self):
        model = nn.Sequential(mlp(), Apply(lambda x: 1e-9 * x))  # in metres, say, and the things are molecules
        assert model(X[:64]).std(0).min() > 1e-11
        assert "constant output" not in found(model, X[:64], None, None)

    def test_sparse_gradients_of_an_embedding(self):
        model = nn.Sequential(nn.Embedding(17, 8, sparse=True), nn.Flatten(), nn.Linear(512, 10))
        tokens = load_split("digits", scaling="none").x_train[:64].long()
        assert diagnose(model, tokens, Y[:64], F.cross_entropy).ok

    @pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
    def test_the_callers_grad_mode_does_not_matter(self, context):
        with context():
            assert diagnose(trained(), X[:64], Y[:64], F.cross_entropy).ok

    # Misses.

    def test_logits_in_an_object_are_looked_at(self):
        model = nn.Sequential(mlp(), Apply(lambda x: SimpleNamespace(logits=(-x.abs() - 1).log())))
        assert found(model, X[:64], None, None).get("NaN or Inf") == "problem"

    def test_a_backward_pass_that_raises_is_a_finding(self):
        """An in-place change of what backward still needs."""

        def sigmoid_then_double(x):
            return x.sigmoid().mul_(2)

        report = diagnose(nn.Sequential(mlp(), Apply(sigmoid_then_double)), X[:64], Y[:64], F.cross_entropy)
        assert not report.ok
        assert "inplace" in str(report)

    @pytest.mark.parametrize(
        "loss",
        [functools.partial(F.cross_entropy, label_smoothing=0.1), type("MyLoss", (nn.CrossEntropyLoss,), {})()],
        ids=["partial", "subclass"],
    )
    def test_a_double_softmax_behind_a_derived_loss(self, loss):
        model = nn.Sequential(mlp(), nn.Softmax(dim=1))
        assert found(model, X[:64], Y[:64], loss).get("output and loss") == "problem"

    # Nothing is changed.

    @pytest.mark.parametrize("training", ["mixed", True, False])
    @pytest.mark.parametrize("loss", [F.cross_entropy, F.nll_loss, F.mse_loss])
    def test_changes_nothing(self, stateful_model, training, loss):
        if training != "mixed":
            stateful_model.train(training)
        x = random_values(0, 16, 4).float().requires_grad_()
        x.grad = torch.ones_like(x)
        target = torch.arange(16) % 3
        stateful_model.first.bias.requires_grad_(False)
        before = snapshot(stateful_model, x, target)
        assert before[4][0][1] is not None  # the parameters have gradients that could be disturbed
        diagnose(stateful_model, x, target, loss)
        assert snapshot(stateful_model, x, target) == before

    @pytest.mark.parametrize("fault", FAULTS)
    def test_changes_nothing_about_a_sick_network(self, fault):
        model, x, target, loss = FAULTS[fault][2]
        tensors = [x.nan_to_num(7)] if target is None else [x.nan_to_num(7), target]
        state = [value.nan_to_num(7).clone() for value in model.state_dict().values()]
        hooks = snapshot(model)[5:]
        copies = [tensor.clone() for tensor in tensors]
        diagnose(model, x, target, loss)
        assert all(map(torch.equal, state, [value.nan_to_num(7) for value in model.state_dict().values()]))
        assert all(map(torch.equal, copies, [x.nan_to_num(7)] if target is None else [x.nan_to_num(7), target]))
        assert snapshot(model)[5:] == hooks
        assert all(p.grad is None for p in model.parameters())

    def test_in_place_layers_leave_the_inputs_alone(self):
        model = nn.Sequential(nn.ReLU(inplace=True), *mlp(nn.ReLU(inplace=True)))
        x = X[:64].clone()
        diagnose(model, x, Y[:64], F.cross_entropy)
        assert torch.equal(x, X[:64])

    def test_gives_the_same_report_twice_despite_dropout(self):
        model = mlp(nn.Dropout(0.9), nn.ReLU())
        reports = {str(diagnose(model, X[:20], Y[:20], F.cross_entropy)) for _ in range(3)}
        assert len(reports) == 1

    @pytest.mark.parametrize(
        ("arguments", "error", "words"),
        [
            ((torch.relu, X[:4]), TypeError, "model must be a torch.nn.Module"),
            ((mlp(), X[:4].tolist()), TypeError, "inputs must be a torch.Tensor"),
            ((mlp(), X[:0]), ValueError, "inputs is empty"),
            ((mlp(), X[:4], Y[:4]), ValueError, "give target and loss together"),
            ((mlp(), X[:4], None, F.cross_entropy), ValueError, "give target and loss together"),
            ((mlp(), X[:4], Y[:4].tolist(), F.cross_entropy), TypeError, "target must be a torch.Tensor"),
            ((mlp(), X[:4], Y[:4], "cross_entropy"), TypeError, r"loss must be callable as loss\(output, target\)"),
            ((nn.LSTM(64, 10), X[:4]), TypeError, "the model must return a tensor.*a tuple of length 2"),
        ],
    )
    def test_bad_input(self, arguments, error, words):
        with pytest.raises(error, match=words):
            diagnose(*arguments)

    @pytest.mark.parametrize("call", [diagnose, first_nonfinite_layer], ids=lambda call: call.__name__)
    def test_e37_every_submodule_keeps_its_mode(self, stateful_model, call):
        x = random_values(0, 8, 4).float()
        careless = copy.deepcopy(stateful_model)
        modes = [module.training for module in careless.modules()]
        assert modes == [True, True, False, True, True]  # BatchNorm is frozen on purpose
        careless.eval()
        careless(x)
        assert not any(module.training for module in careless.modules())  # the error: eval mode for good,
        careless.train()
        assert careless.norm.training  # and train() would wake what was frozen
        call(stateful_model, x)
        assert [module.training for module in stateful_model.modules()] == modes
        stateful_model.fail = True
        with pytest.raises(RuntimeError, match="failed on purpose"):
            call(stateful_model, x)
        assert [module.training for module in stateful_model.modules()] == modes


class TestPlotSizes:
    @pytest.mark.parametrize("size", [1.0, -3e-5, 1e-20, 1e30])
    def test_every_value_but_zero_is_drawn(self, size):
        axes = Figure().subplots()
        plot_sizes({"a": torch.tensor([0.0, 0.0] + [size] * 7)}, {"one": 1.0}, label="size", ax=axes)
        (step,) = axes.patches
        assert step.get_xy()[:, 1].max() == 7
        highest = step.get_xy()[step.get_xy()[:, 1] == 7, 0]
        assert highest.min() <= math.log10(abs(size)) <= highest.max()

    def test_words_limits_and_file(self, tmp_path):
        path = tmp_path / "sizes.png"
        values = {"float16": torch.ones(3).half(), "gradients": torch.full((2, 2), 1e-3, requires_grad=True)}
        figure = plot_sizes(values, {"smallest": 1e-4}, label="|g|", title="Sizes", save_path=path)
        (axes,) = figure.axes
        assert (axes.get_xlabel(), axes.get_title(loc="left")) == ("|g|", "Sizes")
        assert [text.get_text() for text in axes.get_legend().get_texts()] == ["float16", "gradients"]
        assert [line.get_xdata()[0] for line in axes.lines] == pytest.approx([-4])
        assert path.stat().st_size > 1000
        assert not plt.get_fignums()

    @pytest.mark.parametrize(
        ("values", "limits", "error", "words"),
        [
            ({}, {}, ValueError, "values is empty"),
            ({"a": torch.zeros(3)}, {}, ValueError, r"values\['a'\] holds only zeros"),
            ({"a": torch.tensor([1.0, NAN])}, {}, ValueError, r"values\['a'\] must be finite"),
            ({"a": [1.0]}, {}, TypeError, r"values\['a'\] must be a torch.Tensor"),
            ({"a": torch.ones(3)}, {"none": 0.0}, ValueError, "none"),
            ({"a": torch.ones(3)}, {"none": -1.0}, ValueError, "none"),
        ],
    )
    def test_bad_input(self, values, limits, error, words):
        with pytest.raises(error, match=words):
            plot_sizes(values, limits, label="size")
