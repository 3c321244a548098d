"""The loop that the lessons share."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from course_utils.data import load_split
from course_utils.foundation.training import OPTIMIZERS, fit
from course_utils.iris import MLP
from course_utils.optimization import MultiClassClassificationModel


@pytest.fixture(scope="module")
def iris():
    return load_split("iris")


def fresh(seed: int = 0, **options) -> MLP:
    torch.manual_seed(seed)
    return MLP(**options)


def test_one_step_of_sgd_equals_the_step_by_hand(iris):
    model, by_hand = fresh(), fresh()
    state = torch.get_rng_state()
    fit(model, iris.x_train, iris.y_train, loss=F.cross_entropy, steps=1, lr=0.5, optimizer="sgd", seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    rows = torch.randint(len(iris.x_train), (64,), generator=torch.Generator().manual_seed(3))
    F.cross_entropy(by_hand(iris.x_train[rows]), iris.y_train[rows]).backward()
    for got, parameter in zip(model.parameters(), by_hand.parameters(), strict=True):
        assert torch.allclose(got, parameter - 0.5 * parameter.grad, atol=1e-7)
        assert got.grad is None


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("one_cycle", [False, True])
def test_learns_iris_and_repeats_itself(iris, optimizer, one_cycle):
    options = {"steps": 300, "lr": {"sgd": 0.3}.get(optimizer, 0.02), "optimizer": optimizer, "one_cycle": one_cycle}
    models = [fit(fresh(dropout=0.1), iris.x_train, iris.y_train, loss=F.cross_entropy, **options) for _ in range(2)]
    first, second = (model(iris.x_test) for model in models)
    assert torch.equal(first, second)
    assert not models[0].training
    assert (first.argmax(1) == iris.y_test).float().mean() > 0.85


def test_a_model_may_bring_its_own_loss(iris):
    torch.manual_seed(0)
    own = MultiClassClassificationModel(4, 3)
    torch.manual_seed(0)
    given = MultiClassClassificationModel(4, 3)
    fit(own, iris.x_train, iris.y_train, steps=20)
    fit(given, iris.x_train, iris.y_train, loss=F.cross_entropy, steps=20)
    assert all(torch.equal(a, b) for a, b in zip(own.parameters(), given.parameters(), strict=True))


def test_several_targets_reach_the_loss_in_their_order(iris):
    seen = []

    def loss(outputs, labels, weights):
        seen.append((labels.dtype, weights.dtype, len(outputs), len(labels), len(weights)))
        return F.cross_entropy(outputs, labels)

    fit(fresh(), iris.x_train, iris.y_train, torch.ones(len(iris.y_train)), loss=loss, steps=2, batch_size=5)
    assert seen == [(torch.int64, torch.float32, 5, 5, 5)] * 2


def test_a_model_in_evaluation_mode_is_trained_in_train_mode(iris):
    model = fresh(dropout=0.5).eval()
    modes = []
    model.dropout.register_forward_hook(lambda module, *_: modes.append(module.training))
    fit(model, iris.x_train, iris.y_train, loss=F.cross_entropy, steps=2)
    assert modes == [True, True]


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"steps": 0}, ValueError, "steps"),
        ({"lr": -1.0}, ValueError, "lr"),
        ({"batch_size": 2.0}, TypeError, "batch_size"),
        ({"optimizer": "lion"}, ValueError, "'sgd', 'adam', 'adamw'"),
        ({"loss": None}, ValueError, "there is no loss"),
        ({"lr": 1e30, "optimizer": "sgd"}, FloatingPointError, "smaller lr"),
    ],
)
def test_bad_input(iris, change, error, words):
    with pytest.raises(error, match=words):
        fit(fresh(), iris.x_train, iris.y_train, **({"loss": F.cross_entropy, "steps": 60} | change))


def test_other_lengths_and_types_are_refused(iris):
    with pytest.raises(ValueError, match="target 1 must have one row for each of the 120 samples, but has 30"):
        fit(fresh(), iris.x_train, iris.y_test, loss=F.cross_entropy, steps=1)
    with pytest.raises(TypeError, match="target 1"):
        fit(fresh(), iris.x_train, iris.y_train.tolist(), loss=F.cross_entropy, steps=1)
    with pytest.raises(TypeError, match="model"):
        fit(nn.Linear, iris.x_train, iris.y_train, loss=F.cross_entropy, steps=1)
