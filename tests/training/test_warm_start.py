"""The warm start: a field learns the maps of a linear model; its measure of what is missing is right."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cryomorph.physics.disk import fourier_disk
from cryomorph.physics.pose import random_rotations
from cryomorph.representations.encodings import frequency_matrix
from cryomorph.representations.field_network import FieldShape
from cryomorph.representations.linear import LinearSubspace
from cryomorph.representations.neural_field import NeuralField
from cryomorph.training.distillation import DistillationTargets, distil, rms_transfer
from cryomorph.volumes.grid import shell_amplitude

BOX = 12


def blob(x, y, z, width):
    line = torch.arange(BOX) - BOX // 2.0
    gz, gy, gx = torch.meshgrid(line, line, line, indexing="ij")
    return torch.exp(-((gx - x) ** 2 + (gy - y) ** 2 + (gz - z) ** 2) / 2 / width**2)


@pytest.fixture
def teacher():
    return LinearSubspace(torch.stack([blob(0, 1, 0, 1.5), 0.5 * blob(2, 0, -1, 1.2)]))


@pytest.fixture
def targets():
    point = torch.randn(100, 1, generator=torch.Generator().manual_seed(1))
    return DistillationTargets(point, torch.full_like(point, 0.1), point, same_space=True)


@pytest.fixture
def student(teacher):
    torch.manual_seed(3)
    frequencies = frequency_matrix("gaussian", BOX, sigma=0.5, count=24, seed=3)
    return NeuralField(FieldShape(BOX, 1, width=48, layers=2), frequencies, shell_amplitude(teacher.maps[0]))


def taught(student, teacher, targets, steps, seed=0):
    said: list[tuple[int, float]] = []
    disk = fourier_disk(BOX)
    missing = distil(
        student,
        teacher,
        targets,
        transfer=torch.ones(disk.size),
        disk=disk,
        steps=steps,
        batch_size=16,
        seed=seed,
        half_precision=False,
        after_step=lambda step, share: said.append((step, share)),
    )
    return missing, said


def test_the_field_learns_the_linear_maps_and_what_is_missing_is_said(student, teacher, targets):
    missing, said = taught(student, teacher, targets, 150)
    assert [step for step, _ in said] == list(range(150))
    assert said[-1][1] == missing
    disk, generator = fourier_disk(BOX), torch.Generator().manual_seed(9)
    rotation = random_rotations(64, generator)
    z = torch.randn(64, 1, generator=generator)
    with torch.no_grad():
        wanted, found = teacher.slices(z, rotation, disk).numpy(), student.slices(z, rotation, disk).numpy()
    share = (np.abs(found - wanted) ** 2).sum() / (np.abs(wanted) ** 2).sum()
    assert share < 0.1
    assert missing == pytest.approx(share, abs=0.05)


def test_the_map_learned_is_the_teacher_s_and_moves_with_the_latent_point(student, teacher, targets):
    taught(student, teacher, targets, 150)
    for z in (-1.0, 1.0):
        point = torch.tensor([z])
        wanted, found = teacher.volume(point, BOX).numpy().ravel(), student.volume(point, BOX).numpy().ravel()
        assert np.corrcoef(wanted, found)[0, 1] > 0.9
    change = [model.volume(torch.ones(1), BOX) - model.volume(-torch.ones(1), BOX) for model in (teacher, student)]
    assert np.corrcoef([part.numpy().ravel() for part in change])[0, 1] > 0.8


def test_the_same_seed_learns_the_same(student, teacher, targets):
    start = {name: value.clone() for name, value in student.state_dict().items()}
    ends = []
    for seed in (1, 1, 2):
        student.load_state_dict(start)
        taught(student, teacher, targets, 3, seed=seed)
        ends.append(torch.cat([weight.detach().flatten() for weight in student.parameters()]))
    assert torch.equal(ends[0], ends[1]) and not torch.equal(ends[0], ends[2])


def test_no_steps_leave_the_field_as_it_was_and_all_is_missing(student, teacher, targets):
    before = {name: value.clone() for name, value in student.state_dict().items()}
    assert taught(student, teacher, targets, 0) == (1.0, [])
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())


def test_the_rms_transfer_is_the_root_mean_square_over_particles(tiny_store):
    """Of fewer than a thousand particles all are asked: numpy over the whole set."""
    whitening = torch.linspace(0.5, 2, tiny_store.disk.size)
    transfer = tiny_store.transfer(torch.arange(400)).numpy().astype(float) * whitening.numpy()
    expected = np.sqrt((transfer**2).mean(0))
    np.testing.assert_allclose(rms_transfer(tiny_store, whitening, seed=1), expected, rtol=1e-4, atol=1e-6)
