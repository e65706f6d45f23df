"""A cryoDRGN 4 run brought over: its decoder, written out here from its facts, is our field to the last digits."""

from __future__ import annotations

import os
import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from scipy.spatial.transform import Rotation

from cryomorph.commands.import_run import import_cryodrgn
from cryomorph.config.errors import InputError
from cryomorph.config.import_run import ImportConfig
from cryomorph.config.prepare import ImageSource
from cryomorph.io.star import read_star
from cryomorph.particles.metadata import read_particles
from cryomorph.particles.prepare import prepare
from cryomorph.physics.disk import fourier_disk
from cryomorph.representations.neural_field import NeuralField
from cryomorph.runs.folder import RunFolder

BOX = 16
N = 40
ZDIM, WIDTH, LAYERS = 3, 12, 2
SCALE = 7.5
MAIN = "decoder.decoder.main."
INDEX = np.arange(3, 400, 10)


class Run:
    """A folder as `cryodrgn train_vae` leaves it, with a decoder of random weights."""

    def __init__(self, folder: Path, particles: Path, *, encoding: str = "gaussian", **model: Any) -> None:
        rng = np.random.default_rng(1)
        folder.mkdir(parents=True)
        self.folder, self.encoding = folder, encoding
        self.model = {"domain": "fourier", "activation": "relu", "pe_type": encoding, "pe_dim": None}
        self.model |= {"zdim": ZDIM, "players": LAYERS, "pdim": WIDTH, "feat_sigma": 0.5, **model}
        self.dataset = {"particles": str(particles), "norm": [0.0, SCALE], "ind": None, "poses": None, "ctf": None}
        width, zdim = self.model["pdim"], self.model["zdim"]
        encoded = 2 * 20 if encoding == "gaussian" else 6 * (self.model["pe_dim"] or BOX // 2)
        self.state: dict[str, np.ndarray] = {"encoder.main.0.weight": rng.normal(size=(4, 4))}
        if encoding == "gaussian":
            self.state["decoder.rand_freqs"] = 0.5 * rng.normal(size=(20, 3))
        shapes = {"0": (width, encoded + zdim), f"{2 * LAYERS + 2}": (2, width)}
        shapes |= {f"{2 * layer + 2}.linear": (width, width) for layer in range(LAYERS)}
        if encoded + zdim == width:  # a layer that keeps its width has a skip connection
            shapes["0.linear"] = shapes.pop("0")
        for name, shape in shapes.items():
            self.state[f"{MAIN}{name}.weight"] = rng.normal(size=shape) / np.sqrt(shape[1])
            self.state[f"{MAIN}{name}.bias"] = 0.3 * rng.normal(size=shape[0])
        self.state = {name: value.astype(np.float32) for name, value in self.state.items()}
        self.mean = rng.normal(size=(N, zdim)).astype(np.float32)
        self.log_variance = rng.normal(size=(N, zdim)).astype(np.float32)
        self.write()

    def write(self, name: str = "", *, z: bool = True) -> Run:
        """Write config, weights and latent points; `name` is a dot and the epoch."""
        config = {"dataset_args": self.dataset, "lattice_args": {"D": BOX + 1, "extent": 0.5, "ignore_DC": True}}
        (self.folder / "config.yaml").write_text(yaml.safe_dump(config | {"model_args": self.model}))
        tensors = OrderedDict((key, torch.from_numpy(value)) for key, value in self.state.items())
        optimiser = {"state": {}, "param_groups": [{"lr": 1e-4}]}
        content = {"epoch": 1, "model_state_dict": tensors, "optimizer_state_dict": optimiser}
        torch.save(content, self.folder / f"weights{name}.pkl")
        if z:
            with (self.folder / f"z{name}.pkl").open("wb") as file:
                pickle.dump(self.mean, file)
                pickle.dump(self.log_variance, file)
        return self

    def encode(self, k: np.ndarray) -> np.ndarray:
        """The positional encoding at `k` (m, 3), cycles per pixel from -0.5 to 0.5."""
        half = BOX // 2
        if self.encoding == "gaussian":
            phase = k @ (self.state["decoder.rand_freqs"].astype(float) * half).T
            return np.concatenate([np.sin(phase), np.cos(phase)], axis=1)
        count = self.model["pe_dim"] or half
        i = np.arange(count)
        wave = {
            "geom_ft": BOX * np.pi * (2 / BOX) ** (i / (count - 1)),
            "geom_full": BOX * np.pi * (1 / BOX / np.pi) ** (i / (count - 1)),
            "geom_lowf": half * (1 / half) ** (i / (count - 1)),
            "geom_nohighf": half * (2 * np.pi / half) ** (i / (count - 1)),
            "linear_lowf": np.arange(1, half + 1),
        }[self.encoding]
        phase = k[:, :, None] * wave
        return np.concatenate([np.sin(phase), np.cos(phase)], axis=2).reshape(len(k), -1)

    def layer(self, name: str, hidden: np.ndarray) -> np.ndarray:
        """A linear layer; one that is called so in its name has a skip connection."""
        skip = f"{MAIN}{name}.linear.weight" in self.state
        full = f"{MAIN}{name}.linear" if skip else f"{MAIN}{name}"
        weight, bias = (self.state[f"{full}.{part}"].astype(float) for part in ("weight", "bias"))
        return hidden @ weight.T + bias + (hidden if skip else 0)

    def decode(self, k: np.ndarray, z: np.ndarray) -> np.ndarray:
        """The transform at `k` (m, 3) and one latent point, in double precision; the network answers for kz <= 0."""
        above = k[:, 2] > 0
        folded = np.where(above[:, None], -k, k)
        hidden = np.concatenate([self.encode(folded), np.broadcast_to(z, (len(k), len(z)))], axis=1)
        for number in range(LAYERS + 1):
            hidden = np.maximum(self.layer(str(2 * number), hidden), 0)
        real, imaginary = self.layer(str(2 * LAYERS + 2), hidden).T
        return SCALE * (real + 1j * np.where(above, -imaginary, imaginary))


@pytest.fixture(scope="module")
def store(tiny_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty particles of the tiny set, prepared."""
    folder = tmp_path_factory.mktemp("import") / "store"
    index = folder.with_name("index.txt")
    np.savetxt(index, INDEX, fmt="%d")
    prepare(read_particles(tiny_set / "particles.star", index=index), folder)
    return folder


@pytest.fixture
def bring(store: Path, tmp_path: Path) -> Callable[..., RunFolder]:
    """Imports a run, with the store as its particles."""

    def imported(run: Run, **options: Any) -> RunFolder:
        return import_cryodrgn(ImportConfig(run.folder, tmp_path / "ours", particles=store, **options))

    return imported


@pytest.fixture
def theirs(tmp_path: Path, store: Path) -> Callable[..., Run]:
    """Makes their runs in a folder of the test."""

    def make(**model: Any) -> Run:
        return Run(tmp_path / "theirs", store, **model)

    return make


@pytest.mark.parametrize(
    "model",
    [
        {},
        {"encoding": "geom_ft"},
        {"encoding": "geom_full"},
        {"encoding": "geom_lowf"},
        {"encoding": "geom_nohighf", "pe_dim": 5},
        {"encoding": "linear_lowf"},
        {"encoding": "geom_lowf", "pdim": 6 * 8 + ZDIM},
    ],
    ids=lambda model: "-".join(str(value) for value in model.values()) or "gaussian",
)
def test_the_imported_field_is_their_decoder(theirs, bring, model):
    run = theirs(**model)
    field = bring(run).representation()
    assert isinstance(field, NeuralField)
    disk = fourier_disk(BOX)
    rotation = Rotation.random(4, random_state=0).as_matrix()
    slices = field.slices(torch.from_numpy(run.mean[:4]), torch.from_numpy(rotation).float(), disk).detach()
    k2 = disk.frequency.numpy() / BOX
    for row in range(4):
        expected = run.decode(k2 @ rotation[row, :2], run.mean[row].astype(float))
        np.testing.assert_allclose(slices[row], expected, rtol=1e-3, atol=1e-4 * SCALE)
    line = np.arange(BOX) - BOX // 2
    volume = field.volume(torch.from_numpy(run.mean[0]), BOX).numpy().astype(float)
    transform = np.fft.fftshift(np.fft.fftn(np.fft.ifftshift(volume)))
    kz, ky, kx = np.meshgrid(line, line, line, indexing="ij")
    k3 = np.stack([kx, ky, kz], axis=-1)[(kx**2 + ky**2 + kz**2 < 64) & (kz != 0)]
    found = transform[tuple((k3[:, ::-1] + BOX // 2).T)]
    np.testing.assert_allclose(found, run.decode(k3 / BOX, run.mean[0].astype(float)), rtol=1e-3, atol=1e-3 * SCALE)


def test_latent_points_come_along(theirs, bring):
    run = theirs()
    ours = bring(run)
    np.testing.assert_array_equal(ours.latent_mean(), run.mean)
    np.testing.assert_allclose(ours.latent_std(), np.exp(run.log_variance / 2), rtol=1e-6)
    assert RunFolder.open(ours.path).is_complete
    assert len(ours.store()) == N
    assert ours.config()["cryodrgn"] == str(run.folder)


def test_the_epoch_asked_for_is_taken_and_else_the_last_whole_one(theirs, bring):
    run = theirs()
    first = run.mean.copy()
    for epoch in (3, 10, 9):
        run.mean = first + epoch
        run.write(f".{epoch}")
    run.write(".11", z=False)  # killed between the two files
    np.testing.assert_array_equal(bring(run).latent_mean(), first)
    np.testing.assert_array_equal(bring(run, epoch=9, overwrite=True).latent_mean(), first + 9)
    (run.folder / "weights.pkl").unlink()
    np.testing.assert_array_equal(bring(run, overwrite=True).latent_mean(), first + 10)
    with pytest.raises(InputError, match=r"weights\.4\.pkl: no such file; expected the output folder"):
        bring(run, epoch=4, overwrite=True)
    with pytest.raises(InputError, match=r"z\.11\.pkl: no such file"):
        bring(run, epoch=11, overwrite=True)


def test_particles_poses_ctf_and_index_are_those_of_their_config(tiny_set, tmp_path):
    """Absolute paths and such as are relative to the folder above the run's."""
    star = next(block for name, block in read_star(tiny_set / "particles.star").items() if "optics" not in name)
    given = read_particles(tiny_set / "particles.star")
    assert given.pose is not None and given.ctf is not None
    shift = given.pose.shift_A.numpy() / (BOX * given.pixel_A)
    rng = np.random.default_rng(0)
    turn = Rotation.random(400, random_state=rng).as_matrix().astype(np.float32)  # other than the star file's
    ctf = given.ctf
    ctf_rows = np.stack(
        [
            np.full(400, BOX),
            np.full(400, given.pixel_A),
            *(getattr(ctf, name).numpy() for name in ("defocus_u_A", "defocus_v_A", "angle_deg", "voltage_kV")),
            *(getattr(ctf, name).numpy() for name in ("cs_mm", "amplitude_contrast", "phase_shift_deg")),
        ],
        axis=1,
    )
    for name, value in {"pose": (turn, shift), "ctf": ctf_rows.astype(np.float32), "ind": INDEX}.items():
        (tmp_path / f"{name}.pkl").write_bytes(pickle.dumps(value))
    assert len(star) == 400
    run = Run(tmp_path / "theirs", next(tiny_set.glob("*.mrcs")))
    run.dataset |= {"poses": str(tmp_path / "pose.pkl"), "ctf": "ctf.pkl", "ind": "ind.pkl"}
    run.write()
    ours = import_cryodrgn(ImportConfig(run.folder, tmp_path / "ours"))
    store = ours.store()
    assert (len(store), store.box) == (N, BOX)
    assert store.pixel_A == pytest.approx(given.pixel_A)
    pose = store.require_pose()
    np.testing.assert_array_equal(pose.rotation.numpy(), turn[INDEX])
    np.testing.assert_allclose(pose.shift_A, given.pose.shift_A[INDEX], atol=1e-3)
    assert store.ctf is not None
    np.testing.assert_allclose(store.ctf.defocus_u_A, ctf.defocus_u_A[INDEX], rtol=1e-6)

    # what the user gives is taken instead
    star_run = import_cryodrgn(
        ImportConfig(
            run.folder, tmp_path / "star", particles=tiny_set / "particles.star", images=ImageSource(index=None)
        )
    )
    found = star_run.store().require_pose().rotation
    np.testing.assert_allclose(found, given.pose.rotation[INDEX], atol=1e-6)


class _Runs:
    """Leaves a trace where a pickle of it is loaded."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.trace}",)


@pytest.mark.parametrize("name", ["weights.pkl", "z.pkl", "config.yaml"])
def test_files_that_would_run_something_are_refused_and_do_not(theirs, bring, tmp_path, name):
    run, trace = theirs(), tmp_path / "trace"
    if name == "weights.pkl":
        torch.save({"model_state_dict": {"decoder.rand_freqs": _Runs(trace)}}, run.folder / name)
    elif name == "z.pkl":
        (run.folder / name).write_bytes(2 * pickle.dumps(_Runs(trace)))
    else:
        text = (run.folder / name).read_text()
        (run.folder / name).write_text(f"{text}\nseed: !!python/object/apply:os.system ['touch {trace}']\n")
    with pytest.raises(InputError, match=name):
        bring(run)
    assert not trace.exists()
    assert not (tmp_path / "ours").exists()


def _other_count(run: Run) -> None:
    run.mean = run.log_variance = run.mean[:-1]


def _other_dimension(run: Run) -> None:
    run.mean = run.log_variance = run.mean[:, :2]


def _set(part: str, name: str, value: Any) -> Callable[[Run], None]:
    return lambda run: getattr(run, part).update({name: value})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_other_count, r"z\.pkl has 39 latent points, .* has 40 particles: give the particles and the --index"),
        (_other_dimension, r"z\.pkl has points of 2 dimensions, .*weights\.pkl of 3"),
        (_set("model", "domain", "hartley"), r"a decoder in hartley space with relu: only those in Fourier space"),
        (_set("model", "activation", "leaky_relu"), "a decoder in fourier space with leaky_relu: only"),
        (_set("model", "pe_type", "none"), r"positional encoding 'none' is not one that can be imported \(geom_ft"),
        (_set("model", "players", None), r"config\.yaml: players of model_args is None, expected a positive"),
        (_set("model", "players", 3), r"weights\.pkl: \S+main\.6\.weight has shape|no decoder\.decoder\.main\.6\.lin"),
        (_set("model", "pdim", 13), r"main\.0\.weight has shape \(12, 43\), expected \(13, 43\) by its config\.yaml"),
        (_set("dataset", "norm", None), r"norm of dataset_args is None, expected a mean and a standard deviation"),
        (
            lambda run: run.state.pop(f"{MAIN}2.linear.bias"),
            r"weights\.pkl has no decoder\.decoder\.main\.2\.linear\.b",
        ),
        (lambda run: run.state.pop("decoder.rand_freqs"), r"weights\.pkl has no decoder\.rand_freqs"),
    ],
)
def test_runs_that_cannot_be_brought_over_are_refused_in_one_sentence(theirs, bring, tmp_path, change, message):
    run = theirs()
    change(run)
    run.write()
    with pytest.raises(InputError, match=message) as caught:
        bring(run)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ours").exists()


def test_damaged_and_missing_files_are_named(theirs, bring, tmp_path, store):
    run = theirs()
    torch.save([1, 2], run.folder / "weights.pkl")
    with pytest.raises(InputError, match=r"weights\.pkl holds a list, expected tensors by name"):
        bring(run)
    torch.save({"model": 1}, run.folder / "weights.pkl")
    with pytest.raises(InputError, match=r"weights\.pkl has no model_state_dict"):
        bring(run)
    (run.folder / "weights.pkl").write_bytes(b"\x80\x02nonsense")
    with pytest.raises(InputError, match=r"weights\.pkl cannot be read as tensors"):
        bring(run)
    run.write()
    (run.folder / "z.pkl").write_bytes(pickle.dumps(run.mean))  # the log-variances are missing
    with pytest.raises(InputError, match=r"z\.pkl is not a whole pickle"):
        bring(run)
    with pytest.raises(InputError, match=r"config\.yaml cannot be read"):
        import_cryodrgn(ImportConfig(tmp_path / "nothing", tmp_path / "ours", particles=store))
    run.write().dataset["particles"] = str(tmp_path / "gone.mrcs")
    run.write()
    with pytest.raises(InputError, match=r"gone\.mrcs: no such particle file or store"):
        import_cryodrgn(ImportConfig(run.folder, tmp_path / "ours"))
    run.dataset["particles"] = None
    run.write()
    with pytest.raises(InputError, match=r"config\.yaml names no particles: give the option for it"):
        import_cryodrgn(ImportConfig(run.folder, tmp_path / "ours"))
    assert not (tmp_path / "ours").exists()


def test_particles_of_another_box_are_refused(theirs, tiny_set, tmp_path):
    prepare(read_particles(tiny_set / "particles.star"), tmp_path / "small", box=12)
    run = theirs()
    config = ImportConfig(run.folder, tmp_path / "ours", particles=tmp_path / "small")
    with pytest.raises(InputError, match=r"small has box 12, .*weights\.pkl was trained at 16"):
        import_cryodrgn(config)
    assert not (tmp_path / "ours").exists()


def test_a_run_that_is_there_is_kept_unless_it_may_be_replaced(theirs, bring, tmp_path):
    run = theirs()
    before = bring(run).latent_mean()
    with pytest.raises(InputError, match="holds a run"):
        bring(run)
    run.mean = run.mean[:-1]
    run.log_variance = run.mean
    run.write()
    with pytest.raises(InputError, match="39 latent points"):
        bring(run, overwrite=True)
    np.testing.assert_array_equal(RunFolder.open(tmp_path / "ours").latent_mean(), before)
