"""Real files of other programs: read, prepared, back-projected, and sliced where the rotations are known."""

from pathlib import Path

import numpy as np
import pytest
import torch

from cryomorph.cli.main import main
from cryomorph.io.mrc import read_map
from cryomorph.particles.metadata import read_particles
from cryomorph.particles.store import ParticleStore
from cryomorph.physics.disk import fourier_disk
from cryomorph.physics.slicing import locate_slices, padded_grid

pytestmark = pytest.mark.accept


@pytest.fixture
def readers(shared: Path) -> Path:
    return shared / "data" / "readers"


def run(*argv: object) -> int:
    return main([str(word) for word in argv])


def toy_correlations(readers: Path, *, mirror: bool = False, smooth: bool = False) -> torch.Tensor:
    """Correlation of each toy image with the slice of the map at its expected rotation.

    The map's origin is voxel `box // 2`, 15 of 30, as ours: no shift, no transposition, no change of hand.
    """
    volume = read_map(readers / "toymodel_small_nocenter.mrc")[0]
    rotation = torch.from_numpy(np.load(readers / "toy_expected.npz")["rotation"])
    particles = read_particles(readers / "toy_projections.star")
    grid, disk = padded_grid(particles.box), fourier_disk(particles.box)
    density = torch.from_numpy(np.roll(volume[::-1], 1, 0).copy() if mirror else volume.copy())
    slices = locate_slices(grid, disk.frequency, rotation).extract(grid.from_volumes(density[None]))[..., 0]
    if smooth:
        slices = slices * torch.sinc(disk.frequency / particles.box).square().prod(1)
    images = disk.from_images(torch.from_numpy(particles.read(np.arange(len(particles)))))
    a, b = (torch.view_as_real(part).flatten(1) for part in (slices, images))
    return torch.nn.functional.cosine_similarity(a, b)


def test_toy_slices_match_their_images(readers):
    """Whoever drew the toy's images shared each voxel linearly among the pixels around it: a `sinc^2` of the slice."""
    for smooth, lowest in ((False, 0.98), (True, 0.99)):
        found = toy_correlations(readers, smooth=smooth)
        above = int((found > 0.99).sum())
        print(f"toy slices: correlation {found.median():.4f} (median), {found.min():.4f} (lowest), {above} above 0.99")
        assert float(found.median()) > 0.99 and float(found.min()) > lowest and above > 0.95 * len(found)


def test_the_toy_s_mirror_image_does_not(readers):
    assert float(toy_correlations(readers, mirror=True).median()) < 0.6


@pytest.mark.parametrize(
    ("name", "count"), [("relion31.star", 5), ("empiar_10076_7.star", 7), ("empiar_10076_7.cs", 7)]
)
def test_real_images_are_prepared(readers, tmp_path, capsys, name, count):
    assert run("prepare", readers / name, "-o", tmp_path / "store", "--datadir", readers) == 0, capsys.readouterr().err
    print(capsys.readouterr().err)
    store = ParticleStore.open(tmp_path / "store")
    particles = read_particles(readers / name, datadir=readers)
    assert len(store) == count and store.box == min(particles.box, 128)
    power = store.coefficients(torch.arange(count)).abs().square().mean(0)
    outer = power[store.disk.count(store.box // 4) :]
    assert 0.5 < float(outer.mean()) < 3  # the noise is about 1 for each coefficient
    again = read_particles(store.folder / store.manifest.metadata, datadir=readers)
    assert len(again) == count and again.stacks[0].name == particles.stacks[0].name


def test_the_same_images_through_star_and_cs(readers, tmp_path):
    for name in ("star", "cs"):
        source = readers / f"empiar_10076_7.{name}"
        assert run("prepare", source, "-o", tmp_path / name, "--datadir", readers, "--invert", "no") == 0
    star, cs = (ParticleStore.open(tmp_path / name) for name in ("star", "cs"))
    assert torch.equal(star.coefficients(torch.arange(7)), cs.coefficients(torch.arange(7)))
    torch.testing.assert_close(star.ctf.defocus_u_A, cs.ctf.defocus_u_A, rtol=1e-4, atol=0.1)


def test_real_images_with_poses_are_back_projected(readers, tmp_path, capsys):
    output = tmp_path / "maps"
    assert run("backproject", readers / "relion31.star", "-o", output, "--datadir", readers, "--box", 64) == 0
    print(capsys.readouterr())
    volume, pixel_A = read_map(output / "map.mrc")
    assert volume.shape == (64,) * 3 and np.isfinite(volume).all() and volume.std() > 0
    assert pixel_A == pytest.approx(2.806 * 256 / 64, rel=0.01)
