"""Where particles lie by half of their coefficients, so that what is chosen by one half is judged by the other."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int64
from scipy.spatial import cKDTree

from cryomorph.config.console import warn
from cryomorph.runs.folder import RunFolder
from cryomorph.volumes.backproject import Crossed

VOTERS = 15  # nearest particles that say whether a place belongs to a selection
PLACED = 0.6  # balanced accuracy above which a selection is a region of the latent space
CHUNK = 100_000  # particles that are asked at a time


@dataclass(frozen=True)
class LatentSplit:
    """Linear latent points of a run's particles by all of their coefficients, and by half of them.

    `whole` (n, q); `halves` (2, n, q), by the even and by the odd ones, which share no noise; `latent` (n, zdim), the
    run's own, which are `whole` for a linear run.
    """

    whole: Float32[np.ndarray, "n q"]
    halves: Float32[np.ndarray, "two n q"]
    latent: Float32[np.ndarray, "n zdim"]

    @classmethod
    def of(cls, run: RunFolder) -> LatentSplit | None:
        """What a run says; None where it has no linear model, or comes from an earlier version."""
        found = run.latent_split()
        return None if found is None else cls(found[0], found[1:], run.latent_mean())

    @cached_property
    def unit(self) -> Float32[np.ndarray, " q"]:
        """Uncertainty of `whole`: by half as much data a coordinate has about twice the variance."""
        apart = self.halves[0] - self.halves[1]
        # of a difference of two: half of its spread; robust, since junk lies anywhere
        return (0.741 * np.subtract(*np.percentile(apart, [75, 25], axis=0)) / 2).astype(np.float32).clip(min=1e-12)

    def placed(self, target: Float[np.ndarray, " zdim"]) -> Float[np.ndarray, " q"]:
        """A latent point of the run in linear coordinates: between those of the particles nearest to it."""
        if self.latent.shape == self.whole.shape and np.array_equal(self.latent, self.whole):
            return np.asarray(target)
        apart, near = self._latent_tree.query(target, k=min(VOTERS, len(self.latent)))
        weight = 1 / np.maximum(apart, 1e-12)
        return np.average(self.whole[near], axis=0, weights=weight)

    @cached_property
    def _latent_tree(self) -> cKDTree:
        return cKDTree(self.latent)

    @cached_property
    def _around(self) -> tuple[Int64[np.ndarray, "n voters"], ...]:
        """For each half, the particles around the place where it finds each particle, nearest first, itself perhaps."""
        found = []
        for half in (0, 1):
            tree = cKDTree(self.seen_by(half, self.whole) / self.unit)
            near = np.empty((len(self.whole), min(VOTERS + 1, len(self.whole))), dtype=np.int64)
            for start in range(0, len(near), CHUNK):
                part = slice(start, start + CHUNK)
                near[part] = tree.query(self.halves[half, part] / self.unit, k=near.shape[1], workers=-1)[1]
            found.append(near)
        return tuple(found)

    def seen_by(self, half: int, points: Float[np.ndarray, "*k q"]) -> Float[np.ndarray, "*k q"]:
        """Where points are found by half of the coefficients: nearer to the centre, since less is known."""
        centre = self.whole.mean(0)
        shrunk = self.halves[half].var(0) / self.whole.var(0).clip(min=1e-20)
        return np.asarray(self.halves[half].mean(0) + (points - centre) * shrunk)

    def crossed(self, index: Int64[np.ndarray, " k"]) -> Crossed | None:
        """The particles that lie where a selection does, by the even and by the odd coefficients.

        None where the selection is no region of the latent space (particles of some micrographs, say): the latent
        points' noise did not choose them.
        """
        member = np.zeros(len(self.whole), dtype=bool)
        member[index] = True
        if member.all() or not len(index):
            return None
        found = [self._voted(half, member) for half in (0, 1)]
        accuracy = [(each[member].mean() + (~each[~member]).mean()) / 2 for each in found]
        if min(accuracy) < PLACED:
            return None
        return Crossed(*(torch.from_numpy(np.flatnonzero(each)) for each in found))

    def _voted(self, half: int, member: Bool[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
        """Whether the particles around the place that half of the coefficients finds are of a selection.

        At most as many are taken as the selection has, the surest first, and none without a vote.
        """
        near = self._around[half]
        # a particle has no vote on itself: where all of its coefficients place it holds the noise of the other half
        other = near != np.arange(len(near))[:, None]
        yes = member[near] & other
        # of two places with as many votes, that whose nearer voters are members is surer
        votes = yes.sum(1) / other.sum(1) + 1e-3 * (yes / (1 + np.arange(near.shape[1]))).sum(1)
        surest = np.argsort(-votes, kind="stable")[: int(member.sum())]
        chosen = np.zeros(len(member), dtype=bool)
        chosen[surest] = votes[surest] > 0
        return chosen


def known_split(run: RunFolder) -> LatentSplit | None:
    """`LatentSplit.of`, with a warning where there is none: then maps hold the noise that their particles lie by."""
    found = LatentSplit.of(run)
    if found is None:
        warn(
            f"{run.path} has no latent points by half of the coefficients: maps of particles chosen by their latent "
            "points share the noise that these were chosen by; train again to avoid it"
        )
    return found
