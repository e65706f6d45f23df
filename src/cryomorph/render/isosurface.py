"""Pictures of maps: shaded isosurfaces by ray casting on the CPU, for comparison side by side.

A view is a rotation `p = R r`: x of `p` points right, y up and z to the viewer. The front view looks down the z axis.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32
from torch import Tensor

from cryomorph.config.errors import InputError
from cryomorph.render.picture import Rgba
from cryomorph.render.raycast import Map, Surface, as_map, cast, normals, one_thread, sample
from cryomorph.volumes.grid import cubic_box

VIEWS = {  # rows: where right, up and towards the viewer point in the map
    "front": ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)),
    "side": ((0.0, 0.0, -1.0), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0)),
    "top": ((1.0, 0.0, 0.0), (0.0, 0.0, -1.0), (0.0, 1.0, 0.0)),
}
COLOUR = (0.46, 0.63, 0.80)
SUPERSAMPLE = 2  # rays for each pixel, along each side


@one_thread()
def draw_surface(
    surface: Surface,
    *,
    view: str | Float[np.ndarray, "3 3"] = "front",
    size: int = 240,
    colour_map: Map | None = None,
    colour_limit: float | None = None,
    extent: float | None = None,
) -> Rgba:
    """Draw a prepared surface, transparent around it.

    Args:
        view: "front" (down the z axis), "side" (down x), "top" (down y), or a rotation `p = R r`.
        size: pixels along each side.
        colour_map: a second map of the same extent, sampled on the surface: blue where negative, red where positive.
        colour_limit: the value of `colour_map` at full colour; its 98th percentile on the surface if not given.
        extent: how many voxels of the map the picture spans; its whole box if not given.

    Raises:
        InputError: the view is not known, or is not a rotation.
    """
    rotation = view_rotation(view)
    rays = size * SUPERSAMPLE
    pixel = surface.fine * (surface.box if extent is None else extent) / rays
    hit, point = cast(surface, rotation, rays, pixel=pixel)
    picture = torch.zeros(rays, rays, 4)
    if len(point):
        normal = normals(surface, point) @ rotation.T
        paint = torch.tensor(COLOUR).expand(len(point), 3)
        if colour_map is not None:
            paint = _paint(surface, point, as_map(colour_map), colour_limit)
        toward = (point - surface.centre) @ rotation[2]
        lit = _light(paint, normal, _openness(surface, point, normal @ rotation), toward)
        picture[hit] = torch.cat([lit, torch.ones(len(point), 1)], dim=1)
        depth = torch.full((rays, rays), -math.inf)
        depth[hit] = toward / surface.fine
        picture[..., :3] *= _contour(depth)[..., None]
    return _antialias(picture).numpy()


def view_rotation(view: str | Float[np.ndarray, "3 3"]) -> Float32[Tensor, "3 3"]:
    """The rotation `p = R r` of a view, by name or as given."""
    if isinstance(view, str):
        if view not in VIEWS:
            raise InputError(f"view {view!r}: expected one of {', '.join(VIEWS)}, or a rotation matrix")
        return torch.tensor(VIEWS[view])
    rotation = torch.as_tensor(np.asarray(view), dtype=torch.float64)
    if not torch.allclose(rotation @ rotation.T, torch.eye(3, dtype=torch.float64), atol=1e-4):
        raise InputError(
            "view: the given matrix is not a rotation; expected orthonormal rows: right, up, to the viewer"
        )
    return rotation.float()


def common_level(volumes: Sequence[Map] | Float[np.ndarray, "n z y x"] | Float[Tensor, "n z y x"]) -> float:
    """One density level at which to draw a set of maps: the median of the levels that suit each.

    A map's level lies midway between its solvent and its molecule, each the median density on its side of that level
    (Ridler and Calvard's iteration, with medians), but three standard deviations of the solvent above it at least,
    so that noise is not drawn.

    Raises:
        InputError: no map is given, or one is not finite.
    """
    levels = [_own_level(as_map(volume)) for volume in volumes]
    if not levels:
        raise InputError("no maps to find a level for: expected at least one")
    return float(np.median(levels))


def _own_level(volume: Float32[Tensor, "z y x"]) -> float:
    box = cubic_box(volume)
    axis = torch.arange(box) - box // 2
    # the corners of a reconstruction hold nothing, and would make the solvent look quieter than it is
    ball = axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2 <= (box / 2) ** 2
    values = np.sort(volume[ball].numpy())
    solvent, top, noise = float(np.median(values)), float(np.percentile(values, 99.95)), 0.0
    # a masked map is exactly 0 outside its mask: its noise is that of the rest; the molecule lies above the middle
    known = values[(values != 0) & (values < (solvent + top) / 2)]
    if len(known):
        solvent = float(np.median(known))
        noise = solvent - float(np.percentile(known, 15.87))
    lowest = min(solvent + 3 * noise, solvent + 0.7 * (top - solvent))
    level = max((solvent + top) / 2, lowest)
    for _ in range(50):
        split = int(np.searchsorted(values, level))
        if split in (0, len(values)):
            break
        previous = level
        level = max((float(np.median(values[:split])) + float(np.median(values[split:]))) / 2, lowest)
        if abs(level - previous) < 1e-4 * abs(top):
            break
    return level


def _openness(
    surface: Surface, point: Float32[Tensor, "hits 3"], normal: Float32[Tensor, "hits 3"]
) -> Float32[Tensor, " hits"]:
    """How much of the sky a point sees, from 0 to 1: what lies above it, against what lies above a flat surface."""
    openness = torch.ones(len(point))
    for channel, (sigma, strength) in enumerate(((1.5, 0.9), (4.0, 1.3))):
        above = (point + normal * (2 * sigma)) / 2 - 0.25  # a voxel of the half grid covers two
        occupied = sample(surface.shade[:, channel : channel + 1], above)
        flat = 0.5 * math.erfc(1 / math.sqrt(2))  # one sigma above a half-space
        openness *= (1 - strength * (occupied - flat)).clamp(0.25, 1.12)
    return openness


def _light(
    paint: Float32[Tensor, "hits 3"],
    normal: Float32[Tensor, "hits 3"],
    openness: Float32[Tensor, " hits"],
    toward: Float32[Tensor, " hits"],
) -> Float32[Tensor, "hits 3"]:
    """Soft light: a lamp from the upper left, a weaker one from the right, the sky, a faint gloss, haze with depth."""
    key, fill = (F.normalize(torch.tensor(lamp), dim=0) for lamp in ((-0.45, 0.6, 0.9), (0.7, -0.1, 0.6)))
    facing = normal[:, 2].clamp(0, 1)
    diffuse = 0.50 * (normal @ key).clamp(min=0) + 0.14 * (normal @ fill).clamp(min=0)
    sky = 0.40 + 0.12 * normal[:, 1]
    light = (diffuse * (0.45 + 0.55 * openness) + sky * openness) * (1 - 0.30 * (1 - facing) ** 3)
    half = F.normalize(key + torch.tensor([0.0, 0.0, 1.0]), dim=0)
    gloss = 0.10 * (normal @ half).clamp(min=0) ** 24 * openness
    nearness = (toward - toward.min()) / (toward.max() - toward.min()).clamp(min=1.0)
    haze = (0.22 * (1 - nearness))[:, None]
    return ((paint * light[:, None] + gloss[:, None]) * (1 - haze) + 0.93 * haze).clamp(0, 1)


def _paint(
    surface: Surface, point: Float32[Tensor, "hits 3"], colour_map: Float32[Tensor, "z y x"], limit: float | None
) -> Float32[Tensor, "hits 3"]:
    """Blue, white, red by the value of another map on the surface."""
    box = cubic_box(colour_map)
    place = (point - surface.centre) * (box / (surface.box * surface.fine)) + box // 2
    value = sample(colour_map[None, None], place)
    if limit is None:
        limit = float(np.percentile(value.abs().numpy(), 98))
    position = (value / max(limit, 1e-20)).clamp(-1, 1)[:, None]
    ends = torch.tensor([[0.13, 0.38, 0.72], [0.93, 0.92, 0.90], [0.80, 0.20, 0.16]])
    return ends[1] + position.abs() * (torch.where(position < 0, ends[0], ends[2]) - ends[1])


def _contour(depth: Float32[Tensor, "rays rays"]) -> Float32[Tensor, "rays rays"]:
    """Darken the far side of steps in depth, so that what stands in front stands out."""
    around = F.max_pool2d(depth[None, None], 2 * SUPERSAMPLE - 1, 1, SUPERSAMPLE - 1)[0, 0]
    step = torch.where(depth.isfinite(), around - depth, torch.zeros_like(depth))
    return 1 - 0.35 * ((step - 2) / 4).clamp(0, 1)


def _antialias(picture: Float32[Tensor, "rays rays 4"]) -> Float32[Tensor, "size size 4"]:
    """Average the rays of each pixel, with their neighbours' at half the weight; colour is that of the part covered."""
    covered = torch.cat([picture[..., :3] * picture[..., 3:], picture[..., 3:]], dim=-1).permute(2, 0, 1)[:, None]
    weight = torch.tensor([1.0, *[2.0] * SUPERSAMPLE, 1.0])
    weight = weight / weight.sum()
    covered = F.conv2d(covered, (weight[:, None] * weight)[None, None], stride=SUPERSAMPLE, padding=1)[:, 0]
    alpha = covered[3].clamp(0, 1)
    colour = covered[:3] / alpha.clamp(min=1e-6)
    return torch.cat([colour, alpha[None]]).permute(1, 2, 0).clamp(0, 1).contiguous()
