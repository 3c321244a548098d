"""Evaluation mode for a while, and the tensor in a model's answer."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from course_utils.foundation.evaluation import evaluation_mode, output_tensor, reading, training_mode


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


class TestReadingLeavesNoTrace:
    def test_q11_an_embedding_with_max_norm_is_not_shortened(self):
        model = nn.Sequential(nn.Embedding(4, 3, max_norm=1.0))
        with torch.no_grad():
            model[0].weight.fill_(2.0)
        with reading(model) as same:
            same(torch.arange(4))
            assert (model[0].weight.norm(dim=1) <= 1).all()  # torch shortens the weights themselves, in eval mode too
        assert (model[0].weight == 2).all()

    def test_f12_tensors_in_plain_attributes_are_put_back(self):
        class Remembers(nn.Linear):
            def forward(self, x):
                self.first.add_(1)
                self.last = super().forward(x)
                return self.last

        model = nn.Sequential(Remembers(2, 2))
        model[0].first = torch.zeros(3)
        first = model[0].first
        with reading(model) as same:
            same(torch.ones(1, 2))
            assert hasattr(model[0], "last")
        assert not hasattr(model[0], "last")
        assert model[0].first is first
        assert (first == 0).all()

    def test_f12_the_weight_of_a_pruned_layer_is_the_same_object(self):
        model = nn.Sequential(nn.Linear(3, 2))
        prune.l1_unstructured(model[0], "weight", amount=2)
        weight = model[0].weight
        with reading(model) as same, torch.no_grad():
            same(torch.ones(1, 3))
        assert model[0].weight is weight


class TestTrainingMode:
    @pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
    def test_p29_gradients_are_on_whatever_the_caller_does(self, context):
        model = nn.Linear(2, 2)
        with context():
            with training_mode(model):
                assert model(torch.ones(1, 2)).requires_grad
            assert not torch.is_grad_enabled()

    def test_p29_a_model_made_in_inference_mode_is_refused(self):
        with torch.inference_mode():
            model = nn.Linear(2, 2)
        with pytest.raises(ValueError, match=r"made inside torch\.inference_mode\(\)"), training_mode(model):
            pass
