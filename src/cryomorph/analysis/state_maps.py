"""Maps of a landscape's states: back-projected from each state's particles, and compared with its mean decoded map."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float32, Int
from torch import Tensor

from cryomorph.analysis.neighbours import SMALLEST_COUNT
from cryomorph.analysis.selection_map import Agreement, SelectionMap, agreement_of, compare_states, corrected_fsc
from cryomorph.runs.folder import RunFolder
from cryomorph.volumes.fsc import FscReport
from cryomorph.volumes.grid import rebox

STATE = "state_map"
"""The name of a state's mean decoded map among those that are compared with its particles' map."""


@dataclass(frozen=True)
class StateMap:
    """The map of a state's particles, its half maps' FSC, and how other maps agree with it.

    `agreement` has what `SelectionMap` has, and the state's mean decoded map; all count the shells that the latter has.
    `figures` holds the numbers as `SelectionMap.figures` does.
    """

    map: Float32[Tensor, "z y x"]
    fsc: FscReport
    agreement: Mapping[str, Agreement]
    figures: Mapping[str, Any]

    @property
    def decoded(self) -> Agreement:
        """Agreement of the state's mean decoded map."""
        return self.agreement[STATE]


def map_states(run: RunFolder, states: Int[np.ndarray, " n"], means: Float32[Tensor, "m z y x"]) -> dict[int, StateMap]:
    """Back-project each state's particles, and compare its mean decoded map with theirs.

    States of fewer than 64 particles are left out, since noise dominates their maps.

    Args:
        states: of each particle; below 0 for none.
        means: mean decoded map of each state.
    """
    store = run.store()
    shells = min(store.box, means.shape[-1]) // 2
    counts = np.bincount(states[states >= 0], minlength=len(means))
    few = np.flatnonzero(counts < SMALLEST_COUNT)
    if len(few) == len(means):
        return {}
    mapped = {}
    for state, one in compare_states(run, np.where(np.isin(states, few), -1, states)):
        both = compare_with(one, rebox(means[state], store.box), shells=shells)
        fsc = one.reconstruction.fsc
        mapped[state] = StateMap(one.reconstruction.map, fsc, both.agreement, both.figures())
    return mapped


def compare_with(one: SelectionMap, mean: Float32[Tensor, "z y x"], *, shells: int) -> SelectionMap:
    """A selection's maps with another one added to the decoded ones, compared over that many shells."""
    curves = {STATE: corrected_fsc(mean, one.reconstruction)}
    curves |= {name: found.curve for name, found in one.agreement.items()}
    fsc = one.reconstruction.fsc
    return replace(one, agreement={name: agreement_of(curve, fsc, shells=shells) for name, curve in curves.items()})
