"""The encoder against its network written out in numpy."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from cryomorph.encoders.base import Posterior
from cryomorph.encoders.mlp import MlpEncoder
from cryomorph.particles.store import Batch
from cryomorph.physics.pose import random_rotations

N, SIZE, ZDIM = 4, 30, 3


def batch() -> Batch:
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(N, SIZE, dtype=torch.complex64, generator=generator)
    ctf = torch.randn(N, SIZE, generator=generator)
    return Batch(torch.arange(N), image, ctf, random_rotations(N, generator))


def encoder_of(*, residual: bool, count: int = 20, layers: int = 2) -> MlpEncoder:
    torch.manual_seed(1)
    return MlpEncoder(count, ZDIM, width=16, layers=layers, residual=residual)


def by_hand(encoder: MlpEncoder, given: Batch, residual: bool) -> tuple[np.ndarray, np.ndarray]:
    w = {name: value.numpy().astype(np.float64) for name, value in encoder.state_dict().items()}
    rows = []
    for image, ctf in zip(given.image.numpy(), given.ctf.numpy(), strict=True):
        seen = []
        for coefficient, transfer in zip(image[: encoder.count], ctf[: encoder.count], strict=True):
            sign = 1 if transfer > 0 else -1
            seen += [sign * coefficient.real, sign * coefficient.imag]
        hidden = np.maximum(w["input.weight"] @ np.array(seen) + w["input.bias"], 0)
        for layer in range(len(encoder.hidden)):
            skip = hidden if residual else 0
            hidden = np.maximum(w[f"hidden.{layer}.weight"] @ hidden + w[f"hidden.{layer}.bias"] + skip, 0)
        rows.append(w["output.weight"] @ hidden + w["output.bias"])
    answer = np.stack(rows)
    return answer[:, :ZDIM], answer[:, ZDIM:]


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("layers", [0, 1, 3])
def test_it_is_an_mlp_on_phase_flipped_coefficients(residual, layers):
    encoder, given = encoder_of(residual=residual, layers=layers), batch()
    found, (mean, log_variance) = encoder(given), by_hand(encoder, given, residual)
    np.testing.assert_allclose(found.mean.detach(), mean, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.log_variance.detach(), log_variance, rtol=1e-4, atol=1e-5)


def test_it_sees_its_band_and_no_more():
    encoder, given = encoder_of(residual=True), batch()
    beyond = given.image.clone()
    beyond[:, 20:] += 5
    assert torch.equal(encoder(replace(given, image=beyond)).mean, encoder(given).mean)
    torch.testing.assert_close(encoder(given.within(20)).mean, encoder(given).mean)
    within = given.image.clone()
    within[:, 19] += 5
    assert bool((encoder(replace(given, image=within)).mean != encoder(given).mean).all())


def test_it_is_told_neither_pose_nor_contrast():
    """Of the CTF it uses the sign alone: an image in another sign's phase is the same image."""
    encoder, given = encoder_of(residual=True), batch()
    turned = replace(given, rotation=given.rotation.flip(0), ctf=3 * given.ctf)
    assert torch.equal(encoder(turned).mean, encoder(given).mean)
    inverted = replace(given, image=-given.image, ctf=-given.ctf)
    assert torch.equal(encoder(inverted).mean, encoder(given).mean)
    assert not torch.equal(encoder(replace(given, image=-given.image)).mean, encoder(given).mean)


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("layers", [1, 3])
def test_it_is_made_again_from_what_was_saved(residual, layers):
    encoder, given = encoder_of(residual=residual, layers=layers), batch()
    again = MlpEncoder.of(encoder.state_dict())
    assert (again.count, again.zdim, len(again.hidden)) == (20, ZDIM, layers)
    assert torch.equal(again(given).mean, encoder(given).mean)
    assert torch.equal(again(given).log_variance, encoder(given).log_variance)


def test_every_weight_gets_a_gradient():
    encoder = encoder_of(residual=True)
    posterior = encoder(batch())
    (posterior.sample(torch.ones(N, ZDIM)).square().sum() + posterior.log_variance.sum()).backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in encoder.parameters())


def test_half_precision_gives_nearly_the_same():
    encoder, given = encoder_of(residual=True), batch()
    whole = encoder(given).mean.detach()
    with torch.autocast("cpu", torch.bfloat16):
        half = encoder(given).mean.detach()
    assert half.dtype == torch.float32
    assert 0 < float((half - whole).norm() / whole.norm()) < 0.02


def test_samples_have_the_posterior_s_moments():
    mean, log_variance = torch.tensor([[1.0, -2.0]]), torch.tensor([[0.0, -2.0]])
    noise = torch.randn(40_000, 2, generator=torch.Generator().manual_seed(2))
    drawn = Posterior(mean.expand(40_000, 2), log_variance.expand(40_000, 2)).sample(noise)
    torch.testing.assert_close(drawn.mean(0), mean[0], atol=0.02, rtol=0)
    torch.testing.assert_close(drawn.var(0), log_variance[0].exp(), atol=0, rtol=0.03)
    torch.testing.assert_close(Posterior(mean, log_variance).sample(torch.zeros(1, 2)), mean)
