"""Whether particles are white or dark: decided by a trial back-projection of a few thousand images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Complex64, Float32
from torch import Tensor

from cryomorph.physics.ctf import Ctf, evaluate_ctf
from cryomorph.physics.disk import FourierDisk, fourier_disk
from cryomorph.physics.pose import Pose, shift_phase
from cryomorph.physics.slicing import locate_slices, padded_grid

TRIAL_BOX = 48
CONFIDENT_SKEWNESS = 0.3


@dataclass(frozen=True)
class Contrast:
    """The decision and, in words, what it rests on."""

    inverted: bool
    reason: str


def decide_contrast(
    coefficients: Complex64[Tensor, "n size"],
    disk: FourierDisk,
    *,
    pixel_A: float,
    pose: Pose | None,
    ctf: Ctf | None,
    blob_sign: float | None,
) -> Contrast:
    """Decide from a sample of images, given as noise-normalised coefficients, whether to invert them.

    A map of white particles has a long tail of high densities: its skewness inside the inscribed sphere is positive.
    Without orientations the same is asked of the phase-flipped images' radial average. Where neither is clear,
    cryoSPARC's `blob/sign` decides, and where that is missing too the images are taken as they are.
    """
    box = min(disk.box, TRIAL_BOX)
    small = fourier_disk(box)
    images = coefficients[:, : small.size]
    frequency = small.frequency.float() / disk.box
    transfer = torch.ones(1, small.size) if ctf is None else evaluate_ctf(ctf, frequency / pixel_A)
    if pose is not None:
        images = images * shift_phase(frequency, pose.shift_A / pixel_A)
        skewness = _skewness(_trial_map(images, transfer, pose, small))
        found, what = skewness, f"skewness {skewness:+.2f} of a trial back-projection of {len(images)} images"
    else:
        profile = small.to_images((images * torch.sign(transfer)).mean(0))
        contrast = float(_centre_minus_rim(profile))
        found, what = contrast, f"centre minus rim {contrast:+.2f} of the mean of {len(images)} phase-flipped images"
    if abs(found) >= CONFIDENT_SKEWNESS:
        return Contrast(found < 0, what)
    if blob_sign is not None:
        return Contrast(blob_sign < 0, f"blob/sign {blob_sign:+.0f} ({what} is not clear)")
    return Contrast(False, f"taken as they are ({what} is not clear; --invert yes inverts them)")


def _trial_map(
    images: Complex64[Tensor, "n m"], transfer: Float32[Tensor, "k m"], pose: Pose, disk: FourierDisk
) -> Float32[Tensor, "z y x"]:
    grid = padded_grid(disk.box)
    numerator = torch.zeros(grid.rows, 1, dtype=torch.complex64)
    weight = torch.zeros(grid.rows, 1)
    for part in torch.arange(len(images)).split(500):
        ctf = transfer if len(transfer) == 1 else transfer[part]
        slices = locate_slices(grid, disk.frequency, pose.rotation[part])
        squared = (ctf**2).expand(len(part), -1)
        added, density = slices.insert((images[part] * ctf)[..., None], squared[..., None].contiguous())
        numerator += added
        weight += density
    grid.fold(numerator), grid.fold(weight)
    floor = 0.1 * weight[weight > 0].mean()
    return grid.to_volumes(numerator / (weight + floor))[0]


def _skewness(volume: Float32[Tensor, "z y x"]) -> float:
    line = torch.arange(len(volume)) - len(volume) // 2
    inside = line[:, None, None] ** 2 + line[:, None] ** 2 + line**2 < (0.45 * len(volume)) ** 2
    values = volume[inside]
    centred = values - values.mean()
    return float((centred**3).mean() / (centred**2).mean() ** 1.5)


def _centre_minus_rim(image: Float32[Tensor, "y x"]) -> Tensor:
    line = (torch.arange(len(image)) - len(image) // 2) / (len(image) / 2)
    radius = torch.sqrt(line[:, None] ** 2 + line**2)
    return (image[radius < 0.4].mean() - image[(radius > 0.8) & (radius < 1)].mean()) / image.std()
