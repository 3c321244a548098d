"""Temperatures against scipy's optimum, calibration errors against torchmetrics and plain loops."""

import math
import warnings

import numpy as np
import pytest
import scipy.special
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from course_utils.optimization import expected_calibration_error, reliability_diagram, temperature_scaling
from tests.support.values import DTYPES, honest_binary, random_normal, sampled_labels, seeds


def overconfident(seed: int, temperature: float, n: int = 2000, num_classes: int = 4):
    """Logits T·z with labels drawn from softmax(z): T is what calibrates them. And the standard error of 1/T."""
    z = random_normal(n, num_classes, seed=seed, scale=2.0)
    p = z.softmax(1)
    logits = temperature * z
    variance = (p * logits.square()).sum(1) - (p * logits).sum(1).square()
    return logits, sampled_labels(p, seed + 1), 1 / math.sqrt(float(variance.sum()))


def mean_nll(logits, target, temperature: float) -> float:
    """scipy's own log-softmax, averaged."""
    z = logits.double().numpy() / temperature
    return -float(np.mean(scipy.special.log_softmax(z, axis=1)[np.arange(len(z)), target.numpy()]))


def nll_slope(logits, target, beta: float) -> float:
    """d NLL / d(1/T), by hand."""
    z = logits.double().numpy()
    p = scipy.special.softmax(beta * z, axis=1)
    return float(np.mean((p * z).sum(1) - z[np.arange(len(z)), target.numpy()]))


class TestTemperature:
    @given(seeds, st.floats(0.2, 8))
    def test_equals_scipys_optimum(self, seed, temperature):
        from scipy.optimize import minimize_scalar, root_scalar

        logits, target, _ = overconfident(seed, temperature, n=300)
        scaler = temperature_scaling(logits, target)
        fitted = float(scaler.temperature)
        slope = root_scalar(lambda beta: nll_slope(logits, target, beta), bracket=(1e-3, 1e3), xtol=1e-15, rtol=1e-14)
        assert fitted == pytest.approx(1 / slope.root, rel=1e-9)
        best = minimize_scalar(
            lambda log_t: mean_nll(logits, target, math.exp(log_t)), bounds=(-5, 5), options={"xatol": 1e-9}
        )
        assert best.success
        assert math.log(fitted) == pytest.approx(best.x, abs=1e-6)  # as far as the loss itself can tell
        assert scaler.nll_after == pytest.approx(best.fun, abs=1e-9)
        assert scaler.nll_after == pytest.approx(mean_nll(logits, target, fitted), abs=1e-12)
        assert scaler.nll_before == pytest.approx(mean_nll(logits, target, 1.0), abs=1e-12)
        assert scaler.nll_after <= scaler.nll_before
        assert scaler.converged

    @given(seeds, st.floats(0.2, 8))
    def test_recovers_a_known_temperature_within_sampling_error(self, seed, temperature):
        logits, target, standard_error = overconfident(seed, temperature)
        fitted = float(temperature_scaling(logits, target).temperature)
        assert abs(1 / fitted - 1 / temperature) < 5 * standard_error

    @given(seeds, st.floats(-1000, 1000))
    def test_shift_invariant(self, seed, shift):
        logits, target, _ = overconfident(seed, 2.0, n=100)
        shifts = shift * torch.linspace(-1, 1, len(logits), dtype=torch.float64)[:, None]
        fitted = temperature_scaling(logits, target).temperature
        assert float(temperature_scaling(logits + shifts, target).temperature) == pytest.approx(float(fitted), rel=1e-7)

    @given(seeds, st.floats(0.2, 8))
    def test_keeps_the_argmax_and_divides(self, seed, temperature):
        logits, target, _ = overconfident(seed, temperature, n=100)
        scaler = temperature_scaling(logits, target)
        assert torch.equal(scaler.probabilities(logits).argmax(1), logits.argmax(1))
        assert torch.allclose(scaler(logits), logits / scaler.temperature, rtol=1e-12)
        expected = scipy.special.softmax(logits.numpy() / float(scaler.temperature), axis=1)
        assert np.allclose(scaler.probabilities(logits), expected, atol=1e-12)

    @settings(max_examples=20)
    @given(seeds, st.integers(1, 4), st.sampled_from([1e-3, 1.0, 1e3]))
    def test_few_samples_end_at_a_root_or_say_that_they_do_not(self, seed, n, scale):
        """Tiny random problems, separable ones among them, and logits of any size."""
        logits = random_normal(n, 3, seed=seed, scale=scale)
        target = torch.randint(3, (n,), generator=torch.Generator().manual_seed(seed))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            scaler = temperature_scaling(logits, target)
        assert 1e-4 <= float(scaler.temperature) <= 1e4
        assert scaler.nll_after <= scaler.nll_before
        assert scaler.converged == (not caught)
        slope, curvature_scale = nll_slope(logits, target, 1 / float(scaler.temperature)), scale
        at_root = abs(slope) < 1e-9 * curvature_scale
        assert at_root or not scaler.converged

    @pytest.mark.parametrize("flip", [False, True])
    def test_data_without_an_optimum_warn_and_stay_in_the_bounds(self, flip):
        """All right: the colder the better. All wrong: the hotter the better."""
        logits = torch.tensor([[5.0, 0.0], [0.0, 1.0], [3.0, 1.0]])
        target = logits.argmin(1) if flip else logits.argmax(1)
        with pytest.warns(UserWarning, match="did not converge") as caught:
            scaler = temperature_scaling(logits, target)
        assert caught[0].filename == __file__  # it points at the caller's line
        assert not scaler.converged
        assert "converged=False" in repr(scaler)
        assert 1e-4 <= float(scaler.temperature) <= 1e4
        assert (float(scaler.temperature) > 100) == flip
        assert scaler.nll_after < scaler.nll_before

    def test_equal_logits_have_no_best_temperature(self):
        with pytest.warns(UserWarning, match="did not converge"):
            scaler = temperature_scaling(torch.ones(4, 3), torch.tensor([0, 1, 2, 0]))
        assert not scaler.converged
        assert scaler.nll_after == pytest.approx(math.log(3))
        assert scaler.temperature == 1  # nothing was learned, so nothing is changed

    @pytest.mark.parametrize("max_iter", [1, 2, 3])
    def test_too_few_iterations_warn_and_make_nothing_worse(self, max_iter):
        logits = torch.tensor([[10.0, 0.0]] * 95 + [[0.0, 10.0]] * 5)
        with pytest.warns(UserWarning, match="did not converge"):
            scaler = temperature_scaling(logits, torch.zeros(100, dtype=torch.long), max_iter=max_iter)
        assert not scaler.converged
        assert scaler.nll_after <= scaler.nll_before

    @pytest.mark.parametrize(
        ("seed", "temperature"),
        [(43422502, 6.800553701141912), (1647981998, 0.4387368802742688), (249109042, 0.2091471706192713)],
    )
    def test_a_slope_of_exactly_zero_is_the_optimum(self, seed, temperature):
        """Newton's method meets the root to the last bit here, and there is nothing to warn of."""
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert temperature_scaling(*overconfident(seed, temperature, n=20)[:2]).converged

    def test_the_closed_form_of_two_classes(self):
        logits = torch.tensor([[10.0, 0.0]] * 95 + [[0.0, 10.0]] * 5)
        scaler = temperature_scaling(logits, torch.zeros(100, dtype=torch.long))
        assert float(scaler.temperature) == pytest.approx(10 / math.log(19), rel=1e-12)

    def test_the_temperature_is_saved_and_never_trained(self):
        logits, target, _ = overconfident(0, 2.0)
        scaler = temperature_scaling(logits, target)
        assert list(scaler.parameters()) == []
        assert list(scaler.state_dict()) == ["temperature"]
        assert scaler.temperature.dtype == torch.float64
        other = temperature_scaling(*overconfident(1, 5.0)[:2])
        other.load_state_dict(scaler.state_dict())
        assert torch.equal(other(logits), scaler(logits))

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_keeps_the_dtype(self, dtype):
        logits, target, _ = overconfident(0, 2.0)
        scaler = temperature_scaling(logits.to(dtype), target)
        assert float(scaler.temperature) == pytest.approx(2.0, rel=0.1)
        assert scaler(logits.to(dtype)).dtype == scaler.probabilities(logits.to(dtype)).dtype == dtype

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_probabilities_stay_finite_in_every_dtype(self, dtype):
        """T = .5 doubles 40,000, and half precision ends at 65,504."""
        scaler = temperature_scaling(*overconfident(0, 0.5)[:2])
        probabilities = scaler.probabilities(torch.tensor([[40000.0, 0.0], [0.0, -40000.0]], dtype=dtype))
        assert probabilities.tolist() == [[1, 0], [1, 0]]

    @pytest.mark.parametrize(
        ("change", "error", "words"),
        [
            ({"logits": torch.zeros(3)}, ValueError, "2 dimension"),
            ({"logits": torch.zeros(3, 1)}, ValueError, "at least 2 classes"),
            ({"logits": torch.zeros(0, 2), "target": torch.zeros(0).long()}, ValueError, "empty"),
            ({"logits": torch.full((3, 2), math.nan)}, ValueError, "6 NaN"),
            ({"logits": torch.full((3, 2), -math.inf)}, ValueError, "6 infinite"),
            ({"logits": [[0.0, 1.0]]}, TypeError, "torch.Tensor"),
            ({"target": torch.tensor([0, 1])}, ValueError, "each of the 3"),
            ({"target": torch.tensor([0, 1, 2])}, ValueError, "0 to 1"),
            ({"target": torch.zeros(3)}, TypeError, "integer"),
            ({"max_iter": 0}, ValueError, "max_iter"),
            ({"max_iter": 5.0}, TypeError, "max_iter"),
        ],
    )
    def test_bad_input(self, change, error, words):
        arguments = {"logits": torch.eye(3)[:, :2], "target": torch.tensor([0, 1, 1])} | change
        with pytest.raises(error, match=words):
            temperature_scaling(**arguments)

    def test_the_scaler_checks_its_logits(self):
        scaler = temperature_scaling(*overconfident(0, 2.0)[:2])
        for call in (scaler, scaler.probabilities):
            with pytest.raises(ValueError, match="2 dimension"):
                call(torch.zeros(3))
            with pytest.raises(ValueError, match="1 NaN"):
                call(torch.tensor([[math.nan, 1.0]]))

    def test_e24_one_timid_step_does_not_close_the_gap(self):
        logits, target, _ = overconfident(0, 2.5)
        t = torch.ones(1, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.LBFGS([t], lr=0.01)

        def closure():
            optimizer.zero_grad()
            loss = F.cross_entropy(logits / t, target)
            loss.backward()
            return loss

        optimizer.step(closure)
        scaler = temperature_scaling(logits, target)
        best = float(scaler.temperature)
        assert (t.item() - 1) / (best - 1) < 0.4  # the error: most of the way is left
        assert best == pytest.approx(2.5, abs=0.2)
        assert abs(nll_slope(logits, target, 1 / best)) < 1e-9

    def test_e25_the_loss_has_no_floor(self):
        z = torch.tensor([[100.0, 0.0]], requires_grad=True)
        floored = -torch.log(z.softmax(1) + 1e-10)[0, 1]
        assert float(floored.detach()) == pytest.approx(23.03, abs=0.01)  # the error: right is 100
        assert torch.autograd.grad(floored, z)[0].abs().max() < 1e-30
        logits = torch.tensor([[100.0, 0.0]] * 4)
        scaler = temperature_scaling(logits, torch.tensor([0, 0, 0, 1]))
        assert scaler.nll_before == pytest.approx(25)  # 100 for one of four
        assert float(scaler.temperature) == pytest.approx(100 / math.log(3), rel=1e-9)

    def test_e26_no_graph_is_left_none_is_used_up_and_whole_numbers_are_refused(self):
        leaf = overconfident(0, 2.0)[0].requires_grad_()
        target = overconfident(0, 2.0)[1]
        logits = leaf * 1.5
        scaler = temperature_scaling(logits, target)
        assert not scaler.temperature.requires_grad
        assert not scaler.probabilities(logits.detach()).requires_grad
        again = temperature_scaling(logits, target)
        assert torch.equal(scaler.temperature, again.temperature)
        logits.sum().backward()  # the caller's graph is still there
        assert torch.equal(leaf.grad, torch.full_like(leaf, 1.5))
        with pytest.raises(TypeError, match=r"convert it with .float\(\)"):
            temperature_scaling(torch.tensor([[1, 2]]), torch.tensor([0]))

    def test_e31_fitted_on_validation_applied_to_test_the_same_each_time(self):
        logits, target, _ = overconfident(0, 3.0, n=4000)
        scaler = temperature_scaling(logits[:2000], target[:2000])
        assert torch.equal(scaler.temperature, temperature_scaling(logits[:2000], target[:2000]).temperature)
        test, held_out = logits[2000:], target[2000:]
        before = expected_calibration_error(test.softmax(1), held_out)
        after = expected_calibration_error(scaler.probabilities(test), held_out)
        assert before > 0.1
        assert after < 0.03
        assert torch.equal(scaler.probabilities(test).argmax(1), test.argmax(1))

    def test_p3_float32_gives_the_temperature_of_float64(self):
        logits, target, _ = overconfident(0, 2.5)
        in_double, in_single = (float(temperature_scaling(x, target).temperature) for x in (logits, logits.float()))
        assert in_single == pytest.approx(in_double, rel=1e-6)
        assert in_single > 2


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
