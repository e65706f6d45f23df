"""A particle file's rows repeated for the symmetry copies of each particle."""

from __future__ import annotations

import numpy as np
from jaxtyping import UInt64

from cryomorph.io.cryosparc import add_columns
from cryomorph.particles.table import StarTable

SOURCE_UID, COPY = "sym_expand/src_uid", "sym_expand/idx"
ODD = (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)


def copies_of(symmetry: str) -> int:
    """How many orientations a point group makes equivalent: its order.

    Args:
        symmetry: RELION's name of it, see `physics.symmetry.point_group`.
    """
    kind, number = symmetry[:1].upper(), symmetry[1:]
    fixed = {"T": 12, "O": 24, "I": 60}
    return fixed[kind] if kind in fixed else int(number) * (2 if kind == "D" else 1)


def repeated(table: StarTable | np.ndarray, copies: int) -> StarTable | np.ndarray:
    """Every row so many times, the copies of a particle one after another; all columns as they were.

    cryoSPARC wants a `uid` of its own for every row: the first copy keeps the particle's, the others get new ones that
    are always the same for it; `sym_expand/src_uid` and `sym_expand/idx` say which copy of which particle a row is.
    """
    if copies == 1:
        return table
    if isinstance(table, StarTable):
        return table.select(np.repeat(np.arange(len(table.particles)), copies))
    rows = np.repeat(table, copies)
    copy = np.tile(np.arange(copies, dtype=np.uint32), len(table))
    columns = {"uid": _uid_of_copy(rows["uid"].astype(np.uint64), copy), SOURCE_UID: rows["uid"], COPY: copy}
    return add_columns(rows, columns)


def _uid_of_copy(uid: UInt64[np.ndarray, " n"], copy: np.ndarray) -> UInt64[np.ndarray, " n"]:
    """The particle's number for copy 0, else one that is drawn from both (the mixing function of SplitMix64)."""
    step, first, second = (np.uint64(odd) for odd in ODD)
    mixed = uid + copy.astype(np.uint64) * step
    mixed = (mixed ^ (mixed >> np.uint64(30))) * first
    mixed = (mixed ^ (mixed >> np.uint64(27))) * second
    return np.where(copy == 0, uid, mixed ^ (mixed >> np.uint64(31)))
