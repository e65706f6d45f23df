"""What a model is asked: numbers that follow when the model, or its latent points, are changed in a known way."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch

from cryomorph.analysis.run_analysis import resolutions_05_A
from cryomorph.config.errors import InputError
from cryomorph.diagnostics.model import LEAK, measure_run, measurements_of, model_checks, warn_about_model
from cryomorph.representations.linear import LinearSubspace
from cryomorph.runs.folder import RunFolder
from cryomorph.runs.measurements import ModelMeasurements


@pytest.fixture
def run(tiny_run, tmp_path) -> RunFolder:
    shutil.copytree(tiny_run.path, tmp_path / "run")
    return RunFolder.open(tmp_path / "run")


def failed(found: ModelMeasurements) -> list[str]:
    return [check.name for check in model_checks(found) if check.verdict == "warning"]


def share(run: RunFolder) -> np.ndarray:
    return np.full(run.latent_mean().shape, 0.5, dtype=np.float32)


def test_a_linear_model_of_simulated_images_is_sound(tiny_run):
    """Truth: scale 1, the sign of the consensus, no leak; `-log 0.5` nats for a width of half the spread."""
    found = measure_run(tiny_run, share(tiny_run))
    assert found.scale == pytest.approx(1, abs=0.1)
    assert found.sign > 0.9
    assert found.view_r2 < LEAK
    np.testing.assert_allclose(found.kl, [np.log(2)] * 2, rtol=1e-5)
    assert failed(found) == []


@pytest.mark.parametrize("factor", [2.0, -0.5])
def test_maps_times_a_factor_are_told_from_sound_ones(run, monkeypatch, factor):
    plain = measure_run(run, share(run))
    changed = LinearSubspace(factor * run.representation().maps)
    monkeypatch.setattr(RunFolder, "representation", lambda _: changed)
    found = measure_run(run, share(run))
    assert found.scale == pytest.approx(plain.scale / factor, rel=1e-4)
    assert found.sign == pytest.approx(np.sign(factor) * plain.sign, rel=1e-4)
    assert failed(found) == (
        ["Scale of the maps"] if factor > 0 else ["Scale of the maps", "Correlation with the consensus"]
    )


def test_a_latent_space_that_holds_the_view_is_found_out(run):
    view = run.store().require_pose().rotation[:, 2, :2]
    np.save(run.path / "latent_mean.npy", view.numpy())
    assert measure_run(run, share(run)).view_r2 > LEAK


def test_what_the_training_measured_is_not_measured_again(run, monkeypatch):
    given = ModelMeasurements(0.5, 0.9, [1.0], 0.0)
    given.write(run.path)
    monkeypatch.setattr("cryomorph.diagnostics.model.measure_run", None)
    assert measurements_of(run, share(run)) == given


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"scale": 1.0}', '{"scale": "x", "sign": 1, "kl": [1], "view_r2": 0}', "\xff"]
)
def test_measurements_that_are_damaged_are_said_and_made_again(run, capsys, text):
    (run.path / "checks.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match=r"checks\.json cannot be read"):
        ModelMeasurements.read(run.path)
    assert measurements_of(run, share(run)) == measure_run(run, share(run))
    assert "checks.json cannot be read" in capsys.readouterr().err


def test_failed_checks_are_said_and_kept_in_the_log(run, capsys):
    ModelMeasurements(0.5, 0.9, [0.01, 0.02], 0.0).write(run.path)
    warn_about_model(run)
    log, said = (run.path / "run.log").read_text(), capsys.readouterr().err
    for words in ("multiplied by 0.50", "Posterior collapse"):
        assert f"warning: {words}" in log.replace("The maps fit the images best when ", "") and words in said
    before = log
    ModelMeasurements(1.0, 0.9, [1.0], 0.0).write(run.path)
    warn_about_model(run)
    (run.path / "checks.json").unlink()
    warn_about_model(run)
    assert (run.path / "run.log").read_text() == before


def test_train_and_abinit_end_with_the_checks_that_failed(run, monkeypatch):
    from cryomorph.commands.abinit import abinit
    from cryomorph.commands.train import train
    from cryomorph.config.abinit import AbinitConfig
    from cryomorph.config.linear import LinearConfig

    ModelMeasurements(1.0, -0.2, [1.0], 0.0).write(run.path)
    monkeypatch.setattr("cryomorph.training.run_method.train_method", lambda config, method: run)
    monkeypatch.setattr("cryomorph.abinit.find_poses.find_poses", lambda config: run)
    monkeypatch.setattr("cryomorph.report.abinit.write_abinit_report", lambda found: found.path)
    for number, (command, config) in enumerate(((train, LinearConfig), (abinit, AbinitConfig)), 1):
        command(config(run.path / "particles.star", run.path))
        assert (run.path / "run.log").read_text().count("do not trust this model") == number


def test_maps_agree_with_themselves_in_any_box_and_not_with_noise(tiny_run):
    own = tiny_run.consensus_map()[None]
    assert resolutions_05_A(tiny_run, own, own) == (pytest.approx(32),)  # Nyquist of 16 A pixels
    (coarse,) = resolutions_05_A(tiny_run, tiny_run.representation().volumes(torch.zeros(1, 2), 10), own)
    assert coarse == pytest.approx(2 * 256 / 10)  # Nyquist of the box of 10 in which they were decoded
    noise = torch.randn(own.shape, generator=torch.Generator().manual_seed(0))
    (other,) = resolutions_05_A(tiny_run, noise, own)
    assert other > 100
