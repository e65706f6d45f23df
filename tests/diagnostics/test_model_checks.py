"""What a model is asked: numbers that follow when the model, or its latent points, are changed in a known way."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch

from cryomorph.diagnostics.model_checks import measure, model_verdicts, resolutions_05_A
from cryomorph.representations.linear import LinearSubspace
from cryomorph.runs.checks import LEAK
from cryomorph.runs.folder import RunFolder


@pytest.fixture
def run(tiny_run, tmp_path) -> RunFolder:
    shutil.copytree(tiny_run.path, tmp_path / "run")
    return RunFolder.open(tmp_path / "run")


def share(run: RunFolder) -> np.ndarray:
    return np.full(run.latent_mean().shape, 0.5, dtype=np.float32)


def test_a_linear_model_of_simulated_images_is_sound(tiny_run):
    """Truth: scale 1, the sign of the consensus, no leak; `-log 0.5` nats for a width of half the spread."""
    found = measure(tiny_run, share(tiny_run))
    assert found.scale == pytest.approx(1, abs=0.1)
    assert found.sign > 0.9
    assert found.view_r2 < LEAK
    np.testing.assert_allclose(found.kl, [np.log(2)] * 2, rtol=1e-5)
    assert all(verdict.sound for verdict in model_verdicts(tiny_run, share(tiny_run)))


@pytest.mark.parametrize("factor", [2.0, -0.5])
def test_maps_times_a_factor_are_told_from_sound_ones(run, monkeypatch, factor):
    plain = measure(run, share(run))
    changed = LinearSubspace(factor * run.representation().maps)
    monkeypatch.setattr(RunFolder, "representation", lambda _: changed)
    found = measure(run, share(run))
    assert found.scale == pytest.approx(plain.scale / factor, rel=1e-4)
    assert found.sign == pytest.approx(np.sign(factor) * plain.sign, rel=1e-4)
    bad = [verdict.name for verdict in model_verdicts(run, share(run)) if not verdict.sound]
    assert bad == (["Scale of the maps"] if factor > 0 else ["Scale of the maps", "Correlation with the consensus"])


def test_a_latent_space_that_holds_the_view_is_found_out(run):
    view = run.store().require_pose().rotation[:, 2, :2]
    np.save(run.path / "latent_mean.npy", view.numpy())
    assert measure(run, share(run)).view_r2 > LEAK


def test_what_the_training_measured_is_not_measured_again(run, monkeypatch):
    (run.path / "checks.json").write_text('{"scale": 0.5, "sign": 0.9, "kl": [1.0], "view_r2": 0.0}')
    monkeypatch.setattr("cryomorph.diagnostics.model_checks.measure", None)
    assert [verdict.found for verdict in model_verdicts(run, share(run))][:2] == ["0.50", "0.90"]


def test_maps_agree_with_themselves_in_any_box_and_not_with_noise(tiny_run):
    own = tiny_run.consensus_map()[None]
    assert resolutions_05_A(tiny_run, own, own) == [pytest.approx(32)]  # Nyquist of 16 A pixels
    (coarse,) = resolutions_05_A(tiny_run, tiny_run.representation().volumes(torch.zeros(1, 2), 10), own)
    assert coarse == pytest.approx(2 * 256 / 10)  # Nyquist of the box of 10 in which they were decoded
    noise = torch.randn(own.shape, generator=torch.Generator().manual_seed(0))
    (other,) = resolutions_05_A(tiny_run, noise, own)
    assert other > 100
