"""Import of a cryoDRGN 4 run: its particles, its latent points, and its decoder as a neural field of ours.

The decoder is the same function, but cryoDRGN evaluates it for `kz <= 0` and we for `kz > 0`: its value at `-k` is the
conjugate of ours at `k`, so the frequencies of the encoding and the imaginary output change sign.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float32
from torch import Tensor

from cryomorph.config.errors import InputError
from cryomorph.config.import_run import ImportConfig
from cryomorph.config.prepare import ImageSource
from cryomorph.config.shell import command
from cryomorph.io.cryodrgn import read_config, read_latent
from cryomorph.particles.store import ParticleStore
from cryomorph.representations.field_network import FieldShape
from cryomorph.representations.neural_field import NeuralField
from cryomorph.runs.checkpoint import load_foreign
from cryomorph.runs.folder import RunFolder
from cryomorph.training.consensus import reconstruct_consensus
from cryomorph.training.start import check_paths, start_run, take_particles

PREFIX = "decoder.decoder.main."


@dataclass(frozen=True)
class ImportOptions:
    """The options of an import, completed from the run's config.yaml."""

    particles: Path
    output: Path
    images: ImageSource
    seed: int
    resume: bool
    overwrite: bool
    cryodrgn: Path
    epoch: int | None


def import_cryodrgn(config: ImportConfig) -> RunFolder:
    """Import a run; returns ours.

    Raises:
        InputError: files that are missing or damaged, an architecture that is not a Fourier-space decoder, latent
            points that are not one for each particle.
    """
    cryodrgn = CryodrgnConfig.read(config.cryodrgn / "config.yaml")
    weights, latent = _files(config.cryodrgn, config.epoch)
    mean, log_variance = read_latent(latent)
    field = _field(_Weights.read(weights), cryodrgn)
    if mean.shape[1] != field.zdim:
        raise InputError(f"{latent} has points of {mean.shape[1]} dimensions, {weights} of {field.zdim}: they differ")
    options = ImportOptions(
        config.particles or cryodrgn.file("particles"),
        config.output,
        _images(config, cryodrgn, field.shape.box),
        config.seed,
        config.resume,
        config.overwrite,
        config.cryodrgn,
        config.epoch,
    )
    check_paths(options)

    def accept(store: ParticleStore) -> None:
        if store.box != field.shape.box:
            raise InputError(f"{options.particles} has box {store.box}, {weights} was trained at {field.shape.box}")
        if len(store) != len(mean):
            raise InputError(
                f"{latent} has {len(mean)} latent points, {options.particles} has {len(store)} particles: give the "
                "particles and the --index that the run was trained on"
            )

    with start_run(options, "neural-field") as run:
        store = take_particles(run, options, accept)
        consensus = reconstruct_consensus(run, store)
        run.save_latent(torch.from_numpy(mean), torch.from_numpy(log_variance).mul(0.5).exp())
        whitening = consensus.noise_power.rsqrt()[store.disk.shell]
        run.save_model(field, {"prior_std": torch.ones(field.zdim), "whitening": whitening}, encoder="foreign")
        following = command("cryomorph", "analyze", run.path)
        run.log(f"{len(mean)} latent points of {latent}, decoder of {weights}; next: {following}")
    return run


def _files(folder: Path, epoch: int | None) -> tuple[Path, Path]:
    """The weights and latent points of an epoch; by default the final ones, else those of the last epoch saved."""
    if epoch is None and not (folder / "weights.pkl").is_file():
        numbers = [re.fullmatch(r"weights\.(\d+)\.pkl", path.name) for path in folder.glob("weights.*.pkl")]
        whole = [int(found[1]) for found in numbers if found and (folder / f"z.{found[1]}.pkl").is_file()]
        epoch = max(whole, default=None)
    middle = "" if epoch is None else f".{epoch}"
    weights, latent = folder / f"weights{middle}.pkl", folder / f"z{middle}.pkl"
    for path in (weights, latent):
        if not path.is_file():
            raise InputError(f"{path}: no such file; expected the output folder of cryoDRGN's train_vae")
    return weights, latent


def _images(config: ImportConfig, cryodrgn: CryodrgnConfig, box: int) -> ImageSource:
    """How to read the images: as the user says, else as config.yaml does."""
    given = config.images
    if config.particles is not None and config.particles.is_dir():
        return given  # a store is used as it is
    found: dict[str, Any] = {"box": box if given.box is None else given.box}
    for ours, name in (("poses", "poses"), ("ctf", "ctf"), ("index", "ind"), ("datadir", "datadir")):
        if getattr(given, ours) is None and cryodrgn.names(name):
            found[ours] = cryodrgn.file(name)
    if config.particles is not None and config.particles.suffix in (".star", ".cs"):
        # such a file has its own poses and CTF, and further columns
        found = {name: value for name, value in found.items() if name not in ("poses", "ctf")}
    return replace(given, **found)


@dataclass(frozen=True)
class CryodrgnConfig:
    """The config.yaml of a cryoDRGN run; `InputError` for what is missing or has another type."""

    path: Path
    content: dict[str, Any]

    @classmethod
    def read(cls, path: Path) -> CryodrgnConfig:
        """Read the file."""
        return cls(path, read_config(path))

    def names(self, name: str) -> bool:
        """Whether the file names an input file of this kind."""
        return bool(self.content["dataset_args"].get(name))

    def file(self, name: str) -> Path:
        """Path of an input file: absolute, or relative to the parent of the cryoDRGN folder."""
        if not self.names(name):
            raise InputError(f"{self.path} names no {name}: give the option for it")
        path = Path(str(self.content["dataset_args"][name]))
        return path if path.is_absolute() else self.path.parent.parent / path

    def count(self, part: str, name: str) -> int:
        """A positive integer."""
        value = self.content[part].get(name)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InputError(f"{self.path}: {name} of {part} is {value!r}, expected a positive integer")
        return value

    @property
    def scale(self) -> float:
        """The standard deviation by which the images were divided."""
        norm = self.content["dataset_args"].get("norm")
        if not isinstance(norm, list) or len(norm) != 2 or not all(isinstance(x, (int, float)) for x in norm):
            raise InputError(f"{self.path}: norm of dataset_args is {norm!r}, expected a mean and a standard deviation")
        return abs(float(norm[1]))


@dataclass(frozen=True)
class _Weights:
    """A weights file of cryoDRGN; `InputError` for tensors that are missing or have another shape."""

    path: Path
    state: dict[str, Any]

    @classmethod
    def read(cls, path: Path) -> _Weights:
        state = load_foreign(path).get("model_state_dict")
        if not isinstance(state, dict):
            raise InputError(f"{path} has no model_state_dict: expected the weights of cryoDRGN's train_vae")
        return cls(path, state)

    def tensor(self, name: str, *shape: int | None) -> Float32[Tensor, ...]:
        """A tensor; None in `shape` means any size."""
        found = self.state.get(name)
        if not isinstance(found, Tensor):
            raise InputError(f"{self.path} has no {name}: expected the decoder that its config.yaml describes")
        fits = [size in (None, given) for size, given in zip(shape, found.shape, strict=False)]
        if found.ndim != len(shape) or not all(fits):
            raise InputError(
                f"{self.path}: {name} has shape {tuple(found.shape)}, expected "
                f"({', '.join('n' if size is None else str(size) for size in shape)}) by its config.yaml"
            )
        return found.detach().float()

    def layer(self, number: int, outputs: int, inputs: int) -> tuple[Float32[Tensor, "o i"], Float32[Tensor, " o"]]:
        """Matrix and bias of an outer layer; if it has a skip connection, the identity is added to the matrix."""
        name = f"{PREFIX}{number}"
        if f"{name}.weight" in self.state or f"{name}.linear.weight" not in self.state:
            return self.tensor(f"{name}.weight", outputs, inputs), self.tensor(f"{name}.bias", outputs)
        matrix, bias = self.hidden(number, outputs)
        return matrix + torch.eye(outputs), bias

    def hidden(self, number: int, width: int) -> tuple[Float32[Tensor, "o i"], Float32[Tensor, " o"]]:
        """Matrix and bias of a layer with a skip connection."""
        name = f"{PREFIX}{number}.linear"
        return self.tensor(f"{name}.weight", width, width), self.tensor(f"{name}.bias", width)


def _field(weights: _Weights, cryodrgn: CryodrgnConfig) -> NeuralField:
    """The decoder as a neural field."""
    model, box = cryodrgn.content["model_args"], cryodrgn.count("lattice_args", "D") - 1
    if model.get("domain") != "fourier" or model.get("activation", "relu") != "relu":
        raise InputError(
            f"{weights.path}: a decoder in {model.get('domain')} space with {model.get('activation')}: only those in "
            "Fourier space with relu can be imported"
        )
    zdim, width, layers = (cryodrgn.count("model_args", name) for name in ("zdim", "pdim", "players"))
    frequencies = _frequencies(weights, cryodrgn, box)
    count = frequencies.shape[1]
    amplitude = torch.full((box // 2 + 1,), cryodrgn.scale)
    field = NeuralField(FieldShape(box, zdim, width, layers), -frequencies, amplitude)
    first, bias = weights.layer(0, width, 2 * count + zdim)
    order = torch.arange(2 * count)
    if model["pe_type"] != "gaussian":
        # cryoDRGN has the sines and cosines of one axis after the other
        order = order.view(3, 2, count // 3).transpose(0, 1).flatten()
    network = field.network
    mirrored = torch.tensor([1.0, -1.0])
    with torch.no_grad():
        network.encoding_layer.weight.copy_(first[:, : 2 * count][:, order])
        network.encoding_layer.bias.copy_(bias)
        if network.latent_layer is not None:
            network.latent_layer.weight.copy_(first[:, 2 * count :])
        for number, layer in enumerate(network.hidden):
            for name, value in zip(("weight", "bias"), weights.hidden(2 * number + 2, width), strict=True):
                layer.get_parameter(name).copy_(value)
        last, bias = weights.layer(2 * layers + 2, 2, width)
        network.output.weight.copy_(last * mirrored[:, None])
        network.output.bias.copy_(bias * mirrored)
    return field


def _frequencies(weights: _Weights, cryodrgn: CryodrgnConfig, box: int) -> Float32[Tensor, "3 f"]:
    """Frequencies of the positional encoding, in radians per unit of `k` in cycles per pixel."""
    model, half = cryodrgn.content["model_args"], box // 2
    kind = model.get("pe_type")
    count = half if model.get("pe_dim") is None else cryodrgn.count("model_args", "pe_dim")
    if kind == "gaussian":
        return weights.tensor("decoder.rand_freqs", None, 3).T * half
    step = torch.arange(count) / max(count - 1, 1)
    lines = {
        "geom_ft": lambda: box * math.pi * (2 / box) ** step,
        "geom_full": lambda: box * math.pi * (1 / (box * math.pi)) ** step,
        "geom_lowf": lambda: half * (1 / half) ** step,
        "geom_nohighf": lambda: half * (2 * math.pi / half) ** step,
        "linear_lowf": lambda: torch.arange(1.0, half + 1),
    }
    if kind not in lines:
        raise InputError(
            f"{cryodrgn.path}: positional encoding {kind!r} is not one that can be imported ({', '.join(lines)}, "
            "gaussian)"
        )
    return torch.block_diag(*[lines[kind]()[None]] * 3)
