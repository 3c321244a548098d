"""Averages, votes and stacking against numpy and scikit-learn."""

import math
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.special
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from course_utils.optimization import ensemble_predictions, fit_stacking
from tests.support.models import Returns, members_of
from tests.support.values import DTYPES, random_normal, seeds

X5 = torch.zeros(5, 1)


some_weights = st.lists(st.integers(0, 5), min_size=3, max_size=3).filter(any)


class TestEnsembles:
    @given(seeds, some_weights)
    def test_averaging_equals_numpy(self, seed, weights):
        models = members_of(seed)
        p = np.stack([scipy.special.softmax(model.logits.numpy(), axis=1) for model in models])
        assert np.allclose(ensemble_predictions(models, X5), p.mean(0), atol=1e-12)
        weighted = ensemble_predictions(models, X5, weights=weights)
        assert np.allclose(weighted, np.average(p, axis=0, weights=weights), atol=1e-12)
        assert torch.allclose(weighted.sum(1), torch.ones(5, dtype=torch.float64))
        assert torch.allclose(weighted, ensemble_predictions(models, X5, weights=torch.tensor(weights) / 7))

    @given(seeds, some_weights)
    def test_voting_equals_counting(self, seed, weights):
        """With two classes and whole weights, ties are frequent."""
        models, x = members_of(seed, n=8, c=2), torch.zeros(8, 1)
        for share in (weights, None):
            expected = []
            for sample in range(8):
                votes = Counter()
                for model, weight in zip(models, share or [1, 1, 1], strict=True):
                    votes[int(model.logits[sample].argmax())] += weight
                expected.append(min(label for label in votes if votes[label] == max(votes.values())))
            labels = ensemble_predictions(models, x, method="voting", weights=share)
            assert labels.tolist() == expected
            assert labels.dtype == torch.int64

    @given(seeds, st.permutations(range(4)))
    def test_the_order_of_the_members_does_not_matter(self, seed, order):
        models, weights = members_of(seed, m=4, c=2), [1.0, 2.0, 3.0, 2.0]
        shuffled, moved = [models[i] for i in order], [weights[i] for i in order]
        for options, other in (({}, {}), ({"weights": weights}, {"weights": moved})):
            assert torch.allclose(
                ensemble_predictions(models, X5, **options), ensemble_predictions(shuffled, X5, **other)
            )
            assert torch.equal(
                ensemble_predictions(models, X5, method="voting", **options),
                ensemble_predictions(shuffled, X5, method="voting", **other),
            )

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_a_tie_goes_to_the_lowest_label(self, dtype):
        votes = [torch.eye(4, dtype=dtype)[[label]] for label in (3, 1, 3, 1, 2)]
        assert ensemble_predictions([Returns(v) for v in votes], X5[:1], method="voting").tolist() == [1]

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("weights", [(0.1, 0.2, 0.3), (0.1, 0.7, 0.8), (0.3, 0.6, 0.9)])
    def test_weights_that_tie_on_paper_tie(self, dtype, weights):
        """In float64 a tenth and seven tenths, shared out, are a hair below eight tenths."""
        models = [Returns(5 * torch.eye(3, dtype=dtype)[[label]]) for label in (0, 0, 2)]
        for order in ([0, 1, 2], [2, 1, 0]):
            shares = [weights[i] for i in order]
            found = ensemble_predictions([models[i] for i in order], X5[:1], method="voting", weights=shares)
            assert found.tolist() == [0]

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_large_weights_and_every_dtype(self, dtype):
        """Numbers of training samples are natural weights; their sum is beyond half precision."""
        models = [Returns(torch.tensor([[2.0, 0.0]], dtype=dtype)), Returns(torch.tensor([[0.0, 2.0]], dtype=dtype))]
        found = ensemble_predictions(models, X5[:1], weights=[50000.0, 50000.0])
        assert found.dtype == (dtype if dtype.itemsize >= 4 else torch.float32)
        assert found.tolist() == [pytest.approx([0.5, 0.5], abs=0.01)]

    def test_modes_come_back_and_no_graph_is_left(self, stateful_model):
        before = [module.training for module in stateful_model.modules()]
        x = torch.rand(6, 4)
        for method in ("averaging", "voting"):
            found = ensemble_predictions([stateful_model, stateful_model], x, method=method)
            assert torch.equal(found, ensemble_predictions([stateful_model], x, method=method))
            assert not found.requires_grad
        assert fit_stacking([stateful_model], x, torch.arange(6) % 3)
        assert [module.training for module in stateful_model.modules()] == before
        stateful_model.fail_at = 1
        with pytest.raises(RuntimeError, match="on purpose"):
            ensemble_predictions([stateful_model], x)
        assert [module.training for module in stateful_model.modules()] == before

    def test_objects_with_logits_and_module_lists(self):
        class Wrapped(Returns):
            def forward(self, x):
                return SimpleNamespace(logits=self.logits)

        models = members_of(0)
        wrapped = nn.ModuleList(Wrapped(model.logits) for model in models)
        assert torch.equal(ensemble_predictions(wrapped, X5), ensemble_predictions(models, X5))

    @pytest.mark.parametrize("num_classes", [3, 5])
    def test_stacking_equals_scikit_learns_logistic_regression(self, num_classes):
        from sklearn.linear_model import LogisticRegression

        target = torch.randint(num_classes, (200,), generator=torch.Generator().manual_seed(0))
        signal = 2.0 * F.one_hot(target, num_classes)
        models = [Returns(random_normal(200, num_classes, seed=seed, scale=1.5) + signal) for seed in (1, 2)]
        stacker = fit_stacking(models, torch.zeros(200, 1), target)
        assert not stacker.training
        features = np.hstack([scipy.special.softmax(model.logits.numpy(), axis=1) for model in models])
        features = np.hstack([features, np.ones((200, 1))])  # the bias decays with the weights
        oracle = LogisticRegression(C=1 / (2 * 1e-4 * 200), fit_intercept=False, tol=1e-10, max_iter=5000)
        expected = oracle.fit(features, target).predict_proba(features)
        found = ensemble_predictions(models, torch.zeros(200, 1), method="stacking", meta_model=stacker)
        assert np.allclose(found, expected, atol=2e-3)
        assert stacker.linear.weight.shape == (num_classes, 2 * num_classes)

    def test_stacking_repeats_itself_and_leaves_the_random_state(self):
        models, target = members_of(0, n=30), torch.arange(30) % 4
        state = torch.get_rng_state()
        first, second = (fit_stacking(models, torch.zeros(30, 1), target) for _ in range(2))
        assert torch.equal(first.linear.weight, second.linear.weight)
        assert torch.equal(torch.get_rng_state(), state)
        with torch.no_grad():
            third = fit_stacking(models, torch.zeros(30, 1), target)
        assert torch.equal(first.linear.weight, third.linear.weight)
        assert all(p.grad is None for p in first.parameters())

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_stacking_learns_whom_to_trust(self, dtype):
        target = torch.randint(3, (300,), generator=torch.Generator().manual_seed(0))
        liar = Returns((4.0 * F.one_hot((target + 1) % 3, 3)).to(dtype))  # always one class too far
        noise = Returns(random_normal(300, 3, seed=1, scale=4.0).to(dtype))
        models, x = [liar, noise], torch.zeros(300, 1)
        p = ensemble_predictions(models, x, method="stacking", meta_model=fit_stacking(models, x, target))
        assert p.dtype == (dtype if dtype.itemsize >= 4 else torch.float32)
        assert torch.allclose(p.double().sum(1), torch.ones(300, dtype=torch.float64), atol=0.02)
        assert (p.argmax(1) == target).all()
        assert (ensemble_predictions(models, x).argmax(1) == target).double().mean() < 0.5

    @pytest.mark.parametrize(
        ("models", "options", "error", "words"),
        [
            ([], {}, ValueError, "models is empty"),
            (nn.Linear(1, 2), {}, TypeError, "single module"),
            ([len], {}, TypeError, "torch.nn.Module"),
            ([Returns(torch.zeros(5))], {}, ValueError, r"logits \(N, C\)"),
            ([Returns(torch.zeros(5, 1))], {}, ValueError, "C ≥ 2"),
            ([Returns(torch.zeros(5, 2)), Returns(torch.zeros(5, 3))], {}, ValueError, r"\(5, 2\) and \(5, 3\)"),
            ([Returns(torch.full((5, 2), math.nan))], {}, ValueError, "10 NaN"),
            (members_of(0), {"method": "blending"}, ValueError, "'averaging', 'voting', 'stacking'"),
            (members_of(0), {"weights": [1, 2]}, ValueError, "3 numbers"),
            (members_of(0), {"weights": [1, -1, 1]}, ValueError, "at least 0"),
            (members_of(0), {"weights": ["a", "b", "c"]}, TypeError, "weights must be numbers, one a model"),
            (members_of(0), {"weights": [0, 0, 0]}, ValueError, "not all 0"),
            (members_of(0), {"weights": [1, math.nan, 1]}, ValueError, "finite"),
            (members_of(0), {"method": "stacking"}, ValueError, "needs a meta_model"),
            (members_of(0), {"method": "stacking", "meta_model": len}, TypeError, "torch.nn.Module"),
            (
                members_of(0),
                {"method": "stacking", "meta_model": nn.Linear(12, 4), "weights": [1, 1, 1]},
                ValueError,
                "no weights",
            ),
            (members_of(0), {"meta_model": nn.Linear(12, 4)}, ValueError, "method='stacking'"),
        ],
    )
    def test_bad_input(self, models, options, error, words):
        with pytest.raises(error, match=words):
            ensemble_predictions(models, X5, **options)

    @pytest.mark.parametrize(
        ("inputs", "target", "error", "words"),
        [
            (X5, torch.zeros(4, dtype=torch.long), ValueError, "each of the 5"),
            (X5, torch.full((5,), 4), ValueError, "0 to 3"),
            (X5, torch.zeros(5), TypeError, "integer"),
            (X5[:0], torch.zeros(5, dtype=torch.long), ValueError, "empty"),
            (X5 * math.nan, torch.zeros(5, dtype=torch.long), ValueError, "NaN"),
        ],
    )
    def test_bad_stacking(self, inputs, target, error, words):
        with pytest.raises(error, match=words):
            fit_stacking(members_of(0), inputs, target)

    def test_e32_probabilities_are_averaged_not_logits(self):
        logits = torch.tensor([[[10.0, 0.0]], [[0.0, 2.5]], [[0.0, 2.5]]])
        assert logits.mean(0).softmax(1).argmax(1).item() == 0  # the error: one loud member decides
        p = ensemble_predictions([Returns(z) for z in logits], X5[:1])
        assert p.tolist() == [pytest.approx([0.384, 0.616], abs=1e-3)]

    def test_e34_stacking_has_a_second_model_that_reads_the_classes(self):
        p = torch.stack([model.logits.softmax(1) for model in members_of(0, c=3)])
        assert p.mean((0, 2)).tolist() == pytest.approx([1 / 3] * 5)  # the error: a mean says nothing at all
        target = torch.arange(30) % 3
        models = [Returns(3.0 * F.one_hot(target, 3) + random_normal(30, 3, seed=seed)) for seed in range(3)]
        permuted = [Returns(model.logits[:, [1, 2, 0]]) for model in models]
        stacker, x = fit_stacking(models, torch.zeros(30, 1), target), torch.zeros(30, 1)
        right = ensemble_predictions(models, x, method="stacking", meta_model=stacker)
        moved = ensemble_predictions(permuted, x, method="stacking", meta_model=stacker)
        assert (right.argmax(1) == target).all()
        assert (moved.argmax(1) != target).double().mean() > 0.9
