"""Files of the maps of selections and of states, which `decode --selection` and `analyze` write."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryomorph.analysis.selection_map import COMPARED, DECODED, Decoded, SelectionMap
from cryomorph.analysis.state_maps import StateMap
from cryomorph.io.atomic import atomic_path
from cryomorph.io.json_file import write_json
from cryomorph.io.mrc import write_map
from cryomorph.report.fsc_plots import agreement_plot
from cryomorph.report.style import save_plot
from cryomorph.runs.consensus import save_reconstruction
from cryomorph.volumes.backproject import mirror, mirrored
from cryomorph.volumes.fsc import shell_resolution_A


def write_selection_map(folder: Path, found: SelectionMap, *, flip_hand: bool = False) -> None:
    """Write the maps of a selection, FSC tables and plots, and agreement.json into a folder.

    `map.mrc`, `half1.mrc`, `half2.mrc`, `mask.mrc`, `fsc.csv` and `fsc.png` are of the back-projection,
    `decoded_mean.mrc` and `decoded_nearest.mrc` of the model; `agreement.csv`, `.json` and `.png` compare them.
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
    """Write the numbers of `SelectionMap.figures` as a table, a row for each state."""
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


def write_state_maps(folder: Path, mapped: Mapping[int, StateMap], *, flip_hand: bool = False) -> None:
    """Write the maps of states into `states_reconstructed`, as `state_0.mrc` and so on, and their numbers, states.csv.

    Those of an earlier analysis are deleted.
    """
    maps, table = folder / "states_reconstructed", folder / "states.csv"
    maps.mkdir(exist_ok=True)
    for old in (*maps.glob("state_*.mrc"), table):
        old.unlink(missing_ok=True)
    for state, one in mapped.items():
        volume = mirror(one.map) if flip_hand else one.map
        write_map(maps / f"state_{state}.mrc", volume.numpy(), one.fsc.pixel_A)
    if mapped:
        write_table(table, {state: one.figures for state, one in mapped.items()})


def _write_curves(path: Path, found: SelectionMap) -> None:
    report = found.reconstruction.fsc
    curves = {"half_maps": report.best, **{name: found.agreement[name].curve for name in COMPARED}}
    resolution = shell_resolution_A(len(report.best), report.pixel_A, box=report.box)
    with atomic_path(path) as part, part.open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["shell", "resolution_A", *curves])
        for shell, at in enumerate(resolution):
            table.writerow([shell, f"{at:.4f}", *(f"{float(curve[shell]):.6f}" for curve in curves.values())])
