"""Which inputs made the answer? Saliency, Grad-CAM and integrated gradients."""

import difflib
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_utils.advanced.input_gradients import (
    Target,
    check_inputs,
    check_target,
    chunk_size,
    gradients_of,
    input_gradients,
    raw_gradients,
)
from course_utils.foundation.arguments import check_choice, check_count, check_number, check_tensor, describe_value
from course_utils.foundation.devices import full_precision
from course_utils.foundation.evaluation import check_model
from course_utils.foundation.inputs import Inputs, map_inputs, tensors_of

Layout = Callable[[Tensor], Tensor]
METHODS = ("gausslegendre", "riemann_left", "riemann_middle", "riemann_right", "riemann_trapezoid")


def saliency_map(
    model: nn.Module,
    inputs: Tensor,
    target: Target = None,
    *,
    task: str = "multiclass",
    seed: int | None = 0,
) -> Tensor:
    """|∂ logit / ∂ input|: where a small change would move the answer's score most.

    Source: Simonyan et al. (2014), "Deep inside convolutional networks".

    Args:
        model: returns logits (N, C), or with `task="binary"` one logit a sample; it is asked in evaluation mode.
        inputs: images (N, channels, H, W), or (N, F).
        target: the class explained: a tensor, a list or an array of N whole numbers, one for all samples, or None for
            the model's answer.
        task: "multiclass", or "binary": there the log-odds of the target are explained, z for class 1, −z for class 0.
        seed: of what the model itself draws; None draws fresh numbers.

    Returns:
        (N, H, W) for images, the largest over the channels; (N, F) otherwise. float32 or better.
    """
    with input_gradients(model, task=task, seed=seed) as frozen:
        x = check_inputs(inputs).requires_grad_()
        logits = frozen(x)
        (gradient,) = gradients_of(frozen.score(logits, check_target(target, logits)).sum(), [x])
    gradient = full_precision(gradient.abs())
    return gradient.amax(1) if inputs.ndim == 4 else gradient


def grad_cam(
    model: nn.Module,
    inputs: Tensor,
    layer: nn.Module | str,
    target: Target = None,
    *,
    upsample: bool = True,
    method: str = "grad-cam",
    reshape: Layout | None = None,
    task: str = "multiclass",
    seed: int | None = 0,
) -> Tensor:
    """Gradient-weighted class activation map: where a convolutional layer sees evidence for a class.

    With the layer's maps A_k and the score s, Grad-CAM is relu(Σ_k mean(∂s/∂A_k) · A_k), one weight for a channel, and
    HiResCAM relu(Σ_k ∂s/∂A_k · A_k), a weight for each of its positions. The two are the same where all that follows is
    a mean over the positions and a linear layer; elsewhere, for instance before a flattening or a maximum, the mean
    gradient may point at places that the score does not depend on. Source: Selvaraju et al. (2017), "Grad-CAM"; Draelos
    & Carin (2020), "Use HiResCAM instead of Grad-CAM for faithful explanations".

    Args:
        model, target, task, seed: as in `saliency_map`.
        inputs: images (N, channels, H, W).
        layer: a module of the model or its dotted name, with an output (N, channels, h, w); usually the last
            convolution or the block around it.
        upsample: bilinearly, to H × W; False leaves h × w.
        method: "grad-cam" or "hires".
        reshape: for layers whose output has another layout: moves (or drops) its entries, so that they become
            (N, channels, h, w). Channels last: `lambda maps: maps.permute(0, 3, 1, 2)`. Tokens of a vision transformer,
            one for the class and 14 × 14 for patches:
            `lambda tokens: tokens[:, 1:].unflatten(1, (14, 14)).permute(0, 3, 1, 2)`.

    Returns:
        (N, H, W), scaled so that the largest value of each map is 1; all 0 where nothing speaks for the class. float32
        or better.

    Raises:
        ValueError: no such layer; one that runs never or twice (error E59, chapter 4's index), or whose output is no
            feature map, may have its channels last, or has a single position.
    """
    size = check_tensor(check_inputs(inputs), "inputs", ndim=4).shape[2:]
    check_choice(method, "method", ("grad-cam", "hires"))
    module = _find_layer(model, layer)
    # A model that `compile()` has compiled in place would run without the layer's hook.
    uncompiled = torch.compiler.set_stance("force_eager")
    with uncompiled, input_gradients(model, task=task, seed=seed) as frozen, _recorded(module) as outputs:
        x = check_inputs(inputs).requires_grad_()
        logits = frozen(x)
        if len(outputs) != 1:
            hint = "" if outputs else " (in an exported model no layer can be watched: pass what it was made from)"
            raise ValueError(
                f"the layer must run once in a forward pass, but ran {len(outputs)} times; choose another{hint}"
            )
        maps = outputs[0]
        if reshape is None:
            _check_layout(maps, size, module, frozen.model)
        elif not isinstance(maps, Tensor):
            raise ValueError(f"the layer must return a tensor, but returned {describe_value(maps)}; choose another")
        score = frozen.score(logits, check_target(target, logits)).sum()
        if not (maps.requires_grad and score.requires_grad):
            raise ValueError("the layer's output has no gradient; is it computed under no_grad, or detached?")
        (gradient,) = raw_gradients(score, [maps])
        if gradient is None:
            raise ValueError("the answer does not depend on this layer's output; choose one that leads to the logits")
        check_tensor(gradient, "the gradient")
    maps, slopes = (_feature_maps(full_precision(part), reshape, len(x)) for part in (maps.detach(), gradient))
    if gradient.any() and not slopes.any():
        raise ValueError(
            "the answer does not depend on the positions that reshape keeps of this layer's output; in a transformer "
            "that reads its class token, choose a layer before the last attention, such as the norm in front of it"
        )
    weights = slopes if method == "hires" else slopes.mean((2, 3), keepdim=True)  # (N, channels, h, w or 1, 1)
    cam = F.relu((weights * maps).sum(1, keepdim=True))  # (N, 1, h, w)
    if upsample:
        cam = F.interpolate(cam, size=size, mode="bilinear", align_corners=False)
    largest = cam.amax((2, 3), keepdim=True)
    return (cam / torch.where(largest > 0, largest, 1.0))[:, 0]


def _feature_maps(values: Tensor, reshape: Layout | None, n: int) -> Tensor:
    """What the layer returned, or its gradient, as (N, channels, h, w) with more than one position."""
    maps = values if reshape is None else reshape(values)
    if not isinstance(maps, Tensor) or maps.ndim != 4 or len(maps) != n:
        raise ValueError(
            f"reshape must return feature maps (N, channels, h, w) with N = {n}, but returned {describe_value(maps)} "
            f"for {describe_value(values)}"
        )
    if maps.shape[2:].numel() == 1:
        raise ValueError(
            f"the layer's maps have a single position, {tuple(maps.shape)}, which says nothing about where; choose a "
            "layer before the pooling"
        )
    return maps


def _check_layout(maps: Any, size: torch.Size, module: nn.Module, model: nn.Module) -> None:
    """Refuse what may not be (N, channels, h, w). Shapes are no proof, but they show what cannot be."""
    if isinstance(maps, Tensor) and maps.ndim == 3:
        raise ValueError(
            f"the layer must return feature maps (N, channels, h, w), but returned {describe_value(maps)}; if these "
            f"are tokens (N, tokens, channels), pass reshape={_tokens_hint(maps.shape[1])}"
        )
    if not isinstance(maps, Tensor) or maps.ndim != 4:
        raise ValueError(f"the layer must return feature maps (N, channels, h, w), but returned {describe_value(maps)}")
    first, last = (_has_proportions(grid, size) for grid in (maps.shape[2:], maps.shape[1:3]))
    # Normalising over the last axis of four is what networks with channels last do, and no others.
    sure_of_last = type(module) is nn.LayerNorm and len(module.normalized_shape) == 1
    with_norms = any(isinstance(part, nn.LayerNorm) for part in model.modules())
    sure_of_first = isinstance(module, _CHANNELS_FIRST) or not with_norms
    if sure_of_last or (last and not first) or (first == last and not sure_of_first):
        raise ValueError(
            f"the layer returned {describe_value(maps)}, which may have its channels last; if they are, pass "
            "reshape=lambda maps: maps.permute(0, 3, 1, 2), and if it is (N, channels, h, w), "
            "reshape=lambda maps: maps"
        )


# Layers that take and return (N, channels, h, w), whatever the network around them does.
_CHANNELS_FIRST = (
    *(nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d, nn.InstanceNorm2d, nn.GroupNorm, nn.Dropout2d, nn.PixelShuffle),
    *(nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveMaxPool2d, nn.AdaptiveAvgPool2d, nn.Upsample),
)


def _has_proportions(grid: torch.Size, size: torch.Size) -> bool:
    """Could a network have made a grid h × w of an image H × W? Its proportions stay, up to lost borders."""
    (h, w), (height, width) = grid, size
    return h <= height and w <= width and abs(h - w * height / width) <= 1 + 0.25 * h


def _tokens_hint(tokens: int) -> str:
    """The reshape for a square grid of tokens, with or without one for the class."""
    extra = next((extra for extra in (0, 1) if math.isqrt(tokens - extra) ** 2 == tokens - extra), None)
    side = "h, w" if extra is None else ", ".join([str(math.isqrt(tokens - extra))] * 2)
    part = "tokens[:, 1:]" if extra else "tokens"
    return f"lambda tokens: {part}.unflatten(1, ({side})).permute(0, 3, 1, 2)"


def _find_layer(model: nn.Module, layer: nn.Module | str) -> nn.Module:
    if isinstance(check_model(model), torch.jit.ScriptModule):
        raise ValueError("inside a TorchScript model no layer can be watched; pass the model that it was made from")
    # Names as the caller sees them, also those of a model inside DataParallel; and a layer may have two names.
    modules = {
        name: module
        for part in (check_model(model), model)
        for name, module in part.named_modules(remove_duplicate=False)
        if name
    }
    if isinstance(layer, str):
        if layer not in modules:
            nearest = ", ".join(map(repr, difflib.get_close_matches(layer, modules, n=5, cutoff=0.0)))
            raise ValueError(f"the model has no layer {layer!r}; of its {len(modules)} the nearest names are {nearest}")
        return modules[layer]
    if not isinstance(layer, nn.Module):
        raise TypeError(f"layer must be a module or its dotted name, but is {describe_value(layer)}")
    if all(layer is not module for module in modules.values()):
        raise ValueError(f"{type(layer).__name__} is not part of the model; pass one of its modules or a dotted name")
    return layer


@contextmanager
def _recorded(module: nn.Module) -> Iterator[list]:
    """The outputs of a module's runs. The hook goes at the end, also after an exception (error E57)."""
    outputs: list = []

    def record(module: nn.Module, args: tuple, output: Tensor) -> Tensor:
        outputs.append(output)
        # What follows works on a copy: an in-place ReLU behind it would overwrite what we keep (error E58).
        return output.clone() if isinstance(output, Tensor) else output

    with module.register_forward_hook(record):
        yield outputs


def integrated_gradients(
    model: nn.Module,
    inputs: Inputs,
    target: Target = None,
    *,
    baselines: Tensor | float | tuple | Mapping | None = None,
    n_steps: int = 32,
    method: str = "gausslegendre",
    internal_batch_size: int | None = None,
    return_convergence_delta: bool = False,
    task: str = "multiclass",
    seed: int | None = 0,
) -> Inputs | tuple[Inputs, Tensor]:
    """(x − x₀) · ∫₀¹ ∂ logit/∂x at x₀ + α(x − x₀) dα: the logit's rise from a baseline, shared out among the inputs.

    The attributions of a sample sum to logit(x) − logit(x₀), up to the error of the integration ("completeness").
    Source: Sundararajan et al. (2017), "Axiomatic attribution for deep networks".

    Args:
        model, target, task, seed: as in `saliency_map`. Of a model that draws random numbers the sums are complete only
            in the mean.
        inputs: (N, …), floating point; or several of them, a tuple for `model(*inputs)`, a dict for `model(**inputs)`.
        baselines: x₀, a number or a tensor that broadcasts to the inputs; None is 0. For several inputs one for all of
            them, or as many in the same structure.
        n_steps: points on the path. Gauss–Legendre needs fewest on smooth models; with ReLU no rule is always ahead.
        method: the rule: "gausslegendre" or "riemann_" with left, middle, right or trapezoid. The weights of each sum
            to 1 (those of captum's trapezoid sum to less).
        internal_batch_size: samples × points in one forward pass; None chooses.
        return_convergence_delta: also return, for each sample, the sum of its attributions minus the rise.

    Returns:
        Attributions in the inputs' shapes and structure, float32 or better; with `return_convergence_delta` a pair with
        the deltas (N,).

    >>> model = nn.Linear(2, 2, bias=False)
    >>> _ = torch.nn.init.eye_(model.weight)
    >>> integrated_gradients(model, torch.tensor([[3.0, 5.0]]), target=1)
    tensor([[0.0000, 5.0000]])
    """
    check_choice(method, "method", METHODS)
    nodes, weights = _rule(method, check_count(n_steps, "n_steps", minimum=2 if method == "riemann_trapezoid" else 1))
    if internal_batch_size is not None:
        check_count(internal_batch_size, "internal_batch_size")

    def structured(parts: list[Tensor]) -> Inputs:
        """One tensor for each of the inputs, in their structure."""
        parts = iter(parts)
        return map_inputs(lambda _: next(parts), inputs)

    with input_gradients(model, task=task, seed=seed) as frozen:
        ends = [check_inputs(x, name) for name, x in tensors_of(inputs).items()]
        dtypes = [x.dtype for x in ends]
        starts = [full_precision(x) for x in _check_baselines(baselines, inputs)]
        ends = [full_precision(x) for x in ends]

        def logits_at(parts: list[Tensor]) -> Tensor:
            return frozen(structured([x.to(dtype) for x, dtype in zip(parts, dtypes, strict=True)]))

        with torch.no_grad():
            logits, logits_start = logits_at(ends), logits_at(starts)
        target = check_target(target, logits)
        totals = [torch.zeros_like(x) for x in ends]
        # Every pair of a sample and a point on its path, numbered sample by sample.
        pairs = torch.arange(len(logits) * n_steps, device=logits.device)
        for chunk in pairs.split(internal_batch_size or chunk_size(logits)):
            sample, point = chunk // n_steps, chunk % n_steps
            path = [
                torch.lerp(start[sample], end[sample], _like(end, nodes[point])).requires_grad_()
                for start, end in zip(starts, ends, strict=True)
            ]
            score = frozen.score(logits_at(path), target[sample]).sum()
            for total, gradient in zip(totals, gradients_of(score, path), strict=True):
                total.index_add_(0, sample, gradient * _like(total, weights[point]))
    attributions = [(end - start) * total for start, end, total in zip(starts, ends, totals, strict=True)]
    if not return_convergence_delta:
        return structured(attributions)
    rise = frozen.score(logits, target) - frozen.score(logits_start, target)
    return structured(attributions), sum(part.flatten(1).sum(1) for part in attributions) - rise


def _like(x: Tensor, values: Tensor) -> Tensor:
    """Numbers (n,) in the dtype and on the device of `x`, in a shape that multiplies its rows."""
    return values.to(x).reshape(-1, *(1,) * (x.ndim - 1))


def _rule(method: str, n: int) -> tuple[Tensor, Tensor]:
    """Nodes in [0, 1] and weights that sum to 1."""
    if method == "gausslegendre":
        nodes, weights = np.polynomial.legendre.leggauss(n)  # on [−1, 1]
        nodes, weights = (nodes + 1) / 2, weights / 2
    elif method == "riemann_trapezoid":
        nodes, weights = np.linspace(0, 1, n), np.full(n, 1 / (n - 1))
        weights[[0, -1]] /= 2
    else:
        shift = {"riemann_left": 0.0, "riemann_middle": 0.5, "riemann_right": 1.0}[method]
        nodes, weights = (np.arange(n) + shift) / n, np.full(n, 1 / n)
    return torch.from_numpy(nodes), torch.from_numpy(weights)


def _check_baselines(baselines: Any, inputs: Inputs) -> list[Tensor]:
    """A baseline for each of the inputs, in its shape."""
    if isinstance(inputs, Tensor):
        return [_check_baseline(baselines, inputs, "baselines")]
    names = list(inputs) if isinstance(inputs, Mapping) else range(len(inputs))
    if isinstance(baselines, (tuple, list, Mapping)):
        keys = list(baselines) if isinstance(baselines, Mapping) else range(len(baselines))
        if set(keys) != set(names):
            raise ValueError(f"baselines must be one for each of the inputs {list(names)}, but are for {list(keys)}")
        return [_check_baseline(baselines[name], inputs[name], f"baselines[{name!r}]") for name in names]
    return [_check_baseline(baselines, inputs[name], "baselines") for name in names]


def _check_baseline(baseline: Any, x: Tensor, name: str) -> Tensor:
    if baseline is None:
        return torch.zeros_like(x)
    if isinstance(baseline, (int, float)) and not isinstance(baseline, bool):
        return torch.full_like(x, check_number(baseline, name))
    check_tensor(baseline[None] if isinstance(baseline, Tensor) and baseline.ndim == 0 else baseline, name)
    try:
        return baseline.detach().to(x).expand_as(x)
    except RuntimeError:
        raise ValueError(
            f"{name} must broadcast to the inputs' shape {tuple(x.shape)}, but is {describe_value(baseline)}"
        ) from None
