"""Masks against distances and volumes that are known."""

import math

import numpy as np
import pytest
import torch

from cryomorph.config.errors import InputError
from cryomorph.io.mrc import write_map
from cryomorph.volumes.grid import lowpass
from cryomorph.volumes.masks import (
    auto_mask,
    fsc_mask,
    largest_component,
    mask_at,
    mask_threshold,
    read_mask,
    resample_mask,
    soften,
    spherical_mask,
)


def radius_grid(box):
    k = (torch.arange(box) - box // 2).float()
    return (k[:, None, None] ** 2 + k[:, None] ** 2 + k**2).sqrt()


def test_spherical_mask_has_its_volume_and_profile():
    mask = spherical_mask(64, 20.0)
    assert mask.sum() == pytest.approx(4 / 3 * math.pi * 20**3, rel=0.01)
    soft = spherical_mask(64, 10.0, 8.0)
    along = soft[32, 32, 32:]
    assert along[10] == 1 and along[14] == pytest.approx(0.5) and along[18] == 0
    assert along[12] == pytest.approx(0.5 + 0.5 * math.cos(math.pi / 4))


def test_soften_one_voxel_is_a_soft_sphere():
    binary = torch.zeros(40, 40, 40, dtype=torch.bool)
    binary[20, 20, 20] = True
    mask = soften(binary, 2.0, dilate_A=12.0, edge_A=10.0)
    assert torch.allclose(mask, spherical_mask(40, 6.0, 5.0), atol=1e-5)


def test_soften_at_the_rim_stays_in_the_box():
    binary = torch.zeros(24, 24, 24, dtype=torch.bool)
    binary[0, 12, 23] = True
    mask = soften(binary, 1.0, dilate_A=4.0, edge_A=3.0)
    assert mask[4, 12, 23] == 1 and mask[23, 12, 0] == 0 and mask[0, 12, 16] == 0


@pytest.mark.parametrize(("pixel_A", "lowpass_A"), [(2.0, 15.0), (8.0, 20.0)])
def test_the_mask_of_an_fsc_is_that_of_the_low_passed_map(pixel_A, lowpass_A):
    volume = (-(radius_grid(32) ** 2) / 60).exp() + 0.1 * torch.randn(32, 32, 32, generator=torch.manual_seed(0))
    assert torch.equal(fsc_mask(volume, pixel_A), auto_mask(lowpass(volume, pixel_A, lowpass_A), pixel_A))


def test_auto_mask_of_a_gaussian():
    box, pixel_A, sigma = 64, 3.0, 5.0
    radius = radius_grid(box)
    volume = torch.exp(-(radius**2) / (2 * sigma**2))
    mask = auto_mask(volume, pixel_A, dilate_A=12.0, edge_A=15.0)
    top = 2 * mask_threshold(volume)
    cut = sigma * math.sqrt(2 * math.log(2 / top))  # where the Gaussian is half of its 99.99th percentile
    assert (mask[radius < cut + 4 - 1] == 1).all()
    assert (mask[radius > cut + 4 + 5 + 1] == 0).all()
    assert mask_threshold(volume) == pytest.approx(0.5, abs=0.05)


def test_lowpass_keeps_noise_out_of_the_mask():
    volume = torch.exp(-(radius_grid(48) ** 2) / (2 * 6.0**2))
    noisy = volume + 0.25 * torch.randn(48, 48, 48, generator=torch.Generator().manual_seed(0))
    plain, quiet = (auto_mask(noisy, 2.0, dilate_A=4.0, edge_A=4.0, lowpass_A=at) for at in (None, 20.0))
    clean = auto_mask(volume, 2.0, dilate_A=4.0, edge_A=4.0)
    assert (quiet - clean).abs().mean() < 0.3 * (plain - clean).abs().mean()


def test_largest_component_drops_the_others():
    binary = torch.zeros(20, 20, 20, dtype=torch.bool)
    binary[2:8, 2:8, 2:8] = True
    binary[8, 8, 8] = True  # touches by a corner
    binary[14:17, 14:17, 14:17] = True
    kept = largest_component(binary)
    assert int(kept.sum()) == 6**3 + 1 and not kept[15, 15, 15]
    mask = auto_mask(binary.float(), 1.0, threshold=0.5, dilate_A=0.0, edge_A=0.0, largest_only=True)
    assert torch.equal(mask, kept.float())


def test_a_mask_that_fills_the_box_is_warned_of(capsys):
    mask = auto_mask(torch.ones(16, 16, 16), 1.0)
    assert (mask == 1).all()
    assert "fills 100 % of the box" in capsys.readouterr().err


def test_empty_masks_and_bad_maps_are_refused():
    with pytest.raises(InputError, match="above the threshold 2"):
        auto_mask(torch.ones(8, 8, 8), 1.0, threshold=2.0)
    with pytest.raises(InputError, match="density above 0"):
        auto_mask(torch.zeros(8, 8, 8), 1.0)
    with pytest.raises(InputError, match="non-finite"):
        auto_mask(torch.full((8, 8, 8), math.nan), 1.0)
    with pytest.raises(InputError, match="empty"):
        soften(torch.zeros(8, 8, 8, dtype=torch.bool), 1.0)
    with pytest.raises(InputError, match="lengths"):
        soften(torch.ones(8, 8, 8, dtype=torch.bool), 1.0, dilate_A=-1.0)


def ball(box, pixel_A, *, centre_A=(6.0, -9.0, 3.0), radius_A=12.0, edge_A=24.0):
    """A ball off the origin with a cosine edge, sampled at the voxels `[z, y, x]` of a grid; origin at `box // 2`."""
    axis = (np.arange(box) - box // 2) * pixel_A
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    distance = np.sqrt((x - centre_A[0]) ** 2 + (y - centre_A[1]) ** 2 + (z - centre_A[2]) ** 2)
    return 0.5 + 0.5 * np.cos(np.pi * ((distance - radius_A) / edge_A).clip(0, 1))


@pytest.mark.parametrize(
    ("mask", "needed"),
    [
        ((64, 1.5), (32, 3.0)),  # cropped in Fourier space
        ((32, 3.0), (64, 1.5)),  # and back
        ((65, 1.5), (32, 3.0)),  # an odd box has its origin at its middle
        ((63, 1.5), (32, 3.0)),
        ((60, 1.6), (36, 2.7)),  # another field of view, and no voxel but the origin in common
        ((48, 2.0), (64, 2.0)),  # a margin
        ((80, 1.5), (32, 3.0)),  # a larger box whose rim is empty
    ],
)
def test_a_mask_of_another_grid_lies_where_it_did(tmp_path, capsys, mask, needed):
    """Against the same ball sampled on the grid that is needed: interpolation errs by 0.013, a voxel off by 0.2."""
    (given, given_A), (box, pixel_A) = mask, needed
    write_map(tmp_path / "mask.mrc", ball(given, given_A), given_A)
    found = read_mask(tmp_path / "mask.mrc", box, pixel_A).numpy()
    np.testing.assert_allclose(found, ball(box, pixel_A), atol=0.015)
    said = capsys.readouterr().err
    assert f"mask.mrc is resampled: it has {given} voxels a side of {given_A:g} A" in said
    assert f"the working box has {box} of {pixel_A:g} A" in said
    assert ("0 beyond its own field of view" in said) == (given * given_A < 0.99 * box * pixel_A)


def test_a_mask_is_exact_where_both_grids_have_a_voxel():
    mask = torch.rand(32, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(resample_mask(mask, 2.0, box=16, pixel_A=4.0), mask[::2, ::2, ::2])
    torch.testing.assert_close(resample_mask(mask, 2.0, box=64, pixel_A=1.0)[::2, ::2, ::2], mask)
    full = resample_mask(torch.ones(16, 16, 16), 4.0, box=64, pixel_A=1.0)
    assert full.min() == 1


def test_a_mask_of_the_same_grid_or_of_an_unknown_one_is_taken_as_it_is(tmp_path, capsys):
    values = np.random.default_rng(0).uniform(size=(16, 16, 16)).astype(np.float32)
    for header_A in (0.0, 1.0, 3.0, 3.02):  # 0 and 1 are what programs write that do not know it
        write_map(tmp_path / "mask.mrc", values, header_A)
        np.testing.assert_array_equal(read_mask(tmp_path / "mask.mrc", 16, 3.0), values)
    assert capsys.readouterr().err == ""


def test_a_mask_that_does_not_fit_is_refused_in_one_sentence(tmp_path):
    def refused(said, values, header_A, *, box=32, pixel_A=2.0):
        write_map(tmp_path / "mask.mrc", values, header_A)
        with pytest.raises(InputError, match=said) as found:
            read_mask(tmp_path / "mask.mrc", box, pixel_A)
        assert "\n" not in str(found.value) and "mask.mrc" in str(found.value)

    ones = np.ones((16, 16, 16))
    refused("16 voxels a side, the working box has 32, and its header has no pixel size", ones, 0.0)
    refused("of 1.9 A, the working box has 32 of 2 A: expected about the same field of view", ones, 1.9)
    refused("of 9 A, the working box has 32 of 2 A: expected about the same field of view", ones, 9.0)
    refused(r"leaves out 6\d % of the mask: expected one inside the box", ones, 5.6)
    refused("16 x 16 x 8 voxels, expected a cube", ones[..., :8], 4.0)
    for value in (7.0, 0.0, -1.0, np.nan):
        refused("expected a mask from 0 to 1", np.full((16, 16, 16), value), 4.0)


def test_a_mask_s_value_between_its_voxels_and_beyond_its_box():
    mask = torch.zeros(16, 16, 16)
    mask[8 + 2, 8 - 3, 8 + 5] = 1  # z, y, x
    position = torch.tensor([[5.0, -3.0, 2.0], [4.5, -3.0, 2.0], [2.0, -3.0, 5.0], [40.0, 0.0, 0.0]])
    assert mask_at(mask, position).tolist() == [1, 0.5, 0, 0]
