"""Branch and bound against exhaustive loops, and against the poses that images of Gaussian blobs were made at."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from cryomorph.particles.store import Batch
from cryomorph.physics.ctf import Ctf, evaluate_ctf
from cryomorph.physics.disk import fourier_disk
from cryomorph.physics.pose import random_rotations, rotation_distance_deg
from cryomorph.physics.slicing import locate_slices, padded_grid
from cryomorph.physics.so3_grid import children, grid_rotations, grid_size, grid_spacing_deg
from cryomorph.poses import search as pose_search
from cryomorph.poses.search import (
    FoundPoses,
    Level,
    MapsOnGrid,
    SearchPlan,
    first_level,
    next_level,
    polish,
    search_poses,
    usual_plan,
)
from cryomorph.poses.slice_bank import shift_grid, shift_step
from cryomorph.representations.linear import LinearSubspace
from cryomorph.volumes.backproject import mirror

BOX, PIXEL_A, RANGE = 16, 5.0, 1.2
DISK = fourier_disk(BOX)
OFFSET = random_rotations(1, torch.Generator().manual_seed(8))[0]
PLAN = SearchPlan((Level(1, 4.0, 24), Level(2, 6.0, 8), Level(3, 8.0, 3)), RANGE)


@dataclass(frozen=True)
class Seen:
    """Images as they lie, and what they were made with: shifts in pixels centre them."""

    batch: Batch
    rotation: torch.Tensor
    shift: torch.Tensor
    z: torch.Tensor


def images_of(blobs, n: int, *, noise: float, seed: int = 0) -> Seen:
    """Images of blobs by their closed form, each under a CTF of its own and off centre by up to a pixel."""
    rng = np.random.default_rng(seed)
    k = DISK.frequency.numpy() / BOX
    rotation = Rotation.random(n, random_state=seed).as_matrix()
    shift = rng.uniform(-1, 1, (n, 2))
    defocus = torch.from_numpy(rng.uniform(8000, 20000, n)).float()
    same = [torch.full((n,), value) for value in (0.0, 300.0, 2.7, 0.1, 0.0, 0.0, 1.0)]
    ctf = evaluate_ctf(Ctf(defocus, defocus, *same), DISK.frequency / (BOX * PIXEL_A))
    # the shift centres the particle: its content lies at -shift
    z = rng.normal(size=(n, len(blobs.weight) - 1))
    image = ctf.numpy() * blobs.slices(z, rotation, k) * np.exp(2j * np.pi * shift @ k.T)
    image += noise * (rng.normal(size=image.shape) + 1j * rng.normal(size=image.shape)) / np.sqrt(2)
    # the batch's own rotations must not be looked at
    nowhere = random_rotations(n, torch.Generator().manual_seed(seed + 100))
    batch = Batch(torch.arange(n), torch.from_numpy(image).to(torch.complex64), ctf, nowhere)
    return Seen(batch, *(torch.from_numpy(each).float() for each in (rotation, shift, z)))


@pytest.fixture(scope="module", params=[0, 1], ids=["rigid", "moving"])
def blobs(blobs_of, request):
    return blobs_of.of(zdim=request.param, strength=25.0)


@pytest.fixture(scope="module")
def seen(blobs) -> Seen:
    """Noise of variance 1 that is well below the particle."""
    return images_of(blobs, 40, noise=1.0)


@pytest.fixture(autouse=True)
def small_banks(monkeypatch):
    """The finest level is interpolated: its bank takes longer to make than it saves on a few images."""
    monkeypatch.setattr(pose_search, "MAX_BANK", 1 << 21)


def found_in(maps: torch.Tensor, seen: Seen, plan: SearchPlan = PLAN) -> FoundPoses:
    return search_poses(LinearSubspace(maps), seen.batch.split(25), plan, disk=DISK, offset=OFFSET)


@pytest.fixture(scope="module")
def right(blobs, seen) -> FoundPoses:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pose_search, "MAX_BANK", 1 << 21)
        return found_in(blobs.maps(), seen)


def slices_at(maps: torch.Tensor, rotation: torch.Tensor, band: float) -> np.ndarray:
    """Slices of maps one by one (c, rotations, m), in double precision from here on."""
    grid = padded_grid(BOX)
    located = locate_slices(grid, DISK.within(band).frequency, rotation)
    return located.extract(grid.from_volumes(maps)).movedim(2, 0).numpy().astype(complex)


def unit(half_plane: np.ndarray, below: int = 0) -> np.ndarray:
    """Real numbers of unit noise along the last axis, with zeros for the priors of coordinates."""
    zeros = np.zeros((*half_plane.shape[:-1], below))
    return np.concatenate([np.sqrt(2) * half_plane.real, np.sqrt(2) * half_plane.imag, zeros], axis=-1)


def scores(seen: Seen, image: int, slices: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    """Marginal log-likelihood of an image at each shift and rotation, at the best amplitude; (shifts, rotations).

    Where components were fitted by least squares, with a row for each coordinate's prior, the mean explains what it can
    of what is left; the determinant is that of the triangle.
    """
    m, q = slices.shape[2], len(slices) - 1
    k = DISK.frequency[:m].numpy() / BOX
    shown = seen.batch.ctf[image, :m].double().numpy() * slices
    design = unit(shown[1:], q)
    design[np.arange(q), :, 2 * m + np.arange(q)] = 1
    basis, triangle = np.linalg.qr(design.transpose(1, 2, 0))
    volume = np.log(np.abs(triangle[:, np.arange(q), np.arange(q)])).sum(1)

    def left_of(rows: np.ndarray) -> np.ndarray:
        return rows - (basis @ (basis.swapaxes(1, 2) @ rows[..., None]))[..., 0]

    mean = left_of(unit(shown[0], q))
    table = []
    for shift in shifts:
        centred = seen.batch.image[image, :m].numpy().astype(complex) * np.exp(-2j * np.pi * k @ shift)
        whole = unit(centred, q)
        left = left_of(whole)
        amplitude = np.maximum((mean * left).sum(1) / (mean**2).sum(1), 0)
        table.append(0.5 * (whole @ whole - ((left - amplitude[:, None] * mean) ** 2).sum(1)) - volume)
    return np.array(table)


def shifts_of(plan: SearchPlan) -> np.ndarray:
    return shift_grid(plan.shift_pixel, shift_step(BOX, plan.levels[0].radius)).double().numpy()


@pytest.mark.parametrize("zdim", [0, 1, 2])
@pytest.mark.parametrize(("level", "few"), [(0, False), (1, False), (0, True)])
def test_the_first_level_tries_every_rotation_and_every_shift(blobs_of, zdim, level, few, monkeypatch):
    """Against loops over all of them; however the batch is split."""
    if few:
        monkeypatch.setattr(pose_search, "MAX_SCORES", 1)
    plan = SearchPlan((Level(level, 5.0, 7),), RANGE)
    maps = blobs_of.of(zdim=zdim, strength=25.0).maps()
    part = images_of(blobs_of.of(zdim=zdim, strength=25.0), 3, noise=1.0)
    found = first_level(part.batch, MapsOnGrid.of(maps, plan, disk=DISK, offset=OFFSET), plan, disk=DISK)
    shifts, rotation = shifts_of(plan), grid_rotations(level) @ OFFSET
    slices = slices_at(maps, rotation, 5.0)
    for image in range(3):
        table = scores(part, image, slices, shifts)
        best = table.max(0)
        np.testing.assert_allclose(found.score[image].numpy(), np.sort(best)[::-1][:7], rtol=1e-3)
        cell = int(found.cell[image, 0])
        assert best[cell] == pytest.approx(best.max(), rel=1e-3)
        np.testing.assert_allclose(found.shift[image, 0].numpy(), shifts[int(table[:, cell].argmax())], atol=1e-5)
        assert torch.allclose(found.rotation[image, 0], rotation[cell], atol=1e-6)
    assert found.step == pytest.approx(float(np.diff(np.unique(shifts[:, 0])).max()), rel=1e-5)


@pytest.mark.parametrize(
    ("banked", "few", "zdim"), [(True, False, 0), (True, False, 1), (False, False, 2), (False, True, 1)]
)
def test_with_all_beams_the_next_level_tries_all_children_of_all(blobs_of, banked, few, zdim, monkeypatch):
    """Every rotation of the finer grid, at nine shifts half a step apart about its parent's best."""
    monkeypatch.setattr(pose_search, "MAX_BANK", 1 << 25 if banked else 0)
    if few:
        monkeypatch.setattr(pose_search, "POINTS", 1)
    finer = Level(1, 6.0, 5)
    plan = SearchPlan((Level(0, 4.0, grid_size(0)), finer), RANGE)
    maps = blobs_of.of(zdim=zdim, strength=25.0).maps()
    part = images_of(blobs_of.of(zdim=zdim, strength=25.0), 2, noise=1.0)
    known = MapsOnGrid.of(maps, plan, disk=DISK, offset=OFFSET)
    assert (1 in known.banks) == banked
    before = first_level(part.batch, known, plan, disk=DISK)
    found = next_level(part.batch, known, before, level=finer, disk=DISK)
    slices = slices_at(maps, grid_rotations(1) @ OFFSET, 6.0)
    steps = np.array([(x, y) for x in (-1, 0, 1) for y in (-1, 0, 1)]) * before.step / 2
    assert found.step == pytest.approx(before.step / 2)
    for image in range(2):
        best, moved = np.full(grid_size(1), -np.inf), np.zeros((grid_size(1), 2))
        for cell, shift in zip(before.cell[image], before.shift[image].double(), strict=True):
            child, tried = children(cell, 0).numpy(), shift.numpy() + steps
            table = scores(part, image, slices[:, child], tried)
            best[child], moved[child] = table.max(0), tried[table.argmax(0)]
        assert np.isfinite(best).all()
        np.testing.assert_allclose(found.score[image].numpy(), np.sort(best)[::-1][:5], rtol=1e-3)
        for place in range(5):
            top = int(found.cell[image, place])
            assert best[top] == pytest.approx(float(found.score[image, place]), rel=1e-3)
            np.testing.assert_allclose(found.shift[image, place].numpy(), moved[top], atol=1e-5)


def turned_deg(found: FoundPoses, seen: Seen) -> torch.Tensor:
    return rotation_distance_deg(found.rotation, seen.rotation)


def away(found: FoundPoses, seen: Seen) -> torch.Tensor:
    return torch.linalg.vector_norm(found.shift - seen.shift, dim=1)


def test_known_poses_are_found_with_shifts_and_ctf(right, seen):
    assert float(turned_deg(right, seen).median()) < 2 and float(turned_deg(right, seen).max()) < 10
    assert float(away(right, seen).median()) < 0.1 and float(away(right, seen).max()) < 0.5
    # a shift of the wrong sign would be off by twice its length
    assert float((right.shift * seen.shift).sum() / seen.shift.square().sum()) == pytest.approx(1, abs=0.05)


def test_the_latent_points_are_found_along_with_the_poses(blobs_of):
    """And better poses for it than those that the mean alone finds."""
    blobs = blobs_of.of(zdim=1, strength=25.0)
    moving = images_of(blobs, 40, noise=1.0, seed=7)
    found, rigid = found_in(blobs.maps(), moving), found_in(blobs.maps()[:1], moving)
    assert found.z.shape == (40, 1) and rigid.z.shape == (40, 0)
    assert float(torch.corrcoef(torch.cat([found.z, moving.z], dim=1).T)[0, 1]) > 0.97
    assert float((found.z - moving.z).abs().median()) < 0.2
    assert float(turned_deg(found, moving).median()) < 0.5 * float(turned_deg(rigid, moving).median())
    assert bool((found.log_likelihood > rigid.log_likelihood - 5).all())


def true_slices(blobs, seen: Seen, k: np.ndarray) -> np.ndarray:
    return blobs.slices(seen.z.double().numpy(), seen.rotation.double().numpy(), k)


def test_the_likelihood_is_that_of_the_image_less_that_of_no_particle(blobs, right, seen):
    """`|X|^2 - |X - C S|^2 - |z|^2 / 2` of the true slice at the true pose: as good was found, within a few nats."""
    k = DISK.frequency.numpy() / BOX
    phase = np.exp(2j * np.pi * seen.shift.double().numpy() @ k.T)
    model = seen.batch.ctf.double().numpy() * true_slices(blobs, seen, k) * phase
    image = seen.batch.image.numpy()
    true = (np.abs(image) ** 2).sum(1) - (np.abs(image - model) ** 2).sum(1)
    true -= 0.5 * seen.z.double().square().sum(1).numpy()
    assert true.min() > 50
    gained = right.log_likelihood.numpy() - true
    # five or six parameters fitted to noise gain 2.5 or 3 nats on average
    assert gained.min() > -0.05 * true.max() and gained.max() < 15


@pytest.mark.parametrize("scale", [0.3, 3.0])
def test_a_dim_or_bright_map_finds_the_same(blobs, seen, right, scale):
    found = found_in(scale * blobs.maps(), seen)
    torch.testing.assert_close(found.z, right.z, atol=0.01, rtol=0)
    assert float(rotation_distance_deg(found.rotation, right.rotation).max()) < 0.1
    torch.testing.assert_close(found.shift, right.shift, atol=0.01, rtol=0)
    torch.testing.assert_close(found.log_likelihood, right.log_likelihood, atol=0.05, rtol=1e-3)


def test_the_mirror_image_explains_as_much_at_mirrored_poses(blobs, seen, right):
    """Along the beam a map and its mirror image look the same: no image tells the hand."""
    found = found_in(torch.stack([mirror(map) for map in blobs.maps()]), seen)
    less = (right.log_likelihood - found.log_likelihood) / right.log_likelihood
    assert float(less.abs().median()) < 0.01
    # the mirror image in the plane z = 0: about z by half a turn from that in the origin
    about = torch.diag(torch.tensor([1.0, 1.0, -1.0]))
    expected = about @ seen.rotation @ about
    assert float(rotation_distance_deg(found.rotation, expected).median()) < 1
    assert float(away(found, seen).median()) < 0.05


def test_polish_moves_perturbed_poses_to_the_truth(blobs, seen):
    """Off by 3 degrees and half a pixel; no image becomes less likely."""
    rng = np.random.default_rng(3)
    turn, moved = rng.normal(size=(40, 3)), rng.normal(size=(40, 2))
    turn *= np.radians(3) / np.linalg.norm(turn, axis=1, keepdims=True)
    moved *= 0.5 / np.linalg.norm(moved, axis=1, keepdims=True)
    rotation = torch.from_numpy(Rotation.from_rotvec(turn).as_matrix()).float() @ seen.rotation
    subspace = LinearSubspace(blobs.maps())
    start = FoundPoses.at(rotation, seen.shift + torch.from_numpy(moved).float(), subspace.zdim)
    stood, found = (polish(subspace, seen.batch, start, disk=DISK, steps=steps) for steps in (0, 4))
    torch.testing.assert_close(stood.rotation, start.rotation)
    torch.testing.assert_close(stood.shift, start.shift)
    assert bool((found.log_likelihood >= stood.log_likelihood - 1e-2).all())
    assert float((found.log_likelihood - stood.log_likelihood).median()) > 5
    assert float(turned_deg(found, seen).median()) < 1.5 and float(away(found, seen).median()) < 0.08
    assert bool(((found.z - seen.z).abs() < 0.6).all())
    # what the caller gave is not written into
    assert torch.equal(start.rotation, rotation) and not start.z.any()


def test_without_noise_polish_is_exact(blobs):
    """As exact as slices interpolated from a map are, and the one scale that all images share."""
    clean = images_of(blobs, 20, noise=0.0, seed=4)
    turn = Rotation.random(20, random_state=1).as_rotvec()
    turn *= np.radians(2) / np.linalg.norm(turn, axis=1, keepdims=True)
    rotation = torch.from_numpy(Rotation.from_rotvec(turn).as_matrix()).float() @ clean.rotation
    subspace = LinearSubspace(blobs.maps())
    found = polish(subspace, clean.batch, FoundPoses.at(rotation, clean.shift + 0.3, subspace.zdim), disk=DISK, steps=8)
    assert float(turned_deg(found, clean).median()) < 0.8 and float(away(found, clean).median()) < 0.02


def test_the_likelihood_counts_the_prior_of_the_latent_point(blobs_of):
    """Slices at z = 3 and z = -3, of scale 1: the least of `P (z - 3)^2 / 2 + z^2 / 2`, `P = 2 <C^2, |S_1|^2>`."""
    subspace = LinearSubspace(blobs_of.of(zdim=1, strength=1.0).maps())
    rotation = random_rotations(10, torch.Generator().manual_seed(1)).repeat(2, 1, 1)
    mean, ahead = (subspace.slices(torch.full((20, 1), z), rotation, DISK) for z in (0.0, 1.0))
    sign = torch.tensor([3.0, -3.0]).repeat_interleave(10)
    image = mean + sign[:, None] * (ahead - mean)
    batch = Batch(torch.arange(20), image, torch.ones(20, DISK.size), rotation)
    found = polish(subspace, batch, FoundPoses.at(rotation, torch.zeros(20, 2), 1), disk=DISK, steps=0)
    power = 2 * (ahead - mean).abs().double().square().sum(1)
    torch.testing.assert_close(found.z[:, 0].double(), sign * power / (1 + power), atol=2e-3, rtol=0)
    expected = image.abs().double().square().sum(1) - 4.5 * power / (1 + power)
    torch.testing.assert_close(found.log_likelihood.double(), expected, atol=0.05, rtol=0)


@pytest.mark.parametrize("zdim", [0, 1])
def test_the_true_cell_stays_in_the_race(blobs_of, zdim):
    """A noise that hides most of the particle: at each level a candidate within one step of the grid from the truth."""
    faint = blobs_of.of(zdim=zdim, strength=8.0)
    noisy = images_of(faint, 100, noise=1.0, seed=6)
    known = MapsOnGrid.of(faint.maps(), PLAN, disk=DISK, offset=OFFSET)
    candidates = first_level(noisy.batch, known, PLAN, disk=DISK)
    for level in PLAN.levels:
        if level is not PLAN.levels[0]:
            candidates = next_level(noisy.batch, known, candidates, level=level, disk=DISK)
        count = candidates.cell.shape[1]
        assert count == level.beams and candidates.level == level.grid
        assert bool((candidates.score.diff(dim=1) <= 0).all())
        true = noisy.rotation[:, None].expand(-1, count, -1, -1)
        off = rotation_distance_deg(candidates.rotation.flatten(0, 1), true.flatten(0, 1)).view(-1, count)
        assert float((off.min(1).values < 1.3 * grid_spacing_deg(level.grid)).double().mean()) > 0.95


def test_of_the_candidates_that_are_polished_the_best_is_kept(blobs, seen):
    """Each by itself, then the most likely of each image."""
    batch, subspace = seen.batch.rows(slice(0, 20)), LinearSubspace(blobs.maps())
    found = search_poses(subspace, [batch], PLAN, disk=DISK, offset=OFFSET)
    known = MapsOnGrid.of(blobs.maps(), PLAN, disk=DISK, offset=OFFSET)
    candidates = first_level(batch, known, PLAN, disk=DISK)
    for level in PLAN.levels[1:]:
        candidates = next_level(batch, known, candidates, level=level, disk=DISK)
    starts = [
        FoundPoses.at(candidates.rotation[:, place], candidates.shift[:, place], subspace.zdim)
        for place in range(PLAN.polished)
    ]
    each = [polish(subspace, batch, start, disk=DISK, steps=PLAN.steps) for start in starts]
    assert float((each[0].log_likelihood - each[1].log_likelihood).abs().max()) > 0.1
    torch.testing.assert_close(found.log_likelihood, torch.maximum(*(one.log_likelihood for one in each)))
    second = (each[1].log_likelihood > each[0].log_likelihood)[:, None]
    torch.testing.assert_close(found.shift, torch.where(second, each[1].shift, each[0].shift))
    torch.testing.assert_close(found.z, torch.where(second, each[1].z, each[0].z))


def test_no_shifts_are_tried_where_particles_are_centred(blobs, seen):
    centred = images_of(blobs, 10, noise=1.0, seed=9)
    k = DISK.frequency / BOX
    angle = -2 * torch.pi * centred.shift @ k.T
    image = centred.batch.image * torch.complex(angle.cos(), angle.sin())
    still = replace(centred, batch=replace(centred.batch, image=image), shift=torch.zeros(10, 2))
    plan = replace(PLAN, shift_pixel=0.0, steps=0)
    found = found_in(blobs.maps(), still, plan)
    assert torch.equal(found.shift, torch.zeros(10, 2))
    assert float(turned_deg(found, still).median()) < 4


def test_given_poses_begin_at_the_middle_of_the_latent_space(seen):
    given = FoundPoses.at(seen.rotation, seen.shift, 3)
    assert torch.equal(given.rotation, seen.rotation) and torch.equal(given.shift, seen.shift)
    assert torch.equal(given.z, torch.zeros(40, 3)) and torch.equal(given.log_likelihood, torch.zeros(40))
    both = FoundPoses.cat([given, given])
    assert both.z.shape == (80, 3) and torch.equal(both.rotation[40:], seen.rotation)


@pytest.mark.parametrize(("box", "last"), [(32, 10.0), (64, 20.0), (128, 30.0), (64, 5.0)])
def test_the_usual_plan_widens_the_band_with_the_grid(box, last):
    plan = usual_plan(box, last)
    bands, beams = [level.radius for level in plan.levels], [level.beams for level in plan.levels]
    assert [level.grid for level in plan.levels] == [1, 2, 3]
    assert bands == sorted(bands) and bands[-1] == last
    assert beams == sorted(beams, reverse=True) and beams[-1] >= plan.polished
    assert plan.shift_pixel == pytest.approx(0.08 * box)
