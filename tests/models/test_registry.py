"""A representation that was written down is made again, the same to the last bit."""

import pytest
import torch

from cryomorph.config.errors import InputError
from cryomorph.config.methods import OURS
from cryomorph.models.registry import facts_of, representation_from
from cryomorph.physics.disk import fourier_disk
from cryomorph.physics.gaussian_slices import Mixture
from cryomorph.physics.pose import random_rotations
from cryomorph.representations.base import Representation
from cryomorph.representations.conv_network import ConvShape
from cryomorph.representations.conv_volume import ConvVolume
from cryomorph.representations.encodings import frequency_matrix
from cryomorph.representations.field_network import FieldShape
from cryomorph.representations.gaussian_motion import CHANGES, GaussianShape
from cryomorph.representations.gaussians import Gaussians
from cryomorph.representations.linear import LinearSubspace
from cryomorph.representations.neural_field import NeuralField
from cryomorph.runs.checkpoint import load_tensors, save_tensors

BOX = 12


def field(zdim: int, *, residual: bool, columns: int) -> NeuralField:
    """A field of which nothing is as it would be made again without its file."""
    torch.manual_seed(zdim)
    shape = FieldShape(BOX, zdim, 24, 3, residual=residual)
    frequencies = frequency_matrix("gaussian", BOX, sigma=0.7, count=columns, seed=5)
    return NeuralField(shape, frequencies, torch.rand(BOX // 2 + 1) + 1, torch.rand(zdim) + 1)


def linear() -> LinearSubspace:
    return LinearSubspace(torch.randn(3, BOX, BOX, BOX, generator=torch.Generator().manual_seed(0)))


def mixture(zdim: int, *, noisy: bool = False, parts: int = 0) -> Gaussians:
    """Gaussians of which nothing is as it would be made again without its file."""
    torch.manual_seed(zdim)
    neutral = Mixture(torch.randn(1, 9, 3), torch.rand(1, 9) + 1, torch.rand(1, 9) + 1)
    changes = ("widths", "positions") if zdim else CHANGES
    shape = GaussianShape(BOX, zdim, 9, changes=changes, parts=parts, width=8, layers=2, noisy=noisy)
    return Gaussians(
        shape, neutral, latent_scale=torch.rand(zdim) + 1, origin=torch.randn(zdim), free=torch.rand(9)
    ).eval()


def cube(zdim: int, side: int) -> ConvVolume:
    torch.manual_seed(0)
    shape = ConvShape(BOX, zdim, side, channels=2, hidden=8)
    return ConvVolume(shape, torch.rand(side, side, side), unit=2.0, latent_scale=torch.full((zdim,), 3.0)).eval()


EVERY = {
    "cube of the box": ("conv-volume", lambda: cube(2, BOX)),
    "coarser cube": ("conv-volume", lambda: cube(3, 12)),
    "cube without latent": ("conv-volume", lambda: cube(0, BOX)),
    "gaussians": ("gaussians", lambda: mixture(2)),
    "gaussians in parts": ("gaussians", lambda: mixture(2, parts=3)),
    "noisy gaussians": ("gaussians", lambda: mixture(3, noisy=True)),
    "gaussians without latent": ("gaussians", lambda: mixture(0)),
    "linear": ("linear", linear),
    "residual field": ("neural-field", lambda: field(2, residual=True, columns=18)),
    "plain field": ("neural-field", lambda: field(2, residual=False, columns=18)),
    "field without latent": ("neural-field", lambda: field(0, residual=True, columns=18)),
    "field of another encoding": ("neural-field", lambda: field(4, residual=True, columns=7)),
}


@pytest.mark.parametrize("name", EVERY)
def test_what_was_written_down_is_made_again(name, tmp_path):
    method, make = EVERY[name]
    given = make()
    path = tmp_path / "model.safetensors"
    save_tensors(path, given.state_dict(), **facts_of(given))
    tensors, facts = load_tensors(path)
    again = representation_from(tensors, facts)
    assert facts["method"] == method and type(again) is type(given) and again.zdim == given.zdim
    generator = torch.Generator().manual_seed(1)
    z, rotation = torch.randn(3, given.zdim, generator=generator), random_rotations(3, generator)
    assert torch.equal(again.slices(z, rotation, fourier_disk(BOX)), given.slices(z, rotation, fourier_disk(BOX)))
    assert torch.equal(again.volume(z[0], 16), given.volume(z[0], 16))
    assert not again.training or not list(again.parameters())


def test_every_method_has_a_representation_and_every_representation_a_method():
    assert {type(make()) for _, make in EVERY.values()} == {
        kind for kind in Representation.__subclasses__() if kind.__module__.startswith("cryomorph.")
    }
    assert {method for method, _ in EVERY.values()} == set(OURS)


def test_tensors_that_are_not_the_field_s_are_left_alone():
    """A checkpoint holds more than the representation."""
    given = field(2, residual=True, columns=18)
    again = representation_from({**given.state_dict(), "something.else": torch.ones(3)}, facts_of(given))
    assert torch.equal(again.volume(torch.ones(2), BOX), given.volume(torch.ones(2), BOX))


@pytest.mark.parametrize("facts", [{"method": "deformation"}, {}])
def test_a_method_that_is_not_known_is_named(facts):
    with pytest.raises(
        InputError, match=rf"method '{facts.get('method', '')}' is not known here: expected one of linear, conv-vol"
    ):
        representation_from({}, facts)
