"""cryoSPARC's files as particle metadata, and written back."""

import numpy as np
import pytest
import torch
from numpy.lib import recfunctions
from scipy.spatial.transform import Rotation

from cryomorph.config.errors import InputError
from cryomorph.io.cryosparc import read_cs, write_cs
from cryomorph.particles import metadata as module
from cryomorph.particles.metadata import read_particles, write_particles
from cryomorph.physics.pose import Pose
from fixtures.stacks import write_stack

IMAGES = np.random.default_rng(0).normal(size=(4, 8, 8)).astype(np.float32)
ROTVEC = Rotation.random(4, random_state=2).as_rotvec().astype(np.float32)
COLUMNS = [
    ("uid", "u8"),
    ("blob/path", "S20"),
    ("blob/idx", "u4"),
    ("blob/shape", "u4", (2,)),
    ("blob/psize_A", "f4"),
    ("blob/sign", "f4"),
    ("ctf/accel_kv", "f4"),
    ("ctf/cs_mm", "f4"),
    ("ctf/amp_contrast", "f4"),
    ("ctf/df1_A", "f4"),
    ("ctf/df2_A", "f4"),
    ("ctf/df_angle_rad", "f4"),
    ("ctf/phase_shift_rad", "f4"),
    ("ctf/tilt_A", "f4", (2,)),
    ("ctf/anisomag", "f4", (4,)),
    ("alignments3D/split", "u4"),
    ("alignments3D/shift", "f4", (2,)),
    ("alignments3D/pose", "f4", (3,)),
    ("alignments3D/psize_A", "f4"),
]
CTF = [name for name, *_ in COLUMNS if name.startswith("ctf/")]
POSE = [name for name, *_ in COLUMNS if name.startswith("alignments3D/")]


def example():
    array = np.zeros(4, COLUMNS)
    array["uid"] = [11, 5, 2**63 + 1, 8]
    array["blob/path"] = [b">J1/b.mrc", b">J1/a.mrc", b">J1/a.mrc", b">J1/b.mrc"]
    array["blob/idx"] = [1, 0, 1, 0]
    array["blob/shape"] = 8
    array["blob/psize_A"], array["blob/sign"] = 2.95, -1
    array["ctf/accel_kv"], array["ctf/cs_mm"], array["ctf/amp_contrast"] = 300, 2.7, 0.1
    array["ctf/df1_A"], array["ctf/df2_A"] = [1e4, 2e4, 3e4, 4e4], 9e3
    array["ctf/df_angle_rad"], array["ctf/phase_shift_rad"] = np.pi / 6, np.pi / 2
    array["alignments3D/split"] = [0, 1, 1, 0]
    array["alignments3D/shift"] = [[1, 2], [3, -4], [0, 0.5], [0, 0]]
    array["alignments3D/pose"], array["alignments3D/psize_A"] = ROTVEC, 5.9
    return array


def drop(array, names):
    return recfunctions.repack_fields(array[[name for name in array.dtype.names if name not in names]])


@pytest.fixture
def make(tmp_path):
    (tmp_path / "J1").mkdir()
    write_stack(tmp_path / "J1" / "a.mrc", IMAGES[:2], 1.0)
    write_stack(tmp_path / "J1" / "b.mrc", IMAGES[2:], 1.0)

    def write(array, **options):
        write_cs(tmp_path / "p.cs", array)
        return read_particles(tmp_path / "p.cs", **options)

    return write


@pytest.fixture
def warnings(monkeypatch):
    seen = []
    monkeypatch.setattr(module, "warn", seen.append)
    return seen


def test_everything_in_our_conventions(make, warnings):
    particles = make(example())
    assert (particles.box, particles.pixel_A, particles.blob_sign) == (8, 2.95, -1.0)
    np.testing.assert_array_equal(particles.read(np.arange(4)), IMAGES[[3, 0, 1, 2]])
    expected = Rotation.from_rotvec(ROTVEC).as_matrix().swapaxes(1, 2)
    np.testing.assert_allclose(particles.pose.rotation, expected, atol=1e-6)
    np.testing.assert_allclose(particles.pose.shift_A[:2], [[5.9, 11.8], [17.7, -23.6]], rtol=1e-6)
    assert particles.ctf.defocus_u_A.tolist() == [1e4, 2e4, 3e4, 4e4]
    np.testing.assert_allclose(particles.ctf.angle_deg, 30, rtol=1e-6)
    np.testing.assert_allclose(particles.ctf.phase_shift_deg, 90, rtol=1e-6)
    assert particles.ctf.scale.tolist() == [1] * 4  # no ctf/scale here
    assert particles.half.tolist() == [0, 1, 1, 0] and particles.ignored == () and not warnings


def test_scale_and_bfactor_are_kept(make):
    array = recfunctions.append_fields(
        example(), ["ctf/scale", "ctf/bfactor"], [[1, 0.5, 1, 1], [0, 30.0, 0, 0]], usemask=False
    )
    particles = make(array)
    assert particles.ctf.scale.tolist() == [1, 0.5, 1, 1] and particles.ctf.bfactor_A2.tolist() == [0, 30, 0, 0]


def test_passthrough_fills_what_the_file_lacks(make, tmp_path):
    array = example()
    write_cs(tmp_path / "pass.cs", drop(array[[2, 0, 3, 1]], POSE))
    particles = make(
        drop(array, ["blob/path", "blob/idx", *CTF]), passthrough=tmp_path / "pass.cs", index=np.array([2, 0])
    )
    assert particles.ctf.defocus_u_A.tolist() == [3e4, 1e4]
    np.testing.assert_array_equal(particles.read(np.arange(2)), IMAGES[[1, 3]])
    write_cs(tmp_path / "pass.cs", array[:3])
    with pytest.raises(InputError, match="lacks 1 of the 4 particles"):
        make(array, passthrough=tmp_path / "pass.cs")


def test_passthroughs_fill_one_after_another(make, tmp_path):
    array = example()
    write_cs(tmp_path / "blob.cs", drop(array[::-1], [*CTF, *POSE]))
    write_cs(tmp_path / "ctf.cs", drop(array, ["blob/path", "blob/idx", *POSE]))
    particles = make(
        drop(array, ["blob/path", "blob/idx", *CTF]), passthrough=[tmp_path / "blob.cs", tmp_path / "ctf.cs"]
    )
    np.testing.assert_array_equal(particles.read(np.arange(4)), IMAGES[[3, 0, 1, 2]])
    assert particles.ctf.defocus_u_A.tolist() == [1e4, 2e4, 3e4, 4e4]


def several_classes(shared_pixel):
    """The example with its alignments as class `[2, 0, 1, 2]` of three, the other classes being wrong."""
    best, n = np.array([2, 0, 1, 2]), np.arange(4)
    array, name = drop(example(), POSE), "alignments3D_multi"
    shape = {"pose": (3, 3), "shift": (3, 2), "class_posterior": (3,), "alpha": (3,), "psize_A": (3,), "split": ()}
    if shared_pixel:
        shape["psize_A"] = ()
    new = np.zeros(4, array.dtype.descr + [(f"{name}/{part}", "f4", size) for part, size in shape.items()])
    for column in array.dtype.names:
        new[column] = array[column]
    new[f"{name}/psize_A"] = 5.9
    new[f"{name}/class_posterior"], new[f"{name}/class_posterior"][n, best] = 0.1, 0.8
    for part in ("pose", "shift"):
        new[f"{name}/{part}"], new[f"{name}/{part}"][n, best] = 0.3, example()[f"alignments3D/{part}"]
    new[f"{name}/alpha"][n, best] = [1.1, 0.9, 1, 0.5]
    new[f"{name}/split"] = example()["alignments3D/split"]
    return new


@pytest.mark.parametrize("shared_pixel", [True, False])
def test_the_most_probable_of_several_classes(make, tmp_path, shared_pixel):
    one, several = make(example()), make(several_classes(shared_pixel))
    np.testing.assert_allclose(several.pose.rotation, one.pose.rotation, atol=1e-6)
    np.testing.assert_allclose(several.pose.shift_A, one.pose.shift_A, rtol=1e-6)
    assert several.half.tolist() == one.half.tolist()
    np.testing.assert_allclose(several.contrast, [1.1, 0.9, 1, 0.5], rtol=1e-6)
    write_particles(several, tmp_path / "out.cs", pose=several.pose)  # one alignment, which has priority when read
    again = read_particles(tmp_path / "out.cs")
    np.testing.assert_allclose(again.pose.rotation, one.pose.rotation, atol=1e-6)
    broken = several_classes(shared_pixel)
    broken["alignments3D_multi/psize_A"][1] = 0
    with pytest.raises(InputError, match=r"alignments3D_multi/psize_A is 0 in row 1 \(0-based\)"):
        make(broken)


def test_contrasts_of_the_particles(make):
    assert make(example()).contrast is None
    alpha = np.array([0.8, 1.2, 1, 0.9], np.float32)
    array = recfunctions.append_fields(example(), "alignments3D/alpha", alpha, usemask=False)
    assert make(array).contrast.tolist() == alpha.tolist()
    assert make(array, index=np.array([2, 0])).contrast.tolist() == alpha[[2, 0]].tolist()
    assert make(array).select(np.array([3])).contrast.tolist() == alpha[[3]].tolist()
    array["alignments3D/alpha"] = 1  # never estimated
    assert make(array).contrast is None


def test_a_pixel_size_of_shifts_that_is_zero(make):
    array = example()
    array["alignments3D/psize_A"][2] = 0
    with pytest.raises(InputError, match=r"alignments3D/psize_A is 0 in row 2 \(0-based\)"):
        make(array)


def test_a_pixel_size_that_is_given(make, tmp_path):
    particles = make(example(), pixel_A=3.1)
    assert particles.pixel_A == 3.1
    np.testing.assert_allclose(particles.pose.shift_A[0], [5.9, 11.8], rtol=1e-6)  # their unit is stated apart
    write_particles(particles, tmp_path / "out.cs")
    np.testing.assert_allclose(read_cs(tmp_path / "out.cs")["blob/psize_A"], 3.1, rtol=1e-6)


def test_columns_that_are_missing(make):
    assert make(drop(example(), POSE)).pose is None
    assert make(drop(example(), CTF)).ctf is None
    multi = recfunctions.append_fields(drop(example(), POSE), "alignments3D_multi/split", np.zeros(4), usemask=False)
    assert make(multi).pose is None
    with pytest.raises(InputError, match=r"part of the pose columns, missing: alignments3D/psize_A: .*--passthrough"):
        make(drop(example(), ["alignments3D/psize_A"]))
    with pytest.raises(InputError, match="part of the CTF columns, missing: ctf/cs_mm"):
        make(drop(example(), ["ctf/cs_mm"]))
    with pytest.raises(InputError, match=r"no column blob/path.*--passthrough"):
        make(drop(example(), ["blob/path"]))


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("blob/psize_A", 3.5, r"mixes pixel sizes .* 2.95 in row 0 and 3.5 in row 2"),
        ("blob/shape", 16, "mixes boxes"),
        ("blob/sign", 1, "mixes contrast signs"),
        ("ctf/df1_A", np.nan, r"ctf/df1_A is nan in row 2 \(0-based\)"),
        ("alignments3D/pose", np.inf, r"alignments3D/pose is \[inf inf inf\] in row 2"),
        ("alignments3D/split", 7, "alignments3D/split is 7 in row 2"),
        ("blob/idx", 5, r"row 2 \(0-based\) names image 6 \(from 1\) of .*a.mrc, which has 2"),
    ],
)
def test_values_that_are_wrong_or_mixed(make, column, value, message):
    array = example()
    array[column][2] = value
    with pytest.raises(InputError, match=message):
        make(array)
    assert len(make(array, index=np.array([0, 3]))) == 2
    with pytest.raises(InputError):
        make(array[[2, 1, 0]])


def test_other_wrong_values(make):
    array = example()
    array["blob/psize_A"] = 0
    with pytest.raises(InputError, match="blob/psize_A is 0: expected a positive"):
        make(array)
    text = drop(example(), ["ctf/cs_mm"])
    with pytest.raises(InputError, match="column ctf/cs_mm has type"):
        make(recfunctions.append_fields(text, "ctf/cs_mm", np.array([b"x"] * 4), usemask=False))


def test_optics_that_the_model_lacks(make, warnings):
    array = example()
    array["ctf/tilt_A"][1, 0] = 0.2
    array["ctf/anisomag"][3] = 0.01
    assert make(array).ignored == ("beam tilt", "anisotropic magnification")
    assert len(warnings) == 1


def test_written_back_every_column_is_kept(make, tmp_path):
    particles = make(example())
    write_particles(particles.select(np.array([2, 0])), tmp_path / "out.cs")
    again = read_cs(tmp_path / "out.cs")
    assert again.dtype == example().dtype
    np.testing.assert_array_equal(again, example()[[2, 0]])


@pytest.mark.parametrize("had", [True, False])
def test_a_new_pose(make, tmp_path, had):
    particles = make(example() if had else drop(example(), POSE))
    rotation = torch.from_numpy(Rotation.random(4, random_state=9).as_matrix()).float()
    pose = Pose(rotation, torch.arange(8.0).reshape(4, 2))
    write_particles(particles, tmp_path / "out.cs", pose=pose)
    array = read_cs(tmp_path / "out.cs")
    theirs = Rotation.from_rotvec(array["alignments3D/pose"]).as_matrix()
    np.testing.assert_allclose(theirs, rotation.mT, atol=1e-6)
    np.testing.assert_allclose(array["alignments3D/shift"], pose.shift_A / (5.9 if had else 2.95), rtol=1e-6)
    again = read_particles(tmp_path / "out.cs")
    np.testing.assert_allclose(again.pose.rotation, rotation, atol=1e-6)
    np.testing.assert_allclose(again.pose.shift_A, pose.shift_A, rtol=1e-6)


def test_a_star_for_relion(make, tmp_path):
    array = example()
    array["ctf/accel_kv"][1] = 200
    particles = make(array)
    write_particles(particles, tmp_path / "elsewhere" / "out.star")
    again = read_particles(tmp_path / "elsewhere" / "out.star")
    np.testing.assert_array_equal(again.read(np.arange(4)), particles.read(np.arange(4)))
    np.testing.assert_allclose(again.pose.rotation, particles.pose.rotation, atol=1e-6)
    np.testing.assert_allclose(again.pose.shift_A, particles.pose.shift_A, atol=1e-5)
    for field in particles.ctf.__dataclass_fields__:
        np.testing.assert_allclose(getattr(again.ctf, field), getattr(particles.ctf, field), rtol=1e-5)
    assert again.half.tolist() == particles.half.tolist()
    assert (again.pixel_A, again.box) == (2.95, 8)
    assert len(again.table.optics) == 2


@pytest.mark.accept
def test_real_file_against_cryodrgn(shared):
    readers = shared / "data" / "readers"
    particles = read_particles(readers / "cryosparc_P12_J24_001_particles.cs", check_images=False)
    expected = np.load(readers / "cryosparc_P12_J24_expected.npz")
    np.testing.assert_allclose(particles.pose.rotation, expected["rotation"], atol=1e-5)
    np.testing.assert_allclose(particles.pose.shift_A, expected["shift_fraction"] * 180 * 2.95, atol=1e-5)
    ctf = particles.ctf
    ours = [ctf.defocus_u_A, ctf.defocus_v_A, ctf.angle_deg, ctf.voltage_kV, ctf.cs_mm, ctf.amplitude_contrast]
    np.testing.assert_allclose(torch.stack([*ours, ctf.phase_shift_deg], 1), expected["ctf"][:, 2:], rtol=1e-5)
    assert (particles.box, particles.pixel_A, particles.blob_sign) == (180, 2.95, -1.0)
    assert set(particles.half.tolist()) == {0, 1}


@pytest.mark.accept
def test_real_star_and_cs_of_the_same_images_agree(shared, tmp_path):
    readers = shared / "data" / "readers"
    star, cs = read_particles(readers / "empiar_10076_7.star"), read_particles(readers / "empiar_10076_7.cs")
    assert cs.blob_sign == -1 and star.blob_sign is None and star.pose is None and cs.pose is None
    np.testing.assert_allclose(star.pixel_A, cs.pixel_A, rtol=1e-6)
    np.testing.assert_array_equal(star.read(np.arange(7)), cs.read(np.arange(7)))
    for field in star.ctf.__dataclass_fields__:
        np.testing.assert_allclose(getattr(star.ctf, field), getattr(cs.ctf, field), rtol=1e-5)
    write_particles(cs, tmp_path / "out.star")
    np.testing.assert_allclose(read_particles(tmp_path / "out.star").ctf.angle_deg, star.ctf.angle_deg, rtol=1e-5)
