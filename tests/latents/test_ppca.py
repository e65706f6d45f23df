"""The E-step against Bayesian linear regression, the M-step against least squares, and EM on data of known truth."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import subspace_angles
from scipy.stats import multivariate_normal

from cryomorph.latents.joint import JointPosterior
from cryomorph.latents.joint_em import Located, joint_em_iteration
from cryomorph.latents.nuisance import NuisancePrior
from cryomorph.latents.ppca import (
    EmProblem,
    LatentPosterior,
    Subspace,
    e_step,
    infer,
    m_step,
    posterior_of,
)
from cryomorph.particles.store import Batch
from cryomorph.physics.disk import fourier_disk
from cryomorph.physics.pose import random_rotations
from cryomorph.physics.slicing import locate_slices, padded_grid
from cryomorph.volumes.backproject import rows_in_band
from cryomorph.volumes.masks import spherical_mask
from fixtures.posteriors import of_latents

BOX = 16
SIGMA_PX = 1.4
ZDIM = 2
SPHERE = spherical_mask(BOX, 0.9 * BOX / 2, 0.1 * BOX / 2)


def design(seed: int, *, images: int = 5, coefficients: int = 30, zdim: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Random columns `[C mean, C U]` (b, m, q + 1) on a half-plane, and images drawn from the model."""
    rng = np.random.default_rng(seed)
    columns = rng.normal(size=(images, coefficients, zdim + 1)) + 1j * rng.normal(size=(images, coefficients, zdim + 1))
    columns *= 0.3
    z = np.concatenate([np.ones((images, 1)), rng.normal(size=(images, zdim))], axis=1)
    noise = rng.normal(size=(images, coefficients)) + 1j * rng.normal(size=(images, coefficients))
    return columns, np.einsum("bmc,bc->bm", columns, z) + noise / np.sqrt(2)


def stacked(half_plane: np.ndarray) -> np.ndarray:
    """The whole Fourier plane as real numbers: each half-plane coefficient and its conjugate mate, (b, 4 m, ...)."""
    whole = np.concatenate([half_plane, half_plane.conj()], axis=1)
    return np.concatenate([whole.real, whole.imag], axis=1)


def whole_plane_sums(columns: np.ndarray, images: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    a, x = stacked(columns), stacked(images)
    gram = np.einsum("bmc,bmd->bcd", a, a)
    overlap = np.einsum("bmc,bm->bc", a, x)
    return torch.from_numpy(gram).float(), torch.from_numpy(overlap).float()


def marginal(columns: np.ndarray, image: np.ndarray, contrast: float = 1.0) -> float:
    """`log p(X)` of one image: Gaussian in the half-plane's real and imaginary parts, noise variance 1/2 in each."""
    a = contrast * np.concatenate([columns.real, columns.imag])
    x = np.concatenate([image.real, image.imag])
    covariance = a[:, 1:] @ a[:, 1:].T + 0.5 * np.eye(len(x))
    return float(multivariate_normal(a[:, 0], covariance).logpdf(x))


def test_posterior_is_bayesian_linear_regression():
    """Precision `I + A^T A / s2`, mean its inverse times `A^T (x - mean) / s2`; `s2 = 1/2` for each real part."""
    columns, images = design(0)
    found = posterior_of(*whole_plane_sums(columns, images))
    for b in range(len(images)):
        a = np.concatenate([columns[b].real, columns[b].imag])
        x = np.concatenate([images[b].real, images[b].imag])
        covariance = np.linalg.inv(np.eye(3) + a[:, 1:].T @ a[:, 1:] / 0.5)
        mean = covariance @ a[:, 1:].T @ (x - a[:, 0]) / 0.5
        np.testing.assert_allclose(found.mean[b], mean, atol=1e-4)
        np.testing.assert_allclose(found.covariance[b], covariance, atol=1e-5)


def test_log_likelihood_is_the_marginal_up_to_what_no_model_changes():
    columns, images = design(1)
    other, _ = design(2)
    first = posterior_of(*whole_plane_sums(columns, images)).log_likelihood
    second = posterior_of(*whole_plane_sums(other, images)).log_likelihood
    for b in range(len(images)):
        expected = marginal(columns[b], images[b]) - marginal(other[b], images[b])
        assert float(first[b] - second[b]) == pytest.approx(expected, abs=2e-3)
        absolute = marginal(columns[b], images[b]) - marginal(0 * columns[b], images[b])
        assert float(first[b]) == pytest.approx(absolute, abs=2e-3)


class Truth:
    """Images of `mean + z_1 U_1 + z_2 U_2`, all sums of Gaussians whose transforms are known in closed form."""

    def __init__(self, n: int, *, signal: float, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        generator = torch.Generator().manual_seed(seed)
        self.position_px = rng.normal(0, 1.9, (14, 3)).clip(-3.5, 3.5)
        self.amplitude = signal * np.stack(
            [np.r_[np.full(10, 3.0), np.zeros(4)], rng.normal(0, 1.2, 14), rng.normal(0, 1.2, 14)]
        )
        self.z = rng.normal(size=(n, ZDIM))
        disk = fourier_disk(BOX)
        frequency = disk.frequency.numpy() / BOX
        rotation = random_rotations(n, generator).float()
        ctf = np.sin(rng.uniform(0.5, 2.5, (n, 1)) + 6 * rng.uniform(0.5, 1.5, (n, 1)) * (frequency**2).sum(1))
        k3 = np.einsum("mi,nij->nmj", frequency, rotation.numpy()[:, :2].astype(float))
        phase = np.exp(-2j * np.pi * np.einsum("nmj,pj->nmp", k3, self.position_px))
        envelope = np.exp(-2 * np.pi**2 * SIGMA_PX**2 * (k3**2).sum(-1))
        weight = self.amplitude[0] + self.z @ self.amplitude[1:]
        self.clean = ctf * envelope * np.einsum("nmp,np->nm", phase, weight)
        noise = (rng.normal(size=self.clean.shape) + 1j * rng.normal(size=self.clean.shape)) / np.sqrt(2)
        image = torch.from_numpy(self.clean + noise).to(torch.complex64)
        self.batch = Batch(torch.arange(n), image, torch.from_numpy(ctf).float(), rotation)

    def batches(self) -> list[Batch]:
        b = self.batch
        return [
            Batch(*(part[i : i + 200] for part in (b.index, b.image, b.ctf, b.rotation))) for i in range(0, len(b), 200)
        ]

    def maps(self) -> np.ndarray:
        """The three maps on the voxel grid (c, voxels): Gaussians of volume `amplitude`."""
        line = np.arange(BOX) - BOX // 2
        z, y, x = np.meshgrid(line, line, line, indexing="ij")
        r = np.stack([x, y, z], axis=-1).reshape(-1, 1, 3)
        density = np.exp(-((r - self.position_px) ** 2).sum(-1) / (2 * SIGMA_PX**2)) / (2 * np.pi * SIGMA_PX**2) ** 1.5
        return self.amplitude @ density.T


def start(seed: int, size: float) -> Subspace:
    noise = torch.randn(ZDIM, BOX, BOX, BOX, generator=torch.Generator().manual_seed(seed))
    return Subspace(padded_grid(BOX), torch.cat([torch.zeros(1, BOX, BOX, BOX), size * noise]) * SPHERE)


WHITE = torch.ones(fourier_disk(BOX).size)


def problem(precision: float = 0.05) -> EmProblem:
    size = fourier_disk(BOX).size
    return EmProblem(torch.full((ZDIM + 1, BOX // 2 + 1), precision), torch.ones(size), SPHERE)


FIXED, FREE_CONTRAST = NuisancePrior(0.0, 0.0, 0.0, 0.0), NuisancePrior(0.2, 0.0, 0.0, 0.0)


def em_iteration(batches, model, problem, prior=FIXED, iterations=1):
    known, disk = Located.unknown(sum(map(len, batches)), ZDIM), fourier_disk(BOX)
    return joint_em_iteration(batches, model, problem, disk=disk, prior=prior, known=known, iterations=iterations)


@pytest.fixture(scope="module")
def truth() -> Truth:
    return Truth(600, signal=2.0)


@pytest.fixture(scope="module")
def fitted(truth) -> tuple[Subspace, LatentPosterior, list[float]]:
    model, likelihood = start(1, 0.05), []
    for _ in range(20):
        model, posterior = em_iteration(truth.batches(), model, problem())
        likelihood.append(float(posterior.log_likelihood.double().mean()))
    return (
        model,
        infer(truth.batches(), model, whitening=WHITE),
        likelihood,
    )


def test_em_raises_the_likelihood_at_every_iteration(fitted):
    _, last, likelihood = fitted
    gains = np.diff([*likelihood, float(last.log_likelihood.double().mean())])
    assert gains.min() > -1e-3 * abs(likelihood[-1])
    assert likelihood[-1] > likelihood[0] + 10


def test_em_finds_the_mean_the_subspace_and_the_latent(truth, fitted):
    model, posterior, _ = fitted
    z = posterior.mean.double().numpy()
    found, true = model.maps.flatten(1).double().numpy(), truth.maps()
    # mean and components share an origin of z: the particles' own centre is what both must agree on
    found[0] += z.mean(0) @ found[1:]
    true[0] += truth.z.mean(0) @ true[1:]
    # images say nothing of a map's constant: what the sphere would add is taken out of both sides
    sphere = SPHERE.flatten().double().numpy()
    sphere /= np.linalg.norm(sphere)
    found, true = (maps - np.outer(maps @ sphere, sphere) for maps in (found, true))
    assert np.corrcoef(found[0], true[0])[0, 1] > 0.995
    # the mean's scale is absolute: an image's coefficients are the map's transform
    assert found[0] @ true[0] / (true[0] @ true[0]) == pytest.approx(1, abs=0.05)
    assert np.rad2deg(subspace_angles(found[1:].T, true[1:].T)).max() < 12
    design_matrix = np.c_[np.ones(len(z)), z]
    predicted = design_matrix @ np.linalg.lstsq(design_matrix, truth.z, rcond=None)[0]
    for k in range(ZDIM):
        assert np.corrcoef(predicted[:, k], truth.z[:, k])[0, 1] > 0.95


def test_posterior_spread_covers_the_error():
    """The errors of z, in units of what the posterior says, have variance 1: tells a factor of two in the noise."""
    truth = Truth(600, signal=0.4)  # so weak that interpolation errors do not count
    exact = Subspace(padded_grid(BOX), torch.from_numpy(truth.maps()).float().reshape(-1, BOX, BOX, BOX))
    posterior = infer(truth.batches(), exact, whitening=WHITE)
    error = posterior.mean.double() - torch.from_numpy(truth.z)
    chi2 = torch.einsum("nq,nqr,nr->n", error, torch.linalg.inv(posterior.covariance.double()), error)
    assert float(chi2.mean()) == pytest.approx(ZDIM, rel=0.15)


def test_e_step_is_the_posterior_of_the_dense_design(truth):
    grid = padded_grid(BOX)
    maps = start(3, 0.1).maps
    batch = truth.batches()[0]
    slices = locate_slices(grid, fourier_disk(BOX).frequency, batch.rotation)
    rows = grid.from_volumes(maps)
    found = e_step(batch, slices, rows)
    columns = (slices.extract(rows) * batch.ctf[..., None]).numpy().astype(complex)
    expected = posterior_of(*whole_plane_sums(columns, batch.image.numpy().astype(complex)))
    for name in ("mean", "covariance", "log_likelihood"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=1e-3, atol=1e-3)


def test_infer_is_the_e_step_of_an_iteration_whatever_the_batches(truth, fitted):
    model = fitted[0]
    _, together = em_iteration([truth.batch], model, problem())
    apart = infer(truth.batches(), model, whitening=WHITE)
    torch.testing.assert_close(apart.mean, together.mean, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(apart.log_likelihood, together.log_likelihood, rtol=1e-4, atol=1e-2)


def test_whitening_scales_images_and_ctf_alike(truth, fitted):
    """Noise stored at half its amplitude and corrected by two is the same problem."""
    b = truth.batch
    factor = torch.linspace(0.5, 2, b.image.shape[1])
    stored = Batch(b.index, b.image / factor, b.ctf / factor, b.rotation)
    corrected = EmProblem(problem().precision, factor, SPHERE)
    found = infer([stored], fitted[0], whitening=corrected.whitening)
    torch.testing.assert_close(found.mean, infer([b], fitted[0], whitening=WHITE).mean, rtol=1e-3, atol=1e-4)


def test_iteration_with_contrast_recovers_amplitudes(truth):
    amplitude = torch.from_numpy(np.random.default_rng(8).uniform(0.75, 1.25, len(truth.batch))).float()
    b = truth.batch
    noise = b.image - torch.from_numpy(truth.clean).to(torch.complex64)
    image = amplitude[:, None] * torch.from_numpy(truth.clean).to(torch.complex64) + noise
    exact = Subspace(padded_grid(BOX), torch.from_numpy(truth.maps()).float().reshape(-1, BOX, BOX, BOX))
    batch = Batch(b.index, image, b.ctf, b.rotation)
    model, posterior = em_iteration([batch], exact, problem(), FREE_CONTRAST, 4)
    assert np.corrcoef(posterior.nuisances.contrast, amplitude)[0, 1] > 0.9
    assert np.corrcoef(model.maps[0].flatten(), exact.maps[0].flatten())[0, 1] > 0.97


def test_images_of_nothing_do_not_dilute_the_maps(truth):
    """As many of them as of particles would halve the mean, and leave their noise in the maps."""
    b = truth.batch
    noise = torch.randn(*b.image.shape, 2, generator=torch.Generator().manual_seed(3)) / 2**0.5
    image = torch.cat([b.image, torch.view_as_complex(noise)])
    both = Batch(torch.arange(2 * len(b)), image, b.ctf.repeat(2, 1), b.rotation.repeat(2, 1, 1))
    exact = Subspace(padded_grid(BOX), torch.from_numpy(truth.maps()).float().reshape(-1, BOX, BOX, BOX))
    alone, _ = em_iteration([b], exact, problem())
    model, posterior = em_iteration([both], exact, problem(), NuisancePrior(0.0, 0.0, 0.0, 0.3))
    particles, nothing = posterior.shown(0.3).split(len(b))
    assert float(nothing.mean()) < 0.05
    assert float(particles.mean()) > 0.99
    apart = (model.maps - alone.maps).flatten(1).norm(dim=1) / alone.maps.flatten(1).norm(dim=1)
    assert float(apart.max()) < 0.02


def test_contrasts_average_one_from_a_start_at_another_scale(truth):
    """Contrast and maps share a scale: it must end in the maps, not drift into the contrasts."""
    faint = Subspace(padded_grid(BOX), 0.75 * torch.from_numpy(truth.maps()).float().reshape(-1, BOX, BOX, BOX))
    model = faint
    for _ in range(5):
        model, posterior = em_iteration(truth.batches(), model, problem(), FREE_CONTRAST, 3)
    assert float(posterior.nuisances.contrast.mean()) == pytest.approx(1, abs=0.02)
    images = torch.view_as_real(truth.batch.image).flatten().double()
    slices = locate_slices(model.grid, fourier_disk(BOX).frequency, truth.batch.rotation)
    shown = slices.extract(model.grid.from_volumes(model.maps)) * truth.batch.ctf[..., None]
    e = torch.cat([torch.ones(len(posterior.mean), 1), posterior.mean], dim=1)
    predicted = torch.view_as_real(torch.einsum("bmc,bc->bm", shown, e.to(shown.dtype))).flatten().double()
    assert float(images @ predicted / (predicted @ predicted)) == pytest.approx(1, abs=0.05)


def on_grid(coefficients: np.ndarray) -> torch.Tensor:
    """Rows of the padded grid that hold coefficients (size, c) of the plane `kz = 0`, and their conjugate mates."""
    grid = padded_grid(BOX)
    rows = torch.zeros(grid.rows, coefficients.shape[1], dtype=torch.complex64)
    values = torch.from_numpy(coefficients).to(torch.complex64)
    for value, (kx, ky) in zip(values, fourier_disk(BOX).frequency.tolist(), strict=True):
        for sign in (1, -1):
            if sign * kx >= 0:
                line = (2 * sign * ky) % grid.edge
                rows[line * grid.half + 2 * sign * kx] = value if sign == 1 else value.conj()
    return rows


def test_iteration_solves_the_expected_normal_equations(truth):
    """On-grid slices: `sum C^2 E[e e^T] + prior` against `sum C X E[e]`, the posterior's covariance included."""
    b, prior = truth.batch, 0.7
    n, ctf = 12, truth.batch.ctf[:12].numpy().astype(float)
    image = truth.batch.image[:n].numpy().astype(complex) / 8  # so faint that z stays uncertain
    faint = Batch(
        b.index[:n], torch.from_numpy(image).to(torch.complex64), b.ctf[:n], torch.eye(3).expand(n, 3, 3).clone()
    )
    everywhere = EmProblem(problem(prior).precision, torch.ones(ctf.shape[1]), torch.ones(BOX, BOX, BOX))
    model, posterior = em_iteration([faint], start(5, 0.004), everywhere)
    e = np.c_[np.ones(n), posterior.mean.double().numpy()]
    second = e[:, :, None] * e[:, None]
    second[:, 1:, 1:] += posterior.covariance.double().numpy()
    assert posterior.covariance.diagonal(dim1=1, dim2=2).min() > 0.05
    system = np.einsum("nm,ncd->mcd", ctf**2, second) + prior * np.eye(ZDIM + 1)
    solved = np.linalg.solve(system, np.einsum("nm,nm,nc->mc", ctf, image, e)[..., None])[..., 0]
    torch.testing.assert_close(model.maps, padded_grid(BOX).to_volumes(on_grid(solved)), rtol=1e-3, atol=1e-6)


def test_m_step_is_least_squares_at_every_grid_point():
    """On-grid slices (identity rotation): a coefficient's row is a ridge regression of the images on `(1, z)`."""
    rng = np.random.default_rng(6)
    n, prior = 9, 0.7
    disk, grid = fourier_disk(BOX), padded_grid(BOX)
    e = np.c_[np.ones(n), rng.normal(size=(n, ZDIM))]
    ctf = rng.uniform(-1, 1, (n, disk.size))
    image = rng.normal(size=(n, disk.size)) + 1j * rng.normal(size=(n, disk.size))
    upper = np.triu_indices(ZDIM + 1)
    numerator = torch.from_numpy((ctf * image)[..., None] * e[:, None]).to(torch.complex64)
    outer = e[:, upper[0]] * e[:, upper[1]]
    weight = torch.from_numpy(ctf[..., None] ** 2 * outer[:, None]).float()
    slices = locate_slices(grid, disk.frequency, torch.eye(3).expand(n, 3, 3).contiguous())
    summed = [grid.fold(part) for part in slices.insert(numerator, weight)]
    maps = m_step(grid, *summed, precision=torch.full((ZDIM + 1, BOX // 2 + 1), prior))

    solved = []
    for m in range(disk.size):
        rows = np.concatenate([ctf[:, m : m + 1] * e, np.sqrt(prior) * np.eye(ZDIM + 1)])
        solved.append(np.linalg.lstsq(rows, np.r_[image[:, m], np.zeros(ZDIM + 1)].astype(complex), rcond=None)[0])
    expected = on_grid(np.stack(solved))
    torch.testing.assert_close(maps, grid.to_volumes(expected), rtol=1e-4, atol=1e-6)
    inside, _ = rows_in_band(grid)
    assert len(inside) < grid.rows


def test_maps_end_inside_the_mask(fitted):
    assert float(fitted[0].maps[:, SPHERE == 0].abs().max()) == 0
    assert float(fitted[0].maps[:, SPHERE == 1].abs().max()) > 0


def test_second_moment_and_cat_of_posteriors():
    mean = torch.tensor([[1.0, 0.0], [0.0, 3.0]])
    covariance = torch.stack([torch.eye(2), 3 * torch.eye(2)])
    one = of_latents(mean, covariance)
    torch.testing.assert_close(one.second_moment(torch.ones(2)), torch.tensor([[2.5, 0.0], [0.0, 6.5]]))
    torch.testing.assert_close(one.second_moment(torch.tensor([1.0, 0.0])), torch.tensor([[2.0, 0.0], [0.0, 1.0]]))
    both = JointPosterior.cat([one, one])
    assert both.mean.shape == (4, 2)
    torch.testing.assert_close(both.second_moment(torch.ones(4)), one.second_moment(torch.ones(2)))
