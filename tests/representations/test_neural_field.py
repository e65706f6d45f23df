"""The field against the same network written out in numpy, in double precision and with no rotation folded in."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from torch.utils.flop_counter import FlopCounterMode

from cryomorph.physics.disk import fourier_disk
from cryomorph.physics.pose import random_rotations
from cryomorph.representations.encodings import frequency_matrix
from cryomorph.representations.field_network import FieldShape
from cryomorph.representations.neural_field import NeuralField

BOX, WIDTH = 12, 16
NETWORKS = [
    FieldShape(BOX, 2, WIDTH, 2, residual=True),
    FieldShape(BOX, 2, WIDTH, 3, residual=False),
    FieldShape(BOX, 0, WIDTH, 2, residual=True),
]
NAMES = ["residual", "plain", "no latent"]


def field_of(shape: FieldShape, encoding="gaussian") -> NeuralField:
    """A field whose every number matters: an amplitude that is not flat, a latent scale that is not one."""
    torch.manual_seed(1)
    field = NeuralField(
        shape,
        frequency_matrix(encoding, BOX, seed=2),
        torch.linspace(9, 1, BOX // 2 + 1).square(),
        torch.linspace(0.5, 2, shape.zdim),
    )
    for parameter in field.parameters():
        parameter.data.mul_(1.5)
    return field


def points(zdim: int, n: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, zdim, generator=generator), random_rotations(n, generator)


def answer(field: NeuralField, k: np.ndarray, z: np.ndarray) -> np.ndarray:
    """`V_z(k)` at points `k` (m, 3) in Fourier pixels, one after another."""
    w = {name: value.numpy().astype(np.float64) for name, value in field.state_dict().items()}
    # the half space: kz > 0, then ky > 0, then kx > 0 on its face
    below = (k[:, 2] < 0) | ((k[:, 2] == 0) & ((k[:, 1] < 0) | ((k[:, 1] == 0) & (k[:, 0] < 0))))
    k = np.where(below[:, None], -k, k)
    values = []
    for point in k:
        angle = (point / BOX) @ w["frequencies"]
        encoded = np.concatenate([np.sin(angle), np.cos(angle)])
        hidden = w["network.encoding_layer.weight"] @ encoded + w["network.encoding_layer.bias"]
        if field.zdim:
            hidden = hidden + w["network.latent_layer.weight"] @ (z / w["latent_scale"])
        hidden = np.maximum(hidden, 0)
        for layer in range(field.shape.layers):
            weight, bias = w[f"network.hidden.{layer}.weight"], w[f"network.hidden.{layer}.bias"]
            hidden = np.maximum(weight @ hidden + bias + (hidden if field.shape.residual else 0), 0)
        real, imaginary = w["network.output.weight"] @ hidden + w["network.output.bias"]
        values.append(real + 1j * imaginary)
    value = np.where(below, np.conj(values), values)
    radius = np.linalg.norm(k, axis=1)
    return value * np.interp(radius, np.arange(BOX // 2 + 1), w["amplitude"])


def slice_of(field: NeuralField, z: np.ndarray, rotation: np.ndarray, box: int = BOX) -> np.ndarray:
    k = fourier_disk(box).frequency.numpy() @ rotation[:2]
    return answer(field, k, z) * (np.linalg.norm(k, axis=1) < BOX / 2 - 1e-6)


def lattice(box: int) -> np.ndarray:
    """Every frequency of a cubic map, centred: (box, box, box, 3), `[z, y, x]` of `(kx, ky, kz)`."""
    line = np.arange(box) - box // 2
    kz, ky, kx = np.meshgrid(line, line, line, indexing="ij")
    return np.stack([kx, ky, kz], axis=-1)


def transform(map: torch.Tensor) -> np.ndarray:
    return np.fft.fftshift(np.fft.fftn(np.fft.ifftshift(map.numpy().astype(np.float64))))


def assert_close(found, expected: np.ndarray, share: float = 1e-5) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=share * np.abs(expected).max())


@pytest.mark.parametrize("encoding", ["gaussian", "geometric", "geometric-low", "iclr"])
@pytest.mark.parametrize("shape", NETWORKS, ids=NAMES)
def test_slices_are_the_network_s_answers_at_k2_times_the_rotation(shape, encoding):
    field, (z, rotation) = field_of(shape, encoding), points(shape.zdim)
    found = field.slices(z, rotation, fourier_disk(BOX)).detach()
    assert found.dtype == torch.complex64
    for row in range(len(z)):
        expected = slice_of(field, z[row].numpy(), rotation[row].double().numpy())
        assert_close(found[row].numpy(), expected, 1e-4 if encoding in ("geometric", "iclr") else 1e-5)


@pytest.mark.parametrize("band", [2.5, 4.0, 6.0])
def test_a_band_is_a_prefix_of_the_whole_slice(band):
    field, (z, rotation) = field_of(NETWORKS[0]), points(2)
    whole, disk = field.slices(z, rotation, fourier_disk(BOX)).detach(), fourier_disk(BOX).within(band)
    torch.testing.assert_close(field.slices(z, rotation, disk).detach(), whole[:, : disk.size], rtol=1e-4, atol=1e-4)


def test_a_band_spares_the_work_beyond_it():
    """The growing band of a training costs what it compares, not what it leaves out."""
    field, (z, rotation) = field_of(NETWORKS[0]), points(2)
    work = []
    for disk in (fourier_disk(BOX), fourier_disk(BOX).within(3)):
        with FlopCounterMode(display=False) as counter:
            field.slices(z, rotation, disk)
        work.append(counter.get_total_flops() / disk.size)
    assert work[1] < 1.3 * work[0]  # the latent's share is the same for a small slice as for a large one


def test_a_larger_disk_is_zero_beyond_the_ball():
    field, (z, rotation) = field_of(NETWORKS[0]), points(2)
    found = field.slices(z, rotation, fourier_disk(18)).detach()
    for row in range(len(z)):
        assert_close(found[row].numpy(), slice_of(field, z[row].numpy(), rotation[row].double().numpy(), 18))
    assert not bool(found[:, fourier_disk(18).count(BOX / 2) :].abs().any())


@pytest.mark.parametrize("axis", [None, 0, 1, 2])
def test_the_value_at_minus_k_is_the_conjugate(axis):
    """Half a turn in the image plane takes `k2` to `-k2`; with an `axis`, where k lies on the half space's own face."""
    field, (z, rotation) = field_of(NETWORKS[0]), points(2)
    if axis is not None:
        rotation = torch.eye(3).roll(axis, 0).expand(len(z), 3, 3)
    half_turn = torch.diag(torch.tensor([-1.0, -1.0, 1.0]))
    there = field.slices(z, rotation, fourier_disk(BOX)).detach()
    back = field.slices(z, half_turn @ rotation, fourier_disk(BOX)).detach()
    torch.testing.assert_close(back, there.conj().resolve_conj(), rtol=1e-4, atol=1e-4)
    assert float(there.imag.abs().max()) > 0.1


def test_the_volume_is_the_inverse_transform_of_the_lattice():
    field, (z, _) = field_of(NETWORKS[0]), points(2)
    k = lattice(BOX).reshape(-1, 3)
    radius = np.linalg.norm(k, axis=1)
    values = answer(field, k, z[1].numpy()) * ((radius > 0) & (radius < BOX / 2))
    centred = np.fft.ifftshift(values.reshape(BOX, BOX, BOX))
    expected = np.fft.fftshift(np.fft.ifftn(centred))
    assert float(np.abs(expected.imag).max()) < 1e-9 * np.abs(expected).max()
    assert_close(field.volume(z[1], BOX).numpy(), expected.real)


@pytest.mark.parametrize("shape", NETWORKS, ids=NAMES)
@pytest.mark.parametrize("turn", [0, 1, 2])
def test_central_planes_of_the_volume_are_slices(shape, turn):
    """Rotations that permute the axes lay slices on the lattice: nothing is interpolated."""
    field, (z, _) = field_of(shape), points(shape.zdim)
    rotation = torch.eye(3).roll(turn, 0)
    found = field.slices(z[:1], rotation[None], fourier_disk(BOX))[0].detach().numpy()
    kx, ky, kz = (fourier_disk(BOX).frequency @ rotation[:2].long()).numpy().T + BOX // 2
    assert_close(found, transform(field.volume(z[0], BOX))[kz, ky, kx])


@pytest.mark.parametrize("box", [8, 10, 16, 24])
def test_the_volume_in_another_box_keeps_the_transform(box):
    field, (z, _) = field_of(NETWORKS[0]), points(2)
    found, given = transform(field.volume(z[2], box)), transform(field.volume(z[2], BOX))
    k = lattice(box).reshape(-1, 3)
    inside = (np.linalg.norm(k, axis=1) < min(box, BOX) / 2) & (np.abs(k) > 0).any(axis=1)
    kx, ky, kz = k[inside].T + BOX // 2
    assert_close(found.reshape(-1)[inside], given[kz, ky, kx])
    assert float(np.abs(found.reshape(-1)[~inside]).max()) < 1e-5 * np.abs(given).max()


def test_the_latent_enters_the_first_layer_and_no_other():
    """A latent point is a bias of the first layer: a field with none, and that bias, answers the same."""
    field, (z, rotation) = field_of(NETWORKS[0]), points(2)
    found = field.slices(z, rotation, fourier_disk(BOX)).detach()
    state = {n: t for n, t in field.state_dict().items() if n not in ("latent_scale", "network.latent_layer.weight")}
    assert len(state) == len(field.state_dict()) - 2
    for row in range(len(z)):
        bias = field.network.encoding_layer.bias + field.network.latent_layer.weight @ (z[row] / field.latent_scale)
        plain = field_of(replace(NETWORKS[0], zdim=0))
        plain.load_state_dict(state | {"network.encoding_layer.bias": bias.detach(), "latent_scale": torch.ones(0)})
        again = plain.slices(z[:1, :0], rotation[row : row + 1], fourier_disk(BOX))[0].detach()
        torch.testing.assert_close(again, found[row], rtol=1e-4, atol=1e-3)


def test_the_latent_costs_one_small_product_for_each_image():
    """Not one for each coefficient: what a latent space of 8 adds is `2 b width 8` operations."""
    images, work = 4, {}
    for zdim in (0, 8):
        field, (z, rotation) = field_of(replace(NETWORKS[0], zdim=zdim)), points(zdim, images)
        with FlopCounterMode(display=False) as counter:
            field.slices(z, rotation, fourier_disk(BOX))
        work[zdim] = counter.get_total_flops()
    assert work[8] - work[0] == 2 * images * WIDTH * 8


@pytest.mark.parametrize("shape", NETWORKS, ids=NAMES)
def test_no_operation_is_spent_on_the_other_half_plane(shape):
    """Encoding, layers and output, once for each coefficient of the disk."""
    field, (z, rotation) = field_of(shape), points(shape.zdim)
    with FlopCounterMode(display=False) as counter:
        field.slices(z, rotation, fourier_disk(BOX))
    columns, m, b = field.frequencies.shape[1], fourier_disk(BOX).size, len(z)
    coefficient = 2 * columns + 2 * columns * WIDTH + shape.layers * WIDTH**2 + 2 * WIDTH + 2
    image = 2 * 3 * columns + 2 * 3 + shape.zdim * WIDTH
    assert counter.get_total_flops() == 2 * b * (m * coefficient + image)


@pytest.mark.parametrize("shape", NETWORKS[:2], ids=NAMES[:2])
def test_gradients_of_latent_and_rotation_are_finite_differences(shape):
    """Automatic, in single precision, against steps of the network written out in double precision."""
    field, (z, rotation) = field_of(shape), points(shape.zdim, 1)
    weight = np.random.default_rng(3).normal(size=(2, fourier_disk(BOX).size))

    def loss(at: np.ndarray, turned: np.ndarray) -> float:
        value = slice_of(field, at, turned)
        return float((weight[0] * value.real + weight[1] * value.imag).sum())

    z, rotation = z.requires_grad_(), rotation.requires_grad_()
    value = torch.view_as_real(field.slices(z, rotation, fourier_disk(BOX)))[0]
    (value * torch.from_numpy(weight.T).float()).sum().backward()
    at, turned = z.detach()[0].double().numpy(), rotation.detach()[0].double().numpy()
    step = 1e-6
    slopes = [(loss(at + d, turned) - loss(at - d, turned)) / (2 * step) for d in step * np.eye(shape.zdim)]
    np.testing.assert_allclose(z.grad[0], slopes, rtol=2e-3, atol=1e-4 * np.abs(slopes).max())
    slopes, found = [], []
    for axis in np.eye(3):
        there, back = (Rotation.from_rotvec(sign * step * axis).as_matrix() @ turned for sign in (1, -1))
        slopes.append((loss(at, there) - loss(at, back)) / (2 * step))
        found.append(float((rotation.grad[0].double().numpy() * (there - back)).sum() / (2 * step)))
    np.testing.assert_allclose(found, slopes, rtol=2e-3, atol=1e-3 * np.abs(slopes).max())


@pytest.mark.parametrize("shape", NETWORKS, ids=NAMES)
def test_half_precision_gives_nearly_the_same(shape):
    field, (z, rotation) = field_of(shape), points(shape.zdim)
    whole = field.slices(z, rotation, fourier_disk(BOX)).detach()
    with torch.autocast("cpu", torch.bfloat16):
        half = field.slices(z, rotation, fourier_disk(BOX)).detach()
    assert half.dtype == torch.complex64
    error = float((half - whole).abs().square().mean().sqrt() / whole.abs().square().mean().sqrt())
    assert 1e-4 < error < 0.02  # 8 bits


def test_half_precision_does_not_blur_the_phases():
    """They reach 100 radians, which bfloat16 knows to a quarter of a radian: what is lost is what the layers lose."""
    box = 64
    torch.manual_seed(0)
    field = NeuralField(FieldShape(box, 0, 32, 1), frequency_matrix("geometric", box))
    (z, rotation), disk = points(0), fourier_disk(box)
    whole = field.slices(z, rotation, disk).detach()
    with torch.autocast("cpu", torch.bfloat16):
        half = field.slices(z, rotation, disk).detach()
    spread = float((whole - whole.mean()).abs().square().mean().sqrt())
    assert float((half - whole).abs().square().mean().sqrt()) < 0.015 * spread


def test_without_a_latent_there_is_one_molecule():
    field, (z, rotation) = field_of(NETWORKS[2]), points(0)
    assert field.network.latent_layer is None
    assert field.slices(z, rotation, fourier_disk(BOX)).shape == (4, fourier_disk(BOX).size)
    assert field.volumes(z[:2], BOX).shape == (2, BOX, BOX, BOX)
    assert torch.equal(field.volumes(z[:2], BOX)[0], field.volume(z[0], BOX))


def test_a_copy_is_independent():
    """What a field is given it does not share: a latent scale changed later changes nothing."""
    scale = torch.ones(2)
    field = NeuralField(NETWORKS[0], frequency_matrix("gaussian", BOX), latent_scale=scale)
    z, rotation = points(2)
    before = field.slices(z, rotation, fourier_disk(BOX)).detach()
    scale.fill_(7)
    assert torch.equal(field.slices(z, rotation, fourier_disk(BOX)).detach(), before)
    again = copy.deepcopy(field)
    assert torch.equal(again.slices(z, rotation, fourier_disk(BOX)).detach(), before)
