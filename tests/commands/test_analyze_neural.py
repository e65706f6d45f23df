"""`analyze` on runs of the neural field: with a training, with a model brought over, without a latent space."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.image import imread

from cryomorph.analysis.latent_space import latent_space
from cryomorph.commands.analyze import analyze, reproducibility_of
from cryomorph.config.analyze import AnalyzeConfig
from cryomorph.config.errors import InputError
from cryomorph.config.neural_field import NetworkConfig, NeuralFieldConfig
from cryomorph.config.training import TrainingConfig
from cryomorph.diagnostics.model import measure_run
from cryomorph.io.mrc import read_map
from cryomorph.runs.folder import RunFolder


def trained(tiny_set: Path, folder: Path, zdim: int) -> RunFolder:
    from cryomorph.commands.train import train

    return train(
        NeuralFieldConfig(
            tiny_set / "particles.star",
            folder,
            zdim=zdim,
            network=NetworkConfig(width=16, layers=1),
            training=TrainingConfig(epochs=2, precision="float32", device="cpu"),
            warm_steps=5,
        )
    )


@pytest.fixture(scope="module", autouse=True)
def small_pictures() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cryomorph.render.map_renderer.SIZE", 32)
        yield


@pytest.fixture(scope="module")
def run(tiny_set, tmp_path_factory) -> RunFolder:
    return trained(tiny_set, tmp_path_factory.mktemp("neural") / "run", 2)


@pytest.fixture(scope="module")
def analysed(run) -> Path:
    return analyze(asked(run.path, run.path / "analysis")).parent


def asked(run: Path, output: Path) -> AnalyzeConfig:
    return AnalyzeConfig(run, output, clusters=2, gmm=0, pcs=0, umap=False, reconstruct=False)


def test_the_report_of_a_training_tells_its_course_and_its_start(run, analysed):
    page = (analysed / "report.html").read_text()
    assert imread(analysed / "training.png").shape[2] == 4
    assert 'id="training"' in page
    assert "Scale of the maps" in page
    assert "components of the linear start" in page
    # what belongs to a linear run alone: agreement of its own components, the course of its fit
    assert reproducibility_of(run) is None
    assert "The objective over the iterations" not in page
    assert "reproducible between half sets of the particles" in page


def test_what_is_measured_anew_is_what_the_training_measured(run):
    """Two programs for one question: scale, sign and view as training found them, on other samples."""
    told = json.loads((run.path / "checks.json").read_text())
    found = measure_run(run, latent_space(run, asked(run.path, run.path)).relative_std)
    assert found.scale == pytest.approx(told["scale"], abs=0.03)
    assert found.sign == pytest.approx(told["sign"], abs=1e-4)
    assert found.view_r2 == pytest.approx(told["view_r2"], abs=0.1)
    assert found.kl == pytest.approx(told["kl"], abs=0.3)


def test_the_maps_are_the_network_s_at_the_centres(run, analysed):
    centres = np.loadtxt(analysed / "kmeans_centres.txt", dtype=int)
    for number, path in zip(centres, sorted((analysed / "kmeans").glob("*.mrc")), strict=True):
        expected = run.representation().volume(torch.from_numpy(run.latent_mean()[number]), 16)
        np.testing.assert_allclose(read_map(path)[0], expected.detach().numpy(), atol=1e-5)


def test_a_run_without_metrics_or_checks_has_no_section_on_training(run, tmp_path):
    """As `encode` and `import` leave them."""
    shutil.copytree(run.path, tmp_path / "run")
    for name in ("metrics.jsonl", "checks.json", "linear.safetensors"):
        (tmp_path / "run" / name).unlink()
    page = analyze(asked(tmp_path / "run", tmp_path / "out")).read_text()
    assert 'id="training"' not in page
    assert not (tmp_path / "out" / "training.png").exists()


def test_a_run_without_a_latent_space_is_refused_and_nothing_is_written(tiny_set, tmp_path):
    flat = trained(tiny_set, tmp_path / "run", 0)
    with pytest.raises(InputError, match=r"no latent space \(--zdim 0\).*nothing to analyse.*run/map\.mrc"):
        analyze(asked(flat.path, tmp_path / "out"))
    assert not (tmp_path / "out").exists()
