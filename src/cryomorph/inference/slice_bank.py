"""Slices of maps at all rotations of a grid of SO(3), and what they say of images: products of matrices (METHODS 6)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Complex64, Float32, Int64
from torch import Tensor

from cryomorph.physics.disk import FourierDisk
from cryomorph.physics.slicing import PaddedGrid, locate_slices
from cryomorph.physics.so3_grid import grid_rotations, grid_size

POINTS = 1 << 22  # coefficients of slices located at once


def shift_grid(extent_pixel: float | int, step_pixel: float | int) -> Float32[Tensor, "t 2"]:
    """Shifts on a square grid out to `extent_pixel` along each axis, no further apart than `step_pixel`."""
    count = 1 + 2 * math.ceil(extent_pixel / step_pixel - 1e-6) if extent_pixel > 0 else 1
    line = torch.linspace(-extent_pixel, extent_pixel, count) if count > 1 else torch.zeros(1)
    return torch.cartesian_prod(line, line)


def shift_step(box: int, band: float | int) -> float:
    """The step of shifts, in pixels, that is a third of the shortest wavelength in a band."""
    return box / (3 * band)


@dataclass(frozen=True)
class SliceBank:
    """Slices of one or more maps at all rotations of a grid of SO(3), turned as a whole by an offset.

    An image turned by 180 degrees is the complex conjugate of its coefficients: only the rotations with the first half
    of in-plane angles are kept, and each counts twice, as it is and conjugated. `slices` (c h, m) are those of the
    first map, then the second; `cell` (h,) the numbers of their rotations.
    """

    level: int
    offset: Float32[Tensor, "3 3"]
    cell: Int64[Tensor, " h"]
    slices: Complex64[Tensor, "rows m"]

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
        """Slice maps, given by their transforms, at all rotations `G offset` of a level."""
        cell = first_half(level)
        turned = grid_rotations(level, cell) @ offset.cpu()
        parts = [
            locate_slices(grid, disk.frequency, part.to(maps.device)).extract(maps)
            for part in turned.split(max(1, POINTS // disk.size))
        ]
        return cls(level, offset, cell, torch.cat(parts).permute(2, 0, 1).flatten(0, 1).contiguous())

    @property
    def rotation(self) -> Float32[Tensor, "h 3 3"]:
        """The rotations of the slices as they are."""
        return grid_rotations(self.level, self.cell) @ self.offset.cpu()

    def numbers(self, hit: Int64[Tensor, "*n"]) -> tuple[Int64[Tensor, "*n"], Int64[Tensor, "*n"]]:
        """The map and the number of the rotation of each column of `log_likelihood`."""
        rows, half = len(self.slices), len(self.cell)
        turned, row = hit // rows, hit % rows
        return row // half, self.cell.to(hit.device)[row % half] + turned * half_turn(self.level)

    def at(self, reference: Int64[Tensor, "*n"], cell: Int64[Tensor, "*n"]) -> Complex64[Tensor, "*n m"]:
        """The slices of maps at rotations, by their numbers."""
        half, angles = half_turn(self.level), 2 * half_turn(self.level)
        direction, angle = cell // angles, cell % angles
        row = reference * len(self.cell) + direction * half + angle % half
        found = self.slices[row]
        imaginary = torch.where((angle >= half)[..., None], -found.imag, found.imag)
        return torch.complex(found.real, imaginary)

    def products(
        self, image: Complex64[Tensor, "b t m"], weight: Float32[Tensor, "b m"]
    ) -> tuple[Float32[Tensor, "b t columns"], Float32[Tensor, "b 1 columns"]]:
        """`Re <C X_t, S>` and `<C^2, |S|^2>` of images at each shift with each slice; turned ones in the second half.

        Args:
            image: `C X_t`.
            weight: `C^2`.
        """
        flat = image.flatten(0, 1)
        real = flat.real @ self.slices.real.mT
        imaginary = flat.imag @ self.slices.imag.mT
        power = weight @ self.slices.abs().square().mT
        overlap = torch.cat([real + imaginary, real - imaginary], dim=1).unflatten(0, image.shape[:2])
        return overlap, power.repeat(1, 2)[:, None]


def first_half(level: int) -> Int64[Tensor, " h"]:
    """Numbers of the rotations of a level whose in-plane angle is below 180 degrees."""
    number = torch.arange(grid_size(level))
    return number[number % (2 * half_turn(level)) < half_turn(level)]


def half_turn(level: int) -> int:
    """How much the number of a rotation grows when its image is turned by 180 degrees."""
    return 6 * 2**level


def explained(overlap: Float32[Tensor, "*n"], power: Float32[Tensor, "*#n"]) -> Float32[Tensor, "*n"]:
    """What a slice explains of an image, in nats, at the best amplitude: `max_a 2 a <C X, S> - a^2 <C^2, |S|^2>`.

    With `a` above 0 it is `<C X, S>^2 / <C^2, |S|^2>`, whatever the scale of the map: one that is dim or bright would
    else be seen from where it shows most, or least.
    """
    return overlap.clamp(min=0).square_() / power.clamp(min=1e-20)
