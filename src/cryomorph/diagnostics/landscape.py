"""Checks of a landscape: are particles placed well, are there states, is there one motion."""

from __future__ import annotations

from collections.abc import Sequence

from cryomorph.analysis.landscape.embedding import SUFFICIENT_R2
from cryomorph.diagnostics.check import Check

RARE = 0.02  # share of the particles below which a state is called rare
ONE_CURVE = 0.9  # of the spread, which a curve and noise must explain together for one motion

CONTINUUM = "No number of states stands out: the maps form a continuum, and borders between states are arbitrary."


def placement_check(r2: float, held_out: int) -> Check:
    """How well a particle's coordinates in volume space are predicted from its latent point.

    Args:
        held_out: maps on which `r2` was measured.
    """
    good = r2 >= SUFFICIENT_R2
    return Check(
        "Coordinates in volume space, held-out R²",
        f"{r2:.4f} ({held_out} maps)",
        f"{SUFFICIENT_R2} or more",
        "good" if good else "warning",
        "States and coordinates of single particles are as reliable as the maps of the model."
        if good
        else "Too low to place single particles: give `cryomorph landscape` more --pairs, or train a smoother model.",
        headline=True,
    )


def states_check(used: int, suggested: int, *, clear: bool, again: str) -> Check:
    """Whether the maps fall into discrete states.

    Args:
        used: states that the maps were divided into.
        suggested: states that the maps themselves suggest.
        clear: whether these are well separated.
        again: the command that makes another landscape.
    """
    name, expected = "Discrete states", "as many as the maps suggest"
    if not clear:
        return Check(name, f"{used}, not clearly separated", expected, "info", CONTINUUM, headline=True)
    value = f"{used}, and {suggested} suggested"
    if used == suggested:
        return Check(name, value, expected, "good", f"The maps fall into {used} well-separated states.", headline=True)
    text = f"The maps fall into {suggested} well-separated states: `{again} --states {suggested}` uses that number."
    return Check(name, value, expected, "info", text, headline=True)


def rare_states_check(counts: Sequence[int], particles: int) -> Check:
    """Which states have few of the particles.

    Args:
        counts: particles in each state.
        particles: of the whole run.
    """
    rare = [state for state, count in enumerate(counts) if count < RARE * particles]
    name, expected = "Rare states", "no bound"
    if not rare:
        return Check(name, "none", expected, "info", f"Every state has at least {RARE:.0%} of the particles.")
    value = ", ".join(f"state {state} ({counts[state]:,} particle{'s' * (counts[state] != 1)})" for state in rare)
    return Check(
        name, value, expected, "info", "Look at the maps: junk, outliers or a rare conformation.", headline=True
    )


def one_motion_check(explained: float, noise: float, *, discrete: bool) -> Check:
    """Whether one curve accounts for all variability.

    Args:
        explained, noise: shares of the spread in volume space along the curve, and due to uncertain latent points.
        discrete: whether there are well-separated states.
    """
    name, expected = "One continuous motion", f"curve and noise together above {ONE_CURVE:.0%}, no separate states"
    value = f"one curve explains {explained:.0%} of the spread in volume space, noise {noise:.0%}"
    if discrete or explained + noise <= ONE_CURVE:
        return Check(name, value, expected, "info", "There are separate states, or more than one motion.")
    text = "As far as these maps show, the motion has one degree of freedom."
    return Check(name, value, expected, "info", text, headline=True)
