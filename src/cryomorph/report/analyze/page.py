"""The page of `cryomorph analyze`: facts about the run, a summary, and the sections."""

from __future__ import annotations

from collections.abc import Sequence

from cryomorph.config.shell import command
from cryomorph.diagnostics.check import Check
from cryomorph.report.page import Note, Report, Section, summarise
from cryomorph.runs.folder import RunFolder
from cryomorph.volumes.fsc import is_nyquist, resolution_A


def analysis_report(run: RunFolder, sections: Sequence[Section], checks: Sequence[Check]) -> Report:
    """The page, from its sections and the checks of the run."""
    store, made = run.store(), run.provenance()
    facts = {
        "Method": str(run.config()["method"]),
        "Particles": f"{len(store):,}",
        "Box": f"{store.box} pixels of {store.pixel_A:.3f} Å",
        "Latent dimensions": str(run.latent_mean().shape[1]),
        "Date": made.started[:10],
        "Version": f"cryomorph {made.cryomorph}",
    }
    provenance = {
        "Command": command(*made.command),
        "Source": store.manifest.source,
        "Libraries": ", ".join(f"{name} {version}" for name, version in made.libraries.items()),
        "Python": made.python,
        "Machine": f"{made.platform}, {made.cpus or '?'} CPUs",
    }
    summary = (*_warnings(run), *summarise(checks), *_notes(run))
    return Report(run.path.resolve().name, tuple(sections), facts=facts, summary=summary, provenance=provenance)


def consensus_resolution_A(run: RunFolder, threshold: float = 0.143) -> float:
    """The consensus's resolution at a threshold of its FSC, in Angstrom."""
    return resolution_A(run.consensus_fsc().corrected, run.store().pixel_A, threshold)


def _warnings(run: RunFolder) -> list[Note]:
    manifest = run.store().manifest
    warnings = []
    if manifest.ignored:
        warnings.append(Note(f"Optics that were ignored: {', '.join(manifest.ignored)}.", "warning"))
    if manifest.left_out:
        count = len(manifest.left_out)
        text = "1 image was left out: it contains" if count == 1 else f"{count:,} images were left out: they contain"
        warnings.append(Note(f"{text} NaN or no variance.", "warning"))
    return warnings


def _notes(run: RunFolder) -> tuple[Note, ...]:
    manifest = run.store().manifest
    contrast = "inverted" if manifest.inverted else "kept"
    found = consensus_resolution_A(run)
    better = " or better" * is_nyquist(found, manifest.pixel_A)
    return (
        Note(
            f"The consensus map has a resolution of {found:.1f} Å{better} (FSC 0.143); moving parts are less well "
            "resolved."
        ),
        Note(f"The contrast of the images was {contrast}: {manifest.contrast_reason}."),
    )
