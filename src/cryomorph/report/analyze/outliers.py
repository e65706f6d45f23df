"""The section on outliers: particles far from all others in latent space."""

from __future__ import annotations

from cryomorph.analysis.latent import Outliers
from cryomorph.report import latent_plots
from cryomorph.report.page import Figure, Section, Table

LISTED = 20


def outlier_section(found: Outliers, *, listed_in: str = "") -> Section:
    """The histogram of `|z|` and the most extreme particles.

    Args:
        listed_in: the file that lists all of them.
    """
    rows = tuple(
        (str(i), float(found.norm[i]), float(found.mahalanobis[i]), float(found.score[i]))
        for i in found.index[:LISTED].tolist()
    )
    shown = f"The {len(rows)} most extreme of {len(found.index):,}." if rows else "There are none."
    if 0 < len(rows) == len(found.index):
        shown = "The only one." if len(rows) == 1 else f"All {len(rows)}."
    more = f" {'All are' if len(found.index) > 1 else 'It is'} listed in {listed_in}." if listed_in and rows else ""
    table = Table(
        ("particle (0-based)", "|z|", "Mahalanobis distance", "score"),
        rows,
        f"{shown}{more} Score: number of robust standard deviations above the median. Mahalanobis distance: from the "
        "mean, in units of the spread of the latent space.",
    )
    plot = Figure(
        latent_plots.norm_histogram(found),
        "Particles far from the rest are often junk: ice, carbon edges, aggregates, or two particles in one box. They "
        "can also be a rare state: look at a class average of them before you discard them.",
        "Histogram of the distance from the origin of the latent space",
        vector=True,
        wide=True,
    )
    return Section("Outliers", (plot, table), "Particles that lie far from all others in latent space.")
