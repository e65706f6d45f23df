"""Options of `cryomorph traverse`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from cryomorph.config.errors import InputError

LEVEL = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?(sigma)?")
Kind = Literal["pc", "between", "graph", "volume-pc"]
View = Literal["auto", "front", "side", "top"]
Movie = Literal["gif", "mp4", "none"]


@dataclass(frozen=True)
class TraverseConfig:
    """Maps, pictures and a movie along a path: give one of --pc, --between, --graph and --volume-pc."""

    run: Positional[Path]
    """The run folder that `cryomorph train` wrote."""
    output: Annotated[Path | None, arg(aliases=["-o"])] = None
    """Output folder (default: a folder in RUN/traverse, named after the path)."""
    pc: int | None = None
    """Along this principal component of the latent space, 1 the largest."""
    between: tuple[int, ...] | None = None
    """Straight from particle to particle: two or more 0-based particle numbers."""
    graph: tuple[int, ...] | None = None
    """From particle to particle through neighbouring particles, so that the path stays in occupied regions: two or more
    0-based particle numbers."""
    volume_pc: int | None = None
    """Along this principal component of the volumes, 1 the largest, as `cryomorph landscape` found them."""
    points: int = 20
    """Number of maps. A path through the graph with more particles is thinned evenly; the given particles are kept."""
    percentiles: tuple[float, float] = (5.0, 95.0)
    """Start and end of a path along a component, as percentiles of the particles."""
    degree: int = 5
    """Mean number of neighbours in the graph; no particle has more than twice as many."""
    box: int | None = None
    """Box of the maps in voxels, even (default: the run's own)."""
    flip_hand: bool = False
    """Write the mirror image of every map."""
    level: str | None = None
    """Isosurface level of the pictures, in map units (0.8) or in standard deviations above the mean (3sigma) (default:
    chosen from the maps)."""
    view: View = "auto"
    """View of the pictures: front (down z), side (down x) or top (down y); auto is the most informative view."""
    size: int = 480
    """Width and height of the pictures and the movie in pixels, even."""
    movie: Movie = "gif"
    """Movie that plays forwards and backwards; mp4 needs the package imageio-ffmpeg."""
    fps: float = 10.0
    """Maps per second in the movie."""
    overwrite: bool = False
    """Replace an existing path."""

    def __post_init__(self) -> None:
        self._check_path()
        self._check_pictures()

    def _check_path(self) -> None:
        given = [name for name in ("pc", "between", "graph", "volume_pc") if getattr(self, name) is not None]
        if len(given) != 1:
            found = " and ".join(f"--{name.replace('_', '-')}" for name in given) or "none"
            raise InputError(f"found {found}: expected exactly one of --pc, --between, --graph and --volume-pc")
        for name in ("pc", "volume_pc"):
            component = getattr(self, name)
            if component is not None and component < 1:
                raise InputError(f"--{name.replace('_', '-')} {component}: components are numbered from 1")
        self._check_anchors()
        low, high = self.percentiles
        if not 0 <= low < high <= 100:
            raise InputError(f"--percentiles {low:g} {high:g}: expected 0 <= first < second <= 100, such as 5 95")
        if not 1 <= self.degree <= 100:
            raise InputError(f"--degree {self.degree}: expected 1 to 100 neighbours")

    def _check_pictures(self) -> None:
        for name, least in (("box", 8), ("size", 64)):
            pixels = getattr(self, name)
            if pixels is not None and (pixels < least or pixels % 2):
                raise InputError(f"--{name} {pixels}: expected an even number from {least} up")
        if self.size > 4096:
            raise InputError(f"--size {self.size}: expected at most 4096 pixels")
        if not 1 <= self.fps <= 50:
            raise InputError(f"--fps {self.fps:g}: expected 1 to 50 maps a second")
        if self.level is not None and LEVEL.fullmatch(self.level) is None:
            raise InputError(f"--level {self.level}: expected map units such as 0.8, or deviations such as 3sigma")

    def _check_anchors(self) -> None:
        anchors = self.anchors
        if anchors is None:
            if self.points < 2:
                raise InputError(f"--points {self.points}: expected 2 maps or more")
            return
        if len(anchors) < 2:
            raise InputError(f"--{self.kind} with {len(anchors)} particles: expected two 0-based numbers or more")
        repeated = [number for i, number in enumerate(anchors) if number in anchors[:i]]
        if repeated:
            raise InputError(f"--{self.kind} names particle {repeated[0]} twice: expected different particles")
        if self.points < len(anchors):
            raise InputError(f"--points {self.points}: expected at least one map for each of {len(anchors)} particles")

    @property
    def asked_level(self) -> tuple[float, bool] | None:
        """The level asked for, and whether it is in standard deviations above the mean."""
        if self.level is None:
            return None
        number = self.level.removesuffix("sigma")
        return float(number), number != self.level

    @property
    def kind(self) -> Kind:
        """Which path was asked for."""
        if self.pc is not None:
            return "pc"
        if self.volume_pc is not None:
            return "volume-pc"
        return "between" if self.between is not None else "graph"

    @property
    def anchors(self) -> tuple[int, ...] | None:
        """The particles that the path goes through, 0-based; None where it follows a component."""
        return self.between if self.between is not None else self.graph

    @property
    def title(self) -> str:
        """The path in words."""
        if self.anchors is None:
            return f"Along PC{self.pc}" if self.pc is not None else f"Along volume PC{self.volume_pc}"
        return "Through the neighbour graph" if self.graph is not None else "Straight between particles"

    @property
    def name(self) -> str:
        """What the path is called: the folder's name if none is given."""
        if self.anchors is None:
            return f"pc{self.pc}" if self.pc is not None else f"volume-pc{self.volume_pc}"
        first, *via, last = self.anchors
        if len(via) > 4:
            return f"{self.kind}-{first}-via-{len(via)}-to-{last}"
        return "-".join([self.kind, *map(str, self.anchors)])
