"""The particles of a training: which are held out, and which batches the others are visited in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import torch
from jaxtyping import Int64
from torch import Tensor

from cryomorph.particles.loader import ParticleLoader
from cryomorph.particles.store import Batch, ParticleStore
from cryomorph.training.progress import Progress

MOST_HELD_OUT = 2000
FEWEST_HELD_OUT = 8


@dataclass(frozen=True)
class TrainingBatches:
    """Shuffled batches of `subset`, the same for the same seed and epoch.

    Args:
        classes: (n,) class of each particle, where no batch is to mix two of them.
    """

    store: ParticleStore
    subset: Int64[Tensor, " k"]
    batch_size: int
    seed: int
    classes: Int64[Tensor, " n"] | None = None

    def __len__(self) -> int:
        return len(self._loader())

    def upcoming(self, now: Progress, steps: int) -> Int64[Tensor, " k"]:
        """The particles of the next steps of this epoch."""
        return torch.cat(list(self._loader().planned(now.epoch)[now.step :][:steps]))

    def rest_of_epoch(self, now: Progress, *, steps: int, radius: float | None) -> Iterator[Batch]:
        """The remaining batches of an epoch of `steps`; a process with fewer than that starts over with its own."""
        return islice(self._repeated(now, radius), steps - now.step)

    def _repeated(self, now: Progress, radius: float | None) -> Iterator[Batch]:
        loader, start = self._loader(radius), now.step
        while len(loader):
            if start < len(loader):
                yield from loader.batches(now.epoch, start=max(start, 0))
            start -= len(loader)

    def _loader(self, radius: float | None = None) -> ParticleLoader:
        return ParticleLoader(
            self.store,
            self.batch_size,
            radius=radius,
            subset=self.subset,
            shuffle=True,
            seed=self.seed,
            classes=self.classes,
        )


def split_held_out(
    n: int, share: float, seed: int, *, copies: int = 1
) -> tuple[Int64[Tensor, " h"], Int64[Tensor, " t"]]:
    """Particles to hold out and to train on, both ascending; none is held out of a very small set.

    Neighbouring particles that are `copies` of one image under a symmetry stay together.
    """
    images = n // copies
    count = min(round(share * images), MOST_HELD_OUT)
    if count < FEWEST_HELD_OUT:
        return torch.empty(0, dtype=torch.int64), torch.arange(n)
    order = torch.randperm(images, generator=torch.Generator().manual_seed(seed))
    order = order[:, None] * copies + torch.arange(copies)
    return order[:count].flatten().sort().values, order[count:].flatten().sort().values
