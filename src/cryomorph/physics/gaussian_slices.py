"""Projections of isotropic Gaussians onto the Fourier disk, by thin tables and one real matrix product.

See docs/methods.md, "Gaussian mixture".

`F(k) = sum_j a_j exp(-2 pi^2 sigma_j^2 |k|^2 / D^2) exp(-2 pi i (kx x_j + ky y_j) / D)`, k in Fourier pixels of a box
of D pixels, positions and widths in pixels. Each term is the product of one in x and one in y, and the coefficients at
(kx, ky) and (-kx, ky) are sums and differences of the same four products of cosines and sines. So N Gaussians take
memory `O(N D)`, instead of `O(N D^2)` for an image of each, and `D^2 N` real multiplications.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from jaxtyping import Complex64, Float32, Int64
from torch import Tensor
from torch.autograd.function import once_differentiable

from cryomorph.physics.disk import FourierDisk, fourier_disk

TABLE_NUMBERS = 1 << 23  # size of the tables of several images, or of several planes of a map


class Mixture(NamedTuple):
    """Gaussians of several images or latent points: positions and widths in pixels, amplitudes as integrals.

    `position` (b, n, 3) `(x, y, z)` from the box's origin, `width` (b or 1, n) standard deviations, `amplitude` (b, n).
    """

    position: Float32[Tensor, "b n 3"]
    width: Float32[Tensor, "#b n"]
    amplitude: Float32[Tensor, "b n"]

    def turned(self, rotation: Float32[Tensor, "b 3 3"]) -> Mixture:
        """In the coordinates of images: `p = R r`."""
        with torch.autocast(rotation.device.type, enabled=False):
            return self._replace(position=self.position @ rotation.mT)

    def scaled(self, factor: float) -> Mixture:
        """In pixels that are smaller by `factor`."""
        return self if factor == 1 else Mixture(self.position * factor, self.width * factor, self.amplitude)


def project_gaussians(mixture: Mixture, disk: FourierDisk) -> Complex64[Tensor, "b size"]:
    """Coefficients of projected Gaussians, differentiable in all their parameters, with gradients in closed form.

    Args:
        mixture: in image coordinates, in pixels of the disk's box.
    """
    if torch.is_grad_enabled() and any(given.requires_grad for given in mixture):
        found: Tensor = _Projection.apply(*mixture, disk)
        return found
    return project_channels(mixture, mixture.amplitude[:, None], disk)[:, 0]


@torch.no_grad()
def project_channels(
    mixture: Mixture, amplitude: Float32[Tensor, "b c n"], disk: FourierDisk
) -> Complex64[Tensor, "b c size"]:
    """As `project_gaussians`, for several sets of amplitudes instead of the mixture's own; without gradients."""
    position, width, _ = mixture
    lattice = lattice_of(disk, position.device)
    most = max(1, TABLE_NUMBERS // (2 * lattice.rows * position.shape[1]))
    if len(position) > most:
        each = (part.expand(len(position), *part.shape[1:]).split(most) for part in (*mixture, amplitude))
        return torch.cat([project_channels(Mixture(p, w, a), c, disk) for p, w, a, c in zip(*each, strict=True)])
    with torch.autocast(position.device.type, enabled=False):
        envelope = _envelope(width, lattice.rows, disk.box)
        along_x = gaussian_tables(position[..., 0], envelope, disk.box)
        along_y = gaussian_tables(position[..., 1], envelope, disk.box)
        weighted = (along_y[:, None] * amplitude[:, :, None]).flatten(1, 2)
        blocks = torch.bmm(weighted, along_x.mT).unflatten(1, (amplitude.shape[1], -1))
    return lattice.coefficients(blocks)


@dataclass(frozen=True)
class Lattice:
    """Positions of a disk's coefficients among the products of one-dimensional tables.

    There are `rows` frequencies, 0 .. rows - 1, along each axis; `quadrant` (size,) is `ky rows + |kx|` of each
    coefficient and `sign` (size,) the sign of its kx. `right` and `left` (rows^2,) are the coefficient at each position
    of the quadrants with kx >= 0 and kx < 0, or `size` where there is none.
    """

    box: int
    rows: int
    quadrant: Int64[Tensor, " size"]
    sign: Float32[Tensor, " size"]
    right: Int64[Tensor, " places"]
    left: Int64[Tensor, " places"]

    def coefficients(self, blocks: Float32[Tensor, "*b twice twice"]) -> Complex64[Tensor, "*b size"]:
        """The disk's coefficients from products `[cos y, sin y] [cos x, sin x]`."""
        k = self.rows
        cc, cs, sc, ss = (
            part.flatten(-2)[..., self.quadrant]
            for half in (blocks[..., :k, :], blocks[..., k:, :])
            for part in (half[..., :k], half[..., k:])
        )
        return torch.complex(cc - self.sign * ss, -sc - self.sign * cs)

    def blocks(self, coefficients: Complex64[Tensor, "b size"]) -> Float32[Tensor, "b twice twice"]:
        """The adjoint of `coefficients`."""
        padded = torch.nn.functional.pad(coefficients, (0, 1))
        right, left = (padded[:, places].unflatten(1, (self.rows, self.rows)) for places in (self.right, self.left))
        both, apart = right + left, left - right
        return torch.cat([torch.cat([both.real, apart.imag], 2), torch.cat([-both.imag, apart.real], 2)], 1)


@lru_cache(maxsize=128)
def lattice_of(disk: FourierDisk, device: torch.device) -> Lattice:
    """The lattice of a disk on a device, cached."""
    kx, ky = disk.frequency.T
    rows = int(disk.frequency.abs().max()) + 1 if disk.size else 1
    quadrant = ky * rows + kx.abs()
    places = []
    for side in (kx >= 0, kx < 0):
        where = torch.full((rows * rows,), disk.size)
        where[quadrant[side]] = side.nonzero().squeeze(1)
        places.append(where)
    sign = torch.where(kx < 0, -1.0, 1.0)
    return Lattice(disk.box, rows, *(each.to(device) for each in (quadrant, sign, *places)))


def gaussian_tables(
    coordinate: Float32[Tensor, "b n"], envelope: Float32[Tensor, "#b rows n"], box: int
) -> Float32[Tensor, "b twice n"]:
    """`g(k) cos(2 pi k x / D)` for k = 0 .. rows - 1, cosines then sines.

    Cosines and sines of all frequencies follow from those of a few by repeated angle doubling, which is twice as fast
    at box 128 as evaluating each (benchmarks/gaussians.py).
    """
    rows = envelope.shape[1]
    table = coordinate.new_empty(len(coordinate), 2, rows, coordinate.shape[1])
    cosine, sine = table[:, 0], table[:, 1]
    cosine[:, 0], sine[:, 0] = 1, 0
    # in turns, of which only the fractional part matters: large angles would lose digits
    turn = coordinate / box
    done = 1
    while done < rows:
        more = min(done, rows - done)
        angle = (turn * done).frac_()[:, None] * (2 * torch.pi)
        c, s = torch.cos(angle), torch.sin(angle)
        known, new = slice(0, more), slice(done, done + more)
        torch.mul(cosine[:, known], c, out=cosine[:, new]).addcmul_(sine[:, known], s, value=-1)
        torch.mul(sine[:, known], c, out=sine[:, new]).addcmul_(cosine[:, known], s)
        done += more
    return table.mul_(envelope[:, None]).flatten(1, 2)


def _envelope(width: Float32[Tensor, "#b n"], rows: int, box: int) -> Float32[Tensor, "#b rows n"]:
    k = torch.arange(rows, device=width.device)
    return torch.exp(-2 * (torch.pi / box) ** 2 * (k**2)[:, None] * width.square()[:, None])


class _Projection(torch.autograd.Function):
    """The projection with its gradient in closed form from the two tables."""

    @staticmethod
    def forward(ctx: Any, position: Tensor, width: Tensor, amplitude: Tensor, disk: FourierDisk) -> Tensor:
        lattice = lattice_of(disk, position.device)
        with torch.autocast(position.device.type, enabled=False):
            envelope = _envelope(width.float(), lattice.rows, disk.box)
            along_x = gaussian_tables(position[..., 0].float(), envelope, disk.box)
            along_y = gaussian_tables(position[..., 1].float(), envelope, disk.box)
            blocks = torch.bmm(along_y * amplitude.float()[:, None], along_x.mT)
        ctx.save_for_backward(along_x, along_y, width, amplitude)
        ctx.lattice = lattice
        return lattice.coefficients(blocks)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        along_x, along_y, width, amplitude = ctx.saved_tensors
        lattice: Lattice = ctx.lattice
        with torch.autocast(along_x.device.type, enabled=False):
            blocks = lattice.blocks(grads[0])
            k = torch.arange(lattice.rows, device=width.device).float()
            by_y = torch.bmm(blocks, along_x)
            by_x = torch.bmm(blocks.mT, along_y * amplitude[:, None])
            even_y, odd_y = _even_odd(along_y, by_y)
            even_x, odd_x = _even_odd(along_x, by_x)
            turn = 2 * torch.pi / lattice.box
            by_width = None
            if ctx.needs_input_grad[1]:
                spread = torch.matmul(k**2, even_x) + torch.matmul(k**2, even_y) * amplitude
                by_width = (spread * width * -(turn**2)).sum_to_size(width.shape)
            across = k @ odd_x, (k @ odd_y) * amplitude
            by_position = turn * torch.stack([*across, torch.zeros_like(amplitude)], dim=2)
            return by_position, by_width, even_y.sum(1), None


def _even_odd(
    table: Float32[Tensor, "b twice n"], grad: Float32[Tensor, "b twice n"]
) -> tuple[Float32[Tensor, "b rows n"], Float32[Tensor, "b rows n"]]:
    """`C dC + S dS` and `C dS - S dC`: the derivatives with respect to a factor and to an angle."""
    cosine, sine = table.chunk(2, dim=1)
    by_cosine, by_sine = grad.chunk(2, dim=1)
    return (cosine * by_cosine).addcmul_(sine, by_sine), (cosine * by_sine).addcmul_(sine, by_cosine, value=-1)


def gaussian_map(mixture: Mixture, box: int) -> Float32[Tensor, "box box box"]:
    """The map `[z, y, x]` of one row of Gaussians, limited to Nyquist; its sum is that of the amplitudes.

    A plane `kz` of its transform is a projection whose amplitudes carry the factor of z.
    """
    disk, planes = fourier_disk(box), box // 2
    position, width, amplitude = mixture
    along_z = gaussian_tables(position[..., 2], _envelope(width, planes, box), box)[0] * amplitude
    # the cosine and sine parts of a plane are two real images
    transform = position.new_zeros(planes + 1, box, box, dtype=torch.complex64)
    squared = disk.frequency.square().sum(1).to(position.device)
    step = max(1, TABLE_NUMBERS // (4 * planes * amplitude.shape[1]))
    for kz in torch.arange(planes, device=position.device).split(step):
        parts = torch.stack([along_z[kz], along_z[planes + kz]], 1)
        flat = project_channels(mixture, parts.flatten(0, 1)[None], disk)[0].unflatten(0, (-1, 2))
        inside = squared + kz[:, None] ** 2 < planes**2
        images = disk.to_images(flat * inside[:, None]) + parts.sum(2)[..., None, None] / box**2
        transform[kz] = torch.complex(images[:, 0], -images[:, 1])
    return torch.fft.fftshift(torch.fft.irfft(transform, n=box, dim=0), dim=0)
