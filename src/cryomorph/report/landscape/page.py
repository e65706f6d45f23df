"""The report of a landscape: its figures, as in Zhong et al. 2022, and how far to trust each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from cryomorph.analysis.landscape.landscape import Landscape, Trajectory
from cryomorph.analysis.landscape.states import state_maps
from cryomorph.config.landscape import LandscapeConfig
from cryomorph.config.shell import command
from cryomorph.diagnostics.check import Check
from cryomorph.diagnostics.landscape import one_motion_check, placement_check, rare_states_check, states_check
from cryomorph.render.isosurface import common_level
from cryomorph.render.map_renderer import MapRenderer
from cryomorph.report.landscape.component import component_section
from cryomorph.report.landscape.curve import curve_section
from cryomorph.report.landscape.other_views import other_section
from cryomorph.report.landscape.placement import placement_section
from cryomorph.report.landscape.states import state_section
from cryomorph.report.landscape.volume_space import space_section
from cryomorph.report.page import Figure, Report, summarise, write_report
from cryomorph.report.style import save_plot
from cryomorph.runs.folder import RunFolder


def write_landscape_report(
    folder: Path,
    run: RunFolder,
    found: Landscape,
    *,
    along: Sequence[Trajectory],
    path: Trajectory,
    config: LandscapeConfig,
    pixel_A: float,
) -> None:
    """Draw all figures, into `figures` and into report.html."""
    means = state_mean_maps(found)
    level = common_level([found.mean_map, *means])
    paint = MapRenderer(level, [torch.cat([means, path.decoded])], found.sketch.box)
    sections = [space_section(found, paint, means.amax(0)), state_section(found, paint, means, asked=config.states)]
    sections.append(other_section(found))
    sections.append(curve_section(found, path, paint(path.decoded, "maps along the curve")))
    for number, one in enumerate(along):
        sections.append(component_section(found, number, one, paint=paint))
    sections.append(placement_section(found))
    (folder / "figures").mkdir()
    for section in sections:
        for block in section.blocks:
            if isinstance(block, Figure) and not isinstance(block.image, np.ndarray):
                save_plot(block.image, folder / "figures" / f"{file_name(block.alt)}.png")
    store = run.store()
    facts = {
        "Method": str(run.config()["method"]),
        "Particles": f"{len(found.z):,}",
        "Maps": f"{len(found.sketch.particles)}, box {found.sketch.box} voxels of {pixel_A:.2f} Å",
        "Mask": f"{len(found.space.voxels):,} voxels" + ("" if config.mask is None else f" ({config.mask})"),
        "States": f"{found.states.count} by {config.linkage} linkage",
        "Held-out R²": f"{found.embedding.r2:.4f}",
    }
    made = run.provenance()
    provenance = {"Trained by": command(*made.command), "Source": store.manifest.source}
    provenance["Seconds"] = ", ".join(f"{step} {value:.0f}" for step, value in found.seconds.items())
    report = Report(
        f"Landscape of {run.path.resolve().name}",
        tuple(sections),
        facts=facts,
        summary=summarise(landscape_checks(found, again=command("cryomorph", "landscape", run.path))),
        provenance=provenance,
    )
    write_report(folder / "report.html", report)


def file_name(description: str) -> str:
    """A figure's file name, from its description."""
    return "-".join(description.lower().replace(",", "").split())


def state_mean_maps(found: Landscape) -> Float32[Tensor, "m z y x"]:
    """The mean map of each state."""
    maps = [state_maps(found.sketch.values, found.states.sketch, state)[0] for state in range(found.states.count)]
    return torch.stack([found.sketch.map(values) for values in maps])


def landscape_checks(found: Landscape, *, again: str) -> tuple[Check, ...]:
    """All checks of a landscape.

    Args:
        again: the command that makes another one.
    """
    states, suggestion, embedding = found.states, found.states.suggestion, found.embedding
    return (
        placement_check(embedding.r2, len(embedding.truth)),
        states_check(states.count, suggestion.states, clear=suggestion.clear, again=again),
        rare_states_check(states.particle_counts, len(found.z)),
        one_motion_check(found.curve.explained, found.curve.noise, discrete=suggestion.clear),
    )
