"""Square: within its box to the last bit, as the paper's algorithm has it, and as good as the library's."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from course_utils.advanced import pgd_attack, square_attack
from course_utils.advanced.square import _side, _squares
from tests.advanced.test_attacks_stronger import farthest
from tests.support.images import classes, convolutional, images, linear, share_right
from tests.support.models import Function
from tests.support.values import DTYPES, NAN, seeds


@given(seeds, st.sampled_from(DTYPES), st.sampled_from([0, 1e-7, 8 / 255, 0.3]))
@settings(max_examples=30)
def test_never_outside_eps_and_the_bounds(seed, dtype, eps):
    normalization = ((0.4, 0.5, 0.6), (0.2, 0.3, 0.1))
    mean, std = (torch.tensor(v, dtype=torch.float64).reshape(3, 1, 1) for v in normalization)
    x = ((images(seed, 4) - mean) / std).to(dtype)
    pixels = x.double() * std + mean
    attacked = square_attack(
        convolutional(seed).to(dtype), x, classes(4), eps=eps, n_queries=6, normalization=normalization, seed=seed
    )
    assert attacked.dtype == dtype
    assert ((attacked.double() - x.double()) * std).abs().max() <= eps
    moved = attacked.double() * std + mean
    assert (moved <= pixels.clamp(min=1)).all()
    assert (moved >= pixels.clamp(max=0)).all()
    if eps == 0:
        assert torch.equal(attacked, x)


@given(seeds)
@settings(max_examples=10)
def test_never_beyond_the_best_point_of_a_linear_model(seed):
    model, x = linear(seed, features=12, c=4), images(seed, 20, size=2)
    y = model(x).argmax(1)
    best = farthest(model, x, y, 0.1)
    fooled = model(square_attack(model, x, y, eps=0.1, n_queries=400, seed=seed)).argmax(1) != y
    assert not (fooled & (best <= 1e-9)).any()
    missed = (best > 0.02) & ~fooled
    assert missed.sum() <= 1  # of 2^12 corners it finds nearly all that matter


def test_it_starts_with_stripes_and_squares_come_after():
    x, y = torch.full((3, 3, 8, 8), 0.5, dtype=torch.float64), torch.zeros(3, dtype=torch.int64)
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 2)).double()
    with torch.no_grad():
        model[1].weight.zero_()
        model[1].bias.copy_(torch.tensor([1.0, 0.0]))  # nothing helps, so nothing is kept
    change = square_attack(model, x, y, eps=0.125, n_queries=20, seed=0) - x
    assert torch.equal(change.abs(), torch.full_like(change, 0.125))
    assert torch.equal(change, change[:, :, :1].expand_as(change))  # the same in each row
    assert len({tuple(part.flatten().tolist()) for part in change[:, 0, 0]}) == 3


@given(seeds, st.integers(1, 5), st.integers(5, 7), st.integers(5, 9))
def test_squares_lie_inside_and_everywhere(seed, side, height, width):
    squares = _squares(300, side, height, width, torch.Generator().manual_seed(seed))
    assert squares.shape == (300, 1, height, width)
    assert (squares.sum((1, 2, 3)) == side**2).all()
    assert squares.any(0).all()  # the last row and column too


def test_the_schedule_is_the_papers():
    """p is halved at 10, 50, 200, 500, 1000, 2000, 4000, 6000 and 8000 of 10,000 queries."""
    queries = (10, 11, 51, 201, 501, 1001, 2001, 4001, 6001, 8001)
    areas = [_side(query / 10_000, 0.8, 1000, 1000) ** 2 for query in queries]
    assert areas == pytest.approx([800_000 / 2**i for i in range(10)], rel=0.03)
    assert _side(1.0, 0.05, 4, 4) == 1
    assert _side(0.0, 1.0, 4, 9) == 4


def test_as_strong_as_torchattacks(torchattacks, trained):
    right = trained.model(trained.x).argmax(1) == trained.y
    x, y = trained.x[right], trained.y[right]
    oracle = torchattacks.Square(trained.model, eps=6 / 255, n_queries=150, n_restarts=1, seed=0, p_init=0.8)
    theirs = share_right(trained.model, oracle(x, y), y)
    ours = share_right(trained.model, square_attack(trained.model, x, y, eps=6 / 255, n_queries=150, seed=0), y)
    assert theirs < 0.9
    assert ours == pytest.approx(theirs, abs=0.12)


def test_hidden_gradients_do_not_stop_it(trained):
    """A model that rounds its inputs has no gradient: PGD stands still and warns, Square does not need one."""
    rounded = nn.Sequential(Function(lambda x: (x * 32).round() / 32 + 0 * x), trained.model).eval()
    right = rounded(trained.x).argmax(1) == trained.y
    x, y = trained.x[right], trained.y[right]
    with pytest.warns(UserWarning, match="use an attack that needs no gradient"):
        pgd = pgd_attack(rounded, x, y, eps=8 / 255, seed=0)
    square = square_attack(rounded, x, y, eps=8 / 255, n_queries=100, seed=0)
    assert share_right(rounded, square, y) < share_right(rounded, pgd, y) - 0.1


def test_whoever_has_fallen_is_asked_no_more():
    model, x, seen = linear(c=4, scale=1e3), images(0, 30), []
    y = model(x).argmax(1)
    y[:20] = (y[:20] + 1) % 4
    handle = model.register_forward_hook(lambda module, args, output: seen.append(len(output)))
    square_attack(model, x, y, eps=1e-9, n_queries=3, seed=0)
    handle.remove()
    assert seen == [30, 10, 10]


def test_seeds_and_binary_models():
    model, x, y = convolutional(), images(), classes()
    first, again, other = (square_attack(model, x, y, eps=0.1, n_queries=5, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    binary = linear(c=1, scale=3.0)
    right = (binary(x)[:, 0] >= 0).long()
    attacked = square_attack(binary, x, right, eps=0.5, n_queries=300, task="binary", seed=0)
    assert ((binary(attacked)[:, 0] >= 0).long() != right).any()


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: square_attack(linear(), images().flatten(1), classes(), eps=0.1), ValueError, "4 dimension"),
        (lambda: square_attack(linear(), images(), classes(), eps=-0.1), ValueError, "eps must not be negative"),
        (lambda: square_attack(linear(), images() + 1, classes(), eps=0.1), ValueError, "must lie in the bounds"),
        (lambda: square_attack(linear(), images(), classes(), eps=0.1, n_queries=0), ValueError, "at least 1"),
        (lambda: square_attack(linear(), images(), classes(), eps=0.1, p_init=2), ValueError, "p_init must lie in"),
        (lambda: square_attack(linear(), images(), None, eps=0.1), TypeError, "target must be the true classes"),
        (lambda: square_attack(linear(), images(), classes() + 5, eps=0.1), ValueError, "0 to 2"),
        (lambda: square_attack(linear(), images() * NAN, classes(), eps=0.1), ValueError, "NaN"),
    ],
)
def test_bad_input(call, error, words):
    with pytest.raises(error, match=words):
        call()
