"""Images and maps of Gaussians against their closed forms."""

import numpy as np
import pytest
import torch

from cryomorph.config.errors import InputError
from cryomorph.physics.ctf import Ctf, evaluate_ctf
from cryomorph.physics.pose import Pose, random_rotations, rotation_from_euler
from cryomorph.simulation import images
from cryomorph.simulation.images import Grid, Padded, clean_images, half_plane_frequency, map_of, project
from cryomorph.simulation.phantoms import Cloud

GRID = Grid(24, 3.0, 4.0)


def some_cloud(atoms: int = 30, seed: int = 0) -> Cloud:
    rng = np.random.default_rng(seed)
    return Cloud(rng.normal(0, 7, (atoms, 3)), rng.uniform(0.5, 2, atoms))


def identity_pose(n: int, shift_A: tuple[float, float] = (0.0, 0.0)) -> Pose:
    return Pose(torch.eye(3).repeat(n, 1, 1), torch.tensor([shift_A] * n))


def closed_form(cloud: Cloud, k3: np.ndarray, sigma: float) -> np.ndarray:
    """Fourier transform of the cloud at frequencies in 1/Angstrom."""
    phase = np.exp(-2j * np.pi * k3 @ cloud.position.T) @ cloud.weight
    return phase * np.exp(-2 * np.pi**2 * sigma**2 * (k3**2).sum(-1))


def test_a_slice_of_a_turned_cloud_is_its_analytic_transform() -> None:
    cloud = some_cloud()
    rotation = random_rotations(4, torch.Generator().manual_seed(1))
    position = torch.from_numpy(cloud.position).float() @ rotation.mT
    found = project(position, torch.from_numpy(cloud.weight).float()[None], GRID).flatten(1).numpy()
    k2 = half_plane_frequency(24).double().numpy() / 3.0
    inside = np.abs(k2 * 3).max(axis=1) < 0.5  # at Nyquist a real image knows the even part alone
    for i, matrix in enumerate(rotation.double().numpy()):
        expected = closed_form(cloud, k2 @ matrix[:2], 4.0)
        assert np.abs(found[i] - expected)[inside].max() < 1e-5 * cloud.weight.sum()


def test_chunks_of_atoms_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    cloud = some_cloud()
    padded = Padded.of([cloud])
    whole = project(padded.position, padded.weight, GRID)
    monkeypatch.setattr(images, "TABLE_BYTES", 16 * 13 * 7)
    assert torch.allclose(project(padded.position, padded.weight, GRID), whole, atol=1e-4)


def test_half_a_turn_in_the_plane_flips_the_image_about_its_origin() -> None:
    padded = Padded.of([some_cloud()])
    label = torch.zeros(1, dtype=torch.long)
    turned = Pose(rotation_from_euler(torch.tensor([[0.0, 0.0, 180.0]])), torch.zeros(1, 2))
    before = clean_images(padded, label, GRID, pose=identity_pose(1), ctf=None)[0]
    after = clean_images(padded, label, GRID, pose=turned, ctf=None)[0]
    flipped = torch.roll(before.flip(0, 1), (1, 1), (0, 1))  # pixel box // 2 stays
    assert torch.allclose(after, flipped, atol=1e-4 * float(before.max()))


def test_content_lies_at_minus_the_origin() -> None:
    atom = Padded.of([Cloud(np.zeros((1, 3)), np.ones(1))])
    label = torch.zeros(1, dtype=torch.long)
    image = clean_images(atom, label, GRID, pose=identity_pose(1, (-6.0, 9.0)), ctf=None)[0]
    assert np.unravel_index(int(image.argmax()), image.shape) == (12 - 3, 12 + 2)  # [y, x]
    centred = clean_images(atom, label, GRID, pose=identity_pose(1), ctf=None)[0]
    assert torch.allclose(image, torch.roll(centred, (-3, 2), (0, 1)), atol=1e-6)


def test_a_gaussian_is_a_gaussian() -> None:
    atom = Padded.of([Cloud(np.array([[4.0, -2.0, 1.0]]), np.array([3.0]))])
    image = clean_images(atom, torch.zeros(1, dtype=torch.long), GRID, pose=identity_pose(1), ctf=None)[0].numpy()
    x = (np.arange(24) - 12) * 3.0
    density = 3.0 * 9 / (2 * np.pi * 16) * np.exp(-((x[:, None] + 2) ** 2 + (x - 4) ** 2) / 32)
    assert np.abs(image - density).max() < 1e-3 * density.max()


def test_a_map_holds_the_weights_and_projects_to_the_image() -> None:
    cloud = some_cloud()
    density = map_of(cloud, GRID)
    assert density.dtype == np.float32
    assert density.sum() * 27 == pytest.approx(cloud.weight.sum(), rel=1e-5)
    padded = Padded.of([cloud])
    image = clean_images(padded, torch.zeros(1, dtype=torch.long), GRID, pose=identity_pose(1), ctf=None)[0].numpy()
    assert np.abs(density.sum(axis=0) * 27 - image).max() < 1e-4 * image.max()
    # along z the map is the projection of the cloud with z and x exchanged
    turned = Padded.of([Cloud(cloud.position[:, ::-1].copy(), cloud.weight)])
    image = clean_images(turned, torch.zeros(1, dtype=torch.long), GRID, pose=identity_pose(1), ctf=None)[0].numpy()
    assert np.abs(density.sum(axis=2).T * 27 - image).max() < 1e-4 * image.max()


def test_the_ctf_multiplies_the_transform() -> None:
    padded = Padded.of([some_cloud()])
    label = torch.zeros(1, dtype=torch.long)
    values = (12000.0, 11000.0, 30.0, 300.0, 2.7, 0.1, 0.0, 100.0, 1.0)
    ctf = Ctf(*(torch.tensor([value]) for value in values))
    plain = clean_images(padded, label, GRID, pose=identity_pose(1), ctf=None)
    image = clean_images(padded, label, GRID, pose=identity_pose(1), ctf=ctf)
    factor = evaluate_ctf(ctf, half_plane_frequency(24) / 3.0).view(1, 24, 13)
    expected = torch.fft.irfft2(torch.fft.rfft2(plain) * factor, s=(24, 24))
    assert torch.allclose(image, expected, atol=1e-5 * float(plain.max()))


def test_states_of_different_size_share_a_batch() -> None:
    clouds = [some_cloud(30, 1), some_cloud(11, 2)]
    both = clean_images(Padded.of(clouds), torch.tensor([1, 0, 1]), GRID, pose=identity_pose(3), ctf=None)
    for i, which in enumerate((1, 0, 1)):
        alone = clean_images(
            Padded.of([clouds[which]]), torch.zeros(1, dtype=torch.long), GRID, pose=identity_pose(1), ctf=None
        )
        assert torch.allclose(both[i], alone[0], atol=1e-5)


@pytest.mark.parametrize(("box", "pixel", "sigma"), [(31, 2.0, 1.0), (32, 0.0, 1.0), (32, 2.0, -1.0)])
def test_a_senseless_grid_is_refused(box: int, pixel: float, sigma: float) -> None:
    with pytest.raises(InputError):
        Grid(box, pixel, sigma)
