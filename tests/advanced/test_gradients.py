"""What every function of chapter 5 leaves as it was."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from course_utils.advanced import (
    adversarial_training,
    deletion_curve,
    evaluate_robustness,
    fgsm_attack,
    grad_cam,
    integrated_gradients,
    multi_task_inference,
    pgd_attack,
    saliency_map,
)
from tests.support.models import Function, PurposeError, Stateful, stateful
from tests.support.pictures import caller_tensors, classes, pictures


def robustness(model, x, y, **options):
    return evaluate_robustness(model, [(x[:3], y[:3]), (x[3:], y[3:])], pgd_attack, eps=0.1, steps=2, **options)


# name → call with a model, pictures and their classes. Every call is reproducible.
CALLS = {
    "fgsm_attack": lambda m, x, y: fgsm_attack(m, x, y, eps=0.1),
    "pgd_attack": lambda m, x, y: pgd_attack(m, x, y, eps=0.1, steps=3, seed=0),
    "pgd_attack_early_stop": lambda m, x, y: pgd_attack(m, x, y, eps=0.1, steps=3, seed=0, early_stop=True),
    "saliency_map": lambda m, x, y: saliency_map(m, x, y),
    "grad_cam": lambda m, x, y: grad_cam(m, x, "conv", y),
    "integrated_gradients": lambda m, x, y: integrated_gradients(m, x, y, n_steps=4),
    "evaluate_robustness": lambda m, x, y: torch.tensor(robustness(m, x, y, seed=0).adversarial_accuracy),
    "deletion_curve": lambda m, x, y: deletion_curve(m, x, x.detach().mean(1), y, n_points=3)[1],
    "multi_task_inference": lambda m, x, y: multi_task_inference(m, x).regression,
}


NEEDS_GRADIENTS = [name for name in CALLS if name not in ("deletion_curve", "multi_task_inference")]


def model_for(name: str, *, training: bool = True) -> Stateful:
    return stateful(multitask=name == "multi_task_inference", training=training)


def snapshot(model: nn.Module, *tensors: torch.Tensor) -> dict:
    """Everything that a caller may rely on, as comparable values."""
    return {
        "rng": torch.get_rng_state().tolist(),
        "numpy": repr(np.random.get_state()),  # noqa: NPY002
        "grad mode": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "modes": [(name, module.training) for name, module in model.named_modules()],
        "state": [(name, value.tolist()) for name, value in model.state_dict().items()],
        "storage": [value.data_ptr() for value in model.state_dict().values()],
        "gradients": [
            (name, p.requires_grad, None if p.grad is None else p.grad.tolist()) for name, p in model.named_parameters()
        ],
        "hooks": [
            (len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks), len(m._backward_pre_hooks))
            for m in model.modules()
        ],
        "tensors": [
            (
                t.tolist(),
                t._version,
                t.requires_grad,
                t.is_leaf,
                t.grad.tolist() if t.is_leaf and t.grad is not None else None,
            )
            for t in tensors
        ],
    }


class TestNothingIsLeftBehind:
    @pytest.mark.parametrize("training", [True, False])
    @pytest.mark.parametrize("name", CALLS)
    def test_after_a_call(self, name, training):
        model, (x, y) = model_for(name, training=training), caller_tensors()
        before = snapshot(model, x, y)
        result = CALLS[name](model, x, y)
        assert snapshot(model, x, y) == before
        assert not result.requires_grad
        assert result.grad_fn is None
        assert not torch.isnan(result).any()

    @pytest.mark.parametrize(("error", "training"), [(PurposeError, True), (RuntimeError, False)])
    @pytest.mark.parametrize("fail_at", [1, 3])
    @pytest.mark.parametrize("name", CALLS)
    def test_when_the_model_raises(self, name, fail_at, error, training):
        calls = model_for(name)
        CALLS[name](calls, *caller_tensors())
        model, (x, y) = model_for(name, training=training), caller_tensors()
        model.fail_at, model.error = min(fail_at, calls.calls), error
        before = snapshot(model, x, y)
        with pytest.raises(error, match="failed on purpose, half way"):
            CALLS[name](model, x, y)
        assert snapshot(model, x, y) == before

    @pytest.mark.parametrize("name", NEEDS_GRADIENTS)
    def test_when_the_way_back_raises(self, name):
        model, (x, y) = model_for(name), caller_tensors()
        y = stateful().eval()(x).argmax(1)  # right answers, so that all are attacked
        model.fail_backward = True
        before = snapshot(model, x, y)
        with pytest.raises(PurposeError, match="on the way back"):
            CALLS[name](model, x, y)
        assert snapshot(model, x, y) == before

    @pytest.mark.parametrize("name", CALLS)
    def test_the_answer_does_not_depend_on_mode_or_grad_mode(self, name):
        x, y = caller_tensors()
        expected = CALLS[name](model_for(name).eval(), x.detach(), y)
        for training in (True, False):
            assert torch.equal(CALLS[name](model_for(name, training=training), x, y), expected)
        for context in (torch.no_grad, torch.inference_mode):
            model = model_for(name)
            with context():
                inside = snapshot(model, x, y)
                result = CALLS[name](model, x, y)
                assert snapshot(model, x, y) == inside
                assert torch.equal(result, expected)
                born_inside = CALLS[name](model, pictures(dtype=torch.float32), classes())
            assert torch.equal(born_inside, expected)

    @pytest.mark.parametrize("name", NEEDS_GRADIENTS)
    def test_frozen_parameters_do_not_matter(self, name):
        x, y = caller_tensors()
        model = model_for(name)
        expected = CALLS[name](model, x, y)
        model.requires_grad_(False)
        assert torch.equal(CALLS[name](model, x, y), expected)

    @pytest.mark.parametrize("name", CALLS)
    def test_results_share_no_memory_with_the_inputs(self, name):
        x, y = caller_tensors()
        model = model_for(name)
        before = snapshot(model, x, y)
        CALLS[name](model, x, y).zero_()
        assert snapshot(model, x, y) == before

    @pytest.mark.parametrize("name", [name for name in CALLS if name not in ("grad_cam", "multi_task_inference")])
    def test_in_place_layers_on_the_inputs(self, name):
        """The first layer writes to what it gets, and a function drops out in every mode."""
        model = nn.Sequential(nn.ReLU(inplace=True), nn.Dropout(0.5, inplace=True), nn.Flatten(), nn.Linear(192, 3))
        model.append(Function(lambda z: F.dropout(z, 0.5)))
        x, y = caller_tensors()
        before = snapshot(model, x, y)
        CALLS[name](model, x, y)
        assert snapshot(model, x, y) == before

    @pytest.mark.parametrize("attribution", [saliency_map, integrated_gradients, fgsm_attack, pgd_attack])
    def test_in_place_layers_on_rows(self, attribution):
        model, x, y = nn.Sequential(nn.Threshold(0.5, 0.0, inplace=True), nn.Linear(4, 3)), torch.rand(5, 4), classes()
        x.requires_grad_()
        before = snapshot(model, x, y)
        options = {"eps": 0.1} if attribution in (fgsm_attack, pgd_attack) else {}
        attribution(model, x, y, **options)
        assert snapshot(model, x, y) == before

    def test_adversarial_training_leaves_all_but_batchnorm(self):
        model, (x, y) = stateful(), caller_tensors()
        model.norm.train()
        keys = [name for name in model.state_dict() if not name.startswith("norm.")]
        before, state = snapshot(model, x, y), model.state_dict()
        kept = {name: state[name].clone() for name in keys}
        adversarial_training(model, x, y, eps=0.1, steps=2, seed=0)
        after = snapshot(model, x, y)
        assert {k: v for k, v in after.items() if k != "state"} == {k: v for k, v in before.items() if k != "state"}
        assert all(torch.equal(model.state_dict()[name], value) for name, value in kept.items())

    @pytest.mark.parametrize("fail_at", [1, 2, 3, 4])
    def test_when_adversarial_training_raises(self, fail_at):
        model, (x, y) = stateful(), caller_tensors()  # its BatchNorm is frozen in evaluation mode: nothing may move
        model.fail_at = fail_at  # calls 1 and 2 belong to the attack, 3 and 4 to the losses
        before = snapshot(model, x, y)
        with pytest.raises(PurposeError):
            adversarial_training(model, x, y, eps=0.1, steps=2, seed=0)
        assert snapshot(model, x, y) == before

    def test_the_snapshot_sees_what_it_should(self):
        """A test of the test: each kind of side effect changes the snapshot."""
        model, (x, y) = stateful(), caller_tensors()
        assert snapshot(model, x, y) == snapshot(model, x, y)
        for careless in (
            lambda: torch.rand(1),
            lambda: model.dropout.eval(),
            lambda: model.conv.register_forward_hook(lambda *_: None),
            lambda: model.conv.weight.requires_grad_(True),
            lambda: model.zero_grad(),
            lambda: model.norm.running_mean.add_(1),
            lambda: x.detach().add_(1),
            lambda: x.grad.add_(1),
            lambda: x.requires_grad_(False),
        ):
            before = snapshot(model, x, y)
            careless()
            assert snapshot(model, x, y) != before

    def test_e37_every_submodule_gets_its_mode_back(self):
        for name in CALLS:
            model = model_for(name)
            careless = copy.deepcopy(model)
            careless.eval()
            careless.train()  # the error: wakes what was frozen on purpose
            modes = [module.training for module in model.modules()]
            assert [module.training for module in careless.modules()] != modes
            CALLS[name](model, *caller_tensors())
            assert [module.training for module in model.modules()] == modes
            model.fail_at, model.calls = 1, 0
            with pytest.raises(PurposeError):
                CALLS[name](model, *caller_tensors())
            assert [module.training for module in model.modules()] == modes
