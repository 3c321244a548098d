"""Statistics over samples against scipy, dropout that is really drawn, modes that come back."""

import copy
import math
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.special
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from course_utils.optimization import deep_ensemble, monte_carlo_dropout
from tests.support.models import Returns, members_of
from tests.support.values import DTYPES, random_normal, seeds

X5 = torch.zeros(5, 1)


def dropout_net(p: float = 0.5) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Dropout(p), nn.Linear(8, 3)).double()


class Recurrent(nn.Module):
    """torch.func.vmap cannot run an LSTM, so this takes the plain loop."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 6, batch_first=True)
        self.dropout = nn.Dropout(0.5)
        self.last = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.dropout(self.lstm(x[:, None])[0][:, -1]))


X6 = random_normal(6, 3)


two_opinions = st.tuples(seeds, st.integers(2, 5), st.sampled_from([0.1, 3.0, 100.0]))


class TestUncertainty:
    @given(two_opinions)
    def test_multiclass_statistics_equal_scipys(self, opinions):
        from scipy.stats import entropy

        seed, m, scale = opinions
        logits = random_normal(m, 5, 3, seed=seed, scale=scale)
        result = deep_ensemble([Returns(z) for z in logits], X5)
        p = scipy.special.softmax(logits.numpy(), axis=-1)
        assert np.allclose(result.samples, p, atol=1e-12)
        assert np.allclose(result.mean, p.mean(0), atol=1e-12)
        assert np.allclose(result.variance, p.var(0), atol=1e-12)
        total, inside = entropy(p.mean(0), axis=-1), entropy(p, axis=-1).mean(0)
        assert np.allclose(result.predictive_entropy, total, atol=1e-9)
        assert np.allclose(result.mutual_information, total - inside, atol=1e-9)

    @given(two_opinions)
    def test_multilabel_statistics_equal_scipys(self, opinions):
        from scipy.stats import entropy

        seed, m, scale = opinions
        logits = random_normal(m, 5, 2, seed=seed, scale=scale)
        result = deep_ensemble([Returns(z) for z in logits], X5, task="multilabel")
        p = scipy.special.expit(logits.numpy())
        two = np.stack([p, 1 - p], -1)
        assert np.allclose(result.mean, p.mean(0), atol=1e-12)
        assert np.allclose(result.variance, p.var(0), atol=1e-12)
        assert result.predictive_entropy.shape == (5, 2)
        total, inside = entropy(two.mean(0), axis=-1), entropy(two, axis=-1).mean(0)
        assert np.allclose(result.predictive_entropy, total, atol=1e-9)
        assert np.allclose(result.mutual_information, total - inside, atol=1e-9)

    @given(two_opinions)
    def test_regression_has_values_and_no_entropy(self, opinions):
        seed, m, scale = opinions
        values = random_normal(m, 5, 2, seed=seed, scale=scale)
        result = deep_ensemble([Returns(v) for v in values], X5, task="regression")
        assert np.allclose(result.mean, values.numpy().mean(0))
        assert np.allclose(result.variance, values.numpy().var(0))
        assert result.predictive_entropy is None
        assert result.mutual_information is None

    @given(two_opinions, st.sampled_from(["multiclass", "multilabel"]), st.sampled_from(DTYPES))
    def test_mutual_information_lies_between_zero_and_the_entropy(self, opinions, task, dtype):
        seed, m, scale = opinions
        logits = random_normal(m, 5, 3, seed=seed, scale=scale).to(dtype)
        result = deep_ensemble([Returns(z) for z in logits], X5, task=task)
        reported = dtype if dtype.itemsize >= 4 else torch.float32  # bfloat16 has 36 values for an entropy
        rounding = 4 * torch.finfo(reported).eps
        assert (result.mutual_information >= 0).all()
        assert (result.mutual_information <= result.predictive_entropy + rounding).all()
        assert float(result.predictive_entropy.max()) <= math.log(3) + rounding
        assert result.mean.dtype == result.mutual_information.dtype == reported

    @given(two_opinions, st.randoms(use_true_random=False))
    def test_the_order_of_the_members_does_not_matter(self, opinions, random):
        models = members_of(opinions[0], m=opinions[1])
        shuffled = random.sample(models, len(models))
        for task in ("multiclass", "multilabel", "regression"):
            first, second = deep_ensemble(models, X5, task=task), deep_ensemble(shuffled, X5, task=task)
            assert torch.allclose(first.mean, second.mean)
            assert torch.allclose(first.variance, second.variance)

    def test_agreement_and_disagreement(self):
        unsure, sure = torch.zeros(1, 2), torch.tensor([[50.0, -50.0]])
        agreed = deep_ensemble([Returns(unsure), Returns(unsure)], X5[:1])  # the data leave it open
        apart = deep_ensemble([Returns(sure), Returns(-sure)], X5[:1])  # the models do not know
        for result, information in ((agreed, 0.0), (apart, math.log(2))):
            assert result.predictive_entropy.item() == pytest.approx(math.log(2))
            assert result.mutual_information.item() == pytest.approx(information, abs=1e-6)

    @pytest.mark.parametrize("task", ["multiclass", "multilabel", "regression"])
    def test_dropout_equals_a_loop_by_hand(self, task):
        """Two runs of 4,000 masks: means and variances agree within their sampling error."""
        model = dropout_net()
        result = monte_carlo_dropout(model, X6, n_samples=4000, task=task, seed=1)
        function = {"multiclass": lambda z: z.softmax(-1), "multilabel": torch.sigmoid, "regression": lambda z: z}[task]
        torch.manual_seed(2)
        model.train()
        with torch.no_grad():
            by_hand = torch.stack([function(model(X6)) for _ in range(4000)])
        assert result.samples.shape == (4000, 6, 3)
        error = by_hand.std(0) * math.sqrt(2 / 4000)
        assert ((result.mean - by_hand.mean(0)).abs() < 5 * error + 1e-12).all()
        fourth = (by_hand - by_hand.mean(0)).pow(4).mean(0)
        spread = ((fourth - by_hand.var(0).square()).clamp(min=0) * 2 / 4000).sqrt()
        assert ((result.variance - by_hand.var(0)).abs() < 5 * spread + 1e-12).all()

    def test_dropout_of_a_linear_layer_has_a_closed_form(self):
        """Mean Wx, variance p/(1 − p)·Σ w²x²."""
        model = nn.Sequential(nn.Dropout(0.2), nn.Linear(3, 1)).double()
        weight = model[1].weight.detach()
        result = monte_carlo_dropout(model, X6, n_samples=5000, task="regression", seed=0)
        expected = 0.2 / 0.8 * (weight.square() * X6.square()).sum(1, keepdim=True)
        assert torch.allclose(result.mean, model[1](X6).detach(), atol=5 * float(expected.max() / 5000) ** 0.5)
        assert torch.allclose(result.variance, expected, rtol=0.15)

    @pytest.mark.parametrize("model", [dropout_net().float(), Recurrent()])
    def test_seeds_repeat_and_none_does_not(self, model):
        x, state = X6.float(), torch.get_rng_state()
        first, second, other = (monte_carlo_dropout(model, x, n_samples=8, seed=seed) for seed in (3, 3, 4))
        assert torch.equal(first.samples, second.samples)
        assert not torch.equal(first.samples, other.samples)
        fresh = [monte_carlo_dropout(model, x, n_samples=8).samples for _ in range(2)]
        assert not torch.equal(*fresh)
        assert torch.equal(torch.get_rng_state(), state)
        assert not first.samples.requires_grad
        assert first.samples.flatten(1).unique(dim=0).shape[0] > 1

    def test_each_sample_and_each_opinion_has_its_own_mask(self):
        model = dropout_net()
        samples = monte_carlo_dropout(model, X6[:1].expand(6, -1), n_samples=6, seed=0).samples
        assert samples.flatten(0, 1).unique(dim=0).shape[0] > 20

    @pytest.mark.parametrize("layer", [nn.Dropout2d(0.5), nn.AlphaDropout(0.5), nn.FeatureAlphaDropout(0.5)])
    def test_relatives_of_dropout(self, layer):
        model = nn.Sequential(nn.Unflatten(1, (3, 1, 1)), layer, nn.Flatten(), nn.Linear(3, 3)).double()
        assert (monte_carlo_dropout(model, X6, seed=0).variance > 0).all()

    @pytest.mark.parametrize(
        "model",
        [
            nn.Sequential(nn.Dropout(0.5, inplace=True), nn.Linear(3, 3)),
            nn.Sequential(nn.Flatten(), nn.Dropout(0.5, inplace=True), nn.Linear(3, 3)),
        ],
    )
    def test_dropout_in_place_neither_touches_the_inputs_nor_adds_up(self, model):
        model, x = model.double(), X6.clone()
        result = monte_carlo_dropout(model, x, n_samples=200, task="regression", seed=0)
        assert torch.equal(x, X6)
        assert torch.equal(model.eval()(x), model(X6))
        spread = result.samples.var(1).mean(1)  # if the masks add up, the last opinions are all the bias alone
        assert (spread[-50:] > 0).any()

    def test_keeps_the_dtype_and_takes_objects_with_logits(self):
        class Wrapped(nn.Sequential):
            def forward(self, x):
                return SimpleNamespace(logits=super().forward(x))

        for dtype in (torch.float64, torch.float32, torch.bfloat16):
            model = Wrapped(nn.Dropout(0.5), nn.Linear(3, 3)).to(dtype)
            result = monte_carlo_dropout(model, X6.to(dtype), seed=0)
            assert result.samples.dtype == result.mean.dtype == (dtype if dtype.itemsize >= 4 else torch.float32)
            assert torch.isfinite(result.predictive_entropy).all()

    def test_a_sample_and_the_frame(self):
        result = deep_ensemble(members_of(0), X5)
        assert len(result) == 5
        assert set(result[0]) == {"mean", "variance", "predictive_entropy", "mutual_information"}
        assert torch.equal(result[-1]["mean"], result.mean[4])
        assert isinstance(result[0]["predictive_entropy"], float)  # a plain number, as in every other result
        frame = result.to_frame()
        assert frame.shape == (5, 4 + 4 + 2)
        assert frame["predictive_entropy"].tolist() == result.predictive_entropy.tolist()
        values = deep_ensemble(members_of(0), X5, task="regression")
        assert set(values[0]) == {"mean", "variance"}
        assert list(values.to_frame().columns) == [f"{name}_{i}" for name in ("mean", "variance") for i in range(4)]
        assert "UncertaintyResult" in values._repr_html_()
        with pytest.raises(IndexError):
            result[5]
        with pytest.raises(TypeError, match=r"one sample at a time.*result\.mean\[:10\]"):  # Q30
            result[:2]

    def test_the_frame_of_bfloat16(self):
        models = [Returns(model.logits.bfloat16()) for model in members_of(0)]
        result = deep_ensemble(models, X5)
        assert result.to_frame()["mean_0"].tolist() == result.mean[:, 0].tolist()

    @pytest.mark.parametrize(
        ("call", "error", "words"),
        [
            (lambda: deep_ensemble([], X5), ValueError, "models is empty"),
            (lambda: deep_ensemble(nn.Linear(1, 2), X5), TypeError, "single module"),
            (lambda: deep_ensemble([len, len], X5), TypeError, "torch.nn.Module"),
            (lambda: deep_ensemble(members_of(0), X5, task="ordinal"), ValueError, "'multiclass', 'binary'"),
            (lambda: deep_ensemble(members_of(0), X5[:0]), ValueError, "empty"),
            (lambda: deep_ensemble(members_of(0), [1.0]), TypeError, "torch.Tensor"),
            (lambda: deep_ensemble([*members_of(0), *members_of(0, c=2)], X5), ValueError, r"\(5, 4\) and \(5, 2\)"),
            (lambda: deep_ensemble([Returns(torch.zeros(5))] * 2, X5), ValueError, r"logits \(N, C\)"),
            (lambda: deep_ensemble([Returns(torch.zeros(5, 1))] * 2, X5), ValueError, "C ≥ 2"),
            (
                lambda: deep_ensemble([Returns(torch.zeros(5))] * 2, X5, task="regression"),
                ValueError,
                r"values \(N, D\)",
            ),
            (lambda: deep_ensemble([Returns(torch.full((5, 2), math.inf))] * 2, X5), ValueError, r"20 \+inf"),
            (lambda: monte_carlo_dropout(dropout_net(), X6, n_samples=2.0), TypeError, "n_samples"),
            (lambda: monte_carlo_dropout(dropout_net(), X6, task="ordinal"), ValueError, "'multiclass', 'binary'"),
            (lambda: monte_carlo_dropout(dropout_net(), X6 * math.nan), ValueError, "NaN"),
            (lambda: monte_carlo_dropout(dropout_net(), X6, seed=-1), ValueError, "seed"),
            (lambda: monte_carlo_dropout(len, X6), TypeError, "torch.nn.Module"),
        ],
    )
    def test_bad_input(self, call, error, words):
        with pytest.raises(error, match=words):
            call()

    def test_e33_variance_is_of_probabilities(self):
        logits = torch.tensor([[[0.0, 0.0]], [[100.0, 100.0]]])
        assert logits.var(0).tolist() == [[5000, 5000]]  # the error: both say one half
        result = deep_ensemble([Returns(z) for z in logits], X5[:1])
        assert result.variance.tolist() == [[0, 0]]
        assert result.mutual_information.tolist() == [0]
        with pytest.raises(ValueError, match="at least two models, but has 1"):  # its variance would be NaN
            deep_ensemble([Returns(logits[0])], X5[:1])

    def test_e35_only_dropout_is_switched_on(self, stateful_model):
        x = torch.rand(32, 4)
        careless = copy.deepcopy(stateful_model)
        careless.train()
        careless(x)
        assert not torch.equal(careless.norm.running_mean, stateful_model.norm.running_mean)  # the error
        with pytest.raises(ValueError, match="more than 1 value"):
            careless(x[:1])
        modes = [module.training for module in stateful_model.modules()]
        state = copy.deepcopy(stateful_model.state_dict())
        result = monte_carlo_dropout(stateful_model, x, n_samples=5, seed=0)
        assert [module.training for module in stateful_model.modules()] == modes
        assert all(torch.equal(value, state[name]) for name, value in stateful_model.state_dict().items())
        assert (result.variance > 0).any()
        one = monte_carlo_dropout(stateful_model, x[:1], n_samples=2000, seed=0)  # a batch of one works
        stateful_model.eval()
        stateful_model.dropout.train()
        by_hand = torch.stack([stateful_model(x[:1]).softmax(1).detach() for _ in range(2000)])
        assert torch.allclose(one.mean, by_hand.mean(0), atol=0.02)

    def test_e35_modes_come_back_when_the_model_fails(self, stateful_model):
        modes = [module.training for module in stateful_model.modules()]
        stateful_model.fail_at = 1
        with pytest.raises(RuntimeError, match="on purpose"):
            monte_carlo_dropout(stateful_model, torch.rand(2, 4))
        assert [module.training for module in stateful_model.modules()] == modes

    def test_e36_without_dropout_or_with_one_sample_it_is_an_error(self):
        silent = nn.Linear(3, 3).double()
        assert torch.stack([silent(X6).softmax(1) for _ in range(5)]).var(0).max() == 0  # the error: never unsure
        for model in (silent, dropout_net(p=0.0)):
            modes = [module.training for module in model.modules()]
            with pytest.raises(ValueError, match="no dropout layer with p > 0"):
                monte_carlo_dropout(model, X6)
            assert [module.training for module in model.modules()] == modes
        with pytest.raises(ValueError, match="n_samples must be at least 2"):
            monte_carlo_dropout(dropout_net(), X6, n_samples=1)
