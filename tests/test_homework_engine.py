"""The homework's engine: the loop against torch's own parts, the batched engine against the loop, and bad grids."""

import random
from collections import Counter
from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from course_utils.data import load_split
from course_utils.homework import (
    Setting,
    batched,
    can_be_batched,
    expand_grid,
    loop,
    plan_chunks,
    train_batched,
    train_sequentially,
)
from course_utils.homework.networks import initial_parameters
from course_utils.homework.randomness import dropout_levels, keep_scale, run_generator
from course_utils.homework.settings import ACTIVATIONS, INITS, OPTIMIZERS

SPLIT = load_split("iris", scaling="minmax")
X, Y = SPLIT.x_train[::2], SPLIT.y_train[::2]  # 60 flowers


def with_seeds(grid, seeds=2, **options) -> list[tuple[Setting, int]]:
    return [(setting, seed) for setting in expand_grid(grid, **options) for seed in range(seeds)]


def largest_difference(one, other) -> float:
    pairs = [(one.losses, other.losses)]
    for (weight, bias), (other_weight, other_bias) in zip(one.parameters, other.parameters, strict=True):
        pairs += [(weight, other_weight), (bias, other_bias)]
    assert all(a.shape == b.shape and a.dtype == b.dtype for a, b in pairs)
    return max((a - b).abs().max().item() for a, b in pairs)


def assert_equal_to_the_loop(runs, x=X, y=Y, num_classes=3) -> None:
    results = train_batched(runs, x, y, num_classes)
    assert len(results) == len(runs)
    for i, (run, result) in enumerate(zip(runs, results, strict=True)):
        own_x, own_y = (x, y) if x.ndim == 2 else (x[i], y[i])
        plain = train_sequentially(*run, own_x, own_y, num_classes)
        assert (plain.losses - result.losses).abs().max() < 2e-6, run
        assert largest_difference(plain, result) < 1e-4, run


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
            return [torch.cat([rows for _, rows in loop.batches(60, 16, generator)]).tolist() for _ in range(2)]

        assert all(sorted(order) == list(range(60)) for order in orders(0))
        assert orders(0)[0] != orders(0)[1] != orders(1)[1]

    def test_dropout_masks_have_the_right_mean_and_share(self):
        masks = loop.dropout_masks(Setting((100, 20), dropout=0.3), 0, 1000, torch.float64)
        first, second = next(masks), next(masks)
        assert first.shape == (1000, 120)
        assert first.unique().tolist() == pytest.approx([0, 1 / 0.7], rel=1e-4)
        assert (first == 0).double().mean().item() == pytest.approx(0.3, abs=0.005)
        for one, other in ((first, second), (first[:, :50], first[:, 50:100]), (first[:500], first[500:])):
            assert ((one == 0) & (other == 0)).double().mean().item() == pytest.approx(0.09, abs=0.01)

    @pytest.mark.parametrize("dropout", [1e-9, 0.5, 1 - 1e-9])
    def test_dropout_stays_finite_at_the_ends_of_its_range(self, dropout):
        assert 1 <= keep_scale(dropout_levels(dropout)) <= 2**16
        losses = train_sequentially(Setting(dropout=dropout, epochs=3), 0, X, Y, 3).losses
        assert losses.isfinite().all()

    @pytest.mark.parametrize("init", INITS)
    def test_first_weights(self, init):
        (weight, bias), (_, last_bias) = initial_parameters(Setting(1000, init=init), 0, 4, 3)
        bound = {"default": 1 / 4**0.5, "xavier": (6 / 1004) ** 0.5, "kaiming": (6 / 4) ** 0.5, "zeros": 0}[init]
        assert weight.abs().max().item() == pytest.approx(bound, rel=0.01)
        assert init == "default" or not (bias.any() or last_bias.any())

    def test_purposes_have_streams_of_their_own(self):
        draws = [
            torch.rand(3, generator=run_generator(seed, purpose)).tolist()
            for seed, purpose in product((0, 1, 2**32 - 1), ("weights", "order", "dropout"))
        ]
        assert len(set(map(tuple, draws))) == 9


class TestBatchedEqualsTheLoop:
    @pytest.mark.parametrize("optimizer", OPTIMIZERS)
    def test_every_optimizer(self, optimizer):
        grid = {"dropout": [0, 0.3], "weight_decay": [0, 0.05], "lr": [0.003, 0.03], "hidden_features": [[6, 5]]}
        # 60 = 3 · 16 + 12: the last batch is a partial one.
        for batch_size in (None, 16):
            batch = {"batch_size": batch_size, "optimizer": optimizer}
            assert_equal_to_the_loop(with_seeds(grid | batch, seeds=1, epochs=10))

    def test_every_activation_at_every_depth(self):
        grid = {"activation": list(ACTIVATIONS), "hidden_features": [7, [5, 6], [4, 6, 5]], "dropout": [0, 0.2]}
        assert_equal_to_the_loop(with_seeds(grid | {"optimizer": "nesterov"}, seeds=1, epochs=12))

    def test_every_init(self):
        grid = {"init": list(INITS), "hidden_features": [1, [8, 8]], "batch_size": [None, 25, 60, 1000]}
        assert_equal_to_the_loop(with_seeds(grid, seeds=1, epochs=8))

    @given(
        grid=st.fixed_dictionaries(
            {"lr": st.lists(st.floats(1e-4, 0.05), min_size=1, max_size=2)},
            optional={
                "hidden_features": st.lists(
                    st.one_of(st.integers(1, 9), st.lists(st.integers(1, 6), min_size=1, max_size=3)),
                    min_size=1,
                    max_size=2,
                ),
                "activation": st.sampled_from(ACTIVATIONS),
                "optimizer": st.lists(st.sampled_from(OPTIMIZERS), min_size=1, max_size=2),
                "dropout": st.sampled_from([[0], [0, 0.5], [0.1, 0.25]]),
                "batch_size": st.sampled_from([None, 1, 7, 12, [None, 9]]),
                "weight_decay": st.sampled_from([0, [0, 0.1]]),
                "init": st.sampled_from(INITS),
            },
        ),
        num_samples=st.integers(1, 24),
        seed=st.integers(0, 2**32 - 1),
    )
    @settings(max_examples=25)
    def test_small_grids(self, grid, num_samples, seed):
        runs = [(setting, seed) for setting in expand_grid(grid, epochs=3)]
        assert_equal_to_the_loop(runs, X[:num_samples], Y[:num_samples])

    def test_runs_with_data_of_their_own(self):
        runs = with_seeds({"batch_size": [None, 16], "hidden_features": [6, [5, 4]], "dropout": [0, 0.2]}, epochs=8)
        folds = torch.stack([torch.randperm(60, generator=run_generator(i, "order"))[:40] for i in range(len(runs))])
        assert_equal_to_the_loop(runs, X[folds], Y[folds])

    def test_ten_classes_and_64_features(self):
        digits = load_split("digits", scaling="minmax")
        runs = with_seeds({"hidden_features": [20, [12, 12]], "batch_size": [None, 64], "dropout": [0, 0.1]}, epochs=2)
        assert_equal_to_the_loop(runs, digits.x_train[:300], digits.y_train[:300], 10)

    def test_long_curves_wherever_the_run_itself_is_stable(self, monkeypatch):
        """Equal to 1e-4 wherever a run whose first weights are moved by 1e-7 stays within 1e-5 of itself."""
        grid = {"hidden_features": [4, [8, 8]], "lr": [0.01, 0.1]}
        adam = {"optimizer": "adam", "activation": "tanh", "dropout": 0.1, "batch_size": 32}
        runs = with_seeds([grid, grid | adam], seeds=1, epochs=120)
        results = train_batched(runs, X, Y, 3)
        plain = [train_sequentially(*run, X, Y, 3) for run in runs]

        def moved(*arguments):
            return [(weight + 1e-7, bias - 1e-7) for weight, bias in initial_parameters(*arguments)]

        monkeypatch.setattr(loop, "initial_parameters", moved)
        stable = 0
        for run, result, own in zip(runs, results, plain, strict=True):
            sensitivity = (train_sequentially(*run, X, Y, 3).losses - own.losses).abs().max()
            if sensitivity < 1e-5:
                stable += 1
                assert (result.losses - own.losses).abs().max() < 1e-4, run
        assert stable >= 5

    @pytest.mark.parametrize(("activation", "depth"), list(product(ACTIVATIONS, (1, 2, 3))))
    def test_closed_form_gradients_in_double_precision(self, activation, depth):
        # One step of SGD with lr 1 from the same weights: what was subtracted is the gradient.
        setting = Setting((6, 5, 4)[:depth], activation, dropout=0.25, lr=1, epochs=1)
        runs = [(setting, seed) for seed in range(3)]
        x = X.double()
        for (_, seed), result in zip(runs, train_batched(runs, x, Y, 3), strict=True):
            first = initial_parameters(setting, seed, 4, 3, torch.float64)
            network = loop.Network([(weight.clone(), bias.clone()) for weight, bias in first], activation)
            mask = next(loop.dropout_masks(setting, seed, len(x), torch.float64))
            loss = F.cross_entropy(network(x, mask), Y)
            loss.backward()
            assert result.losses.item() == pytest.approx(loss.item(), abs=1e-14)
            for layer, start, end in zip(network.layers, first, result.parameters, strict=True):
                assert end[0].dtype == torch.float64
                assert torch.allclose(start[0] - end[0], layer.weight.grad, rtol=0, atol=1e-14)
                assert torch.allclose(start[1] - end[1], layer.bias.grad, rtol=0, atol=1e-14)


MIXED = with_seeds(
    [
        {"hidden_features": [4, 9], "dropout": [0, 0.2], "batch_size": [None, 16]},
        {"optimizer": "adam", "activation": ["tanh", "gelu"], "hidden_features": [[5, 5], 4], "lr": [0.001, 0.01]},
    ],
    epochs=12,
)


class TestIndependence:
    def test_the_neighbours_do_not_matter(self):
        together = train_batched(MIXED, X, Y, 3)
        for i in range(0, len(MIXED), 3):
            alone = train_batched([MIXED[i]], X, Y, 3)[0]
            assert largest_difference(alone, together[i]) < 1e-6, MIXED[i]

    def test_order_and_chunks_do_not_matter(self, monkeypatch):
        together = train_batched(MIXED, X, Y, 3)
        order = random.Random(0).sample(range(len(MIXED)), len(MIXED))
        monkeypatch.setattr(batched, "CHUNK_BYTES", 20_000)
        shuffled = [MIXED[i] for i in order]
        assert len(plan_chunks(shuffled, 60, 4, 3)) > len(MIXED) / 4
        for i, result in zip(order, train_batched(shuffled, X, Y, 3), strict=True):
            assert largest_difference(result, together[i]) < 1e-6, MIXED[i]

    @pytest.mark.parametrize("optimizer", OPTIMIZERS)
    def test_a_diverging_neighbour_does_not_matter(self, optimizer):
        grid = {"hidden_features": [8, [8, 8]], "dropout": [0, 0.2], "optimizer": optimizer}
        healthy, diverging = with_seeds(grid, epochs=12), with_seeds(grid | {"lr": [1e20, 1e29]}, epochs=12)
        runs = [run for pair in zip(diverging, healthy + healthy, strict=True) for run in pair]
        results = train_batched(runs, X, Y, 3)
        for run, result in zip(runs[1::2], results[1::2], strict=True):
            assert largest_difference(result, train_batched([run], X, Y, 3)[0]) < 1e-6
        for run, result in zip(runs[0::2], results[0::2], strict=True):
            plain = train_sequentially(*run, X, Y, 3)
            assert not plain.losses.isfinite().all()
            assert plain.losses.isfinite().equal(result.losses.isfinite())

    def test_the_loss_is_torchs_also_at_infinite_logits(self):
        logits = torch.tensor([[0.0, -torch.inf, 1.0], [torch.inf, 0.0, 0.0], [3e38, -3e38, 0.0], [90.0, -90.0, 0.0]])
        head = batched.CrossEntropy([1, 3], num_classes=3, length=1, dtype=torch.float32)
        for labels in torch.cartesian_prod(torch.arange(3), torch.arange(3)):
            labels = labels.repeat(2)[:, None]
            head.logits.copy_(logits[:, :, None])
            head.set_labels(labels)
            found = head.losses_and_gradient()
            leaf = logits.clone().requires_grad_()
            expected = F.cross_entropy(leaf, labels[:, 0], reduction="none")
            expected.sum().backward()
            assert torch.allclose(found, expected, equal_nan=True)
            assert torch.allclose(head.grad[:, :, 0], leaf.grad, atol=1e-6, equal_nan=True)

    def test_nothing_of_the_caller_changes(self):
        x, y = X.clone().requires_grad_(), Y.clone()
        python, numpy, torch_state = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
        run = (Setting(dropout=0.5, batch_size=16, epochs=2), 0)
        for result in (*train_batched([run], x, y, 3), train_sequentially(*run, x, y, 3)):
            assert not any(t.requires_grad for layer in result.parameters for t in layer)
        assert random.getstate() == python
        assert all(np.array_equal(a, b) for a, b in zip(np.random.get_state(), numpy, strict=True))  # noqa: NPY002
        assert torch.get_rng_state().equal(torch_state)
        assert x.grad is None
        assert x.detach().equal(X)
        assert y.equal(Y)


class TestPlan:
    def test_every_run_is_in_one_chunk_with_runs_of_its_kind(self):
        chunks = plan_chunks(MIXED, 60, 4, 3)
        assert Counter(i for chunk in chunks for i in chunk) == Counter(range(len(MIXED)))
        for chunk in chunks:
            assert len({(MIXED[i][0].optimizer, MIXED[i][0].batch_size) for i in chunk}) == 1

    def test_results_hold_no_more_memory_than_they_show(self):
        for result in train_batched(with_seeds({"hidden_features": [1, 5]}, epochs=3), X[:, :1], Y, 3):
            for tensor in (result.losses, *(t for layer in result.parameters for t in layer)):
                assert tensor.is_contiguous()
                assert tensor.untyped_storage().nbytes() == tensor.nbytes  # so that pickling one run pickles one run

    def test_big_grids_are_cut(self):
        runs = with_seeds({"hidden_features": [256], "lr": [0.1, 0.01]}, seeds=50)
        assert len(plan_chunks(runs, 10, 4, 3)) == 1
        assert 1 < len(plan_chunks(runs, 1000, 64, 10)) < 60

    def test_everything_ordinary_can_be_batched(self):
        grid = {
            "activation": list(ACTIVATIONS),
            "optimizer": list(OPTIMIZERS),
            "init": list(INITS),
            "dropout": [0, 0.9],
        }
        assert {can_be_batched(setting) for setting in expand_grid(grid)} == {None}
        wide = Setting((4, 5000))
        assert "5000" in can_be_batched(wide)
        with pytest.raises(ValueError, match="cannot be batched: .*5000.*train_sequentially"):
            train_batched([(wide, 0)], X, Y, 3)

    @pytest.mark.parametrize(
        ("changes", "error", "message"),
        [
            ({"runs": []}, ValueError, "runs is empty"),
            ({"x": X[0]}, ValueError, "dimension"),
            ({"x": X.long()}, TypeError, "floating"),
            ({"x": X.half()}, ValueError, "float32 or float64"),
            ({"x": X * torch.nan}, ValueError, "finite"),
            ({"y": Y.float()}, TypeError, "integer"),
            ({"y": Y[1:]}, ValueError, "one label a sample"),
            ({"num_classes": 2}, ValueError, "class indices from 0 to 1"),
            ({"num_classes": 1}, ValueError, "at least 2"),
            ({"x": X.expand(3, -1, -1), "y": Y.expand(3, -1)}, ValueError, "each of the 1 runs"),
            ({"runs": [(Setting(), -1)]}, ValueError, "seed"),
            ({"runs": [(Setting(), 2**32)]}, ValueError, "seed"),
        ],
    )
    def test_bad_arguments(self, changes, error, message):
        with pytest.raises(error, match=message):
            train_batched(**({"runs": [(Setting(epochs=1), 0)], "x": X, "y": Y, "num_classes": 3} | changes))


class TestGrid:
    def test_defaults_are_those_of_the_iris_lesson(self):
        setting = Setting()
        assert (setting.hidden_features, setting.activation, setting.optimizer, setting.lr) == (
            (10,),
            "relu",
            "sgd",
            0.01,
        )
        assert (setting.dropout, setting.weight_decay, setting.batch_size, setting.init) == (0, 0, None, "default")

    def test_the_full_product_in_order_without_duplicates(self):
        grid = [{"lr": [1, 0.1, 1.0], "hidden_features": [8, (8,), [16, 4]]}, {"lr": 0.1, "hidden_features": [8, 9]}]
        found = [(setting.lr, setting.hidden_features) for setting in expand_grid(grid)]
        assert found == [(1, (8,)), (1, (16, 4)), (0.1, (8,)), (0.1, (16, 4)), (0.1, (9,))]

    def test_values_come_in_many_forms(self):
        grid = {
            "lr": np.array([0.1, 0.2]),
            "hidden_features": range(3, 5),
            "dropout": np.float32(0.5),
            "batch_size": None,
        }
        assert len(expand_grid(grid)) == 4
        assert expand_grid({"epochs": torch.tensor([1, 2])}) == [Setting(epochs=1), Setting(epochs=2)]

    def test_epochs_for_all(self):
        assert {setting.epochs for setting in expand_grid({"lr": [0.1, 0.2]}, epochs=7)} == {7}
        with pytest.raises(ValueError, match="give it once"):
            expand_grid({"epochs": 3}, epochs=7)

    @pytest.mark.parametrize(
        ("grid", "message"),
        [
            ({}, "grid is empty.*hidden_features, activation"),
            ([], "grid is empty"),
            ([{"lr": 1}, {}], "grid is empty"),
            (None, "dict or a list of dicts"),
            ("lr", "dict or a list of dicts"),
            ([("lr", 1)], "dict or a list of dicts"),
            ({"lr": []}, "no value for lr"),
            ({"learning_rate": 0.1}, "'learning_rate', which is none of hidden_features, .*lr"),
            ({1: 0.1}, "none of"),
            ({"hidden_features": []}, "no value for hidden_features"),
            ({"hidden_features": [[]]}, "at least one hidden layer"),
            ({"hidden_features": (8, 8)}, "one network or several"),
            ({"hidden_features": [[8, 0]]}, "at least 1"),
            ({"hidden_features": 2.0}, "must be an int"),
            ({"hidden_features": True}, "must be an int"),
            ({"hidden_features": [[[8]]]}, "must be an int"),
            ({"activation": ["relu", "swish"]}, "'relu', 'leaky_relu', 'tanh'.*'swish'"),
            ({"activation": [["relu"]]}, "must be one of"),
            ({"dropout": 1}, r"\[0, 1\)"),
            ({"dropout": -0.1}, r"\[0, 1\)"),
            ({"dropout": "0.1"}, "must be a number"),
            ({"dropout": float("nan")}, "finite"),
            ({"optimizer": "lbfgs"}, "'sgd', 'momentum', 'nesterov', 'adam', 'adamw'"),
            ({"optimizer": None}, "must be one of"),
            ({"lr": -0.1}, "strictly between 0 and 1e.30"),
            ({"lr": 0}, "strictly between 0 and 1e.30"),
            ({"lr": float("nan")}, "strictly between 0 and 1e.30"),
            ({"lr": float("inf")}, "strictly between 0 and 1e.30"),
            ({"lr": True}, "must be a number"),
            ({"lr": None}, "must be a number"),
            ({"lr": {0.1}}, "must be a number"),
            ({"weight_decay": -1}, r"\[0, 1e.06\)"),
            ({"weight_decay": float("inf")}, "finite"),
            ({"batch_size": 0}, "at least 1"),
            ({"batch_size": 1.5}, "must be an int"),
            ({"batch_size": False}, "must be an int"),
            ({"init": "he"}, "'default', 'xavier', 'kaiming', 'zeros'"),
            ({"epochs": 0}, "at least 1"),
            ({"epochs": "many"}, "must be an int"),
        ],
    )
    def test_bad_grids(self, grid, message):
        with pytest.raises(ValueError, match=message):
            expand_grid(grid)
