"""`cryomorph align`: a map aligned to another, or estimated poses to the true ones."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cryomorph.config.align import AlignConfig
from cryomorph.config.console import say
from cryomorph.config.errors import InputError
from cryomorph.io.atomic import check_output

if TYPE_CHECKING:
    from cryomorph.particles.matching import SharedParticles
    from cryomorph.physics.pose_align import ComparedPoses
    from cryomorph.volumes.align import Alignment
    from cryomorph.volumes.load import LoadedMap

PARTICLES = (".star", ".cs", ".csg")
ERRORS = {
    "rotation_deg": "rotation (degrees)",
    "frobenius": "|R - R true|^2",
    "shift_A": "shift (A)",
    "shift_pixel": "shift (pixels)",
}


def align(config: AlignConfig) -> None:
    """Align two maps or two sets of poses, print the transformation or the errors, and write the result."""
    particles = [path.suffix in PARTICLES for path in (config.moving, config.fixed)]
    if particles[0] != particles[1]:
        raise InputError(f"{config.moving} and {config.fixed}: expected two maps, or two .star or .cs particle files")
    if particles[0] and config.keep_hand:
        raise InputError("--keep-hand goes with two maps: poses determine their hand")
    if config.pixel_A is not None and not config.pixel_A > 0:
        raise InputError(f"--pixel-A {config.pixel_A:g}: expected a number above 0")
    if config.output is not None:
        check_output(config.output, inputs=(config.moving, config.fixed), overwrite=config.overwrite)
    if particles[0]:
        _align_particles(config)
    else:
        _align_maps(config)


def _align_maps(config: AlignConfig) -> None:
    from cryomorph.io.mrc import write_map
    from cryomorph.volumes.align import align_maps
    from cryomorph.volumes.load import load_map, load_map_like

    fixed = load_map(config.fixed, config.pixel_A)
    moving = load_map_like(config.moving, fixed, config.pixel_A)
    found = align_maps(moving.volume, fixed.volume, both_hands=not config.keep_hand)
    print(f"{'hand':14}{'correlation':>11}{'FSC = 0.143':>14}{'FSC = 0.5':>12}{'rotation':>14}{'shift (voxels)':>26}")
    print(_row(found, fixed))
    if found.other_hand is not None:
        print(_row(found.other_hand, fixed))
    if config.output is not None:
        write_map(config.output, found.aligned.numpy(), fixed.pixel_A, origin_A=fixed.origin_A)
        mirrored = "the mirror image of " if found.flipped else ""
        say(f"{config.output}: {mirrored}{config.moving}, aligned to {config.fixed}")


def _row(found: Alignment, fixed: LoadedMap) -> str:
    """The printed row of one hand."""
    from cryomorph.volumes.fsc import fsc, resolution_A

    curve = fsc(found.aligned, fixed.volume)
    at = [resolution_A(curve, fixed.pixel_A, threshold, box=len(fixed.volume)) for threshold in (0.143, 0.5)]
    x, y, z = found.shift_voxel.tolist()
    return (
        f"{'mirror image' if found.flipped else 'as given':14}{found.correlation:11.4f}{at[0]:12.2f} A{at[1]:10.2f} A"
        f"{found.angle_deg:10.2f} deg{x:10.2f}{y:8.2f}{z:8.2f}"
    )


def _align_particles(config: AlignConfig) -> None:
    import torch

    from cryomorph.particles.metadata import rewrite_poses
    from cryomorph.particles.poses import read_poses
    from cryomorph.physics.pose_align import compare_poses

    if config.output is not None and (config.output.suffix == ".star") != (config.moving.suffix == ".star"):
        raise InputError(f"-o {config.output}: expected a {config.moving.suffix} file, as {config.moving} is one")
    found, true = (read_poses(path, config.pixel_A) for path in (config.moving, config.fixed))
    pixel_A = true.pixel_A or found.pixel_A
    if pixel_A is None:
        raise InputError(f"{config.fixed} states no pixel size: give it with --pixel-A")
    shared = _matched(config.moving, config.fixed)
    compared = compare_poses(found.pose[torch.from_numpy(shared.a)], true.pose[torch.from_numpy(shared.b)])
    say(f"{len(shared):,} particles, matched by {shared.by}")
    _print_errors(compared, pixel_A)
    if config.output is not None:
        pose = compared.frame.apply(found.pose)
        rewrite_poses(config.moving, config.output, pose, pixel_A=found.pixel_A or pixel_A)
        say(f"{config.output}: {len(pose):,} particles with their poses in the frame of {config.fixed}")


def _print_errors(compared: ComparedPoses, pixel_A: float) -> None:
    figures = compared.errors.summary(pixel_A)
    print(f"{'hand':26}{'flipped' if compared.frame.flipped else 'as found':>10}")
    print(f"{'within 10 degrees':26}{100 * figures['within_10_deg']:8.1f} %")
    print(f"{'error':26}{'median':>10}{'mean':>10}")
    for name, shown in ERRORS.items():
        print(f"{shown:26}{figures[f'{name}_median']:10.4f}{figures[f'{name}_mean']:10.4f}")


def _matched(found: Path, true: Path) -> SharedParticles:
    """Match all particles of the shorter file, by their order if no names are shared.

    Raises:
        InputError: only some particles have the same name, or none and the files differ in length.
    """
    import numpy as np

    from cryomorph.particles.matching import SharedParticles, match_particles
    from cryomorph.particles.subset import ParticleFile

    files = ParticleFile.open(found), ParticleFile.open(true)
    numbers = [len(file) for file in files]
    shared = match_particles(*files, enough=min(numbers))
    if len(shared) == min(numbers):
        return shared
    if len(shared) or numbers[0] != numbers[1]:
        raise InputError(
            f"{found} has {numbers[0]:,} particles and {true} {numbers[1]:,}, and {len(shared):,} image names are in "
            "both: expected the same particles"
        )
    rows = np.arange(numbers[0])
    return SharedParticles(rows, rows, "their order")
