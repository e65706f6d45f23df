"""`cryomorph backproject`: one map of all particles, with half maps, FSC, mask and sharpening."""

from __future__ import annotations

import csv
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from cryomorph.config.backproject import BackprojectConfig
from cryomorph.config.console import say
from cryomorph.config.errors import InputError
from cryomorph.io.atomic import atomic_path

if TYPE_CHECKING:
    from cryomorph.particles.store import ParticleStore
    from cryomorph.volumes.backproject import Reconstruction

SCRATCH = ".particles-"


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

    if config.output.exists():
        # what a kill left behind: no signal can be caught for those
        for left in config.output.glob(f"{SCRATCH}*"):
            shutil.rmtree(left, ignore_errors=True)
        if any(config.output.iterdir()) and not config.overwrite:
            raise InputError(f"{config.output} is not empty: give --overwrite to replace its maps, or another -o")
    made = not config.output.exists()
    config.output.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=SCRATCH, dir=config.output))
    try:
        store = open_or_prepare(config.particles, scratch / "store", config.images, seed=config.seed)
        return _reconstruct(config, store)
    except BaseException:
        if made:
            shutil.rmtree(config.output, ignore_errors=True)
        raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _reconstruct(config: BackprojectConfig, store: ParticleStore) -> Reconstruction:
    from cryomorph.io.mrc import write_map
    from cryomorph.runs.folder import save_reconstruction
    from cryomorph.volumes.backproject import mirrored, reconstruct, residual_noise
    from cryomorph.volumes.masks import read_mask
    from cryomorph.volumes.sharpen import guinier_bfactor, sharpen

    store.require_pose()
    mask = None if config.mask is None else read_mask(config.mask, store.box)
    result = reconstruct(store, mask=mask)
    noise = residual_noise(store, result)
    if config.flip_hand:
        result = mirrored(result)
    save_reconstruction(result, config.output)
    _write_noise(config.output / "noise.csv", store, result, noise.tolist())
    report = result.fsc
    bfactor = config.bfactor
    if bfactor is None:
        bfactor = guinier_bfactor(result.map, report.pixel_A, report.resolution_0143_A, fsc=report.best)
    sharpened = sharpen(result.map, bfactor, report.pixel_A, resolution_A=report.resolution_0143_A)
    write_map(config.output / "sharpened.mrc", sharpened.numpy(), report.pixel_A)
    say(f"{config.output}: {len(store)} particles; B-factor {bfactor:.0f} A^2")
    return result


def _write_noise(path: Path, store: ParticleStore, result: Reconstruction, residual: list[float]) -> None:
    """Noise amplitude outside the particle, and the residual's power relative to it, for each shell."""
    extent_A = store.box * store.pixel_A
    with atomic_path(path) as part, part.open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["shell", "resolution_A", "noise_amplitude", "residual_power", "ssnr"])
        for shell in range(1, len(residual) - 1):
            row = (store.noise_amplitude[shell], residual[shell], result.ssnr[shell])
            table.writerow([shell, f"{extent_A / shell:.4f}", *(f"{float(value):.6g}" for value in row)])
