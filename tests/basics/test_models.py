"""The small network that lesson 1 trains."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from course_utils.basics import SimpleNet, logits_to_probabilities


class TestSimpleNet:
    def test_returns_logits_of_linear_relu_linear(self):
        model = SimpleNet(4, 8, 3)
        x = torch.rand(5, 4)
        by_hand = F.linear(
            F.relu(F.linear(x, model.hidden.weight, model.hidden.bias)), model.output.weight, model.output.bias
        )
        assert torch.equal(model(x), by_hand)
        assert not any(isinstance(module, (nn.Softmax, nn.Sigmoid)) for module in model.modules())

    def test_defaults(self):
        assert SimpleNet()(torch.zeros(2, 10)).shape == (2, 2)

    @pytest.mark.parametrize("sizes", [(0, 5, 2), (10, -1, 2), (10, 5, 0)])
    def test_bad_sizes(self, sizes):
        with pytest.raises(ValueError, match="at least 1"):
            SimpleNet(*sizes)

    def test_e20_gradient_survives_on_logits_and_dies_behind_softmax(self):
        z = torch.tensor([[20.0, 0.0, 0.0]], requires_grad=True)
        target = torch.tensor([1])
        (on_logits,) = torch.autograd.grad(F.cross_entropy(z, target), z)
        (twice,) = torch.autograd.grad(F.cross_entropy(logits_to_probabilities(z, "multiclass"), target), z)
        assert on_logits.abs().max() > 0.99
        assert twice.abs().max() < 1e-7
