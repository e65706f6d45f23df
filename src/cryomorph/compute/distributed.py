"""Several processes as one training: who am I, wait for the others, add up (torchrun starts them)."""

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

Thing = TypeVar("Thing")
PATIENCE = timedelta(hours=12)  # the first process prepares the particles while the others wait


@dataclass(frozen=True)
class Parallel:
    """This process among `world` of them; a lone one is rank 0 of 1."""

    rank: int
    world: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this process writes the run and speaks to the user."""
        return self.rank == 0

    def share(self, index: Int64[Tensor, " n"]) -> Int64[Tensor, " k"]:
        """Those of some particles that are this process's own: disjoint from all other processes'.

        Who owns a particle depends on its number alone, so that `gather_rows` has its row from its owner.
        """
        return index[index % self.world == self.rank]

    def barrier(self) -> None:
        """Wait for all processes."""
        if self.world > 1:
            distributed.barrier()

    @torch.no_grad()
    def total(self, value: Tensor) -> Tensor:
        """The sum of a tensor over all processes, wherever it lies."""
        if self.world == 1:
            return value
        summed = value.to(self.device, copy=True)
        distributed.all_reduce(summed)
        return summed.to(value.device)

    def most(self, number: int) -> int:
        """The highest of a number over all processes: how many steps none of them has too few of."""
        if self.world == 1:
            return number
        highest = torch.tensor(number, device=self.device)
        distributed.all_reduce(highest, distributed.ReduceOp.MAX)
        return int(highest)

    def agreed(self, wish: bool) -> bool:  # noqa: FBT001
        """What the first process wishes."""
        if self.world == 1:
            return wish
        flag = torch.tensor(int(wish), device=self.device)
        distributed.broadcast(flag, 0)
        return bool(flag)

    @torch.no_grad()
    def gather_rows(self, table: Tensor) -> None:
        """Give every process all rows of a table `(n, ...)` of which each changed its own share."""
        if self.world > 1:
            mine = torch.zeros_like(table)
            own = self.share(torch.arange(len(table), device=table.device))
            mine[own] = table[own]
            distributed.all_reduce(mine)
            table.copy_(mine)

    def own(self, things: Sequence[Thing]) -> Sequence[Thing]:
        """Those of some things that all processes have which are this one's to work on."""
        return things[self.rank :: self.world]

    @torch.no_grad()
    def hand_out(self, tensors: Sequence[Tensor]) -> None:
        """Give every process all of some tensors, each of which was changed in the process whose `own` it is."""
        if self.world > 1:
            sent = [distributed.broadcast(t, i % self.world, async_op=True) for i, t in enumerate(tensors)]
            for each in sent:
                each.wait()

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model with its gradients averaged over the processes."""
        if self.world == 1:
            return model
        ids = [self.device] if self.device.type == "cuda" else None
        with warnings.catch_warnings():
            # its successor does not exist in all versions that we support
            warnings.filterwarnings("ignore", ".*broadcast_buffers", FutureWarning)
            return DistributedDataParallel(model, device_ids=ids, broadcast_buffers=False)

    @contextmanager
    def first_alone(self) -> Iterator[bool]:
        """True in the first process at once, and in the others once it is through: `with ... as go`."""
        if not self.first:
            self.barrier()
        yield self.first
        if self.first:
            self.barrier()


@contextmanager
def parallel(device: torch.device) -> Iterator[Parallel]:
    """Join the processes that `torchrun` started; alone without it.

    Args:
        device: `cuda` becomes this process's own GPU of the node.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield Parallel(0, 1, device)
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    # first imported later on it would keep gloo's threads beyond the end of Python, where they may abort us
    import_module("torch._dynamo")
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    try:
        yield Parallel(distributed.get_rank(), world, device)
    finally:
        distributed.destroy_process_group()
