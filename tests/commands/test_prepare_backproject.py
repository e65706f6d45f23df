"""`cryomorph prepare` and `backproject`, run as a user runs them; a bad input is one sentence and leaves nothing."""

import csv
import errno
import os
import pickle
import shutil

import numpy as np
import pytest
import torch

from cryomorph.cli.main import main
from cryomorph.io.mrc import read_map, write_map
from cryomorph.io.star import read_star, write_star
from cryomorph.particles.metadata import Particles
from cryomorph.particles.store import ParticleStore
from cryomorph.volumes.backproject import mirror
from cryomorph.volumes.masks import spherical_mask
from fixtures.stacks import write_stack

WRITTEN = {"map.mrc", "half1.mrc", "half2.mrc", "mask.mrc", "sharpened.mrc", "fsc.csv", "fsc.png", "noise.csv"}


def run(*argv):
    return main([str(word) for word in argv])


@pytest.fixture
def star(tiny_set, tmp_path):
    """The tiny set in a folder that may be spoiled."""
    folder = tmp_path / "set"
    folder.mkdir()
    for name in ("particles.star", "particles.mrcs"):
        shutil.copy(tiny_set / name, folder / name)
    return folder / "particles.star"


@pytest.fixture
def fails(tmp_path, capsys):
    """Run a command that is to fail: one sentence, status 2, and nothing beside what was there."""

    def check(*argv, status=2):
        before = sorted(tmp_path.rglob("*"))
        capsys.readouterr()
        assert run(*argv) == status
        error = capsys.readouterr().err
        assert "Traceback" not in error and error.count("error: ") == 1
        assert error.strip().splitlines()[-1].startswith("error: ")
        assert sorted(tmp_path.rglob("*")) == before, "something was left behind"
        return error

    return check


def change(star, edit):
    """Edit the blocks of a STAR file in place."""
    blocks = read_star(star)
    edit(blocks)
    write_star(star, blocks)


COMMANDS = pytest.mark.parametrize("command", ["prepare", "backproject"])


# --- what is made -----------------------------------------------------------------------------------------------------


def test_prepare_makes_a_store(star, tmp_path, capsys):
    assert run("prepare", star, "-o", tmp_path / "store", "--box", 12) == 0
    said = capsys.readouterr()
    assert "400 particles, box 12, 21.333 A per pixel" in said.err and "images per second" in said.err
    assert "contrast kept: skewness" in said.err and said.out == ""
    store = ParticleStore.open(tmp_path / "store")
    assert (len(store), store.box) == (400, 12)
    assert run("prepare", star, "-o", tmp_path / "store", "--overwrite") == 0
    assert ParticleStore.open(tmp_path / "store").box == 16


def test_backproject_writes_maps_and_prints_resolutions(star, tmp_path, capsys, tiny_set):
    assert run("backproject", star, "-o", tmp_path / "maps", "--seed", 1) == 0
    out = capsys.readouterr().out
    assert {path.name for path in (tmp_path / "maps").iterdir()} == WRITTEN
    printed = dict(line.split() for line in out.splitlines())
    assert 32 <= float(printed["resolution_0143_A"]) <= float(printed["resolution_05_A"]) < 128
    volume, pixel_A = read_map(tmp_path / "maps" / "map.mrc")
    assert volume.shape == (16, 16, 16) and pixel_A == 16
    middle = read_map(tiny_set / "maps" / "025.mrc")[0]
    assert np.corrcoef(volume.ravel(), middle.ravel())[0, 1] > 0.9
    rows = list(csv.DictReader((tmp_path / "maps" / "noise.csv").open()))
    assert [int(row["shell"]) for row in rows] == list(range(1, 8))
    assert float(rows[3]["resolution_A"]) == pytest.approx(16 * 16 / 4)
    assert all(0.5 < float(row["residual_power"]) < 10 for row in rows)


def test_a_store_gives_the_same_maps(star, tmp_path, capsys):
    assert run("prepare", star, "-o", tmp_path / "store", "--seed", 1) == 0
    assert run("backproject", tmp_path / "store", "-o", tmp_path / "a") == 0
    assert run("backproject", star, "-o", tmp_path / "b", "--seed", 1) == 0
    for name in ("map.mrc", "half1.mrc", "sharpened.mrc"):
        first, second = (read_map(tmp_path / folder / name)[0] for folder in "ab")
        np.testing.assert_array_equal(first, second)
    assert (tmp_path / "store" / "manifest.json").is_file()  # the user's store is left where it is


def test_hand_mask_and_bfactor(star, tmp_path, capsys):
    mask = np.zeros((16, 16, 16), np.float32)
    mask[4:12, 4:12, 4:12] = 1
    write_map(tmp_path / "mask.mrc", mask, 16.0)
    asked = ["--mask", tmp_path / "mask.mrc", "--bfactor", "0"]
    assert run("backproject", star, "-o", tmp_path / "a", *asked) == 0
    assert "B-factor 0 A^2" in capsys.readouterr().err
    assert run("backproject", star, "-o", tmp_path / "b", *asked, "--flip-hand") == 0
    for name in ("map.mrc", "half2.mrc", "sharpened.mrc"):
        first, second = (read_map(tmp_path / folder / name)[0].copy() for folder in "ab")
        np.testing.assert_allclose(mirror(torch.from_numpy(first)).numpy(), second, atol=1e-4 * abs(first).max())
    np.testing.assert_array_equal(read_map(tmp_path / "a" / "mask.mrc")[0], mask)


def test_a_mask_of_twice_the_box_is_resampled(star, tmp_path, capsys):
    """As RELION has it, whose images are not cropped: 32 voxels of 8 A for a working box of 16."""
    fine = spherical_mask(32, 8.0, 5.0).numpy()
    write_map(tmp_path / "fine.mrc", fine, 8.0)
    assert run("backproject", star, "-o", tmp_path / "a", "--mask", tmp_path / "fine.mrc") == 0
    said = capsys.readouterr().err
    assert "fine.mrc is resampled: it has 32 voxels a side of 8 A, the working box has 16 of 16 A" in said
    np.testing.assert_allclose(read_map(tmp_path / "a" / "mask.mrc")[0], fine[::2, ::2, ::2], atol=1e-6)


def test_moved_files_are_found(star, tmp_path, capsys, fails):
    (tmp_path / "elsewhere").mkdir()
    shutil.move(star.parent / "particles.mrcs", tmp_path / "elsewhere")
    message = fails("prepare", star, "-o", tmp_path / "store")
    assert "particles.mrcs, which is not at" in message and "--datadir" in message and "--strip-prefix" in message
    assert run("prepare", star, "-o", tmp_path / "store", "--datadir", tmp_path / "elsewhere") == 0

    def old_paths(blocks):
        names = blocks["particles"]["rlnImageName"]
        blocks["particles"]["rlnImageName"] = names.str.replace("@", "@/old/project/elsewhere/")

    change(star, old_paths)
    where = ["--datadir", tmp_path, "--strip-prefix", "/old/project"]
    assert run("backproject", star, "-o", tmp_path / "maps", *where) == 0


def test_chosen_particles(star, tmp_path, capsys):
    (tmp_path / "index.txt").write_text("5\n3\n200\n")
    assert run("prepare", star, "-o", tmp_path / "store", "--index", tmp_path / "index.txt", "--invert", "no") == 0
    assert len(ParticleStore.open(tmp_path / "store")) == 3


# --- bad input --------------------------------------------------------------------------------------------------------


@COMMANDS
def test_a_truncated_stack(star, tmp_path, fails, command):
    stack = star.parent / "particles.mrcs"
    with stack.open("r+b") as file:
        file.truncate(stack.stat().st_size - 100)
    message = fails(command, star, "-o", tmp_path / "out")
    assert "claims 400 sections of 16 x 16 in its header but stores 399 whole ones" in message


@COMMANDS
def test_a_header_that_claims_too_much(star, tmp_path, fails, command):
    with (star.parent / "particles.mrcs").open("r+b") as file:
        file.seek(8)
        file.write(np.int32(500).tobytes())
    assert "claims 500 sections of 16 x 16 in its header but stores 400" in fails(command, star, "-o", tmp_path / "out")


@COMMANDS
def test_mixed_pixel_sizes(star, tmp_path, fails, command):
    def two_groups(blocks):
        optics = blocks["optics"]
        optics.loc[1] = optics.loc[0]
        optics.loc[1, ["rlnOpticsGroup", "rlnImagePixelSize"]] = ["2", "17.5"]
        blocks["particles"].loc[7, "rlnOpticsGroup"] = "2"

    change(star, two_groups)
    message = fails(command, star, "-o", tmp_path / "out")
    assert "mixes" in message and "16 in row 0 and 17.5 in row 7" in message


@COMMANDS
def test_mixed_boxes(star, tmp_path, fails, command):
    write_stack(star.parent / "other.mrcs", np.zeros((1, 18, 18), np.float32), 16.0)
    change(star, lambda blocks: blocks["particles"].__setitem__("rlnImageName", ["1@other.mrcs"] * 400))
    change(star, lambda blocks: blocks["particles"].loc.__setitem__((0, "rlnImageName"), "1@particles.mrcs"))
    assert "has box 18 and" in fails(command, star, "-o", tmp_path / "out")


@COMMANDS
@pytest.mark.parametrize("column", ["rlnDefocusV", "rlnAnglePsi", "rlnOriginXAngst"])
def test_a_missing_column(star, tmp_path, fails, command, column):
    change(star, lambda blocks: blocks["particles"].drop(columns=column, inplace=True))
    message = fails(command, star, "-o", tmp_path / "out")
    assert f"missing: {column}" in message and "particles.star" in message


@COMMANDS
def test_an_unknown_optics_group(star, tmp_path, fails, command):
    change(star, lambda blocks: blocks["particles"].loc.__setitem__((9, "rlnOpticsGroup"), "7"))
    message = fails(command, star, "-o", tmp_path / "out")
    assert "optics group" in message.lower() and "7" in message and "row 9" in message


@COMMANDS
@pytest.mark.parametrize("value", [np.nan, 0.25])
def test_bad_images_are_refused_or_left_out(star, fails, capsys, command, value):
    stack, output = star.parent / "particles.mrcs", star.parents[1] / "out"
    with stack.open("r+b") as file:
        file.seek(1024 + 6 * 16 * 16 * 4)
        file.write(np.full(16 * 16, value, np.float32).tobytes())
    message = fails(command, star, "-o", output)
    assert "particle 6 (image 7 of particles.mrcs)" in message and "--skip-bad" in message
    assert run(command, star, "-o", output, "--skip-bad") == 0
    said = capsys.readouterr().err
    assert "warning: left out: 1 image with" in said and "399 particles" in said


@COMMANDS
@pytest.mark.parametrize("box", [15, 18])
def test_a_box_that_cannot_be(star, tmp_path, fails, command, box):
    message = fails(command, star, "-o", tmp_path / "out", "--box", box)
    assert f"--box {box}: expected an even number from 4 to the images' own box, 16" in message


@COMMANDS
def test_an_odd_box(star, tmp_path, fails, command):
    write_stack(star.parent / "particles.mrcs", np.zeros((400, 15, 15), np.float32), 16.0)
    assert "an odd box of 15 pixels" in fails(command, star, "-o", tmp_path / "out")


class Malicious:
    """What an attacker would put in a pickle: unpickling it runs a command."""

    def __init__(self, victim):
        self.victim = victim

    def __reduce__(self):
        return os.system, (f"touch {self.victim}",)


@COMMANDS
@pytest.mark.parametrize("option", ["--poses", "--ctf", "--index"])
def test_a_pickle_with_code_in_it_is_not_run(star, tmp_path, fails, command, option):
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps(Malicious(tmp_path / "owned")))
    message = fails(command, star, "-o", tmp_path / "out", option, tmp_path / "evil.pkl")
    assert "evil.pkl" in message and not (tmp_path / "owned").exists()


def test_back_projection_without_orientations(star, tmp_path, fails):
    angles = ["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi", "rlnOriginXAngst", "rlnOriginYAngst"]
    change(star, lambda blocks: blocks["particles"].drop(columns=angles, inplace=True))
    message = fails("backproject", star, "-o", tmp_path / "out")
    assert "has no orientations (rlnAngleRot" in message and "cryomorph abinit" in message
    assert run("prepare", star, "-o", tmp_path / "store") == 0
    assert "has no orientations" in fails("backproject", tmp_path / "store", "-o", tmp_path / "out")


@COMMANDS
def test_files_that_are_not_there(tmp_path, fails, command):
    assert "nothing.star" in fails(command, tmp_path / "nothing.star", "-o", tmp_path / "out")


def test_folders_that_are_no_stores(star, tmp_path, fails):
    assert "is not a particle store" in fails("backproject", star.parent, "-o", tmp_path / "out")


def test_options_that_a_store_cannot_follow(star, tmp_path, fails):
    assert run("prepare", star, "-o", tmp_path / "store") == 0
    message = fails("backproject", tmp_path / "store", "-o", tmp_path / "out", "--box", 12, "--skip-bad")
    assert "is a store, prepared already: omit --box, --skip-bad" in message


def test_outputs_that_are_in_use(star, tmp_path, fails):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("precious")
    assert "holds no particle store" in fails("prepare", star, "-o", tmp_path / "out")
    assert "holds no particle store" in fails("prepare", star, "-o", tmp_path / "out", "--overwrite")
    assert "is not empty" in fails("backproject", star, "-o", tmp_path / "out")
    fails("backproject", star, "-o", tmp_path / "out" / "thesis.tex")
    assert (tmp_path / "out" / "thesis.tex").read_text() == "precious"


def test_a_mask_of_another_box(star, tmp_path, fails):
    write_map(tmp_path / "mask.mrc", np.ones((12, 12, 12), np.float32), 2.0)
    message = fails("backproject", star, "-o", tmp_path / "out", "--mask", tmp_path / "mask.mrc")
    assert "mask.mrc has 12 voxels a side of 2 A, the working box has 16 of 16 A: expected about" in message


def full(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


@COMMANDS
@pytest.mark.parametrize("call", ["posix_fallocate", "pwrite"])
def test_no_space_left(star, fails, monkeypatch, command, call):
    monkeypatch.setattr(os, call, full)
    message = fails(command, star, "-o", star.parents[1] / "out", status=1 if call == "pwrite" else 2)
    assert "no space left" in message.lower()


def test_no_space_left_for_the_maps(star, tmp_path, fails, monkeypatch):
    monkeypatch.setattr("cryomorph.io.mrc.mrcfile.new", full)
    fails("backproject", star, "-o", tmp_path / "out", status=1)


@COMMANDS
def test_an_interruption_is_said(star, tmp_path, capsys, monkeypatch, command):
    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Particles, "read", interrupted)
        assert run(command, star, "-o", tmp_path / "out") == 130
    assert "interrupted" in capsys.readouterr().err and not (tmp_path / "out").exists()
    assert run(command, star, "-o", tmp_path / "out") == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "set"]
