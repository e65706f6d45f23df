"""Corrections of the given poses, one row for each particle."""

from __future__ import annotations

from typing import final

import torch
from jaxtyping import Float32
from torch import Tensor, nn

from cryomorph.particles.store import Batch
from cryomorph.physics.disk import FourierDisk
from cryomorph.physics.pose import Pose, rotation_from_rotvec


@final
class PoseTable(nn.Module):
    """The offset of every particle from its given pose: `offset` (n, 5), a rotation vector in radians, then pixels.

    Rows are moved only when their particle is refined: other rows stay as they are.
    """

    def __init__(self, n: int) -> None:
        super().__init__()
        self.offset: Tensor
        self.register_buffer("offset", torch.zeros(n, 5))

    def forward(self, batch: Batch, disk: FourierDisk) -> Batch:
        """The batch with its poses corrected."""
        return batch.moved(self.offset[batch.index], disk.frequency / disk.box)

    def of(self, batch: Batch) -> Float32[Tensor, "b 5"]:
        """The offsets of a batch's particles."""
        return self.offset[batch.index]

    def corrected(self, pose: Pose, pixel_A: float) -> Pose:
        """All particles' poses, corrected."""
        rotation = rotation_from_rotvec(self.offset[:, :3]) @ pose.rotation
        return Pose(rotation, pose.shift_A + self.offset[:, 3:] * pixel_A)
