"""A forward pass on copies, so that a check-up changes nothing; and which layer is to blame when it fails."""

import linecache
import traceback
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from course_utils.foundation.arguments import describe_value, dtype_name
from course_utils.foundation.evaluation import attributes_kept, check_has_values, may_be_written
from course_utils.foundation.inputs import call_arguments
from course_utils.foundation.seeding import isolated_randomness


def check_watchable(model: Any) -> nn.Module:
    """Like `check_has_values`; also refuses scripted models, whose layers nobody can look into while they run."""
    model = check_has_values(model)
    if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
        raise TypeError("the layers of a scripted model cannot be watched; pass the model that it was scripted from")
    return model


def run_once(model: nn.Module, inputs: Any) -> Any:
    """The model's output without a graph, in its mode: on copies of all that it may write to, and without a trace."""
    with torch.no_grad(), isolated_randomness(0):
        return run_with(model, {}, inputs)


def run_with(model: nn.Module, tensors: dict[str, Tensor], inputs: Any) -> Any:
    """The model's output with other parameters or buffers in place of its own."""
    args, kwargs = call_arguments(_copied(inputs))
    copies = {name: value.clone() for name, value in may_be_written(model).items() if name not in tensors}
    with attributes_kept(model):
        return functional_call(model, copies | tensors, args, kwargs)


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.clone() if value.requires_grad else value.detach().clone()
    if isinstance(value, Mapping):
        return {key: _copied(part) for key, part in value.items()}
    if hasattr(value, "_fields"):  # a named tuple takes its parts one by one
        return type(value)(*map(_copied, value))
    return type(value)(map(_copied, value)) if type(value) in (list, tuple) else value


def detached_parameters(model: nn.Module) -> dict[str, Tensor]:
    """The parameters without a graph; copies of those that a forward pass may write to."""
    written = may_be_written(model)
    detached = {name: parameter.detach() for name, parameter in model.named_parameters()}
    return {
        name: value.clone() if name in written or value.is_inference() else value for name, value in detached.items()
    }


def explain_failure(error: Exception, model: nn.Module) -> str | None:
    """Say which layer raised the error, what it wants and what it got; None if no layer of the model raised it.

    The traceback of the error knows: the innermost module in it is the layer, and the call of it holds its arguments.
    """
    names = {module: name for name, module in model.named_modules()}
    steps = [
        (step.f_locals["self"], step, line)
        for step, line in traceback.walk_tb(error.__traceback__)
        if isinstance(step.f_locals.get("self"), nn.Module) and step.f_locals["self"] in names
    ]
    if not steps:
        return None
    layer = steps[-1][0]
    own = {frame.f_code.co_name: (frame, line) for module, frame, line in steps if module is layer}
    name = f"the layer {names[layer]!r}" if names[layer] else "the model"
    shown = type(layer).__name__ if list(layer.children()) else layer
    text = f"{name}, {shown}, raises {type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
    wanted = _wanted(layer)
    if wanted is None and "forward" in own:
        frame, line = own["forward"]
        text += f" (in the line `{linecache.getline(frame.f_code.co_filename, line).strip()}`)"
    if "_call_impl" not in own:
        return text
    call = own["_call_impl"][0].f_locals
    got = [_described(value) for value in call.get("args", ()) if isinstance(value, Tensor)]
    named = call.get("kwargs", {}).items()
    got += [f"{name}, {_described(value)}" for name, value in named if isinstance(value, Tensor)]
    return f"{text}; it {f'wants {wanted} and ' if wanted else ''}got {'; '.join(got) or 'no tensor'}"


def _wanted(layer: nn.Module) -> str | None:
    """What the layer takes, if it is one of torch's that says so."""
    if isinstance(layer, (nn.Embedding, nn.EmbeddingBag)):
        return f"whole numbers from 0 to {layer.num_embeddings - 1}"
    shape = next((shape_of(layer) for kind, shape_of in _WANTED_SHAPES.items() if isinstance(layer, kind)), None)
    dtypes = [parameter.dtype for parameter in layer.parameters() if parameter.is_floating_point()]
    if shape is None or not dtypes:
        return None
    return f"{dtype_name(dtypes[0])} values of shape {shape}"


_SEVERAL = ", in train mode of more than one sample,"
# Kind of layer → the shape it takes.
_WANTED_SHAPES: dict[type[nn.Module], Callable[[Any], str]] = {
    nn.Linear: lambda layer: f"(…, {layer.in_features})",
    nn.modules.conv._ConvNd: lambda layer: f"(N, {layer.in_channels}, {', '.join('DHW'[-len(layer.kernel_size) :])})",
    nn.modules.batchnorm._BatchNorm: lambda layer: f"(N, {layer.num_features}, …){_SEVERAL if layer.training else ''}",
    nn.LayerNorm: lambda layer: f"(…, {', '.join(map(str, layer.normalized_shape))})",
    nn.RNNBase: lambda layer: f"({'N, T' if layer.batch_first else 'T, N'}, {layer.input_size})",
    nn.MultiheadAttention: lambda layer: f"({'N, T' if layer.batch_first else 'T, N'}, {layer.embed_dim})",
}


def _described(value: Tensor) -> str:
    if value.is_floating_point() or value.is_complex() or value.dtype == torch.bool or not value.numel():
        return describe_value(value)
    return f"{describe_value(value)} with values from {int(value.min())} to {int(value.max())}"  # may be out of range
