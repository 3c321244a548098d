"""Temperatures against scipy's optimum."""

import math
import warnings

import numpy as np
import pytest
import scipy.special
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from course_utils.optimization import expected_calibration_error, temperature_scaling
from tests.support.values import DTYPES, random_normal, sampled_labels, seeds


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
    def test_f4_logits_keep_the_dtype_and_probabilities_are_float32_or_better(self, dtype):
        """F4: in half precision several classes would share the largest probability."""
        logits, target, _ = overconfident(0, 2.0)
        scaler = temperature_scaling(logits.to(dtype), target)
        assert float(scaler.temperature) == pytest.approx(2.0, rel=0.1)
        assert scaler(logits.to(dtype)).dtype == dtype
        close = (0.02 * random_normal(50, 40)).to(dtype)
        p = scaler.probabilities(close)
        assert p.dtype == torch.promote_types(dtype, torch.float32)
        assert torch.equal(p.argmax(1), close.double().argmax(1))
        assert torch.allclose(p.double(), (close.double() / scaler.temperature).softmax(1), atol=1e-6)

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
            ({"logits": torch.full((3, 2), -math.inf)}, ValueError, "at least one class unmasked, but 3 row"),
            ({"logits": torch.full((3, 2), math.inf)}, ValueError, "6 .inf"),
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
