"""Parts of real RELION and cryoSPARC files: columns, optics groups and uids kept, and read back by our own reader."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import starfile

from cryomorph.cli.main import main
from cryomorph.io.star import read_star
from cryomorph.particles.metadata import read_particles
from cryomorph.particles.store import ParticleStore

pytestmark = pytest.mark.accept


@pytest.fixture
def readers(shared: Path) -> Path:
    return shared / "data" / "readers"


def split(source: Path, folder: Path, suffix: str) -> tuple[Path, Path]:
    parts = folder / f"a{suffix}", folder / f"b{suffix}"
    assert main(["split", str(source), "-o", *map(str, parts), "--random", "0.6"]) == 0
    return parts


@pytest.mark.parametrize("name", ["relion31.star", "relion5.star", "empiar_10076_7.star"])
def test_a_part_of_a_star_is_that_part_of_every_block(readers, tmp_path, name):
    before = read_star(readers / name)
    listing = "particles" if "particles" in before else next(iter(before))
    for path in split(readers / name, tmp_path, ".star"):
        after, rows = read_star(path), np.loadtxt(path.with_suffix(".txt"), dtype=int)
        assert list(after) == list(before) and 0 < len(rows) < len(before[listing])
        for block, table in before.items():
            expected = table.iloc[rows].reset_index(drop=True) if block == listing else table
            assert after[block].equals(expected), block
            assert after[block].attrs == table.attrs
        if "optics" in before:  # another reader's opinion
            other, whole = starfile.read(path), starfile.read(readers / name)
            assert other["optics"].equals(whole["optics"])
            np.testing.assert_array_equal(other[listing]["rlnDefocusU"], whole[listing]["rlnDefocusU"].iloc[rows])


@pytest.mark.parametrize("name", ["cryosparc_P12_J24_001_particles.cs", "empiar_10076_7.cs"])
def test_a_part_of_a_cs_keeps_uids_and_every_column(readers, tmp_path, name):
    before = np.load(readers / name, allow_pickle=False)
    parts = []
    for path in split(readers / name, tmp_path, ".cs"):
        after, rows = (np.load(path, allow_pickle=False), np.loadtxt(path.with_suffix(".txt"), dtype=int))
        assert after.dtype == before.dtype
        np.testing.assert_array_equal(after, before[rows])
        parts.append(after["uid"])
    assert sorted(np.concatenate(parts).tolist()) == sorted(before["uid"].tolist())
    given, part = (read_particles(path, check_images=False) for path in (readers / name, tmp_path / "a.cs"))
    rows = np.loadtxt(tmp_path / "a.txt", dtype=int)
    np.testing.assert_array_equal(part.ctf.defocus_u_A, given.ctf.defocus_u_A[rows])
    if given.pose is not None:
        np.testing.assert_array_equal(part.pose.rotation, given.pose.rotation[rows])


@pytest.mark.parametrize("name", ["relion31.star", "empiar_10076_7.star", "empiar_10076_7.cs"])
def test_a_part_is_prepared_as_the_whole_s_index(readers, tmp_path, name):
    suffix = Path(name).suffix
    split(readers / name, tmp_path, suffix)
    words = ["--datadir", str(readers), "--invert", "no", "--box", "64"]
    assert main(["prepare", str(tmp_path / f"a{suffix}"), "-o", str(tmp_path / "part"), *words]) == 0
    index = ["--index", str(tmp_path / "a.txt")]
    assert main(["prepare", str(readers / name), "-o", str(tmp_path / "index"), *words, *index]) == 0
    part, direct = ParticleStore.open(tmp_path / "part"), ParticleStore.open(tmp_path / "index")
    for file in ("coefficients.npy", "noise_amplitude.npy", "ctf.npy", "half.npy"):
        assert (part.folder / file).read_bytes() == (direct.folder / file).read_bytes(), file


def test_a_real_cs_becomes_a_star(readers, tmp_path):
    a, _ = split(readers / "empiar_10076_7.cs", tmp_path, ".star")
    rows = np.loadtxt(tmp_path / "a.txt", dtype=int)
    found, given = read_particles(a), read_particles(readers / "empiar_10076_7.cs")
    np.testing.assert_array_equal(found.read(np.arange(len(rows))), given.read(rows))
    np.testing.assert_allclose(found.ctf.defocus_u_A, given.ctf.defocus_u_A[rows], rtol=1e-6)
