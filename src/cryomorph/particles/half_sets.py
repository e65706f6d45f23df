"""Half sets of particles: the file's own or drawn, copies of an image never in both."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int64

from cryomorph.config.console import warn
from cryomorph.particles.metadata import Particles

LEAST_SHARE = 0.2  # of the particles in the smaller half set, below which the user is told


def half_sets(particles: Particles, first: Int64[np.ndarray, " n"] | None, *, seed: int) -> Int64[np.ndarray, " n"]:
    """Half set of each particle, 0 or 1; drawn where the file has none, or one of them alone.

    Args:
        first: for each image the first that is the same; None where all differ. Copies follow the first: their common
            noise would correlate the half maps.
    """
    n, given = len(particles), particles.half
    drawn = given is None or len(np.unique(given)) < 2
    half = np.random.default_rng(seed).permutation(n) % 2 if drawn or given is None else given
    if first is not None:
        copies = np.flatnonzero(first != np.arange(n))
        moved = 0 if drawn else int((half[first] != half).sum())
        rows = particles.row[[copies[0], first[copies[0]]]]
        warn(
            f"{particles.source}: {len(copies)} of {n} particles repeat an image (row {rows[0]} that of row {rows[1]}, "
            "0-based): copies of one image are put into one half set"
            + (f", against what the file says for {moved}" if moved else "")
        )
        half = half[first]
    sizes = np.bincount(half, minlength=2)
    if n > 1 and sizes.min() < LEAST_SHARE * n:
        warn(
            f"{particles.source}: the half sets have {sizes[0]} and {sizes[1]} particles, expected about as many each: "
            "their FSC says little; without rlnRandomSubset (alignments3D/split) in the file they are drawn"
        )
    return half.astype(np.int64)
