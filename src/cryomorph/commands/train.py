"""`cryomorph train METHOD`: fit a landscape of structures to the particles."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryomorph.config.methods import load, method_of
from cryomorph.config.run import MethodOptions

if TYPE_CHECKING:
    from cryomorph.runs.folder import RunFolder


def train(config: MethodOptions) -> RunFolder:
    """Fit the method whose options these are, and warn of checks that its model fails; returns the finished run.

    Raises:
        InputError: an option out of range, unusable particles, or a run folder that is in use.
    """
    from cryomorph.diagnostics.model import warn_about_model
    from cryomorph.training.run_method import train_method

    run = train_method(config, load(method_of(config).method))
    warn_about_model(run)
    return run
