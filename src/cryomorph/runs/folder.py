"""The run folder: the one place that knows which file of a run holds what."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from cryomorph.config.console import say, warn
from cryomorph.config.errors import InputError
from cryomorph.config.renamed import current_keys
from cryomorph.io.atomic import atomic_path
from cryomorph.io.mrc import read_map, write_map
from cryomorph.io.npy import read_npy
from cryomorph.models.registry import facts_of, representation_from
from cryomorph.particles.store import ParticleStore
from cryomorph.physics.pose import Pose
from cryomorph.representations.base import Representation
from cryomorph.runs.checkpoint import load_tensors, save_tensors
from cryomorph.runs.provenance import provenance, write_json
from cryomorph.runs.snapshot import Snapshot, checkpoints, read_snapshot, with_refined
from cryomorph.volumes.backproject import Reconstruction

MODEL = "model.safetensors"
REFINED = "refined_poses.safetensors"
HOW = ("training.device", "training.precision", "training.compile", "training.checkpoint_minutes")
"""Options that say how to compute, not what: a resumed run may be given others."""
CONSENSUS_MAPS = ("map", "half1", "half2", "mask")


@dataclass(frozen=True)
class RunFolder:
    """A run on disk. `open` reads one that exists, `create` starts one."""

    path: Path
    quiet: bool = False
    """Whether to leave the user and the logs alone: another process speaks for this one."""
    snapshot: Snapshot | None = None
    """The model of a run that is not finished, where it was opened so."""

    @classmethod
    def open(cls, path: Path, *, unfinished: bool = False) -> RunFolder:
        """Open a run for reading.

        Args:
            unfinished: whether the last checkpoint will do where the training has not ended; it is said if so.

        Raises:
            InputError: the folder is no run, its config is damaged, or it has no model yet.
        """
        run = cls(Path(path))
        if not (run.path / "config.json").is_file():
            raise InputError(f"{path} is not a run folder (it has no config.json): make one with `cryomorph train`")
        if run.is_complete:
            run.config()  # damaged, it is better said now than where a report needs it
            return run
        found = checkpoints(run.path)
        if not unfinished or not found:
            raise InputError(
                f"{path} has no {MODEL} yet: finish it with the same `cryomorph train` command and --resume"
            )
        snapshot = read_snapshot(found[-1], with_refined(run.path, run.store()))
        warn(f"{path} is not finished: this is what {snapshot.name} holds")
        return replace(run, snapshot=snapshot)

    @classmethod
    def create(cls, path: Path, config: dict[str, Any], *, resume: bool, overwrite: bool) -> RunFolder:
        """Start a run, or take up an interrupted one.

        Args:
            config: what was asked, as JSON values, `method` among them.

        Raises:
            InputError: the folder is in use and neither `resume` nor `overwrite` was given, it is no run folder, or
                what is asked now differs from what the interrupted run was asked.
        """
        run = cls(Path(path))
        if run.path.exists() and not run.path.is_dir():
            raise InputError(f"{path} is a file: expected a folder for -o")
        known = (run.path / "config.json").is_file()
        if run.path.exists() and any(run.path.iterdir()):
            if not known:
                raise InputError(f"{path} is not empty and not a run folder: give another -o")
            if resume:
                run._require_same(config)
                return run
            if not overwrite:
                raise InputError(f"{path} holds a run: --resume goes on with it, --overwrite replaces it")
            shutil.rmtree(run._replaced, ignore_errors=True)
            run.path.rename(run._replaced)
        elif resume:
            raise InputError(f"{path} holds no run to resume: leave --resume away to start one")
        run.path.mkdir(parents=True, exist_ok=True)
        write_json(run.path / "provenance.json", provenance())
        write_json(run.path / "config.json", config)
        return run

    def _require_same(self, config: dict[str, Any]) -> None:
        before, now = leaves(self.config()), leaves(config)
        changed = sorted(key for key in {*before, *now} - {*HOW} if before.get(key) != now.get(key))
        if changed:
            key = changed[0]
            raise InputError(
                f"{self.path} was started with {key} = {before.get(key)!r} and is resumed with {now.get(key)!r}: "
                "give the same options, or --overwrite to start anew"
            )

    @property
    def is_complete(self) -> bool:
        """Whether the run has its final model."""
        return (self.path / MODEL).is_file()

    @property
    def model_time(self) -> float:
        """When the model was written, in seconds as file systems count them."""
        model = self.path / MODEL if self.snapshot is None else checkpoints(self.path)[-1]
        return model.stat().st_mtime

    def config(self) -> dict[str, Any]:
        """What the run was asked."""
        return current_keys(self._facts("config.json", needed="method"))

    def provenance(self) -> dict[str, Any]:
        """Where the run came from."""
        return self._facts("provenance.json", needed="command")

    def _facts(self, name: str, *, needed: str) -> dict[str, Any]:
        path = self.path / name
        try:
            facts: Any = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise InputError(f"{path} cannot be read ({error}): put it back, or train anew with --overwrite") from error
        if not isinstance(facts, dict) or needed not in facts:
            raise InputError(f"{path} does not say '{needed}': put it back, or train anew with --overwrite")
        return facts

    @property
    def _replaced(self) -> Path:
        """Where the run that `overwrite` replaces waits until the new one has started."""
        return self.path.with_name(self.path.name + ".replaced")

    def settle(self) -> None:
        """Let go of the run that this one replaces: its particles are in order."""
        shutil.rmtree(self._replaced, ignore_errors=True)

    def discard(self) -> None:
        """Remove a run that could not be started, and put back the one that it was to replace."""
        shutil.rmtree(self.path)
        if self._replaced.is_dir():
            self._replaced.rename(self.path)

    @property
    def store_path(self) -> Path:
        """Where the run's particle store is, or will be: a folder, or a link to one."""
        return self.path / "particles"

    @property
    def symmetry(self) -> str:
        """Point group by which the run expands its particles; most runs take them as they are, `C1`."""
        return str(self.config().get("symmetry", "C1"))

    def given_store(self) -> ParticleStore:
        """The particle store of the run, expanded by its symmetry, with the poses that it was given."""
        if self.store_path.is_symlink() and not self.store_path.exists():
            raise InputError(f"{self.store_path} points to {self.store_path.readlink()}, which is gone: put it back")
        return ParticleStore.open(self.store_path).expanded(self.symmetry)

    def store(self) -> ParticleStore:
        """The particle store of the run, with its poses as the run refined them."""
        store = self.given_store()
        if self.snapshot is not None and self.snapshot.pose is not None:
            return store.with_pose(self.snapshot.pose)
        refined = self.path / REFINED
        if not refined.is_file():
            return store
        tensors = load_tensors(refined)[0]
        return store.with_pose(Pose(tensors["rotation"], tensors["shift_A"]))

    def save_pose(self, pose: Pose) -> None:
        """Keep refined poses: every later reading of the run's particles uses them, and particles.star says them."""
        save_tensors(self.path / REFINED, {"rotation": pose.rotation, "shift_A": pose.shift_A})

    def _latent(self, name: str) -> Float32[np.ndarray, "n q"]:
        path = self.path / f"{name}.npy"
        try:
            found = np.asarray(read_npy(path), dtype=np.float32)
            if found.ndim != 2:
                raise ValueError(f"shape {found.shape}, expected particles by coordinates")
            return found
        except (OSError, ValueError) as error:
            raise InputError(f"{path} cannot be read ({str(error).splitlines()[0]}): train again") from error

    def latent_mean(self) -> Float32[np.ndarray, "n q"]:
        """Most probable latent point of each particle of the store."""
        return self._latent("latent_mean") if self.snapshot is None else self.snapshot.mean.numpy()

    def latent_std(self) -> Float32[np.ndarray, "n q"]:
        """Posterior standard deviation of each latent coordinate."""
        return self._latent("latent_std") if self.snapshot is None else self.snapshot.std.numpy()

    def latent(self) -> tuple[Float32[np.ndarray, "n q"], Float32[np.ndarray, "n q"]]:
        """Means and standard deviations of all particles; `InputError` where they are not one row for each of them."""
        mean, std, n = self.latent_mean(), self.latent_std(), len(self.store())
        shape = n, mean.shape[1]
        for name, found in (("mean", mean), ("std", std)):
            if found.shape != shape:
                raise InputError(
                    f"{self.path / f'latent_{name}.npy'} has shape {found.shape}, expected {shape}, particles by "
                    "coordinates: train again"
                )
        return mean, std

    def save_latent(self, mean: Float32[Tensor, "n q"], std: Float32[Tensor, "n q"]) -> None:
        """Write the latent means and standard deviations."""
        self.save_array("latent_mean.npy", mean.numpy())
        self.save_array("latent_std.npy", std.numpy())

    def save_array(self, name: str, array: np.ndarray) -> None:
        """Write a numpy array into the run."""
        with atomic_path(self.path / name) as part:
            np.save(part, array)

    def save_model(self, representation: Representation, tensors: dict[str, Tensor], **facts: str) -> None:
        """Write the model, with what else belongs to it: the file whose presence says that the run is complete."""
        state = {**representation.state_dict(), **tensors}
        save_tensors(self.path / MODEL, state, **facts_of(representation), **facts)

    @property
    def linear_start(self) -> Path:
        """The linear stage that the run's latent space began with; a file only where there was one."""
        return self.path / "linear.safetensors"

    def model_tensors(self) -> dict[str, Tensor]:
        """All tensors that were saved with the model."""
        return self._model()[0]

    def model_facts(self) -> dict[str, str]:
        """What the model file says of its tensors."""
        return self._model()[1]

    def _model(self) -> tuple[dict[str, Tensor], dict[str, str]]:
        if self.snapshot is not None:
            return self.snapshot.tensors, self.snapshot.facts
        return load_tensors(self.path / MODEL)

    def representation(self) -> Representation:
        """The trained representation."""
        tensors, facts = self._model()
        try:
            return representation_from(tensors, facts)
        except (KeyError, InputError) as error:
            raise InputError(f"{self.path / MODEL}: {error}") from error

    def save_consensus(self, result: Reconstruction, noise: Float32[Tensor, " shells"]) -> None:
        """Write the consensus: maps, FSC table and plot, and what later stages need of it."""
        folder = self.path / "consensus"
        folder.mkdir(exist_ok=True)
        save_reconstruction(result, folder)
        save_tensors(folder / "spectra.safetensors", {"precision": result.precision, "noise": noise})

    @property
    def has_consensus(self) -> bool:
        """Whether the consensus is there, whole."""
        return (self.path / "consensus" / "spectra.safetensors").is_file()

    def consensus_map(self, name: str = "map") -> Float32[Tensor, "z y x"]:
        """A map of the consensus: `map`, `half1`, `half2` or `mask`."""
        return torch.tensor(read_map(self.path / "consensus" / f"{name}.mrc")[0])

    def consensus_fsc(self) -> dict[str, Float32[np.ndarray, " shells"]]:
        """The consensus's FSC curves by name, as in fsc.csv."""
        with (self.path / "consensus" / "fsc.csv").open() as file:
            rows = list(csv.DictReader(file))
        names = ("unmasked", "masked", "phase_randomised", "corrected")
        return {name: np.array([float(row[name]) for row in rows], dtype=np.float32) for name in names}

    def spectra(self) -> dict[str, Tensor]:
        """`precision` and `noise` (shells,) of the consensus: see `Reconstruction` and `residual_noise`."""
        return load_tensors(self.path / "consensus" / "spectra.safetensors")[0]

    def log(self, message: str) -> None:
        """Say a line and keep it in run.log."""
        if self.quiet:
            return
        say(message)
        with (self.path / "run.log").open("a") as file:
            file.write(f"{datetime.now().isoformat(timespec='seconds')}  {message}\n")

    def warn(self, message: str) -> None:
        """Say a warning and keep it in run.log."""
        if self.quiet:
            return
        warn(message)
        with (self.path / "run.log").open("a") as file:
            file.write(f"{datetime.now().isoformat(timespec='seconds')}  warning: {message}\n")

    def record(self, **values: float | int | str | list[float]) -> None:
        """Append one row to metrics.jsonl."""
        if self.quiet:
            return
        with (self.path / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(values) + "\n")


def leaves(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A config of nested parts as one level, keys joined by dots."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        found |= leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def save_reconstruction(result: Reconstruction, folder: Path) -> None:
    """Write a reconstruction's maps, FSC table and FSC plot into a folder."""
    for name in CONSENSUS_MAPS:
        write_map(folder / f"{name}.mrc", getattr(result, name).numpy(), result.fsc.pixel_A)
    result.fsc.write_csv(folder / "fsc.csv")
    result.fsc.write_plot(folder / "fsc.png")
