"""Bare stacks as particle metadata, and cryoDRGN's pickles that give them poses and CTF."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64, Shaped

from cryomorph.config.errors import InputError
from cryomorph.io.cryodrgn import read_ctf, read_poses
from cryomorph.io.mrc import MrcStack
from cryomorph.particles.table import Metadata, check_index, one_value
from cryomorph.physics.ctf import Ctf


def bare_stacks(
    path: Path, files: tuple[str, ...], stacks: list[MrcStack], *, index: Int64[np.ndarray, " m"] | None
) -> Metadata:
    """All images of the stacks, one stack after another, or those of `index`: no poses, no CTF.

    Raises:
        InputError: an index beyond the images.
    """
    counts = np.array([stack.count for stack in stacks])
    total = int(counts.sum())
    used = check_index(index, total, path)
    first = np.cumsum(counts) - counts
    file_of = np.searchsorted(first, used, side="right").astype(np.int64) - 1
    return Metadata(files, file_of, used - first[file_of], used, total, None)


def with_ctf(metadata: Metadata, path: Path, box: int) -> Metadata:
    """The metadata with cryoDRGN's CTF, and with the images' pixel size that it implies where they state none.

    Raises:
        InputError: as `read_ctf`; or the rows do not match the particles, or state different boxes or pixel sizes.
    """
    values = _rows_in_use(read_ctf(path), metadata, path)
    stated_box = one_value(values[:, 0].copy(), metadata.row, path, what="boxes (column 0)")
    stated_pixel_A = one_value(values[:, 1].copy(), metadata.row, path, what="pixel sizes (column 1)")
    if not (stated_box > 0 and stated_pixel_A > 0):
        raise InputError(f"{path} has box {stated_box:g} and pixel size {stated_pixel_A:g}: expected positive numbers")
    u, v, angle, voltage, cs, contrast, phase = torch.from_numpy(values[:, 2:]).float().T.contiguous()
    ctf = Ctf(u, v, angle, voltage, cs, contrast, phase, torch.zeros_like(u), torch.ones_like(u))
    if metadata.pixel_A is not None:
        return replace(metadata, ctf=ctf)
    return replace(metadata, ctf=ctf, pixel_A=stated_pixel_A * stated_box / box, box=box)


def with_poses(metadata: Metadata, path: Path) -> Metadata:
    """The metadata with cryoDRGN's poses; without shifts in the file these are zero.

    Raises:
        InputError: as `read_poses`; or the rows do not match the particles.
    """
    rotation, shift = read_poses(path)
    chosen = torch.from_numpy(_rows_in_use(rotation, metadata, path).astype(np.float64))
    moved = np.zeros((len(chosen), 2)) if shift is None else shift[metadata.row].astype(np.float64)
    return replace(metadata, rotation=chosen, shift=moved, shift_in="box")


def _rows_in_use(values: Shaped[np.ndarray, "n ..."], metadata: Metadata, path: Path) -> Shaped[np.ndarray, "m ..."]:
    if len(values) != metadata.total:
        raise InputError(
            f"{path} has {len(values)} rows, the particle file {metadata.total}: expected one row for each particle of "
            "the whole file (an index is applied afterwards)"
        )
    return values[metadata.row]
