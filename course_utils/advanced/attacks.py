"""Small changes of the inputs that change the answer, and training against them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_utils.advanced.attack_box import AttackBox, Normalization, mean_and_std, rounding, widest
from course_utils.advanced.attack_losses import LOSSES, Objective, likely_others
from course_utils.advanced.input_gradients import (
    FrozenModel,
    Target,
    check_inputs,
    check_one_target_each,
    check_target,
    chunk_size,
    gradients_of,
    in_fastest_layout,
    input_gradients,
)
from course_utils.foundation.arguments import (
    check_choice,
    check_count,
    check_number,
    check_range,
    check_tensor,
    describe_value,
)
from course_utils.foundation.devices import full_precision
from course_utils.foundation.evaluation import check_model, class_logits, classifier_logits, output_tensor
from course_utils.foundation.probabilities import sums_to_one
from course_utils.foundation.seeding import derived_seed, isolated_randomness


def fgsm_attack(
    model: nn.Module,
    inputs: Tensor,
    target: Target,
    *,
    eps: float,
    bounds: tuple[float, float] = (0, 1),
    normalization: Normalization | None = None,
    task: str = "multiclass",
    seed: int | None = 0,
) -> Tensor:
    """Fast gradient sign method: one step of size eps in the direction that raises the loss.

    Source: Goodfellow et al. (2015), "Explaining and harnessing adversarial examples".

    Args:
        model: returns logits (N, C), or with `task="binary"` one logit a sample; it is asked in evaluation mode.
        inputs: (N, …), floating point; images are (N, channels, H, W).
        target: the true classes: a tensor, a list or an array of N whole numbers, or one for all samples.
        eps: largest change of a pixel, in pixel units; 0 returns the inputs.
        bounds: (low, high) of a pixel, in pixel units.
        normalization: (mean, std), one number a channel each, if the inputs are (pixel − mean) / std. eps and bounds
            stay in pixel units. Without it a normalised image would be clamped to [0, 1] (error E52, chapter 4's
            index).
        task: "multiclass" or "binary".
        seed: of what the model itself draws; None draws fresh numbers.

    Returns:
        The changed inputs, in the inputs' own space and dtype. |adversarial − inputs|·std ≤ eps holds exactly.

    Raises:
        ValueError: inputs outside the bounds (are they normalised?), labels out of range, an eps that is negative or
            larger than the bounds are apart.

    Warns:
        UserWarning: samples that are classified right and whose gradient is exactly 0: the attack cannot move them,
            and the model only looks robust. Also if the outputs look like probabilities, whose gradients vanish.
    """
    box = AttackBox(inputs, eps, bounds, normalization)
    target = check_one_target_each(target, inputs)
    with input_gradients(model, task=task, seed=seed) as frozen:
        objective = Objective("cross-entropy", target)
        adversarial, logits, stuck = _step(frozen, check_inputs(inputs), objective, box.eps, box)
    _warn_of_hidden_gradients(logits, stuck)
    return adversarial.to(inputs.dtype)


def pgd_attack(
    model: nn.Module,
    inputs: Tensor,
    target: Target,
    *,
    eps: float,
    alpha: float | None = None,
    steps: int = 10,
    random_start: bool = True,
    loss: str = "cross-entropy",
    targeted: bool = False,
    restarts: int = 1,
    bounds: tuple[float, float] = (0, 1),
    normalization: Normalization | None = None,
    early_stop: bool = False,
    task: str = "multiclass",
    seed: int | None = None,
) -> Tensor:
    """Projected gradient descent: many small steps, pulled back into the eps-box after each.

    Source: Madry et al. (2018), "Towards deep learning models resistant to adversarial attacks". Without the random
    start it is the basic iterative method (error E53, chapter 4's index). `loss="dlr", targeted=True` with a restart
    for each wrong class is the targeted part of AutoAttack (Croce & Hein 2020), but for steps of a fixed size, where
    AutoAttack's adapt theirs and find a few errors more.

    Args:
        model, inputs, target, eps, bounds, normalization, task: as in `fgsm_attack`, with its errors and warnings.
        alpha: size of a step in pixel units, > 0; None is 2.5·eps/steps.
        steps: at least 1.
        random_start: begin at a uniformly random point of the box.
        loss: what is climbed. "cross-entropy" weighs all other classes, "margin" (Carlini & Wagner 2017) is the best
            other logit minus the target's, and "dlr" is the margin as a share of how far the largest logits are apart.
        targeted: each restart goes for one wrong class: the likeliest, then the next one, and after the last round
            again. The best other class may change on the way and turn the attack around; a class of its own does not.
        restarts: how many attempts from new random points. A sample keeps the first one that fools the model, and only
            samples that stand are attacked again, so with one seed more restarts never find less.
        early_stop: leave a sample alone as soon as the model errs on it. That finds the share of errors faster; the
            changes are not the strongest ones.
        seed: of the random starts, and of what a random model draws, which is new in each step; None draws fresh ones.

    Raises:
        ValueError: "dlr" with fewer than three classes, targeted with fewer than four; restarts that would all take
            the same path.
    """
    box = AttackBox(inputs, eps, bounds, normalization)
    check_count(steps, "steps")
    check_choice(loss, "loss", LOSSES)
    if check_count(restarts, "restarts") > 1 and not random_start and not targeted:
        raise ValueError("without a random start or a target of its own each restart takes the same path; pass one")
    step_size = 2.5 * box.eps / steps if alpha is None else check_number(alpha, "alpha", above=0)
    target = check_one_target_each(target, inputs)
    # The model must not draw the numbers of the random start once more.
    model_seed = None if seed is None else derived_seed(check_count(seed, "seed", minimum=0), "model")
    with input_gradients(model, task=task, seed=model_seed) as frozen:
        clean = full_precision(check_inputs(inputs))
        clean_logits = _logits(frozen, clean, box) if targeted else None
        found = clean.clone()
        standing = torch.arange(len(clean), device=clean.device)
        for attempt in range(restarts):
            goal = likely_others(clean_logits[standing], target[standing], attempt) if targeted else None
            objective, limits, start = Objective(loss, target[standing], goal), box[standing], clean[standing]
            if random_start:
                start = limits.random_point(start, _seed_of(seed, attempt))
            moved, logits, stuck = _climb(frozen, start, objective, step_size, steps, limits, early_stop)
            if attempt == 0:
                _warn_of_hidden_gradients(logits, stuck)
            if restarts == 1:  # nobody asks who stands
                found = moved
                break
            fooled = _logits(frozen, moved, limits).argmax(1) != objective.target
            # Whoever stands to the end keeps the first attempt.
            take = torch.ones_like(fooled) if attempt == 0 else fooled
            found[standing[take]], standing = moved[take], standing[~fooled]
            if len(standing) == 0:
                break
    return found.to(inputs.dtype)


def _seed_of(seed: int | None, attempt: int) -> int | None:
    """The first attempt is that of an attack without restarts."""
    return seed if seed is None or attempt == 0 else derived_seed(seed, "restart", attempt)


def _climb(
    model: FrozenModel, x: Tensor, objective: Objective, size: float, steps: int, box: AttackBox, early_stop: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """All steps from one starting point; what comes back is that of `_step`, the last two from the last step."""
    x = x.clone()
    active = torch.arange(len(x), device=x.device)
    for _ in range(steps):
        moved, logits, stuck = _step(model, x[active], objective[active], size, box[active])
        if early_stop:
            right = logits.argmax(1) == objective.target[active]
            moved, active = moved[right], active[right]
        x[active] = moved
        if len(active) == 0:
            break
    return x, logits, stuck


@torch.no_grad()
def _logits(model: FrozenModel, x: Tensor, box: AttackBox) -> Tensor:
    """Of the points as the caller will get them, in the inputs' dtype."""
    return torch.cat([model(part.to(box.dtype)) for part in x.split(chunk_size(x))])


def _step(
    model: FrozenModel, x: Tensor, objective: Objective, size: float, box: AttackBox
) -> tuple[Tensor, Tensor, Tensor]:
    """One step uphill, pulled back into the box; the logits before it; and which samples are right and stuck, (N,)."""
    directions, all_logits, stuck = [], [], []
    for start in range(0, len(x), chunk_size(x)):
        rows = slice(start, start + chunk_size(x))
        leaf = x[rows].detach().to(box.dtype).requires_grad_()
        logits = model(leaf)
        # The sum over the batch: each sample gets the gradient of its own loss.
        (gradient,) = gradients_of(objective[rows](logits).sum(), [leaf])
        directions.append(gradient.sign())
        all_logits.append(logits.detach())
        stuck.append((logits.argmax(1) == objective.target[rows]) & ~gradient.flatten(1).any(1))
    with torch.no_grad():
        x = full_precision(x)
        step = (size / box.std).clamp(max=torch.finfo(x.dtype).max / 4).to(x.dtype)
        return box.clamp(x + torch.cat(directions) * step), torch.cat(all_logits), torch.cat(stuck)


def _warn_of_hidden_gradients(logits: Tensor, stuck: Tensor) -> None:
    """Say so if the model looks robust only because its gradients are hidden; called by the attacks themselves."""
    if count := int(stuck.sum()):
        warnings.warn(
            f"the gradient of {count} sample(s) that the model classifies right is exactly 0: the attack cannot move "
            "them, which is not robustness. Does the model round its inputs, or end in a saturated softmax or sigmoid? "
            "Attack a version without that step, or use an attack that needs no gradient",
            stacklevel=3,
        )
    if _look_like_probabilities(logits):
        warnings.warn(_PROBABILITIES, stacklevel=3)


_PROBABILITIES = (
    "the model's outputs look like probabilities: their gradients vanish where the model is sure, which is not "
    "robustness; attack the logits, before the softmax"
)


def _look_like_probabilities(logits: Tensor) -> bool:
    """Between 0 and 1, and summing to 1. Logits hardly ever do; of a binary model's single number it cannot be told."""
    logits = logits.detach()
    return bool(logits.min() >= 0 and logits.max() <= 1.01 and sums_to_one(logits, 1).all())


@dataclass(frozen=True, eq=False)
class AdversarialLosses:
    """The losses of one step of adversarial training, each a scalar with its graph.

    Attributes:
        total: (clean + adversarial) / 2; call `.backward()` on this one.
        clean, adversarial: cross-entropy on the inputs as they are, and as attacked.
    """

    total: Tensor
    clean: Tensor
    adversarial: Tensor


def adversarial_training(
    model: nn.Module,
    inputs: Tensor,
    target: Target,
    *,
    eps: float,
    alpha: float | None = None,
    steps: int = 10,
    random_start: bool = True,
    bounds: tuple[float, float] = (0, 1),
    normalization: Normalization | None = None,
    task: str = "multiclass",
    seed: int | None = None,
) -> AdversarialLosses:
    """The losses of a training step on clean and attacked inputs.

    The attack (`pgd_attack`) asks the model in evaluation mode and leaves no gradient behind; both losses are computed
    in the modes that the model came in, so dropout drops and BatchNorm moves (error E55, chapter 4's index). Source:
    Goodfellow et al. (2015), Madry et al. (2018).

    Args:
        model: in train mode; returns logits (N, C), or with `task="binary"` one logit a sample.
        inputs, target, eps, alpha, steps, random_start, bounds, normalization, task: as in `pgd_attack`.
        seed: of the random start and of the dropout masks; None draws fresh ones.

    Raises:
        ValueError: the model is in evaluation mode, or none of its parameters takes a gradient here, because all are
            frozen or this is called under `torch.no_grad()` or `torch.inference_mode()`.
    """
    if not check_model(model).training:
        raise ValueError("the model is in evaluation mode: dropout would be off; call model.train() before training")
    _check_trainable(model)
    options = {"eps": eps, "alpha": alpha, "steps": steps, "random_start": random_start, "bounds": bounds}
    adversarial = pgd_attack(model, inputs, target, **options, normalization=normalization, task=task, seed=seed)
    target = check_one_target_each(target, inputs)
    with isolated_randomness(seed):
        losses = [
            F.cross_entropy(class_logits(output_tensor(model(x.clone())), task=task, n=len(x)), target)
            for x in (inputs, adversarial)
        ]
    return AdversarialLosses((losses[0] + losses[1]) / 2, *losses)


def _check_trainable(model: nn.Module) -> None:
    if not torch.is_grad_enabled():
        raise ValueError(
            "the losses of adversarial training need gradients, but this is called under torch.no_grad() or "
            "torch.inference_mode(); call it outside"
        )
    if any(parameter.is_inference() for parameter in model.parameters()):
        raise ValueError("the model was made under torch.inference_mode(), so it cannot be trained; make it outside")
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError("no parameter of the model takes a gradient; unfreeze some with parameter.requires_grad_()")


@dataclass(frozen=True)
class RobustnessResult:
    """Accuracy with and without an attack.

    Attributes:
        clean_accuracy: share of the samples that are classified right.
        adversarial_accuracy: share that are right before the attack *and* after it.
        num_samples: N.
    """

    clean_accuracy: float
    adversarial_accuracy: float
    num_samples: int


def evaluate_robustness(
    model: nn.Module, loader: Iterable, attack: Callable, *, task: str = "multiclass", **attack_kwargs: Any
) -> RobustnessResult:
    """Accuracy of a model before and after an attack, over all batches of a loader.

    Samples count one by one, so a smaller last batch weighs no more than it holds (error E63, chapter 4's index). A
    sample that is wrong without an attack counts as wrong with it, and is not attacked. Every attack is held to the
    `eps`, `bounds` and `normalization` that it is given here by name.

    Args:
        model, task: as in `fgsm_attack`.
        loader: yields (inputs, target); a DataLoader, or a list of such pairs.
        attack: called as attack(model, inputs, target, **attack_kwargs), for example `pgd_attack`. With `task="binary"`
            it is given that as well.

    Raises:
        ValueError: the attack left its eps or its bounds; an empty loader.

    Warns:
        UserWarning: signs that the model only hides its gradients, as in `fgsm_attack`.
    """
    check_model(model)
    if not callable(attack):
        raise TypeError(f"attack must be callable, but is {describe_value(attack)}")
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    if not isinstance(loader, Iterable):
        raise TypeError(f"loader must yield pairs (inputs, target), but is {describe_value(loader)}")
    if task != "multiclass":
        attack_kwargs["task"] = task
    limits = {**getattr(attack, "keywords", {}), **attack_kwargs}  # those of a functools.partial are known, too
    clean = robust = unmoved = total = 0
    probabilities = False
    with isolated_randomness(0):  # a DataLoader draws from the global state when it starts
        for i, batch in enumerate(loader):
            if not isinstance(batch, (tuple, list)) or len(batch) != 2:
                raise TypeError(f"the loader must yield pairs (inputs, target), but yielded {describe_value(batch)}")
            inputs = in_fastest_layout(model, check_inputs(batch[0], "the loader's inputs").to(device))
            logits = classifier_logits(model, inputs, task=task, seed=derived_seed(0, "clean", i))
            target = check_target(batch[1], logits)
            right = logits.argmax(1) == target
            total, clean = total + len(inputs), clean + int(right.sum())
            probabilities = probabilities or _look_like_probabilities(logits)
            if right.any():
                inputs, target = inputs[right], target[right]
                attacked = check_tensor(attack(model, inputs, target, **attack_kwargs), "what the attack returns")
                attacked = attacked.to(device)
                _check_limits(attacked, inputs, limits)
                # A seed of its own: a model with random layers must not repeat the draws that the attack has seen.
                after = classifier_logits(model, attacked, task=task, seed=derived_seed(0, "attacked", i))
                stands = after.argmax(1) == target
                robust += int(stands.sum())
                unmoved += int((stands & (attacked == inputs).flatten(1).all(1)).sum())
    if total == 0:
        raise ValueError("the loader is empty; pass at least one batch")
    if getattr(attack, "func", attack) not in (fgsm_attack, pgd_attack):  # these two give this warning themselves
        if unmoved and limits.get("eps"):
            warnings.warn(
                f"{unmoved} of the {robust} samples that stand came back from the attack exactly as they were; is "
                "their gradient 0, because the model rounds its inputs or its loss has saturated?",
                stacklevel=2,
            )
        if probabilities:
            warnings.warn(_PROBABILITIES, stacklevel=2)
    return RobustnessResult(clean / total, robust / total, total)


def _check_limits(attacked: Tensor, inputs: Tensor, limits: Mapping[str, Any]) -> None:
    """Did an attack keep to the limits that are known by name? Rounding in the inputs' dtype is no offence."""
    if attacked.shape != inputs.shape:
        raise ValueError(
            f"the attack must return inputs of the shape {tuple(inputs.shape)}, but returned {describe_value(attacked)}"
        )
    mean, std = mean_and_std(limits.get("normalization"), inputs)
    low, high = check_range(limits["bounds"], "bounds") if "bounds" in limits else (-torch.inf, torch.inf)
    pixels, before = (widest(x) * std + mean for x in (attacked, inputs))
    slack = rounding(inputs, mean, std, (low, high) if "bounds" in limits else (0.0, 1.0))
    eps = limits.get("eps")
    if isinstance(eps, Real):  # also NumPy's
        change = (pixels - before).abs()
        if (change > eps + slack).any():
            raise ValueError(
                f"the attack changed a pixel by {change.max():.4g}, but its eps is {eps:.4g}; if the inputs are "
                "normalised, give evaluate_robustness normalization=(mean, std) as well"
            )
    outside = torch.maximum(low - pixels, pixels - high)
    already = torch.maximum(low - before, before - high).clamp(min=0)
    if (outside > already + slack).any():
        raise ValueError(
            f"the attack left the bounds [{low}, {high}]: its pixels range from {pixels.min():.4g} to "
            f"{pixels.max():.4g}"
        )
