"""The losses that attacks climb, against torchattacks and by hand."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from course_utils.advanced.attack_losses import Objective, dlr_loss, likely_others, margin_loss
from tests.support.images import classes
from tests.support.values import random_normal, seeds

INF = float("inf")


@given(seeds, st.integers(2, 6))
def test_margin_by_brute_force(seed, c):
    logits, target = random_normal(7, c, seed=seed), classes(7, c)
    rows = zip(logits.tolist(), target.tolist(), strict=True)
    expected = [max(z for j, z in enumerate(row) if j != y) - row[y] for row, y in rows]
    assert margin_loss(logits, target).tolist() == pytest.approx(expected)
    assert torch.equal(margin_loss(logits, target) > 0, logits.argmax(1) != target)


@given(seeds, st.integers(3, 6))
def test_dlr_equals_torchattacks(torchattacks, seed, c):
    logits, target = random_normal(7, c, seed=seed), classes(7, c)
    oracle = torchattacks.APGD(nn.Identity()).dlr_loss(logits, target)
    assert torch.allclose(dlr_loss(logits, target), oracle, atol=1e-9)
    if c >= 4:
        goal = (target + 1) % c
        oracle = torchattacks.APGDT(nn.Identity()).dlr_loss_targeted(logits, target, goal)
        assert torch.allclose(dlr_loss(logits, target, goal), oracle, atol=1e-9)


@given(seeds, st.floats(0.01, 1e4), st.floats(-50, 50))
def test_neither_a_factor_nor_a_constant_changes_dlr(seed, factor, constant):
    logits, target, goal = random_normal(7, 5, seed=seed), classes(7, 5), classes(7, 4)
    moved = factor * logits + constant
    assert torch.allclose(dlr_loss(moved, target), dlr_loss(logits, target), atol=1e-6)
    assert torch.allclose(dlr_loss(moved, target, goal), dlr_loss(logits, target, goal), atol=1e-6)
    assert torch.allclose(margin_loss(moved, target), factor * margin_loss(logits, target), rtol=1e-6, atol=1e-9)


def test_equal_logits_give_no_nan():
    logits = torch.full((2, 5), 3.0, requires_grad=True)
    for goal in (None, torch.tensor([1, 2])):
        loss = dlr_loss(logits, torch.tensor([0, 0]), goal)
        assert loss.tolist() == [0, 0]
        assert torch.autograd.grad(loss.sum(), logits)[0].isfinite().all()


def test_the_likeliest_wrong_classes_in_turn():
    logits = torch.tensor([[5.0, 1, 3, 2], [0, 1, -INF, 2]])
    target = torch.tensor([0, 3])
    ranked = [likely_others(logits, target, rank).tolist() for rank in range(4)]
    assert ranked == [[2, 1], [3, 0], [1, 1], [2, 0]]  # three others and two: a masked class is nobody's goal


def test_a_goal_counts_alone():
    logits = torch.tensor([[5.0, 1, 3, 2]])
    target, goal = torch.tensor([0]), torch.tensor([1])
    assert Objective("margin", target, goal)(logits).tolist() == [-4]
    assert Objective("margin", target)(logits).tolist() == [-2]
    assert Objective("dlr", target, goal)(logits).tolist() == pytest.approx([-4 / 3.5])
    climbed = Objective("cross-entropy", target, goal)(logits)
    assert torch.allclose(nn.functional.softplus(-climbed), nn.functional.cross_entropy(logits, goal))


@pytest.mark.parametrize(
    ("logits", "goal", "words"),
    [
        (torch.zeros(1, 2), None, "'dlr' needs at least 3 classes with finite logits; use 'margin'"),
        (torch.zeros(1, 3), torch.tensor([1]), "'dlr' of a targeted attack needs at least 4 classes"),
        (torch.tensor([[1.0, 0, -INF]]), None, "needs at least 3 classes with finite"),
    ],
)
def test_dlr_needs_classes(logits, goal, words):
    with pytest.raises(ValueError, match=words):
        dlr_loss(logits, torch.tensor([0]), goal)
