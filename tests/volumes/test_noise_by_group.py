"""The noise of groups and images from what maps leave of them, against noise that is known."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from cryomorph.io.star import write_star
from cryomorph.particles.metadata import read_particles
from cryomorph.particles.noise import NoiseModel
from cryomorph.particles.prepare import prepare
from cryomorph.particles.store import ParticleStore
from cryomorph.physics.pose import Pose, random_rotations
from cryomorph.physics.slicing import locate_slices, padded_grid
from cryomorph.volumes.image_noise import noise_by_group
from fixtures.stacks import write_stack

N, BOX = 600, 32
FEW = 12  # images of the last group


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> ParticleStore:
    """White noise of deviations 1 and 2; the second group falls off to a half towards Nyquist."""
    folder = tmp_path_factory.mktemp("noise")
    rng = np.random.default_rng(0)
    images = rng.normal(size=(N, BOX, BOX)) * np.where(np.arange(N) % 5, 1.0, 2.0)[:, None, None]
    transform = np.fft.rfft2(images)
    k = np.hypot(np.fft.fftfreq(BOX)[:, None], np.fft.rfftfreq(BOX)) * 2
    falling = np.fft.irfft2(transform * (1 - 0.5 * k.clip(max=1)), s=(BOX, BOX))
    images = np.where((np.arange(N) % 2)[:, None, None], falling, images).astype(np.float32)
    write_stack(folder / "p.mrcs", images, 3.0)
    pose = Pose(random_rotations(N, torch.Generator().manual_seed(1)), torch.zeros(N, 2))
    group = np.arange(N) % 2 + 1
    group[-FEW:] = 3
    optics = {"rlnOpticsGroup": [1, 2, 3], "rlnImagePixelSize": [3.0] * 3, "rlnImageSize": [BOX] * 3}
    names = [f"{i + 1:06d}@p.mrcs" for i in range(N)]
    tables = {"optics": optics, "particles": {"rlnImageName": names, "rlnOpticsGroup": group}}
    write_star(folder / "p.star", {name: pd.DataFrame(table).astype(str) for name, table in tables.items()})
    return prepare(replace(read_particles(folder / "p.star"), pose=pose), folder / "store", invert="no")


def measured(store: ParticleStore, halves: torch.Tensor | None = None) -> tuple[NoiseModel, bool]:
    nothing = torch.zeros(2, BOX, BOX, BOX) if halves is None else halves
    found = noise_by_group(store, nothing, torch.full((BOX // 2,), 0.0 if halves is None else 1.0))
    return found.noise, found.outside


def power_of(store: ParticleStore, rows: slice) -> torch.Tensor:
    """Mean power of the coefficients of some images under their noise, which is to be 1, by shell."""
    image = store.batch(torch.arange(N)[rows]).image.abs().square().mean(0)
    count = torch.bincount(store.disk.shell)
    return (torch.zeros(BOX // 2 + 1).index_add_(0, store.disk.shell, image) / count.clamp(min=1))[2:]


def test_every_group_gets_its_spectrum_and_every_image_its_level(store):
    noise, outside = measured(store)
    assert outside
    seen = store.with_noise(noise)
    for rows in (slice(0, N - FEW, 2), slice(1, N - FEW, 2)):
        torch.testing.assert_close(power_of(seen, rows), torch.ones(BOX // 2 - 1), atol=0.12, rtol=0)
    falling = noise.power[1] / noise.power[0]
    assert float(falling[-2] / falling[3]) == pytest.approx((0.5 / 0.9) ** 2, rel=0.25)
    loud = noise.level[::5].median() / noise.level[torch.arange(N) % 5 > 0].median()
    assert float(loud) == pytest.approx(4, rel=0.15)


def test_a_group_of_a_few_images_is_close_to_all_of_them(store):
    noise, _ = measured(store)
    apart = (noise.power[2] / noise.power[:2].mean(0)).log().abs()
    assert float(apart[3:].max()) < 0.4


def test_what_a_map_explains_is_no_noise(store, tmp_path):
    """Images with a strong particle that all maps hold: the noise found is that of the images without."""
    alone, _ = measured(store)
    line = torch.arange(float(BOX)) - BOX // 2
    blob = 0.6 * torch.exp(-(line[:, None, None] ** 2 + line[:, None] ** 2 + line**2) / 18)
    index = torch.arange(N)
    batch = store.batch(index)
    rows = padded_grid(BOX).from_volumes(blob[None])
    shown = locate_slices(padded_grid(BOX), store.disk.frequency, batch.rotation).extract(rows)[..., 0] * batch.ctf
    level = store.noise.whitening(index, store.disk.shell)
    stored = np.load(store.folder / "coefficients.npy")
    both = torch.view_as_complex(torch.from_numpy(stored.astype(np.float32))) + shown / level
    other = shutil.copytree(store.folder, tmp_path / "with_particle")
    np.save(other / "coefficients.npy", torch.view_as_real(both).numpy().astype(np.float16))
    found, _ = measured(ParticleStore.open(other), torch.stack([blob, blob]))
    torch.testing.assert_close(found.power[:2, 2:], alone.power[:2, 2:], rtol=0.08, atol=0)
    missed, _ = measured(ParticleStore.open(other))
    capped = missed.power[:2, 2:4] / alone.power[:2, 2:4]
    assert float(capped.max()) < 1.5  # what surrounds a particle bounds what the particle passes for


def test_surroundings_without_noise_are_noticed(store):
    quiet = NoiseModel(torch.ones(3, BOX // 2 + 1), 50 * store.noise.level, store.group)
    assert measured(store)[1]
    assert not measured(store.with_noise(quiet))[1]
