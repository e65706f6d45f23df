"""Maps at chosen particles and points: which, in what order, of what hand; and lists that cannot be meant."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from cryomorph.analysis.decode import decode_at, read_latent_points, reconstruct_at, write_maps
from cryomorph.analysis.selection_files import read_particle_numbers
from cryomorph.config.errors import InputError
from cryomorph.io.mrc import read_map


def text(folder: Path, content: str, name: str = "list.txt") -> Path:
    (folder / name).write_text(content)
    return folder / name


def array(folder: Path, content: object) -> Path:
    np.save(folder / "list.npy", content)
    return folder / "list.npy"


def test_decoded_map_is_mean_plus_components_in_the_order_asked_for(tiny_run):
    z = tiny_run.latent_mean()[[7, 3, 7, 399]].astype(float)
    mean, one, two = tiny_run.representation().maps
    found = list(decode_at(tiny_run, z, 16))
    for point, volume in zip(z, found, strict=True):
        expected = mean + float(point[0]) * one + float(point[1]) * two
        torch.testing.assert_close(volume, expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(found[0], found[2])


def test_decoding_in_another_box_keeps_the_density(tiny_run):
    z = tiny_run.latent_mean()[:1].astype(float)
    small, large = (next(decode_at(tiny_run, z, box)) for box in (16, 32))
    assert large.shape == (32, 32, 32)
    assert np.corrcoef(large[::2, ::2, ::2].flatten(), small.flatten())[0, 1] > 0.999


def test_reconstructed_maps_are_of_the_particles_nearby(tiny_run, tiny_set):
    """Neither end of the hinge is the other: each reconstruction looks more like its own true map."""
    label = np.load(tiny_set / "truth.npz")["label"]
    z = tiny_run.latent_mean().astype(float)
    ends = [0, 49]
    points = np.stack([z[np.argsort(abs(label - end))[:20]].mean(0) for end in ends])
    maps = list(reconstruct_at(tiny_run, points))
    truth = [read_map(tiny_set / "maps" / f"{end:03d}.mrc")[0] for end in ends]
    difference, expected = (maps[1] - maps[0]).numpy(), truth[1] - truth[0]
    assert np.corrcoef(difference.ravel(), expected.ravel())[0, 1] > 0.4


def test_written_maps_are_numbered_in_order(tmp_path):
    maps = [torch.full((8, 8, 8), float(i)) for i in range(3)]
    assert write_maps(tmp_path, iter(maps), 2.5, flip_hand=False) == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000000.mrc", "000001.mrc", "000002.mrc"]
    for i in range(3):
        data, pixel_A = read_map(tmp_path / f"{i:06d}.mrc")
        assert (data == i).all()
        assert pixel_A == pytest.approx(2.5)
    assert write_maps(tmp_path, iter(()), 2.5, flip_hand=False) == 0


def test_flip_hand_mirrors_through_the_origin_s_plane(tmp_path):
    """A voxel at z = origin + 2 goes to origin - 2, nothing else moves, and twice is nothing."""
    volume = torch.zeros(8, 8, 8)
    volume[6, 1, 3], volume[4, 5, 5] = 1.0, 2.0
    write_maps(tmp_path, iter([volume]), 1.0, flip_hand=True)
    found = read_map(tmp_path / "000000.mrc")[0]
    assert found[2, 1, 3] == 1
    assert found[4, 5, 5] == 2
    assert found.sum() == 3
    write_maps(tmp_path, iter([torch.tensor(found)]), 1.0, flip_hand=True)
    np.testing.assert_array_equal(read_map(tmp_path / "000000.mrc")[0], volume.numpy())


@pytest.mark.parametrize("content", ["5\n0\n5\n9\n", "# 0-based particle numbers\n5\n0\n5\n9", "5.0 0 5 9"])
def test_particle_numbers_from_text(tmp_path, content):
    found = read_particle_numbers(text(tmp_path, content), 10)
    np.testing.assert_array_equal(found, [5, 0, 5, 9])
    assert found.dtype == np.int64


def test_particle_numbers_from_arrays(tmp_path):
    for kind in (np.int32, np.uint8, np.float32):
        np.testing.assert_array_equal(read_particle_numbers(array(tmp_path, np.array([5, 0], kind)), 10), [5, 0])
    np.testing.assert_array_equal(read_particle_numbers(array(tmp_path, np.int64(3)), 10), [3])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("1\n2.5\n", "expected 0-based particle numbers, one a line"),
        ("1\nnan\n", "expected 0-based particle numbers, one a line"),
        ("1 2\n3 4\n", "expected 0-based particle numbers, one a line"),
        ("1\n10\n", "entry 1: particle 10: the run has particles 0 to 9"),
        ("-1\n3\n", "entry 0: particle -1: the run has particles 0 to 9"),
        ("inf\n", "entry 0: particle inf: the run has particles 0 to 9"),
        ("one\ntwo\n", "cannot be read as particle numbers"),
        ("1\n2 3\n", "cannot be read as particle numbers"),
        ("", "is empty: expected particle numbers"),
        ("# nothing\n", "is empty: expected particle numbers"),
    ],
)
def test_particle_numbers_that_cannot_be_meant(tmp_path, content, said, recwarn):
    with pytest.raises(InputError, match=rf"^{re.escape(str(tmp_path / 'list.txt'))}.*{re.escape(said)}"):
        read_particle_numbers(text(tmp_path, content), 10)
    assert not [warning for warning in recwarn if "loadtxt" in str(warning.message)]


@pytest.mark.parametrize("content", [np.array(["a", "b"]), np.array([True, False]), np.array([1j, 2])])
def test_arrays_of_no_numbers_are_refused(tmp_path, content):
    with pytest.raises(InputError, match="expected particle numbers"):
        read_particle_numbers(array(tmp_path, content), 10)


def test_pickled_torn_and_missing_lists_are_refused(tmp_path):
    path = array(tmp_path, np.array([1, 2]))
    np.save(path, np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match="cannot be read as particle numbers"):
        read_particle_numbers(path, 10)
    for torn in (b"", b"\x93NUMPY\x01", b"text"):
        path.write_bytes(torn)
        with pytest.raises(InputError, match="cannot be read as particle numbers"):
            read_particle_numbers(path, 10)
    (tmp_path / "b.txt").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(InputError, match="cannot be read as particle numbers"):
        read_particle_numbers(tmp_path / "b.txt", 10)
    for name in ("gone.txt", "gone.npy", "."):
        with pytest.raises(InputError, match="no such file of particle numbers"):
            read_particle_numbers(tmp_path / name, 10)


def test_latent_points(tmp_path):
    points = np.array([[0.5, -1], [2, 3], [4, 5]])
    np.testing.assert_array_equal(read_latent_points(array(tmp_path, points), 2), points)
    np.testing.assert_array_equal(read_latent_points(array(tmp_path, points.astype(np.float32)), 2), points)
    np.testing.assert_array_equal(read_latent_points(text(tmp_path, "0.5 -1\n2 3\n4 5\n"), 2), points)
    # one point of two numbers, and two points of one number
    np.testing.assert_array_equal(read_latent_points(text(tmp_path, "0.5 -1\n"), 2), points[:1])
    np.testing.assert_array_equal(read_latent_points(text(tmp_path, "0.5\n-1\n"), 1), [[0.5], [-1]])
    np.testing.assert_array_equal(read_latent_points(array(tmp_path, np.array([0.5, -1.0])), 1), [[0.5], [-1]])


@pytest.mark.parametrize(
    ("content", "zdim", "said"),
    [
        (np.zeros((4, 3)), 2, "found an array of shape (4, 3), expected finite points of 2 numbers a row"),
        (np.zeros(3), 2, "found an array of shape (3,), expected finite points of 2 numbers a row"),
        (np.zeros((2, 2, 2)), 2, "found an array of shape (2, 2, 2), expected finite points of 2 numbers a row"),
        (np.array([[0.0, np.nan]]), 2, "expected finite points of 2 numbers a row"),
        (np.array([[0.0, np.inf]]), 2, "expected finite points of 2 numbers a row"),
        (np.zeros((0, 2)), 2, "is empty: expected latent points"),
        (np.zeros(0), 1, "is empty: expected latent points"),
        (np.array([["a", "b"]]), 2, "expected latent points"),
    ],
)
def test_latent_points_that_cannot_be_meant(tmp_path, content, zdim, said):
    with pytest.raises(InputError, match=re.escape(said)):
        read_latent_points(array(tmp_path, content), zdim)


def test_latent_points_of_garbage(tmp_path):
    with pytest.raises(InputError, match="cannot be read as latent points"):
        read_latent_points(text(tmp_path, "x y\n"), 2)
