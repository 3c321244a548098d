"""Evaluation mode for a while, and the tensor in a model's answer."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from course_utils.foundation.evaluation import evaluation_mode, output_tensor


class TestEvaluation:
    def test_modes_come_back_one_by_one(self, stateful_model):
        modes = [module.training for module in stateful_model.modules()]
        with evaluation_mode(stateful_model):
            assert not any(module.training for module in stateful_model.modules())
        assert [module.training for module in stateful_model.modules()] == modes

    def test_modes_come_back_after_an_exception(self, stateful_model):
        modes = [module.training for module in stateful_model.modules()]
        with pytest.raises(RuntimeError), evaluation_mode(stateful_model):
            raise RuntimeError
        assert [module.training for module in stateful_model.modules()] == modes

    def test_not_a_module(self):
        with pytest.raises(TypeError, match="must be a torch"), evaluation_mode(lambda x: x):
            pass

    def test_e19_objects_with_logits_are_read_and_others_named(self):
        logits = torch.zeros(2, 3)
        assert output_tensor(SimpleNamespace(logits=logits)) is logits
        with pytest.raises(TypeError, match="a tuple of length 2"):
            output_tensor((logits, logits))
        with pytest.raises(TypeError, match=r"keys \['out'\]"):
            output_tensor({"out": logits})


def test_module_is_not_copied(stateful_model):
    with evaluation_mode(stateful_model) as same:
        assert same is stateful_model
    assert isinstance(same, nn.Module)
