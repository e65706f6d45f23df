"""What a run's linear stage found to be wrong with its particles: contrasts, and the given poses."""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Float32
from torch import Tensor

from cryomorph.config.errors import InputError
from cryomorph.encoders.poses import PoseTable
from cryomorph.io.npy import read_array
from cryomorph.particles.store import ParticleStore
from cryomorph.physics.pose import Pose
from cryomorph.runs.checkpoint import again, load_tensors, require_finite
from cryomorph.runs.latents import AGAIN, CONTRAST, REFINED

LINEAR = "linear.safetensors"
OFFSET = "offset"  # (n, 5) of each particle from its given pose, as `Batch.moved` takes them


def with_contrast(run: Path, store: ParticleStore) -> ParticleStore:
    """The store with the contrasts that the run found, where it looked for any."""
    path = run / CONTRAST
    if not path.is_file():
        return store
    return store.with_contrast(torch.from_numpy(read_array(path, (len(store),), kind="float", again=AGAIN)))


def with_corrected(run: Path, store: ParticleStore) -> ParticleStore:
    """The store of given poses with those that the linear stage of a training corrected, where it did."""
    path = run / LINEAR
    offset = load_tensors(path)[0].get(OFFSET) if path.is_file() else None
    if offset is None:
        return store
    if offset.shape != (len(store), 5):
        raise InputError(
            f"{path} has offsets of shape {tuple(offset.shape)}, the run {len(store)} particles: {again(path)}"
        )
    return store.with_pose(corrected_pose(store, offset))


def with_refined(run: Path, store: ParticleStore) -> ParticleStore:
    """The store with the poses that the finished run found, where it looked for any."""
    path = run / REFINED
    if not path.is_file():
        return store
    tensors = require_finite(load_tensors(path)[0])
    rotation, shift_A = tensors["rotation"], tensors["shift_A"]
    if rotation.shape != (len(store), 3, 3) or shift_A.shape != (len(store), 2):
        raise InputError(
            f"{path} has poses of shapes {tuple(rotation.shape)} and {tuple(shift_A.shape)}, the run has "
            f"{len(store)} particles: {AGAIN}"
        )
    return store.with_pose(Pose(rotation, shift_A))


def corrected_pose(store: ParticleStore, offset: Float32[Tensor, "n 5"]) -> Pose:
    """The poses of a store, moved by offsets."""
    table = PoseTable(len(store))
    table.offset = torch.as_tensor(offset)
    return table.corrected(store.require_pose(), store.pixel_A)
