"""The Fourier ring correlation as an objective (docs/methods.md, "Gaussian mixture")."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Complex64, Float32, Int64
from torch import Tensor

from cryomorph.particles.store import Batch
from cryomorph.physics.disk import FourierDisk
from cryomorph.physics.rings import ring_correlation


@dataclass(frozen=True)
class RingCorrelation:
    """`sum_r w_r (1 - FRC_r)` of each image, which depends on the sign of the maps but not on their scale.

    Args:
        weight: (rings,) of rings 0 .. box/2.
        shell: ring of each coefficient of the disk.
    """

    weight: Float32[Tensor, " rings"]
    shell: Int64[Tensor, " size"]

    def __call__(self, batch: Batch, slices: Complex64[Tensor, "b m"]) -> Float32[Tensor, " b"]:
        """The loss of each image, over the coefficients that the batch holds."""
        shell = self.shell[: slices.shape[1]]
        rings = int(shell[-1]) + 1
        found = ring_correlation(batch.image, batch.ctf * slices, shell.to(slices.device), rings=rings)
        weight = self.weight[:rings].to(found)
        return weight.sum() - found @ weight


def equal_rings(disk: FourierDisk, *, first: float | int, last: float | int) -> Float32[Tensor, " rings"]:
    """Equal weights of rings with `first <= r <= last`, as in the paper; they add up to the disk's size."""
    ring = torch.arange(disk.box // 2 + 1)
    inside = ((ring >= first) & (ring <= last) & (ring < disk.box / 2)).float()
    return inside * (disk.size / inside.sum().clamp(min=1))


def noise_rings(
    disk: FourierDisk, snr: Float32[Tensor, " rings"], *, first: float | int, last: float | int
) -> Float32[Tensor, " rings"]:
    """`2 n_r sqrt(snr_r)`: with these weights the objective is the Gaussian likelihood to first order, in nats.

    An image's cross term with the model, `2 Re sum X conj(C S)`, is `2 |X| |C S|` times the correlation; where noise
    is of unit variance and outweighs the signal, that is `2 n sqrt(snr)` for n coefficients.

    Args:
        snr: (rings,) signal power of an image over that of its noise, by ring.
    """
    count = torch.bincount(disk.shell, minlength=disk.box // 2 + 1).float()
    inside = equal_rings(disk, first=first, last=last) > 0
    return 2 * count * snr.clamp(min=0).sqrt() * inside
