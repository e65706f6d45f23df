"""The consensus of a run on disk: its maps, its FSC curves, and the spectra that later stages need."""

from __future__ import annotations

import csv
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float32

from cryomorph.io.npy import damaged

if TYPE_CHECKING:
    from torch import Tensor

    from cryomorph.volumes.backproject import Reconstruction

CONSENSUS, CORRECTED, CURVES, SPECTRA = "consensus", "corrected_consensus", "fsc.csv", "spectra.safetensors"
OPTIONAL = "phase_randomised"  # no phases are randomised where the FSC never falls below 0.8
MAPS = ("map", "half1", "half2", "mask")
AGAIN = "train again with --overwrite"


@dataclass(frozen=True)
class FscCurves:
    """The curves of an `fsc.csv`, each from shell 0 up; `phase_randomised` is None where its column is empty."""

    unmasked: Float32[np.ndarray, " shells"]
    masked: Float32[np.ndarray, " shells"]
    corrected: Float32[np.ndarray, " shells"]
    phase_randomised: Float32[np.ndarray, " shells"] | None = None

    @classmethod
    def read(cls, path: Path, *, shells: int | None = None) -> FscCurves:
        """The curves that `FscReport.write_csv` wrote.

        Raises:
            InputError: the file is missing, damaged, or has another number of rows than `shells`.
        """
        try:
            with path.open(encoding="utf-8", newline="") as file:
                rows = list(csv.DictReader(file))
            empty = {OPTIONAL} if all(row[OPTIONAL] == "" for row in rows) else set()
            names = [f.name for f in fields(cls) if f.name not in empty]
            curves = [np.array([float(row[name]) for row in rows], dtype=np.float32) for name in names]
            if not rows or len(rows) != (shells or len(rows)):
                raise ValueError(f"{len(rows)} rows, expected {shells or 'some'}")
            if not np.isfinite(curves).all():
                raise ValueError("values that are not finite")
        except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
            raise damaged(path, error, AGAIN) from error
        return cls(**dict(zip(names, curves, strict=True)))

    def by_name(self) -> dict[str, Float32[np.ndarray, " shells"] | None]:
        """The curves by the names of the table's columns."""
        return {f.name: getattr(self, f.name) for f in fields(self)}


@dataclass(frozen=True)
class Spectra:
    """Precision of the consensus and noise of the particles by shell; see `Reconstruction` and `residual_noise`."""

    precision: Float32[Tensor, " shells"]
    noise: Float32[Tensor, " shells"]

    @classmethod
    def read(cls, folder: Path, *, shells: int | None = None) -> Spectra:
        """The spectra of a run's consensus.

        Raises:
            InputError: the file is missing or damaged.
        """
        from cryomorph.runs.checkpoint import load_tensors, require_finite

        tensors = require_finite(load_tensors(folder / SPECTRA)[0])
        found = [tensors[f.name] for f in fields(cls)]
        if any(curve.shape != (shells or curve.numel(),) for curve in found):
            shapes = ", ".join(str(tuple(curve.shape)) for curve in found)
            raise damaged(folder / SPECTRA, ValueError(f"shapes {shapes}, expected ({shells or 'n'},)"), AGAIN)
        return cls(*found)

    def write(self, folder: Path) -> None:
        """Write the spectra: the last file of a consensus."""
        from cryomorph.runs.checkpoint import save_tensors

        save_tensors(folder / SPECTRA, {f.name: getattr(self, f.name) for f in fields(self)})


def save_reconstruction(result: Reconstruction, folder: Path) -> None:
    """Write a reconstruction's maps, FSC table and FSC plot into a folder."""
    from cryomorph.io.mrc import write_map

    for name in MAPS:
        write_map(folder / f"{name}.mrc", getattr(result, name).numpy(), result.fsc.pixel_A)
    result.fsc.write_csv(folder / CURVES)
    result.fsc.write_plot(folder / "fsc.png")
