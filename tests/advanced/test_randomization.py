"""The random-weights check: which maps it lets pass, and that the model it asks about is a copy."""

import copy

import pytest
import scipy.stats
import torch
from torch import nn
from torch.nn.utils import prune

from course_utils.advanced import grad_cam, integrated_gradients, randomization_check, saliency_map
from course_utils.advanced.randomization import _rank_correlation
from tests.support.images import classes, convolutional, images, small_classifier
from tests.support.values import NAN, random_normal


def saliency(model, x):
    return saliency_map(model, x, 0)


def test_the_order_is_cascading_and_each_step_keeps_the_one_before():
    """Seen from inside `attribute`: which layers still have the weights they came with."""
    model, x, intact = convolutional(), images(), []
    before = copy.deepcopy(model.state_dict())

    def attribute(network, inputs):
        intact.append([name for name, value in network.state_dict().items() if torch.equal(value, before[name])])
        return saliency(network, inputs)

    table = randomization_check(model, x, attribute)
    assert list(table.index) == ["5", "2", "0"]
    assert intact == [list(before), ["0.weight", "0.bias", "2.weight", "2.bias"], ["0.weight", "0.bias"], []]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_map_of_the_picture_alone_stays_the_same():
    table = randomization_check(convolutional(), images(), lambda network, x: x.abs().amax(1))
    assert table["similarity"].tolist() == pytest.approx([1, 1, 1])
    assert table["low"].tolist() == pytest.approx([1, 1, 1])


def test_a_map_of_the_weights_alone_is_forgotten(trained):
    table = randomization_check(trained.model, trained.x, lambda model, x: saliency_map(model, x, trained.y))
    assert (table["similarity"] < 0.8).all()
    assert table["similarity"].iloc[-1] < 0.5
    cam = randomization_check(trained.model, trained.x, lambda model, x: grad_cam(model, x, "10", trained.y))
    assert cam["similarity"].iloc[-1] < 0.4
    assert (cam["low"] <= cam["similarity"]).all()
    assert (cam["similarity"] <= cam["high"]).all()


def test_rank_correlation_equals_scipy():
    a, b = random_normal(6, 40), random_normal(6, 40, seed=1) + random_normal(6, 40)
    a[0], b[1] = a[0].round(), b[1].round()  # ties
    expected = [scipy.stats.spearmanr(x, y).statistic for x, y in zip(a, b, strict=True)]
    assert _rank_correlation(a, b).tolist() == pytest.approx(expected)
    assert _rank_correlation(torch.ones(1, 5).double(), b[:1, :5]).tolist() == [0]


def test_batchnorm_gets_the_statistics_of_the_features_that_are_there():
    torch.manual_seed(0)
    model, x, outputs = small_classifier().eval(), images(0, 16, dtype=torch.float32), []

    def attribute(network, inputs):
        outputs.append(network[:2](inputs))
        assert not any(part.training for part in network.modules())
        assert network[1].momentum == 0.1
        return saliency(network, inputs)

    randomization_check(model, x, attribute)
    for output in outputs[1:]:
        assert torch.allclose(output.mean((0, 2, 3)), torch.zeros(16), atol=1e-3)
        assert torch.allclose(output.std((0, 2, 3)), torch.ones(16), atol=0.05)


def test_seeds():
    one, again, other = (
        randomization_check(convolutional(), images(), saliency, seed=seed)["similarity"].tolist() for seed in (1, 1, 2)
    )
    assert one == again
    assert one != other


def test_signed_maps_of_any_shape():
    table = randomization_check(
        convolutional(), images(), lambda m, x: integrated_gradients(m, x, classes(), n_steps=4)
    )
    assert table.shape == (3, 3)


class OwnWeights(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return x * self.scale


def pruned() -> nn.Module:
    model = convolutional()
    prune.l1_unstructured(model[5], "weight", amount=0.5)
    return model


def test_the_attention_of_torch():
    torch.manual_seed(0)
    encoder = nn.TransformerEncoderLayer(8, 2, 8, batch_first=True)
    model = nn.Sequential(nn.Flatten(2), encoder, nn.Flatten(), nn.Linear(24, 3))
    x = images(0, channels=3, size=4, dtype=torch.float32)[:, :, :2]  # (5, 3, 2, 4)
    table = randomization_check(model, x, lambda network, inputs: saliency_map(network, inputs, 0))
    assert table.index[0] == "3"
    assert "1.self_attn" in table.index
    assert table["similarity"].iloc[-1] < 0.9


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (
            lambda: randomization_check(nn.Sequential(OwnWeights(), nn.Flatten()), images(), saliency),
            ValueError,
            r"0, a OwnWeights, holds weights and has no reset_parameters",
        ),
        (lambda: randomization_check(nn.Flatten(), images(), saliency), ValueError, "no weights that could be made"),
        (lambda: randomization_check(pruned(), images(), saliency), ValueError, "weight of 5, a Linear, is computed"),
        (
            lambda: randomization_check(convolutional(), images(), lambda m, x: m(x)[:2]),
            ValueError,
            r"maps \(N, …\) with N = 5",
        ),
        (lambda: randomization_check(convolutional(), images(), lambda m, x: x * NAN), ValueError, "NaN"),
        (lambda: randomization_check(len, images(), saliency), TypeError, "torch.nn.Module"),
    ],
)
def test_bad_input(call, error, words):
    with pytest.raises(error, match=words):
        call()
