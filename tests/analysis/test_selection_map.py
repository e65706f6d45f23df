"""Maps of selections against the truth, and agreement against closed forms."""

from __future__ import annotations

import csv
import json
import shutil

import numpy as np
import pytest
import torch
from torch import Tensor

from cryomorph.analysis import selection_map as module
from cryomorph.analysis.selection_map import (
    COMPARED,
    agreement_of,
    compare_states,
    decode_selection,
    errorless_fsc,
    map_selection,
    mean_agreement,
)
from cryomorph.analysis.split import LatentSplit
from cryomorph.commands.selection_map_files import write_selection_map, write_table
from cryomorph.config.errors import InputError
from cryomorph.io.mrc import read_map
from cryomorph.physics.pose import Pose
from cryomorph.report.fsc_plots import states_plot
from cryomorph.report.style import PALETTE
from cryomorph.representations.base import Representation
from cryomorph.runs.folder import RunFolder
from cryomorph.volumes.backproject import mirror, reconstruct
from cryomorph.volumes.fsc import fsc

ENDS = (range(15), range(35, 50))


@pytest.fixture(scope="module")
def label(tiny_set) -> np.ndarray:
    """The true state of each particle, 0 to 49 along the hinge."""
    return np.load(tiny_set / "truth.npz")["label"]


@pytest.fixture(scope="module")
def mapped(tiny_run, label):
    """The maps of the hinge's first third."""
    return map_selection(tiny_run, np.flatnonzero(np.isin(label, ENDS[0])))


def test_the_map_is_of_the_particles_that_lie_there(tiny_run, label):
    """Everybody's map is the consensus; both ends of the hinge differ as their true maps do."""
    everyone = map_selection(tiny_run, np.arange(400)[::-1].copy())
    torch.testing.assert_close(everyone.reconstruction.map, tiny_run.consensus_map(), rtol=1e-5, atol=1e-5)
    assert everyone.agreement["consensus"].mean_fsc == pytest.approx(1, abs=1e-4)
    index = [np.flatnonzero(np.isin(label, end)) for end in ENDS]
    split = LatentSplit.of(tiny_run)
    direct = [reconstruct(tiny_run.store(), subset=split.crossed(i)).map for i in index]
    found = [map_selection(tiny_run, i).reconstruction.map for i in index]
    assert torch.equal(found[0], direct[0]) and torch.equal(found[1], direct[1])


def test_particles_that_their_latent_points_did_not_choose_are_taken_as_they_are(tiny_run):
    chosen = np.random.default_rng(0).permutation(400)[:150]
    direct = reconstruct(tiny_run.store(), subset=torch.from_numpy(np.sort(chosen))).map
    assert torch.equal(map_selection(tiny_run, chosen).reconstruction.map, direct)


def test_the_maps_of_two_ends_differ_as_the_truth_does(mapped, tiny_run, tiny_set, label):
    other = map_selection(tiny_run, np.flatnonzero(np.isin(label, ENDS[1])))
    truth = [np.stack([read_map(tiny_set / "maps" / f"{i:03d}.mrc")[0] for i in end]).mean(0) for end in ENDS]
    expected = (truth[1] - truth[0]).ravel()
    for found in (
        other.reconstruction.map - mapped.reconstruction.map,
        other.decoded.mean - mapped.decoded.mean,
    ):
        assert np.corrcoef(found.flatten(), expected)[0, 1] > 0.6
    # the decoded map must say more of the selection than the map of all particles does
    for found in (mapped, other):
        assert found.agreement["mean"].mean_fsc > found.agreement["consensus"].mean_fsc


def test_decoding_at_the_mean_of_a_linear_model_is_the_mean_of_maps(tiny_run):
    index = np.array([3, 50, 7, 399])
    model, z = tiny_run.representation(), torch.from_numpy(tiny_run.latent_mean()[index])
    maps = torch.stack([model.volume(point, 16) for point in z])
    found = decode_selection(tiny_run, index, 16)
    torch.testing.assert_close(found.mean, maps.mean(0), rtol=1e-4, atol=1e-5)
    member = int((z - z.mean(0)).norm(dim=1).argmin())
    assert found.particle == index[member]
    torch.testing.assert_close(found.nearest, maps[member])
    np.testing.assert_allclose(found.point, z.mean(0), rtol=1e-5)
    assert decode_selection(tiny_run, index, 24).mean.shape == (24, 24, 24)


class Fixed(torch.nn.Module):
    """Says the same map everywhere."""

    def __init__(self, answer: Tensor) -> None:
        super().__init__()
        self.answer = answer

    def volume(self, z: Tensor, box: int) -> Tensor:
        return self.answer


Representation.register(Fixed)


def test_a_model_that_says_the_reconstruction_agrees_with_it(tiny_run, mapped, label):
    index = np.flatnonzero(np.isin(label, ENDS[0]))
    same = map_selection(tiny_run, index, representation=Fixed(mapped.reconstruction.map * 3))
    assert same.agreement["mean"].mean_fsc == pytest.approx(1, abs=1e-5)
    assert same.agreement["mean"].resolution_05_A == pytest.approx(32)  # Nyquist of 16 A pixels
    noise = torch.randn(16, 16, 16, generator=torch.Generator().manual_seed(0))
    other = map_selection(tiny_run, index, representation=Fixed(noise))
    assert abs(other.agreement["mean"].mean_fsc) < 0.4
    assert other.agreement["mean"].resolution_05_A > 60
    assert other.agreement["consensus"].mean_fsc == mapped.agreement["consensus"].mean_fsc


def test_errorless_fsc_is_what_a_true_map_reaches():
    """Truth and noise drawn with known power: no formula is needed to correlate them."""
    torch.manual_seed(0)
    truth = torch.randn(48, 48, 48)
    half1, half2 = truth + 1.5 * torch.randn(48, 48, 48), truth + 1.5 * torch.randn(48, 48, 48)
    expected = fsc(half1 + half2, truth)
    found = errorless_fsc(fsc(half1, half2))
    assert float((found - expected)[12:].abs().max()) < 0.05
    assert float((found - expected)[8:].mean().abs()) < 0.01
    # in closed form: noise of 1.5^2 / 2 on the sum
    assert float(found[8:].mean()) == pytest.approx((1 / (1 + 1.125)) ** 0.5, abs=0.01)
    assert errorless_fsc(torch.tensor([-0.3, 0.0, 1.0, 1.2])).tolist() == [0, 0, 1, 1]


def test_every_state_has_its_own_maps(tiny_run, label, monkeypatch):
    said: list[str] = []
    monkeypatch.setattr(module, "warn", said.append)
    states = np.full(400, -1)
    states[np.isin(label, ENDS[0])], states[np.isin(label, ENDS[1])] = 2, 5
    states[np.flatnonzero(states < 0)[0]] = 3
    found = dict(compare_states(tiny_run, states))
    assert list(found) == [2, 5]
    for state, mapped in found.items():
        alone = map_selection(tiny_run, np.flatnonzero(states == state))
        assert torch.equal(mapped.reconstruction.map, alone.reconstruction.map)
        assert mapped.figures() == alone.figures()
        assert sum(mapped.particles) == int((states == state).sum())
    assert len(said) == 1 and "state 3 is left out: of 1 particles" in said[0]


def test_what_is_written(mapped, tmp_path):
    write_selection_map(tmp_path / "a", mapped)
    names = {"map.mrc", "half1.mrc", "half2.mrc", "mask.mrc", "fsc.csv", "fsc.png"}
    names |= {"decoded_mean.mrc", "decoded_nearest.mrc", "agreement.csv", "agreement.json", "agreement.png"}
    assert {path.name for path in (tmp_path / "a").iterdir()} == names
    told = json.loads((tmp_path / "a" / "agreement.json").read_text())
    assert told == json.loads(json.dumps(mapped.figures()))
    assert told["particles"] == sum(mapped.particles) and set(told["agreement"]) == set(COMPARED)
    with (tmp_path / "a" / "agreement.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 8 and float(rows[3]["resolution_A"]) == pytest.approx(16 * 16 / 3, rel=1e-4)
    np.testing.assert_allclose([float(row["mean"]) for row in rows], mapped.agreement["mean"].curve, atol=1e-6)
    write_selection_map(tmp_path / "b", mapped, flip_hand=True)
    for name in names:
        if name.endswith(".mrc"):
            plain, flipped = (torch.tensor(read_map(tmp_path / folder / name)[0]) for folder in "ab")
            assert torch.equal(flipped, mirror(plain)), name
    assert str(mapped).startswith(f"{sum(mapped.particles)} particles, ")


def test_the_table_of_states(mapped, tmp_path):
    rows = {4: mapped.figures(), 7: mapped.figures()}
    write_table(tmp_path / "t.csv", rows)
    with (tmp_path / "t.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [row["state"] for row in table] == ["4", "7"]
    assert float(table[0]["mean_mean_fsc"]) == pytest.approx(mapped.agreement["mean"].mean_fsc, abs=1e-4)
    mean = mean_agreement(list(rows.values()))
    assert mean["ceiling"] == pytest.approx(mapped.agreement["ceiling"].mean_fsc)
    plot = states_plot({4: mapped.agreement["mean"].curve}, mapped.reconstruction.fsc)
    assert [text.get_text() for text in plot.axes[0].get_legend().get_texts()] == ["4"]
    assert plot.axes[0].lines[0].get_color() == PALETTE[4]


def test_agreement_of_a_map_of_a_smaller_box_ends_at_its_pixel(mapped):
    fsc = mapped.reconstruction.fsc  # box 16, 16 A a pixel
    curve = torch.linspace(1, 0.6, 8)
    last = int(16 * 16 / fsc.resolution_0143_A)
    assert last > 3
    whole, part = agreement_of(curve, fsc), agreement_of(curve, fsc, shells=3)
    assert whole.mean_fsc == pytest.approx(float(curve[1 : last + 1].mean()))
    assert whole.resolution_05_A == 32
    assert part.mean_fsc == pytest.approx(float(curve[1:3].mean()))
    assert part.resolution_05_A == pytest.approx(256 / 3)
    assert len(part.curve) == 3
    assert len(states_plot({0: part.curve}, fsc).axes[0].lines[0].get_xdata()) == 3


def test_refusals(tiny_run):
    half = tiny_run.store().half.numpy()
    with pytest.raises(InputError, match="of 5 particles 5 are of one half set and 0 of the other"):
        map_selection(tiny_run, np.flatnonzero(half == 0)[:5])
    with pytest.raises(InputError, match="the mask has box 24, expected the working box, 16"):
        map_selection(tiny_run, np.arange(100), mask=torch.ones(24, 24, 24))
    with pytest.raises(InputError, match=r"labels of shape \(399,\): expected one for each of the run's 400 particles"):
        next(compare_states(tiny_run, np.zeros(399, int)))
    with pytest.raises(InputError, match="all 400 labels are below 0"):
        next(compare_states(tiny_run, np.full(400, -1)))


def test_refined_poses_are_used(tiny_run, tmp_path):
    """With all poses turned about the beam by the same angle, every slice is turned: the map is another one."""
    shutil.copytree(tiny_run.path, tmp_path / "run")
    run, pose = RunFolder.open(tmp_path / "run"), tiny_run.store().require_pose()
    turn = torch.tensor([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    run.save_pose(Pose(pose.rotation @ turn, pose.shift_A))
    found, before = (map_selection(each, np.arange(400)).reconstruction.map for each in (run, tiny_run))
    # R (turn r) = p: what was at r is at the inverse turn's place; grid points are carried onto grid points
    core = before[1:, 1:, 1:]
    turned = (torch.rot90(core, 1, (1, 2)), torch.rot90(core, -1, (1, 2)))
    best = max(float(torch.corrcoef(torch.stack([t.flatten(), found[1:, 1:, 1:].flatten()]))[0, 1]) for t in turned)
    assert best > 0.99
    assert float(torch.corrcoef(torch.stack([before.flatten(), found.flatten()]))[0, 1]) < 0.9
