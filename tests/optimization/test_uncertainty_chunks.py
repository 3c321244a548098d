"""`monte_carlo_dropout` in chunks of samples: less memory, the same distribution."""

import pytest
import torch
from torch import nn

from course_utils.optimization import monte_carlo_dropout


class WithLSTM(nn.Module):
    """A layer that cannot be vmapped, so the samples are computed one after the other."""

    def __init__(self):
        super().__init__()
        self.lstm, self.dropout, self.head = nn.LSTM(3, 4, batch_first=True), nn.Dropout(0.5), nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.dropout(self.lstm(x)[0][:, -1]))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Dropout(0.4), nn.Linear(8, 4), nn.Dropout(0.2))


INPUTS = torch.randn(6, 3, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("task", ["multiclass", "multilabel", "regression"])
@pytest.mark.parametrize("chunk_size", [1, 3, 7, 10, 100])
def test_any_chunk_size_gives_all_samples(task, chunk_size):
    result = monte_carlo_dropout(network(), INPUTS, n_samples=10, task=task, seed=0, chunk_size=chunk_size)
    assert result.samples.shape == (10, 6, 4)
    assert len({tuple(sample.flatten().tolist()) for sample in result.samples}) == 10  # no two chunks share masks
    assert torch.equal(result.mean, result.samples.mean(0))


def test_the_same_seed_and_chunk_size_give_the_same_samples():
    first, second = (monte_carlo_dropout(network(), INPUTS, seed=3, chunk_size=8).samples for _ in range(2))
    assert torch.equal(first, second)


def test_one_chunk_of_all_samples_is_no_chunk():
    whole = monte_carlo_dropout(network(), INPUTS, n_samples=10, seed=3)
    for chunk_size in (10, 11):
        chunked = monte_carlo_dropout(network(), INPUTS, n_samples=10, seed=3, chunk_size=chunk_size)
        assert torch.equal(chunked.samples, whole.samples)


def test_mean_and_variance_do_not_depend_on_the_chunks():
    """A linear layer after dropout: the variance is p/(1−p)·Σ (w x)²."""
    layer = nn.Linear(3, 1, bias=False)
    model = nn.Sequential(nn.Dropout(0.25), layer)
    expected = ((layer.weight[0] * INPUTS) ** 2).sum(1).detach() / 3
    for chunk_size in (None, 1, 64):
        result = monte_carlo_dropout(model, INPUTS, n_samples=4000, task="regression", seed=0, chunk_size=chunk_size)
        # A sample variance of n values has a relative standard error of at most √(2/n) here, 2 %.
        assert torch.allclose(result.variance[:, 0], expected, rtol=0.12)
        assert torch.allclose(result.mean, layer(INPUTS).detach(), atol=5 * float(expected.max() / 4000) ** 0.5)


def test_models_that_cannot_be_vmapped_take_a_chunk_size_too():
    x = torch.randn(5, 7, 3)
    samples = monte_carlo_dropout(WithLSTM(), x, n_samples=4, seed=0, chunk_size=2).samples
    assert samples.shape == (4, 5, 2)


def test_a_chunk_takes_less_memory():
    """Q27, counted by the allocator: what lies after the dropout exists once for each sample of a chunk."""
    model = nn.Sequential(nn.Linear(3, 512), nn.Dropout(0.5), nn.Linear(512, 2))
    largest = {}
    for chunk_size in (None, 2):
        with torch.profiler.profile(profile_memory=True) as profile:
            monte_carlo_dropout(model, INPUTS, n_samples=40, seed=0, chunk_size=chunk_size)
        largest[chunk_size] = max(event.self_cpu_memory_usage for event in profile.events())
    assert largest[None] >= 40 * 6 * 512 * 4
    assert largest[2] <= 2 * 2 * 6 * 512 * 4


@pytest.mark.parametrize(
    ("chunk_size", "error", "words"),
    [
        (0, ValueError, "chunk_size must be at least 1"),
        (2.0, TypeError, "chunk_size must be an int"),
        (True, TypeError, "chunk_size must be an int"),
    ],
)
def test_bad_chunk_sizes(chunk_size, error, words):
    with pytest.raises(error, match=words):
        monte_carlo_dropout(network(), INPUTS, chunk_size=chunk_size)
