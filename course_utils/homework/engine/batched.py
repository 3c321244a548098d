"""All runs of a grid at once, in one process. Each gives what `train_sequentially` gives for it, much sooner."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

import torch
from torch import Tensor

from course_utils.homework.engine.base import (
    Run,
    TrainedRun,
    check_training_data,
    count_parameters,
    layer_sizes,
    run_generator,
)
from course_utils.homework.engine.optimizers import BatchedOptimizer
from course_utils.homework.engine.stacks import CrossEntropy, Stack, layer_views
from course_utils.homework.settings import Setting

Batch = tuple[slice, Tensor, CrossEntropy]  # positions in the epoch, inputs (B, D + 1) or (R, B, D + 1), labels

MAX_WIDTH = 1024
CHUNK_BYTES = 16 * 2**20  # fits the last cache of most processors; four times more is a third slower on the digits


def can_be_batched(setting: Setting) -> str | None:
    """None if the batched engine takes a run of this setting, else the reason why not.

    It takes every activation, optimizer, init, dropout, weight decay and batch size that a `Setting` may have.

    >>> can_be_batched(Setting(hidden_features=(16, 4096)))
    'a hidden layer of 4096 units: above 1024 one network keeps the processor busy by itself'
    """
    width = max(setting.hidden_features)
    if width > MAX_WIDTH:
        return f"a hidden layer of {width} units: above {MAX_WIDTH} one network keeps the processor busy by itself"
    return None


def train_batched(runs: Sequence[Run], x: Tensor, y: Tensor, num_classes: int) -> list[TrainedRun]:
    """Train all runs at once; the results are in the order of `runs`.

    Each run gives what `train_sequentially` gives for its setting, seed and data, up to rounding. It does not depend on
    the runs beside it: their number and order, or one of them that diverges, change at most the rounding.

    Args:
        runs: pairs of a setting and a seed.
        x: (N, D) for all runs, or (R, N, D), the i-th for the i-th run.
        y: (N,) or (R, N) class indices.
        num_classes: C, at least 2.

    Raises:
        TypeError, ValueError: tensors of the wrong type or shape, labels or seeds out of range, no runs, or a setting
            that `can_be_batched` refuses.

    >>> x, y = torch.tensor([[0.0], [1.0]]), torch.tensor([0, 1])
    >>> runs = [(Setting(epochs=3), 0), (Setting(epochs=5, hidden_features=(4, 4), optimizer="adam"), 1)]
    >>> [len(run) for run in train_batched(runs, x, y, 2)]
    [3, 5]
    """
    check_runs(runs, x, y, num_classes)
    x, y = x.detach(), y.long()
    results: list[TrainedRun | None] = [None] * len(runs)
    for indices in plan_chunks(runs, *x.shape[-2:], num_classes):
        chunk = Chunk([runs[i] for i in indices], *_data_of(indices, x, y), num_classes)
        for i, result in zip(indices, chunk.train(), strict=True):
            results[i] = result
    return results


def check_runs(runs: Sequence[Run], x: Tensor, y: Tensor, num_classes: int) -> None:
    check_training_data(x, y, num_classes, ndim=(2, 3))
    if not runs:
        raise ValueError("runs is empty; give at least one pair of a setting and a seed")
    if x.ndim == 3 and len(x) != len(runs):
        raise ValueError(f"x must hold data for each of the {len(runs)} runs, but holds data for {len(x)}")
    for setting, _ in runs:
        if reason := can_be_batched(setting):
            raise ValueError(f"{setting} cannot be batched: {reason}; train it with train_sequentially")


def _data_of(indices: list[int], x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    return (x, y) if x.ndim == 2 else (x[indices], y[indices])


def plan_chunks(runs: Sequence[Run], num_samples: int, in_features: int, num_classes: int) -> list[list[int]]:
    """Which runs are trained together, as lists of their indices.

    Runs of a chunk agree in epochs, optimizer and batch size; everything else may differ. Equal networks stand side by
    side, to become one stack. The chunks are cut so that each needs at most about 16 MiB.

    >>> plan_chunks([(Setting(), 0), (Setting(optimizer="adam"), 0), (Setting(lr=1.0), 0)], 120, 4, 3)
    [[0, 2], [1]]
    """

    def chunk_key(i: int) -> tuple:
        setting = runs[i][0]
        return setting.epochs, setting.optimizer, _batch_length(setting, num_samples)

    chunks: list[list[int]] = []
    ordered = sorted(range(len(runs)), key=lambda i: (chunk_key(i), _stack_key(runs[i][0])))
    for _, group in groupby(ordered, key=chunk_key):
        room = 0
        for i in group:
            need = _bytes_needed(runs[i][0], num_samples, in_features, num_classes)
            if room < need:
                chunks.append([])
                room = CHUNK_BYTES
            chunks[-1].append(i)
            room -= need
    return sorted(chunks)


def _batch_length(setting: Setting, num_samples: int) -> int:
    return min(setting.batch_size or num_samples, num_samples)


def _stack_key(setting: Setting) -> tuple:
    """Runs of a chunk that agree in this form one stack."""
    return setting.hidden_features, setting.activation, setting.dropout > 0


def _bytes_needed(setting: Setting, num_samples: int, in_features: int, num_classes: int) -> int:
    """About what a run adds to a chunk: activations with gradients and masks, inputs, parameters, random bits."""
    units, length = sum(setting.hidden_features), _batch_length(setting, num_samples)
    parameters = count_parameters(layer_sizes(setting, in_features, num_classes))
    floats = length * (4 * units + in_features + 6 * num_classes) + 6 * parameters
    return 4 * floats + (2 * units * num_samples if setting.dropout > 0 else 0)


class Chunk:
    """Runs that are trained together.

    Args:
        runs: R of them; they agree in epochs, optimizer and batch size, and those of a stack stand side by side.
        x: (N, D) or (R, N, D).
        y: (N,) or (R, N).
        num_classes: C.
    """

    def __init__(self, runs: list[Run], x: Tensor, y: Tensor, num_classes: int) -> None:
        self.settings, self.seeds = [setting for setting, _ in runs], [seed for _, seed in runs]
        self.x = torch.cat([x, torch.ones_like(x[..., :1])], dim=-1)  # the weight of the 1 is the first layer's bias
        self.y = y
        self.num_classes, self.num_samples = num_classes, x.shape[-2]
        self.batch_length = _batch_length(self.settings[0], self.num_samples)
        self.losses: dict[int, CrossEntropy] = {}  # by batch length: an epoch's last batch may be shorter
        self._build_stacks(runs, x.shape[-1])
        self._build_optimizer()

    def _build_stacks(self, runs: list[Run], in_features: int) -> None:
        groups = [list(group) for _, group in groupby(runs, lambda run: _stack_key(run[0]))]
        sizes = [layer_sizes(group[0][0], in_features, self.num_classes) for group in groups]
        self.counts = [len(group) * count_parameters(shape) for group, shape in zip(groups, sizes, strict=True)]
        self.parameters = torch.empty(sum(self.counts), dtype=self.x.dtype)
        self.gradients = torch.empty_like(self.parameters)
        buffers = self.parameters.split(self.counts), self.gradients.split(self.counts)
        self.stacks = [
            Stack(group, shape, self.num_samples, parameters, gradients)
            for group, shape, parameters, gradients in zip(groups, sizes, *buffers, strict=True)
        ]
        self.stack_lengths = [stack.num_runs for stack in self.stacks]

    def _build_optimizer(self) -> None:
        lr = self._for_each_parameter([setting.lr for setting in self.settings])
        decays = [setting.weight_decay for setting in self.settings]
        weight_decay = self._for_each_parameter(decays) if any(decays) else None
        name = self.settings[0].optimizer
        self.optimizer = BatchedOptimizer(name, self.parameters, self.gradients, lr, weight_decay)

    def _for_each_parameter(self, values: list[float]) -> Tensor:
        """One value a run → a flat float64 tensor with that value at each of the run's parameters."""
        flat = torch.empty_like(self.parameters, dtype=torch.float64)
        by_stack = torch.tensor(values, dtype=torch.float64)[:, None, None].split(self.stack_lengths)
        for part, value, stack in zip(flat.split(self.counts), by_stack, self.stacks, strict=True):
            for view in layer_views(part, stack.num_runs, stack.sizes):
                view.copy_(value.expand_as(view))
        return flat

    @torch.no_grad()
    def train(self) -> list[TrainedRun]:
        losses = torch.zeros(self.settings[0].epochs, len(self.seeds), dtype=torch.float64)
        batches = self._full_batch() if self.batch_length == self.num_samples else self._mini_batches()
        for epoch_losses in losses:
            for stack in self.stacks:
                if stack.dropout is not None:
                    stack.dropout.draw_epoch()
            for positions, x, loss in next(batches):
                epoch_losses += self._step(positions, x, loss)
        parameters = [stack.parameters_of(run) for stack in self.stacks for run in range(stack.num_runs)]
        return [TrainedRun(curve / self.num_samples, last) for curve, last in zip(losses.T, parameters, strict=True)]

    def _step(self, positions: slice, x: Tensor, loss: CrossEntropy) -> Tensor:
        """One update of all runs. Returns the summed loss (R,) before it."""
        inputs = [x] * len(self.stacks) if x.ndim == 2 else x.split(self.stack_lengths)
        for stack, stack_x, logits in zip(self.stacks, inputs, loss.logits_by_stack, strict=True):
            stack.forward(stack_x, logits, positions)
        losses = loss.losses_and_gradient()
        for stack, stack_x, grad in zip(self.stacks, inputs, loss.grad_by_stack, strict=True):
            stack.backward(stack_x, grad)
        self.optimizer.step()
        return losses

    def _full_batch(self) -> Iterator[list[Batch]]:
        loss = self._loss_for(self.num_samples)
        loss.set_labels(self.y.expand(len(self.seeds), -1))
        while True:
            yield [(slice(0, self.num_samples), self.x, loss)]

    def _mini_batches(self) -> Iterator[Iterator[Batch]]:
        """For each epoch its batches, every run's in its own order."""
        generators = [run_generator(seed, "order") for seed in self.seeds]
        num_runs, features = len(generators), self.x.shape[-1]
        orders = torch.empty(num_runs, self.num_samples, dtype=torch.int64)
        # Rows of all runs' data, one below the other.
        x, y = self.x.reshape(-1, features), self.y.flatten()
        offset = 0 if self.x.ndim == 2 else torch.arange(num_runs)[:, None] * self.num_samples

        def batches() -> Iterator[Batch]:
            for start in range(0, self.num_samples, self.batch_length):
                positions = slice(start, min(start + self.batch_length, self.num_samples))
                rows = orders[:, positions] + offset
                loss = self._loss_for(rows.shape[1])
                loss.set_labels(y[rows])
                yield positions, x.index_select(0, rows.flatten()).view(*rows.shape, features), loss

        while True:
            for order, generator in zip(orders, generators, strict=True):
                torch.randperm(self.num_samples, generator=generator, out=order)
            yield batches()

    def _loss_for(self, length: int) -> CrossEntropy:
        if length not in self.losses:
            self.losses[length] = CrossEntropy(self.stack_lengths, self.num_classes, length, self.x.dtype)
        return self.losses[length]
