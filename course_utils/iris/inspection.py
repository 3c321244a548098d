"""Looking into a model: its parameters by name, their statistics, and summaries from two libraries."""

from __future__ import annotations

import contextlib
import io
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from course_utils.foundation.arguments import check_choice, check_count, describe_value
from course_utils.foundation.devices import in_double
from course_utils.foundation.evaluation import check_has_values, check_model, copy_of
from course_utils.foundation.inputs import Inputs, call_arguments, map_inputs, tensors_of
from course_utils.foundation.seeding import isolated_randomness

if TYPE_CHECKING:
    import pandas as pd

ENGINES = ("torchinfo", "torchsummary")
_QUANTISED = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized")  # the second: fused with the ReLU behind


@dataclass(frozen=True)
class ParameterCount:
    """Numbers of parameters: all, those that training changes, those that are frozen."""

    total: int
    trainable: int
    frozen: int


def count_parameters(model: nn.Module) -> ParameterCount:
    """Count the numbers in a model's parameters. A parameter shared by two layers counts once; buffers do not count.

    The weights and biases of quantised layers count as frozen: torch keeps them packed, and no longer as parameters.

    >>> count_parameters(nn.Linear(4, 10))
    ParameterCount(total=50, trainable=50, frozen=0)
    """
    parameters = parameters_of(check_model(model)).values()
    total = sum(values.numel() for values, _ in parameters)
    trainable = sum(values.numel() for values, is_trainable in parameters if is_trainable)
    return ParameterCount(total, trainable, total - trainable)


def parameters_of(model: nn.Module) -> dict[str, tuple[Tensor, bool]]:
    """name → (values, are they trainable?) of all parameters, and of the packed ones of quantised layers."""
    if isinstance(model, torch.jit.ScriptModule) and not hasattr(model, "training"):
        raise TypeError(
            "a frozen TorchScript holds its weights as constants, no longer as parameters; pass the model that it was "
            "made from"
        )
    found = {name: (parameter.detach(), parameter.requires_grad) for name, parameter in model.named_parameters()}
    for name, module in model.named_modules():
        if not type(module).__module__.startswith(_QUANTISED):
            continue
        for part in ("weight", "bias"):  # methods there, of recurrent layers with another name and several tensors
            get = getattr(module, f"get_{part}", None) or getattr(module, part, None)
            values = get() if callable(get) else None
            for key, value in values.items() if isinstance(values, dict) else [(part, values)]:
                if isinstance(value, Tensor):
                    found[f"{name}.{key}" if name else key] = (value.detach().dequantize(), False)
    return found


def parameter_table(model: nn.Module) -> pd.DataFrame:
    """A DataFrame with one row per parameter tensor: name, shape, count, trainable.

    `named_parameters` lists frozen parameters too, so a column says which ones training changes. A parameter that
    two layers share has one row, with its first name.
    """
    import pandas as pd

    rows = [
        (name, tuple(values.shape), values.numel(), is_trainable)
        for name, (values, is_trainable) in parameters_of(check_model(model)).items()
    ]
    return pd.DataFrame(rows, columns=["name", "shape", "count", "trainable"])


def weight_statistics(model: nn.Module) -> pd.DataFrame:
    """A DataFrame with one row per parameter tensor: name, mean, std (correction=0), min, max.

    Of complex parameters the mean is complex, the variance is the mean of |w − mean|², and min and max are those of
    the magnitudes |w|: complex numbers have no order.
    """
    import pandas as pd

    rows = []
    for name, (parameter, _) in parameters_of(check_has_values(model)).items():
        values = in_double(parameter)
        if values.numel() == 0:
            raise ValueError(f"the parameter {name!r} is empty: {describe_value(parameter)}")
        ordered = values.abs() if values.is_complex() else values
        statistics = values.mean(), values.std(correction=0), ordered.min(), ordered.max()
        rows.append((name, *(value.item() for value in statistics)))
    return pd.DataFrame(rows, columns=["name", "mean", "std", "min", "max"])


def model_summary(
    model: nn.Module,
    input_size: Sequence[int] | None = None,
    *,
    input_data: Inputs | None = None,
    engine: str = "torchinfo",
) -> str:
    """A layer-by-layer summary as text, from torchinfo or torchsummary.

    Both libraries run the model and leave traces: torchinfo sets submodules' modes, torchsummary moves BatchNorm's
    running statistics, and both draw random numbers. Here they get a copy on the CPU, and the random state comes
    back. Prefer torchinfo: torchsummary counts a shared layer twice and fails on LSTM, Embedding and attention. Neither
    knows parameters that two *different* layers share, as in a language model whose output layer is its embedding;
    where their total is not that of `count_parameters`, a line at the end says the true one.

    Args:
        model: any module; the original is not touched.
        input_size: shape of an input including the batch, for example (1, 4). Give this or `input_data`.
        input_data: an input; a tuple or list of several, or a dict of named ones. torchsummary uses only the shapes.
        engine: "torchinfo" or "torchsummary".

    Raises:
        ValueError: an unknown engine; not exactly one of input_size and input_data; a size of less than 1.
        RuntimeError: the library cannot run this model; the message carries its reason.

    >>> print(model_summary(nn.Linear(4, 10), input_size=(1, 4)).splitlines()[3].split())
    ['Linear', '[1,', '10]', '50']
    """
    model = check_model(model)
    check_choice(engine, "engine", ENGINES)
    if (input_size is None) == (input_data is None):
        raise ValueError("give exactly one of input_size (with the batch) and input_data")
    if input_size is not None:
        if not isinstance(input_size, Sequence):
            raise TypeError(f"input_size must be a tuple such as (1, 4), but is {describe_value(input_size)}")
        sizes = [tuple(check_count(length, "each length in input_size") for length in input_size)]
    else:
        sizes = [tuple(values.shape) for values in tensors_of(input_data, "input_data").values()]

    try:
        clone = copy_of(model).cpu()
        with isolated_randomness(0), torch.inference_mode(False):
            if engine == "torchsummary":
                text = _torchsummary_text(clone, sizes)
            else:
                text = _torchinfo_text(clone, sizes[0], input_data)
    except Exception as error:
        reason = textwrap.shorten(str(error.__cause__ or error), 300)  # torchinfo wraps it, and prints tensors
        shapes = ", ".join(map(str, sizes))
        advice = _advice(model, engine, given_size=input_size is not None)
        raise RuntimeError(
            f"{engine} could not run the model on an input of shape {shapes}: {reason}{advice}"
        ) from error
    return text + _true_total(model, text)


def _advice(model: nn.Module, engine: str, *, given_size: bool) -> str:
    if engine == "torchsummary":
        return "; torchsummary reads chains of plain layers only, try engine='torchinfo'"
    if given_size and any(isinstance(module, (nn.Embedding, nn.EmbeddingBag)) for module in model.modules()):
        return "; the model takes whole numbers, pass some as input_data instead of an input_size"
    return ""


def _true_total(model: nn.Module, text: str) -> str:
    """A line for the end of a summary whose total is not the number of parameters."""
    found = re.search(r"^Total params: ([\d,]+)$", text, flags=re.M)
    stated, true = found and int(found[1].replace(",", "")), count_parameters(model).total
    if stated is None or stated == true:
        return ""
    if stated > true:
        why = "those that layers share are counted once for each of them above"
    else:
        why = "those of layers that the library does not know, and pruned ones, are left out above"
    return f"\nThe model has {true:,} parameters (count_parameters); {why}."


def _torchinfo_text(model: nn.Module, size: tuple[int, ...], input_data: Inputs | None) -> str:
    import torchinfo

    if input_data is None:
        kinds = [parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()]
        source: dict[str, Any] = {"input_size": size, "dtypes": kinds[:1] or [torch.float32]}
    else:
        args, kwargs = call_arguments(map_inputs(lambda values: values.detach().cpu().clone(), input_data))
        # torchinfo takes a list of positional arguments, and named ones beside.
        source = {"input_data": list(args), **kwargs} if args else {"input_data": kwargs}
    return str(torchinfo.summary(model, **source, device="cpu", verbose=0))


def _torchsummary_text(model: nn.Module, sizes: list[tuple[int, ...]]) -> str:
    import torchsummary

    printed = io.StringIO()
    without_batch = [size[1:] for size in sizes]
    shape = without_batch[0] if len(sizes) == 1 else without_batch
    # It prints and returns nothing, knows only float32, and wants the size without the batch.
    with contextlib.redirect_stdout(printed), torch.no_grad():
        torchsummary.summary(model.float(), shape, batch_size=sizes[0][0], device="cpu")
    return printed.getvalue().strip()
