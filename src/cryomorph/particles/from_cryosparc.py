"""cryoSPARC's .cs files as particle metadata, and poses back into them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float64, Int64

from cryomorph.config.errors import InputError
from cryomorph.io.cryosparc import add_columns, merge_passthrough, read_cs
from cryomorph.particles.table import Metadata, check_index, half_set, one_value, require_all
from cryomorph.physics.ctf import Ctf
from cryomorph.physics.pose import Pose, rotation_from_rotvec, rotvec_from_rotation

CTF_COLUMNS = {
    "defocus_u_A": "ctf/df1_A",
    "defocus_v_A": "ctf/df2_A",
    "angle_deg": "ctf/df_angle_rad",
    "voltage_kV": "ctf/accel_kv",
    "cs_mm": "ctf/cs_mm",
    "amplitude_contrast": "ctf/amp_contrast",
}
CTF_DEFAULTS = {
    "phase_shift_deg": ("ctf/phase_shift_rad", 0.0),
    "bfactor_A2": ("ctf/bfactor", 0.0),
    "scale": ("ctf/scale", 1.0),
}
RADIANS = ("angle_deg", "phase_shift_deg")
ONE, SEVERAL = "alignments3D", "alignments3D_multi"
PARTS = ("pose", "shift", "psize_A")
POSE, SHIFT, SHIFT_PIXEL = POSE_COLUMNS = tuple(f"{ONE}/{part}" for part in PARTS)
ABERRATIONS = {
    "image shift term": "ctf/shift_A",
    "beam tilt": "ctf/tilt_A",
    "trefoil": "ctf/trefoil_A",
    "tetrafoil": "ctf/tetra_A",
    "anisotropic magnification": "ctf/anisomag",
}


def parse_cs(
    path: Path,
    index: Int64[np.ndarray, " m"] | None,
    *,
    passthrough: tuple[Path, ...] = (),
    with_pose: bool = True,
    with_ctf: bool = True,
) -> Metadata:
    """Read a .cs file, with the columns it lacks taken from passthrough files by `uid`, from the first that has them.

    Poses are those of `alignments3D/...`; without, those of each particle's most probable class, of
    `alignments3D_multi/...` (heterogeneous refinement, ab-initio reconstruction of several classes); without either
    (an extraction) there is none.

    Raises:
        InputError: what is missing, not a number, mixed or not supported, with its row (0-based) and column.
    """
    array = read_cs(path)
    for other in passthrough:
        array = merge_passthrough(array, read_cs(other), other)
    row = check_index(index, len(array), path)
    total, array = len(array), array[row]
    for name in ("blob/path", "blob/idx"):
        if name not in (array.dtype.names or ()):
            raise InputError(f"{path} has no column {name}: give the file of particles, or its --passthrough as well")
    columns = _Columns(path, array, row)
    alignment = _Alignment.of(columns)
    names, file_of = np.unique(array["blob/path"], return_inverse=True)
    rotation, shift = alignment.pose() if with_pose and alignment else (None, None)
    box = columns.one("blob/shape", "boxes (blob/shape)")
    return Metadata(
        files=tuple((name.decode() if isinstance(name, bytes) else str(name)).removeprefix(">") for name in names),
        file_of=file_of.astype(np.int64),
        image_of=array["blob/idx"].astype(np.int64),
        row=row,
        total=total,
        table=array,
        box=None if box is None else int(box),
        pixel_A=columns.one("blob/psize_A", "pixel sizes (blob/psize_A)"),
        rotation=rotation,
        shift=shift,
        ctf=_ctf(columns) if with_ctf else None,
        blob_sign=columns.one("blob/sign", "contrast signs (blob/sign)"),
        half=None if alignment is None else alignment.half(),
        contrast=None if alignment is None or not with_pose else alignment.contrast(),
        ignored=tuple(name for name, column in ABERRATIONS.items() if columns.has(column) and array[column].any()),
    )


class _Columns:
    """Columns of a structured array as checked numbers."""

    def __init__(self, path: Path, array: np.ndarray, row: Int64[np.ndarray, " n"]) -> None:
        self.path, self.array, self.row = path, array, row

    def has(self, name: str) -> bool:
        return name in (self.array.dtype.names or ())

    def numbers(self, name: str) -> Float64[np.ndarray, "n ..."]:
        """A column as float64, every value finite."""
        try:
            values = self.array[name].astype(np.float64)
        except ValueError as error:
            raise InputError(
                f"{self.path}: column {name} has type {self.array.dtype[name]}: expected numbers"
            ) from error
        wrong = ~np.isfinite(values.reshape(len(values), -1)).all(axis=1)
        if wrong.any():
            at = int(wrong.argmax())
            raise InputError(
                f"{self.path}: {name} is {values[at]} in row {self.row[at]} (0-based): expected a number, "
                "remove that row"
            )
        return values

    def one(self, name: str, what: str) -> float | None:
        """The value that all particles share, None where there is no such column."""
        if not self.has(name):
            return None
        values = self.numbers(name).reshape(len(self.row), -1)
        value = one_value(values[:, 0].copy(), self.row, self.path, what=what)
        if name != "blob/sign" and not value > 0:
            raise InputError(f"{self.path}: {name} is {value:g}: expected a positive number")
        return float(str(np.float32(value)))  # 2.95, not 2.950000047683716


@dataclass(frozen=True)
class _Alignment:
    """The columns of one 3D alignment, or of one for each of several classes, of which the most probable is taken."""

    columns: _Columns
    prefix: str
    chosen: Int64[np.ndarray, " n"] | None  # each particle's class, as a place in the columns; None for one alignment

    @classmethod
    def of(cls, columns: _Columns) -> _Alignment | None:
        """The alignment that a file holds, None where it holds none."""
        if any(map(columns.has, POSE_COLUMNS)) or columns.has(f"{ONE}/split"):
            return cls(columns, ONE, None)
        name = f"{SEVERAL}/class_posterior"
        if not columns.has(name):
            return None
        posterior = columns.numbers(name).reshape(len(columns.row), -1)
        return cls(columns, SEVERAL, posterior.argmax(1))

    def _numbers(self, part: str, size: tuple[int, ...] = ()) -> Float64[np.ndarray, "n ..."]:
        """A column of which each class has `size` numbers, or all classes share them."""
        name, n = f"{self.prefix}/{part}", len(self.columns.row)
        values = self.columns.numbers(name)
        if self.chosen is not None and values.ndim > 1 + len(size):
            if int(self.chosen.max()) >= values.shape[1]:
                raise InputError(f"{self.columns.path}: {name} has fewer classes than class_posterior: export it again")
            values = values[np.arange(n), self.chosen]
        if values.shape != (n, *size):
            raise InputError(f"{self.columns.path}: {name} has shape {values.shape}, expected {(n, *size)}")
        return values

    def pose(self) -> tuple[Float64[torch.Tensor, "n 3 3"] | None, Float64[np.ndarray, "n 2"] | None]:
        """Rotations, and shifts in Angstrom."""
        path, names = self.columns.path, {part: f"{self.prefix}/{part}" for part in PARTS}
        wanted = {name: self.columns.has(name) for name in names.values()}
        if not require_all(wanted, path, what="pose", advice="give the file that has them as --passthrough"):
            return None, None
        rotvec, shift = self._numbers("pose", (3,)), self._numbers("shift", (2,))
        pixel_A = self._numbers("psize_A")
        if (pixel_A <= 0).any():
            at = int((pixel_A <= 0).argmax())
            raise InputError(
                f"{path}: {names['psize_A']} is {pixel_A[at]:g} in row {self.columns.row[at]} (0-based): expected the "
                "pixel size of the shifts, above 0; refine again, or export the particles of an earlier job"
            )
        # cryoSPARC's matrix is the transpose of ours
        return rotation_from_rotvec(-torch.from_numpy(rotvec)), shift * pixel_A[:, None]

    def half(self) -> Int64[np.ndarray, " n"] | None:
        """Half sets, None where the file has none."""
        name = f"{self.prefix}/split"
        if not self.columns.has(name):
            return None
        return half_set(self._numbers("split"), 0, self.columns.row, where=f"{self.columns.path}: {name}")

    def contrast(self) -> Float64[np.ndarray, " n"] | None:
        """The factor of each image's projection (`alpha`), None where there is none or all are alike."""
        if not self.columns.has(f"{self.prefix}/alpha"):
            return None
        alpha = self._numbers("alpha")
        return None if (alpha == alpha[0]).all() else alpha


def _ctf(columns: _Columns) -> Ctf | None:
    wanted = {name: columns.has(name) for name in CTF_COLUMNS.values()}
    advice = "give the file that has them as --passthrough, or a cryoDRGN ctf.pkl"
    if not require_all(wanted, columns.path, what="CTF", advice=advice):
        return None
    values = {field: columns.numbers(name) for field, name in CTF_COLUMNS.items()}
    for field, (name, default) in CTF_DEFAULTS.items():
        values[field] = columns.numbers(name) if columns.has(name) else np.full(len(columns.row), default)
    for field in RADIANS:
        values[field] = np.rad2deg(values[field])
    return Ctf(**{field: torch.from_numpy(value).float() for field, value in values.items()})


def with_cs_pose(array: np.ndarray, pose: Pose, pixel_A: float) -> np.ndarray:
    """The array with its 3D alignments replaced by `pose`, or added with the images' pixel size."""
    known = SHIFT_PIXEL in (array.dtype.names or ())
    shift_pixel_A = array[SHIFT_PIXEL] if known else np.full(len(array), pixel_A, np.float32)
    columns = {
        POSE: -rotvec_from_rotation(pose.rotation.double()).float().numpy(),
        SHIFT: (pose.shift_A.numpy() / shift_pixel_A[:, None]).astype(np.float32),
        SHIFT_PIXEL: shift_pixel_A,
    }
    return add_columns(array, columns)


def with_cs_pixel(array: np.ndarray, pixel_A: float, box: int) -> np.ndarray:
    """The array with other images' pixel size and box, where it states them."""
    stated = {"blob/psize_A": pixel_A, "blob/shape": box}
    names = [name for name in stated if name in (array.dtype.names or ())]
    return add_columns(array, {name: np.full_like(array[name], stated[name]) for name in names})
