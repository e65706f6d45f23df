"""Figures: that they draw, are not empty, and say what the numbers say."""

from __future__ import annotations

import io

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.image import imread

from cryomorph.analysis.latent import gaussian_mixture, kmeans_on_data, outliers, principal_components
from cryomorph.report import fsc_plots, latent_plots, training_plots
from cryomorph.report.style import cluster_colours

N, BOX, PIXEL_A = 600, 64, 2.0
SHELL = np.arange(BOX // 2)


@pytest.fixture(scope="module")
def z():
    rng = np.random.default_rng(0)
    place = np.array([[-4.0, 0, 0], [4.0, 1, 0]])
    z = place[rng.integers(0, 2, size=N)] + rng.normal(size=(N, 3)) * [0.8, 0.6, 0.2]
    z[:4] *= 10
    return z


def _figures(z):
    pca, km = principal_components(z), kmeans_on_data(z, 7)
    plane = pca.projected[:, :2]
    curve = 1 - SHELL / 31  # crosses 0.5 at shell 15.5
    return {
        "density": latent_plots.density(plane, title="Two groups"),
        "umap density": latent_plots.density(plane, ("UMAP1", "UMAP2"), title="UMAP", numbers=False),
        "clusters": latent_plots.clusters(plane, km.labels, km.centre_index, title="7 clusters"),
        "mixture": latent_plots.mixture(pca, gaussian_mixture(z, 2)),
        "explained variance": latent_plots.explained_variance(pca.explained_ratio),
        "norm histogram": latent_plots.norm_histogram(outliers(z)),
        "histogram": latent_plots.histogram(z[:, 0], "PC1", marks=[-4.0, 0.0, 4.0], title="Two modes"),
        "fsc": fsc_plots.fsc_curves({"unmasked": curve, "masked": None}, pixel_A=PIXEL_A, box=BOX),
        "noise": fsc_plots.noise_spectrum(100.0 / (1 + SHELL), pixel_A=PIXEL_A, box=BOX),
        "posterior": latent_plots.posterior_spread(np.abs(z / 40).clip(0.01)),
        "reproducibility": training_plots.half_sets_plot(np.array([0.95, 0.6, 0.1])),
        "convergence": training_plots.convergence_plot(np.geomspace(9, 1, 12)),
    }


def _title(figure):
    return figure.axes[0].get_title(loc="left")


def test_every_figure_draws_with_a_title_and_labelled_axes_and_leaves_settings_alone(z):
    before = dict(mpl.rcParams)
    for name, figure in _figures(z).items():
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=50)
        pixels = imread(io.BytesIO(buffer.getvalue()))
        assert (pixels[..., :3].min(axis=-1) < 0.7).mean() > 0.004, name  # more than a frame
        axes = figure.axes[0]
        assert _title(figure) and axes.get_xlabel() and axes.get_ylabel(), name
    assert dict(mpl.rcParams) == before


def test_titles_state_the_finding(z):
    figures = _figures(z)
    assert _title(figures["reproducibility"]) == "2 of 3 components are reproducible"
    found = outliers(z)
    assert _title(figures["norm histogram"]).startswith(f"{len(found.index)} outliers")
    ratio = principal_components(z).explained_ratio[0]
    assert _title(figures["explained variance"]) == f"PC1 explains {ratio:.0%} of the variance"
    # the line falls to 0.143 at shell 31 * (1 - 0.143)
    assert _title(figures["fsc"]).startswith(f"{BOX * PIXEL_A / (31 * 0.857):.1f} Å at FSC 0.143")


def test_fsc_marks_lie_where_the_curve_crosses_the_thresholds():
    figure = fsc_plots.fsc_curves({"corrected": 1 - SHELL / 31}, pixel_A=PIXEL_A, box=BOX)
    marks = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    found = sorted(float(line.get_xdata()[0]) for line in marks)
    np.testing.assert_allclose(found, np.array([0.5, 0.857]) * 31 / (BOX * PIXEL_A))


def test_mixture_ellipses_have_the_projected_standard_deviations():
    rng = np.random.default_rng(1)
    z = rng.normal(size=(4000, 2)) * [5.0, 1.0]
    pca, gmm = principal_components(z), gaussian_mixture(z, 1)
    ellipse = latent_plots.mixture(pca, gmm).axes[0].patches[0]
    np.testing.assert_allclose([ellipse.width, ellipse.height], 2 * z.std(axis=0), rtol=0.02)
    assert abs((ellipse.angle + 90) % 180 - 90) < 2


def test_half_of_the_particles_lie_inside_the_inner_contour():
    rng = np.random.default_rng(2)
    points = rng.normal(size=(20_000, 2))
    figure = latent_plots.density(points, title="A normal distribution")
    contours = next(c for c in figure.axes[0].collections if type(c).__name__ == "QuadContourSet")
    shares = [path.contains_points(points).mean() for path in contours.get_paths()]
    np.testing.assert_allclose(shares, [0.9, 0.5], atol=0.05)


def test_figures_of_one_component_and_of_a_collapsed_latent_do_not_fail():
    flat = np.zeros((30, 2))
    latent_plots.density(flat, title="Collapsed").savefig(io.BytesIO(), format="png", dpi=30)
    latent_plots.norm_histogram(outliers(flat)).savefig(io.BytesIO(), format="png", dpi=30)
    latent_plots.explained_variance(np.ones(1)).savefig(io.BytesIO(), format="png", dpi=30)
    latent_plots.posterior_spread(np.ones((30, 1))).savefig(io.BytesIO(), format="png", dpi=30)
    training_plots.convergence_plot(np.ones(1)).savefig(io.BytesIO(), format="png", dpi=30)


def test_cluster_colours_are_distinct():
    assert len(np.unique(cluster_colours(20), axis=0)) == 20
    assert cluster_colours(1).shape == (1, 4)
