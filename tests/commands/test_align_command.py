"""`cryomorph align`, run as a user runs it: maps of Gaussians, and particle files, in frames that are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from cryomorph.cli.main import main
from cryomorph.io.cryosparc import write_cs
from cryomorph.io.mrc import read_map, write_map
from cryomorph.io.star import read_star, write_star
from cryomorph.particles.from_star import parse_star
from cryomorph.physics.pose import Pose, euler_from_rotation, random_rotations, rotvec_from_rotation
from cryomorph.physics.pose_align import FrameChange
from cryomorph.simulation.images import Grid, map_of
from cryomorph.simulation.phantoms import Cloud, rigid

BOX, PIXEL_A, N = 32, 7.0, 300


def frame() -> FrameChange:
    rotation = random_rotations(1, torch.Generator().manual_seed(0))[0].double()
    return FrameChange(rotation, True, torch.tensor([14.0, -7.0, 10.0], dtype=torch.float64))


@pytest.fixture(scope="module")
def maps(tmp_path_factory) -> Path:
    """`moving.mrc`, and `fixed.mrc`: the other hand, turned and displaced."""
    folder, change, cloud = tmp_path_factory.mktemp("maps"), frame(), rigid().centred().clouds[0]
    moved = Cloud(-cloud.position @ change.rotation.numpy().T + change.displacement_A.numpy(), cloud.weight)
    for name, each in (("moving", cloud), ("fixed", moved)):
        write_map(folder / f"{name}.mrc", map_of(each, Grid(BOX, PIXEL_A, 6.0)), PIXEL_A)
    return folder


@pytest.fixture(scope="module")
def particles(tmp_path_factory) -> Path:
    """`true.star`, and `found.star`: a third of its poses random, the others exact in another frame."""
    folder, generator = tmp_path_factory.mktemp("particles"), torch.Generator().manual_seed(1)
    found = Pose(
        random_rotations(N, generator).double(), 5 * torch.randn(N, 2, generator=generator, dtype=torch.float64)
    )
    true = frame().apply(found)
    found.rotation[::3] = random_rotations(N // 3, generator).double()
    write_poses(folder / "true.star", true)
    write_poses(folder / "found.star", found)
    return folder


def write_poses(path: Path, pose: Pose, *, stack: str = "particles.mrcs", **columns: list[str]) -> None:
    """A RELION 3.1 file of particles of 2 A per pixel, or with other columns of poses."""
    n = len(pose)
    table = {"rlnImageName": [f"{i + 1:06d}@{stack}" for i in range(n)], "rlnOpticsGroup": ["1"] * n}
    for name, angle in zip(("Rot", "Tilt", "Psi"), euler_from_rotation(pose.rotation).T.tolist(), strict=True):
        table[f"rlnAngle{name}"] = [f"{value:.6f}" for value in angle]
    for name, origin in zip("XY", pose.shift_A.T.tolist(), strict=True):
        table[f"rlnOrigin{name}Angst"] = [f"{value:.6f}" for value in origin]
    optics = pd.DataFrame({"rlnOpticsGroup": ["1"], "rlnImagePixelSize": ["2.0"]})
    blocks = {"optics": optics, "particles": pd.DataFrame(table | columns)}
    for block in blocks.values():
        block.attrs.update(loop=True, version="30001")
    write_star(path, blocks)


def rewritten(source: Path, target: Path, change) -> Path:
    """A STAR file with its particles' table changed."""
    blocks = read_star(source)
    attrs = blocks["particles"].attrs
    blocks["particles"] = change(blocks["particles"])
    blocks["particles"].attrs = attrs
    write_star(target, blocks)
    return target


def fails(capsys, *argv) -> str:
    assert main(["align", *map(str, argv)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return said


def figures(text: str) -> dict[str, list[str]]:
    """The printed lines by what they begin with."""
    return {line[:26].strip(): line[26:].split() for line in text.splitlines()}


def test_a_map_is_aligned_to_the_other_hand(maps, tmp_path, capsys):
    output = tmp_path / "aligned.mrc"
    assert main(["align", str(maps / "moving.mrc"), str(maps / "fixed.mrc"), "-o", str(output)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("mirror image") and lines[2].startswith("as given")
    best, other = (line[14:].split() for line in lines[1:])
    assert float(best[0]) > 0.995 > float(other[0]) + 0.05
    assert float(best[1]) == pytest.approx(2 * PIXEL_A) and float(other[3]) > float(best[3])
    angle = np.degrees(np.arccos((np.trace(frame().rotation.numpy()) - 1) / 2))
    assert float(best[5]) == pytest.approx(angle, abs=0.2)
    assert np.allclose([float(word) for word in best[7:]], frame().displacement_A.numpy() / PIXEL_A, atol=0.05)
    aligned, pixel_A = read_map(output)
    fixed = read_map(maps / "fixed.mrc")[0]
    assert pixel_A == PIXEL_A and np.corrcoef(aligned.ravel(), fixed.ravel())[0, 1] > 0.995


def test_the_hand_is_kept_where_asked(maps, capsys):
    assert main(["align", str(maps / "moving.mrc"), str(maps / "fixed.mrc"), "--keep-hand"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and lines[1].startswith("as given")


def test_maps_that_do_not_belong_together_are_refused(maps, particles, tmp_path, capsys):
    moving, fixed = maps / "moving.mrc", maps / "fixed.mrc"
    volume = read_map(fixed)[0]
    write_map(tmp_path / "small.mrc", volume[:16, :16, :16], PIXEL_A)
    write_map(tmp_path / "fine.mrc", volume, 1.5)
    write_map(tmp_path / "flat.mrc", np.ones_like(volume), PIXEL_A)
    output = tmp_path / "aligned.mrc"
    assert "box 32, but" in fails(capsys, moving, tmp_path / "small.mrc", "-o", output)
    assert "pixel size 7 A, but" in fails(capsys, moving, tmp_path / "fine.mrc", "-o", output)
    assert "fixed map is constant" in fails(capsys, moving, tmp_path / "flat.mrc", "-o", output)
    assert "gone.mrc" in fails(capsys, tmp_path / "gone.mrc", fixed, "-o", output)
    assert "expected two maps, or two" in fails(capsys, moving, particles / "true.star", "-o", output)
    assert "one of the files that are read" in fails(capsys, moving, fixed, "-o", fixed)
    assert "one of the files that are read" in fails(capsys, moving, fixed, "-o", moving, "--overwrite")
    assert "exists already: give --overwrite" in fails(capsys, moving, fixed, "-o", tmp_path / "flat.mrc")
    assert "--pixel-A -1" in fails(capsys, moving, fixed, "--pixel-A", "-1")
    assert not output.exists()


def test_found_poses_are_compared_in_the_frame_of_the_true_ones(particles, tmp_path, capsys):
    output = tmp_path / "aligned.star"
    assert main(["align", str(particles / "found.star"), str(particles / "true.star"), "-o", str(output)]) == 0
    shown = figures(capsys.readouterr().out)
    assert shown["hand"] == ["flipped"]
    assert float(shown["within 10 degrees"][0]) == pytest.approx(66.7, abs=0.5)
    median, mean = (float(word) for word in shown["rotation (degrees)"])
    assert median < 0.01 and 35 < mean < 50
    assert float(shown["|R - R true|^2"][0]) < 1e-4
    angstrom, pixels = (float(shown[name][1]) for name in ("shift (A)", "shift (pixels)"))
    assert pixels == pytest.approx(angstrom / 2, abs=1e-3) and float(shown["shift (A)"][0]) < 0.01
    written, true = parse_star(output, None), parse_star(particles / "true.star", None)
    right = torch.arange(N) % 3 > 0
    assert torch.allclose(written.rotation[right], true.rotation[right], atol=1e-3)
    assert np.allclose(written.shift[right.numpy()], true.shift[right.numpy()], atol=0.01)
    assert read_star(output)["particles"]["rlnImageName"].equals(
        read_star(particles / "found.star")["particles"]["rlnImageName"]
    )


def test_particles_are_matched_by_name_in_any_order_and_from_any_folder(particles, tmp_path, capsys):
    def moved(table: pd.DataFrame) -> pd.DataFrame:
        chosen = table.sample(250, random_state=0)
        return chosen.assign(rlnImageName=chosen["rlnImageName"].str.replace("@", "@Extract/job007/"))

    mixed = rewritten(particles / "found.star", tmp_path / "mixed.star", moved)
    assert main(["align", str(mixed), str(particles / "true.star")]) == 0
    captured = capsys.readouterr()
    assert "250 particles, matched by image name without its folder" in captured.err
    assert float(figures(captured.out)["rotation (degrees)"][0]) < 0.01


def test_a_cryosparc_file_without_common_names_is_matched_by_order(particles, tmp_path, capsys):
    given = parse_star(particles / "found.star", None)
    kinds = [("uid", "u8"), ("blob/path", "S40"), ("blob/idx", "u4"), ("alignments3D/pose", "f4", (3,)),
             ("alignments3D/shift", "f4", (2,)), ("alignments3D/psize_A", "f4")]  # fmt: skip
    table = np.zeros(N, dtype=kinds)
    table["uid"], table["blob/path"], table["blob/idx"] = np.arange(N), b"J12/restack.mrc", np.arange(N)
    table["alignments3D/pose"] = -rotvec_from_rotation(given.rotation).numpy()
    table["alignments3D/shift"], table["alignments3D/psize_A"] = given.shift / 2.0, 2.0
    write_cs(tmp_path / "found.cs", table)
    output = tmp_path / "aligned.cs"
    assert main(["align", str(tmp_path / "found.cs"), str(particles / "true.star"), "-o", str(output)]) == 0
    captured = capsys.readouterr()
    assert "matched by their order" in captured.err and output.exists()
    assert float(figures(captured.out)["rotation (degrees)"][0]) < 0.01
    assert "expected a .cs file" in fails(
        capsys, tmp_path / "found.cs", particles / "true.star", "-o", tmp_path / "aligned.star"
    )


def test_shifts_in_pixels_need_a_pixel_size(particles, tmp_path, capsys):
    """RELION 3.0: one table, origins in pixels."""
    blocks = read_star(particles / "found.star")
    table = blocks["particles"].drop(columns="rlnOpticsGroup")
    for axis in "XY":
        table[f"rlnOrigin{axis}"] = (table.pop(f"rlnOrigin{axis}Angst").astype(float) / 2).map("{:.6f}".format)
    table.attrs.update(loop=True)
    write_star(tmp_path / "old.star", {"": table})
    assert "give it with --pixel-A" in fails(capsys, tmp_path / "old.star", particles / "true.star")
    assert main(["align", str(tmp_path / "old.star"), str(particles / "true.star"), "--pixel-A", "2"]) == 0
    assert float(figures(capsys.readouterr().out)["shift (A)"][0]) < 0.01


def test_particles_that_do_not_belong_together_are_refused(particles, tmp_path, capsys):
    found, true = particles / "found.star", particles / "true.star"
    angles = ["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi", "rlnOriginXAngst", "rlnOriginYAngst"]
    bare = rewritten(true, tmp_path / "bare.star", lambda table: table.drop(columns=angles))
    assert "bare.star has no poses" in fails(capsys, found, bare)
    assert "bare.star has no poses" in fails(capsys, bare, true)
    fewer = rewritten(true, tmp_path / "fewer.star", lambda t: t[:200].assign(rlnImageName=t["rlnImageName"] + "s"))
    assert "300 particles" in fails(capsys, found, fewer)
    other = rewritten(
        true, tmp_path / "other.star",
        lambda t: t.assign(rlnImageName=[f"{i + 100:06d}@particles.mrcs" for i in range(N)]),
    )  # fmt: skip
    assert "201 image names are in both" in fails(capsys, found, other)
    assert "--keep-hand goes with two maps" in fails(capsys, found, true, "--keep-hand")
    assert "gone.star" in fails(capsys, found, tmp_path / "gone.star")
