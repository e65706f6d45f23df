"""The space of a model's maps: a sketch of them in memory, their mask, and their principal components.

The paper is cryoDRGN's landscape analysis (Zhong et al. 2022, sections 2.3 to 2.5).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64, Int64
from torch import Tensor

from cryomorph.compute.precision import bfloat16_pays
from cryomorph.config.console import track
from cryomorph.config.errors import InputError
from cryomorph.representations.base import Representation
from cryomorph.volumes.backproject import mirror
from cryomorph.volumes.masks import soften, spherical_mask

Decode = Callable[[Float[np.ndarray, " q"]], Float32[Tensor, "z y x"]]
GROWN = 2.0  # voxels that the mask is grown by, and as many of soft edge: the finest detail is two voxels wide
NEGLIGIBLE = 1e-4  # share of the variance below which a component is left out


def decoder(representation: Representation, box: int, device: torch.device, *, flip_hand: bool = False) -> Decode:
    """A function from a latent point to its map in a box, on the CPU, as fast as this machine and method allow.

    The maps are those of `Representation.volume`, up to the rounding of bfloat16 where the machine gains by that.

    Args:
        flip_hand: make their mirror images.
    """
    make = representation.to(device).decoder(box, half_precision=bfloat16_pays(device))

    @torch.no_grad()
    def decode(z: Float[np.ndarray, " q"]) -> Float32[Tensor, "z y x"]:
        made = make(torch.as_tensor(z, dtype=torch.float32, device=device)).cpu()
        return mirror(made) if flip_hand else made

    return decode


@dataclass(frozen=True)
class Sketch:
    """Maps that stand for all, in memory: their voxels within the inscribed sphere, where alone they are kept.

    A sketch of 500 takes 0.27 GB at box 64 and eight times that at box 128.

    Args:
        particles: (k,) the particle whose map each is.
        values: (k, voxels) float32.
        dense: where any of the maps exceeds half of its own maximum.
    """

    particles: Int64[np.ndarray, " k"]
    values: Float32[np.ndarray, "k voxels"]
    dense: Bool[Tensor, "z y x"]

    @property
    def box(self) -> int:
        """Box of the maps."""
        return int(self.dense.shape[-1])

    def map(self, values: Float[np.ndarray, " voxels"]) -> Float32[Tensor, "z y x"]:
        """Values on the sphere's voxels as a map, 0 outside it."""
        return _unfold(torch.from_numpy(np.asarray(values, dtype=np.float32)), sphere(self.box))


def sphere(box: int) -> Bool[Tensor, "z y x"]:
    """The voxels of the inscribed sphere: the molecule turns within it."""
    return spherical_mask(box, box / 2) > 0


def sketch_maps(decode: Decode, z: Float[np.ndarray, "n q"], particles: Int64[np.ndarray, " k"], *, box: int) -> Sketch:
    """Decode the maps of some particles.

    Raises:
        InputError: a map is not finite, or none has density above 0.
    """
    kept = sphere(box)
    values = np.empty((len(particles), int(kept.sum())), dtype=np.float32)
    dense = torch.zeros(box, box, box, dtype=torch.bool)
    for row, particle in enumerate(track(particles, "decoding the sketch", total=len(particles))):
        volume = finite(decode(z[particle]), int(particle))
        values[row] = volume[kept].numpy()
        dense |= volume > volume.max().clamp(min=0) / 2
    dense &= kept
    if not dense.any():
        raise InputError("no map of the sketch has density above 0: the model says nothing; look at its training")
    return Sketch(particles, values, dense)


def finite(volume: Float32[Tensor, "z y x"], particle: int) -> Float32[Tensor, "z y x"]:
    """A decoded map; `InputError` where it has values that are not finite."""
    if not bool(torch.isfinite(volume).all()):
        raise InputError(f"the map of particle {particle} (0-based) is not finite: train again, or leave it out")
    return volume


def sketch_mask(sketch: Sketch) -> Float32[Tensor, "z y x"]:
    """The union of what exceeds half of each map's maximum, grown by two voxels, with a soft edge of two."""
    return soften(sketch.dense, 1.0, dilate_A=GROWN, edge_A=GROWN).float()


@dataclass(frozen=True)
class VolumeSpace:
    """Principal components of masked maps: `coordinates = (w V - mean) @ components.T`, most variance first.

    `voxels` are the indices within the flat map that the mask leaves, `weight` its values there. `ratio` is each kept
    component's share of the sketch's variance. `scores` are the sketch's own coordinates on all components there are:
    their Euclidean distances are those of the masked maps. Each component's largest loading is positive.
    """

    box: int
    voxels: Int64[np.ndarray, " m"]
    weight: Float32[np.ndarray, " m"]
    mean: Float32[np.ndarray, " m"]
    components: Float32[np.ndarray, "p m"]
    ratio: Float64[np.ndarray, " p"]
    scores: Float64[np.ndarray, "k r"]

    def coordinates(self, volume: Float32[Tensor, "z y x"]) -> Float32[np.ndarray, " p"]:
        """Where a map lies along the components."""
        return self.components @ (volume.numpy().reshape(-1)[self.voxels] * self.weight - self.mean)

    def eigenvolume(self, component: int) -> Float32[Tensor, "z y x"]:
        """A component as a map of norm 1, 0 outside the mask; 0-based."""
        flat = torch.zeros(self.box**3)
        flat[torch.from_numpy(self.voxels)] = torch.from_numpy(self.components[component])
        return flat.view(self.box, self.box, self.box)


def volume_space(sketch: Sketch, mask: Float32[Tensor, "z y x"], *, most: int = 10) -> VolumeSpace:
    """Principal component analysis of a sketch's masked maps (Zhong et al. 2022, section 2.5).

    By the maps' inner products, a (k, k) matrix: a map has many more voxels than there are maps.

    Args:
        mask: 0 to 1; what lies outside the inscribed sphere does not count.
        most: components to keep at most; those with less than 0.01 % of the variance are left out.

    Raises:
        InputError: the mask leaves nothing, or all maps are alike within it.
    """
    kept = sphere(sketch.box)
    weight = mask[kept].numpy().astype(np.float32)
    inside = np.flatnonzero(weight > 0)
    if not len(inside):
        raise InputError("the mask is empty within the sphere in which maps are compared: give another")
    weight = weight[inside]
    values = sketch.values[:, inside]
    values *= weight  # in place: a second copy of the sketch would be the largest thing in memory
    mean = values.mean(axis=0, dtype=np.float64).astype(np.float32)
    values -= mean
    variance, vectors = np.linalg.eigh((values @ values.T).astype(np.float64))
    variance, vectors = variance[::-1].clip(min=0), vectors[:, ::-1]
    # rounding leaves a little variance even where all maps are one
    if not variance.sum() > 1e-10 * len(values) * float(np.square(mean, dtype=np.float64).sum()):
        raise InputError("all maps of the sketch are alike within the mask: there is no landscape")
    ratio = variance / variance.sum()
    count = max(1, min(most, int((ratio >= NEGLIGIBLE).sum())))
    components = (vectors[:, :count] / np.sqrt(variance[:count])).T.astype(np.float32) @ values
    largest = np.abs(components).argmax(axis=1)
    sign = np.sign(components[np.arange(count), largest])
    scores = vectors * np.sqrt(variance)
    scores[:, :count] *= sign
    voxels = torch.nonzero(kept.flatten()).squeeze(1).numpy()[inside]
    return VolumeSpace(
        sketch.box,
        voxels,
        weight,
        mean,
        components * sign[:, None].astype(np.float32),
        ratio[:count],
        scores[:, ratio > 1e-12],
    )


def _unfold(values: Float32[Tensor, " voxels"], kept: Bool[Tensor, "z y x"]) -> Float32[Tensor, "z y x"]:
    volume = torch.zeros(kept.shape)
    volume[kept] = values
    return volume
