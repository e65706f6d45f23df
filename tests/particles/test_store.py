"""What a store serves, against numpy's transform and `np.roll`; and what it refuses to open."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from cryomorph.config.errors import InputError
from cryomorph.particles.metadata import read_particles
from cryomorph.particles.prepare import prepare
from cryomorph.particles.store import ParticleStore
from cryomorph.physics.ctf import Ctf, evaluate_ctf
from cryomorph.physics.pose import Pose, random_rotations
from fixtures.stacks import write_stack

N, BOX, PIXEL_A = 30, 24, 2.0
IMAGES = np.random.default_rng(0).normal(3, 2, (N, BOX, BOX)).astype(np.float32)
WHOLE = np.random.default_rng(1).integers(-5, 6, (N, 2))  # (x, y), pixels


@pytest.fixture(scope="module")
def particles(tmp_path_factory):
    path = tmp_path_factory.mktemp("images") / "p.mrcs"
    write_stack(path, IMAGES, PIXEL_A)
    pose = Pose(random_rotations(N, torch.Generator().manual_seed(0)), torch.from_numpy(WHOLE * PIXEL_A).float())
    defocus = torch.linspace(8000, 20000, N)
    flat = [torch.full((N,), value) for value in (20.0, 300.0, 2.7, 0.1, 0.0, 0.0, 1.0)]
    return replace(read_particles(path), pose=pose, ctf=Ctf(defocus, defocus - 300, *flat))


@pytest.fixture(scope="module")
def store(particles, tmp_path_factory):
    """A store of before the noise of every image was measured: all have the same."""
    made = prepare(particles, tmp_path_factory.mktemp("stores") / "s", invert="no")
    (made.folder / "level.npy").unlink()
    return ParticleStore.open(made.folder)


@pytest.fixture
def copy(store, tmp_path):
    return shutil.copytree(store.folder, tmp_path / "copy")


def numpy_coefficients(images, disk):
    """Centred transform of the images, cropped in Fourier space to the disk's box."""
    given = images.shape[-1]
    full = np.fft.fft2(np.fft.ifftshift(images.astype(np.float64), axes=(1, 2)))
    kx, ky = disk.frequency.numpy().T
    return full[:, ky, kx] * (disk.box / given) ** 2


@pytest.mark.parametrize("box", [16, 24])
@pytest.mark.parametrize("invert", ["no", "yes"])
def test_coefficients_are_those_of_the_images_over_the_noise(particles, tmp_path, box, invert):
    store = prepare(particles, tmp_path / "s", box=box, invert=invert)
    expected = numpy_coefficients(IMAGES, store.disk) / store.noise_amplitude[store.disk.shell].numpy()
    found = store.coefficients(torch.arange(N)).numpy() * (-1 if invert == "yes" else 1)
    assert np.abs(found - expected).max() < 6e-4 * np.abs(expected).max()  # float16: 11 bits
    assert (store.box, store.pixel_A, len(store)) == (box, PIXEL_A * BOX / box, N)
    # white noise of variance 4: the store's has unit variance
    assert float(store.coefficients(torch.arange(N)).abs().square().mean()) == pytest.approx(1, abs=0.1)


def test_particles_are_served_in_any_order_and_band(store):
    everything = store.coefficients(torch.arange(N))
    index = torch.tensor([7, 3, 29, 3])
    assert torch.equal(store.coefficients(index), everything[index])
    count = store.disk.count(5)
    assert torch.equal(store.coefficients(index, count), everything[index, :count])
    assert torch.equal(store.coefficients(torch.arange(4, 9), count), everything[4:9, :count])


def test_a_batch_is_centred(store):
    """`shift_A` of whole pixels is `np.roll` by that many: the content lay at minus the shift."""
    rolled = np.stack([np.roll(image, (y, x), (0, 1)) for image, (x, y) in zip(IMAGES, WHOLE, strict=True)])
    expected = numpy_coefficients(rolled, store.disk) / store.noise_amplitude[store.disk.shell].numpy()
    batch = store.batch(torch.arange(N))
    assert np.abs(batch.image.numpy() - expected).max() < 6e-4 * np.abs(expected).max()
    assert torch.equal(batch.rotation, store.require_pose().rotation)
    part = store.batch(torch.tensor([2, 9]), 40)
    torch.testing.assert_close(part.image, batch.image[[2, 9], :40])
    assert len(part) == 2 and part.index.tolist() == [2, 9]
    moved = part.to("cpu")
    assert all(torch.equal(getattr(moved, name), getattr(part, name)) for name in ("image", "ctf", "rotation"))


def test_the_transfer_function_is_the_ctf_over_the_noise(particles, store):
    index = torch.tensor([0, 11, 29])
    frequency = store.disk.frequency / (BOX * PIXEL_A)
    expected = evaluate_ctf(particles.ctf[index], frequency) / store.noise_amplitude[store.disk.shell]
    torch.testing.assert_close(store.batch(index).ctf, expected)
    torch.testing.assert_close(store.batch(index, 25).ctf, expected[:, :25])


def test_an_amplitude_that_is_found_multiplies_the_one_that_was_given(store, copy):
    index, given = torch.arange(N), torch.linspace(0.5, 1.5, N)
    np.save(copy / "contrast.npy", given.numpy())
    found = torch.linspace(1.2, 0.8, N)
    plain, with_given = store.batch(index), ParticleStore.open(copy)
    torch.testing.assert_close(with_given.batch(index).ctf, plain.ctf * given[:, None])
    torch.testing.assert_close(with_given.with_contrast(found).batch(index).ctf, plain.ctf * (given * found)[:, None])
    torch.testing.assert_close(store.with_contrast(found).batch(index).ctf, plain.ctf * found[:, None])
    torch.testing.assert_close(with_given.batch(index).image, plain.image)


def test_without_ctf_the_transfer_function_is_flat(particles, tmp_path):
    (prepare(replace(particles, ctf=None), tmp_path / "s", invert="no").folder / "level.npy").unlink()
    store = ParticleStore.open(tmp_path / "s")
    assert store.ctf is None
    expected = (1 / store.noise_amplitude[store.disk.shell]).expand(2, -1)
    torch.testing.assert_close(store.batch(torch.tensor([1, 4])).ctf, expected)


def test_without_poses_there_are_coefficients_but_no_batches(particles, tmp_path):
    store = prepare(replace(particles, pose=None), tmp_path / "s", invert="no")
    assert store.pose is None and len(store.coefficients(torch.arange(2))) == 2
    with pytest.raises(InputError, match=r"has no orientations.*cryomorph abinit"):
        store.batch(torch.arange(2))


def test_a_2d_alignment_is_no_pose(particles, tmp_path):
    folder = tmp_path / "my set"
    folder.mkdir()
    flat = replace(particles, pose=Pose(torch.eye(3).repeat(N, 1, 1), torch.zeros(N, 2)), source=folder / "p.mrcs")
    store = prepare(flat, tmp_path / "s", invert="no")
    with pytest.raises(
        InputError, match=r"30 particles are seen from one direction .*`cryomorph abinit '.*/my set/p.mrcs'"
    ):
        store.batch(torch.arange(2))
    with pytest.raises(InputError, match="seen from one direction"):
        store.expanded("C4").require_pose()  # copies show nothing new
    assert len(store.unposed().batch(torch.arange(2))) == 2  # as abinit begins
    assert len(store.with_pose(particles.pose).batch(torch.arange(2))) == 2


def test_metadata_survives(particles, store):
    again = ParticleStore.open(store.folder)
    torch.testing.assert_close(again.require_pose().shift_A, particles.pose.shift_A)
    assert torch.equal(again.ctf.defocus_v_A, particles.ctf.defocus_v_A)
    assert again.row.tolist() == list(range(N)) and again.manifest.left_out == []
    assert again.manifest.source == str(particles.source) and not again.manifest.inverted
    kept = read_particles(store.folder / store.manifest.metadata, check_images=False)
    torch.testing.assert_close(kept.pose.rotation, particles.pose.rotation, atol=1e-5, rtol=0)


def test_half_sets_are_the_file_s_or_drawn_evenly(particles, store, tmp_path):
    assert store.half.bincount().tolist() == [N // 2, N // 2]
    given = np.arange(N) % 3 % 2
    kept = prepare(replace(particles, half=given), tmp_path / "a", invert="no")
    assert kept.half.tolist() == given.tolist()
    alone = prepare(replace(particles, half=np.zeros(N, np.int64)), tmp_path / "b", invert="no")
    assert alone.half.bincount().tolist() == [N // 2, N // 2]  # one half set is none
    other = prepare(particles, tmp_path / "c", invert="no", seed=1)
    assert other.half.tolist() != store.half.tolist()


def test_other_poses_replace_the_source_s_own(store):
    index, pose = torch.tensor([3, 8]), store.require_pose()
    other = Pose(pose.rotation.mT.contiguous(), torch.zeros(N, 2))
    found = store.with_pose(other).batch(index)
    assert torch.equal(found.rotation, other.rotation[index])
    torch.testing.assert_close(found.image, store.coefficients(index))
    assert torch.equal(found.ctf, store.batch(index).ctf)
    assert store.require_pose() is pose  # the store itself is as it was


# --- what is done to a batch ------------------------------------------------------------------------------------------


def test_a_whitened_batch_still_is_its_model(store):
    """Image and transfer function take the same factor: residuals do, and the slice that fits stays the same."""
    batch, factor = store.batch(torch.arange(4)), torch.linspace(0.5, 2, store.disk.size)
    white = batch.whitened(factor)
    slices = torch.randn(4, store.disk.size, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    before, after = batch.image - batch.ctf * slices, white.image - white.ctf * slices
    np.testing.assert_allclose(after, before.numpy() * factor.numpy(), rtol=1e-4, atol=1e-4)
    assert torch.equal(white.rotation, batch.rotation) and torch.equal(white.index, batch.index)


def test_whitening_a_prefix_is_a_prefix_of_the_whitened(store):
    index, factor = torch.arange(4), torch.linspace(0.5, 2, store.disk.size)
    whole, part = store.batch(index).whitened(factor), store.batch(index, 50).whitened(factor)
    torch.testing.assert_close(part.image, whole.image[:, :50])
    torch.testing.assert_close(part.ctf, whole.ctf[:, :50])


def test_a_batch_within_a_band_is_what_the_store_gives_for_it(store):
    index = torch.tensor([5, 1])
    for count in (1, 50, store.disk.size):
        part, again = store.batch(index).within(count), store.batch(index, count)
        torch.testing.assert_close(part.image, again.image)
        torch.testing.assert_close(part.ctf, again.ctf)
        assert torch.equal(part.rotation, again.rotation) and torch.equal(part.index, again.index)


def test_a_batch_is_moved_by_whole_pixels_as_np_roll_does(store):
    """A longer shift moves the content further along `(x, y)`: `np.roll` of the images that lie centred already."""
    index, extra = torch.arange(6), np.array([[3, 0], [0, 4], [-2, 1], [5, -5], [0, 0], [1, 7]])
    total = WHOLE[:6] + extra
    rolled = np.stack([np.roll(image, (y, x), (0, 1)) for image, (x, y) in zip(IMAGES[:6], total, strict=True)])
    expected = numpy_coefficients(rolled, store.disk) / store.noise_amplitude[store.disk.shell].numpy()
    offset = torch.cat([torch.zeros(6, 3), torch.from_numpy(extra).float()], dim=1)
    for disk in (store.disk, store.disk.within(7)):
        moved = store.batch(index, disk.size).moved(offset, disk.frequency / disk.box)
        assert np.abs(moved.image.numpy() - expected[:, : disk.size]).max() < 6e-4 * np.abs(expected).max()
        torch.testing.assert_close(moved.rotation, store.require_pose().rotation[:6])


def test_a_batch_is_turned_as_scipy_does(store):
    """`exp(w) R`, about the image's axes: a turn about `z` alone is one in the image plane."""
    index, offset = torch.arange(6), torch.zeros(6, 5)
    offset[:, :3] = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    batch = store.batch(index)
    moved = batch.moved(offset, store.disk.frequency / store.box)
    turn = Rotation.from_rotvec(offset[:, :3].double().numpy()).as_matrix()
    np.testing.assert_allclose(moved.rotation, turn @ batch.rotation.double().numpy(), atol=1e-6)
    torch.testing.assert_close(moved.image, batch.image)
    assert torch.equal(moved.ctf, batch.ctf)
    flat = batch.moved(torch.tensor([[0, 0, 0.3, 0, 0]]).expand(6, 5), store.disk.frequency / store.box)
    torch.testing.assert_close(flat.rotation[:, 2], batch.rotation[:, 2])  # the view direction is the same


# --- folders that are no stores ---------------------------------------------------------------------------------------


def rewrite(folder, change):
    path = folder / "manifest.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(change(content)))


def test_a_folder_without_manifest_is_no_store(copy, tmp_path):
    with pytest.raises(InputError, match=r"is not a particle store.*cryomorph prepare"):
        ParticleStore.open(tmp_path)
    (copy / "manifest.json").unlink()
    with pytest.raises(InputError, match="is not a particle store"):
        ParticleStore.open(copy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m | {"format": 2}, "has format 2, expected 1"),
        (lambda m: m | {"format": 2, "future": 0}, "has format 2, expected 1"),
        (lambda m: m | {"colour": "red"}, r"cannot be read \(.*colour"),
        (lambda m: {k: v for k, v in m.items() if k != "pixel_A"}, r"cannot be read \(.*pixel_A"),
        (lambda m: [1, 2], "cannot be read"),
        (lambda m: m | {"rows": N + 1}, r"expected float16 \(31,"),
        (lambda m: m | {"box": 16}, r"expected float16 \(30,"),
    ],
)
def test_manifests_that_do_not_fit(copy, change, message):
    rewrite(copy, change)
    with pytest.raises(InputError, match=message):
        ParticleStore.open(copy)


def test_a_manifest_that_is_cut_off(copy):
    path = copy / "manifest.json"
    path.write_text(path.read_text()[:50])
    with pytest.raises(InputError, match=r"manifest.json cannot be read"):
        ParticleStore.open(copy)


@pytest.mark.parametrize("missing", [1, 100, 5000])
def test_coefficients_that_are_cut_off(copy, missing):
    path = copy / "coefficients.npy"
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - missing)
    with pytest.raises(InputError, match=r"coefficients.npy cannot be read \(.*make the store again"):
        ParticleStore.open(copy)


def test_coefficients_that_are_gone_or_of_another_kind(copy):
    path = copy / "coefficients.npy"
    np.save(path, np.zeros((N, 220, 2), np.float32))
    with pytest.raises(InputError, match=r"coefficients.npy is float32"):
        ParticleStore.open(copy)
    path.unlink()
    with pytest.raises(InputError, match=r"coefficients.npy cannot be read \(No such file"):
        ParticleStore.open(copy)
