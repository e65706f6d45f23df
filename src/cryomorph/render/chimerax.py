"""ChimeraX scripts that open what a command wrote, by paths relative to the script: ChimeraX runs it in its folder."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from cryomorph.render.isosurface import COLOUR
from cryomorph.render.movie import Scene


def movie_script(names: Iterable[str], scene: Scene, *, fps: float) -> str:
    """A ChimeraX script that plays maps, named by paths relative to the script, as the movie shows them.

    ChimeraX runs a script in its folder. The camera's axes are the columns of its matrix; `view` then only moves it.
    """
    colour = "#" + "".join(f"{round(255 * part):02x}" for part in COLOUR)
    matrix = np.concatenate([scene.rotation.T, np.zeros((3, 1))], axis=1)
    camera = ",".join(f"{value:.6g}" for value in matrix.ravel() + 0.0)
    lines = [
        "# Open this file in a new ChimeraX session.",
        "# To stop: vseries stop #1",
        "# To step by hand: vseries slider #1",
        f"open {' '.join(names)} vseries true",
        f"volume #1 style surface step 1 level {scene.level:.6g} color {colour}",
        "set bgColor white",
        "lighting soft",
        "graphics silhouettes true",
        f"view matrix camera {camera}",
        "view #1 clip false pad 0.1",
        f"vseries play #1 direction oscillate loop true maxFrameRate {fps:g}",
    ]
    return "\n".join(lines) + "\n"


def motions_script(names: Sequence[str], *, ending: str, morphed: bool, radius_A: float) -> str:
    """A ChimeraX script that opens the neutral Gaussians, then each motion's arrows and trajectories; the first shows.

    Args:
        morphed: whether an atomic model goes along.
        radius_A: of the balls that stand for Gaussians.
    """
    lines = [
        "# Open this file in a new ChimeraX session. It shows the first motion; the others are hidden: tick them in",
        "# the Models panel, and play them with `coordset slider` and their number.",
        "set bgColor white",
    ]
    opened = (f"neutral.{ending}", *(name for each in names for name in _opened(each, ending, morphed=morphed)))
    for number, what in enumerate(opened, start=1):
        lines.append(f"open {what}")
        if "_model" not in what and ".bild" not in what:
            colour = "light gray" if number == 1 else "cornflower blue"
            lines += [f"style #{number} sphere", f"size #{number} atomRadius {radius_A:.2f}"]
            lines += [f"color #{number} {colour}", f"transparency #{number} {80 if number == 1 else 50} target a"]
        if number > 1 and not what.startswith((f"{names[0]}.", f"{names[0]}_")):
            lines.append(f"hide #{number} models")
        elif "coordsets" in what:
            lines.append(f"coordset slider #{number}")
    return "\n".join([*lines, "lighting soft", "view"]) + "\n"


def _opened(name: str, ending: str, *, morphed: bool) -> list[str]:
    """What ChimeraX opens of a motion."""
    trajectories = [name, f"{name}_model"] if morphed else [name]
    return [f"{name}.bild", *(f"{each}.{ending} coordsets true" for each in trajectories)]
