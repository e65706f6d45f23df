"""Coordinates of all particles in volume space, predicted from their latent points by a spline through a few maps.

The paper trains an MLP on 25,000 decoded maps (Zhong et al. 2022, A.2). A trained decoder is smooth, so a polyharmonic
spline `sum_i w_i |z - z_i|^3 + affine` through a few hundred maps is enough (benchmarks/landscape.py). Its affine part
is exact for a linear subspace.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int64

from cryomorph.config.console import track
from cryomorph.latents.held_out import r2

FIRST_ROUND = 256  # maps; each later round doubles them
HELD_OUT = 4  # every fourth map is held out
SUFFICIENT_R2 = 0.98  # held-out R^2 at which no more maps are decoded, and below which coordinates are uncertain
MIN_GAIN = 0.002  # of held-out R^2 in a round, below which more maps do not help
FLAT = 1e-6  # spread of a latent direction, as a share of the widest, below which the spline ignores it
CHUNK = 1 << 14  # particles embedded at a time

Locate = Callable[[int], Float32[np.ndarray, " p"]]


@dataclass(frozen=True)
class Spline:
    """A cubic polyharmonic spline of latent points, with an affine part."""

    origin: Float64[np.ndarray, " q"]
    axes: Float64[np.ndarray, "d q"]
    interpolate: Callable[[Float64[np.ndarray, "n d"]], Float64[np.ndarray, "n p"]]

    @classmethod
    def through(cls, z: Float[np.ndarray, "m q"], values: Float[np.ndarray, "m p"]) -> Spline:
        """The spline that takes given values at given latent points; a point given twice takes the mean of its values.

        Directions in which the points do not vary, such as a collapsed coordinate, are ignored.
        """
        from scipy.interpolate import RBFInterpolator

        points, number, times = np.unique(z.astype(np.float64), axis=0, return_inverse=True, return_counts=True)
        means = np.zeros((len(points), values.shape[1]))
        np.add.at(means, number.reshape(-1), values)
        origin = points.mean(axis=0)
        _, spread, axes = np.linalg.svd(points - origin, full_matrices=False)
        axes = axes[spread > FLAT * spread[0]]
        interpolate = RBFInterpolator((points - origin) @ axes.T, means / times[:, None], kernel="cubic", degree=1)
        return cls(origin, axes, interpolate)

    def __call__(self, z: Float[np.ndarray, "n q"]) -> Float32[np.ndarray, "n p"]:
        """Values at latent points."""
        return self.interpolate((z - self.origin) @ self.axes.T).astype(np.float32)


@dataclass(frozen=True)
class ParticleEmbedding:
    """Coordinates of all particles in volume space, and how well they are predicted.

    `truth` and `predicted` are the coordinates of held-out maps: decoded, and from a spline that had not seen them.
    `rounds` pairs the number of maps decoded so far with the held-out R^2. `spline` is the one through all maps.
    """

    spline: Spline
    coordinates: Float32[np.ndarray, "n p"]
    truth: Float32[np.ndarray, "h p"]
    predicted: Float32[np.ndarray, "h p"]
    rounds: tuple[tuple[int, float], ...]

    @property
    def r2(self) -> float:
        """Held-out R^2 over all components together."""
        return _r2(self.truth, self.predicted)

    @property
    def r2_each(self) -> list[float]:
        """Held-out R^2 of each component."""
        columns = zip(self.truth.T, self.predicted.T, strict=True)
        return [_r2(t[:, None], p[:, None]) for t, p in columns]


def embed_particles(
    z: Float[np.ndarray, "n q"],
    known: tuple[Int64[np.ndarray, " k"], Float[np.ndarray, "k p"]],
    locate: Locate,
    *,
    most: int,
    seed: int = 0,
) -> ParticleEmbedding:
    """Coordinates of all particles in volume space, from the decoded maps of some.

    Maps of random particles are decoded in rounds, each twice as large as the one before, until the R^2 of a held-out
    quarter reaches 0.98 or no longer grows. The sketch is never held out, since it covers the landscape more evenly
    than particles do. The final spline goes through all maps, the held-out ones too.

    Args:
        known: particles of the sketch, and their coordinates.
        locate: decodes a particle's map and returns its coordinates.
        most: maximum number of maps to decode.
    """
    given, known_coordinates = known
    others = np.setdiff1d(np.arange(len(z)), given)
    order = np.random.default_rng(seed).permutation(others)[:most]
    found: list[Float32[np.ndarray, " p"]] = []
    rounds: list[tuple[int, float]] = []
    while True:
        target = min(len(order), 2 * len(found) or FIRST_ROUND)
        for particle in track(order[len(found) : target], f"decoding, round {len(rounds) + 1}"):
            found.append(locate(int(particle)))
        values, held = np.stack(found), _held_out(target)
        fitted = np.concatenate([given, order[:target][~held]])
        spline = Spline.through(z[fitted], np.concatenate([known_coordinates, values[~held]]))
        predicted = spline(z[order[:target][held]])
        before = rounds[-1][1] if rounds else -np.inf
        rounds.append((target, _r2(values[held], predicted)))
        if rounds[-1][1] >= SUFFICIENT_R2 or rounds[-1][1] < before + MIN_GAIN or target == len(order):
            break
    spline = Spline.through(z[np.concatenate([given, order[:target]])], np.concatenate([known_coordinates, values]))
    parts = np.array_split(z, -(-len(z) // CHUNK))
    everywhere = [spline(part) for part in track(parts, "embedding all particles", total=len(parts))]
    return ParticleEmbedding(spline, np.concatenate(everywhere), values[held], predicted, tuple(rounds))


def _r2(truth: Float[np.ndarray, "h p"], predicted: Float[np.ndarray, "h p"]) -> float:
    """R^2; 0 where the truth does not vary."""
    return float(np.nan_to_num(r2(truth, predicted)))


def _held_out(count: int) -> Bool[np.ndarray, " count"]:
    return np.arange(count) % HELD_OUT == HELD_OUT - 1
