"""Maps at latent points: decoded by the model, or back-projected from the particles nearby."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from cryomorph.analysis.neighbours import Neighbourhoods, reconstruct_near
from cryomorph.config.console import track
from cryomorph.config.errors import InputError
from cryomorph.io.mrc import write_map
from cryomorph.io.numbers import read_table
from cryomorph.representations.base import Representation
from cryomorph.runs.folder import RunFolder
from cryomorph.volumes.backproject import mirror


def decode_at(
    run: RunFolder, z: Float[np.ndarray, "k q"], box: int, *, representation: Representation | None = None
) -> Iterator[Float32[Tensor, "z y x"]]:
    """The model's map at each latent point.

    Args:
        representation: the run's, where it is loaded already.
    """
    decode = (run.representation() if representation is None else representation).decoder(box)
    for point in track(z, "decoding", total=len(z)):
        with torch.no_grad():
            yield decode(torch.as_tensor(point, dtype=torch.float32))


def reconstruct_at(run: RunFolder, z: Float[np.ndarray, "k q"]) -> Iterator[Float32[Tensor, "z y x"]]:
    """The map of the particles near each latent point."""
    for local in reconstruct_near(Neighbourhoods.of(run), z):
        yield local.map


def write_maps(folder: Path, maps: Iterator[Float32[Tensor, "z y x"]], pixel_A: float, *, flip_hand: bool) -> int:
    """Write maps as `000000.mrc` and so on; returns how many."""
    number = -1
    for number, volume in enumerate(maps):
        write_map(folder / f"{number:06d}.mrc", (mirror(volume) if flip_hand else volume).numpy(), pixel_A)
    return number + 1


def read_latent_points(path: Path, zdim: int) -> Float[np.ndarray, "k q"]:
    """Latent points from a .npy array or a .txt table, one a row.

    Raises:
        InputError: the file holds anything else, or points of another dimension.
    """
    values = read_table(path, "latent points")
    points = values.reshape(-1, 1) if zdim == 1 and values.ndim < 2 else np.atleast_2d(values)
    if points.ndim != 2 or points.shape[1] != zdim or not np.isfinite(points).all():
        raise InputError(
            f"{path}: found an array of shape {values.shape}, expected finite points of {zdim} numbers a row"
        )
    return points.astype(np.float64)
