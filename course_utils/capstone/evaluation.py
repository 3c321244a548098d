"""What a trained image classifier is worth, and what it says about single images."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_utils.capstone.distributed import gathered, share
from course_utils.capstone.images import check_data, check_images, scaled
from course_utils.capstone.models import NormalizedImageClassifier, dtype_of
from course_utils.data import ImageData
from course_utils.foundation.arguments import (
    check_choice,
    check_class_names,
    check_count,
    check_labels,
    check_logits,
    check_normalization,
    check_tensor,
    describe_value,
)
from course_utils.foundation.devices import full_precision, layout
from course_utils.foundation.evaluation import check_model, class_logits, output_tensor, reading, tensor_in
from course_utils.foundation.inputs import call_model
from course_utils.foundation.intervals import wilson_interval
from course_utils.foundation.results import Result, short_table
from course_utils.foundation.seeding import make_generator
from course_utils.interpretation import interpret_classification_output
from course_utils.optimization import TemperatureScaler, expected_calibration_error, risk_coverage, temperature_scaling

if TYPE_CHECKING:
    import pandas as pd

Normalization = tuple[Tensor, Tensor]


@torch.no_grad()
def predict_logits(
    model: nn.Module,
    images: Tensor,
    *,
    task: str = "multiclass",
    normalization: Normalization | None = None,
    batch_size: int = 250,
    amp: bool = False,
) -> Tensor:
    """The logits (N, C) of many images, batch by batch, in evaluation mode; on the model's device, float32 or better.

    Under torchrun every process must call it; each reads its share, and all get the whole.

    Args:
        model: normalised images → logits (N, C); for `task="binary"` one logit z an image, (N, 1) or (N,), which
            becomes two: 0 and z.
        images: uint8 (N, 3, H, W), which are normalised here, or floating point, which are taken as normalised. If
            they look like bare pixels, and the model knows how to normalise, a warning says so.
        task: "multiclass" or "binary".
        normalization: (mean, std), each (3,), of uint8 images; None takes the model's own.
        batch_size: images in one pass.
        amp: compute in bfloat16 where it is safe (automatic mixed precision). With hardware for it, about twice as
            fast; the logits are then right to two or three digits, and a few answers in ten thousand change.

    Raises:
        ValueError: uint8 images, and neither `normalization` nor a model that knows its own.
    """
    check_model(model)
    check_choice(task, "task", ("multiclass", "binary"))
    check_count(batch_size, "batch_size")
    if not isinstance(amp, bool):
        raise TypeError(f"amp must be True or False, but is {describe_value(amp)}")
    check_tensor(images, "images", ndim=4, floating=None)
    device = next((value.device for value in model.parameters()), torch.device("cpu"))
    statistics = _statistics(model, images, normalization)
    index = share(torch.arange(len(images), device=images.device))
    parts = []
    with reading(model) as model:
        for batch in index.split(batch_size):
            x = images[batch].to(device)  # a copy, to which a layer may write
            x = scaled(x, *(value.to(device) for value in statistics)) if statistics else x
            x = x.to(dtype_of(model), memory_format=layout(model))
            with torch.autocast(device.type, torch.bfloat16, enabled=amp):
                parts.append(output_tensor(call_model(model, x)))
    logits = full_precision(torch.cat(parts))
    return class_logits(gathered(logits, index.to(device), len(images)), task=task, n=len(images))


def _statistics(model: nn.Module, images: Tensor, normalization: Normalization | None) -> Normalization | None:
    """Mean and standard deviation for uint8 images; None for images that are normalised already."""
    known = [(part.mean, part.std) for part in model.modules() if isinstance(part, NormalizedImageClassifier)]
    knows = bool(known) and bool(known[0][1].all())
    if images.is_floating_point():
        if normalization is not None:
            raise ValueError("floating-point images are taken as normalised; pass uint8 images, or no normalization")
        low, high = map(float, images.detach().aminmax())
        if knows and low >= 0 and high > 0:  # of a normalised image, what is darker than the mean is negative
            warnings.warn(
                f"floating-point images are taken as normalised, but these range from {low:.3g} to {high:.3g} and "
                "look like bare pixels; pass them as uint8, or model.normalize(images as uint8)",
                stacklevel=4,
            )
        return None
    check_images(images)
    if normalization is not None:
        mean, std = check_normalization(normalization, channels=3)
        return mean.float(), std.float()
    if not knows:
        raise ValueError(
            "uint8 images must be normalised as in training, and this model does not know how; pass "
            "normalization=(data.mean, data.std)"
        )
    return known[0]


@dataclass(frozen=True, eq=False, repr=False)
class Evaluation(Result):
    """How well a classifier does on N images with known classes.

    Attributes:
        accuracy: share of right predictions.
        precision, recall, f1: macro averages: the mean over the classes that occur, each weighing the same.
        intervals: 95 % intervals of the four by name: Wilson's for the accuracy, the bootstrap's for the others.
        nll: mean negative log-likelihood in nats; ece: expected calibration error, l1, 15 bins.
        per_class: DataFrame, one row a class: precision, recall, f1, support. A class that is never predicted has
            precision 0.
        confusion_matrix: int64 (C, C), rows true classes, columns predictions.
        predictions: int64 (N,). probabilities: (N, C). target: int64 (N,).
        logits: (N, C), in float32 or better: what predictions and ranks are taken from.
        class_names: C names.
    """

    accuracy: float
    precision: float
    recall: float
    f1: float
    intervals: dict[str, tuple[float, float]]
    nll: float
    ece: float
    per_class: pd.DataFrame
    confusion_matrix: Tensor
    predictions: Tensor
    probabilities: Tensor
    target: Tensor
    class_names: tuple[str, ...]
    logits: Tensor

    per_sample: ClassVar = ("predictions", "target", "probabilities")

    @property
    def accuracy_interval(self) -> tuple[float, float]:
        """The 95 % interval of the accuracy."""
        return self.intervals["accuracy"]

    def risk_coverage(self) -> tuple[Tensor, Tensor]:
        """Coverage and error (N,) if only the k most confident predictions are answered, for k = 1 … N.

        Predictions of equal confidence, such as those that round to 1, are answered together, because nothing tells
        which of them to answer first: they all have the coverage and the error of the last one. `risk_coverage` of
        chapter 3, which this calls, has one point for each distinct confidence instead.
        """
        curve = risk_coverage(self.probabilities.max(1).values, self.predictions == self.target)  # (K,)
        place = torch.searchsorted(curve.coverage, torch.arange(1, len(self) + 1).double() / len(self))  # (N,)
        return curve.coverage[place], curve.risk[place]

    def worst_first(self) -> Tensor:
        """int64 (N,), the images in the order of the probability of their true class, the least one first."""
        return _worst_first(self.logits, self.target)

    def metrics(self) -> dict[str, Any]:
        """The figures without the images, ready for a JSON file."""
        figures = {name: getattr(self, name) for name in ("accuracy", "precision", "recall", "f1", "nll", "ece")}
        intervals = {name: list(interval) for name, interval in self.intervals.items()}
        return {"num_samples": len(self), **figures, "intervals": intervals}

    def __repr__(self) -> str:
        low, high = self.accuracy_interval
        return (
            f"Evaluation(accuracy {self.accuracy:.3f} [{low:.3f}, {high:.3f}], macro f1 {self.f1:.3f}, "
            f"nll {self.nll:.3f}, ece {self.ece:.3f}, {len(self):,} images)"
        )

    def _repr_html_(self) -> str:
        return short_table(repr(self), self.per_class, *self.per_class.shape)


def evaluate_model(
    model: nn.Module,
    images: Tensor,
    target: Tensor,
    class_names: Sequence[str] | None = None,
    *,
    task: str = "multiclass",
    normalization: Normalization | None = None,
    batch_size: int = 250,
    amp: bool = False,
) -> Evaluation:
    """Run a classifier over images in evaluation mode, and measure it.

    Args:
        model, images, task, normalization, batch_size, amp: as in `predict_logits`.
        target: (N,) true classes, a tensor, a list or an array.
        class_names: C names; None numbers the classes.
    """
    logits = predict_logits(model, images, task=task, normalization=normalization, batch_size=batch_size, amp=amp)
    return evaluate_logits(logits, target, class_names)


def evaluate_logits(logits: Tensor, target: Tensor, class_names: Sequence[str] | None = None) -> Evaluation:
    """Measure logits (N, C) against true classes (N,): `evaluate_model` for outputs that were kept.

    −inf is a masked class; the nll is infinite if a true class is masked.

    >>> evaluate_logits(torch.tensor([[2.0, 0.0], [0.0, 1.0], [0.0, 3.0]]), torch.tensor([0, 0, 1])).accuracy
    0.6666666666666666
    """
    import pandas as pd
    from sklearn.metrics import precision_recall_fscore_support

    logits = check_tensor(tensor_in(logits), "logits", ndim=2, finite=False)
    logits = check_logits(full_precision(logits.detach()), class_dim=1).cpu()
    n, c = logits.shape
    if c < 2:
        raise ValueError(
            f"logits must be (N, C) with C ≥ 2, but are {describe_value(logits)}; one logit z a sample becomes two "
            "columns, 0 and z"
        )
    target = check_labels(target, "target", num_samples=n, num_classes=c).long().cpu()
    names = check_class_names(class_names, c) or tuple(map(str, range(c)))
    probabilities = logits.softmax(1)
    predictions = logits.argmax(1)
    confusion = torch.bincount(target * c + predictions, minlength=c * c).reshape(c, c)
    scores = precision_recall_fscore_support(target, predictions, labels=range(c), zero_division=0.0)
    per_class = pd.DataFrame(dict(zip(("precision", "recall", "f1", "support"), scores, strict=True)), index=names)
    point = {name: float(value) for name, value in _scores(confusion[None].double()).items()}
    right = int((predictions == target).sum())
    return Evaluation(
        **point,
        intervals={"accuracy": wilson_interval(right, n)} | _bootstrap_intervals(confusion),
        nll=float(F.cross_entropy(logits.double(), target)),
        ece=expected_calibration_error(probabilities, target),
        per_class=per_class,
        confusion_matrix=confusion,
        predictions=predictions,
        probabilities=probabilities,
        target=target,
        class_names=names,
        logits=logits,
    )


def _scores(confusion: Tensor) -> dict[str, Tensor]:
    """Accuracy and macro precision, recall and F1 of confusion matrices (R, C, C), each (R,)."""
    hits = confusion.diagonal(dim1=1, dim2=2)  # (R, C)
    true, predicted = confusion.sum(2), confusion.sum(1)
    occurs = (true + predicted) > 0

    def macro(share: Tensor) -> Tensor:
        return (share * occurs).sum(1) / occurs.sum(1)

    return {
        "accuracy": hits.sum(1) / true.sum(1),
        "precision": macro(hits / predicted.clamp(min=1)),
        "recall": macro(hits / true.clamp(min=1)),
        "f1": macro(2 * hits / (true + predicted).clamp(min=1)),
    }


def _bootstrap_intervals(confusion: Tensor, *, resamples: int = 1000) -> dict[str, tuple[float, float]]:
    """95 % percentile intervals of the macro scores.

    To draw N images with replacement is to draw N cells of the confusion matrix, so no image is looked at again.
    """
    import numpy as np

    c = len(confusion)
    shares = confusion.flatten().double() / confusion.sum()
    drawn = np.random.default_rng(0).multinomial(int(confusion.sum()), shares.numpy(), size=resamples)
    scores = _scores(torch.from_numpy(drawn).reshape(resamples, c, c).double())
    del scores["accuracy"]
    ends = torch.tensor([0.025, 0.975], dtype=torch.float64)
    return {name: tuple(values.quantile(ends).tolist()) for name, values in scores.items()}


@dataclass(frozen=True, eq=False, repr=False)
class ImageReadings(Result):
    """A model's opinion on a few images.

    Attributes:
        index: int64 (M,), which images.
        target: int64 (M,), their true classes.
        labels, confidence: (M,), the decision and its probability.
        topk_labels, topk_confidence: (M, k), the k most probable classes, best first.
        class_names: C names.
    """

    index: Tensor
    target: Tensor
    labels: Tensor
    confidence: Tensor
    topk_labels: Tensor
    topk_confidence: Tensor
    class_names: tuple[str, ...]

    per_sample: ClassVar = ("index", "target", "labels", "confidence", "topk_labels", "topk_confidence")

    def to_frame(self) -> pd.DataFrame:
        """One row an image: its number, its true class, and the most probable classes in words."""
        import pandas as pd

        rows = []
        for i, target, labels, confidence in zip(
            self.index.tolist(), self.target.tolist(), self.topk_labels.tolist(), self.topk_confidence, strict=True
        ):
            words = [f"{self.class_names[k]} {p:.0%}" for k, p in zip(labels, confidence, strict=True)]
            places = dict(zip(("first", "second", "third"), words, strict=False))
            rows.append({"image": i, "true": self.class_names[target], **places, "right": labels[0] == target})
        return pd.DataFrame(rows)


def readings_of(evaluation: Evaluation, index: Tensor) -> ImageReadings:
    """What an evaluated model predicted for a few of its images, int64 (M,), without asking it again."""
    return _readings(index, evaluation.target[index], evaluation.logits[index], evaluation.class_names)


def _worst_first(logits: Tensor, target: Tensor) -> Tensor:
    """Sorted by the logarithm of the true class's probability: probabilities themselves are soon 0, and then equal."""
    loss = F.cross_entropy(logits.double(), target, reduction="none")
    return loss.argsort(descending=True, stable=True)


def _readings(index: Tensor, target: Tensor, logits: Tensor, names: tuple[str, ...]) -> ImageReadings:
    read = interpret_classification_output(logits, names, top_k=min(3, len(names)))
    return ImageReadings(index, target, read.labels, read.confidence, read.topk_labels, read.topk_confidence, names)


def interpret_model_outputs(
    model: nn.Module,
    images: Tensor,
    target: Tensor,
    class_names: Sequence[str] | None = None,
    *,
    num_samples: int = 6,
    worst_first: bool = False,
    seed: int | None = 0,
    task: str = "multiclass",
    normalization: Normalization | None = None,
) -> ImageReadings:
    """What the model says about a few images: its three most probable classes, with their probabilities.

    Args:
        model, images, target, class_names, task, normalization: as in `evaluate_model`.
        num_samples: how many images; all, if there are fewer.
        worst_first: the images whose true class got the least probability, worst first; otherwise a random choice.
        seed: of that choice.
    """
    check_count(num_samples, "num_samples")
    check_tensor(images, "images", ndim=4, floating=None)
    # To find the worst, the model must see all images; a random choice is made first, and only it goes through.
    everything = torch.arange(len(images))
    chosen = everything if worst_first else torch.randperm(len(images), generator=make_generator(seed))[:num_samples]
    logits = predict_logits(model, images[chosen.to(images.device)], task=task, normalization=normalization).cpu()
    target = check_labels(target, "target", num_samples=len(images), num_classes=logits.shape[1]).long().cpu()
    names = check_class_names(class_names, logits.shape[1]) or tuple(map(str, range(logits.shape[1])))
    if worst_first:
        chosen = _worst_first(logits, target)[:num_samples]
        logits = logits[chosen]
    return _readings(chosen, target[chosen], logits, names)


class FlipAverage(nn.Module):
    """A classifier that looks at each image and at its mirror image, and returns the mean of the logits.

    A form of test-time augmentation. It costs a second pass, and is named wherever a figure was made with it.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = check_model(model)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) → logits (N, C)."""
        return (output_tensor(self.model(x)) + output_tensor(self.model(x.flip(3)))) / 2


@dataclass(frozen=True, eq=False)
class Calibration:
    """A classifier before and after temperature scaling.

    Attributes:
        model: the calibrated classifier: the given one, its logits divided by the temperature. Use this one from now
            on: a temperature that is fitted and not applied changes nothing.
        temperature: fitted on the validation images; above 1 for an over-confident network.
        before, after: `Evaluation`s on the test images.
    """

    model: nn.Module
    temperature: float
    before: Evaluation
    after: Evaluation

    def __repr__(self) -> str:
        ece, nll = ((getattr(self.before, name), getattr(self.after, name)) for name in ("ece", "nll"))
        return (
            f"Calibration(temperature {self.temperature:.3f}; on the test images ece {ece[0]:.3f} → {ece[1]:.3f}, "
            f"nll {nll[0]:.3f} → {nll[1]:.3f})"
        )


def calibrate_model(model: nn.Module, data: ImageData, *, task: str = "multiclass") -> Calibration:
    """Fit a temperature on the validation images, apply it, and report the test images before and after.

    The predicted classes stay the same: dividing logits by one number keeps their order.

    Args:
        model: normalised images → logits (N, C). It is not changed; `.model` of the result shares its parameters.
        data: from `load_cifar10`; normalised with its statistics.
        task: "multiclass" or "binary", as in `predict_logits`.
    """
    model = check_model(model)
    check_data(data)
    options = {"task": task, "normalization": (data.mean, data.std)}
    logits = predict_logits(model, data.validation.images, **options)  # (N, C), for binary (N, 2) with the columns 0, z
    scaler = temperature_scaling(logits[:, 1:] if task == "binary" else logits, data.validation.target, task=task)
    test = predict_logits(model, data.test.images, **options)
    scaled = test / scaler.temperature.to(test)
    before, after = (evaluate_logits(z, data.test.target, data.class_names) for z in (test, scaled))
    return Calibration(_Calibrated(model, scaler), float(scaler.temperature), before, after)


class _Calibrated(nn.Module):
    """A classifier whose logits are divided by a temperature."""

    def __init__(self, model: nn.Module, scaler: TemperatureScaler) -> None:
        super().__init__()
        self.model, self.scaler = model, scaler

    def forward(self, x: Tensor) -> Tensor:
        return self.scaler(output_tensor(self.model(x)))
