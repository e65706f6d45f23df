"""Point groups by RELION's names: the rotations of a symmetric molecule onto itself, and symmetry expansion of poses.

A molecule with `V(S r) = V(r)` looks the same at `R` and at `R S`, since `p = R r`. The axes are RELION's (see the
conventions in its manual, after Heymann, Chagoyen and Belnap 2005).
"""

from __future__ import annotations

import re

import numpy as np
import torch
from jaxtyping import Float64
from scipy.spatial.transform import Rotation
from torch import Tensor

from cryomorph.config.errors import InputError
from cryomorph.physics.pose import Pose

NAME = re.compile(r"([CD][1-9][0-9]?|[TO]|I[1-4]?)", re.IGNORECASE)
CUBE_DEG = float(np.rad2deg(np.arctan(np.sqrt(2))))  # between a cube's diagonal and its edge
FIVEFOLD_DEG = float(np.rad2deg(np.arctan(2 / (1 + np.sqrt(5)))))  # between a two-fold and the nearest five-fold axis
TURNS: dict[str, tuple[str, tuple[float, ...]]] = {
    "T": ("zx", (-135, -CUBE_DEG)),  # three-fold on z, a two-fold in the yz plane
    "I2": ("z", (90,)),
    "I3": ("zy", (90, -FIVEFOLD_DEG)),
    "I4": ("zy", (90, FIVEFOLD_DEG)),
}
"""Rotations from scipy's groups (two-folds along x, y and z; `I` is RELION's `I1`) to RELION's axes."""


def point_group(name: str) -> Float64[Tensor, "order 3 3"]:
    """Rotation matrices of a point group, the identity first.

    Args:
        name: `Cn` (axis along z), `Dn` (with a two-fold along x), n up to 99, `T`, `O`, `I1` to `I4`, or `I` for `I2`.

    Raises:
        InputError: the name is unknown.
    """
    if not NAME.fullmatch(name):
        raise InputError(
            f"symmetry '{name}': expected a point group in RELION's notation: C1, C2 ... C99, "
            "D1 ... D99, T, O, I, I1, I2, I3 or I4"
        )
    kind = "I2" if name.upper() == "I" else name.upper()
    group = Rotation.create_group("I" if kind[0] == "I" else kind)  # type: ignore[arg-type]  # stubs know no "C3"
    if kind in TURNS:
        turn = Rotation.from_euler(*TURNS[kind], degrees=True)
        group = turn * group * turn.inv()
    order = np.argsort(group.magnitude() > np.pi / 100, kind="stable")
    return torch.from_numpy(group[order].as_matrix())


def expand_pose(pose: Pose, group: Float64[Tensor, "order 3 3"]) -> Pose:
    """All poses at which a symmetric particle looks the same: `R S` for every `S`, with the same shift.

    Copies of a particle are consecutive, as in `relion_particle_symmetry_expand`: copy `i` is of
    particle `i // order`, at `R S[i % order]`.
    """
    rotation = pose.rotation.double()[:, None] @ group
    return Pose(rotation.flatten(0, 1).to(pose.rotation), pose.shift_A.repeat_interleave(len(group), 0))
