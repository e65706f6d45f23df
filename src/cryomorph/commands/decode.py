"""`cryomorph decode`: maps at chosen particles or latent points, and of selections of particles."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryomorph.config.console import say
from cryomorph.config.decode import DecodeConfig
from cryomorph.config.errors import InputError
from cryomorph.io.output_folder import Contents, OutputFolder

if TYPE_CHECKING:
    import numpy as np

    from cryomorph.runs.folder import RunFolder

NUMBERED = "[0-9]" * 6 + ".mrc"
MAPS = Contents("maps", (NUMBERED,), plural=True, shared=True, guarded=("*.mrc",))


def decode(config: DecodeConfig) -> None:
    """Write one map for each point asked for, in that order; or a folder of maps for a selection."""
    from cryomorph.runs.folder import RunFolder

    folder = RunFolder.open(config.run, unfinished=True)
    _check(config, folder.store().box)
    if config.selection is None and config.labels is None:
        _decode_points(config, folder)
    else:
        from cryomorph.commands.decode_selection import decode_selections

        decode_selections(config, folder)


def _check(config: DecodeConfig, working_box: int) -> None:
    """Refuse what does not go together, before anything is read or written."""
    given = [getattr(config, name) is not None for name in ("particles", "z", "selection", "labels")]
    if sum(given) != 1:
        raise InputError(
            "give either --particles (numbers of particles), --z (latent points), --selection or --labels: where to "
            "make maps"
        )
    box = working_box if config.box is None else config.box
    if box % 2 or box < 8:
        raise InputError(f"--box {box}: expected an even number of voxels from 8 up")
    if config.reconstruct and box != working_box:
        raise InputError(f"--box {box}: reconstructed maps have the working box, {working_box}; omit --box")
    if config.mask is not None and not (config.reconstruct and any(given[2:])):
        raise InputError(
            "--mask is for the FSC of reconstructed selections: give it with --reconstruct and --selection"
        )


def _points(config: DecodeConfig, folder: RunFolder) -> np.ndarray:
    from cryomorph.analysis.decode import read_latent_points
    from cryomorph.analysis.selection_files import read_particle_numbers

    latent = folder.latent_mean()
    if config.particles is not None:
        return latent[read_particle_numbers(config.particles, len(latent))]
    if config.z is not None:
        return read_latent_points(config.z, latent.shape[1])
    raise InputError("give --particles or --z: where to make maps")


def _decode_points(config: DecodeConfig, folder: RunFolder) -> None:
    from cryomorph.analysis.decode import decode_at, reconstruct_at, write_maps

    z, store = _points(config, folder), folder.store()
    box = store.box if config.box is None else config.box
    read = (config.run, config.particles, config.z)
    with OutputFolder(config.output, MAPS, inputs=read, overwrite=config.overwrite) as output:
        maps = reconstruct_at(folder, z) if config.reconstruct else decode_at(folder, z, box)
        count = write_maps(output.scratch, maps, store.pixel_A * store.box / box, flip_hand=config.flip_hand)
        output.commit()
    say(f"{config.output}: {count} maps, box {box}, {'reconstructed' if config.reconstruct else 'decoded'}")
