"""RELION's STAR files of every age as particle metadata, and written back."""

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from cryomorph.config.errors import InputError
from cryomorph.io.star import read_star
from cryomorph.particles import metadata as module
from cryomorph.particles.metadata import read_particles, write_particles
from cryomorph.physics.pose import Pose
from fixtures.stacks import write_stack

CTF = {
    "rlnDefocusU": ["15000", "16000", "17000"],
    "rlnDefocusV": ["14000", "15500", "16900"],
    "rlnDefocusAngle": ["10", "-20", "170"],
}
MICROSCOPE = {
    "rlnVoltage": ["300", "200"],
    "rlnSphericalAberration": ["2.7", "0.01"],
    "rlnAmplitudeContrast": ["0.1", "0.07"],
}
ANGLES = {"rlnAngleRot": ["10", "20", "-30"], "rlnAngleTilt": ["40", "170", "5"], "rlnAnglePsi": ["70", "-80", "90"]}
ORIGINS_A = {"rlnOriginXAngst": ["1.5", "-2", "0"], "rlnOriginYAngst": ["3", "0.25", "-1"]}
NAMES = {"rlnImageName": ["3@s.mrcs", "1@s.mrcs", "2@s.mrcs"]}
GROUPS = {"rlnOpticsGroup": ["2", "1", "2"]}
OPTICS = {"rlnOpticsGroup": ["1", "2"], **MICROSCOPE, "rlnImagePixelSize": ["1.25", "1.25"], "rlnImageSize": ["8", "8"]}
FULL = {
    **NAMES,
    **CTF,
    **ANGLES,
    **ORIGINS_A,
    **GROUPS,
    "extra": ["a", "1.50", "nan"],
    "rlnRandomSubset": ["1", "2", "1"],
}


def without(columns, *names):
    return {name: values for name, values in columns.items() if name not in names}


@pytest.fixture
def make(tmp_path):
    """Write a STAR file (and its images) from dictionaries of columns, and read it."""
    write_stack(tmp_path / "s.mrcs", np.arange(192, dtype=np.float32).reshape(3, 8, 8), 7.0)

    def block(name, columns):
        rows = [" ".join(row) for row in zip(*columns.values(), strict=True)]
        head = [f"_{column} #{number}" for number, column in enumerate(columns, 1)]
        return "\n".join([f"data_{name}", "", "loop_", *head, *rows, "\n"])

    def write(particles, optics=OPTICS, name="particles", **options):
        path = tmp_path / "p.star"
        path.write_text((block("optics", optics) if optics else "") + block(name, particles))
        return read_particles(path, **options)

    return write


@pytest.fixture
def warnings(monkeypatch):
    seen = []
    monkeypatch.setattr(module, "warn", seen.append)
    return seen


def relion_matrix(rot, tilt, psi):
    """RELION's matrix: the transpose of scipy's intrinsic ZYZ rotation."""
    return (
        Rotation.from_euler("ZYZ", np.stack([rot, tilt, psi], 1).astype(float), degrees=True).as_matrix().swapaxes(1, 2)
    )


def test_relion_31_with_two_optics_groups(make, warnings):
    particles = make(FULL)
    assert (particles.box, particles.pixel_A, particles.ignored) == (8, 1.25, ())  # not the header's 7 A
    assert particles.ctf.voltage_kV.tolist() == [200, 300, 200]
    np.testing.assert_allclose(particles.ctf.cs_mm, [0.01, 2.7, 0.01])
    np.testing.assert_allclose(particles.ctf.amplitude_contrast, [0.07, 0.1, 0.07])
    assert particles.ctf.defocus_v_A.tolist() == [14000, 15500, 16900]
    assert particles.ctf.angle_deg.tolist() == [10, -20, 170]
    assert particles.ctf.scale.tolist() == [1, 1, 1] and particles.ctf.bfactor_A2.tolist() == [0, 0, 0]
    np.testing.assert_allclose(particles.pose.rotation, relion_matrix(*ANGLES.values()), atol=1e-6)
    np.testing.assert_allclose(particles.pose.shift_A, [[1.5, 3], [-2, 0.25], [0, -1]])
    assert particles.half.tolist() == [0, 1, 0]
    assert particles.image_of.tolist() == [2, 0, 1]
    assert particles.pose.rotation.dtype == particles.ctf.cs_mm.dtype == torch.float32
    assert not warnings


def test_relion_30_in_pixels(make):
    columns = {
        **without(FULL, *GROUPS, *ORIGINS_A),
        "rlnVoltage": ["300"] * 3,
        "rlnSphericalAberration": ["2.7"] * 3,
        "rlnAmplitudeContrast": ["0.1"] * 3,
        "rlnPhaseShift": ["0", "90", "45"],
        "rlnCtfBfactor": ["0", "10", "0"],
        "rlnCtfScalefactor": ["1", "0.5", "1"],
        "rlnOriginX": ["1", "2", "3"],
        "rlnOriginY": ["-1", "0", "0.5"],
        "rlnDetectorPixelSize": ["5"] * 3,
        "rlnMagnification": ["20000"] * 3,
    }
    particles = make(columns, optics=None, name="images")
    assert particles.pixel_A == 2.5
    np.testing.assert_allclose(particles.pose.shift_A, [[2.5, -2.5], [5, 0], [7.5, 1.25]])
    assert particles.ctf.phase_shift_deg.tolist() == [0, 90, 45]
    assert particles.ctf.bfactor_A2.tolist() == [0, 10, 0]
    assert particles.ctf.scale.tolist() == [1, 0.5, 1]
    with pytest.raises(InputError, match="positive number"):
        make({**columns, "rlnMagnification": ["0"] * 3}, optics=None)
    assert make({**columns, "rlnPixelSize": ["1.1"] * 3}, optics=None).pixel_A == 1.1


def test_microscope_columns_among_the_particles_of_31(make):
    optics = without(OPTICS, *MICROSCOPE)
    particles = make({**FULL, **{name: [*values, values[0]] for name, values in MICROSCOPE.items()}}, optics)
    assert particles.ctf.voltage_kV.tolist() == [300, 200, 300]


def test_one_group_needs_no_group_column(make):
    one = {name: values[:1] for name, values in OPTICS.items()}
    assert make(without(FULL, "rlnOpticsGroup"), one).ctf.voltage_kV.tolist() == [300] * 3
    with pytest.raises(InputError, match="block data_particles has no column rlnOpticsGroup"):
        make(without(FULL, "rlnOpticsGroup"))
    with pytest.raises(InputError, match="block data_optics has no column rlnOpticsGroup"):
        make(FULL, without(OPTICS, "rlnOpticsGroup"))


def test_groups_that_do_not_exist_or_repeat(make):
    with pytest.raises(InputError, match=r"row 1 \(0-based\) is of optics group 7, .* \(it has 1, 2\)"):
        make({**FULL, "rlnOpticsGroup": ["1", "7", "2"]})
    with pytest.raises(InputError, match="names a group twice"):
        make(FULL, {**OPTICS, "rlnOpticsGroup": ["1", "1"]})


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("rlnImagePixelSize", ["1.25", "2.5"], r"mixes pixel sizes .* 2.5 in row 0 and 1.25 in row 1 \(0-based\)"),
        ("rlnImageSize", ["8", "16"], r"mixes boxes .* 16 in row 0 and 8 in row 1"),
        ("rlnVoltage", ["300", "high"], r"rlnVoltage is 'high' in optics row 1 \(0-based\): expected a number"),
        ("rlnCtfDataAreCtfPremultiplied", ["0", "1"], "rlnCtfDataAreCtfPremultiplied is 1"),
    ],
)
def test_optics_in_use_are_checked_and_others_are_not(make, column, values, message):
    optics = {**OPTICS, column: values}
    with pytest.raises(InputError, match=message):
        make(FULL, optics)
    assert len(make(FULL, optics, index=np.array([1]))) == 1


@pytest.mark.parametrize("value", ["abc", "nan", "inf", "1e"])
def test_what_is_no_number_is_named(make, value):
    with pytest.raises(InputError, match=rf"rlnDefocusU is '{value}' in row 2 \(0-based\): expected a number"):
        make({**FULL, "rlnDefocusU": ["1", "2", value]})
    # the row is the file's, also where an index is given
    with pytest.raises(InputError, match=r"row 2 \(0-based\)"):
        make({**FULL, "rlnAngleTilt": ["1", "2", value]}, index=np.array([2, 0]))


def test_missing_columns(make, caplog):
    assert make(without(FULL, *CTF), without(OPTICS, *MICROSCOPE)).ctf is None
    with pytest.raises(InputError, match="part of the CTF columns, missing: rlnDefocusV, rlnVoltage:"):
        make(without(FULL, "rlnDefocusV"), without(OPTICS, "rlnVoltage"))
    assert make(without(FULL, *ANGLES, *ORIGINS_A)).pose is None
    assert make(without(FULL, "rlnAngleRot", "rlnAngleTilt")).pose is None  # a 2D alignment's psi and origins
    with caplog.at_level("WARNING"):
        centred = make(without(FULL, *ORIGINS_A))  # as Warp and M write them
    assert not centred.pose.shift_A.any() and "no origins (rlnOriginXAngst, rlnOriginYAngst)" in caplog.text
    np.testing.assert_allclose(centred.pose.rotation, make(FULL).pose.rotation)
    for missing in ("rlnAngleRot", "rlnAnglePsi", "rlnOriginYAngst"):
        with pytest.raises(InputError, match=f"part of the pose columns, missing: {missing}:"):
            make(without(FULL, missing))
    with pytest.raises(InputError, match="no column rlnImageName"):
        make(without(FULL, "rlnImageName"))


@pytest.mark.parametrize("name", ["0@s.mrcs", "x@s.mrcs", "1.5@s.mrcs", "@s.mrcs"])
def test_image_names_that_make_no_sense(make, name):
    with pytest.raises(InputError, match=rf"rlnImageName is '{name}' in row 1 \(0-based\): expected number@file"):
        make({**FULL, "rlnImageName": ["1@s.mrcs", name, "2@s.mrcs"]})


def test_a_half_that_is_neither(make):
    with pytest.raises(InputError, match=r"rlnRandomSubset is 3 in row 1 \(0-based\): expected 1 or 2"):
        make({**FULL, "rlnRandomSubset": ["1", "3", "2"]})


def test_optics_that_the_model_lacks_are_named_once(make, warnings):
    optics = {
        **OPTICS,
        "rlnBeamTiltX": ["0", "0.1"],
        "rlnBeamTiltY": ["0", "0"],
        "rlnOddZernike": ["[0,0,0.0]", "[0,0,0]"],
        "rlnEvenZernike": ["[0,0]", "[0,-1.2e-3]"],
        "rlnMagMat00": ["1", "1.000000"],
        "rlnMagMat01": ["0.01", "0"],
    }
    assert make(FULL, optics).ignored == ("beam tilt", "even Zernike terms", "anisotropic magnification")
    assert len(warnings) == 1 and "beam tilt, even Zernike terms, anisotropic" in warnings[0]
    assert make(FULL, optics, index=np.array([1])).ignored == ("anisotropic magnification",)
    with pytest.raises(InputError, match="rlnOddZernike holds"):
        make(FULL, {**optics, "rlnOddZernike": ["[0,x]", "[0,0]"]})


@pytest.mark.parametrize("mark", ["'", '"'])
def test_quoted_numbers_are_numbers(make, mark):
    def quoted(columns):
        return {name: [f"{mark}{value}{mark}" for value in values] for name, values in columns.items()}

    plain, found = make(FULL), make(quoted(FULL), quoted(OPTICS))
    np.testing.assert_array_equal(found.pose.shift_A, plain.pose.shift_A)
    np.testing.assert_array_equal(found.ctf.voltage_kV, plain.ctf.voltage_kV)
    assert found.half.tolist() == plain.half.tolist() and found.pixel_A == plain.pixel_A
    assert make({**FULL, **quoted(GROUPS)}).ctf.voltage_kV.tolist() == [200, 300, 200]


@pytest.mark.parametrize(
    ("block", "column", "value", "message"),
    [
        ("optics", "rlnVoltage", "300000", r"the voltage is 300000 kV in row 0 \(0-based\) and in 1 more"),
        ("optics", "rlnVoltage", "0", "the voltage is 0 kV"),
        ("optics", "rlnSphericalAberration", "2.7e7", "the spherical aberration is 2.7e[+]07 mm"),
        ("optics", "rlnAmplitudeContrast", "7", "the amplitude contrast is 7 in row 0"),
        ("optics", "rlnImagePixelSize", "1e30", "the pixel size is 1e[+]30 A.*--pixel-A"),
        ("particles", "rlnDefocusU", "1.5e300", r"the defocus is inf A in row 1 \(0-based\)"),
        (
            "particles",
            "rlnOriginXAngst",
            "1e30",
            r"row 1 \(0-based\) is \(1e[+]30, 0.25\) A, longer than its image of 10 A",
        ),
        ("particles", "rlnOriginYAngst", "1e300", r"row 1 \(0-based\) is \(-2, 1e[+]300\) A"),
        ("particles", "rlnOriginYAngst", "11", "longer than its image"),
    ],
)
def test_numbers_that_cannot_be_are_named(make, block, column, value, message):
    particles, optics = dict(FULL), dict(OPTICS)
    if block == "optics":
        optics[column] = [value if column == "rlnImagePixelSize" else optics[column][0], value]
    else:
        particles[column] = [particles[column][0], value, particles[column][2]]
    with pytest.raises(InputError, match=message):
        make(particles, optics)


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("rlnDefocusU", ["1.5", "1.6", "1.7"], "not micrometres"),
        ("rlnDefocusU", ["15000", "16000", "400000"], "the defocus is 400000 A in row 2"),
        ("rlnVoltage", ["30", "30"], "the voltage is 30 kV"),
        ("rlnImagePixelSize", ["0.05", "0.05"], "the pixel size is 0.05 A"),
    ],
)
def test_numbers_that_are_hardly_meant_are_warned_of(make, caplog, column, values, message):
    columns, optics = dict(without(FULL, *ORIGINS_A)), dict(OPTICS)
    (columns if column in columns else optics)[column] = values
    if column == "rlnDefocusU" and float(values[0]) < 10:
        columns["rlnDefocusV"] = values
    make(columns, optics)
    assert message in caplog.text


def test_a_pixel_size_that_is_given_is_written_too(make, tmp_path):
    particles = make(FULL, pixel_A=1.3)
    assert particles.pixel_A == 1.3
    np.testing.assert_allclose(particles.pose.shift_A[0], [1.5, 3])
    write_particles(particles, tmp_path / "out.star")
    assert read_particles(tmp_path / "out.star").pixel_A == 1.3
    optics = read_star(tmp_path / "out.star")["optics"]
    assert list(optics.columns) == list(OPTICS) and optics["rlnVoltage"].tolist() == OPTICS["rlnVoltage"]
    columns = {**NAMES, **ANGLES, "rlnOriginX": ["1", "2", "3"], "rlnOriginY": ["0"] * 3}
    old = make(columns, optics=None, pixel_A=1.3)
    np.testing.assert_allclose(old.pose.shift_A[1], [2.6, 0], rtol=1e-6)
    write_particles(old, tmp_path / "out.star")
    again = read_particles(tmp_path / "out.star")
    assert again.pixel_A == pytest.approx(1.3)
    np.testing.assert_allclose(again.pose.shift_A, old.pose.shift_A, rtol=1e-6)
    with pytest.raises(InputError, match="--pixel-A -1: expected a number above 0"):
        make(FULL, pixel_A=-1.0)


def test_images_that_were_scaled_or_cropped_after_the_refinement(make, tmp_path, caplog):
    stated = {**OPTICS, "rlnImageSize": ["16", "16"], "rlnImagePixelSize": ["0.5", "0.5"]}
    pixels = {**without(FULL, *ORIGINS_A), "rlnOriginX": ["1", "2", "3"], "rlnOriginY": ["0"] * 3}
    with pytest.raises(InputError, match=r"box of 16 at 0.5 A, its images have 8.*scaled \(1 A\) or cropped \(0.5 A\)"):
        make(FULL, stated)  # the header says 7 A
    write_stack(tmp_path / "s.mrcs", np.ones((3, 8, 8), np.float32), 1.0)
    with pytest.raises(InputError, match="--pixel-A"):
        make(FULL, stated)  # which programs write that do not know
    scaled = make(FULL, stated, pixel_A=1.0)
    assert scaled.pixel_A == 1.0 and "they were scaled, and 1 A is used" in caplog.text
    old = without(stated, "rlnOpticsGroup")
    old = {**pixels, **{name: [values[0]] * 3 for name, values in old.items()}}
    of_relion_30 = make(without(old, "rlnOpticsGroup"), optics=None, pixel_A=1.0)
    np.testing.assert_allclose(of_relion_30.pose.shift_A[:, 0], [0.5, 1, 1.5])  # pixels of the refinement
    write_particles(of_relion_30, tmp_path / "out.star")
    again = read_particles(tmp_path / "out.star")
    assert (again.pixel_A, again.box) == (1, 8)
    np.testing.assert_allclose(again.pose.shift_A, of_relion_30.pose.shift_A)
    write_stack(tmp_path / "s.mrcs", np.ones((3, 8, 8), np.float32), 0.5)
    assert make(FULL, stated).pixel_A == 0.5 and "they were cropped" in caplog.text


def test_quoted_image_names(make, tmp_path):
    write_stack(tmp_path / "two words.mrcs", np.ones((3, 8, 8), np.float32), 1.0)
    particles = make({**FULL, "rlnImageName": [f'"{i}@two words.mrcs"' for i in (1, 2, 3)]})
    assert particles.read(np.array([2])).sum() == 64


def test_written_back_every_column_and_string_is_kept(make, tmp_path):
    particles = make(FULL)
    original = read_star(tmp_path / "p.star")
    write_particles(particles.select(np.array([2, 0])), tmp_path / "out.star")
    again = read_star(tmp_path / "out.star")
    assert list(again) == ["optics", "particles"]
    assert again["optics"].equals(original["optics"])
    assert list(again["particles"].columns) == list(FULL)
    assert again["particles"].to_numpy().tolist() == original["particles"].to_numpy()[[2, 0]].tolist()


def pose_of(n=3):
    rotation = torch.from_numpy(Rotation.random(n, random_state=3).as_matrix()).float()
    return Pose(rotation, torch.tensor([[1.0, -2.0], [0.5, 0.25], [-4.0, 8.0]])[:n])


@pytest.mark.parametrize("origins", [{}, ORIGINS_A])
def test_a_new_pose_replaces_or_adds_columns(make, tmp_path, origins):
    columns = {**without(FULL, *ORIGINS_A, *(() if origins else ANGLES)), **origins}
    write_particles(make(columns), tmp_path / "out.star", pose=pose_of())
    table = read_star(tmp_path / "out.star")["particles"]
    assert list(table.columns) == list(dict.fromkeys([*columns, *ANGLES, *ORIGINS_A]))
    assert table["extra"].tolist() == FULL["extra"]
    again = read_particles(tmp_path / "out.star")
    np.testing.assert_allclose(again.pose.rotation, pose_of().rotation, atol=1e-6)
    np.testing.assert_allclose(again.pose.shift_A, pose_of().shift_A, atol=1e-6)


@pytest.mark.parametrize("present", [True, False])
def test_a_new_pose_of_relion_30_is_in_pixels(make, tmp_path, present):
    columns = {**NAMES, "rlnPixelSize": ["2"] * 3}
    if present:
        columns |= {**ANGLES, "rlnOriginX": ["0"] * 3, "rlnOriginY": ["0"] * 3}
    write_particles(make(columns, optics=None, name=""), tmp_path / "out.star", pose=pose_of())
    table = read_star(tmp_path / "out.star")[""]
    assert table["rlnOriginX"].astype(float).tolist() == [0.5, 0.25, -2]
    np.testing.assert_allclose(read_particles(tmp_path / "out.star").pose.shift_A, pose_of().shift_A)


@pytest.mark.accept
def test_real_relion_31(shared, tmp_path):
    path = shared / "data" / "readers" / "relion31.star"
    particles = read_particles(path)
    assert (len(particles), particles.box, particles.pixel_A) == (5, 256, 2.806)
    expected = relion_matrix([-102.30296], [82.318041], [124.706463])
    np.testing.assert_allclose(particles.pose.rotation[:1], expected, atol=1e-6)
    np.testing.assert_allclose(particles.pose.shift_A[0], [0.019324, -0.64686], rtol=1e-6)
    np.testing.assert_allclose(particles.ctf.defocus_u_A[0], 13108.082418, rtol=1e-6)
    assert particles.half.tolist() == [0] * 5
    assert particles.read(np.array([4, 0])).shape == (2, 256, 256)
    write_particles(particles, tmp_path / "out.star")
    for name, table in read_star(path).items():
        assert read_star(tmp_path / "out.star")[name].equals(table)


@pytest.mark.accept
def test_real_relion_5(shared, warnings):
    particles = read_particles(shared / "data" / "readers" / "relion5.star", check_images=False)
    assert (len(particles), particles.box, particles.pixel_A) == (17, 448, 0.89)
    assert len(particles.stacks) == 2 and particles.half.tolist()[:3] == [0, 1, 1]
    assert particles.ignored == ("beam tilt", "odd Zernike terms", "even Zernike terms", "anisotropic magnification")
    assert particles.ctf.voltage_kV.unique().tolist() == [100] and len(warnings) == 1
