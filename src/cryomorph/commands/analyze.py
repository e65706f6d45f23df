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
from cryomorph.config.analyze import AnalyzeConfig
from cryomorph.config.console import say
from cryomorph.config.errors import InputError
from cryomorph.diagnostics.model_checks import resolutions_05_A
from cryomorph.diagnostics.training_record import linear_objective, read_metrics
from cryomorph.particles.store import ParticleStore
from cryomorph.render.isosurface import common_level
from cryomorph.render.map_renderer import Painter
from cryomorph.report import sections, trust
from cryomorph.report.findings import findings
from cryomorph.report.left_in_run import FoundLandscape, read_comparison, read_landscape
from cryomorph.report.page import Note, Report, Section, write_report
from cryomorph.report.plots import save_plot
from cryomorph.report.states import MappedState, map_states, states_notes, states_section
from cryomorph.report.training import Training, training_of
from cryomorph.runs.folder import RunFolder
from cryomorph.volumes.fsc import resolution_A


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
    mapped: dict[int, MappedState] = {}
    if isinstance(landscape, FoundLandscape) and config.reconstruct:
        mapped = map_states(run, landscape, folder, flip_hand=config.flip_hand)
    agreed = [] if reconstructed is None else resolutions_05_A(run, decoded, reconstructed)
    training = training_of(run, space.relative_std)
    if training.plot is not None:
        save_plot(training.plot, folder / "training.png")
    parts = [
        _trust(run, space, training=training, landscape=landscape, mapped=mapped, agreed=agreed),
        _consensus(run, store, paint),
        _latent(run, space),
        *training.sections,
    ]
    if isinstance(landscape, FoundLandscape):
        parts.append(_states(landscape, mapped, level, box=box))
    parts.append(
        sections.cluster_section(
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
        parts.append(sections.component_section(space.pca, number, path, pictures=pictures, nearest=nearest))
    if space.mixture is not None and at_mixture is not None:
        pictures = paint(at_mixture, "mixture maps")
        parts.append(sections.mixture_section(space.pca, space.mixture, pictures=pictures))
    parts.append(sections.outlier_section(space.outliers, listed_in="outliers.txt"))
    report = folder / "report.html"
    about_states = states_notes(landscape, run) if isinstance(landscape, FoundLandscape) else (landscape,)
    write_report(report, _report(run, space, tuple(parts), notes=(*training.notes, *about_states)))
    say(f"report: {report}")
    return report


def _write(folder: Path, maps: Float32[Tensor, "k z y x"], pixel_A: float, config: AnalyzeConfig) -> None:
    folder.mkdir(exist_ok=True)
    for old in folder.glob("[0-9]*.mrc"):
        old.unlink()
    write_maps(folder, iter(maps), pixel_A, flip_hand=config.flip_hand)


def _consensus(run: RunFolder, store: ParticleStore, paint: Painter) -> Section:
    return sections.consensus_section(
        paint.views(run.consensus_map()),
        curves=run.consensus_fsc(),
        pixel_A=store.pixel_A,
        box=store.box,
        noise=store.noise_amplitude.square().numpy()[: store.box // 2],
    )


def _latent(run: RunFolder, space: LatentSpace) -> Section:
    half_sets = reproducibility_of(run)
    return sections.latent_section(
        space.pca,
        embedding=space.embedding,
        std=space.relative_std,
        reproducibility=half_sets,
        objective=None if half_sets is None else linear_objective(read_metrics(run.path / "metrics.jsonl")),
    )


def _states(found: FoundLandscape, mapped: Mapping[int, MappedState], level: float, *, box: int) -> Section:
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


def _trust(
    run: RunFolder,
    space: LatentSpace,
    *,
    training: Training,
    landscape: FoundLandscape | Note,
    mapped: Mapping[int, MappedState],
    agreed: Sequence[float],
) -> Section:
    own = reproducibility_of(run)
    consensus_A = resolution_A(run.consensus_fsc()["corrected"], run.store().pixel_A, 0.5)
    if isinstance(landscape, FoundLandscape):
        few = trust.smallest(landscape.particles, "state", mapped)
    else:
        few = trust.smallest(space.clusters.counts.tolist(), "cluster", {})
    return trust.trust_section(
        [
            trust.half_sets(training.start if own is None else own, start=own is None and training.start is not None),
            *trust.checked(training.checks),
            trust.held_out(training.record),
            trust.clusters_agree(agreed, consensus_A),
            trust.states_agree(mapped, landscape),
            trust.placed(landscape),
            few,
            trust.second_run(read_comparison(run)),
        ]
    )


def reproducibility_of(run: RunFolder) -> Float32[np.ndarray, " q"] | None:
    """Agreement of half sets on each latent coordinate; None where the method does not fit half sets."""
    found = run.model_tensors().get("reproducibility")
    return None if found is None else found.numpy()


def _report(run: RunFolder, space: LatentSpace, parts: tuple[Section, ...], *, notes: tuple[Note, ...] = ()) -> Report:
    store = run.store()
    made = run.provenance()
    config = run.config()
    resolution = consensus_resolution_A(run, store)
    warnings = [f"Ignored optics: {', '.join(store.manifest.ignored)}."] if store.manifest.ignored else []
    if store.manifest.left_out:
        warnings.append(f"{len(store.manifest.left_out)} images were left out: they hold NaN or have no variance.")
    contrast = "inverted" if store.manifest.inverted else "kept"
    found = findings(
        reproducibility=reproducibility_of(run),
        std=space.relative_std,
        resolution_A=resolution,
        outlying=space.outliers,
        contrast=f"Image contrast was {contrast}: {store.manifest.contrast_reason}.",
        warnings=warnings,
        more=notes,
    )
    facts = {
        "Method": str(config["method"]),
        "Particles": f"{len(store):,}",
        "Box": f"{store.box} pixels of {store.pixel_A:.3f} Å",
        "Latent dimensions": str(space.z.shape[1]),
        "Date": str(made["started"])[:10],
        "Version": f"cryomorph {made['cryomorph']}",
    }
    provenance = {
        "Command": " ".join(made["command"]),
        "Source": store.manifest.source,
        "Libraries": ", ".join(f"{name} {version}" for name, version in made["libraries"].items()),
        "Python": str(made["python"]),
        "Machine": str(made["platform"]),
    }
    return Report(run.path.resolve().name, parts, facts=facts, findings=found, provenance=provenance)


def consensus_resolution_A(run: RunFolder, store: ParticleStore) -> float:
    """The consensus's resolution at FSC 0.143, in Angstrom."""
    return resolution_A(run.consensus_fsc()["corrected"], store.pixel_A)
