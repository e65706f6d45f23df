"""The section on the consensus: the map of all particles, its FSC, and the noise."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from cryomorph.render.picture import Rgba
from cryomorph.report import fsc_plots
from cryomorph.report.page import Block, Figure, Gallery, Section, Tile


def consensus_section(
    pictures: Mapping[str, Rgba],
    *,
    curves: Mapping[str, Float[np.ndarray, " shells"] | None],
    pixel_A: float,
    box: int,
    noise: Float[np.ndarray, " shells"] | None = None,
) -> Section:
    """The map of all particles from several sides, its FSC, and the noise of the images where it is known."""
    blocks: list[Block] = [
        Gallery(
            tuple(Tile(f"Consensus, {name}", {"": picture}) for name, picture in pictures.items()),
            "One reconstruction from all particles, as if they all had the same structure. It is the reference for "
            "everything below: where density is blurred or missing here, structures differ.",
        ),
        Figure(
            fsc_plots.fsc_curves(curves, pixel_A=pixel_A, box=box),
            "Fourier shell correlation of two half maps. The resolution is where the curve falls below 0.143. The "
            "corrected curve is free of the correlation that the mask introduces (phase randomisation); if it lies "
            "far below the masked one, the mask is too tight. If the curve is still high at the right edge, the pixel "
            "size limits the resolution, not the data.",
            "Fourier shell correlation of the half maps against resolution",
            vector=True,
        ),
    ]
    if noise is not None:
        blocks.append(
            Figure(
                fsc_plots.noise_spectrum(noise, pixel_A=pixel_A, box=box),
                "Noise power of the images by resolution, measured outside the particle. Every image is divided by "
                "its noise amplitude, so that each Fourier coefficient counts according to its information; how much "
                "the noise of optics groups and images differs from this mean is measured too. Sharp peaks suggest ice "
                "rings, or images that were processed before.",
                "Noise power of the images against resolution",
                vector=True,
            )
        )
    return Section("Consensus", tuple(blocks), "The starting point: one map from all particles, and its resolution.")
