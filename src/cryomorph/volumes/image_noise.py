"""The noise of every image, from what a map leaves of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Complex64, Float32, Int64
from torch import Tensor

from cryomorph.particles.loader import ParticleLoader
from cryomorph.particles.noise import LEAST_LEVEL, NoiseModel, power_of, robust_level, robust_power
from cryomorph.particles.store import ParticleStore
from cryomorph.physics.disk import FourierDisk, fourier_disk
from cryomorph.physics.noise import shell_mean
from cryomorph.physics.slicing import PaddedGrid, locate_slices, padded_grid
from cryomorph.volumes.backproject import batch_size_for

SAMPLE = 1000  # images of each optics group
POOLED = 5  # images of its own that weigh as much in the spectrum of a group as those of all groups
AGREE = 1.5  # factor within which the noise outside the particle is believed to be that within


@dataclass(frozen=True)
class ImageNoise:
    """Noise of every image; `outside` is whether what surrounds the particles has it too.

    Where images were multiplied by a window, or their surroundings flattened, it has not.
    """

    noise: NoiseModel
    outside: bool


def noise_by_group(
    store: ParticleStore, halves: Float32[Tensor, "two z y x"], fsc: Float32[Tensor, " half"]
) -> ImageNoise:
    """Noise of every image, from what the map of the other half set leaves of it.

    The spectrum of an optics group is a median over its images, the level of an image one over its coefficients: images
    that are far too bright, and bad pixels, change neither. What a map leaves holds the molecule's variability too, and
    the surroundings of a particle some of its signal: the lower is taken, unless the surroundings are not noise.

    Args:
        halves: unfiltered half maps of the store's box; `fsc`, the curve of the two, weights them.
    """
    known = store.require_noise()
    median = float(known.level.median())
    outside = 1 / AGREE < median < AGREE
    box = halves.shape[-1]
    disk, grid = fourier_disk(box), padded_grid(box)
    trust = torch.cat([fsc, fsc[-1:]]).clamp(0, 1)[disk.shell]
    left = _Residuals(store, grid, disk, grid.from_volumes(halves.flip(0)), trust)
    count = torch.bincount(disk.shell, minlength=box // 2 + 1)
    groups = store.group.argsort(stable=True).split(torch.bincount(store.group).tolist())
    samples = [own[torch.unique(torch.linspace(0, len(own) - 1, min(SAMPLE, len(own))).long())] for own in groups]
    shells = [
        torch.cat([shell_mean(residual, disk.shell, box // 2 + 1) for _, residual in left.power(sample, known)])
        for sample in samples
    ]
    every = robust_power(torch.cat(shells), count)
    power = known.power.clone()
    for group, own in enumerate(shells):
        share = len(own) / (len(own) + POOLED)
        found = torch.exp(share * robust_power(own, count).log() + (1 - share) * every.log())
        found[0] = found[1]
        power[group] *= found.clamp(max=1 / median) if outside else found
    known = replace(known, power=power)
    level = torch.ones(len(store))
    for index, residual in left.power(torch.arange(len(store)), known):
        level[index] = robust_level(residual)
    return ImageNoise(replace(known, level=known.level * level.clamp(min=LEAST_LEVEL)), outside)


@dataclass(frozen=True)
class _Residuals:
    """What maps leave of images; `rows` are of the map that half set 0 is compared with, then of that of half set 1."""

    store: ParticleStore
    grid: PaddedGrid
    disk: FourierDisk
    rows: Complex64[Tensor, "rows two"]
    trust: Float32[Tensor, " size"]

    def power(
        self, particles: Int64[Tensor, " k"], noise: NoiseModel
    ) -> Iterator[tuple[Int64[Tensor, " b"], Float32[Tensor, "b size"]]]:
        """Power of the residuals of some particles, in units of a noise, and which particles they are."""
        store = self.store.with_noise(noise)
        size = batch_size_for(self.disk.size)
        for batch in ParticleLoader(store, size, radius=self.disk.box // 2, subset=particles):
            slices = locate_slices(self.grid, self.disk.frequency, batch.rotation).extract(self.rows)
            model = slices[torch.arange(len(batch)), :, store.half[batch.index]] * batch.ctf * self.trust
            yield batch.index, power_of(batch.image - model)
