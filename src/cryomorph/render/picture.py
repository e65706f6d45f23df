"""Pictures as arrays, the first row at the top."""

import numpy as np
from jaxtyping import Float32, UInt8

Rgba = Float32[np.ndarray, "h w 4"]
"""Red, green, blue and opacity from 0 to 1."""
Rgb = UInt8[np.ndarray, "h w 3"]
"""Red, green and blue, 8 bits each."""
