"""`cryomorph select`: chosen particles as a file for RELION, cryoSPARC or the next training."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryomorph.config.console import say
from cryomorph.config.select import SelectConfig

if TYPE_CHECKING:
    from pathlib import Path

    from cryomorph.particles.subset import ParticleFile


def select(config: SelectConfig) -> None:
    """Choose, write, and say how many met which criterion."""
    from cryomorph.analysis import selection as choosing
    from cryomorph.particles.subset import WRITTEN
    from cryomorph.runs.folder import RunFolder

    folder = RunFolder.open(config.run, unfinished=True)
    choosing.check_free([config.output], overwrite=config.overwrite)
    source = None
    if config.output.suffix in WRITTEN:
        source = choosing.particle_file(folder, original_poses=config.original_poses, datadir=config.datadir)
        source.check_target(config.output)
    found = choosing.select(folder, config)
    choosing.write_selection(config.output, found.index, source, title=f"0-based particle numbers of {config.run}")
    say(f"{config.output}: {found}")
    if source is not None:
        say_where_images_are(config.output, source)


def say_where_images_are(output: Path, source: ParticleFile) -> None:
    """Where a file names images by paths that do not hold from its folder or this one, say how to read it."""
    from cryomorph.particles.subset import ParticleFile

    if ParticleFile.open(output).image_folder() is None:
        place = source.image_folder()
        where = "the images' folder" if place is None else place.resolve()
        say(f"image paths are kept as in {source.path}: cryomorph reads {output} with --datadir {where}")
