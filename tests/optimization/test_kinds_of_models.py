"""Chapter 3 with the models that people bring: one logit, encoders, half precision, random members, several inputs."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from course_utils.data import load_split
from course_utils.foundation.training import fit
from course_utils.optimization import (
    BinaryClassificationModel,
    GaussianRegressionModel,
    RegressionModel,
    adjust_threshold,
    deep_ensemble,
    ensemble_predictions,
    expected_calibration_error,
    fit_stacking,
    honest_calibration_error,
    monte_carlo_dropout,
    reliability_diagram,
    temperature_scaling,
)
from tests.support.models import Returns, members_of
from tests.support.values import honest_binary, random_normal

X5 = torch.zeros(5, 1)


class TwoLogits(nn.Module):
    """A classifier with one logit z, written as one with the logits 0 and z."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x):
        z = self.model(x)
        return torch.cat([torch.zeros_like(z), z], dim=1)


@pytest.fixture(scope="module")
def tumours():
    return load_split("breast_cancer")


@pytest.fixture(scope="module")
def binary_models(tumours):
    models = []
    for seed in range(3):
        torch.manual_seed(seed)
        model = BinaryClassificationModel(30, hidden_features=8)
        models.append(fit(model, tumours.x_train, tumours.y_train[:, None], steps=60, seed=seed))
    return models


class TestOneLogit:
    """Q31: our own BinaryClassificationModel fits everywhere, and gives what its two-column twin gives."""

    def test_ensembles(self, tumours, binary_models):
        twins, x, y = [TwoLogits(model) for model in binary_models], tumours.x_test, tumours.y_test
        for options in ({}, {"pool": "logarithmic"}, {"weights": [1, 2, 3]}):
            p = ensemble_predictions(binary_models, x, task="binary", **options)
            assert p.shape == (len(x),)
            assert torch.allclose(p, ensemble_predictions(twins, x, **options)[:, 1])
        votes = ensemble_predictions(binary_models, x, method="voting", task="binary")
        assert torch.equal(votes, ensemble_predictions(twins, x, method="voting"))
        stacker = fit_stacking(binary_models, x, y, task="binary")
        stacked = ensemble_predictions(binary_models, x, method="stacking", meta_model=stacker, task="binary")
        assert ((stacked >= 0.5) == y).double().mean() > 0.9

    def test_uncertainty(self, tumours, binary_models):
        found = deep_ensemble(binary_models, tumours.x_test, task="binary")
        twin = deep_ensemble([TwoLogits(model) for model in binary_models], tumours.x_test)
        assert torch.allclose(found.mean, twin.mean[:, 1])
        assert torch.allclose(found.variance, twin.variance[:, 1])
        assert torch.allclose(found.predictive_entropy, twin.predictive_entropy, atol=1e-5)
        assert torch.allclose(found.mutual_information, twin.mutual_information, atol=1e-5)
        assert set(found[0]) == set(twin[0])
        net = nn.Sequential(nn.Linear(30, 8), nn.Dropout(0.5), nn.Linear(8, 1))
        assert monte_carlo_dropout(net, tumours.x_test, task="binary", seed=0).samples.shape == (50, 114)

    def test_calibration_and_thresholds(self, tumours, binary_models):
        with torch.no_grad():
            z = 3 * binary_models[0](tumours.x_test)  # (N, 1)
        y = tumours.y_test
        scaler = temperature_scaling(z, y, task="binary")
        twin = temperature_scaling(torch.cat([torch.zeros_like(z), z], 1), y)
        assert float(scaler.temperature) == pytest.approx(float(twin.temperature))
        p = scaler.probabilities(z)
        assert torch.allclose(p, twin.probabilities(torch.cat([torch.zeros_like(z), z], 1))[:, 1], atol=1e-6)
        assert torch.allclose(scaler(z).sigmoid()[:, 0], p)
        for shaped in (p, p[:, None]):
            assert expected_calibration_error(shaped, y, task="binary") == expected_calibration_error(p, y)
            assert adjust_threshold(shaped, y).threshold == adjust_threshold(p, y).threshold
        assert torch.equal(reliability_diagram(p[:, None], y, task="binary").counts, reliability_diagram(p, y).counts)
        honest = [honest_calibration_error(shaped, n_resamples=50, task="binary") for shaped in (p, p[:, None])]
        assert honest[0] == honest[1]

    def test_the_task_is_asked_for_and_not_guessed(self, binary_models, tumours):
        for call in (
            lambda: ensemble_predictions(binary_models, tumours.x_test),
            lambda: deep_ensemble(binary_models, tumours.x_test),
            lambda: temperature_scaling(torch.zeros(3, 1), torch.zeros(3).long()),
            lambda: expected_calibration_error(torch.rand(3, 1), torch.zeros(3).long()),
        ):
            with pytest.raises(ValueError, match="task='binary'"):
                call()


class Encoder(nn.Module):
    def __init__(self, dropout: float = 0.5) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(16, 4, 32, dropout=dropout, batch_first=True)
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        return self.head(self.layer(x).mean(1))


class TestDropout:
    def test_f1_an_encoders_dropout_is_not_skipped_by_its_fused_path(self):
        torch.manual_seed(0)
        model, x = Encoder().eval(), torch.randn(6, 5, 16)
        before = torch.backends.mha.get_fastpath_enabled()
        found = monte_carlo_dropout(model, x, n_samples=1000, seed=0)
        assert torch.backends.mha.get_fastpath_enabled() == before
        assert float(found.variance.mean()) > 1e-4
        for layer in (model.layer.dropout, model.layer.dropout1, model.layer.dropout2):
            layer.train()  # with gradients on, torch does not take the fused path either
        by_loop = torch.stack([model(x).softmax(1).detach() for _ in range(1000)])
        # The spread of 1,000 draws is known to 1/√2000 of itself, twice, and there are 18 of them.
        assert torch.allclose(found.variance, by_loop.var(0, correction=0), rtol=0.25)
        assert torch.allclose(found.mean, by_loop.mean(0), atol=5 * float(found.variance.max() / 500) ** 0.5)

    def test_q18_dropout_that_is_there_and_not_called_is_refused(self):
        class Unused(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.dropout, self.linear = nn.Dropout(0.5), nn.Linear(3, 2)

            def forward(self, x):
                return self.linear(x)

        with pytest.raises(ValueError, match="calls none of them"):
            monte_carlo_dropout(Unused(), torch.rand(4, 3))

    def test_inputs_of_zeros_are_no_reason_to_refuse(self):
        """All samples are equal here, and the dropout was called."""
        model = nn.Sequential(nn.Dropout(0.5), nn.Linear(3, 2))
        assert float(monte_carlo_dropout(model, torch.zeros(4, 3)).variance.max()) == 0

    def test_batches_give_as_many_rows_and_the_same_distribution(self):
        model = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.Linear(8, 2))
        x = random_normal(10, 3).float()
        whole, parts = (monte_carlo_dropout(model, x, n_samples=2000, seed=0, batch_size=b) for b in (None, 3))
        loader = monte_carlo_dropout(model, DataLoader(TensorDataset(x), batch_size=4), n_samples=2000, seed=0)
        assert whole.samples.shape == parts.samples.shape == loader.samples.shape
        assert torch.allclose(whole.mean, parts.mean, atol=0.03)
        assert torch.allclose(whole.mean, loader.mean, atol=0.03)


class TestMembers:
    def test_q4_random_members_draw_different_numbers(self):
        class Noisy(nn.Module):
            def forward(self, x):
                return torch.randn(len(x), 3)

        state = torch.get_rng_state()
        found = deep_ensemble([Noisy(), Noisy()], X5)
        assert torch.equal(torch.get_rng_state(), state)
        assert float(found.variance.min()) > 0
        assert torch.equal(found.samples, deep_ensemble([Noisy(), Noisy()], X5).samples)

    def test_q8_entropies_of_bfloat16_members_have_as_many_values_as_their_logits(self):
        logits = [random_normal(500, 3, seed=seed).bfloat16() for seed in (0, 1)]
        found = deep_ensemble([Returns(z) for z in logits], torch.zeros(500, 1))
        assert len(found.predictive_entropy.unique()) > 450
        exact = deep_ensemble([Returns(z.double()) for z in logits], torch.zeros(500, 1))
        assert torch.allclose(found.mutual_information.double(), exact.mutual_information, atol=1e-5)

    def test_f4_votes_are_taken_on_the_logits(self):
        """In bfloat16 the probabilities of these classes are equal; their logits are not."""
        model = Returns(torch.tensor([[0.0, 0.001, 0.002]], dtype=torch.bfloat16).expand(5, 3))
        assert ensemble_predictions([model], X5, method="voting").tolist() == [2] * 5
        saturated = Returns(torch.tensor([[200.0, 50.0, 300.0]]).expand(5, 3))
        assert ensemble_predictions([saturated, saturated], X5, method="voting").tolist() == [2] * 5

    def test_the_two_pools_are_what_they_say(self):
        models = members_of(0, m=3)
        logits = torch.stack([model.logits for model in models])
        assert torch.allclose(
            ensemble_predictions(models, X5, pool="logarithmic"), logits.log_softmax(-1).mean(0).softmax(-1)
        )
        linear = ensemble_predictions(models, X5)
        assert torch.allclose(linear, logits.softmax(-1).mean(0))
        with pytest.raises(ValueError, match="pool is for method='averaging'"):
            ensemble_predictions(models, X5, method="voting", pool="logarithmic")

    def test_q25_stacking_can_be_fitted_in_inference_mode(self):
        models, target = members_of(0, n=30), torch.arange(30) % 4
        x = torch.zeros(30, 1)
        with torch.inference_mode():
            inside = fit_stacking(models, x, target)
        assert torch.equal(inside.linear.weight, fit_stacking(models, x, target).linear.weight)

    def test_q30_a_generator_of_models(self):
        models, target, x = members_of(0, n=30), torch.arange(30) % 4, torch.zeros(30, 1)
        averaged = ensemble_predictions((model for model in models), x)
        assert torch.equal(averaged, ensemble_predictions(models, x))
        fitted = fit_stacking((model for model in models), x, target)
        assert torch.equal(fitted.linear.weight, fit_stacking(models, x, target).linear.weight)

    def test_a_dict_or_a_single_model_is_refused(self):
        with pytest.raises(TypeError, match="list of modules"):
            ensemble_predictions({"a": nn.Linear(1, 2)}, X5)

    def test_batches_and_loaders_give_the_same(self):
        models = [nn.Linear(3, 4), nn.Linear(3, 4)]
        x = random_normal(11, 3).float()
        loader = DataLoader(TensorDataset(x, torch.zeros(11)), batch_size=4)
        whole = ensemble_predictions(models, x)
        assert torch.allclose(ensemble_predictions(models, x, batch_size=4), whole)
        assert torch.allclose(ensemble_predictions(models, loader), whole)
        assert torch.allclose(deep_ensemble(models, loader).mean, deep_ensemble(models, x).mean)


@pytest.fixture(scope="module")
def noisy_sine():
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(2000, 1, generator=generator) * 4 - 2
    noise = (0.1 + 0.3 * x.abs()) * torch.randn(2000, 1, generator=generator)
    return x[:1000], (torch.sin(x) + noise)[:1000], x[1000:], (torch.sin(x) + noise)[1000:]


class TestGaussian:
    """Q3: what an interval from the variance holds. Noise that grows with x, known to us."""

    def covered(self, found, y) -> float:
        return float(((y - found.mean).abs() <= 1.645 * found.variance.sqrt()).double().mean())

    def members(self, kind, x, y):
        models = []
        for seed in range(3):
            torch.manual_seed(seed)
            models.append(fit(kind(1), x, y, steps=600, seed=seed))
        return models

    def test_q3_mean_variance_heads_hold_what_they_promise_and_the_spread_of_means_does_not(self, noisy_sine):
        x, y, x_test, y_test = noisy_sine
        gaussian = deep_ensemble(self.members(GaussianRegressionModel, x, y), x_test, task="gaussian")
        assert 0.86 < self.covered(gaussian, y_test) < 0.94
        spread = deep_ensemble(self.members(RegressionModel, x, y), x_test, task="regression")
        assert self.covered(spread, y_test) < 0.6

    def test_the_variance_is_the_law_of_total_variance(self):
        class Fixed(nn.Module):
            def __init__(self, mean, variance):
                super().__init__()
                self.moments = (torch.full((5, 1), mean), torch.full((5, 1), variance))

            def forward(self, x):
                return self.moments

        found = deep_ensemble([Fixed(0.0, 1.0), Fixed(2.0, 3.0)], X5, task="gaussian")
        assert torch.equal(found.mean, torch.full((5, 1), 1.0))
        assert torch.equal(found.variance, torch.full((5, 1), 2.0 + 1.0))
        assert found.predictive_entropy is None

    def test_the_loss_is_torchs(self):
        torch.manual_seed(0)
        model, x, y = GaussianRegressionModel(3, 2), torch.randn(7, 3), torch.randn(7, 2)
        mean, variance = model(x)
        assert mean.shape == variance.shape == (7, 2)
        assert (variance > 0).all()
        assert torch.equal(model.loss(x, y), F.gaussian_nll_loss(mean, y, variance))
        with pytest.raises(ValueError, match="broadcast"):
            model.loss(x, y[:, :1])

    def test_bad_moments_are_refused(self):
        with pytest.raises(ValueError, match="pair \\(means, variances\\)"):
            deep_ensemble(members_of(0), X5, task="gaussian")
        with pytest.raises(TypeError, match="task='gaussian'"):
            deep_ensemble([GaussianRegressionModel(1)] * 2, X5, task="regression")


class TestTemperatureOfUnusualLogits:
    def test_f21_masked_classes_do_not_change_the_temperature(self):
        z = random_normal(200, 3, scale=3.0)
        target = z[:, :2].argmax(1)
        target[:60] = 1 - target[:60]
        masked = torch.cat([z[:, :2], torch.full((200, 1), -math.inf)], 1)
        plain, with_mask = (temperature_scaling(logits, target) for logits in (z[:, :2], masked))
        assert float(with_mask.temperature) == pytest.approx(float(plain.temperature))
        assert torch.equal(with_mask.probabilities(masked)[:, 2], torch.zeros(200))
        with pytest.raises(ValueError, match="no temperature"):
            temperature_scaling(masked, torch.full((200,), 2))

    @pytest.mark.filterwarnings("ignore:temperature scaling")
    def test_q29_separable_data_end_at_the_bound(self):
        z = random_normal(50, 3, scale=2.0)
        scaler = temperature_scaling(z, z.argmax(1))
        assert float(scaler.temperature) == pytest.approx(1e-4)
        assert not scaler.converged


class TestHonestError:
    def test_holds_the_error_of_honest_predictions_and_not_that_of_others(self):
        inside = 0
        for seed in range(40):
            p, y = honest_binary(300, seed)
            found = honest_calibration_error(p, n_resamples=400, seed=seed)
            inside += found.low <= expected_calibration_error(p, y) <= found.high
        assert inside >= 34  # 95 % of 40, less three standard errors
        p, y = honest_binary(3000, seed=0)
        assert expected_calibration_error(p**3, y) > honest_calibration_error(p**3).high

    def test_equals_a_plain_loop_over_label_draws(self):
        p = random_normal(80, 4).softmax(1)
        errors = []
        for seed in range(300):
            labels = torch.multinomial(p, 1, generator=torch.Generator().manual_seed(seed))[:, 0]
            errors.append(expected_calibration_error(p, labels))
        by_loop = torch.tensor(errors)
        found = honest_calibration_error(p, n_resamples=2000)
        assert found.mean == pytest.approx(float(by_loop.mean()), abs=4 * float(by_loop.std()) / 300**0.5)
        assert found.high == pytest.approx(float(by_loop.quantile(0.975)), abs=0.02)

    def test_is_the_same_for_the_same_seed_and_shrinks_with_n(self):
        small, large = (honest_calibration_error(torch.full((n,), 0.7), n_resamples=200) for n in (100, 10_000))
        assert small == honest_calibration_error(torch.full((100,), 0.7), n_resamples=200)
        assert large.mean < small.mean / 5
