"""A molecule of Gaussian blobs, in closed form, and stores of its images: what inference can be checked against."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import Tensor

from cryomorph.representations.base import Representation

if TYPE_CHECKING:
    from cryomorph.particles.store import ParticleStore
    from cryomorph.physics.disk import FourierDisk

BOX = 16
WIDTH_PX = 1.3


@dataclass(frozen=True)
class Blobs:
    """Gaussian blobs whose weights are linear in z: `centre` (j, 3) in pixels, `weight` (zdim + 1, j).

    `slices` is the closed form in double precision, `maps` that on a voxel grid; `representation` is the first for the
    code under test.
    """

    centre: np.ndarray
    weight: np.ndarray

    @classmethod
    def of(cls, *, zdim: int, strength: float, seed: int = 0) -> Blobs:
        """Nine blobs at random places, at most 4.5 pixels from the origin along each axis."""
        rng = np.random.default_rng(seed)
        weight = rng.normal(size=(zdim + 1, 9)) * 0.5
        weight[0] = rng.uniform(0.5, 1.5, 9)
        return cls(rng.uniform(-4.5, 4.5, (9, 3)), strength * weight)

    def slices(self, z: np.ndarray, rotation: np.ndarray, frequency: np.ndarray) -> np.ndarray:
        """(b, m) at `frequency` (m, 2) cycles per pixel: `sum_j w_j(z) exp(-2 pi^2 s^2 k^2 - 2 pi i k . (R r_j))`."""
        weight = self.weight[0] + z @ self.weight[1:]
        place = np.einsum("bij,nj->bni", rotation, self.centre)[..., :2]
        phase = np.exp(-2j * np.pi * np.einsum("mi,bni->bmn", frequency, place))
        envelope = np.exp(-2 * np.pi**2 * WIDTH_PX**2 * (frequency**2).sum(1))
        return np.einsum("bmn,bn->bm", phase, weight) * envelope

    def maps(self) -> Tensor:
        """The blobs on the grid [z, y, x]: `sum_j w_j (2 pi s^2)^(-3/2) exp(-|r - r_j|^2 / (2 s^2))` of each row."""
        axis = np.arange(BOX) - BOX // 2
        along = np.exp(-((axis - self.centre[..., None]) ** 2) / (2 * WIDTH_PX**2)) / np.sqrt(2 * np.pi * WIDTH_PX**2)
        maps = np.einsum("cj,jx,jy,jz->czyx", self.weight, along[:, 0], along[:, 1], along[:, 2])
        return torch.from_numpy(maps).float()

    def representation(self) -> Representation:
        """The blobs as a representation, in single precision."""
        return _BlobField(self)


class _BlobField(Representation):
    def __init__(self, blobs: Blobs) -> None:
        super().__init__()
        self.zdim = len(blobs.weight) - 1
        self.centre: Tensor
        self.weight: Tensor
        self.register_buffer("centre", torch.from_numpy(blobs.centre).float())
        self.register_buffer("weight", torch.from_numpy(blobs.weight).float())

    def slices(self, z: Tensor, rotation: Tensor, disk: FourierDisk) -> Tensor:
        k = disk.frequency.float() / disk.box
        angle = -2 * torch.pi * (k @ rotation[:, :2]) @ self.centre.T
        weight = (self.weight[0] + z @ self.weight[1:])[:, None]
        weight = weight * torch.exp(-2 * torch.pi**2 * WIDTH_PX**2 * k.square().sum(1))[:, None]
        return torch.complex((weight * angle.cos()).sum(-1), (weight * angle.sin()).sum(-1))

    def volume(self, z: Tensor, box: int) -> Tensor:
        raise NotImplementedError("no test asks for the blobs' map")


@dataclass(frozen=True)
class Simulated:
    """A store of images of blobs, and what they were made with; the store's poses are off by `offset`."""

    store: ParticleStore
    z: np.ndarray
    rotation: np.ndarray
    shift_px: np.ndarray


def simulate(
    blobs: Blobs, folder: Path, *, n: int, noise: float = 1.0, offset: np.ndarray | None = None, seed: int = 0
) -> Simulated:
    """Images of blobs at random poses in a store, without CTF, with unit noise times `noise`.

    `offset` (n, 5): the poses in the store are the true ones turned back by `exp(offset[:3])` and shorter by
    `offset[3:]` pixels, so that the offset is what a refinement has to find.
    """
    from scipy.spatial.transform import Rotation

    from cryomorph.particles.store import COEFFICIENTS, FORMAT, Manifest, ParticleStore, write_manifest
    from cryomorph.physics.disk import fourier_disk

    rng = np.random.default_rng(seed)
    offset = np.zeros((n, 5)) if offset is None else offset
    disk = fourier_disk(BOX)
    k = disk.frequency.numpy() / BOX
    z = rng.normal(size=(n, len(blobs.weight) - 1))
    true = Rotation.random(n, random_state=seed)
    shift = rng.uniform(-1, 1, (n, 2))
    # the shift centres the particle: its content lies at -shift
    image = blobs.slices(z, true.as_matrix(), k) * np.exp(2j * np.pi * shift @ k.T)
    image += noise * (rng.normal(size=image.shape) + 1j * rng.normal(size=image.shape)) / np.sqrt(2)
    given = Rotation.from_rotvec(-offset[:, :3]) * true
    folder.mkdir(parents=True)
    arrays = {
        COEFFICIENTS: np.stack([image.real, image.imag], -1).astype(np.float16),
        "row.npy": np.arange(n),
        "half.npy": np.arange(n) % 2,
        "rotation.npy": given.as_matrix().astype(np.float32),
        "shift_A.npy": (2.0 * (shift - offset[:, 3:])).astype(np.float32),
        "noise_amplitude.npy": np.ones(BOX // 2 + 1, np.float32),
    }
    for name, array in arrays.items():
        np.save(folder / name, array)
    facts = {"source": "blobs", "metadata": "", "inverted": False, "contrast_reason": "", "left_out": [], "ignored": []}
    sizes = {"n": n, "rows": n, "box": BOX, "pixel_A": 2.0, "source_box": BOX, "source_pixel_A": 2.0}
    write_manifest(Manifest(format=FORMAT, **sizes, **json.loads(json.dumps(facts))), folder)
    return Simulated(ParticleStore.open(folder), z, true.as_matrix(), shift)


@pytest.fixture(scope="session")
def blobs_of() -> type[Blobs]:
    """Makes blobs: `blobs_of.of(zdim=, strength=)`."""
    return Blobs


@pytest.fixture(scope="session")
def simulated() -> object:
    """Makes stores of blobs' images, see `simulate`."""
    return simulate
