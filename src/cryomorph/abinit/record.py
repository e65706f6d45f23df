"""What each stage of `abinit` leaves for its report and for the user to look at: a map, views, how far poses moved."""

from __future__ import annotations

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from cryomorph.io.mrc import write_map
from cryomorph.particles.metadata import rewrite_poses
from cryomorph.particles.projection_class import projection_classes
from cryomorph.particles.store import ParticleStore
from cryomorph.physics.pose import Pose, rotation_distance_deg
from cryomorph.representations.linear import rebox
from cryomorph.runs.folder import RunFolder

VIEWS = 192  # directions of the histogram of views


def keep_map(run: RunFolder, name: str, map: Float32[Tensor, "z y x"], *, store: ParticleStore) -> None:
    """A map of a stage, in the working box."""
    folder = run.path / "abinit"
    folder.mkdir(exist_ok=True)
    write_map(folder / f"{name}.mrc", rebox(map, store.box).numpy(), store.pixel_A)


def keep_round(
    run: RunFolder,
    number: int,
    map: Float32[Tensor, "z y x"],
    *,
    rotation: Float32[Tensor, "k 3 3"],
    store: ParticleStore,
) -> None:
    """The map of a round, and from where its particles were seen."""
    keep_map(run, f"round-{number}", map, store=store)
    view = projection_classes(rotation, VIEWS)
    run.save_array(f"abinit/views-{number}.npy", torch.bincount(view, minlength=VIEWS).numpy())


def moved(now: Pose, before: Pose, subset: Int64[Tensor, " k"]) -> dict[str, float]:
    """How far some particles' poses went, medians, as the records say it."""
    turned = rotation_distance_deg(now.rotation[subset], before.rotation[subset])
    away = torch.linalg.vector_norm(now.shift_A[subset] - before.shift_A[subset], dim=1)
    return {"turned_deg": float(turned.median()), "moved_A": float(away.median())}


def moved_in_words(moved: dict[str, float]) -> str:
    """The same for the log; nothing where there was no round before."""
    return f"; poses moved by {moved['turned_deg']:.2f} degrees, {moved['moved_A']:.2f} A (medians)" if moved else ""


def keep_poses(run: RunFolder, store: ParticleStore, pose: Pose) -> None:
    """The poses found: for whatever reads the run's particles, and in a copy of the particle file."""
    run.save_pose(pose)
    manifest = store.manifest
    source, target = store.folder / manifest.metadata, run.path / manifest.metadata
    rewrite_poses(source, target, pose, pixel_A=manifest.source_pixel_A)
