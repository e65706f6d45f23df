"""Checks of two runs on the same particles: do they agree, and does their agreement mean anything."""

from __future__ import annotations

from cryomorph.analysis.compare import TURNED_DEG
from cryomorph.analysis.comparison import ComparisonSummary
from cryomorph.diagnostics.check import Check

ALIKE, PARTLY = 0.8, 0.5  # held-out R^2 of one latent from the other above which runs agree, and agree in part
CLUSTERS_ALIKE = 0.9  # of what one run's clusters reach with themselves
MAPS_ALIKE = 0.8  # share of particles

SECOND_RUN = "Agreement with a second run"
EXPECTED_R2 = f"held-out R² of one latent space from the other above {ALIKE}"
SHARED = "Both runs have the same latent points, from a stage that they share, so their agreement means nothing."


def comparison_checks(found: ComparisonSummary) -> tuple[Check, ...]:
    """All checks of a comparison."""
    checks = [latents_check(found, name="Latent spaces"), clusters_check(found.clusters, found.ceiling)]
    if found.maps is not None:
        checks.append(maps_check(found.maps.matched, found.maps.points))
    return (*checks, poses_check(found.turn_deg))


def latents_check(found: ComparisonSummary, *, name: str = SECOND_RUN) -> Check:
    """Whether each run's latent space predicts the other's."""
    value = f"R² {found.r2[0]:.2f} (B from A) and {found.r2[1]:.2f} (A from B)"
    if found.maps is not None:
        same, others = found.maps.mean_fsc, found.maps.others_mean_fsc
        value += f"; mean FSC of maps at the same particles {same:.2f}, at different particles {others:.2f}"
    low = min(found.r2)
    if found.same_points:
        return Check(name, value, EXPECTED_R2, "warning", SHARED, headline=True)
    if low > ALIKE:
        return Check(name, value, EXPECTED_R2, "good", "Both runs found the same landscape.", headline=True)
    if low > PARTLY:
        return Check(name, value, EXPECTED_R2, "info", "The runs agree in part.", headline=True)
    text = "The runs found different landscapes: do not interpret what only one of them shows."
    return Check(name, value, EXPECTED_R2, "warning", text, headline=True)


def clusters_check(agreement: float, ceiling: float) -> Check:
    """Whether two runs' clusters agree as well as clusters of one run from two random starts do.

    Args:
        agreement, ceiling: shares of the particles in matched clusters, of both runs and of one run clustered twice.
    """
    share = agreement / max(ceiling, 1e-9)
    return Check(
        "Clusters",
        f"{agreement:.0%} of the particles are in matched clusters",
        f"{ceiling:.0%}, as for one run clustered twice",
        "good" if share > CLUSTERS_ALIKE else "info",
        f"That is {share:.0%} of what one run reaches with itself from another random start.",
        headline=True,
    )


def maps_check(matched: int, points: int) -> Check:
    """Whether the other run's most similar map is the one at the same particle.

    Args:
        matched: particles at which it is.
        points: particles at which maps were compared.
    """
    good = matched > MAPS_ALIKE * points
    return Check(
        "Maps",
        f"{matched} of {points} maps are most similar to the other run's map at the same particle",
        f"more than {MAPS_ALIKE:.0%}",
        "good" if good else "warning",
        "The runs decode the same structure for the same particle."
        if good
        else f"At the other {points - matched}, a map at a different particle is more similar.",
        headline=True,
    )


def poses_check(turn_deg: float) -> Check:
    """Whether both runs' maps are in one frame."""
    good = turn_deg <= TURNED_DEG
    return Check(
        "Poses",
        f"{turn_deg:.1f}° between the runs (median)",
        f"at most {TURNED_DEG:g}°",
        "good" if good else "warning",
        "The maps of both runs are in the same orientation."
        if good
        else "The maps of the two runs are not in the same orientation, which lowers their FSC.",
    )
