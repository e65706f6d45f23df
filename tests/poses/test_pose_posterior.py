"""Latent points averaged over poses: against mixtures of Gaussians in double precision, symmetry, and known points."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from cryomorph.particles.store import Batch
from cryomorph.physics.disk import fourier_disk
from cryomorph.physics.pose import random_rotations
from cryomorph.physics.slicing import locate_slices, padded_grid
from cryomorph.physics.so3_grid import grid_rotations, grid_size
from cryomorph.poses import posterior as pose_posterior
from cryomorph.poses import search as pose_search
from cryomorph.poses.posterior import MarginalLatents, marginal_latents
from cryomorph.poses.search import Level, SearchPlan
from cryomorph.poses.slice_bank import shift_grid, shift_step
from cryomorph.representations.linear import LinearSubspace

BOX, RANGE = 16, 1.2
DISK = fourier_disk(BOX)
OFFSET = random_rotations(1, torch.Generator().manual_seed(8))[0]
PLAN = SearchPlan((Level(1, 4.0, 24), Level(2, 6.0, 24), Level(3, 8.0, 24)), RANGE)
EVERYTHING = Level(0, 5.0, grid_size(0))


@pytest.fixture(autouse=True)
def small_banks(monkeypatch):
    """The finest level is interpolated: its bank takes longer to make than it saves on a few images."""
    monkeypatch.setattr(pose_search, "MAX_BANK", 1 << 21)


def images_of(blobs, n: int, *, noise: float = 1.0, seed: int = 0) -> Batch:
    """Images of blobs by their closed form, each under a CTF of its own, off centre by up to a pixel."""
    rng = np.random.default_rng(seed)
    k = DISK.frequency.numpy() / BOX
    rotation = random_rotations(n, torch.Generator().manual_seed(seed)).double().numpy()
    ctf = rng.uniform(-1.2, 1.2, (n, DISK.size))
    shift, z = rng.uniform(-1, 1, (n, 2)), rng.normal(size=(n, len(blobs.weight) - 1))
    image = ctf * blobs.slices(z, rotation, k) * np.exp(2j * np.pi * shift @ k.T)
    image += noise * (rng.normal(size=image.shape) + 1j * rng.normal(size=image.shape)) / np.sqrt(2)
    return batch_of(image, ctf)


def batch_of(image: np.ndarray, ctf: np.ndarray) -> Batch:
    """The rotations are not to be looked at."""
    nowhere = random_rotations(len(image), torch.Generator().manual_seed(100))
    image, ctf = torch.from_numpy(image).to(torch.complex64), torch.from_numpy(ctf).float()
    return Batch(torch.arange(len(image)), image, ctf, nowhere)


def latents(
    maps: torch.Tensor, batch: Batch, plan: SearchPlan = PLAN, *, size: int = 25, offset: torch.Tensor = OFFSET
) -> MarginalLatents:
    return marginal_latents(LinearSubspace(maps), batch.split(size), plan, disk=DISK, offset=offset)


@dataclass(frozen=True)
class Poses:
    """What an image says at k poses: log-likelihood (k,), and the latent points (k, q) with their variances (k, q).

    `rank` (k,) is the log-likelihood at the best amplitude.
    """

    rank: np.ndarray
    score: np.ndarray
    z: np.ndarray
    variance: np.ndarray

    def mixed(self, beams: int) -> tuple[np.ndarray, np.ndarray, float]:
        """Total mean, square root of the total variance, and greatest weight, over the likeliest poses."""
        kept = np.argsort(-self.rank)[:beams]
        weight = np.exp(self.score[kept] - self.score[kept].max())
        weight /= weight.sum()
        mean = weight @ self.z[kept]
        variance = weight @ self.variance[kept] + weight @ (self.z[kept] - mean) ** 2
        return mean, np.sqrt(variance), float(weight.max())


def real(half_plane: np.ndarray) -> np.ndarray:
    """Real numbers of unit noise along the last axis."""
    return np.sqrt(2) * np.concatenate([half_plane.real, half_plane.imag], axis=-1)


def poses_of(maps: torch.Tensor, batch: Batch, image: int, *, level: int, band: float, shifts: np.ndarray) -> Poses:
    """Every rotation of a grid at the likeliest of the shifts: `X` and `z` are jointly Gaussian, with `X` of dense
    covariance `I + D D^T`. Which poses are looked at is decided at the best amplitude of the mean, how much each
    counts at the map's own.
    """
    grid, within = padded_grid(BOX), DISK.within(band)
    located = locate_slices(grid, within.frequency, grid_rotations(level) @ OFFSET)
    slices = located.extract(grid.from_volumes(maps)).movedim(2, 0).numpy().astype(complex)
    k = within.frequency.numpy() / BOX
    shown = real(batch.ctf[image, : within.size].double().numpy() * slices)
    mean, design = shown[0], shown[1:].transpose(1, 2, 0)
    covariance = np.eye(mean.shape[1]) + design @ design.swapaxes(1, 2)
    inverse, volume = np.linalg.inv(covariance), np.linalg.slogdet(covariance)[1]
    power = np.einsum("ki,kij,kj->k", mean, inverse, mean)
    rank, score, z = [], [], []
    for shift in shifts:
        x = real(batch.image[image, : within.size].numpy().astype(complex) * np.exp(-2j * np.pi * k @ shift))
        amplitude = np.maximum(np.einsum("ki,kij,j->k", mean, inverse, x) / power, 0)
        for found, left in ((rank, x - amplitude[:, None] * mean), (score, x - mean)):
            found.append(-0.5 * np.einsum("ki,kij,kj->k", left, inverse, left) - 0.5 * volume)
        z.append(np.einsum("kiq,kij,kj->kq", design, inverse, x - mean))
    best = np.argmax(rank, axis=0), np.arange(len(mean))
    variance = 1 - np.einsum("kiq,kij,kjq->kq", design, inverse, design)
    return Poses(np.array(rank)[best], np.array(score)[best], np.array(z)[best], variance)


def assert_mixed(found: MarginalLatents, image: int, poses: Poses, beams: int) -> None:
    mean, std, certain = poses.mixed(beams)
    np.testing.assert_allclose(found.mean[image].numpy(), mean, atol=2e-3)
    np.testing.assert_allclose(found.std[image].numpy(), std, atol=2e-3)
    assert float(found.certain[image]) == pytest.approx(certain, abs=2e-3)


@pytest.mark.parametrize("zdim", [1, 2])
@pytest.mark.parametrize("beams", [grid_size(0), 7])
def test_it_is_the_mean_and_spread_of_a_mixture_over_rotations_at_their_best_shifts(blobs_of, zdim, beams):
    """Of images so faint that many poses are left."""
    blobs = blobs_of.of(zdim=zdim, strength=0.8)
    batch, plan = images_of(blobs, 6), SearchPlan((Level(0, 5.0, beams),), RANGE)
    found = latents(blobs.maps(), batch, plan)
    assert found.mean.shape == found.std.shape == (6, zdim) and found.certain.shape == (6,)
    assert float(found.certain.median()) < 0.6
    shifts = shift_grid(RANGE, shift_step(BOX, 5.0)).double().numpy()
    for image in range(6):
        assert_mixed(found, image, poses_of(blobs.maps(), batch, image, level=0, band=5.0, shifts=shifts), beams)


@pytest.mark.parametrize("bank", [0, 1 << 25])
def test_the_last_level_s_poses_and_band_count_alone(blobs_of, bank, monkeypatch):
    """All rotations of the finer grid, whether their slices were made at once or one by one."""
    monkeypatch.setattr(pose_search, "MAX_BANK", bank)
    blobs = blobs_of.of(zdim=1, strength=0.8)
    batch, plan = images_of(blobs, 2), SearchPlan((EVERYTHING, Level(1, 4.0, grid_size(1))), 0.0)
    found = latents(blobs.maps(), batch, plan)
    for image in range(2):
        poses = poses_of(blobs.maps(), batch, image, level=1, band=4.0, shifts=np.zeros((1, 2)))
        assert_mixed(found, image, poses, grid_size(1))


def test_an_image_whose_two_poses_are_equally_likely_is_halfway_between_with_a_spread_that_holds_both(blobs_of):
    """A mean with a twofold axis along z and a component that it turns into its negative; images at `z = 1.5`.

    The grid that is not turned holds both poses of each image.
    """
    one = blobs_of.of(zdim=1, strength=10.0)
    about = np.array([-1.0, -1.0, 1.0])
    sign = np.array([[1.0], [-1.0]])
    centre = 0.7 * one.centre  # well within the box, whose edges are not symmetric
    two = blobs_of(np.concatenate([centre, about * centre]), np.concatenate([one.weight, sign * one.weight], 1))
    rotation = grid_rotations(0, torch.tensor([3, 100, 205, 391])).double().numpy()
    image = two.slices(np.full((4, 1), 1.5), rotation, DISK.frequency.numpy() / BOX)
    batch, still = batch_of(image, np.ones(image.shape)), torch.eye(3)
    found = latents(two.maps(), batch, SearchPlan((EVERYTHING,), 0.0), offset=still)
    np.testing.assert_allclose(found.certain.numpy(), 0.5, atol=0.05)
    np.testing.assert_allclose(found.mean.numpy(), 0, atol=0.2)
    np.testing.assert_allclose(found.std.numpy(), 1.5, atol=0.1)
    # one pose alone would be sure of one of the two points
    alone = latents(two.maps(), batch, SearchPlan((Level(0, 5.0, 1),), 0.0), offset=still)
    np.testing.assert_allclose(alone.mean.abs().numpy(), 1.5, atol=0.1)
    assert bool((alone.certain == 1).all()) and float(alone.std.max()) < 0.1


@pytest.mark.parametrize("zdim", [1, 2])
def test_images_with_clear_poses_get_their_latent_points(blobs_of, simulated, tmp_path, zdim):
    blobs = blobs_of.of(zdim=zdim, strength=25.0)
    made = simulated(blobs, tmp_path / "store", n=60)
    found = latents(blobs.maps(), made.store.unposed().batch(torch.arange(60), DISK.size))
    for own, true in zip(found.mean.T.numpy(), made.z.T, strict=True):
        assert np.corrcoef(own, true)[0, 1] > 0.97
        assert np.polyfit(true, own, 1)[0] == pytest.approx(1, abs=0.1)


def test_of_faint_images_they_are_nearer_the_truth_than_those_of_the_likeliest_poses(blobs_of, simulated, tmp_path):
    """And about as far off as they say."""
    blobs = blobs_of.of(zdim=1, strength=0.6)
    made = simulated(blobs, tmp_path / "store", n=200, seed=1)
    batch = made.store.unposed().batch(torch.arange(200), DISK.size)
    many, one = (
        latents(blobs.maps(), batch, SearchPlan((Level(1, 4.0, 96), Level(2, 6.0, beams)), RANGE)) for beams in (96, 1)
    )
    off, off_one = (each.mean.double().numpy() - made.z for each in (many, one))
    assert np.sqrt((off**2).mean()) < 0.93 * np.sqrt((off_one**2).mean())
    assert 0.8 < np.sqrt(((off / many.std.numpy()) ** 2).mean()) < 1.4
    assert np.sqrt(((off_one / one.std.numpy()) ** 2).mean()) > 1.5


@pytest.mark.parametrize("size", [1, 7])
def test_it_does_not_matter_how_images_are_batched(blobs_of, size):
    blobs = blobs_of.of(zdim=2, strength=6.0)
    batch = images_of(blobs, 20, seed=3)
    whole, parts = latents(blobs.maps(), batch), latents(blobs.maps(), batch, size=size)
    for name in ("mean", "std", "certain"):
        torch.testing.assert_close(getattr(parts, name), getattr(whole, name), atol=2e-3, rtol=0)


def test_few_candidates_at_a_time_make_the_same(blobs_of, monkeypatch):
    blobs = blobs_of.of(zdim=1, strength=6.0)
    batch = images_of(blobs, 9, seed=4)
    whole = latents(blobs.maps(), batch)
    monkeypatch.setattr(pose_posterior, "POINTS", 1)
    found = latents(blobs.maps(), batch)
    for name in ("mean", "std", "certain"):
        torch.testing.assert_close(getattr(found, name), getattr(whole, name), atol=2e-3, rtol=0)


def test_without_components_there_is_no_point_and_still_a_probability(blobs_of):
    blobs = blobs_of.of(zdim=0, strength=25.0)
    found = latents(blobs.maps(), images_of(blobs, 5))
    assert found.mean.shape == found.std.shape == (5, 0)
    assert bool(((found.certain > 0) & (found.certain <= 1)).all())
