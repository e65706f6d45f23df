"""Random starts: the sums over all poses against explicit loops, and a phantom found from its images alone."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cryomorph.abinit import initial_model as module
from cryomorph.abinit.initial_model import (
    InitialModel,
    InitialModelPlan,
    Moments,
    expectation,
    held_out_log_likelihood,
    make_initial_model,
)
from cryomorph.config.simulate import SimulateConfig
from cryomorph.io.mrc import read_map
from cryomorph.particles.metadata import read_particles
from cryomorph.particles.prepare import prepare
from cryomorph.particles.store import Batch, ParticleStore
from cryomorph.physics.disk import fourier_disk
from cryomorph.physics.pose import Pose, random_rotations
from cryomorph.physics.slicing import locate_slices, padded_grid
from cryomorph.physics.so3_grid import grid_rotations, grid_size
from cryomorph.poses.search import Level, SearchPlan, search_poses
from cryomorph.poses.slice_bank import SliceBank, shift_grid
from cryomorph.representations.linear import LinearSubspace
from cryomorph.simulation.sets import simulate_set
from cryomorph.volumes.align import align_maps, moved_map
from cryomorph.volumes.grid import rebox

BOX = 8
DISK = fourier_disk(BOX)
HALF_TURN = torch.diag(torch.tensor([-1.0, -1.0, 1.0]))


@pytest.fixture(scope="module", params=[0, 2], ids=["map", "subspace"])
def bank(request) -> SliceBank:
    """The 576 rotations of the coarsest grid of a map of noise, and of two components as bright."""
    generator = torch.Generator().manual_seed(0)
    grid = padded_grid(BOX)
    columns = grid.from_volumes(0.1 * torch.randn(1 + request.param, BOX, BOX, BOX, generator=generator))
    return SliceBank.of(columns, grid, disk=DISK, level=0, offset=random_rotations(1, generator)[0])


@pytest.fixture(scope="module")
def batch() -> Batch:
    """Four images of noise, each with a transfer function of its own."""
    generator = torch.Generator().manual_seed(1)
    image = torch.randn(4, DISK.size, dtype=torch.complex64, generator=generator)
    ctf = torch.randn(4, DISK.size, generator=generator)
    return Batch(torch.arange(4), image, ctf, torch.eye(3).repeat(4, 1, 1))


SHIFTS = shift_grid(1.0, 1.0)


@pytest.fixture(scope="module")
def looped(bank, batch) -> dict[str, np.ndarray]:
    """The same sums one image, one rotation and one shift at a time, in double precision.

    Of the rotations that are an image turned by 180 degrees, the turned image is told by `F(-k) = conj(F(k))`. An
    integral of a Gaussian is its height times its width: the likelihood at the most probable z, and a determinant.
    """
    k = DISK.frequency.numpy() / BOX
    slices = bank.slices.numpy().astype(complex)
    c, h, m = slices.shape
    pairs = list(zip(*np.triu_indices(c), strict=True))
    found = {
        "image": np.zeros((c, h, m), complex),
        "weight": np.zeros((len(pairs), h, m)),
        "log_likelihood": np.zeros(4),
        "certain": np.zeros(4),
        "model": np.zeros((4, m), complex),
    }
    for i in range(4):
        ctf, poses, scores = batch.ctf[i].double().numpy(), [], []
        moved = [np.exp(-2j * np.pi * k @ shift) for shift in SHIFTS.double().numpy()]
        for row, turned in np.ndindex(h, 2):
            shown = (ctf * (slices[:, row].conj() if turned else slices[:, row])).T
            design = np.sqrt(2) * np.concatenate([shown[:, 1:].real, shown[:, 1:].imag])
            precision = design.T @ design + np.eye(c - 1)
            covariance = np.linalg.inv(precision)
            for phase in moved:
                centred = phase * batch.image[i].numpy().astype(complex)
                left = centred - shown[:, 0]
                z = covariance @ design.T @ (np.sqrt(2) * np.concatenate([left.real, left.imag]))
                e = np.concatenate([[1.0], z])
                # the likelihood itself, less that of noise alone
                height = (abs(centred) ** 2).sum() - (abs(centred - shown @ e) ** 2).sum() - 0.5 * z @ z
                scores.append(height - 0.5 * np.linalg.slogdet(precision)[1])
                second = np.outer(e, e)
                second[1:, 1:] += covariance
                # an image turned by half a turn is its complex conjugate
                add = ctf * (centred.conj() if turned else centred)
                poses.append((row, e, second, add, (shown @ e) * phase.conj()))
        scores = np.array(scores)
        top = scores.max()
        total = top + math.log(np.exp(scores - top).sum())
        found["log_likelihood"][i] = total - math.log(len(scores))
        found["certain"][i] = np.exp(top - total)
        found["model"][i] = poses[int(scores.argmax())][4]
        for score, (row, e, second, add, _) in zip(scores, poses, strict=True):
            share = np.exp(score - total)
            found["image"][:, row] += share * e[:, None] * add
            found["weight"][:, row] += share * np.array([second[pair] for pair in pairs])[:, None] * ctf**2
    return found


@pytest.mark.parametrize("scores", [1 << 22, 1, 3 * 9 * grid_size(0)])
def test_the_sums_are_those_of_a_loop_over_all_poses(bank, batch, looped, monkeypatch, scores):
    """However many images are taken at a time."""
    monkeypatch.setattr(module, "MAX_SCORES", scores)
    found = expectation(batch, bank, disk=DISK, shifts=SHIFTS)
    for name, expected in looped.items():
        value = getattr(found, name).numpy()
        np.testing.assert_allclose(value, expected, atol=2e-4 * np.abs(expected).max(), err_msg=name)


def test_every_image_counts_once(bank, batch):
    """Probabilities add up to 1: weights of all rotations add up to the sum of `C^2`."""
    found = expectation(batch, bank, disk=DISK, shifts=SHIFTS)
    torch.testing.assert_close(found.weight[0].sum(0), batch.ctf.square().sum(0), rtol=1e-3, atol=1e-3)


def test_an_image_turned_by_half_a_turn_is_as_likely_and_adds_the_same(bank, batch):
    turned = Batch(batch.index, batch.image.conj().resolve_conj(), batch.ctf, batch.rotation)
    one, other = (expectation(each, bank, disk=DISK, shifts=SHIFTS) for each in (batch, turned))
    torch.testing.assert_close(other.log_likelihood, one.log_likelihood, atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(other.image, one.image, atol=1e-2, rtol=1e-3)


def test_a_clear_image_is_certain_of_its_pose(bank):
    """A slice of the map itself, far above the noise, at the turned one of a pair."""
    rotation = HALF_TURN @ grid_rotations(0, bank.cell[17:18]) @ bank.offset
    grid = padded_grid(BOX)
    columns = grid.from_volumes(torch.randn(1, BOX, BOX, BOX, generator=torch.Generator().manual_seed(5)))
    sharp = SliceBank.of(columns, grid, disk=DISK, level=0, offset=bank.offset)
    image = locate_slices(grid, DISK.frequency, rotation).extract(columns)[..., 0]
    one = Batch(torch.arange(1), image, torch.ones(1, DISK.size), torch.eye(3)[None])
    found = expectation(one, sharp, disk=DISK, shifts=SHIFTS)
    assert float(found.certain) > 0.99
    torch.testing.assert_close(found.model, image, atol=1e-3, rtol=1e-3)
    assert int(found.weight[0].sum(1).argmax()) == 17
    nats = float(image.abs().square().sum()) - math.log(grid_size(0) * len(SHIFTS))
    assert float(found.log_likelihood) == pytest.approx(nats, rel=1e-3)


@pytest.mark.parametrize(
    "plan",
    [
        InitialModelPlan(),
        InitialModelPlan(iterations=7, first_radius=3, last_radius=12),
        InitialModelPlan(first_radius=6, last_radius=6),
    ],
)
def test_the_band_grows_from_the_first_to_the_last(plan):
    bands = [plan.radius(iteration) for iteration in range(plan.iterations)]
    assert bands == sorted(bands) and bands[0] == plan.first_radius and bands[-1] == plan.last_radius
    # some iterations are left for the last band
    assert bands.count(plan.last_radius) >= 0.25 * plan.iterations


PLAN = InitialModelPlan(images=600, batch=200, iterations=30, first_radius=3, last_radius=6, level=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A rigid phantom: 700 images of little noise, off centre by up to a pixel."""
    target = tmp_path_factory.mktemp("rigid") / "set"
    return simulate_set(SimulateConfig("rigid", target, n=700, box=32, pixel_A=7.0, snr=2.0, shift=1.0, seed=3))


@pytest.fixture(scope="module")
def store(folder: Path) -> ParticleStore:
    """Its particles, of whose poses nothing is known."""
    prepare(read_particles(folder / "particles.star"), folder.parent / "store")
    return ParticleStore.open(folder.parent / "store").unposed()


def start_of(store: ParticleStore, plan: InitialModelPlan, seed: int, told: list | None = None) -> InitialModel:
    def report(iteration: int, state: InitialModel, moments: Moments) -> None:
        if told is not None:
            told.append((iteration, state.radius, moments))

    return make_initial_model(store, torch.arange(600), plan, shift_pixel=1.0, seed=seed, report=report)


@pytest.fixture(scope="module")
def starts(store) -> list[InitialModel]:
    return [start_of(store, PLAN, seed) for seed in range(3)]


@pytest.fixture(scope="module")
def truth(folder) -> torch.Tensor:
    """The true map in the starts' box."""
    return rebox(torch.from_numpy(np.array(read_map(folder / "maps" / "000.mrc")[0])).float(), 2 * PLAN.last_radius)


def likelihood(store: ParticleStore, start: InitialModel, **changes: object) -> float:
    options = {"level": 1, "shift_pixel": 1.0, "seed": 0} | changes
    return held_out_log_likelihood(store, torch.arange(600, 700), start, **options)


def test_unposed_particles_lie_as_in_their_images(store):
    assert torch.equal(store.require_pose().rotation, torch.eye(3).repeat(700, 1, 1))
    count = store.disk.count(5)
    index = torch.arange(5)
    whitening = store.require_noise().whitening(index, store.disk.shell[:count])
    torch.testing.assert_close(store.batch(index, count).image, store.coefficients(index, count) * whitening)


def test_the_start_that_explains_held_out_images_best_is_the_molecule(store, starts, truth):
    """In one of the hands, which images do not tell."""
    best = max(starts, key=lambda start: likelihood(store, start))
    found = align_maps(best.maps[0], truth)
    assert found.correlation > 0.95
    assert found.other_hand is not None and found.other_hand.correlation < found.correlation - 0.02
    # what it leaves of the images is their noise, 1, and what the coarse grid blurs
    assert 0.5 < float(best.noise[-2]) < 8


def test_what_varies_is_found_along_with_the_map(blobs_of, simulated, tmp_path):
    """Blobs whose weights are linear in z: the component, laid upon the truth with the mean, and each image's own z."""
    blobs = blobs_of.of(zdim=1, strength=2.0)
    made = simulated(blobs, tmp_path / "store", n=700)
    store = made.store.unposed()
    start = start_of(store, replace(PLAN, iterations=24, zdim=1), 1)
    truth = rebox(blobs.maps(), 12)
    laid = align_maps(start.maps[0], truth[0])
    component = moved_map(start.maps[1], laid.rotation, laid.shift_voxel, flipped=laid.flipped)
    assert laid.correlation > 0.9
    assert abs(float(torch.corrcoef(torch.stack([component.flatten(), truth[1].flatten()]))[0, 1])) > 0.7
    # of images that it was not made of, in either hand
    disk, plan = store.disk.within(6), SearchPlan((Level(1, 4.0, 12), Level(2, 6.0, 4)), 1.2)
    batches = store.batch(torch.arange(600, 700), disk.size).split(50)
    found = search_poses(LinearSubspace(rebox(start.maps, 14)), batches, plan, disk=disk, offset=torch.eye(3))
    assert abs(np.corrcoef(found.z[:, 0].numpy(), made.z[600:, 0])[0, 1]) > 0.9
    assert likelihood(store, start) > likelihood(store, replace(start, maps=start.maps[:1])) + 10


def test_the_right_map_explains_more_than_noise(store, starts, truth):
    """The truth in the right scale, turned anyhow, more than any start; noise of the same power less."""
    images = store.batch(torch.arange(600, 700), store.disk.count(PLAN.last_radius))
    best = max(starts, key=lambda start: likelihood(store, start))
    scaled = truth * float(best.maps.norm() / truth.norm())
    right = likelihood(store, InitialModel(scaled[None], best.noise))
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(truth.shape, generator=generator)
    wrong = likelihood(store, InitialModel((noise * (best.maps.norm() / noise.norm()))[None], best.noise))
    nothing = likelihood(store, InitialModel(torch.zeros_like(truth)[None], best.noise))
    assert nothing == pytest.approx(0, abs=1e-3)
    assert right > 0.9 * likelihood(store, best) > 50
    assert right > wrong + 50
    # another turn of the grid says about the same
    assert likelihood(store, InitialModel(scaled[None], best.noise), seed=1) == pytest.approx(right, rel=0.05)
    assert right < float(images.image.abs().square().sum(1).mean())


@pytest.mark.parametrize("zdim", [0, 2])
def test_each_iteration_is_told(store, zdim):
    told: list = []
    plan = InitialModelPlan(batch=50, iterations=4, first_radius=3, last_radius=5, level=0, zdim=zdim)
    last = start_of(store, plan, 1, told)
    assert [row[0] for row in told] == [0, 1, 2, 3]
    assert [row[1] for row in told] == [plan.radius(iteration) for iteration in range(4)]
    assert last.maps.shape == (1 + zdim, 10, 10, 10) and last.noise.shape == (6,) and last.radius == 5
    assert all(row[2].certain.shape == (50,) for row in told)
    assert float(told[-1][2].log_likelihood.mean()) > float(told[0][2].log_likelihood.mean())


def test_the_seed_alone_decides(store, starts):
    plan = InitialModelPlan(batch=60, iterations=3, first_radius=3, last_radius=4, level=0, zdim=1)
    one, same, other = (start_of(store, plan, seed) for seed in (4, 4, 5))
    assert torch.equal(one.maps, same.maps) and torch.equal(one.noise, same.noise)
    for a, b in zip(one.maps, other.maps, strict=True):
        assert float((a - b).norm()) > 0.1 * float(a.norm()) > 0


def test_poses_that_are_given_are_not_looked_at(store):
    """Not even where the store was left with some: the rotations of a batch say nothing to the sums."""
    plan = InitialModelPlan(batch=60, iterations=3, first_radius=3, last_radius=4, level=0)
    rotation = random_rotations(700, torch.Generator().manual_seed(2))
    scrambled = store.with_pose(Pose(rotation, 20 * torch.randn(700, 2))).unposed()
    assert torch.equal(start_of(scrambled, plan, 4).maps, start_of(store, plan, 4).maps)


@pytest.mark.parametrize(("memory", "zdim"), [(0.0, 0), (0.9, 0), (0.9, 1)])
def test_memory_is_the_share_of_the_maps_before(store, memory, zdim, monkeypatch):
    """The last iteration's maps lie between those of the one before and those of a start without memory of them."""
    plan = InitialModelPlan(batch=100, iterations=3, first_radius=4, last_radius=4, level=0, memory=memory, zdim=zdim)
    seen: list[InitialModel] = []
    fresh: list[torch.Tensor] = []
    solve = module.m_step

    def keep(*sums: object, **options: object) -> torch.Tensor:
        fresh.append(solve(*sums, **options))
        return fresh[-1]

    monkeypatch.setattr(module, "m_step", keep)
    make_initial_model(
        store, torch.arange(600), plan, shift_pixel=1.0, seed=3, report=lambda i, state, moments: seen.append(state)
    )
    expected = memory * seen[1].maps + (1 - memory) * fresh[-1] * module._sphere(8)
    torch.testing.assert_close(seen[2].maps, expected, atol=1e-6 * float(expected.abs().max()), rtol=1e-4)
