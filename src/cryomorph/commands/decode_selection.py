"""What `decode --selection` and `--labels` write: the maps of one selection of particles, or of each of many."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int
from torch import Tensor

from cryomorph.analysis.particle_tables import read_labels
from cryomorph.analysis.selection_files import read_particle_numbers
from cryomorph.analysis.selection_map import (
    DECODED,
    Decoded,
    compare_states,
    decode_selection,
    map_selection,
    mean_agreement,
)
from cryomorph.commands.selection_map_files import write_decoded, write_selection_map, write_table
from cryomorph.config.console import say, track
from cryomorph.config.decode import DecodeConfig
from cryomorph.config.errors import InputError
from cryomorph.config.shell import command
from cryomorph.io.json_file import write_json
from cryomorph.io.output_folder import Contents, OutputFolder
from cryomorph.report.fsc_plots import states_plot
from cryomorph.report.style import save_plot
from cryomorph.runs.consensus import MAPS as CONSENSUS_MAPS
from cryomorph.runs.folder import RunFolder
from cryomorph.volumes.masks import read_mask

LABEL_FOLDER = re.compile(r"\d{3,}")
DECODED_MAPS = tuple(f"decoded_{name}.mrc" for name in DECODED)
AGREEMENT = ("agreement.csv", "agreement.json", "agreement.png")
BACK_PROJECTED = (*(f"{name}.mrc" for name in CONSENSUS_MAPS), "fsc.csv", "fsc.png")


def written(folder: Path) -> list[Path]:
    """What earlier selections left in a folder; a map.mrc without a decoded map is another command's."""
    labels = [path for path in folder.iterdir() if path.is_dir() and LABEL_FOLDER.fullmatch(path.name)]
    found = []
    for place in (folder, *labels):
        back_projected = BACK_PROJECTED if (place / DECODED_MAPS[0]).is_file() else ()
        found += [place / name for name in (*DECODED_MAPS, *AGREEMENT, *back_projected)]
    return [path for path in found if path.is_file()]


GUARDED = tuple(f"{place}{name}" for place in ("", "[0-9][0-9][0-9]*/") for name in ("*.mrc", "fsc.*"))
MAPS = Contents("maps", written, plural=True, shared=True, guarded=GUARDED)


def decode_selections(config: DecodeConfig, run: RunFolder) -> None:
    """Write the maps of a selection, or of each label, and say how the model's agree with the particles' own.

    Raises:
        InputError: particles, labels or a mask that do not fit the run, or an output folder in use.
    """
    store = run.store()
    mask = None if config.mask is None else read_mask(config.mask, store.box, store.pixel_A)
    index, labels = _asked(config, run)
    read = (config.run, config.selection, config.labels, config.mask)
    with OutputFolder(config.output, MAPS, inputs=read, overwrite=config.overwrite) as output:
        if index is not None:
            said = _one(output.scratch, config, run, index=index, mask=mask)
        else:
            said = _each(output.scratch, config, run, labels=labels, mask=mask)
        output.commit()
    say(f"{config.output}: {said}")


def _asked(config: DecodeConfig, run: RunFolder) -> tuple[Int[np.ndarray, " k"] | None, Int[np.ndarray, " n"]]:
    """The particles of one selection, or else the label of every particle."""
    if config.selection is not None:
        return np.unique(read_particle_numbers(config.selection, len(run.latent_mean()))), np.empty(0, np.int64)
    if config.labels is None:
        raise InputError("give --selection or --labels: which particles to make maps of")
    labels = read_labels(config.labels, run, made_by=command("cryomorph", "analyze", run.path))
    if not (labels >= 0).any():
        raise InputError(f"{config.labels}: all labels are below 0, expected some from 0 on")
    return None, labels


def _one(
    folder: Path,
    config: DecodeConfig,
    run: RunFolder,
    *,
    index: Int[np.ndarray, " k"],
    mask: Float32[Tensor, "z y x"] | None,
) -> str:
    """Write the maps of one selection; returns what to say of them."""
    if not config.reconstruct:
        found = _decode(folder, config, run, index=index)
        return f"decoded at the mean of {len(index):,} particles, and at particle {found.particle}"
    mapped = map_selection(run, index, mask=mask)
    write_selection_map(folder, mapped, flip_hand=config.flip_hand)
    return str(mapped)


def _decode(folder: Path, config: DecodeConfig, run: RunFolder, *, index: Int[np.ndarray, " k"]) -> Decoded:
    store = run.store()
    box = store.box if config.box is None else config.box
    found = decode_selection(run, index, box)
    write_decoded(folder, found, store.pixel_A * store.box / box, flip_hand=config.flip_hand)
    return found


def _each(
    folder: Path,
    config: DecodeConfig,
    run: RunFolder,
    *,
    labels: Int[np.ndarray, " n"],
    mask: Float32[Tensor, "z y x"] | None,
) -> str:
    """Write the maps of each label into a folder of its own; returns what to say of them."""
    present = np.unique(labels[labels >= 0]).tolist()
    if not config.reconstruct:
        for label in track(present, "decoding"):
            _decode(folder / f"{label:03d}", config, run, index=np.flatnonzero(labels == label))
        return f"decoded at the mean of each of {len(present)} selections"
    rows: dict[int, dict[str, Any]] = {}
    curves, fsc = {}, None
    for label, found in compare_states(run, labels, mask=mask, name="label"):
        write_selection_map(folder / f"{label:03d}", found, flip_hand=config.flip_hand)
        rows[label], fsc = found.figures(), found.reconstruction.fsc
        curves[label] = found.agreement["mean"].curve
        say(f"{label}: {found}")
    if fsc is None:
        raise InputError(f"{config.labels}: no label has enough particles for a map")
    write_table(folder / "agreement.csv", rows)
    write_json(folder / "agreement.json", {str(label): row for label, row in rows.items()})
    save_plot(states_plot(curves, fsc), folder / "agreement.png")
    mean = mean_agreement(list(rows.values()))
    return (
        f"{len(rows)} labels; mean FSC with the back-projected maps: decoded {mean['mean']:.3f}, "
        f"without error {mean['ceiling']:.3f}, consensus {mean['consensus']:.3f}"
    )
