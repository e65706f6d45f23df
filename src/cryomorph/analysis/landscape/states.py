"""Discrete states of a sketch of maps, by agglomerative clustering in volume space (Zhong et al. 2022, section 2.6)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Float32, Float64, Int64
from scipy.cluster.hierarchy import fcluster, linkage

from cryomorph.analysis.nearest import nearest_points

MOST = 20  # numbers of states among which one is suggested
GAP = 1.3  # the step in the distance of merging that is worth mentioning
VALLEY = 0.5  # between well-separated states there are fewer particles than this share of the smaller peak
CHUNK = 1 << 14  # voxels whose mean over maps is taken at a time
BINS = 8  # from the mean of one state to that of another


@dataclass(frozen=True)
class Suggestion:
    """The number of states after which merging takes the longest step, and whether these states are well separated.

    `heights[i]` is the mean distance between the maps of the two states that merge when `i + 2` become `i + 1`. `gap`
    is the ratio of the heights on both sides of `states`. `valley` is how many particles lie between two of them, as a
    share of the smaller peak, for the two that are least apart; 1 and more in a continuum.
    """

    states: int
    gap: float
    valley: float
    heights: Float64[np.ndarray, " merges"]

    @property
    def clear(self) -> bool:
        """Whether these states are well separated; if not, the maps form a continuum, which states cut into pieces."""
        return self.gap >= GAP and self.valley <= VALLEY


@dataclass(frozen=True)
class States:
    """States of a sketch and of all particles, 0-based, the one with most particles first.

    `middle` is the row of the sketch whose map is nearest each state's mean map.
    """

    sketch: Int64[np.ndarray, " k"]
    particles: Int64[np.ndarray, " n"]
    middle: Int64[np.ndarray, " m"]
    suggestion: Suggestion

    @property
    def count(self) -> int:
        """Number of states."""
        return len(self.middle)

    @property
    def volume_counts(self) -> list[int]:
        """Maps of the sketch in each state."""
        return np.bincount(self.sketch, minlength=self.count).tolist()

    @property
    def particle_counts(self) -> list[int]:
        """Particles in each state."""
        return np.bincount(self.particles, minlength=self.count).tolist()


def find_states(
    scores: Float[np.ndarray, "k r"],
    coordinates: Float[np.ndarray, "n p"],
    *,
    sketch_coordinates: Float[np.ndarray, "k p"],
    count: int,
    method: Literal["average", "ward"] = "average",
) -> States:
    """Cluster the maps of a sketch and give every particle the state of the map nearest to its own.

    Nearest in volume space, where distances are those of maps, not in latent space, where they mean nothing (Zhong et
    al. 2022, section 2.2); so borders between states follow the maps and not the cells of the sketch.

    Args:
        scores: the sketch on all components: distances are those of the masked maps.
        coordinates, sketch_coordinates: all particles and the sketch on the components that were kept.
        count: number of states; fewer come out where maps are equal.
    """
    tree = linkage(scores, method)
    labels = fcluster(tree, count, "maxclust").astype(np.int64) - 1
    nearest = nearest_points(sketch_coordinates, coordinates)
    found = int(labels.max()) + 1
    share = np.bincount(labels[nearest], minlength=found)
    rank = np.argsort(np.argsort(-share, kind="stable"))
    labels = rank[labels]
    means = np.stack([scores[labels == state].mean(axis=0) for state in range(found)])
    away = np.square(scores - means[labels]).sum(axis=1)
    middle = [int(np.flatnonzero(labels == state)[away[labels == state].argmin()]) for state in range(found)]
    advice = suggest(scores, coordinates, nearest)
    return States(labels, labels[nearest], np.asarray(middle, dtype=np.int64), advice)


def suggest(
    scores: Float[np.ndarray, "k r"], coordinates: Float[np.ndarray, "n p"], nearest: Int64[np.ndarray, " n"]
) -> Suggestion:
    """The number of states, from 2 to 20, at which the distance of merging makes its largest step.

    By average linkage: there that distance has a meaning, and rare states count as much as others.

    Args:
        nearest: the row of the sketch whose map is nearest to each particle's.
    """
    tree = linkage(scores, "average")
    heights = tree[::-1, 2][: MOST + 1]
    step = heights[:-1] / np.maximum(heights[1:], 1e-12 * max(float(heights[0]), 1e-300))
    if not len(step) or heights[0] == 0:
        return Suggestion(1, 1.0, 1.0, heights)
    states = int(step[: MOST - 1].argmax()) + 2
    labels = (fcluster(tree, states, "maxclust") - 1)[nearest]
    groups = [coordinates[labels == state] for state in np.unique(labels)]
    valley = max((valley_between(a, b) for i, a in enumerate(groups) for b in groups[:i]), default=1.0)
    return Suggestion(states, float(step[states - 2]), valley, heights)


def valley_between(a: Float[np.ndarray, "n p"], b: Float[np.ndarray, "m p"]) -> float:
    """The lowest density of two groups' points between their means, as a share of the lower of the densities there.

    Along the line through the means; a little smoothed, since groups may be small.
    """
    start, axis = a.mean(axis=0), b.mean(axis=0) - a.mean(axis=0)
    place = (np.concatenate([a, b]) - start) @ axis / max(float(axis @ axis), 1e-300)
    count = np.histogram(place, bins=BINS + 1, range=(-0.5 / BINS, 1 + 0.5 / BINS))[0]
    smooth = np.convolve(np.pad(count, 1, mode="edge"), [0.25, 0.5, 0.25], mode="valid")
    return float(smooth[1:-1].min() / max(min(smooth[0], smooth[-1]), 1e-300))


def state_maps(
    values: Float32[np.ndarray, "k voxels"], labels: Int64[np.ndarray, " k"], state: int
) -> tuple[Float32[np.ndarray, " voxels"], Float32[np.ndarray, " voxels"]]:
    """Mean and standard deviation, voxel by voxel, of the maps of a state; without a copy of all of them."""
    rows = np.flatnonzero(labels == state)
    mean, std = np.empty((2, values.shape[1]), dtype=np.float32)
    for start in range(0, values.shape[1], CHUNK):
        own = values[rows, start : start + CHUNK]
        mean[start : start + CHUNK], std[start : start + CHUNK] = own.mean(axis=0), own.std(axis=0)
    return mean, std
