"""Back-projection of projections of Gaussians gives their map; of noise it gives nothing."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from cryomorph.particles.metadata import Particles, read_particles
from cryomorph.particles.prepare import prepare
from cryomorph.particles.store import ParticleStore
from cryomorph.physics.ctf import Ctf
from cryomorph.physics.pose import Pose, random_rotations
from cryomorph.simulation.images import Grid, Padded, clean_images, map_of
from cryomorph.simulation.phantoms import Cloud
from cryomorph.volumes.backproject import (
    Crossed,
    Reconstruction,
    mirror,
    mirrored,
    reconstruct,
    residual_noise,
    signal_to_noise,
)
from cryomorph.volumes.fsc import fsc, shell_sum
from cryomorph.volumes.grid import fourier_crop
from fixtures.stacks import write_stack

BOX, PIXEL_A, N = 32, 3.0, 800
GRID = Grid(BOX, PIXEL_A, 3.5)
PHANTOM = Cloud(np.random.default_rng(0).normal(0, 8, (40, 3)) * [1.4, 1.0, 0.7], np.ones(40))
OTHER = Cloud(np.random.default_rng(1).normal(0, 8, (40, 3)) * [0.6, 1.0, 1.3], np.ones(40))


def truth(cloud: Cloud, box: int = BOX) -> torch.Tensor:
    """The density whose slices are the images' coefficients: voxels add up to the weights."""
    return fourier_crop(torch.from_numpy(map_of(cloud, GRID)), box) * PIXEL_A**3 * (BOX / box) ** 3


def some_ctf(n: int) -> Ctf:
    defocus = torch.linspace(8000, 20000, n)[torch.randperm(n, generator=torch.Generator().manual_seed(5))]
    flat = [torch.full((n,), value) for value in (20.0, 300.0, 2.7, 0.1, 0.0, 50.0, 1.0)]
    return Ctf(defocus, defocus - 300, *flat)


def some_particles(folder, clouds=(PHANTOM,), *, n: int = N, snr: float | None = None, ctf: bool = False) -> Particles:
    """Images of each cloud in turn, at random poses; `snr` None leaves out the noise, 0 the particle."""
    generator = torch.Generator().manual_seed(0)
    pose = Pose(random_rotations(n, generator), 8 * torch.rand(n, 2, generator=generator) - 4)
    parameters = some_ctf(n) if ctf else None
    label = torch.arange(n) % len(clouds)
    images = clean_images(Padded.of(list(clouds)), label, GRID, pose=pose, ctf=parameters)
    if snr is not None:
        images = images / images.std() * snr**0.5 + torch.randn(images.shape, generator=generator)
    folder.mkdir(exist_ok=True)
    write_stack(folder / "p.mrcs", images.numpy(), PIXEL_A)
    return replace(read_particles(folder / "p.mrcs"), pose=pose, ctf=parameters)


def store_of(particles: Particles, folder) -> ParticleStore:
    return prepare(particles, folder / "store", invert="no", seed=1)


@pytest.fixture(scope="module")
def clean(tmp_path_factory) -> Reconstruction:
    folder = tmp_path_factory.mktemp("clean")
    return reconstruct(store_of(some_particles(folder), folder))


def shell_scale(found: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
    """`<F, T> / <T, T>` in each shell."""
    f, t = (torch.fft.rfftn(volume) for volume in (found, expected))
    return shell_sum((f * t.conj()).real, BOX) / shell_sum(t.abs().square(), BOX)


@pytest.mark.parametrize("ctf", [False, True])
def test_projections_give_the_map_back(tmp_path, clean, ctf):
    result = clean
    if ctf:
        result = reconstruct(store_of(some_particles(tmp_path, ctf=True), tmp_path))
    expected = truth(PHANTOM)
    last = int(0.8 * BOX / 2)
    for volume in (result.map, result.half1, result.half2):
        assert fsc(volume, expected)[1 : last + 1].min() > 0.99
    scale = shell_scale(result.map, expected)[1:9]
    assert float((scale - 1).abs().max()) < 0.05
    assert result.fsc.pixel_A == PIXEL_A and result.fsc.best[1:last].min() > 0.98
    assert result.map.shape == result.mask.shape == (BOX,) * 3 and result.ssnr.shape == (BOX // 2 + 1,)
    inside = expected > 0.3 * expected.max()
    assert result.mask[inside].min() > 0.9


def test_noise_gives_half_maps_that_do_not_agree(tmp_path):
    result = reconstruct(store_of(some_particles(tmp_path, snr=0.0), tmp_path))
    curve = result.fsc.unmasked[2:]
    assert float(curve.abs().mean()) < 0.08 and float(curve[4:].abs().max()) < 0.2
    assert float(result.map.std()) < 0.3 * float(result.half1.std())  # the Wiener filter's doing


def test_homogeneous_particles_leave_their_noise(tmp_path):
    """The residual of the other half's map is the noise, 1 in the store's units, and a map's error on top."""
    store = store_of(some_particles(tmp_path, n=2000, snr=0.2), tmp_path)
    result = reconstruct(store)
    power = residual_noise(store, result, sample=1000)
    assert power.shape == (BOX // 2 + 1,)
    assert float(power[1 : BOX // 2].min()) > 0.95 and float(power[3 : BOX // 2].max()) < 1.2
    swapped = replace(result, half1=result.half2, half2=result.half1)
    assert float(residual_noise(store, swapped, sample=1000)[6:-1].mean()) < float(power[6:-1].mean())


def test_a_band_is_a_smaller_map(tmp_path, clean):
    store = store_of(some_particles(tmp_path), tmp_path)
    result = reconstruct(store, radius=10)
    assert result.map.shape == (20,) * 3
    assert result.fsc.pixel_A == pytest.approx(PIXEL_A * BOX / 20)
    assert fsc(result.map, truth(PHANTOM, 20))[1:9].min() > 0.99
    assert float(result.map.std() / truth(PHANTOM, 20).std()) == pytest.approx(1, abs=0.05)


def test_a_subset_is_all_that_counts(tmp_path):
    store = store_of(some_particles(tmp_path, (PHANTOM, OTHER)), tmp_path)
    for first, (cloud, other) in enumerate(((PHANTOM, OTHER), (OTHER, PHANTOM))):
        found = reconstruct(store, subset=torch.arange(first, N, 2)).map
        assert fsc(found, truth(cloud))[1:9].min() > 0.97
        assert fsc(found, truth(other))[3:9].mean() < 0.8


def test_particles_chosen_by_one_half_of_the_coefficients_give_the_other(tmp_path):
    """Coefficients that choose a particle may hold anything: they do not come into the map."""
    store = store_of(some_particles(tmp_path, snr=0.5), tmp_path)
    by_even, by_odd, even = torch.arange(0, N, 3), torch.arange(1, N, 2), store.disk.even
    expected = reconstruct(store, subset=Crossed(by_even, by_odd))
    for chosen, spoilt in ((by_even, even), (by_odd, ~even)):
        alone = np.setdiff1d(chosen.numpy(), (by_odd if chosen is by_even else by_even).numpy())
        copy = shutil.copytree(store.folder, tmp_path / f"spoilt{int(spoilt[0])}")
        stored = np.load(copy / "coefficients.npy")
        stored[np.ix_(alone, np.flatnonzero(spoilt.numpy()))] = 77.0
        np.save(copy / "coefficients.npy", stored)
        found = reconstruct(ParticleStore.open(copy), subset=Crossed(by_even, by_odd))
        assert torch.equal(found.half1, expected.half1) and torch.equal(found.half2, expected.half2)
        stored[np.ix_(alone, np.flatnonzero(~spoilt.numpy()))] = 77.0
        np.save(copy / "coefficients.npy", stored)
        assert not torch.equal(reconstruct(ParticleStore.open(copy), subset=Crossed(by_even, by_odd)).map, expected.map)


def test_a_mask_that_is_given_is_the_one_used(tmp_path):
    mask = torch.zeros(BOX, BOX, BOX)
    mask[8:24, 8:24, 8:24] = 1
    result = reconstruct(store_of(some_particles(tmp_path, n=100), tmp_path), mask=mask)
    assert torch.equal(result.mask, mask)


# --- hand -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("box", [8, 9])
def test_a_mirror_image_twice_is_the_map(box):
    volume = torch.randn(box, box, box, generator=torch.Generator().manual_seed(0))
    once = mirror(volume)
    centre = box // 2
    assert torch.equal(once[centre], volume[centre]) and torch.equal(once[centre + 2], volume[centre - 2])
    assert torch.equal(mirror(once), volume) and not torch.equal(once, volume)


def test_the_mirror_image_is_what_mirrored_rotations_give(tmp_path, clean):
    """The images of `R` are those of the mirror image under `M R M`, `M = diag(1, 1, -1)`."""
    particles = some_particles(tmp_path)
    hand = torch.diag(torch.tensor([1.0, 1.0, -1.0]))
    other = replace(particles, pose=replace(particles.pose, rotation=hand @ particles.pose.rotation @ hand))
    found = reconstruct(store_of(other, tmp_path))
    expected = mirrored(clean)
    for name in ("map", "half1", "half2"):
        volume = getattr(expected, name)
        assert float((getattr(found, name) - volume).abs().max()) < 1e-3 * float(volume.abs().max())
    assert fsc(clean.map, expected.map)[3:9].mean() < 0.8  # the phantom has a hand
    assert torch.equal(mirrored(expected).map, clean.map) and torch.equal(mirrored(expected).mask, clean.mask)
    assert mirrored(clean).fsc is clean.fsc


# --- filter ---------------------------------------------------------------------------------------------------------


def test_signal_to_noise_by_hand():
    curve = torch.tensor([0.7, 0.5, 0.8, 0.0, -0.3, 1.0])
    found = signal_to_noise(curve, 12)
    expected = [2.0, 2.0, 8.0, 0.002 / 0.999, 0.002 / 0.999, 2 * 0.9999 / 1e-4, 2 * 0.9999 / 1e-4]
    np.testing.assert_allclose(found.numpy(), expected, rtol=2e-3)


def test_the_full_map_is_filtered_by_its_signal_to_noise(tmp_path):
    """In each shell the Wiener filter is `SSNR / (1 + SSNR)`, up to how evenly the shell is covered."""
    result = reconstruct(store_of(some_particles(tmp_path, snr=0.05), tmp_path))
    unfiltered = (result.half1 + result.half2) / 2
    ratio = shell_scale(result.map, unfiltered)
    expected = (result.ssnr / (1 + result.ssnr))[: BOX // 2]
    np.testing.assert_allclose(ratio[2:-2].numpy(), expected[2:-2].numpy(), atol=0.12)
