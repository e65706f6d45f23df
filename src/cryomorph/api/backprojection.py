"""Maps back-projected from particles, with half maps; no model is involved."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryomorph.api.fsc import Fsc
from cryomorph.api.map import Map
from cryomorph.config.backproject import BackprojectConfig
from cryomorph.config.keywords import from_keywords
from cryomorph.io.atomic import check_output

if TYPE_CHECKING:
    from cryomorph.volumes.backproject import Reconstruction

MAPS = ("map", "half1", "half2", "mask")


@dataclass(frozen=True, eq=False)
class HalfMaps:
    """A back-projected map (Wiener-filtered), its unfiltered half maps, the mask of their FSC, and the FSC."""

    map: Map
    half1: Map
    half2: Map
    mask: Map
    fsc: Fsc

    @classmethod
    def of(cls, result: Reconstruction) -> HalfMaps:
        """What a back-projection found."""
        maps = {name: Map(getattr(result, name).numpy(), result.fsc.pixel_A) for name in MAPS}
        return cls(**maps, fsc=Fsc(result.fsc))

    @property
    def resolution_A(self) -> float:
        """Resolution at which the half maps' FSC, corrected for the mask, falls below 0.143."""
        return self.fsc.resolution_A

    def save(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Write map.mrc, half1.mrc, half2.mrc, mask.mrc and fsc.csv into a folder.

        Raises:
            InputError: one of them is there already and is not to be replaced.
        """
        folder = Path(folder)
        for name in (*(f"{map}.mrc" for map in MAPS), "fsc.csv"):
            check_output(folder / name, overwrite=overwrite)
        for name in MAPS:
            getattr(self, name).save(folder / f"{name}.mrc", overwrite=overwrite)
        self.fsc.save(folder / "fsc.csv", overwrite=overwrite)
        return folder

    def __repr__(self) -> str:
        return f"<Half maps: {self.map!r}, {self.resolution_A:.2f} A at FSC 0.143>"

    def _repr_png_(self) -> bytes:
        """The map's three central slices, for notebooks."""
        return self.map._repr_png_()


def backproject(particles: str | Path, *, output: str | Path | None = None, **options: Any) -> HalfMaps:
    """Reconstruct one map of all particles of a file or a store, with half maps and FSC.

    Args:
        output: folder for the maps, as `cryomorph backproject` writes them; nothing is kept without it.
        **options: as on the command line, such as `box`, `mask`, `datadir`, `flip_hand`, `overwrite`.

    Raises:
        InputError: an option that does not exist, or particles that cannot be used.
    """
    from cryomorph.commands.backproject import write_backprojection

    with tempfile.TemporaryDirectory() as scratch:
        given = {"particles": particles, "output": output or Path(scratch) / "maps", **options}
        return HalfMaps.of(write_backprojection(from_keywords(BackprojectConfig, given, call="backproject")))
