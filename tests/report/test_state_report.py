"""The report's states: maps and numbers against direct calculations on the same particles."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import torch

from cryomorph.analysis.landscape.files import LandscapeSummary
from cryomorph.analysis.selection_map import chosen_twice, map_selection
from cryomorph.analysis.state_maps import StateMap, compare_with, map_states
from cryomorph.commands.selection_map_files import write_state_maps
from cryomorph.io.mrc import read_map
from cryomorph.report.analyze.states import states_section
from cryomorph.report.page import Figure, Gallery, Report, Table, render_report
from cryomorph.volumes.backproject import mirror, reconstruct
from cryomorph.volumes.grid import rebox


@pytest.fixture(scope="module")
def found(tiny_set) -> LandscapeSummary:
    """Truth as a landscape: both halves of the hinge, their true mean maps, and a state of one particle."""
    label = np.load(tiny_set / "truth.npz")["label"]
    states = (label >= 25).astype(np.int64)
    states[7] = 2
    maps = np.stack([read_map(tiny_set / "maps" / f"{i:03d}.mrc")[0] for i in range(50)])
    means = torch.from_numpy(np.stack([maps[:25].mean(0), maps[25:].mean(0), maps[label[7]]]))
    return LandscapeSummary(states, (20, 19, 1), means, 16.0, 2, clear=False, r2=0.99, held_out=10)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("states")


@pytest.fixture(scope="module")
def mapped(tiny_run, found, folder) -> dict[int, StateMap]:
    (folder / "states_reconstructed").mkdir()
    (folder / "states_reconstructed" / "state_9.mrc").write_text("of an earlier analysis")
    mapped = map_states(tiny_run, found.states, found.means)
    write_state_maps(folder, mapped, flip_hand=True)
    return mapped


def _picture(value: float):
    return np.full((4, 4, 4), value, dtype=np.float32)


def test_maps_are_of_the_states_particles_and_written(tiny_run, found, mapped, folder):
    """As `reconstruct` makes them; on disk mirrored, as asked; not of a particle alone."""
    assert list(mapped) == [0, 1]
    assert sorted(path.name for path in (folder / "states_reconstructed").iterdir()) == ["state_0.mrc", "state_1.mrc"]
    for state, one in mapped.items():
        direct = reconstruct(tiny_run.store(), subset=chosen_twice(tiny_run, np.flatnonzero(found.states == state)))
        torch.testing.assert_close(one.map, direct.map)
        assert one.fsc.resolution_0143_A == direct.fsc.resolution_0143_A
        written = torch.tensor(read_map(folder / "states_reconstructed" / f"state_{state}.mrc")[0])
        torch.testing.assert_close(written, mirror(direct.map))


def test_true_maps_agree_better_than_those_of_the_other_state_or_of_all(tiny_run, found, mapped):
    for state, one in mapped.items():
        assert one.decoded.mean_fsc > one.agreement["consensus"].mean_fsc
        selected = map_selection(tiny_run, np.flatnonzero(found.states == state))
        wrong = compare_with(selected, found.means[1 - state], shells=8).agreement["state_map"]
        assert one.decoded.mean_fsc > wrong.mean_fsc
        same = compare_with(selected, selected.reconstruction.map, shells=8).agreement["state_map"]
        assert same.mean_fsc == pytest.approx(1, abs=1e-5)


def test_maps_of_a_smaller_box_are_compared_as_far_as_they_go(tiny_run, found):
    for one in map_states(tiny_run, found.states, rebox(found.means, 8)).values():
        assert {len(each.curve) for each in one.agreement.values()} == {4}
        assert min(each.resolution_05_A for each in one.agreement.values()) >= 64
        assert one.decoded.mean_fsc > 0.8


def test_the_numbers_are_in_a_table_of_their_own(mapped, folder):
    with (folder / "states.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["state"] for row in rows] == ["0", "1"]
    for row, one in zip(rows, mapped.values(), strict=True):
        assert float(row["state_map_mean_fsc"]) == pytest.approx(one.decoded.mean_fsc, abs=1e-4)
        assert float(row["resolution_0143_A"]) == pytest.approx(one.fsc.resolution_0143_A, abs=1e-3)


def test_the_section_shows_each_state_once_and_its_particles_where_there_are_enough(found, mapped):
    pictures = {state: _picture(0.5) for state in mapped}
    decoded = [_picture(0.1 * i) for i in range(3)]
    section = states_section(found, decoded=decoded, reconstructed=pictures, mapped=mapped, level=0.25)
    gallery, counts, curves, table = section.blocks
    assert isinstance(gallery, Gallery) and gallery.stacked
    assert [list(tile.pictures) for tile in gallery.tiles] == [["decoded", "reconstructed"]] * 2 + [["decoded"]]
    own = np.bincount(found.states)
    assert gallery.tiles[0].note == f"{own[0]} particles ({own[0] / 400:.1%})"
    assert gallery.tiles[2].note == "1 particle (0.2%); too few for a map"
    assert isinstance(counts, Figure) and counts.image.axes[1].get_yscale() == "log"
    heights = [bar.get_height() for bar in counts.image.axes[1].patches]
    assert heights == own.tolist()
    assert isinstance(curves, Figure)
    np.testing.assert_array_equal(curves.image.axes[0].lines[1].get_ydata(), mapped[1].decoded.curve)
    assert isinstance(table, Table) and all(table.numeric)
    assert table.rows[1][4:6] == (mapped[1].fsc.resolution_0143_A, mapped[1].decoded.resolution_05_A)
    assert "continuum" in section.intro
    assert render_report(Report("run", (section,))).count("<img") == 5 + 2


def test_states_of_a_few_particles_have_no_maps(tiny_run, tmp_path):
    """64, as for maps reconstructed near a point; what an earlier analysis left of them goes."""
    (tmp_path / "states.csv").write_text("of an earlier analysis")
    states = np.repeat([0, 1], [337, 63])
    means = torch.zeros(2, 16, 16, 16)
    few = map_states(tiny_run, states, means)
    assert list(few) == [0]
    write_state_maps(tmp_path, few)
    assert (tmp_path / "states.csv").read_text().startswith("state,")
    assert map_states(tiny_run, np.full(400, -1), means) == {}
    write_state_maps(tmp_path, {})
    assert not (tmp_path / "states.csv").exists()
    assert not list((tmp_path / "states_reconstructed").iterdir())


def test_without_reconstructions_it_says_how_to_get_them(found):
    section = states_section(found, decoded=[_picture(0.1)] * 3, reconstructed={}, mapped={}, level=0.25)
    assert [type(block) for block in section.blocks] == [Gallery, Figure, Table]
    gallery, _, table = section.blocks
    assert isinstance(gallery, Gallery) and isinstance(table, Table)
    assert "--no-reconstruct" in gallery.caption
    assert [list(tile.pictures) for tile in gallery.tiles] == [[""]] * 3
    assert len(table.columns) == 4
