"""RELION's STAR files (3.0 to 5) as particle metadata."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float64, Int64

from cryomorph.config.console import warn
from cryomorph.config.errors import InputError
from cryomorph.io.star import read_star, unquote
from cryomorph.particles.table import Metadata, StarTable, check_index, half_set, one_value, require_all
from cryomorph.physics.ctf import Ctf
from cryomorph.physics.pose import rotation_from_euler

CTF_COLUMNS = {
    "defocus_u_A": "rlnDefocusU",
    "defocus_v_A": "rlnDefocusV",
    "angle_deg": "rlnDefocusAngle",
    "voltage_kV": "rlnVoltage",
    "cs_mm": "rlnSphericalAberration",
    "amplitude_contrast": "rlnAmplitudeContrast",
}
CTF_DEFAULTS = {
    "phase_shift_deg": ("rlnPhaseShift", 0.0),
    "bfactor_A2": ("rlnCtfBfactor", 0.0),
    "scale": ("rlnCtfScalefactor", 1.0),
}
ANGLES = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")
ORIGINS_A = ("rlnOriginXAngst", "rlnOriginYAngst")
ORIGINS_PIXEL = ("rlnOriginX", "rlnOriginY")
ABERRATIONS = {  # name -> columns with the value each has where there is none of it
    "beam tilt": {"rlnBeamTiltX": 0.0, "rlnBeamTiltY": 0.0},
    "odd Zernike terms": {"rlnOddZernike": 0.0},
    "even Zernike terms": {"rlnEvenZernike": 0.0},
    "anisotropic magnification": {"rlnMagMat00": 1.0, "rlnMagMat01": 0.0, "rlnMagMat10": 0.0, "rlnMagMat11": 1.0},
}


def parse_star(
    path: Path, index: Int64[np.ndarray, " m"] | None, *, with_pose: bool = True, with_ctf: bool = True
) -> Metadata:
    """Read a STAR file: one table (RELION 3.0 and other programs), or optics groups and particles (3.1 to 5).

    Args:
        index: the rows (0-based) to use; None for all. Only these are checked.
        with_pose: False where poses come from elsewhere, likewise `with_ctf`.

    Raises:
        InputError: what is missing, not a number, mixed or not supported, with its row (0-based) and column.
    """
    blocks = read_star(path)
    listing = [name for name, table in blocks.items() if "rlnImageName" in table.columns]
    if not listing:
        raise InputError(f"{path} has no column rlnImageName: expected a STAR file of particles")
    full = StarTable(blocks, "particles" if "particles" in listing else listing[0])
    total = len(full.particles)
    star = full.select(check_index(index, total, path))
    columns = _Columns.of(path, star)
    _refuse_premultiplied(columns)
    files, file_of, image_of = _image_names(columns)
    rotation, shift, shift_in = _pose(columns) if with_pose else (None, None, "angstrom")
    half = columns.numbers("rlnRandomSubset") if columns.has("rlnRandomSubset") else None
    return Metadata(
        files=files,
        file_of=file_of,
        image_of=image_of,
        row=columns.row,
        total=total,
        table=star,
        box=_box(columns),
        pixel_A=_pixel_A(columns),
        rotation=rotation,
        shift=shift,
        shift_in=shift_in,
        ctf=_ctf(columns) if with_ctf else None,
        half=None if half is None else half_set(half, 1, columns.row, where=f"{path}: rlnRandomSubset"),
        ignored=tuple(name for name, terms in ABERRATIONS.items() if _differs(columns, terms)),
    )


@dataclass(frozen=True)
class _Columns:
    """Numbers of columns for each particle, taken from its optics group where the optics table has the column."""

    path: Path
    particles: pd.DataFrame
    optics: pd.DataFrame | None
    group: Int64[np.ndarray, " n"] | None  # each particle's row in the optics table
    row: Int64[np.ndarray, " n"]

    @classmethod
    def of(cls, path: Path, star: StarTable) -> _Columns:
        row = star.particles.index.to_numpy(np.int64)
        plain = cls(path, star.particles, None, None, row)
        if star.optics is None:
            return plain
        optics = cls(path, star.optics, None, None, np.arange(len(star.optics)))
        if "rlnOpticsGroup" not in star.particles and len(star.optics) == 1:
            return cls(path, star.particles, star.optics, np.zeros(len(row), np.int64), row)
        for table, name in ((star.particles, f"block data_{star.name}"), (star.optics, "block data_optics")):
            if "rlnOpticsGroup" not in table:
                raise InputError(f"{path}, {name} has no column rlnOpticsGroup: expected one, add it")
        known = pd.Index(optics.numbers("rlnOpticsGroup").astype(np.int64))
        if not known.is_unique:
            raise InputError(f"{path}, block data_optics names a group twice ({list(known)}): expected each once")
        asked = plain.numbers("rlnOpticsGroup").astype(np.int64)
        group = known.get_indexer(pd.Index(asked)).astype(np.int64)
        if (group < 0).any():
            at = int((group < 0).argmax())
            raise InputError(
                f"{path}: row {row[at]} (0-based) is of optics group {asked[at]}, which data_optics lacks "
                f"(it has {', '.join(map(str, known))}): add the group or fix the row"
            )
        return cls(path, star.particles, star.optics, group, row)

    def has(self, name: str) -> bool:
        return name in self.particles or (self.optics is not None and name in self.optics)

    def tokens(self, name: str) -> pd.Series:
        """The strings in use of a column, one for each particle, or one for each optics group in use."""
        if self.optics is not None and self.group is not None and name in self.optics:
            return self.optics[name].iloc[np.unique(self.group)]
        return self.particles[name]

    def numbers(self, name: str) -> Float64[np.ndarray, " n"]:
        """One number for each particle."""
        if self.optics is not None and self.group is not None and name in self.optics:
            used, place = np.unique(self.group, return_inverse=True)
            return self._convert(self.optics[name].iloc[used], "optics row")[place]
        return self._convert(self.particles[name], "row")

    def _convert(self, tokens: pd.Series, what: str) -> Float64[np.ndarray, " n"]:
        try:
            values = tokens.to_numpy().astype(np.float64)
        except ValueError:
            values = pd.to_numeric(unquote(tokens), errors="coerce").to_numpy(np.float64)
        wrong = ~np.isfinite(values)
        if wrong.any():
            at = int(wrong.argmax())
            raise InputError(
                f"{self.path}: {tokens.name} is {tokens.iloc[at]!r} in {what} {tokens.index[at]} (0-based): "
                "expected a number, fix or remove that row"
            )
        return values


def _image_names(columns: _Columns) -> tuple[tuple[str, ...], Int64[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
    """Image files as written, each particle's file, and its 0-based image in it (-1 where no number is given)."""
    parts = unquote(columns.particles["rlnImageName"]).str.partition("@")
    numbered = (parts[1] == "@").to_numpy()
    number = pd.to_numeric(parts[0].where(numbered, "0"), errors="coerce").to_numpy(np.float64)
    wrong = ~(number >= numbered) | (number % 1 != 0)
    if wrong.any():
        at = int(wrong.argmax())
        raise InputError(
            f"{columns.path}: rlnImageName is {columns.particles['rlnImageName'].iloc[at]!r} in row {columns.row[at]} "
            "(0-based): expected number@file with numbers from 1"
        )
    file_of, files = pd.factorize(parts[2].where(numbered, parts[0]).to_numpy(dtype=object))
    return tuple(files), file_of.astype(np.int64), number.astype(np.int64) - 1


def _pixel_A(columns: _Columns) -> float | None:
    for name in ("rlnImagePixelSize", "rlnPixelSize"):
        if columns.has(name):
            return _positive(columns, columns.numbers(name), name)
    if columns.has("rlnDetectorPixelSize") and columns.has("rlnMagnification"):
        magnification = columns.numbers("rlnMagnification")
        _positive(columns, magnification[:1], "rlnMagnification")
        detector_A = columns.numbers("rlnDetectorPixelSize") * 1e4
        return _positive(columns, detector_A / magnification, "rlnDetectorPixelSize / rlnMagnification")
    return None


def _positive(columns: _Columns, values: Float64[np.ndarray, " n"], name: str) -> float:
    value = one_value(values, columns.row[: len(values)], columns.path, what=f"pixel sizes ({name})")
    if not value > 0:
        raise InputError(f"{columns.path}: {name} is {value:g}: expected a positive number")
    return value


def _box(columns: _Columns) -> int | None:
    if not columns.has("rlnImageSize"):
        return None
    return int(one_value(columns.numbers("rlnImageSize"), columns.row, columns.path, what="boxes (rlnImageSize)"))


def _pose(
    columns: _Columns,
) -> tuple[torch.Tensor | None, Float64[np.ndarray, "n 2"] | None, Literal["angstrom", "pixel", "box"]]:
    """Rotations and origins. Without rot and tilt there is no pose: psi and origins are then of a 2D alignment."""
    if not (columns.has(ANGLES[0]) or columns.has(ANGLES[1])):
        return None, None, "angstrom"
    known = [names for names in (ORIGINS_A, ORIGINS_PIXEL) if any(map(columns.has, names))]
    in_A = known[:1] == [ORIGINS_A] or columns.optics is not None
    origins = ORIGINS_A if in_A else ORIGINS_PIXEL
    centred = not known  # as Warp and M write them
    wanted = {name: columns.has(name) for name in (*ANGLES, *(() if centred else origins))}
    require_all(wanted, columns.path, what="pose", advice="give the output of a 3D refinement, or remove the others")
    angles = np.stack([columns.numbers(name) for name in ANGLES], axis=1)
    if centred:
        warn(f"{columns.path} has angles and no origins ({', '.join(origins)}): 0 is taken, particles are centred")
        shift = np.zeros((len(angles), 2))
    else:
        shift = np.stack([columns.numbers(name) for name in origins], axis=1)
    return rotation_from_euler(torch.from_numpy(angles)), shift, "angstrom" if in_A else "pixel"


def _ctf(columns: _Columns) -> Ctf | None:
    wanted = {name: columns.has(name) for name in CTF_COLUMNS.values()}
    if not require_all(
        wanted, columns.path, what="CTF", advice="add them or give a cryoDRGN ctf.pkl; without any, no CTF is applied"
    ):
        return None
    values = {field: columns.numbers(name) for field, name in CTF_COLUMNS.items()}
    for field, (name, default) in CTF_DEFAULTS.items():
        values[field] = columns.numbers(name) if columns.has(name) else np.full(len(columns.row), default)
    return Ctf(**{field: torch.from_numpy(value).float() for field, value in values.items()})


def _refuse_premultiplied(columns: _Columns) -> None:
    name = "rlnCtfDataAreCtfPremultiplied"
    if columns.has(name) and columns.numbers(name).any():
        raise InputError(
            f"{columns.path}: {name} is 1; expected images that are not multiplied by their CTF: extract the particles "
            "again without premultiplication"
        )


def _differs(columns: _Columns, terms: dict[str, float]) -> bool:
    """Whether any column, of numbers or of bracketed lists of them, differs from its neutral value."""
    for name, neutral in terms.items():
        if not columns.has(name):
            continue
        joined = ",".join(columns.tokens(name).unique()).translate(str.maketrans("", "", "[]\"' \t"))
        try:
            values = [float(part) for part in joined.split(",") if part]
        except ValueError as error:
            raise InputError(f"{columns.path}: {name} holds {joined!r}: expected numbers") from error
        if any(value != neutral for value in values):
            return True
    return False
