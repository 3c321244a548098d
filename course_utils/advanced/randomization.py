"""Is the map about the network? The same map of networks whose layers know nothing any more."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from course_utils.advanced.input_gradients import check_inputs
from course_utils.foundation.arguments import check_tensor, describe_value
from course_utils.foundation.evaluation import check_has_values, copy_of
from course_utils.foundation.seeding import isolated_randomness

if TYPE_CHECKING:
    import pandas as pd


def randomization_check(
    model: nn.Module,
    inputs: Tensor,
    attribute: Callable[[nn.Module, Tensor], Tensor],
    *,
    seed: int | None = 0,
) -> pd.DataFrame:
    """How alike the maps of a network stay while its layers lose what they learned, from the last one to the first.

    Layer by layer, from the output backwards, the weights get new random values, and those already random stay so
    ("cascading randomisation"). Each time the maps are compared with those of the whole network by Spearman's rank
    correlation of their pixels. Maps that stay alike to the end show the picture and not the network. Source: Adebayo
    et al. (2018), "Sanity checks for saliency maps".

    BatchNorm layers get statistics of `inputs` after each change: those of the trained network would belong to
    features that are not there any more, and what breaks then is the scale and not the knowledge.

    Args:
        model: layers are taken in the order in which they were defined; it stays as it is, copies lose their weights.
        inputs: (N, …), as many as BatchNorm needs for its statistics.
        attribute: called as attribute(model, inputs), returns maps (N, …). Let it explain the same class each time
            (a fixed `target`), and return |map| if signs should not count.
        seed: of the new weights; None draws fresh ones.

    Returns:
        A row for each layer with weights, the last layer first: its name, the mean similarity in [−1, 1] when it and
        all layers behind it are random, and the ends of its 95 % interval (± 1.96 standard errors over the images). A
        map without any differences is like no other: its similarity is 0.

    Raises:
        ValueError: a module that holds weights of its own and has no `reset_parameters`, or whose weight is computed
            from others (pruned, or with a weight norm).
    """
    import pandas as pd

    network, x = copy_of(check_has_values(model)), check_inputs(inputs)
    layers = _layers_with_weights(network)
    before = _maps(attribute, network, x)
    rows = []
    with isolated_randomness(seed):
        for name, layer in reversed(layers):
            with torch.no_grad():
                _reset(layer)()
                _renew_statistics(network, x)
            alike = _rank_correlation(before, _maps(attribute, network, x))
            mean = float(alike.mean())
            half = 1.96 * float(alike.std()) / math.sqrt(len(alike)) if len(alike) > 1 else math.nan
            rows.append((name, mean, mean - half, mean + half))
    return pd.DataFrame(rows, columns=["layer", "similarity", "low", "high"]).set_index("layer")


def _layers_with_weights(network: nn.Module) -> list[tuple[str, nn.Module]]:
    layers = [
        (name or type(module).__name__, module)
        for name, module in network.named_modules()
        if next(module.parameters(recurse=False), None) is not None
    ]
    if not layers:
        raise ValueError("the model has no weights that could be made random")
    for name, layer in layers:
        if _reset(layer) is None:
            raise ValueError(
                f"{name}, a {type(layer).__name__}, holds weights and has no reset_parameters(), so nobody knows how "
                "its random weights are made; give its class that method"
            )
        if isinstance(vars(layer).get("weight"), Tensor):
            raise ValueError(
                f"the weight of {name}, a {type(layer).__name__}, is computed from other parameters in each forward "
                "pass, so a new one would be lost; make it permanent first, with torch.nn.utils.prune.remove or "
                "torch.nn.utils.remove_weight_norm"
            )
    return layers


def _reset(layer: nn.Module) -> Callable[[], None] | None:
    """What gives a layer new weights; torch's attention has a private name for it."""
    return getattr(layer, "reset_parameters", None) or getattr(layer, "_reset_parameters", None)


def _renew_statistics(network: nn.Module, x: Tensor) -> None:
    """BatchNorm's running mean and variance become those of `x`; everything else stays in evaluation mode."""
    norms = [part for part in network.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    norms = [part for part in norms if part.track_running_stats]
    if not norms:
        return
    network.eval()
    momenta = [part.momentum for part in norms]
    for part in norms:
        part.reset_running_stats()
        part.momentum = None  # the plain mean over the batches seen, here of one
        part.train()
    network(x.clone())
    for part, momentum in zip(norms, momenta, strict=True):
        part.momentum = momentum
    network.eval()


def _maps(attribute: Callable, network: nn.Module, x: Tensor) -> Tensor:
    maps = attribute(network, x.clone())
    if not isinstance(maps, Tensor) or maps.ndim < 2 or len(maps) != len(x):
        raise ValueError(f"attribute must return maps (N, …) with N = {len(x)}, but returned {describe_value(maps)}")
    return check_tensor(maps, "what attribute returns").detach().flatten(1).double().cpu()


def _rank_correlation(a: Tensor, b: Tensor) -> Tensor:
    """Spearman's correlation of each pair of rows, (N,): Pearson's of the ranks, equal values sharing their mean."""
    from scipy.stats import rankdata

    a, b = (torch.from_numpy(rankdata(part.numpy(), axis=1)) for part in (a, b))
    a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
    size = a.norm(dim=1) * b.norm(dim=1)
    return (a * b).sum(1) / torch.where(size > 0, size, 1.0)
