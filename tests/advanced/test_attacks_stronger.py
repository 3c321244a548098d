"""PGD with other losses, targets and restarts: where the optimum is known, and never less for more."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from course_utils.advanced import pgd_attack
from course_utils.advanced.attack_losses import margin_loss
from tests.support.images import classes, convolutional, images, linear, share_right
from tests.support.values import seeds


def farthest(model: nn.Sequential, x: torch.Tensor, target: torch.Tensor, eps: float) -> torch.Tensor:
    """The largest margin that any point of the box reaches on a linear model, exactly, (N,).

    z_j − z_y is linear, so each pixel goes to the end of its interval that its weight points to.
    """
    weight, bias = model[1].weight.detach(), model[1].bias.detach()
    lower, upper = (x - eps).clamp(0, 1).flatten(1), (x + eps).clamp(0, 1).flatten(1)
    margins = []
    for j in range(len(weight)):
        difference = weight[j] - weight[target]  # (N, F)
        reached = torch.where(difference > 0, upper, lower)
        margins.append((difference * reached).sum(1) + bias[j] - bias[target])
    margins = torch.stack(margins, 1)
    return margins.scatter(1, target[:, None], -torch.inf).amax(1)


@given(seeds, st.floats(0.001, 0.3))
@settings(max_examples=25)
@pytest.mark.parametrize("loss", ["margin", "dlr"])
def test_one_restart_a_class_finds_every_error_of_a_linear_model(loss, seed, eps):
    model, x, y = linear(seed, c=5), images(seed, 12), classes(12, 5)
    y = torch.where(torch.arange(12) < 8, model(x).argmax(1), y)  # most of them right
    attacked = pgd_attack(model, x, y, eps=eps, loss=loss, targeted=True, restarts=4, steps=4, alpha=2 * eps, seed=0)
    fooled = model(attacked).argmax(1) != y
    best = farthest(model, x, y, eps)
    assert (best.abs() > 1e-9).all()  # nobody on the border
    assert torch.equal(fooled, best > 0)


def test_a_target_of_its_own_beats_the_best_other_class():
    """Class 1 is nearer, but only class 2 can be reached: the margin looks at the nearer one and gets nowhere."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(1, 4)).double()
    model[1].load_state_dict(
        {"weight": torch.tensor([[0.0], [-1.0], [5.0], [0.0]]), "bias": torch.tensor([0.0, -0.1, -3.6, -9.0])}
    )
    x, y = torch.full((1, 1), 0.5, dtype=torch.float64), torch.tensor([0])
    options = {"eps": 0.3, "steps": 5, "random_start": False, "loss": "margin"}
    assert model(pgd_attack(model, x, y, **options)).argmax(1).item() == 0
    assert model(pgd_attack(model, x, y, **options, targeted=True, restarts=2)).argmax(1).item() == 2


@given(seeds, st.sampled_from(["cross-entropy", "margin", "dlr"]), st.booleans())
@settings(max_examples=12)
def test_more_restarts_never_find_less(seed, loss, targeted):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Tanh(), nn.Flatten(), nn.Linear(216, 5)).double()
    x = images(seed, 24)
    y = model(x).argmax(1)
    options = {"eps": 0.03, "loss": loss, "targeted": targeted, "steps": 2, "seed": seed}
    attempts = [pgd_attack(model, x, y, **options, restarts=n) for n in (1, 2, 3, 5)]
    fooled = [model(attacked).argmax(1) != y for attacked in attempts]
    for fewer, more in pairwise(fooled):
        assert not (fewer & ~more).any()
    for (before, after), was in zip(pairwise(attempts), fooled[:-1], strict=True):
        assert torch.equal(before[was], after[was])  # the first attempt that fools is kept


def test_the_first_attempt_is_the_attack_without_restarts():
    model, x, y = convolutional(), images(), classes()
    one = pgd_attack(model, x, y, eps=1e-6, steps=2, seed=3)
    assert torch.equal(pgd_attack(model, x, y, eps=1e-6, steps=2, seed=3, restarts=4)[model(x).argmax(1) == y],
                       one[model(x).argmax(1) == y])  # fmt: skip


@given(seeds, st.sampled_from([torch.float64, torch.float32, torch.float16, torch.bfloat16]))
@settings(max_examples=15)
def test_never_outside_eps_and_the_bounds(seed, dtype):
    normalization = ((0.4, 0.5, 0.6), (0.2, 0.3, 0.1))
    mean, std = (torch.tensor(v, dtype=torch.float64).reshape(3, 1, 1) for v in normalization)
    pixels = images(seed, 6)
    x = ((pixels - mean) / std).to(dtype)
    pixels = x.double() * std + mean
    model = convolutional(seed).to(dtype)
    for loss in ("margin", "cross-entropy"):
        attacked = pgd_attack(
            model, x, classes(6), eps=0.1, loss=loss, targeted=True, restarts=3, steps=3, normalization=normalization
        )
        assert ((attacked.double() - x.double()) * std).abs().max() <= 0.1
        moved = attacked.double() * std + mean
        assert (moved <= pixels.clamp(min=1)).all()
        assert (moved >= pixels.clamp(max=0)).all()


def test_e54_the_margin_does_not_saturate():
    """A model so sure that cross-entropy has no gradient left."""
    model = linear(c=4, scale=1e6)
    x = images(0, 40)
    y = model(x).argmax(1)
    for loss in ("cross-entropy", "margin", "dlr"):
        assert share_right(model, pgd_attack(model, x, y, eps=0.3, loss=loss, seed=0), y) < 0.1


def test_nearly_as_strong_as_torchattacks_targeted_apgd(torchattacks, trained):
    """The library's steps adapt their size and have momentum: it finds a few errors of a hundred more."""
    right = trained.model(trained.x).argmax(1) == trained.y
    x, y = trained.x[right], trained.y[right]
    eps = 3 / 255
    theirs = torchattacks.APGDT(trained.model, eps=eps, steps=20, n_restarts=1, n_classes=3, seed=0)
    theirs.dlr_loss_targeted = margin_loss  # three classes are too few for a targeted DLR
    found = theirs(x, y)
    assert (found - x).abs().max() < eps + 1e-6
    options = {"eps": eps, "steps": 20, "seed": 0}
    ours = pgd_attack(trained.model, x, y, **options, loss="margin", targeted=True, restarts=2)
    assert share_right(trained.model, ours, y) <= share_right(trained.model, found, y) + 4 / len(y)
    assert share_right(trained.model, ours, y) <= share_right(
        trained.model, pgd_attack(trained.model, x, y, **options), y
    )


def test_half_of_a_restart_is_spared():
    """Only samples that stand are attacked again."""
    model, x, seen = linear(c=4, scale=1e3), images(0, 30), []
    y = model(x).argmax(1)
    y[:20] = (y[:20] + 1) % 4  # wrong before any attack
    handle = model.register_forward_hook(lambda module, args, output: seen.append(len(output)))
    pgd_attack(model, x, y, eps=1e-9, steps=2, restarts=2, seed=0)
    handle.remove()
    assert seen == [30, 30, 30, 10, 10, 10]


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"loss": "ce"}, ValueError, "loss must be one of 'cross-entropy', 'margin', 'dlr'"),
        ({"restarts": 0}, ValueError, "restarts must be at least 1"),
        ({"restarts": 2.0}, TypeError, "restarts must be an int"),
        ({"restarts": 2, "random_start": False}, ValueError, "each restart takes the same path"),
        ({"loss": "dlr", "targeted": True}, ValueError, "needs at least 4 classes"),
    ],
)
def test_bad_options(options, error, words):
    with pytest.raises(error, match=words):
        pgd_attack(linear(), images(), classes(), eps=0.1, **options)
