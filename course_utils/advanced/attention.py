"""Which positions did a transformer read? Attention rolled out through its layers, with and without the gradient."""

from collections.abc import Sequence

import torch
from torch import Tensor

from course_utils.foundation.arguments import check_tensor, describe_value
from course_utils.foundation.devices import full_precision


def attention_rollout(attentions: Sequence[Tensor]) -> Tensor:
    """How much of each position reaches each position of the last layer, if attention were all that happens.

    R = Â_L … Â_1 with Â = (mean over heads of A + I) / 2: a layer mixes the positions, and its residual connection
    keeps half of what was there. Rows sum to 1. No class is asked about, so the map is the same for all of them.
    Source: Abnar & Zuidema (2020), "Quantifying attention flow in transformers".

    Args:
        attentions: of each layer, the first one first: the attention weights (N, heads, T, T), whose rows sum to 1;
            as transformers returns them with `output_attentions=True`.

    Returns:
        (N, T, T): row i says what reached position i. Of a classifier that reads its first position, `[:, 0]`.

    >>> even = torch.full((1, 2, 2, 2), 0.5)
    >>> attention_rollout([even])
    tensor([[[0.7500, 0.2500],
             [0.2500, 0.7500]]])
    """
    layers = _check_layers(attentions, "attentions")
    rolled = _identity(layers[0])
    for weights in layers:
        rolled = (weights.mean(1) + _identity(weights)) / 2 @ rolled
    return rolled


def gradient_rollout(attentions: Sequence[Tensor], gradients: Sequence[Tensor]) -> Tensor:
    """Gradient × attention, rolled out: each weight counts by what it does for the score s of a class.

    From R = I, layer by layer, R ← R + (mean over heads of (A ⊙ ∂s/∂A)⁺) R. A head that looks somewhere without any
    use for the class counts nothing, and each class gets a map of its own.
    Source: Chefer et al. (2021), "Generic attention-model explainability", for self-attention.

    Args:
        attentions: as in `attention_rollout`.
        gradients: of the class's score by each of them, in the same shapes:
            `torch.autograd.grad(logits[:, target].sum(), attentions)`. They exist for the tensors that the model itself
            went on with; the weights that `nn.MultiheadAttention` returns are not those.

    Returns:
        (N, T, T), the identity included.
    """
    layers, slopes = _check_layers(attentions, "attentions"), _check_layers(gradients, "gradients")
    if [part.shape for part in layers] != [part.shape for part in slopes]:
        raise ValueError(
            f"gradients must have the attentions' shapes, {[tuple(part.shape) for part in layers]}, but have "
            f"{[tuple(part.shape) for part in slopes]}"
        )
    relevance = _identity(layers[0])
    for weights, slope in zip(layers, slopes, strict=True):
        relevance = relevance + (weights * slope).clamp(min=0).mean(1) @ relevance
    return relevance


def _identity(weights: Tensor) -> Tensor:
    """(N, T, T)"""
    return torch.eye(weights.shape[-1], dtype=weights.dtype, device=weights.device).expand(len(weights), -1, -1)


def _check_layers(layers: Sequence[Tensor], name: str) -> list[Tensor]:
    if isinstance(layers, Tensor) or not isinstance(layers, Sequence) or not layers:
        raise TypeError(
            f"{name} must be a list with a tensor (N, heads, T, T) a layer, but is {describe_value(layers)}"
        )
    layers = [full_precision(check_tensor(part, f"{name}[{i}]", ndim=4).detach()) for i, part in enumerate(layers)]
    shapes = {(len(part), *part.shape[2:]) for part in layers}
    if len(shapes) > 1 or layers[0].shape[2] != layers[0].shape[3]:
        raise ValueError(
            f"{name} must be (N, heads, T, T) with the same N and T in all layers, but have the shapes "
            f"{[tuple(part.shape) for part in layers]}"
        )
    return layers
