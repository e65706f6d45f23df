"""Nearest particles by Euclidean distance: to one point, to many, and to each other."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Float64, Int64
from scipy.spatial import cKDTree

from cryomorph.config.console import track

LEAF = 32  # points in a leaf of the search tree: twice as fast in 8 dimensions as with scipy's 10
CHUNK = 20_000  # particles whose neighbours are searched at a time


def nearest_to(
    target: Float[np.ndarray, " q"], points: Float[np.ndarray, "n q"], count: int
) -> Int64[np.ndarray, " count"]:
    """The `count` points nearest to a target, nearest first; of equally near ones the first."""
    distance = np.square(points - target).sum(axis=1)
    return np.argsort(distance, kind="stable")[:count].astype(np.int64)


def nearest_points(points: Float[np.ndarray, "n q"], targets: Float[np.ndarray, "t q"]) -> Int64[np.ndarray, " t"]:
    """The point nearest to each target."""
    return np.asarray(cKDTree(points).query(targets)[1], dtype=np.int64)


def nearest_others(
    z: Float64[np.ndarray, "n q"], count: int, *, particles: Int64[np.ndarray, " m"] | None = None
) -> tuple[Float64[np.ndarray, "m count"], Int64[np.ndarray, "m count"]]:
    """Distances and numbers of the particles nearest to each of some particles, itself excluded, nearest first.

    Args:
        particles: whose neighbours are asked for; those of all particles if not given.
    """
    # queried in the tree's own order, neighbours after neighbours: five times faster at 60,000 points in 8 dimensions
    order = cKDTree(z, leafsize=LEAF).indices
    sorted_z = z[order]
    tree = cKDTree(sorted_z, leafsize=LEAF)
    place = np.argsort(order)
    asked = order if particles is None else particles
    distance, index = np.empty((len(asked), count)), np.empty((len(asked), count), dtype=np.int64)
    for start in track(range(0, len(asked), CHUNK), "finding neighbours"):
        chunk = slice(start, start + CHUNK)
        own = place[asked[chunk]]
        apart, found = map(np.asarray, tree.query(sorted_z[own], k=count + 1, workers=-1))
        # a particle is its own nearest, but not where more than `count` share its latent point
        other = found != own[:, None]
        other[other.all(axis=1), -1] = False
        distance[chunk] = apart[other].reshape(-1, count)
        index[chunk] = order[found[other].reshape(-1, count)]
    return (distance, index) if particles is not None else (distance[place], index[place])
