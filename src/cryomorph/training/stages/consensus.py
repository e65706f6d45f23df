"""The consensus: one map of all particles, whose noise and amplitude later stages start from."""

from __future__ import annotations

from cryomorph.config.run import MethodOptions
from cryomorph.training.consensus import reconstruct_consensus
from cryomorph.training.session import Session


def consensus(session: Session[MethodOptions]) -> None:
    """Reconstruct the consensus map."""
    with session.parallel.rank_zero_first():
        session.consensus = reconstruct_consensus(session.run, session.store)
