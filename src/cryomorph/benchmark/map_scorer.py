"""Scores of maps, one for each picked particle, against the true map of that particle."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from cryomorph.benchmark.metrics import fsc_area
from cryomorph.benchmark.truth_set import TruthSet
from cryomorph.volumes.fsc import fsc
from cryomorph.volumes.grid import resize


@dataclass(frozen=True)
class MapScorer:
    """Compares maps with the truth of a set; the masks of the last two states are cached."""

    truth: TruthSet
    _mask: Callable[[int], Float32[Tensor, "z y x"]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_mask", lru_cache(maxsize=2)(self.truth.truth_mask))

    def score(self, map: Float32[Tensor, "z y x"], state: int) -> dict[str, float]:
        """Areas under the FSC: without a mask (clipped and not), in the mask of the truth, and where true maps differ.

        A map of a smaller box is padded in Fourier space: shells that it lacks count as 0.
        """
        map, true = resize(map, self.truth.box), self.truth.read_map(state)
        moving = self.truth.moving_mask
        masks = [torch.ones_like(true), self._mask(state)] + ([] if moving is None else [moving])
        curves = fsc(torch.stack([map * mask for mask in masks]), torch.stack([true * mask for mask in masks])).numpy()
        scores = {"auc": fsc_area(curves[0]), "auc_unclipped": fsc_area(curves[0], clip=False)}
        return scores | dict(zip(("auc_masked", "auc_moving"), (fsc_area(curve) for curve in curves[1:]), strict=False))

    def mean(
        self, maps: Iterable[tuple[int, Float32[Tensor, "z y x"]]], count: Int64[np.ndarray, " k"]
    ) -> dict[str, float]:
        """Mean scores of `(state, map)` pairs, each state weighted by its `count`."""
        scored = [(self.score(map, state), int(count[state])) for state, map in maps]
        weights = [weight for _, weight in scored]
        return {name: float(np.average([row[name] for row, _ in scored], weights=weights)) for name in scored[0][0]}
