"""Checks of decoded maps against maps of the particles themselves, for clusters and for states."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from cryomorph.analysis.neighbours import SMALLEST_COUNT
from cryomorph.analysis.state_maps import STATE, StateMap
from cryomorph.diagnostics.check import Check, named, not_measured
from cryomorph.volumes.fsc import is_nyquist

RECONSTRUCT = "Analyse without --no-reconstruct."


def cluster_maps_check(resolutions_A: Sequence[float], consensus_A: float, *, pixel_A: float) -> Check:
    """Decoded against reconstructed maps at the clusters' centres.

    Args:
        resolutions_A: where the FSC of each pair falls below 0.5; empty where nothing was reconstructed.
        consensus_A: the same of the consensus's half maps.
        pixel_A: of the maps, whose Nyquist limit is no measurement.
    """
    name = "Decoded and reconstructed maps of the clusters"
    better = " or better" * is_nyquist(consensus_A, pixel_A)
    expected = f"no bound; the half maps of the consensus agree to {consensus_A:.1f} Å{better} (FSC 0.5)"
    if not len(resolutions_A):
        return not_measured(name, expected, RECONSTRUCT)
    low, middle, high = np.percentile(resolutions_A, [0, 50, 100]).tolist()
    if is_nyquist(high, pixel_A):
        value = f"agree to {high:.1f} Å or better (FSC 0.5; all of {len(resolutions_A)} clusters)"
    else:
        value = f"agree to {middle:.1f} Å (FSC 0.5; median of {len(resolutions_A)} clusters, {low:.1f} to {high:.1f} Å)"
    text = (
        "Where particles are scarce, the reconstruction falls back to the consensus, which makes the agreement look "
        "better than it is."
    )
    return Check(name, value, expected, "info", text)


def state_maps_check(mapped: Mapping[int, StateMap], particles: Sequence[int]) -> Check:
    """Decoded against reconstructed maps of the states, compared with the consensus.

    Args:
        mapped: the states that were reconstructed.
        particles: how many each state has.
    """
    name, expected = "Decoded and reconstructed maps of the states", "better than the consensus, close to the ceiling"
    if not mapped:
        enough = max(particles) >= SMALLEST_COUNT
        advice = RECONSTRUCT if enough else f"No state has the {SMALLEST_COUNT} particles that a map needs."
        return not_measured(name, expected, advice)
    at = np.median([one.decoded.resolution_05_A for one in mapped.values()])
    decoded, ceiling, consensus = (
        float(np.mean([one.agreement[which].mean_fsc for one in mapped.values()]))
        for which in (STATE, "ceiling", "consensus")
    )
    value = (
        f"mean FSC {decoded:.2f}, agree to {at:.1f} Å (FSC 0.5; median of {len(mapped)} states); "
        f"ceiling {ceiling:.2f}, consensus {consensus:.2f}"
    )
    below = [state for state, one in mapped.items() if one.decoded.mean_fsc <= one.agreement["consensus"].mean_fsc]
    if not below:
        text = "For each state, the model's map agrees with the particles better than the consensus map does."
        return Check(name, value, expected, "good", text)
    text = (
        f"For {named('state', below)} the consensus map agrees with the particles as well as the model's map does. "
        "Either the state holds most of the particles, or the model is wrong there: look at the maps."
    )
    return Check(name, value, expected, "warning", text)


def smallest_check(counts: Sequence[int], kind: str, mapped: Mapping[int, StateMap]) -> Check:
    """Whether the smallest state or cluster has enough particles for a map.

    Args:
        counts: particles in each.
        kind: what they are: `state` or `cluster`.
        mapped: the states that were reconstructed.
    """
    which = int(np.argmin(counts))
    value = f"{counts[which]:,} particle{'s' * (counts[which] != 1)} ({kind} {which})"
    if kind == "state" and which in mapped:
        value += f", half maps agree to {mapped[which].fsc.resolution_0143_A:.1f} Å (FSC 0.143)"
    expected = f"at least {SMALLEST_COUNT}: a map of fewer is dominated by noise"
    few = [number for number, count in enumerate(counts) if count < SMALLEST_COUNT]
    if not few:
        return Check(f"Smallest {kind}", value, expected, "good", f"Every {kind} has enough particles for a map.")
    text = f"No map can confirm {named(kind, few)}: a rare conformation, junk, or a fragment of a neighbouring {kind}."
    return Check(f"Smallest {kind}", value, expected, "warning", text)
