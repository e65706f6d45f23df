"""Number formats: whether a device multiplies bfloat16 faster than float32."""

from __future__ import annotations

from time import perf_counter

import torch

MIN_SPEEDUP = 1.5  # of a bfloat16 product over a float32 one, to be worth the conversions
REPEATS = 8


def bfloat16_pays(device: torch.device) -> bool:
    """Whether a device multiplies bfloat16 much faster than float32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return product_seconds(torch.float32) > MIN_SPEEDUP * product_seconds(torch.bfloat16)


def product_seconds(dtype: torch.dtype) -> float:
    """Shortest of several timings of a matrix product on the CPU, of the size that a layer of a neural field takes.

    Measured, because the CPU's feature flags do not predict it: processors with bfloat16 vector instructions may
    gain nothing or a factor of five (benchmarks/neural_field.py).
    """
    rows, matrix = torch.ones(2048, 256, dtype=dtype), torch.ones(256, 256, dtype=dtype)
    times = []
    for _ in range(REPEATS):
        begin = perf_counter()
        torch.nn.functional.linear(rows, matrix)
        times.append(perf_counter() - begin)
    return min(times)
