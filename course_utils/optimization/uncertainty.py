"""How unsure is a network, and why: Monte Carlo dropout and deep ensembles."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.func import vmap
from torch.nn.modules.dropout import _DropoutNd
from torch.utils.data import DataLoader

from course_utils.foundation.arguments import check_choice, check_count, check_logits, check_tensor, describe_value
from course_utils.foundation.devices import full_precision
from course_utils.foundation.evaluation import attributes_kept, output_tensor, reading, unfused_attention
from course_utils.foundation.inputs import Inputs, batches, call_model, map_inputs, num_samples
from course_utils.foundation.results import Result
from course_utils.optimization.ensembles import check_models

TASKS = ("multiclass", "binary", "multilabel", "regression", "gaussian")
Outputs = tuple[Tensor, ...]  # of a model: one tensor, (…, N, …), or means and variances, (…, N, D) each


@dataclass(frozen=True, eq=False, repr=False)
class UncertaintyResult(Result):
    """S opinions on each of N samples, in float32 or better.

    Attributes:
        mean: (N, C) mean probabilities; (N,) = P(class 1) for binary; (N, D) mean values for regression and gaussian.
        variance: in the mean's shape. For classes: of the probabilities over the opinions (correction=0), never of
            logits. For regression: the spread of the opinions' values, so it says how far the members disagree and
            nothing about noise in the data; mean ± 1.645·√variance can hold far fewer than 90 % of the targets. For
            gaussian: the mean of the members' variances (noise in the data) plus the variance of their means
            (disagreement), which is the variance of a new measurement.
        predictive_entropy: entropy of the mean in nats, all uncertainty there is. (N,) for multiclass and binary,
            (N, C) for multilabel, None for regression and gaussian.
        mutual_information: predictive entropy minus the opinions' mean entropy: the part that comes from disagreement
            (what the model does not know), without the part that all agree on (what the data leave open). Shapes
            as above.
        samples: the opinions, (S, N, C), (S, N) for binary, (S, N, D) for values (for gaussian: the means).
    """

    mean: Tensor
    variance: Tensor
    predictive_entropy: Tensor | None
    mutual_information: Tensor | None
    samples: Tensor

    per_sample: ClassVar = ("mean", "variance", "predictive_entropy", "mutual_information")


def monte_carlo_dropout(
    model: nn.Module,
    inputs: Inputs | DataLoader,
    *,
    n_samples: int = 50,
    task: str = "multiclass",
    seed: int | None = None,
    chunk_size: int | None = None,
    batch_size: int | None = None,
) -> UncertaintyResult:
    """Ask one network many times with different dropout masks.

    Only the dropout layers are switched on; BatchNorm keeps using its stored statistics, and a batch of one works.
    What lies before the first dropout layer is computed once. Source: Gal and Ghahramani (2016), "Dropout as a Bayesian
    approximation".

    Args:
        model: returns logits (N, C), or values (N, D) for regression. It must call an nn.Dropout layer (or one of
            its relatives) with p > 0. Dropout that is only a function call, `F.dropout`, or an option of another
            layer, such as `nn.LSTM(dropout=…)` or that of attention weights, cannot be seen from outside: use layers.
        inputs: (N, …), several tensors, or a DataLoader (which must not shuffle).
        n_samples: S ≥ 2.
        task: "multiclass" (softmax), "binary" (one logit a sample), "multilabel" (sigmoid), "regression" (values, no
            entropies) or "gaussian" (the model returns a pair of means and variances, (N, D) each).
        seed: of the masks; None draws fresh ones. The global random state stays as it is.
        chunk_size: how many of the S samples to compute at once. None computes all at once, the fastest way, but from
            the first dropout layer on the activations take S times the memory of one forward pass. A chunk takes
            `chunk_size` times, and computes the layers before the dropout anew. The masks are drawn chunk by chunk, so
            the same seed gives the same samples only with the same chunk_size; other sizes give other draws from the
            same distribution.
        batch_size: how many of the N inputs to compute at once; None takes all.

    Raises:
        TypeError, ValueError: no dropout layer, or none that is called; fewer than two samples; outputs that do not fit
            the task, are not finite, or have no row for each sample.
    """
    check_choice(task, "task", TASKS)
    check_count(n_samples, "n_samples", minimum=2)
    if chunk_size is not None:
        check_count(chunk_size, "chunk_size")
    with reading(model, seed=seed) as model, unfused_attention(), torch.no_grad():
        layers = [module for module in model.modules() if isinstance(module, _DropoutNd) and module.p > 0]
        if not layers and any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
            raise TypeError(
                "the dropout layers of a scripted model cannot be watched; pass the model that it was scripted from"
            )
        if not layers:
            raise ValueError(
                "the model has no dropout layer with p > 0, so all samples would be equal; "
                "add nn.Dropout, or use deep_ensemble"
            )
        called = []
        with ExitStack() as hooks:  # they go at its end
            for layer in layers:
                hooks.enter_context(layer.register_forward_pre_hook(lambda *_: called.append(True)))
                layer.train()
            parts = [_repeat(model, batch, n_samples, chunk_size) for batch in batches(inputs, batch_size)]
    if not called:
        raise ValueError(
            f"the model has {len(layers)} dropout layer(s), but its forward pass calls none of them, so all samples "
            "would be equal; use deep_ensemble"
        )
    return _summarise(_joined(parts, dim=1), task)


def _repeat(model: nn.Module, inputs: Inputs, n_samples: int, chunk_size: int | None) -> Outputs:
    """The model's output n_samples times, each with random masks of its own, (S, N, …)."""

    def once(_: Tensor | None = None) -> Outputs:
        with attributes_kept(model):  # each time from the state that the model came with
            return _ask(model, inputs)

    several = vmap(once, randomness="different")
    device = next((value.device for value in model.parameters()), None)
    chunks = torch.empty(n_samples, device=device).split(chunk_size or n_samples)
    try:
        # vmap makes a layer's work depend on the sample only from the first dropout on.
        return _collect((several(chunk) for chunk in chunks), n_samples)
    except RuntimeError:
        # Some layers (LSTM, or control flow on values) cannot be vmapped; an error of the model's own comes again here.
        return _collect((_stacked([once()]) for _ in range(n_samples)), n_samples)


def _collect(parts: Iterable[Outputs], n_samples: int) -> Outputs:
    """Parts (K, …) in one tensor (S, …) each, into which they are copied as soon as they are there.

    Parts kept until the end would lie between large temporary tensors, and break the memory that those leave behind
    into pieces too small for the next ones.
    """
    samples, filled = None, 0
    for part in parts:
        if len(part[0]) == n_samples:
            return part
        if samples is None:
            samples = tuple(values.new_empty(n_samples, *values.shape[1:]) for values in part)
        for whole, values in zip(samples, part, strict=True):
            whole[filled : filled + len(values)] = values
        filled += len(part[0])
    return samples


def deep_ensemble(
    models: Sequence[nn.Module],
    inputs: Inputs | DataLoader,
    *,
    task: str = "multiclass",
    batch_size: int | None = None,
) -> UncertaintyResult:
    """Ask several independently trained networks.

    Source: Lakshminarayanan et al. (2017), "Simple and scalable predictive uncertainty estimation using deep
    ensembles".

    Args:
        models: at least two, each returning logits (N, C), or values (N, D) for regression. A member that draws random
            numbers draws others than the members beside it.
        inputs, task, batch_size: as in `monte_carlo_dropout`; a DataLoader must not shuffle. For "gaussian",
            `GaussianRegressionModel` is such a member.

    Raises:
        TypeError, ValueError: fewer than two models, outputs of different shapes or not finite.
    """
    check_choice(task, "task", TASKS)
    models = check_models(models)
    if len(models) < 2:
        raise ValueError(f"an ensemble needs at least two models, but has {len(models)}")
    outputs = []
    for seed, model in enumerate(models):
        with reading(model, seed=seed) as model, torch.no_grad():
            outputs.append(_joined([_ask(model, batch) for batch in batches(inputs, batch_size)], dim=0))
        shapes = [_shape(output) for output in (outputs[0], outputs[-1])]
        if shapes[0] != shapes[1]:
            raise ValueError(f"the models' outputs must have the same shape, but have {shapes[0]} and {shapes[1]}")
    return _summarise(_stacked(outputs), task)


def _ask(model: nn.Module, inputs: Inputs) -> Outputs:
    """The tensor in a model's output, or a pair of means and variances, with a row for each sample.

    In-place layers get a copy of the inputs.
    """
    output = call_model(model, map_inputs(lambda value: value.detach().clone(), inputs))
    is_pair = isinstance(output, tuple) and len(output) == 2 and all(isinstance(part, Tensor) for part in output)
    parts = output if is_pair else (output_tensor(output),)
    n = num_samples(inputs)
    for part in parts:
        if part.ndim == 0 or len(part) != n:
            raise ValueError(
                f"the model must return one row for each of the {n} samples, but returned {describe_value(part)}"
            )
    return parts


def _shape(output: Outputs) -> tuple:
    shapes = tuple(tuple(values.shape) for values in output)
    return shapes if len(shapes) > 1 else shapes[0]


def _joined(parts: list[Outputs], dim: int) -> Outputs:
    """Batches one after the other."""
    return tuple(torch.cat(values, dim) for values in zip(*parts, strict=True))


def _stacked(outputs: list[Outputs]) -> Outputs:
    """Opinions one above the other."""
    return tuple(torch.stack(values) for values in zip(*outputs, strict=True))


def _summarise(outputs: Outputs, task: str) -> UncertaintyResult:
    if task == "gaussian":
        return _summarise_gaussian(outputs)
    if len(outputs) > 1:
        raise TypeError(
            f"the model returned a pair of tensors; for means and variances pass task='gaussian', not {task!r}"
        )
    (outputs,) = outputs
    if task == "regression":
        check_tensor(outputs, "the model's outputs")
    else:
        check_logits(outputs, "the model's logits", class_dim=2 if task == "multiclass" and outputs.ndim == 3 else None)
    outputs = full_precision(outputs)
    if task == "binary":
        if outputs.ndim < 2 or outputs.shape[2:] not in ((), (1,)):
            wanted = "logits (N,) or (N, 1)"
            raise ValueError(f"a binary model must return {wanted}, but returned {describe_value(outputs[0])}")
        return _summarise_probabilities(outputs.reshape(outputs.shape[:2]).sigmoid(), _binary_entropy)  # (S, N)
    if outputs.ndim != 3 or (task == "multiclass" and outputs.shape[2] < 2):
        wanted = "values (N, D)" if task == "regression" else "logits (N, C)" + (" with C ≥ 2" * (task == "multiclass"))
        hint = (
            "; for one logit a sample pass task='binary'"
            if task == "multiclass" and outputs.shape[2:] in ((), (1,))
            else ""
        )
        raise ValueError(f"the model must return {wanted}, but returned {describe_value(outputs[0])}{hint}")
    if task == "regression":
        return UncertaintyResult(outputs.mean(0), outputs.var(0, correction=0), None, None, outputs)
    samples = outputs.softmax(-1) if task == "multiclass" else outputs.sigmoid()
    return _summarise_probabilities(samples, _entropy if task == "multiclass" else _binary_entropy)


def _summarise_probabilities(samples: Tensor, entropy_of: Callable[[Tensor], Tensor]) -> UncertaintyResult:
    entropy = entropy_of(samples.mean(0))
    # One sample after the other: the logarithms of all at once would take as much memory as the samples themselves.
    (entropies,) = _collect(((entropy_of(sample)[None],) for sample in samples), len(samples))
    information = (entropy - entropies.mean(0)).clamp(min=0)  # rounding may push it below 0
    return UncertaintyResult(samples.mean(0), samples.var(0, correction=0), entropy, information, samples)


def _summarise_gaussian(outputs: Outputs) -> UncertaintyResult:
    if len(outputs) != 2 or outputs[0].ndim != 3 or outputs[0].shape != outputs[1].shape:
        raise ValueError(
            "a model with task='gaussian' must return a pair (means, variances), (N, D) each, but returned outputs of "
            f"the shape(s) {_shape(outputs)}"
        )
    means, variances = map(full_precision, outputs)  # (S, N, D) each
    check_tensor(means, "the model's means")
    if (check_tensor(variances, "the model's variances") < 0).any():
        raise ValueError("the model's variances must not be negative; log-variances need .exp() first")
    total = variances.mean(0) + means.var(0, correction=0)
    return UncertaintyResult(means.mean(0), total, None, None, means)


def _entropy(probabilities: Tensor) -> Tensor:
    """−Σ p log p over the last axis, in nats; 0·log 0 is 0."""
    return torch.special.entr(probabilities).sum(-1)


def _binary_entropy(probabilities: Tensor) -> Tensor:
    """The entropy of each yes/no choice by itself, in nats."""
    return torch.special.entr(probabilities) + torch.special.entr(1 - probabilities)
