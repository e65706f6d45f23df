"""How every run begins: options are checked, the folder is made, particles are prepared into it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from time import perf_counter
from typing import Any

from cryomorph.config.errors import InputError
from cryomorph.config.load import as_json
from cryomorph.config.prepare import ImageSource
from cryomorph.config.run import RunConfig
from cryomorph.io.atomic import atomic_path
from cryomorph.particles.metadata import rewrite_poses
from cryomorph.particles.prepare import prepare_source
from cryomorph.particles.store import ParticleStore
from cryomorph.runs.folder import RunFolder
from cryomorph.volumes.masks import read_mask

SMALLEST_SET = 20
MOST_SEED = 2**31 - 1  # generators take 64 bits, of which a place in the training needs half
Bounds = Mapping[str, tuple[float | int | None, float | int]]
NAMED_MASKS = ("auto", "sphere")
CONTROLS = ("resume", "overwrite", "output", "config")
"""Options of how to run, not of what: a resumed run may be given others."""


@contextmanager
def start_run(config: RunConfig, method: str, **also: str) -> Iterator[RunFolder]:
    """The run folder, new or resumed, locked in the `with` block; its config.json holds the options, and `also`."""
    options: dict[str, Any] = {"method": method, **as_json(config), **also}
    for control in CONTROLS:
        options.pop(control, None)
    how = {"resume": config.resume, "overwrite": config.overwrite}
    with RunFolder.create(config.output, options, inputs=(config.particles,), **how) as run:
        yield run


def take_particles(
    run: RunFolder, config: RunConfig, accept: Callable[[ParticleStore], None], *, posed: bool = True
) -> ParticleStore:
    """The run's particles, if `accept` raises nothing; a new run that cannot be started leaves nothing behind.

    Args:
        posed: whether they must have poses.
    """
    try:
        store = particles_stage(run, config.particles, config.images, seed=config.seed, posed=posed)
        accept(store)
    except (InputError, OSError):
        if not config.resume:
            run.rollback()
        raise
    run.commit()
    return store


def check_particles(store: ParticleStore, *, zdim: int, mask: str) -> None:
    """Refuse too few particles for a latent space, and a mask that does not fit the box."""
    if len(store) < max(SMALLEST_SET, 2 * zdim):
        raise InputError(f"{len(store)} particles are too few for --zdim {zdim}: give more, or a smaller --zdim")
    if mask not in NAMED_MASKS:
        read_mask(Path(mask), store.box, store.pixel_A)


def check_bounds(least: Bounds, most: Bounds) -> None:
    """Refuse options that are out of range, given by name with their value and bound; None is not checked."""
    for name, (value, bound) in least.items():
        if value is not None and not bound <= value < math.inf:
            raise InputError(f"--{name} {value}: expected {bound:g} or more")
    for name, (value, bound) in most.items():
        if value is not None and value > bound:
            raise InputError(f"--{name} {value}: expected {bound:g} at most")


def check_paths(config: RunConfig) -> None:
    """Refuse particle files that do not exist, or that the run would remove, before anything is written."""
    if not 0 <= config.seed <= MOST_SEED:
        raise InputError(f"--seed {config.seed}: expected 0 to {MOST_SEED}")
    if not config.particles.exists():
        raise InputError(f"{config.particles}: no such particle file or store")
    if config.overwrite and config.output.resolve() in config.particles.resolve().parents:
        raise InputError(
            f"--overwrite would remove {config.particles} with the run {config.output} that holds it: give another -o"
        )


def check_mask(mask: str, output: Path, *, overwrite: bool) -> None:
    """Refuse a mask file that does not exist, or that the run would remove."""
    if mask in NAMED_MASKS:
        return
    if not Path(mask).is_file():
        raise InputError(f"--mask {mask}: no such file; expected a mask file, auto or sphere")
    keep_clear("mask", Path(mask), output, overwrite=overwrite)


def keep_clear(option: str, path: Path, output: Path, *, overwrite: bool) -> None:
    """Refuse a file that the run would remove."""
    if overwrite and output.resolve() in path.resolve().parents:
        raise InputError(f"--{option} {path} lies in the run that --overwrite replaces: copy it elsewhere first")


def open_or_prepare(source: Path, target: Path, images: ImageSource, *, seed: int) -> ParticleStore:
    """The given store, or the one prepared into `target` from the given particle file."""
    if source.is_dir():
        if images != ImageSource():
            given = [f.name for f in fields(images) if getattr(images, f.name) != f.default]
            options = ", ".join(f"--{name.replace('_', '-')}" for name in given)
            raise InputError(f"{source} is a store, prepared already: omit {options}, or give the particle file")
        return ParticleStore.open(source)
    if (target / "manifest.json").is_file():
        return ParticleStore.open(target)
    return prepare_source(source, target, images, seed=seed)


def particles_stage(
    run: RunFolder, source: Path, images: ImageSource, *, seed: int, posed: bool = True
) -> ParticleStore:
    """The run's store: prepared into the run folder, or linked to where it is; expanded by the run's symmetry."""
    begin = perf_counter()
    store = open_or_prepare(source, run.store_path, images, seed=seed)
    if source.is_dir() and not run.store_path.exists():
        run.store_path.symlink_to(source.resolve(), target_is_directory=True)
    if posed:
        store.require_pose()
    store = store.expanded(run.symmetry)
    kept = run.path / store.manifest.metadata
    if not kept.exists():
        keep_metadata(store, kept)
    expanded = f" as {len(store)} particles by symmetry {store.symmetry}" if store.copies > 1 else ""
    contrast = "inverted" if store.manifest.inverted else "kept"
    run.log(
        f"particles: {store.manifest.n} images{expanded}, box {store.box}, {store.pixel_A:.3f} A per pixel; contrast "
        f"{contrast} ({store.manifest.contrast_reason}); {perf_counter() - begin:.1f} s"
    )
    return store


def keep_metadata(store: ParticleStore, target: Path) -> None:
    """Write the particle file of a store, row i being particle i; copies of an expanded one have poses of their own."""
    source = store.folder / store.manifest.metadata
    if store.copies == 1:
        with atomic_path(target) as part:
            part.write_bytes(source.read_bytes())
        return
    pixel_A = store.manifest.source_pixel_A
    rewrite_poses(source, target, store.require_pose(), pixel_A=pixel_A, copies=store.copies)
