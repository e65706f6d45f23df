"""Mean, deviation and extreme pixel of every image, gathered while the store is written: 16 bytes an image.

They tell which images are copies of others, which are too faint to be used (`image_faults`), and which are unlike the
others (`image_outliers`).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

import numpy as np
import torch
from jaxtyping import Float32, Int64, UInt64
from torch import Tensor

RECORD = np.dtype([("mean", "<f4"), ("deviation", "<f4"), ("extreme", "<f4"), ("checksum", "<u4")])


@dataclass(frozen=True)
class ImageStatistics:
    """Records of all images of a set, in a file of their own."""

    path: Path

    @classmethod
    def reserve(cls, path: Path, n: int) -> ImageStatistics:
        """An empty file for `n` images."""
        np.zeros(n, RECORD).tofile(path)
        return cls(path)

    def put(self, start: int, images: Float32[Tensor, "b y x"]) -> None:
        """Note the images from number `start` on; threads may do so at once."""
        flat = images.flatten(1)
        variance, mean = torch.var_mean(flat, 1, correction=0)
        deviation = variance.sqrt()
        largest = torch.maximum(flat.amax(1) - mean, mean - flat.amin(1))
        found = np.empty(len(images), RECORD)
        found["mean"], found["deviation"] = mean.numpy(), deviation.numpy()
        found["extreme"] = (largest / deviation.clamp(min=1e-30)).numpy()
        found["checksum"] = [crc32(image) for image in flat.contiguous().numpy()]
        descriptor = os.open(self.path, os.O_WRONLY)
        try:
            os.pwrite(descriptor, found.tobytes(), start * RECORD.itemsize)
        finally:
            os.close(descriptor)

    def read(self) -> np.ndarray:
        """All records."""
        return np.fromfile(self.path, RECORD)


def first_copies(records: np.ndarray) -> Int64[np.ndarray, " n"] | None:
    """For each image the first that is the same pixel by pixel, itself where it is that; None where all differ."""
    key: UInt64[np.ndarray, " n"] = records["checksum"].astype(np.uint64) << np.uint64(32)
    key |= records["deviation"].view(np.uint32).astype(np.uint64)
    found, first, place = np.unique(key, return_index=True, return_inverse=True)
    return None if len(found) == len(key) else first[place].astype(np.int64)
