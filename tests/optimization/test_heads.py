"""Heads and losses against torch's and scipy's, and the errors of a head that does not fit its loss."""

import copy
import math

import numpy as np
import pytest
import scipy.special
import torch
import torch.nn.functional as F
from hypothesis import given
from torch import nn

from course_utils.foundation.networks import TwoLayerNetwork
from course_utils.optimization import (
    BinaryClassificationModel,
    MultiClassClassificationModel,
    MultiLabelClassificationModel,
    RegressionModel,
)
from tests.support.values import random_normal, seeds


def constant(head, value: float):
    """The head with every output equal to `value`, whatever comes in, and gradients that reach its last bias."""
    last = head.output
    with torch.no_grad():
        last.weight.zero_()
        last.bias.fill_(value)
    return head


def bias_gradient(head, loss: torch.Tensor) -> torch.Tensor:
    return torch.autograd.grad(loss, head.output.bias)[0]


class TestHeads:
    x = random_normal(7, 4).float()

    @pytest.mark.parametrize(
        ("head", "shape"),
        [
            (BinaryClassificationModel(4), (7, 1)),
            (MultiClassClassificationModel(4, 3), (7, 3)),
            (MultiLabelClassificationModel(4, 5), (7, 5)),
            (RegressionModel(4), (7, 1)),
            (RegressionModel(4, 2), (7, 2)),
        ],
    )
    def test_returns_logits_or_values(self, head, shape):
        linear, last = head.hidden, head.output
        by_hand = F.linear(F.relu(F.linear(self.x, linear.weight, linear.bias)), last.weight, last.bias)
        assert head(self.x).shape == shape
        assert torch.equal(head(self.x), by_hand)

    @given(seeds)
    def test_losses_equal_torchs(self, seed):
        x, random = random_normal(6, 4, seed=seed).float(), random_normal(6, 3, seed=seed + 1)
        binary, label = BinaryClassificationModel(4), MultiLabelClassificationModel(4, 3)
        several, values = MultiClassClassificationModel(4, 3), RegressionModel(4, 3)
        hits = (random > 0).long()
        assert torch.equal(
            binary.loss(x, hits[:, :1]), F.binary_cross_entropy_with_logits(binary(x), hits[:, :1].float())
        )
        assert torch.equal(label.loss(x, hits), F.binary_cross_entropy_with_logits(label(x), hits.float()))
        assert torch.equal(several.loss(x, random.argmax(1)), F.cross_entropy(several(x), random.argmax(1)))
        assert torch.equal(values.loss(x, random.float()), F.mse_loss(values(x), random.float()))

    def test_probabilities_equal_scipys(self):
        binary, label = BinaryClassificationModel(4), MultiLabelClassificationModel(4, 3)
        several = MultiClassClassificationModel(4, 3)
        for head, function in (
            (binary, scipy.special.expit),
            (label, scipy.special.expit),
            (several, lambda z: scipy.special.softmax(z, axis=1)),
        ):
            p = head.predict_proba(self.x)
            assert p.shape == head(self.x).shape
            assert not p.requires_grad
            assert np.allclose(p, function(head(self.x).detach().numpy()), atol=1e-6)

    @pytest.mark.parametrize("head", [BinaryClassificationModel(4), MultiClassClassificationModel(4, 3)])
    def test_predict_proba_runs_in_eval_mode_and_gives_the_modes_back(self, head):
        head = copy.deepcopy(head)
        head.activation = nn.Sequential(nn.ReLU(), nn.Dropout(0.5))
        head.train()
        head.hidden.eval()
        before = [module.training for module in head.modules()]
        assert torch.equal(head.predict_proba(self.x), head.predict_proba(self.x))
        assert not torch.equal(head(self.x), head(self.x))
        assert [module.training for module in head.modules()] == before
        with pytest.raises(RuntimeError):
            head.predict_proba(torch.zeros(2, 9))
        assert [module.training for module in head.modules()] == before

    @pytest.mark.parametrize(
        ("activation", "low", "high"),
        [("sigmoid", 0, 1), ("tanh", -1, 1), ("softplus", 0, math.inf), ("relu", 0, math.inf)],
    )
    def test_activations_keep_their_range(self, activation, low, high):
        head = RegressionModel(4, 2, activation=activation)
        oracle = {"sigmoid": torch.sigmoid, "tanh": torch.tanh, "softplus": F.softplus, "relu": torch.relu}[activation]
        values = head(100 * self.x).detach()
        assert torch.equal(values, oracle(TwoLayerNetwork.forward(head, 100 * self.x)))
        assert low <= float(values.min()) <= float(values.max()) <= high
        target = torch.full_like(values, 0.5)
        loss = head.loss(self.x, target).detach()
        assert float(loss) == pytest.approx(float(F.mse_loss(head(self.x), target).detach()))
        with pytest.raises(ValueError, match=f"activation='{activation}' can produce"):
            head.loss(self.x, target - 3)

    @given(seeds)
    def test_relu_head_has_the_loss_of_forward_and_a_gradient(self, seed):
        torch.manual_seed(seed)
        head, x = RegressionModel(4, 2, activation="relu").double(), random_normal(6, 4, seed=seed)
        target = random_normal(6, 2, seed=seed + 1).abs()
        loss = head.loss(x, target)
        assert float(loss.detach()) == pytest.approx(float(F.mse_loss(head(x), target).detach()), rel=1e-12)
        error = 2 * (head(x) - target) / target.numel()  # the squared error's own gradient at each value
        assert torch.allclose(bias_gradient(head, loss), error.sum(0).detach())

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
    def test_f4_probabilities_are_float32_or_better(self, dtype):
        """F4: in half precision several classes would share the largest probability."""
        x = self.x.to(dtype)
        for head in (BinaryClassificationModel(4), MultiClassClassificationModel(4, 300)):
            head = head.to(dtype)
            p = head.predict_proba(1000 * x)
            assert p.dtype == torch.promote_types(dtype, torch.float32)
            assert torch.isfinite(p).all()
            with torch.no_grad():
                logits = head(0.01 * x)
            assert torch.equal(head.predict_proba(0.01 * x).argmax(1), logits.double().argmax(1))

    @pytest.mark.parametrize(
        ("head", "target", "error", "words"),
        [
            (BinaryClassificationModel(4), torch.zeros(7), ValueError, r"\(7, 1\).*broadcast"),
            (BinaryClassificationModel(4), torch.zeros(1, 1), ValueError, r"\(7, 1\)"),
            (BinaryClassificationModel(4), torch.full((7, 1), 2), ValueError, "0 and 1"),
            (BinaryClassificationModel(4), torch.full((7, 1), -1), ValueError, "0 and 1"),
            (BinaryClassificationModel(4), torch.full((7, 1), math.nan), ValueError, "0 and 1"),
            (BinaryClassificationModel(4), [[0.0]] * 7, ValueError, "a list of length 7"),
            (MultiLabelClassificationModel(4, 3), torch.zeros(7, 1), ValueError, r"\(7, 3\)"),
            (MultiLabelClassificationModel(4, 3), torch.zeros(3), ValueError, r"\(7, 3\)"),
            (MultiClassClassificationModel(4, 3), torch.zeros(7, 3), TypeError, "integer"),
            (MultiClassClassificationModel(4, 3), torch.zeros(7, 1, dtype=torch.long), ValueError, "1 dimension"),
            (MultiClassClassificationModel(4, 3), torch.zeros(6, dtype=torch.long), ValueError, "each of the 7"),
            (MultiClassClassificationModel(4, 3), torch.full((7,), 3), ValueError, "0 to 2"),
            (MultiClassClassificationModel(4, 3), torch.full((7,), -100), ValueError, "0 to 2"),
            (RegressionModel(4), torch.zeros(7), ValueError, r"\(7, 1\).*broadcast"),
            (RegressionModel(4, 2), torch.zeros(7, 1), ValueError, r"\(7, 2\)"),
            (RegressionModel(4), torch.full((7, 1), math.nan), ValueError, "7 NaN"),
        ],
    )
    def test_bad_target(self, head, target, error, words):
        with pytest.raises(error, match=words):
            head.loss(self.x, target)

    @pytest.mark.parametrize(
        ("head", "target"),
        [
            (BinaryClassificationModel(4), torch.zeros(0, 1)),
            (MultiLabelClassificationModel(4, 3), torch.zeros(0, 3)),
            (MultiClassClassificationModel(4, 3), torch.zeros(0, dtype=torch.long)),
            (RegressionModel(4), torch.zeros(0, 1)),
        ],
    )
    def test_the_mean_of_no_samples_is_an_error(self, head, target):
        with pytest.raises(ValueError, match="empty"):
            head.loss(torch.zeros(0, 4), target)

    @pytest.mark.parametrize(
        ("make", "error", "words"),
        [
            (lambda: BinaryClassificationModel(0), ValueError, "in_features"),
            (lambda: BinaryClassificationModel(4, hidden_features=0), ValueError, "hidden_features"),
            (lambda: MultiClassClassificationModel(4, 1), ValueError, "num_classes must be at least 2"),
            (lambda: MultiLabelClassificationModel(4, 0), ValueError, "num_classes"),
            (lambda: RegressionModel(4, 0), ValueError, "out_features"),
            (lambda: RegressionModel(4.0), TypeError, "in_features must be an int"),
            (lambda: RegressionModel(4, activation="exp"), ValueError, "'sigmoid', 'tanh', 'softplus', 'relu'"),
        ],
    )
    def test_bad_sizes(self, make, error, words):
        with pytest.raises(error, match=words):
            make()

    def test_e20_binary_gradient_lives_where_the_double_sigmoid_is_dead(self):
        z = torch.tensor([[20.0]], requires_grad=True)
        naive = F.binary_cross_entropy(torch.sigmoid(z), torch.zeros(1, 1))
        assert float(naive.detach()) == 100  # the error: the clamp's value, and nothing to learn from
        assert torch.autograd.grad(naive, z)[0].item() == 0
        for head in (BinaryClassificationModel(4), MultiLabelClassificationModel(4, 1)):
            loss = constant(head, 20.0).loss(self.x, torch.zeros(7, 1))
            assert float(loss.detach()) == pytest.approx(20)
            assert bias_gradient(head, loss).item() == pytest.approx(1)

    def test_e20_multiclass_gradient_lives_behind_one_softmax_only(self):
        perfect, wrong = torch.tensor([[50.0, 0, 0, 0, 0]]), torch.tensor([[20.0, 0, 0]], requires_grad=True)
        twice = F.cross_entropy(perfect.softmax(1), torch.tensor([0]))
        assert float(twice) == pytest.approx(0.905, abs=1e-3)  # the error: a perfect answer that costs .905
        (dead,) = torch.autograd.grad(F.cross_entropy(wrong.softmax(1), torch.tensor([1])), wrong)
        assert dead.abs().max() < 1e-7
        head = constant(MultiClassClassificationModel(4, 3), 0.0)
        with torch.no_grad():
            head.output.bias[0] = 20
        assert float(head.loss(self.x, torch.zeros(7, dtype=torch.long)).detach()) < 1e-8
        gradient = bias_gradient(head, head.loss(self.x, torch.ones(7, dtype=torch.long)))
        assert gradient.tolist() == pytest.approx([1, -1, 0], abs=1e-6)

    def test_e20_relu_regression_starts_learning_from_below_zero(self):
        target = torch.full((7, 1), 3.0)
        head = constant(RegressionModel(4, activation="relu"), -1.0)
        naive = F.mse_loss(head(self.x), target)
        assert bias_gradient(head, naive).item() == 0  # the error: a unit that never moves
        assert float(head.loss(self.x, target).detach()) == float(naive.detach()) == 9
        assert bias_gradient(head, head.loss(self.x, target)).item() == pytest.approx(-6)
        optimizer = torch.optim.SGD(head.parameters(), lr=0.05)
        for _ in range(100):
            optimizer.zero_grad()
            head.loss(self.x, target).backward()
            optimizer.step()
        assert torch.allclose(head(self.x), target, atol=0.1)
