"""B-factors of images that RELION projected of a phantom with a flat spectrum, beside those that RELION fits."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from cryomorph.cli.main import main
from cryomorph.io.mrc import write_map
from cryomorph.volumes.grid import apply_gain, frequency_grid

pytestmark = [
    pytest.mark.accept,
    pytest.mark.skipif(shutil.which("relion_project") is None, reason="RELION is not installed"),
]

BOX, PIXEL_A, IMAGES, ATOMS = 64, 2.0, 1500, 8000
OPTICS = f"opticsGroup1 1 300 2.7 0.1 {PIXEL_A} {BOX} 2"
OPTICS_COLUMNS = (
    "OpticsGroupName", "OpticsGroup", "Voltage", "SphericalAberration", "AmplitudeContrast", "ImagePixelSize",
    "ImageSize", "ImageDimensionality",
)  # fmt: skip
COLUMNS = (
    "ImageName", "AngleRot", "AngleTilt", "AnglePsi", "OriginXAngst", "OriginYAngst", "DefocusU", "DefocusV",
    "DefocusAngle", "OpticsGroup", "RandomSubset",
)  # fmt: skip


def phantom():
    """Point atoms in a Gaussian cloud of 18 A, whose own transform has vanished at 10 A: the rest is flat."""
    place = np.rint(np.random.default_rng(0).normal(BOX // 2, 9, (ATOMS, 3))).astype(int).clip(0, BOX - 1)
    density = np.zeros((BOX, BOX, BOX), np.float32)
    np.add.at(density, tuple(place.T), 1)
    return torch.from_numpy(density)


def loop(name, columns, rows):
    heads = "\n".join(f"_rln{column} #{number}" for number, column in enumerate(columns, start=1))
    return f"\n# version 30001\n\ndata_{name}\n\nloop_\n{heads}\n{rows}\n"


@pytest.fixture(scope="module")
def angles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A particle file of uniform orientations and defoci from 0.8 to 2 micrometres."""
    path = tmp_path_factory.mktemp("bfactor") / "angles.star"
    euler = Rotation.random(IMAGES, random_state=1).as_euler("ZYZ", degrees=True)
    defocus = np.random.default_rng(2).uniform(8_000, 20_000, IMAGES)
    rows = (
        f"1@none.mrcs {a:.4f} {b:.4f} {c:.4f} 0 0 {u:.1f} {u:.1f} 0 1 {1 + number % 2}"
        for number, ((a, b, c), u) in enumerate(zip(euler, defocus, strict=True))
    )
    path.write_text(loop("optics", OPTICS_COLUMNS, OPTICS) + loop("particles", COLUMNS, "\n".join(rows)))
    return path


@pytest.fixture
def in_project(tmp_path, monkeypatch):
    """A folder to start RELION in."""
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("noise", [0.3, 1.0, 2.0])
@pytest.mark.parametrize("bfactor_A2", [60.0, 120.0])
@pytest.mark.usefixtures("in_project")
def test_the_bfactor_of_images_is_within_a_tenth(angles, bfactor_A2, noise, capsys):
    faded = apply_gain(phantom(), torch.exp(-bfactor_A2 / 4 * (frequency_grid(BOX) / PIXEL_A) ** 2))
    write_map("faded.mrc", faded.numpy(), PIXEL_A)
    deviation = noise * float(faded.sum(0).std())
    project = f"relion_project --i faded.mrc --ang {angles} --ctf --angpix {PIXEL_A} --o projected --add_noise"
    subprocess.run([*project.split(), "--white_noise", f"{deviation}"], check=True, capture_output=True)
    assert main(["backproject", "projected.star", "-o", "out", "--invert", "no"]) == 0
    ours = float(re.findall(r"B-factor (\S+) A", capsys.readouterr().err)[0])
    theirs = relion_bfactor()
    print(f"true {-bfactor_A2:g}, noise {noise:g}: ours {ours:g}, relion_postprocess {theirs:.1f}")
    assert ours == pytest.approx(-bfactor_A2, rel=0.1)
    assert theirs == pytest.approx(-bfactor_A2, rel=0.4)  # its amplitudes include the solvent's noise


def relion_bfactor():
    """What relion_postprocess fits to the half maps and the mask in the folder `out`."""
    for number in (1, 2):
        shutil.copy(f"out/half{number}.mrc", f"h_half{number}_unfil.mrc")
    words = f"--i h_half1_unfil.mrc --mask out/mask.mrc --angpix {PIXEL_A} --auto_bfac --autob_lowres 10 --o out/post"
    said = subprocess.run(["relion_postprocess", *words.split()], check=True, capture_output=True, text=True).stdout
    return float(re.findall(r"apply b-factor of:\s+(\S+)", said)[0])
