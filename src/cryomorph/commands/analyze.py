"""`analyze`: latent space, representative maps and the report of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from cryomorph.analysis import latent as la
from cryomorph.analysis.decode import decode_at, reconstruct_at, write_maps
from cryomorph.analysis.latent_space import LatentSpace, latent_space, write_tables
from cryomorph.analysis.state_maps import StateMap, map_states
from cryomorph.commands.selection_files import write_state_maps
from cryomorph.config.analyze import AnalyzeConfig
from cryomorph.config.console import say
from cryomorph.config.errors import InputError
from cryomorph.diagnostics.left_in_run import Absent, FoundLandscape, read_comparison, read_landscape
from cryomorph.diagnostics.maps import resolutions_05_A
from cryomorph.diagnostics.model import measurements_of
from cryomorph.diagnostics.run_checks import RunResults, run_checks
from cryomorph.diagnostics.training_record import METRICS, linear_objective, read_metrics, read_training
from cryomorph.particles.store import ParticleStore
from cryomorph.render.isosurface import common_level
from cryomorph.render.map_renderer import Painter
from cryomorph.report.analyze.clusters import cluster_section
from cryomorph.report.analyze.component import component_section
from cryomorph.report.analyze.consensus import consensus_section
from cryomorph.report.analyze.latent_space import latent_section
from cryomorph.report.analyze.mixture import mixture_section
from cryomorph.report.analyze.outliers import outlier_section
from cryomorph.report.analyze.page import analysis_report, consensus_resolution_A
from cryomorph.report.analyze.states import states_section
from cryomorph.report.analyze.training import training_section
from cryomorph.report.analyze.trust import trust_section
from cryomorph.report.page import Section, write_report
from cryomorph.report.style import save_plot
from cryomorph.report.training_plots import training_plot
from cryomorph.runs.checkpoint import load_tensors
from cryomorph.runs.folder import RunFolder


def analyze(config: AnalyzeConfig) -> Path:
    """Analyse a run into its analysis folder; returns the report's path.

    Raises:
        InputError: the run has no model yet, is damaged, or has no latent space.
    """
    run = RunFolder.open(config.run, unfinished=True)
    run.provenance()  # damaged, it is better said now than by the report
    if run.latent()[0].shape[1] == 0:
        raise InputError(
            f"{config.run} has no latent space (--zdim 0), so there is nothing to analyse: its map is "
            f"{config.run / 'map.mrc'}"
        )
    folder = config.output if config.output is not None else run.path / "analysis"
    folder.mkdir(parents=True, exist_ok=True)
    store = run.store()
    space = latent_space(run, config)
    write_tables(space, folder)
    box = config.box if config.box is not None else store.box
    pixel_A = store.pixel_A * store.box / box

    def maps_at(z: Float[np.ndarray, "k q"], name: str) -> Float32[Tensor, "k z y x"]:
        maps = torch.stack(list(decode_at(run, z, box)))
        _write(folder / name, maps, pixel_A, config)
        return maps

    decoded = maps_at(space.z[space.clusters.centre_index], "kmeans")
    reconstructed = None
    if config.reconstruct:
        reconstructed = torch.stack(list(reconstruct_at(run, space.z[space.clusters.centre_index])))
        _write(folder / "kmeans_reconstructed", reconstructed, store.pixel_A, config)
    paths = [
        la.pc_trajectory(space.pca, component, points=config.pc_points)
        for component in range(min(config.pcs, space.z.shape[1]))
    ]
    along = [maps_at(path, f"pc{number + 1}") for number, path in enumerate(paths)]
    at_mixture = None
    if space.mixture is not None:
        at_mixture = maps_at(space.z[space.mixture.centre_index], "gmm")
    level = common_level(list(decoded))
    paint = Painter(level, [decoded, *([] if reconstructed is None else [reconstructed])], box)
    landscape = read_landscape(run)
    mapped: dict[int, StateMap] = {}
    if isinstance(landscape, FoundLandscape) and config.reconstruct:
        mapped = map_states(run, landscape.states, landscape.means)
        write_state_maps(folder, mapped, flip_hand=config.flip_hand)
    agreed = [] if reconstructed is None else resolutions_05_A(run, decoded, reconstructed)
    results = _results(run, space, landscape=landscape, state_maps=mapped, cluster_maps_A=agreed)
    checks = run_checks(results)
    parts = [trust_section(checks), _consensus(run, store, paint), _latent(run, space, results)]
    if results.training is not None:
        plot = training_plot(results.training)
        save_plot(plot, folder / "training.png")
        parts.append(training_section(results.training, plot, linear_start=results.linear_start))
    if isinstance(landscape, FoundLandscape):
        parts.append(_states(landscape, mapped, level, box=box))
    parts.append(
        cluster_section(
            space.pca,
            space.clusters,
            decoded=paint(decoded, "k-means maps"),
            reconstructed=None if reconstructed is None else paint(reconstructed, "reconstructed maps"),
            level=level,
            embedding=space.embedding,
        )
    )
    for number, (path, maps) in enumerate(zip(paths, along, strict=True)):
        nearest = la.nearest_particles(space.z, path)
        pictures = paint(maps, f"maps along PC{number + 1}")
        parts.append(component_section(space.pca, number, path, pictures=pictures, nearest=nearest))
    if space.mixture is not None and at_mixture is not None:
        pictures = paint(at_mixture, "mixture maps")
        parts.append(mixture_section(space.pca, space.mixture, pictures=pictures))
    parts.append(outlier_section(space.outliers, listed_in="outliers.txt"))
    report = folder / "report.html"
    write_report(report, analysis_report(run, parts, checks))
    say(f"report: {report}")
    return report


def _write(folder: Path, maps: Float32[Tensor, "k z y x"], pixel_A: float, config: AnalyzeConfig) -> None:
    folder.mkdir(exist_ok=True)
    for old in folder.glob("[0-9]*.mrc"):
        old.unlink()
    write_maps(folder, iter(maps), pixel_A, flip_hand=config.flip_hand)


def _consensus(run: RunFolder, store: ParticleStore, paint: Painter) -> Section:
    return consensus_section(
        paint.views(run.consensus_map()),
        curves=run.consensus_fsc(),
        pixel_A=store.pixel_A,
        box=store.box,
        noise=store.noise_amplitude.square().numpy()[: store.box // 2],
    )


def _latent(run: RunFolder, space: LatentSpace, results: RunResults) -> Section:
    half_sets = results.reproducibility
    return latent_section(
        space.pca,
        embedding=space.embedding,
        std=space.relative_std,
        reproducibility=half_sets,
        objective=None if half_sets is None else linear_objective(read_metrics(run.path / METRICS)),
    )


def _states(found: FoundLandscape, mapped: Mapping[int, StateMap], level: float, *, box: int) -> Section:
    maps = {state: one.map for state, one in mapped.items()}
    paint = Painter(level, [found.means, *([torch.stack(list(maps.values()))] if maps else [])], box)
    pictures = paint(torch.stack(list(maps.values())), "reconstructed states") if maps else []
    return states_section(
        found,
        decoded=paint(found.means, "states"),
        reconstructed=dict(zip(maps, pictures, strict=True)),
        mapped=mapped,
        level=level,
    )


def _results(
    run: RunFolder,
    space: LatentSpace,
    *,
    landscape: FoundLandscape | Absent,
    state_maps: Mapping[int, StateMap],
    cluster_maps_A: Sequence[float],
) -> RunResults:
    """What the checks of the report look at."""
    return RunResults(
        f"cryomorph landscape {run.path}",
        reproducibility_of(run),
        linear_start_of(run),
        measurements_of(run, space.relative_std),
        read_training(run),
        space.relative_std,
        space.outliers,
        space.clusters.counts.tolist(),
        cluster_maps_A,
        consensus_resolution_A(run, 0.5),
        landscape,
        state_maps,
        read_comparison(run),
    )


def reproducibility_of(run: RunFolder) -> Float32[np.ndarray, " q"] | None:
    """Agreement of half sets on each latent coordinate; None where the method does not fit half sets."""
    found = run.model_tensors().get("reproducibility")
    return None if found is None else found.numpy()


def linear_start_of(run: RunFolder) -> Float32[np.ndarray, " q"] | None:
    """The same of the linear model that a training started from; None where there was none."""
    return load_tensors(run.linear_start)[0]["reproducibility"].numpy() if run.linear_start.is_file() else None
