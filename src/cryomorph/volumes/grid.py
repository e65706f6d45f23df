"""Maps on a grid: resampling by cropping and padding in Fourier space, and radial filters."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from cryomorph.config.errors import InputError


def cubic_box(map: Float[Tensor, "*n z y x"]) -> int:
    """The box of a cubic map, or of a batch of them; InputError if the three sides differ."""
    z, y, x = map.shape[-3:]
    if not z == y == x:
        raise InputError(f"a map of {z} x {y} x {x} voxels: expected a cube; pad or crop it")
    return int(x)


@lru_cache(maxsize=2)
def frequency_grid(box: int) -> Float[Tensor, "z y half"]:
    """`|k|` in cycles per voxel at each coefficient of `rfftn` of a cubic map (uncentred, last axis halved)."""
    k, k_half = torch.fft.fftfreq(box), torch.fft.rfftfreq(box)
    return (k[:, None, None] ** 2 + k[:, None] ** 2 + k_half**2).sqrt()


def apply_gain(map: Float[Tensor, "*n z y x"], gain: Float[Tensor, "z y half"]) -> Float[Tensor, "*n z y x"]:
    """Multiply a map's Fourier transform by a real gain on `frequency_grid(box)`."""
    transform = torch.fft.rfftn(map, dim=(-3, -2, -1))
    return torch.fft.irfftn(transform * gain.to(map), s=map.shape[-3:], dim=(-3, -2, -1))


def cosine_step(x: Float[Tensor, "*n"], start: float, width: float) -> Float[Tensor, "*n"]:
    """1 up to `start`, a cosine edge, 0 from `start + width` on; a width of 0 is a sharp step."""
    if width <= 0:
        return (x <= start).to(x)
    return 0.5 + 0.5 * torch.cos(math.pi * ((x - start) / width).clamp(0, 1))


def lowpass_gain(
    box: int, pixel_A: float, resolution_A: float, *, edge_shells: float = 2.0
) -> Float[Tensor, "z y half"]:
    """The gain of `lowpass` on `frequency_grid(box)`: a cosine edge that is 0.5 at `1 / resolution_A`."""
    if not resolution_A > 0 or not pixel_A > 0:
        raise InputError(f"resolution {resolution_A} A at {pixel_A} A per pixel: expected both above 0")
    return cosine_step(frequency_grid(box) * box, box * pixel_A / resolution_A - edge_shells / 2, edge_shells)


def lowpass(
    map: Float[Tensor, "*n z y x"], pixel_A: float, resolution_A: float, *, edge_shells: float = 2.0
) -> Float[Tensor, "*n z y x"]:
    """Low-pass maps to a resolution, with a cosine edge of `edge_shells` Fourier shells around it."""
    return apply_gain(map, lowpass_gain(cubic_box(map), pixel_A, resolution_A, edge_shells=edge_shells))


def fourier_crop(map: Float[Tensor, "*n z y x"], box: int) -> Float[Tensor, "*n box box box"]:
    """Resample a map to a smaller box of the same physical size by Fourier cropping; voxel values keep their scale.

    The origin stays at voxel `box // 2`; the pixel size grows by the ratio of the boxes.

    Raises:
        InputError: the map is not cubic, or smaller than `box`.
    """
    given = cubic_box(map)
    if not 2 <= box <= given:
        raise InputError(f"crop of a map of box {given} to {box}: expected a box from 2 to {given}")
    return _resample(map, box)


def fourier_pad(map: Float[Tensor, "*n z y x"], box: int) -> Float[Tensor, "*n box box box"]:
    """Resample a map to a larger box of the same physical size by Fourier padding; voxel values keep their scale.

    The origin stays at voxel `box // 2`; `fourier_crop` of the result returns the map exactly.

    Raises:
        InputError: the map is not cubic, or larger than `box`.
    """
    given = cubic_box(map)
    if box < given:
        raise InputError(f"padding of a map of box {given} to {box}: expected a box of at least {given}")
    return _resample(map, box)


def resize(map: Float[Tensor, "*n z y x"], box: int) -> Float[Tensor, "*n box box box"]:
    """Resample a map to another box of the same physical size; voxel values keep their scale."""
    return fourier_crop(map, box) if box <= cubic_box(map) else fourier_pad(map, box)


def rebox(maps: Float[Tensor, "*n z y x"], box: int) -> Float[Tensor, "*n box box box"]:
    """Resample maps to another box of the same physical size, so that their Fourier transforms keep their scale."""
    return resize(maps, box) * (maps.shape[-1] / box) ** 3


def _resample(map: Float[Tensor, "*n z y x"], box: int) -> Float[Tensor, "*n box box box"]:
    given = map.shape[-1]
    if box == given:
        return map.clone()
    axes = (-3, -2, -1)
    transform = torch.fft.rfftn(torch.fft.ifftshift(map, dim=axes), dim=axes)
    transform = _resample_half(transform, given, box)
    for axis in (-3, -2):
        transform = _resample_axis(transform.transpose(axis, -1), given, box).transpose(axis, -1)
    resampled = torch.fft.irfftn(transform, s=(box, box, box), dim=axes) * (box / given) ** 3
    return torch.fft.fftshift(resampled, dim=axes)


def _resample_half(transform: Complex[Tensor, "*n k"], given: int, box: int) -> Complex[Tensor, "*n half"]:
    """Crop or pad the halved axis; the Nyquist frequency of an even box stands for both signs."""
    kept = min(given, box) // 2 + 1
    out = transform.new_zeros((*transform.shape[:-1], box // 2 + 1))
    out[..., :kept] = transform[..., :kept]
    if min(given, box) % 2 == 0:
        out[..., kept - 1] *= 2.0 if box < given else 0.5
    return out


def _resample_axis(transform: Complex[Tensor, "*n k"], given: int, box: int) -> Complex[Tensor, "*n box"]:
    """Crop or pad a full axis; the Nyquist coefficient of an even box is the sum of both signs, or split."""
    small = min(given, box)
    positive, negative = (small + 1) // 2, (small - 1) // 2
    out = transform.new_zeros((*transform.shape[:-1], box))
    out[..., :positive] = transform[..., :positive]
    out[..., box - negative :] = transform[..., given - negative :]
    if small % 2 == 0:
        nyquist = small // 2
        if box < given:
            out[..., nyquist] = transform[..., nyquist] + transform[..., given - nyquist]
        else:
            out[..., nyquist] = transform[..., nyquist] / 2
            out[..., box - nyquist] = transform[..., nyquist] / 2
    return out


def shell_amplitude(map: Float[Tensor, "z y x"]) -> Float[Tensor, " shells"]:
    """Root mean square of a map's Fourier coefficients in each shell, 0 to `box/2`; shell 0 takes the value of shell 1.

    At least a thousandth of the largest.
    """
    box = cubic_box(map)
    shell = (frequency_grid(box) * box).round().long()
    power = torch.fft.rfftn(map).abs().square()
    # half of the transform: coefficients with a Friedel mate in the other half count twice
    times = torch.full_like(power, 2.0)
    times[..., :: box // 2 if box % 2 == 0 else box] = 1.0
    inside = shell <= box // 2
    total = torch.bincount(shell[inside], (power * times)[inside], minlength=box // 2 + 1)
    amplitude = (total / torch.bincount(shell[inside], times[inside], minlength=box // 2 + 1)).sqrt().to(map)
    amplitude[0] = amplitude[1]
    return amplitude.clamp(min=1e-3 * float(amplitude.max()))
