"""`landscape`: states and coordinates of a run in volume space, their files and report."""

from __future__ import annotations

from pathlib import Path

from cryomorph.analysis.landscape.embedding import SUFFICIENT_R2
from cryomorph.analysis.landscape.files import FACTS, write_facts, write_landscape
from cryomorph.analysis.landscape.landscape import Landscape, find_landscape, timed, trajectory
from cryomorph.analysis.landscape.sketch import decoder
from cryomorph.analysis.latent import check_latent
from cryomorph.compute.device import choose_device
from cryomorph.config.console import say, warn
from cryomorph.config.errors import InputError
from cryomorph.config.landscape import LandscapeConfig
from cryomorph.io.output_folder import Contents, OutputFolder
from cryomorph.report.landscape.page import write_landscape_report
from cryomorph.report.page import percent
from cryomorph.runs.folder import RunFolder
from cryomorph.volumes.backproject import mirror
from cryomorph.volumes.masks import read_mask

LARGEST_BOX = 64  # unless another is asked for
CONTENTS = Contents(
    "landscape",
    owned=(
        "coordinates.npy", "curve", "curve.npy", "figures", FACTS, "maps", "mask.mrc", "pca", "report.html",
        "sketch.txt", "sketch_*.npy", "states", "states.npy",
    ),
    marker=FACTS,
    signs=("sketch_states.npy",),
    unasked=True,
)  # fmt: skip


def landscape(config: LandscapeConfig) -> Path:
    """Find a run's landscape and write it into its landscape folder; returns the report's path.

    Raises:
        InputError: the run has no model yet, is damaged or has no latent space, it has too few particles for what is
            asked, the mask does not fit the box, or the output folder is in use or holds something else.
    """
    device = choose_device(config.device)
    run = RunFolder.open(config.run, unfinished=True)
    z, std = run.latent()
    if z.shape[1] == 0:
        raise InputError(f"{config.run} has no latent space (--zdim 0): its one map is {config.run / 'map.mrc'}")
    output = config.output if config.output is not None else run.path / "landscape"
    with OutputFolder(output, CONTENTS, inputs=(config.run, config.mask)) as folder:
        run.provenance()  # the report needs it: better found damaged now than after the work
        store = run.store()
        box = config.box if config.box is not None else min(store.box, LARGEST_BOX)
        pixel_A = store.pixel_A * store.box / box
        mask = None
        if config.mask is not None:
            mask = read_mask(config.mask, box, pixel_A, whose="the box of the maps (--box)")
        if mask is not None and config.flip_hand:
            mask = mirror(mask)  # as the maps are: everything here, pictures too, is of the other hand
        model = run.representation()
        if model.zdim != z.shape[1]:
            raise InputError(
                f"{config.run}: the model has {model.zdim} latent coordinates, latent_mean.npy {z.shape[1]}: "
                "train again"
            )
        decode = decoder(model, box, device, flip_hand=config.flip_hand)
        found = find_landscape(config, decode, box, z=check_latent(z), std=std, mask=mask)
        with timed(found.seconds, "trajectories"):
            count = min(config.trajectories, len(found.space.ratio))
            along = [trajectory(found, decode, component, points=config.pc_points) for component in range(count)]
            path = trajectory(found, decode, None, points=config.pc_points)
        with timed(found.seconds, "writing and drawing"):
            write_landscape(folder.scratch, found, config, along=along, path=path, pixel_A=pixel_A)
            write_landscape_report(folder.scratch, run, found, along=along, path=path, config=config, pixel_A=pixel_A)
        write_facts(folder.scratch, found, config, pixel_A=pixel_A)
        folder.commit()
    _say(found, output)
    return output / "report.html"


def _say(found: Landscape, output: Path) -> None:
    states, embedding = found.states, found.embedding
    for state, (maps, particles) in enumerate(zip(states.volume_counts, states.particle_counts, strict=True)):
        say(f"state {state}: {maps} maps, {particles:,} particles ({percent(particles, len(found.z))})")
    suggestion = states.suggestion
    if suggestion.clear and suggestion.states != states.count:
        say(f"the maps themselves suggest {suggestion.states} states: give --states {suggestion.states}")
    if not suggestion.clear:
        say("no number of states stands out: the maps form a continuum, and states are arbitrary pieces of it")
    say(f"R^2 of held-out maps' coordinates: {embedding.r2:.4f} ({embedding.rounds[-1][0]} maps decoded for it)")
    if embedding.r2 < SUFFICIENT_R2:
        warn(
            f"the particles' coordinates are uncertain (R^2 {embedding.r2:.2f}, expected {SUFFICIENT_R2} or more): "
            "give more --pairs, or look at how the model was trained"
        )
    say(f"{output}: {sum(found.seconds.values()):.0f} s; look at {output / 'report.html'}")
