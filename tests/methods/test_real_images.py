"""What microscopes and other programs do to images, which must not become structure: the linear method with each."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.model_selection import cross_val_predict
from sklearn.neighbors import KNeighborsRegressor

from cryomorph.commands.train import train
from cryomorph.config.linear import LinearConfig
from cryomorph.config.simulate import SimulateConfig
from cryomorph.io.mrc import write_map
from cryomorph.io.star import read_star, write_star
from cryomorph.runs.folder import RunFolder
from cryomorph.simulation.sets import simulate_set
from cryomorph.volumes.masks import spherical_mask
from fixtures.stacks import write_stack

# what trains here is trained with the checks of shapes in methods/test_train_linear.py
pytestmark = pytest.mark.unchecked

N, BOX, PIXEL_A = 1500, 24, 10.0
Change = Callable[[np.ndarray], np.ndarray]


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A hinge, in white noise."""
    folder = tmp_path_factory.mktemp("hinge") / "set"
    return simulate_set(SimulateConfig("uniform", folder, n=N, box=BOX, pixel_A=PIXEL_A, snr=0.1, seed=4))


def images_of(made: Path) -> np.ndarray:
    import mrcfile

    return mrcfile.read(made / "particles.mrcs").astype(np.float32)


def fitted(made: Path, folder: Path, change: Change, *, groups: np.ndarray | None = None, **options) -> RunFolder:
    """A linear run of the set with its images changed."""
    copy = shutil.copytree(made, folder / "set")
    (copy / "particles.mrcs").unlink()
    write_stack(copy / "particles.mrcs", change(images_of(made)), PIXEL_A)
    if groups is not None:
        tables = read_star(copy / "particles.star")
        optics = tables["optics"]
        second = optics.iloc[:1].copy()
        second["rlnOpticsGroup"], second["rlnOpticsGroupName"] = "2", "opticsGroup2"
        import pandas as pd

        tables["optics"] = pd.concat([optics, second], ignore_index=True)
        tables["particles"]["rlnOpticsGroup"] = (groups + 1).astype(str)
        write_star(copy / "particles.star", tables)
    options = {"zdim": 3, "iterations": 3, "seed": 1} | options
    return train(LinearConfig(copy / "particles.star", folder / "run", **options))


def explained(made: Path, run: RunFolder, rows: np.ndarray | slice = slice(None)) -> float:
    """Share of the true coordinate's variance that latent points predict."""
    coord = np.load(made / "truth.npz")["coord"].reshape(N, -1)[rows, 0]
    predicted = cross_val_predict(KNeighborsRegressor(20), run.latent_mean()[rows], coord, cv=5)
    return 1 - np.mean((coord - predicted) ** 2) / coord.var()


def z_scores(run: RunFolder) -> np.ndarray:
    """Latent points by the even less those by the odd coefficients, over what the posteriors say."""
    return run.model_tensors()["split_score"].numpy()


@pytest.fixture(scope="module")
def plain(made, tmp_path_factory) -> RunFolder:
    return fitted(made, tmp_path_factory.mktemp("plain"), lambda images: images)


def test_the_hinge_is_found_and_its_uncertainty_is_true(made, plain):
    assert explained(made, plain) > 0.8
    assert z_scores(plain)[:, 0].std() == pytest.approx(1, abs=0.1)


def windowed(images: np.ndarray) -> np.ndarray:
    """Multiplied by a cosine window from 0.85 to 0.99 of the radius, which leaves no noise in the corners."""
    line = (np.arange(BOX) - BOX // 2) / (BOX / 2)
    ramp = np.clip((0.99 - np.hypot(line[:, None], line)) / 0.14, 0, 1)
    return images * (0.5 - 0.5 * np.cos(np.pi * ramp)).astype(np.float32)


def test_a_window_on_the_images_does_not_make_anything_certain(made, plain, tmp_path, capsys):
    run = fitted(made, tmp_path, windowed)
    assert "another noise than the particles" in capsys.readouterr().err
    assert np.median(run.latent_std()[:, 0]) == pytest.approx(np.median(plain.latent_std()[:, 0]), rel=0.25)
    assert z_scores(run)[:, 0].std() == pytest.approx(1, abs=0.1)
    # what the window took away is lost
    assert explained(made, run) > explained(made, plain) - 0.15


def far_too_bright(images: np.ndarray) -> np.ndarray:
    images = images.copy()
    images[7::500] *= 60
    return images


def somewhat_too_bright(images: np.ndarray) -> np.ndarray:
    images = images.copy()
    images[3::100] *= 10
    return images


def with_hot_pixels(images: np.ndarray) -> np.ndarray:
    images = images.copy()
    rows = np.arange(5, N, 100)
    at = np.random.default_rng(1).integers(0, BOX, (2, len(rows)))
    images[rows, at[0], at[1]] += 60 * images.std()
    return images


@pytest.mark.parametrize("change", [far_too_bright, somewhat_too_bright, with_hot_pixels])
def test_a_few_bad_images_change_nothing_for_the_others(made, plain, tmp_path, change):
    run = fitted(made, tmp_path, change)
    touched = (change(images_of(made)) != images_of(made)).any((1, 2))
    assert 0 < touched.mean() < 0.02
    assert explained(made, run, ~touched) > explained(made, plain, ~touched) - 0.03
    assert np.median(run.latent_std()[:, 0]) == pytest.approx(np.median(plain.latent_std()[:, 0]), rel=0.1)


def test_two_groups_of_different_noise_are_each_weighted_by_their_own(made, plain, tmp_path):
    """The noisy half may lose, the quiet half must not."""
    noisy = np.arange(N) % 2
    images = images_of(made)
    more = np.random.default_rng(2).normal(0, images.std() * 8**0.5, images.shape).astype(np.float32)
    run = fitted(made, tmp_path, lambda images: images + more * noisy[:, None, None], groups=noisy)
    alone = explained(made, plain, noisy == 0)
    assert explained(made, run, noisy == 0) > alone - 0.06
    for group in (0, 1):
        assert z_scores(run)[noisy == group, 0].std() == pytest.approx(1, abs=0.1)


def test_a_mask_confines_what_differs_and_never_the_mean(made, tmp_path):
    focus = spherical_mask(BOX, 3.5, 2.0).roll(4, 2)
    write_map(tmp_path / "focus.mrc", focus.numpy(), PIXEL_A)
    run = fitted(made, tmp_path, lambda images: images, mask=str(tmp_path / "focus.mrc"))
    maps, consensus = run.model_tensors()["maps"], run.consensus_map()
    assert float(torch.corrcoef(torch.stack([maps[0].flatten(), consensus.flatten()]))[0, 1]) > 0.99
    assert float(maps[1:, focus == 0].abs().max()) < 1e-6 * float(maps[0].abs().max())


def test_images_at_different_scales_differ_in_level_and_not_in_structure(made, plain, tmp_path):
    """Noise and all, as programs write them that do not normalise."""
    amplitude = np.random.default_rng(3).normal(1, 0.25, N).clip(0.4, 1.6).astype(np.float32)
    run = fitted(made, tmp_path, lambda images: images * amplitude[:, None, None])
    assert explained(made, run) > explained(made, plain) - 0.03
    level = run.store().noise.level.numpy()
    assert np.corrcoef(level**0.5, amplitude)[0, 1] > 0.95
    found = cross_val_predict(KNeighborsRegressor(20), run.latent_mean(), amplitude, cv=5)
    assert 1 - np.mean((amplitude - found) ** 2) / amplitude.var() < 0.1
