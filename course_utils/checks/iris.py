"""The exercises of chapter 7 and the mistakes they are known for.

Exercises: 1 count by hand; 2 the training loop; 3 the loss of a data set that comes in batches; 4 measure, and leave
no trace; 5 how much is 30 of 30?; 6 one flower from the garden.
"""

import copy
import math
from collections.abc import Callable
from functools import cache
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


def _count_cases(seed: int) -> list[tuple]:
    widths = torch.randint(2, 40, (4,), generator=make_generator(seed)).tolist()
    return [([4, 10, 3],), (widths,), ([64, 10],)]


def _count(sizes: list[int]) -> int:
    return sum(a * b + b for a, b in pairwise(sizes))


COUNT = Exercise(
    name="iris.count_mlp_parameters",
    praise="Each unit has one weight per input and one bias.",
    reference=_count,
    cases=_count_cases,
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


def _loop_cases(seed: int) -> list[tuple]:
    split = load_iris_split()
    order = torch.randperm(len(split.x_train), generator=make_generator(seed))
    x, y = split.x_train[order], split.y_train[order]
    return [(MLP(), x[:100], y[:100], 0.3, 6), (MLP(), x[100:], y[100:], 0.05, 9)]


def _observe_loop(answer: Any, model: nn.Module, x: Tensor, y: Tensor, lr: float, steps: int) -> dict[str, Any]:
    trained = copy.deepcopy(model)  # the exercise is to change it, so the case keeps the untrained one
    losses = answer(trained, x, y, lr, steps)
    return {"losses": losses, "weights afterwards": nn.utils.parameters_to_vector(trained.parameters()).detach()}


def _loop(
    *,
    loss: Callable = F.cross_entropy,
    optimizer: Callable = torch.optim.SGD,
    order: tuple[str, ...] = ("zero_grad", "backward", "step"),
) -> Callable[..., list[float]]:
    """The training loop, right by default; the options put one mistake into it."""

    def answer(model: nn.Module, x: Tensor, y: Tensor, lr: float, steps: int) -> list[float]:
        used = optimizer(model.parameters(), lr=lr)
        losses = []
        for _ in range(steps):
            value = loss(model(x), y)
            parts = {"zero_grad": used.zero_grad, "backward": value.backward, "step": used.step}
            for part in order:
                parts[part]()
            losses.append(value.item())
        return losses

    return answer


def _loop_measured_afterwards(model: nn.Module, x: Tensor, y: Tensor, lr: float, steps: int) -> list[float]:
    losses = []
    for _ in range(steps):
        _loop()(model, x, y, lr, 1)
        losses.append(F.cross_entropy(model(x), y).item())
    return losses


_FROZEN_HINT = (
    "All losses are the same, so no step had slopes to follow. Was backward() called, and after it step()? A "
    "zero_grad() between the two forgets the slopes before they are used."
)
_LR_HINT = "Pass the argument on: torch.optim.SGD(model.parameters(), lr=lr)."

LOOP = Exercise(
    name="iris.train_loop",
    praise="Zero, forward, loss, backward, step: every training in PyTorch has these five lines at its heart.",
    reference=_loop(),
    cases=_loop_cases,
    observe=_observe_loop,
    tolerance=1e-4,
    wrong_answers={
        "zero_grad forgotten": (
            "backward() adds to the slopes that are already there. Call optimizer.zero_grad() in every round, or each "
            "step follows the sum of all slopes so far.",
            _loop(order=("backward", "step")),
        ),
        "weights that never move": (_FROZEN_HINT, _loop(order=("zero_grad", "step", "backward"))),
        "a step that comes one round late": (
            "step() was called before backward(), so it used the slopes of the round before. backward() first.",
            _loop(order=("step", "zero_grad", "backward")),
        ),
        "losses that are tensors": (
            "Append loss.item(), a plain number. A list of tensors keeps the graph of every step in memory.",
            lambda *arguments: [torch.tensor(value) for value in _loop()(*arguments)],
        ),
        "one tensor instead of a list": (
            "The losses are right. Return a list of plain numbers: append loss.item() in every round.",
            lambda *arguments: torch.tensor(_loop()(*arguments)),
        ),
        "only the last loss": (
            "The curve of a training needs the loss of every step: append each one to a list, and return the list.",
            lambda *arguments: _loop()(*arguments)[-1],
        ),
        "a return inside the loop": (
            "The function ended after its first round. Move the return line to the left, below the loop.",
            lambda model, x, y, lr, steps: _loop()(model, x, y, lr, 1),
        ),
        "the last step missing": (
            "There is one round too few: range(steps) counts from 0 to steps − 1, and these are `steps` rounds.",
            lambda model, x, y, lr, steps: _loop()(model, x, y, lr, steps - 1),
        ),
        "the loss measured after the step": (
            "The weights are right. Note the loss that backward() was called on, the one before the step; measuring "
            "again costs a second forward pass.",
            _loop_measured_afterwards,
        ),
        "a copy of the model trained": (
            "The losses are right, but the caller's model is as it was. Train the model that came in.",
            lambda model, *others: _loop()(copy.deepcopy(model), *others),
        ),
        "softmax before cross_entropy": (
            "F.cross_entropy wants logits; it applies log-softmax itself. With softmax in front it is applied twice, "
            "and the training crawls.",
            _loop(loss=lambda logits, y: F.cross_entropy(logits.softmax(1), y)),
        ),
        "raw logits in nll_loss": (
            "F.nll_loss wants log-probabilities, and got logits. F.cross_entropy takes the logits as they are.",
            _loop(loss=F.nll_loss),
        ),
        "log-softmax over the flowers": (
            "dim=0 runs over the flowers, so they compete with each other. The classes are in dim 1; "
            "F.cross_entropy knows that.",
            _loop(loss=lambda logits, y: F.nll_loss(logits.log_softmax(0), y)),
        ),
        "the sum over the flowers": (
            "Take the mean, which F.cross_entropy does by itself. With a sum the steps grow with the number of "
            "flowers, and the learning rate means something else.",
            _loop(loss=lambda logits, y: F.cross_entropy(logits, y, reduction="sum")),
        ),
        "steps uphill": (
            "The loss grows: the weights move along the slope. Downhill is weight − lr · slope.",
            _loop(optimizer=lambda parameters, lr: torch.optim.SGD(parameters, lr=lr, maximize=True)),
        ),
        "the loss with its sign turned": (
            "A step makes what backward() is called on smaller, so call it on the loss itself, not on −loss.",
            _loop(loss=lambda logits, y: -F.cross_entropy(logits, y)),
        ),
        "the optimizer's own learning rate": (
            f"SGD was made without lr, so it took its default, 0.001. {_LR_HINT}",
            _loop(optimizer=lambda parameters, lr: torch.optim.SGD(parameters)),
        ),
        "a fixed learning rate of 0.01": (
            f"That is the lesson's learning rate, not the one that came in. {_LR_HINT}",
            _loop(optimizer=lambda parameters, lr: torch.optim.SGD(parameters, lr=0.01)),
        ),
        "Adam instead of plain SGD": (
            "Adam scales each step by the slopes' history. The exercise asks for the plain step, weight − lr · slope: "
            "torch.optim.SGD.",
            _loop(optimizer=torch.optim.Adam),
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


def _per_sample(model: nn.Module, batches: list[tuple[Tensor, Tensor]], log_p: Callable[[Tensor], Tensor]) -> float:
    """Minus the mean of what `log_p` makes of the true class's logit."""
    with torch.no_grad():
        total = sum(F.nll_loss(log_p(model(x)), y, reduction="sum").item() for x, y in batches)
    return total / sum(len(y) for _, y in batches)


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
        "raw logits in nll_loss": (
            "F.nll_loss wants log-probabilities, and got logits, so this is minus the mean logit of the true class. "
            "F.cross_entropy takes the logits as they are.",
            lambda model, batches: _per_sample(model, batches, lambda logits: logits),
        ),
        "log-softmax over the flowers": (
            "dim=0 runs over the flowers of the batch, so they compete with each other. The classes are in dim 1.",
            lambda model, batches: _per_sample(model, batches, lambda logits: logits.log_softmax(0)),
        ),
        "a tensor instead of a number": (
            "The value is right. Make it a Python float: .item().",
            lambda model, batches: torch.tensor(_per_sample(model, batches, lambda logits: logits.log_softmax(1))),
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


def _evaluate(model: nn.Module, x: Tensor, y: Tensor) -> float:
    with evaluation_mode(model), torch.no_grad():
        return _share_right(model, x, y)


def _evaluate_and_stay(model: nn.Module, x: Tensor, y: Tensor) -> float:
    return _share_right(model.eval(), x, y)


def _evaluate_then_train(model: nn.Module, x: Tensor, y: Tensor) -> float:
    value = _share_right(model.eval(), x, y)
    model.train()
    return value


def _evaluate_tensor(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    with evaluation_mode(model):
        return (model(x).argmax(1) == y).float().mean()


def _evaluate_logits(model: nn.Module, x: Tensor, y: Tensor) -> float:
    with evaluation_mode(model), torch.no_grad():
        return (model(x).amax(1) == y).float().mean().item()


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
            _evaluate_and_stay,
        ),
        "the model always put into train mode": (
            "It may have come in eval mode. Remember model.training before, and restore that.",
            _evaluate_then_train,
        ),
        "a tensor instead of a number": (
            "Return a Python float: .item() at the end.",
            _evaluate_tensor,
        ),
        "argmax over the batch": (
            "argmax(dim=0) finds the sample with the largest logit of each class. The classes are in dim 1.",
            lambda model, x, y: (model.eval()(x).argmax(0) == y).float().mean().item(),
        ),
        "the largest logits compared with the classes": (
            "max and amax give the largest logit; argmax says which class has it.",
            _evaluate_logits,
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


def _wald(correct: int, n: int, z: float = 1.96) -> tuple[float, float]:
    p = correct / n
    half = z * math.sqrt(p * (1 - p) / n)
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
            lambda correct, n: _wilson(correct, n, z=1.0),
        ),
        "the z of a 90 % interval": (
            "1.645 leaves 5 % on each side. For 95 % in the middle each side gets 2.5 %: z = 1.96.",
            lambda correct, n: _wilson(correct, n, z=1.645),
        ),
        "division by n": (
            "The denominator is n + z², not n.",
            lambda correct, n: tuple(end * (n + 1.96**2) / n for end in _wilson(correct, n)),
        ),
    },
)


def _flower_cases(seed: int) -> list[tuple]:
    split = load_iris_split()
    generator = make_generator(seed)
    # One of each species. Setosa, class 0, comes last: an answer that is always 0 must not pass for long.
    of_species = [torch.nonzero(split.y_test == species)[:, 0] for species in (2, 1, 0)]
    chosen = torch.stack([rows[torch.randint(len(rows), (), generator=generator)] for rows in of_species])
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


def _over_batch(model: nn.Module, x: Tensor) -> tuple[int, float]:
    with torch.no_grad():
        confidence, label = model(x).softmax(0).max(1)
    return label.item(), confidence.item()


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
        "tensors instead of numbers": (
            "The values are right, as tensors with one element each. Make plain numbers of both: label.item() and "
            "confidence.item().",
            lambda model, scaler, flower: [
                torch.tensor([value]) for value in _read_flower(model, _scaled(scaler, flower))
            ],
        ),
        "tensors without axes instead of numbers": (
            "The values are right. A tensor without axes prints like a number and is none: label.item() and "
            "confidence.item().",
            lambda model, scaler, flower: [
                torch.tensor(value) for value in _read_flower(model, _scaled(scaler, flower))
            ],
        ),
        "confidence and class swapped": (
            "The values are right; return the class first.",
            lambda model, scaler, flower: _read_flower(model, _scaled(scaler, flower))[::-1],
        ),
        "softmax over a batch of one": (
            "dim=0 is the batch, and this batch holds one flower: every class gets the probability 1. The classes are "
            "in dim 1.",
            lambda model, scaler, flower: _over_batch(model, _scaled(scaler, flower)),
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

EXERCISES = (COUNT, LOOP, LOSS, EVALUATE, INTERVAL, FLOWER)
