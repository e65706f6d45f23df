"""Pictures of a run's maps that are easy to compare: at one level and one scale, in the most informative view."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float32, Float64
from torch import Tensor

from cryomorph.compute.map_threads import map_in_threads
from cryomorph.render.isosurface import VIEWS, draw_surface
from cryomorph.render.picture import Rgba
from cryomorph.render.raycast import Surface, prepare_surface, surface_radius
from cryomorph.volumes.grid import rebox

SIZE = 220
MARGIN = 2.06  # picture width over the radius of the largest surface


class MapRenderer:
    """Draws maps at one isosurface level, from one direction and at one scale.

    Args:
        level: the density of the surfaces, for maps of `box` voxels.
        sets: maps whose surfaces must all fit into a picture; the first set's differences choose the view.
        box: the box in which `level` holds; maps of another box are resampled to it.
    """

    def __init__(self, level: float, sets: Sequence[Float32[Tensor, "k z y x"]], box: int) -> None:
        self.level = level
        self.box = box
        self.view = most_informative_view(sets[0])
        volumes = [volume for maps in sets for volume in maps]
        radii = map_in_threads(lambda volume: surface_radius(self._boxed(volume), level), volumes, "measuring maps")
        radius = max(radii)
        self.extent = MARGIN * max(radius, 1.0)

    def __call__(self, maps: Float32[Tensor, "k z y x"], description: str) -> list[Rgba]:
        """One picture for each map, in the most informative view."""

        def draw(volume: Float32[Tensor, "z y x"]) -> Rgba:
            return self._draw(self._surface(volume), self.view)

        return list(map_in_threads(draw, list(maps), f"drawing {description}"))

    def views(self, volume: Float32[Tensor, "z y x"]) -> dict[str, Rgba]:
        """A map from the front, the side and the top."""
        surface = self._surface(volume)
        pictures = map_in_threads(lambda view: self._draw(surface, view), list(VIEWS), "drawing views")
        return dict(zip(VIEWS, pictures, strict=True))

    def _boxed(self, volume: Float32[Tensor, "z y x"]) -> Float32[Tensor, "box box box"]:
        return volume if volume.shape[0] == self.box else rebox(volume, self.box)

    def _surface(self, volume: Float32[Tensor, "z y x"]) -> Surface:
        return prepare_surface(self._boxed(volume), self.level)

    def _draw(self, surface: Surface, view: str | Float64[np.ndarray, "3 3"]) -> Rgba:
        return draw_surface(surface, view=view, size=SIZE, extent=self.extent)


def most_informative_view(maps: Float32[Tensor, "k z y x"]) -> Float64[np.ndarray, "3 3"]:
    """The view in whose plane the differences between maps spread most; rows point right, up and to the viewer."""
    variance = maps.var(0, correction=0).double() if len(maps) > 1 else maps[0].double().clamp(min=0)
    line = torch.arange(maps.shape[-1], dtype=torch.float64) - maps.shape[-1] // 2
    z, y, x = torch.meshgrid(line, line, line, indexing="ij")
    position = torch.stack([x, y, z], dim=-1).reshape(-1, 3)
    weight = variance.reshape(-1) / variance.sum().clamp(min=1e-30)
    centred = position - weight @ position
    spread = torch.linalg.eigh((centred * weight[:, None]).T @ centred).eigenvectors.flip(1).T
    signs = torch.sign(spread.gather(1, spread.abs().argmax(1, keepdim=True)))
    right, up, _ = spread * signs
    return torch.stack([right, up, torch.linalg.cross(right, up)]).numpy()
