"""The referee's hinge: what Gaussians must reach, and that they are projected as the referee projects them."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from scipy.spatial import KDTree

from cryomorph.cli.main import main
from cryomorph.physics.disk import fourier_disk
from cryomorph.physics.gaussian_slices import Mixture, project_gaussians
from cryomorph.physics.pose import rotation_from_euler
from cryomorph.runs.folder import RunFolder

pytestmark = pytest.mark.accept
ARM = 760  # the first pseudo-atom of the part that swings
CLOUDS_SEED = 20261120


@pytest.fixture(scope="module")
def simulator(shared: Path) -> ModuleType:
    """The referee's own geometry and projector."""
    spec = importlib.util.spec_from_file_location("referee_simulate", shared / "referee" / "simulate.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def run(hinge) -> Path:
    folder = hinge / "run_gaussians"
    assert main(["train", "gaussians", str(hinge / "particles.star"), "-o", str(folder)]) == 0
    return folder


def test_images_are_the_referee_s_to_a_hundred_thousandth(simulator):
    """Its own matrix of RELION's angles, its own double-precision sums."""
    rng = np.random.default_rng(0)
    position, weight, angles = rng.normal(0, 30, (50, 3)), rng.uniform(0.5, 2, 50), (35.0, 71.0, -120.0)
    box, pixel_A, sigma = 32, 6.0, 11.0
    theirs = simulator.project(position, weight, sigma, simulator.relion_matrix(*angles), box, pixel_A)
    disk = fourier_disk(box)
    kx, ky = disk.frequency.numpy().T
    expected = theirs[ky + box // 2, kx + box // 2]
    ours = Mixture(
        torch.tensor(position / pixel_A).float()[None],
        torch.full((1, 50), sigma / pixel_A),
        torch.tensor(weight).float()[None],
    )
    rotation = rotation_from_euler(torch.tensor([angles], dtype=torch.float64)).float()
    found = project_gaussians(ours.turned(rotation), disk)[0].numpy()
    assert np.abs(found - expected).max() / np.abs(expected).max() < 1e-5


def test_latent_and_maps_know_the_coordinate(referee, hinge, run, bounds):
    maps = hinge / "maps_gaussians"
    assert main(["decode", str(run), "-o", str(maps), "--particles", str(hinge / "index.txt")]) == 0
    asked = ("--volumes", maps, "--index", hinge / "index.txt", "--z", run / "latent_mean.npy")
    score = json.loads(referee("score.py", hinge, *asked))
    floor, ceiling = bounds["consensus_moving"], bounds["oracle_moving"]
    closed = (score["auc_moving"] - floor) / (ceiling - floor)
    print(score, bounds, closed)
    assert score["knn_r2"] >= 0.95
    assert closed >= 0.85


def test_the_arm_moves_as_it_does_in_truth(simulator, hinge, run):
    """Displacements of the arm's Gaussians between the ends against the true ones of the nearest pseudo-atoms."""
    clouds = [cloud for cloud, _ in simulator.hinge(np.random.default_rng(CLOUDS_SEED))[0]]
    centre = np.concatenate(clouds).mean(0)
    first, last = clouds[0] - centre, clouds[-1] - centre
    angle = np.load(hinge / "truth.npz")["coord"]
    folder = RunFolder.open(run)
    model, pixel_A = folder.representation(), folder.store().pixel_A
    ends = []
    for value in (angle.min(), angle.max()):
        z = torch.from_numpy(folder.latent_mean()[np.abs(angle - value) < 0.04])
        ends.append(model.at(z.median(0).values[None]).position[0].detach().numpy() * pixel_A)
    distance, nearest = KDTree(first).query(ends[0])
    arm = (nearest >= ARM) & (distance < 12)
    found, true = (ends[1] - ends[0])[arm], (last - first)[nearest[arm]]
    correlation = np.corrcoef(found.ravel(), true.ravel())[0, 1]
    still = np.sqrt(((ends[1] - ends[0])[nearest < ARM] ** 2).sum(1).mean())
    print(f"{arm.sum()} Gaussians of the arm: correlation {correlation:.3f}; the others move {still:.2f} A")
    assert correlation >= 0.9
    assert still < 5
