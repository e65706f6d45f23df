"""Given poses corrected by the linear stage: nearer to the truth, the same after a kill, in all that the run leaves."""

from __future__ import annotations

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
from cryomorph.io.star import read_star
from cryomorph.particles.metadata import read_particles, rewrite_poses
from cryomorph.particles.prepare import prepare
from cryomorph.particles.store import ParticleStore
from cryomorph.physics.pose import Pose
from cryomorph.runs.corrections import with_corrected
from cryomorph.runs.folder import RunFolder
from cryomorph.simulation.sets import simulate_set
from cryomorph.training.stages import finish
from cryomorph.training.stages import linear as stage
from cryomorph.volumes.backproject import reconstruct

# what trains here is trained with the checks of shapes in training/test_shared_options.py
pytestmark = pytest.mark.unchecked

N = 400
PIXEL_A = 16.0
OFF_DEG, OFF_PX = 5.0, 0.5  # about each axis, along each direction
SMALL = NetworkConfig(width=48, layers=1, feature_share=2.0)
SHORT = TrainingConfig(epochs=2, precision="float32", device="cpu", held_out=0.1, checkpoint_minutes=0.0)


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


@pytest.fixture(scope="module")
def linear(known, tmp_path_factory) -> RunFolder:
    """A linear run of `known`."""
    return train(LinearConfig(known.store.folder, tmp_path_factory.mktemp("linear") / "run", zdim=3, seed=1))


def test_poses_move_towards_the_truth(known, linear):
    given = known.errors(known.store.require_pose())
    assert given[0] == pytest.approx(1.54 * OFF_DEG, rel=0.1)  # the median length of normal vectors
    assert given[1] == pytest.approx(1.18 * OFF_PX, rel=0.1)
    found = known.errors(linear.store().require_pose())
    assert found[0] < 0.8 * given[0]
    assert found[1] < 0.4 * given[1]


def test_true_poses_stay_where_they_are(tmp_path):
    """To within a tenth of the errors above, of what a few hundred images of box 16 can say."""
    right = known_of("compositional", tmp_path, off=0.0)
    run = train(LinearConfig(right.store.folder, tmp_path / "run", zdim=3, seed=1))
    turn, shift = right.errors(run.store().require_pose())
    assert turn < 0.1 * 1.54 * OFF_DEG
    assert shift < 0.1 * 1.18 * OFF_PX


@pytest.fixture(scope="module")
def config(known) -> NeuralFieldConfig:
    """The shortest training of the default recipe; the output is to be replaced."""
    common = {"zdim": 2, "network": SMALL, "training": SHORT, "warm_steps": 100, "seed": 1}
    return NeuralFieldConfig(known.store.folder, Path("nowhere"), **common)


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory) -> RunFolder:
    """The training of `config`, uninterrupted."""
    return train(replace(config, output=tmp_path_factory.mktemp("whole") / "run"))


def test_a_training_ends_with_poses_nearer_to_the_truth(known, whole):
    given = known.errors(known.store.require_pose())
    found = known.errors(whole.store().require_pose())
    assert found[0] < 0.8 * given[0]
    assert found[1] < 0.4 * given[1]


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


def test_a_training_killed_in_its_linear_stage_and_again_at_its_end_ends_the_same(config, whole, tmp_path, monkeypatch):
    """The second time the corrected poses are written already: they must not be added once more."""
    asked = replace(config, output=tmp_path / "run")
    for module, name in ((stage, "merge_and_finish"), (stage, "correct_consensus"), (finish, "measure_trained")):
        with monkeypatch.context() as patched, pytest.raises(Killed):
            patched.setattr(module, name, killed_at(1, getattr(module, name))[0])
            train(asked)
        asked = replace(asked, resume=True)
    assert not RunFolder(asked.output).is_complete
    run = train(asked)
    found, expected = run.store().require_pose(), whole.store().require_pose()
    assert torch.equal(found.rotation, expected.rotation)
    assert torch.equal(found.shift_A, expected.shift_A)
    np.testing.assert_array_equal(run.latent_mean(), whole.latent_mean())


def test_given_poses_stay_as_they_are_where_that_is_asked(config, known, tmp_path):
    training = replace(SHORT, epochs=1)
    run = train(replace(config, output=tmp_path / "run", training=training, warm_steps=20, fix_poses=True))
    assert torch.equal(run.store().require_pose().rotation, known.store.require_pose().rotation)
    assert not run.has_refined_poses


def test_an_unfinished_training_is_read_at_the_corrected_poses(config, whole, tmp_path, monkeypatch):
    asked = replace(config, output=tmp_path / "run")
    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(finish, "measure_trained", killed_at(1, finish.measure_trained)[0])
        train(asked)
    snapshot = RunFolder.open(asked.output, unfinished=True)
    corrected = with_corrected(asked.output, snapshot.given_store()).require_pose()
    assert torch.equal(snapshot.store().require_pose().shift_A, corrected.shift_A)
    assert torch.equal(snapshot.store().require_pose().shift_A, whole.store().require_pose().shift_A)
