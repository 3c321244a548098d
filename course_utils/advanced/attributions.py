"""Which inputs made the answer? Saliency, Grad-CAM and integrated gradients."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_utils.advanced.gradients import check_inputs, check_target, chunk_size, gradient_of, input_gradients
from course_utils.foundation.arguments import check_choice, check_count, check_number, check_tensor, describe_value
from course_utils.foundation.evaluation import check_model

METHODS = ("gausslegendre", "riemann_left", "riemann_middle", "riemann_right", "riemann_trapezoid")


def saliency_map(model: nn.Module, inputs: Tensor, target: Tensor | int | None = None) -> Tensor:
    """|∂ logit / ∂ input|: where a small change would move the answer's score most.

    Source: Simonyan et al. (2014), "Deep inside convolutional networks".

    Args:
        model: returns logits (N, C); it is asked in evaluation mode.
        inputs: pictures (N, channels, H, W), or (N, F).
        target: the class explained: (N,), one for all, or None for the model's answer.

    Returns:
        (N, H, W) for pictures, the largest over the channels; (N, F) otherwise.
    """
    with input_gradients(model) as frozen:
        x = check_inputs(inputs).requires_grad_()
        logits = frozen(x)
        target = check_target(target, logits)
        gradient = gradient_of(logits.gather(1, target[:, None]).sum(), x).abs()
    return gradient.amax(1) if inputs.ndim == 4 else gradient


def grad_cam(
    model: nn.Module,
    inputs: Tensor,
    layer: nn.Module | str,
    target: Tensor | int | None = None,
    *,
    upsample: bool = True,
) -> Tensor:
    """Gradient-weighted class activation map: where a convolutional layer sees evidence for a class.

    Each channel of the layer's output is weighted by its mean gradient; the sum's positive part is the map. Source:
    Selvaraju et al. (2017), "Grad-CAM".

    Args:
        model: returns logits (N, C); it is asked in evaluation mode.
        inputs: pictures (N, channels, H, W).
        layer: a module of the model or its dotted name, with an output (N, channels, h, w); usually the last
            convolution or the block around it.
        target: as in `saliency_map`.
        upsample: bilinearly, to H × W; False leaves h × w.

    Returns:
        (N, H, W), scaled so that the largest value of each map is 1; all 0 where nothing speaks for the class.

    Raises:
        ValueError: no such layer, one whose output is no feature map, or one that runs never or twice (E59).
    """
    check_tensor(check_inputs(inputs), "inputs", ndim=4)
    module = _find_layer(model, layer)
    with input_gradients(model) as frozen, _recorded(module) as outputs:
        frozen.memory_format = None  # one run: a second try would be recorded, too
        x = check_inputs(inputs).requires_grad_()
        logits = frozen(x)
        if len(outputs) != 1:
            raise ValueError(f"the layer must run once in a forward pass, but ran {len(outputs)} times; choose another")
        maps = outputs[0]
        if not isinstance(maps, Tensor) or maps.ndim != 4:
            raise ValueError(
                f"the layer must return feature maps (N, channels, h, w), but returned {describe_value(maps)}"
            )
        target = check_target(target, logits)
        score = logits.gather(1, target[:, None]).sum()
        if not (maps.requires_grad and score.requires_grad):
            raise ValueError("the layer's output has no gradient; is it computed under no_grad, or detached?")
        gradient = torch.autograd.grad(score, maps, allow_unused=True)[0]
        if gradient is None:
            raise ValueError("the answer does not depend on this layer's output; choose one that leads to the logits")
        check_tensor(gradient, "the gradient")
    weights = gradient.mean((2, 3), keepdim=True)  # (N, channels, 1, 1)
    cam = F.relu((weights * maps.detach()).sum(1, keepdim=True))  # (N, 1, h, w)
    if upsample:
        cam = F.interpolate(cam, size=inputs.shape[2:], mode="bilinear", align_corners=False)
    largest = cam.amax((2, 3), keepdim=True)
    return (cam / torch.where(largest > 0, largest, 1.0))[:, 0].to(inputs.dtype)


def _find_layer(model: nn.Module, layer: nn.Module | str) -> nn.Module:
    modules = dict(check_model(model).named_modules(remove_duplicate=False))  # a layer may have two names
    if isinstance(layer, str):
        if layer not in modules or not layer:
            names = ", ".join(name for name in modules if name)
            raise ValueError(f"the model has no layer {layer!r}; it has {names}")
        return modules[layer]
    if not isinstance(layer, nn.Module):
        raise TypeError(f"layer must be a module or its dotted name, but is {describe_value(layer)}")
    if all(layer is not module for module in modules.values()):
        raise ValueError(f"{type(layer).__name__} is not part of the model; pass one of its modules or a dotted name")
    return layer


@contextmanager
def _recorded(module: nn.Module) -> Iterator[list]:
    """The outputs of a module's runs. The hook goes at the end, also after an exception (E57)."""
    outputs: list = []

    def record(module: nn.Module, args: tuple, output: Tensor) -> Tensor:
        outputs.append(output)
        # What follows works on a copy: an in-place ReLU behind it would overwrite what we keep (E58).
        return output.clone() if isinstance(output, Tensor) else output

    handle = module.register_forward_hook(record)
    try:
        yield outputs
    finally:
        handle.remove()


def integrated_gradients(
    model: nn.Module,
    inputs: Tensor,
    target: Tensor | int | None = None,
    *,
    baselines: Tensor | float | None = None,
    n_steps: int = 32,
    method: str = "gausslegendre",
    internal_batch_size: int | None = None,
    return_convergence_delta: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """(x − x₀) · ∫₀¹ ∂ logit/∂x at x₀ + α(x − x₀) dα: the logit's rise from a baseline, shared out among the inputs.

    The attributions of a sample sum to logit(x) − logit(x₀), up to the error of the integration ("completeness").
    Source: Sundararajan et al. (2017), "Axiomatic attribution for deep networks".

    Args:
        model: returns logits (N, C); it is asked in evaluation mode.
        inputs: (N, …).
        target: as in `saliency_map`.
        baselines: x₀, a number or a tensor that broadcasts to the inputs; None is 0.
        n_steps: points on the path. Gauss–Legendre needs fewest on smooth models; with ReLU no rule is always ahead.
        method: the rule: "gausslegendre" or "riemann_" with left, middle, right or trapezoid. The weights of each sum
            to 1 (captum's trapezoid's sum to less: P4).
        internal_batch_size: samples × points in one forward pass; None chooses.
        return_convergence_delta: also return, for each sample, the sum of its attributions minus the rise.

    Returns:
        Attributions in the inputs' shape; with `return_convergence_delta` a pair with the deltas (N,).
    """
    check_choice(method, "method", METHODS)
    nodes, weights = _rule(method, check_count(n_steps, "n_steps", minimum=2 if method == "riemann_trapezoid" else 1))
    if internal_batch_size is not None:
        check_count(internal_batch_size, "internal_batch_size")
    with input_gradients(model) as frozen:
        x = check_inputs(inputs)
        start = _check_baselines(baselines, x)
        with torch.no_grad():
            logits, logits_start = frozen(x), frozen(start)
        target = check_target(target, logits)
        total = torch.zeros_like(x)
        # Every pair of a sample and a point on its path, numbered sample by sample.
        for pairs in torch.arange(len(x) * n_steps, device=x.device).split(internal_batch_size or chunk_size(x)):
            sample, point = pairs // n_steps, pairs % n_steps
            shape = (-1, *(1,) * (x.ndim - 1))
            alpha = nodes.to(x)[point].reshape(shape)
            path = torch.lerp(start[sample], x[sample], alpha).requires_grad_()
            score = frozen(path).gather(1, target[sample][:, None]).sum()
            total.index_add_(0, sample, gradient_of(score, path) * weights.to(x)[point].reshape(shape))
    attributions = (x - start) * total
    if not return_convergence_delta:
        return attributions
    rise = (logits - logits_start).gather(1, target[:, None])[:, 0]
    return attributions, attributions.flatten(1).sum(1) - rise


def _rule(method: str, n: int) -> tuple[Tensor, Tensor]:
    """Nodes in [0, 1] and weights that sum to 1."""
    even = np.full(n, 1 / n)
    if method == "gausslegendre":
        nodes, weights = np.polynomial.legendre.leggauss(n)  # on [−1, 1]
        nodes, weights = (nodes + 1) / 2, weights / 2
    elif method == "riemann_trapezoid":
        nodes, weights = np.linspace(0, 1, n), np.full(n, 1 / (n - 1))
        weights[[0, -1]] /= 2
    else:
        shift = {"riemann_left": 0.0, "riemann_middle": 0.5, "riemann_right": 1.0}[method]
        nodes, weights = (np.arange(n) + shift) / n, even
    return torch.from_numpy(nodes), torch.from_numpy(weights)


def _check_baselines(baselines: Tensor | float | None, x: Tensor) -> Tensor:
    if baselines is None:
        return torch.zeros_like(x)
    if isinstance(baselines, (int, float)) and not isinstance(baselines, bool):
        return torch.full_like(x, check_number(baselines, "baselines"))
    check_tensor(baselines[None] if isinstance(baselines, Tensor) and baselines.ndim == 0 else baselines, "baselines")
    try:
        return baselines.detach().to(x).expand_as(x)
    except RuntimeError:
        raise ValueError(
            f"baselines must broadcast to the inputs' shape {tuple(x.shape)}, but are {describe_value(baselines)}"
        ) from None
