"""Gauss-Newton on one particle: exact where the model is linear, its derivatives against finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from cryomorph.latents.ppca import posterior_of
from cryomorph.models.gauss_newton import BETTER, FIRST_DAMPING, Unknowns, gauss_newton
from cryomorph.particles.store import Batch
from cryomorph.physics.disk import fourier_disk

BOX = 16
DISK = fourier_disk(BOX)
K = DISK.frequency.numpy() / BOX


def batch_of(image: np.ndarray, ctf: np.ndarray, rotation: np.ndarray) -> Batch:
    return Batch(
        torch.arange(len(image)),
        torch.from_numpy(image).to(torch.complex64),
        torch.from_numpy(ctf).float(),
        torch.from_numpy(rotation).float(),
    )


def noise(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Complex, of variance 1."""
    return (rng.normal(size=shape) + 1j * rng.normal(size=shape)) / np.sqrt(2)


def moved_model(blobs, z: np.ndarray, offset: np.ndarray, given: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """What an image centred by its given pose shows, where the true pose is the given one moved by `offset`."""
    rotation, ctf = given
    turned = Rotation.from_rotvec(offset[:, :3]).as_matrix() @ rotation
    return ctf * blobs.slices(z, turned, K) * np.exp(2j * np.pi * offset[:, 3:] @ K.T)


@pytest.fixture
def poses() -> tuple[np.ndarray, np.ndarray]:
    """Six rotations, and transfer functions that change sign."""
    rng = np.random.default_rng(1)
    return Rotation.random(6, random_state=1).as_matrix(), rng.uniform(-1, 1, (6, DISK.size))


def test_one_step_of_a_linear_model_is_the_exact_posterior_of_ppca(blobs_of, poses):
    rotation, ctf = poses
    rng = np.random.default_rng(2)
    blobs = blobs_of.of(zdim=3, strength=1.0)
    # columns C mean, C U_1, ... each blob's weight alone
    columns = np.stack(
        [blobs_of(blobs.centre, row[None]).slices(np.zeros((6, 0)), rotation, K) for row in blobs.weight]
    )
    columns = np.moveaxis(columns * ctf, 0, -1)
    z = np.concatenate([np.ones((6, 1)), rng.normal(size=(6, 3))], axis=1)
    image = np.einsum("bmc,bc->bm", columns, z) + noise(rng, 6, DISK.size)
    gram = 2 * np.einsum("bmc,bmd->bcd", columns.conj(), columns).real
    overlap = 2 * np.einsum("bmc,bm->bc", columns.conj(), image).real
    exact = posterior_of(torch.from_numpy(gram).float(), torch.from_numpy(overlap).float())

    batch, options = batch_of(image, ctf, rotation), {"unknowns": Unknowns(torch.ones(6, 3)), "disk": DISK}
    found = gauss_newton(blobs.representation(), batch, torch.zeros(6, 3), iterations=1, **options)
    # Levenberg's damping of the first step is all that is left of the way
    torch.testing.assert_close(found.value, exact.mean, rtol=1e-2, atol=2 * FIRST_DAMPING)
    torch.testing.assert_close(found.covariance, exact.covariance, rtol=1e-3, atol=1e-5)
    found = gauss_newton(blobs.representation(), batch, torch.zeros(6, 3), iterations=3, **options)
    error = (found.value - exact.mean).abs() / exact.covariance.diagonal(dim1=1, dim2=2).sqrt()
    assert float(error.max()) < 0.02  # where single precision sees no better point


def test_the_prior_of_each_particle_counts(blobs_of, poses):
    """A prior of width s on z is the same as a standard normal prior where the weights are s times as large."""
    rotation, ctf = poses
    rng = np.random.default_rng(3)
    blobs = blobs_of.of(zdim=2, strength=0.5)
    wide = np.array([0.5, 2.0])
    scaled = blobs_of(blobs.centre, blobs.weight * np.concatenate([[1], wide])[:, None])
    batch = batch_of(blobs.slices(rng.normal(size=(6, 2)), rotation, K) + noise(rng, 6, DISK.size), ctf, rotation)
    zero, options = torch.zeros(6, 2), {"disk": DISK, "iterations": 3}
    width = torch.from_numpy(wide).float()
    one = gauss_newton(blobs.representation(), batch, zero, unknowns=Unknowns(width.expand(6, 2)), **options)
    other = gauss_newton(scaled.representation(), batch, zero, unknowns=Unknowns(torch.ones(6, 2)), **options)
    torch.testing.assert_close(one.value, other.value * width, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(one.covariance, other.covariance * width * width[:, None], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(one.nll, other.nll, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("which", ["latent", "pose", "both"])
def test_derivatives_are_those_of_finite_differences(blobs_of, poses, which):
    """Curvature and first step against central differences, in double precision, of the model in closed form."""
    rng = np.random.default_rng(4)
    blobs = blobs_of.of(zdim=2, strength=2.0)
    z, offset = rng.normal(size=(6, 2)), rng.normal(size=(6, 5)) * [0.02, 0.02, 0.02, 0.3, 0.3]
    image = moved_model(blobs, z, offset, poses) + noise(rng, 6, DISK.size)
    here = np.concatenate([z + 0.1, np.zeros((6, 5))], axis=1)
    free = {"latent": slice(0, 2), "pose": slice(2, 7), "both": slice(0, 7)}[which]
    std = np.array([1, 1, 0.2, 0.2, 0.2, 2, 2])[free]
    if which == "latent":
        unknowns, image = Unknowns(torch.ones(6, 2)), moved_model(blobs, z, 0 * offset, poses)
    else:
        fixed = torch.from_numpy(here[:, :2]).float() if which == "pose" else None
        unknowns = Unknowns(torch.from_numpy(std).float().expand(6, -1), fixed_z=fixed, pose=True)

    def model(at: np.ndarray) -> np.ndarray:
        value = moved_model(blobs, at[:, :2], at[:, 2:], poses)
        return np.concatenate([value.real, value.imag], axis=1)

    step = 1e-5 * np.eye(7)[free]
    jacobian = np.stack([(model(here + h) - model(here - h)) / 2e-5 for h in step], axis=-1)
    residual = np.concatenate([image.real, image.imag], axis=1) - model(here)
    hessian = 2 * np.einsum("bmp,bmq->bpq", jacobian, jacobian) + np.diag(std**-2.0)
    gradient = 2 * np.einsum("bmp,bm->bp", jacobian, residual) - here[:, free] / std**2

    batch = batch_of(image, poses[1], poses[0])
    start = torch.from_numpy(here[:, free]).float().contiguous()
    options = {"unknowns": unknowns, "disk": DISK}
    stay = gauss_newton(blobs.representation(), batch, start, iterations=0, **options)
    torch.testing.assert_close(stay.value, start)
    np.testing.assert_allclose(stay.nll, (residual**2).sum(1), rtol=1e-4)
    np.testing.assert_allclose(np.linalg.inv(stay.covariance.double()), hessian, rtol=1e-3, atol=1e-3 * hessian.max())
    inverse = np.linalg.inv(hessian)
    np.testing.assert_allclose(stay.covariance, inverse, rtol=1e-3, atol=1e-4 * np.abs(inverse).max())
    damped = hessian * (1 + BETTER * FIRST_DAMPING * np.eye(len(std)))
    move = np.linalg.solve(damped, gradient[..., None])[..., 0]
    once = gauss_newton(blobs.representation(), batch, start, iterations=1, **options)
    np.testing.assert_allclose(once.value - start, move, rtol=2e-3, atol=1e-3 * np.abs(move).max())


def test_a_known_rotation_and_shift_are_recovered_from_noiseless_images(blobs_of, poses):
    """3 degrees about a random axis and 1 pixel in a random direction."""
    rng = np.random.default_rng(5)
    blobs = blobs_of.of(zdim=1, strength=20.0)
    axis, angle = rng.normal(size=(6, 3)), rng.uniform(0, 2 * np.pi, 6)
    turn = np.radians(3) * axis / np.linalg.norm(axis, axis=1, keepdims=True)
    offset = np.concatenate([turn, np.stack([np.cos(angle), np.sin(angle)], 1)], axis=1)
    z = rng.normal(size=(6, 1))
    batch = batch_of(moved_model(blobs, z, offset, poses), poses[1], poses[0])
    unknowns = Unknowns(torch.tensor([1.0, 1, 1, 10, 10]).expand(6, -1), fixed_z=torch.from_numpy(z).float(), pose=True)
    found = gauss_newton(blobs.representation(), batch, torch.zeros(6, 5), unknowns=unknowns, disk=DISK, iterations=6)
    np.testing.assert_allclose(found.value[:, :3], offset[:, :3], atol=np.radians(0.02))
    np.testing.assert_allclose(found.value[:, 3:], offset[:, 3:], atol=3e-3)
    assert (found.nll < 1e-2).all()


def test_latent_point_and_pose_are_recovered_together(blobs_of, poses):
    rng = np.random.default_rng(6)
    blobs = blobs_of.of(zdim=2, strength=20.0)
    z, offset = rng.normal(size=(6, 2)), rng.normal(size=(6, 5)) * [0.03, 0.03, 0.03, 0.5, 0.5]
    batch = batch_of(moved_model(blobs, z, offset, poses), poses[1], poses[0])
    unknowns = Unknowns(torch.tensor([10.0, 10, 1, 1, 1, 10, 10]).expand(6, -1), pose=True)
    found = gauss_newton(blobs.representation(), batch, torch.zeros(6, 7), unknowns=unknowns, disk=DISK, iterations=10)
    np.testing.assert_allclose(found.value, np.concatenate([z, offset], axis=1), atol=0.01)


def test_a_particle_whose_step_makes_it_worse_stays_until_a_shorter_one_helps(blobs_of, poses):
    """Images ten times as bright as the model overshoot by as much; a particle beside them that is not goes on."""
    blobs = blobs_of.of(zdim=1, strength=5.0)
    given = (poses[0], np.ones_like(poses[1]))
    z, offset = np.zeros((6, 1)), np.zeros((6, 5))
    offset[:, 3] = 1.0
    bright = np.array([10, 10, 1, 10, 10, 10])[:, None]
    image = bright * moved_model(blobs, z, offset, given)
    options = {"unknowns": Unknowns(torch.full((6, 5), 9.0), fixed_z=torch.zeros(6, 1), pose=True), "disk": DISK}

    def cost(at: np.ndarray) -> np.ndarray:
        missing = np.abs(image - moved_model(blobs, z, at, given)) ** 2
        return missing.sum(1) + 0.5 * (at**2).sum(1) / 81

    start, batch = cost(np.zeros((6, 5))), batch_of(image, given[1], given[0])
    once = gauss_newton(blobs.representation(), batch, torch.zeros(6, 5), iterations=1, **options)
    moved = (once.value != 0).any(1).tolist()
    assert moved == [False, False, True, False, False, False]
    np.testing.assert_allclose(once.nll[:2], start[:2], rtol=1e-4)
    last = start
    for iterations in range(2, 9):
        found = gauss_newton(blobs.representation(), batch, torch.zeros(6, 5), iterations=iterations, **options)
        now = cost(found.value.double().numpy())
        assert (now <= last * (1 + 1e-4) + 1e-2).all()
        last = now
    assert (last < 0.99 * start).all()
    np.testing.assert_allclose(found.value[2], offset[2], atol=5e-3)


def test_images_that_are_no_numbers_leave_their_particle_and_the_others_alone(blobs_of, poses):
    rng = np.random.default_rng(7)
    blobs = blobs_of.of(zdim=2, strength=1.0)
    image = poses[1] * blobs.slices(rng.normal(size=(6, 2)), poses[0], K) + noise(rng, 6, DISK.size)
    broken = image.copy()
    broken[2] = np.nan
    options = {"unknowns": Unknowns(torch.ones(6, 2)), "disk": DISK, "iterations": 2}
    whole = gauss_newton(blobs.representation(), batch_of(image, poses[1], poses[0]), torch.zeros(6, 2), **options)
    found = gauss_newton(blobs.representation(), batch_of(broken, poses[1], poses[0]), torch.zeros(6, 2), **options)
    assert torch.equal(found.value[2], torch.zeros(2))
    others = [0, 1, 3, 4, 5]
    torch.testing.assert_close(found.value[others], whole.value[others])
    assert torch.isfinite(found.covariance).all()


def test_half_precision_changes_the_answer_by_less_than_its_uncertainty(blobs_of, poses):
    rng = np.random.default_rng(8)
    blobs = blobs_of.of(zdim=2, strength=1.0)
    image = poses[1] * blobs.slices(rng.normal(size=(6, 2)), poses[0], K) + noise(rng, 6, DISK.size)
    batch, options = batch_of(image, poses[1], poses[0]), {"unknowns": Unknowns(torch.ones(6, 2)), "disk": DISK}
    whole = gauss_newton(blobs.representation(), batch, torch.zeros(6, 2), **options)
    halved = gauss_newton(blobs.representation(), batch, torch.zeros(6, 2), half_precision=True, **options)
    error = (halved.value - whole.value).abs() / whole.covariance.diagonal(dim1=1, dim2=2).sqrt()
    assert 0 < float(error.max()) < 0.5
