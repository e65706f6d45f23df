"""From latent points to coordinates in volume space without decoding: a spline through maps that were decoded.

The paper trains an MLP on 25,000 maps (Zhong et al. 2022, A.2). A trained decoder is smooth, so that a polyharmonic
spline `sum_i w_i |z - z_i|^3 + affine` through a few hundred maps predicts held-out ones better, in no time
(benchmarks/landscape.py). Its affine part is exact for a linear subspace.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int64
from scipy.interpolate import RBFInterpolator

from cryomorph.config.console import track

FIRST = 256  # pairs of the first round; each later round doubles them
HELD_OUT = 4  # every fourth pair is held out: 3:1
ENOUGH = 0.98  # R^2 at which no more maps are decoded
GAIN = 0.002  # a round that brings less shows that R^2 holds
FLAT = 1e-6  # a direction of the latent whose spread is below this share of the widest tells nothing
CHUNK = 1 << 14  # particles placed at a time

Locate = Callable[[int], Float32[np.ndarray, " p"]]


@dataclass(frozen=True)
class Spline:
    """A cubic polyharmonic spline with an affine tail, in the latent's own distances."""

    origin: Float64[np.ndarray, " q"]
    axes: Float64[np.ndarray, "d q"]
    interpolate: RBFInterpolator

    @classmethod
    def through(cls, z: Float[np.ndarray, "m q"], values: Float[np.ndarray, "m p"]) -> Spline:
        """The spline through pairs that differ in `z`; a latent point given twice takes the mean of its values.

        Directions in which the points do not spread, as where a coordinate has collapsed, are left out.
        """
        points, number, times = np.unique(z.astype(np.float64), axis=0, return_inverse=True, return_counts=True)
        means = np.zeros((len(points), values.shape[1]))
        np.add.at(means, number.reshape(-1), values)
        origin = points.mean(axis=0)
        _, spread, axes = np.linalg.svd(points - origin, full_matrices=False)
        axes = axes[spread > FLAT * spread[0]]
        placed = RBFInterpolator((points - origin) @ axes.T, means / times[:, None], kernel="cubic", degree=1)
        return cls(origin, axes, placed)

    def __call__(self, z: Float[np.ndarray, "n q"]) -> Float32[np.ndarray, "n p"]:
        """Values at latent points."""
        return self.interpolate((z - self.origin) @ self.axes.T).astype(np.float32)


@dataclass(frozen=True)
class Placement:
    """Where all particles lie in volume space, and how well that is known.

    `truth` and `predicted` are the coordinates of the held-out maps, decoded and from the spline that had not seen
    them; `rounds` are pairs decoded so far with the overall R^2 that they led to. `spline` is the one through all maps.
    """

    spline: Spline
    coordinates: Float32[np.ndarray, "n p"]
    truth: Float32[np.ndarray, "h p"]
    predicted: Float32[np.ndarray, "h p"]
    rounds: tuple[tuple[int, float], ...]

    @property
    def r2(self) -> float:
        """Share of the held-out maps' variance, over all components together, that is predicted."""
        return overall_r2(self.truth, self.predicted)

    @property
    def r2_each(self) -> list[float]:
        """The same for each component."""
        columns = zip(self.truth.T, self.predicted.T, strict=True)
        return [overall_r2(t[:, None], p[:, None]) for t, p in columns]


def place_all(
    z: Float[np.ndarray, "n q"],
    known: tuple[Int64[np.ndarray, " k"], Float[np.ndarray, "k p"]],
    locate: Locate,
    *,
    most: int,
    seed: int = 0,
) -> Placement:
    """Coordinates of all particles, from those of some.

    Random particles' maps are decoded in rounds, each twice as large as the one before, a quarter of them held out,
    until R^2 on these reaches 0.98 or no longer grows. The sketch only ever trains: it lies more widely than particles
    do. The spline that places everything goes through all maps, the held-out ones too.

    Args:
        known: particles of the sketch, and their coordinates.
        locate: decodes a particle's map and says where it lies.
        most: maps to decode at most.
    """
    given, places = known
    others = np.setdiff1d(np.arange(len(z)), given)
    order = np.random.default_rng(seed).permutation(others)[:most]
    found: list[Float32[np.ndarray, " p"]] = []
    rounds: list[tuple[int, float]] = []
    while True:
        target = min(len(order), 2 * len(found) or FIRST)
        for particle in track(order[len(found) : target], f"decoding, round {len(rounds) + 1}"):
            found.append(locate(int(particle)))
        values, held = np.stack(found), _held_out(target)
        learnt = np.concatenate([given, order[:target][~held]])
        spline = Spline.through(z[learnt], np.concatenate([places, values[~held]]))
        predicted = spline(z[order[:target][held]])
        before = rounds[-1][1] if rounds else -np.inf
        rounds.append((target, overall_r2(values[held], predicted)))
        if rounds[-1][1] >= ENOUGH or rounds[-1][1] < before + GAIN or target == len(order):
            break
    spline = Spline.through(z[np.concatenate([given, order[:target]])], np.concatenate([places, values]))
    parts = np.array_split(z, -(-len(z) // CHUNK))
    everywhere = [spline(part) for part in track(parts, "placing all particles", total=len(parts))]
    return Placement(spline, np.concatenate(everywhere), values[held], predicted, tuple(rounds))


def overall_r2(truth: Float[np.ndarray, "h p"], predicted: Float[np.ndarray, "h p"]) -> float:
    """`1 - |truth - predicted|^2 / |truth - mean|^2` over all columns together; 0 where the truth does not vary."""
    spread = np.square(truth - truth.mean(axis=0), dtype=np.float64).sum()
    return float(1 - np.square(truth - predicted, dtype=np.float64).sum() / spread) if spread > 0 else 0.0


def _held_out(count: int) -> Bool[np.ndarray, " count"]:
    return np.arange(count) % HELD_OUT == HELD_OUT - 1
