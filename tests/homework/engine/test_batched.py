"""The batched engine against the loop, and runs that do not see each other."""

import random
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course_utils.data import load_split
from course_utils.homework import Setting, can_be_batched, expand_grid, plan_chunks, train_batched, train_sequentially
from course_utils.homework.engine import batched, reference
from course_utils.homework.engine.base import initial_parameters, run_generator
from course_utils.homework.settings import ACTIVATIONS, INITS, OPTIMIZERS
from tests.support.homework import X, Y


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
                "activation": st.sampled_from(tuple(ACTIVATIONS)),
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

    @pytest.mark.slow
    def test_long_curves_wherever_the_run_itself_is_stable(self, monkeypatch):
        """Equal to 1e-4 wherever a run whose first weights are moved by 1e-7 stays within 1e-5 of itself."""
        grid = {"hidden_features": [4, [8, 8]], "lr": [0.01, 0.1]}
        adam = {"optimizer": "adam", "activation": "tanh", "dropout": 0.1, "batch_size": 32}
        runs = with_seeds([grid, grid | adam], seeds=1, epochs=120)
        results = train_batched(runs, X, Y, 3)
        plain = [train_sequentially(*run, X, Y, 3) for run in runs]

        def moved(*arguments):
            return [(weight + 1e-7, bias - 1e-7) for weight, bias in initial_parameters(*arguments)]

        monkeypatch.setattr(reference, "initial_parameters", moved)
        stable = 0
        for run, result, own in zip(runs, results, plain, strict=True):
            sensitivity = (train_sequentially(*run, X, Y, 3).losses - own.losses).abs().max()
            if sensitivity < 1e-5:
                stable += 1
                assert (result.losses - own.losses).abs().max() < 1e-4, run
        assert stable >= 5


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
