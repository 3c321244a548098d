"""Running a model to read its outputs, and leaving it as it was."""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedTensorMixin
from torch.utils.data import DataLoader

from course_utils.foundation.arguments import check_choice, check_logits, describe_value
from course_utils.foundation.devices import full_precision
from course_utils.foundation.inputs import Inputs, batches, call_model, map_inputs, num_samples
from course_utils.foundation.seeding import isolated_randomness


def check_model(model: Any) -> nn.Module:
    """Return the model if it is an `nn.Module`, taken out of DataParallel and torch.compile.

    Raises:
        TypeError: no module; for an exported program, its `.module()` is one.
        ValueError: lazy layers that do not know their sizes yet.
    """
    if isinstance(model, torch.export.ExportedProgram):
        raise TypeError("model is an exported program; pass its module, model.module()")
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, but is {describe_value(model)}")
    if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        return check_model(model.module)
    if isinstance(model, torch._dynamo.OptimizedModule):
        return check_model(model._orig_mod)
    if any(isinstance(value, UninitializedTensorMixin) for value in (*model.parameters(), *model.buffers())):
        raise ValueError("the model has lazy layers that do not know their sizes yet; run it once on a batch first")
    return model


def check_has_values(model: Any) -> nn.Module:
    """Like `check_model`; also refuses models on the meta device, whose parameters have shapes and no values."""
    model = check_model(model)
    if any(value.is_meta for value in model.parameters()):
        raise ValueError(
            "the model lies on the meta device, where parameters have no values; make room with "
            "model.to_empty(device='cpu') and load its weights"
        )
    return model


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[nn.Module]:
    """Put a model into evaluation mode for a `with` block, then give every submodule its own mode back.

    `model.train()` afterwards would not do: it also wakes layers that were frozen in eval mode on purpose, such as
    the BatchNorm layers of a fine-tuned backbone. The modes come back after an exception too. Two threads must not use
    this on one model at the same time: they would give each other's modes back.

    >>> model = nn.Sequential(nn.Linear(2, 2), nn.Dropout())
    >>> with evaluation_mode(model):
    ...     model.training, model[1].training
    (False, False)
    >>> model.training, model[1].training
    (True, True)
    """
    model = check_has_values(model)
    # A frozen TorchScript and the module of an exported program have no modes.
    modes = [(module, module.training) for module in model.modules() if hasattr(module, "training")]
    try:
        try:
            if modes:
                model.eval()
        except NotImplementedError:
            modes = []
        yield model
    finally:
        for module, training in modes:
            # Adapters such as LoRA also merge their weights in eval mode, and take them apart again in train mode.
            if type(module).train is not nn.Module.train and module.training != training:
                module.train(training)
        for module, training in modes:
            module.training = training


@contextmanager
def reading(model: nn.Module, *, seed: int | None = 0) -> Iterator[nn.Module]:
    """Evaluation mode, and whatever a forward pass draws or writes is put back afterwards.

    `seed` is that of what it draws; None draws fresh numbers. The global random state comes back.
    """
    with evaluation_mode(model) as model, isolated_randomness(seed), writing_undone(model):
        yield model


@contextmanager
def unfused_attention() -> Iterator[None]:
    """Switch off the fused path of torch's transformer encoders for a `with` block.

    In evaluation mode that path computes a whole layer at once and skips the layer's children, so that neither their
    hooks run nor their dropout, even where a child is in train mode.
    """
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


@contextmanager
def writing_undone(module: nn.Module) -> Iterator[None]:
    """What the module's forward writes in a `with` block is put back: tensors, and what it holds as attributes."""
    with attributes_kept(module), _values_kept(list(may_be_written(module).values())):
        yield


@contextmanager
def _values_kept(tensors: list[Tensor]) -> Iterator[None]:
    """What a `with` block writes into the tensors is taken back."""
    before = [(value, value.detach().clone(), value._version) for value in tensors if not value.is_inference()]
    try:
        yield
    finally:
        with torch.no_grad():
            for value, old, version in before:
                if value._version != version:
                    value.copy_(old)


def copy_of(model: nn.Module) -> nn.Module:
    """A copy that shares nothing with the model.

    `copy.deepcopy` alone refuses tensors that belong to a graph, such as the weight of a pruned layer, which is made
    anew in each forward pass. The copy gets their values.
    """
    attributes = [
        tensor for module in model.modules() for value in vars(module).values() for tensor in _plain_tensors(value)
    ]
    made = {id(tensor): tensor.detach().clone() for tensor in attributes if not tensor.is_leaf}
    return copy.deepcopy(model, made)


@contextmanager
def attributes_kept(model: nn.Module) -> Iterator[None]:
    """Tensors that modules hold as plain attributes are put back after a `with` block, and new ones are taken out.

    The weight of a pruned layer is one, made anew in each forward pass; stored activations and the state from which a
    recurrent network goes on are others. They may stand in tuples, lists and dicts.
    """
    namespaces = [vars(module) for module in model.modules()]
    before = [namespace.copy() for namespace in namespaces]
    held = [value for old in before for name, value in old.items() if name not in _OF_EVERY_MODULE]
    filled = [(value, value.copy()) for value in held if type(value) in (list, dict)]
    try:
        with _values_kept([tensor for value in held for tensor in _plain_tensors(value)]):
            yield
    finally:
        for namespace, old in zip(namespaces, before, strict=True):
            for name in (namespace.keys() | old.keys()) - _OF_EVERY_MODULE:
                if not _plain_tensors(namespace.get(name)) and not _plain_tensors(old.get(name)):
                    continue
                if name in old:
                    namespace[name] = old[name]
                else:
                    del namespace[name]
        for value, contents in filled:
            if _plain_tensors(value) or _plain_tensors(contents):
                value.clear()
                (value.extend if isinstance(value, list) else value.update)(contents)


_OF_EVERY_MODULE = vars(nn.Module()).keys()  # parameters, buffers, submodules, hooks, the mode


def _plain_tensors(value: Any) -> list[Tensor]:
    """The tensors that an attribute is or holds, but for parameters, which recurrent layers hold in a list too."""
    parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, (tuple, list)) else (value,)
    return [part for part in parts if isinstance(part, Tensor) and not isinstance(part, nn.Parameter)]


def may_be_written(model: nn.Module) -> dict[str, Tensor]:
    """The tensors by name that a forward pass may write to.

    These are buffers, the parameters of layers that are not torch's own (a codebook may learn in its forward pass), and
    embeddings that shorten their vectors to `max_norm`. No other layer of torch writes to its parameters, and copies of
    all of them would be expensive.
    """
    written = dict(model.named_buffers())
    for name, module in model.named_modules():
        if not type(module).__module__.startswith("torch.nn.") or getattr(module, "max_norm", None) is not None:
            prefix = f"{name}." if name else ""
            written |= {prefix + part: value for part, value in module.named_parameters(recurse=False)}
    return written


@contextmanager
def training_mode(model: nn.Module) -> Iterator[None]:
    """Train mode for a `with` block; every submodule's mode and every parameter's `.grad` come back as they were.

    A model in train mode is left alone, so that submodules which were put into eval mode on purpose stay in it.
    Gradients are on, also for a caller inside `torch.no_grad()` or `torch.inference_mode()`.

    Raises:
        ValueError: parameters that were made inside `torch.inference_mode()`: nothing can train them.
    """
    if any(parameter.is_inference() for parameter in model.parameters()):
        raise ValueError(
            "the model was made inside torch.inference_mode(), so its parameters cannot be trained; make it outside"
        )
    modes = [(module, module.training) for module in model.modules()]
    gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
    try:
        if not model.training:
            model.train()
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training
        for parameter, gradient in gradients:
            parameter.grad = gradient


def classifier_logits(
    model: nn.Module,
    inputs: Inputs | DataLoader,
    *,
    task: str = "multiclass",
    batch_size: int | None = None,
    seed: int | None = 0,
) -> Tensor:
    """A classifier's logits (N, C), C ≥ 2, in float32 or better: in evaluation mode, without a graph or any trace.

    A classifier with one logit z for each sample, (N, 1) or (N,), is a classifier of two classes with the logits 0 and
    z: softmax over the two gives the sigmoid of z. With `task="binary"` these two are returned.

    Args:
        model: of any kind that `check_model` takes.
        inputs, batch_size: as in `course_utils.foundation.inputs.batches`.
        task: "multiclass" or "binary".
        seed: of what the forward pass draws.
    """
    check_choice(task, "task", ("multiclass", "binary"))
    with reading(model, seed=seed) as model, torch.no_grad():
        # In-place layers get a copy of the inputs.
        parts = []
        for batch in batches(inputs, batch_size):
            outputs = output_tensor(call_model(model, map_inputs(lambda value: value.detach().clone(), batch)))
            parts.append(class_logits(outputs, task=task, n=num_samples(batch)))
    return torch.cat(parts)


def class_logits(outputs: Tensor, *, task: str, n: int) -> Tensor:
    """A model's raw outputs for n samples as logits (n, C), C ≥ 2, in float32 or better; see `classifier_logits`."""
    outputs = full_precision(outputs)
    if task == "binary":
        if outputs.shape not in ((n,), (n, 1)):
            raise ValueError(
                f"a binary model must return logits (N,) or (N, 1) with N = {n}, but returned {describe_value(outputs)}"
                f"{_hint(outputs, n)}"
            )
        z = check_logits(outputs, "the model's logits").reshape(n)
        # A probability of exactly 0.5 counts as yes. So at z = 0 the first logit is the least bit smaller, or else
        # whoever takes the largest of the two would say no.
        no = torch.where(z == 0, -torch.finfo(z.dtype).tiny, torch.zeros_like(z))
        return torch.stack([no, z], dim=1)  # (N, 2)
    if outputs.ndim != 2 or len(outputs) != n or outputs.shape[1] < 2:
        raise ValueError(
            f"the model must return logits (N, C) with N = {n} and C ≥ 2, but returned {describe_value(outputs)}"
            f"{_hint(outputs, n)}"
        )
    return check_logits(outputs, "the model's logits", class_dim=1)


def two_logits(z: Tensor) -> Tensor:
    """One logit z a sample, (N,) or (N, 1), is a choice between the logits 0 and z, (N, 2)."""
    z = z.reshape(len(z))
    return torch.stack([torch.zeros_like(z), z], dim=1)


def _hint(outputs: Tensor, n: int) -> str:
    """What to do about outputs that are no logits (N, C)."""
    if n == 1 and (outputs.ndim == 0 or (outputs.ndim == 1 and len(outputs) > 1)):
        return "; squeeze() without an axis also drops the axis of a batch of one: say which, squeeze(1)"
    if outputs.shape in ((n,), (n, 1)):
        return "; for one logit a sample pass task='binary'"
    if outputs.ndim == 1:
        return "; if this is of a single sample, give it a batch axis: inputs[None]"
    if outputs.ndim == 3 and len(outputs) == n:
        return "; of logits (N, T, V) for each token, let the model return those of one position, such as logits[:, -1]"
    return ""


def output_tensor(output: Any) -> Tensor:
    """The tensor in a model's output: the output itself, its `.logits` (as in transformers) or its entry "logits".

    Raises:
        TypeError: any other tuple, dict or object; the message names what came.
    """
    tensor = tensor_in(output)
    if isinstance(tensor, Tensor):
        return tensor
    raise TypeError(
        "the model must return a tensor, an object with .logits or a dict with 'logits', but returned "
        f"{describe_value(output)}; wrap it in a module that picks the tensor you mean"
    )


def tensor_in(output: Any) -> Any:
    """A model's output as a caller hands it on: its `.logits` or entry "logits" if it has one, and else itself.

    For functions that read outputs: whatever is no tensor afterwards is refused by their own checks.
    """
    if isinstance(output, Tensor):
        return output
    logits = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    return logits if isinstance(logits, Tensor) else output
