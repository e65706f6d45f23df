"""Ring correlations against numpy, ring by ring."""

import numpy as np
import torch

from cryomorph.physics.disk import fourier_disk
from cryomorph.physics.rings import ring_correlation

DISK = fourier_disk(12)


def images(seed: int) -> torch.Tensor:
    return torch.randn(3, DISK.size, dtype=torch.complex64, generator=torch.Generator().manual_seed(seed))


def test_each_ring_s_correlation_is_numpy_s():
    a, b = images(0), images(1)
    found = ring_correlation(a, b, DISK.shell, rings=7)
    assert found.shape == (3, 7)
    for image in range(3):
        for ring in range(1, 7):
            x, y = (each[image].numpy()[DISK.shell.numpy() == ring] for each in (a, b))
            expected = np.vdot(y, x).real / np.sqrt((np.abs(x) ** 2).sum() * (np.abs(y) ** 2).sum())
            np.testing.assert_allclose(found[image, ring], expected, atol=1e-6)
    assert not found[:, 0].any()


def test_scale_does_not_matter_and_sign_does():
    a = images(0)
    torch.testing.assert_close(ring_correlation(a, 7 * a, DISK.shell, rings=7)[:, 1:], torch.ones(3, 6))
    torch.testing.assert_close(ring_correlation(a, -a, DISK.shell, rings=7)[:, 1:], -torch.ones(3, 6))


def test_nothing_correlates_with_nothing():
    found = ring_correlation(images(0), torch.zeros(3, DISK.size, dtype=torch.complex64), DISK.shell, rings=7)
    assert torch.equal(found, torch.zeros(3, 7))
