"""Each particle once in a pass, in orders that a seed decides."""

import threading
from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from cryomorph.particles import loader as loader_module
from cryomorph.particles.loader import ParticleLoader
from cryomorph.particles.metadata import read_particles
from cryomorph.particles.prepare import prepare
from cryomorph.particles.store import ParticleStore
from cryomorph.physics.pose import Pose, random_rotations
from fixtures.stacks import write_stack

N, BOX = 53, 16


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("loader")
    write_stack(folder / "p.mrcs", np.random.default_rng(0).normal(size=(N, BOX, BOX)).astype(np.float32), 2.0)
    pose = Pose(random_rotations(N, torch.Generator().manual_seed(0)), torch.zeros(N, 2))
    return prepare(replace(read_particles(folder / "p.mrcs"), pose=pose), folder / "store", invert="no")


def visited(batches):
    return torch.cat([batch.index for batch in batches]).tolist()


def shuffled(store, **options):
    return ParticleLoader(store, 8, shuffle=True, block=4, pool=3, **options)


def test_in_order_without_shuffling(store):
    loader = ParticleLoader(store, 8)
    batches = list(loader)
    assert [len(batch) for batch in batches] == [8] * 6 + [5] and len(loader) == 7
    assert visited(batches) == list(range(N))
    assert visited(loader.batches(3)) == list(range(N))


@pytest.mark.parametrize("block", [1, 4, 512])
@pytest.mark.parametrize("pool", [1, 3, 8])
def test_shuffling_visits_each_particle_once(store, block, pool):
    loader = ParticleLoader(store, 8, shuffle=True, block=block, pool=pool)
    assert sorted(visited(loader)) == list(range(N))
    assert block == 1 or pool * block < 8 or visited(loader) != list(range(N))


def test_an_order_is_made_of_seed_and_epoch(store):
    orders = [visited(shuffled(store, seed=seed).batches(epoch)) for seed in (0, 1) for epoch in (0, 1)]
    assert len({tuple(order) for order in orders}) == 4
    assert visited(shuffled(store, seed=1).batches(1)) == orders[3]
    assert visited(shuffled(store)) == orders[0]


def test_a_pool_is_mixed_and_made_of_whole_blocks(store):
    first = visited(shuffled(store))[:12]
    blocks = {index // 4 for index in first}
    assert len(blocks) in (3, 4) and first != sorted(first)


def test_a_subset_is_all_that_is_visited(store):
    subset = torch.arange(3, N, 5)
    assert visited(ParticleLoader(store, 4, subset=subset)) == subset.tolist()
    mixed = shuffled(store, subset=subset)
    assert sorted(visited(mixed)) == subset.tolist() and len(mixed) == 2
    nothing = ParticleLoader(store, 4, subset=torch.arange(0))
    assert list(nothing) == [] and len(nothing) == 0


def test_a_band_is_a_prefix(store):
    loader = ParticleLoader(store, 20, radius=5)
    assert loader.count == store.disk.count(5) < ParticleLoader(store, 20).count == store.disk.size
    for narrow, whole in zip(loader, ParticleLoader(store, 20), strict=True):
        assert narrow.image.shape == (len(whole), loader.count)
        torch.testing.assert_close(narrow.image, whole.image[:, : loader.count])
        torch.testing.assert_close(narrow.ctf, whole.ctf[:, : loader.count])


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("start", [0, 1, 5, 6, 7, 99])
def test_start_leaves_out_exactly_the_first_batches(store, monkeypatch, shuffle, start):
    """A resumed pass goes on where it stopped, and what came before is not read again."""
    monkeypatch.setattr(loader_module, "READ_IMAGES", 8)
    loader = ParticleLoader(store, 8, shuffle=shuffle, seed=2, block=4, pool=3)
    whole = list(loader.batches(1))
    asked, batch = [], ParticleStore.batch

    def noted(self, index, count=None):
        asked.append(index.tolist())
        return batch(self, index, count)

    monkeypatch.setattr(ParticleStore, "batch", noted)
    rest = list(loader.batches(1, start=start))
    assert [b.index.tolist() for b in rest] == [b.index.tolist() for b in whole[start:]] == asked
    for found, expected in zip(rest, whole[start:], strict=True):
        assert torch.equal(found.image, expected.image) and torch.equal(found.rotation, expected.rotation)


@pytest.mark.parametrize(
    ("images", "room", "sizes"), [(20, 99, [16, 16, 16, 5]), (256, 25, [24, 24, 5]), (4, 4, [8] * 6 + [5])]
)
def test_small_batches_are_read_together(store, monkeypatch, images, room, sizes):
    """As many as are within both limits, in the same order; what is read does not depend on what it is read with."""
    alone = [store.batch(index) for index in torch.arange(N).split(8)]
    asked, batch = [], ParticleStore.batch

    def noted(self, index, count=None):
        asked.append(len(index))
        return batch(self, index, count)

    monkeypatch.setattr(ParticleStore, "batch", noted)
    monkeypatch.setattr(loader_module, "READ_IMAGES", images)
    monkeypatch.setattr(loader_module, "READ_COEFFICIENTS", room * store.disk.size)
    for found, expected in zip(ParticleLoader(store, 8), alone, strict=True):
        for field in fields(expected):
            assert torch.equal(getattr(found, field.name), getattr(expected, field.name))
    assert asked == sizes


@pytest.mark.parametrize("start", [1, 3, 6])
def test_a_pass_that_starts_within_a_read_is_the_same(store, start):
    whole = list(ParticleLoader(store, 8, shuffle=True, seed=2).batches(1))[start:]
    for found, expected in zip(
        ParticleLoader(store, 8, shuffle=True, seed=2).batches(1, start=start), whole, strict=True
    ):
        for field in fields(expected):
            assert torch.equal(getattr(found, field.name), getattr(expected, field.name))


def test_one_batch_is_read_ahead(store, monkeypatch):
    """While a batch is worked on the next one is being read, and no more than that one."""
    monkeypatch.setattr(loader_module, "READ_IMAGES", 8)
    asked, reading = [], threading.Event()
    batch = ParticleStore.batch

    def slow(self, index, count=None):
        asked.append(int(index[0]))
        reading.set()
        return batch(self, index, count)

    monkeypatch.setattr(ParticleStore, "batch", slow)
    batches = ParticleLoader(store, 8).batches()
    next(batches)
    reading.clear()
    next(batches)
    assert reading.wait(5)
    assert asked in ([0, 8], [0, 8, 16])
    batches.close()


def test_an_error_while_reading_reaches_the_caller(store, monkeypatch):
    def broken(self, index, count=None):
        raise OSError("disk gone")

    monkeypatch.setattr(ParticleStore, "batch", broken)
    with pytest.raises(OSError, match="disk gone"):
        list(ParticleLoader(store, 8))


def classes_of(n=N):
    """Of very different size: one of a single particle, one empty."""
    return torch.tensor([0] * 30 + [1] * 17 + [3] * (n - 48) + [4])[
        torch.randperm(n, generator=torch.Generator().manual_seed(0))
    ]


@pytest.mark.parametrize("batch_size", [1, 4, 8, 100])
def test_batches_of_one_class_visit_every_particle_once(store, batch_size):
    """None of a class's tail is left out, in any epoch, nor of a subset's."""
    classes = classes_of()
    for subset in (None, torch.arange(3, N, 2)):
        loader = ParticleLoader(store, batch_size, shuffle=True, classes=classes, subset=subset)
        for epoch in range(3):
            batches = list(loader.batches(epoch))
            assert all(len(classes[batch.index].unique()) == 1 for batch in batches)
            assert all(0 < len(batch) <= batch_size for batch in batches) and len(batches) == len(loader)
            assert sorted(visited(batches)) == loader.index.tolist()


def test_batches_of_a_class_are_of_like_size_and_drawn_anew(store):
    loader = ParticleLoader(store, 8, shuffle=True, classes=classes_of())
    first, second = (list(loader.batches(epoch)) for epoch in (0, 1))
    assert sorted(len(b) for b in first) == [1, 5, 5, 6, 6, 7, 7, 8, 8]
    assert visited(first) != visited(second)
    assert {tuple(sorted(b.index.tolist())) for b in first} != {tuple(sorted(b.index.tolist())) for b in second}
    rest = list(loader.batches(1, start=4))
    assert visited(rest) == visited(second[4:])
    for batch, same in zip(rest, second[4:], strict=True):
        assert torch.equal(batch.image, same.image)


@pytest.mark.parametrize("options", [{}, {"shuffle": True, "block": 4, "pool": 3}, {"classes": classes_of()}])
def test_what_is_planned_is_what_is_visited(store, options):
    loader = ParticleLoader(store, 8, subset=torch.arange(1, N, 2), seed=3, **options)
    for epoch in (0, 2):
        planned = [index.tolist() for index in loader.planned(epoch)]
        assert planned == [batch.index.tolist() for batch in loader.batches(epoch)]
    assert len(ParticleLoader(store, 8, subset=torch.arange(0)).planned(0)) == 0
