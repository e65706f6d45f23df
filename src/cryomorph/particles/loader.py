"""Batches of a store, read ahead in blocks: in order, or shuffled block by block so that a disk reads long runs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from jaxtyping import Int64
from torch import Tensor

from cryomorph.particles.store import Batch, ParticleStore

READ_IMAGES = 256
READ_COEFFICIENTS = 1 << 20  # 8 MiB of images


@dataclass(frozen=True)
class ParticleLoader:
    """Iterates over batches of a store, limited to a band; one read is always ahead.

    Small batches are read several at a time, since a read of few images costs as much as one of many.

    Shuffling draws blocks of `block` neighbouring particles in random order and mixes the particles of `pool` blocks:
    reads stay long, batches are mixed, and memory is bounded by `pool * block` images whatever the store's size.
    The order of a shuffled pass is drawn from `seed` and the `epoch` given to `batches`; plain iteration is epoch 0.
    """

    store: ParticleStore
    batch_size: int
    radius: float | int | None = None
    subset: Int64[Tensor, " k"] | None = None
    shuffle: bool = False
    seed: int = 0
    block: int = 512
    pool: int = 8

    @property
    def index(self) -> Int64[Tensor, " k"]:
        """The particles that one pass visits, ascending."""
        return torch.arange(len(self.store)) if self.subset is None else self.subset

    def __len__(self) -> int:
        return math.ceil(len(self.index) / self.batch_size)

    @property
    def count(self) -> int:
        """Coefficients in each image of a batch: the band's prefix of the disk."""
        return self.store.disk.size if self.radius is None else self.store.disk.count(self.radius)

    def __iter__(self) -> Iterator[Batch]:
        return self.batches()

    def batches(self, epoch: int = 0, *, start: int = 0) -> Iterator[Batch]:
        """One pass over the particles; each is visited exactly once.

        Args:
            epoch: which order to draw.
            start: batches at the beginning of the pass that are left out without being read.
        """
        order = self._order(epoch)[start * self.batch_size :]
        most = max(1, min(READ_IMAGES, READ_COEFFICIENTS // max(self.count, 1)) // self.batch_size)
        reads = order.split(most * self.batch_size) if len(order) else ()
        with ThreadPoolExecutor(1, thread_name_prefix="loader") as reader:
            ahead = reader.submit(self.store.batch, reads[0], self.count) if reads else None
            for following in (*reads[1:], None):
                ready = ahead.result() if ahead is not None else None
                ahead = reader.submit(self.store.batch, following, self.count) if following is not None else None
                if ready is not None:
                    yield from ready.split(self.batch_size)

    def _order(self, epoch: int) -> Int64[Tensor, " k"]:
        index = self.index
        if not self.shuffle:
            return index
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        blocks = index.split(self.block)
        drawn = [blocks[i] for i in torch.randperm(len(blocks), generator=generator).tolist()]
        pools = [torch.cat(drawn[i : i + self.pool]) for i in range(0, len(drawn), self.pool)]
        return torch.cat([pool[torch.randperm(len(pool), generator=generator)] for pool in pools])
