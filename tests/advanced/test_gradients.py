"""The answers of chapter 5 are new tensors without a graph, and depend on no mode and on no parameter's gradient.

That nothing is left behind is proven in tests/test_side_effects.py, for all chapters.
"""

import pytest
import torch

from course_utils.advanced import (
    deletion_curve,
    evaluate_robustness,
    fgsm_attack,
    grad_cam,
    integrated_gradients,
    multi_task_inference,
    pgd_attack,
    saliency_map,
)
from tests.support.models import TwoHeads, model_with_state
from tests.support.pictures import caller_tensors, classes, pictures
from tests.support.snapshots import snapshot


def robustness(model, x, y, **options):
    return evaluate_robustness(model, [(x[:3], y[:3]), (x[3:], y[3:])], pgd_attack, eps=0.1, steps=2, **options)


# name → the answer as a tensor, to a model, pictures and their classes. Every call is reproducible.
ANSWERS = {
    "fgsm_attack": lambda m, x, y: fgsm_attack(m, x, y, eps=0.1),
    "pgd_attack": lambda m, x, y: pgd_attack(m, x, y, eps=0.1, steps=3, seed=0),
    "pgd_attack_early_stop": lambda m, x, y: pgd_attack(m, x, y, eps=0.1, steps=3, seed=0, early_stop=True),
    "saliency_map": lambda m, x, y: saliency_map(m, x, y),
    "grad_cam": lambda m, x, y: grad_cam(m, x, "first", y),
    "integrated_gradients": lambda m, x, y: integrated_gradients(m, x, y, n_steps=4),
    "evaluate_robustness": lambda m, x, y: torch.tensor(robustness(m, x, y, seed=0).adversarial_accuracy),
    "deletion_curve": lambda m, x, y: deletion_curve(m, x, x.detach().mean(1), y, n_points=3)[1],
    "multi_task_inference": lambda m, x, y: multi_task_inference(TwoHeads(m), x).regression,
}
NEEDS_GRADIENTS = [name for name in ANSWERS if name not in ("deletion_curve", "multi_task_inference")]


@pytest.mark.parametrize("name", ANSWERS)
def test_the_answer_does_not_depend_on_mode_or_grad_mode(name):
    x, y = caller_tensors()
    expected = ANSWERS[name](model_with_state(pictures=True).eval(), x.detach(), y)
    for training in (True, False):
        result = ANSWERS[name](model_with_state(pictures=True, training=training), x, y)
        assert torch.equal(result, expected)
        assert not result.requires_grad
        assert result.grad_fn is None
        assert not torch.isnan(result).any()
    for context in (torch.no_grad, torch.inference_mode):
        model = model_with_state(pictures=True)
        with context():
            inside = snapshot(model, x, y)
            result = ANSWERS[name](model, x, y)
            assert snapshot(model, x, y) == inside
            assert torch.equal(result, expected)
            born_inside = ANSWERS[name](model, pictures(dtype=torch.float32), classes())
        assert torch.equal(born_inside, expected)


@pytest.mark.parametrize("name", NEEDS_GRADIENTS)
def test_frozen_parameters_do_not_matter(name):
    x, y = caller_tensors()
    model = model_with_state(pictures=True)
    expected = ANSWERS[name](model, x, y)
    model.requires_grad_(False)
    assert torch.equal(ANSWERS[name](model, x, y), expected)


@pytest.mark.parametrize("name", ANSWERS)
def test_results_share_no_memory_with_the_inputs(name):
    x, y = caller_tensors()
    model = model_with_state(pictures=True)
    before = snapshot(model, x, y)
    ANSWERS[name](model, x, y).zero_()
    assert snapshot(model, x, y) == before
