"""Polygons drawn around points of a plane."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float

from cryomorph.config.errors import InputError
from cryomorph.io.npy import read_npy
from cryomorph.io.text import read_text

FEWEST_CORNERS = 3


def read_polygon(path: Path) -> Float[np.ndarray, "corners 2"]:
    """The corners of a polygon, from a .npy array or a text table (blanks or commas), a corner a row.

    Raises:
        InputError: the file holds anything else.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file of a polygon's corners")
    try:
        if path.suffix == ".npy":
            found = read_npy(path)
        else:
            rows = (line.split("#")[0].replace(",", " ").split() for line in read_text(path).split("\n"))
            found = np.array([[float(value) for value in row] for row in rows if row])
        corners = found.astype(np.float64)
    except (ValueError, TypeError) as error:
        raise InputError(f"{path}: cannot be read as corners ({str(error).splitlines()[0]})") from error
    if corners.ndim != 2 or corners.shape[1] != 2 or len(corners) < FEWEST_CORNERS or not np.isfinite(corners).all():
        raise InputError(f"{path}: found shape {corners.shape}, expected 3 or more rows of two finite numbers")
    return corners


def inside(polygon: Float[np.ndarray, "corners 2"], points: Float[np.ndarray, "n 2"]) -> Bool[np.ndarray, " n"]:
    """Which points lie in a polygon, by the even-odd rule where it crosses itself; it need not be closed."""
    from skimage.measure import points_in_poly

    finite = np.isfinite(points).all(axis=1)
    found = np.zeros(len(points), dtype=bool)
    found[finite] = points_in_poly(points[finite], polygon)
    return found
