"""A map at a glance: its three central slices side by side."""

from __future__ import annotations

import io

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image

SIZE = 240  # pixels of a slice
GAP = 6
DARKEST, BRIGHTEST = 1.0, 99.8  # percentiles of the map


def central_slices(volume: Float32[np.ndarray, "z y x"], size: int = SIZE) -> UInt8[np.ndarray, "h w"]:
    """The slices through the origin across z, y and x, in grey, density white.

    In the first x points right and y up, in the second x right and z up, in the third y right and z up.
    """
    middle = len(volume) // 2
    low, high = np.percentile(volume, [DARKEST, BRIGHTEST])
    slices = (volume[middle], volume[:, middle], volume[:, :, middle])
    panels = []
    for plane in slices:
        grey = np.clip((plane[::-1] - low) / max(float(high - low), 1e-20), 0, 1)
        picture = Image.fromarray((255 * grey).astype(np.uint8)).resize((size, size), Image.Resampling.BICUBIC)
        panels += [np.asarray(picture), np.full((size, GAP), 255, np.uint8)]
    return np.concatenate(panels[:-1], axis=1)


def png(picture: UInt8[np.ndarray, "h w"]) -> bytes:
    """A grey picture as the content of a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG")
    return buffer.getvalue()
