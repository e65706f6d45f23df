"""Central slices of a volume's Fourier transform, and their exact adjoint: trilinear on a grid padded by two.

A grid is the half of an unnormalised 3D Fourier transform with `kx >= 0`, flattened to rows `[kz, ky, kx]` in FFT
order, with a column per volume. Its coefficients have the scale of image coefficients, whatever the box of the volume.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import torch
from jaxtyping import Bool, Complex64, Float, Float32, Int32, Int64
from scipy.sparse import csr_array
from torch import Tensor


@dataclass(frozen=True)
class PaddedGrid:
    """Geometry of the half-grid of a volume of `box` voxels, zero-padded by `padding` before its transform."""

    box: int
    padding: int = 2

    @property
    def edge(self) -> int:
        """Samples along `kz` and `ky`."""
        return self.box * self.padding

    @property
    def half(self) -> int:
        """Samples along `kx`: 0 to Nyquist."""
        return self.edge // 2 + 1

    @property
    def rows(self) -> int:
        """Samples of the half-grid."""
        return self.edge * self.edge * self.half

    @cached_property
    def radius(self) -> Float32[Tensor, " rows"]:
        """Distance of each row from the origin in Fourier pixels of the unpadded box."""
        k = torch.fft.fftfreq(self.edge, 1 / self.box)
        kx = torch.fft.rfftfreq(self.edge, 1 / self.box)
        return (k[:, None, None] ** 2 + k[None, :, None] ** 2 + kx**2).sqrt().reshape(-1).float()

    @cached_property
    def attenuation(self) -> Float32[Tensor, "z y x"]:
        """Factor by which trilinear interpolation in Fourier space attenuates the volume: `sinc^2` along each axis."""
        line = torch.sinc((torch.arange(self.box) - self.box // 2) / self.edge) ** 2
        return (line[:, None, None] * line[:, None] * line).float()

    def from_volumes(self, volumes: Float32[Tensor, "c z y x"]) -> Complex64[Tensor, "rows c"]:
        """Fourier transform of volumes, corrected so that its trilinear samples are accurate to first order."""
        low = (self.edge - self.box) // 2
        grid = torch.empty(self.rows, len(volumes), dtype=torch.complex64, device=volumes.device)
        padded = volumes.new_zeros(self.edge, self.edge, self.edge)
        inside = (slice(low, low + self.box),) * 3
        attenuation = self.attenuation.to(volumes.device)
        for column, volume in enumerate(volumes):
            padded[inside] = volume / attenuation
            grid[:, column] = torch.fft.rfftn(torch.fft.ifftshift(padded)).reshape(-1)
        return grid

    def to_volumes(self, grid: Complex64[Tensor, "rows c"]) -> Float32[Tensor, "c z y x"]:
        """Volumes from transforms estimated by trilinear insertion; the attenuation is divided out."""
        # the voxels that are kept, in the order of the FFT: taken first, fewer are moved than by fftshift
        kept = (torch.arange(self.box, device=grid.device) + (self.edge - self.box) // 2 - self.edge // 2) % self.edge
        shape = (self.edge, self.edge, self.half)
        volumes = torch.empty(grid.shape[1], *(self.box,) * 3, device=grid.device)
        attenuation = self.attenuation.to(grid.device)
        for column in range(grid.shape[1]):
            full = torch.fft.irfftn(grid[:, column].reshape(shape), s=(self.edge,) * 3)
            volumes[column] = full[kept][:, kept][:, :, kept] / attenuation
        return volumes

    def fold(self, grid: Tensor) -> Tensor:
        """Add the Friedel mates to the planes `kx = 0` and Nyquist of accumulated rows `(rows, c)`, in place.

        Samples are inserted at `kx >= 0` only, so that these planes lack the contributions of the mates at `-k`.
        """
        shaped = grid.view(self.edge, self.edge, self.half, grid.shape[1])
        mate = (-torch.arange(self.edge, device=grid.device)) % self.edge
        for plane in (0, self.half - 1):
            face = shaped[:, :, plane]
            shaped[:, :, plane] = face + face[mate][:, mate].conj()
        return grid


@lru_cache(maxsize=16)
def padded_grid(box: int) -> PaddedGrid:
    """The padded grid of a box, cached."""
    return PaddedGrid(box)


@dataclass(frozen=True)
class Slices:
    """Positions of the coefficients of a batch of central slices on a grid: eight rows and weights for each.

    Points with `kx < 0` are sampled at `-k`, and their coefficients conjugated (`flipped`).
    """

    grid: PaddedGrid
    shape: tuple[int, int]
    row: Int32[Tensor, "points 8"]
    weight: Float32[Tensor, "points 8"]
    flipped: Bool[Tensor, " points"]

    def extract(self, grid: Complex64[Tensor, "rows c"]) -> Complex64[Tensor, "b m c"]:
        """Trilinear samples of each column; differentiable with respect to the grid."""
        columns = torch.view_as_real(grid).flatten(1)
        flat = torch.nn.functional.embedding_bag(self.row, columns, per_sample_weights=self.weight, mode="sum")
        values = torch.view_as_complex(flat.unflatten(1, (-1, 2)))
        sign = 1 - 2 * self.flipped.to(flat.dtype)[:, None]
        return torch.complex(values.real, values.imag * sign).unflatten(0, self.shape)

    def insert(
        self, values: Complex64[Tensor, "b m c"], weights: Float32[Tensor, "b m w"]
    ) -> tuple[Complex64[Tensor, "rows c"], Float32[Tensor, "rows w"]]:
        """The adjoint of `extract`, for complex and for real columns; to be followed by `PaddedGrid.fold`."""
        c = values.shape[-1]
        sign = 1 - 2 * self.flipped.to(torch.float32)[:, None]
        flat = values.flatten(0, 1)
        columns = torch.cat([flat.real, flat.imag * sign, weights.flatten(0, 1)], dim=1)
        summed = self._scatter(columns)
        return torch.complex(summed[:, :c], summed[:, c : 2 * c]), summed[:, 2 * c :]

    def _scatter(self, columns: Float32[Tensor, "points c"]) -> Float32[Tensor, "rows c"]:
        if columns.device.type == "cpu":
            # scipy's sparse product is five times as fast as index_add_ here: benchmarks/slicing.py
            points = len(columns)
            start = np.arange(0, 8 * points + 1, 8, dtype=np.int32)
            entries = (self.weight.numpy().ravel(), self.row.numpy().ravel(), start)
            transposed = csr_array(entries, shape=(points, self.grid.rows)).T
            parts = columns.tensor_split(min(torch.get_num_threads(), max(1, columns.shape[1] // 2)), dim=1)
            with ThreadPoolExecutor(len(parts)) as pool:
                summed = pool.map(lambda part: torch.from_numpy(transposed @ part.contiguous().numpy()), parts)
            return torch.cat(list(summed), dim=1)
        out = columns.new_zeros(self.grid.rows, columns.shape[1])
        for corner in range(8):
            out.index_add_(0, self.row[:, corner], columns * self.weight[:, corner, None])
        return out


def locate_slices(
    grid: PaddedGrid, frequency: Int64[Tensor, "m 2"] | Float[Tensor, "m 2"], rotation: Float32[Tensor, "b 3 3"]
) -> Slices:
    """Positions of central slices: frequency `k2` (Fourier pixels) samples the volume's transform at `k2 @ R[:2]`."""
    k3 = (frequency.to(rotation) * grid.padding) @ rotation[:, :2]
    x, y, z = k3.flatten(0, 1).T.contiguous()
    flipped = x < 0
    sign = torch.where(flipped, -1.0, 1.0)
    (x0, fx), (y0, fy), (z0, fz) = (_cell(axis * sign) for axis in (x, y, z))
    row = torch.empty(len(x), 8, dtype=torch.int32, device=x.device)
    weight = torch.empty(len(x), 8, device=x.device)
    # column by column, which is faster than a broadcast product over the eight corners (benchmarks/slicing.py)
    for number, (dz, dy) in enumerate(((0, 0), (0, 1), (1, 0), (1, 1))):
        line = (((z0 + dz) % grid.edge) * grid.edge + (y0 + dy) % grid.edge) * grid.half + x0
        share = (fz if dz else 1 - fz) * (fy if dy else 1 - fy)
        row[:, 2 * number], row[:, 2 * number + 1] = line, line + 1
        weight[:, 2 * number], weight[:, 2 * number + 1] = share * (1 - fx), share * fx
    return Slices(grid, (len(rotation), len(frequency)), row, weight, flipped)


def _cell(position: Float32[Tensor, " p"]) -> tuple[Int32[Tensor, " p"], Float32[Tensor, " p"]]:
    """The grid point below each position, and the fraction of a step beyond it."""
    low = position.floor()
    return low.int(), position - low
