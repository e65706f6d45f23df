"""Several processes as one training, started by torchrun: rank, barriers, shards and reductions."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from importlib import import_module
from typing import TypeVar

import torch
from jaxtyping import Int64
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

Item = TypeVar("Item")
TIMEOUT = timedelta(hours=12)  # the first process prepares the particles while the others wait


@dataclass(frozen=True)
class Parallel:
    """This process's `rank` among `world_size` processes, and its device; a single process is rank 0 of 1."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_rank_zero(self) -> bool:
        """Whether this process writes the run folder and reports to the user."""
        return self.rank == 0

    def shard(self, index: Int64[Tensor, " n"]) -> Int64[Tensor, " k"]:
        """Those of the particles that this process owns; the shards of all processes are disjoint.

        The owner depends on the particle's number only, so that `all_gather_rows` takes its row from its owner.
        """
        return index[index % self.world_size == self.rank]

    def barrier(self) -> None:
        """Wait for all processes."""
        if self.world_size > 1:
            distributed.barrier()

    @torch.no_grad()
    def all_reduce_sum(self, value: Tensor) -> Tensor:
        """Sum of a tensor over all processes, on the device of the tensor."""
        if self.world_size == 1:
            return value
        summed = value.to(self.device, copy=True)
        distributed.all_reduce(summed)
        return summed.to(value.device)

    def all_reduce_max(self, number: int) -> int:
        """Maximum of a number over all processes."""
        if self.world_size == 1:
            return number
        highest = torch.tensor(number, device=self.device)
        distributed.all_reduce(highest, distributed.ReduceOp.MAX)
        return int(highest)

    def broadcast_flag(self, flag: bool) -> bool:  # noqa: FBT001
        """The flag of rank 0, in every process."""
        if self.world_size == 1:
            return flag
        sent = torch.tensor(int(flag), device=self.device)
        distributed.broadcast(sent, 0)
        return bool(sent)

    @torch.no_grad()
    def all_gather_rows(self, table: Tensor) -> None:
        """Update, in place, every process's copy of a table `(n, ...)` with the rows that the other processes own."""
        if self.world_size > 1:
            owned = torch.zeros_like(table)
            rows = self.shard(torch.arange(len(table), device=table.device))
            owned[rows] = table[rows]
            distributed.all_reduce(owned)
            table.copy_(owned)

    def owned(self, items: Sequence[Item]) -> Sequence[Item]:
        """Those of a list, the same in all processes, that this process owns: every `world_size`-th."""
        return items[self.rank :: self.world_size]

    @torch.no_grad()
    def broadcast(self, tensors: Sequence[Tensor]) -> None:
        """Update, in place, every process's copy of the tensors, each from the process that `owned` gives it to."""
        if self.world_size > 1:
            sent = [distributed.broadcast(t, i % self.world_size, async_op=True) for i, t in enumerate(tensors)]
            for each in sent:
                each.wait()

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model with its gradients averaged over the processes."""
        if self.world_size == 1:
            return model
        ids = [self.device] if self.device.type == "cuda" else None
        with warnings.catch_warnings():
            # the argument that replaces it does not exist in all versions of torch that we support
            warnings.filterwarnings("ignore", ".*broadcast_buffers", FutureWarning)
            return DistributedDataParallel(model, device_ids=ids, broadcast_buffers=False)

    @contextmanager
    def rank_zero_first(self) -> Iterator[bool]:
        """Run a block in rank 0, and in the other processes only once rank 0 has left it; yields `is_rank_zero`."""
        if not self.is_rank_zero:
            self.barrier()
        yield self.is_rank_zero
        if self.is_rank_zero:
            self.barrier()


@contextmanager
def join_processes(device: torch.device) -> Iterator[Parallel]:
    """Join the processes that `torchrun` started; without it this process is the only one.

    Args:
        device: `cuda` becomes this process's own GPU of the node.
    """
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size == 1:
        yield Parallel(0, 1, device)
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    # if it were first imported later, it would keep gloo's threads alive past the end of Python, which may then abort
    import_module("torch._dynamo")
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=TIMEOUT)
    try:
        yield Parallel(distributed.get_rank(), world_size, device)
    finally:
        distributed.destroy_process_group()
