"""Every public function that takes a model, or what one returned: a call whose answer can be compared."""

import re
import tempfile
from collections.abc import Callable
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn

from course_utils import advanced, basics, capstone, interpretation, iris, optimization, pitfalls
from course_utils.foundation.evaluation import output_tensor
from course_utils.foundation.inputs import call_model, map_inputs
from tests.support.kinds_of_models import Case

ATTACK = {"eps": 0.05, "bounds": (-9, 9)}
SHORT = {"epochs": 3, "progress": False, "seed": 0}


class Call(NamedTuple):
    """For models of which domain, and the answer: numbers in the same order and form, whatever kind of model it is."""

    domain: str
    answer: Callable[[Case], Any]
    tolerance: float = 0.0  # if it is larger than the kind's


def two_columns(p: Tensor, case: Case) -> Tensor:
    """P(class 1) of a binary task as the probabilities of both classes."""
    return torch.stack([1 - p, p], -1) if case.options else p


def directions(adversarial: Tensor, case: Case) -> Tensor:
    """Where the numbers went, of images their mean for each channel: half precision may turn one round.

    How far they went depends on the dtype: the box of an attack is rounded towards the inputs.
    """
    signs = (adversarial.float() - case.inputs.float()).sign()
    return signs.mean((2, 3)) if signs.ndim == 4 else signs


def joined(parts: Any) -> Tensor:
    """What was attributed to one input or to several, as one tensor."""
    return torch.cat(parts, 1) if isinstance(parts, tuple) else parts


def square_attack(case: Case) -> Tensor:
    """Before the search: the stripes, which the model has no say in, and whether it stands after one query."""
    attacked = advanced.square_attack(
        case.model, case.inputs, case.target, n_queries=1, seed=0, **ATTACK, **case.options
    )
    return directions(attacked, case)


def randomization_check(case: Case) -> list:
    """How alike the maps are when only the head is random: the same new weights for each kind."""

    def attribute(model: nn.Module, x: Tensor) -> Tensor:
        return advanced.saliency_map(model, x, case.explained, **case.options)

    return [float(advanced.randomization_check(case.model, case.inputs, attribute)["similarity"].iloc[0])]


def certified(case: Case) -> list:
    found = advanced.certify(case.model, case.inputs, sigma=0.02, n=20, n_selection=5, alpha=0.1, **case.options)
    return [found.labels, found.radius]


def adversarial_training(case: Case) -> list:
    found = advanced.adversarial_training(
        case.model, case.inputs, case.target, steps=2, seed=0, **ATTACK, **case.options
    )
    found.total.backward()
    return [found.total, found.clean, found.adversarial, gradients(case)]


def gradients(case: Case) -> list[float]:
    """The sizes of all gradients, largest first: their order and their names depend on the kind."""
    found = [float(p.grad.double().norm()) for p in case.model.parameters() if p.grad is not None]
    return sorted(found, reverse=True)


def gradient_clipping(case: Case) -> list:
    """On gradients that the caller made."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        output = output_tensor(call_model(case.model.train(), map_inputs(torch.clone, case.inputs)))
    output[:, -1].float().square().mean().backward()
    return [pitfalls.gradient_clipping(case.model, 0.1), gradients(case)]


def describe_output(case: Case) -> list:
    report = basics.describe_output(case.output())
    report = report.parts.get("logits", report)
    return [report.shape[0], report.nan_count, "logits" in report.kinds, report.maximum]


def beam_search(case: Case) -> list:
    found = interpretation.beam_search_decode(case.model, case.inputs, num_beams=2, max_new_tokens=3)
    return [[[hypothesis.token_ids, hypothesis.score] for hypothesis in of_prompt] for of_prompt in found]


def greedy_decode(case: Case) -> list:
    return [[found.token_ids, found.score] for found in interpretation.greedy_decode(case.output())]


def stacking(case: Case) -> list:
    members = [case.model, case.model]
    meta = optimization.fit_stacking(members, case.inputs, case.target, **case.options)
    stacked = optimization.ensemble_predictions(
        members, case.inputs, method="stacking", meta_model=meta, **case.options
    )
    return [two_columns(stacked, case)]


def ensembles(case: Case) -> list:
    members = [case.model, case.model]
    averaged, voted = (
        optimization.ensemble_predictions(members, case.inputs, method=method, **case.options)
        for method in ("averaging", "voting")
    )
    return [two_columns(averaged, case), voted]


def uncertainty(result: optimization.UncertaintyResult, case: Case) -> list:
    return [two_columns(result.mean, case), two_columns(result.samples, case), result.predictive_entropy]


def train(case: Case) -> list:
    history = iris.train(case.model, case.inputs, case.target, log_every=1, **SHORT, **case.options)
    return [history.losses, two_columns(iris.predict(case.model, case.inputs, **case.options).probabilities, case)]


def train_model(case: Case) -> list:
    history = capstone.train_model(
        case.model, case.data, epochs=1, batch_size=8, lr=0.02, amp=False, progress=False, device="cpu"
    )
    return [history.train_loss, history.validation_loss]


def model_summary(case: Case) -> int:
    text = iris.model_summary(case.model, input_data=case.inputs)
    true = re.search(r"The model has ([\d,]+) parameters", text) or re.search(r"Total params: ([\d,]+)", text)
    return int(true[1].replace(",", ""))


def decision_regions(case: Case) -> np.ndarray:
    """The colours' means of 10 × 10 fields: a border between two classes may move by a point."""
    figure = iris.plot_decision_regions(case.model, case.inputs, case.target, **case.options)
    return figure.axes[0].images[0].get_array().reshape(12, 10, 12, 10, 3).mean((1, 3))


def weight_distributions(case: Case) -> list:
    figure = iris.plot_weight_distributions(case.model)
    return sorted([patch.get_height() for patch in ax.patches] for ax in figure.axes)


def report(case: Case) -> list:
    """Without its figures, which have tests of their own and take seconds."""
    drawing = ("visualize_results", "plot_readings", "plot_risk_coverage", "plot_robustness", "visualize_attributions")
    drawn = dict.fromkeys(drawing, lambda *_, **__: {}) | {"figure_png": lambda figure: b""}
    with tempfile.TemporaryDirectory() as folder, mock.patch.multiple("course_utils.capstone.report", **drawn):
        metrics = capstone.write_report(case.model, case.data, folder, **case.options)
    return [metrics["as_trained"]["nll"], metrics["calibrated"]["nll"], metrics["robustness"]["accuracy"]]


def numbers_of(table: Any) -> list:
    """The numbers of a table of parameters, in an order that no name decides."""
    return sorted(map(list, table.drop(columns=["name", "shape"], errors="ignore").astype(float).to_numpy()))


def measured(evaluation: capstone.Evaluation) -> list:
    return [evaluation.logits.softmax(1), evaluation.accuracy, evaluation.nll]


CALLS: dict[str, Call] = {
    "basics.describe_output": Call("rows", describe_output),
    "interpretation.interpret_classification_output": Call(
        "rows",
        lambda c: two_columns(interpretation.interpret_classification_output(c.output(), **c.options).probabilities, c),
    ),
    "interpretation.interpret_regression_output": Call(
        "rows", lambda c: interpretation.interpret_regression_output(c.output()).preds[:, -1]
    ),
    "interpretation.greedy_decode": Call("tokens", greedy_decode),
    "interpretation.beam_search_decode": Call("tokens", beam_search),
    "optimization.ensemble_predictions": Call("rows", ensembles),
    "optimization.fit_stacking": Call("rows", stacking, tolerance=1e-3),
    "optimization.monte_carlo_dropout": Call(
        "rows",
        lambda c: uncertainty(optimization.monte_carlo_dropout(c.model, c.inputs, n_samples=5, seed=0, **c.options), c),
    ),
    "optimization.deep_ensemble": Call(
        "rows", lambda c: uncertainty(optimization.deep_ensemble([c.model, c.model], c.inputs, **c.options), c)
    ),
    "pitfalls.detect_nan_inf": Call(
        "rows", lambda c: [(r := pitfalls.detect_nan_inf(c.output())).nan_count, r.posinf_count, r.neginf_count]
    ),
    "pitfalls.first_nonfinite_layer": Call(
        "rows", lambda c: str(pitfalls.first_nonfinite_layer(c.model, c.inputs)).rpartition(".")[2]
    ),
    "pitfalls.diagnose": Call(
        "rows",
        lambda c: [f"{finding.severity}: {finding.check}" for finding in pitfalls.diagnose(c.model, c.inputs).findings],
    ),
    "pitfalls.gradient_clipping": Call("rows", gradient_clipping),
    "advanced.multi_task_inference": Call(
        "two heads",
        lambda c: [(r := advanced.multi_task_inference(c.model, c.inputs)).labels, r.probabilities, r.regression],
    ),
    "advanced.fgsm_attack": Call(
        "images",
        lambda c: directions(advanced.fgsm_attack(c.model, c.inputs, c.target, **ATTACK, **c.options), c),
        tolerance=0.04,  # of 64 positions one may turn round
    ),
    "advanced.pgd_attack": Call(
        "rows",
        lambda c: directions(
            advanced.pgd_attack(c.model, c.inputs, c.target, steps=2, random_start=False, **ATTACK, **c.options), c
        ),
    ),
    "advanced.adversarial_training": Call("rows", adversarial_training),
    "advanced.evaluate_robustness": Call(
        "rows",
        lambda c: [
            (
                r := advanced.evaluate_robustness(
                    c.model, [(c.inputs, c.target)], advanced.fgsm_attack, eps=1.0, bounds=(-9, 9), **c.options
                )
            ).clean_accuracy,
            r.adversarial_accuracy,
        ],
    ),
    "advanced.saliency_map": Call(
        "images", lambda c: advanced.saliency_map(c.model, c.inputs, c.explained, **c.options)
    ),
    "advanced.grad_cam": Call(
        "images", lambda c: advanced.grad_cam(c.model, c.inputs, c.stem, c.explained, **c.options)
    ),
    "advanced.square_attack": Call("images", square_attack),
    "advanced.occlusion_map": Call(
        "images", lambda c: advanced.occlusion_map(c.model, c.inputs, c.explained, **c.options)
    ),
    "advanced.rise_map": Call(
        "images", lambda c: advanced.rise_map(c.model, c.inputs, c.explained, n_masks=10, **c.options)
    ),
    "advanced.randomization_check": Call("images", randomization_check),
    "advanced.smoothed_predict": Call(
        "rows", lambda c: advanced.smoothed_predict(c.model, c.inputs, sigma=0.02, n=20, **c.options)
    ),
    "advanced.certify": Call("rows", certified),
    "advanced.integrated_gradients": Call(
        "images",
        lambda c: joined(advanced.integrated_gradients(c.model, c.inputs, c.explained, n_steps=4, **c.options)),
    ),
    "advanced.deletion_curve": Call(
        "images",
        lambda c: list(
            advanced.deletion_curve(
                c.model, c.inputs, torch.arange(12 * 64.0).reshape(12, 8, 8), c.target, n_points=3, **c.options
            )
        ),
    ),
    "iris.train": Call("rows", train),
    "iris.predict": Call(
        "rows",
        lambda c: [
            (r := iris.predict(c.model, c.inputs, **c.options)).labels,
            two_columns(r.probabilities, c),
        ],
    ),
    "iris.accuracy": Call(
        "rows", lambda c: list(vars(iris.accuracy(c.model, c.inputs, c.target, **c.options)).values())
    ),
    "iris.count_parameters": Call("rows", lambda c: list(vars(iris.count_parameters(c.model)).values())),
    "iris.parameter_table": Call("rows", lambda c: numbers_of(iris.parameter_table(c.model))),
    "iris.weight_statistics": Call("rows", lambda c: numbers_of(iris.weight_statistics(c.model))),
    "iris.model_summary": Call("rows", model_summary),
    "iris.plot_weight_distributions": Call("rows", weight_distributions),
    "iris.plot_decision_regions": Call("rows", decision_regions),
    "capstone.predict_logits": Call(
        "images", lambda c: capstone.predict_logits(c.model, c.inputs, **c.options).softmax(1)
    ),
    "capstone.evaluate_model": Call(
        "images", lambda c: measured(capstone.evaluate_model(c.model, c.inputs, c.target, **c.options))
    ),
    "capstone.evaluate_logits": Call("images", lambda c: measured(capstone.evaluate_logits(c.output(), c.target))),
    "capstone.interpret_model_outputs": Call(
        "images",
        lambda c: [
            (r := capstone.interpret_model_outputs(c.model, c.inputs, c.target, **c.options)).labels,
            r.topk_confidence,
        ],
    ),
    "capstone.calibrate_model": Call(
        "images", lambda c: [(r := capstone.calibrate_model(c.model, c.data, **c.options)).before.nll, r.after.nll]
    ),
    "capstone.measure_robustness": Call(
        "images",
        lambda c: capstone.measure_robustness(c.model, c.data, eps=[0, 0.02], steps=2, **c.options).accuracy,
    ),
    "capstone.train_model": Call("images", train_model),
    "capstone.bfloat16_is_faster": Call(
        "images", lambda c: type(capstone.bfloat16_is_faster(c.model, c.data)).__name__
    ),
    "capstone.write_report": Call("images", report),
}


def same(answer: Any, twin: Any, tolerance: float) -> bool:
    """Are two answers the same: words exactly, numbers up to this share of the largest one of their tensor?"""
    if isinstance(twin, str):
        return answer == twin
    if isinstance(twin, (list, tuple)):
        return len(answer) == len(twin) and all(same(a, b, tolerance) for a, b in zip(answer, twin, strict=True))
    a, b = as_double(answer), as_double(twin)
    return a.shape == b.shape and bool(((a - b).abs() <= tolerance * b.abs().max()).all())


def form(answer: Any) -> Any:
    """The answer with shapes in place of its numbers."""
    if isinstance(answer, (list, tuple)):
        return [form(part) for part in answer]
    return answer if isinstance(answer, str) else tuple(as_double(answer).shape)


def as_double(value: Any) -> Tensor:
    return (value.detach() if isinstance(value, Tensor) else torch.as_tensor(np.asarray(value))).double()
