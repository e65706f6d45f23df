"""Points, atomic models and arrows in files: read back by gemmi, or by the format's own words."""

from __future__ import annotations

import re
from pathlib import Path

import gemmi
import numpy as np
import pytest

from cryomorph.config.errors import InputError
from cryomorph.io.structure import arrows, read_atoms, write_atoms, write_points

MODEL = """\
CRYST1    1.000    1.000    1.000  90.00  90.00  90.00 P 1
MODEL        1
ATOM      1  N   ALA A  10      11.104   6.134  -6.504  1.00 12.00           N
ATOM      2  CA AALA A  10      11.639   6.071  -5.147  0.60 13.00           C
ATOM      3  CA BALA A  10      11.739   6.171  -5.247  0.40 13.00           C
ATOM      4  HA  ALA A  10      12.039   6.971  -5.047  1.00 13.00           H
ATOM      5  P    DA B   3A      1.000   2.000   3.000  1.00 20.00           P
TER       6       DA B   3A
HETATM    7 ZN    ZN C 201       5.000   5.000   5.000  1.00 30.00          ZN
HETATM    8  O   HOH D   1       9.000   9.000   9.000  1.00 40.00           O
ENDMDL
MODEL        2
ATOM      1  N   ALA A  10      99.000  99.000  99.000  1.00 12.00           N
ENDMDL
END
"""


def records(path: Path) -> list[list[tuple[str, ...]]]:
    """What each atom is called, model by model, as gemmi reads it."""
    return [
        [(c.name, str(r.seqid), r.name, a.name, a.altloc, a.element.name) for c in m for r in c for a in r]
        for m in gemmi.read_structure(str(path))
    ]


def places(path: Path) -> np.ndarray:
    return np.array([[a.pos.tolist() for c in m for r in c for a in r] for m in gemmi.read_structure(str(path))])


@pytest.mark.parametrize("ending", ["cif", "pdb"])
def test_points_come_back(tmp_path, ending):
    rng = np.random.default_rng(0)
    position, share = rng.normal(100, 40, (3, 25, 3)), rng.uniform(0, 1, (3, 25))
    width = rng.uniform(0.5, 3, (3, 25))
    path = tmp_path / f"pc1+pc2.{ending}"
    write_points(path, position, occupancy=share, width_A=width)
    assert np.abs(places(path) - position).max() < 1e-3
    models = list(gemmi.read_structure(str(path)))
    found = [[(a.occ, a.b_iso, r.seqid.num, r.het_flag) for c in m for r in c for a in r] for m in models]
    for number, rows in enumerate(found):
        occupancy, b_factor, residue, kind = zip(*rows, strict=True)
        np.testing.assert_allclose(occupancy, share[number], atol=0.006)
        np.testing.assert_allclose(b_factor, 8 * np.pi**2 * width[number] ** 2, atol=0.006)
        assert residue == tuple(range(25))
        assert set(kind) == {"H"}
    assert list(tmp_path.iterdir()) == [path]


def test_wide_points_have_the_largest_b_factor_that_fits(tmp_path):
    write_points(tmp_path / "a.pdb", np.ones((1, 1, 3)), occupancy=np.ones((1, 1)), width_A=np.full((1, 1), 50.0))
    assert gemmi.read_structure(str(tmp_path / "a.pdb"))[0][0][0][0].b_iso == pytest.approx(999.99)


def test_a_pdb_file_takes_more_points_than_a_chain_has_numbers(tmp_path):
    position = np.random.default_rng(0).uniform(0, 500, (1, 10_002, 3))
    one = np.ones((1, 10_002))
    write_points(tmp_path / "a.pdb", position, occupancy=one, width_A=one)
    rows = records(tmp_path / "a.pdb")[0]
    assert [row[:2] for row in rows[9998:]] == [("A", "9998"), ("A", "9999"), ("B", "0"), ("B", "1")]
    assert np.abs(places(tmp_path / "a.pdb") - position).max() < 1e-3


def test_more_points_than_a_pdb_file_can_number_are_refused(tmp_path):
    n = 620_001
    with pytest.raises(InputError, match="--format cif"):
        write_points(tmp_path / "a.pdb", np.zeros((1, n, 3)), occupancy=np.ones((1, n)), width_A=np.ones((1, n)))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("ending", ["cif", "pdb"])
@pytest.mark.parametrize("source", ["cif", "pdb"])
def test_a_moved_model_keeps_all_that_its_atoms_are_called(tmp_path, source, ending):
    given = tmp_path / "given.pdb"
    given.write_text(MODEL)
    if source == "cif":
        structure = gemmi.read_structure(str(given))
        structure.setup_entities()
        given = tmp_path / "given.cif"
        structure.make_mmcif_document().write_file(str(given))
    atoms = read_atoms(given)
    assert len(atoms.position) == 7
    np.testing.assert_allclose(atoms.position[1], [11.639, 6.071, -5.147])
    np.testing.assert_allclose(atoms.weight, [7, 3.6, 2.4, 1, 15, 30, 8], rtol=1e-6)
    moved = atoms.position + np.arange(3)[:, None, None] * [1.0, -2.0, 0.5]
    write_atoms(tmp_path / f"out.{ending}", atoms, moved)
    found = records(tmp_path / f"out.{ending}")
    assert found == [records(given)[0]] * 3
    assert np.abs(places(tmp_path / f"out.{ending}") - moved).max() < 1e-3
    assert len(atoms.structure) == 1  # what was read stays as it was


def test_anisotropic_displacements_do_not_survive_a_turn(tmp_path):
    (tmp_path / "a.pdb").write_text(MODEL)
    structure = gemmi.read_structure(str(tmp_path / "a.pdb"))
    structure[0][0][0][0].aniso = gemmi.SMat33f(0.1, 0.2, 0.3, 0, 0, 0)
    structure.write_pdb(str(tmp_path / "b.pdb"))
    atoms = read_atoms(tmp_path / "b.pdb")
    write_atoms(tmp_path / "c.pdb", atoms, atoms.position[None])
    assert "ANISOU" in (tmp_path / "b.pdb").read_text()
    assert "ANISOU" not in (tmp_path / "c.pdb").read_text()


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("none.pdb", None, "no such file"),
        ("empty.pdb", "END\n", "no atoms found"),
        ("bad.cif", "loop_\n_atom_site.id\n", "cannot be read as an atomic model"),
        ("zero.pdb", MODEL.splitlines()[2].replace("  1.00 12.00", "  0.00 12.00") + "\n", "all occupancies are 0"),
    ],
)
def test_wrong_models_are_refused_in_a_sentence(tmp_path, name, text, said):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=said):
        read_atoms(tmp_path / name)


def test_arrows_are_what_the_format_says():
    """`.color r g b` then `.arrow x1 y1 z1 x2 y2 z2 r1 r2 rho`, for each."""
    start, stop = np.array([[1.0, 2, 3], [-4, 5, 6]]), np.array([[2.0, 2, 3], [-4, 9.5, 6]])
    lines = arrows(start, stop, np.array([[0, 0.5, 1], [1.0, 0, 0]]), radius_A=0.8).splitlines()
    number = r" -?\d+\.\d+"
    assert len(lines) == 4
    for i in range(2):
        assert re.fullmatch(rf"\.color({number}){{3}}", lines[2 * i])
        assert re.fullmatch(rf"\.arrow({number}){{9}}", lines[2 * i + 1])
        values = [float(word) for word in lines[2 * i + 1].split()[1:]]
        np.testing.assert_allclose(values, [*start[i], *stop[i], 0.8, 1.6, 0.667])
