"""The noise of every image of a run, on disk."""

from __future__ import annotations

from pathlib import Path

from cryomorph.config.errors import InputError
from cryomorph.particles.noise import NoiseModel
from cryomorph.particles.store import ParticleStore
from cryomorph.runs.checkpoint import again, load_tensors, require_finite, save_tensors

NOISE = "noise.safetensors"


def save_noise(run: Path, noise: NoiseModel) -> None:
    """Keep the noise: every later reading of the run's particles uses it."""
    save_tensors(run / NOISE, {"power": noise.power, "level": noise.level})


def with_noise(run: Path, store: ParticleStore) -> ParticleStore:
    """The store with the noise that the run measured, where it did."""
    path = run / NOISE
    if not path.is_file():
        return store
    tensors = require_finite(load_tensors(path)[0])
    power, level = tensors["power"], tensors["level"]
    if level.shape != (len(store),) or power.ndim != 2 or power.shape[1] != store.box // 2 + 1:
        raise InputError(
            f"{path} has {tuple(level.shape)} levels and spectra of shape {tuple(power.shape)}, the run "
            f"{len(store)} particles of box {store.box}: {again(path)}"
        )
    return store.with_noise(NoiseModel(power, level, store.group))
