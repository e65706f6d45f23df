"""A cryoDRGN 4 run brought over: its particles, its latent points, and its decoder as our neural field.

The decoder is the same function. Theirs answers for `kz <= 0`, ours for `kz > 0`: their value at `-k` is the conjugate
of ours at `k`, so the frequencies of the encoding and the imaginary output change sign.
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
from cryomorph.io.cryodrgn import read_config, read_latent
from cryomorph.particles.store import ParticleStore
from cryomorph.representations.neural_field import FieldShape, NeuralField
from cryomorph.runs.checkpoint import load_foreign
from cryomorph.runs.folder import RunFolder
from cryomorph.training.stages import consensus_stage
from cryomorph.training.start import check_paths, start_run, take_particles

PREFIX = "decoder.decoder.main."


@dataclass(frozen=True)
class Adopted:
    """An import's config as a training's: what `start_run` and `take_particles` need."""

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
    theirs = read_config(config.cryodrgn / "config.yaml")
    weights, latent = _files(config.cryodrgn, config.epoch)
    mean, log_variance = read_latent(latent)
    field = _field(load_foreign(weights), theirs, weights)
    adopted = Adopted(
        config.particles or _path(theirs, "particles", config.cryodrgn),
        config.output,
        _images(config, theirs, field.shape.box),
        config.seed,
        config.resume,
        config.overwrite,
        config.cryodrgn,
        config.epoch,
    )
    check_paths(adopted)
    run = start_run(adopted, "neural-field")

    def accept(store: ParticleStore) -> None:
        if len(store) != len(mean):
            raise InputError(
                f"{latent} has {len(mean)} latent points, {adopted.particles} has {len(store)} particles: give the "
                "particles and the --index that the run was trained on"
            )

    store = take_particles(run, adopted, accept)
    consensus = consensus_stage(run, store)
    run.save_latent(torch.from_numpy(mean), torch.from_numpy(log_variance).mul(0.5).exp())
    whitening = consensus.noise_power.rsqrt()[store.disk.shell]
    run.save_model(field, {"prior_std": torch.ones(field.zdim), "whitening": whitening}, encoder="foreign")
    run.log(f"{config.cryodrgn}: {len(mean)} latent points and a decoder; next: cryomorph analyze {run.path}")
    return run


def _files(folder: Path, epoch: int | None) -> tuple[Path, Path]:
    """The weights and latent points of an epoch; of the last one where none is named."""
    if epoch is None and not (folder / "weights.pkl").is_file():
        numbers = [re.fullmatch(r"weights\.(\d+)\.pkl", path.name) for path in folder.glob("weights.*.pkl")]
        epoch = max((int(found[1]) for found in numbers if found), default=None)
    middle = "" if epoch is None else f".{epoch}"
    weights, latent = folder / f"weights{middle}.pkl", folder / f"z{middle}.pkl"
    for path in (weights, latent):
        if not path.is_file():
            raise InputError(f"{path}: no such file; expected the output folder of cryoDRGN's train_vae")
    return weights, latent


def _path(theirs: dict[str, Any], name: str, folder: Path) -> Path:
    """A path that their config names: absolute, or relative to the folder above theirs."""
    given = theirs["dataset_args"].get(name)
    if not given:
        raise InputError(f"{folder / 'config.yaml'} names no {name}: give the option for it")
    path = Path(str(given))
    return path if path.is_absolute() else folder.parent / path


def _images(config: ImportConfig, theirs: dict[str, Any], box: int) -> ImageSource:
    """How to take the images in: as the user says, else as their config does."""
    given = config.images
    found: dict[str, Any] = {"box": box if given.box is None else given.box}
    for ours, name in (("poses", "poses"), ("ctf", "ctf"), ("index", "ind"), ("datadir", "datadir")):
        if getattr(given, ours) is None and theirs["dataset_args"].get(name):
            found[ours] = _path(theirs, name, config.cryodrgn)
    if config.particles is not None and config.particles.suffix in (".star", ".cs"):
        # such a file has its own poses and CTF, and columns that are worth keeping
        found = {name: value for name, value in found.items() if name not in ("poses", "ctf")}
    return replace(given, **found)


def _field(checkpoint: dict[str, Any], theirs: dict[str, Any], path: Path) -> NeuralField:
    """Their decoder as our field."""
    model, box = theirs["model_args"], int(theirs["lattice_args"]["D"]) - 1
    if model.get("domain") != "fourier" or model.get("activation", "relu") != "relu":
        raise InputError(
            f"{path}: a decoder in {model.get('domain')} space with {model.get('activation')}: only those in Fourier "
            "space with relu can be imported"
        )
    state: dict[str, Tensor] = checkpoint["model_state_dict"]
    zdim, width, layers = int(model["zdim"]), int(model["pdim"]), int(model["players"])
    frequencies = _frequencies(model, state, box)
    count = frequencies.shape[1]
    scale = abs(float(theirs["dataset_args"]["norm"][1]))
    field = NeuralField(FieldShape(box, zdim, width, layers), -frequencies, torch.full((box // 2 + 1,), scale))
    first = _matrix(state, 0)
    if first.shape != (width, 2 * count + zdim):
        raise InputError(f"{path}: first layer of shape {tuple(first.shape)}, expected {(width, 2 * count + zdim)}")
    order = torch.arange(2 * count)
    if model["pe_type"] != "gaussian":
        # theirs has the sines and cosines of one axis after the other
        order = order.view(3, 2, count // 3).transpose(0, 1).flatten()
    network = field.network
    mirrored = torch.tensor([1.0, -1.0])
    with torch.no_grad():
        network.encoding_layer.weight.copy_(first[:, : 2 * count][:, order])
        network.encoding_layer.bias.copy_(_bias(state, 0))
        if network.latent_layer is not None:
            network.latent_layer.weight.copy_(first[:, 2 * count :])
        for number, layer in enumerate(network.hidden):
            layer.get_parameter("weight").copy_(state[f"{PREFIX}{2 * number + 2}.linear.weight"])
            layer.get_parameter("bias").copy_(state[f"{PREFIX}{2 * number + 2}.linear.bias"])
        network.output.weight.copy_(_matrix(state, 2 * layers + 2) * mirrored[:, None])
        network.output.bias.copy_(_bias(state, 2 * layers + 2) * mirrored)
    return field


def _matrix(state: dict[str, Tensor], number: int) -> Float32[Tensor, "o i"]:
    """The matrix of a layer; one with a skip connection holds the identity too."""
    if f"{PREFIX}{number}.weight" in state:
        return state[f"{PREFIX}{number}.weight"]
    weight = state[f"{PREFIX}{number}.linear.weight"]
    return weight + torch.eye(len(weight))


def _bias(state: dict[str, Tensor], number: int) -> Float32[Tensor, " o"]:
    direct = f"{PREFIX}{number}.bias"
    return state[direct if direct in state else f"{PREFIX}{number}.linear.bias"]


def _frequencies(model: dict[str, Any], state: dict[str, Tensor], box: int) -> Float32[Tensor, "3 f"]:
    """Their encoding's frequencies, radians per unit of `k` in cycles per pixel."""
    half = box // 2
    kind, count = model["pe_type"], int(model.get("pe_dim") or half)
    if kind == "gaussian":
        return state["decoder.rand_freqs"].T * half
    step = torch.arange(count) / max(count - 1, 1)
    lines = {
        "geom_ft": lambda: box * math.pi * (2 / box) ** step,
        "geom_full": lambda: box * math.pi * (1 / (box * math.pi)) ** step,
        "geom_lowf": lambda: half * (1 / half) ** step,
        "geom_nohighf": lambda: half * (2 * math.pi / half) ** step,
        "linear_lowf": lambda: torch.arange(1.0, half + 1),
    }
    if kind not in lines:
        raise InputError(f"positional encoding {kind!r} is not one that can be imported ({', '.join(lines)}, gaussian)")
    return torch.block_diag(*[lines[kind]()[None]] * 3)
