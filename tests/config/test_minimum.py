"""Least values of options."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from cryomorph.config.errors import InputError
from cryomorph.config.minimum import check_minimum


@dataclass(frozen=True)
class Config:
    seed: int = 0
    pc_points: float = 2.0
    box: int | None = None


def test_values_below_the_least_are_refused_by_option():
    check_minimum(Config(), seed=0, pc_points=2, box=8)
    with pytest.raises(InputError, match=r"^--seed -1: expected 0 or more$"):
        check_minimum(Config(seed=-1), seed=0)
    with pytest.raises(InputError, match=r"^--pc-points 1.5: expected 2 or more$"):
        check_minimum(Config(pc_points=1.5), seed=0, pc_points=2)
