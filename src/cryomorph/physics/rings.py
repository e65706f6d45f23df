"""Fourier ring correlation of images with model images."""

from __future__ import annotations

from jaxtyping import Complex64, Float32, Int64
from torch import Tensor

TINY = 1e-12


def ring_correlation(
    image: Complex64[Tensor, "b m"], model: Complex64[Tensor, "b m"], shell: Int64[Tensor, " m"], *, rings: int
) -> Float32[Tensor, "b rings"]:
    """Fourier ring correlation: `Re sum X conj(S) / sqrt(sum |X|^2 sum |S|^2)` over each ring, of each image.

    It depends on the sign of either, not on its scale; it is 0 for rings without coefficients or power.

    Args:
        shell: ring of each coefficient, from 0.
        rings: their number.
    """

    def summed(values: Float32[Tensor, "b m"]) -> Float32[Tensor, "b rings"]:
        return values.new_zeros(len(values), rings).index_add(1, shell, values)

    cross = summed(image.real * model.real + image.imag * model.imag)
    power = [summed(each.real.square() + each.imag.square()) for each in (image, model)]
    return cross / (power[0] * power[1] + TINY).sqrt()
