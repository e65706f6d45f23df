"""A method from another package, found by its entry point: it trains, decodes and analyses."""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch

from cryomorph.cli.main import main
from cryomorph.config import methods
from cryomorph.runs.folder import RunFolder
from fixtures.representation_contract import BOX, ZDIM, Case, RepresentationContract

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "tests" / "fixtures" / "toy_package"


def install(folder: Path, entry_points: str) -> None:
    """Install the toy package as pip would: its modules, and a `dist-info` with its entry points."""
    for module in PACKAGE.glob("*.py"):
        shutil.copy(module, folder)
    info = folder / "toy_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[cryomorph.methods]\n{entry_points}\n")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder where the toy package is installed, on the path."""
    folder = tmp_path_factory.mktemp("site")
    install(folder, "toy = toy_options:METHOD")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        methods.methods.cache_clear()
        yield folder
    methods.methods.cache_clear()


@pytest.fixture(scope="module")
def run(site, tiny_set, tmp_path_factory) -> RunFolder:
    """A toy run of the tiny set, by the command line."""
    output = tmp_path_factory.mktemp("toy") / "run"
    words = ["train", "toy", str(tiny_set / "particles.star"), "-o", str(output), "--epochs", "2"]
    assert main([*words, "--device", "cpu", "--precision", "float32"]) == 0
    return RunFolder.open(output)


def make(*, amplitude: float):
    """Eight blobs whose amplitudes are drawn at random, times a factor."""
    torch.manual_seed(0)
    position, strength = 6 * torch.rand(8, 3) - 3, amplitude * torch.rand(ZDIM + 1, 8)
    strength[1:] *= 0.3
    return importlib.import_module("toy_method").ToyBlobs(BOX, position, width=1.6, unit=30.0, amplitude=strength)


@pytest.fixture
def case(site) -> Case:
    """The toy's representation, whose slices are exact."""
    return Case(lambda: make(amplitude=1.0), lambda: make(amplitude=0.0), 0.005, 0.08)


class TestToyContract(RepresentationContract):
    """The toy's representation under the contract of all."""


def test_the_list_of_methods_names_it_and_imports_no_torch(site):
    code = "import sys; from cryomorph.cli.main import main; main(['train', '--help']); print('torch' in sys.modules)"
    path = os.pathsep.join([str(site), str(ROOT / "src")])
    env = {**os.environ, "PYTHONPATH": path}
    told = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True).stdout
    assert re.search(r"^  toy +Fit Gaussian blobs whose amplitudes are linear in z: a toy\.$", told, re.MULTILINE)
    assert told.rstrip().endswith("False")


def test_its_options_have_help(site, capsys):
    assert main(["train", "toy", "--help"]) == 0
    told = capsys.readouterr().out
    assert "--spacing INT" in told and "--learning-rate FLOAT" in told


def test_it_trains(run, tiny_set):
    assert run.config()["method"] == "toy" and run.config()["spacing"] == 2
    assert run.config()["training"]["optimiser"] == "adam"
    latent, coord = run.latent_mean().astype(float), np.load(tiny_set / "truth.npz")["coord"]
    design = np.c_[np.ones(len(latent)), latent, latent**2]
    predicted = design @ np.linalg.lstsq(design, coord, rcond=None)[0]
    assert np.corrcoef(predicted, coord)[0, 1] > 0.9
    checks = json.loads((run.path / "checks.json").read_text())
    assert checks["sign"] > 0.8 and 0.8 < checks["scale"] < 1.2


def test_its_maps_are_decoded(run, tmp_path):
    from cryomorph.io.mrc import read_map

    (tmp_path / "index.txt").write_text("3\n")
    words = ["decode", str(run.path), "-o", str(tmp_path / "maps"), "--particles", str(tmp_path / "index.txt")]
    assert main(words) == 0
    (written,) = (tmp_path / "maps").glob("*.mrc")
    model = run.representation()
    assert type(model).__name__ == "ToyBlobs"
    expected = model.volume(torch.from_numpy(run.latent_mean()[3]), 16).numpy()
    np.testing.assert_allclose(read_map(written)[0], expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.slow
def test_it_is_analysed(run, tmp_path):
    shutil.copytree(run.path, tmp_path / "run", symlinks=True)
    assert main(["analyze", str(tmp_path / "run"), "--clusters", "2", "--no-umap"]) == 0
    assert (tmp_path / "run" / "analysis" / "report.html").is_file()


def test_a_recipe_that_it_lacks_and_options_out_of_range_are_refused(site, tiny_set, tmp_path, capsys):
    words = ["train", "toy", str(tiny_set / "particles.star"), "-o", str(tmp_path / "run")]
    assert main([*words, "--recipe", "paper"]) == 2
    assert "--recipe paper: the method toy has only default" in capsys.readouterr().err
    assert main([*words, "--spacing", "0"]) == 2
    assert "--spacing 0: expected 1 or more" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_run_of_a_method_that_is_not_installed_is_said_to_be_so(run, monkeypatch):
    known = methods.methods()
    monkeypatch.setattr("cryomorph.models.registry.methods", lambda: {k: v for k, v in known.items() if k != "toy"})
    with pytest.raises(methods.InputError, match=r"method 'toy' is not known here.*is the package that registers it"):
        run.representation()


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("toy = nowhere:METHOD", "the method 'toy' of toy-package cannot be loaded and is left out: No module named"),
        ("linear = toy_options:METHOD", "the method 'linear' of toy-package is left out: another method has that name"),
    ],
)
def test_a_broken_package_does_not_break_ours(line, sentence, tmp_path, monkeypatch, capsys):
    install(tmp_path, line)
    with monkeypatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        methods.methods.cache_clear()
        assert main(["train", "--help"]) == 0
    methods.methods.cache_clear()
    told = capsys.readouterr()
    assert "Fit a linear subspace" in told.out and "toy " not in told.out
    assert sentence in " ".join(told.err.split())


def test_our_own_are_registered_as_those_of_others_are():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["entry-points"][methods.GROUP] == methods.OURS
    for name, entry in methods.methods().items():
        method = methods.load(entry.method)
        assert method.name == name == entry.name
        assert entry.summary.endswith(".") and isinstance(methods.load(entry.representation), type)
