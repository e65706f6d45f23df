"""Particle sets with known ground truth: `particles.mrcs`, `particles.star`, `truth.npz`, `made.json` and `maps/`."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Float32, Int64

from cryomorph import __version__
from cryomorph.config.console import track
from cryomorph.config.errors import InputError
from cryomorph.config.simulate import SimulateConfig
from cryomorph.io.mrc import StackWriter, write_map
from cryomorph.io.output_folder import Contents, OutputFolder
from cryomorph.io.star import write_star
from cryomorph.particles.metadata import read_particles
from cryomorph.physics.ctf import Ctf
from cryomorph.physics.pose import Pose, rotation_from_euler
from cryomorph.simulation.atoms import AtomicModel, matched, morph, per_residue, read_model, turn
from cryomorph.simulation.images import Grid, Padded, clean_images, map_of, sigma_of_resolution
from cryomorph.simulation.phantoms import PHANTOMS, Conformations

SET = Contents("simulated set", marker="truth.npz", whole=True)
CALIBRATION = 1000  # noiseless images that determine the scale of the noise


@dataclass(frozen=True)
class Drawn:
    """The ground truth of each particle: its state, RELION's angles, its pose and its CTF (None without a CTF)."""

    label: Int64[np.ndarray, " n"]
    euler_deg: Float[np.ndarray, "n 3"]
    pose: Pose
    ctf: Ctf | None


@dataclass(frozen=True)
class Scale:
    """Transformation to mean 0 and standard deviation 1: subtract the mean, add noise, divide by the total."""

    mean: float
    noise: float
    total: float


def simulate_set(config: SimulateConfig) -> Path:
    """Make a set and return its folder; everything appears at once, or nothing does.

    Files and keys are named as by the simulator that the accept tests compare with. Images depend only on the seed, not
    on the machine's memory.

    Raises:
        InputError: an option is invalid, the molecule does not fit the box, or the output exists.
    """
    grid = _checked_grid(config)
    states = conformations_of(config).centred()
    shift_A = (config.box / 16 if config.shift is None else config.shift) * config.pixel_A
    if states.radius_A + shift_A > config.box * config.pixel_A / 2:
        raise InputError(
            f"the molecule reaches {states.radius_A:.0f} A from its centre and is shifted by up to {shift_A:.0f} A, "
            f"but half the box is {config.box * config.pixel_A / 2:.0f} A: raise --box or --pixel-A, or lower --shift"
        )
    read = (config.model, config.target, config.ctf_from)
    with OutputFolder(config.output, SET, inputs=read, overwrite=config.overwrite) as output:
        _write_set(output.scratch, config, (states, draw(config, states, shift_A), grid))
        output.commit()
    return config.output


def _write_set(folder: Path, config: SimulateConfig, made_of: tuple[Conformations, Drawn, Grid]) -> None:
    states, drawn, grid = made_of
    _write_images(folder / "particles.mrcs", config, made_of)
    _write_metadata(folder / "particles.star", drawn, config)
    np.savez(
        folder / "truth.npz",
        label=drawn.label,
        coord=states.coord[drawn.label],
        conf_coord=states.coord,
        R=drawn.pose.rotation.numpy().astype(np.float32),
        shift=-drawn.pose.shift_A.numpy(),  # position of the particle in Angstrom
        euler=drawn.euler_deg,
        sigma=grid.sigma_A,
        apix=grid.pixel_A,
    )
    (folder / "maps").mkdir()
    for i, cloud in enumerate(track(states.clouds, "true maps", total=len(states))):
        write_map(folder / "maps" / f"{i:03d}.mrc", map_of(cloud, grid), grid.pixel_A)
    made = {key: str(value) if isinstance(value, Path) else value for key, value in asdict(config).items()}
    made |= {"apix": made.pop("pixel_A"), "no_ctf": not config.ctf, "states": list(states.names)}
    made["program"] = f"cryomorph {__version__}"
    if not np.isfinite(config.snr):
        made["snr"] = None  # JSON has no infinity
    (folder / "made.json").write_text(json.dumps(made, indent=2) + "\n")


def conformations_of(config: SimulateConfig) -> Conformations:
    """The conformations that a config describes.

    Raises:
        InputError: options of a model were given without one, or a model is missing.
    """
    if config.name != "model":
        for option in ("model", "move", "target", "pivot", "axis"):
            if getattr(config, option) is not None:
                raise InputError(f"--{option} goes with `simulate model`, found `simulate {config.name}`")
        return PHANTOMS[config.name]()
    if config.model is None:
        raise InputError("`simulate model` needs a structure: give --model FILE, a PDB or mmCIF file")
    if config.move is not None and config.target is not None:
        raise InputError("--move and --target are both given: expected one of them")
    model = read_model(config.model, hydrogens=config.hydrogens, waters=config.waters)
    reduce: Callable[[AtomicModel], AtomicModel] = per_residue if config.atoms == "residue" else (lambda atoms: atoms)
    if config.target is not None:
        target = read_model(config.target, hydrogens=config.hydrogens, waters=config.waters)
        ours, theirs = (reduce(side) for side in matched(model, target))
        return morph(ours, theirs, conformations=config.conformations)
    model = reduce(model)
    if config.move is not None:
        return turn(
            model,
            config.move,
            pivot=config.pivot,
            axis=config.axis,
            span_deg=config.span,
            conformations=config.conformations,
        )
    return Conformations((model.cloud,), np.ones(1), np.zeros(1), (config.model.stem,))


def draw(config: SimulateConfig, states: Conformations, shift_A: float) -> Drawn:
    """Draw all particles: states in exact proportions and random order, uniform rotations on SO(3), uniform shifts."""
    labels, rotations, shifts, optics = (np.random.default_rng(s) for s in _seeds(config.seed)[:4])
    n = config.n
    quota = states.probability * n
    count = np.floor(quota).astype(np.int64)
    count[np.argsort(count - quota, kind="stable")[: n - count.sum()]] += 1
    label = labels.permutation(np.repeat(np.arange(len(states)), count))
    euler_deg = np.stack(
        [
            rotations.uniform(-180, 180, n),
            np.rad2deg(np.arccos(rotations.uniform(-1, 1, n))),
            rotations.uniform(-180, 180, n),
        ],
        axis=1,
    )
    pose = Pose(
        rotation_from_euler(torch.from_numpy(euler_deg)), torch.from_numpy(shifts.uniform(-shift_A, shift_A, (n, 2)))
    )
    return Drawn(label, euler_deg, pose, draw_ctf(config, optics) if config.ctf else None)


def draw_ctf(config: SimulateConfig, rng: np.random.Generator) -> Ctf:
    """CTF parameters of each particle: uniform in the ranges of the config, or from the particles of another file.

    Raises:
        InputError: the file has no CTF, or the range is reversed.
    """
    n = config.n
    bfactor, scale = torch.full((n,), config.bfactor), torch.ones(n)
    if config.ctf_from is not None:
        given = read_particles(config.ctf_from, check_images=False).ctf
        if given is None:
            raise InputError(f"{config.ctf_from}: no CTF parameters found; expected a file with defocus columns")
        rows = given[torch.from_numpy(rng.integers(len(given), size=n))]
        return replace(rows, bfactor_A2=bfactor, scale=scale)
    low, high = config.defocus
    if low > high or config.astigmatism < 0:
        raise InputError(f"--defocus {low:g} {high:g} --astigmatism {config.astigmatism:g}: expected a rising range")
    defocus_u = rng.uniform(low, high, n)
    defocus_v = defocus_u - rng.uniform(0, config.astigmatism, n)
    return Ctf(
        defocus_u_A=torch.from_numpy(defocus_u).float(),
        defocus_v_A=torch.from_numpy(defocus_v).float(),
        angle_deg=torch.from_numpy(rng.uniform(0, 180, n)).float(),
        voltage_kV=torch.full((n,), config.voltage),
        cs_mm=torch.full((n,), config.cs),
        amplitude_contrast=torch.full((n,), config.amplitude_contrast),
        phase_shift_deg=torch.zeros(n),
        bfactor_A2=bfactor,
        scale=scale,
    )


def _checked_grid(config: SimulateConfig) -> Grid:
    """The grid of a config, after checking its numbers."""
    if config.n < 1:
        raise InputError(f"-n {config.n}: expected at least one particle")
    if not config.snr > 0:
        raise InputError(f"--snr {config.snr:g}: expected a number above 0, or inf for noiseless images")
    if config.shift is not None and not 0 <= config.shift < config.box / 2:
        raise InputError(f"--shift {config.shift:g}: expected pixels from 0 to half the box")
    if config.seed < 0:
        raise InputError(f"--seed {config.seed}: expected 0 or more")
    resolution_A = 2.2 * config.pixel_A if config.resolution is None else config.resolution
    return Grid(config.box, config.pixel_A, sigma_of_resolution(resolution_A))


def _seeds(seed: int) -> list[np.random.SeedSequence]:
    """Independent random streams for states, rotations, shifts, optics and noise."""
    return np.random.SeedSequence(seed).spawn(5)


def _write_images(path: Path, config: SimulateConfig, made_of: tuple[Conformations, Drawn, Grid]) -> None:
    """Stream the images to disk; their scale comes from the first thousand, so that memory does not grow with `n`."""
    states, drawn, grid = made_of
    padded = Padded.of(states.clouds)
    noise = np.random.default_rng(_seeds(config.seed)[4])
    batch = padded.batch(grid)

    def clean(start: int, stop: int) -> Float32[np.ndarray, "b y x"]:
        part = slice(start, stop)
        ctf = None if drawn.ctf is None else drawn.ctf[part]
        label = torch.from_numpy(drawn.label[part])
        return clean_images(padded, label, grid, pose=drawn.pose[part], ctf=ctf).numpy()

    sample = min(config.n, CALIBRATION)
    total = squares = 0.0
    for start in range(0, sample, batch):
        images = clean(start, min(start + batch, sample)).astype(np.float64)
        total, squares = total + images.sum(), squares + (images**2).sum()
    pixels = sample * grid.box**2
    variance = squares / pixels - (total / pixels) ** 2
    scale = Scale(
        total / pixels, float(np.sqrt(variance / config.snr)), float(np.sqrt(variance * (1 + 1 / config.snr)))
    )
    with StackWriter(path, grid.box, grid.pixel_A) as stack:
        for start in track(range(0, config.n, batch), "images", total=-(-config.n // batch)):
            images = clean(start, min(start + batch, config.n)) - np.float32(scale.mean)
            if scale.noise > 0:
                images += np.float32(scale.noise) * noise.standard_normal(images.shape, dtype=np.float32)
            stack.append(images / np.float32(scale.total))


def _write_metadata(path: Path, drawn: Drawn, config: SimulateConfig) -> None:
    """Write a RELION 3.1 particle file; without a CTF it has no CTF columns, so that no reader applies one."""
    n = len(drawn.label)
    columns: dict[str, list[str]] = {"rlnImageName": [f"{i + 1:06d}@particles.mrcs" for i in range(n)]}
    for name, values in zip(("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"), drawn.euler_deg.T, strict=True):
        columns[name] = _text(values, 6)
    shift_A = drawn.pose.shift_A.numpy()
    columns |= {"rlnOriginXAngst": _text(shift_A[:, 0], 6), "rlnOriginYAngst": _text(shift_A[:, 1], 6)}
    group, optics = np.zeros(n, dtype=np.int64), {}
    if drawn.ctf is not None:
        each = torch.stack([drawn.ctf.voltage_kV, drawn.ctf.cs_mm, drawn.ctf.amplitude_contrast], dim=1).numpy()
        kinds, group = np.unique(each, axis=0, return_inverse=True)
        names = ("rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast")
        optics = {name: _text(values, 6) for name, values in zip(names, kinds.T, strict=True)}
        columns |= {
            "rlnDefocusU": _text(drawn.ctf.defocus_u_A.numpy(), 3),
            "rlnDefocusV": _text(drawn.ctf.defocus_v_A.numpy(), 3),
            "rlnDefocusAngle": _text(drawn.ctf.angle_deg.numpy(), 4),
            "rlnPhaseShift": _text(drawn.ctf.phase_shift_deg.numpy(), 4),
        }
    columns["rlnOpticsGroup"] = [str(i + 1) for i in group.ravel()]
    number = [str(i + 1) for i in range(int(group.max()) + 1)]
    fixed = {
        "rlnImagePixelSize": f"{config.pixel_A:.6f}",
        "rlnImageSize": str(config.box),
        "rlnImageDimensionality": "2",
    }
    optics_block = pd.DataFrame(
        {"rlnOpticsGroup": number, "rlnOpticsGroupName": [f"opticsGroup{i}" for i in number], **optics, **fixed}
    )
    particles = pd.DataFrame(columns)
    for block in (optics_block, particles):
        block.attrs["version"] = "30001"
    write_star(path, {"optics": optics_block, "particles": particles})


def _text(values: Float[np.ndarray, " n"], digits: int) -> list[str]:
    return [f"{value:.{digits}f}" for value in values]
