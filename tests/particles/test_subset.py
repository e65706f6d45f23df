"""Rows of particle files written anew: every column, optics group and uid as it was, in the order asked for."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import starfile

from cryomorph.config.errors import InputError
from cryomorph.io.star import read_star
from cryomorph.particles.metadata import read_particles
from cryomorph.particles.subset import ParticleFile
from fixtures.stacks import write_stack

STAR = """
# version 30001

data_optics

loop_
_rlnOpticsGroup #1
_rlnOpticsGroupName #2
_rlnVoltage #3
_rlnSphericalAberration #4
_rlnAmplitudeContrast #5
_rlnImagePixelSize #6
_rlnImageSize #7
_rlnEvenZernike #8
1 first 300.000000 2.70 0.1 1.250 8 [0,0,1e-3]
2 second 200.000000 2.70 0.1 1.250 8 [0,0]


# version 30001

data_particles

loop_
_rlnImageName #1
_rlnMicrographName #2
_rlnDefocusU #3
_rlnDefocusV #4
_rlnDefocusAngle #5
_rlnOpticsGroup #6
_userSays #7
000001@J1/a.mrcs "mic 1" 10000.123456 9000.00 30 1 0.10
000002@J1/a.mrcs "mic 1" 11000.123456 9000.00 31 2 nan
000001@J1/b.mrcs mic_2 12000.123456 9000.00 32 1 ""
000002@J1/b.mrcs mic_2 13000.123456 9000.00 33 2 1e-30
"""


def structured(n: int = 4) -> np.ndarray:
    """A cryoSPARC file of images in J1/a.mrc and J1/b.mrc, with a column that we know nothing of."""
    array = np.zeros(
        n,
        [
            ("uid", "<u8"),
            ("blob/path", "S12"),
            ("blob/idx", "<u4"),
            ("blob/shape", "<u4", (2,)),
            ("blob/psize_A", "<f4"),
            ("mystery/tensor", "<f8", (2, 2)),
            ("mystery/word", "S5"),
        ],
    )
    array["uid"] = [7, 2**64 - 1, 2**53 + 1, 5][:n]
    array["blob/path"] = [b">J1/b.mrcs", b"J1/a.mrcs", b"J1/a.mrcs", b">J1/b.mrcs"][:n]
    array["blob/idx"], array["blob/shape"], array["blob/psize_A"] = [1, 0, 1, 0][:n], 8, 1.25
    array["mystery/tensor"] = np.random.default_rng(0).normal(size=(n, 2, 2))
    array["mystery/word"] = b"abc"
    return array


@pytest.fixture
def star(tmp_path: Path) -> Path:
    (tmp_path / "p.star").write_text(STAR)
    return tmp_path / "p.star"


@pytest.fixture
def cs(tmp_path: Path) -> Path:
    with (tmp_path / "p.cs").open("wb") as file:
        np.save(file, structured())
    return tmp_path / "p.cs"


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """The stacks that both files name."""
    (tmp_path / "J1").mkdir()
    for number, name in enumerate("ab"):
        write_stack(tmp_path / "J1" / f"{name}.mrcs", np.full((2, 8, 8), number, np.float32), 1.25)
    return tmp_path


def test_a_star_keeps_optics_columns_and_tokens(star, tmp_path):
    ParticleFile.open(star).write(tmp_path / "out.star", np.array([3, 0]))
    before, after = read_star(star), read_star(tmp_path / "out.star")
    assert list(after) == ["optics", "particles"]
    assert after["optics"].equals(before["optics"])
    assert after["particles"].attrs["version"] == "30001"
    expected = before["particles"].iloc[[3, 0]].reset_index(drop=True)
    assert after["particles"].equals(expected)  # tokens: digits, quotes and empty strings as they were
    other = starfile.read(tmp_path / "out.star")  # another reader's opinion
    assert other["particles"]["rlnDefocusU"].tolist() == [13000.123456, 10000.123456]
    assert other["optics"]["rlnVoltage"].tolist() == [300, 200]


def test_a_cs_keeps_uids_and_unknown_columns(cs, tmp_path):
    ParticleFile.open(cs).write(tmp_path / "out.cs", np.array([1, 2]))
    found = np.load(tmp_path / "out.cs", allow_pickle=False)
    assert found.dtype == structured().dtype
    np.testing.assert_array_equal(found, structured()[[1, 2]])
    assert found["uid"].tolist() == [2**64 - 1, 2**53 + 1]


@pytest.mark.usefixtures("images")
def test_a_cs_becomes_a_star_with_the_images_it_found(cs, tmp_path):
    ParticleFile.open(cs).write(tmp_path / "out.star", np.array([3, 1]))
    found = read_particles(tmp_path / "out.star")
    assert [path.name for path in found.stacks] == ["b.mrcs", "a.mrcs"]
    np.testing.assert_array_equal(found.read(np.arange(2))[:, 0, 0], [1, 0])
    assert found.image_of.tolist() == [0, 0]


def test_a_cs_whose_images_are_elsewhere_is_told_where(cs, images, tmp_path):
    (tmp_path / "far").mkdir()
    elsewhere = cs.rename(tmp_path / "far" / "p.cs")
    with pytest.raises(InputError, match="--datadir"):
        ParticleFile.open(elsewhere).write(tmp_path / "out.star", np.array([0]))
    assert not (tmp_path / "out.star").exists()
    file = ParticleFile.open(elsewhere, places=[tmp_path / "gone", images])
    assert file.image_folder() == images
    file.write(tmp_path / "out.star", np.array([0]))
    assert read_particles(tmp_path / "out.star").stacks[0] == (images / "J1" / "b.mrcs").resolve()


def test_image_names_are_one_spelling(star, cs):
    names = ["1@J1/a.mrcs", "2@J1/a.mrcs", "1@J1/b.mrcs", "2@J1/b.mrcs"]
    assert ParticleFile.open(star).image_names() == names
    assert ParticleFile.open(cs).image_names() == [names[3], names[0], names[1], names[2]]
    assert ParticleFile.open(star).image_names(slice(1, 2)) == names[1:2]


def test_a_file_without_numbers_names_its_first_image(tmp_path):
    (tmp_path / "p.star").write_text("data_\n\nloop_\n_rlnImageName #1\nalone.mrc\n")
    assert ParticleFile.open(tmp_path / "p.star").image_names() == ["1@alone.mrc"]


def test_only_cryosparc_s_files_have_uids(star, cs):
    assert ParticleFile.open(star).uid() is None
    assert ParticleFile.open(cs).uid().tolist() == structured()["uid"].tolist()
    assert len(ParticleFile.open(star)) == len(ParticleFile.open(cs)) == 4


def test_images_are_found_beside_the_file_or_not_at_all(star, images, tmp_path):
    assert ParticleFile.open(star).image_folder() == tmp_path
    (images / "J1" / "a.mrcs").unlink()
    assert ParticleFile.open(star).image_folder() is None


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("p.txt", "1\n", "ends in .txt: expected a .star or .cs file"),
        ("p", "1\n", "ends in nothing: expected a .star or .cs file"),
        ("p.star", "data_\n\nloop_\n_rlnMicrographName #1\na.mrc\n", "has no column rlnImageName"),
        ("p.cs", "no array", "is not a whole .cs file (it is in neither of cryoSPARC's formats)"),
    ],
)
def test_files_of_something_else(tmp_path, name, content, said):
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=re.escape(said)):
        ParticleFile.open(tmp_path / name)


def test_what_cannot_be_written(star, cs, tmp_path):
    with pytest.raises(InputError, match=r"a \.cs can only be written from a \.cs"):
        ParticleFile.open(star).write(tmp_path / "out.cs", np.array([0]))
    with pytest.raises(InputError, match=r"ends in \.mrcs: expected \.star or \.cs"):
        ParticleFile.open(cs).write(tmp_path / "out.mrcs", np.array([0]))
    assert not list(tmp_path.glob("out*"))
