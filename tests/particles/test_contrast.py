"""White and dark particles told apart, with and without orientations; noise decides nothing."""

import re

import numpy as np
import pytest
import torch

from cryomorph.particles.contrast import decide_contrast
from cryomorph.physics.ctf import Ctf
from cryomorph.physics.disk import fourier_disk
from cryomorph.physics.pose import Pose, random_rotations
from cryomorph.simulation.images import Grid, Padded, clean_images
from cryomorph.simulation.phantoms import Cloud

N, BOX, PIXEL_A = 200, 32, 5.0
DISK = fourier_disk(BOX)


def some_ctf(n=N):
    defocus = torch.linspace(10000, 20000, n)
    flat = [torch.full((n,), value) for value in (20.0, 300.0, 2.7, 0.1, 0.0, 0.0, 1.0)]
    return Ctf(defocus, defocus, *flat)


@pytest.fixture(scope="module")
def sample():
    """Coefficients in units of the noise, SNR 0.1, particles white; shifted, under a CTF."""
    generator = torch.Generator().manual_seed(0)
    cloud = Cloud(np.random.default_rng(0).normal(0, 14, (40, 3)) * [1.6, 1, 0.7], np.ones(40))
    pose = Pose(random_rotations(N, generator), 10 * torch.rand(N, 2, generator=generator) - 5)
    label = torch.zeros(N, dtype=torch.long)
    images = clean_images(Padded.of([cloud]), label, Grid(BOX, PIXEL_A, 6.0), pose=pose, ctf=some_ctf())
    images = images / images.std() * 0.1**0.5 + torch.randn(images.shape, generator=generator)
    return DISK.from_images(images) / BOX, pose


@pytest.mark.parametrize("posed", [True, False])
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("blob_sign", [None, 1.0, -1.0])
def test_dark_particles_are_inverted_and_white_ones_kept(sample, posed, sign, blob_sign):
    images, pose = sample
    found = decide_contrast(
        sign * images, DISK, pixel_A=PIXEL_A, pose=pose if posed else None, ctf=some_ctf(), blob_sign=blob_sign
    )
    assert found.inverted == (sign < 0)
    assert ("back-projection of 200" if posed else "200 phase-flipped") in found.reason


def test_the_trial_map_is_of_centred_particles():
    """Small bright balls far off their centres: the right shifts make a sharper map, of larger skewness."""
    generator = torch.Generator().manual_seed(3)
    pose = Pose(random_rotations(N, generator), 60 * torch.rand(N, 2, generator=generator) - 30)
    ball = Padded.of([Cloud(np.zeros((1, 3)), np.ones(1))])
    label = torch.zeros(N, dtype=torch.long)
    images = DISK.from_images(clean_images(ball, label, Grid(BOX, PIXEL_A, 6.0), pose=pose, ctf=None))
    skewness = []
    for sign in (1, 0, -1):
        tried = Pose(pose.rotation, sign * pose.shift_A)
        found = decide_contrast(images, DISK, pixel_A=PIXEL_A, pose=tried, ctf=None, blob_sign=None)
        skewness.append(float(found.reason.split()[1]))
    assert skewness[0] > 1.5 * max(skewness[1:])


def test_without_ctf(sample):
    """Nothing is flipped, then: images that are white in the middle are white particles."""
    _, pose = sample
    line = torch.arange(BOX) - BOX // 2
    blob = torch.exp(-(line[:, None] ** 2 + line**2) / 30.0).expand(N, -1, -1)
    images = DISK.from_images(blob + 0.5 * torch.randn(N, BOX, BOX, generator=torch.Generator().manual_seed(1)))
    for one_pose in (pose, None):
        for sign in (1, -1):
            found = decide_contrast(sign * images, DISK, pixel_A=PIXEL_A, pose=one_pose, ctf=None, blob_sign=None)
            assert found.inverted == (sign < 0)


@pytest.mark.parametrize("posed", [True, False])
@pytest.mark.parametrize(
    ("blob_sign", "inverted", "reason"),
    [(None, False, "taken as they are.*--invert yes"), (1.0, False, r"blob/sign \+1"), (-1.0, True, "blob/sign -1")],
)
def test_noise_leaves_it_to_the_file(sample, posed, blob_sign, inverted, reason):
    noise = torch.randn(N, DISK.size, dtype=torch.complex64, generator=torch.Generator().manual_seed(2))
    found = decide_contrast(
        noise, DISK, pixel_A=PIXEL_A, pose=sample[1] if posed else None, ctf=some_ctf(), blob_sign=blob_sign
    )
    assert found.inverted == inverted
    assert re.search(reason, found.reason)


def test_a_large_box_is_tried_at_a_small_one(sample):
    """The trial's map is cropped to 48 pixels in Fourier space: the same particles in finer pixels, the same answer."""
    disk = fourier_disk(64)
    images, pose = sample
    finer = torch.zeros(N, disk.size, dtype=torch.complex64)
    finer[:, : DISK.size] = images
    found = decide_contrast(-finer, disk, pixel_A=PIXEL_A / 2, pose=pose, ctf=some_ctf(), blob_sign=None)
    assert found.inverted
