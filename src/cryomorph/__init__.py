"""From frozen single-particle cryo-EM images to the continuum of structures they were taken of.

    import cryomorph as cm

    run = cm.load("run")                     # or cm.train("linear", "particles.star", output="run", zdim=4)
    run.particles                            # a pandas.DataFrame of all metadata and results
    map = run.decode(run.latents[12])        # map.save("a.mrc")
    chosen = run.select("cluster == 4")      # chosen.save("chosen.star")
    half = run.reconstruct(chosen)
    cm.fsc(map, half.map).resolution_A

Everything is imported when it is first used, so that `import cryomorph` costs next to nothing.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cryomorph.analysis.selection import Selection
    from cryomorph.api.backprojection import HalfMaps, backproject
    from cryomorph.api.fsc import Fsc, fsc
    from cryomorph.api.map import Map
    from cryomorph.api.run import Run, load
    from cryomorph.api.simulation import simulate
    from cryomorph.api.training import train
    from cryomorph.config.console import show_progress
    from cryomorph.config.errors import InputError

__version__ = "0.1.0"

__all__ = [
    "Fsc",
    "HalfMaps",
    "InputError",
    "Map",
    "Run",
    "Selection",
    "__version__",
    "backproject",
    "fsc",
    "load",
    "show_progress",
    "simulate",
    "train",
]

_HOME = {
    "Fsc": "api.fsc",
    "HalfMaps": "api.backprojection",
    "InputError": "config.errors",
    "Map": "api.map",
    "Run": "api.run",
    "Selection": "analysis.selection",
    "backproject": "api.backprojection",
    "fsc": "api.fsc",
    "load": "api.run",
    "show_progress": "config.console",
    "simulate": "api.simulation",
    "train": "api.training",
}

logging.getLogger(__name__).addHandler(logging.NullHandler())  # a library is silent until its user configures logging


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    found = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
