"""The CTF against the direct formula, published numbers and the referee."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cryomorph.physics.ctf import Ctf, evaluate_ctf, wavelength_A
from cryomorph.physics.disk import FourierDisk

NAMES = ("defocus_u_A", "defocus_v_A", "angle_deg", "voltage_kV", "cs_mm", "amplitude_contrast", "phase_shift_deg",
         "bfactor_A2", "scale")  # fmt: skip
PLAIN = (15000.0, 15000.0, 0.0, 300.0, 2.7, 0.1, 0.0, 0.0, 1.0)


def make(*rows: tuple[float, ...]) -> Ctf:
    columns = torch.tensor(rows, dtype=torch.float64).T
    return Ctf(**dict(zip(NAMES, columns, strict=True)))


def direct(row: tuple[float, ...], sx: np.ndarray, sy: np.ndarray) -> np.ndarray:
    """CTFFIND4's formula as the paper prints it, with the angle by arctan2 (Rohou & Grigorieff 2015, eq. 2 to 6)."""
    u, v, angle, kilovolt, cs_mm, w, phase, bfactor, scale = row
    volt = kilovolt * 1e3
    lam = 12.2643247 / np.sqrt(volt * (1 + 0.978466e-6 * volt))
    s = np.hypot(sx, sy)
    alpha = np.arctan2(sy, sx)
    defocus = 0.5 * (u + v + (u - v) * np.cos(2 * (alpha - np.deg2rad(angle))))
    chi = np.pi * lam * s**2 * (defocus - 0.5 * lam**2 * s**2 * cs_mm * 1e7) + np.deg2rad(phase)
    return scale * (np.sqrt(1 - w**2) * np.sin(chi) + w * np.cos(chi)) * np.exp(-bfactor * s**2 / 4)


def disk_frequency(box: int, pixel_A: float) -> torch.Tensor:
    return FourierDisk(box).frequency.double() / (box * pixel_A)


ROWS = st.tuples(
    st.floats(3000, 40000),
    st.floats(3000, 40000),
    st.floats(-180, 180),
    st.sampled_from([80.0, 120.0, 200.0, 300.0]),
    st.floats(0, 4),
    st.floats(0, 1),
    st.floats(0, 180),
    st.floats(0, 300),
    st.floats(0.5, 2),
)


@settings(deadline=None, derandomize=True, max_examples=40)
@given(rows=st.lists(ROWS, min_size=1, max_size=4))
def test_agrees_with_the_direct_formula(rows):
    frequency = disk_frequency(24, 1.5)
    expected = np.stack([direct(row, *frequency.numpy().T) for row in rows])
    np.testing.assert_allclose(evaluate_ctf(make(*rows), frequency).numpy(), expected, atol=1e-9)


def test_single_precision_is_enough():
    """300 zeros out, the phase of a float32 CTF is still right to a percent."""
    row = (25000.0, 24000.0, 33.0, 300.0, 2.7, 0.07, 0.0, 0.0, 1.0)
    frequency = disk_frequency(64, 1.0)
    ctf = make(row)
    single = Ctf(**{name: getattr(ctf, name).float() for name in NAMES})
    np.testing.assert_allclose(
        evaluate_ctf(single, frequency.float()).numpy()[0], direct(row, *frequency.numpy().T), atol=1e-3
    )


@pytest.mark.parametrize(("kilovolt", "published_A"), [(100, 0.0370), (200, 0.0251), (300, 0.0197)])
def test_wavelength_is_the_published_one(kilovolt, published_A):
    assert float(wavelength_A(torch.tensor(float(kilovolt)))) == pytest.approx(published_A, abs=5e-5)


def test_positive_at_low_resolution_for_underfocus():
    """Up to the first zero (15,000 A: beyond 1/17 per A) every value is positive, and the origin holds `w`."""
    frequency = torch.tensor([[0.0, 0.0], [1 / 200, 0], [1 / 50, 0], [0, 1 / 25]], dtype=torch.float64)
    value = evaluate_ctf(make(PLAIN), frequency)[0]
    assert (value > 0).all()
    assert float(value[0]) == pytest.approx(0.1)


def test_first_zero_is_where_the_phase_reaches_pi():
    """Without spherical aberration: `pi lambda s^2 df + asin(w) = pi`."""
    row = (15000.0, 15000.0, 0.0, 300.0, 0.0, 0.1, 0.0, 0.0, 1.0)
    lam = float(wavelength_A(torch.tensor(300.0, dtype=torch.float64)))
    zero = np.sqrt((np.pi - np.arcsin(0.1)) / (np.pi * lam * 15000))
    value = evaluate_ctf(make(row), torch.tensor([[zero, 0], [0.99 * zero, 0], [1.01 * zero, 0]], dtype=torch.float64))
    assert float(value[0, 0]) == pytest.approx(0, abs=1e-9)
    assert float(value[0, 1]) > 0 > float(value[0, 2])


@pytest.mark.parametrize("angle_deg", [0.0, 25.0, 90.0, -60.0])
def test_along_the_angle_the_defocus_is_u_and_across_it_v(angle_deg):
    """`angle_deg` turns from +x towards +y, `[y, x]` images with y downwards or not."""
    s = np.linspace(0.01, 0.2, 30)
    along = np.deg2rad(angle_deg)
    across = along + np.pi / 2
    astigmatic = make((20000.0, 12000.0, angle_deg, *PLAIN[3:]))
    for direction, defocus in ((along, 20000.0), (across, 12000.0)):
        frequency = torch.from_numpy(np.stack([s * np.cos(direction), s * np.sin(direction)], axis=1))
        round_one = make((defocus, defocus, 0.0, *PLAIN[3:]))
        torch.testing.assert_close(evaluate_ctf(astigmatic, frequency), evaluate_ctf(round_one, frequency))


def test_a_phase_plate_of_ninety_degrees_turns_sine_to_cosine():
    frequency = disk_frequency(16, 2.0)
    flat = (*PLAIN[:5], 0.0, 0.0, 0.0, 1.0)
    plate = (*PLAIN[:5], 0.0, 90.0, 0.0, 1.0)
    sine, cosine = evaluate_ctf(make(flat, plate), frequency)
    torch.testing.assert_close(sine**2 + cosine**2, torch.ones_like(sine))


def test_particles_can_be_chosen_counted_and_moved():
    ctf = make(PLAIN, (20000.0, *PLAIN[1:]), (30000.0, *PLAIN[1:]))
    assert len(ctf) == 3
    assert ctf[1:].defocus_u_A.tolist() == [20000.0, 30000.0]
    assert ctf[torch.tensor([2, 0])].defocus_u_A.tolist() == [30000.0, 15000.0]
    assert ctf.to("cpu").scale.device.type == "cpu"


@pytest.mark.accept
def test_agrees_with_the_referee(shared: Path):
    spec = importlib.util.spec_from_file_location("referee_simulate", shared / "referee" / "simulate.py")
    assert spec is not None
    assert spec.loader is not None
    referee = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(referee)
    box, pixel_A = 32, 2.5
    row = (18000.0, 16500.0, 40.0, 300.0, 2.7, 0.1, 10.0, 100.0, 1.0)
    kx, ky = FourierDisk(box).frequency.numpy().T
    expected = referee.ctf(box, pixel_A, *row[:8])[ky + box // 2, kx + box // 2]
    np.testing.assert_allclose(evaluate_ctf(make(row), disk_frequency(box, pixel_A)).numpy()[0], expected, atol=1e-9)
