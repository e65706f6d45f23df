"""`cryomorph align`: a map laid upon another, or poses upon the true ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cryomorph.config.align import AlignConfig
from cryomorph.config.console import say
from cryomorph.config.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Int64

    from cryomorph.physics.pose import Pose
    from cryomorph.physics.pose_align import ComparedPoses
    from cryomorph.volumes.align import Alignment

PARTICLES = (".star", ".cs", ".csg")
ERRORS = {
    "rotation_deg": "rotation (degrees)",
    "frobenius": "|R - R true|^2",
    "shift_A": "shift (A)",
    "shift_pixel": "shift (pixels)",
}


def align(config: AlignConfig) -> None:
    """Align two maps or two sets of poses, print what was found, write what was asked for."""
    listing = [path.suffix in PARTICLES for path in (config.moving, config.fixed)]
    if listing[0] != listing[1]:
        raise InputError(f"{config.moving} and {config.fixed}: expected two maps, or two .star or .cs particle files")
    if listing[0] and config.keep_hand:
        raise InputError("--keep-hand goes with two maps: the hand of poses is what they say")
    if config.pixel_A is not None and not config.pixel_A > 0:
        raise InputError(f"--pixel-A {config.pixel_A:g}: expected one above 0")
    if config.output is not None and config.output.resolve() in (config.moving.resolve(), config.fixed.resolve()):
        raise InputError(f"-o {config.output} is one of the files that are read: give another name")
    if listing[0]:
        _align_particles(config)
    else:
        _align_maps(config)


def _align_maps(config: AlignConfig) -> None:
    from cryomorph.commands.fsc import load_map
    from cryomorph.io.mrc import write_map
    from cryomorph.volumes.align import align_maps
    from cryomorph.volumes.fsc import fsc, resolution_A

    moving, pixel_A = load_map(config.moving, config.pixel_A)
    fixed, fixed_A = load_map(config.fixed, config.pixel_A)
    if len(moving) != len(fixed):
        raise InputError(
            f"{config.moving}: box {len(moving)}, but {config.fixed} has box {len(fixed)}; resample one to the other's"
        )
    if abs(fixed_A - pixel_A) > 1e-3 * fixed_A:
        raise InputError(
            f"{config.moving}: pixel size {pixel_A:g} A, but {config.fixed} has {fixed_A:g} A; resample one of them, "
            "or give --pixel-A if a header is wrong"
        )
    found = align_maps(moving, fixed, both_hands=not config.keep_hand)

    def row(hand: Alignment) -> str:
        curve = fsc(hand.aligned, fixed)
        at = [resolution_A(curve, pixel_A, threshold, box=len(fixed)) for threshold in (0.143, 0.5)]
        x, y, z = hand.shift_voxel.tolist()
        return (
            f"{'mirror image' if hand.flipped else 'as given':14}{hand.correlation:11.4f}{at[0]:12.2f} A{at[1]:10.2f} A"
            f"{hand.angle_deg:10.2f} deg{x:10.2f}{y:8.2f}{z:8.2f}"
        )

    print(f"{'hand':14}{'correlation':>11}{'FSC = 0.143':>14}{'FSC = 0.5':>12}{'rotation':>14}{'shift (voxels)':>26}")
    print(row(found))
    if found.other_hand is not None:
        print(row(found.other_hand))
    if config.output is not None:
        write_map(config.output, found.aligned.numpy(), pixel_A)
        say(f"{config.output}: {config.moving}{', its mirror image,' if found.flipped else ''} upon {config.fixed}")


class _Poses(NamedTuple):
    """Poses of a particle file, and the pixel size that it states."""

    pose: Pose
    pixel_A: float | None


def _align_particles(config: AlignConfig) -> None:
    import torch

    from cryomorph.particles.metadata import rewrite_poses
    from cryomorph.physics.pose_align import compare_poses

    if config.output is not None and (config.output.suffix == ".star") != (config.moving.suffix == ".star"):
        raise InputError(f"-o {config.output}: expected a {config.moving.suffix} file, as {config.moving} is one")
    found, true = (_read(path, config.pixel_A) for path in (config.moving, config.fixed))
    pixel_A = true.pixel_A or found.pixel_A
    if pixel_A is None:
        raise InputError(f"{config.fixed} states no pixel size: give it with --pixel-A")
    rows, by = _matching(config.moving, config.fixed)
    shared = torch.from_numpy(rows[0]), torch.from_numpy(rows[1])
    compared = compare_poses(found.pose[shared[0]], true.pose[shared[1]])
    say(f"{len(rows[0]):,} particles, matched by {by}")
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


def _read(path: Path, pixel_A: float | None) -> _Poses:
    """The poses of a particle file; its images are not looked for."""
    import torch

    from cryomorph.particles.from_cryosparc import parse_cs
    from cryomorph.particles.from_star import parse_star
    from cryomorph.physics.pose import Pose

    parse = parse_star if path.suffix == ".star" else parse_cs
    metadata = parse(path, None, with_ctf=False)
    if metadata.rotation is None or metadata.shift is None:
        raise InputError(
            f"{path} has no poses (rlnAngleRot, rlnAngleTilt, rlnAnglePsi or alignments3D/pose): give a file that has"
        )
    pixel_A = pixel_A or metadata.pixel_A
    if metadata.shift_in == "pixel" and pixel_A is None:
        raise InputError(f"{path} has shifts in pixels and states no pixel size: give it with --pixel-A")
    unit_A = pixel_A if metadata.shift_in == "pixel" and pixel_A is not None else 1.0
    return _Poses(Pose(metadata.rotation, torch.from_numpy(metadata.shift * unit_A)), pixel_A)


def _matching(found: Path, true: Path) -> tuple[tuple[Int64[np.ndarray, " k"], Int64[np.ndarray, " k"]], str]:
    """Rows of the same particles in both files, and what they were recognised by.

    Raises:
        InputError: they share some particles but not all of the shorter file's, or none by name and differ in number.
    """
    import numpy as np
    import pandas as pd

    from cryomorph.particles.subset import ParticleFile

    files = ParticleFile.open(found), ParticleFile.open(true)
    numbers = [len(file) for file in files]
    names = [pd.Series(file.image_names()) for file in files]
    ways: list[tuple[str, Sequence[Any]]] = [
        ("image name", names),
        ("image name without its folder", [each.str.replace(r"@.*/", "@", regex=True) for each in names]),
    ]
    uids = [file.uid() for file in files]
    if all(uid is not None for uid in uids):
        ways.insert(0, ("uid", uids))
    most = 0
    for by, each in ways:
        a, b = (pd.Index(named) for named in each)
        both = a.intersection(b, sort=False)
        if a.is_unique and b.is_unique and len(both) == min(numbers):
            return (a.get_indexer(both).astype(np.int64), b.get_indexer(both).astype(np.int64)), by
        most = max(most, len(both))
    if most or numbers[0] != numbers[1]:
        raise InputError(
            f"{found} has {numbers[0]:,} particles and {true} {numbers[1]:,}, and {most:,} image names are in both: "
            "expected the same particles"
        )
    rows = np.arange(numbers[0])
    return (rows, rows), "their order"
