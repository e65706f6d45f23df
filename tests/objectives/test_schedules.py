"""Schedules against their definitions."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cryomorph.objectives.schedules import grown_radius, scheduled

STEPS = np.linspace(0, 1, 41)


def values(schedule, first, last):
    return [scheduled(schedule, float(p), first=first, last=last) for p in STEPS]


def test_constant_is_the_last_value_throughout():
    assert values("constant", 3.0, 7.0) == [7.0] * len(STEPS)


def test_linear_is_a_straight_line():
    np.testing.assert_allclose(values("linear", 3.0, 7.0), 3 + 4 * STEPS)


def test_cosine_is_half_a_wave():
    np.testing.assert_allclose(values("cosine", 2.0, 0.0), 1 + np.cos(np.pi * STEPS), atol=1e-12)
    assert scheduled("cosine", 0.25, first=1.0, last=0.0) == pytest.approx(0.5 + math.sqrt(0.125))


def test_cyclic_rises_in_the_first_half_of_each_of_four_cycles():
    """Fu et al. 2019: M = 4, R = 0.5."""
    expected = [min(1.0, 2 * ((p * 4) % 1)) if p < 1 else 1.0 for p in STEPS]
    np.testing.assert_allclose(values("cyclic", 0.0, 1.0), expected, atol=1e-9)
    np.testing.assert_allclose(values("cyclic", 5.0, 1.0), 5 - 4 * np.array(expected), atol=1e-9)
    for start in (0.0, 0.25, 0.5, 0.75):
        assert scheduled("cyclic", start) == 0
        assert scheduled("cyclic", start + 0.0625) == pytest.approx(0.5)
        assert scheduled("cyclic", start + 0.125) == scheduled("cyclic", start + 0.2) == 1


def test_a_schedule_goes_from_nothing_to_one_unless_said():
    for schedule in ("linear", "cosine", "cyclic"):
        assert scheduled(schedule, 0.0) == 0
        assert scheduled(schedule, 1.0) == 1
    assert scheduled("constant", 0.0) == 1


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine", "cyclic"])
@settings(deadline=None, derandomize=True)
@given(progress=st.floats(-3, 3), first=st.floats(-10, 10), last=st.floats(-10, 10))
def test_no_value_leaves_its_bounds(schedule, progress, first, last):
    """Before the beginning is the beginning, after the end the end."""
    value = scheduled(schedule, progress, first=first, last=last)
    assert min(first, last) - 1e-9 <= value <= max(first, last) + 1e-9
    if progress >= 1:
        assert value == pytest.approx(last)
    elif progress <= 0:
        assert value == pytest.approx(last if schedule == "constant" else first)


def test_the_band_grows_evenly_and_stays():
    found = [grown_radius(float(p), first=4.0, last=16.0, share=0.5) for p in STEPS]
    np.testing.assert_allclose(found, np.minimum(16, 4 + 24 * STEPS))


def test_no_share_is_the_whole_band_from_the_start():
    assert grown_radius(0.0, first=4.0, last=16.0, share=0.0) == 16
    assert grown_radius(0.0, first=4.0, last=16.0, share=1.0) == 4
    assert grown_radius(1.0, first=4.0, last=16.0, share=1.0) == 16
