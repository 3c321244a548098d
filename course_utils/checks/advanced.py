"""The exercises of chapter 5 and the mistakes they are known for.

Exercises: 1 late fusion; 2 one step towards a class; 3 robust against every attempt; 4 integrated gradients; 5
SmoothGrad; 6 conformal sets.
"""

import copy
import math
from collections.abc import Callable
from functools import cache, partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_utils.advanced import saliency_map
from course_utils.checks.basics import linear_logits, some
from course_utils.checks.exercise import Exercise
from course_utils.data import load_split
from course_utils.foundation.seeding import isolated_randomness, make_generator
from course_utils.foundation.training import fit


@cache
def _digit_network() -> nn.Module:
    """A small network trained on the digits, with pixels in [0, 1]."""
    digits = load_split("digits", scaling="none")
    x, y = digits.x_train / 16, digits.y_train
    with isolated_randomness(0):
        network = nn.Sequential(nn.Linear(64, 24), nn.Tanh(), nn.Linear(24, 10))
    return fit(network, x, y, loss=F.cross_entropy, steps=60, lr=0.02, batch_size=len(x))


def _digits(seed: int, count: int) -> tuple[Tensor, Tensor]:
    digits = load_split("digits", scaling="none")
    order = torch.randperm(len(digits.x_test), generator=make_generator(seed))[:count]
    return digits.x_test[order] / 16, digits.y_test[order]


def _fusion_cases(seed: int) -> list[tuple]:
    logits = some(linear_logits("digits"), 8, seed)
    other = 4 * some(linear_logits("digits"), 8, seed + 1)  # a louder network, about other images
    return [(logits, other, 0.7), (logits, 0.3 * other, 0.25)]


def _fuse(a: Tensor, b: Tensor, weight: float) -> Tensor:
    return weight * a.softmax(1) + (1 - weight) * b.softmax(1)


FUSION = Exercise(
    name="advanced.late_fusion",
    praise="Each view speaks with the weight you gave it, however loud its logits are.",
    reference=_fuse,
    cases=_fusion_cases,
    wrong_answers={
        "a mean of logits": (
            "The louder network would decide alone. Softmax first, then the weighted mean.",
            lambda a, b, weight: (weight * a + (1 - weight) * b).softmax(1),
        ),
        "the weights swapped": ("`weight` belongs to the first view.", lambda a, b, weight: _fuse(b, a, weight)),
        "both views with the same weight": ("Use `weight` and `1 − weight`.", lambda a, b, weight: _fuse(a, b, 0.5)),
        "a product of probabilities": (
            "A product lets either view forbid a class. Late fusion here is the weighted mean.",
            lambda a, b, weight: (weight * a.log_softmax(1) + (1 - weight) * b.log_softmax(1)).exp(),
        ),
        "softmax over the samples": (
            "dim=0 runs over the samples; the classes are dim 1.",
            lambda a, b, weight: weight * a.softmax(0) + (1 - weight) * b.softmax(0),
        ),
    },
)


def _attack_cases(seed: int) -> list[tuple]:
    x, y = _digits(seed, 12)
    inner = 0.2 + 0.6 * x  # an image that does not use the whole range may do so after the attack
    cases = ((x, y, 0.05), (x, (y + 1) % 10, 0.2), (inner, y, 0.3))
    return [(copy.deepcopy(_digit_network()), *case) for case in cases]


def _fgsm(model: nn.Module, x: Tensor, y: Tensor, eps: float, *, sign=True, up=-1, clamp=True, graph=False) -> Tensor:
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(model(leaf), y), leaf)
    step = (leaf if graph else x) + up * eps * (gradient.sign() if sign else gradient)
    return step.clamp(0, 1) if clamp else step


def _fgsm_by_backward(model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
    leaf = x.clone().requires_grad_()
    F.cross_entropy(model(leaf), y).backward()
    return (x - eps * leaf.grad.sign()).clamp(0, 1)


def _observe_attack(answer: Callable, model: nn.Module, x: Tensor, y: Tensor, eps: float) -> dict:
    adversarial = answer(model, x, y, eps)
    return {
        "adversarial": adversarial.detach(),
        "still has a graph": adversarial.requires_grad,
        "gradients left in the model": sum(parameter.grad is not None for parameter in model.parameters()),
    }


ATTACK = Exercise(
    name="advanced.one_step",
    praise="Down the loss of the goal, within eps, inside the picture, and nothing left behind.",
    reference=_fgsm,
    cases=_attack_cases,
    observe=_observe_attack,
    wrong_answers={
        "gradients left in the model": (
            "backward() fills every parameter's .grad, and the next training step would use it. "
            "torch.autograd.grad(loss, x) returns the one gradient you need.",
            _fgsm_by_backward,
        ),
        "the graph left on the result": (
            "Add the step to x itself, or detach() the result; otherwise the whole network hangs on it.",
            partial(_fgsm, graph=True),
        ),
        "away from the goal": (
            "This raises the loss of the goal. Towards a class, the loss of this class must fall: minus, not plus.",
            partial(_fgsm, up=1),
        ),
        "the gradient without its sign": (
            "Every pixel moves by exactly eps: take the sign of the gradient.",
            partial(_fgsm, sign=False),
        ),
        "outside the picture": (
            "A pixel below 0 or above 1 is no picture. Clamp to [0, 1] at the end.",
            partial(_fgsm, clamp=False),
        ),
    },
)


def _attempt_cases(seed: int) -> list[tuple]:
    logits = some(linear_logits("digits"), 60, seed)
    noise = torch.randn(4, *logits.shape, generator=make_generator(seed))
    attempts = logits + noise * torch.tensor([5.0, 9.0, 6.0, 4.0])[:, None, None]
    return [(attempts, logits.argmax(1)), (attempts[1:], logits.argmax(1))]


def _hits(attempts: Tensor, target: Tensor) -> Tensor:
    return attempts.argmax(-1) == target  # (A, N)


WORST = Exercise(
    name="advanced.robust_accuracy",
    praise="A sample counts only if it withstood every attempt.",
    reference=lambda attempts, target: _hits(attempts, target).all(0).float().mean().item(),
    cases=_attempt_cases,
    wrong_answers={
        "the mean over the attempts": (
            "An attacker needs to succeed once. Ask for each sample whether *all* attempts failed.",
            lambda attempts, target: _hits(attempts, target).float().mean().item(),
        ),
        "the best attempt": (
            "any() counts a sample as robust if one attempt failed; all of them must.",
            lambda attempts, target: _hits(attempts, target).any(0).float().mean().item(),
        ),
        "the worst attempt as a whole": (
            "Different samples fall in different attempts. Combine sample by sample, then take the mean.",
            lambda attempts, target: _hits(attempts, target).float().mean(1).min().item(),
        ),
        "a mean of logits first": (
            "Each attempt is an input of its own. Compare its answer with the target before you combine.",
            lambda attempts, target: (attempts.mean(0).argmax(-1) == target).float().mean().item(),
        ),
        "the last attempt only": (
            "The earlier attempts count too.",
            lambda attempts, target: _hits(attempts, target)[-1].float().mean().item(),
        ),
    },
)


def _conformal_cases(seed: int) -> list[tuple]:
    logits, target = linear_logits("digits"), load_split("digits").y_test
    order = torch.randperm(len(logits), generator=make_generator(seed))
    noise = 2.5 * torch.randn(logits.shape, generator=make_generator(seed + 7))  # or the network would never err
    p = (0.4 * logits[order] + noise).softmax(1)
    y = target[order]
    few = (p[:5], y[:5], p[60:90], 0.1)  # too few for the promise: every class is in
    # By hand, in numbers without rounding: scores on the threshold, a rank of n, an empty set.
    mine, truth = torch.tensor([[0.5, 0.25, 0.25], [0.25, 0.5, 0.25], [0.125, 0.125, 0.75]]), torch.tensor([0, 0, 1])
    new = torch.tensor([[0.5, 0.25, 0.25], [0.375, 0.3125, 0.3125], [0.125, 0.375, 0.5], [0.0625, 0.0625, 0.875]])
    by_hand = [(mine, truth, new, 0.25), (mine, truth, new, 0.75)]
    return [(p[:40], y[:40], p[60:90], 0.1), (p[:50], y[:50], p[60:90], 0.25), few, *by_hand]


def _sets(p: Tensor, y: Tensor, p_new: Tensor, alpha: float, *, plus=1, scores=None, share=None, beyond=True) -> Tensor:
    scores = 1 - p.gather(1, y[:, None])[:, 0] if scores is None else scores
    rank = math.ceil((len(scores) + plus) * (1 - alpha if share is None else share))
    if rank > len(scores) and beyond:
        return torch.ones_like(p_new, dtype=torch.bool)
    return 1 - p_new <= scores.sort().values[rank - 1]


CONFORMAL = Exercise(
    name="advanced.prediction_sets",
    praise="At least 1 − alpha of such sets hold the truth, whatever the network.",
    reference=_sets,
    cases=_conformal_cases,
    wrong_answers={
        "n instead of n + 1": (
            "The new sample counts as one more: the rank is ceil((n + 1)(1 − alpha)), rounded up.",
            partial(_sets, plus=0),
        ),
        "the score of the answer instead of the truth": (
            "How strange was the *true* class? 1 − p[y], not 1 − the largest p.",
            lambda p, y, p_new, alpha: _sets(p, y, p_new, alpha, scores=1 - p.amax(1)),
        ),
        "the wrong end of the scores": (
            "The sets must let through 1 − alpha of the true classes, not alpha.",
            lambda p, y, p_new, alpha: _sets(p, y, p_new, alpha, share=alpha),
        ),
        "classes above 1 − alpha": (
            "The probabilities may lie; that is why the threshold comes from calibration data.",
            lambda p, y, p_new, alpha: p_new >= 1 - alpha,
        ),
        "a rank beyond the scores": (
            "With few calibration samples the rank exceeds N. Then only the set of all classes keeps the promise.",
            partial(_sets, beyond=False),
        ),
        "the complement": (
            "True means that the class is *in* the set.",
            lambda p, y, p_new, alpha: ~_sets(p, y, p_new, alpha),
        ),
    },
)


def _smooth_cases(seed: int) -> list[tuple]:
    x, _ = _digits(seed, 5)
    noise = 0.3 * torch.randn(6, *x.shape, generator=make_generator(seed + 100))
    many, _ = _digits(seed, 60)  # under strong noise some answers change, but the question stays the clean one
    strong = 0.6 * torch.randn(6, *many.shape, generator=make_generator(seed + 101))
    return [(copy.deepcopy(_digit_network()), x, noise), (copy.deepcopy(_digit_network()), many, strong)]


def _answers(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model(x).argmax(1)


def _smooth(model: nn.Module, x: Tensor, noise: Tensor) -> Tensor:
    target = _answers(model, x)
    return torch.stack([saliency_map(model, x + n, target) for n in noise]).mean(0)


SMOOTH = Exercise(
    name="advanced.smooth_grad",
    praise="Averaging over neighbours leaves what they have in common.",
    reference=_smooth,
    cases=_smooth_cases,
    wrong_answers={
        "a new answer for every copy": (
            "A noisy copy may get another label, and then its saliency explains another class. Fix the target first, "
            "from the clean inputs.",
            lambda model, x, noise: torch.stack([saliency_map(model, x + n) for n in noise]).mean(0),
        ),
        "the saliency of the mean picture": (
            "Average the *maps*, not the pictures.",
            lambda model, x, noise: saliency_map(model, x + noise.mean(0), _answers(model, x)),
        ),
        "a sum instead of a mean": (
            "Divide by the number of copies.",
            lambda model, x, noise: _smooth(model, x, noise) * len(noise),
        ),
        "no noise at all": ("Each map is taken at x + noise[s].", lambda model, x, noise: saliency_map(model, x)),
        "only the last copy": (
            "Keep the maps of all copies, then average.",
            lambda model, x, noise: saliency_map(model, x + noise[-1], _answers(model, x)),
        ),
    },
)


def _path_cases(seed: int) -> list[tuple]:
    x, y = _digits(seed, 6)
    grey = torch.full_like(x, 0.3)
    return [(copy.deepcopy(_digit_network()), *case) for case in ((x, 0 * x, y, 8), (x, grey, (y + 1) % 10, 5))]


def _on_the_way(
    model: nn.Module,
    x: Tensor,
    baseline: Tensor,
    target: Tensor,
    steps: int,
    *,
    offset: float = 0.5,
    times: Callable[[Tensor, Tensor], Tensor] = lambda x, baseline: x - baseline,
    start: Callable[[Tensor], Tensor] = lambda baseline: baseline,
    mean: bool = True,
    probability: bool = False,
) -> Tensor:
    """Integrated gradients by the midpoint rule, right by default."""
    total, begin = torch.zeros_like(x), start(baseline)
    for k in range(steps):
        leaf = (begin + (k + offset) / steps * (x - begin)).detach().requires_grad_()
        output = model(leaf).softmax(1) if probability else model(leaf)
        total += torch.autograd.grad(output.gather(1, target[:, None]).sum(), leaf)[0]
    return times(x, baseline) * total / (steps if mean else 1)


PATH = Exercise(
    name="advanced.integrated",
    praise="Averaged on the way, times the difference: the shares sum to the rise of the logit.",
    reference=_on_the_way,
    cases=_path_cases,
    tolerance=1e-4,
    wrong_answers={
        "the right end of each piece": (
            "This takes the gradient at the end of each piece, at (k + 1)/steps. Take the middle, (k + ½)/steps.",
            partial(_on_the_way, offset=1.0),
        ),
        "the left end of each piece": (
            "This takes the gradient at the beginning of each piece, at k/steps. Take the middle, (k + ½)/steps.",
            partial(_on_the_way, offset=0.0),
        ),
        "the baseline forgotten in the factor": (
            "Multiply by the difference x − baseline, not by x.",
            partial(_on_the_way, times=lambda x, baseline: x),
        ),
        "the baseline forgotten": (
            "The way begins at the baseline, which need not be 0.",
            lambda model, x, baseline, target, steps: _on_the_way(model, x, 0 * x, target, steps),
        ),
        "the difference forgotten": (
            "This is the mean gradient. Multiply by x − baseline.",
            partial(_on_the_way, times=lambda x, baseline: torch.ones_like(x)),
        ),
        "a sum instead of a mean": ("Divide by the number of steps.", partial(_on_the_way, mean=False)),
        "of the probability": (
            "Explain the logit. The probability of a sure answer hardly changes on the way.",
            partial(_on_the_way, probability=True),
        ),
        "gradient times difference at x": (
            "This is the gradient at x only. Average the gradients on the way from the baseline to x.",
            lambda model, x, baseline, target, steps: _on_the_way(
                model, x, x, target, 1, times=lambda a, _: a - baseline
            ),
        ),
    },
)

EXERCISES = (FUSION, ATTACK, WORST, PATH, SMOOTH, CONFORMAL)
