"""Latent points under a trained model: exact where the model is linear, the encoder's own where there is one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cryomorph.encoders.mlp import MlpEncoder
from cryomorph.encoders.poses import PoseTable
from cryomorph.encoders.table import TableEncoder
from cryomorph.latents import encode
from cryomorph.latents.encode import encode_amortised, encode_by_gradient
from cryomorph.models.heterogeneous import Heterogeneous
from cryomorph.physics.disk import fourier_disk

N = 30
PRIOR = np.array([1.0, 2.0])
DISK = fourier_disk(16)
EVERYTHING = torch.arange(N)


@pytest.fixture(scope="module")
def made(blobs_of, simulated, tmp_path_factory):
    """Blobs with two latent coordinates, and a store of their images."""
    blobs = blobs_of.of(zdim=2, strength=1.0)
    return blobs, simulated(blobs, tmp_path_factory.mktemp("encode") / "store", n=N)


def model_of(blobs, encoder, *, whitening: float = 1.0, poses: PoseTable | None = None) -> Heterogeneous:
    return Heterogeneous(
        blobs.representation(),
        encoder,
        prior_std=torch.from_numpy(PRIOR).float(),
        whitening=torch.full((DISK.size,), whitening),
        poses=poses,
    )


def table(seed: int = 0) -> TableEncoder:
    start = torch.randn(N, 2, generator=torch.Generator().manual_seed(seed))
    return TableEncoder(start, torch.ones(N, 2))


def exact_posterior(blobs, made, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bayesian linear regression of centred images on the blobs' weights: means and standard deviations."""
    k = DISK.frequency.numpy() / 16
    none = np.zeros((N, 0))
    mean, *parts = (type(blobs)(blobs.centre, row[None]).slices(none, made.rotation, k) for row in blobs.weight)
    columns = np.stack(parts, axis=-1)
    precision = 2 * np.einsum("bmp,bmq->bpq", columns.conj(), columns).real + np.diag(PRIOR**-2.0)
    covariance = np.linalg.inv(precision)
    projected = 2 * np.einsum("bmp,bm->bp", columns.conj(), image - mean).real
    return np.einsum("bpq,bq->bp", covariance, projected), np.sqrt(covariance.diagonal(axis1=1, axis2=2))


def test_by_gradient_a_linear_model_gives_the_exact_posterior(made):
    blobs, data = made
    mean, std = encode_by_gradient(model_of(blobs, table()), data.store, EVERYTHING, half_precision=False)
    exact, width = exact_posterior(blobs, data, data.store.batch(EVERYTHING).image.numpy())
    assert np.abs((mean.numpy() - exact) / width).max() < 0.02
    np.testing.assert_allclose(std, width, rtol=1e-3)
    # and so lies about the truth by as much as it says
    assert 0.7 < ((mean.numpy() - data.z) / width).std() < 1.3


def test_by_gradient_the_start_is_forgotten(made):
    blobs, data = made
    one, other = (
        encode_by_gradient(model_of(blobs, table(seed)), data.store, EVERYTHING, half_precision=False)[0]
        for seed in (1, 2)
    )
    torch.testing.assert_close(one, other, atol=0.02, rtol=0)


def test_by_gradient_more_noise_says_less(made):
    """Half the whitening is twice the noise amplitude: a quarter of the information on top of the prior's."""
    blobs, data = made
    _, clear = encode_by_gradient(model_of(blobs, table()), data.store, EVERYTHING, half_precision=False)
    k = DISK.frequency.numpy() / 16
    none = np.zeros((N, 0))
    columns = np.stack(
        [type(blobs)(blobs.centre, row[None]).slices(none, data.rotation, k) for row in blobs.weight[1:]], axis=-1
    )
    information = 2 * np.einsum("bmp,bmq->bpq", columns.conj(), columns).real
    expected = np.sqrt(np.linalg.inv(information / 4 + np.diag(PRIOR**-2.0)).diagonal(axis1=1, axis2=2))
    model = model_of(blobs, table(), whitening=0.5)
    _, noisy = encode_by_gradient(model, data.store, EVERYTHING, half_precision=False)
    np.testing.assert_allclose(noisy, expected, rtol=1e-3)
    assert bool((noisy > clear).all())


def test_by_gradient_refined_poses_are_used(blobs_of, simulated, tmp_path):
    """A table with the offsets that the store's poses lack gives the answer of the true poses."""
    blobs = blobs_of.of(zdim=2, strength=1.0)
    offset = np.random.default_rng(1).normal(size=(N, 5)) * [0.3, 0.3, 0.3, 2, 2]
    right = simulated(blobs, tmp_path / "right", n=N)
    wrong = simulated(blobs, tmp_path / "wrong", n=N, offset=offset)
    poses = PoseTable(N)
    poses.offset.copy_(torch.from_numpy(offset))
    options = {"half_precision": False}
    expected, _ = encode_by_gradient(model_of(blobs, table()), right.store, EVERYTHING, **options)
    found, _ = encode_by_gradient(model_of(blobs, table(), poses=poses), wrong.store, EVERYTHING, **options)
    without, _ = encode_by_gradient(model_of(blobs, table()), wrong.store, EVERYTHING, **options)
    torch.testing.assert_close(found, expected, atol=0.02, rtol=0)
    assert float((without - expected).abs().max()) > 0.2


def test_rows_that_are_not_asked_for_are_zero(made):
    blobs, data = made
    subset = torch.tensor([0, 3, 4, 29])
    whole = encode_by_gradient(model_of(blobs, table()), data.store, EVERYTHING, half_precision=False)
    part = encode_by_gradient(model_of(blobs, table()), data.store, subset, half_precision=False)
    others = torch.ones(N, dtype=torch.bool)
    others[subset] = False
    for all_rows, some in zip(whole, part, strict=True):
        torch.testing.assert_close(some[subset], all_rows[subset], atol=1e-3, rtol=1e-3)
        assert not bool(some[others].any())


def test_amortised_latents_are_those_of_the_encoder_network(made, monkeypatch):
    """Two ReLU layers in numpy on the phase-flipped, centred, whitened coefficients of every image."""
    blobs, data = made
    torch.manual_seed(0)
    encoder = MlpEncoder(DISK.size, 2, width=8, layers=1, residual=True)
    monkeypatch.setattr(encode, "track", lambda batches, *rest, **options: batches)
    mean, std = encode_amortised(model_of(blobs, encoder, whitening=0.5), data.store, EVERYTHING)
    batch = data.store.batch(EVERYTHING)
    flipped = 0.5 * batch.image.numpy() * np.sign(batch.ctf.numpy())
    given = np.stack([flipped.real, flipped.imag], axis=-1).reshape(N, -1).astype(np.float64)
    state = {name: tensor.double().numpy() for name, tensor in encoder.state_dict().items()}
    hidden = np.maximum(given @ state["input.weight"].T + state["input.bias"], 0)
    hidden = np.maximum(hidden @ state["hidden.0.weight"].T + state["hidden.0.bias"] + hidden, 0)
    answer = hidden @ state["output.weight"].T + state["output.bias"]
    np.testing.assert_allclose(mean, answer[:, :2], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(std, np.exp(answer[:, 2:] / 2), rtol=1e-3, atol=1e-4)
    some, _ = encode_amortised(model_of(blobs, encoder, whitening=0.5), data.store, torch.tensor([2, 7]))
    torch.testing.assert_close(some[[2, 7]], mean[[2, 7]])
    assert int((some != 0).any(1).sum()) == 2


def test_batches_change_nothing(made, monkeypatch):
    blobs, data = made
    whole = encode_by_gradient(model_of(blobs, table()), data.store, EVERYTHING, half_precision=False)
    monkeypatch.setattr(encode, "POINTS", 4 * DISK.size)
    small = encode_by_gradient(model_of(blobs, table()), data.store, EVERYTHING, half_precision=False)
    torch.testing.assert_close(small, whole, atol=0.01, rtol=1e-3)
