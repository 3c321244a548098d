"""`normalize_output` takes float32 as it is where that is safe; nobody must be able to tell."""

import math

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from course_utils.pitfalls import normalize_output

ULP = torch.finfo(torch.float32).eps


def exact(x: torch.Tensor, dim: int, eps: float = 1e-12) -> np.ndarray:
    """In long double, whose range takes the square of any float32."""
    wide = x.detach().numpy().astype(np.longdouble)
    return wide / np.maximum(np.sqrt((wide**2).sum(dim, keepdims=True)), eps)


def assert_few_ulp(y: torch.Tensor, expected: np.ndarray, ulps: int = 6) -> None:
    """Within a few units in the last place; below the normal numbers those units no longer shrink."""
    smallest = torch.finfo(torch.float32).smallest_normal
    error = np.abs(y.detach().numpy().astype(np.longdouble) - expected)
    assert (error <= ulps * ULP * np.maximum(np.abs(expected), smallest)).all()


@given(
    st.integers(0, 1000),
    st.sampled_from([(1, 1), (5, 3), (3, 511), (3, 512), (3, 513), (2, 2**14), (2, 2**14 + 1)]),
    st.integers(-45, 38),
    st.booleans(),
    st.sampled_from([1e-12, 1e-30, 1.0]),
)
@example(0, (2, 2**14), 0, False, 1e-12)
@example(0, (3, 512), 0, True, 1e-12)
def test_every_size_and_magnitude(seed, shape, magnitude, strided, eps):
    """Vectors that lie side by side in memory and across it, from subnormal numbers to the largest ones."""
    drawn = torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.5
    x = (drawn * 10.0**magnitude).clamp(max=torch.finfo(torch.float32).max).float()
    x, dim = (x.T.contiguous(), 0) if strided else (x, 1)
    assert_few_ulp(normalize_output(x, dim=dim, eps=eps), exact(x, dim, eps))


@pytest.mark.parametrize("value", [0.0, 1e-45, 1e-30, 3e-10, 1e-8, 1e18, 1e20, 3e38])
def test_one_extreme_vector_in_a_usual_batch(value):
    x = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    x[2] = torch.linspace(0.5, 1, 8) * value
    assert_few_ulp(normalize_output(x), exact(x, 1))


def test_small_squares_beside_one_large_value():
    x = torch.full((1, 10_000), 1e-23)
    x[0, 0] = 1e-9
    assert_few_ulp(normalize_output(x), exact(x, 1))


@pytest.mark.parametrize("eps", [1e-12, 5.0, 1e300])
def test_eps_is_the_smallest_norm_to_divide_by(eps):
    x = torch.tensor([[3.0, 4.0], [0.3, 0.4]])
    assert_few_ulp(normalize_output(x, eps=eps), exact(x, 1, eps))


@pytest.mark.parametrize("scale", [1e-20, 1e-9, 1.0, 1e15, 1e25])
def test_the_gradient_is_that_of_float64(scale):
    x, weights = (torch.randn(6, 5, generator=torch.Generator().manual_seed(i)) for i in range(2))
    x = x * scale

    def gradient(values: torch.Tensor) -> torch.Tensor:
        values = values.requires_grad_()
        return torch.autograd.grad((normalize_output(values, eps=1e-30) * weights).sum(), values)[0]

    expected = gradient(x.double())
    assert torch.allclose(gradient(x).double(), expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_one_bad_value_is_refused(bad):
    x = torch.ones(4, 8)
    x[3, 7] = bad
    with pytest.raises(ValueError, match="output must be finite"):
        normalize_output(x)
