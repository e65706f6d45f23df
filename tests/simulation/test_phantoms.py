"""Phantoms: their geometry is what their names say."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from scipy.spatial.transform import Rotation

from cryomorph.config.errors import InputError
from cryomorph.simulation.phantoms import PHANTOMS, Cloud, Conformations, domain, swung, three_modes


@pytest.mark.parametrize("name", PHANTOMS)
def test_a_phantom_is_consistent_and_fits_the_default_box(name: str) -> None:
    states = PHANTOMS[name]().centred()
    assert len(states) == len(states.probability) == len(states.coord) == len(states.names)
    assert states.probability.sum() == pytest.approx(1)
    assert states.radius_A + 64 / 16 * 4.0 < 64 * 4.0 / 2
    mass = sum(cloud.weight.sum() for cloud in states.clouds)
    centre = sum(cloud.weight @ cloud.position for cloud in states.clouds) / mass
    assert np.abs(centre).max() < 1e-9


def test_a_domain_is_a_chain_that_keeps_its_distances_and_its_shape() -> None:
    cloud = domain(300, (40, 20, 20), seed=1)
    assert np.allclose(np.linalg.norm(np.diff(cloud.position, axis=0), axis=1), 3.8)
    apart = cdist(cloud.position, cloud.position)[np.triu_indices(300, 2)]
    assert (apart < 3.8).mean() < 1e-3
    spread = cloud.position.std(axis=0)
    assert spread[0] > 1.4 * spread[1:].max()
    assert np.array_equal(domain(300, (40, 20, 20), seed=1).position, cloud.position)


def test_swung_is_a_rotation_about_the_pivot() -> None:
    cloud = Cloud(np.array([[2.0, 1, 5]]), np.ones(1))
    turned = swung(cloud, np.pi / 2, pivot_A=(1, 1, 0), axis=(0, 0, 3))
    assert np.allclose(turned.position, [[1, 2, 5]])


def test_the_hinge_swings_through_one_and_a_half_radians() -> None:
    states = PHANTOMS["uniform"]()
    first, last = states.clouds[0].position, states.clouds[-1].position
    still = np.linalg.norm(last - first, axis=1) < 1e-9
    assert still.sum() == 750  # core and foot
    a, b = (end[~still] - end[~still].mean(axis=0) for end in (first, last))
    turn, _ = Rotation.align_vectors(b, a)
    assert turn.magnitude() == pytest.approx(1.5)
    assert np.ptp(states.coord) == pytest.approx(1.5) and len(states) == 50


@pytest.mark.parametrize("spread", [0.09, 0.03])
def test_three_modes_have_the_moments_of_their_mixture(spread: float) -> None:
    states = three_modes(spread)
    angle, p = states.coord, states.probability
    thirds = np.array_split(np.arange(50), [17, 32])
    for part, mode in zip(thirds, (9, 24, 39), strict=True):
        share = p[part].sum()
        mean = p[part] @ angle[part] / share
        assert share == pytest.approx(1 / 3, abs=0.01)
        assert mean == pytest.approx(angle[mode], abs=0.01)
        # the bins add the variance of a uniform distribution of their width
        binned = np.sqrt(spread**2 + (angle[1] - angle[0]) ** 2 / 12)
        assert np.sqrt(p[part] @ (angle[part] - mean) ** 2 / share) == pytest.approx(binned, rel=0.1)


def test_the_complexes_are_nested_and_in_the_papers_proportion() -> None:
    states = PHANTOMS["compositional"]()
    sets = [{tuple(p) for p in cloud.position} for cloud in states.clouds]
    assert sets[0] < sets[1] < sets[2]
    assert np.allclose(states.probability * 50_000, [10_000, 15_000, 25_000])


def test_of_the_eight_states_three_are_alike_and_three_moved_far() -> None:
    states = PHANTOMS["eight-state"]()
    moved = {
        name: np.sqrt(((cloud.position - states.clouds[0].position) ** 2).sum(1).mean())
        for name, cloud in zip(states.names, states.clouds, strict=True)
    }
    assert max(moved[name] for name in "de") < min(moved[name] for name in "bc")
    assert max(moved[name] for name in "bc") < min(moved[name] for name in "fgh")


def test_two_hinge_is_a_plane_of_states() -> None:
    states = PHANTOMS["two-hinge"]()
    assert states.coord.shape == (81, 2)
    # the two coordinates move different residues
    base = states.clouds[0].position
    along_first = np.linalg.norm(states.clouds[72].position - base, axis=1) > 1e-6
    along_second = np.linalg.norm(states.clouds[8].position - base, axis=1) > 1e-6
    assert along_first.any() and along_second.any() and not (along_first & along_second).any()


def test_weightless_clouds_are_refused() -> None:
    cloud = Cloud(np.zeros((2, 3)), np.zeros(2))
    with pytest.raises(InputError, match="more than 0"):
        Conformations((cloud,), np.ones(1), np.zeros(1), ("nothing",)).centred()


def test_of_the_trimer_one_unit_at_a_time_opens() -> None:
    states = PHANTOMS["trimer"]()
    around = Rotation.from_euler("z", 120, degrees=True)
    per_unit = len(states) // 3
    closed = states.clouds[0].position
    units = closed.reshape(3, -1, 3)
    for unit in range(3):  # closed, it is threefold about z
        np.testing.assert_allclose(around.apply(units[unit - 1]), units[unit], atol=1e-9)
        opened = states.clouds[unit * per_unit + per_unit - 1].position
        moved = np.linalg.norm(opened - closed, axis=1) > 1e-6
        assert moved.sum() == 150 and set(np.flatnonzero(moved) // len(units[0])) == {unit}
        a, b = (end[moved] - end[moved].mean(axis=0) for end in (closed, opened))
        assert Rotation.align_vectors(b, a)[0].magnitude() == pytest.approx(1.2)
        # outward: away from the axis
        assert np.hypot(*opened[moved, :2].mean(0)) > np.hypot(*closed[moved, :2].mean(0)) + 15
    assert np.allclose(states.coord.reshape(3, -1), np.linspace(0, 1.2, per_unit))
    # centring leaves the axis where it is
    np.testing.assert_allclose(states.centred().clouds[0].position[:, :2], closed[:, :2], atol=1e-9)


def test_the_trimer_s_parts_keep_clear_of_each_other() -> None:
    states = PHANTOMS["trimer"]()
    for cloud in states.clouds[: len(states) // 3]:
        body, arm = cloud.position[:230], cloud.position[230:380]
        rest = np.concatenate([body, cloud.position[380:]])
        assert cdist(arm, rest).min() > 4.2
