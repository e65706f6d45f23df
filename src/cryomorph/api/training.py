"""Training a model of particles."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryomorph.config.errors import InputError
from cryomorph.config.keywords import from_keywords
from cryomorph.config.load import load_config
from cryomorph.config.methods import methods

if TYPE_CHECKING:
    from cryomorph.api.run import Run


def train(method: str, particles: str | Path, *, output: str | Path, **options: Any) -> Run:
    """Fit a landscape of structures to particles; returns the finished run.

    Args:
        method: `linear`, `neural-field`, `gaussians` or `conv-volume`.
        particles: a particle file (.star, .cs, .txt, .mrcs), or a store made by `cryomorph prepare`.
        output: run folder to make.
        **options: as on the command line, such as `zdim`, `epochs`, `box`, `seed`, `device`, `resume`, `overwrite`;
            `config` takes all that are not given from another run's config.json.

    Raises:
        InputError: a method or an option that does not exist, or particles that cannot be used.
    """
    from cryomorph.api.run import Run
    from cryomorph.commands.train import train as fit

    fit(training_config(method, {"particles": particles, "output": output, **options}))
    return Run(output)


def training_config(method: str, options: dict[str, Any]) -> Any:
    """The config of a method from keyword arguments."""
    known = methods()
    if method not in known:
        near = get_close_matches(method, known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(known)}"
        raise InputError(f"unknown method {method!r}: {hint}")
    kind = known[method].config
    base: Any = None
    if options.get("config") is not None:
        base = load_config(kind, options["config"], fill={"output": "."}, leave="method")
    return from_keywords(kind, options, call=f"train({method!r})", base=base)
