"""A map prepared for drawing, and the points where parallel rays first meet its surface, on the CPU."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float32, UInt8
from scipy import ndimage
from torch import Tensor

from cryomorph.config.errors import InputError
from cryomorph.volumes.grid import cubic_box, resize

Map = Float[np.ndarray, "z y x"] | Float[Tensor, "z y x"]
BLOCK = 4  # voxels along a block's side, by which rays skip what is empty
SPECK = 0.03  # pieces smaller than this part of the largest are noise


@dataclass(frozen=True)
class Surface:
    """A map prepared for drawing from any side: interpolated, padded, without specks.

    `density` is in voxels of the fine grid with its origin at `centre`; `fine` of them make one voxel of the map.
    `blocks` says which blocks may hold the surface; `shade` is the occupancy, blurred at two scales on half the grid.
    """

    level: float
    fine: float
    centre: int
    box: int
    density: Float32[Tensor, "1 1 n n n"]
    blocks: Bool[Tensor, "m m m"]
    shade: Float32[Tensor, "1 2 half half half"]
    radius: float  # of the surface about the origin, in voxels of the map


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Keep torch to one thread: many small steps gain nothing from more, and wait for each other on a busy machine.

    A picture on two cores: 0.15 s either way when idle; 0.3 s against 2 s while another program computes.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@one_thread()
def prepare_surface(volume: Map, level: float) -> Surface:
    """Interpolate a map to about 128 voxels, drop small disconnected pieces and precompute what shading needs.

    Raises:
        InputError: the map is not a cube or has values that are not finite.
    """
    given = as_map(volume)
    box = cubic_box(given)
    density, inside, floor = _fine_density(given, level)
    size = len(density)
    # a rim below the level closes surfaces that the box cuts
    rim = (2, BLOCK - 2 + (-size) % BLOCK) * 3
    radius = _radius(inside)
    density, inside = F.pad(density, rim, value=floor), F.pad(inside, rim)
    solid = _pair_sums(inside.to(torch.uint8)).float() / 8
    shade = torch.stack([_blur(solid, sigma) for sigma in (1.5, 4.0)])[None]
    blocks = _occupied_blocks(inside)
    return Surface(
        level, size / box, size // 2 + 2, box, density[None, None], blocks, shade, radius=radius * box / size
    )


@one_thread()
def surface_radius(volume: Map, level: float) -> float:
    """How far a map's surface reaches from the origin, in voxels of the map: `Surface.radius`."""
    given = as_map(volume)
    _, inside, _ = _fine_density(given, level)
    return _radius(inside) * cubic_box(given) / len(inside)


def _fine_density(
    given: Float32[Tensor, "z y x"], level: float
) -> tuple[Float32[Tensor, "n n n"], Bool[Tensor, "n n n"], float]:
    """A map interpolated to a fine grid, without specks; the voxels at or above the level; and a value below both."""
    density = interpolate(given, min(max(128, len(given)), 160))
    floor = min(float(density.min()), level - 1e-3 * abs(float(density.max()) - level) - 1e-12)
    inside = density >= level
    _drop_specks(density, inside, floor)
    return density, inside, floor


def interpolate(volume: Float32[Tensor, "z y x"], size: int) -> Float32[Tensor, "n n n"]:
    """A map on another grid of the same extent: `volumes.grid.resize`; to a finer one by products with matrices.

    From 32 to 128 voxels that takes a third of the time of a Fourier transform (benchmarks/analyze.py).
    """
    box = cubic_box(volume)
    if box >= size:
        return resize(volume, size)
    matrix = _interpolation_matrix(box, size)
    for _ in range(3):
        volume = torch.tensordot(volume, matrix, dims=([0], [1]))  # the new axis goes last: three turns are none
    return volume.contiguous()


@lru_cache(maxsize=4)
def _interpolation_matrix(box: int, size: int) -> Float32[Tensor, "size box"]:
    """Trigonometric interpolation from `box` to `size` points of one period, origins at `n // 2`."""
    place = (torch.arange(size, dtype=torch.float64) - size // 2) * box / size
    angle = 2 * math.pi / box * (place[:, None] - (torch.arange(box) - box // 2))
    frequency = torch.arange(1, (box + 1) // 2, dtype=torch.float64)
    kernel = 1 + 2 * torch.cos(angle[..., None] * frequency).sum(-1)
    if box % 2 == 0:
        kernel += torch.cos(angle * (box // 2))
    return (kernel / box).float()


def _radius(inside: Bool[Tensor, "n n n"]) -> float:
    """The largest distance of a set of voxels from the origin, plus one voxel; half of the box if it is empty."""
    voxel = torch.nonzero(inside).int() - len(inside) // 2
    return math.sqrt(int(voxel.square().sum(1).max())) + 1 if len(voxel) else len(inside) / 2


def _pair_sums(field: UInt8[Tensor, "n n n"]) -> UInt8[Tensor, "half half half"]:
    """Sums over cubes of two voxels along each side."""
    for axis in range(3):
        first, second = field.unflatten(axis, (-1, 2)).unbind(axis + 1)
        field = first + second
    return field


def _occupied_blocks(inside: Bool[Tensor, "n n n"]) -> Bool[Tensor, "m m m"]:
    """Blocks that hold a voxel of a set, or touch one."""
    for axis in range(3):
        first, *middle, last = inside.unflatten(axis, (-1, BLOCK)).unbind(axis + 1)
        count = first.shape[axis]
        inside = torch.stack([first, *middle, last]).any(0)
        inside.narrow(axis, 1, count - 1).logical_or_(last.narrow(axis, 0, count - 1))
        inside.narrow(axis, 0, count - 1).logical_or_(first.narrow(axis, 1, count - 1))
    return inside


def as_map(volume: Map) -> Float32[Tensor, "z y x"]:
    """A map as a float32 tensor; InputError where it has not three axes or holds values that are not finite."""
    if isinstance(volume, np.ndarray):
        volume = torch.from_numpy(np.array(volume, dtype=np.float32))  # a copy: maps of files may be read-only
    given = volume.detach().cpu().float()
    if given.ndim != 3:
        raise InputError(f"a map with {given.ndim} axes: expected 3")
    if not bool(torch.isfinite(given).all()):
        raise InputError("a map has values that are not finite: expected numbers only")
    return given


def _drop_specks(density: Float32[Tensor, "n n n"], inside: Bool[Tensor, "n n n"], floor: float) -> None:
    """Remove the pieces that are small compared with the largest one from a set of voxels, and lower their density."""
    above = inside.numpy()
    labels, count = ndimage.label(above)
    sizes = np.bincount(labels[above], minlength=count + 1)
    small = sizes < SPECK * sizes.max(initial=0)
    small[0] = False
    if small.any():
        voxels = np.flatnonzero(above)
        specks = torch.from_numpy(voxels[small[labels.ravel()[voxels]]])
        density.view(-1)[specks] = floor
        inside.view(-1)[specks] = False


def _blur(solid: Float32[Tensor, "n n n"], sigma: float) -> Float32[Tensor, "n n n"]:
    """Gaussian blur, zero outside: a banded matrix along each axis."""
    axis = torch.arange(len(solid)).float()
    kernel = torch.exp(-0.5 * ((axis[:, None] - axis) / sigma) ** 2) / (sigma * math.sqrt(2 * math.pi))
    for _ in range(3):
        solid = torch.tensordot(solid, kernel, dims=([0], [0]))  # the blurred axis goes last: three turns are none
    return solid


def sample(field: Float32[Tensor, "1 1 n n n"], point: Float32[Tensor, "*p 3"]) -> Float32[Tensor, "*p"]:
    """Trilinear values of a field at points `(x, y, z)` in its voxels."""
    grid = point.reshape(1, -1, 1, 1, 3) * (2 / (field.shape[-1] - 1)) - 1
    found = F.grid_sample(field, grid, mode="bilinear", padding_mode="border", align_corners=True)
    return found.reshape(point.shape[:-1])


def cast(
    surface: Surface, rotation: Float32[Tensor, "3 3"], rays: int, *, pixel: float
) -> tuple[Bool[Tensor, "rays rays"], Float32[Tensor, "hits 3"]]:
    """Where parallel rays first meet the surface: which of them do, row by row from the top, and the points."""
    from cryomorph.render.ray_kernels import first_hits

    start, stop = (part.flatten() for part in _spans(surface, rotation, rays, pixel))
    active = torch.nonzero(stop < start).squeeze(1)
    origin = _origins((torch.arange(rays) + 0.5 - rays / 2) * pixel, rotation, surface.centre)[active]
    field, towards = surface.density[0, 0].numpy(), rotation[2].numpy()
    span = torch.stack([start[active], stop[active]], dim=1)
    depth = torch.from_numpy(first_hits(field, surface.level, origin.numpy(), towards, span.numpy()))
    met = ~depth.isnan()
    hit = torch.zeros(rays * rays, dtype=torch.bool)
    hit[active[met]] = True
    return hit.reshape(rays, rays), origin[met] + depth[met, None] * rotation[2]


def _origins(axis: Float32[Tensor, " n"], rotation: Float32[Tensor, "3 3"], centre: int) -> Float32[Tensor, "rays 3"]:
    """Where rays at places along the picture's sides pass the plane of the origin, row by row from the top."""
    return (axis[:, None] * rotation[0] - axis[:, None, None] * rotation[1] + centre).reshape(-1, 3)


def _spans(
    surface: Surface, rotation: Float32[Tensor, "3 3"], rays: int, pixel: float
) -> tuple[Float32[Tensor, "rays rays"], Float32[Tensor, "rays rays"]]:
    """The depths at which rays enter the first block that may hold the surface and leave the last one.

    Found for one ray in a few and spread to its neighbours, with the margin that this needs.
    """
    from cryomorph.render.ray_kernels import block_spans

    spread = max(1, round(1 / pixel))  # about one ray a voxel
    coarse = -(-rays // spread)
    axis = ((torch.arange(coarse) + 0.5) * spread - rays / 2) * pixel
    reach = surface.radius * surface.fine + 2 * BLOCK
    depth = torch.arange(reach, -reach, -BLOCK / 2)
    origin = _origins(axis, rotation, surface.centre)
    found = block_spans(surface.blocks.numpy(), BLOCK, origin.numpy(), rotation[2].numpy(), depth.numpy())
    start, stop = (torch.from_numpy(part).view(1, 1, coarse, coarse) for part in found)
    start = F.max_pool2d(start, 3, 1, 1)[0, 0] + BLOCK / 2
    stop = -F.max_pool2d(-stop, 3, 1, 1)[0, 0] - BLOCK / 2
    fine = torch.arange(rays) // spread
    return start[fine[:, None], fine], stop[fine[:, None], fine]


def normals(surface: Surface, point: Float32[Tensor, "hits 3"]) -> Float32[Tensor, "hits 3"]:
    """Unit normals out of the surface, in the map's frame: down the density, differences over two voxels."""
    from cryomorph.render.ray_kernels import falls

    found = torch.from_numpy(falls(surface.density[0, 0].numpy(), point.numpy()))
    return F.normalize(found, dim=1, eps=1e-30)
