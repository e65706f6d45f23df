"""`cryomorph prepare`: a particle store from a particle file."""

from __future__ import annotations

from time import perf_counter

from cryomorph.config.console import say
from cryomorph.config.prepare import PrepareConfig


def prepare(config: PrepareConfig) -> None:
    """Make the store and report what it contains."""
    from cryomorph.particles.prepare import prepare_source

    begin = perf_counter()
    store = prepare_source(config.particles, config.output, config.images, overwrite=config.overwrite, seed=config.seed)
    seconds = perf_counter() - begin
    manifest = store.manifest
    say(f"contrast {'inverted' if manifest.inverted else 'kept'}: {manifest.contrast_reason}")
    say(
        f"{config.output}: {len(store)} particles, box {store.box}, {store.pixel_A:.3f} A per pixel; "
        f"{seconds:.1f} s, {len(store) / seconds:.0f} images per second"
    )
