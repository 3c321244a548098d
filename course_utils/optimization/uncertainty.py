"""How unsure is a network, and why: Monte Carlo dropout and deep ensembles."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.func import vmap
from torch.nn.modules.dropout import _DropoutNd

from course_utils.foundation.arguments import check_choice, check_count, check_tensor, describe_value
from course_utils.foundation.evaluation import evaluation_mode, output_tensor
from course_utils.foundation.results import Result, as_numpy, plain
from course_utils.foundation.seeding import isolated_randomness

TASKS = ("multiclass", "multilabel", "regression")


@dataclass(frozen=True, eq=False, repr=False)
class UncertaintyResult(Result):
    """S opinions on each of N samples.

    Attributes:
        mean: (N, C) mean probabilities, or mean values for regression.
        variance: (N, C), over the opinions, correction=0; of probabilities, never of logits (E33).
        predictive_entropy: entropy of the mean in nats, all uncertainty there is. (N,) for multiclass, (N, C) for
            multilabel, None for regression.
        mutual_information: predictive entropy minus the opinions' mean entropy: the part that comes from disagreement
            (what the model does not know), without the part that all agree on (what the data leave open). Shapes
            as above.
        samples: (S, N, C), the opinions.
    """

    mean: Tensor
    variance: Tensor
    predictive_entropy: Tensor | None
    mutual_information: Tensor | None
    samples: Tensor

    per_sample: ClassVar = ("mean", "variance", "predictive_entropy", "mutual_information")

    def __getitem__(self, index: int) -> dict:
        index = range(len(self))[index]
        fields = {name: getattr(self, name) for name in self.per_sample}
        return {name: plain(value[index]) for name, value in fields.items() if value is not None}

    def to_frame(self):
        import pandas as pd

        columns = {}
        for name in self.per_sample:
            value = getattr(self, name)
            if value is None:
                continue
            for i, column in enumerate(value.reshape(len(self), -1).T):
                columns[name if value.ndim == 1 else f"{name}_{i}"] = as_numpy(column)
        return pd.DataFrame(columns)


def monte_carlo_dropout(
    model: nn.Module,
    inputs: Tensor,
    *,
    n_samples: int = 50,
    task: str = "multiclass",
    seed: int | None = None,
    chunk_size: int | None = None,
) -> UncertaintyResult:
    """Ask one network many times with different dropout masks.

    Only the dropout layers are switched on; BatchNorm keeps using its stored statistics, and a batch of one works.
    What lies before the first dropout layer is computed once. Source: Gal and Ghahramani (2016), "Dropout as a Bayesian
    approximation".

    Args:
        model: returns logits (N, C), or values (N, D) for regression. It must contain an nn.Dropout layer (or one of
            its relatives) with p > 0. Dropout that is only a function call, `F.dropout`, or an option of another
            layer, such as `nn.LSTM(dropout=…)`, cannot be seen from outside: use layers.
        inputs: (N, …).
        n_samples: S ≥ 2.
        task: "multiclass" (softmax), "multilabel" (sigmoid) or "regression" (values, no entropies).
        seed: of the masks; None draws fresh ones. The global random state stays as it is.
        chunk_size: how many of the S samples to compute at once. None computes all at once, the fastest way, but from
            the first dropout layer on the activations take S times the memory of one forward pass. A chunk takes
            `chunk_size` times, and computes the layers before the dropout anew. The masks are drawn chunk by chunk, so
            the same seed gives the same samples only with the same chunk_size; other sizes give other draws from the
            same distribution.

    Raises:
        TypeError, ValueError: no dropout layer, fewer than two samples, outputs that are not (N, C) or not finite.
    """
    check_choice(task, "task", TASKS)
    check_count(n_samples, "n_samples", minimum=2)
    if chunk_size is not None:
        check_count(chunk_size, "chunk_size")
    _check_inputs(inputs)
    with evaluation_mode(model), torch.no_grad(), isolated_randomness(seed):
        layers = [module for module in model.modules() if isinstance(module, _DropoutNd) and module.p > 0]
        if not layers:
            raise ValueError(
                "the model has no dropout layer with p > 0, so all samples would be equal; "
                "add nn.Dropout, or use deep_ensemble"
            )
        for layer in layers:
            layer.train()
        outputs = _repeat(model, inputs, n_samples, chunk_size)  # (S, N, C)
    return _summarise(outputs, task)


def _repeat(model: nn.Module, inputs: Tensor, n_samples: int, chunk_size: int | None) -> Tensor:
    """The model's output n_samples times, each with random masks of its own, (S, N, C)."""
    model_output = output_tensor  # read inside vmap too
    # vmap makes a layer's work depend on the sample only from the first dropout on.
    several = vmap(lambda _: model_output(model(inputs.clone())), randomness="different")
    chunks = torch.empty(n_samples, device=inputs.device).split(chunk_size or n_samples)
    try:
        return _collect((several(chunk) for chunk in chunks), n_samples)
    except RuntimeError:
        # Some layers (LSTM, or control flow on values) cannot be vmapped; an error of the model's own comes again here.
        return _collect((model_output(model(inputs.clone()))[None] for _ in range(n_samples)), n_samples)


def _collect(parts: Iterable[Tensor], n_samples: int) -> Tensor:
    """Parts (K, …) in one tensor (S, …), into which each is copied as soon as it is there.

    Parts kept until the end would lie between large temporary tensors, and break the memory that those leave behind
    into pieces too small for the next ones.
    """
    samples, filled = None, 0
    for part in parts:
        if len(part) == n_samples:
            return part
        samples = part.new_empty(n_samples, *part.shape[1:]) if samples is None else samples
        samples[filled : filled + len(part)] = part
        filled += len(part)
    return samples


def deep_ensemble(models: Sequence[nn.Module], inputs: Tensor, *, task: str = "multiclass") -> UncertaintyResult:
    """Ask several independently trained networks.

    Source: Lakshminarayanan et al. (2017), "Simple and scalable predictive uncertainty estimation using deep
    ensembles".

    Args:
        models: at least two, each returning logits (N, C), or values (N, D) for regression.
        inputs: (N, …).
        task: as in `monte_carlo_dropout`.

    Raises:
        TypeError, ValueError: fewer than two models, outputs of different shapes or not finite.
    """
    check_choice(task, "task", TASKS)
    _check_inputs(inputs)
    if isinstance(models, nn.Module) and not isinstance(models, nn.ModuleList):
        raise TypeError("models must be a list of modules, but is a single module")
    if len(models) < 2:
        raise ValueError(f"an ensemble needs at least two models, but has {len(models)}")
    outputs = []
    for model in models:
        with evaluation_mode(model), torch.no_grad(), isolated_randomness(0):
            outputs.append(output_tensor(model(inputs.clone())))
        if outputs[-1].shape != outputs[0].shape:
            shapes = f"{tuple(outputs[0].shape)} and {tuple(outputs[-1].shape)}"
            raise ValueError(f"the models' outputs must have the same shape, but have {shapes}")
    return _summarise(torch.stack(outputs), task)


def _check_inputs(inputs: Tensor) -> None:
    check_tensor(inputs, "inputs", floating=inputs.is_floating_point() if isinstance(inputs, Tensor) else True)


def _summarise(outputs: Tensor, task: str) -> UncertaintyResult:
    check_tensor(outputs, "the model's outputs")
    if outputs.ndim != 3 or (task == "multiclass" and outputs.shape[2] < 2):
        wanted = "values (N, D)" if task == "regression" else "logits (N, C)" + (" with C ≥ 2" * (task == "multiclass"))
        raise ValueError(f"the model must return {wanted}, but returned {describe_value(outputs[0])}")
    if task == "regression":
        return UncertaintyResult(outputs.mean(0), outputs.var(0, correction=0), None, None, outputs)
    samples = outputs.softmax(-1) if task == "multiclass" else outputs.sigmoid()
    entropy_of = _entropy if task == "multiclass" else _binary_entropy
    entropy = entropy_of(samples.mean(0))
    # One opinion after the other: the logarithms of all at once would take as much memory as the samples do.
    mean_entropy = _collect((entropy_of(opinion)[None] for opinion in samples), len(samples)).mean(0)
    information = (entropy - mean_entropy).clamp(min=0)  # rounding may push it below 0
    return UncertaintyResult(samples.mean(0), samples.var(0, correction=0), entropy, information, samples)


def _entropy(probabilities: Tensor) -> Tensor:
    """−Σ p log p over the last axis, in nats; 0·log 0 is 0."""
    return torch.special.entr(probabilities).sum(-1)


def _binary_entropy(probabilities: Tensor) -> Tensor:
    """The entropy of each yes/no choice by itself, in nats."""
    return torch.special.entr(probabilities) + torch.special.entr(1 - probabilities)
