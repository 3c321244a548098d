"""Gradient clipping against torch's and numpy's norms."""

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn

from course_utils.pitfalls import NonFiniteGradientError, gradient_clipping
from tests.support.models import mlp
from tests.support.values import INF, NAN, digits, random_normal, seeds


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
        values = [
            random_normal(*shape, seed=seed + i, scale=10**log_scale) for i, shape in enumerate([(3,), (2, 4), (1,)])
        ]
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
        F.cross_entropy(model(digits().x_train[:50]), digits().y_train[:50]).backward()
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
            ((mlp(), 0), {}, ValueError, "max_norm must be greater than 0"),
            ((mlp(), -1.0), {}, ValueError, "max_norm"),
            ((mlp(), NAN), {}, ValueError, "max_norm"),
            ((mlp(), -INF), {}, ValueError, "max_norm"),
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
        assert spoilt.isnan().all() if math.isnan(bad) else (spoilt == 0).all()  # the error: finite ones are lost
        parameters = with_gradients(*values)
        with pytest.raises(NonFiniteGradientError, match=f"total norm of the gradients is {bad}"):
            gradient_clipping(parameters, 1.0)
        norm = gradient_clipping(parameters, 1.0, error_if_nonfinite=False)
        assert norm == bad or (math.isnan(norm) and math.isnan(bad))  # the norm is not thrown away
        assert parameters[0].grad.tolist() == [3, 4]
        assert gradient_clipping(parameters[:1], 1.0) == 5
        assert parameters[0].grad.tolist() == pytest.approx([0.6, 0.8])

    def test_q31_an_infinite_limit_only_measures(self):
        weight = nn.Parameter(torch.zeros(2))
        weight.grad = torch.tensor([3.0, 4.0])
        assert gradient_clipping(weight, INF) == nn.utils.clip_grad_norm_(weight, INF) == 5
        assert weight.grad.tolist() == [3, 4]
        weight.grad[0] = NAN
        with pytest.raises(NonFiniteGradientError):
            gradient_clipping(weight, INF)
