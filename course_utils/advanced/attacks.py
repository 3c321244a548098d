"""Small changes of the inputs that change the answer, and training against them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_utils.advanced.gradients import (
    FrozenModel,
    check_inputs,
    check_target,
    chunk_size,
    gradient_of,
    input_gradients,
)
from course_utils.foundation.arguments import (
    check_count,
    check_normalization,
    check_number,
    check_range,
    check_tensor,
    describe_value,
)
from course_utils.foundation.evaluation import check_model, evaluation_mode, output_tensor
from course_utils.foundation.seeding import isolated_randomness, make_generator

Normalization = tuple[Sequence[float], Sequence[float]]
_TOLERANCE = 1e-4  # how far rounding may have carried normalised pixels out of the bounds


def fgsm_attack(
    model: nn.Module,
    inputs: Tensor,
    target: Tensor,
    *,
    eps: float,
    bounds: tuple[float, float] = (0, 1),
    normalization: Normalization | None = None,
) -> Tensor:
    """Fast gradient sign method: one step of size eps in the direction that raises the loss.

    Source: Goodfellow et al. (2015), "Explaining and harnessing adversarial examples".

    Args:
        model: returns logits (N, C); it is asked in evaluation mode.
        inputs: (N, …), floating point; pictures are (N, channels, H, W).
        target: the true classes, (N,).
        eps: largest change of a pixel, in pixel units; 0 returns the inputs.
        bounds: (low, high) of a pixel, in pixel units.
        normalization: (mean, std), one number a channel each, if the inputs are (pixel − mean) / std. eps and bounds
            stay in pixel units. Without it a normalised picture would be clamped to [0, 1] (E52).

    Returns:
        The changed inputs, in the inputs' own space and dtype. |adversarial − inputs|·std ≤ eps holds exactly.

    Raises:
        ValueError: inputs outside the bounds (are they normalised?), labels out of range, a negative eps.
    """
    box = _Box(inputs, eps, bounds, normalization)
    target = _check_length(target, inputs)
    with input_gradients(model) as frozen:
        return _step(frozen, check_inputs(inputs), target, box.eps, box)[0].to(inputs.dtype)


def pgd_attack(
    model: nn.Module,
    inputs: Tensor,
    target: Tensor,
    *,
    eps: float,
    alpha: float | None = None,
    steps: int = 10,
    random_start: bool = True,
    bounds: tuple[float, float] = (0, 1),
    normalization: Normalization | None = None,
    early_stop: bool = False,
    seed: int | None = None,
) -> Tensor:
    """Projected gradient descent: many small steps, pulled back into the eps-box after each.

    Source: Madry et al. (2018), "Towards deep learning models resistant to adversarial attacks". Without the random
    start it is the basic iterative method (E53).

    Args:
        model, inputs, target, eps, bounds, normalization: as in `fgsm_attack`.
        alpha: size of a step in pixel units, > 0; None is 2.5·eps/steps.
        steps: at least 1.
        random_start: begin at a uniformly random point of the box.
        early_stop: leave a sample alone as soon as the model errs on it. That finds the share of errors faster; the
            changes are not the strongest ones.
        seed: of the random start; None draws fresh ones.
    """
    box = _Box(inputs, eps, bounds, normalization)
    check_count(steps, "steps")
    step_size = 2.5 * box.eps / steps if alpha is None else check_number(alpha, "alpha", above=0)
    target = _check_length(target, inputs)
    with input_gradients(model) as frozen:
        x = box.wide(check_inputs(inputs))
        x = box.random_point(x, seed) if random_start else x
        active = torch.arange(len(x), device=x.device)
        for _ in range(steps):
            moved, logits = _step(frozen, x[active], target[active], step_size, box[active])
            if early_stop:
                right = logits.argmax(1) == target[active]
                moved, active = moved[right], active[right]
            x[active] = moved
            if len(active) == 0:
                break
    return x.to(inputs.dtype)


def _check_length(target: Tensor, inputs: Tensor) -> Tensor:
    """The true classes, one for each sample; their range is checked when the logits are there."""
    check_tensor(target, "target", ndim=1, floating=False)
    if len(target) != len(inputs):
        raise ValueError(f"target must hold one label for each of the {len(inputs)} samples, but has {len(target)}")
    return target.long().to(inputs.device)


def _step(model: FrozenModel, x: Tensor, target: Tensor, size: float, box: _Box) -> tuple[Tensor, Tensor]:
    """One step uphill, pulled back into the box; and the logits before it."""
    directions, all_logits = [], []
    for part, labels in zip(x.split(chunk_size(x)), target.split(chunk_size(x)), strict=True):
        leaf = part.detach().to(box.dtype).requires_grad_()
        logits = model(leaf)
        loss = attack_loss(logits, check_target(labels, logits)).sum()  # a sum: the samples' gradients do not mix
        directions.append(gradient_of(loss, leaf).sign())
        all_logits.append(logits.detach())
    with torch.no_grad():
        x = box.wide(x)
        step = (size / box.std).clamp(max=torch.finfo(x.dtype).max / 4).to(x.dtype)
        return box.clamp(x + torch.cat(directions) * step), torch.cat(all_logits)


def attack_loss(logits: Tensor, target: Tensor) -> Tensor:
    """How much the other classes together beat the target: logsumexp of their logits minus the target's, (N,).

    Cross-entropy is log(1 + e^loss), so the gradients point the same way. But cross-entropy's shrinks to exactly 0 as
    the model becomes sure, and then the attack goes nowhere (E54); this one never does.
    """
    own = logits.gather(1, target[:, None])  # (N, 1)
    others = logits.scatter(1, target[:, None], -torch.inf)
    return (others.logsumexp(1, keepdim=True) - own)[:, 0]


class _Box:
    """The points that an attack may reach: within eps of the inputs and inside the bounds, both in pixel units.

    The corners are rounded towards the inputs, so that (corner − input)·std never exceeds eps, not by one bit.
    """

    def __init__(
        self, inputs: Tensor, eps: float, bounds: tuple[float, float], normalization: Normalization | None
    ) -> None:
        x = check_inputs(inputs)
        self.dtype = x.dtype
        self.eps = check_number(eps, "eps")
        if self.eps < 0:
            raise ValueError(f"eps must not be negative, but is {eps}")
        low, high = check_range(bounds, "bounds")
        mean, self.std = _mean_and_std(normalization, x)
        wide = x.double() if x.device.type != "mps" else x
        pixels = wide * self.std + mean
        least, most = float(pixels.min()), float(pixels.max())
        tolerance = max(_TOLERANCE, torch.finfo(x.dtype).eps) if x.element_size() < 4 else _TOLERANCE
        if least < low - tolerance or most > high + tolerance:
            raise ValueError(
                f"inputs must lie in the bounds [{low}, {high}] in pixel units, but range from {least:.4g} to "
                f"{most:.4g}; for normalised pictures pass normalization=(mean, std)"
            )
        self.mean, self.limits = mean, (low, high)
        self.lower = self._corner(x, wide, -1)
        self.upper = self._corner(x, wide, +1)

    def _corner(self, x: Tensor, wide: Tensor, sign: int) -> Tensor:
        """The farthest allowed point in the inputs' dtype, below (sign −1) or above (+1) each input."""
        limit = self.limits[0] if sign < 0 else self.limits[1]
        reach = sign * torch.minimum(sign * (wide + sign * self.eps / self.std), sign * (limit - self.mean) / self.std)

        def outside(corner: Tensor) -> Tensor:
            corner = corner.to(wide.dtype)
            too_far = sign * (corner - wide) * self.std > self.eps
            return too_far | (sign * (corner * self.std + self.mean) > sign * limit)

        corner = reach.to(x.dtype)
        for _ in range(3):
            if not (wrong := outside(corner)).any():
                break
            corner = torch.where(wrong, torch.nextafter(corner, x), corner)
        else:
            corner = torch.where(outside(corner), x, corner)
        # An input that rounding has carried out of the bounds may stay where it is.
        return sign * torch.maximum(sign * corner, sign * x)

    def __getitem__(self, rows: Tensor) -> _Box:
        """The same box for some of the samples."""
        part = copy.copy(self)
        part.lower, part.upper = self.lower[rows], self.upper[rows]
        return part

    def wide(self, x: Tensor) -> Tensor:
        """At least float32: many steps smaller than half precision can tell apart add up to something."""
        return x.float() if x.element_size() < 4 else x

    def clamp(self, x: Tensor) -> Tensor:
        return torch.minimum(torch.maximum(x, self.wide(self.lower)), self.wide(self.upper))

    def random_point(self, x: Tensor, seed: int | None) -> Tensor:
        share = 2 * torch.rand(x.shape, generator=make_generator(seed)).to(x) - 1
        return self.clamp(x + share * (self.eps / self.std).clamp(max=torch.finfo(x.dtype).max / 4).to(x.dtype))


def _mean_and_std(normalization: Normalization | None, x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation, float64, in a shape that broadcasts over the channels."""
    like = {"dtype": torch.float64 if x.device.type != "mps" else x.dtype, "device": x.device}
    if normalization is None:
        return torch.zeros((), **like), torch.ones((), **like)
    pair = check_normalization(normalization, channels=x.shape[1])
    return tuple(value.to(**like).reshape(1, -1, *(1,) * (x.ndim - 2)) for value in pair)


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
    target: Tensor,
    *,
    eps: float,
    alpha: float | None = None,
    steps: int = 10,
    random_start: bool = True,
    bounds: tuple[float, float] = (0, 1),
    normalization: Normalization | None = None,
    seed: int | None = None,
) -> AdversarialLosses:
    """The losses of a training step on clean and attacked inputs.

    The attack (`pgd_attack`) asks the model in evaluation mode and leaves no gradient behind; both losses are computed
    in the modes that the model came in, so dropout drops and BatchNorm moves (E55). Source: Goodfellow et al. (2015),
    Madry et al. (2018).

    Args:
        model: in train mode; returns logits (N, C).
        inputs, target, eps, alpha, steps, random_start, bounds, normalization: as in `pgd_attack`.
        seed: of the random start and of the dropout masks; None draws fresh ones.

    Raises:
        ValueError: the model is in evaluation mode.
    """
    if not check_model(model).training:
        raise ValueError("the model is in evaluation mode: dropout would be off; call model.train() before training")
    adversarial = pgd_attack(
        model,
        inputs,
        target,
        **{"eps": eps, "alpha": alpha, "steps": steps, "random_start": random_start},
        **{"bounds": bounds, "normalization": normalization, "seed": seed},
    )
    with isolated_randomness(seed):
        target = target.long().to(inputs.device)
        losses = [F.cross_entropy(output_tensor(model(x.clone())), target) for x in (inputs, adversarial)]
    return AdversarialLosses((losses[0] + losses[1]) / 2, *losses)


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


def evaluate_robustness(model: nn.Module, loader: Iterable, attack: Callable, **attack_kwargs) -> RobustnessResult:
    """Accuracy of a model before and after an attack, over all batches of a loader.

    Samples count one by one, so a smaller last batch weighs no more than it holds (E63). A sample that is wrong
    without an attack counts as wrong with it, and is not attacked.

    Args:
        model: returns logits (N, C).
        loader: yields (inputs, target); a DataLoader, or a list of such pairs.
        attack: called as attack(model, inputs, target, **attack_kwargs), for example `pgd_attack`.
    """
    check_model(model)
    if not callable(attack):
        raise TypeError(f"attack must be callable, but is {describe_value(attack)}")
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    if not isinstance(loader, Iterable):
        raise TypeError(f"loader must yield pairs (inputs, target), but is {describe_value(loader)}")
    clean = robust = total = 0
    with isolated_randomness(0):  # a DataLoader draws from the global state when it starts
        for batch in loader:
            if not isinstance(batch, (tuple, list)) or len(batch) != 2:
                raise TypeError(f"the loader must yield pairs (inputs, target), but yielded {describe_value(batch)}")
            inputs = check_tensor(batch[0], "the loader's inputs").to(device)
            target = check_tensor(batch[1], "the loader's target", floating=False).to(device)
            right = _right(model, inputs, target)
            total, clean = total + len(inputs), clean + int(right.sum())
            if right.any():
                inputs, target = inputs[right], target[right]
                attacked = check_tensor(attack(model, inputs, target, **attack_kwargs), "what the attack returns")
                if attacked.shape != inputs.shape:
                    raise ValueError(
                        f"the attack must return inputs of the shape {tuple(inputs.shape)}, but returned "
                        f"{describe_value(attacked)}"
                    )
                robust += int(_right(model, attacked, target).sum())
    if total == 0:
        raise ValueError("the loader is empty; pass at least one batch")
    return RobustnessResult(clean / total, robust / total, total)


@torch.no_grad()
def _right(model: nn.Module, inputs: Tensor, target: Tensor) -> Tensor:
    with evaluation_mode(model), isolated_randomness(0):
        logits = FrozenModel(model)(inputs)
    return logits.argmax(1) == check_target(target, logits)
