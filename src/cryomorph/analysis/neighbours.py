"""Maps back-projected from the particles near a latent point, which depend on the model by its latent points only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int64
from scipy.ndimage import gaussian_filter
from torch import Tensor

from cryomorph.analysis.nearest import nearest_to
from cryomorph.analysis.split import LatentSplit, known_split
from cryomorph.compute.map_threads import map_in_threads
from cryomorph.config.errors import InputError
from cryomorph.particles.store import ParticleStore
from cryomorph.physics.slicing import padded_grid
from cryomorph.runs.folder import RunFolder
from cryomorph.volumes.backproject import Accumulator, batch_size_for
from cryomorph.volumes.fsc import resolution_A
from cryomorph.volumes.masks import spherical_mask

WIDTHS = 5  # nested neighbourhoods, each twice as large as the one before
LARGEST_SHARE = 3  # the widest holds a third of the particles,
LARGEST_COUNT = 10_000  # or this many
SMALLEST_COUNT = 64  # the narrowest is what all are compared with: with a dozen particles chance would choose
UNSEEN = 0.01  # weight, as a share of its shell's mean, that keeps points that few images reach from blowing up
SMOOTHING = 1.25  # width of the window in which errors are compared, in units of the consensus resolution


@dataclass(frozen=True)
class LocalMap:
    """A map at one latent point: `[z, y, x]`, and how many particles count towards a voxel inside the mask (median)."""

    map: Float32[Tensor, "z y x"]
    particles: int


@dataclass(frozen=True)
class Neighbourhoods:
    """All that reconstructions near different latent points of a run share.

    `split` holds the latent points by half of the coefficients of each image, where the run has them. Distances between
    latent points are in units of `unit` (q,), the mean posterior standard deviation: the image of a
    neighbour can hardly tell it from the target.
    """

    store: ParticleStore
    latent: Float32[np.ndarray, "n q"]
    split: LatentSplit | None
    unit: Float32[np.ndarray, " q"]
    consensus: Float32[Tensor, "z y x"]
    halves: Float32[Tensor, "two z y x"]
    mask: Float32[Tensor, "z y x"]
    precision: Float32[Tensor, " shells"]
    window_px: float

    @classmethod
    def of(cls, run: RunFolder) -> Neighbourhoods:
        """What a run's store, latent space and consensus say."""
        store = run.store()
        halves = torch.stack([run.consensus_map("half1"), run.consensus_map("half2")])
        resolution = resolution_A(run.consensus_fsc().corrected, store.pixel_A)
        return cls(
            store,
            run.latent_mean(),
            known_split(run),
            run.latent_std().mean(0),
            run.consensus_map(),
            halves,
            run.consensus_map("mask"),
            run.spectra().precision,
            SMOOTHING * resolution / store.pixel_A,
        )

    def sizes(self) -> list[int]:
        """Particles in each nested neighbourhood, ascending."""
        largest = min(len(self.latent) // LARGEST_SHARE, LARGEST_COUNT)
        return sorted({max(min(SMALLEST_COUNT, largest), largest >> step) for step in range(WIDTHS)})


def reconstruct_near(
    shared: Neighbourhoods, targets: Float[np.ndarray, "t q"], description: str = "reconstructing"
) -> Iterator[LocalMap]:
    """Back-project the particles near each latent point, with a kernel width chosen in every part of the map.

    The candidates are maps of the nearest `sizes()` particles, and the consensus. A candidate from one half set is
    compared with the narrowest neighbourhood of the other half set, whose noise is independent and whose bias is least:
    the expected squared difference is the candidate's squared bias and variance plus a constant. Errors are averaged in
    a window, and the candidate with the smallest is used there (kernel regression with a locally chosen bandwidth,
    docs/methods.md, "Latent analysis").

    Raises:
        InputError: latent points of another dimension, or fewer than 16 particles.
    """
    if targets.shape[1] != shared.latent.shape[1]:
        raise InputError(f"latent points of dimension {targets.shape[1]}: expected {shared.latent.shape[1]}")
    if len(shared.latent) < 16:
        raise InputError(
            f"{len(shared.latent)} particles are too few to reconstruct neighbourhoods of: expected 16 or more"
        )
    # sums of two half sets, complex and real, and two copies of them
    job_bytes = 3 * padded_grid(shared.store.box).rows * 2 * (8 + 4)
    yield from map_in_threads(
        lambda target: _reconstruct_at(shared, target), list(targets), description, job_bytes=job_bytes
    )


def _reconstruct_at(shared: Neighbourhoods, target: Float[np.ndarray, " q"]) -> LocalMap:
    box = shared.store.box
    sphere = spherical_mask(box, 0.9 * box / 2, 0.1 * box / 2)
    sizes = shared.sizes()
    sums = Accumulator.zeros(box, 2)
    gain = torch.ones(box // 2 + 1)
    candidates, filtered = [], []
    for number, rings in enumerate(_rings(shared, target, sizes)):
        for ring, kept in rings:
            _add_ring(sums, shared.store, ring, kept)
        so_far = sums.folded()
        weight = so_far.shell_weight()
        if number == 0:
            # both sides of every comparison are filtered by what the narrowest neighbourhood can show
            gain = weight.sum(1) / (weight.sum(1) + shared.precision)
        filtered.append(_apply(so_far.solve(UNSEEN * weight) * sphere, gain))
        both = Accumulator(so_far.grid, so_far.numerator.sum(1, keepdim=True), so_far.weight.sum(1, keepdim=True))
        candidates.append(both.solve(shared.precision[:, None])[0] * sphere)
    candidates.append(shared.consensus)
    filtered.append(_apply(shared.halves, gain))
    errors = [(maps[0] - filtered[0][1]).square() + (maps[1] - filtered[0][0]).square() for maps in filtered]
    smooth = np.stack([gaussian_filter(error.numpy(), shared.window_px) for error in errors])
    return _blend(shared, torch.stack(candidates), smooth, [*sizes, len(shared.latent)])


Ring = tuple[Int64[Tensor, " k"], Bool[Tensor, " size"] | None]


def _rings(shared: Neighbourhoods, target: Float[np.ndarray, " q"], sizes: list[int]) -> list[list[Ring]]:
    """Particles, ascending, that each neighbourhood has beyond the one inside it, and which coefficients to take.

    Where latent points are known from half of the coefficients alone, particles that the even ones find near give
    their odd ones, and the reverse: the noise that moved a particle here does not come into the map.
    """
    even, split = shared.store.disk.even, shared.split
    ways: list[tuple[np.ndarray, np.ndarray, Bool[Tensor, " size"] | None]]
    if split is None:
        ways = [(target / shared.unit, shared.latent / shared.unit, None)]
    else:
        place = split.placed(target)
        ways = [
            (split.seen_by(half, place) / split.unit, split.halves[half] / split.unit, kept)
            for half, kept in enumerate((~even, even))
        ]
    edges = list(zip([0, *sizes[:-1]], sizes, strict=True))
    rings: list[list[Ring]] = [[] for _ in edges]
    for place, latent, kept in ways:
        ordered = nearest_to(place, latent, sizes[-1])
        for ring, (start, stop) in zip(rings, edges, strict=True):
            ring.append((torch.from_numpy(np.sort(ordered[start:stop])), kept))
    return rings


def _add_ring(
    sums: Accumulator, store: ParticleStore, ring: Int64[Tensor, " k"], kept: Bool[Tensor, " size"] | None
) -> None:
    # a ring is small and read once: reading ahead would cost more than it saves
    for part in ring.split(batch_size_for(store.disk.size)):
        batch = store.batch(part)
        sums.add(batch if kept is None else batch.only(kept), torch.nn.functional.one_hot(store.half[part], 2).float())


def _apply(maps: Float32[Tensor, "c z y x"], gain: Float32[Tensor, " shells"]) -> Float32[Tensor, "c z y x"]:
    """Multiply each shell of the maps' transforms by a gain; nothing beyond the last shell is kept."""
    box = maps.shape[-1]
    k = torch.fft.fftfreq(box, 1 / box)
    radius = (k[:, None, None] ** 2 + k[:, None] ** 2 + torch.fft.rfftfreq(box, 1 / box) ** 2).sqrt().round().long()
    table = torch.cat([gain, gain.new_zeros(1)])
    transform = torch.fft.rfftn(maps, dim=(1, 2, 3)) * table[radius.clamp(max=len(gain))]
    return torch.fft.irfftn(transform, s=maps.shape[1:], dim=(1, 2, 3))


def _blend(
    shared: Neighbourhoods,
    candidates: Float32[Tensor, "k z y x"],
    errors: Float32[np.ndarray, "k z y x"],
    sizes: list[int],
) -> LocalMap:
    """The candidate of least error at each voxel, with soft borders between them."""
    chosen = errors.argmin(0)
    blended = torch.zeros_like(candidates[0])
    for number, candidate in enumerate(candidates):
        share = gaussian_filter((chosen == number).astype(np.float32), shared.window_px / 1.5)
        blended += torch.from_numpy(share) * candidate
    counts = np.asarray(sizes)[chosen][shared.mask.numpy() > 0.5]
    return LocalMap(blended, int(np.median(counts)) if len(counts) else sizes[-1])
