"""`select`, `split`, `decode --selection` and `compare` as typed: what they write is read back and says the same."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from cryomorph.cli.main import main
from cryomorph.io.mrc import read_map, write_map
from cryomorph.io.star import read_star, write_star
from cryomorph.particles.metadata import read_particles, rewrite_poses
from cryomorph.particles.store import ParticleStore
from cryomorph.physics.pose import Pose
from cryomorph.runs.folder import RunFolder
from cryomorph.volumes.backproject import reconstruct
from fixtures.stacks import write_stack

FIT = ["--zdim", "1", "--iterations", "1", "--final-iterations", "1", "--max-radius", "6"]
BAD = 7  # image without variance, in the set of which it is left out


def run(*argv: object) -> int:
    return main([str(word) for word in argv])


def refused(said: str, capsys: pytest.CaptureFixture[str], *argv: object) -> None:
    """The command ends with 2 and one sentence on standard error."""
    capsys.readouterr()
    assert run(*argv) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert re.search(said, error), error


@pytest.fixture(scope="module")
def analysed(tiny_run, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """The tiny run with clusters made up: particle i is in cluster i % 4."""
    path = tmp_path_factory.mktemp("selection") / "run"
    shutil.copytree(tiny_run.path, path)
    (path / "analysis").mkdir()
    np.save(path / "analysis" / "kmeans_labels.npy", np.arange(400) % 4)
    return RunFolder.open(path)


@pytest.fixture(scope="module")
def cs_run(tiny_set, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the tiny set's images as cryoSPARC lists them; one has no variance and is left out."""
    folder = tmp_path_factory.mktemp("cs")
    (folder / "J1").mkdir()
    given = read_particles(tiny_set / "particles.star")
    n = len(given)
    images = given.read(np.arange(n))
    images[BAD] = 1.0
    write_stack(folder / "J1" / "stack.mrcs", images, 16.0)
    array = np.zeros(
        n,
        [
            ("uid", "<u8"),
            ("blob/path", "S20"),
            ("blob/idx", "<u4"),
            ("blob/shape", "<u4", (2,)),
            ("blob/psize_A", "<f4"),
            ("alignments3D/pose", "<f4", (3,)),
            ("alignments3D/shift", "<f4", (2,)),
            ("alignments3D/psize_A", "<f4"),
            ("alignments3D/split", "<u4"),
            ("filament/unknown", "<f8", (3,)),
        ],
    )
    array["uid"] = np.random.default_rng(0).integers(2**63, 2**64 - 1, n, dtype=np.uint64)
    array["blob/path"], array["blob/idx"] = b">J1/stack.mrcs", np.arange(n)
    array["blob/shape"], array["blob/psize_A"], array["alignments3D/psize_A"] = 16, 16.0, 16.0
    array["alignments3D/pose"] = Rotation.from_matrix(given.pose.rotation.numpy().swapaxes(1, 2)).as_rotvec()
    array["alignments3D/shift"] = given.pose.shift_A.numpy() / 16
    array["alignments3D/split"] = np.arange(n) % 2
    array["filament/unknown"] = np.random.default_rng(1).normal(size=(n, 3))
    with (folder / "p.cs").open("wb") as file:
        np.save(file, array)
    assert run("train", "linear", folder / "p.cs", "-o", folder / "run", "--skip-bad", "--fix-poses", *FIT) == 0
    return folder / "run"


def maps_of(particles: Path, store: Path, *options: object) -> list[torch.Tensor]:
    """Prepare a particle file and back-project it: the full map and the half maps."""
    assert run("prepare", particles, "-o", store, "--invert", "no", *options) == 0
    found = reconstruct(ParticleStore.open(store))
    return [found.map, found.half1, found.half2]


# --- what is written is what was selected -----------------------------------------------------------------------------


def test_a_star_read_back_is_the_direct_selection(analysed, tiny_set, tmp_path, capsys):
    out = tmp_path / "chosen.star"
    assert run("select", analysed.path, "-o", out, "--cluster", 1, 3) == 0
    said = capsys.readouterr().err
    assert "200 of 400 particles (50.0%): cluster 1 3: 200" in said
    assert f"--datadir {tiny_set}" in said  # the images are named from the set's folder
    index = np.loadtxt(tmp_path / "chosen.txt", dtype=int)
    assert index.tolist() == [i for i in range(400) if i % 4 in (1, 3)]
    before, after = read_star(tiny_set / "particles.star"), read_star(out)
    assert list(before) == list(after)
    assert after["optics"].equals(before["optics"])
    assert after["particles"].equals(before["particles"].iloc[index].reset_index(drop=True))
    written = maps_of(out, tmp_path / "written", "--datadir", tiny_set)
    direct = maps_of(tiny_set / "particles.star", tmp_path / "direct", "--index", tmp_path / "chosen.txt")
    for a, b in zip(written, direct, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)
    # and of the run's own store, whose noise was measured on all images
    own = reconstruct(analysed.store(), subset=torch.from_numpy(index)).map
    assert float(torch.corrcoef(torch.stack([own.flatten(), written[0].flatten()]))[0, 1]) > 0.995


def test_a_cs_read_back_is_the_direct_selection(cs_run, tmp_path, monkeypatch):
    monkeypatch.chdir(cs_run.parent)  # cryoSPARC names images from the project's folder
    out = tmp_path / "chosen.cs"
    (tmp_path / "list.txt").write_text("\n".join(map(str, range(100, 250))))
    assert run("select", cs_run, "-o", out, "--index", tmp_path / "list.txt") == 0
    before, after = (np.load(path, allow_pickle=False) for path in (cs_run.parent / "p.cs", out))
    # particle 100 of the run is row 101 of the file, whose row 7 was left out
    rows = np.arange(100, 250) + 1
    assert after.dtype == before.dtype
    np.testing.assert_array_equal(after, before[rows])
    np.savetxt(tmp_path / "rows.txt", rows, fmt="%d")
    written = maps_of(out, tmp_path / "written")
    direct = maps_of(cs_run.parent / "p.cs", tmp_path / "direct", "--index", tmp_path / "rows.txt")
    own = reconstruct(RunFolder.open(cs_run).store(), subset=torch.arange(100, 250))
    for a, b in zip(written, direct, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)
    for a, b in zip(written, (own.map, own.half1, own.half2), strict=True):
        assert float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1]) > 0.98


def test_a_cs_run_s_selection_as_star_is_the_same_maps(cs_run, tmp_path):
    """The images are found where training found them, whatever the working folder is."""
    for suffix in ("cs", "star"):
        assert (
            run("select", cs_run, "-o", tmp_path / f"c.{suffix}", "--nearest", 200, "--to-particle", 3, "--overwrite")
            == 0
        )
    a = maps_of(tmp_path / "c.cs", tmp_path / "a", "--datadir", cs_run.parent)
    b = maps_of(tmp_path / "c.star", tmp_path / "b")
    for one, other in zip(a, b, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3 * float(one.abs().max()))


def test_left_out_images_do_not_shift_numbers(cs_run, tmp_path):
    (tmp_path / "list.txt").write_text(f"{BAD - 1}\n{BAD}\n")
    assert run("select", cs_run, "-o", tmp_path / "c.cs", "--index", tmp_path / "list.txt") == 0
    found = np.load(tmp_path / "c.cs", allow_pickle=False)
    assert found["blob/idx"].tolist() == [BAD - 1, BAD + 1]
    assert RunFolder.open(cs_run).store().row[[BAD - 1, BAD]].tolist() == [BAD - 1, BAD + 1]


def test_refined_poses_are_written_unless_the_original_ones_are_asked_for(analysed, tmp_path):
    shutil.copytree(analysed.path, tmp_path / "run")
    refined, pose = RunFolder.open(tmp_path / "run"), analysed.store().require_pose()
    turned = Pose(pose.rotation.roll(1, 0), pose.shift_A + 1)
    refined.save_pose(turned)
    star = refined.store().folder / "particles.star"
    rewrite_poses(star, refined.path / "particles.star", turned, pixel_A=16.0)
    for options, expected in (((), turned), (("--original-poses",), pose)):
        out = tmp_path / f"out{len(options)}.star"
        assert run("select", refined.path, "-o", out, "--cluster", 2, *options) == 0
        found = read_particles(out, check_images=False).pose
        torch.testing.assert_close(found.rotation, expected.rotation[2::4], rtol=0, atol=1e-5)
        torch.testing.assert_close(found.shift_A, expected.shift_A[2::4], rtol=0, atol=1e-4)


@pytest.mark.parametrize("suffix", ["txt", "npy"])
def test_numbers_alone(analysed, tmp_path, suffix):
    out = tmp_path / f"numbers.{suffix}"
    assert run("select", analysed.path, "-o", out, "--cluster", 0, "--invert") == 0
    found = np.loadtxt(out, dtype=int) if suffix == "txt" else np.load(out)
    assert found.tolist() == [i for i in range(400) if i % 4]
    assert sorted(path.name for path in tmp_path.iterdir()) == [out.name]


def test_select_with_ranges_as_typed(analysed, tmp_path):
    z = analysed.latent_mean()
    out = tmp_path / "o.npy"
    argv = ["--range", "z1", "-inf", "0.5", "--range", "z2", "-0.5", "1e9", "--max-norm", "2"]
    assert run("select", analysed.path, "-o", out, *argv) == 0
    expected = (z[:, 0] <= 0.5) & (z[:, 1] >= -0.5) & (np.linalg.norm(z, axis=1) <= 2)
    np.testing.assert_array_equal(np.load(out), np.flatnonzero(expected))


def test_select_refuses_and_writes_nothing(analysed, tmp_path, capsys):
    for name, said, argv in (
        ("a.star", "cluster 9 does not exist: there are 0, 1, 2, 3", ["--cluster", 9]),
        ("a.star", r"landscape/states\.npy: no such file; `cryomorph landscape", ["--state", 0]),
        ("a.star", "is left .*nothing was written", ["--min-norm", 1e6]),
        ("a.star", "has no column z9", ["--range", "z9", 0, 1]),
        ("a.star", "no such file of a polygon", ["--lasso", tmp_path / "gone.txt"]),
        ("a.cs", r"a \.cs can only be written from a \.cs", ["--cluster", 1]),
        ("a.mrc", "expected a name that ends in", ["--cluster", 1]),
        ("a.txt", "nothing says which particles to select", []),
    ):
        refused(said, capsys, "select", analysed.path, "-o", tmp_path / name, *argv)
    refused("is not a run folder", capsys, "select", tmp_path, "-o", tmp_path / "a.txt", "--cluster", 1)
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    (unfinished / "config.json").write_text("{}")
    refused("has no model.safetensors yet: finish it", capsys, "select", unfinished, "-o", "a.txt", "--cluster", 1)
    assert [path.name for path in tmp_path.iterdir()] == ["unfinished"]
    (tmp_path / "a.txt").write_text("mine")  # the numbers beside a.star
    refused("a.txt exists already: give --overwrite", capsys, "select", analysed.path, "-o", tmp_path / "a.star",
            "--cluster", 1)  # fmt: skip
    assert (tmp_path / "a.txt").read_text() == "mine" and not (tmp_path / "a.star").exists()
    assert run("select", analysed.path, "-o", tmp_path / "a.star", "--cluster", 1, "--overwrite") == 0


def test_select_never_replaces_what_it_reads(analysed, tmp_path, capsys):
    shutil.copytree(analysed.path, tmp_path / "run")
    (tmp_path / "list.txt").write_text("3\n")
    before = (tmp_path / "run" / "particles.star").read_bytes()
    argv = ("select", tmp_path / "run", "--index", tmp_path / "list.txt", "--overwrite", "-o")
    for output in (tmp_path / "run" / "particles.star", tmp_path / "list.star", tmp_path / "list.txt"):
        refused("is one of the files that are read", capsys, *argv, output)
    assert (tmp_path / "run" / "particles.star").read_bytes() == before
    assert (tmp_path / "list.txt").read_text() == "3\n" and not (tmp_path / "list.star").exists()


# --- split ------------------------------------------------------------------------------------------------------------


def test_split_of_a_file_of_a_run_and_of_numbers(analysed, tiny_set, tmp_path):
    star = tiny_set / "particles.star"
    for number, source in enumerate((star, analysed.path)):
        a, b = tmp_path / f"a{number}.star", tmp_path / f"b{number}.star"
        assert run("split", source, "-o", a, b, "--random", 0.9, "--seed", 4) == 0
        names = [read_star(path)["particles"]["rlnImageName"].tolist() for path in (star, a, b)]
        assert (len(names[1]), len(names[2])) == (360, 40)
        assert sorted(names[1] + names[2]) == sorted(names[0])
        numbers = np.loadtxt(b.with_suffix(".txt"), dtype=int)
        assert [names[0][i] for i in numbers] == names[2]
    assert (tmp_path / "a0.star").read_text() == (tmp_path / "a1.star").read_text()
    assert run("split", tmp_path / "b0.txt", "-o", tmp_path / "c.npy", tmp_path / "d.npy", "--random", 0.25) == 0
    c, d = np.load(tmp_path / "c.npy"), np.load(tmp_path / "d.npy")
    assert len(c) == 10 and sorted([*c, *d]) == np.loadtxt(tmp_path / "b0.txt", dtype=int).tolist()


def test_split_refuses_and_writes_nothing(analysed, tmp_path, capsys):
    a, b = tmp_path / "a.star", tmp_path / "b.star"
    refused("no such run folder", capsys, "split", tmp_path / "gone", "-o", a, b)
    refused("between 0 and 1", capsys, "split", analysed.path, "-o", a, b, "--random", 1.5)
    refused("can only be written from a", capsys, "split", analysed.path, "-o", a, tmp_path / "b.cs")
    assert not list(tmp_path.iterdir())


# --- decode a selection -----------------------------------------------------------------------------------------------


def test_decode_a_selection_and_reconstruct_it(analysed, tmp_path, capsys):
    index = np.arange(0, 400, 4)
    np.savetxt(tmp_path / "s.txt", index, fmt="%d")
    out = tmp_path / "maps"
    assert run("decode", analysed.path, "--selection", tmp_path / "s.txt", "-o", out) == 0
    assert sorted(path.name for path in out.iterdir()) == ["decoded_mean.mrc", "decoded_nearest.mrc"]
    mean = analysed.representation().volume(torch.from_numpy(analysed.latent_mean()[index].mean(0)), 16)
    np.testing.assert_allclose(read_map(out / "decoded_mean.mrc")[0], mean.detach(), atol=1e-4)
    argv = ("decode", analysed.path, "--selection", tmp_path / "s.txt", "-o", out, "--reconstruct")
    refused("holds maps already: give --overwrite", capsys, *argv)
    assert run(*argv, "--overwrite") == 0
    assert "100 particles" in capsys.readouterr().err
    direct = reconstruct(analysed.store(), subset=torch.from_numpy(index))
    for name in ("map", "half1", "half2", "mask"):
        np.testing.assert_array_equal(read_map(out / f"{name}.mrc")[0], getattr(direct, name))
    assert json.loads((out / "agreement.json").read_text())["particles"] == 100
    write_map(tmp_path / "mask.mrc", np.ones((16, 16, 16), np.float32), 16.0)
    assert run(*argv, "--overwrite", "--mask", tmp_path / "mask.mrc") == 0
    np.testing.assert_array_equal(read_map(out / "mask.mrc")[0], 1)


def test_decode_each_label(analysed, tmp_path, capsys):
    labels = np.arange(400) % 3 - 1
    np.save(tmp_path / "labels.npy", labels)
    argv = ("decode", analysed.path, "--labels", tmp_path / "labels.npy", "-o", tmp_path / "maps")
    assert run(*argv, "--box", 24) == 0
    assert sorted(path.name for path in (tmp_path / "maps").iterdir()) == ["000", "001"]
    volume, pixel_A = read_map(tmp_path / "maps" / "000" / "decoded_mean.mrc")
    assert volume.shape == (24, 24, 24) and pixel_A == pytest.approx(16 * 16 / 24)
    refused("holds maps already", capsys, *argv)
    assert run(*argv, "--reconstruct", "--overwrite") == 0
    assert "2 labels; mean FSC with the back-projected maps" in capsys.readouterr().err
    assert json.loads((tmp_path / "maps" / "agreement.json").read_text()).keys() == {"0", "1"}
    direct = reconstruct(analysed.store(), subset=torch.from_numpy(np.flatnonzero(labels == 1)))
    np.testing.assert_array_equal(read_map(tmp_path / "maps" / "001" / "map.mrc")[0], direct.map)


def test_decode_takes_away_what_it_left_and_nothing_else(analysed, tmp_path, capsys):
    """A folder named by a date is no label's: what the user keeps in it stays, whatever is told."""
    out, own = (
        tmp_path / "maps",
        [tmp_path / "maps" / name for name in ("20240115/notes.txt", "007/raw.tif", "mine.csv")],
    )
    np.save(tmp_path / "three.npy", np.arange(400) % 3)
    np.save(tmp_path / "two.npy", np.arange(400) % 2)
    (tmp_path / "s.txt").write_text("\n".join(map(str, range(100))))
    for path in own:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    selection = ("--selection", tmp_path / "s.txt")
    decode = ("decode", analysed.path, "-o", out)
    assert run(*decode, "--labels", tmp_path / "three.npy") == 0
    refused("holds maps already", capsys, *decode, *selection)
    assert run(*decode, "--labels", tmp_path / "two.npy", "--overwrite") == 0
    assert {path.name for path in out.iterdir()} == {"000", "001", "007", "20240115", "mine.csv"}
    assert run(*decode, *selection, "--reconstruct", "--overwrite") == 0
    assert run(*decode, *selection, "--overwrite") == 0
    left = {path.name for path in out.iterdir()}
    assert left == {"decoded_mean.mrc", "decoded_nearest.mrc", "007", "20240115", "mine.csv"}
    assert [path.read_text() for path in own] == ["mine"] * 3


def test_decode_takes_no_other_s_maps_away(analysed, tmp_path, capsys):
    """Such as those of a consensus."""
    (tmp_path / "s.txt").write_text("1\n2\n")
    decode = ("decode", analysed.path, "-o", tmp_path, "--selection", tmp_path / "s.txt")
    for name in ("map.mrc", "fsc.csv"):
        (tmp_path / name).write_text("another's")
        refused("holds maps already", capsys, *decode)
        assert run(*decode, "--overwrite") == 0
        assert (tmp_path / name).read_text() == "another's"
        for path in (tmp_path / name, *tmp_path.glob("decoded_*.mrc")):
            path.unlink()


def test_decode_refuses(analysed, tmp_path, capsys):
    (tmp_path / "s.txt").write_text("1\n2\n")
    (tmp_path / "beyond.txt").write_text("400\n")
    np.save(tmp_path / "none.npy", np.full(400, -1))
    np.save(tmp_path / "short.npy", np.arange(399))
    write_map(tmp_path / "mask.mrc", np.ones((24, 24, 24), np.float32), 16.0)
    write_map(tmp_path / "wild.mrc", np.full((16, 16, 16), 7, np.float32), 16.0)
    out = tmp_path / "maps"
    decode = ("decode", analysed.path, "-o", out)
    s = ("--selection", tmp_path / "s.txt")
    for said, argv in (
        ("give either --particles", (*s, "--labels", tmp_path / "none.npy")),
        ("particle 400: the run has particles 0 to 399", ("--selection", tmp_path / "beyond.txt")),
        ("all labels are below 0", ("--labels", tmp_path / "none.npy")),
        (r"has shape \(399,\), the run has 400 particles", ("--labels", tmp_path / "short.npy")),
        ("reconstructed maps have the working box, 16", (*s, "--reconstruct", "--box", 24)),
        (
            "has 16 of 16 A, which leaves out",
            (*s, "--reconstruct", "--mask", tmp_path / "mask.mrc"),
        ),
        ("values from 7 to 7, expected a mask", (*s, "--reconstruct", "--mask", tmp_path / "wild.mrc")),
        ("--mask is for the FSC", (*s, "--mask", tmp_path / "mask.mrc")),
    ):
        refused(said, capsys, *decode, *argv)
        assert not out.exists()


# --- compare ----------------------------------------------------------------------------------------------------------


def test_compare_prints_a_table_and_writes_a_report(analysed, tmp_path, capsys):
    argv = ("compare", analysed.path, analysed.path, "-k", 4, "--points", 3)
    assert run(*argv) == 0
    told = capsys.readouterr()
    assert "400 particles shared, by image name" in told.err
    assert "maps most similar to that of the same particle" in told.out and "3 of 3" in told.out
    assert run(*argv, "-o", tmp_path / "out") == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["compare.json", "report.html"]
    assert json.loads((tmp_path / "out" / "compare.json").read_text())["kmeans"]["ari"] == 1
    refused("holds a comparison already: give --overwrite", capsys, *argv, "-o", tmp_path / "out")
    refused("is a file: expected a folder", capsys, *argv, "-o", tmp_path / "out" / "report.html")


def test_compare_refuses(analysed, tmp_path, capsys):
    refused("is not a run folder", capsys, "compare", analysed.path, tmp_path)
    refused("--clusters 1: expected 2 or more", capsys, "compare", analysed.path, analysed.path, "-k", 1)
    refused("--points 1: expected 2 or more", capsys, "compare", analysed.path, analysed.path, "--points", 1)
    refused("share 400 particles", capsys, "compare", analysed.path, analysed.path, "-k", 401)


def test_both_optics_groups_stay(tiny_set, tmp_path):
    """The one that a part no longer uses too; the images are found from the new file's own folder."""
    shutil.copy(tiny_set / "particles.mrcs", tmp_path)
    blocks = read_star(tiny_set / "particles.star")
    attrs = dict(blocks["optics"].attrs)
    second = blocks["optics"].assign(rlnOpticsGroup="2", rlnOpticsGroupName="other")
    blocks["optics"] = type(second)(np.concatenate([blocks["optics"], second]), columns=second.columns)
    blocks["optics"].attrs = attrs
    blocks["particles"].loc[0, "rlnOpticsGroup"] = "2"
    write_star(tmp_path / "two.star", blocks)
    a, b = tmp_path / "a.star", tmp_path / "b.star"
    assert run("split", tmp_path / "two.star", "-o", a, b, "--random", 0.5) == 0
    for path in (a, b):
        assert read_star(path)["optics"].equals(read_star(tmp_path / "two.star")["optics"])
        assert len(read_particles(path)) == 200
