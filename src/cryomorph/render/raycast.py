"""A map made ready to be drawn, and the points where parallel rays first meet its surface, on the CPU."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float32
from scipy import ndimage
from torch import Tensor

from cryomorph.config.errors import InputError
from cryomorph.volumes.grid import cubic_box, resize

Map = Float[np.ndarray, "z y x"] | Float[Tensor, "z y x"]
BLOCK = 4  # voxels along a block's side, by which rays skip what is empty
CHUNK = 6  # samples taken of a ray at a time
STEP = 0.7  # voxels between samples
SPECK = 0.03  # pieces smaller than this part of the largest are noise


@dataclass(frozen=True)
class Surface:
    """A map made ready to be drawn from any side: fine, padded, without specks.

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

    A picture on two cores: 0.15 s either way when idle; 0.3 s against 2 s beside another program that computes.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@one_thread()
def prepare_surface(volume: Map, level: float, *, drop_specks: bool = True) -> Surface:
    """Interpolate a map to about 128 voxels, drop small loose pieces and gather what shading needs.

    Raises:
        InputError: the map is no cube or has values that are not finite.
    """
    given = as_map(volume)
    box = cubic_box(given)
    size = min(max(128, box), 160)
    density = resize(given, size)
    floor = min(float(density.min()), level - 1e-3 * abs(float(density.max()) - level) - 1e-12)
    if drop_specks:
        density = _without_specks(density, level, floor)
    # a rim below the level closes surfaces that the box cuts
    rim = (2, BLOCK - 2 + (-size) % BLOCK)
    density = F.pad(density, rim * 3, value=floor)[None, None]
    largest = F.max_pool3d(density, BLOCK + 2, BLOCK, 1)[0, 0]
    solid = F.avg_pool3d((density >= level).float(), 2)[0, 0]
    shade = torch.stack([_blur(solid, sigma) for sigma in (1.5, 4.0)])[None]
    above = torch.nonzero(density[0, 0] >= level) - (size // 2 + 2)
    radius = float(above.float().norm(dim=1).max()) + 1 if len(above) else size / 2
    return Surface(level, size / box, size // 2 + 2, box, density, largest >= level, shade, radius * box / size)


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


def _without_specks(density: Float32[Tensor, "n n n"], level: float, floor: float) -> Float32[Tensor, "n n n"]:
    """Lower the pieces above the level that are small beside the largest one."""
    above = (density >= level).numpy()
    labels, count = ndimage.label(above)
    if count <= 1:
        return density
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    small = sizes < SPECK * sizes.max()
    small[0] = False
    return torch.where(torch.from_numpy(small[labels]), torch.tensor(floor), density)


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
    start, stop = _enter(surface, rotation, rays, pixel)
    active = torch.nonzero((stop < start).flatten()).squeeze(1)
    axis = (torch.arange(rays) + 0.5 - rays / 2) * pixel
    origin = axis[:, None] * rotation[0] - axis[:, None, None] * rotation[1] + surface.centre  # (row, column, 3)
    origin = origin.reshape(-1, 3)
    depth, last = start.flatten()[active], stop.flatten()[active]
    before = torch.full_like(depth, -math.inf)
    met = torch.full((rays * rays,), math.nan)
    offset = torch.arange(CHUNK) * STEP
    while len(active):
        at = depth[:, None] - offset
        value = sample(surface.density, origin[active, None] + at[..., None] * rotation[2])
        reached = value >= surface.level
        any_reached = reached.any(1)
        first = reached.int().argmax(1)
        row = torch.nonzero(any_reached).squeeze(1)
        column = first[row]
        inside = value[row, column]
        outside = torch.where(column > 0, value[row, (column - 1).clamp(min=0)], before[row])
        # linear between the two samples; a ray that starts inside meets the surface where it starts
        back = torch.where(outside < surface.level, (inside - surface.level) / (inside - outside).clamp(min=1e-20), 0.0)
        met[active[row]] = at[row, column] + back.clamp(0, 1) * STEP
        go_on = ~any_reached & (at[:, -1] > last)
        active, last, before = active[go_on], last[go_on], value[go_on, -1]
        depth = at[go_on, -1] - STEP
    hit = ~met.isnan()
    point = origin[hit] + met[hit, None] * rotation[2]
    return hit.reshape(rays, rays), point


def _enter(
    surface: Surface, rotation: Float32[Tensor, "3 3"], rays: int, pixel: float
) -> tuple[Float32[Tensor, "rays rays"], Float32[Tensor, "rays rays"]]:
    """The depths at which rays enter the first block that may hold the surface and leave the last one.

    Found for one ray in a few and spread to its neighbours, with the margin that this needs.
    """
    spread = max(1, round(1 / pixel))  # about one ray a voxel
    coarse = -(-rays // spread)
    axis = ((torch.arange(coarse) + 0.5) * spread - rays / 2) * pixel
    reach = surface.radius * surface.fine + 2 * BLOCK
    depth = torch.arange(reach, -reach, -BLOCK / 2)
    origin = axis[:, None] * rotation[0] - axis[:, None, None] * rotation[1] + surface.centre
    index = ((origin[:, :, None] + depth[:, None] * rotation[2]) / BLOCK + 0.5 / BLOCK).floor().long()
    count = len(surface.blocks)
    # past the last block lies a rim of empty ones
    blocks = F.pad(surface.blocks, (0, 1) * 3)
    index = torch.where((index < 0) | (index > count), count, index)
    may = blocks[index[..., 2], index[..., 1], index[..., 0]]
    some = may.any(-1)
    start = torch.where(some, depth[may.int().argmax(-1)], -math.inf)
    stop = torch.where(some, depth[len(depth) - 1 - may.flip(-1).int().argmax(-1)], math.inf)
    start = F.max_pool2d(start[None, None], 3, 1, 1)[0, 0] + BLOCK / 2
    stop = -F.max_pool2d(-stop[None, None], 3, 1, 1)[0, 0] - BLOCK / 2
    fine = torch.arange(rays) // spread
    return start[fine[:, None], fine], stop[fine[:, None], fine]


def normals(surface: Surface, point: Float32[Tensor, "hits 3"]) -> Float32[Tensor, "hits 3"]:
    """Unit normals out of the surface, in the map's frame: down the density, differences over two voxels."""
    step = torch.eye(3)
    after = sample(surface.density, point[:, None] + step)
    before = sample(surface.density, point[:, None] - step)
    return F.normalize(before - after, dim=1, eps=1e-30)
