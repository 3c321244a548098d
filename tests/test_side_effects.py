"""No public function changes what belongs to its caller: one table of calls, also for models that fail half way."""

import copy
import functools
import random
import re
from importlib import import_module
from inspect import isfunction
from types import SimpleNamespace

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
from tests.support.images import caller_tensors
from tests.support.models import (
    Apply,
    Careless,
    ModelWithState,
    OneTokenModel,
    PurposeError,
    TwoHeads,
    model_with_state,
)
from tests.support.snapshots import snapshot, what_changed

RAW = torch.tensor([[[20.0, 20, 9, 9, 0.9, 0.8, 0.1], [21, 20, 9, 9, 0.8, 0.7, 0.2]]]).expand(2, -1, -1)
SCORES, HITS = torch.linspace(0.1, 0.9, 9), torch.tensor([0, 1, 0, 0, 1, 1, 0, 1, 1])
CURVE = (torch.linspace(0, 1, 5), torch.linspace(1, 0, 5))
MAPS = torch.linspace(0, 1, 2 * 4 * 25).reshape(2, 4, 5, 5)


def image_data() -> data.ImageData:
    drawn = data.generate_images(36, classes=("disc", "ring", "square"), seed=0)
    parts = [data.ImageSet(drawn.images[i::3], drawn.target[i::3]) for i in range(3)]
    return data.ImageData(*parts, drawn.class_names, "shapes", torch.full((3,), 0.5), torch.full((3,), 0.25))


@functools.cache
def made() -> SimpleNamespace:
    """Data and results that the calls read: made when the first of them asks, not when this file is imported."""
    split, cifar10, two = iris.load_iris_split(), image_data(), torch.zeros(2, dtype=torch.int64)
    model = interpretation.SimpleLanguageModel(5, 4)
    return SimpleNamespace(
        split=split,
        history=iris.train(iris.MLP(), split.x_train, split.y_train, epochs=3, progress=False),
        generated=data.generate_images(2),
        scenes=data.generate_scenes(2),
        found=interpretation.interpret_detection_output(RAW),
        hypotheses=interpretation.beam_search_decode(model, torch.tensor([[0, 1]]), max_new_tokens=3, vocab="abcde")[0],
        cifar10=cifar10,
        test_part=(cifar10.test.images, cifar10.test.target),
        normalization={"normalization": (cifar10.mean, cifar10.std)},
        evaluation=capstone.evaluate_logits(torch.eye(3).repeat(4, 1), cifar10.test.target),
        readings=capstone.ImageReadings(*[two] * 6, ("a", "b")),
        robustness=capstone.RobustnessCurve(*[torch.linspace(0, 1, 4)] * 4, num_samples=9),
        capstone_history=capstone.TrainingHistory(*[torch.linspace(1, 3, 3)] * 6, False, "float32", 0),
        runs=[(homework.Setting(epochs=2, dropout=0.5), 0)],
        comparison=homework.compare({"lr": [0.1, 1.0]}, seeds=2, epochs=2, progress=False),
    )


def fresh_tensors() -> dict[str, torch.Tensor]:
    """Arguments that a careless function would write to: some are leaves with a gradient, one is part of a graph."""
    leaf = torch.linspace(-2, 2, 12).reshape(4, 3).requires_grad_()
    leaf.grad = torch.ones_like(leaf)
    images, classes = caller_tensors()  # (5, 3, 8, 8), (5,)
    return {
        "logits": leaf,
        "graph": leaf * 2,
        "row": torch.linspace(-1, 1, 3),
        "probabilities": torch.softmax(leaf.detach(), 1),
        "x": made().split.x_test.clone().requires_grad_(),
        "y": made().split.y_test.clone(),
        "images": images,
        "classes": classes,
    }


# "chapter.function" or "chapter.function, case" → a call with the tensors above, of functions that take no model.
# A public function without a line fails the test below.
CALLS_WITHOUT_MODEL = {
    "basics.logits_to_probabilities": lambda t: basics.logits_to_probabilities(t["graph"], "multiclass"),
    "basics.probabilities_to_labels": lambda t: basics.probabilities_to_labels(t["probabilities"], "multiclass"),
    "basics.describe_output": lambda t: repr(basics.describe_output([t["logits"], {"a": t["graph"]}])),
    "basics.plot_probabilities": lambda t: basics.plot_probabilities(t["probabilities"][0])._repr_png_(),
    "basics.plot_temperature": lambda t: basics.plot_temperature(t["row"])._repr_png_(),
    "basics.plot_logits": lambda t: basics.plot_logits(t["row"], true=1)._repr_png_(),
    "basics.plot_output_path": lambda t: basics.plot_output_path(made().generated.images[0], t["row"])._repr_png_(),
    "basics.plot_weights": lambda t: basics.plot_weights(t["graph"].reshape(2, 2, 3), ["a", "b"])._repr_png_(),
    "basics.plot_images": lambda t: basics.plot_images(made().generated.images)._repr_png_(),
    "basics.plot_segmentation": lambda t: basics.plot_segmentation(
        made().generated.images[0], made().generated.masks[:1].float().expand(2, -1, -1), ["a", "b"]
    )._repr_png_(),
    "interpretation.interpret_classification_output": lambda t: interpretation.interpret_classification_output(
        t["graph"], ["a", "b", "c"]
    ).to_frame(),
    "interpretation.interpret_regression_output": lambda t: interpretation.interpret_regression_output(
        t["graph"], t["logits"]
    ).to_frame(),
    "interpretation.interpret_detection_output": lambda t: interpretation.interpret_detection_output(RAW),
    "interpretation.evaluate_detections": lambda t: interpretation.evaluate_detections(
        made().found, made().scenes.boxes, made().scenes.labels, num_classes=10
    ),
    "interpretation.greedy_decode": lambda t: interpretation.greedy_decode(t["graph"][None]),
    "interpretation.interpret_detection_output, logits": lambda t: interpretation.interpret_detection_output(
        RAW, logits=True, objectness=False
    ),
    "interpretation.plot_samples": lambda t: interpretation.plot_samples(
        made().generated.masks[:2], t["probabilities"][:2], t["y"][:2], ["a", "b", "c"]
    )._repr_png_(),
    "interpretation.plot_residuals": lambda t: interpretation.plot_residuals(
        interpretation.interpret_regression_output(t["graph"], t["logits"])
    )._repr_png_(),
    "interpretation.plot_intervals": lambda t: interpretation.plot_intervals(
        t["row"], t["row"], t["row"] - 1, t["row"] + 1
    )._repr_png_(),
    "interpretation.plot_detections": lambda t: interpretation.plot_detections(
        made().scenes.images, made().found, ["a", "b"], true_boxes=made().scenes.boxes
    )._repr_png_(),
    "interpretation.plot_detector_cell": lambda t: interpretation.plot_detector_cell(
        made().scenes.images[0], torch.linspace(8, 20, 4).requires_grad_(), row=1, column=1
    )._repr_png_(),
    "interpretation.grid_targets": lambda t: interpretation.grid_targets(made().scenes),
    "interpretation.plot_precision_recall": lambda t: interpretation.plot_precision_recall({"a": CURVE})._repr_png_(),
    "interpretation.plot_beam_tree": lambda t: interpretation.plot_beam_tree(made().hypotheses)._repr_png_(),
    "optimization.adjust_threshold": lambda t: optimization.adjust_threshold(SCORES, HITS),
    "optimization.temperature_scaling": lambda t: optimization.temperature_scaling(
        t["graph"], torch.tensor([2, 0, 2, 0])
    ).probabilities(t["graph"]),
    "optimization.honest_calibration_error": lambda t: optimization.honest_calibration_error(SCORES, n_resamples=3),
    "optimization.brier_score": lambda t: optimization.brier_score(t["probabilities"], torch.arange(4) % 3),
    "optimization.bayes_threshold": lambda t: optimization.bayes_threshold(1, 9),
    "optimization.adjust_for_prior": lambda t: optimization.adjust_for_prior(t["row"], train_prior=0.5, prior=0.1),
    "optimization.risk_coverage": lambda t: optimization.risk_coverage(SCORES, HITS.bool()).to_frame(),
    "optimization.reliability_diagram": lambda t: optimization.reliability_diagram(SCORES, HITS).to_frame(),
    "optimization.expected_calibration_error": lambda t: optimization.expected_calibration_error(SCORES, HITS),
    "optimization.separation": lambda t: optimization.separation(SCORES, 1 + SCORES),
    "optimization.plot_reliability": lambda t: optimization.plot_reliability(
        {"a": optimization.reliability_diagram(SCORES, HITS)}
    )._repr_png_(),
    "optimization.plot_threshold": lambda t: optimization.plot_threshold(
        {"a": optimization.adjust_threshold(SCORES, HITS)}
    )._repr_png_(),
    "optimization.plot_confusion": lambda t: optimization.plot_confusion(HITS, HITS, ["a", "b"])._repr_png_(),
    "optimization.plot_groups": lambda t: optimization.plot_groups({"a": SCORES}, label="p")._repr_png_(),
    "optimization.plot_risk_coverage": lambda t: optimization.plot_risk_coverage({"a": CURVE})._repr_png_(),
    "pitfalls.detect_nan_inf": lambda t: pitfalls.detect_nan_inf(t),
    "pitfalls.lint_file": lambda t: pitfalls.lint_file(__file__),
    "pitfalls.lint_source": lambda t: pitfalls.lint_source("import torch; torch.rand(1); model.eval()"),
    "pitfalls.safe_softmax": lambda t: pitfalls.safe_softmax(t["graph"]),
    "pitfalls.safe_divide": lambda t: pitfalls.safe_divide(t["graph"], t["logits"]),
    "pitfalls.check_and_reshape_output": lambda t: pitfalls.check_and_reshape_output(
        t["logits"], (3, 4), dims="N C -> C N"
    ),
    "pitfalls.adaptive_pooling": lambda t: pitfalls.adaptive_pooling(t["graph"][None], (1, 4)),
    "pitfalls.clamp_output": lambda t: pitfalls.clamp_output(t["graph"], max=1),
    "pitfalls.normalize_output": lambda t: pitfalls.normalize_output(t["graph"]),
    "pitfalls.scale_output": lambda t: pitfalls.scale_output(t["graph"], current_range=(-2, 2)),
    "pitfalls.log_transform": lambda t: pitfalls.log_transform(t["probabilities"]),
    "pitfalls.exp_transform": lambda t: pitfalls.exp_transform(t["graph"]),
    "pitfalls.plot_curves": lambda t: pitfalls.plot_curves({"a": CURVE}, xlabel="x", ylabel="y", log="y")._repr_png_(),
    "pitfalls.plot_sizes": lambda t: pitfalls.plot_sizes({"a": t["graph"]}, {"limit": 0.1}, label="x")._repr_png_(),
    "advanced.pointing_game": lambda t: advanced.pointing_game(t["logits"][None], torch.ones(1, 4, 3).bool()),
    "advanced.energy_inside": lambda t: advanced.energy_inside(t["logits"][None], torch.ones(1, 4, 3).bool()),
    "advanced.grow_masks": lambda t: advanced.grow_masks(MAPS[0] > 0.5),
    "advanced.centre_first": lambda t: advanced.centre_first(t["logits"][None]),
    "advanced.score_maps": lambda t: advanced.score_maps({"a": t["logits"][None]}, torch.ones(1, 4, 3).bool()),
    "advanced.attention_rollout": lambda t: advanced.attention_rollout([t["images"]]),
    "advanced.gradient_rollout": lambda t: advanced.gradient_rollout([t["images"]], [t["images"]]),
    "advanced.conformal_sets": lambda t: advanced.conformal_sets(
        t["graph"].softmax(1), t["y"][:4], t["probabilities"], alpha=0.5, method="aps", seed=None
    ),
    "advanced.coverage_distribution": lambda t: advanced.coverage_distribution(99, alpha=0.1).rvs(random_state=0),
    "advanced.visualize_attributions": lambda t: advanced.visualize_attributions(MAPS[:, :1], MAPS)._repr_png_(),
    "advanced.plot_attack": lambda t: advanced.plot_attack(MAPS[:, :1], MAPS[:, 1:2])._repr_png_(),
    "advanced.plot_curves": lambda t: advanced.plot_curves({"a": CURVE}, xlabel="x", ylabel="y")._repr_png_(),
    "advanced.plot_scores_by_seed": lambda t: advanced.plot_scores_by_seed({"a": t["row"]}, label="x")._repr_png_(),
    "capstone.evaluate_logits": lambda t: capstone.evaluate_logits(t["graph"], torch.tensor([0, 1, 2, 0])),
    "capstone.load_trained_model": lambda t: capstone.load_trained_model(),
    "capstone.normalize": lambda t: capstone.normalize(
        made().cifar10.test.images, made().cifar10.mean, made().cifar10.std
    ),
    "capstone.plot_confusion_matrix": lambda t: capstone.plot_confusion_matrix(made().evaluation)._repr_png_(),
    "capstone.plot_curves": lambda t: capstone.plot_curves({"a": CURVE}, xlabel="x", ylabel="y")._repr_png_(),
    "capstone.plot_metrics": lambda t: capstone.plot_metrics(made().evaluation)._repr_png_(),
    "capstone.plot_readings": lambda t: capstone.plot_readings(
        made().readings, made().cifar10.test.images
    )._repr_png_(),
    "capstone.plot_robustness": lambda t: capstone.plot_robustness({"a": made().robustness})._repr_png_(),
    "capstone.plot_training": lambda t: capstone.plot_training(made().capstone_history)._repr_png_(),
    "capstone.visualize_results": lambda t: capstone.visualize_results(made().evaluation, made().cifar10.test.images),
    "homework.can_be_batched": lambda t: homework.can_be_batched(homework.Setting()),
    "homework.compare": lambda t: homework.compare(
        {"lr": [0.1, 1.0]}, data=(t["x"].repeat(4, 1), t["y"].repeat(4)), seeds=2, epochs=2
    ),
    "homework.expand_grid": lambda t: homework.expand_grid({"lr": [0.1, 1.0]}),
    "homework.plan_chunks": lambda t: homework.plan_chunks([(homework.Setting(), 0)], 9, 4, 3),
    "homework.register": lambda t: homework.register(
        {"lr": [0.1, 1.0]}, data=(t["x"].repeat(4, 1), t["y"].repeat(4)), seeds=2
    ),
    "homework.requirements": lambda t: homework.requirements(made().comparison),
    "homework.train_batched": lambda t: homework.train_batched(made().runs, t["x"], t["y"], 3),
    "homework.train_sequentially": lambda t: homework.train_sequentially(*made().runs[0], t["x"], t["y"], 3),
    "homework.validate_submission": lambda t: homework.validate_submission("no such file"),
    "iris.load_iris_split": lambda t: iris.load_iris_split(),
    "iris.wilson_interval": lambda t: iris.wilson_interval(29, 30),
    "iris.plot_loss": lambda t: iris.plot_loss(made().history)._repr_png_(),
    "data.generate_images": lambda t: data.generate_images(2, seed=None),
    "data.generate_scenes": lambda t: data.generate_scenes(2, seed=None),
    "data.load_cifar10": lambda t: data.load_cifar10(source="shapes"),
    "data.load_recorded_outputs": lambda t: data.load_recorded_outputs(),
    "data.load_split": lambda t: data.load_split("wine"),
    "data.load_text": lambda t: data.load_text(),
    "checks.check": lambda t: checks.check("basics.stable_softmax", lambda z: torch.softmax(z, 1)),
    "checks.exercises": lambda t: checks.exercises(),
    "checks.self_check": lambda t: checks.self_check(),
}
# The same with a model of rows (N, 4).
CALLS_WITH_ROWS = {
    "interpretation.beam_search_decode": lambda m, t: interpretation.beam_search_decode(
        OneTokenModel(m), torch.tensor([[0, 1, 2, 0]]), num_beams=2, max_new_tokens=3
    ),
    "interpretation.beam_search_decode, padded": lambda m, t: interpretation.beam_search_decode(
        OneTokenModel(m),
        torch.tensor([[0, 1, 2, 0, 1], [2, 1, 0, 1, 0]]),
        attention_mask=torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 1, 0]]),
        num_beams=2,
        max_new_tokens=2,
        eos_token_id=[1, 2],
    ),
    "optimization.ensemble_predictions": lambda m, t: [
        optimization.ensemble_predictions([m, m], t["x"], method=method) for method in ("averaging", "voting")
    ],
    "optimization.fit_stacking": lambda m, t: optimization.fit_stacking([m, m], t["x"], t["y"]),
    "optimization.monte_carlo_dropout": lambda m, t: optimization.monte_carlo_dropout(m, t["x"], n_samples=3),
    "optimization.deep_ensemble": lambda m, t: optimization.deep_ensemble([m, m], t["x"]).to_frame(),
    "pitfalls.first_nonfinite_layer": lambda m, t: [
        pitfalls.first_nonfinite_layer(m, inputs) for inputs in (t["x"], (t["x"],), {"x": t["x"]})
    ],
    "pitfalls.diagnose": lambda m, t: str(
        [
            pitfalls.diagnose(m, inputs, t["y"], torch.nn.functional.cross_entropy)
            for inputs in (t["x"], (t["x"],), {"x": t["x"]})
        ]
    ),
    "pitfalls.gradient_clipping": lambda m, t: pitfalls.gradient_clipping(m, 1e-3),
    "advanced.multi_task_inference": lambda m, t: advanced.multi_task_inference(TwoHeads(m), t["x"]).to_frame(),
    "advanced.fgsm_attack": lambda m, t: advanced.fgsm_attack(m, t["x"], t["y"], eps=0.1, bounds=(-9, 9)),
    "advanced.pgd_attack": lambda m, t: advanced.pgd_attack(m, t["x"], t["y"], eps=0.1, steps=2, bounds=(-9, 9)),
    "advanced.adversarial_training": lambda m, t: advanced.adversarial_training(
        m, t["x"], t["y"], eps=0.1, steps=2, bounds=(-9, 9), seed=0
    ),
    "advanced.evaluate_robustness": lambda m, t: advanced.evaluate_robustness(
        m, [(t["x"], t["y"])], advanced.fgsm_attack, eps=0.1, bounds=(-9, 9)
    ),
    "advanced.smoothed_predict": lambda m, t: advanced.smoothed_predict(m, t["x"], sigma=0.1, n=3),
    "advanced.certify": lambda m, t: advanced.certify(m, t["x"], sigma=0.1, n=3, n_selection=2).to_frame(),
    "advanced.saliency_map": lambda m, t: advanced.saliency_map(m, t["x"]),
    "advanced.integrated_gradients": lambda m, t: advanced.integrated_gradients(m, t["x"], n_steps=2),
    "iris.train": lambda m, t: iris.train(m, t["x"], t["y"], epochs=3, progress=False),
    "iris.predict": lambda m, t: [
        iris.predict(m, inputs, ["a", "b", "c"], batch_size=20).to_frame() for inputs in (t["x"], {"x": t["x"]})
    ],
    "iris.accuracy": lambda m, t: iris.accuracy(m, t["x"], t["y"]),
    "iris.count_parameters": lambda m, t: iris.count_parameters(m),
    "iris.parameter_table": lambda m, t: iris.parameter_table(m),
    "iris.weight_statistics": lambda m, t: iris.weight_statistics(m),
    "iris.model_summary": lambda m, t: [
        iris.model_summary(m, engine=engine, **options)
        for engine in ("torchinfo", "torchsummary")
        for options in ({"input_size": (2, 4)}, {"input_data": {"x": t["x"]}})
    ],
    "iris.plot_weight_distributions": lambda m, t: iris.plot_weight_distributions(m)._repr_png_(),
    "iris.plot_decision_regions": lambda m, t: iris.plot_decision_regions(m, t["x"], t["y"])._repr_png_(),
}
# The same with a model of images (N, 3, H, W).
CALLS_WITH_IMAGES = {
    "advanced.grad_cam": lambda m, t: advanced.grad_cam(m, t["images"], "first", t["classes"]),
    "advanced.deletion_curve": lambda m, t: advanced.deletion_curve(
        m, t["images"], t["images"].detach().mean(1), t["classes"], n_points=3
    ),
    "capstone.bfloat16_is_faster": lambda m, t: capstone.bfloat16_is_faster(m, made().cifar10, num_images=4),
    "capstone.calibrate_model": lambda m, t: capstone.calibrate_model(m, made().cifar10),
    "capstone.evaluate_model": lambda m, t: capstone.evaluate_model(m, *made().test_part, **made().normalization),
    "capstone.evaluate_model, one logit": lambda m, t: capstone.evaluate_model(
        torch.nn.Sequential(m, Apply(lambda z: z[:, :1])),
        made().test_part[0],
        [0, 1] * 6,
        task="binary",
        **made().normalization,
    ),
    "capstone.evaluate_model, in a wrapper": lambda m, t: capstone.evaluate_model(
        torch.nn.DataParallel(m), *made().test_part, **made().normalization
    ),
    "capstone.interpret_model_outputs": lambda m, t: capstone.interpret_model_outputs(
        m, *made().test_part, **made().normalization
    ).to_frame(),
    "capstone.measure_robustness": lambda m, t: capstone.measure_robustness(m, made().cifar10, eps=0.1, steps=2),
    "capstone.predict_logits": lambda m, t: capstone.predict_logits(m, made().test_part[0], **made().normalization),
    "capstone.train_model": lambda m, t: capstone.train_model(
        m, made().cifar10, epochs=1, batch_size=6, amp=False, progress=False
    ),
    "advanced.fgsm_attack, images": lambda m, t: advanced.fgsm_attack(m, t["images"], t["classes"], eps=0.1),
    "advanced.pgd_attack, images": lambda m, t: advanced.pgd_attack(m, t["images"], t["classes"], eps=0.1, steps=3),
    "advanced.pgd_attack, early stop": lambda m, t: advanced.pgd_attack(
        m, t["images"], t["classes"], eps=0.1, steps=3, early_stop=True
    ),
    "advanced.pgd_attack, one class a restart": lambda m, t: advanced.pgd_attack(
        m, t["images"], t["classes"], eps=0.1, steps=2, loss="margin", targeted=True, restarts=2
    ),
    "advanced.square_attack": lambda m, t: advanced.square_attack(
        m, t["images"], t["classes"], eps=0.01, n_queries=4, seed=None
    ),
    "advanced.occlusion_map": lambda m, t: advanced.occlusion_map(m, t["images"], t["classes"]),
    "advanced.rise_map": lambda m, t: advanced.rise_map(m, t["images"], t["classes"], n_masks=3),
    "advanced.grad_cam, hires": lambda m, t: advanced.grad_cam(m, t["images"], "first", t["classes"], method="hires"),
    "advanced.randomization_check": lambda m, t: advanced.randomization_check(
        m, t["images"], lambda model, x: advanced.saliency_map(model, x, t["classes"])
    ),
    "advanced.adversarial_training, images": lambda m, t: advanced.adversarial_training(
        m, t["images"], t["classes"], eps=0.1, steps=2, seed=0
    ),
    "advanced.evaluate_robustness, images": lambda m, t: advanced.evaluate_robustness(
        m,
        [(t["images"][:3], t["classes"][:3]), (t["images"][3:], t["classes"][3:])],
        advanced.pgd_attack,
        eps=0.1,
        steps=2,
    ),
    "advanced.saliency_map, images": lambda m, t: advanced.saliency_map(m, t["images"], t["classes"]),
    "advanced.integrated_gradients, images": lambda m, t: advanced.integrated_gradients(
        m, t["images"], t["classes"], n_steps=4
    ),
    "advanced.grad_cam, reshaped": lambda m, t: advanced.grad_cam(
        m, t["images"], "first", t["classes"], reshape=lambda maps: maps.flip(1)
    ),
    "advanced.integrated_gradients, a dict": lambda m, t: advanced.integrated_gradients(
        m, {"x": t["images"]}, t["classes"], n_steps=4
    ),
    "advanced.multi_task_inference, images": lambda m, t: advanced.multi_task_inference(TwoHeads(m), t["images"]),
}
CALLS_WITH_MODEL = CALLS_WITH_ROWS | CALLS_WITH_IMAGES
CALLS = CALLS_WITHOUT_MODEL | CALLS_WITH_MODEL
# By purpose: they write files (their own tests prove that they overwrite none).
EXEMPT = {"checks.start_exercises", "capstone.write_report", "homework.collect_class"}
# The capstone hands these on; they are called where they are made.
HANDED_ON = {"capstone.load_cifar10", "capstone.load_recorded_outputs", "capstone.plot_images"}
CHANGED_ON_PURPOSE = {
    "capstone.train_model": {"state"},
    "iris.train": {"state"},
    "pitfalls.gradient_clipping": {"gradients"},
}
# These take gradients of a model's outputs, so that a model can fail on the way back too.
WITH_A_WAY_BACK = [
    "iris.train",
    "capstone.measure_robustness",
    "capstone.train_model",
    *(
        name
        for name in CALLS
        if name.startswith("advanced.")
        and name.split(",")[0].split(".")[1]
        in (
            *("fgsm_attack", "pgd_attack", "adversarial_training", "evaluate_robustness"),
            *("saliency_map", "grad_cam", "integrated_gradients"),
        )
    ),
]
# These run the model once or more.
RUNS_THE_MODEL = [
    *WITH_A_WAY_BACK,
    *("capstone.bfloat16_is_faster", "capstone.calibrate_model", "capstone.evaluate_model"),
    *("capstone.interpret_model_outputs", "capstone.predict_logits"),
    *("iris.predict", "iris.accuracy", "iris.model_summary", "iris.plot_decision_regions"),
    *("interpretation.beam_search_decode", "interpretation.beam_search_decode, padded"),
    *("capstone.evaluate_model, one logit", "capstone.evaluate_model, in a wrapper"),
    *("optimization.ensemble_predictions", "optimization.fit_stacking"),
    *("optimization.monte_carlo_dropout", "optimization.deep_ensemble"),
    *("pitfalls.first_nonfinite_layer", "pitfalls.diagnose"),
    *("advanced.multi_task_inference", "advanced.multi_task_inference, images", "advanced.deletion_curve"),
    *("advanced.square_attack", "advanced.smoothed_predict", "advanced.certify"),
    *("advanced.occlusion_map", "advanced.rise_map"),
]


def model_for(name: str, *, training: bool = True) -> ModelWithState:
    """A model for a call of the table. Adversarial training refuses a model in evaluation mode (its own tests)."""
    training = training or "adversarial_training" in name
    return model_with_state(images=name in CALLS_WITH_IMAGES, training=training)


def call(name: str, model: torch.nn.Module, tensors: dict[str, torch.Tensor]):
    return CALLS[name](tensors) if name in CALLS_WITHOUT_MODEL else CALLS[name](model, tensors)


@functools.cache
def calls_of_the_model(name: str) -> int:
    """How often a function runs its model."""
    model = model_for(name)
    call(name, model, fresh_tensors())
    return model.calls


def changed_by(name: str, model: torch.nn.Module, tensors: dict[str, torch.Tensor], error=None, words="") -> set[str]:
    """What the call changed, after it has ended or raised what is expected."""
    before = snapshot(model, *tensors.values())
    if error is None:
        call(name, model, tensors)
    elif name == "pitfalls.diagnose":  # it reports the failure
        assert re.search(words, call(name, model, tensors))
    else:
        with pytest.raises(error, match=words):
            call(name, model, tensors)
    return what_changed(before, snapshot(model, *tensors.values()))


def test_every_public_function_has_a_line():
    modules = {
        chapter: import_module(f"course_utils.{chapter}")
        for chapter in (
            *("basics", "interpretation", "optimization", "pitfalls", "advanced", "capstone", "iris"),
            *("homework", "data", "checks"),
        )
    }
    public = {
        f"{chapter}.{name}"
        for chapter, module in modules.items()
        for name in module.__all__
        if isfunction(getattr(module, name)) or hasattr(getattr(module, name), "cache_info")
    }
    assert public == {name.split(",")[0] for name in CALLS} | EXEMPT | HANDED_ON
    made_elsewhere = (data.load_cifar10, data.load_recorded_outputs, basics.plot_images)
    assert all(getattr(capstone, name.split(".")[1]) in made_elsewhere for name in HANDED_ON)
    assert set(RUNS_THE_MODEL) <= set(CALLS_WITH_MODEL)


def assert_nothing_is_left_behind(name: str, *, training: bool) -> None:
    model = model_for(name, training=training)
    assert changed_by(name, model, fresh_tensors()) == CHANGED_ON_PURPOSE.get(name, set())


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", CALLS_WITH_MODEL)
def test_nothing_is_left_behind(name, training):
    assert_nothing_is_left_behind(name, training=training)


@pytest.mark.parametrize("name", CALLS_WITHOUT_MODEL)
def test_nothing_is_left_behind_without_a_model(name, few_shapes):
    assert_nothing_is_left_behind(name, training=True)


@pytest.mark.parametrize(("error", "training"), [(PurposeError, True), (RuntimeError, False)])
@pytest.mark.parametrize("fail_at", [1, 3])
@pytest.mark.parametrize("name", RUNS_THE_MODEL)
def test_nothing_is_left_behind_when_the_model_raises(name, fail_at, error, training):
    model = model_for(name, training=training)
    model.fail_at, model.error = min(fail_at, calls_of_the_model(name)), error
    expected = RuntimeError if name == "iris.model_summary" else error  # it tells of every error in one of its own
    changed = changed_by(name, model, fresh_tensors(), expected, "failed on purpose, half way")
    assert changed <= CHANGED_ON_PURPOSE.get(name, set())


@pytest.mark.parametrize("name", WITH_A_WAY_BACK)
def test_nothing_is_left_behind_when_the_way_back_raises(name):
    model, tensors = model_for(name), fresh_tensors()
    x, y = ("images", "classes") if name in CALLS_WITH_IMAGES else ("x", "y")
    tensors[y] = copy.deepcopy(model).eval()(tensors[x]).argmax(1)  # right answers, so that all are attacked
    model.fail_backward, model.error = True, PurposeError
    changed = changed_by(name, model, tensors, PurposeError, "on the way back")
    assert changed <= CHANGED_ON_PURPOSE.get(name, set())


@pytest.mark.parametrize("name", RUNS_THE_MODEL)
def test_layers_that_write_or_draw_leave_no_trace(name):
    """An in-place layer on the inputs, and dropout as a function, which no mode switches off."""
    tensors = fresh_tensors() | {"x": (made().split.x_test - 0.5).requires_grad_()}
    changed = changed_by(name, Careless(images=name in CALLS_WITH_IMAGES), tensors)
    assert changed <= CHANGED_ON_PURPOSE.get(name, set())


@pytest.mark.parametrize("name", RUNS_THE_MODEL)
def test_e37_every_submodule_gets_its_mode_back(name):
    model = model_for(name)
    modes = [module.training for module in model.modules()]
    careless = copy.deepcopy(model)
    careless.eval()
    careless.train()  # the error: wakes what was frozen on purpose
    assert [module.training for module in careless.modules()] != modes
    call(name, model, fresh_tensors())
    assert [module.training for module in model.modules()] == modes
    model.fail_at = 1
    changed_by(name, model, fresh_tensors(), RuntimeError, "failed on purpose")
    assert [module.training for module in model.modules()] == modes


def test_nothing_is_left_behind_when_training_raises_in_the_middle():
    model, tensors = model_with_state(), fresh_tensors()
    model.fail_at = 6
    before = snapshot(model, *tensors.values())
    with pytest.raises(RuntimeError, match="on purpose"):
        iris.train(model, tensors["x"], tensors["y"], epochs=50, progress=False)
    assert what_changed(before, snapshot(model, *tensors.values())) == {"state"}


@pytest.mark.parametrize("fail_at", [1, 2, 3, 4])
def test_when_adversarial_training_raises(fail_at):
    name = "advanced.adversarial_training, images"
    model = model_for(name)  # its BatchNorm is frozen in evaluation mode: nothing may move
    model.fail_at = fail_at  # calls 1 and 2 belong to the attack, 3 and 4 to the losses
    assert changed_by(name, model, fresh_tensors(), RuntimeError, "failed on purpose") == set()


def test_adversarial_training_leaves_all_but_batchnorm():
    model = model_for("advanced.adversarial_training, images")
    model.norm.train()
    kept = {name: value.clone() for name, value in model.state_dict().items() if not name.startswith("norm.")}
    assert changed_by("advanced.adversarial_training, images", model, fresh_tensors()) == {"state"}
    assert all(torch.equal(model.state_dict()[name], value) for name, value in kept.items())


def test_the_snapshot_sees_what_it_should(monkeypatch):
    """A test of the test: each kind of side effect changes its part of the snapshot."""
    model, tensors = model_with_state(), fresh_tensors()
    x, leaf = tensors["x"], tensors["logits"]
    assert what_changed(snapshot(model, *tensors.values()), snapshot(model, *tensors.values())) == set()
    for part, careless in (
        ("random states", lambda: torch.rand(1)),
        ("random states", lambda: random.random()),
        ("random states", lambda: np.random.rand()),  # noqa: NPY002
        ("grad mode", lambda: torch.set_grad_enabled(False)),
        ("grad mode", lambda: torch.set_grad_enabled(True)),
        ("threads", lambda: torch.set_num_threads(torch.get_num_threads() + 1)),
        ("threads", lambda: torch.set_num_threads(torch.get_num_threads() - 1)),
        ("figures", lambda: monkeypatch.setitem(plt.rcParams, "lines.linewidth", 9)),
        ("figures", plt.figure),
        ("figures", plt.close),
        ("modes", model.dropout.eval),
        ("hooks", lambda: model.first.register_forward_hook(lambda *_: None)),
        ("hooks", lambda: model.first.register_full_backward_hook(lambda *_: None)),
        ("objects", lambda: setattr(model.first, "bias", torch.nn.Parameter(model.first.bias.detach().clone()))),
        ("state", lambda: model.last.bias.data.add_(1)),
        ("frozen statistics", lambda: model.norm.running_mean.add_(1)),
        ("gradients", lambda: model.first.weight.requires_grad_(True)),
        ("gradients", model.zero_grad),
        ("tensors", lambda: leaf.data.add_(1)),
        ("tensors", lambda: x.requires_grad_(False)),
        ("tensors", lambda: leaf.grad.add_(1)),
    ):
        before = snapshot(model, *tensors.values())
        careless()
        assert part in what_changed(before, snapshot(model, *tensors.values())), part
