"""Phantoms: fictitious molecules as clouds of pseudo-atoms, one for each residue of a protein-like chain."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Float
from scipy.spatial.transform import Rotation
from scipy.special import ndtr

from cryomorph.config.errors import InputError

BOND_A = 3.8  # between neighbouring alpha carbons
CLEARANCE_A = 4.2  # between all others
HINGE_SPAN_RAD = 1.5
HINGE_MAPS = 50
OPENING_RAD = 1.2
Triple = tuple[float | int, float | int, float | int]


@dataclass(frozen=True)
class Cloud:
    """Pseudo-atoms: `position` (m, 3), `(x, y, z)` in Angstrom, and `weight` (m,), the integral of each."""

    position: Float[np.ndarray, "m 3"]
    weight: Float[np.ndarray, " m"]

    def __len__(self) -> int:
        return len(self.weight)

    def moved(self, rotation: Rotation, pivot_A: Float[np.ndarray, " 3"]) -> Cloud:
        """The cloud rotated about a point."""
        return Cloud(rotation.apply(self.position - pivot_A) + pivot_A, self.weight)


@dataclass(frozen=True)
class Conformations:
    """The states of a molecule: a cloud, a probability, a true coordinate `(k,)` or `(k, 2)` and a name for each."""

    clouds: tuple[Cloud, ...]
    probability: Float[np.ndarray, " k"]
    coord: Float[np.ndarray, "k ..."]
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.clouds)

    @property
    def radius_A(self) -> float:
        """Distance of the farthest pseudo-atom from the origin."""
        return float(max(np.linalg.norm(cloud.position, axis=1).max() for cloud in self.clouds))

    def centred(self) -> Conformations:
        """All states moved together so that the centre of mass of all of them lies at the origin.

        Raises:
            InputError: the sum of the weights is not positive.
        """
        total = sum(float(cloud.weight.sum()) for cloud in self.clouds)
        if total <= 0:
            raise InputError(f"the sum of the atoms' weights is {total:g}: expected more than 0; choose other atoms")
        centre = sum((cloud.weight @ cloud.position for cloud in self.clouds), np.zeros(3)) / total
        clouds = tuple(Cloud(cloud.position - centre, cloud.weight) for cloud in self.clouds)
        return Conformations(clouds, self.probability, self.coord, self.names)


def domain(residues: int, radii_A: Triple, *, seed: int) -> Cloud:
    """A compact chain within an ellipsoid around the origin: a protein domain with one pseudo-atom per residue.

    The chain grows by one bond at a time, in one of 32 random directions: directions too close to an earlier residue
    are excluded, straight ones are more likely, and those that leave the ellipsoid are unlikely.
    """
    rng = np.random.default_rng(seed)
    radii = np.asarray(radii_A)
    chain = np.zeros((residues, 3))
    heading = np.zeros(3)
    for i in range(1, residues):
        direction = rng.standard_normal((32, 3))
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        step = chain[i - 1] + BOND_A * direction
        excess = np.maximum(np.linalg.norm(step / radii, axis=1) - 1, 0)
        score = 1.5 * direction @ heading - 40 * excess + rng.gumbel(size=32)
        if i > 1:
            gap = np.linalg.norm(step[:, None] - chain[: i - 1], axis=2).min(axis=1)
            # a chain that is trapped leaves through the widest opening
            score -= 1e3 * np.maximum(CLEARANCE_A - gap, 0)
        chosen = int(score.argmax())
        chain[i], heading = step[chosen], direction[chosen]
    return Cloud(chain - chain.mean(0), np.ones(residues))


def placed(cloud: Cloud, centre_A: Triple, *, turn_deg: Triple = (0, 0, 0)) -> Cloud:
    """A domain rotated about its own centre by `x, y, z` Euler angles and moved to a point."""
    turned = Rotation.from_euler("xyz", turn_deg, degrees=True).apply(cloud.position)
    return Cloud(turned + np.asarray(centre_A), cloud.weight)


def merged(*clouds: Cloud) -> Cloud:
    """Several clouds as one."""
    return Cloud(np.concatenate([c.position for c in clouds]), np.concatenate([c.weight for c in clouds]))


def swung(cloud: Cloud, angle_rad: float, *, pivot_A: Triple, axis: Triple) -> Cloud:
    """A cloud rotated by an angle about an axis through a pivot."""
    direction = np.asarray(axis, dtype=float)
    turn = Rotation.from_rotvec(angle_rad * direction / np.linalg.norm(direction))
    return cloud.moved(turn, np.asarray(pivot_A, dtype=float))


def hinge(probability: Float[np.ndarray, " k"]) -> Conformations:
    """A core, a foot, and an arm that swings through 1.5 radians; the coordinate is the arm's angle in radians."""
    core = domain(520, (40, 27, 31), seed=101)
    foot = placed(domain(230, (19, 29, 20), seed=102), (-14, -54, -9))
    arm = placed(domain(330, (42, 18, 21), seed=103), (77, 8, 6))
    angles = np.linspace(0, HINGE_SPAN_RAD, len(probability))
    swing = partial(swung, arm, pivot_A=(36, 6, 3), axis=(-0.15, 0.25, 1.0))
    clouds = tuple(merged(core, foot, swing(float(angle) - HINGE_SPAN_RAD / 3)) for angle in angles)
    return Conformations(clouds, probability, angles, tuple(f"{angle:.3f} rad" for angle in angles))


def uniform() -> Conformations:
    """The hinge with 50 equally likely maps (cryoDRGN, Nature Methods 2021, *Uniform*)."""
    return hinge(np.full(HINGE_MAPS, 1 / HINGE_MAPS))


def three_modes(spread_rad: float) -> Conformations:
    """The hinge with three Gaussian modes of equal spread at its 10th, 25th and 40th map, binned to its 50 maps.

    Zhong et al. 2021: 0.09 radian for *Cooperative*, 0.03 for *Noncontiguous*; the tails beyond the ends are cut off.
    """
    angles = np.linspace(0, HINGE_SPAN_RAD, HINGE_MAPS)
    half_bin = (angles[1] - angles[0]) / 2
    modes = angles[[9, 24, 39]]
    upper = ndtr((angles[:, None] + half_bin - modes) / spread_rad)
    lower = ndtr((angles[:, None] - half_bin - modes) / spread_rad)
    mass = (upper - lower).sum(axis=1)
    return hinge(mass / mass.sum())


def compositional() -> Conformations:
    """Three nested complexes in the ratio 10 : 15 : 25 (cryoDRGN, Nature Methods 2021, *Compositional*)."""
    small = domain(460, (34, 25, 29), seed=201)
    middle = placed(domain(420, (27, 33, 24), seed=202), (14, 60, -6))
    large = merged(
        placed(domain(360, (30, 22, 25), seed=203), (-58, 20, 10)),
        placed(domain(200, (17, 19, 25), seed=204), (10, 8, 56)),
    )
    clouds = (small, merged(small, middle), merged(small, middle, large))
    return Conformations(clouds, np.array([10, 15, 25]) / 50, np.arange(3.0), ("small", "middle", "whole"))


# swing and twist of the two lobes in degrees; a, d and e are similar, f, g and h are the most different
EIGHT_STATES = {
    "a": ((0, 0), (0, 0)),
    "b": ((14, 0), (-12, 8)),
    "c": ((-14, 10), (13, 0)),
    "d": ((4, 3), (0, -3)),
    "e": ((0, -4), (5, 2)),
    "f": ((34, 0), (30, 0)),
    "g": ((-30, -16), (-34, 10)),
    "h": ((30, 24), (-32, -24)),
}


def eight_state() -> Conformations:
    """A dumbbell of two equal lobes, in eight conformations (after OPUS-DSD's synthetic NEXT complex)."""
    middle = domain(200, (36, 13, 14), seed=301)
    lobe = domain(400, (31, 24, 27), seed=302)
    right = placed(lobe, (62, 4, 0))
    left = placed(lobe, (-62, -4, 0), turn_deg=(0, 0, 180))
    clouds = []
    for states in EIGHT_STATES.values():
        parts = [middle]
        for arm, side, (swing, twist) in zip((left, right), (-1, 1), states, strict=True):
            pivot = (side * 32.0, 0.0, 0.0)
            swung_arm = swung(arm, float(np.deg2rad(swing)), pivot_A=pivot, axis=(0.1 * side, 0.3, 1))
            parts.append(swung(swung_arm, float(np.deg2rad(twist)), pivot_A=pivot, axis=(0.2, 1, -0.3)))
        clouds.append(merged(*parts))
    return Conformations(tuple(clouds), np.full(8, 1 / 8), np.arange(8.0), tuple(EIGHT_STATES))


def two_hinge(per_side: int = 9) -> Conformations:
    """Two arms that swing independently through 1.4 radians each; the coordinate is `(k, 2)` in radians."""
    core = domain(500, (36, 30, 28), seed=401)
    first = placed(domain(290, (32, 19, 21), seed=402), (64, 14, -4))
    second = placed(domain(240, (19, 31, 18), seed=403), (-22, -62, 8))
    angles = np.linspace(-0.7, 0.7, per_side)
    coord = np.stack(np.meshgrid(angles, angles, indexing="ij"), axis=-1).reshape(-1, 2)
    first_at = [swung(first, float(a), pivot_A=(31, 7, -2), axis=(0.2, -0.3, 1)) for a in angles]
    second_at = [swung(second, float(a), pivot_A=(-11, -32, 4), axis=(1, 0.2, -0.2)) for a in angles]
    clouds = tuple(merged(core, a, b) for a in first_at for b in second_at)
    names = tuple(f"{a:.2f} {b:.2f} rad" for a, b in coord)
    return Conformations(clouds, np.full(len(coord), 1 / len(coord)), coord, names)


def c3_open(angles: int = 17) -> Conformations:
    """A trimer with C3 symmetry about z, except that the arm of one of its units swings outward by up to 1.2 radians.

    States are listed unit by unit, each from closed to open; unit `u` is the first one rotated by `120 u` degrees. The
    coordinate is the angle of the open arm in radians.
    """
    body = placed(domain(230, (26, 20, 21), seed=601), (30, 4, -6))
    arm = placed(domain(150, (15, 15, 31), seed=602), (47, -3, 40))
    turns = [Rotation.from_euler("z", 120 * unit, degrees=True) for unit in range(3)]
    coord = np.tile(np.linspace(0, OPENING_RAD, angles), 3)
    opening = np.repeat(np.arange(3), angles)
    clouds = []
    for which, angle in zip(opening, coord, strict=True):
        opened = swung(arm, float(angle), pivot_A=(43, 0, 12), axis=(0.1, 1, -0.15))
        units = [merged(body, opened if unit == which else arm) for unit in range(3)]
        clouds.append(merged(*(unit.moved(turn, np.zeros(3)) for unit, turn in zip(units, turns, strict=True))))
    names = tuple(f"unit {which} open by {angle:.3f} rad" for which, angle in zip(opening, coord, strict=True))
    return Conformations(tuple(clouds), np.full(len(coord), 1 / len(coord)), coord, names)


def rigid() -> Conformations:
    """A rigid asymmetric molecule, for ab initio reconstruction and for calibration."""
    cloud = merged(
        domain(560, (41, 27, 30), seed=501),
        placed(domain(250, (22, 28, 19), seed=502), (50, 34, -8)),
        placed(domain(140, (15, 16, 24), seed=503), (-24, 22, 46)),
    )
    return Conformations((cloud,), np.ones(1), np.zeros(1), ("rigid",))


PHANTOMS: dict[str, Callable[[], Conformations]] = {
    "uniform": uniform,
    "cooperative": partial(three_modes, 0.09),
    "noncontiguous": partial(three_modes, 0.03),
    "compositional": compositional,
    "eight-state": eight_state,
    "two-hinge": two_hinge,
    "trimer": c3_open,
    "rigid": rigid,
}
