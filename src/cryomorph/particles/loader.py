"""Batches of a store, read ahead in blocks: in order, or shuffled block by block so that a disk reads long runs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
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

    With `classes` no batch mixes particles of two classes; each class is mixed as a whole and divided into batches of
    like size, so that none of its particles is left out. Reads are then as scattered as the classes are.
    """

    store: ParticleStore
    batch_size: int
    radius: float | int | None = None
    subset: Int64[Tensor, " k"] | None = None
    shuffle: bool = False
    seed: int = 0
    block: int = 512
    pool: int = 8
    classes: Int64[Tensor, " n"] | None = None

    @property
    def index(self) -> Int64[Tensor, " k"]:
        """The particles that one pass visits, ascending."""
        return torch.arange(len(self.store)) if self.subset is None else self.subset

    def __len__(self) -> int:
        if self.classes is None:
            return math.ceil(len(self.index) / self.batch_size)
        return sum(math.ceil(size / self.batch_size) for size in torch.bincount(self.classes[self.index]).tolist())

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
        planned = self.planned(epoch)[start:]
        most = max(1, min(READ_IMAGES, READ_COEFFICIENTS // max(self.count, 1)) // self.batch_size)
        reads = [planned[i : i + most] for i in range(0, len(planned), most)]
        with ThreadPoolExecutor(1, thread_name_prefix="loader") as reader:
            ahead = reader.submit(self._read, reads[0]) if reads else None
            for following in (*reads[1:], None):
                ready = ahead.result() if ahead is not None else []
                ahead = reader.submit(self._read, following) if following is not None else None
                yield from ready

    def _read(self, planned: Sequence[Int64[Tensor, " _"]]) -> list[Batch]:
        """Several batches with one read."""
        return self.store.batch(torch.cat(list(planned)), self.count).divided([len(index) for index in planned])

    def planned(self, epoch: int) -> Sequence[Int64[Tensor, " _"]]:
        """The particles of each batch of a pass."""
        if self.classes is None:
            order = self._order(epoch)
            return order.split(self.batch_size) if len(order) else ()
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        mixed = self.index[torch.randperm(len(self.index), generator=generator)]
        mixed = mixed[self.classes[mixed].argsort(stable=True)]
        sizes = torch.bincount(self.classes[self.index]).tolist()
        batches: list[Tensor] = []
        for own in mixed.split(sizes):
            batches.extend(own.tensor_split(math.ceil(len(own) / self.batch_size)) if len(own) else ())
        return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]

    def _order(self, epoch: int) -> Int64[Tensor, " k"]:
        index = self.index
        if not self.shuffle:
            return index
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        blocks = index.split(self.block)
        drawn = [blocks[i] for i in torch.randperm(len(blocks), generator=generator).tolist()]
        pools = [torch.cat(drawn[i : i + self.pool]) for i in range(0, len(drawn), self.pool)]
        return torch.cat([pool[torch.randperm(len(pool), generator=generator)] for pool in pools])
