"""The noise of single images, against powers that are known, with images that are not like the others."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from cryomorph.particles.metadata import read_particles
from cryomorph.particles.noise import NoiseModel, power_of, robust_level, robust_power
from cryomorph.particles.prepare import prepare
from cryomorph.physics.pose import Pose, random_rotations
from fixtures.stacks import write_stack


def white(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.view_as_complex(torch.randn(*shape, 2, generator=generator) / 2**0.5)


def test_a_level_is_the_mean_power_and_a_few_bad_coefficients_change_little():
    image = white(50, 2000) * torch.linspace(0.5, 3, 50)[:, None]
    expected = torch.linspace(0.5, 3, 50).square()
    torch.testing.assert_close(robust_level(power_of(image)), expected, rtol=0.12, atol=0)
    image[:, :20] *= 100
    torch.testing.assert_close(robust_level(power_of(image)), expected, rtol=0.14, atol=0)


def test_a_spectrum_is_the_mean_power_whatever_the_number_of_coefficients_in_a_shell():
    count = torch.tensor([0, 3, 8, 40, 100])
    power = torch.stack(
        [power_of(white(4000, max(int(m), 1), seed=i)).mean(1) * (i + 1) for i, m in enumerate(count)], 1
    )
    expected = torch.arange(2.0, 6)
    torch.testing.assert_close(robust_power(power, count)[1:], expected, rtol=0.03, atol=0)
    power[:20] *= 1e6
    torch.testing.assert_close(robust_power(power, count)[1:], expected, rtol=0.04, atol=0)


def test_images_are_whitened_by_the_spectrum_of_their_group_and_their_own_level():
    power = torch.tensor([[1.0, 4.0, 9.0], [2.0, 2.0, 2.0]])
    noise = NoiseModel(power, torch.tensor([1.0, 4.0, 0.25]), torch.tensor([0, 1, 0]))
    shell = torch.tensor([1, 2, 2])
    factor = noise.whitening(torch.tensor([2, 1]), shell)
    torch.testing.assert_close(factor[0], (torch.tensor([4.0, 9.0, 9.0]) * 0.25).rsqrt())
    torch.testing.assert_close(factor[1], torch.full((3,), 8.0).rsqrt())


@pytest.mark.parametrize("level", [1.0, 30.0])
def test_a_store_divides_images_and_transfer_functions_alike(tiny_store, level):
    n, shells = len(tiny_store), tiny_store.box // 2 + 1
    one, noise = (
        NoiseModel(torch.full((1, shells), 1.0), torch.full((n,), each), tiny_store.group) for each in (1.0, level)
    )
    index = torch.arange(5)
    plain, seen = tiny_store.with_noise(one).batch(index), tiny_store.with_noise(noise).batch(index)
    torch.testing.assert_close(seen.image, plain.image / level**0.5)
    torch.testing.assert_close(seen.ctf, plain.ctf / level**0.5)
    contrast = torch.linspace(0.5, 1.5, n)
    bright = tiny_store.with_noise(one).with_contrast(contrast).batch(index)
    torch.testing.assert_close(bright.image, plain.image)
    torch.testing.assert_close(bright.ctf, plain.ctf * contrast[:5, None])


def test_a_prepared_store_knows_how_noisy_each_image_is(tmp_path):
    """Pure noise of known deviations; a tenth of the images far too bright, some with a pixel that is."""
    rng = np.random.default_rng(3)
    deviation = np.where(np.arange(300) % 2, 1.0, 1.7)
    deviation[::10] *= 20
    images = rng.normal(size=(300, 32, 32)).astype(np.float32) * deviation[:, None, None].astype(np.float32)
    images[5::50, 16, 16] += 60
    write_stack(tmp_path / "p.mrcs", images, 3.0)
    pose = Pose(random_rotations(300, torch.Generator().manual_seed(2)), torch.zeros(300, 2))
    store = prepare(replace(read_particles(tmp_path / "p.mrcs"), pose=pose), tmp_path / "s", invert="no")
    hot = np.zeros(300, dtype=bool)
    hot[5::50] = True
    quiet = (np.arange(300) % 10 != 0) & ~hot
    # the amplitude that all are divided by is not that of the bright ones
    assert float(store.noise_amplitude.mean()) == pytest.approx(32 * np.sqrt((1 + 1.7**2) / 2), rel=0.1)
    level = store.noise.level.numpy() * float(store.noise_amplitude.square().mean()) / 32**2
    np.testing.assert_allclose(level[quiet], deviation[quiet] ** 2, rtol=0.35)
    assert np.mean(level[quiet] / deviation[quiet] ** 2) == pytest.approx(1, abs=0.03)
    image = store.batch(torch.arange(300)).image
    assert float(power_of(image).mean(1)[torch.from_numpy(~hot)].max()) < 1.5
