"""cryoSPARC's .cs files as particle metadata, and poses back into them."""

from __future__ import annotations

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
POSE, SHIFT, SHIFT_PIXEL = POSE_COLUMNS = ("alignments3D/pose", "alignments3D/shift", "alignments3D/psize_A")
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
    passthrough: Path | None = None,
    with_pose: bool = True,
    with_ctf: bool = True,
) -> Metadata:
    """Read a .cs file, with the columns it lacks taken from a passthrough file by `uid`.

    Without `alignments3D/...` (an extraction, or the `alignments3D_multi/...` of several classes) there is no pose.

    Raises:
        InputError: what is missing, not a number, mixed or not supported, with its row (0-based) and column.
    """
    array = read_cs(path)
    if passthrough is not None:
        array = merge_passthrough(array, read_cs(passthrough), passthrough)
    row = check_index(index, len(array), path)
    total, array = len(array), array[row]
    for name in ("blob/path", "blob/idx"):
        if name not in (array.dtype.names or ()):
            raise InputError(f"{path} has no column {name}: give the file of particles, or its --passthrough as well")
    columns = _Columns(path, array, row)
    names, file_of = np.unique(array["blob/path"], return_inverse=True)
    rotation, shift = _pose(columns) if with_pose else (None, None)
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
        half=(
            half_set(columns.numbers("alignments3D/split"), 0, row, where=f"{path}: alignments3D/split")
            if columns.has("alignments3D/split")
            else None
        ),
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


def _pose(columns: _Columns) -> tuple[Float64[torch.Tensor, "n 3 3"] | None, Float64[np.ndarray, "n 2"] | None]:
    wanted = {name: columns.has(name) for name in POSE_COLUMNS}
    if not require_all(wanted, columns.path, what="pose", advice="give the file that has them as --passthrough"):
        return None, None
    rotvec = torch.from_numpy(columns.numbers(POSE))
    shift_A = columns.numbers(SHIFT) * columns.numbers(SHIFT_PIXEL)[:, None]
    return rotation_from_rotvec(-rotvec), shift_A  # cryoSPARC's matrix is the transpose of ours


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
