"""Calibration errors against torchmetrics and plain loops."""

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from course_utils.optimization import expected_calibration_error, reliability_diagram
from tests.support.values import DTYPES, honest_binary, random_normal, sampled_labels, seeds


def error_by_hand(confidence, hits, n_bins: int, norm: str, debias: bool = False) -> float:
    """Plain loops: bins (a, b], the first one closed."""
    members = [[] for _ in range(n_bins)]
    for c, h in zip(confidence.tolist(), hits.tolist(), strict=True):
        members[next(b for b in range(n_bins) if c <= (b + 1) / n_bins)].append((c, h))
    gaps, total = [], 0.0
    for rows in filter(None, members):
        n, accuracy = len(rows), math.fsum(h for _, h in rows) / len(rows)
        gap = abs(accuracy - math.fsum(c for c, _ in rows) / n)
        gaps.append(gap)
        if norm == "l1":
            total += n / len(confidence) * gap
        elif not debias:
            total += n / len(confidence) * gap**2
        elif n > 1:
            total += n / len(confidence) * (gap**2 - accuracy * (1 - accuracy) / (n - 1))
    return {"l1": total, "l2": math.sqrt(max(0.0, total)), "max": max(gaps)}[norm]


@st.composite
def confidences(draw):
    """Probabilities of class 1, many on an edge of ten bins or at 0 and 1, and labels."""
    value = st.one_of(st.integers(0, 10).map(lambda k: k / 10), st.floats(0, 1))
    values = draw(st.lists(value, min_size=1, max_size=30))
    labels = draw(st.lists(st.integers(0, 1), min_size=len(values), max_size=len(values)))
    return torch.tensor(values, dtype=torch.float64), torch.tensor(labels)


norms = pytest.mark.parametrize("norm", ["l1", "l2", "max"])


class TestCalibration:
    @norms
    @given(seed=seeds, n_bins=st.integers(1, 20))
    def test_equals_torchmetrics(self, norm, seed, n_bins):
        from torchmetrics.functional.classification import binary_calibration_error, multiclass_calibration_error

        p, y = honest_binary(60, seed)
        mine = expected_calibration_error(p, y, n_bins=n_bins, norm=norm)
        assert mine == pytest.approx(float(binary_calibration_error(p, y, n_bins, norm)), abs=1e-6)
        several = random_normal(60, 4, seed=seed).softmax(1)
        target = sampled_labels(several, seed)
        mine = expected_calibration_error(several, target, n_bins=n_bins, norm=norm)
        assert mine == pytest.approx(float(multiclass_calibration_error(several, target, 4, n_bins, norm)), abs=1e-6)

    @norms
    @given(data=confidences(), n_bins=st.sampled_from([1, 2, 5, 7, 10]))
    def test_equals_plain_loops_also_on_the_edges(self, norm, data, n_bins):
        p, y = data
        mine = expected_calibration_error(p, y, n_bins=n_bins, norm=norm)
        assert mine == pytest.approx(error_by_hand(p, y, n_bins, norm), abs=1e-9)
        assert 0 <= mine <= 1
        debiased = expected_calibration_error(p, y, n_bins=n_bins, norm="l2", debias=True)
        # The root turns a rounding error of 1e-16 at 0 into 1e-8.
        assert debiased == pytest.approx(error_by_hand(p, y, n_bins, "l2", debias=True), abs=1e-7)
        assert 0 <= debiased <= expected_calibration_error(p, y, n_bins=n_bins, norm="l2") + 1e-12

    @norms
    @given(data=confidences(), random=st.randoms(use_true_random=False))
    def test_the_order_of_the_samples_does_not_matter(self, norm, data, random):
        p, y = data
        order = list(range(len(p)))
        random.shuffle(order)
        shuffled = expected_calibration_error(p[order], y[order], norm=norm)
        assert shuffled == pytest.approx(expected_calibration_error(p, y, norm=norm), abs=1e-12)

    @norms
    @given(groups=st.lists(st.integers(1, 12).flatmap(lambda m: st.tuples(st.integers(0, m), st.just(m))), min_size=1))
    def test_zero_for_perfectly_honest_data(self, norm, groups):
        """In each group k of m happen, and each was given k/m."""
        p = torch.tensor([k / m for k, m in groups for _ in range(m)], dtype=torch.float64)
        y = torch.tensor([int(i < k) for k, m in groups for i in range(m)])
        assert expected_calibration_error(p, y, norm=norm) == pytest.approx(0, abs=1e-12)

    @given(st.integers(2, 6), seeds)
    def test_multiclass_is_top_label(self, num_classes, seed):
        p = random_normal(40, num_classes, seed=seed, scale=2.0).softmax(1)
        target = torch.randint(num_classes, (40,), generator=torch.Generator().manual_seed(seed))
        confidence, label = p.max(1)
        expected = error_by_hand(confidence, label == target, 15, "l1")
        assert expected_calibration_error(p, target) == pytest.approx(expected, abs=1e-9)

    @given(st.integers(1, 60), st.sampled_from([torch.float32, torch.float64]))
    def test_an_edge_belongs_to_the_lower_bin(self, n_bins, dtype):
        """p = k/n lies in bin (…, k/n], and 0 in the first one."""
        for k in range(n_bins + 1):
            counts = reliability_diagram(
                torch.tensor([k / n_bins], dtype=dtype), torch.tensor([1]), n_bins=n_bins
            ).counts
            assert counts.argmax() == max(k - 1, 0)
            assert counts.sum() == 1

    def test_the_diagram_by_hand(self):
        p = torch.tensor([0.0, 0.25, 0.3, 1.0, 0.95])
        diagram = reliability_diagram(p, torch.tensor([0, 1, 1, 1, 0]), n_bins=4)
        assert diagram.bin_edges.tolist() == [0, 0.25, 0.5, 0.75, 1]
        assert diagram.counts.tolist() == [2, 1, 0, 2]
        assert diagram.counts.dtype == torch.int64
        assert diagram.confidence.tolist() == pytest.approx([0.125, 0.3, math.nan, 0.975], nan_ok=True)
        assert diagram.accuracy.tolist() == pytest.approx([0.5, 1, math.nan, 0.5], nan_ok=True)
        assert diagram.confidence.dtype == diagram.accuracy.dtype == torch.float64
        assert len(diagram) == 4
        assert diagram[-1] == {"counts": 2, "confidence": pytest.approx(0.975), "accuracy": 0.5}
        assert diagram.to_frame()["counts"].tolist() == [2, 1, 0, 2]
        assert "ReliabilityDiagram(bin_edges=float32[5]" in repr(diagram)

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_every_dtype_and_a_graph_behind_it(self, dtype):
        p = random_normal(500, 5).softmax(1)
        target = sampled_labels(p, 0)
        reference = expected_calibration_error(p, target)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            mine = expected_calibration_error(p.to(dtype).requires_grad_() * 1, target)
        assert mine == pytest.approx(reference, abs=0.03)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_a_softmax_in_half_precision_over_many_classes_passes(self, dtype):
        p = torch.softmax(random_normal(20, 1000, scale=3.0).to(dtype), 1)
        assert 0 <= expected_calibration_error(p, p.argmax(1)) <= 1

    @pytest.mark.parametrize(
        ("p", "target", "options", "error", "words"),
        [
            (torch.rand(3, 1), [0, 1, 1], {}, ValueError, r"\(N, 1\)"),
            (torch.rand(3, 2, 2), [0, 1, 1], {}, ValueError, "1 or 2 dimension"),
            (torch.full((3, 2), 0.9), [0, 1, 1], {}, ValueError, "sum to 1"),
            (torch.rand(3), [0, 1], {}, ValueError, "each of the 3"),
            (torch.rand(3), [0, 1, 2], {}, ValueError, "0 to 1"),
            (torch.full((3, 2), 0.5), [0, 1, 2], {}, ValueError, "0 to 1"),
            (torch.rand(3), [0.0, 1.0, 1.0], {}, TypeError, "integer"),
            (torch.rand(0), [], {}, ValueError, "empty"),
            (torch.tensor([0, 1, 1]), [0, 1, 1], {}, TypeError, "floating"),
            (torch.rand(3), [0, 1, 1], {"n_bins": 0}, ValueError, "n_bins"),
            (torch.rand(3), [0, 1, 1], {"n_bins": 2.0}, TypeError, "n_bins"),
            (torch.rand(3), [0, 1, 1], {"norm": "l3"}, ValueError, "'l1', 'l2', 'max'"),
            (torch.rand(3), [0, 1, 1], {"debias": True}, ValueError, "norm='l2' only"),
            (torch.rand(3), [0, 1, 1], {"debias": True, "norm": "max"}, ValueError, "norm='l2' only"),
        ],
    )
    def test_bad_input(self, p, target, options, error, words):
        with pytest.raises(error, match=words):
            expected_calibration_error(p, torch.tensor(target), **options)

    def test_e27_ece_is_biased_upward(self):
        """Perfectly calibrated data: .100, .032, .010 with 100, 1,000 and 10,000 samples in ten bins."""
        for n, expected in ((100, 0.100), (1000, 0.032), (10000, 0.010)):
            drawn = [honest_binary(n, seed) for seed in range(100)]
            errors = [expected_calibration_error(p, y, n_bins=10) for p, y in drawn]
            assert np.mean(errors) == pytest.approx(expected, rel=0.08)
            plain = [expected_calibration_error(p, y, n_bins=10, norm="l2") for p, y in drawn]
            debiased = [expected_calibration_error(p, y, n_bins=10, norm="l2", debias=True) for p, y in drawn]
            assert np.mean(np.square(debiased)) < 0.4 * np.mean(np.square(plain))

    def test_e28_every_class_counts_not_column_1(self):
        """Sure of class 0 or 2 and wrong: column 1, small in every row, looks honest."""
        p = torch.tensor([[0.9, 0.05, 0.05], [0.05, 0.05, 0.9]] * 50)
        target = torch.tensor([2, 0] * 45 + [0, 2] * 5)
        column_1 = error_by_hand(p[:, 1], target == 1, 15, "l1")
        assert column_1 == pytest.approx(0.05, abs=1e-6)  # the error
        assert expected_calibration_error(p, target) == pytest.approx(0.8, abs=1e-6)

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_e29_a_tenth_is_in_the_lower_bin_in_every_dtype(self, dtype):
        p = torch.tensor([k / 10 for k in range(11)], dtype=dtype)
        diagram = reliability_diagram(p, torch.zeros(11, dtype=torch.long), n_bins=10)
        assert diagram.counts.tolist() == [2, 1, 1, 1, 1, 1, 1, 1, 1, 1]

    def test_e30_logits_nan_and_signed_labels_are_refused_and_empty_bins_are_nan(self):
        y = torch.tensor([0, 1, 1])
        for p, target, words in (
            (torch.tensor([4.0, -2.0, 3.0]), y, "look like logits"),
            (torch.tensor([[4.0, -2.0]] * 3), y, "look like logits"),
            (torch.tensor([0.1, math.nan, 0.3]), y, "1 NaN"),
            (torch.tensor([0.1, 0.2, 0.3]), 2 * y - 1, "0 to 1"),
        ):
            for function in (reliability_diagram, expected_calibration_error):
                with pytest.raises(ValueError, match=words):
                    function(p, target)
        empty = reliability_diagram(torch.tensor([0.9]), torch.tensor([1]), n_bins=2)
        assert math.isnan(empty.accuracy[0])
        assert math.isnan(empty.confidence[0])

    def test_p1_certainty_shares_the_last_bin(self):
        from torchmetrics.functional.classification import binary_calibration_error

        p, y = torch.tensor([1.0, 0.95]), torch.tensor([0, 1])
        assert float(binary_calibration_error(p, y, 10)) == pytest.approx(0.525)  # a bin of its own for 1.0
        assert expected_calibration_error(p, y, n_bins=10) == pytest.approx(0.475)

    def test_p2_sums_do_not_drift(self):
        """Two million times .1, and one in ten is right: nothing is wrong but the sum in float32."""
        from torchmetrics.functional.classification import binary_calibration_error

        p, y = torch.full((2_000_000,), 0.1), (torch.arange(2_000_000) % 10 == 0).long()
        assert float(binary_calibration_error(p, y, 1)) > 0.001  # the error
        assert expected_calibration_error(p, y, n_bins=1) == pytest.approx(0, abs=1e-8)
