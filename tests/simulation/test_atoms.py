"""Atomic models: reading, selecting, turning and morphing."""

from pathlib import Path

import gemmi
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from cryomorph.config.errors import InputError
from cryomorph.simulation.atoms import matched, morph, parse_point, per_residue, read_model, select, turn

POINTS = np.random.default_rng(0).normal(0, 8, (12, 3)).round(3)


def write_model(path: Path, points: np.ndarray = POINTS, chains: str = "AABB") -> Path:
    """Residues of a carbon, a nitrogen and a hydrogen; a water at the end."""
    structure = gemmi.Structure()
    model = gemmi.Model(1)
    for name in dict.fromkeys(chains):
        chain = gemmi.Chain(name)
        for number in [i for i, letter in enumerate(chains) if letter == name]:
            residue = gemmi.Residue()
            residue.name, residue.seqid = "ALA", gemmi.SeqId(number + 1, " ")
            residue.entity_type = gemmi.EntityType.Polymer
            for label, element, point in zip(("CA", "N", "H"), "CNH", points[3 * number : 3 * number + 3], strict=True):
                atom = gemmi.Atom()
                atom.name, atom.element, atom.pos = label, gemmi.Element(element), gemmi.Position(*point)
                residue.add_atom(atom)
            chain.add_residue(residue)
        model.add_chain(chain)
    water = gemmi.Residue()
    water.name, water.seqid, water.entity_type = "HOH", gemmi.SeqId(1, " "), gemmi.EntityType.Water
    oxygen = gemmi.Atom()
    oxygen.name, oxygen.element, oxygen.pos = "O", gemmi.Element("O"), gemmi.Position(30, 30, 30)
    water.add_atom(oxygen)
    solvent = gemmi.Chain("W")
    solvent.add_residue(water)
    model.add_chain(solvent)
    structure.add_model(model)
    if path.suffix == ".pdb":
        structure.write_pdb(str(path))
    else:
        structure.make_mmcif_document().write_file(str(path))
    return path


@pytest.mark.parametrize("suffix", [".pdb", ".cif"])
def test_atoms_are_read_with_their_atomic_numbers(tmp_path: Path, suffix: str) -> None:
    path = write_model(tmp_path / f"model{suffix}")
    model = read_model(path)
    heavy = np.arange(12) % 3 != 2
    assert np.allclose(model.position, POINTS[heavy])
    assert model.weight.tolist() == [6, 7] * 4
    assert model.chain.tolist() == ["A"] * 4 + ["B"] * 4
    everything = read_model(path, hydrogens=True, waters=True)
    assert len(everything) == 13 and everything.weight[-1] == 8


def test_a_residue_is_its_centre_of_mass(tmp_path: Path) -> None:
    residues = per_residue(read_model(write_model(tmp_path / "model.pdb")))
    expected = (6 * POINTS[0::3] + 7 * POINTS[1::3]) / 13
    assert np.allclose(residues.position, expected)
    assert residues.weight.tolist() == [13] * 4 and residues.residue.tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("selection", "expected"),
    [("A", [1, 2]), ("A:2", [2]), ("B:3-9", [3, 4]), ("A:1, B:4", [1, 4]), ("A,B", [1, 2, 3, 4]), ("A:-5-1", [1])],
)
def test_selections(tmp_path: Path, selection: str, expected: list[int]) -> None:
    model = per_residue(read_model(write_model(tmp_path / "model.pdb")))
    assert model.residue[select(model, selection)].tolist() == expected


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        ("C", "no chain C; it has A, B"),
        ("A:7-9", "residues 1 to 2"),
        ("A:x", "'A:x' is not valid"),
        ("", "'' is not valid"),
    ],
)
def test_an_empty_selection_says_what_there_is(tmp_path: Path, selection: str, message: str) -> None:
    model = read_model(write_model(tmp_path / "model.pdb"))
    with pytest.raises(InputError, match=message):
        select(model, selection)


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.cif"
    wrong.write_text("hello\n")
    empty = tmp_path / "empty.pdb"
    empty.write_text("REMARK nothing here\n")
    for path, message in ((tmp_path / "none.pdb", "no such file"), (wrong, "cannot be read"), (empty, "no atoms")):
        with pytest.raises(InputError, match=message) as found:
            read_model(path)
        assert path.name in str(found.value)


def test_a_part_turns_about_the_given_axis_and_the_rest_stays(tmp_path: Path) -> None:
    model = per_residue(read_model(write_model(tmp_path / "model.pdb")))
    states = turn(model, "B", pivot="1,2,3", axis="0,0,1", span_deg=90.0, conformations=3)
    assert states.coord.tolist() == [-45, 0, 45]
    pivot = np.array([1, 2, 3])
    for angle, cloud in zip(states.coord, states.clouds, strict=True):
        cosine, sine = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
        matrix = np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]])
        assert np.allclose(cloud.position[2:], (model.position[2:] - pivot) @ matrix.T + pivot)
        assert np.array_equal(cloud.position[:2], model.position[:2])


def test_a_pivot_may_be_residues_and_the_hinge_finds_itself(tmp_path: Path) -> None:
    model = per_residue(read_model(write_model(tmp_path / "model.pdb", chains="AAAA")))
    given = turn(model, "A:3-4", pivot="A:2-3", axis="0,1,0", span_deg=40.0, conformations=2)
    found = turn(model, "A:3-4", pivot=None, axis="0,1,0", span_deg=40.0, conformations=2)
    assert np.allclose(given.clouds[0].position, found.clouds[0].position)  # the link between residues 2 and 3
    free = turn(model, "A:3-4", pivot=None, axis=None, span_deg=40.0, conformations=2)
    moved = free.clouds[1].position[2:] - free.clouds[0].position[2:]
    assert np.linalg.norm(moved, axis=1).max() > 0.1
    # chains that no link joins hinge where they are nearest
    apart = per_residue(read_model(write_model(tmp_path / "two.pdb")))
    assert np.isfinite(turn(apart, "B", pivot=None, axis=None, span_deg=40.0, conformations=2).clouds[0].position).all()


def test_senseless_hinges_are_refused(tmp_path: Path) -> None:
    model = per_residue(read_model(write_model(tmp_path / "model.pdb")))
    with pytest.raises(InputError, match="is all of"):
        turn(model, "A,B", pivot=None, axis=None, span_deg=60.0, conformations=5)
    with pytest.raises(InputError, match="no length"):
        turn(model, "B", pivot=None, axis="0,0,0", span_deg=60.0, conformations=5)
    with pytest.raises(InputError, match="three numbers"):
        turn(model, "B", pivot=None, axis="A:1", span_deg=60.0, conformations=5)
    with pytest.raises(InputError, match="at least 2"):
        turn(model, "B", pivot=None, axis=None, span_deg=60.0, conformations=1)
    with pytest.raises(InputError, match="found 2 numbers"):
        parse_point("1,2", "--pivot")


def test_a_morph_ends_at_the_superposed_target(tmp_path: Path) -> None:
    start = read_model(write_model(tmp_path / "a.pdb"))
    moved = Rotation.from_euler("xyz", (20, 40, 60), degrees=True).apply(POINTS) + np.array([5, -3, 9])
    rigid = read_model(write_model(tmp_path / "b.pdb", moved))
    states = morph(*matched(start, rigid), conformations=4)
    assert states.coord.tolist() == pytest.approx([0, 1 / 3, 2 / 3, 1])
    for cloud in states.clouds:  # the same molecule: nothing is left to morph (PDB files have three decimals)
        assert np.abs(cloud.position - start.position).max() < 2e-3


def test_a_morph_matches_by_name_whatever_the_order(tmp_path: Path) -> None:
    start = read_model(write_model(tmp_path / "a.pdb"))
    target = read_model(write_model(tmp_path / "b.pdb"))
    order = np.random.default_rng(1).permutation(len(target))[:-1]
    ours, theirs = matched(start, target.take(order))
    assert len(ours) == len(start) - 1
    assert np.array_equal(ours.position, theirs.position)
    with pytest.raises(InputError, match="share 0 atoms"):
        matched(start, read_model(write_model(tmp_path / "c.pdb", chains="CCDD")))


@pytest.mark.accept
def test_a_fab_of_an_antibody_and_adenylate_kinase(shared: Path) -> None:
    structures = shared / "data" / "structures"
    antibody = per_residue(read_model(structures / "1igy.pdb"))
    assert len(antibody) == 2 * (213 + 434 + 9)
    fab = turn(antibody, "A:1-113,B:1-115", pivot=None, axis=None, span_deg=60.0, conformations=5)
    ends = fab.clouds[0].position, fab.clouds[-1].position
    still = np.linalg.norm(ends[0] - ends[1], axis=1) < 1e-9
    assert still.sum() == len(antibody) - select(antibody, "A:1-113,B:1-115").sum()
    kinase = [read_model(structures / f"adk{name}.pdb") for name in ("1AKE", "4AKE")]
    ours, theirs = (per_residue(side) for side in matched(*kinase))
    states = morph(ours, theirs, conformations=3)
    moved = np.sqrt(((states.clouds[-1].position - states.clouds[0].position) ** 2).sum(1).mean())
    assert 6.5 < moved < 8  # open and closed adenylate kinase differ by 7.1 A
