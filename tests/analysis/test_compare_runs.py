"""Comparison of runs: closed forms for labels and neighbours; runs that are the same, turned, shuffled or others."""

from __future__ import annotations

import itertools
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree
from scipy.stats import special_ortho_group

from cryomorph.analysis import compare as module
from cryomorph.analysis.compare import compare_runs, label_agreement, neighbour_overlap, pose_turn_deg
from cryomorph.analysis.latent import kmeans_on_data
from cryomorph.analysis.particle_matching import shared_particles
from cryomorph.commands.train import train
from cryomorph.config.compare import CompareConfig
from cryomorph.config.errors import InputError
from cryomorph.config.linear import LinearConfig
from cryomorph.config.prepare import ImageSource
from cryomorph.io.star import read_star, write_star
from cryomorph.physics.pose import Pose
from cryomorph.report.compare import comparison_report, lines
from cryomorph.report.page import render_report
from cryomorph.representations.linear import LinearSubspace
from cryomorph.runs.folder import RunFolder
from cryomorph.volumes.fsc import fsc

CONFIG = CompareConfig(Path("a"), Path("b"), clusters=4, points=4)


def copy_of(run: RunFolder, path: Path) -> RunFolder:
    shutil.copytree(run.path, path)
    return RunFolder.open(path)


@pytest.fixture(scope="module")
def part_run(tiny_set, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run on 300 of the tiny set's particles, from another seed and at a smaller box."""
    folder = tmp_path_factory.mktemp("part")
    np.save(folder / "index.npy", np.random.default_rng(0).permutation(400)[:300])
    images = ImageSource(box=14, index=folder / "index.npy")
    return train(LinearConfig(tiny_set / "particles.star", folder / "run", images=images, zdim=2, iterations=2, seed=9))


# --- labels -----------------------------------------------------------------------------------------------------------


def test_names_of_labels_do_not_matter():
    a = np.array([0, 0, 0, 1, 1, 2, 2, 2, 2])
    found = label_agreement(a, np.array([5, 7, 9])[a])
    assert found.agreement == found.ari == 1 and found.nmi == pytest.approx(1)
    assert found.rows.tolist() == [0, 1, 2] and found.columns.tolist() == [5, 7, 9]
    np.testing.assert_array_equal(found.table, np.diag([3, 2, 4]))
    assert found.chance == pytest.approx((9 + 4 + 16) / 81)


def test_the_best_of_all_matchings_is_found():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 5, 300), rng.integers(0, 5, 300)
    best = max(np.mean(np.array(order)[a] == b) for order in itertools.permutations(range(5)))
    found = label_agreement(a, b)
    assert found.agreement == pytest.approx(best)
    assert np.trace(found.table) == round(best * 300)
    assert abs(found.ari) < 0.03 and found.agreement == pytest.approx(found.chance, abs=0.08)


@pytest.mark.parametrize("flip", [False, True])
def test_more_labels_on_one_side(flip):
    a, b = np.repeat([0, 1], 50), np.repeat([3, 1, 2], [40, 10, 50])
    found = label_agreement(b, a) if flip else label_agreement(a, b)
    assert found.agreement == 0.9
    assert np.diag(found.table).tolist() == ([50, 40] if flip else [40, 50])
    assert sorted([*found.rows, *found.columns]) == [0, 1, 1, 2, 3]


# --- neighbours and coordinates ---------------------------------------------------------------------------------------


def test_neighbours_survive_turns_and_units_of_the_latent():
    z = np.random.default_rng(0).normal(size=(500, 4))
    other = 7 * z @ special_ortho_group.rvs(4, random_state=1) + 100
    found = neighbour_overlap(z, other)
    np.testing.assert_allclose(found.recall, 1, atol=0.01)
    np.testing.assert_allclose(found.jaccard, 1, atol=0.01)
    assert found.size.tolist() == [2, 5, 15, 50]


def test_neighbours_of_strangers_are_chance():
    a, b = np.random.default_rng(0).normal(size=(2, 2000, 3))
    found = neighbour_overlap(a, b, asked=2000)
    np.testing.assert_allclose(found.chance, found.size / 1999)
    np.testing.assert_allclose(found.recall, found.chance, atol=0.004)


def test_overlap_is_what_a_tree_counts(monkeypatch):
    rng = np.random.default_rng(0)
    a = rng.normal(size=(400, 3))
    b = a + 0.3 * rng.normal(size=(400, 3))
    monkeypatch.setattr(module, "CHUNK", 4000)  # ten particles at a time
    found = neighbour_overlap(a, b, asked=400)
    near = [cKDTree(z).query(z, k=13)[1][:, 1:] for z in (a, b)]
    shared = np.array([len({*x} & {*y}) for x, y in zip(*near, strict=True)])
    assert found.size[2] == 12
    assert found.recall[2] == pytest.approx(np.mean(shared / 12))
    assert found.jaccard[2] == pytest.approx(np.mean(shared / (24 - shared)))


# --- whole runs -------------------------------------------------------------------------------------------------------


def test_a_run_agrees_with_itself(tiny_run):
    found = compare_runs(tiny_run, tiny_run, CONFIG)
    assert len(found.shared) == 400 and found.counts == (400, 400)
    assert found.clusters.agreement == found.clusters.ari == 1
    np.testing.assert_allclose(found.overlap.recall, 1)
    assert min(found.r2) > 0.9 and found.turn_deg == pytest.approx(0, abs=1e-4)
    assert found.states is None and found.one_latent
    assert found.maps.matched == 4
    torch.testing.assert_close(found.maps.curves, torch.ones_like(found.maps.curves), rtol=0, atol=1e-5)
    assert found.maps.resolution_05_A == [32.0] * 4  # Nyquist
    assert found.maps.mean_fsc[0] > found.maps.mean_fsc[1]


def test_the_ceiling_is_one_run_clustered_twice(tiny_run):
    """Twelve clusters of a continuum: another start cuts it elsewhere."""
    found = compare_runs(tiny_run, tiny_run, replace(CONFIG, clusters=12, points=0, seed=3))
    z = tiny_run.latent_mean()
    twice = label_agreement(*(kmeans_on_data(z, 12, seed=seed).labels for seed in (3, 4)))
    assert found.ceiling.ari == twice.ari < 1


def test_what_lies_outside_the_molecule_does_not_count(tiny_run, tmp_path):
    """Noise in the corners of every map of one run: the FSC inside the mask stays, that of whole boxes does not."""
    other = copy_of(tiny_run, tmp_path / "run")
    maps = other.representation().maps.clone()
    line = torch.arange(16) - 8
    corner = line[:, None, None] ** 2 + line[:, None] ** 2 + line**2 > 9.5**2
    noise = torch.randn(16, 16, 16, generator=torch.Generator().manual_seed(0))
    maps[0] += 0.3 * maps[0].max() * corner * noise
    other.save_model(LinearSubspace(maps), {})
    found = compare_runs(tiny_run, other, CONFIG).maps
    whole = fsc(tiny_run.representation().maps[0], maps[0])
    assert float(whole[1:].mean()) < 0.9
    assert found.mean_fsc[0] > 0.995


def test_a_shuffled_latent_agrees_by_chance(tiny_run, tmp_path):
    other = copy_of(tiny_run, tmp_path / "run")
    order = np.random.default_rng(0).permutation(400)
    other.save_array("latent_mean.npy", tiny_run.latent_mean()[order])
    found = compare_runs(tiny_run, other, CONFIG)
    assert abs(found.clusters.ari) < 0.05 and max(found.r2) < 0.1
    assert found.clusters.agreement == pytest.approx(found.clusters.chance, abs=0.1)
    np.testing.assert_allclose(found.overlap.recall, found.overlap.chance, atol=0.02)


def test_runs_on_parts_are_compared_on_what_they_share(tiny_run, part_run):
    found = compare_runs(tiny_run, part_run, CONFIG)
    rows = np.random.default_rng(0).permutation(400)[:300]
    assert found.counts == (400, 300) and len(found.shared) == 300
    np.testing.assert_array_equal(found.shared.a, rows[found.shared.b])
    assert found.maps.box == 14 and not found.one_latent
    np.testing.assert_array_equal(found.maps.particle_a, rows[found.maps.particle_b])
    assert min(found.r2) > 0.3  # both follow the hinge
    assert found.overlap.recall[-1] > 2 * found.overlap.chance[-1]
    back = shared_particles(part_run, tiny_run)
    assert sorted(zip(back.b, back.a, strict=True)) == list(zip(found.shared.a, found.shared.b, strict=True))


def test_states_are_compared_where_both_runs_have_a_landscape(tiny_run, tmp_path):
    runs = [copy_of(tiny_run, tmp_path / name) for name in "ab"]
    for run, states in zip(runs, (np.arange(400) % 3 - 1, (np.arange(400) + 1) % 3 * 10 - 10), strict=True):
        (run.path / "landscape").mkdir()
        np.save(run.path / "landscape" / "states.npy", states)
    found = compare_runs(*runs, replace(CONFIG, points=0))
    # state 0 of A is 10 of B, 1 of A is the one that B says nothing of
    assert found.maps is None
    assert found.states.table.sum() == 133 and found.states.agreement == 1
    assert any(what == "particles in matched landscape states" for what, *_ in lines(found))
    assert "landscape states" in render_report(comparison_report(found, *runs))


def test_turned_poses_are_said(tiny_run, tmp_path, monkeypatch):
    other, pose = copy_of(tiny_run, tmp_path / "run"), tiny_run.store().require_pose()
    angle = np.deg2rad(5)
    turn = torch.tensor([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]).float()
    other.save_pose(Pose(turn @ pose.rotation, pose.shift_A))
    assert pose_turn_deg(tiny_run, other, shared_particles(tiny_run, other)) == pytest.approx(5, abs=1e-3)
    said: list[str] = []
    monkeypatch.setattr(module, "warn", said.append)
    found = compare_runs(tiny_run, other, CONFIG)
    assert "poses differ by 5.0 degrees" in said[0]
    assert any("not in the same orientation" in note.text for note in comparison_report(found, tiny_run, other).summary)


def test_what_is_said_of_a_comparison(tiny_run, part_run):
    found = compare_runs(tiny_run, part_run, CONFIG)
    page = render_report(comparison_report(found, tiny_run, part_run))
    for part in ("300 particles, matched by image name", "held-out half", "most similar to the other run"):
        assert part in page
    table = {what: value for what, value, _ in lines(found)}
    r2 = [table[f"latent space of {which}, R²"] for which in ("B predicted from A", "A predicted from B")]
    assert r2 == [f"{value:.3f}" for value in found.r2] and r2[0] != r2[1]
    assert table["maps most similar to that of the same particle"] == f"{found.maps.matched} of 4"
    same, others = found.maps.mean_fsc
    assert same != others and table["maps at the same particles, mean FSC"] == f"{same:.3f}"
    told = json.loads(json.dumps(found.figures()))
    assert told["shared"] == 300 and told["latent_r2"] == {"b_from_a": found.r2[0], "a_from_b": found.r2[1]}
    assert told["maps"]["mean_fsc"] == same and told["maps"]["others_mean_fsc"] == others
    assert told["kmeans"]["labels_a"] == 4 and len(told["maps"]["resolution_05_A"]) == 4


def renamed(run: RunFolder, path: Path, edit) -> RunFolder:
    """A copy of a run whose particle file names other images."""
    other = copy_of(run, path)
    blocks = read_star(other.path / "particles.star")
    names = blocks["particles"]["rlnImageName"]
    blocks["particles"]["rlnImageName"] = edit(names)
    write_star(other.path / "particles.star", blocks)
    return other


def test_particles_are_known_by_name_whatever_the_folder(tiny_run, tmp_path):
    moved = renamed(tiny_run, tmp_path / "run", lambda names: names.str.replace("@", "@Extract/job7/"))
    found = shared_particles(tiny_run, moved)
    assert len(found) == 400 and found.by == "image name without its folder"
    np.testing.assert_array_equal(found.a, found.b)


def test_a_name_that_stands_twice_is_nobody_s(tiny_run, tmp_path):
    def twice(names):
        names = names.copy()
        names[5] = names[6]
        return names

    found = shared_particles(tiny_run, renamed(tiny_run, tmp_path / "run", twice))
    assert len(found) == 398 and not {5, 6} & {*found.b.tolist()}


def test_other_particles_are_refused(tiny_run, tmp_path):
    other = renamed(tiny_run, tmp_path / "a", lambda names: names.str.replace("@", "@other_"))
    said = f"{tiny_run.path} (400 particles of "
    with pytest.raises(InputError, match=re.escape(said) + r".* share 0 particles: expected 20 or more"):
        shared_particles(tiny_run, other)
    shifted = renamed(tiny_run, tmp_path / "b", lambda names: np.roll(names, 1))
    with pytest.raises(InputError, match="name the same particles, but the images differ"):
        shared_particles(tiny_run, shifted)


def test_images_of_another_width_are_refused(tiny_run, tmp_path):
    other = copy_of(tiny_run, tmp_path / "run")
    manifest = json.loads((other.path / "particles" / "manifest.json").read_text())
    (other.path / "particles" / "manifest.json").write_text(json.dumps(manifest | {"pixel_A": 20.0}))
    with pytest.raises(
        InputError, match=r"are 256\.0 A wide and those of .* 320\.0 A: expected runs on the same images"
    ):
        shared_particles(tiny_run, other)


def test_runs_that_have_nothing_to_compare(tiny_run, tmp_path):
    flat = copy_of(tiny_run, tmp_path / "run")
    flat.save_array("latent_mean.npy", np.zeros((400, 0), np.float32))
    with pytest.raises(InputError, match="has no latent space"):
        compare_runs(tiny_run, flat, CONFIG)
    with pytest.raises(InputError, match="--clusters 500 and --points 4: the runs share 400 particles"):
        compare_runs(tiny_run, tiny_run, replace(CONFIG, clusters=500))
