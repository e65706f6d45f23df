"""What the report of a landscape says in words, and paints: about landscapes that are known to be so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cryomorph.analysis.landscape.landscape import Landscape, find_landscape, trajectory
from cryomorph.config.landscape import LandscapeConfig
from cryomorph.render.map_renderer import MapRenderer
from cryomorph.report.landscape import volume_space as module
from cryomorph.report.landscape.page import landscape_checks
from cryomorph.report.landscape.states import _merging_caption
from cryomorph.report.landscape.volume_space import space_section
from cryomorph.report.page import percent, summarise
from cryomorph.representations.linear import LinearSubspace


def parts() -> torch.Tensor:
    """A core, and two parts that come and go."""
    line = torch.arange(12) - 6
    z, y, x = torch.meshgrid(line, line, line, indexing="ij")
    place = [(0, 0, 0), (3, 0, 0), (0, 3, 0)]
    return torch.stack([torch.exp(-((z - a) ** 2 + (y - b) ** 2 + (x - c) ** 2) / 3.0) for a, b, c in place])


def decode(z: np.ndarray) -> torch.Tensor:
    return LinearSubspace(parts()).volume(torch.tensor(z, dtype=torch.float32), 12)


@pytest.fixture(scope="module")
def found() -> Landscape:
    """Three states: 600 particles, 390 and 10."""
    rng = np.random.default_rng(0)
    z = np.repeat([[0.0, 0], [1, 0], [1, 1]], [600, 390, 10], axis=0) + rng.normal(0, 0.05, (1000, 2))
    asked = LandscapeConfig(Path("run"), states=3, sketch=100, umap=False)
    return find_landscape(asked, decode, 12, z=z, std=np.full((1000, 2), 0.05))


def verdicts(found: Landscape) -> dict[str, str]:
    return {check.name: check.verdict for check in landscape_checks(found, again="cryomorph landscape run")}


def said(found: Landscape) -> str:
    return " ".join(note.text for note in summarise(landscape_checks(found, again="cryomorph landscape run")))


def test_good_coordinates_are_said_to_be_good_and_bad_ones_first(found):
    name = "Coordinates in volume space, held-out R²"
    assert verdicts(found)[name] == "good"
    embedding = found.embedding
    assert f"{embedding.r2:.4f} ({len(embedding.truth)} maps)" in said(found)
    bad = replace(found, embedding=replace(embedding, predicted=np.zeros_like(embedding.truth)))
    assert verdicts(bad)[name] == "warning" and said(bad).startswith(name) and "Too low to place" in said(bad)
    assert "Too low" not in said(found)


def test_states_that_stand_out_and_states_that_do_not(found):
    assert found.states.count == 3
    assert "The maps fall into 3 well-separated states." in said(found) and "--states" not in said(found)
    suggestion = found.states.suggestion
    assert f"{suggestion.gap:.1f}-fold" in _merging_caption(suggestion)
    other = replace(found, states=replace(found.states, suggestion=replace(suggestion, states=2)))
    assert "fall into 2" in said(other) and "`cryomorph landscape run --states 2`" in said(other)
    unclear = replace(suggestion, gap=1.0)
    none = replace(found, states=replace(found.states, suggestion=unclear))
    assert "No number of states stands out" in said(none) and "well-separated" not in said(none)
    assert "-fold" not in _merging_caption(unclear)


def test_rare_states_are_named(found):
    assert found.states.particle_counts == [600, 390, 10]
    assert "Rare states: state 2 (10 particles)." in said(found)
    even = replace(found, states=replace(found.states, particles=np.arange(1000) % 3))
    assert "Rare" not in said(even)


def test_one_degree_of_freedom_is_claimed_only_where_there_are_no_states(found):
    unclear = replace(found.states, suggestion=replace(found.states.suggestion, gap=1.0))
    curve = replace(found.curve, explained=0.95, noise=0.0)
    assert "one degree of freedom" in said(replace(found, states=unclear, curve=curve))
    assert "one degree of freedom" not in said(replace(found, curve=curve))


def test_components_are_painted_with_their_own_sign(found, monkeypatch):
    painted: list[torch.Tensor] = []

    def draw(surface: object, *, colour_map: torch.Tensor, size: int, **_: object) -> np.ndarray:
        painted.append(colour_map)
        return np.zeros((size, size, 4), np.float32)

    monkeypatch.setattr(module, "draw_surface", draw)
    monkeypatch.setattr(module, "SIZE", 8)
    space_section(found, MapRenderer(0.3, [parts()], 12), parts().amax(0))
    assert len(painted) == len(found.space.ratio) == 2
    for number, colours in enumerate(painted):
        assert torch.equal(colours, found.space.eigenvolume(number))


def test_a_trajectory_does_not_depend_on_the_unit_of_density(found):
    """The place on the curve has no unit, coordinates have that of the maps."""
    small = replace(found.embedding, coordinates=found.embedding.coordinates * np.float32(1e-3))
    here, there = (trajectory(one, decode, component=0, points=8) for one in (found, replace(found, embedding=small)))
    np.testing.assert_array_equal(here.particles, there.particles)


def test_a_share_is_never_rounded_to_nothing():
    assert [percent(count, 10_000) for count in (0, 1, 4, 5, 80, 10_000)] == [
        "0.0%", "<0.1%", "<0.1%", "0.1%", "0.8%", "100.0%",
    ]  # fmt: skip
