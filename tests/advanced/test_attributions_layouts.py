"""Grad-CAM of layers whose channels come last, of tokens, and of maps with a single position."""

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from course_utils.advanced import grad_cam
from tests.support.images import classes, images
from tests.support.models import Function


def channels_first(maps: torch.Tensor) -> torch.Tensor:
    return maps.permute(0, 3, 1, 2)


class LastNorm(nn.Module):
    """A convolution, and a LayerNorm over its channels, which come last: (N, h, w, channels)."""

    def __init__(self, channels: int = 6) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.relu = nn.Conv2d(3, channels, 3, stride=2, padding=1), nn.ReLU()
        self.norm, self.fc = nn.LayerNorm(channels), nn.Linear(channels, 3)
        self.double()

    def forward(self, x):
        return self.fc(self.relu(self.norm(self.conv(x).permute(0, 2, 3, 1))).mean((1, 2)))


class Tokens(nn.Module):
    """A small vision transformer: a class token, 4 × 4 patches, one layer of attention."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patches, self.first = nn.Conv2d(3, 8, 2, stride=2), nn.Parameter(torch.randn(1, 1, 8))
        self.before = nn.LayerNorm(8)
        self.attention, self.after = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), nn.LayerNorm(8)
        self.fc = nn.Linear(8, 3)
        self.double()

    def forward(self, x):
        tokens = self.patches(x).flatten(2).transpose(1, 2)  # (N, 16, 8)
        tokens = torch.cat([self.first.expand(len(x), -1, -1), tokens], 1)
        return self.fc(self.after(self.attention(self.before(tokens)))[:, 0])


def by_hand(model: nn.Module, x: torch.Tensor, layer: nn.Module, target: torch.Tensor, reshape) -> torch.Tensor:
    """Grad-CAM without upsampling, from a hook."""
    kept = []
    handle = layer.register_forward_hook(lambda module, args, output: kept.append(output))
    score = model.eval()(x).gather(1, target[:, None]).sum()
    handle.remove()
    gradient = torch.autograd.grad(score, kept[0])[0]
    maps, weights = reshape(kept[0].detach()), reshape(gradient).mean((2, 3), keepdim=True)
    cam = F.relu((weights * maps).sum(1))
    largest = cam.amax((1, 2), keepdim=True)
    return cam / torch.where(largest > 0, largest, 1.0)


class TestGradCamLayouts:
    """F3: where the channels are is asked for, not guessed."""

    @pytest.mark.parametrize("channels", [6, 4])
    def test_f3_channels_last_need_reshape(self, channels):
        """With 4 channels of 4 × 4 positions, the shape tells nothing."""
        model, x, y = LastNorm(channels), images(), classes()
        for layer in ("norm", "relu"):
            with pytest.raises(ValueError, match=r"channels last; if they are, pass reshape=lambda maps: maps.permute"):
                grad_cam(model, x, layer, y)
            result = grad_cam(model, x, layer, y, upsample=False, reshape=channels_first)
            expected = by_hand(model, x, model.get_submodule(layer), y, channels_first)
            assert torch.allclose(result, expected)
            assert grad_cam(model, x, layer, y, reshape=channels_first).shape == (5, 8, 8)
        plain = grad_cam(model, x, "conv", y)  # a convolution is channels first, whatever stands around it
        assert torch.equal(grad_cam(model, x, "conv", y, reshape=lambda maps: maps), plain)

    def test_f3_swin_of_torchvision(self):
        torch.manual_seed(0)
        model, x = torchvision.models.swin_t(weights=None, num_classes=5).eval(), images(0, 2, 3, 64, torch.float32)
        with pytest.raises(ValueError, match=r"\(2, 2, 2, 768\), which may have its channels last"):
            grad_cam(model, x, "features")
        result = grad_cam(model, x, "features", classes(2), upsample=False, reshape=channels_first)
        assert result.shape == (2, 2, 2)
        assert torch.allclose(result, by_hand(model, x, model.features, classes(2), channels_first), atol=1e-5)

    def test_f3_tokens_get_the_reshape_that_fits(self):
        model, x, y = Tokens(), images(), classes()
        with pytest.raises(ValueError, match="if these are tokens") as caught:
            grad_cam(model, x, "before", y)
        advice = str(caught.value).partition("pass reshape=")[2]
        assert advice == "lambda tokens: tokens[:, 1:].unflatten(1, (4, 4)).permute(0, 3, 1, 2)"
        reshape = eval(advice)
        result = grad_cam(model, x, "before", y, upsample=False, reshape=reshape)
        assert result.shape == (5, 4, 4)
        assert torch.allclose(result, by_hand(model, x, model.before, y, reshape))
        assert result.amax((1, 2)).max() == 1
        with pytest.raises(ValueError, match="choose a layer before the last attention"):
            grad_cam(model, x, "after", y, reshape=reshape)  # only the class token counts behind it

    def test_f3_a_single_position_says_nothing(self, trained):
        """All ones, in silence: the layer behind the global pooling."""
        with pytest.raises(ValueError, match=r"a single position, \(96, 32, 1, 1\).*before the pooling"):
            grad_cam(trained.model, trained.x, "11")

    @pytest.mark.parametrize(("height", "width"), [(8, 8), (16, 8), (9, 14), (40, 24)])
    @pytest.mark.parametrize("channels", [2, 4, 8])
    def test_f3_networks_of_convolutions_need_no_reshape(self, height, width, channels):
        """Also where channels, rows and columns are equally many, and where borders are lost."""
        torch.manual_seed(0)
        model = nn.Sequential(
            *(
                nn.Conv2d(3, channels, 3),
                nn.ReLU(),
                nn.Conv2d(channels, channels, 3, stride=2),
                nn.BatchNorm2d(channels),
            ),
            *(nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 3)),
        )
        x = torch.rand(2, 3, height, width)
        for layer in "01234":
            assert grad_cam(model, x, layer, 0).shape == (2, height, width)

    @pytest.mark.parametrize(
        "reshape",
        [
            lambda maps: maps[:, 0],
            lambda maps: None,
            lambda maps: maps[:2].permute(0, 3, 1, 2),
            lambda maps: maps.flatten(),
        ],
    )
    def test_f3_a_reshape_that_makes_no_feature_maps(self, reshape):
        with pytest.raises(ValueError, match=r"reshape must return feature maps \(N, channels, h, w\) with N = 5"):
            grad_cam(LastNorm(), images(), "norm", reshape=reshape)

    def test_f3_a_layer_that_returns_several(self):
        model = nn.Sequential(nn.Conv2d(3, 4, 3), Function(lambda z: (z, z)), Function(lambda z: z[0].mean((2, 3))))
        for options in ({}, {"reshape": channels_first}):
            with pytest.raises(ValueError, match="tuple of length 2"):
                grad_cam(model, images(dtype=torch.float32), "1", **options)
