"""The run folder: the one place that knows which file of a run holds what.

What needs tensors imports them when it is asked for: choosing and dividing particles reads runs without.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float32

from cryomorph.config.console import say, warn
from cryomorph.config.errors import InputError
from cryomorph.config.renamed import current_keys
from cryomorph.io.atomic import atomic_path
from cryomorph.io.json_file import read_json, write_json
from cryomorph.io.npy import read_array
from cryomorph.io.output_folder import Contents, OutputFolder
from cryomorph.particles.expand import copies_of
from cryomorph.particles.manifest import Manifest
from cryomorph.runs.consensus import CONSENSUS, CORRECTED, CURVES, SPECTRA, FscCurves, Spectra, save_reconstruction
from cryomorph.runs.latents import AGAIN, LATENT_SPLIT, MEAN, REFINED, STD, read_latents, write_latents
from cryomorph.runs.metrics import append_metrics, read_metrics
from cryomorph.runs.provenance import PROVENANCE, Provenance

if TYPE_CHECKING:
    from torch import Tensor

    from cryomorph.particles.store import ParticleStore
    from cryomorph.physics.pose import Pose
    from cryomorph.representations.base import Representation
    from cryomorph.runs.snapshot import Snapshot
    from cryomorph.volumes.backproject import Reconstruction

CONFIG, MODEL, LOG = "config.json", "model.safetensors", "run.log"
RUN = Contents("run", marker=CONFIG, signs=(PROVENANCE,), whole=True)
CHECKPOINTS = "checkpoints/{name}epoch-*.safetensors"
HOW = ("training.device", "training.precision", "training.compile", "training.checkpoint_minutes")
"""Options that say how to compute, not what: a resumed run may be given others."""
ASSUMED = {"contrast": False, "fix_poses": True}
"""What a run does whose config, of an earlier version, does not say."""
PUT_BACK = "put it back, or train again with --overwrite"


@dataclass(frozen=True)
class RunFolder:
    """A run on disk. `open` reads one that exists, `create` starts one."""

    path: Path
    quiet: bool = False
    """Whether to leave the user and the logs alone: another process speaks for this one."""
    snapshot: Snapshot | None = None
    """The model of a run that is not finished, where it was opened so."""
    output: OutputFolder | None = field(default=None, repr=False, compare=False)
    """The folder as it is locked, where this process writes the run."""

    @classmethod
    def open(cls, path: Path, *, unfinished: bool = False) -> RunFolder:
        """Open a run for reading.

        Args:
            unfinished: whether the last checkpoint will do where the training has not ended; it is said if so.

        Raises:
            InputError: the folder is no run, its config is damaged, or it has no model yet.
        """
        run = cls(Path(path))
        if not (run.path / CONFIG).is_file():
            raise InputError(f"{path} is not a run folder (it has no {CONFIG}): make one with `cryomorph train`")
        found = checkpoints(run.path)
        if not run.is_complete and not (unfinished and found):
            raise InputError(
                f"{path} has no {MODEL} yet: finish it with the same `cryomorph train` command and --resume"
            )
        run.config()  # damaged, it is better said now than where a report needs it
        if run.is_complete:
            return run
        from cryomorph.runs.corrections import with_contrast, with_corrected
        from cryomorph.runs.snapshot import last_snapshot

        store = with_contrast(run.path, with_corrected(run.path, run.given_store()))
        snapshot = last_snapshot(found, store)
        warn(f"{path} is not finished: this is what {snapshot.name} holds")
        return replace(run, snapshot=snapshot)

    @classmethod
    @contextmanager
    def create(
        cls, path: Path, config: dict[str, Any], *, resume: bool, overwrite: bool, inputs: tuple[Path, ...] = ()
    ) -> Iterator[RunFolder]:
        """Start a run, or go on with an interrupted one; it is locked in the `with` block.

        What `overwrite` replaces is kept until `commit`.

        Args:
            config: what was asked, as JSON values, `method` among them.
            inputs: what the run reads, none of which it may replace.

        Raises:
            InputError: the folder is in use and neither `resume` nor `overwrite` was given, it is no run folder, or
                what is asked now differs from what the interrupted run was asked.
        """
        with OutputFolder(path, RUN, inputs=inputs, overwrite=True, resume=resume) as output:
            run = cls(Path(path), output=output)
            there = (run.path / CONFIG).is_file()
            if there and resume:
                run._require_same(config)
            elif resume:
                raise InputError(f"{path} holds no run to resume: omit --resume to start one")
            elif there and not overwrite:
                raise InputError(f"{path} holds a run: --resume goes on with it, --overwrite replaces it")
            else:
                output.set_aside()
                write_json(run.path / CONFIG, config)
            if not (run.path / PROVENANCE).is_file():
                Provenance.of_this_process().write(run.path)
            try:
                yield run
            except BaseException as error:
                if (run.path / CONFIG).is_file() and not isinstance(error, (InputError, OSError)):
                    error.add_note(
                        f"what was finished is kept in {path}; the same command with --resume goes on from there"
                    )
                raise

    def commit(self) -> None:
        """Let go of the run that this one replaces: its particles are in order."""
        if self.output is not None:
            self.output.commit()

    def rollback(self) -> None:
        """Remove a run that could not be started, and bring back the one that it was to replace."""
        if self.output is not None:
            self.output.rollback()

    def _require_same(self, config: dict[str, Any]) -> None:
        now = leaves(config)
        before = {key: value for key, value in ASSUMED.items() if key in now} | leaves(self.config())
        changed = sorted(key for key in {*before, *now} - {*HOW} if before.get(key) != now.get(key))
        if changed:
            key = changed[0]
            raise InputError(
                f"{self.path} was started with {key} = {before.get(key)!r} and is resumed with {now.get(key)!r}: "
                "give the same options, or --overwrite to start again"
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
        """What the run was asked, by the present names of options."""
        path = self.path / CONFIG
        found = read_json(path, again=PUT_BACK)
        if not isinstance(found.get("method"), str):
            raise InputError(f"{path} does not say 'method': {PUT_BACK}")
        return current_keys(found)

    def provenance(self) -> Provenance:
        """Where the run came from."""
        return Provenance.read(self.path)

    # particles

    @property
    def store_path(self) -> Path:
        """Where the run's particle store is, or will be: a folder, or a link to one."""
        return self.path / "particles"

    @property
    def symmetry(self) -> str:
        """Point group by which the run expands its particles; most runs take them as they are, `C1`."""
        return str(self.config().get("symmetry", "C1"))

    def manifest(self) -> Manifest:
        """What the run's particle store says of itself."""
        if self.store_path.is_symlink() and not self.store_path.exists():
            raise InputError(f"{self.store_path} points to {self.store_path.readlink()}, which is gone: put it back")
        return Manifest.read(self.store_path)

    @property
    def copies(self) -> int:
        """How many particles of the run each particle of its store is, by symmetry."""
        return copies_of(self.symmetry)

    @property
    def has_refined_poses(self) -> bool:
        """Whether the run found poses of its own."""
        if self.snapshot is not None and self.snapshot.pose is not None:
            return True
        return (self.path / REFINED).is_file()

    def given_store(self) -> ParticleStore:
        """The particle store of the run, expanded by its symmetry, with the poses that it was given."""
        from cryomorph.particles.store import ParticleStore
        from cryomorph.runs.image_noise import with_noise

        self.manifest()
        return with_noise(self.path, ParticleStore.open(self.store_path).expanded(self.symmetry))

    def store(self) -> ParticleStore:
        """The particle store of the run, with the noise, contrasts and refined poses that the run found."""
        from cryomorph.runs.corrections import with_contrast, with_refined

        store = with_contrast(self.path, self.given_store())
        if self.snapshot is not None and self.snapshot.pose is not None:
            return store.with_pose(self.snapshot.pose)
        return with_refined(self.path, store)

    def save_pose(self, pose: Pose) -> None:
        """Keep refined poses: every later reading of the run's particles uses them, and particles.star says them."""
        from cryomorph.runs.checkpoint import save_tensors

        save_tensors(self.path / REFINED, {"rotation": pose.rotation, "shift_A": pose.shift_A})

    # latent points

    def latent_mean(self) -> Float32[np.ndarray, "n q"]:
        """Posterior mean of the latent point of each particle of the store."""
        return read_latents(self.path / MEAN) if self.snapshot is None else self.snapshot.mean.numpy()

    def latent_std(self) -> Float32[np.ndarray, "n q"]:
        """Posterior standard deviation of each latent coordinate."""
        return read_latents(self.path / STD) if self.snapshot is None else self.snapshot.std.numpy()

    def latent(self) -> tuple[Float32[np.ndarray, "n q"], Float32[np.ndarray, "n q"]]:
        """Means and standard deviations of all particles; `InputError` where they are not one row for each of them."""
        if self.snapshot is not None:
            return self.latent_mean(), self.latent_std()
        n = self.manifest().n * self.copies
        mean = read_latents(self.path / MEAN, particles=n)
        return mean, read_latents(self.path / STD, particles=n, zdim=mean.shape[1])

    def latent_split(self) -> Float32[np.ndarray, "three n q"] | None:
        """Linear latent points by all, by the even, and by the odd coefficients of each image; None in old runs."""
        path = self.path / LATENT_SPLIT
        if not path.is_file():
            return None
        return read_array(path, (3, len(self.latent_mean()), None), kind="float", again=AGAIN)

    def save_latent(self, mean: Float32[Tensor, "n q"], std: Float32[Tensor, "n q"]) -> None:
        """Write the latent means and standard deviations."""
        write_latents(self.path, mean.numpy(), std.numpy())

    def save_array(self, name: str, array: np.ndarray) -> None:
        """Write a numpy array into the run."""
        with atomic_path(self.path / name) as part:
            np.save(part, array)

    # the model

    def save_model(self, representation: Representation, tensors: dict[str, Tensor], **facts: str) -> None:
        """Write the model, with what else belongs to it: the file whose presence says that the run is complete."""
        from cryomorph.models.registry import facts_of
        from cryomorph.runs.checkpoint import save_tensors

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
        from cryomorph.runs.checkpoint import load_tensors, require_finite

        if self.snapshot is not None:
            return self.snapshot.tensors, self.snapshot.facts
        tensors, facts = load_tensors(self.path / MODEL)
        return require_finite(tensors), facts

    def representation(self) -> Representation:
        """The trained representation."""
        from cryomorph.models.registry import representation_from

        tensors, facts = self._model()
        try:
            return representation_from(tensors, facts)
        except InputError as error:
            raise InputError(f"{self.path / MODEL}: {error}") from error
        except Exception as error:  # whatever a network raises whose parts do not fit
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise InputError(f"{self.path / MODEL}: {reason}: train again with --overwrite") from error

    # the consensus

    def save_consensus(
        self, result: Reconstruction, noise: Float32[Tensor, " shells"], *, corrected: bool = False
    ) -> None:
        """Write the consensus, of the given or the corrected poses: maps, FSC table and plot, and spectra."""
        folder = self.path / (CORRECTED if corrected else CONSENSUS)
        folder.mkdir(exist_ok=True)
        save_reconstruction(result, folder)
        Spectra(result.precision, noise).write(folder)

    @property
    def has_consensus(self) -> bool:
        """Whether the consensus of the given poses is there, whole."""
        return (self.path / CONSENSUS / SPECTRA).is_file()

    @property
    def has_corrected_consensus(self) -> bool:
        """Whether the consensus of the corrected poses is there, whole."""
        return (self.path / CORRECTED / SPECTRA).is_file()

    @property
    def consensus_path(self) -> Path:
        """Folder of the consensus: of the corrected poses, where the run corrected any."""
        return self.path / (CORRECTED if self.has_corrected_consensus else CONSENSUS)

    @property
    def _box(self) -> int | None:
        """The working box; None where the store is elsewhere."""
        return self.manifest().box if self.store_path.exists() else None

    def consensus_map(self, name: str = "map") -> Float32[Tensor, "z y x"]:
        """A map of the consensus: `map`, `half1`, `half2` or `mask`."""
        import torch

        from cryomorph.io.mrc import read_finite_map

        path = self.consensus_path / f"{name}.mrc"
        return torch.tensor(read_finite_map(path, self._box, again="train again with --overwrite"))

    def consensus_fsc(self) -> FscCurves:
        """The consensus's FSC curves."""
        return FscCurves.read(self.consensus_path / CURVES, shells=None if self._box is None else self._box // 2)

    def spectra(self) -> Spectra:
        """Precision and noise of the consensus by shell."""
        return Spectra.read(self.consensus_path, shells=None if self._box is None else self._box // 2 + 1)

    # logs

    def log(self, message: str) -> None:
        """Say a line and keep it in run.log."""
        if not self.quiet:
            say(message)
            self._keep(message)

    def warn(self, message: str) -> None:
        """Say a warning and keep it in run.log."""
        if not self.quiet:
            warn(message)
            self._keep(f"warning: {message}")

    def _keep(self, message: str) -> None:
        with (self.path / LOG).open("a", encoding="utf-8") as file:
            file.write(f"{datetime.now().isoformat(timespec='seconds')}  {message}\n")

    def metrics(self) -> list[dict[str, Any]]:
        """The rows of metrics.jsonl."""
        return read_metrics(self.path)

    def record(self, **values: float | int | str | list[float]) -> None:
        """Append one row to metrics.jsonl."""
        if not self.quiet:
            append_metrics(self.path, **values)


def checkpoints(run: Path, name: str = "") -> list[Path]:
    """The checkpoints of a training, the last one last; a run that trains more than once tells them apart by a name."""
    return sorted(run.glob(CHECKPOINTS.format(name=name)))


def leaves(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A config of nested parts as one level, keys joined by dots."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        found |= leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found
