"""`motions`: what it leaves behind, whole or not at all."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64

from cryomorph.analysis.decode import decode_at, reconstruct_at
from cryomorph.analysis.latent import check_latent
from cryomorph.analysis.motions.atomic_model import Fit, fitted_conformation, follow, spacing
from cryomorph.analysis.motions.modes import (
    MotionSpace,
    combined,
    eigen_motions,
    localised_motions,
    rms_A,
)
from cryomorph.analysis.motions.paths import PERCENTILES, Frame, Walk, walk_along
from cryomorph.analysis.paths import LatentPath, occupancy
from cryomorph.config.console import say, track, warn
from cryomorph.config.errors import InputError
from cryomorph.config.motions import MotionsConfig
from cryomorph.io.mrc import write_map
from cryomorph.io.structure import Atoms, arrows, read_atoms, too_long, write_atoms, write_points
from cryomorph.report.motion_plots import arrow_colours, motions_figure
from cryomorph.report.style import save_plot
from cryomorph.representations.gaussian_motion import POSITIONS
from cryomorph.representations.gaussians import Gaussians
from cryomorph.runs.folder import RunFolder
from cryomorph.runs.provenance import write_json
from cryomorph.volumes.fsc import resolution_A
from cryomorph.volumes.masks import mask_at, read_mask

FACTS = "motions.json"
SHORTEST = 0.1  # arrow that is drawn, as a share of the longest
FAINTEST = 0.1  # Gaussian that gets one, as a share of the mean amplitude
UNLIKE = 0.5  # correlation below which a model is hardly that of the maps


def motions(config: MotionsConfig) -> Path:
    """Describe the motions of a run's Gaussians in its motions folder; returns that folder.

    Raises:
        InputError: the run is not one of Gaussians that move, a mask holds none of them or all, a combination names
            what there is not, the model cannot be read or lies elsewhere, or the output folder is in use.
    """
    run = RunFolder.open(config.run, unfinished=True)
    model = moving_gaussians(run)
    output = config.output if config.output is not None else run.path / "motions"
    _check_output(output, overwrite=config.overwrite)
    atoms = None if config.model is None else read_atoms(config.model)
    if atoms is not None and config.format == "pdb" and (name := too_long(atoms)):
        raise InputError(f"{config.model}: chain {name!r} has no place in a PDB file: leave --format pdb away")
    z, store = check_latent(run.latent()[0]), run.store()
    if z.shape[1] != model.zdim:
        raise InputError(
            f"{run.path}: latent points of {z.shape[1]} coordinates, the model has {model.zdim}: train again"
        )
    frame = Frame(store.box, store.pixel_A, config.flip_hand)
    regions = None if config.region is None else region_shares(config.region, model, frame)
    if regions is None:
        space = eigen_motions(model, z, pixel_A=frame.pixel_A, components=config.components)
    else:
        space = localised_motions(model, z, regions, pixel_A=frame.pixel_A)
    chosen = [*space.motions, *(combined(space.motions, text) for text in config.combine or ())]
    walks = [walk_along(model, z, space, motion=motion, points=config.points, frame=frame) for motion in chosen]
    fit = None if atoms is None else find_conformation(config, run, atoms, z=z, model=model, frame=frame)
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}-", dir=output.parent) as scratch:
        folder = Path(scratch)
        facts = [walk_facts(walk, z, space=space, regions=regions, model=model) for walk in walks]
        for each in facts:
            _say(each)
        np.save(folder / "coordinates.npy", space.coordinates)
        write_gaussians(folder, model, walks, frame=frame, ending=config.format)
        for walk in walks:
            write_walk_maps(folder, run, walk, config=config, frame=frame)
        told = None if atoms is None or fit is None else write_morphs(
            folder, walks, model=model, atoms=atoms, fit=fit, z=z, frame=frame, ending=config.format
        )  # fmt: skip
        neutral = _neutral(model, frame)[0]
        save_plot(
            motions_figure(walks, space, titles=[title(each) for each in facts], neutral=neutral),
            folder / "motions.png",
        )
        names = [walk.motion.name for walk in walks]
        script = chimerax_script(names, ending=config.format, morphed=atoms is not None, radius_A=spacing(neutral) / 3)
        (folder / "motions.cxc").write_text(script)
        asked = {key: _plain(value) for key, value in asdict(config).items()}
        files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        write_json(folder / FACTS, {
            "options": asked, "particles": len(z), "gaussians": model.shape.count, "pixel_A": frame.pixel_A,
            "box": frame.box, "motions": facts, "model": told, "files": files,
        })  # fmt: skip
        _move_into(output, folder)
    say(f"{output}: look at motions.png, or open motions.cxc in ChimeraX")
    return output


def moving_gaussians(run: RunFolder) -> Gaussians:
    """The Gaussians of a run.

    Raises:
        InputError: the run is of another method, has no latent space, or its Gaussians keep their places.
    """
    model = run.representation()
    if not isinstance(model, Gaussians):
        method = run.config().get("method", "another method")
        raise InputError(
            f"{run.path} was trained by {method}: motions are those of Gaussians, of `cryomorph train gaussians`; "
            "`cryomorph traverse` shows the maps of any run along its components"
        )
    if model.zdim == 0:
        raise InputError(f"{run.path} has no latent space (--zdim 0): nothing moves")
    if POSITIONS not in model.shape.changes:
        kinds = " and ".join(model.shape.changes)
        raise InputError(f"{run.path} lets only {kinds} change: expected a run whose positions do (--change positions)")
    return model


def region_shares(paths: Sequence[Path], model: Gaussians, frame: Frame) -> Float64[np.ndarray, "r n"]:
    """How far each neutral Gaussian belongs to each mask's region.

    Raises:
        InputError: a mask of another box, or one that holds no Gaussian, or all.
    """
    position = model.neutral.position[0].detach()
    found = []
    for path in paths:
        share = mask_at(frame.map(read_mask(path, frame.box)), position).numpy()
        inside = int((share > 0.5).sum())
        if not 0 < inside < len(position):
            which = "none" if not inside else "all"
            raise InputError(
                f"{path} holds {which} of the {len(position)} Gaussians: expected a mask around a part of the molecule"
            )
        found.append(share)
    return np.stack(found)


def find_conformation(
    config: MotionsConfig,
    run: RunFolder,
    atoms: Atoms,
    *,
    z: Float64[np.ndarray, "n q"],
    model: Gaussians,
    frame: Frame,
) -> Fit:
    """The conformation that a model was fitted to: the one that is given, or the one most like it.

    Raises:
        InputError: there is no such particle, or most of the model lies outside of the box.
    """
    position = frame.from_file(atoms.position)
    if config.model_at != "auto":
        particle = int(config.model_at)
        if particle >= len(z):
            raise InputError(f"--model-at {particle}: the run has particles 0 to {len(z) - 1} (numbers are 0-based)")
        return Fit(particle, None)
    finest = max(resolution_A(run.consensus_fsc()["corrected"], frame.pixel_A) / frame.pixel_A, 2.0)
    fit = fitted_conformation(model, z, atoms, position=position, resolution_px=finest)
    say(f"model: most like particle {fit.particle} (0-based), whose map correlates with it by {fit.correlation:.3f}")
    if fit.correlation is not None and fit.correlation < UNLIKE:
        warn(f"{atoms.path} is little like any map of this run (correlation {fit.correlation:.2f}): was it fitted into "
             "one, as ChimeraX shows it, and of this hand?")  # fmt: skip
    return fit


def walk_facts(
    walk: Walk,
    z: Float64[np.ndarray, "n q"],
    *,
    space: MotionSpace,
    regions: Float64[np.ndarray, "r count"] | None,
    model: Gaussians,
) -> dict[str, Any]:
    """What motions.json says of a motion."""
    moved, weight = walk.displacement, model.neutral.amplitude[0].detach().double().numpy()
    lengths = np.linalg.norm(moved, axis=1)
    arc = np.concatenate([[0.0], np.linalg.norm(np.diff(walk.points, axis=0), axis=1).cumsum()])
    around = occupancy(z, LatentPath(walk.points, arc))
    name = walk.motion.name
    facts = {"name": name, **walk.motion.facts, "rms_A": rms_A(moved, weight), "largest_A": float(lengths.max())}
    own = next((i for i, motion in enumerate(space.motions) if motion.name == name), None)
    if regions is not None:
        facts["regions_A"] = [rms_A(moved, weight * share) for share in regions]
        if own is not None:
            inside, outside = (rms_A(moved, weight * share) for share in (regions[own], 1 - regions[own]))
            facts["path"] = {"inside_A": inside, "outside_A": outside, "ratio": inside / max(outside, 1e-9)}
    elif own is not None:
        facts["along_A"] = float(np.ptp(np.percentile(space.coordinates[:, own], PERCENTILES)))
    return facts | {"points": walk.points.tolist(), "points_in_empty_space": around.empty.tolist()}


def title(facts: dict[str, Any]) -> str:
    """A motion in a line."""
    text = f"{facts['name']}: {facts['rms_A']:.1f} A RMS, {facts['largest_A']:.1f} A at most"
    if "explained_variance" in facts:
        text += f", {facts['explained_variance']:.1%} of the variance"
    if "path" in facts:
        path = facts["path"]
        text += f"; {path['inside_A']:.1f} A in its region, {path['outside_A']:.1f} A elsewhere"
    return text


def _say(facts: dict[str, Any]) -> None:
    """Say how a motion goes, and what is to be known of it."""
    said = title(facts)
    if facts.get("along_A", facts["rms_A"]) < facts["rms_A"] / 2:
        said += f"; only {facts['along_A']:.1f} A along itself: the particles lie on a curve through several components"
    say(said)
    if facts["points_in_empty_space"]:
        where = ", ".join(str(number) for number in facts["points_in_empty_space"])
        warn(
            f"{facts['name']}: points {where} (of 0 to {len(facts['points']) - 1}) lie where there are hardly any "
            "particles"
        )


def write_gaussians(folder: Path, model: Gaussians, walks: Sequence[Walk], *, frame: Frame, ending: str) -> None:
    """Write the neutral Gaussians, and for each motion those of its points, its arrows and its latent points."""
    position, width, amplitude = _neutral(model, frame)
    largest = amplitude.max()
    write_points(folder / f"neutral.{ending}", position[None], occupancy=amplitude[None] / largest, width_A=width[None])
    for walk in walks:
        name = walk.motion.name
        share = walk.amplitude / max(largest, walk.amplitude.max())
        write_points(folder / f"{name}.{ending}", walk.position, occupancy=share, width_A=walk.width_A)
        lengths = np.linalg.norm(walk.displacement, axis=1)
        drawn = (lengths > max(SHORTEST * lengths.max(), 1e-2)) & (amplitude > FAINTEST * amplitude.mean())
        text = arrows(
            walk.position[0][drawn],
            walk.position[-1][drawn],
            arrow_colours(lengths)[drawn],
            radius_A=spacing(position) / 12,
        )
        (folder / f"{name}.bild").write_text(text)
        np.save(folder / f"{name}.npy", walk.points)


def write_walk_maps(folder: Path, run: RunFolder, walk: Walk, *, config: MotionsConfig, frame: Frame) -> None:
    """Write the maps at a motion's points: the model's, and those of the particles nearby."""
    for wanted, make, kind in (
        (config.maps, lambda: decode_at(run, walk.points, frame.box), "maps"),
        (config.reconstruct, lambda: reconstruct_at(run, walk.points), "reconstructed"),
    ):
        for number, volume in enumerate(make() if wanted else ()):
            write_map(
                folder / f"{walk.motion.name}_{kind}" / f"{number:03d}.mrc", frame.map(volume).numpy(), frame.pixel_A
            )


def write_morphs(
    folder: Path,
    walks: Sequence[Walk],
    *,
    model: Gaussians,
    atoms: Atoms,
    fit: Fit,
    z: Float64[np.ndarray, "n q"],
    frame: Frame,
    ending: str,
) -> dict[str, Any]:
    """Write the atomic model morphed along each motion; returns what motions.json says of it."""
    with torch.no_grad():
        here = model.at(torch.as_tensor(z[fit.particle][None], dtype=torch.float32))
    start, weight = frame.to_file(here.position[0].double().numpy()), here.amplitude[0].double().numpy()
    reached = {}
    for walk in track(walks, "morphing the model"):
        moved = follow(atoms.position, start, walk.position, weight=weight)
        write_atoms(folder / f"{walk.motion.name}_model.{ending}", atoms, moved)
        reached[walk.motion.name] = rms_A(moved[-1] - moved[0], np.ones(len(atoms.position)))
    facts = {"path": str(atoms.path), "atoms": len(atoms.position), "particle": fit.particle}
    return facts | {"correlation": fit.correlation, "width_A": spacing(start), "rms_A": reached}


def chimerax_script(names: Sequence[str], *, ending: str, morphed: bool, radius_A: float) -> str:
    """A ChimeraX script that opens the neutral Gaussians, then each motion's arrows and trajectories; the first shows.

    Args:
        morphed: whether an atomic model goes along.
        radius_A: of the balls that stand for Gaussians.
    """
    lines = [
        "# Open this file in a new ChimeraX session. It shows the first motion; the others are hidden: tick them in",
        "# the Models panel, and play them with `coordset slider` and their number.",
        "set bgColor white",
    ]
    opened = (f"neutral.{ending}", *(name for each in names for name in _opened(each, ending, morphed=morphed)))
    for number, what in enumerate(opened, start=1):
        lines.append(f"open {what}")
        if "_model" not in what and ".bild" not in what:
            colour = "light gray" if number == 1 else "cornflower blue"
            lines += [f"style #{number} sphere", f"size #{number} atomRadius {radius_A:.2f}"]
            lines += [f"color #{number} {colour}", f"transparency #{number} {80 if number == 1 else 50} target a"]
        if number > 1 and not what.startswith((f"{names[0]}.", f"{names[0]}_")):
            lines.append(f"hide #{number} models")
        elif "coordsets" in what:
            lines.append(f"coordset slider #{number}")
    return "\n".join([*lines, "lighting soft", "view"]) + "\n"


def _opened(name: str, ending: str, *, morphed: bool) -> list[str]:
    """What ChimeraX opens of a motion."""
    trajectories = [name, f"{name}_model"] if morphed else [name]
    return [f"{name}.bild", *(f"{each}.{ending} coordsets true" for each in trajectories)]


def _neutral(
    model: Gaussians, frame: Frame
) -> tuple[Float64[np.ndarray, "n 3"], Float64[np.ndarray, " n"], Float64[np.ndarray, " n"]]:
    """Positions and widths of the neutral Gaussians in Angstrom, as in files, and their amplitudes."""
    position, width, amplitude = (part[0].detach().double().numpy() for part in model.neutral)
    return frame.to_file(position), width * frame.pixel_A, amplitude


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(part) for part in value]
    return str(value) if isinstance(value, Path) else value


def _check_output(output: Path, *, overwrite: bool) -> None:
    if output.exists() and not output.is_dir():
        raise InputError(f"{output} is a file: expected a folder for -o")
    if not output.is_dir() or not any(output.iterdir()):
        return
    if not (output / FACTS).is_file():
        raise InputError(f"{output} is not empty and holds no motions: give another -o")
    if not overwrite:
        raise InputError(f"{output} holds motions already: give --overwrite to replace them, or another -o")


def _left(output: Path) -> list[Path]:
    """What earlier motions left in a folder, by their own list: nothing else there is ever removed."""
    try:
        files = json.loads((output / FACTS).read_text())["files"]
        paths = [output / str(name) for name in files]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    inside = output.resolve()
    return [path for path in paths if path.is_file() and path.resolve().is_relative_to(inside)]


def _move_into(output: Path, made: Path) -> None:
    """Put new motions in the place of the old ones."""
    output.mkdir(exist_ok=True)
    for path in _left(output):
        path.unlink()
        if path.parent != output and not any(path.parent.iterdir()):
            path.parent.rmdir()
    new = sorted((path for path in made.rglob("*") if path.is_file()), key=lambda path: path.name == FACTS)
    for path in new:  # last what says that all is there
        place = output / path.relative_to(made)
        place.parent.mkdir(exist_ok=True)
        path.replace(place)
