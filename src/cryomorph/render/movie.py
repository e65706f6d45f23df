"""Pictures and movies of maps along a path: one isosurface level, one view and one scale for all of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, overload

import numpy as np
import torch
from jaxtyping import Float32, Float64
from scipy.spatial import cKDTree

from cryomorph.config.console import track
from cryomorph.config.errors import InputError
from cryomorph.io.atomic import atomic_path
from cryomorph.io.mrc import read_map
from cryomorph.render.isosurface import common_level, draw_surface, view_rotation
from cryomorph.render.map_renderer import most_informative_view
from cryomorph.render.picture import Rgb
from cryomorph.render.raycast import Surface, prepare_surface

MARGIN = 1.14  # a picture's side over that of the square that just holds the surfaces
PALETTE_FRAMES = 12  # of the movie, from which a gif's colours are chosen


@dataclass(frozen=True)
class MapFiles(Sequence[np.ndarray]):
    """Maps on disk, read when they are asked for: a long path need not fit into memory."""

    paths: tuple[Path, ...]

    def __len__(self) -> int:
        return len(self.paths)

    @overload
    def __getitem__(self, index: int) -> np.ndarray: ...
    @overload
    def __getitem__(self, index: slice) -> MapFiles: ...
    def __getitem__(self, index: int | slice) -> np.ndarray | MapFiles:
        if isinstance(index, slice):
            return MapFiles(self.paths[index])
        return read_map(self.paths[index])[0]


@dataclass(frozen=True)
class MapStatistics:
    """Statistics of a set of maps: their mean and standard deviation, and the range and spread of each."""

    mean: Float32[np.ndarray, "z y x"]
    spread: Float32[np.ndarray, "z y x"]  # standard deviation over the maps
    lowest: Float64[np.ndarray, " k"]
    highest: Float64[np.ndarray, " k"]
    average: Float64[np.ndarray, " k"]
    deviation: Float64[np.ndarray, " k"]  # standard deviation over the voxels

    @classmethod
    def of(cls, maps: Sequence[np.ndarray]) -> MapStatistics:
        """Statistics of maps, which are read one at a time."""
        first = np.asarray(maps[0], dtype=np.float64)
        total, square = np.zeros_like(first), np.zeros_like(first)
        facts = []
        for number in range(len(maps)):
            volume = np.asarray(maps[number], dtype=np.float64)
            facts.append((volume.min(), volume.max(), volume.mean(), volume.std()))
            total += volume - first  # differences from the first: squares of a common part would drown them
            square += (volume - first) ** 2
        mean = total / len(maps)
        spread = np.sqrt((square / len(maps) - mean**2).clip(min=0))
        return cls((first + mean).astype(np.float32), spread.astype(np.float32), *np.array(facts).T)


@dataclass(frozen=True)
class Scene:
    """How maps are drawn: isosurface level, view `p = R r`, and the square of the view that a picture shows, in voxels.

    `centre` is the square's middle, to the right and up from the maps' origin; `width` its side.
    """

    level: float
    rotation: Float64[np.ndarray, "3 3"]
    centre: tuple[float, float]
    width: float

    @classmethod
    def of(cls, maps: Sequence[np.ndarray], *, level: tuple[float, bool] | None = None, view: str = "auto") -> Scene:
        """A level suited to the maps, the most informative view, and a square that contains every surface.

        Args:
            level: in map units, or (True) in standard deviations above the mean.
            view: "auto", or a view's name.

        Raises:
            InputError: a level at which a map has no surface.
        """
        statistics = MapStatistics.of(maps)
        chosen = _level(maps, statistics, level)
        if view == "auto":
            # two maps that differ as the set does: its variance is theirs
            pair = np.stack([statistics.mean - statistics.spread, statistics.mean + statistics.spread])
            rotation = most_informative_view(torch.from_numpy(pair))
        else:
            rotation = view_rotation(view).double().numpy()
        spans = np.array([_span(prepare_surface(maps[i], chosen), rotation) for i in _tracked(maps, "measuring maps")])
        low, high = spans[:, 0].min(axis=0), spans[:, 1].max(axis=0)
        right, up = (low + high) / 2
        return cls(chosen, rotation, (float(right), float(up)), MARGIN * float((high - low).max()))

    def draw(self, volume: np.ndarray, size: int) -> Rgb:
        """A map's picture on white, 8 bits a colour."""
        pixel = self.width / size
        right, up = (round(part / pixel) for part in self.centre)
        # the renderer looks at the origin: draw a larger square about it, and cut this one out
        margin = max(abs(right), abs(up))
        whole = size + 2 * margin
        surface = prepare_surface(volume, self.level)
        picture = draw_surface(surface, view=self.rotation, size=whole, extent=whole * pixel)
        picture = picture[margin - up : margin - up + size, margin + right : margin + right + size]
        alpha = picture[..., 3:]
        return np.round(255 * (picture[..., :3] * alpha + (1 - alpha))).astype(np.uint8)


def _tracked(maps: Sequence[np.ndarray], description: str) -> Iterator[int]:
    return iter(track(range(len(maps)), description))


def _level(maps: Sequence[np.ndarray], statistics: MapStatistics, asked: tuple[float, bool] | None) -> float:
    if asked is None:
        return common_level(maps)
    value, sigmas = asked
    level = float(np.median(statistics.average + value * statistics.deviation)) if sigmas else value
    low, high = float(statistics.lowest.max()), float(statistics.highest.min())
    if not low < level < high:
        raise InputError(f"isosurface level {level:g}: the maps have a surface from {low:.4g} to {high:.4g} only")
    return level


def _span(surface: Surface, rotation: Float64[np.ndarray, "3 3"]) -> Float64[np.ndarray, "two two"]:
    """The least and the greatest that a surface goes to the right and up, in voxels of the map."""
    inside = torch.nonzero(surface.density[0, 0] >= surface.level).flip(1) - surface.centre
    if not len(inside):
        return np.zeros((2, 2))
    flat = inside.double() @ torch.from_numpy(rotation[:2].T.copy())
    span = torch.stack([flat.min(0).values - 1, flat.max(0).values + 1]) / surface.fine
    return span.numpy()


def write_frames(folder: Path, maps: Sequence[np.ndarray], *, scene: Scene, size: int) -> list[Path]:
    """Draw every map into `000000.png` and so on."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number:06d}.png" for number in range(len(maps))]
    for number in _tracked(maps, "drawing maps"):
        picture = Image.fromarray(scene.draw(maps[number], size))
        with atomic_path(paths[number]) as part:
            picture.save(part, format="PNG")
    return paths


def forth_and_back(count: int) -> list[int]:
    """The order in which a movie shows frames, so that it can go on from its end at its beginning."""
    return [*range(count), *range(count - 2, 0, -1)]


def write_movie(path: Path, frames: Sequence[Path], *, fps: float) -> None:
    """Write pictures of one size, forth and back, as an endless .gif or as an .mp4 (H.264).

    Raises:
        InputError: the package that writes .mp4 files is not installed.
    """
    order = [frames[number] for number in forth_and_back(len(frames))]
    with atomic_path(path) as part:
        if path.suffix == ".mp4":
            _write_mp4(part, order, fps)
        else:
            _write_gif(part, order, fps)


def check_movie(kind: Literal["gif", "mp4", "none"]) -> None:
    """`InputError` where a kind of movie cannot be written here."""
    if kind == "mp4" and find_spec("imageio_ffmpeg") is None:
        raise InputError("--movie mp4 needs the package imageio-ffmpeg: `pip install imageio-ffmpeg`, or --movie gif")


def _write_gif(path: Path, order: Sequence[Path], fps: float) -> None:
    """One palette for all frames: colours that changed from frame to frame would flicker."""
    from PIL import Image

    chosen = np.unique(np.linspace(0, len(order) - 1, PALETTE_FRAMES).round().astype(int))
    sheet = Image.fromarray(np.concatenate([_read(order[i]) for i in chosen]))
    colours = np.array(sheet.quantize(255, method=Image.Quantize.MEDIANCUT).getpalette(), dtype=np.uint8)
    # a background of nearly white would show
    palette = np.concatenate([np.full((1, 3), 255, np.uint8), colours.reshape(-1, 3)])
    nearest = cKDTree(palette.astype(float))

    def frames() -> Iterator[Image.Image]:
        for name in order:
            picture = _read(name)
            packed = picture.astype(np.int32) @ np.array([1 << 16, 1 << 8, 1], dtype=np.int32)
            found, index = np.unique(packed, return_inverse=True)
            number = np.asarray(nearest.query(np.stack([found >> 16, found >> 8 & 255, found & 255], axis=1))[1])
            frame = Image.fromarray(number.astype(np.uint8)[index].reshape(packed.shape), mode="P")
            frame.putpalette(palette.tobytes())
            yield frame

    pictures = frames()
    delay_ms = 10 * round(100 / fps)  # gif counts in hundredths of a second
    next(pictures).save(
        path, format="GIF", save_all=True, append_images=pictures, duration=delay_ms, loop=0, disposal=1, optimize=False
    )


def _write_mp4(path: Path, order: Sequence[Path], fps: float) -> None:
    check_movie("mp4")
    from imageio_ffmpeg import write_frames as open_writer

    height, width, _ = _read(order[0]).shape
    writer = open_writer(str(path), (width, height), fps=fps, codec="libx264", quality=8, macro_block_size=2)
    try:
        writer.send(None)
        for name in order:
            writer.send(_read(name).tobytes())
    finally:
        writer.close()


def _read(path: Path) -> Rgb:
    from PIL import Image

    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))
