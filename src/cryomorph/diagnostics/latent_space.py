"""Checks of where the particles lie: how precisely that is known, and how many lie far from the others."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from cryomorph.analysis.latent import Outliers
from cryomorph.diagnostics.check import LISTED, Check, named

WIDE = 0.9  # of the prior's width: a wider posterior says hardly anything about a component
MANY_OUTLIERS = 0.05  # share of the particles


def posterior_width_check(relative_std: Float[np.ndarray, "n q"]) -> Check:
    """Whether the images narrow the prior down.

    Args:
        relative_std: posterior standard deviations as a share of the prior's.
    """
    median = np.median(relative_std, axis=0)
    wide = np.flatnonzero(median > WIDE) + 1
    value = ", ".join(f"{one:.2f}" for one in median) if len(median) <= LISTED else f"up to {median.max():.2f}"
    meaning = "The images determine every component better than the prior alone."
    if len(wide):
        which = named("component", wide.tolist())
        meaning = f"The images say next to nothing about {which}: the posterior is nearly as wide as the prior."
    return Check(
        "Posterior width relative to the prior (median)",
        value,
        f"at most {WIDE} for each component",
        "warning" if len(wide) else "good",
        meaning,
    )


def outliers_check(found: Outliers) -> Check:
    """How many particles lie far from the others."""
    count, share = len(found.index), len(found.index) / max(len(found.norm), 1)
    many = share > MANY_OUTLIERS
    meaning = "Particles that lie far from all others in latent space; see the section on outliers."
    if many:
        meaning = "So many particles far from all others suggest junk, wrong poses, or a model that has not converged."
    if not count:
        meaning = "No particle lies far from all others in latent space."
    return Check(
        "Outliers",
        f"{count:,} particle{'s' * (count != 1)} ({share:.1%})",
        f"no bound; above {MANY_OUTLIERS:.0%} is a warning",
        "warning" if many else "info",
        meaning,
        headline=True,
    )
