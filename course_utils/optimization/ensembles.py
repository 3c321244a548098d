"""Several models, one answer: averaging, voting, stacking."""

import functools
from collections.abc import Iterable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

from course_utils.foundation.arguments import check_choice, check_labels, describe_value
from course_utils.foundation.evaluation import check_model, classifier_logits, output_tensor, reading
from course_utils.foundation.inputs import Inputs
from course_utils.foundation.seeding import isolated_randomness

METHODS = ("averaging", "voting", "stacking")
POOLS = ("linear", "logarithmic")


class StackingModel(nn.Module):
    """Multinomial logistic regression on M members' concatenated probabilities of C classes, by `fit_stacking`."""

    def __init__(self, num_members: int, num_classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(num_members * num_classes, num_classes)

    def forward(self, member_probabilities: Tensor) -> Tensor:
        """(N, M·C) → logits (N, C)."""
        return self.linear(member_probabilities)


def ensemble_predictions(
    models: Sequence[nn.Module],
    inputs: Inputs | DataLoader,
    *,
    method: str = "averaging",
    pool: str = "linear",
    weights: Sequence[float] | Tensor | None = None,
    meta_model: nn.Module | None = None,
    task: str = "multiclass",
    batch_size: int | None = None,
) -> Tensor:
    """Combine classifiers.

    Args:
        models: the members, returning logits (N, C); each runs in evaluation mode and keeps its modes.
        inputs: (N, …), several tensors, or a DataLoader (which must not shuffle); the same for all.
        method: "averaging" of what the members say; "voting", one vote a member by its largest logit, ties go to the
            lowest label; "stacking", a second model that has learned from the members' probabilities.
        pool: of averaging. "linear": Σ w_m·p_m, the mean of the probabilities, which is never surer than the members
            are on average. "logarithmic": ∝ exp(Σ w_m·log p_m), the mean of the logits followed by softmax, which is
            surer where the members agree. Both are legitimate: compare their log-likelihoods on validation data
            (Genest & Zidek 1986, "Combining probability distributions").
        weights: M numbers ≥ 0, not all 0, for averaging and voting; None weighs all alike.
        meta_model: for stacking, from `fit_stacking`.
        task: "multiclass", or "binary" for members with one logit a sample, (N, 1) or (N,).
        batch_size: how many of the N inputs to compute at once; None takes all.

    Returns:
        averaging and stacking: probabilities (N, C) in float32 or better; for binary (N,) = P(class 1). voting: labels,
        int64 (N,).

    Raises:
        TypeError, ValueError: no models, outputs of different shapes, bad weights, an argument that the method does
            not use or lacks.
    """
    check_choice(method, "method", METHODS)
    check_choice(pool, "pool", POOLS)
    if pool != "linear" and method != "averaging":
        raise ValueError(f"pool is for method='averaging', but method is {method!r}")
    if method == "stacking" and (meta_model is None or weights is not None):
        raise ValueError("stacking needs a meta_model (see fit_stacking) and takes no weights")
    if method != "stacking" and meta_model is not None:
        raise ValueError(f"meta_model is for method='stacking', but method is {method!r}")
    members = member_logits(models, inputs, task=task, batch_size=batch_size)  # (M, N, C)
    if method == "voting":
        return _vote(members.argmax(-1), _checked_weights(weights, members), members.shape[2])
    if method == "stacking":
        with reading(meta_model) as meta_model, torch.no_grad(), _without_autocast(members):
            features = _features(members).to(next(meta_model.parameters(), members).dtype)
            p = torch.softmax(output_tensor(meta_model(features)), dim=1).to(members.dtype)
    else:
        p = _average(members, _checked_weights(weights, members), pool)
    return p[:, 1] if task == "binary" else p


def _average(members: Tensor, share: Tensor, pool: str) -> Tensor:
    """Logits (M, N, C) → probabilities (N, C)."""
    if pool == "linear":
        return torch.einsum("m,mnc->nc", share, members.softmax(-1).double()).to(members.dtype)
    asked = share > 0  # 0 · log 0 is NaN, so members without weight are left out
    mean = torch.einsum("m,mnc->nc", share[asked], members[asked].log_softmax(-1).double())
    return mean.softmax(-1).to(members.dtype)


def _vote(labels: Tensor, share: Tensor, num_classes: int) -> Tensor:
    """The members' labels (M, N) → the label with the most weight, (N,)."""
    count = torch.einsum("m,mnc->nc", share, F.one_hot(labels, num_classes).to(share))
    most_voted = count >= count.amax(1, keepdim=True) - 1e-6  # weights like 0.1 + 0.2 and 0.3 must tie
    return most_voted.long().argmax(1)  # the first of equals


def fit_stacking(
    models: Sequence[nn.Module],
    inputs: Inputs | DataLoader,
    target: Tensor,
    *,
    task: str = "multiclass",
    batch_size: int | None = None,
) -> StackingModel:
    """Fit the second model of stacking on data that the members have *not* been trained on.

    A convex problem, cross-entropy with a slight weight decay of 1e-4, solved by L-BFGS: the same data give the same
    model. On the members' own training data it would learn to trust whoever has overfitted most.

    Args:
        models, inputs, task, batch_size: as in `ensemble_predictions`; the inputs are held-out.
        target: (N,) class indices.
    """
    models = check_models(models)
    members = member_logits(models, inputs, task=task, batch_size=batch_size)
    target = check_labels(target, "target", num_samples=members.shape[1], num_classes=members.shape[2])
    features = _features(members)
    # nn.Linear draws its first weights.
    with torch.inference_mode(False), torch.enable_grad(), isolated_randomness(0), _without_autocast(members):
        features, target = features.clone(), target.long().clone()  # also where the caller is in inference mode
        stacker = StackingModel(len(models), members.shape[2]).to(features)
        with torch.no_grad():
            for parameter in stacker.parameters():
                parameter.zero_()
        optimizer = torch.optim.LBFGS(stacker.parameters(), max_iter=200, line_search_fn="strong_wolfe")

        def closure() -> Tensor:
            optimizer.zero_grad()
            penalty = sum(parameter.square().sum() for parameter in stacker.parameters())
            loss = F.cross_entropy(stacker(features), target) + 1e-4 * penalty
            loss.backward()
            return loss

        optimizer.step(closure)
    optimizer.zero_grad()
    return stacker.eval()


def _without_autocast(values: Tensor) -> torch.autocast:
    """A caller's autocast is for the members. In bfloat16 the convex problem has another solution, far away."""
    return torch.autocast(values.device.type, enabled=False)


def check_models(models: Sequence[nn.Module]) -> list[nn.Module]:
    """The members as a list. Raises for a single module, a dict, or none."""
    if isinstance(models, nn.Module) and not isinstance(models, nn.ModuleList):
        raise TypeError("models must be a list of modules, but is a single module")
    if isinstance(models, Mapping) or not isinstance(models, Iterable):
        raise TypeError(f"models must be a list of modules, but is {describe_value(models)}")
    models = [check_model(model) for model in models]
    if not models:
        raise ValueError("models is empty; pass at least one")
    return models


def member_logits(
    models: Sequence[nn.Module], inputs: Inputs | DataLoader, *, task: str, batch_size: int | None
) -> Tensor:
    """Every member's logits, (M, N, C), in float32 or better, in evaluation mode and without a graph."""
    logits = []
    for seed, model in enumerate(check_models(models)):
        logits.append(classifier_logits(model, inputs, task=task, batch_size=batch_size, seed=seed))
        if logits[-1].shape != logits[0].shape:
            shapes = f"{tuple(logits[0].shape)} and {tuple(logits[-1].shape)}"
            raise ValueError(f"the models' outputs must have the same shape, but have {shapes}")
    dtype = functools.reduce(torch.promote_types, [member.dtype for member in logits])
    return torch.stack([member.to(dtype) for member in logits])


def _features(members: Tensor) -> Tensor:
    """Logits (M, N, C) → the members' probabilities side by side, (N, M·C)."""
    return members.softmax(-1).transpose(0, 1).flatten(1)


def _checked_weights(weights: Sequence[float] | Tensor | None, members: Tensor) -> Tensor:
    """The members' shares, (M,), summing to 1."""
    if weights is None:
        return members.new_full((len(members),), 1 / len(members), dtype=torch.float64)
    try:
        share = torch.as_tensor(weights, dtype=torch.float64, device=members.device)
    except (TypeError, ValueError):
        raise TypeError(f"weights must be numbers, one a model, but are {describe_value(weights)}") from None
    if share.shape != (len(members),):
        raise ValueError(f"weights must be {len(members)} numbers, one a model, but are {describe_value(weights)}")
    if not torch.isfinite(share).all() or (share < 0).any() or share.sum() == 0:
        raise ValueError(f"weights must be finite, at least 0 and not all 0, but are {share.tolist()}")
    return share / share.sum()
