"""Shapes that keep every value with its sample, and pooling against torch's."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given
from hypothesis import strategies as st

from course_utils.pitfalls import adaptive_pooling, check_and_reshape_output
from tests.support.values import NAN, gradient_of, random_normal, seeds

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
        output = random_normal(2, 3, *sizes, seed=seed)
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
        single = random_normal(1, 64, 7, 7)
        assert F.adaptive_avg_pool2d(single, 1).squeeze().shape == (64,)  # the error: the batch of one is gone
        assert torch.allclose(adaptive_pooling(single, (1, 64)), single.mean((2, 3)))
        with pytest.raises(ValueError, match="whole shape"):
            adaptive_pooling(single, (64,))
        three = random_normal(3, 64, 7, 7, seed=1)
        assert F.adaptive_avg_pool2d(three, 1).flatten(1).shape == (3, 64)  # asked for (3, 10)
        with pytest.raises(ValueError, match=r"\(3, 64\), target_shape asks for \(3, 10\)"):
            adaptive_pooling(three, (3, 10))
        features = random_normal(4, 10, seed=2)
        across = F.adaptive_avg_pool2d(features[None], (2, 10))[0]
        assert torch.allclose(across[0], features[:2].mean(0))  # the error: two samples averaged into one
        with pytest.raises(ValueError, match="3 or 4 or 5 dimension"):
            adaptive_pooling(features, (2, 10))
        with pytest.raises(ValueError, match="leaves the batch and the channels alone"):
            adaptive_pooling(features[..., None], (2, 10))
