"""Numbers of a particle file that cannot be meant, named before anything is computed with them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float64, Int64

from cryomorph.config.console import warn
from cryomorph.config.errors import InputError
from cryomorph.physics.ctf import Ctf


@dataclass(frozen=True)
class Range:
    """What a quantity can be, and what it usually is."""

    name: str
    unit: str
    possible: tuple[float, float]
    usual: tuple[float, float]

    def check(self, values: Float[np.ndarray, " n"], row: Int64[np.ndarray, " n"], path: Path, *, way_out: str) -> None:
        """Refuse a value that is not possible, and warn of the one that is farthest from the usual.

        Args:
            way_out: what can be done, to end the message with.

        Raises:
            InputError: a value that is not possible, with its row (0-based).
        """
        for (low, high), say in ((self.possible, _refuse), (self.usual, warn)):
            wrong = ~((values >= low) & (values <= high))
            if wrong.any():
                at = int(wrong.argmax())
                others = f" and in {int(wrong.sum()) - 1} more" if wrong.sum() > 1 else ""
                found = f"{self.name} is {values[at]:g} {self.unit}".rstrip()
                expected = f"expected {low:g} to {high:g} {self.unit}".rstrip()
                say(f"{path}: {found} in row {row[at]} (0-based){others}: {expected}; {way_out}")
                return


PIXEL = Range("the pixel size", "A", (0.01, 1000.0), (0.1, 50.0))
CTF = {
    "voltage_kV": Range("the voltage", "kV", (10.0, 5000.0), (60.0, 1000.0)),
    "cs_mm": Range("the spherical aberration", "mm", (-100.0, 1000.0), (-1.0, 10.0)),
    "amplitude_contrast": Range("the amplitude contrast", "", (-1.0, 1.0), (0.0, 0.6)),
    "defocus_u_A": Range("the defocus", "A", (-1e6, 1e6), (-1e5, 2e5)),
    "defocus_v_A": Range("the defocus", "A", (-1e6, 1e6), (-1e5, 2e5)),
    "angle_deg": Range("the angle of the astigmatism", "degrees", (-1e4, 1e4), (-1e4, 1e4)),
    "phase_shift_deg": Range("the phase shift", "degrees", (-1e4, 1e4), (-720.0, 720.0)),
    "bfactor_A2": Range("the CTF's B-factor", "A^2", (-1e6, 1e6), (-1e4, 1e4)),
    "scale": Range("the CTF's scale factor", "", (-1e6, 1e6), (0.0, 1e3)),
}
MICROMETRES = 30  # A; a set of which every defocus is below was hardly taken in focus
ROUNDED = 1.001  # numbers of files are rounded
FIX_ROW = "fix or remove the row"


def check_pixel_size(pixel_A: float, path: Path) -> None:
    """Refuse a pixel size that cannot be; warn of one that is hardly meant."""
    PIXEL.check(np.array([pixel_A]), np.zeros(1, np.int64), path, way_out="give the right one with --pixel-A")


def check_ctf(ctf: Ctf, row: Int64[np.ndarray, " n"], path: Path) -> None:
    """Refuse CTF parameters that cannot be; warn of those that are hardly meant.

    Args:
        row: the particles' rows in `path`, for messages.

    Raises:
        InputError: a value that is not possible, with its row (0-based).
    """
    for field, range_ in CTF.items():
        range_.check(getattr(ctf, field).numpy(), row, path, way_out=FIX_ROW)
    largest = float(np.abs(ctf.defocus_u_A.numpy()).max())
    if 0 < largest < MICROMETRES:
        warn(f"{path}: no defocus is above {largest:g} A: expected Angstrom, not micrometres; multiply them by 10,000")


def check_shifts(
    shift_A: Float64[np.ndarray, "n 2"], row: Int64[np.ndarray, " n"], path: Path, *, extent_A: float
) -> None:
    """Refuse shifts that are longer than the box: the particle would not be in its image.

    Args:
        extent_A: edge of the images.

    Raises:
        InputError: a shift that is too long or not finite, with its row (0-based).
    """
    wrong = ~(np.abs(shift_A) <= ROUNDED * extent_A).all(1)
    if wrong.any():
        at = int(wrong.argmax())
        x, y = shift_A[at]
        others = f", and {int(wrong.sum()) - 1} more are as long" if wrong.sum() > 1 else ""
        raise InputError(
            f"{path}: the shift of the particle in row {row[at]} (0-based) is ({x:g}, {y:g}) A, longer than its image "
            f"of {extent_A:g} A{others}: {FIX_ROW}"
        )


def _refuse(message: str) -> None:
    raise InputError(message)
