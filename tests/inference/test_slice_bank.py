"""Banks of slices against slices taken one by one, and products against explicit sums."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cryomorph.inference import slice_bank
from cryomorph.inference.slice_bank import SliceBank, explained, first_half, half_turn, shift_grid, shift_step
from cryomorph.physics.disk import fourier_disk
from cryomorph.physics.pose import random_rotations
from cryomorph.physics.slicing import locate_slices, padded_grid
from cryomorph.physics.so3_grid import grid_rotations, grid_size

BOX, BAND = 16, 5
OFFSET = random_rotations(1, torch.Generator().manual_seed(4))[0]


@pytest.fixture(scope="module")
def columns() -> torch.Tensor:
    """Transforms of three maps without any symmetry."""
    maps = torch.randn(3, BOX, BOX, BOX, generator=torch.Generator().manual_seed(0))
    return padded_grid(BOX).from_volumes(maps)


def bank_of(columns: torch.Tensor, level: int) -> SliceBank:
    return SliceBank.of(columns, padded_grid(BOX), disk=fourier_disk(BOX).within(BAND), level=level, offset=OFFSET)


def direct(columns: torch.Tensor, level: int) -> torch.Tensor:
    """Slices of every map at every rotation of the grid, one for each: (maps, rotations, m)."""
    rotation = grid_rotations(level) @ OFFSET
    return (
        locate_slices(padded_grid(BOX), fourier_disk(BOX).within(BAND).frequency, rotation)
        .extract(columns)
        .movedim(2, 0)
    )


@pytest.mark.parametrize("level", [0, 1])
def test_every_column_is_the_slice_at_the_rotation_of_its_number(columns, level):
    """Both half turns of every rotation of every map, each once."""
    bank, slices = bank_of(columns, level), direct(columns, level)
    hit = torch.arange(2 * len(bank.slices))
    reference, cell = bank.numbers(hit)
    assert sorted(zip(reference.tolist(), cell.tolist(), strict=True)) == [
        (one, number) for one in range(3) for number in range(grid_size(level))
    ]
    scale = float(slices.abs().max())
    assert torch.allclose(bank.at(reference, cell), slices[reference, cell], atol=1e-4 * scale)
    # as the products see them: the rows, then their complex conjugates
    rows = torch.cat([bank.slices, bank.slices.conj()])
    assert torch.allclose(rows, slices[reference, cell], atol=1e-4 * scale)
    torch.testing.assert_close(bank.rotation, grid_rotations(level, bank.cell) @ OFFSET)


def test_numbers_of_any_shape(columns):
    bank, slices = bank_of(columns, 0), direct(columns, 0)
    generator = torch.Generator().manual_seed(1)
    reference = torch.randint(3, (5, 4), generator=generator)
    cell = torch.randint(grid_size(0), (5, 4), generator=generator)
    torch.testing.assert_close(bank.at(reference, cell), slices[reference, cell], atol=1e-3, rtol=1e-4)


def test_few_slices_at_a_time_make_the_same_bank(columns, monkeypatch):
    whole = bank_of(columns, 0)
    monkeypatch.setattr(slice_bank, "POINTS", 100)
    torch.testing.assert_close(bank_of(columns, 0).slices, whole.slices)


@pytest.mark.parametrize("level", [0, 1, 2])
def test_the_other_half_is_the_image_turned_by_180_degrees(level):
    turned = torch.diag(torch.tensor([-1.0, -1.0, 1.0])) @ grid_rotations(level, first_half(level))
    torch.testing.assert_close(grid_rotations(level, first_half(level) + half_turn(level)), turned, atol=1e-6, rtol=0)
    assert 2 * len(first_half(level)) == grid_size(level)


def test_products_are_the_sums_they_stand_for(columns):
    """In double precision by numpy, of slices taken one by one."""
    bank, slices = bank_of(columns, 0), direct(columns, 0).numpy().astype(complex)
    rng = np.random.default_rng(2)
    m = bank.slices.shape[1]
    image = rng.normal(size=(3, 4, m)) + 1j * rng.normal(size=(3, 4, m))
    weight = rng.uniform(0, 2, (3, m))
    overlap, power = bank.products(torch.from_numpy(image).to(torch.complex64), torch.from_numpy(weight).float())
    reference, cell = (each.numpy() for each in bank.numbers(torch.arange(2 * len(bank.slices))))
    shown = slices[reference, cell]
    expected = np.einsum("btm,nm->btn", image, shown.conj()).real
    np.testing.assert_allclose(overlap.numpy(), expected, atol=1e-4 * np.abs(expected).max())
    norm = weight @ (np.abs(shown) ** 2).T
    assert power.shape == (3, 1, len(shown))
    np.testing.assert_allclose(power[:, 0].numpy(), norm, rtol=1e-4)


def test_what_a_slice_explains_is_the_best_of_all_amplitudes_above_zero():
    overlap = torch.tensor([3.0, 0.4, 0.0, -2.0])
    power = torch.tensor([2.0, 5.0, 1.0, 1.0])
    amplitude = np.linspace(0, 3, 30001)[:, None]
    best = (2 * amplitude * overlap.numpy() - amplitude**2 * power.numpy()).max(0)
    np.testing.assert_allclose(explained(overlap.clone(), power).numpy(), best, atol=1e-6)
    # whatever the scale of the map; nothing where there is no map
    torch.testing.assert_close(explained(0.3 * overlap, 0.09 * power), explained(overlap.clone(), power))
    assert float(explained(torch.zeros(1), torch.zeros(1))) == 0


@pytest.mark.parametrize(("extent", "step"), [(2.5, 1.0), (3.0, 1.5), (2.0, 5.0), (1.2, 0.4), (5.12, 5.33)])
def test_shifts_cover_the_range_in_steps_no_longer_than_asked(extent, step):
    found = shift_grid(extent, step)
    line = found[:, 0].unique()
    assert len(found) == len(line) ** 2 == len(found.unique(dim=0))
    assert float(line.max()) == pytest.approx(extent) and float(line.min()) == pytest.approx(-extent)
    assert float(line.diff().max()) <= step * (1 + 1e-5)
    assert float(line.abs().min()) == pytest.approx(0, abs=1e-6)  # an image that is centred already
    # none too many: two fewer along an axis would be too far apart
    assert len(line) == 3 or 2 * extent / (len(line) - 3) > step
    torch.testing.assert_close(found[:, 1].unique(), line)


def test_a_range_of_nothing_is_one_shift():
    assert torch.equal(shift_grid(0.0, 1.0), torch.zeros(1, 2))


def test_the_step_is_a_third_of_the_shortest_wavelength():
    """A wave of `band` periods across the box has moved by a third of a period."""
    assert shift_step(64, 8.0) * 8 / 64 == pytest.approx(1 / 3)
