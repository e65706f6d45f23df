"""`cryomorph backproject`: one map of all particles, with half maps, FSC, mask and sharpening."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING

from cryomorph.config.backproject import BackprojectConfig
from cryomorph.config.console import say
from cryomorph.io.atomic import atomic_path
from cryomorph.io.output_folder import Contents, OutputFolder

if TYPE_CHECKING:
    from jaxtyping import Float32
    from torch import Tensor

    from cryomorph.particles.store import ParticleStore
    from cryomorph.volumes.backproject import Reconstruction

SHARPENED, NOISE = "sharpened.mrc", "noise.csv"
OWNED = ("map.mrc", "half1.mrc", "half2.mrc", "mask.mrc", "fsc.csv", "fsc.png", SHARPENED, NOISE)
MAPS = Contents("maps", OWNED, marker="map.mrc", plural=True)


def backproject(config: BackprojectConfig) -> None:
    """Back-project into the output folder and print the resolution."""
    report = write_backprojection(config).fsc
    print(f"resolution_0143_A {report.resolution_0143_A:.3f}")
    print(f"resolution_05_A {report.resolution_05_A:.3f}")


def write_backprojection(config: BackprojectConfig) -> Reconstruction:
    """Back-project into the output folder.

    Raises:
        InputError: the folder is in use, or the particles cannot be used.
    """
    from cryomorph.training.start import open_or_prepare

    read = (config.particles, config.mask)
    with OutputFolder(config.output, MAPS, inputs=read, overwrite=config.overwrite) as output:
        prepared = output.temporary("particles") / "store"
        store = open_or_prepare(config.particles, prepared, config.images, seed=config.seed)
        result = _reconstruct(config, store, output.scratch)
        output.commit()
    return result


def _reconstruct(config: BackprojectConfig, store: ParticleStore, folder: Path) -> Reconstruction:
    """Compute all maps and curves, and write them into a folder."""
    from cryomorph.io.mrc import write_map
    from cryomorph.runs.consensus import save_reconstruction
    from cryomorph.volumes.backproject import mirrored, reconstruct, residual_noise
    from cryomorph.volumes.masks import read_mask
    from cryomorph.volumes.sharpen import sharpen_halves

    store.require_pose()
    mask = None if config.mask is None else read_mask(config.mask, store.box, store.pixel_A)
    result = reconstruct(store, mask=mask)
    noise = residual_noise(store, result)
    if config.flip_hand:
        result = mirrored(result)
    sharpened = sharpen_halves(result.half1, result.half2, result.fsc, mask=result.mask, bfactor_A2=config.bfactor)
    save_reconstruction(result, folder)
    write_map(folder / SHARPENED, sharpened.map.numpy(), result.fsc.pixel_A)
    _write_noise(folder / NOISE, store, result, residual=noise)
    say(f"{config.output}: {len(store)} particles; B-factor {sharpened.bfactor_A2:.0f} A^2")
    return result


def _write_noise(
    path: Path, store: ParticleStore, result: Reconstruction, *, residual: Float32[Tensor, " shells"]
) -> None:
    """Write the noise amplitude outside the particle, and the residual's power relative to it, for each shell."""
    extent_A = store.box * store.pixel_A
    with atomic_path(path) as part, part.open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["shell", "resolution_A", "noise_amplitude", "residual_power", "ssnr"])
        for shell in range(1, len(residual) - 1):
            row = (store.noise_amplitude[shell], residual[shell], result.ssnr[shell])
            table.writerow([shell, f"{extent_A / shell:.4f}", *(f"{float(value):.6g}" for value in row)])
