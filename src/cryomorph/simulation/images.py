"""Exact images and maps of clouds of Gaussians, by separable tables in Fourier space and without interpolation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Complex64, Float, Float32, Int64
from torch import Tensor

from cryomorph.config.errors import InputError
from cryomorph.physics.ctf import Ctf, evaluate_ctf
from cryomorph.physics.pose import Pose
from cryomorph.simulation.phantoms import Cloud

TABLE_BYTES = 2**24  # of the tables of one batch; larger ones are not faster


@dataclass(frozen=True)
class Grid:
    """The sampling of density: an even box, its pixel size, and the standard deviation of the Gaussians.

    Raises:
        InputError: the box is odd, or the pixel size or sigma is not positive.
    """

    box: int
    pixel_A: float
    sigma_A: float

    def __post_init__(self) -> None:
        if self.box % 2 or self.box < 8:
            raise InputError(f"box {self.box}: expected an even box of at least 8; give another --box")
        if not (self.pixel_A > 0 and self.sigma_A > 0):
            raise InputError(f"pixel {self.pixel_A} A and sigma {self.sigma_A} A: expected both above 0")


def sigma_of_resolution(resolution_A: float) -> float:
    """Standard deviation of a Gaussian for a resolution, as in Chimera's `molmap`: `0.225 resolution`."""
    return 0.225 * resolution_A


@lru_cache(maxsize=8)
def half_plane_frequency(box: int) -> Float32[Tensor, "m 2"]:
    """`(kx, ky)` in cycles per pixel of the coefficients of `rfft2`, row by row."""
    ky, kx = torch.meshgrid(torch.fft.fftfreq(box), torch.fft.rfftfreq(box), indexing="ij")
    return torch.stack([kx.flatten(), ky.flatten()], dim=1)


def _tables(coordinate_A: Float32[Tensor, "*b m"], grid: Grid) -> Float32[Tensor, "*b rows m"]:
    """`g(k) cos 2 pi k x`, then `g(k) sin 2 pi k x`, for k = 0 .. box/2: the factors of a Gaussian's transform."""
    k = torch.arange(grid.box // 2 + 1)
    angle = (2 * torch.pi / (grid.box * grid.pixel_A)) * coordinate_A[..., None, :] * k[:, None]
    envelope = torch.exp(-2 * (torch.pi * grid.sigma_A / (grid.box * grid.pixel_A)) ** 2 * k.double() ** 2).float()
    cosine, sine = torch.cos(angle), torch.sin(angle)
    sine[..., -1, :] = 0  # the Nyquist frequency stands for both signs, whose sines cancel
    return torch.cat([cosine * envelope[:, None], sine * envelope[:, None]], dim=-2)


def project(
    position_A: Float32[Tensor, "#b m xyz"], weight: Float32[Tensor, "#b m"], grid: Grid
) -> Complex64[Tensor, "b ky kx"]:
    """Fourier transform of Gaussians projected along z, on the half plane of `rfft2`, origin at the particle's centre.

    `F(k) = sum_j w_j exp(-2 pi^2 sigma^2 k^2) exp(-2 pi i k . p_j)`; `position_A` is in image coordinates.

    Each exponential is the product of one in x and one in y, so the sum over Gaussians is one real matrix product of
    their cosines and sines; both signs of ky come from the same four blocks.
    """
    rows = grid.box // 2 + 1
    batch = max(len(position_A), len(weight))
    blocks = torch.zeros(batch, 2 * rows, 2 * rows)
    atoms = position_A.shape[1]
    step = max(1, TABLE_BYTES // (16 * rows * batch))
    for start in range(0, atoms, step):
        part = slice(start, start + step)
        along_x = _tables(position_A[:, part, 0].contiguous(), grid)
        along_y = _tables(position_A[:, part, 1].contiguous(), grid) * weight[:, None, part]
        blocks += along_y @ along_x.mT
    cos_cos, cos_sin = blocks[:, :rows, :rows], blocks[:, :rows, rows:]
    sin_cos, sin_sin = blocks[:, rows:, :rows], blocks[:, rows:, rows:]
    positive = torch.complex(cos_cos - sin_sin, -cos_sin - sin_cos)
    negative = torch.complex(cos_cos + sin_sin, sin_cos - cos_sin)
    return torch.cat([positive, negative[:, 1:-1].flip(1)], dim=1)


def map_of(cloud: Cloud, grid: Grid) -> Float32[np.ndarray, "z y x"]:
    """Density of a cloud on a grid `[z, y, x]`, origin at voxel `box // 2`; its integral is the sum of the weights.

    A plane `kz` of the transform is a projection whose weights carry the phase `exp(-2 pi i kz z)`.
    """
    position, weight = _tensors(cloud)
    rows = grid.box // 2 + 1
    along_z = _tables(position[:, 2], grid) * weight
    cosine, sine = project(position[None], along_z, grid).split(rows)
    transform = torch.cat([cosine - 1j * sine, (cosine + 1j * sine)[1:-1].flip(0)])
    density = torch.fft.fftshift(torch.fft.irfftn(transform, s=(grid.box,) * 3)) / grid.pixel_A**3
    return density.numpy()


def _tensors(cloud: Cloud) -> tuple[Float32[Tensor, "m 3"], Float32[Tensor, " m"]]:
    return torch.from_numpy(cloud.position).float(), torch.from_numpy(cloud.weight).float()


@dataclass(frozen=True)
class Padded:
    """Clouds padded to one length with atoms of weight 0, so that images of different states share a batch."""

    position: Float32[Tensor, "k m 3"]
    weight: Float32[Tensor, "k m"]

    @classmethod
    def of(cls, clouds: Sequence[Cloud]) -> Padded:
        """Pad clouds to the length of the longest."""
        longest = max(len(cloud) for cloud in clouds)
        position, weight = torch.zeros(len(clouds), longest, 3), torch.zeros(len(clouds), longest)
        for i, cloud in enumerate(clouds):
            position[i, : len(cloud)], weight[i, : len(cloud)] = _tensors(cloud)
        return cls(position, weight)

    def batch(self, grid: Grid) -> int:
        """Number of images in a batch, limited by the size of its tables."""
        return max(1, TABLE_BYTES // (16 * (grid.box // 2 + 1) * self.weight.shape[1]))


def clean_images(
    padded: Padded, label: Int64[Tensor, " b"], grid: Grid, *, pose: Pose, ctf: Ctf | None
) -> Float[Tensor, "b y x"]:
    """Noiseless images: each particle's state, rotated, shifted by `-shift_A`, with its CTF unless that is None."""
    position = padded.position[label] @ pose.rotation.float().mT[:, :, :2]
    position -= pose.shift_A.float()[:, None]
    transform = project(position, padded.weight[label], grid)
    if ctf is not None:
        frequency_per_A = half_plane_frequency(grid.box) / grid.pixel_A
        transform = transform * evaluate_ctf(ctf, frequency_per_A).float().view(transform.shape)
    images = torch.fft.irfft2(transform, s=(grid.box, grid.box))
    return torch.fft.fftshift(images, dim=(-2, -1))
