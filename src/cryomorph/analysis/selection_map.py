"""The map of a selection, back-projected from exactly its particles and decoded by the model, and how both agree."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float32, Int, Int64
from torch import Tensor

from cryomorph.analysis.latent import nearest_particles
from cryomorph.analysis.plots import BLUE, FAINT, ORANGE, PALETTE, VERMILLION, styled
from cryomorph.analysis.training_curves import save_plot
from cryomorph.config.console import warn
from cryomorph.config.errors import InputError
from cryomorph.io.atomic import atomic_path
from cryomorph.io.mrc import write_map
from cryomorph.representations.base import Representation
from cryomorph.runs.folder import RunFolder, save_reconstruction
from cryomorph.runs.provenance import write_json
from cryomorph.volumes.backproject import Reconstruction, mirror, mirrored, reconstruct
from cryomorph.volumes.fsc import FscReport, half_map_fsc, resolution_A, shell_resolution_A

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DECODED = ("mean", "nearest")
COMPARED = (*DECODED, "consensus", "ceiling")


@dataclass(frozen=True)
class Decoded:
    """The model's maps `[z, y, x]` at a selection's mean latent point and at its particle nearest to that.

    On a curved landscape the mean of many particles may lie where none is: the nearest particle never does.
    """

    point: Float32[np.ndarray, " q"]
    particle: int
    mean: Float32[Tensor, "z y x"]
    nearest: Float32[Tensor, "z y x"]


@dataclass(frozen=True)
class Agreement:
    """FSC of a map with the back-projected one inside its mask, corrected for the mask.

    `mean_fsc` is the curve's mean over the shells in which the back-projected map has signal (its own FSC at 0.143).
    """

    curve: Float32[Tensor, " shells"]
    resolution_05_A: float
    mean_fsc: float


@dataclass(frozen=True)
class SelectionMap:
    """What the particles of a selection show, and how the model's maps compare with it.

    `agreement` has `mean` and `nearest` (the decoded maps), `consensus` (the map of all particles, what a model without
    heterogeneity would say; it shares the selection's noise, so it is flattered where the selection is large), and
    `ceiling`: what a map without error would reach, `errorless_fsc` of the half maps.
    """

    particles: tuple[int, int]
    """How many of each half set."""
    decoded: Decoded
    reconstruction: Reconstruction
    agreement: Mapping[str, Agreement]

    def __str__(self) -> str:
        mean, ceiling, consensus = (self.agreement[name] for name in ("mean", "ceiling", "consensus"))
        return (
            f"{sum(self.particles):,} particles, {self.reconstruction.fsc.resolution_0143_A:.1f} A (FSC 0.143); "
            f"decoded and back-projected agree to {mean.resolution_05_A:.1f} A (FSC 0.5), mean FSC {mean.mean_fsc:.2f} "
            f"(without error {ceiling.mean_fsc:.2f}, consensus {consensus.mean_fsc:.2f})"
        )

    def figures(self) -> dict[str, Any]:
        """The numbers as JSON values."""
        fsc = self.reconstruction.fsc
        return {
            "particles": sum(self.particles),
            "half_sets": list(self.particles),
            "resolution_0143_A": fsc.resolution_0143_A,
            "resolution_05_A": fsc.resolution_05_A,
            "mean_latent": self.decoded.point.tolist(),
            "nearest_particle": self.decoded.particle,
            "agreement": {
                name: {"resolution_05_A": one.resolution_05_A, "mean_fsc": one.mean_fsc}
                for name, one in self.agreement.items()
            },
        }


def decode_selection(
    run: RunFolder, index: Int64[np.ndarray, " k"], box: int, *, representation: Representation | None = None
) -> Decoded:
    """Decode at the mean latent point of particles, and at the one of them nearest to it.

    Args:
        index: particle numbers from 0.
        representation: the run's, where it is loaded already.
    """
    model = run.representation() if representation is None else representation
    latent = run.latent_mean()[index]
    point = latent.mean(axis=0, dtype=np.float64).astype(np.float32)
    member = 0 if latent.shape[1] == 0 else int(nearest_particles(latent, point[None])[0])
    with torch.no_grad():
        maps = [model.volume(torch.from_numpy(z), box) for z in (point, latent[member])]
    return Decoded(point, int(index[member]), maps[0], maps[1])


def map_selection(
    run: RunFolder,
    index: Int64[np.ndarray, " k"],
    *,
    mask: Float32[Tensor, "z y x"] | None = None,
    representation: Representation | None = None,
    description: str = "back-projecting",
) -> SelectionMap:
    """Back-project exactly these particles, at the poses that the run used, and compare the model's maps with that.

    Args:
        index: particle numbers from 0, in any order.
        mask: for the FSC, of the working box; made from the map without.
        representation: the run's, where it is loaded already.

    Raises:
        InputError: a half set has none of the particles, the mask has another box, or the map is empty.
    """
    store = run.store()
    index = np.unique(index)
    if mask is not None and mask.shape[0] != store.box:
        raise InputError(f"the mask has box {mask.shape[0]}, expected the working box, {store.box}")
    subset = torch.from_numpy(index)
    second = int(store.half[subset].sum())
    halves = (len(index) - second, second)
    if min(halves) == 0:
        raise InputError(
            f"of {len(index)} particles {halves[0]} are of one half set and {halves[1]} of the other: half maps need "
            "both, select more particles"
        )
    found = reconstruct(store, subset=subset, mask=mask, description=description)
    decoded = decode_selection(run, index, store.box, representation=representation)
    compared = {"mean": decoded.mean, "nearest": decoded.nearest, "consensus": run.consensus_map()}
    curves = {name: corrected_fsc(volume, found) for name, volume in compared.items()}
    curves["ceiling"] = errorless_fsc(found.fsc.best)
    return SelectionMap(
        halves, decoded, found, {name: agreement_of(curve, found.fsc) for name, curve in curves.items()}
    )


def corrected_fsc(volume: Float32[Tensor, "z y x"], found: Reconstruction) -> Float32[Tensor, " shells"]:
    """FSC of a map with a reconstruction inside the reconstruction's mask, corrected for it."""
    return half_map_fsc(volume, found.map, found.mask, pixel_A=found.fsc.pixel_A).best


def agreement_of(curve: Float32[Tensor, " shells"], fsc: FscReport, *, shells: int | None = None) -> Agreement:
    """What an FSC curve with a reconstruction says.

    Args:
        fsc: of the reconstruction's own half maps.
        shells: how many the map that was compared has, where it is of a smaller box: the curve ends there.
    """
    kept = curve[:shells]
    last = max(1, int(fsc.box * fsc.pixel_A / fsc.resolution_0143_A))
    at = max(resolution_A(kept, fsc.pixel_A, 0.5, box=fsc.box), fsc.box * fsc.pixel_A / len(kept))
    return Agreement(kept, at, float(kept[1 : last + 1].mean()))


def errorless_fsc(curve: Float32[Tensor, " shells"]) -> Float32[Tensor, " shells"]:
    """FSC of the sum of two half maps with a map without noise, `sqrt(2 FSC / (1 + FSC))` of the half maps' own.

    Rosenthal and Henderson 2003, J. Mol. Biol. 333, 721: their `C_ref`.
    """
    shared = curve.clamp(0, 1)
    return (2 * shared / (1 + shared)).sqrt()


def compare_states(
    run: RunFolder, labels: Int[np.ndarray, " n"], *, mask: Float32[Tensor, "z y x"] | None = None, name: str = "state"
) -> Iterator[tuple[int, SelectionMap]]:
    """`map_selection` for each state, ascending; one is held in memory at a time.

    A state that is too small for half maps is left out with a warning.

    Args:
        labels: a state for each particle of the run; below 0 means none.
        name: what a state is called while it is worked on.

    Raises:
        InputError: there is not one label for each particle, or there are no states.
    """
    n = len(run.latent_mean())
    if labels.shape != (n,):
        raise InputError(f"labels of shape {labels.shape}: expected one for each of the run's {n} particles")
    states = np.unique(labels[labels >= 0]).tolist()
    if not states:
        raise InputError(f"all {n} labels are below 0: expected states from 0 on")
    model = run.representation()
    for number, state in enumerate(states):
        said = f"{name} {state} ({number + 1} of {len(states)})"
        try:
            found = map_selection(
                run, np.flatnonzero(labels == state), mask=mask, representation=model, description=said
            )
        except InputError as error:
            warn(f"{name} {state} is left out: {error}")
            continue
        yield state, found


def write_selection_map(folder: Path, found: SelectionMap, *, flip_hand: bool = False) -> None:
    """Write the maps of a selection, FSC tables and plots, and agreement.json into a folder.

    `map.mrc`, `half1.mrc`, `half2.mrc`, `mask.mrc`, `fsc.csv` and `fsc.png` are the back-projection's;
    `decoded_mean.mrc` and `decoded_nearest.mrc` the model's; `agreement.csv`, `.json` and `.png` compare them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pixel_A = found.reconstruction.fsc.pixel_A
    save_reconstruction(mirrored(found.reconstruction) if flip_hand else found.reconstruction, folder)
    write_decoded(folder, found.decoded, pixel_A, flip_hand=flip_hand)
    _write_curves(folder / "agreement.csv", found)
    write_json(folder / "agreement.json", found.figures())
    save_plot(agreement_plot(found), folder / "agreement.png")


def write_decoded(folder: Path, decoded: Decoded, pixel_A: float, *, flip_hand: bool = False) -> None:
    """Write the decoded maps of a selection: `decoded_mean.mrc` and `decoded_nearest.mrc`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in DECODED:
        volume = getattr(decoded, name)
        write_map(folder / f"decoded_{name}.mrc", (mirror(volume) if flip_hand else volume).numpy(), pixel_A)


def write_table(path: Path, rows: Mapping[int, Mapping[str, Any]]) -> None:
    """Write what `SelectionMap.figures` says of each state as a table, a state a row."""
    compared = next(iter(rows.values()))["agreement"] if rows else {}
    units = ("resolution_05_A", "mean_fsc")
    with atomic_path(path) as part, part.open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        measured = [f"{name}_{unit}" for name in compared for unit in units]
        table.writerow(["state", "particles", "resolution_0143_A", "nearest_particle", *measured])
        for state, row in rows.items():
            values = [row["agreement"][name][unit] for name in compared for unit in units]
            first = [state, row["particles"], f"{row['resolution_0143_A']:.3f}", row["nearest_particle"]]
            table.writerow([*first, *(f"{value:.4f}" for value in values)])


def _write_curves(path: Path, found: SelectionMap) -> None:
    report = found.reconstruction.fsc
    curves = {"half_maps": report.best, **{name: found.agreement[name].curve for name in COMPARED}}
    resolution = shell_resolution_A(len(report.best), report.pixel_A, box=report.box)
    with atomic_path(path) as part, part.open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["shell", "resolution_A", *curves])
        for shell, at in enumerate(resolution):
            table.writerow([shell, f"{at:.4f}", *(f"{float(curve[shell]):.6f}" for curve in curves.values())])


@styled
def agreement_plot(found: SelectionMap) -> Figure:
    """FSC of each compared map with the back-projected one."""
    drawn = {
        "a map without error": (found.agreement["ceiling"], FAINT, "--"),
        "decoded at the mean": (found.agreement["mean"], BLUE, "-"),
        "decoded at the nearest particle": (found.agreement["nearest"], ORANGE, "-"),
        "consensus": (found.agreement["consensus"], VERMILLION, "-"),
    }
    curves = {name: one.curve for name, (one, *_) in drawn.items()}
    title = f"Decoded: mean FSC {found.agreement['mean'].mean_fsc:.2f} of {found.agreement['ceiling'].mean_fsc:.2f}"
    return _curves(curves, found.reconstruction.fsc, [style for _, *style in drawn.values()], title=title)


@styled
def states_plot(
    curves: Mapping[int, Float32[Tensor, " shells"]],
    fsc: FscReport,
    *,
    title: str = "Maps decoded at the mean of each state",
) -> Figure:
    """FSC of decoded with back-projected maps, a curve for each state, in the colour of its number.

    Args:
        fsc: of any of the states, for box and pixel size.
    """
    dashes = ("-", "--", ":")
    styles = [[PALETTE[i % len(PALETTE)], dashes[i // len(PALETTE) % 3]] for i in curves]
    return _curves({str(state): curve for state, curve in curves.items()}, fsc, styles, title=title)


def _curves(
    curves: Mapping[str, Float32[Tensor, " shells"]], fsc: FscReport, styles: Sequence[list[str]], *, title: str
) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.6, 3.6), layout="constrained")
    axes = figure.add_subplot()
    frequency = np.arange(fsc.box // 2) / (fsc.box * fsc.pixel_A)
    for (name, curve), (colour, dash) in zip(curves.items(), styles, strict=True):
        axes.plot(frequency[: len(curve)], curve, dash, color=colour, label=name)
    axes.axhline(0.5, color=FAINT, linewidth=0.9, linestyle=":")
    low = min((float(curve.min()) for curve in curves.values()), default=0.0)
    axes.set(
        xlim=(0, 0.5 / fsc.pixel_A), ylim=(min(-0.08, max(low, -0.3)), 1.04), ylabel="FSC with the back-projected map"
    )
    ticks = np.linspace(0, 0.5 / fsc.pixel_A, 7)[1:]
    axes.set_xticks(ticks, [f"{1 / place:.1f}" for place in ticks])
    axes.set_xlabel("resolution (Å)")
    axes.set_title(title)
    axes.legend(fontsize=8, loc="lower left", ncols=1 + len(curves) // 9)
    return figure


def mean_agreement(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Mean FSC of each compared map over states, as `SelectionMap.figures` has them; each state counts alike."""
    return {name: float(np.mean([row["agreement"][name]["mean_fsc"] for row in rows])) for name in COMPARED}
