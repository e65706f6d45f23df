"""Paths through a latent space, and how densely particles surround them.

Particle numbers are 0-based; so are components here, while users count them from 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64, Int64
from scipy.ndimage import gaussian_filter1d
from scipy.spatial import cKDTree

from cryomorph.analysis.latent import Latent, Pca, check_latent, pc_trajectory
from cryomorph.analysis.nearest import nearest_to
from cryomorph.analysis.neighbour_graph import check_connected, neighbour_graph, share, shortest_way, thinned
from cryomorph.config.errors import InputError

CROWD = 10  # the distance to this many particles says how crowded a place is
REFERENCE = 10_000  # particles whose own distances say what is usual
SLAB = 30  # particles, at least, whose median says where a volume component's other coordinates lie


@dataclass(frozen=True)
class LatentPath:
    """Points in latent space, in order. `particles` are their particles, if every point is one.

    `arc` is the distance travelled up to each point; through a graph, along all the particles visited. `anchors` says
    which points are the particles that were asked for. `visited` are the particles of a graph path before thinning.
    """

    points: Float64[np.ndarray, "m q"]
    arc: Float64[np.ndarray, " m"]
    particles: Int64[np.ndarray, " m"] | None = None
    anchors: tuple[int, ...] = ()
    visited: Int64[np.ndarray, " v"] | None = None

    @property
    def length(self) -> float:
        """The distance from the first point to the last, along the path."""
        return float(self.arc[-1])


@dataclass(frozen=True)
class Occupancy:
    """Distances from each point of a path to particles, and typical distances between particles.

    `nearest` is the distance to the nearest particle, `crowd` that to the tenth; a particle does not count itself.
    `usual` is the distance to the tenth that 99 % of the particles stay below.
    """

    nearest: Float64[np.ndarray, " m"]
    crowd: Float64[np.ndarray, " m"]
    usual: float

    @property
    def empty(self) -> Int64[np.ndarray, " e"]:
        """Points in nearly empty space: farther from the tenth particle than 99 % of the particles are."""
        return np.flatnonzero(self.crowd > self.usual).astype(np.int64)


def component_path(
    pca: Pca, component: int, *, points: int, percentiles: tuple[float, float] = (5.0, 95.0)
) -> LatentPath:
    """Evenly spaced points along a principal component of the latent, between two percentiles of the particles.

    Raises:
        InputError: there is no such component.
    """
    _check_component(component, len(pca.components), "--pc", "the latent space")
    along = pc_trajectory(pca, component, points=points, low=percentiles[0], high=percentiles[1])
    return LatentPath(along, _arc(along))


def straight_path(z: Latent, anchors: Sequence[int], *, points: int) -> LatentPath:
    """Straight lines from particle to particle, evenly spaced points on each; longer lines get more points.

    Raises:
        InputError: a number that no particle has, or particles that all share one latent point.
    """
    z64 = check_latent(z)
    corner = z64[_known(anchors, len(z64))]
    lengths = np.linalg.norm(np.diff(corner, axis=0), axis=1)
    _check_apart(lengths, anchors)
    between = share(lengths, points - len(anchors), np.full(len(lengths), points))
    parts, at = [], [0]
    for start, stop, count in zip(corner[:-1], corner[1:], between, strict=True):
        parts.append(start + np.linspace(0, 1, count + 2)[:-1, None] * (stop - start))
        at.append(at[-1] + int(count) + 1)
    along = np.concatenate([*parts, corner[-1:]])
    return LatentPath(along, _arc(along), anchors=tuple(at))


def graph_path(z: Latent, anchors: Sequence[int], *, points: int, degree: int = 5) -> LatentPath:
    """The shortest path from particle to particle through neighbours, thinned to at most `points` particles.

    Every point is a particle, so the path stays in occupied space. Thinning is even in the distance travelled and keeps
    the anchors.

    Raises:
        InputError: a number that no particle has, particles that all share one latent point, or particles that the
            graph does not connect.
    """
    z64 = check_latent(z)
    numbers = _known(anchors, len(z64))
    graph = neighbour_graph(z64, degree)
    check_connected(z64, numbers, graph, degree=degree)
    visited, at = shortest_way(graph, numbers)
    arc = _arc(z64[visited])
    _check_apart(np.diff(arc[at]), anchors)
    kept = thinned(arc, at, points)
    chosen = visited[kept]
    where = tuple(int(i) for i in np.searchsorted(kept, at))
    return LatentPath(z64[chosen], arc[kept], chosen, where, visited)


def volume_component_path(
    z: Latent,
    coordinates: Float[np.ndarray, "n p"],
    component: int,
    *,
    points: int,
    percentiles: tuple[float, float] = (5.0, 95.0),
) -> LatentPath:
    """Particles along a principal component of the volumes, at evenly spaced places between two percentiles.

    At each place it is the particle nearest to it among those of about that coordinate, where the other coordinates
    have these particles' medians, smoothed along the path: on a curved landscape the median of all may lie where no
    particle is. `arc` is the component's own coordinate, from the first particle on.

    Args:
        coordinates: where each particle lies along the components of the volumes.

    Raises:
        InputError: there is no such component, or all particles lie at one place along it.
    """
    z64, space = check_latent(z), np.asarray(coordinates, dtype=np.float64)
    _check_component(component, space.shape[1], "--volume-pc", "the landscape")
    along = space[:, component]
    first, last = np.percentile(along, percentiles)
    if not last > first:
        raise InputError(f"--volume-pc {component + 1}: all particles have the same coordinate: choose another")
    order = np.argsort(along, kind="stable")
    ranked = along[order]
    places = np.linspace(first, last, points)
    half = 0.5 * (last - first) / max(points - 1, 1)
    middle = np.searchsorted(ranked, places)
    low = np.minimum(np.searchsorted(ranked, places - half), (middle - SLAB // 2).clip(min=0))
    high = np.maximum(np.searchsorted(ranked, places + half), middle + SLAB // 2)
    slabs = [order[start:stop] for start, stop in zip(low, high, strict=True)]
    targets = gaussian_filter1d([np.median(space[slab], axis=0) for slab in slabs], 1.0, axis=0, mode="nearest")
    targets[:, component] = places
    chosen = [slab[nearest_to(target, space[slab], 1)[0]] for slab, target in zip(slabs, targets, strict=True)]
    numbers = np.unique(np.asarray(chosen, dtype=np.int64))
    numbers = numbers[np.argsort(along[numbers], kind="stable")]
    return LatentPath(z64[numbers], along[numbers] - along[numbers[0]], numbers)


def occupancy(z: Latent, path: LatentPath) -> Occupancy:
    """How densely particles surround a path, compared with the surroundings of 10,000 random particles."""
    z64 = check_latent(z)
    tree = cKDTree(z64)
    crowd = min(CROWD, len(z64) - 1)
    sample = z64
    if len(z64) > REFERENCE:
        sample = z64[np.random.default_rng(0).choice(len(z64), REFERENCE, replace=False)]
    usual = float(np.percentile(tree.query(sample, k=[crowd + 1])[0], 99))
    distance = np.asarray(tree.query(path.points, k=range(1, crowd + 2))[0])
    own = distance[:, 0] == 0
    near = np.where(own, distance[:, 1], distance[:, 0])
    return Occupancy(near, np.where(own, distance[:, -1], distance[:, -2]), usual)


def _arc(points: Float64[np.ndarray, "m q"]) -> Float64[np.ndarray, " m"]:
    """The distance travelled up to each point."""
    return np.concatenate([[0.0], np.linalg.norm(np.diff(points, axis=0), axis=1).cumsum()])


def _known(anchors: Sequence[int], n: int) -> Int64[np.ndarray, " a"]:
    unknown = [number for number in anchors if not 0 <= number < n]
    if unknown:
        raise InputError(f"particle {unknown[0]}: the run has particles 0 to {n - 1} (numbers are 0-based)")
    return np.asarray(anchors, dtype=np.int64)


def _check_component(component: int, count: int, option: str, where: str) -> None:
    if not 0 <= component < count:
        raise InputError(f"{option} {component + 1}: {where} has {count} components: expected 1 to {count}")


def _check_apart(lengths: Float64[np.ndarray, " s"], anchors: Sequence[int]) -> None:
    if not lengths.sum() > 0:
        named = " and ".join(str(number) for number in anchors)
        raise InputError(f"particles {named} have the same latent point: choose others")
