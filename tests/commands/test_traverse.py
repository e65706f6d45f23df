"""Paths: on an arc they must follow it, through a graph they must be the shortest, and they must say where they end."""

from __future__ import annotations

import re
from itertools import pairwise

import numpy as np
import pytest
from scipy.sparse import coo_array
from scipy.stats import spearmanr

from cryomorph.analysis import neighbour_graph as ng
from cryomorph.analysis.latent import principal_components
from cryomorph.commands import traverse as tr
from cryomorph.config.errors import InputError

ARC = 1.5 * np.pi  # of a circle of radius 1: a C


@pytest.fixture(scope="module")
def arc() -> tuple[np.ndarray, np.ndarray]:
    """4,000 points about three quarters of a circle in three dimensions, and their angles."""
    rng = np.random.default_rng(0)
    angle = rng.uniform(0, ARC, 4000)
    z = np.stack([np.cos(angle), np.sin(angle), np.zeros(4000)], axis=1) + 0.06 * rng.normal(size=(4000, 3))
    return z, angle


@pytest.fixture(scope="module")
def ends(arc: tuple[np.ndarray, np.ndarray]) -> tuple[int, int]:
    """Connected particles near both ends of the C."""
    z, angle = arc
    linked = np.flatnonzero(ng.neighbour_graph(z).degrees >= 5)
    return int(linked[angle[linked].argmin()]), int(linked[angle[linked].argmax()])


def off_arc(points: np.ndarray) -> np.ndarray:
    """Distance from the C, in closed form: to the circle, or to an end where the angle is none of the C's."""
    angle = np.arctan2(points[:, 1], points[:, 0]) % (2 * np.pi)
    beyond = angle > ARC
    foot = np.where(beyond, np.where(angle > (ARC + 2 * np.pi) / 2, 0, ARC), angle)
    return np.linalg.norm(points - np.stack([np.cos(foot), np.sin(foot), 0 * foot], axis=1), axis=1)


def test_graph_path_follows_the_arc_that_a_straight_line_leaves(arc, ends):
    z, angle = arc
    path = tr.graph_path(z, ends, points=25)
    assert off_arc(path.points).max() < 0.2
    # as long as the arc between its ends, and a little more where it zigzags from particle to particle
    assert 0.97 < path.length / abs(np.subtract(*angle[list(ends)])) < 1.25
    assert spearmanr(angle[path.visited], np.arange(len(path.visited))).statistic > 0.995
    straight = tr.straight_path(z, ends, points=25)
    assert off_arc(straight.points).max() > 0.25  # the chord's middle lies at 0.7 from the centre
    assert straight.length == pytest.approx(np.linalg.norm(z[ends[0]] - z[ends[1]]))
    assert straight.length < 0.4 * path.length


def test_a_graph_path_on_a_clean_arc_is_as_long_as_the_arc():
    angle = np.random.default_rng(0).permutation(np.linspace(0, ARC, 1001))
    z = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    path = tr.graph_path(z, (int(angle.argmin()), int(angle.argmax())), points=2000)
    assert path.length == pytest.approx(ARC, rel=1e-4)
    np.testing.assert_allclose(path.arc, angle[path.particles], atol=1e-3)


def test_only_the_straight_line_crosses_empty_space(arc, ends):
    z, _ = arc
    path, straight = tr.graph_path(z, ends, points=25), tr.straight_path(z, ends, points=25)
    around, beside = tr.occupancy(z, path), tr.occupancy(z, straight)
    assert len(around.empty) <= 1  # an end may be lonelier than 99 % of the particles
    far = np.flatnonzero(off_arc(straight.points) > 0.2)
    assert set(far) <= set(beside.empty)
    everyone = np.linalg.norm(z[:, None] - path.points[None, :3], axis=2)
    ranked = np.sort(everyone, axis=0)  # the particle itself comes first
    np.testing.assert_allclose(around.nearest[:3], ranked[1], atol=1e-12)
    np.testing.assert_allclose(around.crowd[:3], ranked[10], atol=1e-12)


def test_empty_is_farther_from_the_tenth_particle_than_99_percent_of_them_are():
    z = np.random.default_rng(0).normal(size=(300, 2))
    apart = np.sort(np.linalg.norm(z[:, None] - z, axis=2), axis=1)[:, 10]  # the particle itself comes first
    lonely, crowded = apart.argmax(), apart.argmin()
    around = tr.occupancy(z, tr.straight_path(z, (int(crowded), int(lonely)), points=2))
    assert around.usual == pytest.approx(np.percentile(apart, 99))
    np.testing.assert_allclose(around.crowd, apart[[crowded, lonely]])
    assert around.empty.tolist() == [1]


def test_points_of_a_graph_path_are_the_particles_it_names(arc, ends):
    z, angle = arc
    middle = int(np.abs(angle - 2.0).argmin())
    anchors = (ends[0], middle, ends[1])
    path = tr.graph_path(z, anchors, points=12)
    assert len(path.points) == 12
    np.testing.assert_array_equal(path.points, z[path.particles])
    assert tuple(path.particles[list(path.anchors)]) == anchors
    assert path.anchors[0] == 0 and path.anchors[-1] == 11
    steps = np.linalg.norm(np.diff(z[path.visited], axis=0), axis=1)
    assert path.length == pytest.approx(steps.sum())
    assert steps.max() <= ng.neighbour_graph(z).radius
    full = tr.graph_path(z, anchors, points=10_000)
    np.testing.assert_array_equal(full.particles, path.visited)


@pytest.mark.parametrize(("n", "dimensions", "degree"), [(400, 2, 5), (300, 4, 5), (300, 3, 2)])
def test_degrees_counted_by_brute_force(n, dimensions, degree):
    """Among each other's nearest `2 degree`, and the shortest of those edges."""
    z = np.random.default_rng(n).normal(size=(n, dimensions))
    graph = ng.neighbour_graph(z, degree)
    apart = np.linalg.norm(z[:, None] - z, axis=2)
    np.fill_diagonal(apart, np.inf)
    near = apart <= np.sort(apart, axis=1)[:, [2 * degree - 1]]
    edges = np.where(near & near.T, apart, np.inf)
    shortest = np.sort(edges[np.triu_indices(n, 1)])[: n * degree // 2]
    assert graph.radius == pytest.approx(shortest[-1])
    dense = graph.distance.toarray()
    np.testing.assert_array_equal(dense > 0, edges <= shortest[-1] * (1 + 1e-12))
    np.testing.assert_allclose(dense[dense > 0], edges[dense > 0])
    count = (dense > 0).sum(axis=1)
    assert count.mean() == degree
    assert count.max() <= 2 * degree
    np.testing.assert_array_equal(graph.degrees, count)


def test_neighbours_do_not_depend_on_how_many_are_sought_at_a_time(monkeypatch):
    z = np.random.default_rng(1).normal(size=(200, 3))
    whole = ng.neighbour_graph(z).distance.toarray()
    monkeypatch.setattr("cryomorph.analysis.nearest.CHUNK", 7)
    np.testing.assert_array_equal(ng.neighbour_graph(z).distance.toarray(), whole)


def test_particles_at_one_point_are_neighbours_of_each_other_not_of_themselves():
    z = np.concatenate([np.zeros((30, 2)), np.random.default_rng(0).normal(size=(70, 2))])
    graph = ng.neighbour_graph(z)
    assert (graph.distance.diagonal() == 0).all()
    assert graph.degrees.max() <= 10
    stored = graph.distance.tocoo()
    assert (stored.row != stored.col).all()
    together = (stored.row < 30) & (stored.col < 30)
    assert together.any() and (stored.data[together] == 0).all()  # a step of no length is a step


def shortest_by_relaxing(dense: np.ndarray, start: int) -> np.ndarray:
    """Bellman and Ford's shortest distances: relax all edges until nothing changes."""
    weight = np.where(dense > 0, dense, np.inf)
    best = np.full(len(dense), np.inf)
    best[start] = 0
    for _ in range(len(dense)):
        best = np.minimum(best, (best[:, None] + weight).min(axis=0))
    return best


def test_shortest_way_on_a_graph_made_by_hand():
    """0 - 1 - 2 - 3 costs 3; the direct edge 0 - 3 costs 3.5; 4 hangs on 3; 5 is alone."""
    one, two = np.array([0, 1, 2, 0, 3]), np.array([1, 2, 3, 3, 4])
    cost = np.array([1.0, 1.0, 1.0, 3.5, 2.0])
    both = (np.concatenate([one, two]), np.concatenate([two, one]))
    graph = ng.NeighbourGraph(coo_array((np.tile(cost, 2), both), shape=(6, 6)).tocsr(), 3.5)
    way, at = ng.shortest_way(graph, np.array([0, 4]))
    np.testing.assert_array_equal(way, [0, 1, 2, 3, 4])
    np.testing.assert_array_equal(at, [0, 4])
    way, at = ng.shortest_way(graph, np.array([4, 0, 2]))
    np.testing.assert_array_equal(way, [4, 3, 2, 1, 0, 1, 2])
    np.testing.assert_array_equal(at, [0, 4, 6])
    with pytest.raises(InputError, match="particles 0 and 5 are not connected"):
        ng.shortest_way(graph, np.array([0, 5]))


def test_ways_are_as_short_as_relaxing_finds():
    z = np.random.default_rng(3).normal(size=(150, 2))
    graph = ng.neighbour_graph(z)
    dense = graph.distance.toarray()
    best = shortest_by_relaxing(dense, 7)
    reached = np.flatnonzero(np.isfinite(best) & (best > 0))[::9]
    assert len(reached) > 5
    for stop in reached:
        way, _ = ng.shortest_way(graph, np.array([7, stop]))
        assert sum(dense[a, b] for a, b in pairwise(way)) == pytest.approx(best[stop])
        assert all(dense[a, b] > 0 for a, b in pairwise(way))


@pytest.mark.parametrize("points", [3, 5, 10, 39, 40, 41])
def test_thinning_keeps_anchors_and_is_even(points):
    rng = np.random.default_rng(points)
    arc = np.concatenate([[0], rng.uniform(0.5, 1.5, 39).cumsum()])
    anchors = np.array([0, 29, 39])
    kept = ng.thinned(arc, anchors, points)
    assert len(kept) == min(points, 40)
    assert (np.diff(kept) > 0).all()
    assert set(anchors) <= set(kept)
    if points == 10:
        assert np.diff(arc[kept]).max() < arc[-1] / 9 + 2  # a node off at either side
        assert np.diff(arc[kept]).min() > arc[-1] / 9 - 2


def test_thinning_of_nodes_that_crowd_together():
    """Nine nodes at one end: the even places there are none, yet each node is kept once at most."""
    arc = np.array([0, 1e-3, 2e-3, 3e-3, 4e-3, 5e-3, 6e-3, 7e-3, 1.0])
    for points in range(2, 10):
        kept = ng.thinned(arc, np.array([0, 8]), points)
        assert len(kept) == points
        assert len(set(kept)) == points


def test_a_straight_path_is_even_and_longer_ways_get_more_points():
    z = np.array([[0.0, 0], [3, 0], [3, 1], [9, 9]])
    path = tr.straight_path(z, (0, 1, 2), points=9)
    np.testing.assert_allclose(path.points, [[0, 0], [0.5, 0], [1, 0], [1.5, 0], [2, 0], [2.5, 0], [3, 0], [3, 0.5],
                                             [3, 1]])  # fmt: skip
    assert path.anchors == (0, 6, 8)
    assert path.particles is None
    np.testing.assert_allclose(path.arc, np.arange(9) / 2)
    np.testing.assert_allclose(tr.straight_path(z, (3, 0), points=2).points, z[[3, 0]])


def test_a_component_path_goes_from_percentile_to_percentile():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(500, 3)) * [1, 5, 2] + [10, 20, 30]
    pca = principal_components(z)
    path = tr.component_path(pca, 0, points=7, percentiles=(10.0, 90.0))
    along = (path.points - pca.mean) @ pca.components.T
    expected = np.linspace(*np.percentile(pca.projected[:, 0], [10, 90]), 7)
    np.testing.assert_allclose(along, np.stack([expected, 0 * expected, 0 * expected], axis=1), atol=1e-9)
    assert path.length == pytest.approx(expected[-1] - expected[0])
    with pytest.raises(InputError, match="--pc 4: the latent space has 3 components: expected 1 to 3"):
        tr.component_path(pca, 3, points=7)


def test_a_volume_component_path_stays_on_a_curved_landscape():
    """A parabola: at the coordinate's middle the median of the other one lies where no particle is."""
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, 3000)
    coordinates = np.stack([x, 2 * x**2], axis=1) + 0.02 * rng.normal(size=(3000, 2))
    z = rng.normal(size=(3000, 4))
    path = tr.volume_component_path(z, coordinates.astype(np.float32), 0, points=11)
    chosen = coordinates[path.particles]
    np.testing.assert_allclose(chosen[:, 0], np.linspace(*np.percentile(coordinates[:, 0], [5, 95]), 11), atol=0.05)
    assert (np.diff(chosen[:, 0]) > 0).all()
    assert np.abs(chosen[:, 1] - 2 * chosen[:, 0] ** 2).max() < 0.2  # while the median of all is 0.5
    np.testing.assert_array_equal(path.points, z[path.particles])
    with pytest.raises(InputError, match="--volume-pc 3: the landscape has 2 components: expected 1 to 2"):
        tr.volume_component_path(z, coordinates, 2, points=11)
    with pytest.raises(InputError, match="all particles have the same coordinate"):
        tr.volume_component_path(z, np.ones((3000, 1)), 0, points=11)


def test_a_gap_along_a_volume_component_gives_no_particle_twice():
    rng = np.random.default_rng(0)
    coordinates = np.concatenate([rng.normal(0, 0.1, (50, 2)), rng.normal(5, 0.1, (50, 2))])
    path = tr.volume_component_path(coordinates, coordinates, 0, points=30)
    assert len(set(path.particles)) == len(path.particles) <= 30
    assert (np.diff(coordinates[path.particles, 0]) >= 0).all()


def test_unconnected_anchors_are_named_with_the_nearest_that_are_connected():
    rng = np.random.default_rng(0)
    z = np.concatenate([rng.normal(size=(200, 2)) * 0.1, rng.normal(size=(100, 2)) * 0.1 + 5])
    links = ng.neighbour_graph(z).degrees
    here, there = int(links[:200].argmax()), 200 + int(links[200:].argmax())
    with pytest.raises(InputError) as said:
        tr.graph_path(z, (there, here), points=10)
    words = str(said.value)
    assert f"no path through the neighbour graph from particle {here} and the " in words
    assert f"to particle {there} (nearest to it there: " in words
    assert "--degree above 5" in words
    instead = int(re.search(r"there: (\d+)\)", words)[1])
    assert instead < 200
    if instead != here:
        assert len(tr.graph_path(z, (instead, here), points=10).points) >= 2  # what it proposes works


def test_anchors_that_cannot_be_meant():
    z = np.array([[0.0, 0], [0, 0], [1, 1]])
    for make in (tr.straight_path, tr.graph_path):
        with pytest.raises(InputError, match="particle 3: the run has particles 0 to 2"):
            make(z, (0, 3), points=5)
        with pytest.raises(InputError, match="particle -1: the run has particles 0 to 2"):
            make(z, (-1, 2), points=5)
        with pytest.raises(InputError, match="particles 0 and 1 have the same latent point"):
            make(z, (0, 1), points=5)
    with pytest.raises(InputError, match="a neighbour graph of 1 particles"):
        ng.neighbour_graph(z[:1])
