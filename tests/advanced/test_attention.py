"""Rollout by hand, and what only the gradient sees."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from course_utils.advanced import attention_rollout, gradient_rollout
from tests.support.values import random_normal, seeds


def attentions(seed: int, layers: int = 3, t: int = 4) -> list[torch.Tensor]:
    return [random_normal(2, 3, t, t, seed=seed + i).softmax(-1) for i in range(layers)]


@given(seeds, st.integers(1, 4))
def test_rollout_by_hand(seed, layers):
    weights = attentions(seed, layers)
    result = attention_rollout(weights)
    for n in range(2):
        rolled = np.eye(4)
        for layer in weights:
            rolled = (0.5 * np.mean(layer[n].numpy(), 0) + 0.5 * np.eye(4)) @ rolled
        assert np.allclose(result[n], rolled)
    assert torch.allclose(result.sum(-1), torch.ones(2, 4).double())


def test_rollout_follows_a_path_through_the_layers():
    """Position 0 reads 1 in the second layer, and 1 has read 2 in the first one."""
    first, second = (torch.eye(3)[None, None].clone() for _ in range(2))
    first[0, 0, 1] = torch.tensor([0.0, 0, 1])
    second[0, 0, 0] = torch.tensor([0.0, 1, 0])
    assert attention_rollout([first, second])[0, 0].tolist() == [0.5, 0.25, 0.25]
    assert attention_rollout([second, first])[0, 0].tolist() == [0.5, 0.5, 0]


@given(seeds)
def test_gradient_rollout_by_hand(seed):
    weights, slopes = attentions(seed), [random_normal(2, 3, 4, 4, seed=seed + 9 + i) for i in range(3)]
    relevance = torch.eye(4).double().repeat(2, 1, 1)
    for a, g in zip(weights, slopes, strict=True):
        relevance = relevance + (a * g).clamp(min=0).mean(1) @ relevance
    assert torch.allclose(gradient_rollout(weights, slopes), relevance)


def test_a_head_that_the_score_does_not_use_counts_nothing():
    """Two heads read positions 1 and 2; only what the first one reads goes into the score."""
    values = torch.tensor([0.0, 3.0, 5.0])
    attention = torch.zeros(1, 2, 3, 3)
    attention[0, 0, :, 1] = 1
    attention[0, 1, :, 2] = 1
    attention.requires_grad_()
    score = (attention[0, 0, 0] * values).sum()
    gradients = torch.autograd.grad(score, [attention])
    assert gradient_rollout([attention], gradients)[0, 0].tolist() == [1, 1.5, 0]
    assert attention_rollout([attention])[0, 0].tolist() == [0.5, 0.25, 0.25]


def test_half_precision_is_rolled_in_full():
    weights = [part.bfloat16() for part in attentions(0)]
    assert attention_rollout(weights).dtype == torch.float32


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: attention_rollout([]), TypeError, "a list with a tensor"),
        (lambda: attention_rollout(attentions(0)[0]), TypeError, "a list with a tensor"),
        (lambda: attention_rollout([torch.ones(2, 4, 4)]), ValueError, r"attentions\[0\] must have 4 dimension"),
        (lambda: attention_rollout([torch.ones(1, 2, 4, 3)]), ValueError, r"\(N, heads, T, T\)"),
        (lambda: attention_rollout(attentions(0) + attentions(0, 1, 5)), ValueError, "same N and T"),
        (lambda: gradient_rollout(attentions(0), attentions(0, 2)), ValueError, "must have the attentions' shapes"),
    ],
)
def test_bad_input(call, error, words):
    with pytest.raises(error, match=words):
        call()
