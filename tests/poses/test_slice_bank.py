"""Banks of slices against slices taken one by one, and products against explicit sums."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cryomorph.physics.disk import fourier_disk
from cryomorph.physics.pose import random_rotations
from cryomorph.physics.slicing import locate_slices, padded_grid
from cryomorph.physics.so3_grid import grid_rotations, grid_size
from cryomorph.poses import slice_bank
from cryomorph.poses.slice_bank import SliceBank, first_half, half_turn, shift_grid, shift_step

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
    """Both half turns of every rotation, each once; of every map."""
    bank, slices = bank_of(columns, level), direct(columns, level)
    assert bank.slices.shape == (3, grid_size(level) // 2, slices.shape[2]) and bank.columns == grid_size(level)
    cell = bank.numbers(torch.arange(bank.columns))
    assert sorted(cell.tolist()) == list(range(grid_size(level)))
    scale = float(slices.abs().max())
    assert torch.allclose(bank.at(cell), slices[:, cell], atol=1e-4 * scale)
    # as the products see them: the rows, then their complex conjugates
    rows = torch.cat([bank.slices, bank.slices.conj()], dim=1)
    assert torch.allclose(rows, slices[:, cell], atol=1e-4 * scale)
    torch.testing.assert_close(bank.rotation, grid_rotations(level, bank.cell) @ OFFSET)


def test_numbers_of_any_shape(columns):
    bank, slices = bank_of(columns, 0), direct(columns, 0)
    cell = torch.randint(grid_size(0), (5, 4), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(bank.at(cell), slices[:, cell], atol=1e-3, rtol=1e-4)
    column = torch.randint(grid_size(0), (2, 3, 2), generator=torch.Generator().manual_seed(2))
    assert torch.equal(bank.numbers(column).flatten(), bank.numbers(column.flatten()))


def test_few_slices_at_a_time_make_the_same_bank(columns, monkeypatch):
    whole = bank_of(columns, 0)
    monkeypatch.setattr(slice_bank, "POINTS", 100)
    torch.testing.assert_close(bank_of(columns, 0).slices, whole.slices)


@pytest.mark.parametrize("level", [0, 1, 2])
def test_the_other_half_is_the_image_turned_by_180_degrees(level):
    turned = torch.diag(torch.tensor([-1.0, -1.0, 1.0])) @ grid_rotations(level, first_half(level))
    torch.testing.assert_close(grid_rotations(level, first_half(level) + half_turn(level)), turned, atol=1e-6, rtol=0)
    assert 2 * len(first_half(level)) == grid_size(level)


@pytest.mark.parametrize("maps", [1, 2, 3])
def test_products_are_the_sums_they_stand_for(columns, maps):
    """Overlaps and the Gram matrix of all maps, in double precision by numpy, of slices taken one by one."""
    columns = columns[:, :maps].contiguous()
    bank, slices = bank_of(columns, 0), direct(columns, 0).numpy().astype(complex)
    rng = np.random.default_rng(2)
    m, half = slices.shape[2], grid_size(0) // 2
    image = rng.normal(size=(3, 4, m)) + 1j * rng.normal(size=(3, 4, m))
    weight = rng.uniform(0, 2, (3, m))
    overlap, gram = bank.products(torch.from_numpy(image).to(torch.complex64), torch.from_numpy(weight).float())
    assert overlap.shape == (maps, 3, 4, 2, half) and gram.shape == (3, 1, 1, half, maps, maps)
    shown = slices[:, bank.numbers(torch.arange(grid_size(0))).numpy()]
    expected = np.einsum("btm,knm->kbtn", image, shown.conj()).real
    np.testing.assert_allclose(overlap.flatten(3).numpy(), expected, atol=1e-4 * np.abs(expected).max())
    # of a slice, and of the same one turned by 180 degrees
    for turned in (0, half):
        both = shown[:, turned : turned + half]
        for k in range(maps):
            for other in range(maps):
                power = weight @ (both[k] * both[other].conj()).real.T
                found = gram[:, 0, 0, :, k, other].numpy()
                np.testing.assert_allclose(found, power, atol=1e-4 * np.abs(gram.numpy()).max())


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
