"""Figures of a landscape, read back from the drawing: what is drawn is what was given."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.colors import to_hex

from cryomorph.analysis.landscape.embedding import ParticleEmbedding, Spline
from cryomorph.analysis.landscape.states import Suggestion
from cryomorph.report.landscape.plots import by_state, counts_plot, merging_plot, pictures_plot, regression_plot
from cryomorph.report.style import PALETTE


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(2)


def test_points_have_the_colour_of_their_state_and_the_legend_counts_them(rng):
    points, states = rng.normal(size=(1200, 2)), rng.permutation(np.repeat([0, 1, 2], [690, 500, 10]))
    figure = by_state(points, states, ("volume PC1", "volume PC2"), title="maps")
    drawn = figure.axes[0].collections
    for state, one in enumerate(drawn):
        np.testing.assert_allclose(np.asarray(one.get_offsets()), points[states == state])
        assert to_hex(one.get_facecolor()[0]) == to_hex(PALETTE[state])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["0 (690)", "1 (500)", "2 (10)"]
    assert drawn[2].get_sizes()[0] > drawn[0].get_sizes()[0]  # a rare state is not to be overlooked
    assert drawn[2].get_zorder() > drawn[0].get_zorder()


def test_states_beyond_the_colours_have_other_marks(rng):
    count = len(PALETTE) + 1
    figure = by_state(rng.normal(size=(10 * count, 2)), np.arange(10 * count) % count, ("x", "y"), title="many")
    first, again = figure.axes[0].collections[0], figure.axes[0].collections[-1]
    assert to_hex(first.get_facecolor()[0]) == to_hex(again.get_facecolor()[0])
    assert len(first.get_paths()[0].vertices) != len(again.get_paths()[0].vertices)


def test_bars_are_as_high_as_the_counts():
    figure = counts_plot([30, 5, 1], [4000, 300, 20])
    for axes, counts, name in zip(figure.axes, ([30, 5, 1], [4000, 300, 20]), ("maps", "particles"), strict=True):
        assert [bar.get_height() for bar in axes.patches] == counts
        assert axes.get_ylabel() == name
        assert axes.get_yscale() == "log"


def test_merging_begins_at_two_states_and_says_what_stands_out():
    found = Suggestion(3, 2.0, 0.1, np.array([9.0, 8.0, 4.0, 3.5]))
    axes = merging_plot(found, 5).axes[0]
    np.testing.assert_array_equal(axes.lines[0].get_xydata(), [[2, 9], [3, 8], [4, 4], [5, 3.5]])
    assert axes.get_title(loc="left") == "The maps suggest 3 states"
    # 3 states remain after the merge from 4, and before that from 3: the line stands between
    assert [line.get_xdata()[0] for line in axes.lines[1:]] == [3.5, 5.5]
    unclear = merging_plot(replace(found, gap=1.0), 5).axes[0]
    assert unclear.get_title(loc="left") == "No number of states stands out"


def test_predicted_coordinates_stand_above_decoded_ones(rng):
    truth = rng.normal(size=(40, 4)).astype(np.float32)
    predicted = truth + np.float32(0.3) * rng.normal(size=(40, 4)).astype(np.float32)
    spline = Spline.through(truth, truth)
    figure = regression_plot(ParticleEmbedding(spline, truth, truth, predicted, ((40, 0.9),)))
    assert len(figure.axes) == 3
    for number, axes in enumerate(figure.axes):
        expected = np.stack([truth[:, number], predicted[:, number]], axis=1)
        np.testing.assert_allclose(np.asarray(axes.collections[0].get_offsets()), expected, rtol=1e-6)
        error = np.square(truth - predicted)[:, number].sum() / (40 * truth[:, number].var())
        assert axes.get_title(loc="left") == f"PC{number + 1}: R² {1 - error:.4f}"
    one = ParticleEmbedding(spline, truth[:, :1], truth[:, :1], predicted[:, :1], ((40, 0.9),))
    assert len(regression_plot(one).axes) == 1


def test_pictures_stand_in_rows_under_their_titles(rng):
    pictures = [rng.uniform(size=(6, 6, 4)).astype(np.float32) for _ in range(7)]
    axes = pictures_plot(pictures, [f"state {i}" for i in range(7)]).axes
    for number, picture in enumerate(pictures):
        np.testing.assert_allclose(np.asarray(axes[number].images[0].get_array()), picture)
        assert axes[number].get_title() == f"state {number}"
    assert not any(left.images for left in axes[7:])
