"""Ab initio where particles move: what the half sets' subspaces are made of, rounds, latent points, interruptions."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from cryomorph.abinit import find_poses as abinit
from cryomorph.abinit import random_starts
from cryomorph.abinit import rounds as abinit_rounds
from cryomorph.abinit.find_poses import find_poses
from cryomorph.abinit.half_sets import PosedHalfSets, reconstruct_halves
from cryomorph.abinit.initial_model import InitialModelPlan
from cryomorph.abinit.random_starts import STARTS, RandomStarts
from cryomorph.abinit.rounds import ROUNDS_FILE, latents_stage, references, rounds_stage
from cryomorph.config.abinit import AbinitConfig
from cryomorph.config.linear import LinearConfig
from cryomorph.io.mrc import read_map
from cryomorph.latents.linear_fit import LinearFit
from cryomorph.particles.store import ParticleStore
from cryomorph.physics.pose import Pose, random_rotations
from cryomorph.physics.pose_align import compare_poses
from cryomorph.poses import search as pose_search
from cryomorph.poses.posterior import MarginalLatents
from cryomorph.runs.checkpoint import load_tensors, save_tensors
from cryomorph.training.consensus import reconstruct_consensus
from cryomorph.training.stages.linear import fit_subspace
from cryomorph.training.start import start_run
from cryomorph.volumes.grid import rebox

N, BOX, PIXEL_A = 400, 16, 16.0
SUBSET = torch.arange(0, N, 2)


@pytest.fixture(autouse=True, scope="module")
def quick():
    """Few iterations, few candidates, one search of all particles."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            random_starts,
            "InitialModelPlan",
            partial(InitialModelPlan, first_radius=3, iterations=10, batch=100, level=0),
        )
        for stage in (abinit, abinit_rounds):
            patch.setattr(stage, "LinearConfig", partial(LinearConfig, iterations=1, final_iterations=1))
        for name, value in {"LATENT_SEARCHES": 0, "LATENT_BEAMS": 24, "MARGINAL_BEAMS": 8}.items():
            patch.setattr(abinit_rounds, name, value)
        patch.setattr(pose_search, "MAX_BANK", 1 << 21)
        yield


@pytest.fixture
def config(tiny_set, tmp_path) -> AbinitConfig:
    """Of the hinge protein, one component."""
    return AbinitConfig(
        tiny_set / "particles.star",
        tmp_path / "run",
        zdim=1,
        starts=1,
        start_images=200,
        start_radius=5,
        search_radius=7,
        search_rounds=1,
        polish_rounds=1,
        seed=1,
        device="cpu",
    )


@pytest.fixture(scope="module")
def store(tiny_store) -> ParticleStore:
    return tiny_store.unposed()


@pytest.fixture(scope="module")
def true(tiny_store) -> Pose:
    return tiny_store.require_pose()


@pytest.fixture(scope="module")
def found(store, true) -> PosedHalfSets:
    """The true poses of half of the particles."""
    return reconstruct_halves(store, true, SUBSET, radius=BOX // 2)


@pytest.fixture(scope="module")
def motion(tiny_set, found) -> torch.Tensor:
    """The true mean and the first principal component of the true maps, in the scale of the images."""
    paths = sorted((tiny_set / "maps").glob("*.mrc"))
    maps = np.stack([np.array(read_map(path)[0], dtype=np.float64).ravel() for path in paths])
    mean = maps.mean(0)
    _, _, axes = np.linalg.svd(maps - mean, full_matrices=False)
    both = np.stack([mean, axes[0] * ((maps - mean) @ axes[0]).std()])
    scale = found.result.map.flatten().double().numpy() @ mean / (mean @ mean)
    return torch.from_numpy(scale * both).float().reshape(2, BOX, BOX, BOX)


def alike(map: torch.Tensor, other: torch.Tensor) -> float:
    return float(torch.corrcoef(torch.stack([map.flatten(), other.flatten()]))[0, 1])


def test_without_components_they_are_half_maps_times_what_the_other_half_confirms(store, found, config):
    made = references(store, found, replace(config, zdim=0))
    assert made.shape == (2, 1, BOX, BOX, BOX)
    assert torch.equal(made[:, 0], found.references())


@pytest.mark.parametrize("half", [0, 1])
def test_the_subspace_of_a_half_set_is_fitted_to_its_own_particles_of_the_subset_alone(store, found, config, half):
    """Whatever the poses of all others are."""
    own = torch.zeros(N, dtype=torch.bool)
    own[SUBSET] = store.half[SUBSET] == half
    rotation = torch.where(
        own[:, None, None], found.pose.rotation, random_rotations(N, torch.Generator().manual_seed(0))
    )
    made = references(store, found, config)
    other = references(store, replace(found, pose=replace(found.pose, rotation=rotation)), config)
    assert made.shape == (2, 2, BOX, BOX, BOX)
    assert torch.equal(other[half], made[half])
    assert alike(other[1 - half, 0], made[1 - half, 0]) < 0.98


@pytest.mark.parametrize("radius", [BOX // 2, 7])
def test_the_half_sets_subspaces_hold_the_motion(store, true, motion, config, radius):
    """Also where the maps of the round before reach less far than the box."""
    made = references(store, reconstruct_halves(store, true, SUBSET, radius=radius), config)
    for maps in rebox(made, BOX):
        assert alike(maps[0], motion[0]) > 0.95
        assert abs(alike(maps[1], motion[1])) > 0.75


def test_rounds_against_a_subspace_bring_moving_particles_nearer_the_truth(store, true, motion, found, config):
    """From the same mean; each in the frame of its own map."""
    turned = []
    for zdim in (0, 1):
        asked = replace(config, zdim=zdim, output=config.output / str(zdim))
        starts = RandomStarts(rebox(motion[: 1 + zdim], 10)[None], found.noise[None, :6], torch.ones(1))
        with start_run(asked, "abinit") as run:
            last = rounds_stage(run, store, starts, config=asked, device=torch.device("cpu"))
        assert torch.equal(last.subset, torch.arange(N))
        turned.append(float(compare_poses(last.pose, true).errors.rotation_deg.median()))
    assert turned[1] < 0.8 * turned[0]


@pytest.fixture(scope="module")
def fit(tiny_set, tiny_store, tmp_path_factory, quick) -> LinearFit:
    """One component of all particles at their true poses."""
    asked = LinearConfig(tiny_set / "particles.star", tmp_path_factory.mktemp("fit") / "run", zdim=1, iterations=1)
    with start_run(asked, "linear") as run:
        return fit_subspace(run, tiny_store, reconstruct_consensus(run, tiny_store), config=asked)


def latents_of(fit: LinearFit, store: ParticleStore, true: Pose, config: AbinitConfig) -> MarginalLatents:
    everything = reconstruct_halves(store, true, torch.arange(N), radius=BOX // 2)
    with start_run(config, "abinit") as run:
        return latents_stage(run, store, fit, found=everything, config=config, device=torch.device("cpu"))


def test_latent_points_over_all_poses_are_those_of_the_fit_at_the_true_ones(fit, store, true, config, monkeypatch):
    """Of the images that say most of them; in the same units."""
    monkeypatch.setattr(abinit_rounds, "MARGINAL_BEAMS", 64)
    found = latents_of(fit, store, true, config)
    assert found.mean.shape == found.std.shape == (N, 1) and found.certain.shape == (N,)
    sure = found.std[:, 0].argsort()[: N * 2 // 5]
    own, given = found.mean[sure, 0].numpy(), fit.latent_mean[sure, 0].numpy()
    assert np.corrcoef(own, given)[0, 1] > 0.88
    assert np.polyfit(given, own, 1)[0] == pytest.approx(1, abs=0.15)
    # poses that are not known leave more open
    assert float(found.std.median()) > float(fit.latent_std.median())


def test_a_component_in_other_units_has_latent_points_in_those(fit, store, true, config):
    """A third of the component goes with three times the coordinate, and with the same probabilities."""
    third = torch.cat([fit.maps[:1], fit.maps[1:] / 3])
    other = replace(fit, maps=third, latent_mean=3 * fit.latent_mean, latent_std=3 * fit.latent_std)
    one = latents_of(fit, store, true, replace(config, output=config.output / "one"))
    same = latents_of(other, store, true, replace(config, output=config.output / "other"))
    torch.testing.assert_close(same.mean, 3 * one.mean, atol=0.01, rtol=0)
    torch.testing.assert_close(same.std, 3 * one.std, atol=0.01, rtol=0)
    torch.testing.assert_close(same.certain, one.certain, atol=0.01, rtol=0)


@pytest.mark.slow
def test_killed_and_resumed_ends_the_same(config, monkeypatch):
    """After the start, after the search and after the refinement."""
    monkeypatch.setattr(abinit_rounds, "LATENT_BEAMS", 8)

    def save_and_stop(path: Path, tensors: dict, **facts: str) -> None:
        save_tensors(path, tensors, **facts)
        raise KeyboardInterrupt

    def killed(asked: AbinitConfig) -> None:
        with pytest.MonkeyPatch.context() as patch:
            for stage in (random_starts, abinit_rounds):
                patch.setattr(stage, "save_tensors", save_and_stop)
            with pytest.raises(KeyboardInterrupt):
                find_poses(asked)

    whole = find_poses(config)
    asked = replace(config, output=config.output.with_name("again"))
    killed(asked)
    assert load_tensors(asked.output / STARTS)[0]["maps"].shape == (1, 2, 10, 10, 10)
    killed(replace(asked, resume=True))
    killed(replace(asked, resume=True))
    assert load_tensors(asked.output / ROUNDS_FILE)[0]["steps"].shape == (2, 4)
    run = find_poses(replace(asked, resume=True))
    pose, expected = (each.store().require_pose() for each in (run, whole))
    assert torch.equal(pose.rotation, expected.rotation) and torch.equal(pose.shift_A, expected.shift_A)
    assert torch.equal(torch.as_tensor(run.latent_mean()), torch.as_tensor(whole.latent_mean()))
    for name, tensor in whole.model_tensors().items():
        assert torch.equal(run.model_tensors()[name], tensor), name
