"""How many of the right answers survive an attack, for attacks of growing strength."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from course_utils.advanced import pgd_attack
from course_utils.capstone.evaluation import predict_logits
from course_utils.capstone.images import check_data, normalize
from course_utils.capstone.models import dtype_of
from course_utils.data import ImageData
from course_utils.foundation.arguments import check_count, check_number, describe_value
from course_utils.foundation.evaluation import check_model
from course_utils.foundation.intervals import wilson_interval
from course_utils.foundation.results import Result
from course_utils.foundation.seeding import make_generator


@dataclass(frozen=True, eq=False, repr=False)
class RobustnessCurve(Result):
    """Accuracy against the strength of an attack.

    Attributes:
        eps: float64 (E,), ascending: the most that any pixel may change, in units in which pixels lie in [0, 1].
        accuracy: float64 (E,), share of the images that are right before the attack and after it.
        low, high: float64 (E,), its 95 % Wilson interval.
        num_samples: N, images attacked.
    """

    eps: Tensor
    accuracy: Tensor
    low: Tensor
    high: Tensor
    num_samples: int

    per_sample: ClassVar = ("eps", "accuracy", "low", "high")


def measure_robustness(
    model: nn.Module,
    data: ImageData,
    *,
    eps: float | Sequence[float] = (0.0, 0.5 / 255, 1 / 255, 2 / 255, 4 / 255, 8 / 255),
    steps: int = 10,
    num_samples: int | None = 500,
    task: str = "multiclass",
    seed: int = 0,
) -> RobustnessCurve:
    """Attack test images with PGD, and count what stays right.

    The attack works on normalised images with eps in pixel units. An image that falls at one eps counts as
    fallen at every larger one, because the larger ball holds the same image; so the curve cannot rise, and only
    survivors are attacked again. The numbers are upper bounds of the true robustness: a stronger attack finds more.

    Args:
        model, task: as in `predict_logits`.
        data: from `load_cifar10`; its test images and its statistics are used.
        eps: one strength or several, each ≥ 0; 0 is the clean accuracy.
        steps: of the attack.
        num_samples: how many test images, drawn at random; None for all.
        seed: of that choice and of the attack's random starts.
    """
    model = check_model(model)
    check_data(data)
    check_count(steps, "steps")
    strengths = [eps] if isinstance(eps, (int, float)) else eps
    if not isinstance(strengths, Sequence) or isinstance(strengths, str) or not strengths:
        raise ValueError(f"eps must be a number or a list of numbers, but is {describe_value(eps)}")
    strengths = sorted({check_number(value, "eps") for value in strengths})
    if strengths[0] < 0:
        raise ValueError(f"eps must not be negative, but is {strengths[0]}")
    n = len(data.test) if num_samples is None else min(check_count(num_samples, "num_samples"), len(data.test))
    index = torch.randperm(len(data.test), generator=make_generator(seed))[:n]
    images, target = normalize(data.test.images[index], data.mean, data.std), data.test.target[index]
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    images, target = images.to(device, dtype_of(model)), target.to(device)
    standing = predict_logits(model, images, task=task).argmax(1) == target
    right = []
    for strength in strengths:
        if strength > 0 and standing.any():
            attacked = pgd_attack(
                model, images[standing], target[standing], eps=strength, steps=steps, seed=seed,
                normalization=(data.mean, data.std), early_stop=True, task=task,
            )  # fmt: skip
            survived = predict_logits(model, attacked, task=task).argmax(1) == target[standing]
            standing = standing.masked_scatter(standing, survived)
        right.append(int(standing.sum()))
    low, high = zip(*(wilson_interval(k, n) for k in right), strict=True)
    columns = (strengths, [k / n for k in right], low, high)
    return RobustnessCurve(*(torch.tensor(column, dtype=torch.float64) for column in columns), num_samples=n)
