"""Latent points with contrasts and pose errors: against closed forms, finite differences, and errors that were made."""

import numpy as np
import pytest
import torch

from cryomorph.latents.joint import JointModel, JointPosterior, seen_through_shifts
from cryomorph.latents.nuisance import NuisancePrior, Nuisances
from cryomorph.latents.ppca import Subspace, posterior_of
from cryomorph.particles.store import Batch
from cryomorph.physics.disk import fourier_disk
from cryomorph.physics.pose import random_rotations, rotation_from_rotvec, shift_phase
from cryomorph.physics.slicing import locate_slices, padded_grid
from cryomorph.volumes.grid import lowpass
from cryomorph.volumes.masks import spherical_mask

BOX, ZDIM, N = 32, 2, 64
DISK = fourier_disk(BOX)
FIXED = NuisancePrior.fixed()


@pytest.fixture(scope="module")
def model():
    """A mean and two components: smooth density within a sphere."""
    generator = torch.Generator().manual_seed(1)
    maps = lowpass(torch.randn(ZDIM + 1, BOX, BOX, BOX, generator=generator), 1.0, 5.0)
    maps = maps * spherical_mask(BOX, 9.0, 4.0) * torch.tensor([1.0, 0.4, 0.3])[:, None, None, None]
    return Subspace(padded_grid(BOX), maps)


def images(model, z, rotation, *, contrast, offset, noise, seed=2):
    """A batch with images of the true poses, given poses that `offset` corrects."""
    generator = torch.Generator().manual_seed(seed)
    true = rotation_from_rotvec(offset[:, :3]) @ rotation
    slices = locate_slices(model.grid, DISK.frequency, true).extract(model.grid.from_volumes(model.maps))
    e = torch.cat([torch.ones(len(z), 1), z], 1).to(slices.dtype)
    ctf = torch.rand(len(z), DISK.size, generator=generator) + 0.3
    clean = contrast[:, None] * ctf * (slices @ e[..., None])[..., 0]
    # the shift still to be made, undone
    clean = clean * shift_phase(DISK.frequency / BOX, -offset[:, 3:])
    white = torch.randn(*clean.shape, 2, generator=generator) / 2**0.5
    image = clean / noise + torch.view_as_complex(white)
    return Batch(torch.arange(len(z)), image, ctf / noise, rotation)


def drawn(seed, *, contrast=0.2, turn=0.03, move=0.6):
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(N, ZDIM, generator=generator)
    offset = torch.randn(N, 5, generator=generator) * torch.tensor([turn] * 3 + [move] * 2)
    return z, 1 + contrast * torch.randn(N, generator=generator), offset, random_rotations(N, generator)


def located(model, batch, prior, iterations=4):
    start = torch.zeros(len(batch), 6)
    return JointModel.of(model, prior, frequency=DISK.frequency, box=BOX).locate(
        batch, torch.zeros(len(batch), ZDIM), start, iterations=iterations
    )


def test_without_nuisances_it_is_the_closed_form(model):
    z, _, offset, rotation = drawn(3)
    batch = images(model, z, rotation, contrast=torch.ones(N), offset=0 * offset, noise=4.0)
    found = located(model, batch, FIXED, iterations=1)
    rows = model.grid.from_volumes(model.maps)
    projected = locate_slices(model.grid, DISK.frequency, rotation).extract(rows) * batch.ctf[..., None]
    columns = torch.view_as_real(projected).transpose(2, 3).flatten(1, 2)
    image = torch.view_as_real(batch.image).flatten(1)
    gram, overlap = 2 * columns.mT @ columns, 2 * (columns.mT @ image[..., None])[..., 0]
    expected = posterior_of(gram, overlap)
    torch.testing.assert_close(found.mean, expected.mean, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(found.covariance, expected.covariance, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(found.log_likelihood, expected.log_likelihood, rtol=1e-3, atol=0.05)
    first, second = found.moments()
    torch.testing.assert_close(first[:, 0], torch.ones(N))
    e = torch.cat([torch.ones(N, 1), found.mean], 1)
    spread = second - e[:, :, None] * e[:, None]
    torch.testing.assert_close(spread[:, 1:, 1:], found.covariance, atol=1e-5, rtol=1e-3)


def test_derivatives_are_those_of_the_fourier_sum(model):
    """Finite differences of the sum over all voxels, which interpolates nothing."""
    z, contrast, offset, rotation = (part[:3] for part in drawn(4))
    batch = images(model, z, rotation, contrast=contrast, offset=offset, noise=4.0)
    line = torch.arange(BOX, dtype=torch.float64) - BOX // 2
    place = torch.stack(torch.meshgrid(line, line, line, indexing="ij")[::-1], -1).flatten(0, 2)
    e = torch.cat([torch.ones(3, 1), z], 1).double()
    density = e @ model.maps.double().flatten(1)

    def predicted(nuisance):
        turned = rotation_from_rotvec(nuisance[:, 1:4]) @ rotation.double()
        phase = torch.einsum("mk,bkj,vj->bmv", DISK.frequency.double(), turned[:, :2], place) * (-2j * torch.pi / BOX)
        slices = (phase.exp() @ density.to(torch.complex128)[..., None])[..., 0]
        back = shift_phase(DISK.frequency / BOX, -nuisance[:, 4:])
        return (contrast[:, None] + nuisance[:, :1]) * slices * batch.ctf * back

    joint = JointModel.of(model, NuisancePrior(), frequency=DISK.frequency, box=BOX)
    slices = locate_slices(model.grid, DISK.frequency, rotation)
    own, columns = joint.columns(batch, slices, z=z, contrast=contrast)
    expected = predicted(torch.zeros(3, 6, dtype=torch.float64))
    assert relative(contrast[:, None] * own, expected) < 0.05
    for number in range(6):
        ahead = torch.zeros(3, 6, dtype=torch.float64)
        ahead[:, number] = 1e-4
        slope = (predicted(ahead) - predicted(-ahead)) / 2e-4
        assert relative(columns[..., ZDIM + number], slope) < 0.05, number


def relative(found, expected):
    return float((found - expected).abs().norm() / expected.abs().norm())


def test_errors_that_were_made_are_found_and_no_longer_change_the_latent_points(model):
    z, contrast, offset, rotation = drawn(5)
    batch = images(model, z, rotation, contrast=contrast, offset=offset, noise=0.5)
    found = located(model, batch, NuisancePrior(0.2, 0.03, 0.6))
    assert (found.nuisances.contrast - contrast).abs().median() < 0.02
    assert (found.nuisances.offset[:, :3] - offset[:, :3]).norm(dim=1).median() < 0.2 * offset[:, :3].norm(
        dim=1
    ).median()
    assert (found.nuisances.offset[:, 3:] - offset[:, 3:]).norm(dim=1).median() < 0.2 * offset[:, 3:].norm(
        dim=1
    ).median()
    error = (found.mean - z).square().mean()
    assert error < 0.2 * (located(model, batch, FIXED).mean - z).square().mean()


def test_the_posterior_is_as_wide_as_it_says(model):
    scores = []
    for seed in range(6, 12):
        z, contrast, offset, rotation = drawn(seed, contrast=0.1, turn=0.02, move=0.3)
        batch = images(model, z, rotation, contrast=contrast, offset=offset, noise=4.0, seed=seed)
        found = located(model, batch, NuisancePrior(0.1, 0.02, 0.3))
        scores.append((found.mean - z) / found.covariance.diagonal(dim1=1, dim2=2).sqrt())
    assert torch.cat(scores).std() == pytest.approx(1, abs=0.12)


def learnt(prior, model, batch):
    found = located(model, batch, prior)
    return prior.learnt(found.nuisances, found.shown(prior.empty))


def test_the_prior_learns_how_large_the_errors_are(model):
    z, contrast, offset, rotation = drawn(13, contrast=0.15, turn=0.02, move=0.4)
    batch = images(model, z, rotation, contrast=contrast, offset=offset, noise=0.7)
    prior = NuisancePrior()
    for _ in range(12):
        prior = learnt(prior, model, batch)
    assert prior.contrast == pytest.approx(0.15, rel=0.3)
    assert prior.rotation_rad == pytest.approx(0.02, rel=0.3)
    assert prior.shift_px == pytest.approx(0.4, rel=0.3)
    exact = images(model, z, rotation, contrast=torch.ones(N), offset=0 * offset, noise=4.0)
    for _ in range(8):
        prior = learnt(prior, model, exact)
    assert prior.contrast < 0.06 and prior.rotation_rad < 0.008 and prior.shift_px < 0.15
    assert learnt(FIXED, model, batch).free == []


def posterior(seed=0):
    """A posterior with everything correlated, and draws from it: contrasts, latent points, shifts."""
    rng = np.random.default_rng(seed)
    spread = rng.normal(size=(5, 5)) * 0.35
    whole = spread @ spread.T
    mean = np.array([1.1, 0.4, -0.7, 0.0, 0.0])
    draws = rng.multivariate_normal(mean, whole, size=400_000)
    tensor = torch.from_numpy(whole).float()[None]
    value = torch.zeros(1, 6)
    value[:, 0] = 0.1
    variance = torch.zeros(1, 6)
    variance[:, 0] = tensor[:, 0, 0]
    found = JointPosterior(
        torch.from_numpy(mean[1:3]).float()[None],
        tensor[:, 1:3, 1:3],
        tensor[:, 0, 1:3],
        tensor[:, 1:3, 3:],
        tensor[:, 3:, 3:],
        Nuisances(value, variance),
        torch.zeros(1),
    )
    return found, torch.from_numpy(draws)


def test_moments_are_the_means_over_draws_from_the_posterior():
    found, draws = posterior()
    e = torch.cat([torch.ones(len(draws), 1), draws[:, 1:3]], 1)
    first, second = found.moments()
    torch.testing.assert_close(first[0].double(), (draws[:, :1] * e).mean(0), atol=0.01, rtol=0.01)
    expected = torch.einsum("n,ni,nj->ij", draws[:, 0].square(), e, e) / len(draws)
    torch.testing.assert_close(second[0].double(), expected, atol=0.02, rtol=0.01)


def test_phases_are_those_of_the_mean_over_shifts_that_are_not_known():
    """With latent points that depend on the shift, and a contrast that does not."""
    found, draws = posterior(1)
    draws[:, 0] = 1.1
    cycles = DISK.frequency[:60] / BOX
    e = torch.cat([torch.ones(len(draws), 1), draws[:, 1:3]], 1)
    expected = torch.zeros(len(cycles), 3, dtype=torch.complex128)
    for some, shifts in zip((1.1 * e).split(50_000), draws[:, 3:].split(50_000), strict=True):
        expected += torch.einsum("nm,nc->mc", shift_phase(cycles.double(), shifts), some.to(torch.complex128))
    first = 1.1 * torch.cat([torch.ones(1, 1), found.mean], 1)
    seen = seen_through_shifts(found, first, cycles)[0]
    assert (seen - expected / len(draws)).abs().max() < 0.01


def test_a_step_that_makes_things_worse_is_not_taken(model):
    """From far away, where a shift is not linear, no image may end with a lower posterior than it began with."""
    z, contrast, offset, rotation = drawn(14, move=1.5)
    batch = images(model, z, rotation, contrast=contrast, offset=offset, noise=0.5)
    joint = JointModel.of(model, NuisancePrior(0.2, 0.03, 1.5), frequency=DISK.frequency, box=BOX)
    start = torch.zeros(N, 6)
    heights = [joint._linearised(batch, torch.cat([torch.zeros(N, ZDIM), start], 1)).height]
    for iterations in (2, 5, 12):
        found = joint.locate(batch, torch.zeros(N, ZDIM), start, iterations=iterations)
        heights.append(joint._linearised(batch, torch.cat([found.mean, found.nuisances.value], 1)).height)
    assert (heights[-1] > heights[0]).all()
    assert heights[-1].mean() >= heights[-2].mean() - 0.1


def test_images_of_nothing_are_known_as_such(model):
    z, contrast, offset, rotation = drawn(15)
    batch = images(model, z, rotation, contrast=contrast, offset=offset, noise=4.0)
    white = torch.view_as_complex(torch.randn(N, DISK.size, 2, generator=torch.Generator().manual_seed(1)) / 2**0.5)
    nothing = Batch(batch.index, white, batch.ctf, rotation)
    prior = NuisancePrior()
    assert located(model, batch, prior).shown(0.1).min() > 0.99
    assert located(model, nothing, prior).shown(0.1).max() < 0.5
    assert located(model, nothing, prior).shown(0.1).mean() < 0.1


def test_copies_of_a_particle_share_what_is_found_of_their_image():
    value = torch.arange(24.0).reshape(4, 6)
    shared = Nuisances(value, 2 * value).shared(2)
    expected = torch.stack([value[:2].mean(0)] * 2 + [value[2:].mean(0)] * 2)
    torch.testing.assert_close(shared.value, expected)
    torch.testing.assert_close(shared.variance, 2 * expected)
    assert Nuisances(value, value).shared(1).value is value
