"""The lattice of a field makes the field's own maps."""

from __future__ import annotations

import pytest
import torch

from cryomorph.representations import field_lattice
from cryomorph.representations.encodings import frequency_matrix
from cryomorph.representations.field_lattice import POINTS, FieldLattice
from cryomorph.representations.field_network import FieldShape
from cryomorph.representations.neural_field import NeuralField


def field(*, residual: bool = True, zdim: int = 3) -> NeuralField:
    """An untaught field whose every part matters: amplitudes that differ, latent scales that are not 1."""
    torch.manual_seed(0)
    amplitude = torch.linspace(5, 0.1, 9)
    scale = torch.linspace(0.5, 2, zdim)
    return NeuralField(FieldShape(16, zdim, 48, 2, residual), frequency_matrix("gaussian", 16), amplitude, scale)


def lattice(made: NeuralField, box: int, *, half_precision: bool = False) -> FieldLattice:
    found = made.lattice(box, half_precision=half_precision)
    assert found is not None
    return found


@pytest.mark.parametrize("box", [12, 16, 20])
@pytest.mark.parametrize("residual", [True, False])
def test_maps_are_the_field_s_own(box, residual):
    made = field(residual=residual)
    decode = lattice(made, box).volume
    for z in torch.randn(3, 3):
        expected = made.volume(z, box)
        torch.testing.assert_close(decode(z), expected, atol=1e-5 * float(expected.abs().max()), rtol=0)


def test_points_that_do_not_fill_the_last_part(monkeypatch):
    made = field()
    expected = lattice(made, 16).volume(torch.ones(3))
    monkeypatch.setitem(POINTS, "cpu", 7)
    torch.testing.assert_close(lattice(made, 16).volume(torch.ones(3)), expected)


def test_a_field_without_latent_space():
    made = field(zdim=0)
    torch.testing.assert_close(lattice(made, 16).volume(torch.zeros(0)), made.volume(torch.zeros(0), 16))


def test_half_precision_is_near():
    made, z = field(), torch.ones(3)
    exact, near = made.volume(z, 16), lattice(made, 16, half_precision=True).volume(z)
    assert near.dtype == torch.float32
    assert float((near - exact).norm() / exact.norm()) < 0.02


def test_a_lattice_that_does_not_fit_is_left_to_the_field(monkeypatch):
    made, z = field(), torch.ones(3)
    monkeypatch.setattr(field_lattice, "MAX_BYTES", 1000)
    assert made.lattice(16) is None
    torch.testing.assert_close(made.decoder(16)(z), made.volume(z, 16), atol=0, rtol=0)


def test_what_a_lattice_takes_is_the_field_s_band_not_the_box(monkeypatch):
    """A larger box has the same points and is zero beyond them."""
    made = field()
    size = lattice(made, 16).encoded.nbytes
    assert lattice(made, 32).encoded.nbytes == size
    monkeypatch.setattr(field_lattice, "MAX_BYTES", 1.2 * size)
    assert made.lattice(32) is not None
