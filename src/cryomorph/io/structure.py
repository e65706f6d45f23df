"""Points and atomic models as PDB or mmCIF files of several models, one for each place along a motion."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gemmi
import numpy as np
from jaxtyping import Float

from cryomorph.config.errors import InputError
from cryomorph.io.atomic import atomic_path

FORMATS = (".cif", ".pdb")
RESIDUES = 10_000  # that a chain of a PDB file can number
CHAINS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
CHAIN_LETTERS = 2  # that gemmi can write into a PDB file
LARGEST_B = 999.99  # that fits a PDB file's column


@dataclass(frozen=True)
class Atoms:
    """An atomic model as it was read: every atom of its first model.

    `position` (m, 3) in Angstrom; `weight` (m,) is the atomic number times the occupancy, of an unknown element that of
    carbon.
    """

    path: Path
    structure: Any
    position: Float[np.ndarray, "m 3"]
    weight: Float[np.ndarray, " m"]


def read_atoms(path: Path) -> Atoms:
    """Read the first model of a PDB or mmCIF file (also gzipped), with all that it says.

    Raises:
        InputError: the file is missing, cannot be read, or holds no atoms.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; give a PDB or mmCIF file")
    try:
        structure = gemmi.read_structure(str(path))
    except (OSError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise InputError(f"{path}: cannot be read as an atomic model ({reason}); expected PDB or mmCIF") from None
    if not len(structure) or not structure[0].count_atom_sites():
        raise InputError(f"{path}: no atoms found; expected ATOM records of a PDB file or an mmCIF atom_site table")
    while len(structure) > 1:
        del structure[len(structure) - 1]
    atoms = _atoms(structure[0])
    weight = np.array([max(atom.element.atomic_number, 0) or 6 for atom in atoms], dtype=float)
    occupancy = np.array([atom.occ for atom in atoms])
    if not (weight * occupancy).sum() > 0:
        raise InputError(f"{path}: all occupancies are 0; expected atoms that are there")
    return Atoms(path, structure, np.array([atom.pos.tolist() for atom in atoms]), weight * occupancy)


def write_atoms(path: Path, atoms: Atoms, position: Float[np.ndarray, "k m 3"]) -> None:
    """Write an atomic model at other places, a model of the file for each; the path's ending says the format.

    All that was read is kept, but for anisotropic displacements, which a turn would make wrong.
    """
    structure = atoms.structure.clone()
    for atom in _atoms(structure[0]):
        atom.aniso = gemmi.SMat33f(0, 0, 0, 0, 0, 0)
    for _ in range(len(position) - 1):
        structure.add_model(structure[0])
    structure.renumber_models()
    for model, places in zip(structure, position.tolist(), strict=True):
        for atom, place in zip(_atoms(model), places, strict=True):
            atom.pos = gemmi.Position(*place)
    _write(path, structure)


def write_points(
    path: Path,
    position: Float[np.ndarray, "k n 3"],
    *,
    occupancy: Float[np.ndarray, "k n"],
    width_A: Float[np.ndarray, "k n"],
) -> None:
    """Write points as pseudo-atoms, residues counted from 0, in as many models as there are rows.

    The B-factor is `8 pi^2 width^2`, at most 999.99. In a PDB file point `i` is residue `i` modulo 10,000 of the next
    chain for each 10,000.

    Raises:
        InputError: more points than a PDB file can number.
    """
    count, n = position.shape[:2]
    pdb = path.suffix == ".pdb"
    if pdb and n > RESIDUES * len(CHAINS):
        raise InputError(f"{n} points are more than a PDB file can number: expected mmCIF, --format cif")
    number = np.arange(n)
    chain = [CHAINS[i] for i in number // RESIDUES] if pdb else ["A"] * n
    residue = (number % RESIDUES if pdb else number).astype(str).tolist()
    b_factor = np.minimum(8 * np.pi**2 * np.square(width_A), LARGEST_B)
    same = dict.fromkeys(("label_alt_id", "label_seq_id", "pdbx_PDB_ins_code"), ".")
    same |= {"group_PDB": "HETATM", "type_symbol": "C", "label_atom_id": "C", "auth_atom_id": "C"}
    # an unknown atom to the dictionary of chemical components: viewers look for no bonds
    same |= {"label_comp_id": "UNX", "auth_comp_id": "UNX", "label_entity_id": "1"}
    columns = {name: [value] * (count * n) for name, value in same.items()} | {
        "id": np.arange(1, count * n + 1).astype(str).tolist(),
        "label_asym_id": chain * count,
        "auth_asym_id": chain * count,
        "auth_seq_id": residue * count,
        "Cartn_x": _text(position[..., 0], 3),
        "Cartn_y": _text(position[..., 1], 3),
        "Cartn_z": _text(position[..., 2], 3),
        "occupancy": _text(occupancy, 3),
        "B_iso_or_equiv": _text(b_factor, 2),
        "pdbx_PDB_model_num": np.repeat(np.arange(1, count + 1), n).astype(str).tolist(),
    }
    document = gemmi.cif.Document()
    block = document.add_new_block(path.stem.lstrip(".") or "points")
    block.set_pair("_entry.id", gemmi.cif.quote(block.name))
    block.init_loop("_entity.", ["id", "type"]).add_row(["1", "non-polymer"])
    block.init_loop("_atom_site.", list(columns)).set_all_values(list(columns.values()))
    if not pdb:
        with atomic_path(path) as part:
            document.write_file(str(part))
        return
    _write(path, gemmi.make_structure_from_block(block))


def arrows(
    start: Float[np.ndarray, "n 3"],
    stop: Float[np.ndarray, "n 3"],
    colour: Float[np.ndarray, "n 3"],
    *,
    radius_A: float,
) -> str:
    """Arrows in the BILD format of Chimera and ChimeraX, one for each row.

    Args:
        start, stop: in Angstrom.
        colour: red, green and blue, 0 to 1.
        radius_A: of the shafts; the heads are twice as wide and take a third of the length.
    """
    lines = []
    for a, b, rgb in zip(start.tolist(), stop.tolist(), colour.tolist(), strict=True):
        lines.append(".color " + " ".join(f"{part:.3f}" for part in rgb))
        ends = " ".join(f"{part:.3f}" for part in (*a, *b))
        lines.append(f".arrow {ends} {radius_A:.3f} {2 * radius_A:.3f} 0.667")
    return "\n".join(lines) + "\n"


def _atoms(model: Any) -> list[Any]:
    return [atom for chain in model for residue in chain for atom in residue]


def too_long(atoms: Atoms) -> str | None:
    """The name of a chain that a PDB file has no place for, where there is one."""
    return next((chain.name for chain in atoms.structure[0] if len(chain.name) > CHAIN_LETTERS), None)


def _text(values: Float[np.ndarray, "k n"], digits: int) -> list[str]:
    return np.char.mod(f"%.{digits}f", values.ravel()).tolist()


def _write(path: Path, structure: Any) -> None:
    with atomic_path(path) as part:
        if path.suffix == ".pdb":
            structure.write_pdb(str(part))
        else:
            structure.setup_entities()
            structure.make_mmcif_document().write_file(str(part))
