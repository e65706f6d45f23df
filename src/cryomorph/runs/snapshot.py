"""A model in the middle of its training: what its last checkpoint holds, in the form of a finished run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float32
from torch import Tensor

from cryomorph.config.console import warn
from cryomorph.config.errors import InputError
from cryomorph.encoders.poses import PoseTable
from cryomorph.io.npy import damaged
from cryomorph.latents.encode import encode_amortised
from cryomorph.models.heterogeneous import Heterogeneous
from cryomorph.models.registry import encoder_from, representation_from
from cryomorph.particles.store import ParticleStore
from cryomorph.physics.pose import Pose
from cryomorph.runs.checkpoint import again, load_tensors


@dataclass(frozen=True)
class Snapshot:
    """A trained model as far as it is.

    Args:
        name: which checkpoint, in words.
        tensors, facts: as a finished run's model file has them.
        mean, std: (n, zdim) latent points of the particles.
        pose: the poses as refined so far.
    """

    name: str
    tensors: dict[str, Tensor]
    facts: dict[str, str]
    mean: Float32[Tensor, "n zdim"]
    std: Float32[Tensor, "n zdim"]
    pose: Pose | None


def last_snapshot(checkpoints: Sequence[Path], store: ParticleStore) -> Snapshot:
    """The model of the last checkpoint that can be read; it is said where that is not the last.

    Raises:
        InputError: none can be read.
    """
    for path in reversed(checkpoints):
        try:
            return read_snapshot(path, store)
        except InputError as error:
            if path == checkpoints[0]:
                raise
            warn(str(error))
    raise InputError("no checkpoint was given")


def read_snapshot(checkpoint: Path, store: ParticleStore) -> Snapshot:
    """The model of a checkpoint; an encoder network is asked for the latent points of all particles.

    Args:
        store: the particles, with the poses that the training was given.

    Raises:
        InputError: the file is damaged.
    """
    try:
        return _read(checkpoint, store)
    except InputError:
        raise
    except Exception as error:  # whatever a network raises whose parts do not fit
        raise damaged(checkpoint, error, again(checkpoint)) from error


def _read(checkpoint: Path, store: ParticleStore) -> Snapshot:
    saved, facts = load_tensors(checkpoint)
    model = {name.removeprefix("model."): value for name, value in saved.items() if name.startswith("model.")}
    tensors = {name.removeprefix("representation."): value for name, value in model.items()}
    pose = store.pose
    if pose is not None and "poses.offset" in model:
        table = PoseTable(len(store))
        table.load_state_dict({"offset": model["poses.offset"]})
        pose = table.corrected(pose, store.pixel_A)
        store = store.with_pose(pose)
    mean, std = _latents(model, tensors, facts, store)
    progress = json.loads(facts["progress"])
    kind = _kind(model, facts)
    name = f"{checkpoint.name}: after {progress['epoch']} epochs and {progress['step']} steps"
    return Snapshot(name, tensors, facts | {"encoder": kind, "latents": "table"}, mean, std, pose)


def _kind(model: dict[str, Tensor], facts: dict[str, str]) -> str:
    if "encoder.mean" in model:
        return "table"
    return facts.get("encoder") or ("gradient" if "encoder.ring_weight" in model else "mlp")


def _latents(
    model: dict[str, Tensor], tensors: dict[str, Tensor], facts: dict[str, str], store: ParticleStore
) -> tuple[Float32[Tensor, "n zdim"], Float32[Tensor, "n zdim"]]:
    encoder = {name.removeprefix("encoder."): value for name, value in model.items() if name.startswith("encoder.")}
    if "mean" in encoder:
        return encoder["mean"], encoder["std"]
    if not encoder:
        return torch.zeros(len(store), 0), torch.zeros(len(store), 0)
    asked = Heterogeneous(
        representation_from(tensors, facts),
        encoder_from(_kind(model, facts), model),
        prior_std=model["prior_std"],
        whitening=model["whitening"],
    )
    with torch.no_grad():
        return encode_amortised(asked.eval(), store, torch.arange(len(store)))
