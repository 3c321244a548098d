"""Chapter 5: attacks against torchattacks, attributions against captum, scores by brute force, E37, E49 to E62, P4."""

import copy
import math
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchattacks
from captum.attr import IntegratedGradients, LayerAttribution, LayerGradCam, Saliency
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from course_utils.advanced import (
    MultiTaskLoss,
    MultiTaskModel,
    adversarial_training,
    deletion_curve,
    energy_inside,
    evaluate_robustness,
    fgsm_attack,
    grad_cam,
    integrated_gradients,
    multi_task_inference,
    pgd_attack,
    plot_attack,
    plot_curves,
    pointing_game,
    saliency_map,
    visualize_attributions,
)
from course_utils.advanced.attacks import attack_loss
from course_utils.data import generate_pictures

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
NAN = math.nan
seeds = st.integers(0, 2**31)


def pictures(seed: int = 0, n: int = 5, channels: int = 3, size: int = 8, dtype=torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, channels, size, size, generator=generator, dtype=torch.float64).to(dtype)


def classes(n: int = 5, c: int = 3) -> torch.Tensor:
    return torch.arange(n) % c


def linear(seed: int = 0, features: int = 192, c: int = 3, scale: float = 1.0) -> nn.Sequential:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(features, c)).double()
    with torch.no_grad():
        model[1].weight.mul_(scale)
    return model


def convolutional(seed: int = 0, activation: nn.Module | None = None, size: int = 8, width: int = 4) -> nn.Sequential:
    """A tiny double network on 3 × size × size pictures: conv, activation, conv, activation, linear."""
    torch.manual_seed(seed)
    activation = nn.Tanh() if activation is None else activation
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1),
        activation,
        nn.Conv2d(width, width, 3, stride=2, padding=1),
        copy.deepcopy(activation),
        nn.Flatten(),
        nn.Linear(width * (size // 2) ** 2, 3),
    ).double()


class Viewing(nn.Module):
    """Flattens with `view`, which a tensor in channels_last does not allow."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.fc = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(256, 3)
        self.double()

    def forward(self, x):
        return self.fc(torch.tanh(self.conv(x)).view(len(x), -1))


class Function(nn.Module):
    """Any function as a model, with one parameter, as libraries expect."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function
        self.unused = nn.Parameter(torch.zeros(()))

    def forward(self, x):
        return self.function(x)


class PurposeError(Exception):
    """Raised by a test's model, and by nothing else."""


class Stateful(nn.Module):
    """A classifier of 3 × 8 × 8 pictures with everything that a careless function can disturb."""

    def __init__(self, multitask: bool = False) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.relu, self.dropout = nn.ReLU(inplace=True), nn.Dropout(0.5)
        self.fc = nn.Linear(256, 3)
        self.value = nn.Linear(256, 1)
        self.multitask = multitask
        self.calls, self.fail_at, self.fail_backward, self.error = 0, None, False, PurposeError

    def forward(self, x):
        hidden = self.dropout(self.relu(self.norm(self.conv(x))))
        self.calls += 1
        if self.fail_at is not None and self.calls >= self.fail_at:
            raise self.error("failed on purpose, half way")
        if self.fail_backward and hidden.requires_grad:
            hidden.register_hook(self.refuse)
        hidden = hidden.flatten(1)
        if self.multitask:
            return {"classification": self.fc(hidden), "regression": self.value(hidden)}
        return self.fc(hidden)

    def refuse(self, gradient):
        raise self.error("failed on purpose, on the way back")


def stateful(*, multitask: bool = False, training: bool = True) -> Stateful:
    torch.manual_seed(0)
    model = Stateful(multitask)
    output = model(torch.rand(6, 3, 8, 8))
    (sum(part.sum() for part in output.values()) if multitask else output.sum()).backward()
    model.train(training)
    model.norm.train(not training)  # mixed modes on purpose
    model.conv.weight.requires_grad_(False)  # frozen, with a gradient from before
    model.calls = 0
    return model


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


def caller_tensors() -> tuple[torch.Tensor, torch.Tensor]:
    x = pictures(dtype=torch.float32).requires_grad_()
    x.grad = torch.ones_like(x)
    return x, classes()


def small_classifier(num_classes: int = 3) -> nn.Sequential:
    """Layers "2", "6" and "9" are the blocks' outputs; the last maps are a quarter of the picture's size."""
    return nn.Sequential(
        *(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(inplace=True), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(inplace=True), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(inplace=True)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, num_classes)),
    )


@pytest.fixture(scope="module")
def trained():
    """A classifier of generated pictures, in evaluation mode, and 96 pictures that it has not seen."""
    torch.manual_seed(0)
    names = ("ring", "cross", "bar")
    train, test = (generate_pictures(n, classes=names, size=16, seed=n) for n in (1000, 96))
    model, images, epochs = small_classifier().to(memory_format=torch.channels_last), train.images / 255, 12
    optimizer = torch.optim.Adam(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.01, total_steps=epochs * 16)
    for _ in range(epochs):
        for batch in torch.randperm(len(images)).split(64):
            optimizer.zero_grad()
            F.cross_entropy(model(images[batch]), train.target[batch]).backward()
            optimizer.step()
            schedule.step()
    optimizer.zero_grad()
    model.eval()
    x = test.images / 255
    accuracy = share_right(model, x, test.target)
    assert accuracy > 0.85  # or the tests below say nothing
    return SimpleNamespace(model=model, x=x, y=test.target, masks=test.masks, accuracy=accuracy)


@torch.no_grad()
def share_right(model, x, y) -> float:
    return float((model(x).argmax(1) == y).double().mean())


# --- several tasks ---------------------------------------------------------------------------------------------------


class TestMultiTask:
    outputs = {  # noqa: RUF012
        "classification": torch.tensor([[2.0, -1, 0.5], [0, 1, -3]], dtype=torch.float64),
        "regression": torch.tensor([[1.5], [-2.0]], dtype=torch.float64),
    }
    targets = {  # noqa: RUF012
        "classification": torch.tensor([2, 1]),
        "regression": torch.tensor([[1.0], [1.0]], dtype=torch.float64),
    }
    entropy = (
        -(
            math.log(math.exp(0.5) / (math.exp(2) + math.exp(-1) + math.exp(0.5)))
            + math.log(math.exp(1) / (1 + math.exp(1) + math.exp(-3)))
        )
        / 2
    )
    squared = (0.25 + 9) / 2

    @pytest.mark.parametrize(("n", "c"), [(1, 2), (7, 5)])
    def test_shapes(self, n, c):
        model = MultiTaskModel(4, c)
        outputs = model(torch.rand(n, 4))
        assert {name: tuple(value.shape) for name, value in outputs.items()} == {
            "classification": (n, c),
            "regression": (n, 1),
        }
        loss = MultiTaskLoss()(outputs, {"classification": torch.zeros(n).long(), "regression": torch.zeros(n, 1)})
        assert loss.shape == ()
        loss.backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters() if p.numel() > 1)

    def test_the_heads_give_logits_and_unbounded_values(self):
        torch.manual_seed(0)
        outputs = MultiTaskModel(4, 3)(100 * torch.randn(50, 4))
        assert (outputs["classification"] < 0).any()
        assert (outputs["classification"].sum(1) - 1).abs().max() > 1
        assert outputs["regression"].min() < 0 < outputs["regression"].max()

    def test_none_is_the_plain_sum(self):
        assert float(MultiTaskLoss()(self.outputs, self.targets)) == pytest.approx(self.entropy + self.squared)

    @given(st.floats(0, 100), st.floats(0, 100))
    def test_weights_weigh(self, a, b):
        loss = MultiTaskLoss({"classification": a, "regression": b})(self.outputs, self.targets)
        assert float(loss) == pytest.approx(a * self.entropy + b * self.squared)

    @given(st.floats(-5, 5), st.floats(-5, 5))
    def test_uncertainty_follows_its_formula(self, a, b):
        criterion = MultiTaskLoss("uncertainty").double()
        assert float(criterion(self.outputs, self.targets).detach()) == pytest.approx(self.entropy + self.squared / 2)
        with torch.no_grad():
            criterion.log_variances["classification"].fill_(a)
            criterion.log_variances["regression"].fill_(b)
        by_hand = math.exp(-a) * self.entropy + math.exp(-b) * self.squared / 2 + (a + b) / 2
        assert float(criterion(self.outputs, self.targets).detach()) == pytest.approx(by_hand, rel=1e-9)

    def test_uncertainty_learns_the_variances(self):
        """The minimum over s is at s_c = log(2·CE) and s_r = log(MSE)."""
        criterion = MultiTaskLoss("uncertainty").double()
        assert len(list(criterion.parameters())) == 2
        optimizer = torch.optim.LBFGS(criterion.parameters(), max_iter=100, line_search_fn="strong_wolfe")

        def closure():
            optimizer.zero_grad()
            loss = criterion(self.outputs, self.targets)
            loss.backward()
            return loss

        optimizer.step(closure)
        learned = {name: float(s.detach()) for name, s in criterion.log_variances.items()}
        assert learned == pytest.approx(
            {"classification": math.log(2 * self.entropy), "regression": math.log(self.squared)}, abs=1e-4
        )

    def test_state_dict_travels(self):
        criterion, other = MultiTaskLoss("uncertainty"), MultiTaskLoss("uncertainty")
        with torch.no_grad():
            criterion.log_variances["regression"].fill_(1.5)
        other.load_state_dict(criterion.state_dict())
        assert float(other.log_variances["regression"].detach()) == 1.5
        assert float(other(self.outputs, self.targets).detach()) == float(
            criterion(self.outputs, self.targets).detach()
        )
        assert len(criterion.state_dict()) == 2
        assert len(MultiTaskLoss().state_dict()) == len(list(MultiTaskLoss().parameters())) == 0

    def test_losses_are_the_unweighted_parts(self):
        parts = MultiTaskLoss({"classification": 9, "regression": 0}).losses(self.outputs, self.targets)
        assert float(parts["classification"]) == pytest.approx(self.entropy)
        assert float(parts["regression"]) == pytest.approx(self.squared)

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_keeps_the_dtype(self, dtype):
        model, x = MultiTaskModel(4, 3).to(dtype), torch.rand(5, 4).to(dtype)
        result = multi_task_inference(model, x)
        assert result.probabilities.dtype == result.regression.dtype == result.confidence.dtype == dtype
        targets = {"classification": classes(5), "regression": torch.zeros(5, 1, dtype=dtype)}
        assert MultiTaskLoss()(model(x), targets).dtype == dtype

    def test_inference_reads_both_heads(self):
        torch.manual_seed(0)
        model, x = MultiTaskModel(4, 3), 3 * torch.randn(20, 4)
        result, outputs = multi_task_inference(model, x), model(x)
        probabilities = outputs["classification"].softmax(1).detach()
        assert torch.allclose(result.probabilities, probabilities)
        assert result.labels.tolist() == probabilities.argmax(1).tolist()
        assert torch.equal(result.confidence, result.probabilities.amax(1))
        assert torch.equal(result.regression, outputs["regression"].detach())
        assert result.labels.dtype == torch.int64
        assert not result.regression.requires_grad
        assert not result.probabilities.requires_grad
        assert len(result) == len(result.to_frame()) == 20
        assert result[-1]["labels"] == int(result.labels[-1])
        assert "MultiTaskResult" in result._repr_html_()

    @pytest.mark.parametrize("threshold", [0, 0.2, 0.5, 0.75, 1.0])
    def test_e8_the_threshold_refuses(self, threshold):
        logits = torch.tensor([[0.0, 0], [math.log(3), 0], [9, 0], [0, 200.0]], dtype=torch.float64)
        model = Function(lambda x: {"classification": logits, "regression": x[:, :1]})
        result = multi_task_inference(model, torch.zeros(4, 1), classification_threshold=threshold)
        confidence = [0.5, 0.75, 1 / (1 + math.exp(-9)), 1.0]
        assert result.confidence.tolist() == pytest.approx(confidence)
        assert result.labels.tolist() == [
            label if p >= threshold else -1 for p, label in zip(result.confidence.tolist(), [0, 0, 0, 1], strict=True)
        ]
        assert (result.labels == -1).sum() == {0: 0, 0.2: 0, 0.5: 0, 0.75: 1, 1.0: 3}[threshold]

    @pytest.mark.parametrize(
        ("call", "error", "words"),
        [
            (lambda s: MultiTaskModel(0, 3), ValueError, "in_features"),
            (lambda s: MultiTaskModel(4, 1), ValueError, "num_classes must be at least 2"),
            (lambda s: MultiTaskModel(4.0, 3), TypeError, "in_features must be an int"),
            (lambda s: MultiTaskModel(4, 3, 0), ValueError, "hidden_features"),
            (lambda s: MultiTaskLoss("equal"), ValueError, "'uncertainty'.*'equal'"),
            (lambda s: MultiTaskLoss([1, 1]), ValueError, "task_weights"),
            (lambda s: MultiTaskLoss({"classification": 1}), ValueError, "keys.*'regression'"),
            (lambda s: MultiTaskLoss({"classification": 1, "regression": -1}), ValueError, "negative"),
            (lambda s: MultiTaskLoss({"classification": 1, "regression": NAN}), ValueError, "finite"),
            (lambda s: MultiTaskLoss({"classification": 1, "regression": "1"}), TypeError, "number"),
            (lambda s: MultiTaskLoss()([1, 2], s.targets), TypeError, "outputs must be a dict"),
            (lambda s: MultiTaskLoss()(s.outputs, {"regression": 1}), TypeError, "targets must be a dict"),
            (
                lambda s: MultiTaskLoss()(s.outputs, s.targets | {"classification": torch.tensor([0, 3])}),
                ValueError,
                "0 to 2",
            ),
            (
                lambda s: MultiTaskLoss()(s.outputs, s.targets | {"classification": torch.tensor([0.0, 1])}),
                TypeError,
                "integer",
            ),
            (lambda s: multi_task_inference(MultiTaskModel(4, 3), torch.zeros(0, 4)), ValueError, "empty"),
            (lambda s: multi_task_inference(MultiTaskModel(4, 3), torch.full((2, 4), NAN)), ValueError, "NaN"),
            (lambda s: multi_task_inference(MultiTaskModel(4, 3), [1.0]), TypeError, "torch.Tensor"),
            (lambda s: multi_task_inference(len, torch.zeros(2, 4)), TypeError, "torch.nn.Module"),
            (lambda s: multi_task_inference(nn.Linear(4, 3), torch.zeros(2, 4)), TypeError, "must return a dict"),
            (
                lambda s: multi_task_inference(Function(lambda x: s.outputs), torch.zeros(3, 4)),
                ValueError,
                "N = 3 samples",
            ),
            *[
                (
                    lambda s, t=t: multi_task_inference(
                        MultiTaskModel(4, 3), torch.zeros(2, 4), classification_threshold=t
                    ),
                    ValueError,
                    "classification_threshold",
                )
                for t in (-0.1, 1.1, NAN)
            ],
        ],
    )
    def test_bad_input(self, call, error, words):
        with pytest.raises(error, match=words):
            call(self)

    def test_e7_unequal_regression_shapes_raise(self):
        equal = torch.tensor([[1.0], [-1.0]])
        with pytest.warns(UserWarning, match="broadcast"):
            assert float(F.mse_loss(equal, equal[:, 0])) == 2  # the error: identical values, and a loss
        outputs = {"classification": torch.zeros(2, 3), "regression": equal}
        for shape in [(2,), (1, 2), (1, 1)]:
            targets = {"classification": torch.tensor([0, 1]), "regression": torch.ones(shape)}
            for criterion in (MultiTaskLoss(), MultiTaskLoss("uncertainty")):
                with pytest.raises(ValueError, match="same shape.*broadcast"):
                    criterion(outputs, targets)


# --- what every function leaves as it was ----------------------------------------------------------------------------


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


# --- attacks ---------------------------------------------------------------------------------------------------------


@st.composite
def attack_case(draw):
    """Pictures in any dtype and any bounds, normalised or not, many of them exactly on the bounds."""
    dtype = draw(st.sampled_from(DTYPES))
    low, high = draw(st.sampled_from([(0, 1), (0.0, 1.0), (-1, 1), (0, 255), (0.1, 0.9), (-3.5, -1.25)]))
    normalization = draw(
        st.sampled_from(
            [
                None,
                IMAGENET,
                ([0.5], [0.5]),
                (0.1307, 0.3081),
                (torch.tensor([0.1, 0.2, 0.3]), torch.tensor([3.0, 0.7, 0.01])),
                (np.array([10.0, -10.0, 0.0]), np.array([0.01, 7.0, 1 / 3])),
            ]
        )
    )
    eps = draw(st.one_of(st.sampled_from([0, 8 / 255, 0.03, 0.1, 0.5, 1.0, 1e-7]), st.floats(0, 0.7)))
    mean, std = (0.0, 1.0) if normalization is None else normalization
    mean, std = (torch.as_tensor(v, dtype=torch.float64).reshape(1, -1, 1, 1) for v in (mean, std))
    share = torch.rand(3, 3, 2, 2, generator=torch.Generator().manual_seed(draw(seeds)), dtype=torch.float64)
    share = ((share - 0.5) * 1.6 + 0.5).clamp(0, 1)
    x = ((low + (high - low) * share - mean) / std).to(dtype)
    pixels = x.double() * std + mean
    # Rounding to half precision may carry a picture far out of the bounds; those points go to the middle.
    far = (pixels < low - 5e-5) | (pixels > high + 5e-5)
    middle = (((low + high) / 2 - mean) / std).expand_as(x).to(dtype)
    x = torch.where(far, middle, x)
    assert ((x.double() * std + mean) > low - 1e-4).all()
    assert ((x.double() * std + mean) < high + 1e-4).all()
    return x, eps, (low, high), normalization, mean, std


class TestAttacks:
    @settings(max_examples=80)
    @given(attack_case(), seeds)
    def test_the_change_never_exceeds_eps_nor_leaves_the_bounds(self, case, seed):
        x, eps, (low, high), normalization, mean, std = case
        y = classes(3)
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3)).to(x.dtype)
        options = {"eps": eps, "bounds": (low, high), "normalization": normalization}
        pixels = x.double() * std + mean
        for adversarial in (
            fgsm_attack(model, x, y, **options),
            pgd_attack(model, x, y, **options, steps=3, seed=seed),
            pgd_attack(model, x, y, **options, steps=2, alpha=0.4, random_start=False, early_stop=True),
        ):
            assert adversarial.dtype == x.dtype
            assert adversarial.shape == x.shape
            assert adversarial.isfinite().all()
            assert ((adversarial.double() - x.double()) * std).abs().max() <= eps  # exactly, without a tolerance
            moved = adversarial.double() * std + mean
            assert (moved <= pixels.clamp(min=high)).all()  # what rounding carried out may stay, but not go farther
            assert (moved >= pixels.clamp(max=low)).all()
            if eps == 0:
                assert torch.equal(adversarial.contiguous().view(torch.uint8), x.contiguous().view(torch.uint8))

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("attack", [fgsm_attack, pgd_attack])
    def test_eps_zero_returns_the_inputs_bit_for_bit(self, attack, dtype):
        x = ((pictures() - 0.4) / 0.2).to(dtype)
        x[0, 0, 0, :2] = torch.tensor([0.0, -0.0])
        model = linear().to(dtype)
        result = attack(model, x, classes(), eps=0, bounds=(-0.1, 1.1), normalization=([0.4] * 3, [0.2] * 3))
        assert torch.equal(result.contiguous().view(torch.uint8), x.contiguous().view(torch.uint8))
        assert result.data_ptr() != x.data_ptr()

    @pytest.mark.parametrize("normalization", [None, IMAGENET])
    def test_fgsm_uses_all_of_eps(self, normalization):
        mean, std = (torch.tensor(v).double().reshape(1, 3, 1, 1) for v in (normalization or ([0] * 3, [1] * 3)))
        pixels = 0.2 + 0.6 * pictures()
        x = ((pixels - mean) / std).float()
        change = fgsm_attack(linear().float(), x, classes(), eps=0.1, normalization=normalization) - x
        assert ((change.double() * std).abs() > 0.1 - 1e-6).all()

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision_is_attacked_too(self, dtype):
        x = pictures(dtype=dtype)
        model = linear().to(dtype)
        change = (fgsm_attack(model, x, classes(), eps=0.1, bounds=(-1, 2)) - x).double()
        assert (change.abs() > 0.09).all()
        assert (
            attack_loss(model(x + change.to(dtype)).float(), classes()) > attack_loss(model(x).float(), classes())
        ).all()

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_many_small_steps_are_not_lost_to_rounding(self, dtype):
        """A hundred steps of 0.0008 each: below half a unit in the last place of bfloat16, so that none would move."""
        x = 0.55 + 0.4 * pictures(dtype=dtype)
        change = pgd_attack(linear().to(dtype), x, classes(), eps=8 / 255, steps=100, random_start=False) - x
        assert change.abs().double().mean() > 0.8 * 8 / 255

    @given(seeds, st.sampled_from([2 / 255, 0.03, 0.3]))
    @settings(max_examples=15)
    def test_fgsm_equals_torchattacks(self, seed, eps):
        model, x, y = convolutional(seed), pictures(seed), classes()
        expected = torchattacks.FGSM(model, eps=eps)(x, y)
        assert torch.allclose(fgsm_attack(model, x, y, eps=eps), expected, atol=1e-12)

    @given(seeds, st.sampled_from([0.01, 0.05]), st.integers(1, 6))
    @settings(max_examples=15)
    def test_pgd_without_random_start_equals_torchattacks(self, seed, eps, steps):
        model, x, y = convolutional(seed), pictures(seed), classes()
        oracle = torchattacks.PGD(model, eps=eps, alpha=eps / 3, steps=steps, random_start=False)
        adversarial = pgd_attack(model, x, y, eps=eps, alpha=eps / 3, steps=steps, random_start=False)
        assert torch.allclose(adversarial, oracle(x, y), atol=1e-9)

    def test_normalised_pictures_equal_torchattacks(self):
        """The attack on (x − mean) / std is the attack on the pixels with the normalisation inside the model."""
        mean, std = (torch.tensor(v, dtype=torch.float64).reshape(3, 1, 1) for v in IMAGENET)
        model, pixels, y = convolutional(), pictures(), classes()
        whole = nn.Sequential(Function(lambda x: (x - mean) / std), model)
        x = (pixels - mean) / std
        for eps in (0.01, 0.1):
            fgsm = fgsm_attack(model, x, y, eps=eps, normalization=IMAGENET) * std + mean
            assert torch.allclose(fgsm, torchattacks.FGSM(whole, eps=eps)(pixels, y), atol=1e-9)
            pgd = pgd_attack(model, x, y, eps=eps, alpha=eps / 4, steps=6, random_start=False, normalization=IMAGENET)
            oracle = torchattacks.PGD(whole, eps=eps, alpha=eps / 4, steps=6, random_start=False)
            assert torch.allclose(pgd * std + mean, oracle(pixels, y), atol=1e-9)

    @given(seeds, st.integers(2, 6), st.floats(0.1, 8))
    def test_attack_loss_is_cross_entropy_before_the_last_logarithm(self, seed, c, scale):
        logits = scale * torch.randn(4, c, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        logits.requires_grad_()
        loss, entropy = attack_loss(logits, classes(4, c)), F.cross_entropy(logits, classes(4, c), reduction="none")
        assert torch.allclose(F.softplus(loss), entropy)
        ours = torch.autograd.grad(loss.sum(), logits)[0]
        theirs = torch.autograd.grad(entropy.sum(), logits)[0]
        assert torch.allclose(ours * torch.sigmoid(loss.detach())[:, None], theirs)

    @given(seeds)
    @settings(max_examples=15)
    def test_a_small_attack_raises_every_loss(self, seed):
        model, x, y = convolutional(seed), pictures(seed), classes()
        before = F.cross_entropy(model(x), y, reduction="none")
        for adversarial in (fgsm_attack(model, x, y, eps=1e-3), pgd_attack(model, x, y, eps=1e-3, seed=0)):
            assert (F.cross_entropy(model(adversarial), y, reduction="none") > before).all()

    def test_samples_do_not_mix(self):
        model, x, y = convolutional(), pictures(), classes()
        for attack in (fgsm_attack, lambda *a, **k: pgd_attack(*a, **k, random_start=False)):
            alone = torch.cat([attack(model, x[i : i + 1], y[i : i + 1], eps=0.05) for i in range(5)])
            assert torch.allclose(attack(model, x, y, eps=0.05), alone, atol=1e-9)

    def test_the_target_steers(self):
        """On a linear model of two classes the step is the sign of the other class's weights minus the target's."""
        model, x = linear(c=2), 0.2 + 0.6 * pictures()
        rise = (model[1].weight[1] - model[1].weight[0]).detach().reshape(3, 8, 8)
        for target, sign in ((0, 1), (1, -1)):
            change = fgsm_attack(model, x, torch.full((5,), target), eps=0.1) - x
            assert torch.allclose(change, sign * 0.1 * rise.sign().expand_as(x))

    def test_pgd_finds_more_errors_than_fgsm(self, trained):
        eps = 4 / 255
        fgsm = fgsm_attack(trained.model, trained.x, trained.y, eps=eps)
        pgd = pgd_attack(trained.model, trained.x, trained.y, eps=eps, steps=10, seed=0)
        noise = pgd_attack(trained.model, trained.x, trained.y, eps=eps, steps=1, alpha=1e-9, seed=0)
        shares = [share_right(trained.model, x, trained.y) for x in (pgd, fgsm, noise)]
        assert shares[0] <= shares[1] < shares[2]

    def test_seeds(self):
        model, x, y = convolutional(), pictures(), classes()

        def run(seed):
            return pgd_attack(model, x, y, eps=0.1, steps=2, seed=seed)

        assert torch.equal(run(1), run(1))
        assert not torch.equal(run(1), run(2))
        assert not torch.equal(run(None), run(None))
        torch.manual_seed(0)
        first = run(None)
        torch.manual_seed(0)
        assert not torch.equal(first, run(None))

    def test_the_random_start_is_uniform(self):
        x = torch.full((4, 3, 32, 32), 0.5, dtype=torch.float64)
        start = pgd_attack(linear(features=3072), x, classes(4), eps=0.2, alpha=1e-12, steps=1, seed=0) - x
        histogram = torch.histc(start, bins=10, min=-0.2, max=0.2) / start.numel()
        assert (histogram - 0.1).abs().max() < 0.01

    def test_default_step(self):
        model, x, y = convolutional(), pictures(), classes()
        expected = pgd_attack(model, x, y, eps=0.1, alpha=2.5 * 0.1 / 7, steps=7, seed=0)
        assert torch.equal(pgd_attack(model, x, y, eps=0.1, steps=7, seed=0), expected)
        assert not torch.equal(pgd_attack(model, x, y, eps=0.1, alpha=0.01, steps=7, seed=0), expected)

    @pytest.mark.parametrize("eps", [1 / 255, 2 / 255, 4 / 255])
    def test_early_stop_has_the_same_error_rate(self, trained, eps):
        options = {"eps": eps, "steps": 10, "seed": 0}
        whole = pgd_attack(trained.model, trained.x, trained.y, **options)
        early = pgd_attack(trained.model, trained.x, trained.y, **options, early_stop=True)
        assert share_right(trained.model, early, trained.y) == share_right(trained.model, whole, trained.y)
        assert (early - trained.x).abs().mean() < (whole - trained.x).abs().mean()

    def test_early_stop_leaves_what_is_wrong_already(self):
        model, x = linear(), pictures()
        wrong = model(x).argmin(1)
        early = pgd_attack(model, x, wrong, eps=0.1, random_start=False, early_stop=True)
        assert torch.equal(early, x)

    def test_early_stop_saves_forward_passes(self):
        model, x = linear(), pictures()
        wrong, rows = model(x).argmin(1), []
        handle = model.register_forward_hook(lambda module, args, output: rows.append(len(output)))
        pgd_attack(model, x, wrong, eps=0.1, steps=9, random_start=False, early_stop=True)
        handle.remove()
        assert rows == [5]

    def test_channels_last_inputs(self):
        model, x, y = convolutional(), pictures(), classes()
        last = x.to(memory_format=torch.channels_last)
        assert torch.allclose(fgsm_attack(model, last, y, eps=0.1), fgsm_attack(model, x, y, eps=0.1))
        ours, theirs = (pgd_attack(model, z, y, eps=0.1, steps=3, seed=0) for z in (last, x))
        assert torch.allclose(ours, theirs)

    @pytest.mark.parametrize("shape", [(5, 4), (5, 2, 6), (5, 1, 4, 4), (5, 3, 2, 2, 2)])
    def test_inputs_of_any_rank(self, shape):
        x = torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        model = linear(features=x[0].numel())
        std = [0.5] * shape[1]
        for attack in (fgsm_attack, pgd_attack):
            result = attack(model, x, classes(), eps=0.1, bounds=(-1, 1), normalization=([0] * shape[1], std))
            assert result.shape == x.shape
            assert ((result - x) * 0.5).abs().max() <= 0.1

    def test_two_classes_objects_with_logits_and_small_integers(self):
        class Wrapped(nn.Module):
            def __init__(self):
                super().__init__()
                self.inner = linear(c=2)

            def forward(self, x):
                return SimpleNamespace(logits=self.inner(x))

        model, x, y = Wrapped(), pictures(), classes(5, 2)
        expected = torchattacks.FGSM(model.inner, eps=0.1)(x, y)
        for target in (y, y.int(), y.to(torch.uint8)):
            assert torch.allclose(fgsm_attack(model, x, target, eps=0.1), expected)

    @pytest.mark.parametrize("attack", [fgsm_attack, pgd_attack, adversarial_training])
    @pytest.mark.parametrize(
        ("change", "error", "words"),
        [
            ({"model": len}, TypeError, "torch.nn.Module"),
            ({"model": Function(lambda x: x.sum())}, ValueError, r"logits \(N, C\)"),
            ({"model": Function(lambda x: x.flatten(1)[:, :1])}, ValueError, "C ≥ 2"),
            ({"model": Function(lambda x: x[:2].flatten(1))}, ValueError, "N = 5"),
            ({"model": Function(lambda x: (x, x))}, TypeError, "tuple of length 2"),
            ({"model": Function(lambda x: x.detach().flatten(1)[:, :3])}, ValueError, "does not depend on its inputs"),
            ({"model": Function(lambda x: torch.ones(5, 3))}, ValueError, "does not depend on its inputs"),
            ({"model": Function(lambda x: x.flatten(1)[:, :3] * NAN)}, ValueError, "NaN|finite"),
            ({"inputs": torch.zeros(0, 3, 8, 8)}, ValueError, "empty"),
            ({"inputs": torch.zeros(5)}, ValueError, "batch axis"),
            ({"inputs": torch.zeros(5, 3, 8, 8).byte()}, TypeError, "floating"),
            ({"inputs": torch.full((5, 3, 8, 8), NAN)}, ValueError, "NaN"),
            ({"inputs": [0.5]}, TypeError, "torch.Tensor"),
            ({"inputs": torch.full((5, 3, 8, 8), 1.0002)}, ValueError, r"bounds \[0.0, 1.0\].*normalization"),
            ({"inputs": pictures() - 0.1}, ValueError, r"bounds \[0.0, 1.0\].*normalization"),
            ({"inputs": pictures() * 255}, ValueError, r"bounds \[0.0, 1.0\]"),
            ({"target": classes()[:4]}, ValueError, "one label for each of the 5"),
            ({"target": classes().float()}, TypeError, "integer"),
            ({"target": classes() + 1}, ValueError, "0 to 2"),
            ({"target": classes() - 1}, ValueError, "0 to 2"),
            ({"target": classes()[:, None]}, ValueError, "1 dimension"),
            ({"target": 1}, TypeError, "torch.Tensor"),
            ({"eps": -0.1}, ValueError, "eps must not be negative"),
            ({"eps": NAN}, ValueError, "eps must be finite"),
            ({"eps": math.inf}, ValueError, "eps must be finite"),
            ({"eps": "8/255"}, TypeError, "eps must be a number"),
            ({"bounds": (1, 0)}, ValueError, "low < high"),
            ({"bounds": (0, 0)}, ValueError, "low < high"),
            ({"bounds": 1}, ValueError, "pair"),
            ({"bounds": (0, 1, 2)}, ValueError, "pair"),
            ({"bounds": (0, NAN)}, ValueError, "bounds"),
            ({"bounds": ("0", "1")}, TypeError, "bounds"),
            ({"normalization": 0.5}, ValueError, "pair"),
            ({"normalization": (0.5,)}, ValueError, "pair"),
            ({"normalization": ([0.5, 0.5], [1, 1])}, ValueError, "mean must be 3 finite numbers"),
            ({"normalization": ([0.5] * 3, [1, 1])}, ValueError, "std must be 3 finite numbers"),
            ({"normalization": ([0.5] * 3, [1, 1, 0])}, ValueError, "std must be positive"),
            ({"normalization": ([0.5] * 3, [1, 1, -1])}, ValueError, "std must be positive"),
            ({"normalization": ([NAN] * 3, [1, 1, 1])}, ValueError, "mean must be 3 finite"),
            ({"normalization": ("mean", "std")}, (TypeError, ValueError), "normalization"),
            ({"normalization": (None, None)}, (TypeError, ValueError), "normalization"),
        ],
    )
    def test_bad_input(self, attack, change, error, words):
        given_ = {"model": linear(), "inputs": pictures(), "target": classes(), "eps": 0.1} | change
        with pytest.raises(error, match=words):
            attack(given_.pop("model"), given_.pop("inputs"), given_.pop("target"), **given_)

    @pytest.mark.parametrize("attack", [pgd_attack, adversarial_training])
    @pytest.mark.parametrize(
        ("options", "error", "words"),
        [
            ({"steps": 0}, ValueError, "steps must be at least 1"),
            ({"steps": 2.5}, TypeError, "steps must be an int"),
            ({"steps": 0, "alpha": 0.1}, ValueError, "steps must be at least 1"),
            ({"steps": -1, "alpha": 0.1}, ValueError, "steps must be at least 1"),
            ({"steps": 2.5, "alpha": 0.1}, TypeError, "steps must be an int"),
            ({"steps": True, "alpha": 0.1}, TypeError, "steps must be an int"),
            ({"alpha": 0}, ValueError, "alpha"),
            ({"alpha": -0.1}, ValueError, "alpha"),
            ({"alpha": NAN}, ValueError, "alpha"),
            ({"alpha": "0.1"}, TypeError, "alpha must be a number"),
            ({"seed": -1}, ValueError, "seed"),
            ({"seed": 0.5}, TypeError, "seed"),
        ],
    )
    def test_bad_options(self, attack, options, error, words):
        with pytest.raises(error, match=words):
            attack(linear(), pictures(), classes(), eps=0.1, **options)

    def test_a_gradient_of_nan_is_no_attack(self):
        """sign(NaN) is 0: the inputs would come back unchanged, and the model would seem robust."""
        model = Function(lambda x: ((x - x).sqrt() + x).flatten(1)[:, :3])
        with pytest.raises(ValueError, match="NaN|finite"):
            fgsm_attack(model, pictures(), classes(), eps=0.1)

    @pytest.mark.parametrize(("dtype", "alpha"), [(torch.float32, 1e39), (torch.float16, 1e6)])
    def test_a_huge_step_stays_finite(self, dtype, alpha):
        """A step beyond the dtype's range times a gradient of 0 is NaN."""
        model, x = linear(), pictures(dtype=dtype)
        with torch.no_grad():
            model[1].weight[:, 0] = 0
        result = pgd_attack(model.to(dtype), x, classes(), eps=0.1, alpha=alpha, steps=1, random_start=False)
        assert result.isfinite().all()


class TestAttackErrors:
    def test_e49_the_callers_tensor_is_not_touched(self):
        model, x, y = linear(), pictures(), classes()
        naive = x.clone()
        naive.requires_grad = True
        F.cross_entropy(model(naive), y).backward()
        result = naive + 0.1 * naive.grad.sign()
        assert naive.requires_grad  # the error: all three
        assert naive.grad is not None
        assert result.requires_grad
        for attack in (fgsm_attack, pgd_attack):
            own = x.clone()
            result = attack(model, own, y, eps=0.1)
            assert torch.equal(own, x)
            assert not own.requires_grad
            assert own.grad is None
            assert not result.requires_grad
            assert result.grad_fn is None

    def test_e50_input_gradients_do_not_accumulate(self):
        model, y = linear(), classes()
        naive = pictures().requires_grad_()
        F.cross_entropy(model(naive), y).backward()
        first = naive.grad.clone()
        F.cross_entropy(model(naive), y).backward()
        assert torch.allclose(naive.grad, 2 * first)  # the error: ratio 2.0
        naive.grad = first.clone()
        F.cross_entropy(model(naive), (y + 1) % 3).backward()
        wrong = (naive.grad.sign() != (naive.grad - first).sign()).double().mean()
        assert wrong > 0.1  # and with other targets, pixels go the wrong way
        x = pictures().requires_grad_()
        x.grad = first.clone() * 1000
        for target in (y, (y + 1) % 3, y):
            expected = torchattacks.FGSM(model, eps=0.1)(pictures(), target)
            assert torch.allclose(fgsm_attack(model, x, target, eps=0.1), expected)
        assert torch.equal(x.grad, first * 1000)

    def test_e51_parameter_gradients_survive_and_non_leaf_inputs_work(self):
        model, x, y = linear(), pictures(), classes()
        F.cross_entropy(model(x), y).backward()
        mine = [p.grad.clone() for p in model.parameters()]
        naive = copy.deepcopy(model)
        leaf = x.clone().requires_grad_()
        naive.zero_grad()
        F.cross_entropy(naive(leaf), (y + 1) % 3).backward()
        assert not torch.allclose(naive[1].weight.grad, mine[0])  # the error: mine are gone, the attack's are there
        for attack in (fgsm_attack, pgd_attack):
            attack(model, x, (y + 1) % 3, eps=0.1)
            assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), mine, strict=True))
        non_leaf = (leaf * 1.0).clamp(0, 1)
        loss = F.cross_entropy(model(non_leaf), y)
        with pytest.warns(UserWarning, match="not a leaf"):
            assert non_leaf.grad is None  # the error: None has no sign
        assert torch.equal(fgsm_attack(model, non_leaf, y, eps=0.1), fgsm_attack(model, x, y, eps=0.1))
        loss.backward()  # the caller's graph is still whole

    def test_e52_attack_in_pixel_units_on_normalised_pictures(self, trained):
        exact = torch.tensor(IMAGENET[1], dtype=torch.float64).reshape(3, 1, 1)
        mean, std = (torch.tensor(v).reshape(3, 1, 1) for v in IMAGENET)
        model = nn.Sequential(Function(lambda x: x * std + mean), trained.model).eval()  # takes normalised pictures
        x = (trained.x - mean) / std
        naive = x.clamp(0, 1)  # FGSM's last line, at eps 0
        assert ((naive - x) * std).abs().max() > 0.4  # the error: far more than any eps
        assert share_right(model, naive, trained.y) < trained.accuracy - 0.03
        options = {"normalization": IMAGENET}
        assert torch.equal(fgsm_attack(model, x, trained.y, eps=0, **options), x)
        for eps in (0.03, 8 / 255):
            result = pgd_attack(model, x, trained.y, eps=eps, steps=3, seed=0, **options)
            assert ((result.double() - x.double()) * exact).abs().max() <= eps
            pixels = result * std + mean
            assert pixels.min() >= -1e-6
            assert pixels.max() <= 1 + 1e-6
        with pytest.raises(ValueError, match=r"pass normalization=\(mean, std\)"):
            fgsm_attack(model, x, trained.y, eps=0.03)

    def test_e53_pgd_starts_at_random(self):
        model, x, y = convolutional(), pictures(), classes()
        basic = torchattacks.BIM(model, eps=0.1, alpha=0.03, steps=5)(x, y)
        options = {"eps": 0.1, "alpha": 0.03, "steps": 5}
        assert torch.allclose(pgd_attack(model, x, y, **options, random_start=False), basic, atol=1e-7)
        assert (pgd_attack(model, x, y, **options, seed=0) - basic).abs().max() > 0.01
        far = pgd_attack(model, x, y, **options, seed=0) - pgd_attack(model, x, y, **options, seed=1)
        assert far.abs().max() > 0.01

    def test_e54_the_attack_does_not_die_on_a_sure_model(self, trained):
        sure = nn.Sequential(trained.model, Function(lambda z: 100 * z)).eval()
        right = trained.model(trained.x).argmax(1) == trained.y
        x, y = trained.x[right], trained.y[right]
        leaf = x.clone().requires_grad_()
        naive = torch.autograd.grad(F.cross_entropy(sure(leaf), y, reduction="sum"), leaf)[0]
        dead = float((naive == 0).double().mean())
        assert dead > 0.5  # the error: most of the gradient is exactly 0
        eps = 8 / 255
        careless = torchattacks.FGSM(sure, eps=eps)(x, y)
        ours = fgsm_attack(sure, x, y, eps=eps)
        assert share_right(sure, ours, y) < share_right(sure, careless, y) - 0.1
        still = ((ours == x).flatten(1).all(1)).double().mean()
        assert still == 0
        leaf = torch.tensor([[1e4, 0.0, -1.0]], requires_grad=True)
        assert torch.autograd.grad(F.cross_entropy(leaf, torch.tensor([0])), leaf)[0].abs().max() == 0
        assert torch.autograd.grad(attack_loss(leaf, torch.tensor([0])).sum(), leaf)[0][0, 0] == -1

    def test_e55_adversarial_training_trains(self):
        torch.manual_seed(0)
        model = small_classifier().train()
        model[0].eval()  # one mode set on purpose
        model.insert(13, nn.Dropout(0.5))
        x, y = pictures(dtype=torch.float32), classes()
        naive = copy.deepcopy(model)
        naive.eval()
        leaf = x.clone().requires_grad_()
        F.cross_entropy(naive(leaf), y).backward()
        adversarial = (leaf + 0.1 * leaf.grad.sign()).clamp(0, 1)
        F.cross_entropy(naive(adversarial.detach()), y)
        assert int(naive[1].num_batches_tracked) == 0  # the error: nothing learned of the data, dropout off,
        assert not naive.training  # in evaluation mode ever after,
        assert naive[0].weight.grad is not None  # and the attack's gradient in .grad
        modes = [module.training for module in model.modules()]
        losses = adversarial_training(model, x, y, eps=0.1, steps=3, seed=0)
        assert [module.training for module in model.modules()] == modes
        assert (
            int(model[1].num_batches_tracked) == 2
        )  # one for the clean pass, one for the attacked, none for the attack
        assert all(p.grad is None for p in model.parameters())
        losses.total.backward()
        assert all(p.grad is not None for p in model.parameters())
        model.eval()
        with pytest.raises(ValueError, match=r"call model.train\(\)"):
            adversarial_training(model, x, y, eps=0.1)


class TestAdversarialTraining:
    @given(seeds)
    @settings(max_examples=10)
    def test_equals_the_version_by_hand(self, seed):
        torch.manual_seed(seed)
        model = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.Flatten(), nn.Linear(144, 3)
        ).double()
        model(pictures(seed + 1))  # statistics of their own
        by_hand, x, y = copy.deepcopy(model), pictures(seed), classes()
        losses = adversarial_training(model, x, y, eps=0.1, alpha=0.03, steps=3, seed=seed)
        assert all(p.grad is None for p in model.parameters())
        losses.total.backward()

        by_hand.eval()
        adversarial = pgd_attack(by_hand, x, y, eps=0.1, alpha=0.03, steps=3, seed=seed)
        by_hand.train()
        clean, attacked = F.cross_entropy(by_hand(x), y), F.cross_entropy(by_hand(adversarial), y)
        ((clean + attacked) / 2).backward()
        ours, theirs = (
            [float(v.detach()) for v in three]
            for three in ((losses.clean, losses.adversarial, losses.total), (clean, attacked, (clean + attacked) / 2))
        )
        assert ours == pytest.approx(theirs, rel=1e-9)
        assert ours[2] == (ours[0] + ours[1]) / 2
        for p, q in zip(model.parameters(), by_hand.parameters(), strict=True):
            assert torch.allclose(p.grad, q.grad, atol=1e-9)

    def test_dropout_drops_and_a_seed_repeats_it(self):
        model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(192, 3)).double()
        x, y = pictures(), classes()

        def run(seed):
            losses = adversarial_training(model, x, y, eps=0, seed=seed)
            return float(losses.clean.detach()), float(losses.adversarial.detach())

        assert run(1) == run(1)
        assert run(1) != run(2)
        assert run(None) != run(None)
        clean, adversarial = run(1)
        assert clean != adversarial  # at eps 0 only the masks differ

    def test_batchnorm_moves_unless_frozen(self):
        for frozen in (False, True):
            model = stateful()
            model.norm.train(not frozen)
            before = model.norm.running_mean.clone()
            adversarial_training(model, *caller_tensors(), eps=0.1, steps=2, seed=0)
            assert torch.equal(model.norm.running_mean, before) is frozen

    def test_works_on_normalised_pictures(self):
        x = (pictures() - 0.5) / 0.25
        model, options = linear().train(), {"normalization": ([0.5] * 3, [0.25] * 3)}
        losses = adversarial_training(model, x, classes(), eps=0.1, steps=3, seed=0, **options)
        attacked = pgd_attack(model, x, classes(), eps=0.1, steps=3, seed=0, **options)
        expected = F.cross_entropy(model(attacked), classes())
        assert float(losses.adversarial.detach()) == pytest.approx(float(expected.detach()))
        assert float(losses.adversarial.detach()) > float(losses.clean.detach())

    def test_frozen_parameters_stay_without_gradients(self):
        model = convolutional().train()
        model[0].requires_grad_(False)
        adversarial_training(model, pictures(), classes(), eps=0.1, steps=2).total.backward()
        assert model[0].weight.grad is None
        assert model[5].weight.grad is not None

    def test_in_place_layers_do_not_reach_the_inputs(self):
        model, x = nn.Sequential(nn.Threshold(0.5, 0.0, inplace=True), *linear()).train(), pictures()
        losses = adversarial_training(model, x, classes(), eps=0.1, steps=2)
        losses.total.backward()
        assert torch.equal(x, pictures())

    def test_makes_a_model_more_robust(self):
        """On blobs of which one feature is strong and many are weak, training against the attack pays."""
        generator = torch.Generator().manual_seed(0)
        y = torch.randint(2, (400,), generator=generator)
        side = (2.0 * y - 1)[:, None]
        strong = 0.5 + 0.3 * side + 0.1 * torch.randn(400, 1, generator=generator)
        weak = 0.5 + 0.02 * side + 0.05 * torch.randn(400, 60, generator=generator)
        x = torch.cat([strong, weak], 1).clamp(0, 1)
        found = {}
        for robust in (False, True):
            torch.manual_seed(0)
            model = nn.Linear(61, 2)
            optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
            for step in range(80):
                optimizer.zero_grad()
                losses = adversarial_training(model, x, y, eps=0.1 if robust else 0.0, steps=2, seed=step)
                losses.total.backward()
                optimizer.step()
            found[robust] = evaluate_robustness(model, [(x, y)], fgsm_attack, eps=0.1).adversarial_accuracy
        assert found[True] > found[False] + 0.1


class TestEvaluateRobustness:
    def test_equals_counting_one_by_one(self, trained):
        pairs = list(zip(trained.x.split(40), trained.y.split(40), strict=True))  # 40, 40 and 16
        result = evaluate_robustness(trained.model, pairs, fgsm_attack, eps=2 / 255)
        before = trained.model(trained.x).argmax(1) == trained.y
        adversarial = fgsm_attack(trained.model, trained.x, trained.y, eps=2 / 255)
        after = trained.model(adversarial).argmax(1) == trained.y
        assert result.num_samples == 96
        assert result.clean_accuracy == int(before.sum()) / 96
        assert result.adversarial_accuracy == int((before & after).sum()) / 96
        assert 0 < result.adversarial_accuracy < result.clean_accuracy

    def test_e63_uneven_batches_count_by_sample(self):
        model = Function(lambda x: x)
        right, wrong = torch.tensor([[2.0, 0]]), torch.tensor([[0.0, 2]])
        batches = [(right.expand(64, 2), torch.zeros(64).long()), (wrong, torch.zeros(1).long())]
        means = [share_right(model, *batch) for batch in batches]
        assert sum(means) / 2 == 0.5  # the error: one sample outweighs 64
        result = evaluate_robustness(model, batches, lambda m, x, y: x)
        assert result.clean_accuracy == result.adversarial_accuracy == 64 / 65
        assert result.num_samples == 65

    def test_an_attack_cannot_repair(self):
        """A sample that is wrong without the attack counts as wrong, and is not shown to the attack."""
        model, seen = Function(lambda x: x), []
        x, y = torch.tensor([[1.0, 0], [0, 1], [1, 0]]), torch.tensor([0, 0, 0])

        def repair(model, inputs, target, *, strength):
            seen.append((len(inputs), strength))
            return torch.tensor([[1.0, 0]]).expand(len(inputs), 2)

        result = evaluate_robustness(model, [(x, y)], repair, strength=7)
        assert result.clean_accuracy == result.adversarial_accuracy == 2 / 3
        assert seen == [(2, 7)]
        all_wrong = evaluate_robustness(model, [(x, 1 - y), (x[:1], y[:1] + 1)], repair, strength=1)
        assert (all_wrong.clean_accuracy, all_wrong.adversarial_accuracy) == (0.25, 0)

    def test_no_sample_right_at_all(self):
        x, y = torch.tensor([[1.0, 0], [1, 0]]), torch.tensor([1, 1])
        result = evaluate_robustness(Function(lambda x: x), [(x, y)], fgsm_attack, eps=0.1)
        assert (result.clean_accuracy, result.adversarial_accuracy, result.num_samples) == (0, 0, 2)

    def test_a_shuffling_loader_leaves_the_global_state_alone(self, trained):
        loader = DataLoader(TensorDataset(trained.x, trained.y), batch_size=40, shuffle=True)
        torch.manual_seed(3)
        state = torch.get_rng_state()
        next(iter(loader))
        assert not torch.equal(torch.get_rng_state(), state)  # the loader alone draws
        torch.manual_seed(3)
        result = evaluate_robustness(trained.model, loader, fgsm_attack, eps=2 / 255)
        assert torch.equal(torch.get_rng_state(), state)
        listed = evaluate_robustness(trained.model, [(trained.x, trained.y)], fgsm_attack, eps=2 / 255)
        assert result == listed

    def test_more_eps_is_never_better_and_eps_zero_is_clean(self, trained):
        found = [
            evaluate_robustness(trained.model, [(trained.x, trained.y)], pgd_attack, eps=eps, steps=5, seed=0)
            for eps in (0, 1 / 255, 4 / 255, 16 / 255)
        ]
        accuracies = [result.adversarial_accuracy for result in found]
        assert accuracies[0] == found[0].clean_accuracy == pytest.approx(trained.accuracy)
        assert accuracies == sorted(accuracies, reverse=True)
        assert accuracies[-1] < 0.2

    @pytest.mark.parametrize(
        ("model", "loader", "attack", "error", "words"),
        [
            (len, [(pictures(), classes())], fgsm_attack, TypeError, "torch.nn.Module"),
            (linear(), [(pictures(), classes())], "fgsm", TypeError, "attack must be callable"),
            (linear(), [], fgsm_attack, ValueError, "loader is empty"),
            (linear(), 5, fgsm_attack, TypeError, "loader"),
            (linear(), [pictures()], fgsm_attack, TypeError, r"pairs \(inputs, target\)"),
            (linear(), [(pictures(),)], fgsm_attack, TypeError, r"pairs \(inputs, target\)"),
            (linear(), [(pictures(), classes()[:4])], fgsm_attack, ValueError, "each of the 5"),
            (linear(), [(pictures(), classes() + 1)], fgsm_attack, ValueError, "0 to 2"),
            (linear(), [(pictures(), classes().float())], fgsm_attack, TypeError, "integer"),
            (linear(), [(pictures() * NAN, classes())], fgsm_attack, ValueError, "NaN"),
            (linear(), [(pictures()[:0], classes()[:0])], fgsm_attack, ValueError, "empty"),
            (linear(), [(pictures() * 3, classes())], fgsm_attack, ValueError, "bounds"),
            (linear(), [(pictures().numpy(), classes().numpy())], fgsm_attack, TypeError, "torch.Tensor"),
            (linear(), [(pictures(), classes().tolist())], fgsm_attack, TypeError, "torch.Tensor"),
            (linear(), [((255 * pictures()).byte(), classes())], fgsm_attack, TypeError, "floating"),
            (Function(lambda x: x.sum((2, 3)) * NAN), [(pictures(), classes())], fgsm_attack, ValueError, "NaN|finite"),
        ],
    )
    def test_bad_input(self, model, loader, attack, error, words):
        with pytest.raises(error, match=words):
            evaluate_robustness(model, loader, attack, eps=0.1)

    @pytest.mark.parametrize(
        "attack", [lambda m, x, y: None, lambda m, x, y: x[:1], lambda m, x, y: x * NAN, lambda m, x, y: x[:, :1]]
    )
    def test_an_attack_that_returns_something_else(self, attack):
        x = pictures()
        y = linear()(x).argmax(1)
        with pytest.raises((TypeError, ValueError), match="attack"):
            evaluate_robustness(linear(), [(x, y)], attack)


# --- attributions ----------------------------------------------------------------------------------------------------


class TestSaliency:
    @given(seeds)
    @settings(max_examples=15)
    def test_equals_captum(self, seed):
        model, x = convolutional(seed), pictures(seed)
        for target in (classes(), 2):
            expected = Saliency(model).attribute(x.clone().requires_grad_(), target=target, abs=True)
            assert torch.allclose(saliency_map(model, x, target), expected.amax(1))
        answer = model(x).argmax(1)
        assert torch.equal(saliency_map(model, x), saliency_map(model, x, answer))

    def test_of_a_linear_model_is_the_weight(self):
        model = linear(features=12)
        x = torch.rand(5, 12, dtype=torch.float64)
        assert torch.equal(saliency_map(model, x, 1), model[1].weight[1].detach().abs().expand(5, 12))
        grey = linear(features=64)
        expected = grey[1].weight[2].detach().abs().reshape(8, 8).expand(5, 8, 8)
        assert torch.equal(saliency_map(grey, pictures(channels=1), 2), expected)

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_keeps_the_dtype(self, dtype):
        result = saliency_map(convolutional().to(dtype), pictures(dtype=dtype))
        assert result.dtype == dtype
        assert result.shape == (5, 8, 8)
        assert result.isfinite().all()
        assert (result > 0).any()

    def test_e56_saliency_does_not_accumulate(self):
        model = convolutional()
        naive = pictures().requires_grad_()
        model(naive)[:, 0].sum().backward()
        first = naive.grad.abs().amax(1)
        model(naive)[:, 0].sum().backward()
        assert torch.allclose(naive.grad.abs().amax(1), 2 * first)  # the error: the second map is twice the first
        x = pictures().requires_grad_()
        for _ in range(3):
            assert torch.allclose(saliency_map(model, x, 0), first)
        assert x.grad is None


class Named(nn.Module):
    """A network whose layers have dotted names, with a layer that runs twice and one that never runs."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(inplace=inplace))
        self.shared = nn.Conv2d(4, 4, 3, stride=2, padding=1)
        self.never = nn.Conv2d(3, 4, 3)
        self.fc = nn.Linear(4 * 2 * 2, 3)
        self.double()

    def forward(self, x):
        x = self.features(x)
        return self.fc(self.shared(self.shared(x)).flatten(1))


class TestGradCam:
    @given(seeds)
    @settings(max_examples=15)
    def test_equals_captum(self, seed):
        model, x = convolutional(seed), pictures(seed)
        for layer, target in ((0, classes()), (2, 1), (3, classes())):
            maps = LayerGradCam(model, model[layer]).attribute(x, target=target, relu_attributions=True).detach()
            small = maps[:, 0]
            large = LayerAttribution.interpolate(maps, (8, 8), interpolate_mode="bilinear")[:, 0]
            for expected, upsample in ((small, False), (large, True)):
                result = grad_cam(model, x, model[layer], target, upsample=upsample)
                largest = expected.amax((1, 2), keepdim=True)
                assert torch.allclose(result, expected / torch.where(largest > 0, largest, 1.0))
                assert result.shape == expected.shape
                assert torch.equal(grad_cam(model, x, str(layer), target, upsample=upsample), result)

    def test_behind_global_pooling_it_is_the_class_activation_map(self, trained):
        """Zhou et al. (2016): the last maps, weighted by the linear layer's row of the class."""
        model, x = trained.model, trained.x[:6]
        with torch.no_grad():
            maps, answer = model[:11](x), model(x).argmax(1)
            cam = F.relu(torch.einsum("nchw,nc->nhw", maps, model[13].weight[answer]))
        expected = cam / cam.amax((1, 2), keepdim=True)
        assert torch.allclose(grad_cam(model, x, "10", upsample=False), expected, atol=1e-5)
        assert grad_cam(model, x, "10").shape == (6, 16, 16)

    def test_lies_between_zero_and_one_and_reaches_one(self, trained):
        for layer in ("0", "4", "6", "10"):
            for upsample in (True, False):
                cam = grad_cam(trained.model, trained.x[:8], layer, upsample=upsample)
                assert cam.min() >= 0
                assert torch.equal(cam.amax((1, 2)), (cam.amax((1, 2)) > 0).float())

    def test_finds_the_object(self, trained):
        share = trained.masks.float().mean((1, 2))
        cam = grad_cam(trained.model, trained.x, "10")
        assert float((energy_inside(cam, trained.masks) / share).nanmean()) > 1.5

    def test_none_is_the_models_answer(self):
        model, x = convolutional(), pictures()
        assert torch.equal(grad_cam(model, x, "2"), grad_cam(model, x, "2", model(x).argmax(1)))

    def test_maps_without_evidence_are_zero_not_nan(self):
        model = nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 3))
        with torch.no_grad():
            model[4].weight.fill_(-1.0)
        for upsample, shape in ((True, (5, 8, 8)), (False, (5, 6, 6))):
            cam = grad_cam(model, pictures(dtype=torch.float32), "1", 0, upsample=upsample)
            assert torch.equal(cam, torch.zeros(shape))

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_keeps_the_dtype_and_stays_finite(self, dtype):
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)).double()
        with torch.no_grad():
            model[0].weight.mul_(300)  # maps of some hundreds
            model[3].weight.mul_(30)
        expected = grad_cam(model, pictures(), "0", 1)
        cam = grad_cam(model.to(dtype), pictures(dtype=dtype), "0", 1)
        assert cam.dtype == dtype
        assert cam.isfinite().all()
        assert torch.allclose(cam.double(), expected, atol=0.1)

    def test_a_layer_with_two_names(self):
        class Alias(nn.Module):
            def __init__(self):
                super().__init__()
                self.first = self.second = nn.Conv2d(3, 2, 3)
                self.fc = nn.Linear(72, 3)

            def forward(self, x):
                return self.fc(self.second(x).flatten(1))

        model, x = Alias(), pictures(dtype=torch.float32)
        expected = grad_cam(model, x, "first")
        assert torch.equal(grad_cam(model, x, model.second), expected)
        assert torch.equal(grad_cam(model, x, "second"), expected)

    @pytest.mark.parametrize(
        ("layer", "error", "words"),
        [
            ("conv9", ValueError, "no layer 'conv9'.*features.0"),
            ("", ValueError, "no layer ''"),
            ("features.7", ValueError, "no layer 'features.7'"),
            ("fc", ValueError, r"feature maps \(N, channels, h, w\).*\(5, 3\)"),
            ("shared", ValueError, "run once.*2 times"),
            ("never", ValueError, "run once.*0 times"),
            (nn.Conv2d(3, 4, 3), ValueError, "not part of the model"),
            (0, TypeError, "module or its dotted name"),
            (None, TypeError, "module or its dotted name"),
        ],
    )
    def test_bad_layer(self, layer, error, words):
        model = Named()
        with pytest.raises(error, match=words):
            grad_cam(model, pictures(), layer)
        assert all(not module._forward_hooks for module in model.modules())

    def test_inputs_that_are_no_pictures(self):
        model = nn.Sequential(nn.Unflatten(1, (3, 8, 8)), nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(72, 3)).double()
        with pytest.raises(ValueError, match=r"inputs|upsample"):
            grad_cam(model, pictures().flatten(1), "1")

    @pytest.mark.parametrize("detached", [True, False])
    def test_a_layer_that_the_answer_does_not_use(self, detached):
        class Aside(nn.Module):
            def __init__(self):
                super().__init__()
                self.conv, self.fc = nn.Conv2d(3, 2, 3), nn.Linear(192, 3)

            def forward(self, x):
                aside = self.conv(x)
                return self.fc(x.flatten(1)) + (aside.detach().mean() if detached else 0)

        with torch.no_grad():
            model = Aside()
        with pytest.raises(ValueError, match="layer"):
            grad_cam(model, pictures(dtype=torch.float32), "conv")

    def test_a_layer_that_runs_without_gradients(self):
        class Aside(nn.Module):
            def __init__(self):
                super().__init__()
                self.conv, self.fc = nn.Conv2d(3, 2, 3), nn.Linear(192, 3)

            def forward(self, x):
                with torch.no_grad():
                    aside = self.conv(x).mean()
                return self.fc(x.flatten(1)) + aside

        with pytest.raises(ValueError, match="layer|depend"):
            grad_cam(Aside(), pictures(dtype=torch.float32), "conv")

    def test_e57_hooks_are_removed(self):
        model, naive = convolutional(), convolutional()
        for _ in range(10):
            naive[2].register_forward_hook(lambda module, args, output: None)
            naive(pictures())
            grad_cam(model, pictures(), "2")
            with pytest.raises(ValueError, match="feature maps"):
                grad_cam(model, pictures(), "5")
        assert len(naive[2]._forward_hooks) == 10  # the error
        assert [len(m._forward_hooks) + len(m._backward_hooks) for m in model.modules()] == [0] * 7

    def test_e57_the_callers_own_hooks_stay(self):
        model, seen = convolutional(), []
        handle = model[2].register_forward_hook(lambda module, args, output: seen.append(1))
        grad_cam(model, pictures(), "2")
        assert handle.id in model[2]._forward_hooks
        assert len(seen) == 1

    def test_e58_in_place_relu_neither_crashes_nor_overwrites(self):
        plain, inplace = convolutional(activation=nn.ReLU()), convolutional(activation=nn.ReLU(inplace=True))
        x, kept = pictures(), []
        handle = inplace[2].register_full_backward_hook(lambda *_: None)
        with pytest.raises(RuntimeError, match="modified inplace"):  # the error: a full hook
            inplace(x.clone().requires_grad_())
        handle.remove()
        handle = inplace[2].register_forward_hook(lambda module, args, output: kept.append(output.detach()))
        inplace(x)
        handle.remove()
        assert kept[0].min() >= 0 > plain[:3](x).min()  # the error: what was kept has been through the ReLU
        for layer in ("0", "1", "2", "3"):
            for target in (None, classes()):
                assert torch.equal(grad_cam(inplace, x, layer, target), grad_cam(plain, x, layer, target))

    def test_e59_upsampled_and_wrong_layers_say_so(self):
        model, x = Named(), pictures()
        strided = convolutional()
        naive = LayerGradCam(strided, strided[2]).attribute(x, target=0)
        assert naive.shape[2:] == (4, 4)  # the error: not the picture's size
        assert grad_cam(strided, x, "2", 0).shape == (5, 8, 8)
        with pytest.raises(KeyError):
            dict(model.named_modules())["conv9"]  # the error: a KeyError says nothing
        with pytest.raises(ValueError, match="no layer 'conv9'; it has features, features.0"):
            grad_cam(model, x, "conv9")
        with pytest.raises(IndexError):
            model(x).mean((2, 3))  # the error: a linear layer
        with pytest.raises(ValueError, match="feature maps"):
            grad_cam(model, x, model.fc)
        runs = []
        handle = model.shared.register_forward_hook(lambda module, args, output: runs.append(output.shape[-1]))
        model(x)
        handle.remove()
        assert runs == [4, 2]  # the error: which of the two?
        with pytest.raises(ValueError, match="run once in a forward pass, but ran 2 times"):
            grad_cam(model, x, "shared")


METHODS = ["gausslegendre", "riemann_left", "riemann_middle", "riemann_right"]


class TestIntegratedGradients:
    @pytest.mark.parametrize("method", METHODS)
    @given(seeds, st.integers(2, 20))
    @settings(max_examples=5)
    def test_equals_captum(self, method, seed, n_steps):
        model, x = convolutional(seed), pictures(seed)
        baselines = pictures(seed + 1)
        for target, start in ((classes(), None), (1, 0.25), (classes(), baselines), (2, baselines[:1])):
            expected, delta = IntegratedGradients(model).attribute(
                x,
                baselines=start,
                target=target,
                n_steps=n_steps,
                method=method,
                return_convergence_delta=True,
            )
            options = {"baselines": start, "n_steps": n_steps, "method": method}
            ours, our_delta = integrated_gradients(model, x, target, **options, return_convergence_delta=True)
            assert torch.allclose(ours, expected, atol=1e-7)
            assert torch.allclose(our_delta, delta, atol=1e-6)  # captum's nodes are float32
            assert torch.equal(integrated_gradients(model, x, target, **options), ours)

    @pytest.mark.parametrize("method", [*METHODS, "riemann_trapezoid"])
    @pytest.mark.parametrize("n_steps", [2, 3, 50])
    def test_of_a_linear_model_is_exact_in_every_rule(self, method, n_steps):
        model, x = linear(), pictures()
        result, delta = integrated_gradients(
            model, x, 1, n_steps=n_steps, method=method, baselines=0.5, return_convergence_delta=True
        )
        expected = (x - 0.5) * model[1].weight[1].detach().reshape(3, 8, 8)
        assert torch.allclose(result, expected, atol=1e-12)
        assert delta.abs().max() < 1e-12

    @given(seeds)
    @settings(max_examples=15)
    def test_completeness(self, seed):
        model, x, start = convolutional(seed), pictures(seed), pictures(seed + 1)
        result, delta = integrated_gradients(model, x, classes(), baselines=start, return_convergence_delta=True)
        with torch.no_grad():
            rise = (model(x) - model(start)).gather(1, classes()[:, None])[:, 0]
        assert torch.allclose(result.flatten(1).sum(1), rise, atol=1e-8)
        assert torch.allclose(delta, result.flatten(1).sum(1) - rise, atol=1e-12)
        assert delta.abs().max() < 1e-8

    def test_polynomials_are_integrated_exactly_by_gauss_legendre(self):
        """n nodes are exact up to degree 2n − 1 of the gradient: here x⁶, whose gradient has degree 5."""
        model = Function(lambda x: torch.cat([x**6, x], 1))
        x = torch.tensor([[0.5], [2.0]], dtype=torch.float64)
        assert torch.allclose(integrated_gradients(model, x, 0, n_steps=3), x**6, rtol=1e-12)
        assert not torch.allclose(integrated_gradients(model, x, 0, n_steps=2), x**6, rtol=1e-3)

    @pytest.mark.parametrize("size", [1, 3, 7, 1000])
    def test_internal_batch_size_changes_nothing(self, size):
        model, x = convolutional(), pictures()
        rows = []
        expected = integrated_gradients(model, x, classes(), n_steps=9)
        handle = model.register_forward_hook(lambda module, args, output: rows.append(len(output)))
        result = integrated_gradients(model, x, classes(), n_steps=9, internal_batch_size=size)
        handle.remove()
        assert torch.allclose(result, expected, atol=1e-12)
        assert max(rows) <= max(size, 5)  # the answers of all five, to know the target and the rise
        assert sum(rows) >= 45

    def test_baselines_broadcast(self):
        model, x = convolutional(), pictures()
        grey = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)
        whole = grey.reshape(1, 3, 1, 1).expand(5, 3, 8, 8)
        expected = integrated_gradients(model, x, 0, baselines=whole)
        assert torch.equal(integrated_gradients(model, x, 0, baselines=grey.reshape(3, 1, 1)), expected)
        zeros = integrated_gradients(model, x, 0)
        for nothing in (0, 0.0, torch.zeros_like(x), torch.zeros(1)):
            assert torch.equal(integrated_gradients(model, x, 0, baselines=nothing), zeros)
        assert integrated_gradients(model, x, 0, baselines=x).abs().max() == 0

    def test_none_is_the_answer_at_the_inputs(self):
        model, x = convolutional(), pictures()
        answer = model(x).argmax(1)
        assert torch.equal(integrated_gradients(model, x), integrated_gradients(model, x, answer))

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_keeps_the_dtype(self, dtype):
        expected = integrated_gradients(convolutional(), pictures(), 0)
        result, delta = integrated_gradients(
            convolutional().to(dtype), pictures(dtype=dtype), 0, return_convergence_delta=True
        )
        assert result.dtype == dtype
        assert result.shape == (5, 3, 8, 8)
        assert delta.isfinite().all()
        scale = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 0.02, torch.bfloat16: 0.1}[dtype]
        assert (result.double() - expected).abs().max() < scale * expected.abs().max()

    def test_e60_gauss_legendre_beats_the_endpoint_rule(self):
        model, x = convolutional(), 2 * pictures()

        def endpoint(n):
            """The tutorials' rule: n points from 0 to 1 with both ends, each with weight 1/n."""
            total = torch.zeros_like(x)
            for alpha in torch.linspace(0, 1, n).tolist():
                leaf = (alpha * x).requires_grad_()
                total += torch.autograd.grad(model(leaf)[:, 0].sum(), leaf)[0] / n
            return x * total

        with torch.no_grad():
            rise = (model(x) - model(torch.zeros_like(x)))[:, 0]
        wrong = (endpoint(50).flatten(1).sum(1) - rise).abs().max()
        right = (integrated_gradients(model, x, 0, n_steps=50).flatten(1).sum(1) - rise).abs().max()
        assert wrong > 1e-4  # the error
        assert right < wrong / 100

    def test_p4_trapezoid_weights_sum_to_one(self):
        model, x = linear(), pictures()
        expected = x * model[1].weight[0].detach().reshape(3, 8, 8)
        theirs = IntegratedGradients(model).attribute(x, target=0, n_steps=50, method="riemann_trapezoid")
        assert torch.allclose(theirs, 0.98 * expected)  # the error: the weights sum to .98
        for n_steps in (2, 5, 50):
            ours, delta = integrated_gradients(
                model, x, 0, n_steps=n_steps, method="riemann_trapezoid", return_convergence_delta=True
            )
            assert torch.allclose(ours, expected, atol=1e-12)
            assert delta.abs().max() < 1e-12
        quadratic = Function(lambda x: torch.cat([x**3, x], 1))  # the gradient 3x² at 0, ½, 1: weights ¼, ½, ¼
        one = torch.ones(1, 1, dtype=torch.float64)
        ours = integrated_gradients(quadratic, one, 0, n_steps=3, method="riemann_trapezoid")
        assert ours.item() == pytest.approx(3 * (0.5 * 0.25 + 0.25 * 1))

    @pytest.mark.parametrize(
        ("options", "error", "words"),
        [
            ({"n_steps": 0}, ValueError, "n_steps must be at least 1"),
            ({"n_steps": 2.0}, TypeError, "n_steps must be an int"),
            ({"n_steps": 1, "method": "riemann_trapezoid"}, ValueError, "n_steps must be at least 2"),
            ({"method": "simpson"}, ValueError, "'gausslegendre', 'riemann_left'.*'simpson'"),
            ({"internal_batch_size": 0}, ValueError, "internal_batch_size"),
            ({"internal_batch_size": 1.5}, TypeError, "internal_batch_size"),
            ({"baselines": torch.zeros(4, 3, 8, 8)}, ValueError, r"broadcast.*\(5, 3, 8, 8\)"),
            ({"baselines": torch.zeros(2, 5, 3, 8, 8)}, ValueError, "broadcast"),
            ({"baselines": torch.full((1,), NAN)}, ValueError, "NaN"),
            ({"baselines": NAN}, ValueError, "baselines"),
            ({"baselines": math.inf}, ValueError, "baselines"),
            ({"baselines": "black"}, TypeError, "baselines"),
            ({"baselines": True}, TypeError, "baselines"),
            ({"baselines": torch.zeros(1).long()}, TypeError, "baselines"),
        ],
    )
    def test_bad_options(self, options, error, words):
        with pytest.raises(error, match=words):
            integrated_gradients(convolutional(), pictures(), **options)


ATTRIBUTIONS = {
    "saliency_map": saliency_map,
    "grad_cam": lambda model, x, target=None: grad_cam(model, x, "conv" if hasattr(model, "conv") else "0", target),
    "integrated_gradients": integrated_gradients,
}


class TestAllAttributions:
    @pytest.mark.parametrize("name", ATTRIBUTIONS)
    @pytest.mark.parametrize(
        ("change", "error", "words"),
        [
            ({"model": len}, TypeError, "torch.nn.Module"),
            ({"x": pictures()[:0]}, ValueError, "empty"),
            ({"x": pictures() * NAN}, ValueError, "NaN"),
            ({"x": (255 * pictures()).byte()}, TypeError, "floating"),
            ({"x": [[0.5]]}, TypeError, "torch.Tensor"),
            ({"x": torch.zeros(3)}, ValueError, "batch axis"),
            ({"target": 3}, ValueError, "0 to 2"),
            ({"target": -1}, ValueError, "0 to 2"),
            ({"target": classes()[:2]}, ValueError, "each of the 5"),
            ({"target": classes().float()}, TypeError, "integer"),
            ({"target": 1.0}, TypeError, "target"),
            ({"target": True}, TypeError, "target"),
            ({"target": "disc"}, TypeError, "target"),
            ({"model": nn.Sequential(nn.Conv2d(3, 2, 3)).double()}, ValueError, r"logits \(N, C\)"),
            (
                {"model": nn.Sequential(nn.Conv2d(3, 2, 8), nn.Flatten(), Function(lambda z: z * NAN)).double()},
                ValueError,
                "NaN|finite",
            ),
            (
                {"model": nn.Sequential(nn.Conv2d(3, 2, 8), nn.Flatten(), Function(lambda z: (z, z))).double()},
                TypeError,
                "tuple",
            ),
        ],
    )
    def test_bad_input(self, name, change, error, words):
        given_ = {"model": convolutional(), "x": pictures(), "target": None} | change
        with pytest.raises(error, match=words):
            ATTRIBUTIONS[name](given_["model"], given_["x"], given_["target"])

    @pytest.mark.parametrize("name", ATTRIBUTIONS)
    def test_channels_last_inputs(self, name):
        model, x = convolutional(), pictures()
        last = x.to(memory_format=torch.channels_last)
        assert torch.allclose(ATTRIBUTIONS[name](model, last, classes()), ATTRIBUTIONS[name](model, x, classes()))

    @pytest.mark.parametrize("name", ATTRIBUTIONS)
    def test_an_int_is_that_class_for_all(self, name):
        model, x = convolutional(), pictures()
        many = [torch.full((5,), 2, dtype=dtype) for dtype in (torch.int64, torch.int32, torch.uint8)]
        expected = ATTRIBUTIONS[name](model, x, 2)
        assert all(torch.equal(ATTRIBUTIONS[name](model, x, target), expected) for target in many)
        assert not torch.equal(ATTRIBUTIONS[name](model, x, 1), expected)

    @pytest.mark.parametrize("name", [*ATTRIBUTIONS, "fgsm_attack", "pgd_attack"])
    def test_e62_models_that_view(self, name):
        model, x, y = Viewing(), pictures(), classes()
        with pytest.raises(RuntimeError, match="view size is not compatible"):
            model(x.to(memory_format=torch.channels_last))  # the error, of a model that is fast in that layout
        same = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(256, 3)).double()
        same[0].load_state_dict(model.conv.state_dict())
        same[3].load_state_dict(model.fc.state_dict())
        calls = ATTRIBUTIONS | {
            "fgsm_attack": lambda m, x, y: fgsm_attack(m, x, y, eps=0.1),
            "pgd_attack": lambda m, x, y: pgd_attack(m, x, y, eps=0.1, steps=3, seed=0),
        }
        assert torch.allclose(calls[name](model, x, y), calls[name](same, x, y))

    @pytest.mark.parametrize("size", [16, 17, 40])
    def test_e62_other_picture_sizes(self, trained, size):
        x = pictures(size=size, dtype=torch.float32)
        assert grad_cam(trained.model, x, "10").shape == (5, size, size)
        assert saliency_map(trained.model, x).shape == (5, size, size)
        assert fgsm_attack(trained.model, x, classes(), eps=0.1).shape == x.shape

    def test_an_error_of_the_model_comes_through(self):
        """A wrong number of channels has nothing to do with memory layouts."""
        for call in ATTRIBUTIONS.values():
            with pytest.raises(RuntimeError, match="expected input.*to have 3 channels"):
                call(convolutional(), pictures(channels=1))


# --- scores ----------------------------------------------------------------------------------------------------------


def random_masks(seed: int, n: int = 6, size: int = 5) -> torch.Tensor:
    return torch.rand(n, size, size, generator=torch.Generator().manual_seed(seed)) < 0.4


class TestScores:
    @given(seeds)
    def test_pointing_game_by_brute_force(self, seed):
        maps, masks = pictures(seed, 6, 1, 5)[:, 0] - 0.5, random_masks(seed)
        expected = []
        for one, mask in zip(maps.tolist(), masks.tolist(), strict=True):
            best = max((value, row, column) for row, line in enumerate(one) for column, value in enumerate(line))
            expected.append(mask[best[1]][best[2]])
        result = pointing_game(maps, masks)
        assert result.tolist() == expected
        assert result.dtype == torch.bool

    @given(seeds)
    def test_energy_by_brute_force(self, seed):
        maps, masks = pictures(seed, 6, 1, 5)[:, 0] - 0.5, random_masks(seed)
        expected = [
            sum(abs(v) for v, inside in zip(one, mask, strict=True) if inside) / sum(map(abs, one))
            for one, mask in zip(maps.flatten(1).tolist(), masks.flatten(1).tolist(), strict=True)
        ]
        assert energy_inside(maps, masks).tolist() == pytest.approx(expected)

    def test_energy_at_its_ends(self):
        masks = torch.zeros(3, 2, 2, dtype=torch.bool)
        masks[0] = True
        maps = torch.ones(3, 2, 2)
        maps[2] = 0
        assert energy_inside(maps, masks).tolist() == pytest.approx([1, 0, NAN], nan_ok=True)

    def test_energy_without_an_idea_is_the_masks_share(self):
        masks = random_masks(0)
        assert torch.allclose(energy_inside(torch.full((6, 5, 5), 0.3), masks), masks.float().mean((1, 2)))

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_energy_of_large_pictures_stays_finite(self, dtype):
        """The sum of 90,000 ones is beyond float16."""
        maps, masks = torch.ones(1, 300, 300, dtype=dtype), torch.zeros(1, 300, 300, dtype=torch.bool)
        masks[:, :150] = True
        result = energy_inside(maps, masks)
        assert result.dtype == dtype
        assert result.tolist() == [0.5]

    def brute_curve(self, model, x, maps, target, n_points, insertion, fill):
        means = []
        for i in range(n_points):
            k = round(i / (n_points - 1) * maps[0].numel())
            changed = torch.full_like(x, fill) if insertion else x.clone()
            for row in range(len(x)):
                for index in maps[row].flatten().sort(descending=True).indices[:k].tolist():
                    r, c = divmod(index, x.shape[3])
                    changed[row, :, r, c] = x[row, :, r, c] if insertion else fill
            with torch.no_grad():
                means.append(float(model(changed).softmax(1)[torch.arange(len(x)), target].mean()))
        return means

    @given(seeds, st.sampled_from([2, 3, 5, 9, 17, 65]), st.booleans(), st.sampled_from([0.0, 0.5, -1]))
    @settings(max_examples=20)
    def test_deletion_by_brute_force(self, seed, n_points, insertion, fill):
        model, x, maps = linear(seed, scale=5.0), pictures(seed), pictures(seed + 1)[:, 0]
        shares, means = deletion_curve(model, x, maps, classes(), n_points=n_points, insertion=insertion, fill=fill)
        assert shares.tolist() == pytest.approx(np.linspace(0, 1, n_points).tolist())
        assert means.tolist() == pytest.approx(self.brute_curve(model, x, maps, classes(), n_points, insertion, fill))

    def test_deletion_and_insertion_meet_at_their_ends(self):
        model, x, maps = convolutional(), pictures(), pictures(1)[:, 0]
        _, gone = deletion_curve(model, x, maps, classes(), fill=0.5)
        _, come = deletion_curve(model, x, maps, classes(), fill=0.5, insertion=True)
        with torch.no_grad():
            clean = model(x).softmax(1)[torch.arange(5), classes()].mean()
            blank = model(torch.full_like(x, 0.5)).softmax(1)[torch.arange(5), classes()].mean()
        assert len(gone) == 11
        assert [float(gone[0]), float(come[-1])] == pytest.approx([float(clean)] * 2)
        assert [float(gone[-1]), float(come[0])] == pytest.approx([float(blank)] * 2)

    def test_the_right_order_beats_the_wrong_one(self):
        """On a linear model, x·w is what a pixel gives."""
        model, x = linear(c=2, scale=20.0), pictures()
        y = model(x).argmax(1)
        rise = (x * (model[1].weight[y] - model[1].weight[1 - y]).reshape(5, 3, 8, 8)).sum(1).detach()
        right, wrong = (deletion_curve(model, x, maps, y)[1].mean() for maps in (rise, -rise))
        assert right < wrong - 0.2
        right, wrong = (deletion_curve(model, x, maps, y, insertion=True)[1].mean() for maps in (rise, -rise))
        assert right > wrong + 0.2

    @pytest.mark.parametrize(
        ("call", "error", "words"),
        [
            *[
                (call, error, words)
                for score in (pointing_game, energy_inside)
                for call, error, words in [
                    (lambda s=score: s(torch.rand(2, 4, 4), torch.ones(2, 4, 4)), ValueError, "bool tensor"),
                    (lambda s=score: s(torch.rand(2, 4, 4), random_masks(0, 2, 5)), ValueError, r"shape \(2, 4, 4\)"),
                    (lambda s=score: s(torch.rand(2, 4, 4), None), ValueError, "bool tensor"),
                    (lambda s=score: s(torch.rand(2, 3, 4, 4), random_masks(0, 2, 4)), ValueError, "3 dimension"),
                    (lambda s=score: s(torch.rand(0, 4, 4), random_masks(0, 0, 4)), ValueError, "empty"),
                    (lambda s=score: s(torch.full((2, 4, 4), NAN), random_masks(0, 2, 4)), ValueError, "NaN"),
                    (lambda s=score: s(torch.ones(2, 4, 4).long(), random_masks(0, 2, 4)), TypeError, "floating"),
                ]
            ],
            (lambda: deletion_curve(linear(), pictures(), pictures(), classes()), ValueError, "3 dimension"),
            (
                lambda: deletion_curve(linear(), pictures(), pictures(size=4)[:, 0], classes()),
                ValueError,
                r"shape \(5, 8, 8\)",
            ),
            (lambda: deletion_curve(linear(), pictures().flatten(1), pictures()[:, 0], classes()), ValueError, "4 dim"),
            (lambda: deletion_curve(len, pictures(), pictures()[:, 0], classes()), TypeError, "torch.nn.Module"),
            (lambda: deletion_curve(linear(), pictures(), pictures()[:, 0], classes() + 1), ValueError, "0 to 2"),
            (
                lambda: deletion_curve(linear(), pictures(), pictures()[:, 0], classes()[:3]),
                ValueError,
                "each of the 5",
            ),
            (lambda: deletion_curve(linear(), pictures(), pictures()[:, 0], classes() / 2), TypeError, "integer"),
            (lambda: deletion_curve(linear(), pictures(), pictures()[:, 0] * NAN, classes()), ValueError, "NaN"),
            (
                lambda: deletion_curve(linear(), pictures(), pictures()[:, 0], classes(), n_points=1),
                ValueError,
                "n_points must be at least 2",
            ),
            (
                lambda: deletion_curve(linear(), pictures(), pictures()[:, 0], classes(), n_points=3.0),
                TypeError,
                "n_points must be an int",
            ),
            (lambda: deletion_curve(linear(), pictures(), pictures()[:, 0], classes(), fill=NAN), ValueError, "fill"),
            (lambda: deletion_curve(linear(), pictures(), pictures()[:, 0], classes(), fill="0"), TypeError, "fill"),
        ],
    )
    def test_bad_input(self, call, error, words):
        with pytest.raises(error, match=words):
            call()


# --- figures ---------------------------------------------------------------------------------------------------------


def is_png(path) -> bool:
    return path.read_bytes().startswith(b"\x89PNG")


class TestFigures:
    @pytest.mark.parametrize("channels", [1, 3])
    @pytest.mark.parametrize("signed", [True, False])
    def test_attributions_of_grey_and_colour(self, tmp_path, channels, signed):
        x = pictures(n=3, channels=channels, size=6)
        maps = pictures(1, n=3, channels=1, size=6)[:, 0] - (0.5 if signed else 0)
        path = tmp_path / "attributions.png"
        figure = visualize_attributions(x, maps, titles=["a", "b", "c"], save_path=path if channels == 3 else None)
        assert path.exists() == (channels == 3)
        assert not path.exists() or is_png(path)
        assert len(figure.axes) == 7  # two rows of three, and the bar
        assert [ax.get_title() or ax.get_title("left") for ax in figure.axes[:3]] == ["a", "b", "c"]
        for i in range(3):
            shown = np.asarray(figure.axes[i].images[0].get_array())
            assert np.allclose(shown, x[i].expand(3, 6, 6).permute(1, 2, 0), atol=1e-6)
            under, over = figure.axes[3 + i].images
            assert under.get_extent() == over.get_extent() == figure.axes[i].images[0].get_extent()
            full = np.quantile(maps[i].abs().numpy(), 0.99)  # the strongest hundredth shares the last colour
            assert np.allclose(np.asarray(over.get_array()), (maps[i] / full).clamp(-1, 1), atol=1e-6)
            assert over.get_clim() == ((-1, 1) if signed else (0, 1))
            assert np.asarray(under.get_array()).shape == (6, 6, 3)
        colours = {image.get_cmap().name for ax in figure.axes[3:6] for image in ax.images[1:]}
        assert len(colours) == 1
        assert colours != {
            visualize_attributions(x, -maps if not signed else maps.abs()).axes[3].images[1].get_cmap().name
        }

    def test_attributions_with_channels_are_summed(self):
        x, maps = pictures(n=2), pictures(1, n=2) - 0.5
        figures = [visualize_attributions(x, m) for m in (maps, maps.sum(1))]
        ours, expected = (np.asarray(figure.axes[2].images[1].get_array()) for figure in figures)
        assert np.allclose(ours, expected)

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_every_dtype_gradient_and_nothing_at_all_can_be_drawn(self, dtype):
        x = pictures(n=2, dtype=dtype).requires_grad_()
        for maps in (x.mean(1), torch.zeros(2, 8, 8, dtype=dtype), -x):
            drawn = np.asarray(visualize_attributions(x, maps).axes[2].images[1].get_array())
            assert np.isfinite(drawn).all()
        drawn = np.asarray(plot_attack(x, x * 0.9).axes[4].images[0].get_array())
        assert np.isfinite(drawn).all()
        assert drawn.min() < 0.5

    def test_normalised_pictures_are_stretched(self):
        x = 4 * pictures(n=1) - 2
        shown = np.asarray(visualize_attributions(x, x[:, 0]).axes[0].images[0].get_array())
        assert shown.min() == 0
        assert shown.max() == 1

    def test_eight_are_shown(self):
        x = pictures(n=9)
        assert len(visualize_attributions(x, x[:, 0]).axes) == 17
        assert len(plot_attack(x, x).axes) == 24

    @pytest.mark.parametrize("channels", [1, 3])
    def test_attack_shows_both_and_the_difference(self, tmp_path, channels):
        x = pictures(n=2, channels=channels)
        adversarial = (x + 0.1 * (pictures(1, n=2, channels=channels) - 0.5)).clamp(0, 1)
        path = tmp_path / "attack.png"
        figure = plot_attack(x, adversarial, titles=list("abcd"), save_path=path)
        assert is_png(path)
        assert len(figure.axes) == 6
        change = adversarial - x
        rows = [x, adversarial, 0.5 + 0.5 * change / change.abs().max()]
        for row, expected in enumerate(rows):
            for i in range(2):
                shown = np.asarray(figure.axes[2 * row + i].images[0].get_array())
                assert np.allclose(shown, expected[i].expand(3, 8, 8).permute(1, 2, 0), atol=1e-6)
        titles = [ax.get_title() or ax.get_title("left") for ax in figure.axes[:4]]
        assert titles == ["a", "c", "b", "d"]
        factor = float(0.5 / change.abs().max())
        assert f"{factor:.0f}" in figure.axes[4].get_ylabel()

    def test_curves(self, tmp_path):
        curves = {"plain": ([0, 0.1], [1.0, 0.2]), "robust": (torch.tensor([0, 0.1, 0.2]), np.array([0.9, 0.8, 0.7]))}
        path = tmp_path / "curves.png"
        figure = plot_curves(curves, xlabel="eps", ylabel="accuracy", title="t", ylim=(0, 1), save_path=path)
        ax = figure.axes[0]
        assert is_png(path)
        assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_title("left")) == ("eps", "accuracy", "t")
        assert ax.get_ylim() == (0, 1)
        assert [text.get_text() for text in ax.get_legend().get_texts()] == ["plain", "robust"]
        assert ax.lines[0].get_xydata().tolist() == [[0, 1], [0.1, 0.2]]
        assert list(ax.lines[1].get_ydata()) == [0.9, 0.8, 0.7]
        assert ax.lines[0].get_marker() != ax.lines[1].get_marker()

    def test_one_curve_many_curves_and_given_axes(self):
        ax = Figure().subplots()
        y = torch.rand(3, requires_grad=True)
        assert plot_curves({"a": (range(3), y)}, xlabel="x", ylabel="y", ax=ax) is ax.figure
        assert ax.get_legend() is None
        many = {str(i): ([0, 1], [0, i]) for i in range(20)}
        assert len(plot_curves(many, xlabel="x", ylabel="y").axes[0].lines) == 20

    def test_pyplot_keeps_nothing(self):
        before, settings_before = plt.get_fignums(), dict(plt.rcParams)
        x = pictures()
        for figure in (
            visualize_attributions(x, x[:, 0]),
            plot_attack(x, x),
            plot_curves({"a": ([0, 1], [0, 1])}, xlabel="x", ylabel="y"),
        ):
            assert isinstance(figure, Figure)
            assert figure._repr_png_().startswith(b"\x89PNG")
        with pytest.raises(ValueError, match="shape"):
            plot_attack(x, x[:1])
        assert plt.get_fignums() == before
        assert dict(plt.rcParams) == settings_before

    @pytest.mark.parametrize(
        ("call", "error", "words"),
        [
            (lambda x: visualize_attributions(x[0], x[:, 0]), ValueError, "inputs must have 4 dim"),
            (lambda x: visualize_attributions(x[:, :2], x[:, 0]), ValueError, "1 or 3 channels"),
            (lambda x: visualize_attributions(x, x[:, 0, :4]), ValueError, r"shape \(5, 8, 8\)"),
            (lambda x: visualize_attributions(x, x[:3, 0]), ValueError, r"shape \(5, 8, 8\)"),
            (lambda x: visualize_attributions(x, x[0, 0]), ValueError, "attributions must have 3 or 4 dim"),
            (lambda x: visualize_attributions(x, x[:, 0] * NAN), ValueError, "NaN"),
            (lambda x: visualize_attributions(x * NAN, x[:, 0]), ValueError, "NaN"),
            (lambda x: visualize_attributions(x[:0], x[:0, 0]), ValueError, "empty"),
            (lambda x: visualize_attributions((255 * x).byte(), x[:, 0]), TypeError, "floating"),
            (lambda x: visualize_attributions(x, x[:, 0], titles=["a"]), ValueError, "titles.*5"),
            (lambda x: plot_attack(x, x[:, :1]), ValueError, "same shape"),
            (lambda x: plot_attack(x, x[:2]), ValueError, "same shape"),
            (lambda x: plot_attack(x[:, :2], x[:, :2]), ValueError, "1 or 3 channels"),
            (lambda x: plot_attack(x[0], x[0]), ValueError, "4 dim"),
            (lambda x: plot_attack(x, x * NAN), ValueError, "NaN"),
            (lambda x: plot_attack(x, x, titles=["a"] * 5), ValueError, "two texts for each of 5"),
            (lambda x: plot_curves({}, xlabel="x", ylabel="y"), ValueError, "empty"),
            (lambda x: plot_curves({"a": ([0, 1], [0])}, xlabel="x", ylabel="y"), ValueError, "'a' has 2 x and 1 y"),
        ],
    )
    def test_bad_input(self, call, error, words):
        with pytest.raises(error, match=words):
            call(pictures())

    def test_e61_rgb_tensors_are_drawn_in_place_and_nothing_is_kept(self):
        x, maps = pictures(n=1, size=6), torch.zeros(1, 6, 6)
        maps[0, 1, 4] = 1.0
        with pytest.raises(TypeError, match="Invalid shape"):
            Figure().subplots().imshow(x[0].numpy())  # the error: (3, H, W)
        open_before = len(plt.get_fignums())
        plt.figure()
        assert len(plt.get_fignums()) == open_before + 1  # the error: kept until somebody closes it
        plt.close()
        figure = visualize_attributions(x, maps)
        assert len(plt.get_fignums()) == open_before
        under, over = figure.axes[1].images
        assert under.get_extent() == over.get_extent()
        assert np.argwhere(np.asarray(over.get_array()) == 1).tolist() == [[1, 4]]
        opaque = np.broadcast_to(over.get_alpha(), (6, 6))
        assert opaque[1, 4] == 1
        assert opaque.sum() == 1  # elsewhere the picture shows through
