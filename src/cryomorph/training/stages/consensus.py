"""The consensus: one map of all particles, whose noise and amplitude later stages start from."""

from __future__ import annotations

from cryomorph.config.run import MethodOptions
from cryomorph.runs.folder import RunFolder
from cryomorph.runs.image_noise import NOISE
from cryomorph.training.consensus import measure_noise, reconstruct_consensus
from cryomorph.training.session import Session


def consensus(session: Session[MethodOptions]) -> None:
    """Reconstruct the consensus map."""
    with session.parallel.rank_zero_first():
        session.consensus = reconstruct_consensus(session.run, session.store)


def _before_levels(run: RunFolder) -> bool:
    """Whether a version without noise by image got further than this: the run ends as it began."""
    return not (run.path / NOISE).is_file() and (run.linear_start.is_file() or any(run.path.glob("checkpoints/*")))


def image_noise(session: Session[MethodOptions]) -> None:
    """Measure the noise of every image; all that follows weights the images by it."""
    if _before_levels(session.run):
        return
    with session.parallel.rank_zero_first():
        session.store = measure_noise(session.run, session.store)
    session.consensus = session.consensus.whitened(session.store.require_noise())
