"""HiResCAM: what it is by hand, where it equals Grad-CAM, and where only it is right."""

import pytest
import torch
from hypothesis import given, settings
from torch import nn

from course_utils.advanced import grad_cam
from tests.support.images import classes, convolutional, images
from tests.support.values import seeds


def scaled(maps: torch.Tensor) -> torch.Tensor:
    return maps / maps.amax((1, 2), keepdim=True).clamp(min=1e-300)


@given(seeds)
@settings(max_examples=15)
def test_equals_grad_cam_before_a_mean_and_a_linear_layer(seed):
    torch.manual_seed(seed)
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3))
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), head).double()
    plain, hires = (grad_cam(model, images(seed), "1", classes(), method=method) for method in ("grad-cam", "hires"))
    assert torch.allclose(plain, hires)


@given(seeds)
@settings(max_examples=15)
def test_before_a_linear_layer_it_is_each_positions_part_of_the_logit(seed):
    """Draelos & Carin: flattened maps and one linear layer, so Σ_k w_k A_k is what each position gives."""
    model, x, y = convolutional(seed), images(seed), classes()
    with torch.no_grad():
        maps = model[:4](x)  # (N, 4, 4, 4)
        parts = (model[5].weight[y].reshape(5, 4, 4, 4) * maps).sum(1)
        logits = model(x).gather(1, y[:, None])[:, 0]
    assert torch.allclose(parts.sum((1, 2)) + model[5].bias[y], logits)
    result = grad_cam(model, x, "3", y, upsample=False, method="hires")
    assert torch.allclose(result, scaled(parts.clamp(min=0)))
    assert not torch.allclose(result, grad_cam(model, x, "3", y, upsample=False))


def test_behind_a_maximum_only_hires_shows_what_was_read():
    """The score is the maximum of a map: one position decides, and the mean gradient spreads it over all."""
    model = nn.Sequential(
        nn.Conv2d(1, 1, 1, bias=False), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(1, 2)
    ).double()
    with torch.no_grad():
        model[0].weight.fill_(1)
        model[3].weight.copy_(torch.tensor([[0.0], [1.0]]))
    x = images(channels=1)
    hires, plain = (grad_cam(model, x, "0", 1, upsample=False, method=method) for method in ("hires", "grad-cam"))
    assert (hires > 0).sum((1, 2)).tolist() == [1] * 5
    assert torch.equal(hires.flatten(1).argmax(1), x.flatten(1).argmax(1))
    assert torch.allclose(plain, scaled(x[:, 0]))


def test_an_unknown_method():
    with pytest.raises(ValueError, match="method must be one of 'grad-cam', 'hires'"):
        grad_cam(convolutional(), images(), "3", method="hirescam")
