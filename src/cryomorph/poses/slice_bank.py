"""Slices of maps at all rotations of a grid of SO(3), and their overlaps with images as matrix products.

See docs/methods.md, "Ab initio".
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Complex64, Float32, Int64
from torch import Tensor

from cryomorph.physics.disk import FourierDisk
from cryomorph.physics.slicing import PaddedGrid, locate_slices
from cryomorph.physics.so3_grid import grid_rotations, grid_size

POINTS = 1 << 22  # coefficients of slices extracted at once


def shift_grid(extent_pixel: float | int, step_pixel: float | int) -> Float32[Tensor, "t 2"]:
    """Shifts on a square grid up to `extent_pixel` along each axis, at most `step_pixel` apart."""
    count = 1 + 2 * math.ceil(extent_pixel / step_pixel - 1e-6) if extent_pixel > 0 else 1
    line = torch.linspace(-extent_pixel, extent_pixel, count) if count > 1 else torch.zeros(1)
    return torch.cartesian_prod(line, line)


def shift_step(box: int, radius: float | int) -> float:
    """Step of shifts in pixels: a third of the shortest wavelength within a radius in Fourier pixels."""
    return box / (3 * radius)


@dataclass(frozen=True)
class SliceBank:
    """Slices of several maps at all rotations of a grid of SO(3), the grid rotated as a whole by `offset`.

    A 180-degree in-plane rotation conjugates an image's coefficients: only rotations with in-plane angles below 180
    degrees are stored, and each slice also stands for its conjugate. `slices` (c, h, m) are those of each map, such as
    the mean and the components of a subspace; `cell` (h,) are the numbers of their rotations.
    """

    level: int
    offset: Float32[Tensor, "3 3"]
    cell: Int64[Tensor, " h"]
    slices: Complex64[Tensor, "c h m"]

    @classmethod
    def of(
        cls,
        maps: Complex64[Tensor, "points c"],
        grid: PaddedGrid,
        *,
        disk: FourierDisk,
        level: int,
        offset: Float32[Tensor, "3 3"],
    ) -> SliceBank:
        """Slice maps, given by their Fourier transforms, at all rotations `G offset` of a level."""
        cell = first_half(level)
        turned = grid_rotations(level, cell) @ offset.cpu()
        parts = [
            locate_slices(grid, disk.frequency, part.to(maps.device)).extract(maps)
            for part in turned.split(max(1, POINTS // disk.size))
        ]
        return cls(level, offset, cell, torch.cat(parts).movedim(2, 0).contiguous())

    @property
    def columns(self) -> int:
        """Number of rotations: those of the slices, then those of their conjugates."""
        return 2 * len(self.cell)

    @property
    def rotation(self) -> Float32[Tensor, "h 3 3"]:
        """Rotations of the stored slices."""
        return grid_rotations(self.level, self.cell) @ self.offset.cpu()

    def numbers(self, column: Int64[Tensor, "*n"]) -> Int64[Tensor, "*n"]:
        """Number of the rotation of each column of `products`."""
        half = len(self.cell)
        return self.cell.to(column.device)[column % half] + (column // half) * half_turn(self.level)

    def at(self, cell: Int64[Tensor, "*n"]) -> Complex64[Tensor, "c ... m"]:
        """Slices of every map at rotations given by their numbers."""
        half, angles = half_turn(self.level), 2 * half_turn(self.level)
        direction, angle = cell // angles, cell % angles
        found = self.slices[:, direction * half + angle % half]
        imaginary = torch.where((angle >= half)[..., None], -found.imag, found.imag)
        return torch.complex(found.real, imaginary)

    def products(
        self, image: Complex64[Tensor, "b t m"], weight: Float32[Tensor, "b m"]
    ) -> tuple[Float32[Tensor, "c b t two h"], Float32[Tensor, "b 1 1 h c c"]]:
        """Overlaps `Re <C X_t, S_k>` of images at each shift with each slice, and Gram matrices `Re <C^2, S_k S_l*>`.

        The axis of length two is the slice and its conjugate, which share their Gram matrix.

        Args:
            image: `C X_t`.
            weight: `C^2`.
        """
        flat = image.flatten(0, 1)
        count, half, _ = self.slices.shape
        overlap = flat.real.new_empty(count, len(flat), 2, half)
        gram = weight.new_empty(len(weight), half, count, count)
        for k, slices in enumerate(self.slices):
            real, imaginary = flat.real @ slices.real.mT, flat.imag @ slices.imag.mT
            torch.add(real, imaginary, out=overlap[k, :, 0])
            torch.sub(real, imaginary, out=overlap[k, :, 1])
            for other in range(k + 1):
                power = slices.real * self.slices[other].real + slices.imag * self.slices[other].imag
                gram[..., k, other] = gram[..., other, k] = weight @ power.mT
        return overlap.unflatten(1, image.shape[:2]), gram[:, None, None]


def first_half(level: int) -> Int64[Tensor, " h"]:
    """Numbers of the rotations of a level whose in-plane angle is below 180 degrees."""
    number = torch.arange(grid_size(level))
    return number[number % (2 * half_turn(level)) < half_turn(level)]


def half_turn(level: int) -> int:
    """Increment of a rotation's number for a 180-degree in-plane rotation."""
    return 6 * 2**level
