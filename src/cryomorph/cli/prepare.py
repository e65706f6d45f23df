"""`cryomorph prepare`: a particle file becomes a particle store."""

from __future__ import annotations

from time import perf_counter

from cryomorph.config.console import say
from cryomorph.config.prepare import PrepareConfig


def run(config: PrepareConfig) -> None:
    """Make the store and say what it holds."""
    from cryomorph.particles.metadata import read_particles
    from cryomorph.particles.prepare import prepare

    begin = perf_counter()
    images = config.images
    particles = read_particles(
        config.particles,
        datadir=images.datadir,
        strip_prefix=images.strip_prefix,
        passthrough=images.passthrough,
        poses=images.poses,
        ctf=images.ctf,
        index=images.index,
    )
    store = prepare(
        particles,
        config.output,
        box=images.box,
        skip_bad=images.skip_bad,
        invert=images.invert,
        overwrite=config.overwrite,
        seed=config.seed,
    )
    seconds = perf_counter() - begin
    manifest = store.manifest
    say(f"contrast {'inverted' if manifest.inverted else 'kept'}: {manifest.contrast_reason}")
    say(
        f"{config.output}: {len(store)} particles, box {store.box}, {store.pixel_A:.3f} A per pixel; "
        f"{seconds:.1f} s, {len(store) / seconds:.0f} images per second"
    )
