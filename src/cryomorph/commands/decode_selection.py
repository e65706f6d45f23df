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
from cryomorph.commands.selection_files import write_decoded, write_selection_map, write_table
from cryomorph.config.console import say, track
from cryomorph.config.decode import DecodeConfig
from cryomorph.config.errors import InputError
from cryomorph.report.fsc_plots import states_plot
from cryomorph.report.style import save_plot
from cryomorph.runs.folder import CONSENSUS_MAPS, RunFolder
from cryomorph.runs.provenance import write_json
from cryomorph.volumes.masks import read_mask

LABEL_FOLDER = re.compile(r"\d{3,}")
DECODED_MAPS = tuple(f"decoded_{name}.mrc" for name in DECODED)
AGREEMENT = ("agreement.csv", "agreement.json", "agreement.png")
BACK_PROJECTED = (*(f"{name}.mrc" for name in CONSENSUS_MAPS), "fsc.csv", "fsc.png")


def decode_selections(config: DecodeConfig, run: RunFolder) -> None:
    """Write the maps of a selection, or of each label, and say how the model's agree with the particles' own.

    Raises:
        InputError: particles, labels or a mask that do not fit the run, or an output folder in use.
    """
    mask = None if config.mask is None else read_mask(config.mask, run.store().box)
    if config.selection is not None:
        index = read_particle_numbers(config.selection, len(run.latent_mean()))
        _make_room(config)
        _one(config, run, np.unique(index), mask)
    elif config.labels is not None:
        labels = read_labels(config.labels, run, made_by=f"cryomorph analyze {run.path}")
        if not (labels >= 0).any():
            raise InputError(f"{config.labels}: all labels are below 0, expected some from 0 on")
        _make_room(config)
        _each(config, run, labels, mask)


def _make_room(config: DecodeConfig) -> None:
    """Take away what an earlier selection left, and nothing else, if told to."""
    folder = config.output
    if not folder.exists():
        return
    labels = [path for path in folder.iterdir() if path.is_dir() and LABEL_FOLDER.fullmatch(path.name)]
    places = (folder, *labels)
    old = [path for place in places for path in _left(place)]
    others = (path for place in places for pattern in ("*.mrc", "fsc.*") for path in place.glob(pattern))
    if not config.overwrite and (old or any(others)):
        raise InputError(f"{folder} holds maps already: give --overwrite to replace them, or another -o")
    for path in old:
        path.unlink()
    for label in {path.parent for path in old} - {folder}:
        if not any(label.iterdir()):
            label.rmdir()


def _left(folder: Path) -> list[Path]:
    """What an earlier selection left in a folder; a map.mrc without a decoded map beside it is another's."""
    back_projected = BACK_PROJECTED if (folder / DECODED_MAPS[0]).is_file() else ()
    return [folder / name for name in (*DECODED_MAPS, *AGREEMENT, *back_projected) if (folder / name).is_file()]


def _one(
    config: DecodeConfig, run: RunFolder, index: Int[np.ndarray, " k"], mask: Float32[Tensor, "z y x"] | None
) -> None:
    if not config.reconstruct:
        found = _decode(config, run, index, config.output)
        say(f"{config.output}: decoded at the mean of {len(index):,} particles, and at particle {found.particle}")
        return
    mapped = map_selection(run, index, mask=mask)
    write_selection_map(config.output, mapped, flip_hand=config.flip_hand)
    say(f"{config.output}: {mapped}")


def _decode(config: DecodeConfig, run: RunFolder, index: Int[np.ndarray, " k"], folder: Path) -> Decoded:
    store = run.store()
    box = store.box if config.box is None else config.box
    found = decode_selection(run, index, box)
    write_decoded(folder, found, store.pixel_A * store.box / box, flip_hand=config.flip_hand)
    return found


def _each(
    config: DecodeConfig, run: RunFolder, labels: Int[np.ndarray, " n"], mask: Float32[Tensor, "z y x"] | None
) -> None:
    present = np.unique(labels[labels >= 0]).tolist()
    if not config.reconstruct:
        for label in track(present, "decoding"):
            _decode(config, run, np.flatnonzero(labels == label), config.output / f"{label:03d}")
        say(f"{config.output}: decoded at the mean of each of {len(present)} selections")
        return
    rows: dict[int, dict[str, Any]] = {}
    curves, fsc = {}, None
    for label, found in compare_states(run, labels, mask=mask, name="label"):
        write_selection_map(config.output / f"{label:03d}", found, flip_hand=config.flip_hand)
        rows[label], fsc = found.figures(), found.reconstruction.fsc
        curves[label] = found.agreement["mean"].curve
        say(f"{label}: {found}")
    if fsc is None:
        raise InputError(f"{config.labels}: no label has enough particles for a map")
    write_table(config.output / "agreement.csv", rows)
    write_json(config.output / "agreement.json", {str(label): row for label, row in rows.items()})
    save_plot(states_plot(curves, fsc), config.output / "agreement.png")
    mean = mean_agreement(list(rows.values()))
    say(
        f"{config.output}: {len(rows)} labels; mean FSC with the back-projected maps: decoded {mean['mean']:.3f}, "
        f"without error {mean['ceiling']:.3f}, consensus {mean['consensus']:.3f}"
    )
