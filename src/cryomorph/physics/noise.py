"""Noise spectra by shell: from outside the particle, and from the residuals of a model."""

from __future__ import annotations

import math

import torch
from jaxtyping import Complex64, Float, Float32, Int64
from torch import Tensor

from cryomorph.physics.disk import FourierDisk

FIRST_RELIABLE = 3  # shell
FAR_BRIGHTER = 4.0


def shell_mean(values: Float[Tensor, "*n m"], shell: Int64[Tensor, " m"], shells: int) -> Float[Tensor, "*n shells"]:
    """Mean of values over the coefficients of each shell; 0 for empty shells."""
    total = values.new_zeros(*values.shape[:-1], shells).index_add_(-1, shell, values)
    return total / torch.bincount(shell, minlength=shells).clamp(min=1)


def outside_window(box: int, edge: float = 0.06) -> Float32[Tensor, "y x"]:
    """Soft window that is 1 in the image's corners, outside the inscribed circle, and 0 inside."""
    line = (torch.arange(box) - box // 2) / (box / 2)
    radius = torch.sqrt(line[:, None] ** 2 + line**2)
    ramp = ((radius - 1) / edge + 1).clamp(0, 1)
    return (0.5 - 0.5 * torch.cos(math.pi * ramp)).float()


def outside_power(images: Float32[Tensor, "n y x"], disk: FourierDisk) -> Float32[Tensor, "n shells"]:
    """Noise power of a coefficient in each shell (index = shell, 0 to `box/2`) of every image, from its corners.

    `E |F(w n)|^2 = sum(w^2) / box^2 E |F(n)|^2` for a window `w` and noise with a spectrum that is smooth over the
    window's width; the mean of the corners is subtracted first. Images may be larger than the disk's box.
    """
    window = outside_window(images.shape[-1])
    mean = (images * window).sum((1, 2), keepdim=True) / window.sum()
    coefficients = disk.from_images((images - mean) * window)
    return shell_mean(coefficients.abs().square(), disk.shell, disk.box // 2 + 1) / window.square().mean()


def typical_power(by_image: Float32[Tensor, "n shells"]) -> Float32[Tensor, " shells"]:
    """Mean noise power of images whose corners are not far brighter than most: a few bad images change nothing."""
    total = by_image.sum(1)
    power = by_image[total <= FAR_BRIGHTER * total.median()].mean(0)
    # with the mean subtracted, the first shells are underestimated: they get at least the power of the next
    reliable = min(FIRST_RELIABLE, len(power) - 1)
    power[:reliable] = power[:reliable].clamp(min=float(power[reliable]))
    return power


def residual_power(
    image: Complex64[Tensor, "b m"], model: Complex64[Tensor, "b m"], disk: FourierDisk
) -> Float32[Tensor, " shells"]:
    """Power of the residuals `image - model`, averaged over each shell and summed over the batch."""
    return shell_mean((image - model).abs().square().sum(0), disk.shell[: image.shape[1]], disk.box // 2 + 1)
