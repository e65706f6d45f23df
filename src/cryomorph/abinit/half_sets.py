"""Poses and map in turn, in half sets: every image is compared with the map of its own half set alone.

As in a refinement by RELION, the two half sets share nothing after the map that they began with, so that their Fourier
shell correlation says how far to trust the map, and how wide the next band may be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from cryomorph.particles.loader import ParticleLoader
from cryomorph.particles.store import Batch, ParticleStore
from cryomorph.physics.pose import Pose, random_rotations
from cryomorph.poses.search import FoundPoses, SearchPlan, polish, search_poses
from cryomorph.representations.linear import LinearSubspace, rebox
from cryomorph.volumes.backproject import Reconstruction, reconstruct, residual_noise
from cryomorph.volumes.grid import apply_gain, frequency_grid

BATCH = 256
AGREE = 0.143  # FSC of half maps that a band may reach to
BEYOND = 6  # Fourier pixels by which maps reach beyond the band searched: what the next one may grow by
STEPS = 3  # of Gauss-Newton in a round without a search
Advance = Callable[[int], None]


@dataclass(frozen=True)
class Poses:
    """Poses of all particles, of which those of `subset` were looked for, and the reconstruction that they give."""

    pose: Pose
    subset: Int64[Tensor, " k"]
    result: Reconstruction
    noise: Float32[Tensor, " shells"]

    @property
    def agreed(self) -> int:
        """The last shell to which the unmasked half maps agree, in Fourier pixels."""
        below = (self.result.fsc.unmasked[1:] < AGREE).nonzero()
        return int(below[0]) if len(below) else len(self.result.fsc.unmasked) - 1

    def halves(self) -> Float32[Tensor, "two z y x"]:
        """Half maps as references: each shell by what of it the other half confirms, `FSC` of its amplitude."""
        curve = self.result.fsc.unmasked.clamp(0, 1)
        box = self.result.map.shape[-1]
        shell = (frequency_grid(box) * box).round().long()
        gain = torch.cat([curve, curve.new_zeros(1)])[shell.clamp(max=len(curve))]
        gain[shell == 0] = 1.0
        return apply_gain(torch.stack([self.result.half1, self.result.half2]), gain)


def mapped(store: ParticleStore, pose: Pose, subset: Int64[Tensor, " k"], *, radius: int) -> Poses:
    """The half maps of some particles at given poses, and the noise that they leave."""
    posed = store.with_pose(pose)
    result = reconstruct(posed, subset=subset, radius=min(radius, store.box // 2), description="reconstructing")
    return Poses(pose, subset, result, residual_noise(posed, result, subset=subset))


def search_round(
    store: ParticleStore,
    maps: Float32[Tensor, "two c z y x"],
    plan: SearchPlan,
    *,
    subset: Int64[Tensor, " k"],
    noise: Float32[Tensor, " shells"],
    seed: int,
    device: torch.device,
    advance: Advance,
) -> Poses:
    """Search the poses of some particles, each half set against its own maps, and reconstruct.

    Args:
        store: see `unposed`.
        maps: of half sets 0 and 1: the mean, and components of a linear subspace where particles move.
        noise: of each shell, in units of the stored noise.
    """
    band = plan.levels[-1].band
    disk = store.disk.within(band)
    offset = random_rotations(1, torch.Generator().manual_seed(seed))[0]
    rotation, shift = torch.eye(3).repeat(len(store), 1, 1), torch.zeros(len(store), 2)
    box = max(int(maps.shape[-1]), 2 * int(band + 1))
    for half in (0, 1):
        own = subset[store.half[subset] == half]
        batches = whitened(store, own, band, noise=noise, device=device, advance=advance)
        subspace = LinearSubspace(rebox(maps[half], box).to(device))
        found = search_poses(subspace, batches, plan, disk=disk, offset=offset)
        rotation[own], shift[own] = found.rotation.cpu(), found.shift.cpu()
    pose = Pose(rotation, shift * store.pixel_A)
    return mapped(store, pose, subset, radius=int(band) + BEYOND)


def polish_round(
    store: ParticleStore,
    before: Poses,
    maps: Float32[Tensor, "two c z y x"],
    *,
    band: int,
    device: torch.device,
    advance: Advance,
) -> Poses:
    """Gauss-Newton from the poses found, each half set against its own maps, over a band; maps to full resolution.

    Args:
        store: see `unposed`.
        maps: of half sets 0 and 1, as in `search_round`.
    """
    disk = store.disk.within(band)
    rotation, shift = before.pose.rotation.clone(), before.pose.shift_A / store.pixel_A
    for half in (0, 1):
        own = before.subset[store.half[before.subset] == half]
        subspace = LinearSubspace(maps[half].to(device))
        for batch in whitened(store, own, band, noise=before.noise, device=device, advance=advance):
            rows = batch.index.cpu()
            start = FoundPoses.at(rotation[rows].to(device), shift[rows].to(device), subspace.zdim)
            found = polish(subspace, batch, start, disk=disk, steps=STEPS)
            rotation[rows], shift[rows] = found.rotation.cpu(), found.shift.cpu()
    return mapped(store, Pose(rotation, shift * store.pixel_A), before.subset, radius=store.box // 2)


def whitened(
    store: ParticleStore,
    subset: Int64[Tensor, " k"],
    band: float | int,
    *,
    noise: Float32[Tensor, " shells"],
    device: torch.device,
    advance: Advance,
) -> Iterator[Batch]:
    """Batches of particles as they lie, with the noise that a map leaves of them of variance 1."""
    of_shell = torch.cat([noise, noise[-1:].expand(store.box)])
    of_shell[0] = of_shell[1]
    factor = of_shell.clamp(min=1e-12).rsqrt()[store.disk.shell]
    for batch in ParticleLoader(store, BATCH, radius=band, subset=subset):
        yield batch.whitened(factor).to(device)
        advance(len(batch))
