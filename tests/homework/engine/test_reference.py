"""The plain loop against torch's own parts."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from course_utils.homework import Setting, train_sequentially
from course_utils.homework.engine import reference
from course_utils.homework.engine.base import run_generator
from course_utils.homework.settings import OPTIMIZERS
from tests.support.homework import X, Y


class TestLoop:
    @pytest.mark.parametrize("optimizer", OPTIMIZERS)
    def test_equals_plain_torch(self, optimizer):
        setting = Setting((7, 5), "tanh", optimizer=optimizer, weight_decay=0.01, epochs=10)
        result = train_sequentially(setting, 3, X, Y, 3)
        with torch.random.fork_rng():
            torch.manual_seed(3)
            model = nn.Sequential(nn.Linear(4, 7), nn.Tanh(), nn.Linear(7, 5), nn.Tanh(), nn.Linear(5, 3))
        step = {
            "sgd": lambda p: torch.optim.SGD(p, lr=0.01, weight_decay=0.01),
            "momentum": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, weight_decay=0.01),
            "nesterov": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, nesterov=True, weight_decay=0.01),
            "adam": lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.01),
            "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.01),
        }[optimizer](model.parameters())
        for expected in result.losses:
            step.zero_grad()
            loss = F.cross_entropy(model(X), Y)
            assert loss.item() == expected
            loss.backward()
            step.step()
        for (weight, bias), layer in zip(result.parameters, model[::2], strict=True):
            assert torch.equal(weight, layer.weight)
            assert torch.equal(bias, layer.bias)

    def test_a_mini_batch_epoch_sees_every_sample_once_and_weights_the_batches_by_size(self):
        setting = Setting(batch_size=16, lr=1e-12, epochs=2)  # as good as no step: the mean over all samples must come
        full = train_sequentially(Setting(lr=1e-12, epochs=1), 0, X, Y, 3)
        assert train_sequentially(setting, 0, X, Y, 3).losses == pytest.approx([full.losses.item()] * 2, abs=1e-6)

    def test_orders_differ_between_epochs_and_seeds_and_not_between_settings(self):
        def orders(seed):
            generator = run_generator(seed, "order")
            return [torch.cat([rows for _, rows in reference.batches(60, 16, generator)]).tolist() for _ in range(2)]

        assert all(sorted(order) == list(range(60)) for order in orders(0))
        assert orders(0)[0] != orders(0)[1] != orders(1)[1]

    def test_dropout_masks_have_the_right_mean_and_share(self):
        masks = reference.dropout_masks(Setting((100, 20), dropout=0.3), 0, 1000, torch.float64)
        first, second = next(masks), next(masks)
        assert first.shape == (1000, 120)
        assert first.unique().tolist() == pytest.approx([0, 1 / 0.7], rel=1e-4)
        assert (first == 0).double().mean().item() == pytest.approx(0.3, abs=0.005)
        for one, other in ((first, second), (first[:, :50], first[:, 50:100]), (first[:500], first[500:])):
            assert ((one == 0) & (other == 0)).double().mean().item() == pytest.approx(0.09, abs=0.01)

    @pytest.mark.parametrize("dropout", [1e-9, 0.5, 1 - 1e-9])
    def test_dropout_stays_finite_at_the_ends_of_its_range(self, dropout):
        losses = train_sequentially(Setting(dropout=dropout, epochs=3), 0, X, Y, 3).losses
        assert losses.isfinite().all()
