"""`analyze`: latent space, representative maps and the report of a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from cryomorph.analysis import latent as la
from cryomorph.analysis import sections
from cryomorph.analysis.decode import decode_at, reconstruct_at, write_maps
from cryomorph.analysis.isosurface import common_level
from cryomorph.analysis.pictures import Painter
from cryomorph.analysis.report import Note, Report, Section, write_report
from cryomorph.analysis.training_curves import save_plot, training_notes, training_plot, training_section
from cryomorph.analysis.training_record import linear_objective, read_checks, read_metrics, training_record
from cryomorph.config.analyze import AnalyzeConfig
from cryomorph.config.console import say, warn
from cryomorph.config.errors import InputError
from cryomorph.io.atomic import atomic_path
from cryomorph.particles.store import ParticleStore
from cryomorph.runs.checkpoint import load_tensors
from cryomorph.runs.folder import RunFolder
from cryomorph.volumes.fsc import resolution_A

SMALLEST_UMAP = 10


@dataclass(frozen=True)
class LatentSpace:
    """All that is computed from the latent points alone; `embedding` is None where UMAP was not asked for."""

    z: Float32[np.ndarray, "n q"]
    std: Float32[np.ndarray, "n q"]
    pca: la.Pca
    clusters: la.KMeansResult
    mixture: la.GmmResult | None
    outliers: la.Outliers
    embedding: Float32[np.ndarray, "n 2"] | None


def analyze(config: AnalyzeConfig) -> Path:
    """Analyse a run into its analysis folder; returns the report's path.

    Raises:
        InputError: the run is not finished, or has no latent space.
    """
    run = RunFolder.open(config.run)
    if run.latent_mean().shape[1] == 0:
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
    training, notes = _training(run, folder)
    parts = [_consensus(run, store, paint), _latent(run, space), *training]
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
    write_report(report, _report(run, space, tuple(parts), notes=notes))
    say(f"report: {report}")
    return report


def latent_space(run: RunFolder, config: AnalyzeConfig) -> LatentSpace:
    """PCA, clusters, mixture, outliers and UMAP of a run's latent points."""
    z = run.latent_mean()
    found = la.outliers(z, config.outlier_z)
    embedding = None
    if config.umap and z.shape[1] > 1 and len(z) < SMALLEST_UMAP:
        warn(f"{len(z)} particles are too few for UMAP")
    elif config.umap and z.shape[1] > 1:
        say("UMAP: compiling and embedding")
        embedding = la.umap_embedding(
            z, neighbours=config.umap_neighbours, min_distance=config.umap_min_distance, seed=config.seed
        )
    return LatentSpace(
        z,
        run.latent_std(),
        la.principal_components(z),
        la.kmeans_on_data(z, min(config.clusters, len(z)), seed=config.seed),
        la.gaussian_mixture(z, min(config.gmm, len(z)), seed=config.seed) if config.gmm else None,
        found,
        None if embedding is None else embedding.astype(np.float32),
    )


def write_tables(space: LatentSpace, folder: Path) -> None:
    """Write labels, centres, coordinates and outliers; particle numbers are 0-based."""
    _save(folder / "pca.npy", space.pca.projected)
    _save(folder / "kmeans_labels.npy", space.clusters.labels)
    _save_numbers(folder / "kmeans_centres.txt", space.clusters.centre_index)
    _save_numbers(folder / "outliers.txt", space.outliers.index)
    if space.mixture is not None:
        _save(folder / "gmm_labels.npy", space.mixture.labels)
        _save(folder / "gmm_probability.npy", space.mixture.probability)
    if space.embedding is not None:
        _save(folder / "umap.npy", space.embedding)


def _save(path: Path, array: np.ndarray) -> None:
    with atomic_path(path) as part:
        np.save(part, array)


def _save_numbers(path: Path, numbers: Int64[np.ndarray, " k"]) -> None:
    with atomic_path(path) as part:
        np.savetxt(part, numbers, fmt="%d", header="0-based particle numbers")


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
        std=relative_std(space),
        reproducibility=half_sets,
        objective=None if half_sets is None else linear_objective(read_metrics(run.path / "metrics.jsonl")),
    )


def _training(run: RunFolder, folder: Path) -> tuple[list[Section], tuple[Note, ...]]:
    """The section on a training by epochs, where the run had one, and what the summary is to say of it."""
    record = training_record(read_metrics(run.path / "metrics.jsonl"))
    checks = read_checks(run.path / "checks.json")
    start = None
    if run.linear_start.is_file():
        start = load_tensors(run.linear_start)[0]["reproducibility"].numpy()
    notes = training_notes(record, checks, start)
    if record is None:
        return [], notes
    plot = training_plot(record)
    save_plot(plot, folder / "training.png")
    return [training_section(record, checks, linear_reproducibility=start, plot=plot)], notes


def reproducibility_of(run: RunFolder) -> Float32[np.ndarray, " q"] | None:
    """Agreement of half sets on each latent coordinate; None where the method does not fit half sets."""
    found = run.model_tensors().get("reproducibility")
    return None if found is None else found.numpy()


def relative_std(space: LatentSpace) -> Float32[np.ndarray, "n q"]:
    """Posterior standard deviations as a share of each coordinate's own spread, the prior's standard deviation."""
    prior = np.sqrt(space.z.var(0) + np.square(space.std).mean(0))
    return (space.std / np.maximum(prior, 1e-12)).astype(np.float32)


def _report(run: RunFolder, space: LatentSpace, parts: tuple[Section, ...], *, notes: tuple[Note, ...] = ()) -> Report:
    store = run.store()
    made = run.provenance()
    config = run.config()
    resolution = consensus_resolution_A(run, store)
    warnings = [f"Ignored optics: {', '.join(store.manifest.ignored)}."] if store.manifest.ignored else []
    if store.manifest.left_out:
        warnings.append(f"{len(store.manifest.left_out)} images were left out: they hold NaN or have no variance.")
    contrast = "inverted" if store.manifest.inverted else "kept"
    found = sections.findings(
        reproducibility=reproducibility_of(run),
        std=relative_std(space),
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
