"""Options of `cryomorph decode`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass(frozen=True)
class DecodeConfig:
    """Write maps at chosen particles or latent points: OUTPUT/000000.mrc and so on, in the order asked for.

    Of a selection (--selection), and of each of many (--labels), the maps decoded at its mean latent point and at the
    particle nearest to that are written; with --reconstruct also the map back-projected from its particles, with
    half maps, mask and FSC, and how far both agree. Particles that were chosen by their latent points are chosen again
    by half of their Fourier coefficients, and give the other half to the map.
    """

    run: tyro.conf.Positional[Path]
    """Run folder made by `cryomorph train`."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """Folder for the maps."""
    particles: Path | None = None
    """Decode at these particles' latent points: a .txt file with a 0-based particle number a line, or a .npy array."""
    z: Path | None = None
    """Decode at these latent points: a .npy array or a .txt table, one point a row."""
    selection: Path | None = None
    """Decode at the mean of these particles: a .txt file with a 0-based particle number a line, or a .npy array."""
    labels: Path | None = None
    """The same for each label of a .npy array with a whole number for each particle, such as
    RUN/analysis/kmeans_labels.npy: a folder for each label. Particles with a label below 0 are left out."""
    reconstruct: bool = False
    """Back-project the particles near each latent point instead of asking the model; of a selection, its particles."""
    mask: Path | None = None
    """Mask for the FSC of reconstructed selections, of any box and pixel size (default: made from each map)."""
    box: int | None = None
    """Box of decoded maps in voxels, even (default: the working box)."""
    flip_hand: bool = False
    """Write the mirror image of every map."""
    overwrite: bool = False
    """Replace maps that are there already."""
