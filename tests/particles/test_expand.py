"""Symmetry copies: of a store, of its file, and through a run's folder to what `select` writes."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.ndimage import affine_transform
from scipy.spatial.transform import Rotation

from cryomorph.analysis.selection_files import particle_file
from cryomorph.config.errors import InputError
from cryomorph.config.prepare import ImageSource
from cryomorph.config.simulate import SimulateConfig
from cryomorph.io.cryosparc import read_cs, write_cs
from cryomorph.io.star import read_star
from cryomorph.particles.loader import ParticleLoader
from cryomorph.particles.metadata import read_particles, rewrite_poses
from cryomorph.particles.prepare import prepare
from cryomorph.particles.store import ParticleStore
from cryomorph.physics.pose import Pose, rotation_distance_deg
from cryomorph.physics.symmetry import expand_pose, point_group
from cryomorph.runs.folder import RunFolder
from cryomorph.simulation.phantoms import PHANTOMS
from cryomorph.simulation.sets import simulate_set
from cryomorph.training.start import particles_stage
from cryomorph.volumes.backproject import reconstruct
from cryomorph.volumes.fsc import fsc

N, BOX = 300, 16
C3 = point_group("C3")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A trimer of which one unit's arm opens."""
    path = tmp_path_factory.mktemp("trimer") / "set"
    return simulate_set(SimulateConfig("trimer", path, n=N, box=BOX, pixel_A=16.0, snr=2.0, seed=2))


@pytest.fixture(scope="module")
def store(folder, tmp_path_factory):
    half = np.random.default_rng(0).permutation(N) % 2
    particles = replace(read_particles(folder / "particles.star"), half=half)
    return prepare(particles, tmp_path_factory.mktemp("store") / "s", invert="no")


@pytest.fixture(scope="module")
def expanded(store):
    return store.expanded("C3")


def test_copies_come_in_relion_s_order(store, expanded):
    source, copy = np.divmod(np.arange(3 * N), 3)
    assert len(expanded) == 3 * N and expanded.copies == 3
    assert expanded.row.tolist() == store.row[source].tolist()
    assert torch.equal(expanded.half, store.half[source])
    given, found = store.require_pose(), expanded.require_pose()
    assert torch.equal(found.shift_A, given.shift_A[source])
    torch.testing.assert_close(found.rotation.double(), given.rotation[source].double() @ C3[copy], atol=1e-6, rtol=0)
    assert torch.equal(expanded.ctf.defocus_u_A, store.ctf.defocus_u_A[source])
    assert all(len(getattr(expanded.ctf, name)) == 3 * N for name in expanded.ctf.__dataclass_fields__)
    assert (expanded.box, expanded.pixel_A) == (store.box, store.pixel_A)


def test_copies_show_the_one_image_on_disk(store, expanded):
    assert expanded.folder == store.folder and expanded.manifest is store.manifest
    count = store.disk.count(5)
    for index in (torch.arange(12), torch.arange(7, 30), torch.tensor([899, 3, 3, 5, 400, 4])):
        expected = store.coefficients(index // 3)
        assert torch.equal(expanded.coefficients(index), expected)
        assert torch.equal(expanded.coefficients(index, count), expected[:, :count])
        assert torch.equal(expanded.transfer(index, count), store.transfer(index // 3, count))
        batch, once = expanded.batch(index, count), store.batch(index // 3, count)
        assert torch.equal(batch.image, once.image) and torch.equal(batch.ctf, once.ctf)
        assert torch.equal(batch.rotation, expanded.require_pose().rotation[index])
        assert torch.equal(batch.index, index)


def test_a_shuffled_pass_visits_every_copy_once(expanded):
    loader = ParticleLoader(expanded, 32, radius=3, shuffle=True, seed=1, block=16, pool=4)
    seen = torch.cat([batch.index for batch in loader])
    assert len(seen) == 3 * N and torch.equal(seen.sort().values, torch.arange(3 * N))


def test_poses_that_were_refined_are_expanded_or_taken_for_all_copies(store, expanded):
    other = Pose(store.require_pose().rotation.mT.contiguous(), torch.ones(N, 2))
    later = store.with_pose(other).expanded("C3").require_pose()
    torch.testing.assert_close(later.rotation, expand_pose(other, C3).rotation)
    of_all = Pose(expanded.require_pose().rotation.mT.contiguous(), torch.zeros(3 * N, 2))
    found = expanded.with_pose(of_all)
    assert len(found) == 3 * N and found.require_pose() is of_all


def test_no_symmetry_is_the_store_as_it_was(store):
    same = store.expanded("C1")
    assert len(same) == N and torch.equal(same.require_pose().rotation, store.require_pose().rotation)


def test_what_cannot_be_expanded(store, expanded):
    with pytest.raises(InputError, match="symmetry 'C3h': expected a point group"):
        store.expanded("C3h")
    with pytest.raises(ValueError, match="expanded by C3 already"):
        expanded.expanded("C3")


def turned(volume, matrix):
    """The map `V(S r)` by spline interpolation about voxel `box // 2`; `S` acts on `(x, y, z)`."""
    zyx = matrix[::-1, ::-1]
    centre = np.full(3, volume.shape[0] // 2)
    return torch.from_numpy(affine_transform(volume.numpy(), zyx, centre - zyx @ centre)).float()


def test_the_map_of_an_expanded_store_is_symmetric(store, expanded, folder):
    """And half maps share no noise: copies of a particle lie in one half set."""
    # one unit opens in all of these, so that the map of the particles themselves is not symmetric
    label = np.load(folder / "truth.npz")["label"]
    chosen = torch.from_numpy(np.flatnonzero((label >= 5) & (label < 17)))
    copies = (3 * chosen[:, None] + torch.arange(3)).flatten()
    alone, found = reconstruct(store, subset=chosen).map, reconstruct(expanded, subset=copies).map
    around = C3[1].numpy()
    assert float(fsc(found, turned(found, around))[1:6].min()) > 0.97
    assert float(fsc(alone, turned(alone, around))[2:6].mean()) < 0.9
    # by the group's other side nothing of the kind comes out
    wrong = Pose((C3 @ store.require_pose().rotation.double()[:, None]).flatten(0, 1).float(), expanded.pose.shift_A)
    assert float(fsc(found, reconstruct(expanded.with_pose(wrong), subset=copies).map)[2:6].mean()) < 0.85


def test_the_copy_whose_first_unit_is_open_is_known(folder, expanded):
    """Seen from copy g, at `R S_g`, the molecule is turned by `S_g^-1`: unit u comes to lie where u - g was."""
    states = PHANTOMS["trimer"]().centred()
    per_unit = len(states) // 3
    first = states.clouds[per_unit - 1].position  # unit 0, wide open
    for copy, rotation in enumerate(C3.numpy()):
        opened = states.clouds[copy * per_unit + per_unit - 1].position
        back = opened @ rotation  # S^-1 r
        swapped = np.roll(back.reshape(3, -1, 3), -copy, axis=0).reshape(-1, 3)
        np.testing.assert_allclose(swapped, first, atol=1e-9)


# --- files ------------------------------------------------------------------------------------------------------------


def test_a_star_file_of_copies_keeps_every_column(store, expanded, tmp_path):
    source = store.folder / "particles.star"
    rewrite_poses(source, tmp_path / "p.star", expanded.require_pose(), pixel_A=16.0, copies=3)
    before, after = read_star(source), read_star(tmp_path / "p.star")
    assert list(after) == list(before) and after["optics"].equals(before["optics"])
    old, new = before["particles"], after["particles"]
    assert list(new.columns) == list(old.columns) and len(new) == 3 * N
    pose_columns = [name for name in old.columns if name.startswith(("rlnAngle", "rlnOrigin"))]
    kept = old.drop(columns=pose_columns)
    for copy in range(3):
        assert new.drop(columns=pose_columns)[copy::3].reset_index(drop=True).equals(kept)
    read = read_particles(tmp_path / "p.star", check_images=False)
    assert float(rotation_distance_deg(read.pose.rotation, expanded.require_pose().rotation).max()) < 1e-2
    torch.testing.assert_close(read.pose.shift_A, expanded.require_pose().shift_A, atol=1e-4, rtol=0)


def test_a_cs_file_of_copies_has_uids_of_its_own(tmp_path):
    given = Pose(point_group("O").float(), torch.zeros(24, 2))
    array = np.zeros(24, [("uid", "<u8"), ("blob/path", "S9"), ("blob/idx", "<u4"), ("alignments3D/split", "<u4")])
    array["uid"] = np.random.default_rng(0).integers(2**63, size=24, dtype=np.uint64)
    array["blob/path"], array["blob/idx"] = b">J1/a.mrc", np.arange(24)
    write_cs(tmp_path / "p.cs", array)
    pose = expand_pose(given, C3)
    for name in ("once.cs", "again.cs"):
        rewrite_poses(tmp_path / "p.cs", tmp_path / name, pose, pixel_A=2.0, copies=3)
    found = read_cs(tmp_path / "once.cs")
    assert np.array_equal(found, read_cs(tmp_path / "again.cs"))
    assert len(np.unique(found["uid"])) == 72 and np.array_equal(found["uid"][::3], array["uid"])
    assert found["sym_expand/src_uid"].tolist() == np.repeat(array["uid"], 3).tolist()
    assert found["sym_expand/idx"].tolist() == [0, 1, 2] * 24
    assert found["blob/idx"].tolist() == np.repeat(np.arange(24), 3).tolist()
    # cryoSPARC's vector is that of the transposed matrix
    vector = found["alignments3D/pose"].astype(np.float64)
    np.testing.assert_allclose(Rotation.from_rotvec(-vector).as_matrix(), pose.rotation, atol=1e-5)


# --- runs -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path, store):
    """A run that asked for C3, as far as its particles go."""
    (tmp_path / "run").mkdir()
    made = RunFolder(tmp_path / "run")
    (made.path / "config.json").write_text(json.dumps({"method": "gaussians", "symmetry": "C3"}))
    assert len(particles_stage(made, store.folder, ImageSource(), seed=0)) == 3 * N
    made.save_latent(torch.zeros(3 * N, 2), torch.ones(3 * N, 2))
    return made


def test_a_run_opens_its_store_expanded(run, store):
    assert run.store_path.resolve() == store.folder  # nothing was copied
    for opened in (run.store(), run.given_store()):
        assert len(opened) == len(run.latent_mean()) == 3 * N and opened.symmetry == "C3"
    assert len(ParticleStore.open(run.store_path)) == N
    assert f"{N} images as {3 * N} particles by symmetry C3" in (run.path / "run.log").read_text()


def test_a_run_without_a_word_on_symmetry_takes_particles_as_they_are(run):
    (run.path / "config.json").write_text(json.dumps({"method": "linear"}))
    assert run.symmetry == "C1" and len(run.store()) == N


@pytest.mark.parametrize("original", [False, True])
def test_selected_rows_are_those_of_the_copies(run, tmp_path, original):
    source = particle_file(run, original_poses=original)
    chosen = np.array([0, 4, 5, 899])
    source.write(tmp_path / "chosen.star", chosen)
    found, pose = read_particles(tmp_path / "chosen.star", check_images=False), run.store().require_pose()
    assert found.image_of.tolist() == (chosen // 3).tolist()
    assert float(rotation_distance_deg(found.pose.rotation, pose.rotation[chosen]).max()) < 1e-2


def test_refined_poses_are_those_of_the_copies(run, tmp_path):
    pose = run.store().require_pose()
    refined = Pose(pose.rotation.mT.contiguous(), pose.shift_A + 1)
    run.save_pose(refined)
    assert torch.equal(run.store().require_pose().rotation, refined.rotation)
    assert torch.equal(run.given_store().require_pose().rotation, pose.rotation)
    source = run.store_path / "particles.star"
    rewrite_poses(source, run.path / "particles.star", refined, pixel_A=16.0, copies=3)
    assert len(particle_file(run)) == 3 * N
    with pytest.raises(InputError, match=r"original poses: .* expanded its particles by symmetry C3"):
        particle_file(run, original_poses=True)
