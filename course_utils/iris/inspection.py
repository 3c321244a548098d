"""Looking into a model: its parameters by name, their statistics, and summaries from two libraries."""

from __future__ import annotations

import contextlib
import copy
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from course_utils.foundation.arguments import check_choice, check_count, describe_value
from course_utils.foundation.devices import in_double
from course_utils.foundation.evaluation import check_model
from course_utils.foundation.seeding import isolated_randomness

if TYPE_CHECKING:
    import pandas as pd

ENGINES = ("torchinfo", "torchsummary")


@dataclass(frozen=True)
class ParameterCount:
    """Numbers of parameters: all, those that training changes, those that are frozen."""

    total: int
    trainable: int
    frozen: int


def count_parameters(model: nn.Module) -> ParameterCount:
    """Count the numbers in a model's parameters. A parameter shared by two layers counts once; buffers do not count.

    >>> count_parameters(nn.Linear(4, 10))
    ParameterCount(total=50, trainable=50, frozen=0)
    """
    parameters = list(check_model(model).parameters())
    total = sum(parameter.numel() for parameter in parameters)
    trainable = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
    return ParameterCount(total, trainable, total - trainable)


def parameter_table(model: nn.Module) -> pd.DataFrame:
    """A DataFrame with one row per parameter tensor: name, shape, count, trainable.

    `named_parameters` lists frozen parameters too (E66), so a column says which ones training changes.
    """
    import pandas as pd

    rows = [
        {"name": name, "shape": tuple(p.shape), "count": p.numel(), "trainable": p.requires_grad}
        for name, p in check_model(model).named_parameters()
    ]
    return pd.DataFrame(rows, columns=["name", "shape", "count", "trainable"])


def weight_statistics(model: nn.Module) -> pd.DataFrame:
    """A DataFrame with one row per parameter tensor: name, mean, std (correction=0), min, max."""
    import pandas as pd

    rows = []
    for name, parameter in check_model(model).named_parameters():
        values = in_double(parameter.detach())
        if values.numel() == 0:
            raise ValueError(f"the parameter {name!r} is empty: {describe_value(parameter)}")
        rows.append(
            {
                "name": name,
                "mean": values.mean().item(),
                "std": values.std(correction=0).item(),
                "min": values.min().item(),
                "max": values.max().item(),
            }
        )
    return pd.DataFrame(rows, columns=["name", "mean", "std", "min", "max"])


def model_summary(
    model: nn.Module,
    input_size: Sequence[int] | None = None,
    *,
    input_data: Tensor | None = None,
    engine: str = "torchinfo",
) -> str:
    """A layer-by-layer summary as text, from torchinfo or torchsummary.

    Both libraries run the model and leave traces: torchinfo sets submodules' modes, torchsummary moves BatchNorm's
    running statistics, and both draw random numbers (E68). Here they get a copy on the CPU, and the random state comes
    back. Prefer torchinfo: torchsummary counts a shared layer twice and fails on LSTM, Embedding and attention.

    Args:
        model: any module; the original is not touched.
        input_size: shape of an input including the batch, for example (1, 4). Give this or `input_data`.
        input_data: an input; torchsummary uses only its shape.
        engine: "torchinfo" or "torchsummary".

    Raises:
        ValueError: an unknown engine; not exactly one of input_size and input_data; a size of less than 1.
        RuntimeError: the library cannot run this model; the message carries its reason.

    >>> print(model_summary(nn.Linear(4, 10), input_size=(1, 4)).splitlines()[3].split())
    ['Linear', '[1,', '10]', '50']
    """
    check_model(model)
    check_choice(engine, "engine", ENGINES)
    if (input_size is None) == (input_data is None):
        raise ValueError("give exactly one of input_size (with the batch) and input_data")
    if input_data is not None and not isinstance(input_data, Tensor):
        raise TypeError(f"input_data must be a torch.Tensor, but is {describe_value(input_data)}")
    if input_size is not None and not isinstance(input_size, Sequence):
        raise TypeError(f"input_size must be a tuple such as (1, 4), but is {describe_value(input_size)}")
    size = tuple(input_size) if input_size is not None else tuple(input_data.shape)
    for length in size:
        check_count(length, "each length in input_size")

    try:
        clone = copy.deepcopy(model).cpu()
        with isolated_randomness(0):
            if engine == "torchsummary":
                return _torchsummary_text(clone, size)
            return _torchinfo_text(clone, size, input_data)
    except Exception as error:
        reason = error.__cause__ or error  # torchinfo wraps what happened
        advice = ""
        if engine == "torchsummary":
            advice = "; torchsummary reads chains of plain layers only, try engine='torchinfo'"
        raise RuntimeError(f"{engine} could not run the model on an input of shape {size}: {reason}{advice}") from error


def _torchinfo_text(model: nn.Module, size: tuple[int, ...], input_data: Tensor | None) -> str:
    import torchinfo

    if input_data is None:
        kinds = [parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()]
        source = {"input_size": size, "dtypes": kinds[:1] or [torch.float32]}
    else:
        source = {"input_data": input_data.detach().cpu().clone()}
    return str(torchinfo.summary(model, **source, device="cpu", verbose=0))


def _torchsummary_text(model: nn.Module, size: tuple[int, ...]) -> str:
    import torchsummary

    printed = io.StringIO()
    # It prints and returns nothing, knows only float32, and wants the size without the batch.
    with contextlib.redirect_stdout(printed), torch.no_grad():
        torchsummary.summary(model.float(), size[1:], batch_size=size[0], device="cpu")
    return printed.getvalue().strip()
