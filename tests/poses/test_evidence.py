"""The evidence of poses against explicit linear-Gaussian models: scipy's marginal densities, quadrature, regression."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import multivariate_normal

from cryomorph.poses.evidence import PoseEvidence

IMAGES, SHIFTS, ROTATIONS, COEFFICIENTS = 2, 3, 4, 25


@dataclass(frozen=True)
class Posed:
    """Images at shifts and slices at rotations, as numpy has them: `image` (b, t, m), `ctf` (b, m), `slices` (c, h, m).

    Poses are (b, t, 2, h): the last but one is the slice as it is, or its complex conjugate.
    """

    image: np.ndarray
    ctf: np.ndarray
    slices: np.ndarray

    @classmethod
    def of(cls, zdim: int, *, seed: int = 0, size: float = 0.4) -> Posed:
        """Images that hold about one of the slices each, whose other shifts are other images."""
        rng = np.random.default_rng(seed)
        slices = size * np.array(noise_of(rng, zdim + 1, ROTATIONS, COEFFICIENTS))
        ctf = rng.uniform(-1.2, 1.2, (IMAGES, COEFFICIENTS))
        weight = np.concatenate([np.ones((IMAGES, 1)), rng.normal(size=(IMAGES, zdim))], axis=1)
        image = np.array(noise_of(rng, IMAGES, SHIFTS, COEFFICIENTS)) / np.sqrt(2)
        image[:, 1] += ctf * np.einsum("bc,cbm->bm", weight, slices[:, :IMAGES])
        return cls(image, ctf, slices)

    @property
    def poses(self) -> list[tuple[int, ...]]:
        return list(np.ndindex(IMAGES, SHIFTS, 2, ROTATIONS))

    def at(self, pose: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        """The image (m,) and what each map shows of itself there (m, c)."""
        b, t, turned, h = pose
        seen = self.slices[:, h].conj() if turned else self.slices[:, h]
        return self.image[b, t], (self.ctf[b] * seen).T

    def evidence(self) -> PoseEvidence:
        """Of all poses, from products that are summed here; the Gram matrix is that of the slice as it is."""
        overlap = torch.zeros(len(self.slices), IMAGES, SHIFTS, 2, ROTATIONS)
        for pose in self.poses:
            image, columns = self.at(pose)
            overlap[:, *pose] = torch.from_numpy((columns.conj().T @ image).real)
        shown = self.ctf[:, None, None] * self.slices
        gram = np.einsum("bkhm,blhm->bhkl", shown, shown.conj()).real
        return PoseEvidence.of(overlap, torch.from_numpy(gram).float()[:, None, None])


def noise_of(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.normal(size=shape) + 1j * rng.normal(size=shape)


def real(half_plane: np.ndarray) -> np.ndarray:
    """Real and imaginary parts one below the other: of noise of variance 1/2 each."""
    return np.concatenate([half_plane.real, half_plane.imag])


def marginal(image: np.ndarray, columns: np.ndarray, amplitude: float) -> float:
    """`log p(X)` less that of noise alone, `X ~ N(a C S_0, 1/2 + sum_k C S_k (C S_k)^T)` in real numbers."""
    x, a = real(image), real(columns)
    alone = 0.5 * np.eye(len(x))
    shown = multivariate_normal(amplitude * a[:, 0], alone + a[:, 1:] @ a[:, 1:].T).logpdf(x)
    return float(shown - multivariate_normal(np.zeros(len(x)), alone).logpdf(x))


def whole(evidence: PoseEvidence, amplitude: float) -> np.ndarray:
    """The logarithm at an amplitude, by what the fields say of themselves."""
    found = evidence.constant + amplitude * evidence.linear - amplitude**2 * evidence.quadratic / 2
    return found.double().numpy()


@pytest.mark.parametrize("zdim", [0, 1, 2, 3])
@pytest.mark.parametrize("amplitude", [0.0, 0.6, 1.0, 2.5])
def test_it_is_the_marginal_likelihood_of_a_linear_gaussian_model(zdim, amplitude):
    """At every pose and any amplitude of the mean."""
    posed = Posed.of(zdim)
    found = whole(posed.evidence(), amplitude)
    assert found.shape == (IMAGES, SHIFTS, 2, ROTATIONS)
    expected = [marginal(*posed.at(pose), amplitude) for pose in posed.poses]
    np.testing.assert_allclose(found.ravel(), expected, atol=2e-4 * np.abs(expected).max())


def test_it_is_the_integral_over_one_latent_coordinate():
    """By quadrature, `integral of p(X | z) N(z; 0, 1)`."""
    posed = Posed.of(1, seed=1)
    found = posed.evidence().at_one()
    for pose in posed.poses[::5]:
        image, columns = posed.at(pose)
        noise = (np.abs(image) ** 2).sum()
        # near its highest point, so that the exponential neither over- nor underflows
        peak = float(found[pose])

        def density(z: float, image=image, columns=columns, least=noise - peak) -> float:
            left = (np.abs(image - columns @ [1.0, z]) ** 2).sum()
            return float(np.exp(least - left - z**2 / 2) / np.sqrt(2 * np.pi))

        value, _ = quad(density, -8, 8, limit=200)
        assert np.log(value) == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("zdim", [0, 1, 3])
def test_at_one_and_at_best_are_the_values_at_one_and_at_the_highest_of_all_amplitudes_above_zero(zdim):
    """Along a fine grid of amplitudes; an image like the mean's negative is explained by none of it."""
    posed = Posed.of(zdim, seed=2)
    posed.image[0, 0] = -2 * posed.ctf[0] * posed.slices[0, 2]
    evidence = posed.evidence()
    np.testing.assert_allclose(evidence.at_one().numpy(), whole(evidence, 1.0), atol=1e-4)
    best = evidence.at_best().double().numpy()
    for pose in [(0, 0, 0, 2), *posed.poses[::3]]:
        image, columns = posed.at(pose)
        # a parabola: three points say all of it
        at = [marginal(image, columns, amplitude) for amplitude in (0.0, 1.0, 2.0)]
        grid = np.linspace(0, 10, 20001)
        values = np.polyval(np.polyfit([0.0, 1.0, 2.0], at, 2), grid)
        assert values.argmax() < len(grid) - 1
        assert best[pose] == pytest.approx(values.max(), abs=5e-4)
    assert best[0, 0, 0, 2] == pytest.approx(whole(evidence, 0.0)[0, 0, 0, 2], abs=1e-5)


@pytest.mark.parametrize("zdim", [0, 2])
@pytest.mark.parametrize("scale", [0.05, 30.0])
def test_the_best_amplitude_makes_up_for_the_scale_of_the_mean(zdim, scale):
    posed = Posed.of(zdim, seed=3)
    other = posed.slices.copy()
    other[0] *= scale
    scaled = Posed(posed.image, posed.ctf, other).evidence()
    torch.testing.assert_close(scaled.at_best(), posed.evidence().at_best(), atol=2e-3, rtol=1e-3)
    assert not torch.allclose(scaled.at_one(), posed.evidence().at_one(), atol=0.5)


@pytest.mark.parametrize("zdim", [1, 2, 3])
def test_the_posterior_is_that_of_ridge_regression(zdim):
    """Least squares of the image less the mean on the components, with a row for each coordinate's prior."""
    posed = Posed.of(zdim, seed=4)
    evidence = posed.evidence()
    latent = evidence.latent()
    assert latent.shape == evidence.free.shape == (zdim, IMAGES, SHIFTS, 2, ROTATIONS)
    for pose in posed.poses[::2]:
        image, columns = posed.at(pose)
        # rows of unit noise
        rows = np.concatenate([np.sqrt(2) * real(columns[:, 1:]), np.eye(zdim)])
        for amplitude in (1.0, 1.7):
            left = np.concatenate([np.sqrt(2) * real(image - amplitude * columns[:, 0]), np.zeros(zdim)])
            expected = np.linalg.lstsq(rows, left, rcond=None)[0]
            b, _, _, h = pose
            found = evidence.free[:, *pose] - amplitude * evidence.bound[:, b, 0, 0, h]
            np.testing.assert_allclose(found.numpy(), expected, atol=1e-4)
            if amplitude == 1.0:
                np.testing.assert_allclose(latent[:, *pose].numpy(), expected, atol=1e-4)
        covariance = evidence.covariance[pose[0], 0, 0, pose[3]].numpy()
        np.testing.assert_allclose(covariance, np.linalg.inv(rows.T @ rows), atol=1e-5)


def test_without_components_it_is_that_of_one_map():
    """`2 <C X, S> - <C^2, |S|^2>`, and `<C X, S>_+^2 / <C^2, |S|^2>` at the best amplitude."""
    overlap, power = torch.tensor([3.0, 0.4, 0.0, -2.0]), torch.tensor([2.0, 5.0, 1.0, 1.0])
    evidence = PoseEvidence.of(overlap[None], power[:, None, None])
    torch.testing.assert_close(evidence.at_one(), 2 * overlap - power)
    torch.testing.assert_close(evidence.at_best(), torch.tensor([4.5, 0.032, 0.0, 0.0]))
    assert evidence.latent().shape == (0, 4) and evidence.covariance.shape == (4, 0, 0)


def test_a_component_along_the_mean_is_an_amplitude_that_varies():
    """`X = (a + s z) C S_0`: along the mean noise has the variance `1/2 + s^2 P`, `P = <C^2, |S_0|^2>`."""
    power, spread, overlap = 400.0, 0.3, 350.0
    slope = torch.tensor([1.0, spread])
    evidence = PoseEvidence.of(overlap * slope[:, None], (power * torch.outer(slope, slope))[None])
    narrowed = 1 + 2 * spread**2 * power
    assert float(evidence.linear) == pytest.approx(2 * overlap / narrowed, rel=1e-3)
    assert float(evidence.quadratic) == pytest.approx(2 * power / narrowed, rel=1e-3)
    gained = 0.5 * (2 * spread * overlap) ** 2 / narrowed - 0.5 * np.log(narrowed)
    assert float(evidence.constant) == pytest.approx(gained, rel=1e-4)


@pytest.mark.parametrize("zdim", [0, 2])
def test_where_there_is_no_map_nothing_is_gained_or_lost(zdim):
    nothing = PoseEvidence.of(torch.zeros(zdim + 1, 3), torch.zeros(3, zdim + 1, zdim + 1))
    assert torch.equal(nothing.at_best(), torch.zeros(3)) and torch.equal(nothing.at_one(), torch.zeros(3))
    # the posterior is the prior
    assert torch.equal(nothing.covariance, torch.eye(zdim).expand(3, -1, -1))


def test_a_component_that_shows_nothing_changes_nothing():
    posed = Posed.of(1, seed=5)
    more = Posed(posed.image, posed.ctf, np.concatenate([posed.slices, 0 * posed.slices[:1]]))
    one, other = posed.evidence(), more.evidence()
    torch.testing.assert_close(other.at_one(), one.at_one())
    torch.testing.assert_close(other.at_best(), one.at_best())
    torch.testing.assert_close(other.latent()[0], one.latent()[0])
    assert float(other.latent()[1].abs().max()) == 0


def test_the_basis_of_the_subspace_does_not_matter():
    """Components that are turned among themselves span the same Gaussian."""
    posed = Posed.of(3, seed=6)
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    mixed = np.concatenate([posed.slices[:1], np.tensordot(turn, posed.slices[1:], axes=1)])
    one, other = posed.evidence(), Posed(posed.image, posed.ctf, mixed).evidence()
    torch.testing.assert_close(other.at_one(), one.at_one(), atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(other.at_best(), one.at_best(), atol=1e-3, rtol=1e-4)
    expected = torch.tensordot(torch.from_numpy(turn).float(), one.latent(), dims=1)
    torch.testing.assert_close(other.latent(), expected, atol=1e-4, rtol=1e-3)


def test_gram_matrices_that_poses_share_count_as_if_each_had_its_own():
    """Neither what is given is written into nor does its shape matter: one pose at a time says the same."""
    rng = np.random.default_rng(7)
    overlap = torch.from_numpy(rng.normal(size=(3, 2, 5, 2, 4))).float()
    roots = torch.from_numpy(rng.normal(size=(2, 1, 1, 4, 3, 6))).float()
    gram = roots @ roots.mT
    given = overlap.clone(), gram.clone()
    shared = PoseEvidence.of(overlap, gram)
    assert shared.quadratic.shape == (2, 1, 1, 4) and shared.bound.shape == (2, 2, 1, 1, 4)
    assert shared.covariance.shape == (2, 1, 1, 4, 2, 2)
    assert shared.constant.shape == shared.linear.shape == (2, 5, 2, 4)
    own = PoseEvidence.of(overlap, gram.expand(2, 5, 2, 4, 3, 3).contiguous())
    for name in ("at_one", "at_best", "latent"):
        torch.testing.assert_close(getattr(shared, name)(), getattr(own, name)(), atol=1e-5, rtol=1e-4)
    single = PoseEvidence.of(overlap[:, 1, 3, 0, 2], gram[1, 0, 0, 2])
    assert float(single.at_best()) == pytest.approx(float(shared.at_best()[1, 3, 0, 2]), rel=1e-4)
    assert torch.equal(overlap, given[0]) and torch.equal(gram, given[1])


@pytest.mark.parametrize("power", [1e6, 1e7, 3.3e7, 1e8])
def test_no_slice_explains_more_than_there_is_where_a_component_is_nearly_the_mean(power):
    """Images without noise: single precision leaves nothing of the difference between mean and component."""
    generator = torch.Generator().manual_seed(0)
    angle = torch.linspace(0, 1e-3, 200).double()
    gram = torch.stack([torch.ones_like(angle), angle.cos(), angle.cos(), torch.ones_like(angle)], 1).view(-1, 2, 2)
    overlap = torch.stack([torch.full_like(angle, 0.9), 0.9 * angle.cos()])
    # sums of thousands of coefficients in single precision
    rounded = 1 + 1e-6 * torch.randn(2, 200, generator=generator)
    found = PoseEvidence.of((power * overlap * rounded).float(), (power * gram).float())
    # the whole plane of an image of `power` over half of it
    assert float(found.at_best().max()) < 2 * power
