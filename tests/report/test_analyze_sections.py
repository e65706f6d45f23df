"""The sections of the report of `analyze`: what they say of numbers that are known."""

from __future__ import annotations

import numpy as np
import pytest

from cryomorph.analysis.latent import (
    gaussian_mixture,
    kmeans_on_data,
    nearest_particles,
    outliers,
    pc_trajectory,
    principal_components,
)
from cryomorph.config.errors import InputError
from cryomorph.report.analyze.clusters import cluster_section
from cryomorph.report.analyze.component import component_section
from cryomorph.report.analyze.consensus import consensus_section
from cryomorph.report.analyze.latent_space import latent_section
from cryomorph.report.analyze.mixture import mixture_section
from cryomorph.report.analyze.outliers import outlier_section
from cryomorph.report.page import Figure, Gallery, Report, Table, render_report


@pytest.fixture(scope="module")
def z():
    rng = np.random.default_rng(3)
    z = np.array([[-5.0, 0, 0], [5.0, 0, 0]])[np.arange(300) % 2] + rng.normal(size=(300, 3)) * [0.5, 0.4, 0.1]
    z[7] = [60, 0, 0]
    return z


def _pictures(count):
    return [np.full((4, 4, 4), i / max(count, 1), dtype=np.float32) for i in range(count)]


def _first(section, kind):
    return next(block for block in section.blocks if isinstance(block, kind))


def test_cluster_tiles_hold_counts_and_centres_and_both_maps(z):
    pca, km = principal_components(z), kmeans_on_data(z, 3)
    reconstructed = [*_pictures(2), None]
    section = cluster_section(pca, km, decoded=_pictures(3), reconstructed=reconstructed, level=0.5)
    tiles = _first(section, Gallery).tiles
    for i, tile in enumerate(tiles):
        count = int((km.labels == i).sum())
        assert tile.note == f"{count:,} particles ({count / 300:.1%}), centre: particle {km.centre_index[i]}"
    assert [list(tile.pictures) for tile in tiles] == [["decoded", "reconstructed"]] * 2 + [["decoded"]]
    with pytest.raises(InputError, match="2 decoded pictures for 3 places"):
        cluster_section(pca, km, decoded=_pictures(2))


def test_component_tiles_count_every_particle_once(z):
    pca = principal_components(z)
    path = pc_trajectory(pca, 0, points=4)
    section = component_section(pca, 0, path, pictures=_pictures(4), nearest=nearest_particles(z, path))
    assert section.title == "Along PC1"
    tiles = _first(section, Gallery).tiles
    counts = [int(tile.note.split(" ")[0]) for tile in tiles]
    distance = np.abs(pca.projected[:, :1] - ((path - pca.mean) @ pca.components[0]))
    assert counts == np.bincount(distance.argmin(axis=1), minlength=4).tolist()


def test_mixture_table_says_how_surely_particles_are_assigned(z):
    two = np.delete(z, 7, axis=0)
    section = mixture_section(principal_components(two), gaussian_mixture(two, 2))
    rows = _first(section, Table).rows
    assert [row[1] for row in rows] == [150, 149] or [row[1] for row in rows] == [149, 150]
    assert [row[3] for row in rows] == ["100%", "100%"]


def test_outlier_table_lists_the_most_extreme(z):
    table = _first(outlier_section(outliers(z, 8.0), listed_in="outliers.csv"), Table)
    assert [row[0] for row in table.rows] == ["7"]
    assert table.rows[0][1] == pytest.approx(60)
    assert "The only one. It is listed in outliers.csv." in table.caption
    assert "There are none." in _first(outlier_section(outliers(z, 1e6)), Table).caption


def test_sections_of_one_dimension_and_of_many_make_one_page(z):
    curve = np.linspace(1, 0, 16).astype(np.float32)
    consensus = consensus_section(
        {"front": _pictures(2)[1]}, curves={"unmasked": curve, "masked": None}, pixel_A=3.0, box=32, noise=curve + 1
    )
    for q in (1, 3):
        pca, km = principal_components(z[:, :q]), kmeans_on_data(z[:, :q], 3)
        embedding = None if q == 1 else pca.projected[:, :2]
        latent = latent_section(
            pca, embedding=embedding, std=np.full((300, q), 0.3), reproducibility=np.ones(q), objective=curve[:5]
        )
        sections = (
            consensus,
            latent,
            cluster_section(pca, km, decoded=_pictures(3), embedding=embedding),
            mixture_section(pca, gaussian_mixture(z[:, :q], 2), pictures=_pictures(2)),
            outlier_section(outliers(z[:, :q])),
        )
        figures = [block for section in sections for block in section.blocks if isinstance(block, Figure)]
        assert all(figure.caption and figure.alt for figure in figures)
        assert render_report(Report("run", sections)).count("<img") >= len(figures) + 1 + 3 + 2
