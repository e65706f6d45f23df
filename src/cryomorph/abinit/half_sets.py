"""Alternating poses and maps in half sets: every image is compared with the map of its own half set only.

As in RELION's gold-standard refinement, the half sets share nothing after the initial model, so that their Fourier
shell correlation says how far to trust the map, and how far the next round may reach.
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
from cryomorph.representations.linear import LinearSubspace
from cryomorph.volumes.backproject import Reconstruction, reconstruct, residual_noise
from cryomorph.volumes.grid import apply_gain, frequency_grid, rebox

BATCH = 256
TRUSTED_FSC = 0.143  # of half maps
MARGIN = 6  # Fourier pixels by which maps reach beyond the radius searched: what the next radius may grow by
POLISH_STEPS = 3  # of Gauss-Newton in a round without a search
Advance = Callable[[int], None]


@dataclass(frozen=True)
class PosedHalfSets:
    """Poses of all particles, of which those of `subset` were estimated, and the reconstruction from them.

    `noise` (shells,) is the power that the maps leave of the images, in units of the stored noise.
    """

    pose: Pose
    subset: Int64[Tensor, " k"]
    result: Reconstruction
    noise: Float32[Tensor, " shells"]

    @property
    def trusted_radius(self) -> int:
        """The last shell, in Fourier pixels, before the unmasked FSC of the half maps falls below 0.143."""
        below = (self.result.fsc.unmasked[1:] < TRUSTED_FSC).nonzero()
        return int(below[0]) if len(below) else len(self.result.fsc.unmasked) - 1

    def references(self) -> Float32[Tensor, "two z y x"]:
        """Half maps to compare images with: the amplitude of each shell multiplied by its FSC."""
        curve = self.result.fsc.unmasked.clamp(0, 1)
        box = self.result.map.shape[-1]
        shell = (frequency_grid(box) * box).round().long()
        gain = torch.cat([curve, curve.new_zeros(1)])[shell.clamp(max=len(curve))]
        gain[shell == 0] = 1.0
        return apply_gain(torch.stack([self.result.half1, self.result.half2]), gain)


def reconstruct_halves(store: ParticleStore, pose: Pose, subset: Int64[Tensor, " k"], *, radius: int) -> PosedHalfSets:
    """Half maps of some particles at given poses, up to a radius, and the noise that these maps leave."""
    posed = store.with_pose(pose)
    result = reconstruct(posed, subset=subset, radius=min(radius, store.box // 2), description="reconstructing")
    return PosedHalfSets(pose, subset, result, residual_noise(posed, result, subset=subset))


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
) -> PosedHalfSets:
    """Search the poses of some particles, each half set against its own maps, and reconstruct.

    Args:
        store: see `ParticleStore.unposed`.
        maps: of half sets 0 and 1: the mean, then the components of a linear subspace if the particles are flexible.
        noise: of each shell, in units of the stored noise.
    """
    radius = plan.levels[-1].radius
    disk = store.disk.within(radius)
    offset = random_rotations(1, torch.Generator().manual_seed(seed))[0]
    rotation, shift = torch.eye(3).repeat(len(store), 1, 1), torch.zeros(len(store), 2)
    box = max(int(maps.shape[-1]), 2 * int(radius + 1))
    for half in (0, 1):
        own = subset[store.half[subset] == half]
        batches = whitened_batches(store, own, radius, noise=noise, device=device, advance=advance)
        subspace = LinearSubspace(rebox(maps[half], box).to(device))
        found = search_poses(subspace, batches, plan, disk=disk, offset=offset)
        rotation[own], shift[own] = found.rotation.cpu(), found.shift.cpu()
    pose = Pose(rotation, shift * store.pixel_A)
    return reconstruct_halves(store, pose, subset, radius=int(radius) + MARGIN)


def polish_round(
    store: ParticleStore,
    before: PosedHalfSets,
    maps: Float32[Tensor, "two c z y x"],
    *,
    radius: int,
    device: torch.device,
    advance: Advance,
) -> PosedHalfSets:
    """Refine poses by Gauss-Newton, each half set against its own maps up to a radius; reconstruct to Nyquist.

    Args:
        store: see `ParticleStore.unposed`.
        maps: of half sets 0 and 1, as in `search_round`.
    """
    disk = store.disk.within(radius)
    rotation, shift = before.pose.rotation.clone(), before.pose.shift_A / store.pixel_A
    for half in (0, 1):
        own = before.subset[store.half[before.subset] == half]
        subspace = LinearSubspace(maps[half].to(device))
        for batch in whitened_batches(store, own, radius, noise=before.noise, device=device, advance=advance):
            rows = batch.index.cpu()
            start = FoundPoses.at(rotation[rows].to(device), shift[rows].to(device), subspace.zdim)
            found = polish(subspace, batch, start, disk=disk, steps=POLISH_STEPS)
            rotation[rows], shift[rows] = found.rotation.cpu(), found.shift.cpu()
    pose = Pose(rotation, shift * store.pixel_A)
    return reconstruct_halves(store, pose, before.subset, radius=store.box // 2)


def whitened_batches(
    store: ParticleStore,
    subset: Int64[Tensor, " k"],
    radius: float | int,
    *,
    noise: Float32[Tensor, " shells"],
    device: torch.device,
    advance: Advance,
) -> Iterator[Batch]:
    """Batches of uncentred particles, scaled so that the noise left by a map has variance 1 in every shell."""
    of_shell = torch.cat([noise, noise[-1:].expand(store.box)])
    of_shell[0] = of_shell[1]
    factor = of_shell.clamp(min=1e-12).rsqrt()[store.disk.shell]
    for batch in ParticleLoader(store, BATCH, radius=radius, subset=subset):
        yield batch.whitened(factor).to(device)
        advance(len(batch))
