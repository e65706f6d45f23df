"""`analyze`: latent space, representative maps and the report of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32

from cryomorph.analysis.landscape.files import LandscapeSummary
from cryomorph.analysis.latent_space import LatentSpace
from cryomorph.analysis.particle_tables import LatentTables
from cryomorph.analysis.run_analysis import RunAnalysis, analyse_run
from cryomorph.analysis.state_maps import StateMap
from cryomorph.commands.selection_map_files import write_state_maps
from cryomorph.config.analyze import AnalyzeConfig
from cryomorph.config.console import say
from cryomorph.config.errors import InputError
from cryomorph.config.shell import command
from cryomorph.diagnostics.left_in_run import Absent, read_comparison, read_landscape
from cryomorph.diagnostics.model import measurements_of
from cryomorph.diagnostics.run_checks import RunResults, run_checks
from cryomorph.diagnostics.training_record import linear_objective, read_training
from cryomorph.io.output_folder import Contents, OutputFolder
from cryomorph.particles.store import ParticleStore
from cryomorph.render.isosurface import common_level
from cryomorph.render.map_renderer import MapRenderer
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

REPORT = "report.html"
CONTENTS = Contents(
    "analysis",
    owned=(
        "gmm", LatentTables.MIXTURE, LatentTables.PROBABILITY, "kmeans", LatentTables.CENTRES, LatentTables.CLUSTERS,
        "kmeans_reconstructed", LatentTables.OUTLIERS, "pc[0-9]*", LatentTables.PCA, REPORT, "states.csv",
        "states_reconstructed", "training.png", LatentTables.UMAP,
    ),
    marker=REPORT,
    signs=(LatentTables.CLUSTERS,),
    unasked=True,
)  # fmt: skip


def analyze(config: AnalyzeConfig) -> Path:
    """Analyse a run into its analysis folder; returns the report's path.

    Raises:
        InputError: the run has no model yet, is damaged, or has no latent space, or the folder is in use or holds
            something else.
    """
    run = RunFolder.open(config.run, unfinished=True)
    if run.latent()[0].shape[1] == 0:
        raise InputError(
            f"{config.run} has no latent space (--zdim 0), so there is nothing to analyse: its map is "
            f"{config.run / 'map.mrc'}"
        )
    output = config.output if config.output is not None else run.path / "analysis"
    with OutputFolder(output, CONTENTS, inputs=(config.run,)) as folder:
        run.provenance()  # the report needs it: better found damaged now than after the work
        landscape = read_landscape(run)
        states = landscape if isinstance(landscape, LandscapeSummary) else None
        found = analyse_run(run, config, states)
        found.write(folder.scratch, flip_hand=config.flip_hand)
        if states is not None and config.reconstruct:
            write_state_maps(folder.scratch, found.state_maps, flip_hand=config.flip_hand)
        results = _results(run, found, landscape)
        checks = run_checks(results)
        training = []
        if results.training is not None:
            plot = training_plot(results.training)
            save_plot(plot, folder.scratch / "training.png")
            training.append(training_section(results.training, plot, linear_start=results.linear_start))
        sections = [trust_section(checks), *_sections(run, found, results, training=training)]
        write_report(folder.scratch / REPORT, analysis_report(run, sections, checks))
        folder.commit()
    say(f"report: {output / REPORT}")
    return output / REPORT


def _sections(run: RunFolder, found: RunAnalysis, results: RunResults, *, training: Sequence[Section]) -> list[Section]:
    """The sections of the report, with all maps drawn at one level, from one side and at one scale."""
    space = found.space
    level = common_level(list(found.decoded))
    reconstructed = [] if found.reconstructed is None else [found.reconstructed]
    render = MapRenderer(level, [found.decoded, *reconstructed], found.box)
    parts = [_consensus(run, run.store(), render), _latent(run, space, results), *training]
    if isinstance(results.landscape, LandscapeSummary):
        parts.append(_states(results.landscape, found.state_maps, level, box=found.box))
    parts.append(
        cluster_section(
            space.pca,
            space.clusters,
            decoded=render(found.decoded, "k-means maps"),
            reconstructed=None if found.reconstructed is None else render(found.reconstructed, "reconstructed maps"),
            level=level,
            embedding=space.embedding,
        )
    )
    for number, one in enumerate(found.components):
        pictures = render(one.maps, f"maps along PC{number + 1}")
        parts.append(component_section(space.pca, number, one.points, pictures=pictures, nearest=one.nearest))
    if space.mixture is not None and found.mixture_maps is not None:
        parts.append(mixture_section(space.pca, space.mixture, pictures=render(found.mixture_maps, "mixture maps")))
    parts.append(outlier_section(space.outliers, listed_in=LatentTables.OUTLIERS))
    return parts


def _consensus(run: RunFolder, store: ParticleStore, render: MapRenderer) -> Section:
    return consensus_section(
        render.views(run.consensus_map()),
        curves=run.consensus_fsc().by_name(),
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
        objective=None if half_sets is None else linear_objective(run.metrics()),
    )


def _states(found: LandscapeSummary, mapped: Mapping[int, StateMap], level: float, *, box: int) -> Section:
    maps = {state: one.map for state, one in mapped.items()}
    render = MapRenderer(level, [found.means, *([torch.stack(list(maps.values()))] if maps else [])], box)
    pictures = render(torch.stack(list(maps.values())), "reconstructed states") if maps else []
    return states_section(
        found,
        decoded=render(found.means, "states"),
        reconstructed=dict(zip(maps, pictures, strict=True)),
        mapped=mapped,
        level=level,
    )


def _results(run: RunFolder, found: RunAnalysis, landscape: LandscapeSummary | Absent) -> RunResults:
    """What the checks of the report look at."""
    space = found.space
    return RunResults(
        command("cryomorph", "landscape", run.path),
        reproducibility_of(run),
        linear_start_of(run),
        measurements_of(run, space.relative_std),
        read_training(run),
        space.relative_std,
        space.outliers,
        space.clusters.counts.tolist(),
        found.cluster_maps_A,
        consensus_resolution_A(run, 0.5),
        run.manifest().pixel_A,
        landscape,
        found.state_maps,
        read_comparison(run),
    )


def reproducibility_of(run: RunFolder) -> Float32[np.ndarray, " q"] | None:
    """Agreement of half sets on each latent coordinate; None where the method does not fit half sets."""
    found = run.model_tensors().get("reproducibility")
    return None if found is None else found.numpy()


def linear_start_of(run: RunFolder) -> Float32[np.ndarray, " q"] | None:
    """The same of the linear model that a training started from; None where there was none."""
    return load_tensors(run.linear_start)[0]["reproducibility"].numpy() if run.linear_start.is_file() else None
