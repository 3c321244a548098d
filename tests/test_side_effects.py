"""No public function changes what belongs to its caller: parametrised over all of them, also when they raise."""

import contextlib
import copy
import random
import warnings
from importlib import import_module
from inspect import isfunction

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from course_utils import (
    advanced,
    basics,
    capstone,
    checks,
    data,
    homework,
    interpretation,
    iris,
    optimization,
    pitfalls,
)

SPLIT = iris.load_iris_split()
HISTORY = iris.train(iris.MLP(), SPLIT.x_train, SPLIT.y_train, epochs=3, progress=False)
PICTURES = data.generate_pictures(2)
SCENES = data.generate_scenes(2)
RAW = torch.tensor([[[20.0, 20, 9, 9, 0.9, 0.8, 0.1], [21, 20, 9, 9, 0.8, 0.7, 0.2]]]).expand(2, -1, -1)
FOUND = interpretation.interpret_detection_output(RAW)
PROMPT = torch.tensor([[0, 1]])
LANGUAGE_MODEL = interpretation.SimpleLanguageModel(5, 4)
HYPOTHESES = interpretation.beam_search_decode(LANGUAGE_MODEL, PROMPT, max_new_tokens=3, vocab="abcde")[0]
SCORES, HITS = torch.linspace(0.1, 0.9, 9), torch.tensor([0, 1, 0, 0, 1, 1, 0, 1, 1])
CURVE = (torch.linspace(0, 1, 5), torch.linspace(1, 0, 5))
MAPS = torch.linspace(0, 1, 2 * 4 * 25).reshape(2, 4, 5, 5)


def picture_data() -> data.ImageData:
    drawn = data.generate_pictures(36, classes=("disc", "ring", "square"), seed=0)
    parts = [data.ImageSet(drawn.images[i::3], drawn.target[i::3]) for i in range(3)]
    return data.ImageData(*parts, drawn.class_names, "shapes", torch.full((3,), 0.5), torch.full((3,), 0.25))


IMAGES = picture_data()
TEST_PART = (IMAGES.test.images, IMAGES.test.target)
NORMALIZATION = {"normalization": (IMAGES.mean, IMAGES.std)}
EVALUATION = capstone.evaluate_logits(torch.eye(3).repeat(4, 1), IMAGES.test.target)
READINGS = capstone.PictureReadings(*[torch.zeros(2, dtype=torch.int64)] * 2, *[torch.zeros(2).long()] * 4, ("a", "b"))
ROBUSTNESS = capstone.RobustnessCurve(*[torch.linspace(0, 1, 4)] * 4, num_samples=9)
RUNS = [(homework.Setting(epochs=2, dropout=0.5), 0)]
COMPARISON = homework.compare({"lr": [0.1, 1.0]}, seeds=2, epochs=2, progress=False)
PICTURE_HISTORY = capstone.TrainingHistory(*[torch.linspace(1, 3, 3)] * 6, False, "float32", 0)


def fresh_tensors() -> dict[str, torch.Tensor]:
    """Arguments that a careless function would write to: one is a leaf with a gradient, one part of a graph."""
    leaf = torch.linspace(-2, 2, 12).reshape(4, 3).requires_grad_()
    leaf.grad = torch.ones_like(leaf)
    x = SPLIT.x_test.clone().requires_grad_()
    return {
        "logits": leaf,
        "graph": leaf * 2,
        "row": torch.linspace(-1, 1, 3),
        "probabilities": torch.softmax(leaf.detach(), 1),
        "x": x,
        "y": SPLIT.y_test.clone(),
    }


# name → call with a model and the tensors above. A new public function without a line here fails the test below.
CALLS = {
    "basics.logits_to_probabilities": lambda m, t: basics.logits_to_probabilities(t["graph"], "multiclass"),
    "basics.probabilities_to_labels": lambda m, t: basics.probabilities_to_labels(t["probabilities"], "multiclass"),
    "basics.describe_output": lambda m, t: repr(basics.describe_output([t["logits"], {"a": t["graph"]}])),
    "basics.plot_probabilities": lambda m, t: basics.plot_probabilities(t["probabilities"][0])._repr_png_(),
    "basics.plot_temperature": lambda m, t: basics.plot_temperature(t["row"])._repr_png_(),
    "basics.plot_pictures": lambda m, t: basics.plot_pictures(PICTURES.images)._repr_png_(),
    "basics.plot_segmentation": lambda m, t: basics.plot_segmentation(
        PICTURES.images[0], PICTURES.masks[:1].float().expand(2, -1, -1), ["a", "b"]
    )._repr_png_(),
    "interpretation.interpret_classification_output": lambda m, t: interpretation.interpret_classification_output(
        t["graph"], ["a", "b", "c"]
    ).to_frame(),
    "interpretation.interpret_regression_output": lambda m, t: interpretation.interpret_regression_output(
        t["graph"], t["logits"]
    ).to_frame(),
    "interpretation.interpret_detection_output": lambda m, t: interpretation.interpret_detection_output(RAW),
    "interpretation.evaluate_detections": lambda m, t: interpretation.evaluate_detections(
        FOUND, SCENES.boxes, SCENES.labels, num_classes=10
    ),
    "interpretation.greedy_decode": lambda m, t: interpretation.greedy_decode(t["graph"][None]),
    "interpretation.beam_search_decode": lambda m, t: interpretation.beam_search_decode(
        OneTokenModel(m), torch.tensor([[0, 1, 2, 0]]), num_beams=2, max_new_tokens=3
    ),
    "interpretation.plot_samples": lambda m, t: interpretation.plot_samples(
        PICTURES.masks[:2], t["probabilities"][:2], t["y"][:2], ["a", "b", "c"]
    )._repr_png_(),
    "interpretation.plot_residuals": lambda m, t: interpretation.plot_residuals(
        interpretation.interpret_regression_output(t["graph"], t["logits"])
    )._repr_png_(),
    "interpretation.plot_intervals": lambda m, t: interpretation.plot_intervals(
        t["row"], t["row"], t["row"] - 1, t["row"] + 1
    )._repr_png_(),
    "interpretation.plot_detections": lambda m, t: interpretation.plot_detections(
        SCENES.images, FOUND, ["a", "b"], true_boxes=SCENES.boxes
    )._repr_png_(),
    "interpretation.plot_precision_recall": lambda m, t: interpretation.plot_precision_recall(
        {"a": CURVE}
    )._repr_png_(),
    "interpretation.plot_beam_tree": lambda m, t: interpretation.plot_beam_tree(HYPOTHESES)._repr_png_(),
    "optimization.adjust_threshold": lambda m, t: optimization.adjust_threshold(SCORES, HITS),
    "optimization.temperature_scaling": lambda m, t: optimization.temperature_scaling(
        t["graph"], torch.tensor([2, 0, 2, 0])
    ).probabilities(t["graph"]),
    "optimization.reliability_diagram": lambda m, t: optimization.reliability_diagram(SCORES, HITS).to_frame(),
    "optimization.expected_calibration_error": lambda m, t: optimization.expected_calibration_error(SCORES, HITS),
    "optimization.ensemble_predictions": lambda m, t: [
        optimization.ensemble_predictions([m, m], t["x"], method=method) for method in ("averaging", "voting")
    ],
    "optimization.fit_stacking": lambda m, t: optimization.fit_stacking([m, m], t["x"], t["y"]),
    "optimization.monte_carlo_dropout": lambda m, t: optimization.monte_carlo_dropout(m, t["x"], n_samples=3),
    "optimization.deep_ensemble": lambda m, t: optimization.deep_ensemble([m, m], t["x"]).to_frame(),
    "optimization.plot_reliability": lambda m, t: optimization.plot_reliability(
        {"a": optimization.reliability_diagram(SCORES, HITS)}
    )._repr_png_(),
    "optimization.plot_threshold": lambda m, t: optimization.plot_threshold(
        {"a": optimization.adjust_threshold(SCORES, HITS)}
    )._repr_png_(),
    "optimization.plot_confusion": lambda m, t: optimization.plot_confusion(HITS, HITS, ["a", "b"])._repr_png_(),
    "optimization.plot_groups": lambda m, t: optimization.plot_groups({"a": SCORES}, label="p")._repr_png_(),
    "optimization.plot_risk_coverage": lambda m, t: optimization.plot_risk_coverage({"a": CURVE})._repr_png_(),
    "pitfalls.detect_nan_inf": lambda m, t: pitfalls.detect_nan_inf(t),
    "pitfalls.first_nonfinite_layer": lambda m, t: [
        pitfalls.first_nonfinite_layer(m, inputs) for inputs in (t["x"], (t["x"],), {"x": t["x"]})
    ],
    "pitfalls.diagnose": lambda m, t: str(
        [
            pitfalls.diagnose(m, inputs, t["y"], torch.nn.functional.cross_entropy)
            for inputs in (t["x"], (t["x"],), {"x": t["x"]})
        ]
    ),
    "pitfalls.safe_softmax": lambda m, t: pitfalls.safe_softmax(t["graph"]),
    "pitfalls.safe_divide": lambda m, t: pitfalls.safe_divide(t["graph"], t["logits"]),
    "pitfalls.gradient_clipping": lambda m, t: pitfalls.gradient_clipping(m, 1e-3),
    "pitfalls.check_and_reshape_output": lambda m, t: pitfalls.check_and_reshape_output(
        t["logits"], (3, 4), dims="N C -> C N"
    ),
    "pitfalls.adaptive_pooling": lambda m, t: pitfalls.adaptive_pooling(t["graph"][None], (1, 4)),
    "pitfalls.clamp_output": lambda m, t: pitfalls.clamp_output(t["graph"], max=1),
    "pitfalls.normalize_output": lambda m, t: pitfalls.normalize_output(t["graph"]),
    "pitfalls.scale_output": lambda m, t: pitfalls.scale_output(t["graph"], current_range=(-2, 2)),
    "pitfalls.log_transform": lambda m, t: pitfalls.log_transform(t["probabilities"]),
    "pitfalls.exp_transform": lambda m, t: pitfalls.exp_transform(t["graph"]),
    "pitfalls.plot_curves": lambda m, t: pitfalls.plot_curves(
        {"a": CURVE}, xlabel="x", ylabel="y", log="y"
    )._repr_png_(),
    "pitfalls.plot_sizes": lambda m, t: pitfalls.plot_sizes({"a": t["graph"]}, {"limit": 0.1}, label="x")._repr_png_(),
    "advanced.multi_task_inference": lambda m, t: advanced.multi_task_inference(TwoHeads(m), t["x"]).to_frame(),
    "advanced.fgsm_attack": lambda m, t: advanced.fgsm_attack(m, t["x"], t["y"], eps=0.1, bounds=(-9, 9)),
    "advanced.pgd_attack": lambda m, t: advanced.pgd_attack(m, t["x"], t["y"], eps=0.1, steps=2, bounds=(-9, 9)),
    "advanced.adversarial_training": lambda m, t: (  # in eval mode it refuses, as its own tests show
        m.training and advanced.adversarial_training(m, t["x"], t["y"], eps=0.1, steps=2, bounds=(-9, 9))
    ),
    "advanced.evaluate_robustness": lambda m, t: advanced.evaluate_robustness(
        m, [(t["x"], t["y"])], advanced.fgsm_attack, eps=0.1, bounds=(-9, 9)
    ),
    "advanced.saliency_map": lambda m, t: advanced.saliency_map(m, t["x"]),
    "advanced.grad_cam": lambda m, t: advanced.grad_cam(PictureModel(m), MAPS, "maps"),
    "advanced.integrated_gradients": lambda m, t: advanced.integrated_gradients(m, t["x"], n_steps=2),
    "advanced.pointing_game": lambda m, t: advanced.pointing_game(t["logits"][None], torch.ones(1, 4, 3).bool()),
    "advanced.energy_inside": lambda m, t: advanced.energy_inside(t["logits"][None], torch.ones(1, 4, 3).bool()),
    "advanced.deletion_curve": lambda m, t: advanced.deletion_curve(PictureModel(m), MAPS, MAPS[:, 0], n_points=3),
    "advanced.visualize_attributions": lambda m, t: advanced.visualize_attributions(MAPS[:, :1], MAPS)._repr_png_(),
    "advanced.plot_attack": lambda m, t: advanced.plot_attack(MAPS[:, :1], MAPS[:, 1:2])._repr_png_(),
    "advanced.plot_curves": lambda m, t: advanced.plot_curves({"a": CURVE}, xlabel="x", ylabel="y")._repr_png_(),
    "advanced.plot_seeds": lambda m, t: advanced.plot_seeds({"a": t["row"]}, label="x")._repr_png_(),
    "capstone.bfloat16_is_faster": lambda m, t: capstone.bfloat16_is_faster(Coloured(m), IMAGES, pictures=4),
    "capstone.calibrate_model": lambda m, t: capstone.calibrate_model(Coloured(m), IMAGES),
    "capstone.evaluate_logits": lambda m, t: capstone.evaluate_logits(t["graph"], torch.tensor([0, 1, 2, 0])),
    "capstone.evaluate_model": lambda m, t: capstone.evaluate_model(Coloured(m), *TEST_PART, **NORMALIZATION),
    "capstone.interpret_model_outputs": lambda m, t: capstone.interpret_model_outputs(
        Coloured(m), *TEST_PART, **NORMALIZATION
    ).to_frame(),
    "capstone.load_trained_model": lambda m, t: capstone.load_trained_model(),
    "capstone.measure_robustness": lambda m, t: capstone.measure_robustness(Coloured(m), IMAGES, eps=0.1, steps=2),
    "capstone.normalize": lambda m, t: capstone.normalize(IMAGES.test.images, IMAGES.mean, IMAGES.std),
    "capstone.plot_confusion_matrix": lambda m, t: capstone.plot_confusion_matrix(EVALUATION)._repr_png_(),
    "capstone.plot_curves": lambda m, t: capstone.plot_curves({"a": CURVE}, xlabel="x", ylabel="y")._repr_png_(),
    "capstone.plot_metrics": lambda m, t: capstone.plot_metrics(EVALUATION)._repr_png_(),
    "capstone.plot_readings": lambda m, t: capstone.plot_readings(READINGS, IMAGES.test.images)._repr_png_(),
    "capstone.plot_robustness": lambda m, t: capstone.plot_robustness({"a": ROBUSTNESS})._repr_png_(),
    "capstone.plot_training": lambda m, t: capstone.plot_training(PICTURE_HISTORY)._repr_png_(),
    "capstone.predict_logits": lambda m, t: capstone.predict_logits(Coloured(m), TEST_PART[0], **NORMALIZATION),
    "capstone.train_model": lambda m, t: capstone.train_model(
        Coloured(m), IMAGES, epochs=1, batch_size=6, amp=False, progress=False
    ),
    "capstone.visualize_results": lambda m, t: capstone.visualize_results(EVALUATION, IMAGES.test.images),
    "homework.can_be_batched": lambda m, t: homework.can_be_batched(homework.Setting()),
    "homework.compare": lambda m, t: homework.compare(
        {"lr": [0.1, 1.0]}, data=(t["x"].repeat(4, 1), t["y"].repeat(4)), seeds=2, epochs=2
    ),
    "homework.expand_grid": lambda m, t: homework.expand_grid({"lr": [0.1, 1.0]}),
    "homework.plan_chunks": lambda m, t: homework.plan_chunks([(homework.Setting(), 0)], 9, 4, 3),
    "homework.requirements": lambda m, t: homework.requirements(COMPARISON),
    "homework.train_batched": lambda m, t: homework.train_batched(RUNS, t["x"], t["y"], 3),
    "homework.train_sequentially": lambda m, t: homework.train_sequentially(*RUNS[0], t["x"], t["y"], 3),
    "homework.validate_submission": lambda m, t: homework.validate_submission("no such file"),
    "iris.load_iris_split": lambda m, t: iris.load_iris_split(),
    "iris.train": lambda m, t: iris.train(m, t["x"], t["y"], epochs=3, progress=False),
    "iris.predict": lambda m, t: [
        iris.predict(m, inputs, ["a", "b", "c"], batch_size=20).to_frame() for inputs in (t["x"], {"x": t["x"]})
    ],
    "iris.wilson_interval": lambda m, t: iris.wilson_interval(29, 30),
    "iris.accuracy": lambda m, t: iris.accuracy(m, t["x"], t["y"]),
    "iris.count_parameters": lambda m, t: iris.count_parameters(m),
    "iris.parameter_table": lambda m, t: iris.parameter_table(m),
    "iris.weight_statistics": lambda m, t: iris.weight_statistics(m),
    "iris.model_summary": lambda m, t: [
        iris.model_summary(m, engine=engine, **options)
        for engine in ("torchinfo", "torchsummary")
        for options in ({"input_size": (2, 4)}, {"input_data": {"x": t["x"]}})
    ],
    "iris.plot_loss": lambda m, t: iris.plot_loss(HISTORY)._repr_png_(),
    "iris.plot_weight_distributions": lambda m, t: iris.plot_weight_distributions(m)._repr_png_(),
    "iris.plot_decision_regions": lambda m, t: iris.plot_decision_regions(m, t["x"], t["y"])._repr_png_(),
    "data.generate_pictures": lambda m, t: data.generate_pictures(2, seed=None),
    "data.generate_scenes": lambda m, t: data.generate_scenes(2, seed=None),
    "data.load_cifar10": lambda m, t: data.load_cifar10(source="shapes"),
    "data.load_recorded_outputs": lambda m, t: data.load_recorded_outputs(),
    "data.load_split": lambda m, t: data.load_split("wine"),
    "data.load_text": lambda m, t: data.load_text(),
    "checks.check": lambda m, t: checks.check("basics.stable_softmax", lambda z: torch.softmax(z, 1)),
    "checks.exercises": lambda m, t: checks.exercises(),
    "checks.self_check": lambda m, t: checks.self_check(),
}
# By purpose: they write files (their own tests prove that they overwrite none).
EXEMPT = {"checks.start_exercises", "capstone.write_report", "homework.collect_class"}
# The capstone hands these on; they are called where they are made.
HANDED_ON = {"capstone.load_cifar10", "capstone.load_recorded_outputs", "capstone.plot_pictures"}
# By purpose: parameters, or BatchNorm's statistics.
CHANGES_PARAMETERS = {"capstone.train_model", "iris.train", "advanced.adversarial_training"}
RUNS_THE_MODEL = {
    "capstone.bfloat16_is_faster",
    "capstone.calibrate_model",
    "capstone.evaluate_model",
    "capstone.interpret_model_outputs",
    "capstone.measure_robustness",
    "capstone.predict_logits",
    "capstone.train_model",
    "iris.train",
    "iris.predict",
    "iris.accuracy",
    "iris.model_summary",
    "iris.plot_decision_regions",
    "interpretation.beam_search_decode",
    "optimization.ensemble_predictions",
    "optimization.fit_stacking",
    "optimization.monte_carlo_dropout",
    "optimization.deep_ensemble",
    "pitfalls.first_nonfinite_layer",
    "pitfalls.diagnose",
    "advanced.multi_task_inference",
    "advanced.fgsm_attack",
    "advanced.pgd_attack",
    "advanced.adversarial_training",
    "advanced.evaluate_robustness",
    "advanced.saliency_map",
    "advanced.grad_cam",
    "advanced.integrated_gradients",
    "advanced.deletion_curve",
}


class TwoHeads(torch.nn.Module):
    """A classifier's logits as both tasks of a multi-task model."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model
        self.training = model.training

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = self.model(x)
        return {"classification": logits, "regression": logits[:, :1]}


class PictureModel(torch.nn.Module):
    """Feature maps (N, 4, H, W), averaged over space, into a classifier of four numbers."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.maps, self.model = torch.nn.Identity(), model
        self.training = model.training

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # (N, 4, H, W) → (N, 3)
        return self.model(self.maps(x).mean((2, 3)))


class Coloured(torch.nn.Module):
    """Pictures (N, 3, H, W) for a classifier of four numbers: the mean of each colour, and a 1."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model
        self.training = model.training

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # (N, 3, H, W) → (N, 3)
        return self.model(torch.nn.functional.pad(x.mean((2, 3)), (0, 1), value=1.0))


class OneTokenModel(torch.nn.Module):
    """Makes a classifier of 4 numbers a language model of 3 tokens, to be read by a beam search."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, token_ids: torch.Tensor) -> torch.Tensor:  # (N, T) → (N, T, 3)
        last = self.model(token_ids[:, -4:].float())
        return last[:, None].expand(-1, token_ids.shape[1], -1)


def gradient(tensor: torch.Tensor) -> tuple:
    return tensor.requires_grad, None if tensor.grad is None else tensor.grad.tolist()


def snapshot(model, tensors, *, parameters: bool):
    """Everything a caller may rely on, as comparable values."""
    state = {
        "rng": torch.get_rng_state().tolist(),
        "python": random.getstate(),
        "numpy": repr(np.random.get_state()),  # noqa: NPY002
        "grad mode": torch.is_grad_enabled(),
        "threads": torch.get_num_threads(),
        "rcParams": dict(matplotlib.rcParams),
        "figures": plt.get_fignums(),
        "modes": [(name, module.training) for name, module in model.named_modules()],
        "gradients": [
            (name, p.requires_grad, None if p.grad is None else p.grad.tolist()) for name, p in model.named_parameters()
        ],
        "hooks": [
            (len(module._forward_hooks), len(module._forward_pre_hooks), len(module._backward_hooks))
            for module in model.modules()
        ],
        "tensors": {
            name: (
                t.tolist(),
                t.requires_grad,
                t.is_leaf,
                t.grad.tolist() if t.is_leaf and t.grad is not None else None,
            )
            for name, t in tensors.items()
        },
    }
    if parameters:
        state["state dict"] = [(name, value.tolist()) for name, value in model.state_dict().items()]
    # What was put into eval mode on purpose does not move, even where training is the purpose.
    frozen = [m for m in model.modules() if not m.training and isinstance(m, torch.nn.BatchNorm1d)]
    state["frozen statistics"] = [m.running_mean.tolist() for m in frozen] if model.training else []
    return state


def test_every_public_function_has_a_line():
    public = {
        f"{chapter}.{name}"
        for chapter in (
            *("basics", "interpretation", "optimization", "pitfalls", "advanced", "capstone", "iris"),
            *("homework", "data", "checks"),
        )
        for name in import_module(f"course_utils.{chapter}").__all__
        if isfunction(getattr(import_module(f"course_utils.{chapter}"), name))
        or hasattr(getattr(import_module(f"course_utils.{chapter}"), name), "cache_info")
    }
    assert public == set(CALLS) | EXEMPT | HANDED_ON
    made_elsewhere = (data.load_cifar10, data.load_recorded_outputs, basics.plot_pictures)
    assert all(getattr(capstone, name.split(".")[1]) in made_elsewhere for name in HANDED_ON)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", CALLS)
def test_nothing_is_left_behind(name, training, stateful_model):
    model, tensors = stateful_model, fresh_tensors()
    if not training:
        model.eval()
    CALLS[name](copy.deepcopy(model), fresh_tensors())  # what is loaded once (fonts, data) is loaded now
    before = snapshot(model, tensors, parameters=name not in CHANGES_PARAMETERS)
    CALLS[name](model, tensors)
    after = snapshot(model, tensors, parameters=name not in CHANGES_PARAMETERS)
    if name == "pitfalls.gradient_clipping":  # by purpose
        assert after.pop("gradients") != before.pop("gradients")
    assert after == before


@pytest.mark.parametrize("name", sorted(RUNS_THE_MODEL))
def test_nothing_is_left_behind_when_the_model_raises(name, stateful_model):
    model, tensors = stateful_model, fresh_tensors()
    model.fail = True
    before = snapshot(model, tensors, parameters=True)
    if name == "pitfalls.diagnose":  # it reports the failure
        assert "failed on purpose" in CALLS[name](model, tensors)
    else:
        with pytest.raises(RuntimeError, match="failed on purpose"):
            CALLS[name](model, tensors)
    # BatchNorm moves before the failure only where moving is the purpose.
    assert snapshot(model, tensors, parameters=name not in CHANGES_PARAMETERS) == (
        before if name not in CHANGES_PARAMETERS else {k: v for k, v in before.items() if k != "state dict"}
    )


@pytest.mark.parametrize("name", sorted(RUNS_THE_MODEL - {"interpretation.beam_search_decode"}))
def test_layers_that_write_or_draw_leave_no_trace(name):
    """An in-place layer on the inputs, and dropout as a function, which no mode switches off."""

    class Careless(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.relu, self.dropout = torch.nn.ReLU(inplace=True), torch.nn.Dropout(0.5, inplace=True)
            self.linear = torch.nn.Linear(4, 3)

        def forward(self, x):
            return torch.nn.functional.dropout(self.linear(self.dropout(self.relu(x))), 0.5)

    tensors = fresh_tensors() | {"x": SPLIT.x_test.clone() - 0.5}
    model = Careless()
    before = snapshot(model, tensors, parameters=False)
    CALLS[name](model, tensors)
    assert snapshot(model, tensors, parameters=False) == before


def test_nothing_is_left_behind_when_training_raises_in_the_middle(stateful_model):
    tensors = fresh_tensors()
    before = snapshot(stateful_model, tensors, parameters=False)
    calls = iter(range(100))
    forward = stateful_model.dropout.forward

    def failing(x):
        if next(calls) == 5:
            raise RuntimeError("failed on purpose")
        return forward(x)

    stateful_model.dropout.forward = failing
    with pytest.raises(RuntimeError, match="on purpose"):
        iris.train(stateful_model, tensors["x"], tensors["y"], epochs=50, progress=False)
    assert snapshot(stateful_model, tensors, parameters=False) == before


def test_the_snapshot_sees_what_it_should(stateful_model):
    """A test of the test: each kind of side effect changes the snapshot."""
    tensors = fresh_tensors()
    before = snapshot(stateful_model, tensors, parameters=True)

    def changed(action):
        action()
        after = snapshot(stateful_model, tensors, parameters=True)
        return after != before

    assert not changed(lambda: None)
    assert changed(lambda: torch.rand(1))
    before = snapshot(stateful_model, tensors, parameters=True)
    assert changed(lambda: stateful_model.dropout.eval())
    before = snapshot(stateful_model, tensors, parameters=True)
    assert changed(lambda: tensors["logits"].data.add_(1))
    before = snapshot(stateful_model, tensors, parameters=True)
    assert changed(lambda: stateful_model.first.register_forward_hook(lambda *_: None))
    before = snapshot(stateful_model, tensors, parameters=True)
    with contextlib.suppress(RuntimeError), warnings.catch_warnings():
        assert changed(lambda: stateful_model(tensors["x"]).sum().backward())
