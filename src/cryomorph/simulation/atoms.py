"""Atomic models (PDB or mmCIF) as clouds of Gaussians, and their motions: a rotation about a hinge, or a morph."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import gemmi
import numpy as np
from jaxtyping import Bool, Float, Int64, Shaped
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from cryomorph.config.console import say
from cryomorph.config.errors import InputError
from cryomorph.simulation.phantoms import Cloud, Conformations

MIN_MATCHES = 3  # atoms, for a superposition


@dataclass(frozen=True)
class AtomicModel:
    """Atoms of a file: positions in Angstrom, weights (atomic numbers), and names."""

    path: Path
    position: Float[np.ndarray, "m 3"]
    weight: Float[np.ndarray, " m"]
    chain: Shaped[np.ndarray, " m"]  # chain names
    residue: Int64[np.ndarray, " m"]  # residue numbers
    label: Shaped[np.ndarray, " m"]  # residue number with insertion code, and atom name: unique within a chain

    def __len__(self) -> int:
        return len(self.weight)

    @property
    def cloud(self) -> Cloud:
        """The atoms as a cloud."""
        return Cloud(self.position, self.weight)

    def take(self, index: Int64[np.ndarray, " k"]) -> AtomicModel:
        """A subset of the atoms, in the given order."""
        return AtomicModel(
            self.path,
            self.position[index],
            self.weight[index],
            self.chain[index],
            self.residue[index],
            self.label[index],
        )


def read_model(path: Path, *, hydrogens: bool = False, waters: bool = False) -> AtomicModel:
    """Read the first model of a PDB or mmCIF file (also gzipped); of alternate locations only the first.

    Occupancies and B-factors are ignored, as in Chimera's `molmap`.

    Raises:
        InputError: the file is missing, cannot be read, or holds no atoms.
    """
    try:
        structure = gemmi.read_structure(str(path))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; give a PDB or mmCIF file") from None
    except (OSError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise InputError(f"{path}: cannot be read as an atomic model ({reason}); expected PDB or mmCIF") from None
    if not len(structure):
        raise InputError(f"{path}: no atoms found; expected ATOM records of a PDB file or an mmCIF atom_site table")
    structure.remove_alternative_conformations()
    if not hydrogens:
        structure.remove_hydrogens()
    if not waters:
        structure.remove_waters()
    rows = [
        (atom.pos.tolist(), atom.element.atomic_number, chain.name, residue.seqid.num, f"{residue.seqid}/{atom.name}")
        for chain in structure[0]
        for residue in chain
        for atom in residue
    ]
    if not rows:
        raise InputError(f"{path}: no atoms found; expected ATOM records of a PDB file or an mmCIF atom_site table")
    position, weight, chain, number, label = zip(*rows, strict=True)
    return AtomicModel(
        path,
        np.array(position, dtype=float),
        # atoms of unknown element count as carbon
        np.where(np.array(weight) > 0, weight, 6).astype(float),
        np.array(chain),
        np.array(number, dtype=np.int64),
        np.array(label),
    )


def per_residue(model: AtomicModel) -> AtomicModel:
    """One Gaussian per residue, at its centre of mass and with its weight: about eight times fewer."""
    number = np.char.partition(model.label.astype(str), "/")[:, 0]
    keys = np.char.add(np.char.add(model.chain.astype(str), "/"), number)
    _, first, group = np.unique(keys, return_index=True, return_inverse=True)
    weight = np.bincount(group, model.weight)
    position = np.stack([np.bincount(group, model.weight * axis) / weight for axis in model.position.T], axis=1)
    order = np.argsort(first)  # the file's order, not the alphabet's
    first = first[order]
    return AtomicModel(
        model.path, position[order], weight[order], model.chain[first], model.residue[first], number[first]
    )


def select(model: AtomicModel, selection: str) -> Bool[np.ndarray, " m"]:
    """Which atoms belong to chains and residue ranges such as `A,B:2-115,C:20`.

    Raises:
        InputError: a part is malformed or matches no atom.
    """
    chosen = np.zeros(len(model), dtype=bool)
    for part in (piece.strip() for piece in selection.split(",")):
        parsed = re.fullmatch(r"(\w+)(?::(-?\d+)(?:-(-?\d+))?)?", part)
        if parsed is None:
            raise InputError(f"selection '{selection}': '{part}' is not valid; expected chains such as A,B:2-115")
        chain, first, last = parsed.groups()
        found = model.chain == chain
        if not found.any():
            chains = ", ".join(dict.fromkeys(model.chain.tolist()))
            raise InputError(f"selection '{selection}': {model.path} has no chain {chain}; it has {chains}")
        if first is not None:
            low, high = int(first), int(last if last is not None else first)
            numbers = model.residue[found]
            found = found & (model.residue >= low) & (model.residue <= high)
            if not found.any():
                raise InputError(
                    f"selection '{selection}': no atom of {model.path} lies in {part}; chain {chain} has residues "
                    f"{numbers.min()} to {numbers.max()}"
                )
        chosen |= found
    return chosen


def parse_point(text: str, option: str) -> Float[np.ndarray, " 3"] | None:
    """Three numbers `x,y,z`; None if the text is not numeric.

    Raises:
        InputError: numbers, but not three finite ones.
    """
    try:
        values = np.array([float(word) for word in text.split(",")])
    except ValueError:
        return None
    if len(values) != 3 or not np.isfinite(values).all():
        raise InputError(f"{option} {text}: found {len(values)} numbers, expected three finite numbers x,y,z")
    return values


def default_pivot(model: AtomicModel, moving: Bool[np.ndarray, " m"]) -> Float[np.ndarray, " 3"]:
    """Where the moving part joins the rest: the mean of the chain links between them, or of the closest atoms."""
    change = (moving[1:] != moving[:-1]) & (model.chain[1:] == model.chain[:-1])
    links = np.flatnonzero(change & (np.abs(np.diff(model.residue)) <= 1))
    if len(links):
        ends = np.concatenate([links, links + 1])
        return model.position[ends].mean(axis=0)
    distance, nearest = cKDTree(model.position[~moving]).query(model.position[moving])
    closest = int(np.argmin(distance))
    partner = int(np.asarray(nearest)[closest])
    return (model.position[moving][closest] + model.position[~moving][partner]) / 2


def default_axis(
    model: AtomicModel, moving: Bool[np.ndarray, " m"], pivot: Float[np.ndarray, " 3"]
) -> Float[np.ndarray, " 3"]:
    """A direction perpendicular to both arms of the hinge, or to the moving arm only if they are collinear."""
    arm = model.position[moving].mean(axis=0) - pivot
    rest = model.position[~moving].mean(axis=0) - pivot
    axis = np.cross(arm, rest)
    if np.linalg.norm(axis) < 1e-3 * np.linalg.norm(arm) * np.linalg.norm(rest):
        axis = np.cross(arm, np.eye(3)[np.argmin(np.abs(arm))])
    return axis


def turn(
    model: AtomicModel, selection: str, *, pivot: str | None, axis: str | None, span_deg: float, conformations: int
) -> Conformations:
    """Rotate a selection about an axis through a pivot, from `-span/2` to `span/2`; the coordinate is in degrees.

    Raises:
        InputError: a selection is empty or the whole model, the axis has no length, or there are fewer than two states.
    """
    moving = select(model, selection)
    if moving.all():
        raise InputError(f"selection '{selection}' is all of {model.path}: expected the part that moves")
    _check_count(conformations)
    if pivot is None:
        point = default_pivot(model, moving)
    elif (given := parse_point(pivot, "--pivot")) is not None:
        point = given
    else:
        point = model.position[select(model, pivot)].mean(axis=0)
    direction = default_axis(model, moving, point) if axis is None else parse_point(axis, "--axis")
    if direction is None:
        raise InputError(f"--axis {axis}: expected three numbers, x,y,z")
    length = float(np.linalg.norm(direction))
    if length == 0:
        raise InputError(f"--axis {axis}: the axis has no length; expected a direction such as 0,0,1")
    angles = np.linspace(-span_deg / 2, span_deg / 2, conformations)
    clouds = []
    for angle in angles:
        rotation = Rotation.from_rotvec(np.deg2rad(angle) * direction / length)
        position = model.position.copy()
        position[moving] = rotation.apply(position[moving] - point) + point
        clouds.append(Cloud(position, model.weight))
    probability = np.full(conformations, 1 / conformations)
    return Conformations(tuple(clouds), probability, angles, tuple(f"{angle:.2f} deg" for angle in angles))


def matched(model: AtomicModel, target: AtomicModel) -> tuple[AtomicModel, AtomicModel]:
    """The atoms that two models share, by chain, residue and name; the chain names of two single chains may differ.

    Raises:
        InputError: the models share fewer than three atoms.
    """
    single = len(set(model.chain.tolist())) == 1 and len(set(target.chain.tolist())) == 1
    keys = [
        m.label.astype(str) if single else np.char.add(np.char.add(m.chain.astype(str), "/"), m.label.astype(str))
        for m in (model, target)
    ]
    both, ours, theirs = np.intersect1d(keys[0], keys[1], return_indices=True)
    if len(both) < MIN_MATCHES:
        raise InputError(
            f"{model.path} and {target.path} share {len(both)} atoms with the same chain, residue number and name: "
            "expected two models of the same molecule; renumber or rename one"
        )
    order = np.argsort(ours)
    left_out = len(model) + len(target) - 2 * len(both)
    if left_out:
        say(f"morph: {len(both)} atoms are in both models; {left_out} atoms that are in only one are omitted")
    return model.take(ours[order]), target.take(theirs[order])


def morph(model: AtomicModel, target: AtomicModel, *, conformations: int) -> Conformations:
    """Interpolate linearly from a model to a superposed target with the same atoms; the coordinate runs from 0 to 1.

    Raises:
        InputError: fewer than two states.
    """
    _check_count(conformations)
    weight = model.weight
    centre = weight @ model.position / weight.sum()
    centre_target = weight @ target.position / weight.sum()
    rotation, _ = Rotation.align_vectors(model.position - centre, target.position - centre_target, weights=weight)
    end = rotation.apply(target.position - centre_target) + centre
    steps = np.linspace(0, 1, conformations)
    clouds = tuple(Cloud(model.position + step * (end - model.position), weight) for step in steps)
    return Conformations(clouds, np.full(conformations, 1 / conformations), steps, tuple(f"{s:.3f}" for s in steps))


def _check_count(conformations: int) -> None:
    if conformations < 2:
        raise InputError(f"--conformations {conformations}: a motion needs at least 2")
