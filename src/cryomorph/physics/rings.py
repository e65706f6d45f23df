"""Correlation of images with model images, ring by ring in Fourier space."""

from __future__ import annotations

from jaxtyping import Complex64, Float32, Int64
from torch import Tensor

TINY = 1e-12


def ring_correlation(
    image: Complex64[Tensor, "b m"], model: Complex64[Tensor, "b m"], shell: Int64[Tensor, " m"], *, rings: int
) -> Float32[Tensor, "b rings"]:
    """Fourier ring correlation: `Re sum X conj(S) / sqrt(sum |X|^2 sum |S|^2)` over each ring, of each image.

    The scale of either does not matter, its sign does. Rings without coefficients or without power have none.

    Args:
        shell: ring of each coefficient, from 0.
        rings: how many there are.
    """

    def summed(values: Float32[Tensor, "b m"]) -> Float32[Tensor, "b rings"]:
        return values.new_zeros(len(values), rings).index_add(1, shell, values)

    cross = summed(image.real * model.real + image.imag * model.imag)
    power = [summed(each.real.square() + each.imag.square()) for each in (image, model)]
    return cross / (power[0] * power[1] + TINY).sqrt()
