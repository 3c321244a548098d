"""One run after another, with autograd and torch.optim: the plain version, which the batched engine has to equal."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_utils.foundation.networks import ACTIVATIONS
from course_utils.homework.engine.base import (
    MOMENTUM,
    Dropout,
    Parameters,
    TrainedRun,
    check_training_data,
    initial_parameters,
    run_generator,
)
from course_utils.homework.settings import Setting


def train_sequentially(setting: Setting, seed: int, x: Tensor, y: Tensor, num_classes: int) -> TrainedRun:
    """Train one network on (x, y). A run that diverges goes on with an infinite or NaN loss.

    Args:
        setting: the hyperparameters.
        seed: of the first weights, the order of the samples and the dropout masks, from 0 to 2**32 − 1.
        x: (N, D) inputs.
        y: (N,) class indices.
        num_classes: C, at least 2.

    Raises:
        TypeError, ValueError: tensors of the wrong type or shape, labels out of range, a seed out of range.

    >>> x, y = torch.tensor([[0.0], [1.0]]), torch.tensor([0, 1])
    >>> len(train_sequentially(Setting(epochs=3), 0, x, y, 2))
    3
    """
    check_training_data(x, y, num_classes, ndim=2)
    x, y, num_samples = x.detach(), y.long(), len(x)

    network = Network(initial_parameters(setting, seed, x.shape[1], num_classes, x.dtype), setting.activation)
    optimizer = make_optimizer(setting, network)
    masks = dropout_masks(setting, seed, num_samples, x.dtype)
    order_generator = run_generator(seed, "order")
    losses = []
    with torch.enable_grad():
        for mask in islice(masks, setting.epochs):
            total = 0.0
            for positions, rows in batches(num_samples, setting.batch_size, order_generator):
                batch_mask = None if mask is None else mask[positions]
                optimizer.zero_grad()
                loss = F.cross_entropy(network(x[rows], batch_mask), y[rows])
                loss.backward()
                optimizer.step()
                total += loss.item() * (positions.stop - positions.start)
            losses.append(total / num_samples)
    curve = torch.tensor(losses, dtype=torch.float64)
    return TrainedRun(curve, [(weight.detach(), bias.detach()) for weight, bias in network.layers])


class Network(nn.Module):
    """Linear layers with an activation and dropout after each but the last. The caller draws the dropout masks."""

    def __init__(self, parameters: Parameters, activation: str) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[activation]
        # Parameters instead of nn.Linear layers, which would first draw weights of their own, from the global state.
        self.flat = nn.ParameterList(tensor for layer in parameters for tensor in layer)  # weight, bias, weight, …

    @property
    def layers(self) -> Parameters:
        tensors = list(self.flat)
        return list(zip(tensors[0::2], tensors[1::2], strict=True))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """(N, D) → logits (N, C). mask: (N, H₁ + H₂ + …), 0 for the units that are off; None: no dropout."""
        *hidden_layers, last_layer = self.layers
        start = 0
        for layer in hidden_layers:
            x = self.activation(F.linear(x, *layer))
            if mask is not None:
                x = x * mask[:, start : start + x.shape[1]]
                start += x.shape[1]
        return F.linear(x, *last_layer)


def make_optimizer(setting: Setting, network: nn.Module) -> torch.optim.Optimizer:
    parameters, lr, weight_decay = network.parameters(), setting.lr, setting.weight_decay
    if setting.optimizer == "adam":
        return torch.optim.Adam(parameters, lr=lr, weight_decay=weight_decay)
    if setting.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=lr, weight_decay=weight_decay)
    momentum = 0.0 if setting.optimizer == "sgd" else MOMENTUM
    nesterov = setting.optimizer == "nesterov"
    return torch.optim.SGD(parameters, lr=lr, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay)


def batches(
    num_samples: int, batch_size: int | None, generator: torch.Generator
) -> Iterator[tuple[slice, slice | Tensor]]:
    """One epoch: for each batch its positions in the epoch, and the rows of x that stand there."""
    if batch_size is None or batch_size >= num_samples:
        everything = slice(0, num_samples)
        yield everything, everything
        return
    order = torch.randperm(num_samples, generator=generator)
    for start in range(0, num_samples, batch_size):
        positions = slice(start, min(start + batch_size, num_samples))
        yield positions, order[positions]


def dropout_masks(setting: Setting, seed: int, num_samples: int, dtype: torch.dtype) -> Iterator[Tensor | None]:
    """For each epoch a mask (N, H₁ + H₂ + …): 0 for what is off, 1 / P(on) for what is on. None: no dropout.

    A mask belongs to a position in the epoch's order.
    """
    if setting.dropout == 0:
        while True:
            yield None
    dropout = Dropout([(setting, seed)], num_samples, dtype)
    layers = [torch.empty(1, width, num_samples, dtype=dtype) for width in setting.hidden_features]
    while True:
        dropout.draw_epoch()
        for i, layer in enumerate(layers):
            dropout.write_mask(i, slice(None), layer)
        yield torch.cat(layers, 1)[0].T
