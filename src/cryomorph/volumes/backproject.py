"""Back-projection: Wiener-filtered trilinear insertion of images on a grid padded by two, in half sets."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from jaxtyping import Complex64, Float32, Int64
from torch import Tensor

from cryomorph.config.console import track
from cryomorph.particles.loader import ParticleLoader
from cryomorph.particles.store import Batch, ParticleStore
from cryomorph.physics.disk import fourier_disk
from cryomorph.physics.noise import residual_power, shell_mean
from cryomorph.physics.slicing import PaddedGrid, locate_slices, padded_grid
from cryomorph.volumes.fsc import FscReport, fsc, half_map_fsc
from cryomorph.volumes.masks import fsc_mask, spherical_mask

POINTS = 400_000  # coefficients inserted at once, which bounds the memory
MIN_WEIGHT = 1e-3  # regularisation of unfiltered half maps, relative to the mean weight of a shell


def batch_size_for(count: int) -> int:
    """Number of images of `count` coefficients in a batch of about `POINTS` coefficients."""
    return max(1, POINTS // count)


@dataclass(frozen=True)
class Accumulator:
    """Sums of `C X` and `C^2` on a padded grid, one column per map.

    The maps' box is twice the radius; their transforms are in the units of the images' coefficients.
    """

    grid: PaddedGrid
    numerator: Complex64[Tensor, "rows c"]
    weight: Float32[Tensor, "rows c"]

    @classmethod
    def zeros(cls, box: int, columns: int = 1) -> Accumulator:
        """An empty accumulator for maps of `box` voxels."""
        grid = padded_grid(box)
        return cls(grid, torch.zeros(grid.rows, columns, dtype=torch.complex64), torch.zeros(grid.rows, columns))

    def add(self, batch: Batch, share: Float32[Tensor, "b c"] | None = None) -> None:
        """Insert a batch; `share` is the weight of each image in each column (default: 1)."""
        share = torch.ones(len(batch), self.numerator.shape[1]) if share is None else share
        frequency = fourier_disk(self.grid.box).frequency[: batch.image.shape[1]]
        slices = locate_slices(self.grid, frequency, batch.rotation)
        values = (batch.image * batch.ctf)[..., None] * share[:, None]
        numerator, weight = slices.insert(values, batch.ctf.square()[..., None] * share[:, None])
        self.numerator.add_(numerator)
        self.weight.add_(weight)

    def folded(self) -> Accumulator:
        """The sums with both halves of the transform combined; call it after the last `add`."""
        return Accumulator(self.grid, self.grid.fold(self.numerator.clone()), self.grid.fold(self.weight.clone()))

    def shell_weight(self) -> Float32[Tensor, "shells c"]:
        """Mean weight of a grid point in each shell (0 to `box/2`)."""
        inside, shell = rows_in_band(self.grid)
        return shell_mean(self.weight[inside].T.contiguous(), shell, self.grid.box // 2 + 1).T

    def solve(self, prior: Float32[Tensor, "shells c"]) -> Float32[Tensor, "c z y x"]:
        """Maps that minimise the squared residual, with a prior's precision added to the weights of each shell."""
        inside, shell = rows_in_band(self.grid)
        estimate = torch.zeros_like(self.numerator)
        estimate[inside] = self.numerator[inside] / (self.weight[inside] + prior[shell]).clamp(min=1e-20)
        return self.grid.to_volumes(estimate)


@lru_cache(maxsize=1)
def rows_in_band(grid: PaddedGrid) -> tuple[Int64[Tensor, " k"], Int64[Tensor, " k"]]:
    """Rows of a grid within its Nyquist radius, without the origin, and the shell of each."""
    inside = ((grid.radius > 0.25) & (grid.radius < grid.box / 2)).nonzero().squeeze(1)
    return inside, grid.radius[inside].round().long()


@dataclass(frozen=True)
class Crossed:
    """Particles chosen twice: `by_even`, from their even coefficients alone, and `by_odd`; ascending numbers.

    The first give their odd coefficients to a map, the second their even ones: the noise that a particle was chosen by
    does not come into it. What is chosen by an image's noise and averaged agrees with itself whatever the truth.
    """

    by_even: Int64[Tensor, " k"]
    by_odd: Int64[Tensor, " l"]


@dataclass(frozen=True)
class Reconstruction:
    """A Wiener-filtered map `[z, y, x]`, its half maps, and their agreement.

    The half maps are not filtered; all three fall off to 0 between 0.9 and 1 of the largest radius in the box.
    `ssnr` (shells,) is the spectral signal-to-noise ratio of the full map; `precision` (shells,) is the prior precision
    of a grid point in its Wiener filter, `mean(w) / SSNR`.
    """

    map: Float32[Tensor, "z y x"]
    half1: Float32[Tensor, "z y x"]
    half2: Float32[Tensor, "z y x"]
    mask: Float32[Tensor, "z y x"]
    fsc: FscReport
    ssnr: Float32[Tensor, " shells"]
    precision: Float32[Tensor, " shells"]


def accumulate_halves(batches: Iterable[Batch], half: Int64[Tensor, " n"], box: int) -> Accumulator:
    """Insert every image into the column of its half set; returns the folded sums."""
    sums = Accumulator.zeros(box, 2)
    for batch in batches:
        sums.add(batch, torch.nn.functional.one_hot(half[batch.index], 2).float())
    return sums.folded()


def reconstruct(
    store: ParticleStore,
    *,
    subset: Int64[Tensor, " k"] | Crossed | None = None,
    radius: int | None = None,
    mask: Float32[Tensor, "z y x"] | None = None,
    description: str = "back-projecting",
) -> Reconstruction:
    """Back-project a store, or some of its particles, in half sets, each image weighted by its noise.

    Args:
        subset: ascending numbers of the particles to use (default: all).
        radius: largest spatial frequency in Fourier pixels (default: Nyquist); the maps' box is twice as large.
        mask: for the FSC, of the maps' box (default: made from the map).
    """
    radius = store.box // 2 if radius is None else radius
    size, even = batch_size_for(store.disk.count(radius)), store.disk.even
    parts = [(subset.by_even, ~even), (subset.by_odd, even)] if isinstance(subset, Crossed) else [(subset, None)]
    loaders = [(ParticleLoader(store, size, radius=radius, subset=some), kept) for some, kept in parts]
    batches = (batch if kept is None else batch.only(kept) for loader, kept in loaders for batch in loader)
    total = sum(len(loader) for loader, _ in loaders)
    sums = accumulate_halves(track(batches, description, total=total), store.half, 2 * radius)
    return from_halves(sums, store.pixel_A * store.box / (2 * radius), mask)


def from_halves(sums: Accumulator, pixel_A: float, mask: Float32[Tensor, "z y x"] | None = None) -> Reconstruction:
    """Maps from folded half-set sums: the full map is Wiener-filtered by the FSC of the half maps.

    With `SSNR = 2 FSC / (1 - FSC)` the filter is `num / (w + mean(w) / SSNR)`, which needs no absolute scale.
    """
    box = sums.grid.box
    sphere = spherical_mask(box, 0.9 * box / 2, 0.1 * box / 2)
    half1, half2 = sums.solve(MIN_WEIGHT * sums.shell_weight()) * sphere
    ssnr = signal_to_noise(fsc(half1, half2).cpu(), box)
    both = Accumulator(sums.grid, sums.numerator.sum(1, keepdim=True), sums.weight.sum(1, keepdim=True))
    precision = both.shell_weight()[:, 0] / ssnr
    full = both.solve(precision[:, None])[0] * sphere
    if mask is None:
        mask = fsc_mask(full, pixel_A) * sphere
    report = half_map_fsc(half1, half2, mask, pixel_A=pixel_A)
    return Reconstruction(full, half1, half2, mask, report, ssnr, precision)


def signal_to_noise(curve: Float32[Tensor, " half"], box: int) -> Float32[Tensor, " shells"]:
    """Spectral signal-to-noise ratio of the full map, `2 FSC / (1 - FSC)`, for shells 0 to `box/2`; never zero."""
    # shell 0 is the map's mean, which is arbitrary
    bounded = torch.cat([curve[1:2], curve[1:], curve[-1:]])[: box // 2 + 1].clamp(1e-3, 0.9999)
    return 2 * bounded / (1 - bounded)


def residual_noise(
    store: ParticleStore,
    result: Reconstruction,
    *,
    subset: Int64[Tensor, " k"] | None = None,
    sample: int = 2000,
) -> Float32[Tensor, " shells"]:
    """Residual power by shell, in units of the stored noise, of a sample of images and the map of the other half set.

    It contains the noise, the molecule's variability and the map's error, and is an upper bound of the noise, as is the
    power outside the particle, into which the particle leaks. The lower of both is taken as the noise
    (docs/methods.md, "Likelihood").

    Args:
        subset: ascending numbers of the particles to draw the sample from (default: all).
    """
    box = result.map.shape[0]
    known = torch.arange(len(store)) if subset is None else subset
    index = known[torch.unique(torch.linspace(0, len(known) - 1, min(sample, len(known))).long())]
    grid = padded_grid(box)
    disk = fourier_disk(box)
    maps = grid.from_volumes(torch.stack([result.half2, result.half1]))
    total = torch.zeros(box // 2 + 1)
    for batch in ParticleLoader(store, batch_size_for(disk.size), radius=box // 2, subset=index):
        slices = locate_slices(grid, disk.frequency, batch.rotation).extract(maps)
        model = slices[torch.arange(len(batch)), :, store.half[batch.index]] * batch.ctf
        total += residual_power(batch.image, model, disk)
    return total / len(index)


def mirrored(result: Reconstruction) -> Reconstruction:
    """The same reconstruction with every map mirrored to the other hand."""
    return replace(
        result,
        map=mirror(result.map),
        half1=mirror(result.half1),
        half2=mirror(result.half2),
        mask=mirror(result.mask),
    )


def mirror(volume: Float32[Tensor, "z y x"]) -> Float32[Tensor, "z y x"]:
    """The mirror image of a map in the plane `z = 0` through its origin at voxel `box // 2`."""
    return torch.roll(volume.flip(0), 1, 0) if len(volume) % 2 == 0 else volume.flip(0)
