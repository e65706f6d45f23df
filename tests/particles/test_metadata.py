"""Particle sets as a whole: images found and checked, cryoDRGN files on top, and written back."""

import pickle

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from cryomorph.config.errors import InputError
from cryomorph.io.star import read_star
from cryomorph.particles import metadata as module
from cryomorph.particles.metadata import read_particles, write_particles
from cryomorph.physics.pose import Pose
from fixtures.stacks import write_stack

IMAGES = np.random.default_rng(0).normal(size=(6, 8, 8)).astype(np.float32)
ROTATION = Rotation.random(6, random_state=1).as_matrix().astype(np.float32)
SHIFT = np.linspace(-0.2, 0.3, 12).reshape(6, 2).astype(np.float32)


@pytest.fixture
def warnings(monkeypatch):
    seen = []
    monkeypatch.setattr(module, "warn", seen.append)
    monkeypatch.setattr("cryomorph.particles.pixel_size.warn", seen.append)
    return seen


def star_file(folder, names, columns="", values=""):
    head = "data_\nloop_\n_rlnImageName\n_rlnPixelSize\n" + columns
    path = folder / "p.star"
    path.write_text(head + "".join(f"{name} 1.5 {values}\n" for name in names))
    return path


def dump(path, value):
    path.write_bytes(pickle.dumps(value))
    return path


def ctf_rows(n=6, box=16, pixel_A=0.75):
    return np.tile(np.array([box, pixel_A, 15000, 14000, 30, 300, 2.7, 0.1, 5], np.float32), (n, 1))


@pytest.fixture
def stacks(tmp_path):
    """Two stacks of four and two images in a folder of their own."""
    folder = tmp_path / "data" / "sub"
    folder.mkdir(parents=True)
    write_stack(folder / "a.mrcs", IMAGES[:4], 1.5)
    write_stack(folder / "b.mrcs", IMAGES[4:], 1.5)
    return folder


def test_images_come_in_the_order_of_the_rows(tmp_path, stacks):
    names = ["2@a.mrcs", "1@b.mrcs", "000001@a.mrcs", "2@b.mrcs", "4@a.mrcs"]
    rows = [1, 4, 0, 5, 3]
    particles = read_particles(star_file(stacks, names))
    assert len(particles) == 5 and (particles.box, particles.pixel_A) == (8, 1.5)
    assert particles.pose is None and particles.ctf is None and particles.half is None
    np.testing.assert_array_equal(particles.read(np.arange(5)), IMAGES[rows])
    np.testing.assert_array_equal(particles.read(np.array([3, 0, 3])), IMAGES[[5, 1, 5]])
    assert particles.read(np.array([], np.int64)).shape == (0, 8, 8)
    chosen = particles.select(np.array([4, 1]))
    np.testing.assert_array_equal(chosen.read(np.arange(2)), IMAGES[[3, 4]])
    np.testing.assert_array_equal(chosen.select(np.array([1])).read(np.array([0])), IMAGES[[4]])
    assert pickle.loads(pickle.dumps(particles)).read(np.array([0])).shape == (1, 8, 8)


def test_where_images_are_looked_for(tmp_path, stacks, monkeypatch):
    data = tmp_path / "data"
    star = star_file(tmp_path, ["1@sub/a.mrcs"])
    with pytest.raises(InputError, match=r"names the image file sub/a.mrcs, .*--datadir.*--strip-prefix"):
        read_particles(star)
    assert read_particles(star, datadir=data).stacks == (stacks / "a.mrcs",)
    assert read_particles(star, datadir=stacks).stacks == (stacks / "a.mrcs",)  # the last part of the path
    monkeypatch.chdir(data)
    assert read_particles(star).stacks[0].resolve() == stacks / "a.mrcs"
    monkeypatch.chdir("/")
    old = star_file(tmp_path, ["1@/old/project/sub/a.mrcs"])
    assert read_particles(old, datadir=data, strip_prefix="/old/project").stacks == (stacks / "a.mrcs",)
    with pytest.raises(InputError, match=r"/old/project/sub/a.mrcs"):
        read_particles(old)
    absolute = star_file(tmp_path, [f"1@{stacks}/a.mrcs"])
    assert read_particles(absolute).stacks == (stacks / "a.mrcs",)
    assert read_particles(absolute, datadir=tmp_path).stacks == (stacks / "a.mrcs",)
    beside = star_file(data, ["1@old/sub/a.mrcs"])
    assert read_particles(beside, strip_prefix="old/").stacks == (stacks / "a.mrcs",)
    with pytest.raises(InputError, match="is not a folder"):
        read_particles(star, datadir=tmp_path / "none")


def test_two_files_of_one_name_are_never_taken_for_one(tmp_path, stacks):
    (tmp_path / "data" / "day2").mkdir()
    write_stack(tmp_path / "data" / "day2" / "a.mrcs", IMAGES[4:], 1.5)
    star = star_file(tmp_path, ["1@sub/a.mrcs", "1@day2/a.mrcs"])
    found = read_particles(star, datadir=tmp_path / "data")
    np.testing.assert_array_equal(found.read(np.arange(2)), IMAGES[[0, 4]])
    with pytest.raises(InputError, match=r"names sub/a.mrcs and day2/a.mrcs, and for both .*sub/a.mrcs was found"):
        read_particles(star, datadir=stacks)
    same = star_file(tmp_path, ["1@data/sub/a.mrcs", "2@./data//sub/a.mrcs"])  # one file, written in two ways
    np.testing.assert_array_equal(read_particles(same).read(np.arange(2)), IMAGES[[0, 1]])


def test_a_format_behind_the_name(stacks):
    (stacks / "a.mrcs").rename(stacks / "a.mrc")
    particles = read_particles(star_file(stacks, ["2@a.mrc:mrcs"]))
    np.testing.assert_array_equal(particles.read(np.arange(1)), IMAGES[[1]])


def test_images_that_do_not_fit_their_rows(stacks, warnings):
    with pytest.raises(InputError, match=r"row 1 \(0-based\) names image 3 \(from 1\) of .*b.mrcs, which has 2 images"):
        read_particles(star_file(stacks, ["1@a.mrcs", "3@b.mrcs"]))
    with pytest.raises(InputError, match=r"row 0 \(0-based\) names no image number of .*a.mrcs, which has 4"):
        read_particles(star_file(stacks, ["a.mrcs"]))
    write_stack(stacks / "c.mrcs", np.zeros((1, 4, 4), np.float32), 1.0)
    with pytest.raises(InputError, match=r"c.mrcs has box 4 and .*a.mrcs has box 8"):
        read_particles(star_file(stacks, ["1@a.mrcs", "1@c.mrcs"]))
    assert read_particles(star_file(stacks, ["c.mrcs"])).image_of.tolist() == [0]
    assert not warnings
    stated = read_particles(star_file(stacks, ["1@a.mrcs"], "_rlnImageSize\n", "16"))
    assert (
        stated.box == 8 and "states a box of 16 at 1.5 A, its images have 8 at 1.5 A: they were cropped" in warnings[0]
    )
    write_stack(stacks / "a.mrcs", np.zeros((4, 4, 4), np.float32), 1.0)
    with pytest.raises(InputError, match=r"a.mrcs has box 4, expected 8"):
        stated.read(np.array([0]))


def test_pixel_size_falls_back_to_the_header_then_to_one(tmp_path, stacks, warnings):
    path = stacks / "p.star"
    path.write_text("data_\nloop_\n_rlnImageName\n1@a.mrcs\n")
    assert read_particles(path).pixel_A == 1.5 and not warnings
    write_stack(stacks / "a.mrcs", IMAGES, 0.0)
    assert read_particles(path).pixel_A == 1.0
    assert "states no pixel size" in warnings[0]


def test_metadata_alone(tmp_path):
    path = star_file(tmp_path, ["2@gone.mrcs", "gone2.mrcs"], "_rlnImageSize\n", "64")
    particles = read_particles(path, check_images=False)
    assert particles.box == 64 and particles.image_of.tolist() == [1, 0]
    assert particles.stacks == (tmp_path / "gone.mrcs", tmp_path / "gone2.mrcs")
    with pytest.raises(InputError, match="gone"):
        particles.read(np.array([0]))
    with pytest.raises(InputError, match="does not state its box"):
        read_particles(star_file(tmp_path, ["1@gone.mrcs"]), check_images=False)


@pytest.mark.parametrize("kind", ["txt", "mrcs"])
def test_bare_stacks_with_cryodrgn_files(tmp_path, stacks, kind):
    if kind == "txt":
        path = tmp_path / "list.txt"
        path.write_text("# two\nsub/a.mrcs\nsub/b.mrcs\n")
        datadir = tmp_path / "data"
    else:
        path, datadir = stacks / "all.mrcs", None
        write_stack(path, IMAGES, 9.0)
    plain = read_particles(path, datadir=datadir)
    assert plain.pose is None and plain.ctf is None and plain.table is None
    np.testing.assert_array_equal(plain.read(np.arange(6)), IMAGES)
    particles = read_particles(
        path,
        datadir=datadir,
        poses=dump(tmp_path / "pose.pkl", (ROTATION, SHIFT)),
        ctf=dump(tmp_path / "ctf.pkl", ctf_rows()),
        index=dump(tmp_path / "ind.pkl", np.array([5, 0, 3])),
    )
    assert particles.pixel_A == 1.5  # 0.75 A at box 16 is 1.5 A at box 8
    np.testing.assert_array_equal(particles.read(np.arange(3)), IMAGES[[5, 0, 3]])
    np.testing.assert_array_equal(particles.pose.rotation.numpy(), ROTATION[[5, 0, 3]])
    np.testing.assert_allclose(particles.pose.shift_A.numpy(), SHIFT[[5, 0, 3]] * 8 * 1.5, rtol=1e-6)
    assert particles.ctf.phase_shift_deg.tolist() == [5.0] * 3
    assert particles.ctf.scale.tolist() == [1.0] * 3 and particles.ctf.bfactor_A2.tolist() == [0.0] * 3
    write_particles(particles, tmp_path / "new.star")
    again = read_particles(tmp_path / "new.star")
    np.testing.assert_array_equal(again.read(np.arange(3)), IMAGES[[5, 0, 3]])
    np.testing.assert_allclose(again.pose.rotation.numpy(), ROTATION[[5, 0, 3]], atol=1e-6)
    np.testing.assert_allclose(again.pose.shift_A.numpy(), particles.pose.shift_A.numpy(), atol=1e-6)
    assert again.ctf.defocus_u_A.tolist() == [15000.0] * 3 and again.ctf.cs_mm.tolist() == particles.ctf.cs_mm.tolist()
    assert (again.pixel_A, again.box) == (1.5, 8)


def test_cryodrgn_files_that_do_not_match(tmp_path, stacks):
    path = stacks / "a.mrcs"
    with pytest.raises(InputError, match=r"pose.pkl has 6 rows, the particle file 4"):
        read_particles(path, poses=dump(tmp_path / "pose.pkl", (ROTATION, SHIFT)))
    with pytest.raises(InputError, match=r"ctf.pkl has 6 rows, the particle file 4"):
        read_particles(path, ctf=dump(tmp_path / "ctf.pkl", ctf_rows()))
    mixed = ctf_rows(4)
    mixed[2, 1] = 3
    with pytest.raises(InputError, match=r"ctf.pkl mixes pixel sizes \(column 1\): 0.75 in row 0 and 3 in row 2"):
        read_particles(path, ctf=dump(tmp_path / "ctf.pkl", mixed))
    with pytest.raises(InputError, match="expected positive"):
        read_particles(path, ctf=dump(tmp_path / "ctf.pkl", 0 * ctf_rows(4)))
    with pytest.raises(InputError, match=r"has 4 particles, the index names particle 4 \(0-based\)"):
        read_particles(path, index=np.array([0, 4]))
    with pytest.raises(InputError, match="no particle is left"):
        read_particles(path, index=np.array([], np.int64))


def test_poses_from_cryodrgn_reach_the_written_star(tmp_path, stacks):
    star = star_file(stacks, [f"{i}@a.mrcs" for i in (1, 2, 3, 4)])
    particles = read_particles(star, poses=dump(tmp_path / "pose.pkl", ROTATION[:4]), index=np.array([2, 1]))
    write_particles(particles, stacks / "out.star")
    again = read_particles(stacks / "out.star")
    np.testing.assert_allclose(again.pose.rotation.numpy(), ROTATION[[2, 1]], atol=1e-6)
    assert again.pose.shift_A.abs().max() == 0


def test_other_suffixes(tmp_path, stacks):
    with pytest.raises(InputError, match=r"expected .star, .cs, .txt"):
        read_particles(tmp_path / "p.hdf")
    with pytest.raises(InputError, match=r"--passthrough goes with a .cs file"):
        read_particles(stacks / "a.mrcs", passthrough=tmp_path / "x.cs")
    particles = read_particles(stacks / "a.mrcs")
    with pytest.raises(InputError, match=r"expected .star or .cs"):
        write_particles(particles, tmp_path / "out.csv")
    with pytest.raises(InputError, match=r"a .cs can only be written from a .cs"):
        write_particles(particles, tmp_path / "out.cs")
    with pytest.raises(ValueError, match="1 poses for 4 particles"):
        write_particles(particles, tmp_path / "out.star", pose=Pose(torch.eye(3)[None], torch.zeros(1, 2)))
    assert not (tmp_path / "out.cs").exists()


def test_a_new_star_without_pose_or_ctf_says_so_of_mrc(tmp_path, stacks, warnings):
    write_stack(stacks / "c d.mrc", IMAGES, 1.5)
    write_particles(read_particles(stacks / "c d.mrc"), tmp_path / "new.star")
    assert "end in .mrcs" in warnings[0]
    blocks = read_star(tmp_path / "new.star")
    assert blocks["optics"]["rlnImagePixelSize"].tolist() == ["1.500000"]
    assert list(blocks["particles"].columns) == ["rlnImageName", "rlnOpticsGroup"]
    again = read_particles(tmp_path / "new.star")
    assert again.pose is None and again.ctf is None
    np.testing.assert_array_equal(again.read(np.array([5])), IMAGES[[5]])


@pytest.mark.accept
def test_real_toy_projections(shared):
    readers = shared / "data" / "readers"
    particles = read_particles(readers / "toy_projections.star")
    assert (len(particles), particles.box, particles.pixel_A) == (1000, 30, 1.0)
    assert particles.pose is None and particles.ctf.phase_shift_deg.unique().tolist() == [90.0]
    bare = read_particles(readers / "toy_projections.mrcs")
    index = np.array([999, 0, 500])
    np.testing.assert_array_equal(bare.read(index), particles.read(index))
