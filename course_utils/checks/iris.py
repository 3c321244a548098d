"""The exercises of chapter 7 and the mistakes they are known for.

Exercises: 1 count by hand; 2 the loss of a data set that comes in batches; 3 measure, and leave no trace; 4 how much
is 30 of 30?; 5 one flower from the garden.
"""

import math
from functools import cache, partial
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_utils.checks.exercise import Exercise
from course_utils.foundation.evaluation import evaluation_mode
from course_utils.foundation.seeding import isolated_randomness, make_generator
from course_utils.iris import MLP, load_iris_split, train


@cache
def _trained_model(dropout: float = 0.0) -> nn.Module:
    split = load_iris_split()
    with isolated_randomness(7):
        model = MLP(dropout=dropout)
    train(model, split.x_train, split.y_train, epochs=300, lr=0.03, optimizer="adam", progress=False, seed=7)
    return model


def _count(sizes: list[int]) -> int:
    return sum(a * b + b for a, b in pairwise(sizes))


COUNT = Exercise(
    name="iris.count_mlp_parameters",
    praise="Each unit has one weight per input and one bias.",
    reference=_count,
    cases=lambda seed: [
        ([4, 10, 3],),
        (torch.randint(2, 40, (4,), generator=make_generator(seed)).tolist(),),
        ([64, 10],),
    ],
    wrong_answers={
        "the biases are missing": (
            "Each unit of a layer also has a bias: add the layer's width.",
            lambda sizes: sum(a * b for a, b in pairwise(sizes)),
        ),
        "one bias per layer": (
            "The bias is a vector with one entry per unit, not one number for the layer.",
            lambda sizes: sum(a * b + 1 for a, b in pairwise(sizes)),
        ),
        "a bias per input": (
            "The biases belong to the units that a layer produces, not to its inputs: add the second width.",
            lambda sizes: sum(a * b + a for a, b in pairwise(sizes)),
        ),
        "biases for the input layer too": (
            "The inputs are data. They have neither weights nor biases.",
            lambda sizes: _count(sizes) + sizes[0],
        ),
        "all widths multiplied": (
            "Layers follow each other, so their counts are added, one product for each pair of neighbours.",
            lambda sizes: math.prod(sizes),
        ),
    },
)


def _loss_cases(seed: int) -> list[tuple]:
    split = load_iris_split()
    order = torch.randperm(len(split.x_train), generator=make_generator(seed))[:65]
    x, y = split.x_train[order], split.y_train[order]
    # 64 samples, and a last batch of one: here the mean of batch means goes most wrong.
    return [(_trained_model(), [(x[:64], y[:64]), (x[64:], y[64:])]), (_trained_model(), [(x[:40], y[:40])])]


def _batch_losses(model: nn.Module, batches: list[tuple[Tensor, Tensor]], reduction: str) -> list[float]:
    with torch.no_grad():
        return [F.cross_entropy(model(x), y, reduction=reduction).item() for x, y in batches]


LOSS = Exercise(
    name="iris.dataset_loss",
    praise="Every sample counts once, whatever batch it came in.",
    reference=lambda model, batches: sum(_batch_losses(model, batches, "sum")) / sum(len(y) for _, y in batches),
    cases=_loss_cases,
    wrong_answers={
        "the mean of batch means": (
            "The last batch has one sample, and its loss counts as much as the 64 others together. Add up the sums "
            "(reduction='sum'), count the samples, divide once at the end.",
            lambda model, batches: sum(_batch_losses(model, batches, "mean")) / len(batches),
        ),
        "a sum that is never divided": (
            "Divide by the number of samples. Otherwise the loss of a larger data set looks worse.",
            lambda model, batches: sum(_batch_losses(model, batches, "sum")),
        ),
        "sums divided by the number of batches": (
            "Divide by the number of samples, not of batches.",
            lambda model, batches: sum(_batch_losses(model, batches, "sum")) / len(batches),
        ),
        "the loss of the last batch": (
            "The variable is overwritten in each round. Add to it instead.",
            lambda model, batches: _batch_losses(model, batches, "mean")[-1],
        ),
        "softmax before cross_entropy": (
            "F.cross_entropy wants logits; it applies log-softmax itself. With softmax in front it is applied twice.",
            lambda model, batches: (
                sum(F.cross_entropy(model(x).softmax(1), y, reduction="sum").item() for x, y in batches)
                / sum(len(y) for _, y in batches)
            ),
        ),
    },
)


def _evaluate_cases(seed: int) -> list[tuple]:
    split = load_iris_split()
    order = torch.randperm(len(split.x_train), generator=make_generator(seed))[:80]
    x, y = split.x_train[order], split.y_train[order]
    training, evaluating = MLP(dropout=0.8), MLP(dropout=0.8)
    for model in (training, evaluating):
        model.load_state_dict(_trained_model(dropout=0.2).state_dict())
    return [(training.train(), x, y), (evaluating.eval(), x, y)]


def _observe_evaluation(answer: Any, model: nn.Module, x: Tensor, y: Tensor) -> dict[str, Any]:
    value = answer(model, x, y)
    return {"accuracy": value, "training modes afterwards": [module.training for module in model.modules()]}


def _share_right(model: nn.Module, x: Tensor, y: Tensor) -> float:
    return (model(x).argmax(1) == y).float().mean().item()


def _evaluate(model: nn.Module, x: Tensor, y: Tensor, *, number=True) -> float | Tensor:
    with evaluation_mode(model), torch.no_grad():
        share = (model(x).argmax(1) == y).float().mean()
    return share.item() if number else share


def _evaluate_then_train(model: nn.Module, x: Tensor, y: Tensor) -> float:
    value = _share_right(model.eval(), x, y)
    model.train()
    return value


EVALUATE = Exercise(
    name="iris.evaluate",
    praise="Dropout was off while you measured, and the model is in the mode it came in.",
    reference=_evaluate,
    cases=_evaluate_cases,
    observe=_observe_evaluation,
    wrong_answers={
        "train mode left on": (
            "Dropout switched hidden units off while you measured, so the accuracy is that of a damaged model and "
            "differs in each call. Call model.eval() before. torch.no_grad() does not do it: it only stops the graph.",
            _share_right,
        ),
        "the model left in eval mode": (
            "The accuracy is right, but the caller's next training epoch would run without dropout. Remember "
            "model.training before, and restore it with model.train(mode).",
            lambda model, x, y: _share_right(model.eval(), x, y),
        ),
        "the model always put into train mode": (
            "It may have come in eval mode. Remember model.training before, and restore that.",
            _evaluate_then_train,
        ),
        "a tensor instead of a number": (
            "Return a Python float: .item() at the end.",
            partial(_evaluate, number=False),
        ),
        "argmax over the batch": (
            "argmax(dim=0) finds the sample with the largest logit of each class. The classes are in dim 1.",
            lambda model, x, y: (model.eval()(x).argmax(0) == y).float().mean().item(),
        ),
    },
)


def _interval_cases(seed: int) -> list[tuple]:
    correct = int(torch.randint(15, 29, (1,), generator=make_generator(seed)))
    return [(30, 30), (correct, 30), (970, 1000)]


def _wilson(correct: int, n: int, z: float = 1.96) -> tuple[float, float]:
    middle = correct + z * z / 2
    half = z * math.sqrt(correct * (n - correct) / n + z * z / 4)
    return (middle - half) / (n + z * z), (middle + half) / (n + z * z)


def _wald(correct: int, n: int) -> tuple[float, float]:
    p = correct / n
    half = 1.96 * math.sqrt(p * (1 - p) / n)
    return p - half, p + half


INTERVAL = Exercise(
    name="iris.accuracy_interval",
    praise="30 of 30 right is compatible with a true accuracy of 0.886.",
    reference=_wilson,
    cases=_interval_cases,
    tolerance=1e-4,
    wrong_answers={
        "the textbook interval p ± z·√(p(1−p)/n)": (
            "At 30 of 30 it has no width, as if you were certain. Wilson's interval keeps one.",
            _wald,
        ),
        "z forgotten": (
            "This is one standard error on each side, about 68 %. For 95 % use z = 1.96.",
            partial(_wilson, z=1.0),
        ),
        "the z of a 90 % interval": (
            "1.645 leaves 5 % on each side. For 95 % in the middle each side gets 2.5 %: z = 1.96.",
            partial(_wilson, z=1.645),
        ),
        "division by n": (
            "The denominator is n + z², not n.",
            lambda correct, n: tuple(end * (n + 1.96**2) / n for end in _wilson(correct, n)),
        ),
    },
)


def _flower_cases(seed: int) -> list[tuple]:
    split = load_iris_split()
    chosen = torch.randint(len(split.x_test), (3,), generator=make_generator(seed))
    centimetres = split.scaler.inverse_transform(split.x_test[chosen].numpy()).round(1).tolist()
    return [(_trained_model(), split.scaler, flower) for flower in centimetres]


def _read_flower(model: nn.Module, x: Tensor) -> tuple[int, float]:
    with evaluation_mode(model), torch.no_grad():
        confidence, label = torch.softmax(model(x), dim=-1).max(dim=-1)
    return label.item(), confidence.item()


def _scaled(scaler: Any, flower: list[float]) -> Tensor:
    return torch.as_tensor(scaler.transform([flower])).float()


def _top_logit(model: nn.Module, x: Tensor) -> tuple[int, float]:
    with torch.no_grad():
        logits = model(x)[0]
    return logits.argmax().item(), logits.max().item()


def _own_scaling(flower: list[float]) -> Tensor:
    low, high = min(flower), max(flower)
    return torch.tensor([[(value - low) / (high - low) for value in flower]])


FLOWER = Exercise(
    name="iris.classify_flower",
    praise="New data went through the scaler of the training data, as a batch of one.",
    reference=lambda model, scaler, flower: _read_flower(model, _scaled(scaler, flower)),
    cases=_flower_cases,
    tolerance=1e-4,
    wrong_answers={
        "centimetres fed to a model that learned from scaled values": (
            "The model saw numbers between 0 and 1 in training. Send the flower through scaler.transform first.",
            lambda model, scaler, flower: _read_flower(model, torch.tensor([flower])),
        ),
        "scaled by its own minimum and maximum": (
            "One flower knows nothing of the others' range. The scaler was fitted on the training part: use "
            "scaler.transform.",
            lambda model, scaler, flower: _read_flower(model, _own_scaling(flower)),
        ),
        "a scaler fitted anew on one flower": (
            "fit_transform forgets the training data's range, and one sample has none: every feature becomes 0. Use "
            "scaler.transform.",
            lambda model, scaler, flower: _read_flower(model, torch.zeros(1, 4)),
        ),
        "the largest logit as confidence": (
            "A logit is no probability. Put softmax between.",
            lambda model, scaler, flower: _top_logit(model, _scaled(scaler, flower)),
        ),
        "scaled twice": (
            "The values went through scaler.transform two times.",
            lambda model, scaler, flower: _read_flower(
                model, torch.as_tensor(scaler.transform(scaler.transform([flower]))).float()
            ),
        ),
    },
)

EXERCISES = (COUNT, LOSS, EVALUATE, INTERVAL, FLOWER)
