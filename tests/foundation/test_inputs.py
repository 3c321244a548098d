"""What a model is called with: named tuples, and loaders that stream, shuffle, or end with a batch of one."""

from typing import NamedTuple

import pytest
import torch
from torch import nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SubsetRandomSampler,
    TensorDataset,
)

from course_utils.foundation.evaluation import classifier_logits
from course_utils.foundation.inputs import batches, map_inputs
from course_utils.optimization import deep_ensemble, monte_carlo_dropout
from course_utils.pitfalls import first_nonfinite_layer
from tests.support.models import Apply, mlp
from tests.support.values import random_normal

X = random_normal(5, 4).float()


class Pair(NamedTuple):
    a: torch.Tensor
    b: torch.Tensor


class Sum(nn.Module):
    """Writes to its first input."""

    def forward(self, a, b):
        return a.add_(b)


class Stream(IterableDataset):
    def __iter__(self):
        return iter(X)


class Apply2(Apply):
    """A function of two inputs as a model."""

    def forward(self, a, b):
        return self.function(a, b)


def classifier(outputs: int = 3) -> nn.Sequential:
    return mlp(inputs=4, hidden=8, outputs=outputs)


class TestNamedTuples:
    pair = Pair(X, 2 * X)

    def test_they_keep_their_kind(self):
        doubled = map_inputs(lambda value: 2 * value, self.pair)
        assert isinstance(doubled, Pair)
        assert torch.equal(doubled.b, 4 * X)

    def test_they_are_several_inputs_and_stay_as_they_were(self):
        before = X.clone()
        assert torch.equal(classifier_logits(Sum(), self.pair, batch_size=2), 3 * before)
        assert first_nonfinite_layer(Sum(), self.pair) is None
        assert torch.equal(X, before)


class TestLoaders:
    def test_a_stream_does_not_know_its_length(self):
        streamed = classifier_logits(classifier(), DataLoader(Stream(), batch_size=2))
        assert torch.allclose(streamed, classifier_logits(classifier(), X), atol=1e-6)

    @pytest.mark.parametrize(
        "options",
        [
            {"batch_size": 2, "shuffle": True},
            {"batch_size": 2, "sampler": SubsetRandomSampler(range(5))},
            {"batch_sampler": BatchSampler(RandomSampler(range(5)), 2, drop_last=False)},
        ],
        ids=["shuffle", "sampler", "batch_sampler"],
    )
    def test_a_result_in_an_unknown_order_is_refused(self, options):
        """No row of it could be matched with its sample."""
        loader = DataLoader(TensorDataset(X), **options)
        with pytest.raises(ValueError, match="which sample a row of the result belongs to.*shuffle=False"):
            classifier_logits(classifier(), loader)
        with pytest.raises(ValueError, match="shuffle=False"):
            monte_carlo_dropout(nn.Sequential(classifier(), nn.Dropout()), loader)

    @pytest.mark.parametrize("dataset", [TensorDataset(X[:0]), []])
    def test_an_empty_one_is_refused(self, dataset):
        with pytest.raises(ValueError, match="the DataLoader is empty"):
            list(batches(DataLoader(dataset)))


class TestWhatIsNoTensor:
    def test_packed_sequences(self):
        packed = nn.utils.rnn.pack_padded_sequence(torch.zeros(2, 3, 4), [3, 1], batch_first=True)
        with pytest.raises(TypeError, match="inputs is a PackedSequence.*pass the padded tensor and the lengths"):
            classifier_logits(nn.LSTM(4, 3), packed)

    @pytest.mark.parametrize("option", [None, False, 3, "mean"])
    def test_options_among_the_inputs(self, option):
        """As `return_dict=False` of transformers."""
        with pytest.raises(TypeError, match=r"inputs\['how'\] must be a torch.Tensor.*leave it out, or hold it fixed"):
            classifier_logits(classifier(), {"input": X, "how": option})

    def test_a_sparse_adjacency_matrix_is_an_input(self):
        """Of a graph network."""
        model, edges = classifier(), torch.eye(5).roll(1, 0)
        graph = Apply2(lambda x, adjacency: model(adjacency @ x))
        expected = model(edges @ X)
        for adjacency in (edges, edges.to_sparse(), edges.to_sparse_csr()):
            assert torch.allclose(classifier_logits(graph, (X, adjacency)), expected, atol=1e-6)


class TestOneRowForEachSample:
    """A model that loses the batch axis is refused in whatever batches it runs."""

    mean = nn.Sequential(nn.Dropout(0.5), classifier(), Apply(lambda z: z.mean(0, keepdim=True)))

    @pytest.mark.parametrize("inputs", [X, DataLoader(TensorDataset(X), batch_size=2)], ids=["tensor", "loader"])
    def test_a_mean_over_the_batch(self, inputs):
        """Of a loader it gave as many rows as batches, of an ensemble one."""
        with pytest.raises(ValueError, match=r"logits \(N, C\) with N = [25]"):
            classifier_logits(self.mean, inputs)
        for call in (
            lambda: deep_ensemble([self.mean] * 2, inputs),
            lambda: deep_ensemble([self.mean] * 2, inputs, task="regression"),
            lambda: monte_carlo_dropout(self.mean, inputs),
        ):
            with pytest.raises(ValueError, match="one row for each of the [25] samples, but returned .* of shape"):
                call()

    @pytest.mark.parametrize(("outputs", "task"), [(1, "binary"), (3, "multiclass")])
    def test_squeeze_drops_a_last_batch_of_one(self, outputs, task):
        model = nn.Sequential(classifier(outputs), Apply(torch.squeeze))
        whole = classifier_logits(model, X, task=task)
        assert torch.allclose(classifier_logits(model, X[:4], task=task, batch_size=2), whole[:4], atol=1e-6)
        with pytest.raises(ValueError, match="axis of a batch of one"):
            classifier_logits(model, X, task=task, batch_size=2)
