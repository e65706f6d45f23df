"""Poses written into STAR files, and new STAR files (RELION 3.1) for particles that came from elsewhere."""

from __future__ import annotations

import numpy as np
import pandas as pd
from jaxtyping import Int64, Num

from cryomorph.io.star import quote
from cryomorph.particles.from_star import ANGLES, CTF_COLUMNS, CTF_DEFAULTS, ORIGINS_A, ORIGINS_PIXEL
from cryomorph.particles.table import StarTable
from cryomorph.physics.ctf import Ctf
from cryomorph.physics.pose import Pose, euler_from_rotation

PIXEL_COLUMNS = ("rlnImagePixelSize", "rlnPixelSize", "rlnDetectorPixelSize", "rlnMagnification")
OPTICS_FIELDS = ("voltage_kV", "cs_mm", "amplitude_contrast")


def with_star_pose(star: StarTable, pose: Pose, pixel_A: float) -> StarTable:
    """The file with its pose columns replaced, or added at the end where it has none.

    Origins are in Angstrom where the file has such columns or optics groups, else in pixels as RELION 3.0 has them.
    """
    particles = star.particles.copy()
    for name, angle in zip(ANGLES, euler_from_rotation(pose.rotation.double()).numpy().T, strict=True):
        particles[name] = _tokens(angle)
    present = [names for names in (ORIGINS_A, ORIGINS_PIXEL) if any(name in particles for name in names)]
    default = ORIGINS_PIXEL if star.optics is None else ORIGINS_A
    for names in present or [default]:
        unit = 1.0 if names == ORIGINS_A else pixel_A
        for name, origin in zip(names, pose.shift_A.double().numpy().T / unit, strict=True):
            particles[name] = _tokens(origin)
    return star.with_particles(particles)


def with_star_pixel(star: StarTable, pixel_A: float, box: int) -> StarTable:
    """The file with another pixel size of the images, and their box where it states one.

    The columns that the file has are replaced; where it states no pixel size, rlnImagePixelSize is added to the optics
    groups, or rlnDetectorPixelSize and rlnMagnification to a file of RELION 3.0.
    """
    values = {"rlnImagePixelSize": pixel_A, "rlnPixelSize": pixel_A, "rlnImageSize": box}
    values |= {"rlnDetectorPixelSize": pixel_A, "rlnMagnification": 1e4}  # micrometres
    blocks = dict(star.blocks)
    names = [name for name in (star.name, "optics") if name in blocks]
    for name in names:
        present = [column for column in values if column in blocks[name]]
        blocks[name] = _with_constants(blocks[name], {column: values[column] for column in present})
    if not any(column in blocks[name] for name in names for column in PIXEL_COLUMNS):
        last, wanted = names[-1], PIXEL_COLUMNS[:1] if star.optics is not None else PIXEL_COLUMNS[2:]
        blocks[last] = _with_constants(blocks[last], {column: values[column] for column in wanted})
    return StarTable(blocks, star.name)


def _with_constants(table: pd.DataFrame, values: dict[str, float]) -> pd.DataFrame:
    """The table with columns of one value, replaced or added at the end."""
    n = len(table)
    columns = {name: _tokens(np.full(n, v), "%d" if isinstance(v, int) else "%.6f") for name, v in values.items()}
    changed = table.assign(**columns)
    changed.attrs = dict(table.attrs)
    return changed


def new_star(
    files: list[str],
    image_of: Int64[np.ndarray, " n"],
    *,
    box: int,
    pixel_A: float,
    pose: Pose | None,
    ctf: Ctf | None,
    half: Int64[np.ndarray, " n"] | None,
) -> StarTable:
    """A RELION 3.1 file of particles; `files` names the stack of each, `image_of` is 0-based.

    Particles of one voltage, spherical aberration and amplitude contrast share an optics group.
    """
    n = len(image_of)
    names = pd.Series(_tokens(image_of + 1, "%06d")) + "@" + pd.Series(files, dtype=object)
    columns: dict[str, pd.Series | np.ndarray] = {"rlnImageName": quote(names)}
    microscope, group = np.empty((1, 0)), np.zeros(n, np.int64)
    if ctf is not None:
        shared = np.stack([getattr(ctf, field).numpy() for field in OPTICS_FIELDS], axis=1)
        microscope, group = np.unique(shared, axis=0, return_inverse=True)
        fields = {**CTF_COLUMNS, **{field: name for field, (name, _) in CTF_DEFAULTS.items()}}
        for field, name in fields.items():
            if field not in OPTICS_FIELDS:
                columns[name] = _tokens(getattr(ctf, field).numpy())
    columns["rlnOpticsGroup"] = _tokens(group.reshape(-1) + 1, "%d")
    if half is not None:
        columns["rlnRandomSubset"] = _tokens(half + 1, "%d")
    number = np.arange(1, len(microscope) + 1)
    optics = {"rlnOpticsGroupName": _tokens(number, "opticsGroup%d"), "rlnOpticsGroup": _tokens(number, "%d")}
    for field, values in zip(OPTICS_FIELDS, microscope.T, strict=False):
        optics[CTF_COLUMNS[field]] = _tokens(values)
    optics["rlnImagePixelSize"] = _tokens(np.full(len(number), pixel_A))
    optics["rlnImageSize"] = _tokens(np.full(len(number), box), "%d")
    optics["rlnImageDimensionality"] = _tokens(np.full(len(number), 2), "%d")
    blocks = {"optics": pd.DataFrame(optics, dtype=object), "particles": pd.DataFrame(columns, dtype=object)}
    for table in blocks.values():
        table.attrs.update(loop=True, version="30001")
    star = StarTable(blocks, "particles")
    return star if pose is None else with_star_pose(star, pose, pixel_A)


def _tokens(values: Num[np.ndarray, " n"], pattern: str = "%.6f") -> np.ndarray:
    return np.char.mod(pattern, values).astype(object)
