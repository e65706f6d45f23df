"""Soft masks: around a map, around a set of voxels, of a sphere, from a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64
from scipy import ndimage
from torch import Tensor

from cryomorph.config.console import say, warn
from cryomorph.config.errors import InputError
from cryomorph.io.mrc import read_map
from cryomorph.volumes.grid import cosine_step, cubic_box, lowpass

FSC_LOWPASS_A = 15.0  # before the mask of an FSC is made, or 2.5 pixels where that is coarser
SAME_PIXEL = 0.01  # relative difference of pixel sizes that headers' rounding explains
NO_PIXEL_A = (0.0, 1.0)  # what programs write that do not know the pixel size
MOST_LOST = 0.01  # share of a mask that may lie outside the box
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


def read_mask(
    path: Path,
    box: int,
    pixel_A: float,
    *,
    given_A: float | None = None,
    whose: str = "the working box",
    quiet: bool = False,
) -> Float[Tensor, "z y x"]:
    """Read a mask from a file, resampled by `fit_mask` where it has another grid than the one of `box` and `pixel_A`.

    Args:
        given_A: pixel size of the file (default: the one in its header).
        whose: what the box is, for messages.
        quiet: do not say how it was resampled.

    Raises:
        InputError: the mask is no cube, has values that are not between 0 and 1, or does not fit the box.
    """
    values, header_A = read_map(path)
    if len({*values.shape}) != 1:
        raise InputError(f"{path} has {' x '.join(map(str, values.shape))} voxels, expected a cube: pad or crop it")
    if not (values.min() >= -1e-3 and 0 < values.max() <= 1.001):  # written so that NaN is refused too
        raise InputError(f"{path} has values from {values.min():g} to {values.max():g}, expected a mask from 0 to 1")
    mask, found_A = torch.tensor(values), header_A if given_A is None else given_A
    if len(mask) == box and found_A in NO_PIXEL_A:
        return mask
    if not found_A > 0:
        raise InputError(
            f"{path} has {len(mask)} voxels a side, {whose} has {box}, and its header has no pixel size to resample it "
            f"by: write one with `relion_image_handler --i {path} --o new.mrc --force_header_angpix SIZE`"
        )
    return fit_mask(mask, found_A, box=box, pixel_A=pixel_A, name=str(path), whose=whose, quiet=quiet)


def fit_mask(
    mask: Float[Tensor, "z y x"],
    given_A: float,
    *,
    box: int,
    pixel_A: float,
    name: str = "the mask",
    whose: str = "the maps' box",
    quiet: bool = False,
) -> Float[Tensor, "box box box"]:
    """A mask on the grid that is needed, resampled about the origin where its own is another one; says so.

    Raises:
        InputError: it covers less than half of the field of view or more than twice of it, or more than 1 % of the
            mask lies outside.
    """
    given = cubic_box(mask)
    if given == box and abs(given_A / pixel_A - 1) < SAME_PIXEL:
        return mask
    share = given * given_A / (box * pixel_A)
    grids = f"{given} voxels a side of {given_A:g} A, {whose} has {box} of {pixel_A:.4g} A"
    if not 0.5 <= share <= 2:
        raise InputError(f"{name} has {grids}: expected about the same field of view; is its pixel size right?")
    lost = 1 - float(mask[_inside(given, given_A, box * pixel_A)].sum() / mask.sum())
    if lost > MOST_LOST:
        raise InputError(
            f"{name} has {grids}, which leaves out {100 * lost:.0f} % of the mask: expected one inside the box"
        )
    if not quiet:
        ends = "; it is 0 beyond its own field of view" if share < 1 - SAME_PIXEL else ""
        say(f"{name} is resampled: it has {grids}{ends}")
    return resample_mask(mask, given_A, box=box, pixel_A=pixel_A)


def _inside(given: int, given_A: float, extent_A: float) -> tuple[slice, slice, slice]:
    """Voxels of a grid whose centres lie within the extent of another of the same origin."""
    position_A = (torch.arange(given) - given // 2) * given_A
    first, last = (position_A.abs() <= extent_A / 2).nonzero()[[0, -1], 0].tolist()
    return (slice(first, last + 1),) * 3


def resample_mask(
    mask: Float[Tensor, "z y x"], given_A: float, *, box: int, pixel_A: float
) -> Float[Tensor, "box box box"]:
    """Sample a mask with voxels of `given_A` on another grid whose origin lies at the same place; 0 beyond its box.

    Linear between voxels, so that values stay between 0 and 1, and exact where both grids have a voxel; a Fourier
    transform, cropped, would ring at the edge. The origin is voxel `box // 2` of both (docs/conventions.md).
    """
    given = len(mask)
    position = (torch.arange(box) - box // 2) * (pixel_A / given_A) + given // 2
    covered = (position - given // 2).abs() <= given / 2 + 1e-4
    nearest = position.clamp(0, given - 1)  # the outermost voxel's value holds up to the end of the field of view
    weight = ((1 - (nearest[:, None] - torch.arange(given)).abs()).clamp(min=0) * covered[:, None]).to(mask)
    for _ in range(3):  # the last axis is sampled, and comes first: after three times the order is the old one
        mask = (mask @ weight.T).permute(2, 0, 1)
    return mask.clamp(0, 1).contiguous()


def mask_at(mask: Float[Tensor, "z y x"], position: Float[Tensor, "n 3"]) -> Float64[Tensor, " n"]:
    """Values of a mask, 0 to 1, interpolated at positions; 0 outside the box.

    Args:
        position: `(x, y, z)` in pixels from the origin of the mask's box.
    """
    from scipy.ndimage import map_coordinates

    at = position.flip(1).numpy().T + len(mask) // 2
    return torch.from_numpy(map_coordinates(mask.double().numpy(), at, order=1, cval=0.0)).clamp(0, 1)
