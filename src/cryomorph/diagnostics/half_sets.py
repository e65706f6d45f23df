"""Check of reproducibility: which components two halves of the particles agree on."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from cryomorph.diagnostics.check import LISTED, Check, named, not_measured
from cryomorph.latents.linear_fit import REPRODUCIBLE, is_reproducible


def half_sets_check(agreement: Float[np.ndarray, " q"] | None, *, start: bool) -> Check:
    """Agreement of the half sets on each component; None where a run was fitted once.

    Args:
        start: whether it is about the linear model that the training started from.
    """
    name = "Reproducibility between half sets" + " (linear start)" * start
    expected = f"{REPRODUCIBLE} or more for each component"
    if agreement is None:
        advice = "This model was fitted once, to all particles. `cryomorph train linear` fits each half set separately."
        return not_measured(name, expected, advice)
    good = is_reproducible(agreement)
    value = ", ".join(f"{one:.2f}" for one in agreement.clip(min=0))
    if len(good) > LISTED:
        value = f"lowest {max(agreement.min(), 0):.2f}, median {max(np.median(agreement), 0):.2f}"
    count, total = int(good.sum()), len(good)
    all_of_them = "Both components" if total == 2 else f"All {total} components"
    which = all_of_them if good.all() and total > 1 else f"{count} of {total} components"
    verb = "is" if count == 1 else "are"
    meaning = f"{which}{' of the linear start' * start} {verb} reproducible between half sets of the particles"
    if not good.all():
        meaning += f": do not interpret {named('component', (np.flatnonzero(~good) + 1).tolist())}"
    tail = " The network itself was trained once, on all particles." if start else ""
    return Check(name, value, expected, "good" if good.all() else "warning", f"{meaning}.{tail}", headline=True)
