"""Making a store: what is refused, what is left out, and runs that are killed and go on."""

import csv
import errno
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from cryomorph.config.errors import InputError
from cryomorph.particles import prepare as module
from cryomorph.particles.image_outliers import OUTLIERS
from cryomorph.particles.manifest import SOURCE_ROW
from cryomorph.particles.metadata import Particles, read_particles
from cryomorph.particles.prepare import prepare, working_box
from cryomorph.particles.store import ParticleStore
from cryomorph.physics.ctf import Ctf
from cryomorph.physics.pose import Pose, random_rotations
from fixtures.stacks import write_stack

N, BOX, PIXEL_A = 40, 16, 3.0
BLOCK = 4  # images, where `blocks` is asked for


def some_images(n=N, box=BOX, seed=0):
    line = torch.arange(box) - box // 2
    blob = 3 * torch.exp(-(line[:, None] ** 2 + line**2) / (2 * (box / 8) ** 2)).numpy()
    return (np.random.default_rng(seed).normal(size=(n, box, box)) + blob).astype(np.float32)


def write_set(folder, images):
    """A stack with its STAR file: random angles and origins, one defocus."""
    folder.mkdir(exist_ok=True)
    write_stack(folder / "p.mrcs", images, PIXEL_A)
    head = "ImageName DefocusU DefocusV DefocusAngle Voltage AmplitudeContrast SphericalAberration"
    head += " AngleRot AngleTilt AnglePsi OriginX OriginY"
    rng = np.random.default_rng(1)
    rows = []
    for i in range(len(images)):
        pose = " ".join(f"{value:.3f}" for value in (*rng.uniform(0, 180, 3), *rng.uniform(-2, 2, 2)))
        rows.append(f"{i + 1}@p.mrcs 12000 11800 10 300 0.1 2.7 {pose}\n")
    (folder / "p.star").write_text("data_\nloop_\n" + "".join(f"_rln{n}\n" for n in head.split()) + "".join(rows))
    return read_particles(folder / "p.star")


@pytest.fixture
def particles(tmp_path):
    return write_set(tmp_path / "set", some_images())


@pytest.fixture
def blocks(monkeypatch):
    """Ten blocks of four images, and a sample of six images in two blocks."""
    monkeypatch.setattr(module, "BLOCK_BYTES", BLOCK * 4 * BOX**2)
    monkeypatch.setattr(module, "SAMPLE", 6)


@pytest.fixture
def warnings(monkeypatch):
    seen: list[str] = []
    monkeypatch.setattr(module, "warn", seen.append)
    for name in ("half_sets", "image_faults"):
        monkeypatch.setattr(f"cryomorph.particles.{name}.warn", seen.append)
    return seen


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def left_over(folder):
    """Everything beside the particle set."""
    return sorted(path.name for path in folder.iterdir() if path.name != "set")


# --- the same store, however it is made ---------------------------------------------------------------------------


def test_blocks_and_workers_change_nothing(particles, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SAMPLE", 3)  # one block of images in both cases: the sample's sums are the same
    expected = contents(prepare(particles, tmp_path / "whole").folder)
    monkeypatch.setattr(module, "BLOCK_BYTES", 3 * 4 * BOX**2)
    for workers in (1, 3):
        assert contents(prepare(particles, tmp_path / f"s{workers}", workers=workers).folder) == expected
    assert left_over(tmp_path) == ["s1", "s3", "whole"]


def test_the_contrast_is_decided_and_recorded(particles, tmp_path):
    white = prepare(particles, tmp_path / "white")
    assert not white.manifest.inverted and "skewness" in white.manifest.contrast_reason
    dark = prepare(write_set(tmp_path / "set2", -some_images()), tmp_path / "dark")
    assert dark.manifest.inverted
    torch.testing.assert_close(
        dark.coefficients(torch.arange(N)), white.coefficients(torch.arange(N)), atol=2e-3, rtol=2e-3
    )
    forced = prepare(particles, tmp_path / "forced", invert="yes")
    assert forced.manifest.inverted and forced.manifest.contrast_reason == "--invert yes"


def test_images_without_noise_are_divided_by_their_own_size(tmp_path, warnings):
    line = torch.arange(BOX) - BOX // 2
    blob = 1e6 * torch.exp(-(line[:, None] ** 2 + line**2) / 3.0).numpy()
    store = prepare(write_set(tmp_path / "set", np.stack([blob * (1 + i / N) for i in range(N)])), tmp_path / "s")
    assert "hold no noise" in warnings[0]
    coefficients = store.coefficients(torch.arange(N))
    assert float(coefficients.abs().square().mean().sqrt()) == pytest.approx(1, abs=0.02)
    assert len(set(store.noise_amplitude.tolist())) == 1


def test_a_set_without_poses_or_ctf(tmp_path):
    write_stack(tmp_path / "p.mrcs", some_images(), PIXEL_A)
    store = prepare(read_particles(tmp_path / "p.mrcs"), tmp_path / "s")
    assert store.pose is None and store.ctf is None and not store.manifest.inverted
    assert store.manifest.metadata == "particles.star"


# --- interrupted runs -----------------------------------------------------------------------------------------------


def test_an_interrupted_run_goes_on_where_it_stopped(particles, tmp_path, monkeypatch, blocks):
    expected = contents(prepare(particles, tmp_path / "straight", workers=1).folder)
    read, seen = Particles.read, []

    def killed(self, index):
        if len(index) == BLOCK and (np.diff(index) == 1).all():
            if len(seen) == 5:
                raise KeyboardInterrupt
            seen.append(int(index[0]))
        return read(self, index)

    monkeypatch.setattr(Particles, "read", killed)
    with pytest.raises(KeyboardInterrupt):
        prepare(particles, tmp_path / "s", workers=1)
    assert left_over(tmp_path) == ["s.part", "straight"]
    with pytest.raises(InputError, match="is not a particle store"):
        ParticleStore.open(tmp_path / "s")
    recorded = int(np.fromfile(tmp_path / "s.part" / "state.bin", np.uint8)[: N // BLOCK].sum())
    assert 3 <= recorded <= 5
    first, said = list(seen), []
    seen.clear()

    def counted(self, index):
        if len(index) == BLOCK and (np.diff(index) == 1).all():
            seen.append(int(index[0]))
        return read(self, index)

    monkeypatch.setattr(Particles, "read", counted)
    monkeypatch.setattr(module, "say", said.append)
    store = prepare(particles, tmp_path / "s", workers=1)
    assert any(f"{recorded} of {N // BLOCK} blocks are there" in line for line in said)
    assert set(seen).isdisjoint(first[:recorded]) and len(seen) == N // BLOCK - recorded
    assert contents(store.folder) == expected
    assert left_over(tmp_path) == ["s", "straight"]


DRIVER = """
import sys, time
from cryomorph.cli.main import main
from cryomorph.particles import prepare
from cryomorph.particles.metadata import Particles
prepare.BLOCK_BYTES, prepare.SAMPLE = int(sys.argv[1]), 6
read = Particles.read
def slow(self, index):
    time.sleep(0.05 if len(index) == 4 else 0)
    return read(self, index)
Particles.read = slow
sys.exit(main(["prepare", sys.argv[2], "-o", sys.argv[3]]))
"""


def test_a_run_killed_by_the_system_goes_on(particles, tmp_path, blocks):
    """SIGKILL in the middle of `cryomorph prepare`; the same command again gives the store of an unbroken run."""
    state = tmp_path / "s.part" / "state.bin"
    arguments = [str(module.BLOCK_BYTES), str(particles.source), str(tmp_path / "s")]
    with subprocess.Popen([sys.executable, "-c", DRIVER, *arguments], stderr=subprocess.DEVNULL) as process:
        until = time.monotonic() + 60
        while not state.is_file() or np.fromfile(state, np.uint8)[: N // BLOCK].sum() < 3:
            assert process.poll() is None and time.monotonic() < until
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    done = np.fromfile(state, np.uint8)[: N // BLOCK].astype(bool)
    assert 3 <= done.sum() < N // BLOCK and [path.name for path in (tmp_path / "s").iterdir()] == [".lock"]
    expected = contents(prepare(particles, tmp_path / "straight").folder)
    assert contents(prepare(particles, tmp_path / "s").folder) == expected
    assert left_over(tmp_path) == ["s", "straight"]


@pytest.fixture
def part(particles, tmp_path, monkeypatch, blocks):
    """What a run leaves that is killed after its last block: an old `s.part`, all blocks done."""
    with monkeypatch.context() as patch:
        patch.setattr(module, "_write_metadata", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            prepare(particles, tmp_path / "s", invert="no")
    return tmp_path / "s.part"


@pytest.mark.parametrize("change", ["none", "box", "invert", "images", "poses", "ctf", "blob", "rows", "state"])
def test_a_changed_plan_starts_afresh(particles, part, tmp_path, monkeypatch, change):
    options = {"invert": "no"} | ({"box": 12} if change == "box" else {"invert": "yes"} if change == "invert" else {})
    if change == "images":
        write_stack(particles.stacks[0], some_images(seed=5), PIXEL_A)
    if change == "poses":
        particles = replace(particles, pose=Pose(random_rotations(N, torch.Generator()), particles.pose.shift_A))
    if change == "ctf":
        particles = replace(particles, ctf=replace(particles.ctf, defocus_u_A=particles.ctf.defocus_u_A + 1))
    if change == "blob":
        particles = replace(particles, blob_sign=-1.0)
    if change == "rows":
        particles = particles.select(np.arange(N)[::-1].copy())
    if change == "state":
        (part / "state.bin").write_bytes(b"\0")
    said = []
    monkeypatch.setattr(module, "say", said.append)
    found = prepare(particles, tmp_path / "s", **options)
    assert any("going on" in line for line in said) == (change == "none")
    fresh = prepare(particles, tmp_path / "fresh", **options)
    assert contents(found.folder) == contents(fresh.folder)


# --- bad images -----------------------------------------------------------------------------------------------------


@pytest.fixture
def spoiled(tmp_path):
    """Particle 3 holds a NaN, 8 an infinity, 17 is all zero, 18 all 0.1, whose variance in float32 is not zero."""
    images = some_images()
    images[3, 5, 5], images[8, 0, 0], images[17], images[18] = np.nan, np.inf, 0, 0.1
    return write_set(tmp_path / "set", images)


def test_bad_images_are_named_and_refused(spoiled, tmp_path, blocks):
    with pytest.raises(InputError) as error:
        prepare(spoiled, tmp_path / "s")
    message = str(error.value)
    assert message.startswith("2 images with NaN or infinity: particle 3 (image 4 of p.mrcs), particle 8 (")
    assert (
        "2 images without variance: particle 17 (image 18 of p.mrcs), particle 18 (" in message
        and "--skip-bad" in message
    )
    assert left_over(tmp_path) == []


def test_bad_images_are_left_out_when_asked(spoiled, tmp_path, blocks, warnings):
    store = prepare(spoiled, tmp_path / "s", skip_bad=True)
    assert warnings[0].startswith("left out: 2 images with NaN") and "particle 17 (image 18 of p.mrcs)" in warnings[0]
    good = np.delete(np.arange(N), [3, 8, 17, 18])
    assert store.row.tolist() == good.tolist() and store.manifest.left_out == [3, 8, 17, 18]
    assert (len(store), store.manifest.rows) == (N - 4, N)
    # particle 14 of the store is row 16 of the file, whose images are those of the unspoiled set
    images = torch.from_numpy(some_images()[good])
    expected = store.disk.from_images(images) / store.noise_amplitude[store.disk.shell]
    sign = -1 if store.manifest.inverted else 1
    torch.testing.assert_close(sign * store.coefficients(torch.arange(N - 4)), expected, atol=6e-3, rtol=2e-3)
    torch.testing.assert_close(store.pose.rotation, spoiled.pose.rotation[good])
    assert len(store.half) == len(store.ctf) == N - 4
    kept = read_particles(store.folder / "particles.star", datadir=spoiled.source.parent)
    np.testing.assert_array_equal(kept.image_of, good)


def test_images_that_are_huge_or_vanish_are_named(tmp_path, blocks):
    images = some_images()
    images[3] *= 1e18
    images[9] *= 1e-9
    with pytest.raises(InputError) as error:
        prepare(write_set(tmp_path / "set", images), tmp_path / "s")
    assert "1 image with values beyond 10^12: particle 3 (" in str(error.value)
    assert "1 image a million times fainter than the others: particle 9 (" in str(error.value)


def test_images_unlike_the_others_are_listed_and_kept(tmp_path, blocks, warnings):
    images = np.random.default_rng(1).normal(size=(N, BOX, BOX)).astype(np.float32)
    plain = prepare(write_set(tmp_path / "plain", images), tmp_path / "a")
    assert (plain.folder / OUTLIERS).read_text() == "particle,row,image,reason,value,usual_from,usual_to\n"
    assert not warnings
    images[5] *= 60
    images[11, 3, 4] = 30
    images[20] += 2
    images[2, 0, 0] = np.nan
    store = prepare(write_set(tmp_path / "set", images), tmp_path / "s", skip_bad=True)
    said = next(message for message in warnings if "unlike the others" in message)
    assert "3 of 40 images are unlike the others" in said and f"{tmp_path / 's' / OUTLIERS} lists them" in said
    with (store.folder / OUTLIERS).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["particle"], row["row"], row["image"], row["reason"]) for row in rows] == [
        ("4", "5", "6@p.mrcs", "standard deviation"),
        ("10", "11", "12@p.mrcs", "extreme pixel"),
        ("19", "20", "21@p.mrcs", "mean"),
    ]
    assert float(rows[0]["value"]) == pytest.approx(images[5].std(), rel=1e-4)
    assert float(rows[1]["value"]) == pytest.approx((30 - images[11].mean()) / images[11].std(), rel=1e-4)
    assert len(store) == N - 1


def test_copies_of_an_image_are_in_one_half_set(tmp_path, blocks, warnings):
    images = some_images()
    images[20:] = images[:20]  # under other numbers
    store = prepare(write_set(tmp_path / "set", images), tmp_path / "s")
    assert store.half[:20].tolist() == store.half[20:].tolist() and 0 < store.half.sum() < N
    assert "20 of 40 particles repeat an image (row 20 that of row 0, 0-based)" in warnings[0]
    given = replace(write_set(tmp_path / "other", images), half=np.arange(N) // 20)
    assert len(warnings) == 1
    assert not prepare(given, tmp_path / "t").half.any()
    assert "against what the file says for 20" in warnings[1]
    assert "the half sets have 40 and 0 particles" in warnings[2]


def test_half_sets_of_very_different_size_are_told(particles, tmp_path, blocks, warnings):
    store = prepare(replace(particles, half=(np.arange(N) == 7).astype(np.int64)), tmp_path / "s")
    assert store.half.sum() == 1
    assert "the half sets have 39 and 1 particles" in warnings[0]


def test_rows_of_the_source_and_contrasts_are_kept(particles, tmp_path, blocks):
    whole = prepare(particles, tmp_path / "a")
    assert whole.contrast is None and not (whole.folder / SOURCE_ROW).exists()
    some = replace(particles, contrast=np.linspace(0.5, 1.5, N, dtype=np.float32)).select(np.array([30, 4, 5]))
    store = prepare(some, tmp_path / "s")
    assert store.row.tolist() == [0, 1, 2] and np.load(store.folder / SOURCE_ROW).tolist() == [30, 4, 5]
    assert store.contrast.tolist() == some.contrast.tolist()
    assert len(store.expanded("C2").contrast) == 6


def test_more_bad_images_than_a_sentence_holds(tmp_path, blocks):
    images = some_images()
    images[::2] = 0
    with pytest.raises(InputError, match=r"^20 images without variance: .* and 15 more: give --skip-bad"):
        prepare(write_set(tmp_path / "set", images), tmp_path / "s")


@pytest.mark.parametrize("skip_bad", [True, False])
def test_nothing_but_bad_images(tmp_path, skip_bad):
    with pytest.raises(InputError, match=r"each of 40 images looked at holds NaN, huge values or no variance: check"):
        prepare(write_set(tmp_path / "set", np.zeros((N, BOX, BOX), np.float32)), tmp_path / "s", skip_bad=skip_bad)
    assert left_over(tmp_path) == []


# --- boxes, space and folders ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("box", [15, 18, 2, 0, -4])
def test_boxes_that_cannot_be(particles, tmp_path, box):
    with pytest.raises(InputError, match=rf"--box {box}: expected an even number from 4 to the images' own box, 16"):
        prepare(particles, tmp_path / "s", box=box)
    assert left_over(tmp_path) == []


def test_the_working_box():
    assert (working_box(256, None), working_box(64, None), working_box(256, 200)) == (128, 64, 200)


def full(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_no_space_is_known_before_an_image_is_read(particles, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "posix_fallocate", full)
    monkeypatch.setattr(Particles, "read", lambda *_: pytest.fail("an image was read"))
    with pytest.raises(InputError, match=r"s.part needs 0.00 GB and .* GB are free \(No space left on device\)"):
        prepare(particles, tmp_path / "s")
    assert left_over(tmp_path) == []


def test_no_space_on_the_way(particles, tmp_path, monkeypatch, blocks):
    write, calls = os.pwrite, []

    def sometimes(*arguments):
        calls.append(0)
        return full() if len(calls) > 4 else write(*arguments)

    monkeypatch.setattr(os, "pwrite", sometimes)
    with pytest.raises(OSError, match="No space left"):
        prepare(particles, tmp_path / "s", workers=1)
    assert left_over(tmp_path) == []


def test_a_write_may_be_short(particles, tmp_path, monkeypatch, blocks):
    expected = contents(prepare(particles, tmp_path / "straight").folder)
    write = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, content, offset: write(file, bytes(content[:999]), offset))
    assert contents(prepare(particles, tmp_path / "s").folder) == expected


def test_what_is_there_is_replaced_only_when_asked_and_only_a_store(particles, tmp_path):
    old = prepare(particles, tmp_path / "s", box=8)
    with pytest.raises(InputError, match="holds a particle store already: give --overwrite"):
        prepare(particles, old.folder)
    assert ParticleStore.open(old.folder).box == 8
    assert prepare(particles, old.folder, overwrite=True).box == BOX
    with pytest.raises(InputError, match="--box"):
        prepare(particles, old.folder, overwrite=True, box=99)
    assert ParticleStore.open(old.folder).box == BOX  # a failure leaves the old one alone
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("precious")
    with pytest.raises(InputError, match="is not empty and holds no particle store"):
        prepare(particles, tmp_path / "other", overwrite=True)
    with pytest.raises(InputError, match="is a file: expected a folder"):
        prepare(particles, tmp_path / "other" / "thesis.tex", overwrite=True)
    assert contents(tmp_path / "other") == {"thesis.tex": b"precious"}


def test_the_working_folder_is_no_place_for_a_store(particles, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="is not empty and holds no particle store"):
        prepare(particles, type(tmp_path)("."))
    store = prepare(particles, type(tmp_path)("a/b"))
    assert store.folder == tmp_path / "a" / "b"


def test_ctf_and_poses_are_kept_to_the_bit(particles, tmp_path):
    store = prepare(particles, tmp_path / "s")
    assert isinstance(store.ctf, Ctf) and torch.equal(store.pose.rotation, particles.pose.rotation)
    for field in Ctf.__dataclass_fields__:
        assert torch.equal(getattr(store.ctf, field), getattr(particles.ctf, field))
