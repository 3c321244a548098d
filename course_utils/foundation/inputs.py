"""What a model is called with: one tensor, several, a dict of them, or a DataLoader."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.utils.data import DataLoader, RandomSampler, SubsetRandomSampler, WeightedRandomSampler

from course_utils.foundation.arguments import check_count, check_tensor, describe_value

_RANDOM_SAMPLERS = (RandomSampler, SubsetRandomSampler, WeightedRandomSampler)

Inputs = Tensor | tuple[Tensor, ...] | list[Tensor] | Mapping[str, Tensor]


def call_model(model: nn.Module, inputs: Inputs) -> Any:
    """`model(x)`, for a tuple or list `model(*inputs)`, for a dict `model(**inputs)`."""
    args, kwargs = call_arguments(inputs)
    try:  # a with block would cost a third of a small layer's time, in each step of a training loop
        return model(*args, **kwargs)
    except Exception as error:
        _add_note(error, inputs)
        raise


@contextmanager
def failure_noted(inputs: Inputs) -> Iterator[None]:
    """If the model's forward pass fails in a `with` block, its error gets a note: what it was given, and what to do."""
    try:
        yield
    except Exception as error:
        _add_note(error, inputs)
        raise


def _add_note(error: Exception, inputs: Inputs) -> None:
    args, kwargs = call_arguments(inputs)
    given = ", ".join(map(describe_value, (*args, *kwargs.values())))
    error.add_note(
        f"The model's forward pass failed on {given}. course_utils.pitfalls.diagnose(model, inputs) names the "
        "layer, what it wants and what it got."
    )


def call_arguments(inputs: Inputs) -> tuple[tuple, dict[str, Any]]:
    """The positional and the named arguments with which `call_model` calls a model."""
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    return (tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,)), {}


def tensors_of(inputs: Any, name: str = "inputs", *, finite: bool = True) -> dict[str, Tensor]:
    """The tensors of the inputs by a name for messages; raise if they are none, or differ in length.

    Raises:
        TypeError: something else than a tensor, or a tuple, list or dict of tensors.
        ValueError: an empty tensor, with `finite` also NaN or Inf, different numbers of samples.
    """
    if isinstance(inputs, Mapping):
        parts = {f"{name}[{key!r}]": value for key, value in inputs.items()}
    elif isinstance(inputs, (tuple, list)):
        parts = {f"{name}[{i}]": value for i, value in enumerate(inputs)}
    else:
        parts = {name: inputs}
    if not parts:
        raise ValueError(f"{name} is empty: {describe_value(inputs)}; pass at least one tensor")
    if isinstance(inputs, PackedSequence):
        raise TypeError(
            f"{name} is a PackedSequence, which has no axis of samples; pass the padded tensor and the lengths, to a "
            "module that packs them"
        )
    for part, value in parts.items():
        if part != name and (value is None or isinstance(value, (bool, int, float, str))):
            advice = "leave it out, or hold it fixed in a module around the model"
            raise TypeError(f"{part} must be a torch.Tensor, but is {describe_value(value)}; {advice}")
        check_tensor(value, part, floating=None, finite=finite, sparse=True)
    lengths = {part: len(value) for part, value in parts.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"all parts of {name} must have the same number of samples, but have {lengths}")
    return parts


def num_samples(inputs: Inputs) -> int:
    """N, the length of the first axis."""
    return len(next(iter(tensors_of(inputs).values())))


def map_inputs(function, inputs: Inputs) -> Inputs:
    """The same structure with `function` applied to each tensor."""
    if isinstance(inputs, Mapping):
        return {key: function(value) for key, value in inputs.items()}
    if hasattr(inputs, "_fields"):  # a named tuple takes its parts one by one
        return type(inputs)(*map(function, inputs))
    if isinstance(inputs, (tuple, list)):
        return type(inputs)(function(value) for value in inputs)
    return function(inputs)


def batches(inputs: Inputs | DataLoader, batch_size: int | None = None) -> Iterator[Inputs]:
    """The inputs in batches, for data that would not fit through the model at once.

    Args:
        inputs: tensor(s); or a DataLoader, of whose batches (inputs, target) the first part is taken.
        batch_size: samples in a batch; None takes all at once. A DataLoader has its own.

    Raises:
        ValueError: a DataLoader that shuffles, or without any batch.

    >>> import torch
    >>> [len(batch) for batch in batches(torch.zeros(5, 2), batch_size=2)]
    [2, 2, 1]
    """
    if isinstance(inputs, DataLoader):
        _check_order(inputs)
        is_empty = True  # a stream of data does not know its length before its end
        for batch in inputs:
            is_empty = False
            batch = batch[0] if isinstance(batch, (tuple, list)) else batch
            tensors_of(batch)
            yield batch
        if is_empty:
            raise ValueError("the DataLoader is empty; give it at least one sample")
        return
    n = num_samples(inputs)
    size = n if batch_size is None else check_count(batch_size, "batch_size")
    if size >= n:  # not every sparse tensor can be cut
        yield inputs
        return
    for start in range(0, n, size):
        yield map_inputs(lambda value, start=start: value[start : start + size], inputs)


def _check_order(loader: DataLoader) -> None:
    """Raise if a DataLoader shuffles: nobody could tell which sample a row of the result belongs to."""
    samplers = (loader.sampler, getattr(loader.batch_sampler, "sampler", None))
    if any(isinstance(sampler, _RANDOM_SAMPLERS) for sampler in samplers):
        raise ValueError(
            "the DataLoader shuffles, so nobody could tell which sample a row of the result belongs to; make it with "
            "shuffle=False"
        )
