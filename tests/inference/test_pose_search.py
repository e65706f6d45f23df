"""Branch and bound against exhaustive loops, and against the poses that images of Gaussian blobs were made at."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from cryomorph.inference import pose_search
from cryomorph.inference.pose_search import (
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
from cryomorph.inference.slice_bank import shift_grid, shift_step
from cryomorph.particles.store import Batch
from cryomorph.physics.ctf import Ctf, evaluate_ctf
from cryomorph.physics.disk import fourier_disk
from cryomorph.physics.pose import random_rotations, rotation_distance_deg
from cryomorph.physics.slicing import locate_slices, padded_grid
from cryomorph.physics.so3_grid import children, grid_rotations, grid_size, grid_spacing_deg
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
    image = ctf.numpy() * blobs.slices(np.zeros((n, 0)), rotation, k) * np.exp(2j * np.pi * shift @ k.T)
    image += noise * (rng.normal(size=image.shape) + 1j * rng.normal(size=image.shape)) / np.sqrt(2)
    # the batch's own rotations must not be looked at
    nowhere = random_rotations(n, torch.Generator().manual_seed(seed + 100))
    batch = Batch(torch.arange(n), torch.from_numpy(image).to(torch.complex64), ctf, nowhere)
    return Seen(batch, torch.from_numpy(rotation).float(), torch.from_numpy(shift).float())


@pytest.fixture(scope="module")
def blobs(blobs_of):
    return blobs_of.of(zdim=0, strength=25.0)


@pytest.fixture(scope="module")
def seen(blobs) -> Seen:
    """Noise of variance 1 that is well below the particle."""
    return images_of(blobs, 40, noise=1.0)


@pytest.fixture(scope="module")
def two_maps(blobs_of, blobs) -> torch.Tensor:
    return torch.cat([blobs.maps(), blobs_of.of(zdim=0, strength=25.0, seed=5).maps()])


@pytest.fixture(autouse=True)
def small_banks(monkeypatch):
    """The finest level is interpolated: its bank takes longer to make than it saves on a few images."""
    monkeypatch.setattr(pose_search, "BANK", 1 << 21)


def found_in(maps: torch.Tensor, seen: Seen, plan: SearchPlan = PLAN) -> FoundPoses:
    return search_poses(maps, seen.batch.split(25), plan, disk=DISK, offset=OFFSET)


@pytest.fixture(scope="module")
def right(blobs, seen) -> FoundPoses:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pose_search, "BANK", 1 << 21)
        return found_in(blobs.maps(), seen)


def slices_at(map: torch.Tensor, rotation: torch.Tensor, band: float) -> np.ndarray:
    """Slices of a map one by one, in double precision from here on."""
    grid = padded_grid(BOX)
    located = locate_slices(grid, DISK.within(band).frequency, rotation)
    return located.extract(grid.from_volumes(map[None]))[..., 0].numpy().astype(complex)


def scores(seen: Seen, image: int, slices: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    """What each slice explains of an image at each shift: `(<X, C S>_+)^2 / |C S|^2`; (shifts, slices)."""
    m = slices.shape[1]
    k = DISK.frequency[:m].numpy() / BOX
    ctf = seen.batch.ctf[image, :m].double().numpy()
    shown = ctf * slices
    norm = (np.abs(shown) ** 2).sum(1)
    table = []
    for shift in shifts:
        centred = seen.batch.image[image, :m].numpy().astype(complex) * np.exp(-2j * np.pi * k @ shift)
        table.append(np.maximum((shown.conj() @ centred).real, 0) ** 2 / norm)
    return np.array(table)


def shifts_of(plan: SearchPlan) -> np.ndarray:
    return shift_grid(plan.shift_pixel, shift_step(BOX, plan.levels[0].band)).double().numpy()


@pytest.mark.parametrize(("level", "few"), [(0, False), (1, False), (0, True)])
def test_the_first_level_tries_every_rotation_and_every_shift(two_maps, seen, level, few, monkeypatch):
    """Against loops over all of them, two maps; however the batch is split."""
    if few:
        monkeypatch.setattr(pose_search, "SCORES", 1)
    plan = SearchPlan((Level(level, 5.0, 7),), RANGE)
    part = Seen(seen.batch.rows(slice(0, 3)), seen.rotation[:3], seen.shift[:3])
    found = first_level(part.batch, MapsOnGrid.of(two_maps, plan, disk=DISK, offset=OFFSET), plan, disk=DISK)
    shifts, rotation = shifts_of(plan), grid_rotations(level) @ OFFSET
    for image in range(3):
        table = np.stack([scores(part, image, slices_at(map, rotation, 5.0), shifts) for map in two_maps])
        best = table.max(1)  # (maps, rotations)
        expected = np.sort(best.ravel())[::-1][:7]
        np.testing.assert_allclose(found.score[image].numpy(), expected, rtol=1e-3)
        one, cell = int(found.reference[image, 0]), int(found.cell[image, 0])
        assert best[one, cell] == pytest.approx(best.max(), rel=1e-3)
        at = shifts[int(table[one, :, cell].argmax())]
        np.testing.assert_allclose(found.shift[image, 0].numpy(), at, atol=1e-5)
        assert torch.allclose(found.rotation[image, 0], rotation[cell], atol=1e-6)
    assert found.step == pytest.approx(float(np.diff(np.unique(shifts[:, 0])).max()), rel=1e-5)


@pytest.mark.parametrize(("banked", "few"), [(True, False), (False, False), (False, True)])
def test_with_all_beams_the_next_level_tries_all_children_of_all(two_maps, seen, banked, few, monkeypatch):
    """Every rotation of the finer grid for both maps, at nine shifts half a step apart about its parent's best."""
    monkeypatch.setattr(pose_search, "BANK", 1 << 25 if banked else 0)
    if few:
        monkeypatch.setattr(pose_search, "POINTS", 1)
    finer = Level(1, 6.0, 5)
    plan = SearchPlan((Level(0, 4.0, 2 * grid_size(0)), finer), RANGE)
    part = Seen(seen.batch.rows(slice(3, 5)), seen.rotation[3:5], seen.shift[3:5])
    known = MapsOnGrid.of(two_maps, plan, disk=DISK, offset=OFFSET)
    assert (1 in known.banks) == banked
    before = first_level(part.batch, known, plan, disk=DISK)
    found = next_level(part.batch, known, before, level=finer, disk=DISK)
    slices = [slices_at(map, grid_rotations(1) @ OFFSET, 6.0) for map in two_maps]
    steps = np.array([(x, y) for x in (-1, 0, 1) for y in (-1, 0, 1)]) * before.step / 2
    assert found.step == pytest.approx(before.step / 2)
    for image in range(2):
        best = np.full((2, grid_size(1)), -1.0)
        moved = np.zeros((2, grid_size(1), 2))
        parents = zip(before.reference[image].tolist(), before.cell[image], before.shift[image].double(), strict=True)
        for one, cell, shift in parents:
            child, tried = children(cell, 0).numpy(), shift.numpy() + steps
            table = scores(part, image, slices[one][child], tried)
            best[one, child], moved[one, child] = table.max(0), tried[table.argmax(0)]
        assert (best >= 0).all()
        np.testing.assert_allclose(found.score[image].numpy(), np.sort(best.ravel())[::-1][:5], rtol=1e-3)
        for place in range(5):
            top = int(found.reference[image, place]), int(found.cell[image, place])
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
    assert (right.reference == 0).all()


def test_the_likelihood_is_that_of_the_image_less_that_of_no_particle(blobs, right, seen):
    """`|X|^2 - |X - C S|^2` of the true slice at the true pose: what was found is as good, within a few nats."""
    k = DISK.frequency.numpy() / BOX
    phase = np.exp(2j * np.pi * seen.shift.double().numpy() @ k.T)
    model = seen.batch.ctf.double().numpy() * blobs.slices(np.zeros((40, 0)), seen.rotation.double().numpy(), k) * phase
    image = seen.batch.image.numpy()
    true = (np.abs(image) ** 2).sum(1) - (np.abs(image - model) ** 2).sum(1)
    assert true.min() > 50
    gained = right.log_likelihood.numpy() - true
    # five parameters fitted to noise gain 2.5 nats on average
    assert gained.min() > -0.05 * true.max() and gained.max() < 15


@pytest.mark.parametrize("scale", [0.3, 3.0])
def test_a_dim_or_bright_map_finds_the_same(blobs, seen, right, scale):
    found = found_in(scale * blobs.maps(), seen)
    assert float(rotation_distance_deg(found.rotation, right.rotation).max()) < 0.1
    torch.testing.assert_close(found.shift, right.shift, atol=0.01, rtol=0)
    torch.testing.assert_close(found.log_likelihood, right.log_likelihood, atol=0.05, rtol=1e-3)


def test_the_mirror_image_explains_as_much_at_mirrored_poses(blobs, seen, right):
    """Along the beam a map and its mirror image look the same: no image tells the hand."""
    found = found_in(mirror(blobs.maps()[0])[None], seen)
    less = (right.log_likelihood - found.log_likelihood) / right.log_likelihood
    assert float(less.abs().median()) < 0.01
    # the mirror image in the plane z = 0: about z by half a turn from that in the origin
    about = torch.diag(torch.tensor([1.0, 1.0, -1.0]))
    expected = about @ seen.rotation @ about
    assert float(rotation_distance_deg(found.rotation, expected).median()) < 1
    assert float(away(found, seen).median()) < 0.05


def test_each_image_finds_its_own_of_two_maps(blobs_of, blobs, seen):
    """Also where one map is much dimmer than the other."""
    other = blobs_of.of(zdim=0, strength=25.0, seed=5)
    second = images_of(other, 15, noise=1.0, seed=2)
    first = Seen(seen.batch.rows(slice(0, 15)), seen.rotation[:15], seen.shift[:15])
    both = Batch(
        torch.arange(30),
        *(torch.cat([getattr(s.batch, name) for s in (first, second)]) for name in ("image", "ctf", "rotation")),
    )
    truth = Seen(both, torch.cat([first.rotation, second.rotation]), torch.cat([first.shift, second.shift]))
    own = torch.arange(30) // 15
    for scale in (1.0, 0.2):
        found = found_in(torch.stack([blobs.maps()[0], scale * other.maps()[0]]), truth)
        assert torch.equal(found.reference, own)
        assert float(turned_deg(found, truth).median()) < 2


def test_polish_moves_perturbed_poses_to_the_truth(blobs, seen):
    """Off by 3 degrees and half a pixel; no image becomes less likely."""
    rng = np.random.default_rng(3)
    turn, moved = rng.normal(size=(40, 3)), rng.normal(size=(40, 2))
    turn *= np.radians(3) / np.linalg.norm(turn, axis=1, keepdims=True)
    moved *= 0.5 / np.linalg.norm(moved, axis=1, keepdims=True)
    rotation = torch.from_numpy(Rotation.from_rotvec(turn).as_matrix()).float() @ seen.rotation
    nothing = torch.zeros(40)
    start = FoundPoses(rotation, seen.shift + torch.from_numpy(moved).float(), nothing, nothing.long())
    subspaces = [LinearSubspace(blobs.maps())]
    stood, found = (polish(subspaces, seen.batch, start, disk=DISK, steps=steps) for steps in (0, 4))
    torch.testing.assert_close(stood.rotation, start.rotation)
    torch.testing.assert_close(stood.shift, start.shift)
    assert bool((found.log_likelihood >= stood.log_likelihood - 1e-2).all())
    assert float((found.log_likelihood - stood.log_likelihood).median()) > 5
    assert float(turned_deg(found, seen).median()) < 1.5 and float(away(found, seen).median()) < 0.08
    # what the caller gave is not written into
    assert torch.equal(start.rotation, rotation)


def test_without_noise_polish_is_exact(blobs):
    """As exact as slices interpolated from a map are."""
    clean = images_of(blobs, 20, noise=0.0, seed=4)
    turn = Rotation.random(20, random_state=1).as_rotvec()
    turn *= np.radians(2) / np.linalg.norm(turn, axis=1, keepdims=True)
    rotation = torch.from_numpy(Rotation.from_rotvec(turn).as_matrix()).float() @ clean.rotation
    nothing = torch.zeros(20)
    start = FoundPoses(rotation, clean.shift + 0.3, nothing, nothing.long())
    found = polish([LinearSubspace(blobs.maps())], clean.batch, start, disk=DISK, steps=8)
    assert float(turned_deg(found, clean).median()) < 0.8 and float(away(found, clean).median()) < 0.02


def test_the_true_cell_stays_in_the_race(blobs_of):
    """A noise that hides most of the particle: at each level a candidate within one step of the grid from the truth."""
    faint = blobs_of.of(zdim=0, strength=8.0)
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
    batch = seen.batch.rows(slice(0, 20))
    found = search_poses(blobs.maps(), [batch], PLAN, disk=DISK, offset=OFFSET)
    known = MapsOnGrid.of(blobs.maps(), PLAN, disk=DISK, offset=OFFSET)
    candidates = first_level(batch, known, PLAN, disk=DISK)
    for level in PLAN.levels[1:]:
        candidates = next_level(batch, known, candidates, level=level, disk=DISK)
    nothing = torch.zeros(20)
    each = [
        polish(
            [LinearSubspace(blobs.maps())],
            batch,
            FoundPoses(candidates.rotation[:, place], candidates.shift[:, place], nothing, nothing.long()),
            disk=DISK,
            steps=PLAN.steps,
        )
        for place in range(PLAN.polished)
    ]
    assert float((each[0].log_likelihood - each[1].log_likelihood).abs().max()) > 0.1
    torch.testing.assert_close(found.log_likelihood, torch.maximum(*(one.log_likelihood for one in each)))
    kept = torch.where((each[1].log_likelihood > each[0].log_likelihood)[:, None], each[1].shift, each[0].shift)
    torch.testing.assert_close(found.shift, kept)


def test_no_shifts_are_tried_where_particles_are_centred(blobs, seen):
    centred = images_of(blobs, 10, noise=1.0, seed=9)
    k = DISK.frequency / BOX
    angle = -2 * torch.pi * centred.shift @ k.T
    image = centred.batch.image * torch.complex(angle.cos(), angle.sin())
    still = Seen(replace(centred.batch, image=image), centred.rotation, torch.zeros(10, 2))
    plan = replace(PLAN, shift_pixel=0.0, steps=0)
    found = found_in(blobs.maps(), still, plan)
    assert torch.equal(found.shift, torch.zeros(10, 2))
    assert float(turned_deg(found, still).median()) < 4


@pytest.mark.parametrize(("box", "last"), [(32, 10.0), (64, 20.0), (128, 30.0), (64, 5.0)])
def test_the_usual_plan_widens_the_band_with_the_grid(box, last):
    plan = usual_plan(box, last)
    bands, beams = [level.band for level in plan.levels], [level.beams for level in plan.levels]
    assert [level.grid for level in plan.levels] == [1, 2, 3]
    assert bands == sorted(bands) and bands[-1] == last
    assert beams == sorted(beams, reverse=True) and beams[-1] >= plan.polished
    assert plan.shift_pixel == pytest.approx(0.08 * box)
