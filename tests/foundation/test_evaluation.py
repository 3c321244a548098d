"""Evaluation mode for a while, and the tensor in a model's answer."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from course_utils.advanced import saliency_map
from course_utils.foundation.evaluation import evaluation_mode, output_tensor, reading, training_mode
from course_utils.iris import predict
from course_utils.optimization import deep_ensemble, monte_carlo_dropout
from course_utils.pitfalls import diagnose
from tests.support.kinds_of_models import Adapter


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

    def test_q5_an_overridden_train_is_called(self):
        """Q5: only its flag came back, so the adapter stayed merged: it added nothing, and learned nothing."""
        model, x = nn.Sequential(nn.Linear(3, 3), Adapter(nn.Linear(3, 2), merging=True)), torch.ones(4, 3)
        frozen, answer = model[1].weight.clone(), model(x)
        with evaluation_mode(model):
            assert model[1].merged
            assert torch.allclose(model(x), answer, atol=1e-6)
        assert (model[1].merged, model[1].training, model.training) == (False, True, True)
        assert torch.allclose(model[1].weight, frozen, atol=1e-6)
        assert torch.allclose(model(x), answer, atol=1e-6)
        model(x).sum().backward()
        assert model[1].b.grad.abs().sum() > 0
        model.eval()
        with evaluation_mode(model):
            pass
        assert model[1].merged  # it came in evaluation mode, and stays in it

    def test_q12_two_threads_with_one_model_are_documented(self):
        """Q12: each gives back what it found. If they overlap, the second one finds the first one's mode."""
        model = nn.Sequential(nn.Dropout())
        first, second = evaluation_mode(model), evaluation_mode(model)
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        second.__exit__(None, None, None)
        assert not model.training  # the limit
        assert "Two threads must not use" in evaluation_mode.__doc__

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

    def test_states_and_lists_of_activations_come_back(self):
        """As of a recurrent network that goes on from its last state. A number of calls stays the caller's."""

        class Stateful(nn.Module):
            def __init__(self):
                super().__init__()
                self.cell, self.hidden, self.calls, self.seen, self._last = nn.RNNCell(3, 3), None, 0, [], {}

            def forward(self, x):
                self.calls += 1
                self.hidden = (self.cell(x, None if self.hidden is None else self.hidden[0]),)
                self.seen.append(x)
                self._last["x"] = self.other = x
                return self.hidden[0]

        model, x, y = Stateful(), torch.ones(2, 3), torch.tensor([0, 1])
        seen, last, expected = model.seen, model._last, model.cell(x).softmax(1)
        for read in (
            lambda: predict(model, x),
            lambda: saliency_map(model, x, y),
            lambda: diagnose(model, x, y, nn.functional.cross_entropy),
            lambda: deep_ensemble([model, model], x),
            lambda: monte_carlo_dropout(nn.Sequential(model, nn.Dropout()), x),
        ):
            read()
            assert (model.hidden, model.seen, model._last) == (None, [], {})
            assert model.seen is seen
            assert model._last is last
            assert not hasattr(model, "other")
            assert torch.allclose(predict(model, x).probabilities, expected)
        assert model.calls > 5
        model.hidden, model.seen[:] = (torch.zeros(2, 3),), [x]
        kept = model.hidden
        predict(model, x)
        assert model.hidden is kept
        assert len(model.seen) == 1

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
