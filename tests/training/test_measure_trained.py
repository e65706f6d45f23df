"""Measurements of a finished training: each check warns of the fault that was built in, and none of a good model."""

from __future__ import annotations

from dataclasses import replace
from typing import final

import numpy as np
import pytest
import torch

from cryomorph.diagnostics.model import model_checks
from cryomorph.encoders.table import TableEncoder
from cryomorph.models.heterogeneous import Heterogeneous
from cryomorph.representations.base import Representation
from cryomorph.runs.measurements import ModelMeasurements
from cryomorph.training.measure import measure_trained

GOOD = ModelMeasurements(scale=1.0, sign=0.9, kl=[1.0, 0.01], view_r2=0.0)


def warnings(found: ModelMeasurements) -> list[str]:
    return [check.meaning for check in model_checks(found) if check.verdict == "warning"]


@final
class Times(Representation):
    """Another representation, multiplied by a factor."""

    def __init__(self, inner, factor):
        super().__init__()
        self.inner, self.factor, self.zdim = inner, factor, inner.zdim

    def slices(self, z, rotation, disk):
        return self.factor * self.inner.slices(z, rotation, disk)

    def volume(self, z, box):
        return self.factor * self.inner.volume(z, box)


@pytest.fixture(scope="module")
def asked(tiny_run):
    """Asks the linear run of the tiny set, its maps multiplied by a factor, at these latent points."""

    def ask(factor=1.0, mean=None, std=None):
        store = tiny_run.store()
        given_mean, given_std = torch.from_numpy(tiny_run.latent_mean()), torch.from_numpy(tiny_run.latent_std())
        mean, std = given_mean if mean is None else mean, given_std if std is None else std
        prior = (given_mean.var(0) + given_std.square().mean(0)).sqrt()
        model = Heterogeneous(
            Times(tiny_run.representation(), factor),
            TableEncoder(mean, std),
            prior_std=prior,
            whitening=torch.ones(store.disk.size),
        )
        return measure_trained(model, store, (mean, std), consensus=tiny_run.consensus_map())

    return ask


def test_a_sound_model_gives_no_warning(asked):
    found = asked()
    assert warnings(found) == []
    assert 0.8 < found.scale < 1.2 and found.sign > 0.9


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_maps_of_the_wrong_scale_are_warned_of(asked, factor):
    found, sound = asked(factor), asked()
    assert found.scale == pytest.approx(sound.scale / factor, rel=1e-4)
    assert [text for text in warnings(found) if f"multiplied by {found.scale:.2f}" in text]
    assert found.sign == pytest.approx(sound.sign, abs=1e-5)


def test_maps_of_the_wrong_sign_are_warned_of(asked):
    found, sound = asked(-1.0), asked()
    assert found.sign == pytest.approx(-sound.sign, abs=1e-5)
    assert [text for text in warnings(found) if "correlation of \N{MINUS SIGN}" in text]


def test_a_posterior_that_is_the_prior_is_warned_of_as_collapsed(asked, tiny_run):
    mean, std = torch.from_numpy(tiny_run.latent_mean()), torch.from_numpy(tiny_run.latent_std())
    prior = (mean.var(0) + std.square().mean(0)).sqrt()
    found = asked(mean=0.05 * mean, std=prior.expand_as(mean).contiguous())
    assert max(found.kl) < 0.05
    assert [text for text in warnings(found) if text.startswith("Posterior collapse")]


def test_divergences_are_those_of_two_gaussians(asked, tiny_run):
    mean, std = tiny_run.latent_mean().astype(float), tiny_run.latent_std().astype(float)
    prior = np.sqrt(mean.var(0, ddof=1) + (std**2).mean(0))
    ratio = (std / prior) ** 2
    np.testing.assert_allclose(asked().kl, (0.5 * (ratio + (mean / prior) ** 2 - 1 - np.log(ratio))).mean(0), rtol=1e-4)


def test_a_latent_space_that_is_the_view_is_warned_of(asked, tiny_run):
    view = tiny_run.store().require_pose().rotation[:, 2]
    noise = 0.05 * torch.randn(len(view), 2, generator=torch.Generator().manual_seed(1))
    found = asked(mean=view[:, :2] + noise)
    assert found.view_r2 > 0.3
    assert [text for text in warnings(found) if f"R² {found.view_r2:.2f}" in text]


def test_each_warning_stands_alone():
    assert warnings(GOOD) == []
    for changes, word in (
        ({"scale": 0.79}, "multiplied by 0.79"),
        ({"scale": 1.21}, "multiplied by 1.21"),
        ({"scale": float("nan")}, "multiplied by nan"),
        ({"sign": -0.1}, "do not trust"),
        ({"sign": float("nan")}, "do not trust"),
        ({"kl": [0.01, 0.02]}, "Posterior collapse"),
        ({"view_r2": 0.2}, "viewing direction"),
    ):
        said = warnings(replace(GOOD, **changes))
        assert len(said) == 1 and word in said[0]


def test_without_a_latent_space_nothing_can_collapse_or_leak():
    assert warnings(replace(GOOD, kl=[])) == []
