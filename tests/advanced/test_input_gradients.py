"""The answers of chapter 5 are new tensors without a graph, and depend on no mode and on no parameter's gradient.

That nothing is left behind is proven in tests/test_side_effects.py, for all chapters.
"""

import copy
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from course_utils import capstone
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
from course_utils.advanced.input_gradients import layout
from course_utils.optimization import BinaryClassificationModel
from tests.support.images import caller_tensors, classes, convolutional, images, linear
from tests.support.models import Function, TwoHeads, model_with_state
from tests.support.snapshots import snapshot
from tests.support.values import INF


def robustness(model, x, y, **options):
    return evaluate_robustness(model, [(x[:3], y[:3]), (x[3:], y[3:])], pgd_attack, eps=0.1, steps=2, **options)


# name → the answer as a tensor, to a model, images and their classes. Every call is reproducible.
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
    expected = ANSWERS[name](model_with_state(images=True).eval(), x.detach(), y)
    for training in (True, False):
        result = ANSWERS[name](model_with_state(images=True, training=training), x, y)
        assert torch.equal(result, expected)
        assert not result.requires_grad
        assert result.grad_fn is None
        assert not torch.isnan(result).any()
    for context in (torch.no_grad, torch.inference_mode):
        model = model_with_state(images=True)
        with context():
            inside = snapshot(model, x, y)
            result = ANSWERS[name](model, x, y)
            assert snapshot(model, x, y) == inside
            assert torch.equal(result, expected)
            born_inside = ANSWERS[name](model, images(dtype=torch.float32), classes())
        assert torch.equal(born_inside, expected)


@pytest.mark.parametrize("name", NEEDS_GRADIENTS)
def test_frozen_parameters_do_not_matter(name):
    x, y = caller_tensors()
    model = model_with_state(images=True)
    expected = ANSWERS[name](model, x, y)
    model.requires_grad_(False)
    assert torch.equal(ANSWERS[name](model, x, y), expected)


@pytest.mark.parametrize("name", ANSWERS)
def test_results_share_no_memory_with_the_inputs(name):
    x, y = caller_tensors()
    model = model_with_state(images=True)
    before = snapshot(model, x, y)
    ANSWERS[name](model, x, y).zero_()
    assert snapshot(model, x, y) == before


# name → call with a model of images (N, 3, 8, 8), whose first layer is "0", and options of the task.
READERS = {
    "fgsm_attack": lambda m, x, y, **o: fgsm_attack(m, x, y, eps=0.1, **o),
    "pgd_attack": lambda m, x, y, **o: pgd_attack(m, x, y, eps=0.1, steps=2, seed=0, **o),
    "saliency_map": saliency_map,
    "grad_cam": lambda m, x, y, **o: grad_cam(m, x, "0", y, **o),
    "integrated_gradients": lambda m, x, y, **o: integrated_gradients(m, x, y, n_steps=3, **o),
    "deletion_curve": lambda m, x, y, **o: deletion_curve(m, x, x.mean(1), y, n_points=3, **o)[1],
    "evaluate_robustness": lambda m, x, y, **o: torch.tensor(
        evaluate_robustness(m, [(x, y)], pgd_attack, eps=0.05, steps=2, seed=0, **o).adversarial_accuracy
    ),
    "adversarial_training": lambda m, x, y, **o: adversarial_training(
        m.train(), x, y, eps=0.1, steps=2, seed=0, **o
    ).total.detach(),
}
ATTACKS = ("fgsm_attack", "pgd_attack", "evaluate_robustness", "adversarial_training")


def pruned() -> nn.Module:
    model = convolutional()
    prune.identity(model[0], "weight")
    return model


def scripted() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of TorchScript itself
        return torch.jit.script(convolutional())


def compiled_in_place() -> nn.Module:
    model = convolutional()
    model.compile(backend="eager")
    model(images())
    return model


SAME = {
    "DataParallel": lambda: nn.DataParallel(convolutional()),
    "compiled": lambda: torch.compile(convolutional(), backend="eager"),
    "compiled in place": compiled_in_place,
    "pruned": pruned,
    "dict": lambda: nn.Sequential(*convolutional(), Function(lambda z: {"logits": z, "cache": object()})),
    "weights in channels_last": lambda: convolutional().to(memory_format=torch.channels_last),
}


class TestModelsAsPeopleBringThem:
    @pytest.mark.parametrize("kind", SAME)
    @pytest.mark.parametrize("name", READERS)
    def test_p23_p31_wrappers_and_dicts_change_nothing(self, name, kind):
        """P23, P31, Q23."""
        x, y = images(), classes()
        expected = READERS[name](convolutional(), x, y)
        assert torch.allclose(READERS[name](SAME[kind](), x, y), expected, atol=1e-12)

    @pytest.mark.parametrize("name", sorted(set(READERS) - {"grad_cam"}))
    def test_p23_torchscript_and_the_module_of_an_exported_program(self, name):
        x, y = images(), classes()
        expected = READERS[name](convolutional(), x, y)
        model = scripted()
        assert torch.allclose(READERS[name](model, x, y), expected, atol=1e-9)
        assert all(p.grad is None for p in model.parameters())
        program = torch.export.export(
            convolutional(), (x,), dynamic_shapes=({0: torch.export.Dim("n", min=1, max=64)},)
        )
        if name == "adversarial_training":
            with pytest.raises(NotImplementedError):  # of torch: such a module has no train mode
                program.module().train()
            return
        assert torch.allclose(READERS[name](program.module(), x, y), expected, atol=1e-9)

    @pytest.mark.parametrize("name", READERS)
    def test_p23_what_cannot_be_supported_gets_a_sentence(self, name):
        x, y = images(), classes()
        program = torch.export.export(convolutional(), (x,))
        lazy = nn.Sequential(nn.LazyConv2d(4, 3), nn.Flatten(), nn.LazyLinear(3))
        for model, error, words in (
            (lazy, ValueError, "run it once"),
            (nn.DataParallel(lazy), ValueError, "run it once"),
        ):
            with pytest.raises(error, match=words):
                READERS[name](model, x, y)
        if name != "adversarial_training":  # which needs .train() first
            with pytest.raises(TypeError, match=r"pass its module, model.module\(\)"):
                READERS[name](program, x, y)
        if name == "grad_cam":
            with pytest.raises(ValueError, match="inside a TorchScript model"):
                grad_cam(scripted(), x, "0", y)
            with pytest.raises(ValueError, match="ran 0 times.*exported model"):
                grad_cam(program.module(), x, "0", y)

    @pytest.mark.parametrize("name", READERS)
    def test_p31_f20_targets_in_every_usual_form(self, name):
        """F20, P31: 0-d tensors, ints, lists and NumPy."""
        x, y = images(), classes()
        expected = READERS[name](convolutional(), x, y)
        for same in (y.tolist(), tuple(y.tolist()), y.numpy(), y.numpy().astype(np.uint8), y.int()):
            assert torch.equal(READERS[name](convolutional(), x, same), expected)
        ones = READERS[name](convolutional(), x, torch.ones(5, dtype=torch.int64))
        for same in (1, np.int64(1), torch.tensor(1), torch.tensor(1, dtype=torch.uint8), np.array(1)):
            assert torch.equal(READERS[name](convolutional(), x, same), ones)

    @pytest.mark.parametrize("name", READERS)
    def test_f20_one_logit_is_two_classes(self, name):
        """softmax over (−z/2, z/2) is the sigmoid of z, and the difference of the two is z."""
        x, y = images(), classes(5, 2)
        torch.manual_seed(0)
        body = [nn.Conv2d(3, 4, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(256, 1)]
        single = nn.Sequential(*body).double()
        double = nn.Sequential(*copy.deepcopy(single), nn.Linear(1, 2)).double()
        with torch.no_grad():
            double[-1].weight.copy_(torch.tensor([[-0.5], [0.5]]))
            double[-1].bias.zero_()
        ours, theirs = READERS[name](single, x, y, task="binary"), READERS[name](double, x, y)
        if name in ("saliency_map", "integrated_gradients"):  # of the log-odds z or −z, not of ±z/2
            theirs = 2 * theirs
        assert torch.allclose(ours, theirs, atol=1e-12)
        squeezed = nn.Sequential(*single, nn.Flatten(0))  # (N,) instead of (N, 1)
        assert torch.allclose(READERS[name](squeezed, x, y, task="binary"), ours, atol=1e-12)
        with pytest.raises(ValueError, match="pass task='binary'"):
            READERS[name](single, x, y)
        with pytest.raises(ValueError, match="binary model must return logits"):
            READERS[name](double, x, y, task="binary")
        with pytest.raises(ValueError, match="0 to 1"):
            READERS[name](single, x, y + 1, task="binary")
        with pytest.raises(ValueError, match="'multiclass', 'binary'"):
            READERS[name](single, x, y, task="multilabel")

    def test_f20_our_own_binary_model_on_rows(self):
        torch.manual_seed(0)
        model, x = BinaryClassificationModel(4), torch.rand(12, 4)
        y = (model(x) >= 0)[:, 0].long()
        options = {"task": "binary"}
        for attack in (fgsm_attack, pgd_attack):
            adversarial = attack(model, x, y, eps=0.2, seed=0, **options)
            before, after = model.loss(x, y[:, None]), model.loss(adversarial, y[:, None])
            assert after > before
        result = evaluate_robustness(model, [(x, y)], pgd_attack, eps=0.2, seed=0, **options)
        assert result.clean_accuracy == 1 > result.adversarial_accuracy
        assert adversarial_training(model.train(), x, y, eps=0.1, **options).total.requires_grad
        maps = saliency_map(model, x, **options)
        leaf = x.clone().requires_grad_()
        assert torch.allclose(maps, torch.autograd.grad(model(leaf).sum(), leaf)[0].abs())
        for target, sign in ((1, 1), (0, -1)):  # −z speaks for class 0
            values, delta = integrated_gradients(model, x, target, return_convergence_delta=True, **options)
            rise = sign * (model(x) - model(torch.zeros_like(x)))[:, 0]
            assert torch.allclose(values.sum(1), rise + delta, atol=1e-6)
            assert delta.abs().max() < 0.05
        shares, p = deletion_curve(model, x, x * values, 1, n_points=5, **options)
        assert float(p[0]) == pytest.approx(float(model.predict_proba(x).mean()), abs=1e-6)
        assert len(shares) == 5

    @pytest.mark.parametrize("name", READERS)
    def test_masked_classes_are_no_obstacle(self, name):
        """F21: −inf is a mask; the answers are those of a model without that class."""
        mask = torch.tensor([0.0, 0.0, -INF], dtype=torch.float64)
        x, y = images(), classes(5, 2)
        two = convolutional()
        with torch.no_grad():
            two[5] = nn.Linear(64, 2).double()
            two[5].weight.copy_(convolutional()[5].weight[:2])
            two[5].bias.copy_(convolutional()[5].bias[:2])
        masked = nn.Sequential(*convolutional(), Function(lambda z: z + mask))
        assert torch.allclose(READERS[name](masked, x, y), READERS[name](two, x, y), atol=1e-12)
        if name in ("saliency_map", "grad_cam", "integrated_gradients"):
            with pytest.raises(ValueError, match="logit is −inf, so this class is masked"):
                READERS[name](masked, x, 2)
        if name in ("fgsm_attack", "pgd_attack", "adversarial_training"):
            with pytest.raises(ValueError, match="no attack can change the answer"):
                READERS[name](nn.Sequential(*masked, Function(lambda z: z + mask.roll(1))), x, 1)

    @pytest.mark.parametrize("name", READERS)
    def test_q11_parameters_written_in_forward_come_back(self, name):
        """Q11: a codebook that learns in its forward pass."""

        class Codebook(nn.Module):
            def __init__(self):
                super().__init__()
                self.codes = nn.Parameter(torch.zeros(3, dtype=torch.float64))

            def forward(self, z):
                with torch.no_grad():
                    self.codes.mul_(0.9).add_(0.1 * z.detach().mean(0))
                return z + self.codes

        model = nn.Sequential(*convolutional(), Codebook())
        READERS[name](model, images(), classes())
        if name != "adversarial_training":  # whose losses are those of train mode
            assert model[-1].codes.abs().max() == 0

    @pytest.mark.parametrize("name", sorted(set(READERS) - {"adversarial_training"}))
    def test_models_made_in_inference_mode(self, name):
        with torch.inference_mode():
            model = convolutional()
        expected = READERS[name](convolutional(), images(), classes())
        assert torch.allclose(READERS[name](model, images(), classes()), expected, atol=1e-12)

    @pytest.mark.parametrize("name", ["fgsm_attack", "saliency_map", "grad_cam", "integrated_gradients"])
    def test_p28_the_order_of_samples_changes_nothing(self, name):
        x, y = images(n=40), classes(40)
        order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
        one, other = (READERS[name](convolutional(), x[rows], y[rows]) for rows in (torch.arange(40), order))
        assert torch.allclose(one[order], other, atol=1e-12)

    @pytest.mark.parametrize("name", ["fgsm_attack", "saliency_map", "grad_cam", "integrated_gradients"])
    def test_p31_seed_of_models_that_draw(self, name):
        noise = Function(lambda x: x * (0.5 + torch.rand_like(x)))
        model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), noise, nn.Flatten(), nn.Linear(256, 3)).double()

        def run(**options):
            return READERS[name](model, images(), classes(), **options)

        assert torch.equal(run(), run(seed=0))
        assert torch.equal(run(seed=1), run(seed=1))
        assert not torch.equal(run(seed=0), run(seed=1))
        assert not torch.equal(run(seed=None), run(seed=None))

    def test_whole_numbers_have_no_gradient(self):
        """P31."""
        tokens = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(12, 3))
        for call in (saliency_map, integrated_gradients):
            with pytest.raises(TypeError, match="gradients are taken.*token ids: pass their embeddings"):
                call(tokens, torch.randint(9, (5, 3)))
            call(tokens[1:], tokens[0](torch.randint(9, (5, 3))), 0)  # what the message advises
        for name in sorted(set(READERS) - {"deletion_curve"}):
            with pytest.raises(TypeError, match=r"images: pass .float\(\) / 255"):
                READERS[name](convolutional(), (255 * images()).byte(), classes())


class TestLayout:
    """Architecture review, point 10: the layout follows from the kind of model, and no error is caught."""

    def test_torchs_layers_and_our_networks_run_in_channels_last(self):
        for model in (convolutional(), linear(), capstone.FastClassifier(), capstone.ImageClassifier()):
            assert layout(model) is torch.channels_last
            x = torch.rand(2, 3, 32, 32)
            if isinstance(model, capstone.models.NormalizedImageClassifier):
                assert torch.allclose(
                    model.eval()(x), model(x.contiguous(memory_format=torch.channels_last)), atol=1e-4
                )

    def test_a_class_that_someone_wrote_runs_in_the_usual_layout(self):
        seen = []
        model = nn.Sequential(Function(lambda x: seen.append(x.is_contiguous()) or x), *convolutional())
        assert layout(model) is torch.contiguous_format
        saliency_map(model, images().to(memory_format=torch.channels_last))
        assert seen == [True]
        assert layout(model.to(memory_format=torch.channels_last)) is torch.channels_last

    @pytest.mark.parametrize("name", sorted(set(READERS) - {"grad_cam", "adversarial_training"}))
    def test_an_error_of_the_model_is_raised_at_once(self, name):
        """It used to be caught, and the model run again."""
        model = model_with_state(images=True)
        model.fail_at = 1
        with pytest.raises(RuntimeError, match="on purpose"):
            READERS[name](model, images(dtype=torch.float32), classes())
        assert model.calls == 1
