"""The whole model, image -> z -> slice -> loss, against its parts written out in numpy."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from cryomorph.compute.batch_threads import BatchThreads
from cryomorph.encoders.mlp import MlpEncoder
from cryomorph.encoders.poses import PoseTable
from cryomorph.encoders.table import TableEncoder
from cryomorph.models.heterogeneous import Heterogeneous
from cryomorph.objectives.smoothness import Smoothness
from cryomorph.particles.store import Batch
from cryomorph.physics.disk import fourier_disk
from cryomorph.physics.pose import neighbouring_rotations, random_rotations, rotvec_from_rotation
from cryomorph.representations.conv_network import ConvShape
from cryomorph.representations.conv_volume import ConvVolume
from cryomorph.representations.encodings import frequency_matrix
from cryomorph.representations.field_network import FieldShape
from cryomorph.representations.linear import LinearSubspace
from cryomorph.representations.neural_field import NeuralField

N, BOX, ZDIM = 6, 12, 2
DISK = fourier_disk(BOX)
PRIOR_STD = torch.tensor([0.8, 1.5])
WHITENING = torch.linspace(0.5, 1.5, DISK.size)


def maps() -> torch.Tensor:
    """A mean and two components, smooth and within the box."""
    rng = np.random.default_rng(0)
    line = torch.arange(BOX) - BOX // 2
    z, y, x = torch.meshgrid(line, line, line, indexing="ij")
    squared = [(x - c[0]) ** 2 + (y - c[1]) ** 2 + (z - c[2]) ** 2 for c in rng.uniform(-2, 2, (6, 3))]
    blobs = [0.2 * torch.exp(-s / 4.0) for s in squared]
    return torch.stack([sum(blobs), blobs[0] - blobs[1], blobs[2] - blobs[3]])


def linear() -> LinearSubspace:
    return LinearSubspace(maps())


def batch() -> Batch:
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(N, DISK.size, dtype=torch.complex64, generator=generator)
    return Batch(torch.arange(N), image, torch.randn(N, DISK.size, generator=generator), random_rotations(N, generator))


def table() -> TableEncoder:
    generator = torch.Generator().manual_seed(1)
    return TableEncoder(torch.randn(N, ZDIM, generator=generator), torch.rand(N, ZDIM, generator=generator) + 0.1)


def model_of(encoder, representation=None, poses=None) -> Heterogeneous:
    given = linear() if representation is None else representation
    return Heterogeneous(given, encoder, prior_std=PRIOR_STD[: given.zdim], whitening=WHITENING, poses=poses)


NOISE = torch.randn(N, ZDIM, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("band", [4.0, 6.0])
def test_the_loss_is_the_residual_of_a_sampled_point_and_its_divergence(band):
    model, given, disk = model_of(table()), batch(), DISK.within(band)
    loss = model(model.prepare_batch(given, DISK), disk, NOISE)
    mean, std = model.encoder.mean.double().numpy(), model.encoder.std.double().numpy()
    z = mean + std * NOISE.double().numpy()
    slices = linear().slices(torch.from_numpy(z).float(), given.rotation, disk).numpy()
    seen, factor = given.within(disk.size), WHITENING[: disk.size].numpy()
    residual = factor * (seen.image.numpy() - seen.ctf.numpy() * slices)
    np.testing.assert_allclose(loss.nll.detach(), (np.abs(residual) ** 2).sum(1), rtol=1e-4)
    prior = PRIOR_STD.double().numpy()
    kl = np.log(prior / std) + (std**2 + mean**2) / (2 * prior**2) - 0.5
    np.testing.assert_allclose(loss.kl.detach(), kl, rtol=1e-4, atol=1e-5)


def test_a_homogeneous_model_has_no_latent_and_no_divergence():
    field = NeuralField(FieldShape(BOX, 0, 16, 1), frequency_matrix("gaussian", BOX))
    model, given = model_of(None, field), batch()
    posterior = model.posterior(given)
    assert posterior.mean.shape == posterior.log_variance.shape == (N, 0)
    loss = model(model.prepare_batch(given, DISK), DISK, torch.zeros(N, 0))
    assert loss.kl.shape == (N, 0)
    slices = field.slices(torch.zeros(N, 0), given.rotation, DISK).detach()
    expected = ((given.image - given.ctf * slices) * WHITENING).abs().square().sum(1)
    torch.testing.assert_close(loss.nll.detach(), expected, rtol=1e-4, atol=1e-4)
    loss.nll.sum().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in model.parameters())


def test_placing_whitens_and_corrects_the_poses():
    poses = PoseTable(N)
    poses.offset[:] = 0.3 * torch.randn(N, 5, generator=torch.Generator().manual_seed(3))
    given = batch()
    expected = given.whitened(WHITENING).moved(poses.offset, DISK.frequency / DISK.box)
    for placed in (
        model_of(table(), poses=poses).prepare_batch(given, DISK),
        model_of(table()).prepare_batch(
            given.moved(poses.offset, DISK.frequency / DISK.box), DISK
        ),  # the one does not touch the other
    ):
        torch.testing.assert_close(placed.image, expected.image)
        torch.testing.assert_close(placed.ctf, expected.ctf)
        torch.testing.assert_close(placed.rotation, expected.rotation)
    narrow = DISK.within(4)
    part = model_of(table(), poses=poses).prepare_batch(given.within(narrow.size), narrow)
    torch.testing.assert_close(part.image, expected.image[:, : narrow.size])


def test_refined_poses_explain_images_that_given_ones_do_not():
    """Images made at true poses cost nothing once the table holds what takes the given poses to them."""
    offset = 0.2 * torch.randn(N, 5, generator=torch.Generator().manual_seed(4))
    encoder, given = table(), batch()
    flat = replace(given, image=torch.zeros_like(given.image), ctf=torch.ones_like(given.ctf))
    true = flat.moved(offset, DISK.frequency / DISK.box)
    slices = linear().slices(encoder.mean, true.rotation, DISK)
    # the content lies at minus the true shift; the given poses have none
    seen = replace(flat, image=slices).moved(
        torch.cat([torch.zeros(N, 3), -offset[:, 3:]], dim=1), DISK.frequency / DISK.box
    )
    poses = PoseTable(N)
    given_poses = model_of(encoder, poses=poses)
    before = given_poses(given_poses.prepare_batch(seen, DISK), DISK, 0 * NOISE).nll
    poses.offset[:] = offset
    after = given_poses(given_poses.prepare_batch(seen, DISK), DISK, 0 * NOISE).nll
    assert bool((after < 1e-6 * before).all())


def test_an_encoder_sees_more_than_is_compared():
    """While the band of the likelihood grows, the encoder looks at all that it will ever see."""
    torch.manual_seed(0)
    encoder = MlpEncoder(DISK.size, ZDIM, width=8, layers=1)
    model, given, narrow = model_of(encoder), batch(), DISK.within(3)
    changed = given.image.clone()
    changed[:, narrow.size :] *= 2
    one = model(model.prepare_batch(given, DISK), narrow, 0 * NOISE)
    other = model(model.prepare_batch(replace(given, image=changed), DISK), narrow, 0 * NOISE)
    assert bool((one.kl != other.kl).any())
    by_table = model_of(table())
    one = by_table(by_table.prepare_batch(given, DISK), narrow, 0 * NOISE)
    other = by_table(by_table.prepare_batch(replace(given, image=changed), DISK), narrow, 0 * NOISE)
    assert torch.equal(one.nll, other.nll)


def test_the_table_s_steps_on_the_loss_find_the_posterior_mean():
    """Of a linear model with Gaussian prior and noise: the solution of the normal equations, by numpy."""
    given, generator = batch(), torch.Generator().manual_seed(5)
    truth = PRIOR_STD * torch.randn(N, ZDIM, generator=generator)
    noise = torch.randn(N, DISK.size, dtype=torch.complex64, generator=generator)
    given = replace(given, image=given.ctf * linear().slices(truth, given.rotation, DISK) + noise / WHITENING)
    columns = []
    for z in torch.cat([torch.zeros(1, ZDIM), torch.eye(ZDIM)]):
        slices = linear().slices(z.expand(N, ZDIM), given.rotation, DISK)
        columns.append((WHITENING * given.ctf * slices).numpy().astype(np.complex128))
    expected, alone = np.zeros((N, ZDIM)), np.zeros((N, ZDIM))
    for i in range(N):
        design = np.stack([column[i] - columns[0][i] for column in columns[1:]], axis=1)
        data = WHITENING.numpy() * given.image[i].numpy() - columns[0][i]
        # noise of variance 1 for each complex coefficient is one half for each of its parts
        precision = 2 * (design.conj().T @ design).real + np.diag(1 / PRIOR_STD.numpy() ** 2)
        expected[i] = np.linalg.solve(precision, 2 * (design.conj().T @ data).real)
        alone[i] = 1 / np.sqrt(np.diag(precision))
    encoder = TableEncoder(torch.zeros(N, ZDIM), torch.from_numpy(alone).float())
    model = model_of(encoder)
    placed = model.prepare_batch(given, DISK)
    for _ in range(120):
        loss = model(placed, DISK, 0 * NOISE)
        (loss.nll + loss.kl.sum(1)).mean().backward()
        encoder.step(0.5, float(N))
    np.testing.assert_allclose(encoder.mean, expected, atol=2e-3 * np.abs(expected).max())
    assert float((encoder.mean - truth).abs().max()) < 5 * float(alone.max())


def test_everything_that_is_no_weight_is_saved():
    state = model_of(table(), poses=PoseTable(N)).state_dict()
    assert set(state) == {
        "representation.maps",
        "encoder.mean",
        "encoder.std",
        "poses.offset",
        "prior_std",
        "whitening",
    }


def test_an_image_in_doubtful_orientation_is_judged_by_its_likelihood_in_nine():
    """`-log mean exp(-loss)` over the orientation given and eight so far from it, by numpy; the field and the cube."""
    torch.manual_seed(0)
    cube = ConvVolume(ConvShape(BOX, ZDIM, BOX, channels=2, hidden=8), maps()[0], unit=0.1)
    given, encoder = batch(), table()
    for representation in (linear(), cube):
        model = Heterogeneous(
            representation, encoder, prior_std=PRIOR_STD, whitening=torch.ones(DISK.size), pose_spread_deg=7.0
        )
        turned = neighbouring_rotations(given.rotation, 7.0)
        losses = []
        for number in range(9):
            rotation = turned[:, number]
            angle = (torch.einsum("bij,bij->b", rotation, given.rotation) - 1).div(2).clamp(-1, 1).acos()
            np.testing.assert_allclose(angle.rad2deg(), 0 if number == 0 else 7.0, atol=0.05)
            slices = representation.slices(encoder.mean, rotation, DISK).detach()
            losses.append((given.image - given.ctf * slices).abs().square().sum(1).double().numpy())
        least = np.min(losses, axis=0)
        expected = least - np.log(np.mean(np.exp(least - np.array(losses)), axis=0))
        found = model(given, DISK, 0 * NOISE).nll.detach()
        np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_neighbouring_orientations_keep_their_digits_in_half_precision():
    rotation = random_rotations(3, torch.Generator().manual_seed(0)).float()
    with torch.autocast("cpu", torch.bfloat16):
        found = neighbouring_rotations(rotation, 3.0)
    assert torch.equal(found, neighbouring_rotations(rotation, 3.0)) and torch.equal(found[:, 0], rotation)


def test_neighbouring_orientations_lie_on_all_sides():
    rotation = random_rotations(3, torch.Generator().manual_seed(0))
    turns = neighbouring_rotations(rotation, 4.0) @ rotation[:, None].mT
    steps = rotvec_from_rotation(turns.flatten(0, 1)).view(3, 9, 3)
    np.testing.assert_allclose(steps.sum(1), 0, atol=1e-5)
    np.testing.assert_allclose(
        steps[:, 1:].sign().sort(1).values, torch.tensor([-1.0] * 4 + [1.0] * 4)[:, None].expand(3, 8, 3)
    )


def test_maps_on_a_grid_cost_what_their_smoothness_says():
    torch.manual_seed(0)
    cube = ConvVolume(ConvShape(BOX, ZDIM, BOX, channels=2, hidden=8), maps()[0], unit=0.1)
    encoder, smoothness = table(), Smoothness(1.0, 0.3, BOX)
    model = Heterogeneous(cube, encoder, prior_std=PRIOR_STD, whitening=WHITENING, smoothness=smoothness)
    with BatchThreads(N, processors=2) as threads:
        for found in (model(batch(), DISK, NOISE), model(batch(), DISK, NOISE, threads=threads)):
            z = encoder.mean + encoder.std * NOISE
            torch.testing.assert_close(found.roughness, smoothness(cube.grids(z)))
            torch.testing.assert_close(found.mean, encoder.mean)
            found.roughness.sum().backward()
            assert bool(cube.network.weight[-1].grad.any())
            cube.zero_grad()
    assert not bool(model.eval()(batch(), DISK, NOISE).roughness.any())  # nobody asks what held-out maps cost
    field = NeuralField(FieldShape(BOX, ZDIM, 16, 1), frequency_matrix("gaussian", BOX))
    bare = Heterogeneous(field, encoder, prior_std=PRIOR_STD, whitening=WHITENING, smoothness=smoothness)
    assert not bool(bare(batch(), DISK, NOISE).roughness.any())
