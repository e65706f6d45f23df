"""Which latent points to believe: no difference where models agree, the better model's, and never those of noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from cryomorph.encoders.mlp import MlpEncoder
from cryomorph.encoders.table import TableEncoder
from cryomorph.latents.prediction_gain import SIGNIFICANT, LinearReference, PredictionGain, prediction_gain
from cryomorph.models.heterogeneous import Heterogeneous
from cryomorph.physics.disk import FourierDisk
from cryomorph.representations.base import Representation
from cryomorph.representations.linear import LinearSubspace

N = 160
HELD = torch.arange(0, N, 2)


@dataclass(frozen=True)
class Bent:
    """Blobs of two coordinates as a molecule of one: at t it is theirs at `(t, (t^2 - 1) / sqrt(2))`."""

    blobs: object

    @property
    def weight(self) -> np.ndarray:
        return self.blobs.weight[:2]

    def slices(self, z: np.ndarray, rotation: np.ndarray, frequency: np.ndarray) -> np.ndarray:
        return self.blobs.slices(np.concatenate([z, (z**2 - 1) / 2**0.5], axis=1), rotation, frequency)


class BentField(Representation):
    """`Bent` for the code under test; another blob field's slices on the parabola."""

    zdim = 1

    def __init__(self, straight: Representation) -> None:
        super().__init__()
        self.straight = straight

    def slices(self, z: Tensor, rotation: Tensor, disk: FourierDisk) -> Tensor:
        return self.straight.slices(torch.cat([z, (z**2 - 1) / 2**0.5], dim=1), rotation, disk)

    def volume(self, z: Tensor, box: int) -> Tensor:
        raise NotImplementedError("no test asks for its map")


def gain_of(trained: Representation, linear: LinearSubspace, made) -> PredictionGain:
    """Both models know the population: a standard normal one, whose points the table holds."""
    zdim = made.z.shape[1]
    table = TableEncoder(torch.from_numpy(made.z).float(), torch.full((N, zdim), 0.1))
    size = made.store.disk.size
    model = Heterogeneous(trained, table, prior_std=torch.ones(zdim), whitening=torch.ones(size))
    reference = LinearReference(linear, torch.ones(zdim))
    return prediction_gain(model, made.store, reference, held=HELD, half_precision=False)


@pytest.fixture(scope="module")
def straight(blobs_of, simulated, tmp_path_factory):
    """Blobs with two latent coordinates, in which they are linear, and a store of their images."""
    blobs = blobs_of.of(zdim=2, strength=1.0)
    return blobs, simulated(blobs, tmp_path_factory.mktemp("choose") / "store", n=N)


@pytest.mark.parametrize(
    ("by_trained", "by_linear", "clear"),
    [
        ((1.0, 0.4), (0.5, 0.4), True),
        ((1.0, 0.4), (-0.7, 0.4), True),  # the linear model does not object beyond doubt
        ((1.0, 0.4), (-0.9, 0.4), False),  # it does
        ((0.7, 0.4), (5.0, 0.1), False),  # no gain beyond doubt
        ((-1.0, 0.1), (5.0, 0.1), False),
        ((0.0, 0.0), (0.0, 0.0), False),
    ],
)
def test_a_verdict_is_clear_where_one_model_is_sure_and_the_other_does_not_object(by_trained, by_linear, clear):
    assert PredictionGain(by_trained, by_linear).is_significant is clear


def test_models_that_are_the_same_gain_nothing(straight):
    blobs, made = straight
    linear = LinearSubspace(blobs.maps())
    gain_found = gain_of(linear, linear, made)
    assert gain_found.by_trained == gain_found.by_linear
    assert abs(gain_found.by_trained[0]) < 1e-3
    assert not gain_found.is_significant


def test_the_same_molecule_in_closed_form_gains_nothing_beyond_doubt(straight):
    """Blobs as a formula and as maps on a grid, which interpolation tells apart a little."""
    blobs, made = straight
    gain_found = gain_of(blobs.representation(), LinearSubspace(blobs.maps()), made)
    for gain, error in (gain_found.by_trained, gain_found.by_linear):
        assert abs(gain) < 0.1 and abs(gain) < SIGNIFICANT * error
    assert not gain_found.is_significant


def test_the_gain_is_that_of_two_regressions_on_every_second_coefficient(straight):
    """Bayesian linear regression under both models on even coefficients, residuals of odd ones, in double precision."""
    blobs, made = straight
    linear = LinearSubspace(blobs.maps() * torch.tensor([1.0, 0.4, 1.5])[:, None, None, None])
    trained = blobs.representation()
    image = made.store.batch(HELD)
    x = image.image.numpy().astype(complex)
    even = np.arange(x.shape[1]) % 2 == 0

    def columns(model: Representation) -> np.ndarray:
        """`[mean, components]` (b, m, 3) of each particle: differences of slices, which are linear in z."""
        points = torch.cat([torch.zeros(1, 2), torch.eye(2)])
        parts = [model.slices(point.expand(len(HELD), -1), image.rotation, made.store.disk) for point in points]
        mean, *ends = (part.numpy().astype(complex) for part in parts)
        return np.stack([mean, *(end - mean for end in ends)], axis=-1)

    def located(c: np.ndarray) -> np.ndarray:
        a, y = c[:, even, 1:], x[:, even] - c[:, even, 0]
        # precision of each coefficient is 2 in its real part and in its imaginary one
        information = 2 * np.einsum("bmp,bmq->bpq", a.conj(), a).real
        covariance = np.linalg.inv(information + np.eye(2))
        mean = np.einsum("bpq,bq->bp", covariance, 2 * np.einsum("bmp,bm->bp", a.conj(), y).real)
        # the landscape's prior in place of the standard normal one, whose weights it fits once
        variance = covariance.diagonal(axis1=1, axis2=2)
        alone = 1 / (1 / variance - 1)
        best = mean / variance * alone
        far = ((best[:, None] - made.z) ** 2 / alone[:, None]).sum(-1)
        weight = np.full(N, 1 / N)
        for _ in range(2):
            share = weight * np.exp(-0.5 * (far - far.min(1, keepdims=True)))
            share /= share.sum(1, keepdims=True)
            weight = np.maximum(share.mean(0), 1e-12)
        return share @ made.z

    def nll(c: np.ndarray, z: np.ndarray) -> np.ndarray:
        residual = x - c[..., 0] - np.einsum("bmq,bq->bm", c[..., 1:], z)
        return (np.abs(residual[:, ~even]) ** 2).sum(1)

    of_trained, of_linear = columns(trained), columns(linear)
    first, second = located(of_linear), located(of_trained)
    gain_found = gain_of(trained, linear, made)
    for found, judge in ((gain_found.by_trained, of_trained), (gain_found.by_linear, of_linear)):
        gain = nll(judge, first) - nll(judge, second)
        assert found[0] == pytest.approx(gain.mean(), rel=0.02, abs=0.02)
        assert found[1] == pytest.approx(gain.std(ddof=1) / len(gain) ** 0.5, rel=0.02, abs=0.01)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_true_model_of_a_bent_molecule_gains_over_its_linear_part(blobs_of, simulated, tmp_path, seed):
    blobs = blobs_of.of(zdim=2, strength=1.0, seed=seed)
    made = simulated(Bent(blobs), tmp_path / "store", n=N)
    gain_found = gain_of(BentField(blobs.representation()), LinearSubspace(blobs.maps()[:2]), made)
    gain, error = gain_found.by_trained
    assert gain > 3 * error


def test_the_true_model_is_clearly_better_where_the_linear_one_misses_what_noise_does_not_hide(
    blobs_of, simulated, tmp_path
):
    """Blobs so weak that one coefficient says little: the linear part's own points are no better by its own maps."""
    blobs = blobs_of.of(zdim=2, strength=0.3, seed=1)
    made = simulated(Bent(blobs), tmp_path / "store", n=N)
    gain_found = gain_of(BentField(blobs.representation()), LinearSubspace(blobs.maps()[:2]), made)
    assert gain_found.by_trained[0] > 0.1 and gain_found.is_significant


@pytest.mark.parametrize("amplitude", [0.3, 1.0])
def test_a_model_that_holds_noise_is_not_believed_however_good_it_finds_its_own_points(straight, amplitude):
    """The true mean, and components of noise: the linear model tells that the points found with them mean nothing."""
    blobs, made = straight
    maps = blobs.maps()
    noise = amplitude * maps.std() * torch.randn(maps.shape, generator=torch.Generator().manual_seed(0))
    noise[0] = maps[0]
    gain_found = gain_of(LinearSubspace(noise), LinearSubspace(maps), made)
    gain, error = gain_found.by_trained
    assert gain > SIGNIFICANT * error  # by its own maps alone it would be believed
    assert gain_found.by_linear[0] < -1
    assert not gain_found.is_significant


def test_the_model_that_is_judged_is_left_as_it_was(straight):
    blobs, made = straight
    table = TableEncoder(torch.from_numpy(made.z).float(), torch.full((N, 2), 0.1))
    size = made.store.disk.size
    model = Heterogeneous(blobs.representation(), table, prior_std=torch.ones(2), whitening=torch.ones(size))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    reference = LinearReference(LinearSubspace(blobs.maps()), torch.ones(2))
    prediction_gain(model, made.store, reference, held=HELD[:8], half_precision=False)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_only_a_table_s_points_can_be_compared(straight):
    blobs, made = straight
    size = made.store.disk.size
    encoder = MlpEncoder(size, 2, width=8, layers=1)
    model = Heterogeneous(blobs.representation(), encoder, prior_std=torch.ones(2), whitening=torch.ones(size))
    reference = LinearReference(LinearSubspace(blobs.maps()), torch.ones(2))
    with pytest.raises(ValueError, match="table"):
        prediction_gain(model, made.store, reference, held=HELD, half_precision=False)
