"""Fourier shell correlation of two maps."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from cryomorph.api.map import Map
from cryomorph.config.errors import InputError
from cryomorph.io.atomic import check_output
from cryomorph.volumes.fsc import FscReport, half_map_fsc
from cryomorph.volumes.masks import fit_mask, read_mask

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SAME_PIXEL = 1e-3  # relative difference of pixel sizes that headers' rounding explains


@dataclass(frozen=True, eq=False)
class Fsc:
    """How well two maps agree at each spatial frequency."""

    report: FscReport

    @property
    def curve(self) -> Float[np.ndarray, " shells"]:
        """The correlation in each shell, corrected for the mask where there is one."""
        return self.report.best.numpy()

    @property
    def frequency(self) -> Float[np.ndarray, " shells"]:
        """Spatial frequency of each shell, in 1/A."""
        return np.arange(len(self.curve)) / (self.report.box * self.report.pixel_A)

    @property
    def resolution_A(self) -> float:
        """Resolution at FSC = 0.143; Nyquist, two pixels, where the curve never falls below it."""
        return self.report.resolution_0143_A

    @property
    def resolution_05_A(self) -> float:
        """Resolution at FSC = 0.5."""
        return self.report.resolution_05_A

    def plot(self) -> Figure:
        """The curves against resolution."""
        from cryomorph.report.fsc_plots import fsc_curves

        curves = {name: None if curve is None else curve.numpy() for name, curve in self.report.curves().items()}
        return fsc_curves(curves, pixel_A=self.report.pixel_A, box=self.report.box)

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write the curves as a CSV table; `InputError` where one is there already and is not to be replaced."""
        path = Path(path)
        check_output(path, overwrite=overwrite)
        self.report.write_csv(path)
        return path

    def __repr__(self) -> str:
        return f"<FSC: {self.resolution_A:.2f} A at 0.143, {self.resolution_05_A:.2f} A at 0.5>"

    def _repr_png_(self) -> bytes:
        """The plot, for notebooks."""
        buffer = io.BytesIO()
        self.plot().savefig(buffer, format="png", metadata={"Software": None})
        return buffer.getvalue()


def fsc(a: Map | str | Path, b: Map | str | Path, mask: Map | str | Path | None = None, *, seed: int = 0) -> Fsc:
    """Correlate two maps, given as maps or as MRC files.

    Args:
        mask: correlate inside this soft mask (0 to 1, resampled to the maps' grid where it has another), and correct
            for what the mask itself correlates.
        seed: of the random phases by which that is measured.

    Raises:
        InputError: the maps differ in box or pixel size, or the mask is none or does not cover them.
    """
    import torch

    first, second = (map if isinstance(map, Map) else Map.load(map) for map in (a, b))
    if second.box != first.box or abs(second.pixel_A / first.pixel_A - 1) > SAME_PIXEL:
        raise InputError(
            f"maps of {first.box} voxels of {first.pixel_A:g} A and of {second.box} of {second.pixel_A:g} A: expected "
            "the same; resample one of them"
        )
    inside = None
    if isinstance(mask, Map):
        inside = fit_mask(torch.tensor(mask.array), mask.pixel_A, box=first.box, pixel_A=first.pixel_A)
    elif mask is not None:
        inside = read_mask(Path(mask), first.box, first.pixel_A, whose="the maps' box")
    half1, half2 = (torch.tensor(map.array) for map in (first, second))
    return Fsc(half_map_fsc(half1, half2, inside, pixel_A=first.pixel_A, seed=seed))
