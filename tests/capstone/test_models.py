"""The two networks of chapter 6."""

import pytest
import torch
from torch import nn

from course_utils.advanced import grad_cam
from course_utils.capstone import FastClassifier, ImageClassifier


class TestModels:
    @pytest.mark.parametrize("make", [ImageClassifier, FastClassifier])
    def test_models(self, make):
        model = make(7)
        assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 7)
        assert dict(model.named_modules())[model.cam_layer] is not None
        assert {"mean", "std"} <= set(model.state_dict())
        with pytest.raises(ValueError, match="num_classes"):
            make(1)

    def test_grad_cam_of_the_fast_classifier_is_the_class_activation_map(self):
        """At its `cam_layer` the gradient's mean is the linear layer's weight, up to a factor (Zhou et al. 2016)."""
        torch.manual_seed(0)
        model, x = FastClassifier(3, widths=(8, 8, 8)).eval(), torch.randn(4, 3, 32, 32)
        with torch.no_grad():
            maps = model.features(model.whitening(x))  # (N, 8, 3, 3)
        predicted = model(x).argmax(1)
        expected = torch.einsum("nc,nchw->nhw", model.head.weight[predicted].detach(), maps).relu()
        cam = grad_cam(model, x, model.cam_layer, predicted, upsample=False)
        assert cam.shape == (4, 3, 3)
        assert torch.allclose(cam, expected / expected.amax((1, 2), keepdim=True), atol=1e-5)

    def test_image_classifier_is_the_tutorials(self):
        model = ImageClassifier()
        convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
        assert [(m.out_channels, m.kernel_size) for m in convolutions] == [(32, (3, 3)), (64, (3, 3)), (128, (3, 3))]
        assert [m.out_features for m in model.modules() if isinstance(m, nn.Linear)] == [256, 10]
        assert [m.p for m in model.modules() if isinstance(m, nn.Dropout)] == [0.5]
