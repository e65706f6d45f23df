"""Poses of a particle file, without its images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from cryomorph.config.errors import InputError
from cryomorph.particles.from_cryosparc import parse_cs
from cryomorph.particles.from_star import parse_star
from cryomorph.physics.pose import Pose


@dataclass(frozen=True)
class FilePoses:
    """Poses of a particle file, and the pixel size in Angstrom that it states, if any."""

    pose: Pose
    pixel_A: float | None


def read_poses(path: Path, pixel_A: float | None = None) -> FilePoses:
    """Read the poses of a .star or .cs file.

    Args:
        pixel_A: pixel size to use instead of the file's.

    Raises:
        InputError: the file has no poses, or has shifts in pixels and no known pixel size.
    """
    parse = parse_star if path.suffix == ".star" else parse_cs
    metadata = parse(path, None, with_ctf=False)
    if metadata.rotation is None or metadata.shift is None:
        raise InputError(
            f"{path} has no poses (rlnAngleRot, rlnAngleTilt, rlnAnglePsi or alignments3D/pose): give a file with poses"
        )
    pixel_A = pixel_A or metadata.pixel_A
    if metadata.shift_in == "pixel" and pixel_A is None:
        raise InputError(f"{path} has shifts in pixels and states no pixel size: give it with --pixel-A")
    unit_A = pixel_A if metadata.shift_in == "pixel" and pixel_A is not None else 1.0
    return FilePoses(Pose(metadata.rotation, torch.from_numpy(metadata.shift * unit_A)), pixel_A)
