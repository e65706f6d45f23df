"""Soft masks: around a map, around a set of voxels, of a sphere, from a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64
from scipy import ndimage
from torch import Tensor

from cryomorph.config.console import warn
from cryomorph.config.errors import InputError
from cryomorph.io.mrc import read_map
from cryomorph.volumes.grid import cosine_step, cubic_box, lowpass

FSC_LOWPASS_A = 15.0  # before the mask of an FSC is made, or 2.5 pixels where that is coarser
FULL = 0.95  # mean of a mask above which it removes next to nothing


def mask_threshold(map: Float[Tensor, "z y x"]) -> float:
    """Half of a map's 99.99th percentile: the default threshold of `auto_mask`.

    Raises:
        InputError: the map has non-finite values, or no density above 0.
    """
    values = map.detach().cpu().numpy()
    if not np.isfinite(values).all():
        raise InputError("the map has non-finite values: reconstruct it again")
    percentile = float(np.percentile(values, 99.99))
    if percentile <= 0:
        raise InputError(
            f"the map's 99.99th percentile is {percentile:g}: expected density above 0; invert its contrast or give a "
            "threshold"
        )
    return percentile / 2


def soften(
    binary: Bool[Tensor, "z y x"], pixel_A: float, *, dilate_A: float = 25.0, edge_A: float = 15.0
) -> Float[Tensor, "z y x"]:
    """Dilate a set of voxels by `dilate_A` and add a cosine edge of `edge_A`.

    Returns:
        A float32 mask from 0 to 1, on the device of `binary`; a mask that fills the box causes a warning.

    Raises:
        InputError: no voxel is set, or a length is negative.
    """
    if dilate_A < 0 or edge_A < 0 or not pixel_A > 0:
        raise InputError(f"dilation {dilate_A} A, edge {edge_A} A, pixel {pixel_A} A: expected lengths, pixel above 0")
    inside = binary.cpu().numpy()
    if not inside.any():
        raise InputError("the mask is empty, no voxel is above the threshold: lower it")
    # distances matter only near the set; the rest of the box remains 0
    reach = int(np.ceil((dilate_A + edge_A) / pixel_A)) + 1
    occupied = (np.flatnonzero(inside.any(axis=others)) for others in ((1, 2), (0, 2), (0, 1)))
    window = tuple(slice(max(int(side[0]) - reach, 0), int(side[-1]) + reach + 1) for side in occupied)
    distance_A = np.asarray(ndimage.distance_transform_edt(~inside[window]), dtype=np.float32) * pixel_A
    mask = torch.zeros(inside.shape)
    mask[window] = cosine_step(torch.from_numpy(distance_A), dilate_A, edge_A)
    if float(mask.mean()) > FULL:
        warn(
            f"the mask fills {100 * float(mask.mean()):.0f} % of the box and removes next to nothing: raise the "
            "threshold, or reduce the dilation or the edge"
        )
    return mask.to(binary.device)


def auto_mask(
    map: Float[Tensor, "z y x"],
    pixel_A: float,
    *,
    threshold: float | None = None,
    dilate_A: float = 25.0,
    edge_A: float = 15.0,
    lowpass_A: float | None = None,
    largest_only: bool = False,
) -> Float[Tensor, "z y x"]:
    """A soft mask around a map's density, as in the Nature Methods paper (Zhong et al. 2021).

    Args:
        threshold: density above which a voxel belongs to the molecule (default: half of the 99.99th percentile).
        lowpass_A: low-pass the map to this resolution first, so that noise stays below the threshold.
        largest_only: keep only the largest connected component.

    Raises:
        InputError: the mask would be empty, or the map has non-finite values.
    """
    cubic_box(map)
    if lowpass_A is not None:
        map = lowpass(map, pixel_A, lowpass_A)
    level = mask_threshold(map) if threshold is None else threshold
    binary = map > level
    if not bool(binary.any()):
        raise InputError(
            f"no voxel of the map is above the threshold {level:g} (its maximum is {float(map.max()):g}): lower it"
        )
    if largest_only:
        binary = largest_component(binary)
    return soften(binary, pixel_A, dilate_A=dilate_A, edge_A=edge_A)


def fsc_mask(map: Float[Tensor, "z y x"], pixel_A: float) -> Float[Tensor, "z y x"]:
    """The mask within which maps are correlated: `auto_mask` of their low-passed average.

    Args:
        map: the average, weighted by its signal-to-noise ratio: unfiltered, its noise would lie above the threshold.
    """
    return auto_mask(map, pixel_A, lowpass_A=max(FSC_LOWPASS_A, 2.5 * pixel_A))


def largest_component(binary: Bool[Tensor, "z y x"]) -> Bool[Tensor, "z y x"]:
    """The largest connected component; voxels that share a face, an edge or a corner are connected."""
    labels, count = ndimage.label(binary.cpu().numpy(), structure=np.ones((3, 3, 3)))
    if count <= 1:
        return binary
    sizes = np.bincount(labels.ravel())[1:]
    return torch.from_numpy(labels == 1 + int(sizes.argmax())).to(binary.device)


def spherical_mask(box: int, radius_px: float, edge_px: float = 0.0) -> Float[Tensor, "box box box"]:
    """1 within `radius_px` of voxel `box // 2`, a cosine edge of `edge_px` outside it, 0 beyond."""
    k = (torch.arange(box) - box // 2).float()
    return cosine_step((k[:, None, None] ** 2 + k[:, None] ** 2 + k**2).sqrt(), radius_px, edge_px)


def read_mask(path: Path, box: int, *, whose: str = "the working box") -> Float[Tensor, "z y x"]:
    """Read a mask of a given box from a file.

    Args:
        whose: what the box is, for the error message.

    Raises:
        InputError: the mask has another box, or values that are not between 0 and 1.
    """
    mask, _ = read_map(path)
    if mask.shape != (box,) * 3:
        raise InputError(f"{path} has {' x '.join(map(str, mask.shape))} voxels, expected {whose}, {box}")
    if not (mask.min() >= -1e-3 and 0 < mask.max() <= 1.001):  # written so that NaN is refused too
        raise InputError(f"{path} has values from {mask.min():g} to {mask.max():g}, expected a mask from 0 to 1")
    return torch.tensor(mask)


def mask_at(mask: Float[Tensor, "z y x"], position: Float[Tensor, "n 3"]) -> Float64[Tensor, " n"]:
    """Values of a mask, 0 to 1, interpolated at positions; 0 outside the box.

    Args:
        position: `(x, y, z)` in pixels from the origin of the mask's box.
    """
    from scipy.ndimage import map_coordinates

    at = position.flip(1).numpy().T + len(mask) // 2
    return torch.from_numpy(map_coordinates(mask.double().numpy(), at, order=1, cval=0.0)).clamp(0, 1)
