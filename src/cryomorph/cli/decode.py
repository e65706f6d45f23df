"""`cryomorph decode`: maps at chosen particles or latent points."""

from __future__ import annotations

from cryomorph.config.console import say
from cryomorph.config.decode import DecodeConfig
from cryomorph.config.errors import InputError


def run(config: DecodeConfig) -> None:
    """Write one map for each point asked for, in that order."""
    from cryomorph.analysis.decode import (
        decode_at,
        read_latent_points,
        read_particle_numbers,
        reconstruct_at,
        write_maps,
    )
    from cryomorph.runs.folder import RunFolder

    folder = RunFolder.open(config.run)
    latent = folder.latent_mean()
    if config.particles is not None and config.z is None:
        z = latent[read_particle_numbers(config.particles, len(latent))]
    elif config.z is not None and config.particles is None:
        z = read_latent_points(config.z, latent.shape[1])
    else:
        raise InputError("give either --particles (numbers of particles) or --z (latent points): where to make maps")
    store = folder.store()
    box = store.box if config.box is None else config.box
    if box % 2 or box < 8:
        raise InputError(f"--box {box}: expected an even number of voxels from 8 up")
    if config.reconstruct and box != store.box:
        raise InputError(f"--box {box}: reconstructed maps have the working box, {store.box}; leave --box away")
    if config.output.exists() and any(config.output.glob("*.mrc")):
        if not config.overwrite:
            raise InputError(f"{config.output} holds maps already: give --overwrite to replace them, or another -o")
        for old in config.output.glob("[0-9]*.mrc"):
            old.unlink()
    config.output.mkdir(parents=True, exist_ok=True)
    maps = reconstruct_at(folder, z) if config.reconstruct else decode_at(folder, z, box)
    count = write_maps(config.output, maps, store.pixel_A * store.box / box, flip_hand=config.flip_hand)
    say(f"{config.output}: {count} maps, box {box}, {'reconstructed' if config.reconstruct else 'decoded'}")
