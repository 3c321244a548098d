"""Softmax, division, limits, norms, scales and logarithms against numpy, scipy and exact fractions."""

import math

import numpy as np
import pytest
import scipy.special
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from course_utils.pitfalls import (
    clamp_output,
    exp_transform,
    log_transform,
    normalize_output,
    safe_divide,
    safe_softmax,
    scale_output,
)
from tests.support.values import (
    DTYPES,
    INF,
    NAN,
    any_float32,
    float32_vectors,
    gradient_of,
    random_normal,
    same_bits,
    seeds,
)


class TestSafeSoftmax:
    @given(float32_vectors(), st.sampled_from([torch.float64, torch.float32]), seeds)
    def test_equals_torch_for_finite_logits_with_its_gradient(self, row, dtype, seed):
        logits = torch.stack([row, row.flip(0), row * 0]).to(dtype)
        weights = random_normal(*logits.shape, seed=seed).to(dtype)
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
        logits, mask = random_normal(3, 5), torch.tensor([True, False, True, True, False])
        p = safe_softmax(logits, mask=mask)
        assert torch.allclose(p[:, mask], torch.softmax(logits[:, mask], 1))
        assert (p[:, ~mask] == 0).all()
        gradient = gradient_of(lambda z: safe_softmax(z, mask=mask)[:, 0], logits)
        assert (gradient[:, ~mask] == 0).all()
        assert torch.allclose(gradient[:, mask], gradient_of(lambda z: torch.softmax(z, 1)[:, 0], logits[:, mask]))

    @pytest.mark.parametrize("shape", [(5,), (1, 5), (3, 1), (3, 5)])
    def test_masks_broadcast(self, shape):
        mask = torch.arange(math.prod(shape)).reshape(shape) % 2 == 0
        logits = random_normal(3, 5, seed=1)
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
        a, b = random_normal(3, 1).requires_grad_(), (random_normal(4, seed=1).abs() + 1).requires_grad_()
        assert torch.equal(safe_divide(a, b), a / b)
        assert torch.autograd.gradcheck(safe_divide, (a, b), check_undefined_grad=False)

    def test_branches_that_send_no_gradient_back(self):
        """A custom function may return None, and gradcheck tries that."""
        a, b = random_normal(3).requires_grad_(), (random_normal(3, seed=1).abs() + 1).requires_grad_()
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

    @pytest.mark.parametrize("dtype", [torch.int64, torch.uint8])
    def test_q31_whole_numbers(self, dtype):
        counts = torch.tensor([4, 0, 200], dtype=dtype)
        hits = torch.tensor([1.0, 2.0, 50.0], dtype=torch.float16)
        assert safe_divide(hits, counts).tolist() == [0.25, 0, 0.25]
        assert safe_divide(hits, counts).dtype == torch.float16
        for quotient in (safe_divide(counts, counts, fill=-1), safe_divide(counts, 4), safe_divide(1, counts)):
            assert quotient.dtype == torch.float32
        assert safe_divide(counts, counts, fill=-1).tolist() == [1, -1, 1]
        assert safe_divide(1, counts).tolist() == pytest.approx([0.25, 0, 0.005])
        assert safe_divide(hits.float(), counts.sum()).tolist() == pytest.approx([1 / 204, 2 / 204, 50 / 204])

    def test_q31_counts_beyond_half_precision(self):
        hits, counts = torch.tensor([5e4], dtype=torch.float16), torch.tensor([100_000])
        assert float(safe_divide(hits, counts)) == pytest.approx(0.5, rel=1e-3)

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
            (lambda x: safe_divide(x, x > 0), TypeError, "denominator must hold real numbers, but is a bool tensor"),
            (lambda x: safe_divide(x, [1.0, 2.0]), TypeError, "denominator must be a torch.Tensor"),
            (lambda x: safe_divide(True, x), TypeError, "numerator"),
            (lambda x: safe_divide(x, "1"), TypeError, "denominator"),
            (lambda x: safe_divide(x, NAN), ValueError, "denominator must be finite"),
            (lambda x: safe_divide(x, x * INF), ValueError, "denominator must be finite"),
            (lambda x: safe_divide(x * NAN, x), ValueError, "numerator must be finite"),
            (lambda x: safe_divide(x, torch.tensor(INF)), ValueError, "denominator must be a finite"),
            (lambda x: safe_divide(x, torch.tensor(1j)), TypeError, "denominator must hold real numbers"),
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
        x = random_normal(4, 3, seed=seed, scale=10**log_scale)
        norms = np.linalg.norm(x.numpy(), p, axis=dim, keepdims=True)
        assert np.allclose(normalize_output(x, dim=dim, p=p), x.numpy() / norms, rtol=1e-12)
        assert torch.allclose(normalize_output(x, dim=dim, p=p), F.normalize(x, p=p, dim=dim))

    def test_gradient_is_orthogonal_to_the_vector_and_finite_at_zero(self):
        x, weights = random_normal(5, 3), random_normal(5, 3, seed=1)
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

    def test_q19_ranges_whose_width_overflows(self):
        x = torch.tensor([-1e308, 0.0, 1e308], dtype=torch.float64)
        assert scale_output(x, current_range=(-1e308, 1e308)).tolist() == [0, 0.5, 1]
        assert scale_output(x, current_range=(-1.7e308, 1.7e308)).tolist() == pytest.approx([7 / 34, 0.5, 27 / 34])
        ends = torch.tensor([0.0, 0.25, 1.0], dtype=torch.float64)
        wide = scale_output(ends, current_range=(0, 1), target_range=(-1e308, 1e308))
        assert wide.tolist() == pytest.approx([-1e308, -5e307, 1e308])
        assert scale_output(x, current_range=(-1e308, 1e308), target_range=(-1e308, 1e308)).tolist() == x.tolist()

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
    def test_q15_the_docstring_says_what_it_is_not_for(self):
        """What is clamped learns nothing and has a ceiling: of a loss, log_softmax is the right way."""
        logits = torch.tensor([[0.0, 200.0]], requires_grad=True)
        clamped = -log_transform(logits.softmax(1))[0, 0]
        assert clamped < 88
        assert torch.autograd.grad(clamped, logits)[0].tolist() == [[0, 0]]
        exact = -logits.log_softmax(1)[0, 0]
        assert exact == 200
        assert torch.autograd.grad(exact, logits)[0].tolist() == [[-1, 1]]
        for word in ("ceiling", "no gradient", "log_softmax"):
            assert word in log_transform.__doc__

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
        x = (random_normal(20, seed=seed) * 2).to(dtype)
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
        x = random_normal(10).abs() + 0.5
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
