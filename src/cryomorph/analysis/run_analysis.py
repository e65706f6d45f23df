"""What `analyze` computes of a run: its latent space, maps all over it, and how far decoded maps can be trusted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int64
from torch import Tensor

from cryomorph.analysis.decode import decode_at, reconstruct_at, write_maps
from cryomorph.analysis.landscape.files import LandscapeSummary
from cryomorph.analysis.latent import nearest_particles, pc_trajectory
from cryomorph.analysis.latent_space import LatentSpace, latent_space
from cryomorph.analysis.state_maps import StateMap, map_states
from cryomorph.analysis.umap_embedding import MIN_POINTS, umap_process
from cryomorph.compute.map_threads import map_in_threads
from cryomorph.config.analyze import AnalyzeConfig
from cryomorph.config.console import warn
from cryomorph.runs.folder import RunFolder
from cryomorph.volumes.fsc import half_map_fsc, resolution_A
from cryomorph.volumes.grid import rebox

Maps = Float32[Tensor, "k z y x"]


@dataclass(frozen=True)
class ComponentMaps:
    """Maps decoded along a principal component of the latent space, at `points`.

    `nearest` is the particle nearest to each point.
    """

    points: Float64[np.ndarray, "k q"]
    nearest: Int64[np.ndarray, " k"]
    maps: Maps


@dataclass(frozen=True)
class RunAnalysis:
    """All that is found about a run.

    `decoded` are the model's maps at the clusters' centres, in the box that was asked for, with voxels of `pixel_A`;
    `reconstructed` those of the particles nearby, in the working box, None where they were not asked for, and
    `cluster_maps_A` the resolution to which both agree (FSC 0.5). `mixture_maps` are decoded at the mixture's centres.
    `state_maps` are of the states of a landscape.
    """

    space: LatentSpace
    pixel_A: float
    decoded: Maps
    reconstructed: Float32[Tensor, "k zr yr xr"] | None
    cluster_maps_A: tuple[float, ...]
    components: tuple[ComponentMaps, ...]
    mixture_maps: Float32[Tensor, "m z y x"] | None
    state_maps: dict[int, StateMap]

    @property
    def box(self) -> int:
        """Box of the decoded maps."""
        return int(self.decoded.shape[-1])

    def write(self, folder: Path, *, flip_hand: bool = False) -> None:
        """Write tables and maps: `kmeans`, `kmeans_reconstructed`, `pc1` and so on, and `gmm`."""
        self.space.write(folder)
        sets = {f"pc{number}": one.maps for number, one in enumerate(self.components, start=1)}
        sets["kmeans"] = self.decoded
        if self.mixture_maps is not None:
            sets["gmm"] = self.mixture_maps
        for name, maps in sets.items():
            _write_maps(folder / name, maps, self.pixel_A, flip_hand=flip_hand)
        if self.reconstructed is not None:
            pixel_A = self.pixel_A * self.box / self.reconstructed.shape[-1]
            _write_maps(folder / "kmeans_reconstructed", self.reconstructed, pixel_A, flip_hand=flip_hand)


def analyse_run(run: RunFolder, config: AnalyzeConfig, landscape: LandscapeSummary | None = None) -> RunAnalysis:
    """Analyse a run.

    Args:
        landscape: of the run, where there is one: its states are back-projected too.
    """
    store = run.store()
    box = store.box if config.box is None else config.box
    with umap_in_background(run.latent_mean(), config) as embedding:
        space, model = latent_space(run, config), run.representation()

        def decoded_at(z: Float[np.ndarray, "k q"]) -> Maps:
            return torch.stack(list(decode_at(run, z, box, representation=model)))

        centres = space.z[space.clusters.centre_index]
        decoded = decoded_at(centres)
        reconstructed = None
        agreement: tuple[float, ...] = ()
        if config.reconstruct:
            reconstructed = torch.stack(list(reconstruct_at(run, centres)))
            agreement = resolutions_05_A(run, decoded, reconstructed)
        components = []
        for component in range(min(config.pcs, space.z.shape[1])):
            points = pc_trajectory(space.pca, component, points=config.pc_points)
            components.append(ComponentMaps(points, nearest_particles(space.z, points), decoded_at(points)))
        mixture_maps = None
        if space.mixture is not None:
            mixture_maps = decoded_at(space.z[space.mixture.centre_index])
        state_maps = {}
        if landscape is not None and config.reconstruct:
            state_maps = map_states(run, landscape.states, landscape.means)
        return RunAnalysis(
            replace(space, embedding=embedding()),
            store.pixel_A * store.box / box,
            decoded,
            reconstructed,
            agreement,
            tuple(components),
            mixture_maps,
            state_maps,
        )


@contextmanager
def umap_in_background(
    z: Float32[np.ndarray, "n q"], config: AnalyzeConfig
) -> Iterator[Callable[[], Float32[np.ndarray, "n 2"] | None]]:
    """Start UMAP as a config asks for it, and give a function that waits for it; it returns None if there is none."""
    few = len(z) < MIN_POINTS
    if not config.umap or z.shape[1] == 1 or few:
        if config.umap and few:
            warn(f"{len(z)} particles are too few for UMAP")
        yield lambda: None
        return
    options = {"neighbours": config.umap_neighbours, "min_distance": config.umap_min_distance, "seed": config.seed}
    with umap_process(z, **options) as process:
        yield process.result


def resolutions_05_A(run: RunFolder, decoded: Maps, reconstructed: Float32[Tensor, "k zr yr xr"]) -> tuple[float, ...]:
    """Resolution at which the FSC of each decoded map with the one reconstructed at its place falls below 0.5.

    Inside the consensus's mask and corrected for it. Decoded maps of another box are resampled; those of a smaller one
    agree to their own pixel at best.
    """
    box, pixel_A, mask = reconstructed.shape[-1], run.store().pixel_A, run.consensus_map("mask")
    finest_A = 2 * box * pixel_A / min(box, decoded.shape[-1])

    def agreement_A(pair: tuple[Float32[Tensor, "z y x"], Float32[Tensor, "zr yr xr"]]) -> float:
        curve = half_map_fsc(rebox(pair[0], box), pair[1], mask, pixel_A=pixel_A).best
        return max(resolution_A(curve, pixel_A, 0.5, box=box), finest_A)

    return tuple(map_in_threads(agreement_A, list(zip(decoded, reconstructed, strict=True)), "comparing maps"))


def _write_maps(folder: Path, maps: Maps, pixel_A: float, *, flip_hand: bool) -> None:
    """Write maps into a folder in the place of older ones."""
    folder.mkdir(exist_ok=True)
    for old in folder.glob("[0-9]*.mrc"):
        old.unlink()
    write_maps(folder, iter(maps), pixel_A, flip_hand=flip_hand)
