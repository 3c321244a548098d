"""All runs of a grid at once, in one process. Each gives what `train_sequentially` gives for it, much sooner."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

import torch
from torch import Tensor

from course_utils.homework.loop import TrainedRun, check_training_data
from course_utils.homework.networks import initial_parameters, layer_sizes
from course_utils.homework.randomness import run_generator
from course_utils.homework.settings import Setting
from course_utils.homework.stacks import Dropout, Stack, count_parameters, layer_views
from course_utils.homework.updates import UPDATES

Run = tuple[Setting, int]  # and its seed
Batch = tuple[slice, Tensor, "CrossEntropy"]  # positions in the epoch, inputs (B, D + 1) or (R, B, D + 1), labels

MAX_WIDTH = 1024
CHUNK_BYTES = 16 * 2**20  # fits the last cache of most processors; four times more is a third slower on the digits
LOG2_E = 1.4426950408889634


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
        self.is_full_batch = self.batch_length == self.num_samples
        self.heads: dict[int, CrossEntropy] = {}  # by batch length
        self._build_stacks(x.shape[-1])
        self._build_update()

    def _build_stacks(self, in_features: int) -> None:
        groups = [list(group) for _, group in groupby(range(len(self.seeds)), lambda i: _stack_key(self.settings[i]))]
        self.stack_lengths = [len(group) for group in groups]
        self.sizes = [layer_sizes(self.settings[group[0]], in_features, self.num_classes) for group in groups]
        self.counts = [len(group) * count_parameters(sizes) for group, sizes in zip(groups, self.sizes, strict=True)]
        self.parameters = torch.empty(sum(self.counts), dtype=self.x.dtype)
        self.gradients = torch.empty_like(self.parameters)
        flat = zip(self.parameters.split(self.counts), self.gradients.split(self.counts), strict=True)
        self.stacks = []
        for group, sizes, (parameters, gradients) in zip(groups, self.sizes, flat, strict=True):
            settings, seeds = [self.settings[i] for i in group], [self.seeds[i] for i in group]
            dropout = None
            if settings[0].dropout > 0:
                rates = [setting.dropout for setting in settings]
                dropout = Dropout(rates, seeds, sizes[1:-1], self.num_samples, self.x.dtype)
            stack = Stack(len(group), sizes, settings[0].activation, parameters, gradients, dropout)
            for run, (setting, seed) in enumerate(zip(settings, seeds, strict=True)):
                stack.load(run, initial_parameters(setting, seed, in_features, self.num_classes, self.x.dtype))
            self.stacks.append(stack)

    def _build_update(self) -> None:
        lr = self._for_each_parameter([setting.lr for setting in self.settings])
        decays = [setting.weight_decay for setting in self.settings]
        weight_decay = self._for_each_parameter(decays) if any(decays) else None
        optimizer = self.settings[0].optimizer
        self.update = UPDATES[optimizer](self.parameters, self.gradients, lr, weight_decay, optimizer)

    def _for_each_parameter(self, values: list[float]) -> Tensor:
        """One value a run → a flat float64 tensor with that value at each of the run's parameters."""
        flat = torch.empty_like(self.parameters, dtype=torch.float64)
        by_stack = torch.tensor(values, dtype=torch.float64)[:, None, None].split(self.stack_lengths)
        for part, own, sizes in zip(flat.split(self.counts), by_stack, self.sizes, strict=True):
            for view in layer_views(part, len(own), sizes):
                view.copy_(own.expand_as(view))
        return flat

    @torch.no_grad()
    def train(self) -> list[TrainedRun]:
        losses = torch.zeros(self.settings[0].epochs, len(self.seeds), dtype=torch.float64)
        batches = self._full_batch() if self.is_full_batch else self._mini_batches()
        for epoch_losses in losses:
            for stack in self.stacks:
                if stack.dropout is not None:
                    stack.dropout.draw_epoch()
            for positions, x, head in next(batches):
                epoch_losses += self._step(positions, x, head)
        parameters = [stack.parameters_of(run) for stack in self.stacks for run in range(stack.num_runs)]
        # Each run gets memory of its own: pickling a view would pickle the whole chunk.
        return [TrainedRun(losses[:, i] / self.num_samples, own) for i, own in enumerate(parameters)]

    def _step(self, positions: slice, x: Tensor, head: CrossEntropy) -> Tensor:
        """One update of all runs. Returns the summed loss (R,) before it."""
        inputs = [x] * len(self.stacks) if x.ndim == 2 else x.split(self.stack_lengths)
        for stack, own_x, logits in zip(self.stacks, inputs, head.logits_by_stack, strict=True):
            stack.forward(own_x, logits, positions)
        losses = head.losses_and_gradient()
        for stack, own_x, grad in zip(self.stacks, inputs, head.grad_by_stack, strict=True):
            stack.backward(own_x, grad)
        self.update.step()
        return losses

    def _full_batch(self) -> Iterator[list[Batch]]:
        head = self._head_for(self.num_samples)
        head.set_labels(self.y.expand(len(self.seeds), -1))
        while True:
            yield [(slice(0, self.num_samples), self.x, head)]

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
                head = self._head_for(rows.shape[1])
                head.set_labels(y[rows])
                yield positions, x.index_select(0, rows.flatten()).view(*rows.shape, features), head

        while True:
            for order, generator in zip(orders, generators, strict=True):
                torch.randperm(self.num_samples, generator=generator, out=order)
            yield batches()

    def _head_for(self, length: int) -> CrossEntropy:
        if length not in self.heads:
            self.heads[length] = CrossEntropy(self.stack_lengths, self.num_classes, length, self.x.dtype)
        return self.heads[length]


class CrossEntropy:
    """The mean cross-entropy of R networks on a batch each of B samples, and its gradient.

    Attributes:
        logits: (R, C, B), to be written by the caller.
        grad: (R, C, B), ∂(mean loss)/∂logits = (softmax − one-hot) / B.
        logits_by_stack, grad_by_stack: views, one for each stack.
    """

    def __init__(self, stack_lengths: list[int], num_classes: int, length: int, dtype: torch.dtype) -> None:
        self.logits = torch.empty(sum(stack_lengths), num_classes, length, dtype=dtype)
        self.grad, self.log_p, self.minus_target = (torch.empty_like(self.logits) for _ in range(3))
        self.logits_by_stack, self.grad_by_stack = self.logits.split(stack_lengths), self.grad.split(stack_lengths)
        self.length = length
        self.classes = torch.arange(num_classes)[:, None]
        self.lowest = torch.finfo(dtype).min

    def set_labels(self, labels: Tensor) -> None:
        """(R, B) class indices."""
        torch.eq(labels[:, None], self.classes, out=self.minus_target).div_(-self.length)

    def losses_and_gradient(self) -> Tensor:
        """Write `grad`, return the loss (R,) summed over the batch."""
        torch.log_softmax(self.logits, 1, out=self.log_p)
        # exp(t) as 2^(t·log₂e): for float32 on a CPU half as expensive.
        torch.mul(self.log_p, LOG2_E, out=self.grad).exp2_()
        torch.add(self.minus_target, self.grad, alpha=1 / self.length, out=self.grad)
        # The product with the one-hot target picks the label's log-probability quicker than indexing does. Without the
        # clamp −∞ at another class would be 0 · −∞ = NaN; at the label itself the loss becomes infinite again.
        self.log_p.clamp_min_(self.lowest).mul_(self.minus_target)
        losses = self.log_p.sum((1, 2)) * self.length
        return losses.masked_fill_(losses > -0.99 * self.lowest, torch.inf)
