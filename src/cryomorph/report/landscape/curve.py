"""The section on the curve through volume space."""

from __future__ import annotations

from collections.abc import Sequence

from cryomorph.analysis.landscape.landscape import Landscape, Trajectory
from cryomorph.render.picture import Rgba
from cryomorph.report.landscape.component import trajectory_gallery
from cryomorph.report.latent_plots import histogram
from cryomorph.report.page import Figure, Section


def curve_section(found: Landscape, path: Trajectory, pictures: Sequence[Rgba]) -> Section:
    """Particles and maps along the curve through volume space."""
    curve = found.curve
    share = f"{curve.explained:.0%} of the spread in volume space"
    plot = histogram(
        curve.position, "length along the curve", marks=path.position.tolist(), title=f"The curve explains {share}"
    )
    blocks = (
        Figure(
            plot,
            "Particles along the single curve that fits them best (curve.npy). For one continuous motion it is the "
            "coordinate to use: a large motion is curved in the space of the components, and the first component turns "
            f"back before the motion ends. Here the curve explains {share}, and {curve.noise:.0%} is uncertainty of "
            "the latent points; if much remains, there is more than one motion, or there are separate states.",
            "Particles along the curve",
            vector=True,
            wide=True,
        ),
        trajectory_gallery(path, pictures, "along the curve, from its 5th to its 95th percentile"),
    )
    return Section("Along the curve", blocks, "The landscape as a single path, where it is one.")
