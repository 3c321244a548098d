"""Where do NaN and Inf start? In which value of a nested output, and in which layer of a network."""

from contextlib import ExitStack
from dataclasses import dataclass
from numbers import Number
from typing import Any

import torch
from torch import Tensor, nn

from course_utils.foundation.arguments import describe_value
from course_utils.foundation.inputs import Inputs
from course_utils.foundation.outputs import has_named_parts, parts_of
from course_utils.pitfalls.forward import check_watchable, run_once


@dataclass(frozen=True)
class NonFiniteReport:
    """What is not finite in a value. Truthy when something is, so `if detect_nan_inf(loss): …` reads as it should.

    Attributes:
        name: what the caller called the value.
        nan_count, posinf_count, neginf_count: over all tensors of the value.
        first_index: position of the first non-finite element in its tensor, None if there is none.
        path: the tensor it is in, for example `outputs["boxes"][1]`; None if there is none.
        skipped: paths and types of what was not looked into, because it is no tensor: a cache, for example.
    """

    name: str
    nan_count: int = 0
    posinf_count: int = 0
    neginf_count: int = 0
    first_index: tuple[int, ...] | None = None
    path: str | None = None
    skipped: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return self.path is not None

    def __str__(self) -> str:
        skipped = f"; not looked into: {', '.join(self.skipped)}" if self.skipped else ""
        if not self:
            return f"{self.name}: all values are finite{skipped}"
        counts = {"NaN": self.nan_count, "+inf": self.posinf_count, "-inf": self.neginf_count}
        found = ", ".join(f"{count:,} {kind}" for kind, count in counts.items() if count)
        return f"{self.name}: {found}; the first in {self.path} at {list(self.first_index)}{skipped}"


def detect_nan_inf(value: Any, name: str = "tensor") -> NonFiniteReport:
    """Count NaN and infinite values, and say where the first one is.

    A finite sum proves that all terms are finite, so a finite tensor is read once and nothing is allocated; only
    another is looked at value by value.

    Args:
        value: a tensor (real or complex), a number, or these nested in dicts, lists, tuples, dataclasses and objects
            with `.logits`. None and strings count as finite. What is none of these, such as the cache in the output of
            a language model, is not looked into, and the report says so.
        name: how the report calls it.

    Raises:
        TypeError: nothing in it can be looked into, or a NumPy array, which must be wrapped by torch.as_tensor.

    >>> print(detect_nan_inf({"loss": torch.tensor([1.0, float("nan")])}, "step"))
    step: 1 NaN; the first in step["loss"] at [1]
    >>> bool(detect_nan_inf(torch.ones(3)))
    False
    """
    nan = posinf = neginf = 0
    first_index = first_path = None
    tensors, skipped = _tensors(value, name)
    if skipped and not tensors:
        raise TypeError(f"{name} must be a tensor, a number, or a dict or list of them, but is {describe_value(value)}")
    for path, tensor in tensors:
        if _all_finite(tensor):
            continue
        tensor = _dense(tensor)
        nan += int(tensor.isnan().sum())
        if tensor.is_complex():
            posinf += int((tensor.isinf() & ~tensor.isnan()).sum())  # infinity has no sign there
        else:
            posinf += int(tensor.isposinf().sum())
            neginf += int(tensor.isneginf().sum())
        if first_path is None:
            first_path = path
            first_index = tuple(torch.nonzero(~tensor.isfinite())[0].tolist())
    return NonFiniteReport(name, nan, posinf, neginf, first_index, first_path, tuple(skipped))


def _tensors(value: Any, path: str) -> tuple[list[tuple[str, Tensor]], list[str]]:
    """All tensors of a nested value, each with its path; and the paths of what cannot be looked into."""
    if isinstance(value, Tensor):
        return [(path, value.detach())], []
    if isinstance(value, Number):
        return [(path, _number(value))], []
    if value is None or isinstance(value, (str, bytes)):
        return [], []
    parts = parts_of(value)
    if parts is None:
        if hasattr(value, "dtype") and hasattr(value, "shape"):
            raise TypeError(f"{path} must be a tensor, but is {describe_value(value)}; use torch.as_tensor")
        return [], [f"{path} ({type(value).__name__})"]
    found = [_tensors(part, path + _step(key, value)) for key, part in parts.items()]
    return [pair for tensors, _ in found for pair in tensors], [name for _, skipped in found for name in skipped]


def _step(key: Any, container: Any) -> str:
    if has_named_parts(container):
        return f".{key}"
    return f'["{key}"]' if isinstance(key, str) and '"' not in key else f"[{key!r}]"


def _number(value: Number) -> Tensor:
    if isinstance(value, complex):
        return torch.tensor(value, dtype=torch.complex128)
    try:
        return torch.tensor(float(value), dtype=torch.float64)
    except OverflowError:  # a whole number beyond float64's range, and so finite
        return torch.zeros(())


def _dense(tensor: Tensor) -> Tensor:
    """The values in a layout and dtype in which every operation below exists."""
    if tensor.is_nested:  # as torch's own encoder makes them on the way
        tensor = torch.cat([part.flatten() for part in tensor.unbind()])
    tensor = tensor if tensor.layout == torch.strided else tensor.to_dense()
    return tensor.float() if tensor.is_floating_point() and tensor.element_size() == 1 else tensor


def _all_finite(tensor: Tensor) -> bool:
    if not (tensor.is_floating_point() or tensor.is_complex()):
        return True
    tensor = _dense(tensor)
    if tensor.numel() == 0:
        return True
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor.resolve_conj())
    # The sum of a finite tensor would overflow in half precision, and may in float32: then each value is tested.
    wide = torch.float32 if tensor.element_size() < 4 else tensor.dtype
    return bool(tensor.sum(dtype=wide).isfinite()) or bool(tensor.isfinite().all())


def first_nonfinite_layer(model: nn.Module, inputs: Inputs) -> str | None:
    """The layer in which NaN or Inf starts during a forward pass, or None if all is finite.

    The model runs in the mode it is in, on copies of its buffers, so that BatchNorm's statistics stay. A layer is
    named if its output is not finite. If the model's output is finite, −inf on the way is a mask, as in attention, and
    no fault.
    A value that breaks *between* layers, in the code of a module's `forward`, is blamed on that module: by its
    dotted name, or by the model's class name if it is the model itself. Inputs that are not finite already are no
    layer's fault; the first layer that hands them on is named, so look at the inputs first (`detect_nan_inf`).

    Args:
        model: any module but a scripted one.
        inputs: its input; a tuple or list of several, or a dict of named ones. The input of a model that takes a list
            is a tuple with that list.

    >>> class Log(nn.Module):
    ...     def forward(self, x):
    ...         return x.log()
    >>> first_nonfinite_layer(nn.Sequential(nn.ReLU(), Log(), nn.Linear(2, 2)), torch.tensor([[-1.0, 1.0]]))
    '1'
    """
    origin = find_nonfinite(model, inputs)
    return origin and origin.layer


@dataclass(frozen=True)
class Origin:
    """Where NaN or Inf starts: in which layer, and whether only on torch's fused path, which no layer of it shows."""

    layer: str
    fused: bool = False


def find_nonfinite(model: nn.Module, inputs: Inputs) -> Origin | None:
    """The first layer whose output is not finite, see `first_nonfinite_layer`."""
    model = check_watchable(model)
    names = {module: name or type(model).__name__ for name, module in model.named_modules()}
    if layer := _watched_closely(model, inputs, names):
        return Origin(layer)
    # Hooks on its layers keep an encoder from its fused path, which computes something else. So look without them too.
    if _severity(run_once(model, inputs)):
        return Origin(_watched_from_outside(model, inputs, names), fused=True)
    return None


def _watched_closely(model: nn.Module, inputs: Inputs, names: dict[nn.Module, str]) -> str | None:
    """The first non-finite layer of a run with hooks on every module."""
    finite_inputs = not _severity(inputs)
    running: list[str] = []
    found: dict[str, int] = {}  # layer → its `_severity`, in the order of their first appearance

    def before(module: nn.Module, args: tuple, kwargs: dict) -> None:
        # What enters is not finite although no layer's output was: the module around it broke it.
        if running and finite_inputs and not found and (severity := _severity((args, kwargs))):
            found[running[-1]] = severity
        running.append(names[module])

    def after(module: nn.Module, args: tuple, output: Any) -> None:
        running.pop()
        if severity := _severity(output):
            found.setdefault(names[module], severity)

    with ExitStack() as hooks:  # they go at its end, also after an exception
        for module in model.modules():
            hooks.enter_context(module.register_forward_pre_hook(before, with_kwargs=True))
            # Called after an exception, too: a model may catch one of its own.
            hooks.enter_context(module.register_forward_hook(after, always_call=True))
        output = run_once(model, inputs)
    lowest = 1 if _severity(output) else 2
    return next((name for name, severity in found.items() if severity >= lowest), None)


def _watched_from_outside(model: nn.Module, inputs: Inputs, names: dict[nn.Module, str]) -> str:
    """The first non-finite layer of a run with one hook for all modules at once, which the fused path does not see."""
    found = []

    def after(module: nn.Module, args: tuple, output: Any) -> None:
        if module in names and _severity(output):
            found.append(names[module])

    with nn.modules.module.register_module_forward_hook(after):
        run_once(model, inputs)
    return found[0]


def _severity(value: Any) -> int:
    """0: finite. 1: some −inf, which may be a mask. 2: NaN or +inf. What is no tensor passes, whatever it is."""
    if isinstance(value, Tensor):
        value = value.detach()
        if _all_finite(value):
            return 0
        value = _dense(value)
        return 1 if not value.is_complex() and not (value.isnan() | value.isposinf()).any() else 2
    return max(map(_severity, (parts_of(value) or {}).values()), default=0)
