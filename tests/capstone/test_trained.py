"""The course's own model gives the answers that were recorded."""

import os

import pytest
import torch

from course_utils import capstone
from course_utils.capstone import load_cifar10, predict_logits


class TestTheCoursesOwnModel:
    @pytest.mark.cifar10
    @pytest.mark.skipif("COURSE_DATA_DIR" not in os.environ, reason="needs the real CIFAR-10 in COURSE_DATA_DIR")
    def test_the_weights_give_the_recorded_answers_on_the_real_images(self):
        cifar, recorded = load_cifar10(source="cifar10"), capstone.load_recorded_outputs()
        assert torch.equal(cifar.test.target, recorded.test_target)
        assert torch.equal(cifar.validation.target, recorded.validation_target)
        logits = predict_logits(capstone.load_trained_model(), cifar.test.images[:500])
        # Recorded in half precision, on a machine that may round otherwise.
        torch.testing.assert_close(logits, recorded.test_logits[:500], atol=0.02, rtol=0.01)
        assert (logits.argmax(1) == cifar.test.target[:500]).double().mean() > 0.88
