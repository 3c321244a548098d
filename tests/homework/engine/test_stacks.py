"""Gradients in closed form against autograd."""

from itertools import product

import pytest
import torch
import torch.nn.functional as F

from course_utils.foundation.networks import ACTIVATIONS
from course_utils.homework import Setting, train_batched
from course_utils.homework.engine import reference
from course_utils.homework.engine.base import initial_parameters
from course_utils.homework.engine.stacks import BATCHED_ACTIVATIONS, CrossEntropy
from tests.support.homework import X, Y


class TestClosedForm:
    def test_every_activation_has_one(self):
        assert list(BATCHED_ACTIVATIONS) == list(ACTIVATIONS)

    @pytest.mark.parametrize(("activation", "depth"), list(product(BATCHED_ACTIVATIONS, (1, 2, 3))))
    def test_closed_form_gradients_in_double_precision(self, activation, depth):
        # One step of SGD with lr 1 from the same weights: what was subtracted is the gradient.
        setting = Setting((6, 5, 4)[:depth], activation, dropout=0.25, lr=1, epochs=1)
        runs = [(setting, seed) for seed in range(3)]
        x = X.double()
        for (_, seed), result in zip(runs, train_batched(runs, x, Y, 3), strict=True):
            first = initial_parameters(setting, seed, 4, 3, torch.float64)
            network = reference.Network([(weight.clone(), bias.clone()) for weight, bias in first], activation)
            mask = next(reference.dropout_masks(setting, seed, len(x), torch.float64))
            loss = F.cross_entropy(network(x, mask), Y)
            loss.backward()
            assert result.losses.item() == pytest.approx(loss.item(), abs=1e-14)
            for layer, start, end in zip(network.layers, first, result.parameters, strict=True):
                assert end[0].dtype == torch.float64
                assert torch.allclose(start[0] - end[0], layer[0].grad, rtol=0, atol=1e-14)
                assert torch.allclose(start[1] - end[1], layer[1].grad, rtol=0, atol=1e-14)

    def test_the_loss_is_torchs_also_at_infinite_logits(self):
        logits = torch.tensor([[0.0, -torch.inf, 1.0], [torch.inf, 0.0, 0.0], [3e38, -3e38, 0.0], [90.0, -90.0, 0.0]])
        batch_loss = CrossEntropy([1, 3], num_classes=3, length=1, dtype=torch.float32)
        for labels in torch.cartesian_prod(torch.arange(3), torch.arange(3)):
            labels = labels.repeat(2)[:, None]
            batch_loss.logits.copy_(logits[:, :, None])
            batch_loss.set_labels(labels)
            found = batch_loss.losses_and_gradient()
            leaf = logits.clone().requires_grad_()
            expected = F.cross_entropy(leaf, labels[:, 0], reduction="none")
            expected.sum().backward()
            assert torch.allclose(found, expected, equal_nan=True)
            assert torch.allclose(batch_loss.grad[:, :, 0], leaf.grad, atol=1e-6, equal_nan=True)
