"""The report's summary in words: what may be believed, and what asks for caution."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int64

from cryomorph.analysis.latent import Outliers
from cryomorph.report import plots
from cryomorph.report.page import Note

COLLAPSED_STD = 0.9  # posterior sd, prior 1: above this the images hardly say anything about a component


def findings(
    *,
    reproducibility: Float[np.ndarray, " q"] | None = None,
    std: Float[np.ndarray, "n q"] | None = None,
    resolution_A: float | None = None,
    outlying: Outliers | None = None,
    contrast: str = "",
    warnings: Sequence[str] = (),
    more: Sequence[Note] = (),
) -> tuple[Note, ...]:
    """The summary in words, warnings first.

    Args:
        reproducibility: agreement of each component between half sets, 0 to 1.
        std: posterior standard deviations; a component that keeps its prior's is named.
        contrast: the sentence that says whether images were inverted, and why.
        more: what the method has to say of itself.
    """
    notes = [*(Note(text, "warning") for text in warnings), *more]
    if std is not None:
        flat = np.flatnonzero(np.median(std, axis=0) > COLLAPSED_STD) + 1
        if len(flat):
            text = f"The images say next to nothing about {components(flat)}: the posterior is as wide as the prior."
            notes.append(Note(text, "warning"))
    if reproducibility is not None:
        good = reproducibility >= plots.REPRODUCIBLE
        text = f"{int(good.sum())} of {len(good)} components {'is' if good.sum() == 1 else 'are'} reproducible"
        text += " between half sets of the particles."
        notes.append(Note(text, "good" if good.any() else "warning"))
        if not good.all():
            bad = components(np.flatnonzero(~good) + 1)
            notes.append(Note(f"Do not interpret {bad}: what one half shows, the other does not.", "warning"))
    if resolution_A is not None:
        text = (
            f"The consensus map reaches {resolution_A:.1f} Å (FSC 0.143). Parts that move are less resolved than that."
        )
        notes.append(Note(text))
    if contrast:
        notes.append(Note(contrast))
    if outlying is not None and len(outlying.norm):
        share = len(outlying.index) / len(outlying.norm)
        many = "particle lies" if len(outlying.index) == 1 else "particles lie"
        text = f"{len(outlying.index):,} {many} far outside the others in latent space ({share:.1%})."
        notes.append(Note(text, "warning" if share > 0.05 else "info"))
    return tuple(sorted(notes, key=lambda note: note.level != "warning"))


def components(numbers: Int64[np.ndarray, " m"]) -> str:
    """`component 1`, `components 1, 2 and 3`."""
    return f"component{'s' if len(numbers) > 1 else ''} {_listed(numbers)}"


def _listed(numbers: Int64[np.ndarray, " m"]) -> str:
    """`1`, `1 and 2`, `1, 2 and 3`."""
    *most, last = (str(number) for number in numbers)
    return f"{', '.join(most)} and {last}" if most else last
