"""`motions`: motions of the Gaussians of a run, their files and figures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64

from cryomorph.analysis.decode import decode_at, reconstruct_at
from cryomorph.analysis.latent import check_latent
from cryomorph.analysis.motions.atomic_model import Fit, find_conformation, follow, spacing
from cryomorph.analysis.motions.modes import (
    combined,
    eigen_motions,
    localised_motions,
    rms_A,
)
from cryomorph.analysis.motions.paths import FileFrame, MotionPath, motion_facts, motion_path
from cryomorph.analysis.motions.regions import moving_gaussians, region_shares
from cryomorph.config.console import say, track, warn
from cryomorph.config.errors import InputError
from cryomorph.config.motions import MotionsConfig
from cryomorph.io.json_file import write_json
from cryomorph.io.mrc import write_map
from cryomorph.io.output_folder import Contents, OutputFolder
from cryomorph.io.structure import Atoms, arrows, read_atoms, too_long, write_atoms, write_points
from cryomorph.render.chimerax import motions_script
from cryomorph.report.motion_plots import arrow_colours, motions_figure
from cryomorph.report.style import save_plot
from cryomorph.representations.gaussians import Gaussians
from cryomorph.runs.folder import RunFolder

FACTS = "motions.json"
SHORTEST = 0.1  # arrow that is drawn, as a share of the longest
FAINTEST = 0.1  # Gaussian that gets one, as a share of the mean amplitude


def written(folder: Path) -> list[Path]:
    """What earlier motions left in a folder, by their own list: nothing else there is ever removed."""
    try:
        files = json.loads((folder / FACTS).read_text())["files"]
        paths = [folder / FACTS, *(folder / str(name) for name in files)]
    except (OSError, ValueError, KeyError, TypeError):
        paths = [folder / FACTS]
    inside = folder.resolve()
    return [path for path in paths if path.is_file() and path.resolve().is_relative_to(inside)]


MOTIONS = Contents("motions", written, marker=FACTS, plural=True)


def motions(config: MotionsConfig) -> Path:
    """Describe the motions of a run's Gaussians in its motions folder; returns that folder.

    Raises:
        InputError: the run is not one of Gaussians that move, a mask holds none of them or all, a combination names
            what there is not, the model cannot be read or lies elsewhere, or the output folder is in use.
    """
    run = RunFolder.open(config.run, unfinished=True)
    model = moving_gaussians(run)
    output = config.output if config.output is not None else run.path / "motions"
    read = (config.run, config.model, *(config.region or ()))
    with OutputFolder(output, MOTIONS, inputs=read, overwrite=config.overwrite) as placed:
        atoms = None if config.model is None else read_atoms(config.model)
        if atoms is not None and config.format == "pdb" and (name := too_long(atoms)):
            raise InputError(f"{config.model}: chain {name!r} is too long for a PDB file: omit --format pdb")
        z, store = check_latent(run.latent()[0]), run.store()
        if z.shape[1] != model.zdim:
            raise InputError(
                f"{run.path}: latent points of {z.shape[1]} coordinates, the model has {model.zdim}: train again"
            )
        frame = FileFrame(store.box, store.pixel_A, config.flip_hand)
        regions = None if config.region is None else region_shares(config.region, model, frame)
        if regions is None:
            space = eigen_motions(model, z, pixel_A=frame.pixel_A, components=config.components)
        else:
            space = localised_motions(model, z, regions, pixel_A=frame.pixel_A)
        chosen = [*space.motions, *(combined(space.motions, text) for text in config.combine or ())]
        paths = [motion_path(model, z, space, motion=motion, points=config.points, frame=frame) for motion in chosen]
        fit = (
            None
            if atoms is None
            else find_conformation(run, atoms, particle=config.particle, z=z, model=model, frame=frame)
        )
        folder = placed.scratch
        facts = [motion_facts(path, z, space=space, regions=regions, model=model) for path in paths]
        for each in facts:
            _say(each)
        np.save(folder / "coordinates.npy", space.coordinates)
        write_gaussians(folder, model, paths, frame=frame, ending=config.format)
        for path in paths:
            write_motion_maps(folder, run, path, config=config, frame=frame)
        told = None if atoms is None or fit is None else write_morphs(
            folder, paths, model=model, atoms=atoms, fit=fit, z=z, frame=frame, ending=config.format
        )  # fmt: skip
        neutral = _neutral(model, frame)[0]
        save_plot(
            motions_figure(paths, space, titles=[title(each) for each in facts], neutral=neutral),
            folder / "motions.png",
        )
        names = [path.motion.name for path in paths]
        script = motions_script(names, ending=config.format, morphed=atoms is not None, radius_A=spacing(neutral) / 3)
        (folder / "motions.cxc").write_text(script)
        asked = {key: _plain(value) for key, value in asdict(config).items()}
        files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        write_json(folder / FACTS, {
            "options": asked, "particles": len(z), "gaussians": model.shape.count, "pixel_A": frame.pixel_A,
            "box": frame.box, "motions": facts, "model": told, "files": files,
        })  # fmt: skip
        placed.commit()
    say(f"{output}: look at motions.png, or open motions.cxc in ChimeraX")
    return output


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
    """Print a summary of a motion, and its caveats."""
    said = title(facts)
    if facts.get("along_A", facts["rms_A"]) < facts["rms_A"] / 2:
        said += f"; only {facts['along_A']:.1f} A along itself: the particles lie on a curve through several components"
    say(said)
    if facts["points_in_empty_space"]:
        where = ", ".join(str(number) for number in facts["points_in_empty_space"])
        warn(f"{facts['name']}: points {where} (of 0 to {len(facts['points']) - 1}) lie in nearly empty space")


def write_gaussians(
    folder: Path, model: Gaussians, paths: Sequence[MotionPath], *, frame: FileFrame, ending: str
) -> None:
    """Write the neutral Gaussians, and for each motion those of its points, its arrows and its latent points."""
    position, width, amplitude = _neutral(model, frame)
    largest = amplitude.max()
    write_points(folder / f"neutral.{ending}", position[None], occupancy=amplitude[None] / largest, width_A=width[None])
    for path in paths:
        name = path.motion.name
        share = path.amplitude / max(largest, path.amplitude.max())
        write_points(folder / f"{name}.{ending}", path.position, occupancy=share, width_A=path.width_A)
        lengths = np.linalg.norm(path.displacement, axis=1)
        drawn = (lengths > max(SHORTEST * lengths.max(), 1e-2)) & (amplitude > FAINTEST * amplitude.mean())
        text = arrows(
            path.position[0][drawn],
            path.position[-1][drawn],
            arrow_colours(lengths)[drawn],
            radius_A=spacing(position) / 12,
        )
        (folder / f"{name}.bild").write_text(text)
        np.save(folder / f"{name}.npy", path.points)


def write_motion_maps(
    folder: Path, run: RunFolder, path: MotionPath, *, config: MotionsConfig, frame: FileFrame
) -> None:
    """Write the maps at a motion's points: the model's, and those of the particles nearby."""
    for wanted, make, kind in (
        (config.maps, lambda: decode_at(run, path.points, frame.box), "maps"),
        (config.reconstruct, lambda: reconstruct_at(run, path.points), "reconstructed"),
    ):
        for number, volume in enumerate(make() if wanted else ()):
            write_map(
                folder / f"{path.motion.name}_{kind}" / f"{number:03d}.mrc", frame.map(volume).numpy(), frame.pixel_A
            )


def write_morphs(
    folder: Path,
    paths: Sequence[MotionPath],
    *,
    model: Gaussians,
    atoms: Atoms,
    fit: Fit,
    z: Float64[np.ndarray, "n q"],
    frame: FileFrame,
    ending: str,
) -> dict[str, Any]:
    """Write the atomic model morphed along each motion; returns what motions.json says of it."""
    with torch.no_grad():
        here = model.at(torch.as_tensor(z[fit.particle][None], dtype=torch.float32))
    start, weight = frame.to_file(here.position[0].double().numpy()), here.amplitude[0].double().numpy()
    reached = {}
    for path in track(paths, "morphing the model"):
        moved = follow(atoms.position, start, path.position, weight=weight)
        write_atoms(folder / f"{path.motion.name}_model.{ending}", atoms, moved)
        reached[path.motion.name] = rms_A(moved[-1] - moved[0], np.ones(len(atoms.position)))
    facts = {"path": str(atoms.path), "atoms": len(atoms.position), "particle": fit.particle}
    return facts | {"correlation": fit.correlation, "width_A": spacing(start), "rms_A": reached}


def _neutral(
    model: Gaussians, frame: FileFrame
) -> tuple[Float64[np.ndarray, "n 3"], Float64[np.ndarray, " n"], Float64[np.ndarray, " n"]]:
    """Positions and widths of the neutral Gaussians in Angstrom, as in files, and their amplitudes."""
    position, width, amplitude = (part[0].detach().double().numpy() for part in model.neutral)
    return frame.to_file(position), width * frame.pixel_A, amplitude


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(part) for part in value]
    return str(value) if isinstance(value, Path) else value
