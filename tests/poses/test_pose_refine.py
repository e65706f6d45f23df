"""Poses refined with a prior that all particles tell together: found where they are off, left where they are right.

By one model of all particles, and by half sets' models of each other's.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from scipy.stats import multivariate_normal

from cryomorph.encoders.poses import PoseTable
from cryomorph.encoders.table import TableEncoder
from cryomorph.models.heterogeneous import Heterogeneous
from cryomorph.physics.disk import fourier_disk
from cryomorph.poses import refine as pose_refine
from cryomorph.poses.refine import (
    WEAK_PRIOR,
    WIDTHS,
    Offsets,
    prior_width,
    refine_poses,
    shared_width,
    shrink,
)

BOX = 16
GRID = torch.logspace(-3, 1, 161)


def offsets(width: float, *, n: int = 3000, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Draws of `N(0, C + width^2)` with a covariance C of its own for each."""
    rng = np.random.default_rng(seed)
    half = rng.normal(size=(n, 3, 3)) * rng.uniform(0.2, 0.6, (n, 1, 1))
    covariance = half @ half.transpose(0, 2, 1) + 0.01 * np.eye(3)
    whole = np.linalg.cholesky(covariance + width**2 * np.eye(3))
    drawn = np.einsum("nij,nj->ni", whole, rng.normal(size=(n, 3)))
    return torch.from_numpy(drawn).float(), torch.from_numpy(covariance).float()


@pytest.mark.parametrize("width", [0.2, 1.0, 3.0])
def test_the_width_of_simulated_offsets_is_found(width):
    assert prior_width(*offsets(width), GRID) == pytest.approx(width, rel=0.1)


def test_offsets_that_their_covariance_explains_have_no_width():
    assert prior_width(*offsets(0.0), GRID) < 0.06


def test_the_width_is_the_most_likely_one():
    offset, covariance = offsets(0.5, n=40, seed=1)
    widths = torch.logspace(-1, 0.5, 16)
    likelihood = [
        sum(
            multivariate_normal.logpdf(e, cov=c + w**2 * np.eye(3))
            for e, c in zip(offset.double().numpy(), covariance.double().numpy(), strict=True)
        )
        for w in widths.double().numpy()
    ]
    assert prior_width(offset, covariance, widths) == pytest.approx(float(widths[int(np.argmax(likelihood))]))


def test_two_processes_find_the_width_of_all_particles_together():
    offset, covariance = offsets(0.7, n=400)
    offset[200:] *= 4
    whole = prior_width(offset, covariance, GRID)
    seen: list[torch.Tensor] = []

    def keep(likelihood: torch.Tensor) -> torch.Tensor:
        seen.append(likelihood)
        return likelihood

    alone = prior_width(offset[200:], covariance[200:], GRID, all_reduce_sum=keep)
    first = prior_width(offset[:200], covariance[:200], GRID, all_reduce_sum=lambda likelihood: likelihood + seen[0])
    assert first == whole
    assert alone != whole


def test_offsets_are_shrunk_by_the_formula_with_the_most_likely_width():
    """In double precision, the widths by scipy; particles in any order, and rows of others stay."""
    rng = np.random.default_rng(4)
    scale = np.array([0.04] * 3 + [0.6] * 2)
    half = scale[:, None] * rng.normal(size=(41, 5, 5)) * rng.uniform(0.2, 0.6, (41, 1, 1))
    covariance = half @ half.transpose(0, 2, 1) + np.diag(0.01 * scale**2)
    best = rng.normal(size=(41, 5)) * 1.2 * scale
    particle = rng.permutation(60)[:41]
    poses = PoseTable(60)
    poses.offset += 7
    # both halves of the coefficients say the same: no bound on the width
    flat = (best, covariance, np.stack([best, best]), np.ones_like(best))
    tensors = (torch.from_numpy(array).float() for array in flat)
    facts = shrink(poses, Offsets(torch.from_numpy(particle), *tensors))

    names = ("rotation_deg", "shift_pixel")
    for name, part, weak, unit in zip(names, (slice(3), slice(3, 5)), WEAK_PRIOR, (180 / np.pi, 1), strict=True):
        e, c = best[:, part], covariance[:, part, part]
        eye = np.eye(e.shape[1])
        widths = weak * WIDTHS.double().numpy()
        likelihood = [sum(map(lambda a, b: multivariate_normal.logpdf(a, cov=b), e, c + w**2 * eye)) for w in widths]
        w = widths[np.argmax(likelihood)]
        assert 0.3 < w / scale[part][0] < 3
        expected = np.stack([w**2 * np.linalg.solve(w**2 * eye + b, a) for a, b in zip(e, c, strict=True)])
        np.testing.assert_allclose(poses.offset[particle, part].numpy(), expected, rtol=1e-3, atol=1e-5)
        assert facts[f"{name}_prior"] == pytest.approx(w * unit, rel=1e-5)
        assert facts[f"{name}_median"] == pytest.approx(np.median(np.linalg.norm(expected, axis=1)) * unit, rel=1e-4)
    others = np.setdiff1d(np.arange(60), particle)
    assert (poses.offset[others] == 7).all()


@pytest.mark.parametrize("width", [0.2, 1.0])
def test_what_two_halves_agree_on_is_the_width_whatever_their_noise(width):
    """A prior that keeps 0.6 and 0.8 of an offset in the halves."""
    rng = np.random.default_rng(2)
    n, part = 60_000, slice(0, 3)
    noise = rng.uniform(0.5, 2.0, n)
    truth = width * rng.normal(size=(n, 5))
    split = np.stack([0.6 * truth, 0.8 * truth]) + noise[:, None] * rng.normal(size=(2, n, 5))
    trust = torch.from_numpy(noise**-4.0)

    def seen(split: np.ndarray, rows: slice = slice(None)) -> Offsets:
        count = len(noise[rows])
        kept = torch.full((count, 5), 0.48)
        none = torch.zeros(count, 5)
        both = torch.from_numpy(split[:, rows]).float()
        return Offsets(torch.arange(count), none, none[..., None] * none[:, None], both, kept)

    assert shared_width(seen(split), part, trust) == pytest.approx(width, rel=0.1)
    assert shared_width(seen(split - np.stack([0.6 * truth, 0.8 * truth])), part, trust) < 0.15
    assert shared_width(seen(np.stack([split[0], -split[0]])), part, trust) == 0
    sums: list[torch.Tensor] = []
    first, second = slice(0, 9000), slice(9000, None)
    shared_width(seen(split, first), part, trust[first], all_reduce_sum=lambda value: sums.append(value) or value)
    held = iter(sums)
    together = shared_width(seen(split, second), part, trust[second], all_reduce_sum=lambda value: value + next(held))
    assert together == pytest.approx(shared_width(seen(split), part, trust))


def test_offsets_that_come_from_faulty_maps_are_not_believed():
    """Spread three times as far as the image's noise explains, but each half of the coefficients in its own way."""
    rng = np.random.default_rng(5)
    n, scale = 5000, np.array([0.03] * 3 + [0.3] * 2)
    covariance = np.broadcast_to(np.diag(scale**2), (n, 5, 5))
    split = 3 * 2**0.5 * scale * rng.normal(size=(2, n, 5))
    given = (split.mean(0), covariance, split)
    poses = PoseTable(n)
    whole = torch.ones(n, 5)
    found = Offsets(torch.arange(n), *(torch.from_numpy(a.copy()).float() for a in given), whole)
    assert prior_width(found.best[:, :3], found.covariance[:, :3, :3], GRID) > 0.07
    facts = shrink(poses, found)
    assert facts["rotation_deg_median"] < 0.15 * np.degrees(np.median(np.linalg.norm(given[0][:, :3], axis=1)))
    assert facts["shift_pixel_median"] < 0.15 * np.median(np.linalg.norm(given[0][:, 3:], axis=1))


def refined(blobs, made, subset=None, *, times: int = 1, encoder=None) -> tuple[Heterogeneous, dict[str, float]]:
    """The model after its poses were refined, and the facts of the last pass."""
    n, zdim = len(made.store), made.z.shape[1]
    if encoder is None and zdim:
        encoder = TableEncoder(torch.from_numpy(made.z).float(), torch.full((n, zdim), 0.1))
    disk = made.store.disk
    model = Heterogeneous(
        blobs.representation(),
        encoder,
        prior_std=torch.ones(zdim),
        whitening=torch.ones(disk.size),
        poses=PoseTable(n),
    )
    everything = torch.arange(n) if subset is None else subset
    for _ in range(times):
        facts = refine_poses(model, made.store, everything, disk=disk)
    return model, facts


def errors(poses: PoseTable, made) -> tuple[np.ndarray, np.ndarray]:
    """Degrees and pixels by which the refined poses are off the true ones."""
    pose = poses.corrected(made.store.pose, made.store.pixel_A)
    turn = Rotation.from_matrix(pose.rotation.double().numpy()) * Rotation.from_matrix(made.rotation).inv()
    shift = pose.shift_A.numpy() / made.store.pixel_A - made.shift_px
    return np.degrees(turn.magnitude()), np.linalg.norm(shift, axis=1)


def perturbation(n: int, degrees: float, pixels: float) -> np.ndarray:
    """Random offsets of given median sizes."""
    drawn = np.random.default_rng(9).normal(size=(n, 5))
    drawn[:, :3] *= np.radians(degrees) / np.median(np.linalg.norm(drawn[:, :3], axis=1))
    drawn[:, 3:] *= pixels / np.median(np.linalg.norm(drawn[:, 3:], axis=1))
    return drawn


@pytest.mark.parametrize("zdim", [0, 2])
def test_the_error_of_perturbed_poses_is_halved(blobs_of, simulated, tmp_path, zdim):
    """3 degrees and 1 pixel in the median, a good model, and as many passes as epochs of a short training."""
    blobs = blobs_of.of(zdim=zdim, strength=8.0)
    made = simulated(blobs, tmp_path / "store", n=200, offset=perturbation(200, 3.0, 1.0))
    model, _ = refined(blobs, made, times=3)
    turn, shift = errors(model.poses, made)
    assert np.median(turn) < 1.5
    assert np.median(shift) < 0.1


def test_one_pass_finds_how_far_the_poses_are_off(blobs_of, simulated, tmp_path):
    drawn = perturbation(200, 1.0, 0.25)
    blobs = blobs_of.of(zdim=1, strength=8.0)
    made = simulated(blobs, tmp_path / "store", n=200, offset=drawn)
    model, facts = refined(blobs, made)
    turn, shift = errors(model.poses, made)
    assert np.median(turn) < 0.7
    assert np.median(shift) < 0.06
    assert facts["rotation_deg_prior"] == pytest.approx(np.degrees(drawn[:, :3].std()), rel=0.2)
    assert facts["shift_pixel_prior"] == pytest.approx(drawn[:, 3:].std(), rel=0.2)
    found = model.poses.offset
    assert facts["rotation_deg_median"] == pytest.approx(np.degrees(float(found[:, :3].norm(dim=1).median())), rel=1e-5)
    assert facts["shift_pixel_median"] == pytest.approx(float(found[:, 3:].norm(dim=1).median()), rel=1e-5)


def test_a_second_pass_goes_on_from_the_first(blobs_of, simulated, tmp_path, monkeypatch):
    """With a single step a pass, so that one is not the whole way."""
    monkeypatch.setattr(pose_refine, "ITERATIONS", 1)
    blobs = blobs_of.of(zdim=0, strength=40.0)
    made = simulated(blobs, tmp_path / "store", n=100, offset=perturbation(100, 2.0, 0.5))
    once, twice = (errors(refined(blobs, made, times=times)[0].poses, made) for times in (1, 2))
    assert np.median(twice[0]) < 0.5 * np.median(once[0]) < 1.0
    assert np.median(twice[1]) < 0.5 * np.median(once[1]) < 0.1


def test_true_poses_stay_where_they_are_at_low_signal(blobs_of, simulated, tmp_path):
    """Each image alone says its pose to several degrees only; together they say that the poses were right."""
    blobs = blobs_of.of(zdim=2, strength=2.0)
    made = simulated(blobs, tmp_path / "store", n=500)
    model, facts = refined(blobs, made, times=2)
    turn, shift = errors(model.poses, made)
    assert np.median(turn) < 0.3
    assert np.median(shift) < 0.1
    assert facts["rotation_deg_prior"] < 0.5
    # without that prior they would have gone astray
    alone = np.degrees(np.sqrt(3) * single_image_width(blobs, made))
    assert alone > 3


def single_image_width(blobs, made) -> float:
    """Median uncertainty in radians of the turn about one axis from one image, by finite differences."""
    k = fourier_disk(BOX).frequency.numpy() / BOX
    parts = []
    for axis in 1e-4 * np.eye(3):
        ahead, behind = (
            blobs.slices(made.z, Rotation.from_rotvec(v).as_matrix() @ made.rotation, k) for v in (axis, -axis)
        )
        parts.append((ahead - behind) / 2e-4)
    slope = np.stack(parts, axis=-1)
    information = 2 * np.einsum("bmp,bmq->bpq", slope.conj(), slope).real
    return float(np.median(np.sqrt(np.linalg.inv(information).diagonal(axis1=1, axis2=2))))


def test_particles_outside_the_subset_do_not_move(blobs_of, simulated, tmp_path):
    blobs = blobs_of.of(zdim=1, strength=12.0)
    made = simulated(blobs, tmp_path / "store", n=60, offset=perturbation(60, 3.0, 1.0))
    subset = torch.tensor([1, 2, 5, 40, 59])
    model, _ = refined(blobs, made, subset)
    moved = (model.poses.offset != 0).any(1)
    assert torch.equal(moved.nonzero()[:, 0], subset)
    turn, _ = errors(model.poses, made)
    before = np.degrees(np.linalg.norm(perturbation(60, 3.0, 1.0)[:, :3], axis=1))
    np.testing.assert_allclose(turn[~moved.numpy()], before[~moved.numpy()], atol=0.05)


def test_a_model_without_a_table_of_poses_is_refused(blobs_of, simulated, tmp_path):
    blobs = blobs_of.of(zdim=0, strength=1.0)
    made = simulated(blobs, tmp_path / "store", n=4)
    disk = made.store.disk
    model = Heterogeneous(blobs.representation(), None, prior_std=torch.ones(0), whitening=torch.ones(disk.size))
    with pytest.raises(ValueError, match="no table of poses"):
        refine_poses(model, made.store, torch.arange(4), disk=disk)


def test_the_widths_looked_at_hold_every_offset_that_can_be_believed():
    rotation, shift = WEAK_PRIOR[0] * WIDTHS, WEAK_PRIOR[1] * WIDTHS
    assert np.degrees(float(rotation[0])) < 0.01
    assert np.degrees(float(rotation[-1])) > 5
    assert float(shift[0]) < 0.01
    assert float(shift[-1]) > 2
