"""Volume space against scikit-learn, numpy and maps whose mask is known."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch
from scipy.spatial.distance import pdist
from sklearn.decomposition import PCA

from cryomorph.analysis.landscape.sketch import (
    Sketch,
    decoder,
    finite,
    sketch_maps,
    sketch_mask,
    sphere,
    volume_space,
)
from cryomorph.config.errors import InputError
from cryomorph.representations.base import Representation
from cryomorph.representations.encodings import frequency_matrix
from cryomorph.representations.field_network import FieldShape
from cryomorph.representations.linear import LinearSubspace
from cryomorph.representations.neural_field import NeuralField

BOX = 16
CPU = torch.device("cpu")


def ball(centre: tuple[float, float, float], radius: float) -> torch.Tensor:
    """1 within a radius of a place (z, y, x from the origin), 0 outside."""
    line = torch.arange(BOX) - BOX // 2
    z, y, x = torch.meshgrid(line, line, line, indexing="ij")
    away = (z - centre[0]) ** 2 + (y - centre[1]) ** 2 + (x - centre[2]) ** 2
    return (away <= radius**2).float()


@pytest.fixture
def maps() -> torch.Tensor:
    """Forty maps: a core, two parts that come and go by shades, and noise everywhere."""
    rng = np.random.default_rng(1)
    noise = torch.from_numpy(rng.normal(size=(40, BOX, BOX, BOX)).astype(np.float32))
    one, two = (torch.from_numpy(rng.uniform(0, 1, (40, 1, 1, 1)).astype(np.float32)) for _ in range(2))
    return ball((0, 0, 0), 3) + one * ball((0, 4, 0), 2) + two * ball((4, 0, 0), 1.5) + 0.02 * noise


@pytest.fixture
def sketch(maps) -> Sketch:
    return sketch_maps(lambda z: maps[int(z[0])], np.arange(40.0)[:, None], np.arange(40), box=BOX)


def test_a_sketch_holds_the_maps_within_the_sphere(maps, sketch):
    for row in (3, 7):
        np.testing.assert_array_equal(sketch.map(sketch.values[row]), maps[row] * sphere(BOX))
    assert sketch.box == BOX
    reached = (maps > maps.amax((1, 2, 3), keepdim=True) / 2).any(0)
    np.testing.assert_array_equal(sketch.dense, reached & sphere(BOX))


def test_the_mask_holds_what_any_map_has_and_two_voxels_around(sketch):
    mask = sketch_mask(sketch)
    assert float(mask[sketch.dense].min()) == 1
    at = [float(mask[BOX // 2 - step, BOX // 2, BOX // 2]) for step in (3, 5, 6, 7)]
    assert at[:2] == [1, 1]  # the core's rim, and two voxels from it
    assert at[2] == pytest.approx(0.5)  # the middle of the edge
    assert at[3] == 0


def test_components_are_those_of_the_masked_voxels(maps, sketch):
    mask = ball((0, 2, 0), 5.5) * 0.5 + ball((0, 2, 0), 4.5) * 0.5
    space = volume_space(sketch, mask, most=5)
    masked = (maps * mask * sphere(BOX)).reshape(40, -1).numpy()
    reference = PCA(5, svd_solver="full").fit(masked)
    np.testing.assert_allclose(space.ratio, reference.explained_variance_ratio_, rtol=1e-3)
    for number in range(2):
        volume = space.eigenvolume(number).numpy().ravel()
        assert abs(volume @ reference.components_[number]) == pytest.approx(1, abs=1e-3)
        assert np.abs(volume).max() == volume.max()
        assert np.all(volume[(mask * sphere(BOX)).numpy().ravel() == 0] == 0)
    np.testing.assert_allclose(pdist(space.scores), pdist(masked), rtol=1e-3)
    placed = np.stack([space.coordinates(volume) for volume in maps])
    np.testing.assert_allclose(placed, space.scores[:, :5], atol=1e-4)


def test_no_more_than_one_copy_of_the_sketch_is_made():
    """At box 128 a sketch of 500 maps takes 2.2 GB."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(100, int(sphere(24).sum()))).astype(np.float32)
    sketch = Sketch(np.arange(100), values, sphere(24))
    volume_space(sketch, torch.ones(24, 24, 24))  # what is imported and made once
    tracemalloc.start()
    volume_space(sketch, torch.ones(24, 24, 24))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.6 * values.nbytes


def test_components_that_hold_next_to_nothing_are_left_out():
    part, other = ball((0, 3, 0), 2), ball((3, 0, 0), 2)
    decode = {i: ball((0, 0, 0), 3) + i * part + 0.001 * (i % 2) * other for i in range(10)}
    found = sketch_maps(lambda z: decode[int(z[0])], np.arange(10.0)[:, None], np.arange(10), box=BOX)
    space = volume_space(found, torch.ones(BOX, BOX, BOX), most=8)
    assert len(space.ratio) == 1
    assert space.ratio[0] == pytest.approx(1, abs=1e-4)


def test_maps_all_alike_are_refused():
    alike = sketch_maps(lambda z: ball((0, 0, 0), 3), np.zeros((10, 1)), np.arange(10), box=BOX)
    with pytest.raises(InputError, match="all maps of the sketch are alike"):
        volume_space(alike, sketch_mask(alike))


def test_a_mask_outside_the_sphere_is_refused(sketch):
    corner = torch.zeros(BOX, BOX, BOX)
    corner[0, 0, 0] = 1
    with pytest.raises(InputError, match="mask is empty within the sphere"):
        volume_space(sketch, corner)


def test_a_map_that_is_not_finite_is_named():
    with pytest.raises(InputError, match="particle 7 "):
        finite(torch.full((4, 4, 4), torch.nan), 7)


def test_a_model_that_says_nothing_is_refused():
    with pytest.raises(InputError, match="no map of the sketch has density"):
        sketch_maps(lambda z: -torch.ones(BOX, BOX, BOX), np.zeros((4, 1)), np.arange(4), box=BOX)


def representations() -> list[Representation]:
    torch.manual_seed(0)
    maps = torch.stack([ball((0, 0, 0), 3), ball((0, 4, 0), 2), ball((4, 0, 0), 2)])
    return [LinearSubspace(maps), NeuralField(FieldShape(BOX, 2, 32, 1), frequency_matrix("gaussian", BOX))]


@pytest.mark.parametrize("box", [12, BOX])
@pytest.mark.parametrize("representation", representations(), ids=lambda one: type(one).__name__)
def test_decoding_fast_makes_the_representation_s_own_maps(representation, box, monkeypatch):
    monkeypatch.setattr("cryomorph.analysis.landscape.sketch.bfloat16_pays", lambda device: False)
    decode = decoder(representation, box, CPU)
    z = np.array([0.7, -0.3])
    expected = representation.volume(torch.tensor(z, dtype=torch.float32), box)
    torch.testing.assert_close(decode(z), expected, atol=1e-5 * float(expected.abs().max()), rtol=0)


def test_any_other_representation_is_asked_for_its_maps():
    class Plain(Representation):
        zdim = 1

        def slices(self, z, rotation, disk):
            raise NotImplementedError

        def volume(self, z, box):
            return torch.full((box, box, box), float(z[0]))

    assert float(decoder(Plain(), 4, CPU)(np.array([2.5])).mean()) == 2.5
