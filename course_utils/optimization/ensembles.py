"""Several models, one answer: averaging, voting, stacking."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_utils.foundation.arguments import check_choice, check_labels, check_tensor, describe_value
from course_utils.foundation.evaluation import classifier_logits, evaluation_mode, output_tensor
from course_utils.foundation.seeding import isolated_randomness

METHODS = ("averaging", "voting", "stacking")


class StackingModel(nn.Module):
    """Multinomial logistic regression on the members' concatenated probabilities. Made by `fit_stacking`.

    Args:
        num_members: M.
        num_classes: C.
    """

    def __init__(self, num_members: int, num_classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(num_members * num_classes, num_classes)

    def forward(self, member_probabilities: Tensor) -> Tensor:
        """(N, M·C) → logits (N, C)."""
        return self.linear(member_probabilities)


def ensemble_predictions(
    models: Sequence[nn.Module],
    inputs: Tensor,
    *,
    method: str = "averaging",
    weights: Sequence[float] | Tensor | None = None,
    meta_model: nn.Module | None = None,
) -> Tensor:
    """Combine classifiers that return logits (N, C).

    Args:
        models: the members; each runs in evaluation mode and keeps its modes.
        inputs: (N, …), the same for all.
        method: "averaging" of the probabilities (not of the logits, E32); "voting", one vote a member, ties go to the
            lowest label; "stacking", a second model that has learned from the members' probabilities.
        weights: M numbers ≥ 0, not all 0, for averaging and voting; None weighs all alike.
        meta_model: for stacking, from `fit_stacking`.

    Returns:
        averaging and stacking: probabilities (N, C). voting: labels, int64 (N,).

    Raises:
        TypeError, ValueError: no models, outputs of different shapes, bad weights, an argument that the method does
            not use or lacks.
    """
    check_choice(method, "method", METHODS)
    if method == "stacking" and (meta_model is None or weights is not None):
        raise ValueError("stacking needs a meta_model (see fit_stacking) and takes no weights")
    if method != "stacking" and meta_model is not None:
        raise ValueError(f"meta_model is for method='stacking', but method is {method!r}")
    members = member_probabilities(models, inputs)  # (M, N, C)
    if method == "stacking":
        with evaluation_mode(meta_model), torch.no_grad():
            features = _concatenated(members).to(next(meta_model.parameters(), members).dtype)
            return torch.softmax(output_tensor(meta_model(features)), dim=1).to(members.dtype)
    share = _checked_weights(weights, members)
    if method == "averaging":
        return torch.einsum("m,mnc->nc", share, members.double()).to(members.dtype)
    votes = F.one_hot(members.argmax(-1), members.shape[-1]).to(share)  # (M, N, C)
    count = torch.einsum("m,mnc->nc", share, votes)
    most_voted = count >= count.amax(1, keepdim=True) - 1e-6  # weights like 0.1 + 0.2 and 0.3 must tie
    return most_voted.long().argmax(1)  # the first of equals


def fit_stacking(models: Sequence[nn.Module], inputs: Tensor, target: Tensor) -> StackingModel:
    """Fit the second model of stacking on data that the members have *not* been trained on.

    A convex problem, cross-entropy with a slight weight decay of 1e-4, solved by L-BFGS: the same data give the same
    model. On the members' own training data it would learn to trust whoever has overfitted most.

    Args:
        models: the members, returning logits (N, C).
        inputs: (N, …), held-out.
        target: (N,) class indices.
    """
    members = member_probabilities(models, inputs)
    check_labels(target, "target", num_samples=members.shape[1], num_classes=members.shape[2])
    features = _concatenated(members)
    if features.dtype in (torch.float16, torch.bfloat16):
        features = features.float()  # too coarse to find an optimum in
    with isolated_randomness(0):  # nn.Linear draws its first weights
        stacker = StackingModel(len(models), members.shape[2]).to(features)
    with torch.no_grad():
        for parameter in stacker.parameters():
            parameter.zero_()
    optimizer = torch.optim.LBFGS(stacker.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        penalty = sum(parameter.square().sum() for parameter in stacker.parameters())
        loss = F.cross_entropy(stacker(features), target.long()) + 1e-4 * penalty
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    optimizer.zero_grad()
    return stacker.eval()


def member_probabilities(models: Sequence[nn.Module], inputs: Tensor) -> Tensor:
    """Every member's softmax probabilities, (M, N, C), in evaluation mode and without a graph."""
    if isinstance(models, nn.Module) and not isinstance(models, nn.ModuleList):
        raise TypeError("models must be a list of modules, but is a single module")
    if len(models) == 0:
        raise ValueError("models is empty; pass at least one")
    check_tensor(inputs, "inputs", floating=None)
    probabilities = []
    for model in models:
        logits = classifier_logits(model, inputs)
        if probabilities and logits.shape != probabilities[0].shape:
            shapes = f"{tuple(probabilities[0].shape)} and {tuple(logits.shape)}"
            raise ValueError(f"the models' outputs must have the same shape, but have {shapes}")
        probabilities.append(torch.softmax(logits, dim=1))
    return torch.stack(probabilities)


def _concatenated(members: Tensor) -> Tensor:
    return members.transpose(0, 1).flatten(1)  # (M, N, C) → (N, M·C)


def _checked_weights(weights: Sequence[float] | Tensor | None, members: Tensor) -> Tensor:
    """The members' shares, (M,), summing to 1."""
    if weights is None:
        return members.new_full((len(members),), 1 / len(members), dtype=torch.float64)
    share = torch.as_tensor(weights, dtype=torch.float64, device=members.device)
    if share.shape != (len(members),):
        raise ValueError(f"weights must be {len(members)} numbers, one a model, but are {describe_value(weights)}")
    if not torch.isfinite(share).all() or (share < 0).any() or share.sum() == 0:
        raise ValueError(f"weights must be finite, at least 0 and not all 0, but are {share.tolist()}")
    return share / share.sum()
