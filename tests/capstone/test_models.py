"""The two networks of chapter 6."""

import pytest
import torch
from torch import nn

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

    def test_image_classifier_is_the_tutorials(self):
        model = ImageClassifier()
        convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
        assert [(m.out_channels, m.kernel_size) for m in convolutions] == [(32, (3, 3)), (64, (3, 3)), (128, (3, 3))]
        assert [m.out_features for m in model.modules() if isinstance(m, nn.Linear)] == [256, 10]
        assert [m.p for m in model.modules() if isinstance(m, nn.Dropout)] == [0.5]
