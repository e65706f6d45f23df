"""The landscape of a model in volume space: its maps' states and coordinates, after Zhong et al. 2022."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int64
from torch import Tensor

from cryomorph.analysis.landscape.curve import VolumeCurve, volume_curve
from cryomorph.analysis.landscape.embedding import ParticleEmbedding, embed_particles
from cryomorph.analysis.landscape.sketch import (
    Decode,
    Sketch,
    VolumeSpace,
    finite,
    sketch_maps,
    sketch_mask,
    volume_space,
)
from cryomorph.analysis.landscape.states import States, find_states
from cryomorph.analysis.latent import kmeans_on_data
from cryomorph.analysis.paths import volume_component_path
from cryomorph.analysis.umap_embedding import umap_embedding
from cryomorph.config.console import say, track, warn
from cryomorph.config.errors import InputError
from cryomorph.config.landscape import LandscapeConfig

FEWEST = 40  # particles
SHARE = 4  # particles for each map of the sketch, at least
MUCH = 4 << 30  # bytes of maps that are worth a warning


@dataclass(frozen=True)
class Landscape:
    """A landscape: the sketch of maps, the space they span, the coordinates of all particles in it, and their states.

    `mds` and `umap` are two-dimensional embeddings of the sketch's maps. `seconds` holds the duration of each step.
    """

    z: Float64[np.ndarray, "n q"]
    sketch: Sketch
    mask: Float32[Tensor, "z y x"]
    space: VolumeSpace
    embedding: ParticleEmbedding
    states: States
    curve: VolumeCurve
    mds: Float32[np.ndarray, "k 2"]
    umap: Float32[np.ndarray, "k 2"] | None
    seconds: dict[str, float]

    @property
    def sketch_coordinates(self) -> Float32[np.ndarray, "k p"]:
        """Coordinates of the sketch on the components that were kept."""
        return kept_scores(self.space)

    @property
    def mean_map(self) -> Float32[Tensor, "z y x"]:
        """The mean of the sketch's maps."""
        return self.sketch.map(self.sketch.values.mean(axis=0, dtype=np.float64))


@dataclass(frozen=True)
class Trajectory:
    """Maps decoded at particles along a coordinate; along a component also the mean map plus a multiple of it.

    `position` are the particles' places along the coordinate.
    """

    particles: Int64[np.ndarray, " m"]
    position: Float32[np.ndarray, " m"]
    decoded: Float32[Tensor, "m z y x"]
    linear: Float32[Tensor, "m z y x"] | None


@contextmanager
def timed(seconds: dict[str, float], step: str) -> Iterator[None]:
    """Record the duration of a step."""
    start = perf_counter()
    yield
    seconds[step] = perf_counter() - start


def sketch_size(config: LandscapeConfig, n: int) -> int:
    """Maps in the sketch of `n` particles: as many as asked for, and at most a quarter of the particles.

    Raises:
        InputError: there are fewer than 40 particles, or fewer maps than states.
    """
    if n < FEWEST:
        raise InputError(f"{config.run} has {n} particles, too few for a landscape: expected at least {FEWEST}")
    size = min(config.sketch, n // SHARE)
    if size < config.states:
        raise InputError(
            f"--states {config.states}: the sketch of {n} particles has {size} maps (a quarter of them); expected at "
            "most as many states"
        )
    if size < config.sketch:
        say(f"sketch of {size} maps: a quarter of the {n} particles")
    return size


def find_landscape(
    config: LandscapeConfig,
    decode: Decode,
    box: int,
    *,
    z: Float64[np.ndarray, "n q"],
    std: Float[np.ndarray, "n q"],
    mask: Float32[Tensor, "z y x"] | None = None,
) -> Landscape:
    """Find the landscape of particles with latent points `z`, whose maps in a box come from `decode`.

    Args:
        std: standard deviations of the latent points.
        mask: where maps are compared; around the sketch's density by default.

    Raises:
        InputError: too few particles, maps that are not finite or all alike.
    """
    seconds: dict[str, float] = {}
    size = sketch_size(config, len(z))
    needed = size * math.pi / 6 * box**3 * 4
    if needed > MUCH:
        size_GB = needed / 2**30
        warn(f"{size} maps of {box} voxels take {size_GB:.0f} GB of memory: give a smaller --sketch or --box")
    with timed(seconds, "sketch: k-means"):
        particles = kmeans_on_data(z, size, seed=config.seed).centre_index
    with timed(seconds, "sketch: decoding"):
        sketch = sketch_maps(decode, z, particles, box=box)
    with timed(seconds, "volume components"):
        mask = sketch_mask(sketch) if mask is None else mask
        space = volume_space(sketch, mask, most=config.pcs)
    coordinates = kept_scores(space)

    def locate(particle: int) -> Float32[np.ndarray, " p"]:
        return space.coordinates(finite(decode(z[particle]), particle))

    with timed(seconds, "embedding all particles"):
        embedding = embed_particles(z, (particles, coordinates), locate, most=config.pairs, seed=config.seed)
    with timed(seconds, "states"):
        states = find_states(
            space.scores,
            embedding.coordinates,
            sketch_coordinates=coordinates,
            count=config.states,
            method=config.linkage,
        )
    with timed(seconds, "curve"):
        curve = volume_curve(embedding.spline, embedding.coordinates, z=z, std=std, seed=config.seed)
    with timed(seconds, "MDS and UMAP"):
        mds = multidimensional_scaling(space.scores)
        umap = None
        if config.umap:
            threads = torch.get_num_threads()  # UMAP's compiler changes it
            umap = umap_embedding(space.scores.astype(np.float32), seed=config.seed)
            torch.set_num_threads(threads)
    return Landscape(z, sketch, mask, space, embedding, states, curve, mds, umap, seconds)


def kept_scores(space: VolumeSpace) -> Float32[np.ndarray, "k p"]:
    """The sketch's coordinates on the components that were kept."""
    return space.scores[:, : len(space.ratio)].astype(np.float32)


def multidimensional_scaling(scores: Float64[np.ndarray, "k r"]) -> Float32[np.ndarray, "k 2"]:
    """Multidimensional scaling: a planar embedding that approximates the distances between maps.

    By stress majorisation (SMACOF) from the first two principal components, so that it is reproducible.
    """
    from sklearn.manifold import smacof
    from sklearn.metrics import pairwise_distances

    start = np.pad(scores[:, :2], ((0, 0), (0, max(0, 2 - scores.shape[1]))))
    placed = smacof(pairwise_distances(scores), n_components=2, init=start, n_init=1, normalized_stress=False)[0]
    return placed.astype(np.float32)


def trajectory(found: Landscape, decode: Decode, component: int | None, *, points: int) -> Trajectory:
    """Maps along a component (0-based), or along the curve where that is None, from the 5th to the 95th percentile.

    Each is decoded at a particle: the nearest to evenly spaced places, the other coordinates at the median of the
    particles around, so that the maps lie on the landscape. Fewer than `points` where two places share a particle.
    """
    coordinates = found.embedding.coordinates
    along = found.curve.position if component is None else coordinates[:, component]
    extent = float(np.linalg.norm(coordinates.std(axis=0)))
    space = np.column_stack([coordinates, found.curve.position * extent])
    chosen = coordinates.shape[1] if component is None else component
    path = volume_component_path(found.z, space, chosen, points=points)
    particles = np.asarray(path.particles, dtype=np.int64)
    name = "the curve" if component is None else f"volume PC{component + 1}"
    decoded = torch.stack([decode(found.z[i]) for i in track(particles, f"decoding along {name}")])
    linear = None
    if component is not None:
        step = torch.from_numpy(along[particles].astype(np.float32))[:, None, None, None]
        linear = found.mean_map + step * found.space.eigenvolume(component)
    return Trajectory(particles, along[particles].astype(np.float32), decoded, linear)
