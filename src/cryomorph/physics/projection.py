"""Central slices of many volumes, each in several orientations, differentiable in the volumes."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Complex64, Float32, Int64
from torch import Tensor

from cryomorph.physics.disk import FourierDisk
from cryomorph.physics.slicing import PaddedGrid, locate_slices, padded_grid

CPU_SAMPLES, GPU_SAMPLES = 1 << 17, 1 << 26  # of padded grids at once; on a CPU, as many as fit its caches


def project_volumes(
    volumes: Float32[Tensor, "b c z y x"], rotation: Float32[Tensor, "b v 3 3"], disk: FourierDisk
) -> Complex64[Tensor, "b v size c"]:
    """Central slices of the `c` volumes of each row in each of its `v` orientations.

    The Fourier transform of the volume, padded by two, is sampled trilinearly at `k2 @ R[:2]` (docs/methods.md,
    "Convolutional volume"). The volumes' box may differ from the disk's, at the same physical size; coefficients beyond
    the volumes' Nyquist are 0.

    Args:
        volumes: `[z, y, x]`, origin at voxel `side // 2`, in values whose transform is in the images' units.
    """
    b, c, side = volumes.shape[:3]
    grid, inside = padded_grid(side), disk.within(side / 2)
    with torch.autocast(volumes.device.type, enabled=False):
        place = locate_slices(grid, inside.frequency.to(rotation.device), rotation.flatten(0, 1))
        row = place.row.long().view(b, -1)
        weight = (place.weight * _phase(place.row, grid)).view(b, -1)
        scaled = (volumes / grid.attenuation.to(volumes.device)).flatten(0, 1)
        samples = _Samples.apply(scaled, row, weight, grid)
        values = samples.view(b, c, -1, 8).sum(3)
        sign = torch.where(place.flipped, -1.0, 1.0).view(b, 1, -1)
        values = torch.complex(values.real, values.imag * sign).view(b, c, rotation.shape[1], inside.size)
    return torch.nn.functional.pad(values.movedim(1, 3), (0, 0, 0, disk.size - inside.size))


class _Samples(torch.autograd.Function):
    """Weighted samples of the volumes' transforms, a linear function: no grid is kept for the backward pass.

    Grids would take eight times the memory of the volumes, and twice that with gradients; one grid at a time is twice
    as fast on a CPU (benchmarks/conv_volume.py). The FFT appends the zeros of the padding, axis by axis, which moves
    the origin to voxel 0; the weights contain the phase that corrects for it.
    """

    @staticmethod
    def forward(
        ctx: Any,
        volumes: Float32[Tensor, "n z y x"],
        row: Int64[Tensor, "b p"],
        weight: Complex64[Tensor, "b p"],
        grid: PaddedGrid,
    ) -> Complex64[Tensor, "n p"]:
        ctx.save_for_backward(row, weight)
        ctx.grid, each = grid, len(volumes) // len(row)
        found = torch.empty(len(volumes), row.shape[1], dtype=weight.dtype, device=volumes.device)
        for part in _parts(len(volumes), grid, volumes.device):
            transform = torch.fft.rfft(volumes[part], n=grid.edge)
            transform = torch.fft.fft(transform, n=grid.edge, dim=-2)
            transform = torch.fft.fft(transform, n=grid.edge, dim=-3)
            own = torch.arange(part.start, part.stop, device=row.device) // each
            torch.mul(transform.flatten(1).gather(1, row[own]), weight[own], out=found[part])
        return found

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (grad,) = grads
        row, weight = ctx.saved_tensors
        grid, each, box = ctx.grid, len(grad) // len(row), ctx.grid.box
        found = torch.empty(len(grad), box, box, box, device=grad.device)
        for part in _parts(len(grad), grid, grad.device):
            own = torch.arange(part.start, part.stop, device=row.device) // each
            summed = grad.new_zeros(len(own), grid.rows)
            summed.scatter_add_(1, row[own], grad[part] * weight[own].conj())
            summed = summed.view(-1, grid.edge, grid.edge, grid.half)
            summed[..., 1:-1] *= 0.5  # the inverse adds the Friedel mate of each of these
            back = torch.fft.ifft(summed, dim=-3, norm="forward")[:, :box]
            back = torch.fft.ifft(back, dim=-2, norm="forward")[:, :, :box]
            found[part] = torch.fft.irfft(back, n=grid.edge, norm="forward")[..., :box]
        return found, None, None, None


def _parts(n: int, grid: PaddedGrid, device: torch.device) -> list[slice]:
    """Volumes to process together."""
    most = max(1, (CPU_SAMPLES if device.type == "cpu" else GPU_SAMPLES) // grid.rows)
    return [slice(start, min(start + most, n)) for start in range(0, n, most)]


def _phase(row: Tensor, grid: PaddedGrid) -> Complex64[Tensor, "points 8"]:
    """Phase that moves a volume's origin from voxel 0, where padding at its end leaves it, to `box // 2`."""
    kz, ky, kx = row // (grid.edge * grid.half), row // grid.half % grid.edge, row % grid.half
    turn = (kz + ky + kx) * (grid.box // 2) % grid.edge
    return torch.polar(torch.ones(1, device=row.device), turn.float() * (2 * torch.pi / grid.edge))
