"""A report about a trained classifier: one HTML page that holds all its figures, and the numbers as JSON."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from course_utils.advanced import grad_cam, integrated_gradients, visualize_attributions
from course_utils.capstone.evaluation import calibrate_model, readings_of
from course_utils.capstone.images import check_data, normalize
from course_utils.capstone.models import NormalizedImageClassifier, dtype_of
from course_utils.capstone.plotting import plot_readings, plot_robustness, plot_training, visualize_results
from course_utils.capstone.robustness import measure_robustness
from course_utils.capstone.training import TrainingHistory
from course_utils.data import ImageData
from course_utils.foundation.evaluation import check_model
from course_utils.foundation.files import check_writable, write_atomically
from course_utils.foundation.html import render
from course_utils.foundation.plotting import figure_png, literal
from course_utils.optimization import plot_risk_coverage

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

_PACKAGES = ("torch", "torchvision", "scikit-learn", "numpy", "matplotlib")
_NOTES = {
    "training": "Loss and validation accuracy after each epoch. The training loss is of augmented images in train "
    "mode, so it is not comparable with the validation loss.",
    "predictions": "The first test images: the true class, and below it what the model says and how sure it is.",
    "worst_mistakes": "The test images whose true class got the least probability.",
    "confusion_matrix": "Rows are true classes. Colour shows mistakes only.",
    "metrics": "Recall and precision of each class with 95 % intervals, the hardest class at the bottom.",
    "reliability": "Accuracy against confidence, before and after temperature scaling.",
    "risk_coverage": "The error that remains if only the most confident answers are given.",
    "robustness": "Accuracy under PGD attacks of growing strength; an upper bound, since stronger attacks may exist.",
    "grad_cam": "Where the last features that decided for the predicted class lie.",
    "integrated_gradients": "Which pixels spoke for the predicted class (orange) and against it (violet), compared "
    "with an image of the mean colour.",
}


def write_report(
    model: nn.Module,
    data: ImageData,
    folder: str | os.PathLike,
    *,
    history: TrainingHistory | None = None,
    run: Mapping[str, Any] | None = None,
    task: str = "multiclass",
) -> dict[str, Any]:
    """Evaluate, calibrate, attack and explain a classifier, and write what came out.

    The folder gets `report.html` (one page that holds its figures), each figure as a PNG, `run.json` (versions,
    machine, settings), and `metrics.json`, which is also returned. A folder that holds a report already is refused.

    Args:
        model, task: as in `predict_logits`.
        data: from `load_cifar10`.
        folder: is made if it does not exist.
        history: of the training, for its curves.
        run: settings to keep in run.json.

    Raises:
        FileExistsError: the folder holds a report.
    """
    model = check_model(model)
    check_data(data)
    folder = Path(folder)
    if os.path.exists(folder / "metrics.json"):  # False, and no error, for names that cannot be
        raise FileExistsError(f"{folder} holds a report already, and it is not overwritten; name another folder")
    check_writable(folder / "report.html")  # fail now rather than after a long evaluation

    calibration = calibrate_model(model, data, task=task)
    before, after = calibration.before, calibration.after
    curve = measure_robustness(calibration.model, data, num_samples=200, task=task)
    worst = readings_of(after, after.worst_first()[:12])
    figures = {"training": plot_training(history)} if history is not None and len(history) else {}
    figures |= visualize_results(before, data.test.images, calibrated=after)
    figures["worst_mistakes"] = plot_readings(worst, data.test.images)
    figures["risk_coverage"] = plot_risk_coverage({"calibrated model": after.risk_coverage()})
    figures["robustness"] = plot_robustness({"the model": curve})
    figures |= _explanations(model, data, before.predictions, task)

    metrics = {
        "data": data.name,
        "as_trained": before.metrics(),
        "calibrated": after.metrics() | {"temperature": calibration.temperature},
        "robustness": {"num_samples": curve.num_samples} | {n: getattr(curve, n).tolist() for n in curve.per_sample},
    }
    pngs = {name: figure_png(figure) for name, figure in figures.items()}
    record = run_record() | {"training": _training_record(history)} | dict(run or {})
    for name, png in pngs.items():
        write_atomically(folder / f"{name}.png", lambda file, png=png: file.write(png))
    _write_text(folder / "report.html", _page(model, data, metrics, record, before.per_class, pngs))
    _write_text(folder / "run.json", json.dumps(record, indent=2, default=str))
    _write_text(folder / "metrics.json", json.dumps(metrics, indent=2))  # the last one: it marks a finished report
    return metrics


def run_record() -> dict[str, Any]:
    """Versions and machine, without names of people, hosts or folders."""
    return {
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in _PACKAGES},
        "system": f"{platform.system()} {platform.machine()}",
        "threads": torch.get_num_threads(),
        "cpu_instructions": torch.backends.cpu.get_cpu_capability(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _training_record(history: TrainingHistory | None) -> dict[str, Any] | None:
    if history is None:
        return None
    same = {name: getattr(history, name) for name in ("precision", "seed", "interrupted")}
    return {"epochs": len(history), "seconds": round(float(history.seconds.sum()), 1), **same}


def _explanations(
    model: nn.Module, data: ImageData, predictions: Tensor, task: str, *, num_images: int = 6
) -> dict[str, Figure]:
    """Grad-CAM and integrated gradients for three right and three wrong predictions, as far as there are any."""
    right = predictions == data.test.target
    index = torch.cat([torch.nonzero(kind)[: num_images // 2, 0] for kind in (right, ~right)])
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    x = normalize(data.test.images[index], data.mean, data.std).to(device, dtype_of(model))
    predicted = predictions[index].to(device)
    shown = data.test.images[index] / 255
    names = [f"{'✓' if right[i] else '✗'} {literal(data.class_names[predictions[i]])}" for i in index.tolist()]
    # The baseline 0 is the mean colour of normalised images.
    attributions = integrated_gradients(model, x, predicted, task=task)
    figures = {"integrated_gradients": visualize_attributions(shown, attributions.cpu(), titles=names)}
    if isinstance(model, NormalizedImageClassifier):
        cam = grad_cam(model, x, model.cam_layer, predicted, task=task)
        figures = {"grad_cam": visualize_attributions(shown, cam.cpu(), titles=names)} | figures
    return figures


def _page(
    model: nn.Module,
    data: ImageData,
    metrics: Mapping[str, Any],
    record: Mapping[str, Any],
    per_class: pd.DataFrame,
    pngs: Mapping[str, bytes],
) -> str:
    """One HTML page that needs no other file."""
    return render(
        "capstone/templates/report.html",
        title=f"{type(model).__name__} on {data.name}",
        is_cifar10=data.name == "cifar10",
        num_parameters=sum(parameter.numel() for parameter in model.parameters()),
        sizes={name: len(getattr(data, name)) for name in ("train", "validation", "test")},
        temperature=metrics["calibrated"]["temperature"],
        metrics=_metrics_table(metrics),
        per_class=per_class.reset_index(names="class"),
        figures=[
            {"name": name.replace("_", " ").capitalize(), "note": _NOTES[name], "png": png}
            for name, png in pngs.items()
        ],
        record=json.dumps(record, indent=2, default=str),
    )


def _metrics_table(metrics: Mapping[str, Any]) -> pd.DataFrame:
    import pandas as pd

    before, after = metrics["as_trained"], metrics["calibrated"]
    intervals = {name: f"{low:.4f} to {high:.4f}" for name, (low, high) in before["intervals"].items()}
    rows = [
        (name, before[name], after[name], intervals.get(name, ""))
        for name in ("accuracy", "precision", "recall", "f1", "nll", "ece")
    ]
    return pd.DataFrame(rows, columns=["metric", "as trained", "calibrated", "95 % interval, as trained"])


def _write_text(path: Path, text: str) -> None:
    write_atomically(path, lambda file: file.write(text.encode()))
