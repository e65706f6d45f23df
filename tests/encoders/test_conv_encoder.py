"""The convolutional encoder: what becomes of an image in the volume's frame, and the network written out."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage, special
from torch.nn import functional

from cryomorph.encoders import conv
from cryomorph.encoders.conv import ConvEncoder, Variation
from cryomorph.particles.store import Batch
from cryomorph.physics.disk import fourier_disk
from cryomorph.physics.pose import random_rotations

N, BOX, ZDIM = 4, 24, 3
DISK = fourier_disk(BOX)


def batch(box: int = BOX) -> Batch:
    generator = torch.Generator().manual_seed(0)
    disk = fourier_disk(box)
    image = torch.randn(N, disk.size, dtype=torch.complex64, generator=generator)
    ctf = torch.randn(N, disk.size, generator=generator)
    return Batch(torch.arange(N), image, ctf, random_rotations(N, generator))


def encoder_of(side: int = 16, variation: float = 0.0) -> ConvEncoder:
    torch.manual_seed(1)
    return ConvEncoder(ZDIM, side=side, channels=4, variation=variation).eval()


@pytest.mark.parametrize("side", [16, 32])
def test_a_voxel_has_the_value_of_the_image_where_it_projects_to(side):
    """By another library's interpolation, at `R r`, of images phase-flipped and cropped or padded in Fourier space."""
    encoder, given = encoder_of(side), batch()
    found = encoder.backprojected(given).numpy()
    small = fourier_disk(min(side, BOX))
    flipped = (given.image * torch.sign(given.ctf))[:, : small.size]
    image = fourier_disk(side).to_images(flipped).numpy() * side
    line = np.arange(side) - side // 2
    z, y, x = np.meshgrid(line, line, line, indexing="ij")
    for row in range(N):
        px, py, _ = np.moveaxis(np.stack([x, y, z], -1) @ given.rotation[row].numpy().T, -1, 0)
        expected = ndimage.map_coordinates(image[row], [py + side // 2, px + side // 2], order=1, cval=0)
        inside = (abs(px) < side / 2 - 1) & (abs(py) < side / 2 - 1)
        np.testing.assert_allclose(found[row][inside], expected[inside], atol=2e-4)


def test_places_keep_their_digits_in_half_precision():
    encoder, given = encoder_of(32), batch()
    with torch.autocast("cpu", torch.bfloat16):
        found = encoder.backprojected(given)
    torch.testing.assert_close(found, encoder.backprojected(given))


def test_many_images_are_taken_in_parts(monkeypatch):
    encoder, given = encoder_of(), batch()
    whole = encoder(given)
    monkeypatch.setattr(conv, "VOXELS", 3 * 16**3)
    with torch.no_grad():
        parts = encoder(given)
    torch.testing.assert_close(parts.mean, whole.mean.detach())
    torch.testing.assert_close(parts.log_variance, whole.log_variance.detach())


def test_a_point_of_the_volume_is_found_where_it_is():
    """Images of one bright point, from all sides: their cubes agree where it is and nowhere else."""
    encoder, point = encoder_of(32), torch.tensor([4.0, -6.0, 3.0])
    rotation = random_rotations(40, torch.Generator().manual_seed(3))
    disk = fourier_disk(32)
    place = rotation[:, :2] @ point
    image = torch.exp(-2j * torch.pi * (place @ disk.frequency.T.float()) / 32 - (disk.radius / 10) ** 2)
    given = Batch(torch.arange(40), image.to(torch.complex64), torch.ones(40, disk.size), rotation)
    mean = encoder.backprojected(given).mean(0)
    z, y, x = np.unravel_index(int(mean.argmax()), mean.shape)
    assert (x - 16, y - 16, z - 16) == (4, -6, 3)


def test_noise_of_unit_coefficients_has_unit_pixels():
    given = batch(32)
    given = replace(given, ctf=torch.ones_like(given.ctf), rotation=torch.eye(3).expand(N, 3, 3))
    assert float(encoder_of(32).backprojected(given)[:, 16].std()) == pytest.approx(1, abs=0.15)


def test_the_network_is_strided_convolutions_down_to_one_voxel():
    encoder, given = encoder_of(), batch()
    weights = encoder.state_dict()
    found = encoder.backprojected(given)[:, None]
    for number, side in enumerate((8, 4, 2, 1)):
        weight = weights[f"convolutions.{number}.weight"]
        assert weight.shape[2:] == (4, 4, 4) and len(weight) == 4 * 2**number
        found = functional.leaky_relu(
            functional.conv3d(found, weight, weights[f"convolutions.{number}.bias"], stride=2, padding=1), 0.2
        )
        assert found.shape[2:] == (side,) * 3
    hidden = functional.leaky_relu(found.flatten(1) @ weights["hidden.weight"].T + weights["hidden.bias"], 0.2)
    answer = hidden @ weights["output.weight"].T + weights["output.bias"]
    posterior = encoder(given)
    torch.testing.assert_close(torch.cat([posterior.mean, posterior.log_variance], dim=1), answer)


def test_an_image_alone_is_encoded_as_among_others():
    encoder, given = encoder_of(), batch()
    whole = encoder(given).mean
    for row in range(N):
        torch.testing.assert_close(encoder(given.rows(slice(row, row + 1))).mean[0], whole[row])


def test_contrast_and_brightness_vary_in_training_alone():
    torch.manual_seed(0)
    image, vary = torch.randn(500, 16, 16), Variation(0.3)
    assert torch.equal(vary.eval()(image), image)
    changed = vary.train()(image)
    contrast = (changed.std(dim=(1, 2)) / image.std(dim=(1, 2))).numpy()
    brightness = ((changed - image).mean(dim=(1, 2)) / image.std(dim=(1, 2))).numpy()
    for found, middle in ((contrast, 1.0), (brightness, 0.0)):
        assert abs(found.mean() - middle) < 0.05 and 0.28 < abs(found - middle).max() < 0.33
    # nothing but these two: what is left after both is nothing
    left = changed - torch.tensor(contrast)[:, None, None] * image
    assert float(left.std(dim=(1, 2)).max()) < 1e-4
    assert torch.equal(Variation(0.0).train()(image), image)


def test_saved_and_made_again():
    encoder, given = encoder_of(32, variation=0.5), batch()
    again = ConvEncoder.of(encoder.state_dict()).eval()
    assert again.side == 32 and torch.equal(again(given).mean, encoder(given).mean)


@pytest.mark.parametrize("side", [8, 24, 256])
def test_other_sides_are_refused(side):
    with pytest.raises(ValueError, match="power of two from 16 to 128"):
        ConvEncoder(2, side=side)


def test_what_codes_say_of_the_view_is_forgotten_and_nothing_else():
    """By spherical harmonics of another library: orders 2, 4 and 6 go, and what does not depend on the view stays."""
    generator = torch.Generator().manual_seed(0)
    rotation = random_rotations(4000, generator)
    x, y, z = rotation[:, 2].double().numpy().T
    tilt, rot = np.arccos(z), np.arctan2(y, x)
    own = torch.randn(4000, ZDIM, generator=generator)
    leaning = [special.sph_harm_y(order, 1, tilt, rot).real for order in (2, 4, 6)]
    code = own + torch.from_numpy(np.stack(leaning, axis=1)).float() + 3.0
    encoder = encoder_of()
    kept = encoder.forget_view(rotation, code)
    torch.testing.assert_close(kept.mean(0), code.mean(0), atol=0.01, rtol=0)
    assert float((kept - own - 3.0).std(0).max()) < 0.12  # 28 terms fitted to 4000 codes of unit variance: 0.08
    again = ConvEncoder.of(encoder.state_dict())
    torch.testing.assert_close(again.view_mean(rotation[:, 2]), code - kept, atol=1e-5, rtol=0)


def test_a_fresh_encoder_forgets_nothing():
    assert not bool(encoder_of().view_mean(random_rotations(5, torch.Generator().manual_seed(0))[:, 2]).any())
