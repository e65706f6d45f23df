"""The columns of a particle file as numbers and text."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Shaped

if TYPE_CHECKING:
    import pandas as pd

    from cryomorph.particles.subset import ParticleFile

Values = Shaped[np.ndarray, " n"]
OPTICS_GROUP = "rlnOpticsGroup"


def metadata_columns(file: ParticleFile) -> dict[str, Callable[[], Values]]:
    """Every column of a particle file by its name, converted when it is called for.

    Of a STAR file, columns of its optics table are given for each particle. Of a .cs file, an array in a column becomes
    several: `alignments3D/pose[0]` and so on.
    """
    if isinstance(file.table, np.ndarray):
        return _of_cs(file.table)
    from cryomorph.io.star import unquote

    particles, optics = file.table.particles, file.table.optics
    columns: dict[str, Callable[[], Values]]
    columns = {str(name): partial(_values, particles[name]) for name in particles.columns}
    if optics is not None and OPTICS_GROUP in columns and OPTICS_GROUP in optics:
        shared = optics.assign(**{OPTICS_GROUP: unquote(optics[OPTICS_GROUP])})
        shared = shared.drop_duplicates(OPTICS_GROUP).set_index(OPTICS_GROUP)
        groups = unquote(particles[OPTICS_GROUP])
        columns |= {
            str(name): partial(_of_group, shared[name], groups) for name in shared.columns if name not in columns
        }
    return columns


def _of_cs(table: np.ndarray) -> dict[str, Callable[[], Values]]:
    columns: dict[str, Callable[[], Values]] = {}
    for name in table.dtype.names or ():
        if table[name].ndim == 1:
            columns[name] = partial(_plain, table[name])
        else:
            parts = table[name].reshape(len(table), -1).T
            columns |= {f"{name}[{number}]": partial(_plain, part) for number, part in enumerate(parts)}
    return columns


def _plain(values: Values) -> Values:
    """Text of cryoSPARC's bytes; numbers stay as they are."""
    if values.dtype.kind not in "SU":
        return values
    return np.array([v.decode(errors="replace") if isinstance(v, bytes) else str(v) for v in values], dtype=object)


def _of_group(values: pd.Series, groups: pd.Series) -> Values:
    return _values(groups.map(values).fillna("nan"))


def _values(tokens: pd.Series) -> Values:
    """Numbers of STAR tokens where all are numbers, whole ones as integers; text otherwise."""
    from cryomorph.io.star import unquote

    plain = unquote(tokens).to_numpy(dtype=object)
    if not any("_" in token for token in plain):  # which Python takes for a separator of digits
        for kind in (np.int64, np.float64):
            try:
                return plain.astype(kind)
            except (ValueError, OverflowError):
                continue
    return plain
