"""Ab initio by networks: schedule, maps that poses are searched against, poses found, runs interrupted and refused."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from scipy.stats import kstest

from cryomorph.abinit import network_search as abinit_paper
from cryomorph.abinit.find_poses import find_poses
from cryomorph.abinit.network_search import (
    PoseSearch,
    final_config,
    first_search,
    pose_of,
    search_config,
    search_plan,
    spanning_maps,
)
from cryomorph.cli import parse as cli
from cryomorph.compute.batch_threads import BatchThreads
from cryomorph.compute.distributed import Parallel
from cryomorph.config.abinit import AbinitConfig, PaperConfig
from cryomorph.config.errors import InputError
from cryomorph.config.simulate import SimulateConfig
from cryomorph.config.training import TrainingConfig
from cryomorph.encoders.base import Encoder, Posterior
from cryomorph.encoders.poses import PoseTable
from cryomorph.encoders.table import TableEncoder
from cryomorph.io.mrc import read_map
from cryomorph.io.star import read_star
from cryomorph.models.heterogeneous import Heterogeneous
from cryomorph.particles.metadata import read_particles
from cryomorph.particles.prepare import prepare
from cryomorph.particles.store import ParticleStore
from cryomorph.physics.pose import Pose, random_rotations, rotation_distance_deg
from cryomorph.poses.search import FoundPoses, Level, SearchPlan
from cryomorph.report.abinit import write_abinit_report
from cryomorph.representations.linear import LinearSubspace
from cryomorph.representations.neural_field import NeuralField
from cryomorph.runs.checkpoint import load_tensors
from cryomorph.runs.folder import RunFolder
from cryomorph.simulation.sets import simulate_set
from cryomorph.training import loop
from cryomorph.training.trainer import Trainer

N, BOX, PIXEL_A = 400, 32, 7.0
ASKED = AbinitConfig(
    Path("some.star"), Path("nowhere"), recipe="paper", search_radius=8, shift_range=0.04, seed=1, device="cpu"
)
SMALL = PaperConfig(
    random_images=400,
    searches=2,
    width=32,
    layers=2,
    batch_size=10,
    learning_rate=1e-3,
    final_epochs=1,
    final_width=24,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A rigid phantom: images of little noise in box 32, off centre by up to a pixel."""
    target = tmp_path_factory.mktemp("rigid") / "set"
    return simulate_set(SimulateConfig("rigid", target, n=N, box=BOX, pixel_A=PIXEL_A, snr=2.0, shift=1.0, seed=3))


@pytest.fixture(scope="module")
def true(folder) -> Pose:
    pose = read_particles(folder / "particles.star").pose
    assert pose is not None
    return pose


@pytest.fixture(scope="module")
def molecule(folder) -> torch.Tensor:
    """The true map."""
    return torch.from_numpy(np.array(read_map(folder / "maps" / "000.mrc")[0])).float()


@pytest.fixture(scope="module")
def store(folder, tmp_path_factory) -> ParticleStore:
    """The phantom's particles as if nothing were known of their poses."""
    return prepare(read_particles(folder / "particles.star"), tmp_path_factory.mktemp("store") / "store").unposed()


@pytest.fixture
def run(tmp_path) -> RunFolder:
    return RunFolder(tmp_path)


@pytest.fixture
def blocks_of_100(monkeypatch):
    """Ten steps of ten images are searched at once: an epoch of four blocks."""
    monkeypatch.setattr(abinit_paper, "REFRESH", 100)


# Schedule


@pytest.mark.parametrize(("images", "particles", "first"), [(0, 400, 0), (1, 400, 1), (400, 400, 1), (401, 400, 2)])
def test_poses_are_searched_from_the_first_epoch_that_begins_after_the_random_images(images, particles, first):
    assert first_search(PaperConfig(random_images=images), particles) == first


@pytest.mark.parametrize(
    ("particles", "paper", "epochs"),
    [
        # the paper's: 10,000 images at random poses, then four searches of each of 50,000
        (50_000, PaperConfig(), 1 + 4),
        (100_000, PaperConfig(), 1 + 4),
        # as many images where there are fewer particles
        (5_000, PaperConfig(), 2 + 40),
        (30_000, PaperConfig(), 1 + 7),
        (5_000, PaperConfig(searches=3), 2 + 3),
        (5_000, PaperConfig(searches=3, random_images=0), 3),
        # two epochs between searches stay at the poses found; the last one is a search
        (5_000, PaperConfig(searches=3, search_every=3), 2 + 7),
        (5_000, PaperConfig(searches=1, search_every=5), 2 + 1),
    ],
)
def test_the_search_takes_as_many_epochs_as_its_schedule_says(particles, paper, epochs):
    assert search_config(replace(ASKED, paper=paper), particles).training.epochs == epochs


@pytest.mark.parametrize(("zdim", "batch", "last", "wide"), [(0, 10, 15, 500), (2, 5, 10, 128)])
def test_networks_and_training_are_the_paper_s(zdim, batch, last, wide):
    asked = replace(ASKED, zdim=zdim, seed=7)
    searching, final = search_config(asked, 50_000), final_config(asked)
    assert (searching.network.width, searching.network.layers) == (128, 10)
    assert (final.network.width, final.network.layers) == (wide, 10)
    assert final.training.epochs == last
    # every particle is searched; at the end poses stay
    assert searching.training.held_out == 0 and searching.training.refine_poses and not final.training.refine_poses
    for each in (searching, final):
        assert (each.training.batch_size, each.training.learning_rate, each.training.optimiser) == (batch, 1e-4, "adam")
        assert (each.zdim, each.seed, each.network.network, each.network.encoder) == (zdim, 7, "plain", "mlp")
        assert each.training.device == "cpu"


def test_what_is_asked_of_networks_and_training_is_done():
    paper = PaperConfig(
        width=24, layers=3, batch_size=7, learning_rate=3e-4, final_epochs=2, final_width=40, searches=1
    )
    for zdim, width in ((0, 40), (1, 24)):
        asked = replace(ASKED, zdim=zdim, paper=paper)
        searching, final = search_config(asked, 400), final_config(asked)
        assert (searching.network.width, final.network.width, final.training.epochs) == (24, width, 2)
        for each in (searching, final):
            assert (each.network.layers, each.training.batch_size, each.training.learning_rate) == (3, 7, 3e-4)


@pytest.mark.parametrize(("asked", "band"), [(4, 4), (8, 8), (15, 15), (20, 15)])
def test_the_search_is_limited_by_what_was_asked_and_by_the_box(store, asked, band):
    plan = search_plan(store, replace(ASKED, search_radius=asked, shift_range=0.1))
    assert plan.levels[-1].radius == band
    assert plan.shift_pixel == pytest.approx(0.1 * BOX)


# Maps that poses are searched against


def subspace(zdim: int) -> LinearSubspace:
    """Maps of noise in box 16."""
    return LinearSubspace(torch.randn(zdim + 1, 16, 16, 16, generator=torch.Generator().manual_seed(zdim)))


def model_of(store: ParticleStore, representation: LinearSubspace, encoder: Encoder | None) -> Heterogeneous:
    zdim, size = representation.zdim, store.disk.size
    poses = PoseTable(len(store))
    return Heterogeneous(representation, encoder, prior_std=torch.ones(zdim), whitening=torch.ones(size), poses=poses)


def drawn(model: Heterogeneous, store: ParticleStore, index: torch.Tensor, *, seed: int = 0) -> np.ndarray:
    maps = spanning_maps(model, store, index, box=16, generator=torch.Generator().manual_seed(seed))
    return maps.double().flatten(1).numpy()


@pytest.mark.parametrize("zdim", [1, 2, 4])
def test_mean_and_components_are_the_particles_again(tiny_store, zdim):
    """The mean of `sum_k z_k component_k`, `z ~ N(0, I)`, and its covariance: those of the maps, by numpy."""
    maps, index = subspace(zdim), torch.arange(7, 307, 10)
    z = 2 * torch.randn(len(tiny_store), zdim, generator=torch.Generator().manual_seed(9)) + 3
    found = drawn(model_of(tiny_store, maps, TableEncoder(z, torch.full_like(z, 1e-6))), tiny_store, index)
    basis = maps.maps.double().flatten(1).numpy()
    every = basis[0] + z[index].double().numpy() @ basis[1:]
    np.testing.assert_allclose(found[0], every.mean(0), atol=1e-4)
    assert found.shape == (zdim + 1, 16**3)
    part = slice(None, None, 8)
    np.testing.assert_allclose(found[1:, part].T @ found[1:, part], np.cov(every[:, part].T, bias=True), atol=2e-3)


def test_of_many_components_the_four_strongest_are_kept(tiny_store):
    """Those of the eigenvalue decomposition of the maps' inner products."""
    maps, index = subspace(6), torch.arange(20)
    z = torch.randn(len(tiny_store), 6, generator=torch.Generator().manual_seed(1)) * torch.arange(1.0, 7)
    found = drawn(model_of(tiny_store, maps, TableEncoder(z, torch.full_like(z, 1e-6))), tiny_store, index)
    every = z[index].double().numpy() @ maps.maps[1:].double().flatten(1).numpy()
    every -= every.mean(0)
    strength, place = np.linalg.eigh(every @ every.T / len(every))
    assert found.shape[0] == 1 + 4
    np.testing.assert_allclose((found[1:] ** 2).sum(1), strength[:-5:-1], rtol=1e-3)
    strongest = place[:, -4:].T @ every
    inside = np.linalg.lstsq(strongest.T, found[1:].T, rcond=None)[0].T @ strongest
    np.testing.assert_allclose(inside, found[1:], atol=1e-3)


def test_uncertain_particles_are_drawn_from_what_they_may_be(tiny_store, monkeypatch):
    """All at the origin but for their spread, which is the covariance of what is drawn; anew with each generator."""
    monkeypatch.setattr(abinit_paper, "STATES", len(tiny_store))
    maps, spread = subspace(2), torch.tensor([2.0, 0.5])
    model = model_of(tiny_store, maps, TableEncoder(torch.zeros(len(tiny_store), 2), spread.expand(400, 2)))
    every = torch.arange(len(tiny_store))
    found = drawn(model, tiny_store, every)
    length = (maps.maps[1:].double().flatten(1).norm(dim=1) * spread).numpy()
    np.testing.assert_allclose(np.linalg.norm(found[1:], axis=1), length, rtol=0.15)
    np.testing.assert_array_equal(found, drawn(model, tiny_store, every))
    assert np.abs(found - drawn(model, tiny_store, every, seed=1)).max() > 0.01


def test_only_a_few_of_the_particles_asked_for_are_decoded(tiny_store, monkeypatch):
    monkeypatch.setattr(abinit_paper, "STATES", 5)
    z = torch.arange(400.0)[:, None]
    model = model_of(tiny_store, subspace(1), TableEncoder(z, torch.full_like(z, 1e-6)))
    index, decoded = torch.arange(100, 150), []
    whole = LinearSubspace.volumes

    def volumes(self, z, box):
        decoded.extend(z[:, 0].round().int().tolist())
        return whole(self, z, box)

    monkeypatch.setattr(LinearSubspace, "volumes", volumes)
    for seed in range(20):
        drawn(model, tiny_store, index, seed=seed)
    assert len(decoded) == 100 and set(decoded) <= set(index.tolist())
    # any of them may be, in every call others
    assert len(set(decoded)) > 30


class Centred(Encoder):
    """Says of each particle how its image looks: its first coefficients, as the encoder sees them."""

    zdim = 2

    def forward(self, batch) -> Posterior:
        seen = torch.view_as_real(batch.image[:, 5])
        return Posterior(seen, torch.full_like(seen, -30.0))


def test_encoders_see_particles_as_in_the_training(tiny_store):
    """Whitened and centred by the poses found so far, which are not the store's."""
    lying, maps = tiny_store.unposed(), subspace(2)
    model = model_of(lying, maps, Centred())
    shift = torch.randn(400, 2, generator=torch.Generator().manual_seed(4))
    model.poses.offset[:, 3:] = shift
    model.whitening *= 3
    index = torch.arange(30)
    k = lying.disk.frequency[5].double().numpy() / lying.box
    level = lying.require_noise().whitening(index, lying.disk.shell)[:, 5].numpy()
    seen = 3 * level * lying.coefficients(index)[:, 5].numpy() * np.exp(-2j * np.pi * shift[:30].double().numpy() @ k)
    basis = maps.maps.double().flatten(1).numpy()
    expected = basis[0] + seen.real.mean() * basis[1] + seen.imag.mean() * basis[2]
    np.testing.assert_allclose(drawn(model, lying, index)[0], expected, atol=1e-3)


def test_without_a_latent_space_there_is_one_map_in_the_box_of_the_search(tiny_store):
    """A Gaussian blob, sampled more coarsely over the same extent: the integral over it stays."""
    across = {box: (torch.arange(float(box)) - box // 2) * 16 / box for box in (12, 16)}
    blob = {
        box: torch.exp(-(x[:, None, None] ** 2 + x[:, None] ** 2 + x**2) / 8) * (16 / box) ** 3
        for box, x in across.items()
    }
    model = model_of(tiny_store, LinearSubspace(blob[16][None]), None)
    found = spanning_maps(model, tiny_store, torch.arange(400), box=12, generator=torch.Generator())
    assert found.shape == (1, 12, 12, 12)
    torch.testing.assert_close(found[0], blob[12], atol=2e-3, rtol=0)


# Poses


def test_a_table_of_poses_is_rotation_vectors_and_shifts_in_pixels(store):
    """scipy's rotations; shifts in Angstrom."""
    turn = Rotation.random(N, random_state=5)
    shift = np.random.default_rng(5).normal(size=(N, 2))
    found = pose_of(torch.from_numpy(np.concatenate([turn.as_rotvec(), shift], axis=1)).float(), store)
    np.testing.assert_allclose(found.rotation.numpy(), turn.as_matrix(), atol=1e-5)
    np.testing.assert_allclose(found.shift_A.numpy(), shift * PIXEL_A, atol=1e-5)


def search_of(
    store: ParticleStore, run: RunFolder, maps: torch.Tensor, *, encoder: Encoder | None = None, **paper: object
) -> PoseSearch:
    """A training by batches of ten of a model that is a map, or a mean and components, which stay."""
    options = {"optimiser": "adam", "held_out": 0.0, "first_radius": 8.0, "radius_share": 0.0, "device": "cpu"}
    plan = TrainingConfig(epochs=9, batch_size=10, **options)
    alone = Parallel(0, 1, torch.device("cpu"))
    model = model_of(store, LinearSubspace(maps.view(-1, *maps.shape[-3:])), encoder)
    trainer = Trainer(model, store, plan, parallel=alone, seed=7)
    return PoseSearch(run, trainer, replace(ASKED, paper=replace(SMALL, **paper)), BatchThreads(1))


def served(search: PoseSearch, steps: int) -> torch.Tensor:
    """The particles that the training is given next."""
    return torch.cat([batch.index for batch in islice(search.trainer.batches(), steps)])


@pytest.mark.usefixtures("blocks_of_100")
def test_poses_of_the_coming_particles_are_found_and_no_others_are_touched(store, run, molecule, true):
    """Against the true map: the true poses."""
    search = search_of(store, run, molecule, random_images=0)
    search.trainer.progress.step = 30
    coming, before = served(search, 10), torch.randn(N, 5, generator=torch.Generator().manual_seed(2))
    search.poses.offset = before.clone()
    search.before_step()
    found = pose_of(search.poses.offset, store)
    turned = rotation_distance_deg(found.rotation, true.rotation)[coming]
    assert float(turned.median()) < 2 and float((turned < 10).double().mean()) > 0.95
    shift, centring = found.shift_A[coming].double(), true.shift_A[coming].double()
    assert float((shift - centring).norm(dim=1).median()) < 0.15 * PIXEL_A
    # one of the wrong sign would be off by twice its length
    assert float((shift * centring).sum() / centring.square().sum()) == pytest.approx(1, abs=0.1)
    others = torch.ones(N, dtype=torch.bool).index_fill(0, coming, False)
    assert len(coming) == 100 and torch.equal(search.poses.offset[others], before[others])


def test_random_poses_are_of_every_rotation_and_not_shifted(store, run, molecule):
    """The angle of a uniform rotation has the density `(1 - cos a) / pi`, and its axis any direction."""
    search = search_of(store, run, molecule, random_images=N)
    search.poses.offset += 1
    search.before_step()
    turn, shift = search.poses.offset.double().numpy()[:, :3], search.poses.offset[:, 3:]
    angle = np.linalg.norm(turn, axis=1)
    assert kstest(angle, lambda a: (a - np.sin(a)) / np.pi).pvalue > 0.01
    assert kstest(turn[:, 2] / angle, lambda z: (z + 1) / 2).pvalue > 0.01
    assert kstest(np.arctan2(turn[:, 1], turn[:, 0]), lambda a: (a + np.pi) / (2 * np.pi)).pvalue > 0.01
    assert not shift.any()


@pytest.fixture
def asked(monkeypatch) -> list[torch.Tensor]:
    """The turns of the grids that poses were searched over; nothing is found but shifts of 9 pixels."""
    turns = []

    def search_poses(subspace, batches, plan, *, disk, offset):
        turns.append(offset)
        n = sum(len(batch) for batch in batches)
        return FoundPoses.at(torch.eye(3).repeat(n, 1, 1), torch.full((n, 2), 9.0))

    monkeypatch.setattr(abinit_paper, "search_poses", search_poses)
    return turns


def what_was_done(search: PoseSearch, epochs: int) -> dict[tuple[int, int], str]:
    """Whether the poses of each step's coming particles were drawn or searched, where they were either."""
    done = {}
    for epoch in range(epochs):
        for step in range(search.trainer.steps):
            now, before = search.trainer.progress, search.poses.offset.clone()
            now.epoch, now.step = epoch, step
            search.before_step()
            changed = (search.poses.offset != before).any(1).nonzero()[:, 0]
            if len(changed):
                assert set(changed.tolist()) == set(served(search, 10).tolist())
                done[epoch, step] = "searched" if bool((search.poses.offset[changed, 3:] == 9).all()) else "drawn"
                search.poses.offset[changed, 3:] = 0
    return done


@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.usefixtures("blocks_of_100", "asked")
def test_poses_are_drawn_for_so_many_images_then_searched_block_by_block(store, run, molecule, every):
    """600 of 400 particles: one epoch and a half. Before the first step of a block alone, in every other epoch."""
    done = what_was_done(search_of(store, run, molecule, random_images=600, search_every=every), 6)
    blocks = [(epoch, step) for epoch in range(6) for step in (0, 10, 20, 30)]
    assert [place for place in blocks if done.get(place) == "drawn"] == blocks[:6]
    epochs = [1, 2, 3, 4, 5] if every == 1 else [1, 2, 4]
    assert [place for place in done if done[place] == "searched"] == [at for at in blocks[6:] if at[0] in epochs]
    assert done.keys() <= set(blocks)


@pytest.mark.usefixtures("blocks_of_100")
def test_what_is_drawn_depends_on_seed_and_place_alone(store, run, molecule, asked):
    """Random poses and the turn of the grid: a training that was resumed at a step draws what the whole one does."""

    def at(epoch: int, step: int, images: int, seed: int = 1) -> torch.Tensor:
        search = search_of(store, run, molecule, random_images=images)
        search.config = replace(search.config, seed=seed)
        search.trainer.progress.epoch, search.trainer.progress.step = epoch, step
        search.before_step()
        return asked.pop() if asked else search.poses.offset[served(search, 10).sort().values]

    for images in (10_000, 0):
        places = [(0, 0), (0, 10), (1, 0), (1, 10)]
        found = [at(*place, images) for place in places]
        assert all(torch.equal(at(*place, images), again) for place, again in zip(places, found, strict=True))
        found.append(at(0, 0, images, seed=2))
        assert len({tuple(each.flatten().tolist()) for each in found}) == 5


def test_a_search_s_record_says_how_far_poses_went(store, run, molecule):
    """Turned by 5 degrees about any axis and moved by half a pixel; nothing of the first search, nor before it."""
    search = search_of(store, run, molecule, random_images=N, search_every=2)
    rng = np.random.default_rng(0)
    first, axis = Rotation.random(N, random_state=1), rng.normal(size=(N, 3))
    turned = Rotation.from_rotvec(np.radians(5) * axis / np.linalg.norm(axis, axis=1, keepdims=True)) * first
    away = np.stack([np.full(N, 0.3), np.full(N, -0.4)], axis=1)
    tables = [torch.from_numpy(np.hstack([r.as_rotvec(), s])).float() for r, s in ((first, 0 * away), (turned, away))]
    for epoch in range(5):
        search.trainer.progress.epoch = epoch
        search.poses.offset = tables[0].clone()
        search.before_epoch()
        search.poses.offset = tables[1].clone()
        search.after_epoch()
    rows = records(run)
    assert [(row["stage"], row["step"], row["band"]) for row in rows] == [
        ("random", 1, 16),
        ("search", 2, 8),
        ("search", 4, 8),
    ]
    assert "turned_deg" not in rows[0] and "turned_deg" not in rows[1]
    assert rows[2]["turned_deg"] == pytest.approx(5, abs=0.01)
    assert rows[2]["moved_A"] == pytest.approx(0.5 * PIXEL_A, rel=1e-4)
    # what is left to look at: the model's map, and from where the particles are seen
    np.testing.assert_allclose(read_map(run.path / "abinit" / "round-4.mrc")[0], molecule.numpy(), atol=1e-5)
    assert sorted(path.name for path in (run.path / "abinit").iterdir()) == [
        *(f"round-{number}.mrc" for number in (1, 2, 4)),
        *(f"views-{number}.npy" for number in (1, 2, 4)),
    ]
    assert np.load(run.path / "abinit" / "views-4.npy").sum() == N


def test_an_epoch_taken_up_in_its_middle_does_not_say_how_far_poses_went(store, run, molecule):
    search = search_of(store, run, molecule, random_images=0)
    for step in (0, 5):
        search.trainer.progress.epoch, search.trainer.progress.step = 1, step
        search.before_epoch()
        search.after_epoch()
    assert ["turned_deg" in row for row in records(run)] == [True, False]


@pytest.mark.usefixtures("blocks_of_100")
def test_where_the_model_was_put_back_its_poses_are_looked_for_again(store, run, molecule):
    """A snapshot holds poses as they were: within a block of steps those to come are placed once more."""
    search = search_of(store, run, molecule, random_images=10_000)
    search.before_epoch()
    search.before_step()
    search.trainer.progress.step = 5
    search.poses.offset.zero_()
    search.before_step()
    assert not search.poses.offset.any()
    search.trainer.progress.rate_factor /= 2
    coming = served(search, 10)
    search.before_step()
    assert search.poses.offset[coming, :3].any(1).all()
    assert int(search.poses.offset.any(1).sum()) == 100


@pytest.mark.usefixtures("blocks_of_100")
def test_with_a_latent_space_poses_are_searched_against_what_the_coming_particles_look_like(
    store, run, molecule, monkeypatch
):
    """Of all 400, whose number is their latent point, the 100 that come; the map of a round is that of the mean."""
    monkeypatch.setattr(abinit_paper, "STATES", N)
    given: list[torch.Tensor] = []

    def search_poses(subspace, batches, plan, *, disk, offset):
        given.extend(subspace.maps)
        return FoundPoses.at(torch.eye(3).repeat(100, 1, 1), torch.zeros(100, 2), 1)

    monkeypatch.setattr(abinit_paper, "search_poses", search_poses)
    z = torch.arange(float(N))[:, None]
    maps = torch.stack([molecule, 0.01 * molecule.flip(0)])
    search = search_of(store, run, maps, encoder=TableEncoder(z, torch.full_like(z, 1e-6)), random_images=0)
    search.before_step()
    coming = served(search, 10).double()
    mean, component = (coefficients_of(map) for map in maps)
    tolerance = {"rtol": 0, "atol": 1e-4 * np.abs(mean).max()}
    np.testing.assert_allclose(coefficients_of(given[0]), mean + float(coming.mean()) * component, **tolerance)
    found, expected = coefficients_of(given[1]), float(coming.std(correction=0)) * component
    sign = np.sign((found.conj() * expected).real.sum())
    np.testing.assert_allclose(sign * found, expected, **tolerance)
    search.before_epoch()
    search.after_epoch()
    written = torch.from_numpy(np.array(read_map(run.path / "abinit" / "round-1.mrc")[0]))
    torch.testing.assert_close(written, maps[0] + 199.5 * maps[1], atol=1e-4, rtol=0)


def coefficients_of(map: torch.Tensor) -> np.ndarray:
    """The map's transform over the band of the search, 8 Fourier pixels to either side."""
    transform = np.fft.fftshift(np.fft.fftn(np.fft.ifftshift(map.double().numpy())))
    middle = slice(len(map) // 2 - 8, len(map) // 2 + 9)
    return transform[middle, middle, middle]


# Runs


def records(run: RunFolder) -> list[dict]:
    return [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def coarse() -> Callable[[pytest.MonkeyPatch], None]:
    """Makes searches quick, of few candidates, and trainings write a checkpoint after every tenth step."""

    def patch(to: pytest.MonkeyPatch) -> None:
        plan = SearchPlan((Level(0, 4.0, 8), Level(1, 8.0, 2)), 0.04 * BOX, polished=1, steps=2)
        to.setattr(abinit_paper, "search_plan", lambda store, config: plan)
        to.setattr(abinit_paper, "TrainingConfig", partial(TrainingConfig, checkpoint_minutes=0.0))
        to.setattr(abinit_paper, "REFRESH", 150)
        to.setattr(loop, "REPORT_EVERY", 10)

    return patch


@pytest.fixture
def quick(coarse, monkeypatch):
    coarse(monkeypatch)


@pytest.fixture(scope="module")
def whole(coarse, folder, tmp_path_factory) -> Callable[[int], RunFolder]:
    """Finished runs, uninterrupted, by their zdim: one epoch at random poses, two searches, one epoch at the end."""
    done: dict[int, RunFolder] = {}

    def find(zdim: int) -> RunFolder:
        if zdim not in done:
            with pytest.MonkeyPatch.context() as patch:
                coarse(patch)
                output = tmp_path_factory.mktemp("whole") / "run"
                done[zdim] = find_poses(config_of(folder, output, zdim))
        return done[zdim]

    return find


def config_of(folder: Path, output: Path, zdim: int) -> AbinitConfig:
    return replace(ASKED, particles=folder / "particles.star", output=output, zdim=zdim, paper=SMALL)


@pytest.mark.parametrize("zdim", [0, 1])
def test_a_run_holds_what_a_user_needs(whole, zdim):
    run = RunFolder.open(whole(zdim).path)
    assert run.is_complete
    assert run.latent_mean().shape == run.latent_std().shape == (N, zdim)
    representation = run.representation()
    assert isinstance(representation, NeuralField)
    # with a latent space the network that poses were searched against, without one a network of another size
    assert (representation.shape.width, representation.shape.zdim) == (32 if zdim else 24, zdim)
    assert (run.path / "map.mrc").is_file() == (zdim == 0)
    if not zdim:
        written = read_map(run.path / "map.mrc")[0]
        np.testing.assert_allclose(written, representation.volume(torch.zeros(0), BOX).detach().numpy(), atol=1e-5)
    assert [(row["stage"], row["step"]) for row in records(run) if row["stage"] in ("random", "search")] == [
        ("random", 1),
        ("search", 2),
        ("search", 3),
    ]
    for number in (1, 2, 3):
        assert read_map(run.path / "abinit" / f"round-{number}.mrc")[0].shape == (BOX,) * 3
        assert np.load(run.path / "abinit" / f"views-{number}.npy").sum() == N
    assert not [*run.path.glob("checkpoints/search-*")]


@pytest.mark.parametrize("zdim", [0, 1])
def test_the_report_says_that_nothing_vouches_for_the_map(whole, zdim):
    text = write_abinit_report(whole(zdim)).read_text()
    said = "One network was trained from one random start: whether another would come to the same structure is unknown"
    assert said in text
    assert "searched against one network" in text and "independent random starts" not in text


def test_the_particle_file_has_the_poses_found_and_every_other_column(whole, folder):
    run = whole(0)
    given, kept = (read_star(path / "particles.star")["particles"] for path in (folder, run.path))
    posed = {"rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi", "rlnOriginXAngst", "rlnOriginYAngst"}
    assert {name for name in given.columns if not (kept[name] == given[name]).all()} == posed
    written, found = read_particles(run.path / "particles.star", check_images=False).pose, run.store().require_pose()
    # RELION's angles by scipy: `Rz(psi) Ry(tilt) Rz(rot)` turns the axes, intrinsic ZYZ the molecule
    angles = kept[["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]].to_numpy().astype(float)
    by_angles = Rotation.from_euler("ZYZ", angles, degrees=True).inv().as_matrix()
    np.testing.assert_allclose(by_angles, found.rotation.numpy(), atol=1e-4)
    torch.testing.assert_close(written.shift_A, found.shift_A, atol=1e-3, rtol=0)
    searched = load_tensors(run.path / "checkpoints" / "searched.safetensors")[0]["poses.offset"].double().numpy()
    np.testing.assert_allclose(Rotation.from_rotvec(searched[:, :3]).as_matrix(), found.rotation.numpy(), atol=1e-5)


def test_the_last_training_goes_on_with_the_network_that_found_the_poses(quick, folder, tmp_path, monkeypatch):
    """Where there is a latent space: its weights and its encoder's are those of the last search."""
    taken = {}

    def joint(session):
        taken.update({name: value.clone() for name, value in session.model.state_dict().items()})
        raise KeyboardInterrupt

    monkeypatch.setattr(abinit_paper, "joint", joint)
    few = replace(config_of(folder, tmp_path / "run", 1), paper=replace(SMALL, searches=1))
    with pytest.raises(KeyboardInterrupt):
        find_poses(few)
    left = load_tensors(tmp_path / "run" / "checkpoints" / "searched.safetensors")[0]
    assert any(name.startswith("encoder.") for name in taken)
    assert taken.keys() == left.keys() - {"poses.offset"}
    assert all(torch.equal(value, left[name]) for name, value in taken.items())


class Killed:
    """A training's step that is cut short when so many were taken."""

    def __init__(self, steps: int) -> None:
        self.left, self.step = steps, Trainer.step

    def __call__(self, trainer: Trainer, batch, disk) -> None:
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1
        self.step(trainer, batch, disk)


@pytest.mark.slow
@pytest.mark.parametrize("zdim", [0, 1])
def test_killed_within_a_search_and_in_the_last_training_and_resumed_ends_the_same(
    whole, quick, folder, tmp_path, zdim
):
    """After step 25 of 40 of epoch 2, half way between two searches, and of 38 of the last; checkpoints at step 20."""
    asked = config_of(folder, tmp_path / "run", zdim)
    for number, steps in enumerate((40 + 25, 20 + 40 + 25)):
        with pytest.MonkeyPatch.context() as patch:
            killed = Killed(steps)
            patch.setattr(Trainer, "step", lambda self, batch, disk, killed=killed: killed(self, batch, disk))
            with pytest.raises(KeyboardInterrupt):
                find_poses(replace(asked, resume=number > 0))
        assert not RunFolder(asked.output).is_complete
    run, expected = find_poses(replace(asked, resume=True)), whole(zdim)
    said = (run.path / "run.log").read_text()
    assert "resumed after epoch 1, step 20" in said and "resumed after epoch 0, step 20" in said
    pose, other = run.store().require_pose(), expected.store().require_pose()
    assert torch.equal(pose.rotation, other.rotation) and torch.equal(pose.shift_A, other.shift_A)
    assert run.model_tensors().keys() == expected.model_tensors().keys()
    for name, tensor in expected.model_tensors().items():
        assert torch.equal(run.model_tensors()[name], tensor), name
    np.testing.assert_array_equal(run.latent_mean(), expected.latent_mean())
    assert not [*run.path.glob("checkpoints/search-*")]
    write_abinit_report(run)


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def test_killed_when_poses_are_kept_and_resumed_leaves_no_checkpoint_of_the_search(quick, folder, tmp_path):
    few = replace(config_of(folder, tmp_path / "run", 0), paper=replace(SMALL, searches=1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(abinit_paper, "checkpoints", interrupted)
        with pytest.raises(KeyboardInterrupt):
            find_poses(few)
    assert (tmp_path / "run" / "checkpoints" / "searched.safetensors").is_file()
    assert [*(tmp_path / "run").glob("checkpoints/search-*")]
    run = find_poses(replace(few, resume=True))
    assert not [*run.path.glob("checkpoints/search-*")]


@pytest.mark.slow
def test_a_network_that_has_the_outline_comes_to_the_molecule_and_its_poses(coarse, folder, tmp_path, true, molecule):
    """Random poses within 15 degrees of the truth stand for the luck of a good beginning, and fix frame and hand."""
    axis = np.random.default_rng(0).normal(size=(N, 3))
    off = Rotation.from_rotvec(np.radians(15) * axis / np.linalg.norm(axis, axis=1, keepdims=True)).as_matrix()
    near = torch.from_numpy(off).float() @ true.rotation
    rates = {"learning_rate": 1e-2, "final_epochs": 4}
    paper = replace(SMALL, random_images=5 * N, width=64, final_width=64, **rates)
    with pytest.MonkeyPatch.context() as patch:
        coarse(patch)
        patch.setattr(abinit_paper, "REFRESH", 1000)
        patch.setattr(abinit_paper, "random_rotations", lambda n, drawn: near if n == N else random_rotations(n, drawn))
        run = find_poses(replace(config_of(folder, tmp_path / "run", 0), paper=paper))
    found = run.store().require_pose()
    assert float(rotation_distance_deg(found.rotation, true.rotation).median()) < 6
    assert float((found.shift_A - true.shift_A).norm(dim=1).median()) < 0.3 * PIXEL_A
    written = torch.from_numpy(np.array(read_map(run.path / "map.mrc")[0])).float()
    assert float(torch.corrcoef(torch.stack([written.flatten(), molecule.flatten()]))[0, 1]) > 0.85


# The command line


def test_the_command_line_takes_the_schedule_and_the_networks():
    words = (
        "abinit some.star -o run --recipe paper --random-images 5 --searches 6 --search-every 2 --width 7 --layers 4"
    )
    more = "--batch-size 3 --learning-rate 5e-4 --final-epochs 8 --final-width 9"
    parsed = cli.parse([*words.split(), *more.split()])
    assert parsed is not None and parsed[1].recipe == "paper"
    assert parsed[1].paper == PaperConfig(
        5, 6, 2, 7, 4, batch_size=3, learning_rate=5e-4, final_epochs=8, final_width=9
    )


@pytest.mark.parametrize(
    ("changes", "flag", "other"),
    [
        ({"paper": PaperConfig(random_images=5)}, "random-images", "paper"),
        ({"paper": PaperConfig(searches=4)}, "searches", "paper"),
        ({"paper": PaperConfig(search_every=2)}, "search-every", "paper"),
        ({"paper": PaperConfig(width=64)}, "width", "paper"),
        ({"paper": PaperConfig(layers=3)}, "layers", "paper"),
        ({"paper": PaperConfig(batch_size=8)}, "batch-size", "paper"),
        ({"paper": PaperConfig(learning_rate=1e-3)}, "learning-rate", "paper"),
        ({"paper": PaperConfig(final_epochs=3)}, "final-epochs", "paper"),
        ({"paper": PaperConfig(final_width=128)}, "final-width", "paper"),
        ({"recipe": "paper", "starts": 2}, "starts", "default"),
        ({"recipe": "paper", "start_images": 300}, "start-images", "default"),
        ({"recipe": "paper", "start_radius": 8}, "start-radius", "default"),
        ({"recipe": "paper", "search_rounds": 2}, "search-rounds", "default"),
        ({"recipe": "paper", "polish_rounds": 0}, "polish-rounds", "default"),
    ],
)
def test_options_of_the_other_recipe_are_refused_by_name(tmp_path, changes, flag, other):
    asked = AbinitConfig(Path("gone.star"), tmp_path / "run", device="cpu")
    said = f"--{flag} applies to --recipe {other} only: omit it, or give that recipe"
    with pytest.raises(InputError, match=f"^{re.escape(said)}$"):
        find_poses(replace(asked, **changes))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"random_images": -1}, "--random-images -1: expected 0 or more"),
        ({"searches": 0}, "--searches 0: expected 1 or more"),
        ({"search_every": 0}, "--search-every 0: expected 1 or more"),
        ({"width": 0}, "--width 0: expected 1 or more"),
        ({"layers": 0}, "--layers 0: expected 1 or more"),
        ({"batch_size": 0}, "--batch-size 0: expected 1 or more"),
        ({"learning_rate": -1e-4}, "--learning-rate -0.0001: expected 0 or more"),
        ({"learning_rate": math.nan}, "--learning-rate nan: expected 0 or more"),
        ({"final_epochs": 0}, "--final-epochs 0: expected 1 or more"),
        ({"final_width": 0}, "--final-width 0: expected 1 or more"),
    ],
)
def test_values_out_of_range_are_refused_before_anything_is_written(tmp_path, changes, said):
    asked = config_of(Path("gone"), tmp_path / "run", 0)
    with pytest.raises(InputError, match=f"^{re.escape(said)}$"):
        find_poses(replace(asked, paper=replace(SMALL, **changes)))
    assert not (tmp_path / "run").exists()
