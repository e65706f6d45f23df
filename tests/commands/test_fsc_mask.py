"""`cryomorph fsc` and `cryomorph mask`, run as a user runs them."""

import csv

import numpy as np
import pytest
import torch

from cryomorph.cli.main import main
from cryomorph.io.mrc import read_map, write_map
from cryomorph.runs.consensus import FscCurves
from cryomorph.volumes.fsc import fsc, resolution_A
from cryomorph.volumes.grid import lowpass
from cryomorph.volumes.masks import auto_mask, spherical_mask

BOX, PIXEL_A = 32, 3.0


@pytest.fixture
def halves(tmp_path):
    """Two half maps of a soft ball with texture, and their tensors."""
    generator = torch.Generator().manual_seed(0)
    texture, *noise = (torch.randn(BOX, BOX, BOX, generator=generator) for _ in range(3))
    signal = (2 + lowpass(texture, 1.0, 4.0)) * spherical_mask(BOX, 7.0, 3.0)
    maps = [signal + 0.2 * part for part in noise]
    for name, volume in zip("ab", maps, strict=True):
        write_map(tmp_path / f"{name}.mrc", volume.numpy(), PIXEL_A)
    return tmp_path, maps


def fails(capsys, *argv):
    status = main([str(a) for a in argv])
    assert status == 2
    return capsys.readouterr().err


def test_fsc_prints_the_resolutions(halves, capsys):
    folder, maps = halves
    assert main(["fsc", str(folder / "a.mrc"), str(folder / "b.mrc")]) == 0
    out = capsys.readouterr().out
    expected = resolution_A(fsc(*maps), PIXEL_A, 0.143)
    assert "0.143" in out and f"{expected:.2f} A" in out and "masked, corrected" not in out


@pytest.mark.parametrize("how", ["mask", "auto"])
def test_fsc_inside_a_mask_writes_curves_and_plot(halves, capsys, how):
    folder, _ = halves
    write_map(folder / "mask.mrc", spherical_mask(BOX, 9.0, 4.0).numpy(), PIXEL_A)
    option = ["--mask", str(folder / "mask.mrc")] if how == "mask" else ["--auto-mask"]
    files = ["-o", str(folder / "fsc.csv"), "--plot", str(folder / "fsc.png")]
    assert main(["fsc", str(folder / "a.mrc"), str(folder / "b.mrc"), *option, *files]) == 0
    assert "masked, corrected" in capsys.readouterr().out
    rows = list(csv.DictReader((folder / "fsc.csv").open()))
    assert len(rows) == BOX // 2 and all(-1.1 < float(row["corrected"]) <= 1.0001 for row in rows)
    assert (folder / "fsc.png").stat().st_size > 5000


def test_the_mask_of_two_half_maps_is_that_of_their_back_projection(tiny_run, tmp_path):
    """To within the filter, which here knows the FSC of the half maps but not their weights."""
    half1, half2 = (tiny_run.path / "consensus" / f"{half}.mrc" for half in ("half1", "half2"))
    assert main(["fsc", str(half1), str(half2), "--auto-mask", "-o", str(tmp_path / "fsc.csv")]) == 0
    found = FscCurves.read(tmp_path / "fsc.csv").masked
    np.testing.assert_allclose(found, tiny_run.consensus_fsc().masked, atol=0.01)


@pytest.mark.filterwarnings("ignore:Data array contains NaN")
def test_fsc_refuses_maps_that_do_not_match(halves, capsys):
    folder, maps = halves
    a = folder / "a.mrc"
    write_map(folder / "small.mrc", maps[0][:16, :16, :16].numpy(), PIXEL_A)
    write_map(folder / "fine.mrc", maps[0].numpy(), 1.5)
    write_map(folder / "flat.mrc", maps[0][:16].numpy(), PIXEL_A)
    write_map(folder / "nan.mrc", np.full((BOX, BOX, BOX), np.nan, np.float32), PIXEL_A)
    write_map(folder / "none.mrc", maps[0].numpy(), 0.0)
    assert "box 16" in fails(capsys, "fsc", a, folder / "small.mrc")
    assert "pixel size 1.5 A" in fails(capsys, "fsc", a, folder / "fine.mrc")
    assert "expected a cube" in fails(capsys, "fsc", folder / "flat.mrc", a)
    assert "not finite" in fails(capsys, "fsc", a, folder / "nan.mrc")
    assert "--pixel-A" in fails(capsys, "fsc", folder / "none.mrc", a)
    assert "gone.mrc" in fails(capsys, "fsc", folder / "gone.mrc", a)
    assert "one of them" in fails(capsys, "fsc", a, a, "--mask", a, "--auto-mask")
    assert ".png" in fails(capsys, "fsc", a, a, "--plot", folder / "fsc.gif")
    assert main(["fsc", str(a), str(folder / "fine.mrc"), "--pixel-A", "3"]) == 0


def test_mask_writes_the_mask_of_the_library(halves, capsys):
    folder, maps = halves
    out = folder / "mask.mrc"
    options = ["--threshold", "1.2", "--dilate-A", "6", "--edge-A", "9", "--lowpass-A", "12", "--largest-only"]
    assert main(["mask", str(folder / "a.mrc"), "-o", str(out), *options]) == 0
    mask, pixel_A = read_map(out)
    expected = auto_mask(maps[0], PIXEL_A, threshold=1.2, dilate_A=6.0, edge_A=9.0, lowpass_A=12.0, largest_only=True)
    assert pixel_A == PIXEL_A and np.allclose(mask, expected.numpy(), atol=1e-6)
    assert mask[16, 16, 16] == 1 and mask[0, 0, 0] == 0
    assert "% of the box" in capsys.readouterr().err


def test_mask_refuses_a_threshold_above_the_map_and_writes_nothing(halves, capsys):
    folder, _ = halves
    assert "threshold 100" in fails(capsys, "mask", folder / "a.mrc", "-o", folder / "m.mrc", "--threshold", "100")
    assert not (folder / "m.mrc").exists()


@pytest.mark.parametrize("option", ["-o", "--plot"])
def test_fsc_never_replaces_an_input_nor_another_file_unasked(halves, capsys, option):
    folder, _ = halves
    suffix = ".csv" if option == "-o" else ".png"
    a, b, other = folder / "a.mrc", folder / "b.mrc", folder / f"other{suffix}"
    before = a.read_bytes()
    linked = folder / f"linked{suffix}"
    linked.symlink_to(a)
    for overwrite in ([], ["--overwrite"]):
        assert "one of the files that are read" in fails(capsys, "fsc", a, b, option, linked, *overwrite)
    assert a.read_bytes() == before
    other.write_text("precious")
    assert "give --overwrite" in fails(capsys, "fsc", a, b, option, other)
    assert other.read_text() == "precious"
    assert main(["fsc", str(a), str(b), option, str(other), "--overwrite"]) == 0
    assert other.read_bytes() != b"precious"


def test_mask_never_replaces_its_map_nor_another_file_unasked(halves, capsys):
    folder, maps = halves
    given, other = folder / "a.mrc", folder / "b.mrc"
    assert "one of the files that are read" in fails(capsys, "mask", given, "-o", given, "--overwrite")
    assert "b.mrc exists already: give --overwrite" in fails(capsys, "mask", given, "-o", other)
    assert np.array_equal(read_map(given)[0], maps[0].numpy()) and np.array_equal(read_map(other)[0], maps[1].numpy())
    assert main(["mask", str(given), "-o", str(other), "--overwrite"]) == 0
    assert np.allclose(read_map(other)[0], auto_mask(maps[0], PIXEL_A).numpy(), atol=1e-6)
