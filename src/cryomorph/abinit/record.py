"""What each stage of `abinit` writes for its report and for the user: a map, viewing directions, changes of poses."""

from __future__ import annotations

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from cryomorph.io.mrc import write_map
from cryomorph.particles.metadata import rewrite_poses
from cryomorph.particles.projection_class import projection_classes
from cryomorph.particles.store import ParticleStore
from cryomorph.physics.pose import Pose, rotation_distance_deg
from cryomorph.runs.folder import RunFolder
from cryomorph.volumes.grid import rebox

VIEWS = 192  # bins of the histogram of viewing directions


def write_stage_map(run: RunFolder, name: str, map: Float32[Tensor, "z y x"], *, store: ParticleStore) -> None:
    """Write the map of a stage in the working box."""
    folder = run.path / "abinit"
    folder.mkdir(exist_ok=True)
    write_map(folder / f"{name}.mrc", rebox(map, store.box).numpy(), store.pixel_A)


def write_round(
    run: RunFolder,
    number: int,
    map: Float32[Tensor, "z y x"],
    *,
    rotation: Float32[Tensor, "k 3 3"],
    store: ParticleStore,
) -> None:
    """Write the map of a round and the histogram of its particles' viewing directions."""
    write_stage_map(run, f"round-{number}", map, store=store)
    view = projection_classes(rotation, VIEWS)
    run.save_array(f"abinit/views-{number}.npy", torch.bincount(view, minlength=VIEWS).numpy())


def pose_changes(now: Pose, before: Pose, subset: Int64[Tensor, " k"]) -> dict[str, float]:
    """Median change of some particles' rotations (degrees) and shifts (Angstrom), by the names of the records."""
    turned = rotation_distance_deg(now.rotation[subset], before.rotation[subset])
    moved = torch.linalg.vector_norm(now.shift_A[subset] - before.shift_A[subset], dim=1)
    return {"turned_deg": float(turned.median()), "moved_A": float(moved.median())}


def describe_changes(changes: dict[str, float]) -> str:
    """`pose_changes` for the log; empty where there was no round before."""
    if not changes:
        return ""
    return f"; poses changed by {changes['turned_deg']:.2f} degrees, {changes['moved_A']:.2f} A (medians)"


def write_poses(run: RunFolder, store: ParticleStore, pose: Pose) -> None:
    """Write the estimated poses into the run, and into a copy of the particle file."""
    run.save_pose(pose)
    manifest = store.manifest
    source, target = store.folder / manifest.metadata, run.path / manifest.metadata
    rewrite_poses(source, target, pose, pixel_A=manifest.source_pixel_A)
