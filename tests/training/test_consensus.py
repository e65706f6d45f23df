"""The noise of the consensus: whitening under both noise models."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cryomorph.training.consensus import Consensus, noise_whitening


@pytest.fixture
def found():
    """A consensus whose noise has a power of its own in each shell, one of them above the store's."""
    noise = torch.linspace(0.2, 1.0, 9)
    noise[4] = 3.0
    return Consensus(torch.randn(16, 16, 16, generator=torch.Generator().manual_seed(1)), torch.ones(9), noise)


def test_radial_whitening_divides_by_the_lower_noise_of_store_and_consensus(tiny_store, found):
    """The store has unit noise: a shell where the consensus leaves 0.25 is twice as sure, and none is less sure."""
    shell = tiny_store.disk.shell.numpy()
    power = np.minimum(found.noise.numpy().astype(float), 1)
    power[0] = power[1]
    np.testing.assert_allclose(noise_whitening(tiny_store, found, "radial"), power[shell] ** -0.5, rtol=1e-5)


def test_white_whitening_gives_back_the_images_as_they_were_but_for_one_factor(tiny_store, found):
    """What was divided by each shell's amplitude is multiplied by it again, and the mean noise power is one."""
    factor = noise_whitening(tiny_store, found, "white").numpy().astype(float)
    amplitude = tiny_store.noise_amplitude.numpy().astype(float)[tiny_store.disk.shell.numpy()]
    np.testing.assert_allclose(factor / amplitude, factor[0] / amplitude[0], rtol=1e-5)
    assert (factor**2).mean() == pytest.approx(1, rel=1e-5)


def test_what_is_unknown_of_a_map_leaves_the_noise_as_it_is_outside_the_particle(tiny_store):
    found = Consensus.unknown(tiny_store)
    assert torch.equal(found.map, torch.zeros(16, 16, 16)) and torch.equal(found.precision, torch.zeros(9))
    assert torch.equal(found.noise, torch.ones(9))
    assert torch.equal(noise_whitening(tiny_store, found, "radial"), torch.ones(tiny_store.disk.size))
