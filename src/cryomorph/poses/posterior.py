"""Latent points of images whose poses are uncertain, averaged over the posterior of the pose."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float32
from torch import Tensor

from cryomorph.particles.store import Batch
from cryomorph.physics.disk import FourierDisk
from cryomorph.physics.pose import shift_phase
from cryomorph.poses.evidence import PoseEvidence
from cryomorph.poses.search import Candidates, MapsOnGrid, SearchPlan, candidates_of, evidence_of
from cryomorph.poses.slice_bank import POINTS
from cryomorph.representations.linear import LinearSubspace


@dataclass(frozen=True)
class MarginalLatents:
    """Posterior of each image's latent point, averaged over the candidate poses that remain after a search.

    `std` (n, q) includes the uncertainty of the pose; `certain` (n,) is the probability of the most likely pose on the
    grid of the last level.
    """

    mean: Float32[Tensor, "n q"]
    std: Float32[Tensor, "n q"]
    certain: Float32[Tensor, " n"]

    @staticmethod
    def cat(parts: list[MarginalLatents]) -> MarginalLatents:
        """Concatenate the results of several batches."""
        return MarginalLatents(
            *(torch.cat([getattr(part, name) for part in parts]) for name in ("mean", "std", "certain"))
        )


@torch.no_grad()
def marginal_latents(
    subspace: LinearSubspace,
    batches: Iterable[Batch],
    plan: SearchPlan,
    *,
    disk: FourierDisk,
    offset: Float32[Tensor, "3 3"],
) -> MarginalLatents:
    """Posterior mean and standard deviation of z over the candidates of a search's last level.

    A noisy image fits several poses, each with another latent point; at its best pose it may appear to be in a state
    that it is not in. Arguments are those of `search_poses`; components are in units of their prior's standard
    deviation, and the maps must have the scale of the images.
    """
    searched = MapsOnGrid.of(subspace.maps, plan, disk=disk, offset=offset)
    found, last = [], disk.within(plan.levels[-1].radius)
    for batch in batches:
        candidates = candidates_of(batch, searched, plan, disk=disk)
        whole = batch.within(last.size)
        each = max(1, POINTS // (candidates.cell.shape[1] * last.size * len(subspace.maps)))
        for start in range(0, len(batch), each):
            rows = slice(start, start + each)
            found.append(_averaged(evidence_at(whole.rows(rows), searched, candidates.rows(rows), disk=last)))
    return MarginalLatents.cat(found)


def _averaged(evidence: PoseEvidence) -> MarginalLatents:
    """Mean and standard deviation over candidates, (b, k)."""
    share, z = torch.softmax(evidence.at_one(), 1), evidence.latent()
    mean = (share * z).sum(2).T
    inside = evidence.covariance.diagonal(dim1=-2, dim2=-1).movedim(-1, 0)
    second = (share * (inside + z.square())).sum(2).T
    return MarginalLatents(mean, (second - mean.square()).clamp(min=0).sqrt(), share.max(1).values)


def evidence_at(batch: Batch, searched: MapsOnGrid, candidates: Candidates, *, disk: FourierDisk) -> PoseEvidence:
    """The likelihood of each candidate of each image, (b, k).

    Args:
        batch: uncentred images, of the disk's coefficients.
    """
    frequency = disk.frequency.to(batch.ctf) / disk.box
    centre = shift_phase(frequency, candidates.shift.flatten(0, 1)).unflatten(0, candidates.cell.shape)
    return evidence_of(batch.image[:, None] * centre, batch.ctf, searched.slices(candidates, disk))
