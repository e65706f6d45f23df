"""The loops of ray casting over single rays, compiled by numba: four times as fast as torch on arrays of rays.

They run without Python's lock, so that threads can draw at once. Compiling takes some seconds, once on a machine.
Timings: benchmarks/analyze.py.
"""

from __future__ import annotations

import math
from typing import no_type_check

import numpy as np
from jaxtyping import Bool, Float32

from cryomorph.compute.compiled import compiled

Field = Float32[np.ndarray, "n n n"]

STEP = 0.7  # voxels between samples


@compiled
@no_type_check
def sample(field: Field, x: float, y: float, z: float) -> float:
    """The trilinear value of a cubic field at a point in voxels, as if its faces went on outside of it."""
    last = len(field) - 1
    x, y, z = min(max(x, 0), last), min(max(y, 0), last), min(max(z, 0), last)
    i, j, k = min(int(x), last - 1), min(int(y), last - 1), min(int(z), last - 1)
    fx, fy, fz = x - i, y - j, z - k
    low = (field[k, j, i] * (1 - fx) + field[k, j, i + 1] * fx) * (1 - fy)
    low += (field[k, j + 1, i] * (1 - fx) + field[k, j + 1, i + 1] * fx) * fy
    high = (field[k + 1, j, i] * (1 - fx) + field[k + 1, j, i + 1] * fx) * (1 - fy)
    high += (field[k + 1, j + 1, i] * (1 - fx) + field[k + 1, j + 1, i + 1] * fx) * fy
    return low * (1 - fz) + high * fz


@compiled
@no_type_check
def block_spans(
    blocks: Bool[np.ndarray, "m m m"],
    side: int,
    origin: Float32[np.ndarray, "rays 3"],
    towards: Float32[np.ndarray, " 3"],
    depth: Float32[np.ndarray, " k"],
) -> tuple[Float32[np.ndarray, " rays"], Float32[np.ndarray, " rays"]]:
    """For each ray the first and the last of some depths at which it is in an occupied block: -inf and inf if none.

    Args:
        blocks: whether each block, of `side` voxels, is occupied.
        origin: the point of each ray at depth 0, in voxels.
        towards: the viewer's direction.
        depth: descending.
    """
    count = len(blocks)
    start = np.full(len(origin), -np.inf, dtype=np.float32)
    stop = np.full(len(origin), np.inf, dtype=np.float32)
    for ray in range(len(origin)):
        for at in depth:
            x = math.floor((origin[ray, 0] + at * towards[0] + np.float32(0.5)) / side)
            y = math.floor((origin[ray, 1] + at * towards[1] + np.float32(0.5)) / side)
            z = math.floor((origin[ray, 2] + at * towards[2] + np.float32(0.5)) / side)
            inside = 0 <= x < count and 0 <= y < count and 0 <= z < count
            if inside and blocks[int(z), int(y), int(x)]:
                if start[ray] == -np.inf:
                    start[ray] = at
                stop[ray] = at
    return start, stop


@compiled
@no_type_check
def first_hits(
    field: Field,
    level: float,
    origin: Float32[np.ndarray, "rays 3"],
    towards: Float32[np.ndarray, " 3"],
    span: Float32[np.ndarray, "rays 2"],
) -> Float32[np.ndarray, " rays"]:
    """The depth at which each ray first reaches a level, linear between two samples; NaN where it never does.

    A ray that starts inside meets the surface where it starts.

    Args:
        span: depths at which rays start and stop.
    """
    met = np.full(len(origin), np.nan, dtype=np.float32)
    for ray in range(len(origin)):
        at, before = span[ray, 0], -np.inf
        while at >= span[ray, 1]:
            value = sample(
                field,
                origin[ray, 0] + at * towards[0],
                origin[ray, 1] + at * towards[1],
                origin[ray, 2] + at * towards[2],
            )
            if value >= level:
                back = (value - level) / (value - before) * STEP if before > -np.inf else 0.0
                met[ray] = at + back
                break
            before = value
            at -= STEP
    return met


@compiled
@no_type_check
def falls(field: Field, point: Float32[np.ndarray, "k 3"]) -> Float32[np.ndarray, "k 3"]:
    """How much a field falls over two voxels along each axis, at points in voxels."""
    found = np.empty((len(point), 3), dtype=np.float32)
    for row in range(len(point)):
        x, y, z = point[row, 0], point[row, 1], point[row, 2]
        found[row, 0] = sample(field, x - 1, y, z) - sample(field, x + 1, y, z)
        found[row, 1] = sample(field, x, y - 1, z) - sample(field, x, y + 1, z)
        found[row, 2] = sample(field, x, y, z - 1) - sample(field, x, y, z + 1)
    return found
