"""The norm behind `gradient_clipping`: quick where its precision is enough, exact everywhere."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from course_utils.pitfalls import NonFiniteGradientError, gradient_clipping


def parameters_with(*gradients: torch.Tensor) -> list[nn.Parameter]:
    parameters = [nn.Parameter(torch.zeros_like(gradient)) for gradient in gradients]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient.clone()
    return parameters


def exact_norm(gradients: list[torch.Tensor], norm_type: float) -> float:
    """In float64, with the largest value factored out."""
    values = torch.cat([gradient.double().flatten() for gradient in gradients]).abs()
    largest = values.max()
    return float(largest * torch.linalg.vector_norm(values / largest, norm_type)) if largest else 0.0


@given(
    st.lists(st.sampled_from([0, 1, 7, 2**14, 2**14 + 1, 3 * 2**14, 50_000]), min_size=1, max_size=4),
    st.sampled_from([1.0, 2.0, 3.0, 100.0, math.inf]),
    st.integers(-44, 38),
    st.sampled_from([torch.float32, torch.float64]),
    st.integers(0, 1000),
)
def test_any_sizes_and_magnitudes(sizes, norm_type, magnitude, dtype, seed):
    """Gradients below, at and above a row's length, from subnormal numbers to the largest ones."""
    generator = torch.Generator().manual_seed(seed)
    drawn = [torch.rand(size, generator=generator, dtype=torch.float64) * 2 - 1 for size in [*sizes, 3]]
    gradients = [(values * 10.0**magnitude).to(dtype) for values in drawn]
    norm = gradient_clipping(parameters_with(*gradients), 1e300, norm_type=norm_type)
    assert norm == pytest.approx(exact_norm(gradients, norm_type), rel=1e-6 if dtype == torch.float32 else 1e-12)


def test_one_large_gradient_is_summed_precisely():
    gradient = torch.randn(8_000_000, generator=torch.Generator().manual_seed(0))
    exact = exact_norm([gradient], 2)
    assert gradient_clipping(parameters_with(gradient), 1e9) == pytest.approx(exact, rel=1e-6)


def test_small_values_count_beside_large_ones_of_another_dtype():
    """Squares of 1e-30 are 0 in float32, so the norm of both must not be taken there."""
    gradients = [torch.full((4,), 1e-30), torch.full((4,), 1e-30, dtype=torch.float64)]
    assert gradient_clipping(parameters_with(*gradients), 1.0) == pytest.approx(8**0.5 * 1e-30, rel=1e-6)


def test_gradients_of_every_layout_are_clipped_together():
    embedding = nn.Embedding(5, 2, sparse=True)
    embedding(torch.tensor([1, 3, 1])).sum().backward()  # rows (2, 2) and (1, 1)
    dense = parameters_with(torch.tensor([[3.0, 4.0]]).T, torch.zeros(0), torch.tensor([2.0], dtype=torch.float16))
    norm = gradient_clipping([embedding.weight, *dense], 0.5)
    assert norm == pytest.approx((10 + 25 + 4) ** 0.5)
    assert dense[0].grad.flatten().tolist() == pytest.approx([3 * 0.5 / norm, 4 * 0.5 / norm])
    assert dense[2].grad.item() == pytest.approx(2 * 0.5 / norm, rel=1e-3)
    assert embedding.weight.grad.to_dense()[1].tolist() == pytest.approx([2 * 0.5 / norm] * 2)


@pytest.mark.parametrize("place", [0, 2**14, 40_000 - 1])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_bad_value_anywhere_in_a_large_gradient(place, bad):
    gradient = torch.ones(40_000)
    gradient[place] = bad
    parameters = parameters_with(torch.ones(3), gradient)
    with pytest.raises(NonFiniteGradientError, match="1 of 2 gradients hold NaN or Inf; nothing was changed"):
        gradient_clipping(parameters, 1.0)
    assert parameters[0].grad.tolist() == [1, 1, 1]
