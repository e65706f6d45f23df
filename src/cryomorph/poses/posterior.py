"""Latent points of images whose poses are uncertain: averaged over the poses that each image may have."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float32
from torch import Tensor

from cryomorph.particles.store import Batch
from cryomorph.physics.disk import FourierDisk
from cryomorph.physics.pose import shift_phase
from cryomorph.poses.evidence import Evidence
from cryomorph.poses.search import Candidates, MapsOnGrid, SearchPlan, candidates_of, evidence_of
from cryomorph.poses.slice_bank import POINTS
from cryomorph.representations.linear import LinearSubspace


@dataclass(frozen=True)
class MarginalLatents:
    """Posterior of each image's latent point over all poses that are left of a search.

    `mean` and `std` (n, q) hold what the image leaves open and what its pose does; `certain` (n,) is the probability of
    the most likely of the poses on the last level's grid.
    """

    mean: Float32[Tensor, "n q"]
    std: Float32[Tensor, "n q"]
    certain: Float32[Tensor, " n"]

    @staticmethod
    def cat(parts: list[MarginalLatents]) -> MarginalLatents:
        """Those of several batches in a row."""
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
    """`E[z]` and its spread, each candidate of a search's last level by its probability.

    An image of little signal fits several poses, each with a latent point of its own: at its best pose alone it may
    seem to be in a state that it is not in. Arguments are those of `search_poses`; a component is in units of its
    prior's standard deviation, and the maps have the scale of the images.
    """
    known = MapsOnGrid.of(subspace.maps, plan, disk=disk, offset=offset)
    found, last = [], disk.within(plan.levels[-1].band)
    for batch in batches:
        candidates = candidates_of(batch, known, plan, disk=disk)
        whole = batch.within(last.size)
        each = max(1, POINTS // (candidates.cell.shape[1] * last.size * len(subspace.maps)))
        for start in range(0, len(batch), each):
            rows = slice(start, start + each)
            found.append(_averaged(evidence_at(whole.rows(rows), known, candidates.rows(rows), disk=last)))
    return MarginalLatents.cat(found)


def _averaged(evidence: Evidence) -> MarginalLatents:
    """Mean and spread over candidates, (b, k)."""
    share, z = torch.softmax(evidence.at_one(), 1), evidence.latent()
    mean = (share * z).sum(2).T
    inside = evidence.covariance.diagonal(dim1=-2, dim2=-1).movedim(-1, 0)
    second = (share * (inside + z.square())).sum(2).T
    return MarginalLatents(mean, (second - mean.square()).clamp(min=0).sqrt(), share.max(1).values)


def evidence_at(batch: Batch, known: MapsOnGrid, candidates: Candidates, *, disk: FourierDisk) -> Evidence:
    """What each image says at each of its candidates, (b, k).

    Args:
        batch: of the disk's coefficients.
    """
    frequency = disk.frequency.to(batch.ctf) / disk.box
    centre = shift_phase(frequency, candidates.shift.flatten(0, 1)).unflatten(0, candidates.cell.shape)
    return evidence_of(batch.image[:, None] * centre, batch.ctf, known.slices(candidates, disk))
