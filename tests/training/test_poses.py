"""Given poses refined before a training: nearer to the truth, the same after a kill, in all that the run leaves."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from cryomorph.commands.train import train
from cryomorph.config.linear import LinearConfig
from cryomorph.config.neural_field import NetworkConfig, NeuralFieldConfig
from cryomorph.config.simulate import SimulateConfig
from cryomorph.config.training import TrainingConfig
from cryomorph.diagnostics.training_record import training_record
from cryomorph.io.star import read_star
from cryomorph.particles.metadata import read_particles, rewrite_poses
from cryomorph.particles.prepare import prepare
from cryomorph.particles.store import ParticleStore
from cryomorph.physics.pose import Pose
from cryomorph.runs.checkpoint import load_tensors
from cryomorph.runs.folder import RunFolder
from cryomorph.runs.snapshot import REFINED_FIRST, with_refined
from cryomorph.simulation.sets import simulate_set
from cryomorph.training.stages import finish
from cryomorph.training.stages import refine_poses as poses
from cryomorph.training.stages.refine_poses import refine_given_poses
from cryomorph.volumes.backproject import reconstruct

# what trains here is trained with the checks of shapes in training/test_shared_options.py
pytestmark = pytest.mark.unchecked

N = 400
PIXEL_A = 16.0
OFF_DEG, OFF_PX = 5.0, 0.5  # about each axis, along each direction
SMALL = NetworkConfig(width=48, layers=1, feature_share=2.0)
SHORT = TrainingConfig(
    epochs=2, precision="float32", device="cpu", held_out=0.1, checkpoint_minutes=0.0, refine_poses=True
)


@dataclass(frozen=True)
class Known:
    """A store whose poses are off, and the true ones."""

    store: ParticleStore
    rotation: np.ndarray
    shift_A: np.ndarray

    def errors(self, pose: Pose) -> tuple[float, float]:
        """Degrees and pixels in the median by which poses are off the truth."""
        turn = Rotation.from_matrix(pose.rotation.double().numpy()) * Rotation.from_matrix(self.rotation).inv()
        shift = np.linalg.norm(pose.shift_A.double().numpy() - self.shift_A, axis=1) / PIXEL_A
        return float(np.degrees(np.median(turn.magnitude()))), float(np.median(shift))


def known_of(name: str, folder: Path, *, off: float = 1.0) -> Known:
    """A simulated set of little noise whose particle file has poses off by `off` times `OFF_DEG` and `OFF_PX`."""
    made = simulate_set(SimulateConfig(name, folder / "set", n=N, box=16, pixel_A=PIXEL_A, snr=2.0, seed=3))
    truth = np.load(made / "truth.npz")
    rotation, shift_A = truth["R"].astype(float), -truth["shift"].astype(float)
    drawn = off * np.random.default_rng(0).normal(size=(N, 5)) * ([np.radians(OFF_DEG)] * 3 + [OFF_PX * PIXEL_A] * 2)
    turned = Rotation.from_rotvec(drawn[:, :3]).as_matrix() @ rotation
    given = Pose(torch.from_numpy(turned), torch.from_numpy(shift_A + drawn[:, 3:]))
    rewrite_poses(made / "particles.star", made / "given.star", given, pixel_A=PIXEL_A)
    prepare(read_particles(made / "given.star"), folder / "store")
    return Known(ParticleStore.open(folder / "store"), rotation, shift_A)


@pytest.fixture(scope="module")
def known(tmp_path_factory) -> Known:
    """Three nested complexes at wrong poses."""
    return known_of("compositional", tmp_path_factory.mktemp("known"))


def run_stage(store: ParticleStore, path: Path, *, zdim: int = 6) -> RunFolder:
    """The stage alone, in a run folder that may hold some of it already."""
    path.mkdir(exist_ok=True)
    run = RunFolder(path)
    refine_given_poses(run, store, config=LinearConfig(store.folder, path, zdim=zdim, seed=1))
    return run


def kept(run: RunFolder) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    return load_tensors(run.path / REFINED_FIRST)


@pytest.fixture(scope="module")
def refined(known, tmp_path_factory) -> RunFolder:
    """The stage on `known`, uninterrupted."""
    return run_stage(known.store, tmp_path_factory.mktemp("stage") / "run")


class Killed(Exception):
    """The power went."""


def killed_at(call: int, function):
    """The function, which raises `Killed` the `call`-th time, and how often it was called so far."""
    calls: list[int] = []

    def failing(*args, **kwargs):
        calls.append(len(calls) + 1)
        if calls[-1] == call:
            raise Killed
        return function(*args, **kwargs)

    return failing, calls


def test_poses_move_towards_the_truth(known, refined):
    given = known.errors(known.store.require_pose())
    assert given[0] == pytest.approx(1.54 * OFF_DEG, rel=0.1)  # the median length of normal vectors
    assert given[1] == pytest.approx(1.18 * OFF_PX, rel=0.1)
    found = known.errors(with_refined(refined.path, known.store).require_pose())
    assert found[0] < 0.7 * given[0]
    assert found[1] < 0.4 * given[1]


def test_the_store_that_was_given_keeps_its_poses(known, refined):
    fresh = ParticleStore.open(known.store.folder).require_pose()
    assert torch.equal(known.store.require_pose().rotation, fresh.rotation)
    moved = with_refined(refined.path, known.store)
    assert torch.equal(known.store.require_pose().shift_A, fresh.shift_A)
    assert not torch.equal(moved.require_pose().shift_A, fresh.shift_A)
    assert moved.folder == known.store.folder and len(moved) == N


def test_every_round_is_kept_and_told(refined):
    tensors, facts = kept(refined)
    assert facts["round"] == "3"
    assert tensors["offset"].shape == (N, 5) and tensors["maps"].shape == (2, 7, 16, 16, 16)
    rows = [json.loads(line) for line in (refined.path / "metrics.jsonl").read_text().splitlines()]
    assert [(row["stage"], row["round"]) for row in rows] == [("poses", number) for number in (1, 2, 3)]
    for row in rows:
        assert row["rotation_deg_prior"] == pytest.approx(OFF_DEG, rel=0.3)
        assert row["shift_pixel_prior"] == pytest.approx(OFF_PX, rel=0.3)
    log = (refined.path / "run.log").read_text()
    assert all(f"poses, round {number} of 3: estimated errors " in log for number in (1, 2, 3))
    found = tensors["offset"]
    assert rows[-1]["shift_pixel_median"] == pytest.approx(float(found[:, 3:].norm(dim=1).median()), rel=1e-5)


@pytest.mark.parametrize("call", [2, 3])
def test_a_stage_killed_after_a_round_goes_on_to_the_same_numbers(known, refined, tmp_path, monkeypatch, call):
    failing, _ = killed_at(call, poses.fit_halves)
    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(poses, "fit_halves", failing)
        run_stage(known.store, tmp_path / "run")
    assert kept(RunFolder(tmp_path / "run"))[1]["round"] == str(call - 1)
    counted, calls = killed_at(0, poses.fit_halves)
    monkeypatch.setattr(poses, "fit_halves", counted)
    found, expected = kept(run_stage(known.store, tmp_path / "run"))[0], kept(refined)[0]
    assert len(calls) == 4 - call
    assert torch.equal(found["offset"], expected["offset"])
    assert torch.equal(found["maps"], expected["maps"])


def test_a_stage_that_is_done_is_not_repeated(known, refined, monkeypatch):
    monkeypatch.setattr(poses, "fit_halves", killed_at(1, poses.fit_halves)[0])
    before = kept(refined)[0]["offset"]
    run_stage(known.store, refined.path)
    assert torch.equal(kept(refined)[0]["offset"], before)


def test_true_poses_stay_where_they_are(tmp_path):
    """To within what the file's angles and these few images' maps say: a fiftieth of the errors above."""
    right = known_of("compositional", tmp_path, off=0.0)
    run = run_stage(right.store, tmp_path / "run")
    turn, shift = right.errors(with_refined(run.path, right.store).require_pose())
    assert turn < 0.3
    assert shift < 0.03


def test_a_rigid_molecule_needs_no_components(tmp_path):
    rigid = known_of("rigid", tmp_path)
    run = run_stage(rigid.store, tmp_path / "run", zdim=0)
    assert kept(run)[0]["maps"].shape == (2, 1, 16, 16, 16)
    given = rigid.errors(rigid.store.require_pose())
    found = rigid.errors(with_refined(run.path, rigid.store).require_pose())
    assert found[0] < 0.6 * given[0]
    assert found[1] < 0.3 * given[1]


@pytest.fixture(scope="module")
def config(known) -> NeuralFieldConfig:
    """The shortest training of the default recipe with poses refined; the output is to be replaced."""
    return NeuralFieldConfig(
        known.store.folder, Path("nowhere"), zdim=2, network=SMALL, training=SHORT, warm_steps=100, seed=1
    )


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory) -> RunFolder:
    """The training of `config`, uninterrupted."""
    return train(replace(config, output=tmp_path_factory.mktemp("whole") / "run"))


def test_a_training_ends_with_poses_nearer_to_the_truth(known, whole):
    given = known.errors(known.store.require_pose())
    found = known.errors(whole.store().require_pose())
    assert found[0] < 0.7 * given[0]
    assert found[1] < 0.4 * given[1]
    assert kept(whole)[0]["maps"].shape[1] == 1 + poses.COMPONENTS  # more than the latent space has


def test_all_that_follows_the_stage_is_at_the_refined_poses(whole):
    refined, given = (reconstruct(store).map for store in (whole.store(), ParticleStore.open(whole.store_path)))
    found = whole.consensus_map()
    torch.testing.assert_close(found, refined, rtol=1e-4, atol=1e-5 * float(refined.abs().max()))
    assert float((found - given).abs().max()) > 0.05 * float(refined.abs().max())


def test_the_run_s_particle_file_has_the_refined_poses(known, whole):
    """Read by RELION's own definition: angles turn the axes, `Rz(psi) Ry(tilt) Rz(rot)`."""
    table = read_star(whole.path / known.store.manifest.metadata)["particles"]
    angles = table[["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]].to_numpy(float)
    rotation = Rotation.from_euler("ZYZ", angles, degrees=True).inv().as_matrix()
    shift_A = table[["rlnOriginXAngst", "rlnOriginYAngst"]].to_numpy(float)
    pose = whole.store().require_pose()
    np.testing.assert_allclose(rotation, pose.rotation.numpy(), atol=1e-4)
    np.testing.assert_allclose(shift_A, pose.shift_A.numpy(), atol=1e-3)
    before = read_star(known.store.folder / known.store.manifest.metadata)["particles"]
    assert list(table.columns) == list(before.columns)
    assert list(table["rlnImageName"]) == list(before["rlnImageName"])


def test_the_report_s_record_has_the_rounds(whole):
    record = training_record(whole.metrics())
    assert record is not None
    assert [row["round"] for row in record.poses] == [1, 2, 3]


def test_a_training_killed_while_poses_are_refined_and_again_at_its_end_ends_the_same(
    config, whole, tmp_path, monkeypatch
):
    """The second time the refined poses are written already: they must not be added once more."""
    asked = replace(config, output=tmp_path / "run")
    for module, name in ((poses, "fit_halves"), (finish, "measure_trained")):
        call = 2 if name == "fit_halves" else 1
        with monkeypatch.context() as patched, pytest.raises(Killed):
            patched.setattr(module, name, killed_at(call, getattr(module, name))[0])
            train(asked)
        asked = replace(asked, resume=True)
    assert not RunFolder(asked.output).is_complete
    run = train(asked)
    found, expected = run.store().require_pose(), whole.store().require_pose()
    assert torch.equal(found.rotation, expected.rotation)
    assert torch.equal(found.shift_A, expected.shift_A)
    np.testing.assert_array_equal(run.latent_mean(), whole.latent_mean())


def test_without_being_asked_poses_stay_as_they_were_given(config, known, tmp_path):
    training = replace(SHORT, refine_poses=False, epochs=1)
    run = train(replace(config, output=tmp_path / "run", training=training, warm_steps=20))
    assert torch.equal(run.store().require_pose().rotation, known.store.require_pose().rotation)
    assert not (run.path / REFINED_FIRST).exists()
