"""`motions` as typed: what it leaves, what it replaces, and every refusal in one sentence."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import gemmi
import numpy as np
import pytest
import torch

from cryomorph.cli.main import main
from cryomorph.io.mrc import read_map, write_map
from cryomorph.physics.gaussian_slices import Mixture
from cryomorph.representations.gaussian_motion import GaussianShape
from cryomorph.representations.gaussians import Gaussians
from cryomorph.runs.folder import MODEL, RunFolder

PER_MOTION = ("{}.cif", "{}.bild", "{}.npy", "{}_maps/000.mrc", "{}_maps/001.mrc", "{}_maps/002.mrc")
COMMON = {"coordinates.npy", "motions.cxc", "motions.json", "motions.png", "neutral.cif"}


def mixture(**options: object) -> Gaussians:
    """Twenty Gaussians in a box of 16, each moved by a network of its own."""
    torch.manual_seed(0)
    shape = GaussianShape(**{"box": 16, "zdim": 2, "count": 20, "parts": 0, "width": 8, "layers": 1} | options)
    neutral = Mixture(torch.randn(1, 20, 3) * 2.5, torch.full((1, 20), 1.3), torch.rand(1, 20) + 0.5)
    model = Gaussians(shape, neutral)
    if model.network is not None:
        for head in model.network.heads.values():
            torch.nn.init.normal_(head.weight, std=0.1)
    return model


def as_run(source: RunFolder, path: Path, model: Gaussians) -> Path:
    """A copy of the tiny linear run (400 particles, two dimensions) whose model is a mixture."""
    shutil.copytree(source.path, path, symlinks=True)
    (path / MODEL).unlink()
    run = RunFolder(path)
    run.save_model(model, {})
    (path / "config.json").write_text(json.dumps(run.config() | {"method": "gaussians"}))
    return path


@pytest.fixture(scope="module")
def run(tiny_run: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return as_run(tiny_run, tmp_path_factory.mktemp("motions") / "run", mixture())


@pytest.fixture(scope="module")
def mask(run: Path) -> Path:
    """The half of the box with x above the origin."""
    volume = np.zeros((16, 16, 16), dtype=np.float32)
    volume[:, :, 9:] = 1
    write_map(run.parent / "mask.mrc", volume, 16.0)
    return run.parent / "mask.mrc"


def refused(argv: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The command ends with 2 and one sentence on standard error."""
    capsys.readouterr()
    assert main(["motions", *argv]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert re.search(said, error), error


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def places(path: Path) -> np.ndarray:
    return np.array([[a.pos.tolist() for c in m for r in c for a in r] for m in gemmi.read_structure(str(path))])


def test_eigen_motions_leave_everything(run, tmp_path, capsys):
    out = tmp_path / "m"
    assert main(["motions", str(run), "-o", str(out), "--components", "2", "--points", "3", "--combine", "1-2"]) == 0
    told = capsys.readouterr().err
    motions = ["pc1", "pc2", "pc1-pc2"]
    assert names(out) == COMMON | {name.format(motion) for motion in motions for name in PER_MOTION}
    assert not [path for path in tmp_path.iterdir() if path != out]
    facts = json.loads((out / "motions.json").read_text())
    assert [motion["name"] for motion in facts["motions"]] == motions
    assert set(facts["files"]) == names(out) - {"motions.json"}
    assert np.load(out / "coordinates.npy").shape == (400, 2)
    model = RunFolder.open(run).representation()
    assert isinstance(model, Gaussians)
    weight = model.neutral.amplitude[0].detach().numpy()
    for motion in facts["motions"]:
        points = np.load(out / f"{motion['name']}.npy")
        np.testing.assert_allclose(points, motion["points"])
        # what the files hold, by the representation itself: Angstrom from the first voxel
        position = model.at(torch.as_tensor(points, dtype=torch.float32)).position.detach().numpy()
        found = places(out / f"{motion['name']}.cif")
        np.testing.assert_allclose(found, (position + 8) * 16.0, atol=2e-3)
        squared = np.square(found[-1] - found[0]).sum(axis=1)
        assert motion["rms_A"] == pytest.approx(np.sqrt(weight @ squared / weight.sum()), abs=1e-2)
        assert motion["largest_A"] == pytest.approx(np.sqrt(squared.max()), abs=1e-2)
        assert f"{motion['name']}: {motion['rms_A']:.1f} A RMS" in told
        arrows = re.findall(r"^\.arrow (.*)$", (out / f"{motion['name']}.bild").read_text(), re.MULTILINE)
        ends = np.array([line.split()[:6] for line in arrows], dtype=float)
        assert 0 < len(ends) <= 20
        for end in ends:
            number = np.abs(found[0] - end[:3]).sum(axis=1).argmin()
            np.testing.assert_allclose(end, [*found[0][number], *found[-1][number]], atol=2e-3)
        for number in range(3):
            volume, pixel_A = read_map(out / f"{motion['name']}_maps" / f"{number:03d}.mrc")
            assert pixel_A == 16.0
            expected = model.volume(torch.as_tensor(points[number], dtype=torch.float32), 16)
            np.testing.assert_allclose(volume, expected.numpy(), atol=1e-5)
    script = (out / "motions.cxc").read_text()
    assert re.findall(r"^open (\S+)", script, re.MULTILINE) == [
        "neutral.cif",
        *(f"{motion}.{kind}" for motion in motions for kind in ("bild", "cif")),
    ]


def test_a_region_moves_more_than_the_rest(run, mask, tmp_path):
    out = tmp_path / "m"
    assert main(["motions", str(run), "-o", str(out), "--region", str(mask), "--points", "2", "--no-maps"]) == 0
    facts = json.loads((out / "motions.json").read_text())["motions"][0]
    assert facts["name"] == "region1"
    assert np.linalg.norm(facts["direction"]) == pytest.approx(1)
    model = RunFolder.open(run).representation()
    assert isinstance(model, Gaussians)
    inside = model.neutral.position[0, :, 0].detach().numpy() > 0.5
    moved = np.linalg.norm(np.diff(places(out / "region1.cif"), axis=0)[0], axis=1)
    assert facts["path"]["ratio"] > 1
    assert np.sqrt(np.square(moved[inside]).mean()) > np.sqrt(np.square(moved[~inside]).mean())
    assert not list(out.glob("*_maps"))


def test_a_model_is_morphed_and_maps_reconstructed(tiny_run, tmp_path):
    """Gaussians that move as one rigid body take a model with them: its atoms, one on each, stay on them."""
    particle, out = 17, tmp_path / "m"
    run = as_run(tiny_run, tmp_path / "run", mixture(parts=1, changes=("positions",)))
    folder = RunFolder.open(run)
    model = folder.representation()
    assert isinstance(model, Gaussians)
    at = torch.as_tensor(folder.latent_mean()[particle][None])
    atoms = (model.at(at).position[0].detach().numpy() + 8) * 16.0
    lines = [
        f"ATOM  {i + 1:5d}  CA  GLY K{i + 1:4d}    {x:8.3f}{y:8.3f}{z:8.3f}  1.00 20.00           C"
        for i, (x, y, z) in enumerate(atoms)
    ]
    (tmp_path / "model.pdb").write_text("\n".join([*lines, "END"]))
    argv = ["motions", str(run), "-o", str(out), "--components", "1", "--points", "2", "--no-maps", "--reconstruct"]
    argv += ["--format", "pdb", "--model", str(tmp_path / "model.pdb"), "--model-at", str(particle)]
    assert main(argv) == 0
    assert {path.name for path in (out / "pc1_reconstructed").iterdir()} == {"000.mrc", "001.mrc"}
    structure = gemmi.read_structure(str(out / "pc1_model.pdb"))
    assert [chain.name for chain in structure[0]] == ["K"]
    moved, goal = places(out / "pc1_model.pdb"), places(out / "pc1.pdb")
    assert np.linalg.norm(goal[-1] - goal[0], axis=1).mean() > 5
    np.testing.assert_allclose(moved, goal, atol=5e-3)
    told = json.loads((out / "motions.json").read_text())["model"]
    assert told["particle"] == particle
    assert told["atoms"] == 20
    assert "open pc1_model.pdb coordsets true" in (out / "motions.cxc").read_text()


def test_the_other_hand_is_the_mirror_image(run, tmp_path):
    outs = [tmp_path / name for name in ("one", "other")]
    for out, option in zip(outs, ((), ("--flip-hand",)), strict=True):
        assert main(["motions", str(run), "-o", str(out), "--components", "1", "--points", "2", *option]) == 0
    one, other = (places(out / "pc1.cif") for out in outs)
    np.testing.assert_allclose(other[..., :2], one[..., :2], atol=2e-3)
    np.testing.assert_allclose(other[..., 2] - 8 * 16, -(one[..., 2] - 8 * 16), atol=2e-3)
    given, flipped = (read_map(out / "pc1_maps" / "000.mrc")[0] for out in outs)
    np.testing.assert_allclose(flipped[1:], given[:0:-1], atol=1e-6)


def test_what_is_there_is_replaced_only_when_told(run, tmp_path, capsys):
    out = tmp_path / "m"
    short = ["--components", "1", "--points", "2", "-o", str(out)]
    assert main(["motions", str(run), *short, "--combine", "1+2", "--components", "2"]) == 0
    (out / "mine.txt").write_text("kept")
    (out / "pc2_maps" / "mine.txt").write_text("kept")
    refused([str(run), *short], "holds motions already: give --overwrite", capsys)
    assert main(["motions", str(run), *short, "--no-maps", "--overwrite"]) == 0
    expected = COMMON | {"pc1.cif", "pc1.bild", "pc1.npy", "mine.txt", "pc2_maps/mine.txt"}
    assert names(out) == expected
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").write_text("kept")
    refused([str(run), "-o", str(tmp_path / "other"), "--overwrite"], "holds no motions: give another -o", capsys)
    refused([str(run), "-o", str(out / "mine.txt")], "is a file: expected a folder", capsys)


def test_a_list_of_files_cannot_point_outside(run, tmp_path):
    out = tmp_path / "m"
    short = ["motions", str(run), "--components", "1", "--points", "2", "--no-maps", "-o", str(out)]
    assert main(short) == 0
    (tmp_path / "precious.txt").write_text("kept")
    facts = json.loads((out / "motions.json").read_text())
    (out / "motions.json").write_text(json.dumps(facts | {"files": ["../precious.txt", "pc1.cif"]}))
    assert main([*short, "--overwrite"]) == 0
    assert (tmp_path / "precious.txt").read_text() == "kept"


def test_wrong_runs_are_refused(run, tiny_run, tmp_path, capsys):
    refused([str(tiny_run.path)], "was trained by linear: motions are those of Gaussians", capsys)
    refused([str(tmp_path)], "is not a run folder", capsys)
    still = as_run(tiny_run, tmp_path / "still", mixture(changes=("amplitudes",)))
    refused([str(still)], r"lets only amplitudes change: expected a run whose positions do", capsys)
    none = as_run(tiny_run, tmp_path / "none", mixture(zdim=0))
    np.save(none / "latent_mean.npy", np.zeros((400, 0), dtype=np.float32))
    refused([str(none)], r"has no latent space \(--zdim 0\): nothing moves", capsys)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--components", "0"], "--components 0: expected 1 or more"),
        (["--points", "1"], "--points 1: expected 2 or more"),
        (["--combine", "1*2"], r"--combine 1\*2: expected numbers of motions such as 1\+2 or 1-2"),
        (["--combine", "1+7"], "--combine 1[+]7: there are motions 1 to 3, not 7"),
        (["--model-at", "last"], "--model-at last: expected auto or a 0-based particle number"),
        (["--model-at", "3"], "is for an atomic model: give it with --model"),
        (["--model", "nowhere.pdb"], "nowhere.pdb: no such file"),
        (["--region", "nowhere.mrc"], "nowhere.mrc cannot be read"),
    ],
)
def test_wrong_options_are_refused(run, tmp_path, capsys, argv, said):
    refused([str(run), "-o", str(tmp_path / "m"), *argv], said, capsys)
    assert not list(tmp_path.iterdir())


def test_wrong_masks_and_models_are_refused(run, mask, tmp_path, capsys):
    out = ["-o", str(tmp_path / "m")]
    write_map(tmp_path / "small.mrc", np.ones((8, 8, 8)), 8.0)
    refused([str(run), *out, "--region", str(tmp_path / "small.mrc")], "the working box has 16 of 16 A", capsys)
    corner, whole = np.zeros((16, 16, 16)), np.ones((16, 16, 16))
    corner[0, 0, 0] = 1
    for volume, which in ((corner, "none"), (whole, "all")):
        write_map(tmp_path / "mask.mrc", volume, 16.0)
        refused([str(run), *out, "--region", str(tmp_path / "mask.mrc")], f"holds {which} of the 20 Gaussians", capsys)
    atom = "ATOM      1  CA  GLY A   1     900.000 900.000 900.000  1.00 20.00           C\n"
    (tmp_path / "far.pdb").write_text(atom)
    model = ["--model", str(tmp_path / "far.pdb")]
    refused([str(run), *out, *model], "1 of its 1 atoms lie outside of the maps", capsys)
    refused([str(run), *out, *model, "--model-at", "400"], "the run has particles 0 to 399", capsys)
    assert not (tmp_path / "m").exists()
