"""Several processes that train one model together, each on its share of every batch."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


def in_group() -> bool:
    """Is this process one of several that were started together?"""
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    return dist.get_rank() if in_group() else 0


def world_size() -> int:
    return dist.get_world_size() if in_group() else 1


@contextmanager
def process_group(device: str = "auto") -> Iterator[None]:
    """Join the processes that torchrun started, for a `with` block. Without torchrun it does nothing."""
    if "WORLD_SIZE" not in os.environ or in_group():
        yield
        return
    cuda = device in ("auto", "cuda") and torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group("nccl" if cuda else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def share(index: Tensor) -> Tensor:
    """This process's part of `index` (N,). The parts cover it without overlap, and differ in length by at most one."""
    return index.tensor_split(world_size())[rank()]


def synchronized(model: nn.Module) -> nn.Module:
    """The model with gradients that are averaged over all processes in backward()."""
    return nn.parallel.DistributedDataParallel(model) if in_group() else model


def from_first(value: Any) -> Any:
    """The first process's value, in every process."""
    if not in_group():
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def summed(value: Tensor) -> Tensor:
    """The sum over all processes, in every process."""
    if in_group():
        dist.all_reduce(value)
    return value


def gathered(rows: Tensor, index: Tensor, n: int) -> Tensor:
    """Put rows (M, …) from every process to their places `index` (M,) among n: the whole (n, …), in every process.

    Each place is filled by one process and zero in the others, so the sum is exact and no row counts twice.
    """
    if not in_group():
        return rows  # the share of a single process is everything, in order
    whole = rows.new_zeros((n, *rows.shape[1:]))
    whole[index] = rows
    return summed(whole)
