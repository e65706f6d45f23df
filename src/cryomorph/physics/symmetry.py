"""Point groups by RELION's names: the rotations that leave a symmetric molecule as it is, and poses expanded by them.

A molecule with `V(S r) = V(r)` looks the same at `R` and at `R S`, since `p = R r`. Axes lie where RELION has them
(its manual's page on conventions, after Heymann, Chagoyen and Belnap 2005).
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
FIVEFOLD_DEG = float(np.rad2deg(np.arctan(2 / (1 + np.sqrt(5)))))  # between a two-fold axis and the nearest five-fold
TURNS: dict[str, tuple[str, tuple[float, ...]]] = {
    "T": ("zx", (-135, -CUBE_DEG)),  # three-fold on z, a two-fold in the yz plane
    "I2": ("z", (90,)),
    "I3": ("zy", (90, -FIVEFOLD_DEG)),
    "I4": ("zy", (90, FIVEFOLD_DEG)),
}
"""What brings scipy's groups (their two-folds on x, y and z, `I` as RELION's `I1`) to RELION's axes."""


def point_group(name: str) -> Float64[Tensor, "order 3 3"]:
    """Rotation matrices of a point group, the identity first.

    Args:
        name: `Cn` (axis on z), `Dn` (and a two-fold on x), n up to 99, `T`, `O`, `I1` to `I4`, or `I`, which is `I2`.

    Raises:
        InputError: another name.
    """
    if not NAME.fullmatch(name):
        raise InputError(
            f"symmetry {name or 'without a name'}: expected a point group as RELION calls it: C1, C2 ... C99, "
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
    """All poses at which a symmetric particle looks the same, `R S` for every `S`; shifts are in the image and stay.

    The copies of a particle follow one another, as `relion_particle_symmetry_expand` writes them: copy `i` is of
    particle `i // order`, at `R S[i % order]`.
    """
    rotation = pose.rotation.double()[:, None] @ group
    return Pose(rotation.flatten(0, 1).to(pose.rotation), pose.shift_A.repeat_interleave(len(group), 0))
