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


def test_a_mask_that_does_not_fit_is_refused_in_one_sentence(tmp_path):
    write_map(tmp_path / "mask.mrc", np.ones((16, 16, 16)), 2.0)
    assert read_mask(tmp_path / "mask.mrc", 16).sum() == 16**3
    with pytest.raises(InputError, match=r"mask.mrc has 16 x 16 x 16 voxels, expected the working box, 32") as said:
        read_mask(tmp_path / "mask.mrc", 32)
    assert "\n" not in str(said.value)
    for value in (7.0, 0.0, -1.0, np.nan):
        write_map(tmp_path / "map.mrc", np.full((16, 16, 16), value), 2.0)
        with pytest.raises(InputError, match="expected a mask from 0 to 1"):
            read_mask(tmp_path / "map.mrc", 16)


def test_a_mask_s_value_between_its_voxels_and_beyond_its_box():
    mask = torch.zeros(16, 16, 16)
    mask[8 + 2, 8 - 3, 8 + 5] = 1  # z, y, x
    position = torch.tensor([[5.0, -3.0, 2.0], [4.5, -3.0, 2.0], [2.0, -3.0, 5.0], [40.0, 0.0, 0.0]])
    assert mask_at(mask, position).tolist() == [1, 0.5, 0, 0]
