"""Simulated sets with known truth: the state of each particle, the true maps, and where they differ."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from cryomorph.config.errors import InputError
from cryomorph.io.mrc import read_map
from cryomorph.physics.pose import Pose
from cryomorph.volumes.masks import auto_mask, soften

DISCRETE = 12  # up to this many states are discrete classes, more are a continuum


@dataclass(frozen=True)
class TruthSet:
    """A simulated set: the state (`label`) and true pose of each particle, coordinates and a map of each state."""

    folder: Path
    label: Int64[np.ndarray, " n"]
    state_coord: Float[np.ndarray, "k d"]
    maps: tuple[Path, ...]
    box: int
    pixel_A: float
    pose: Pose

    @classmethod
    def open(cls, folder: Path) -> TruthSet:
        """Read and check the truth that `cryomorph simulate` wrote.

        Raises:
            InputError: the folder is not such a set, or its files do not belong together.
        """
        path = folder / "truth.npz"
        try:
            with np.load(path, allow_pickle=False) as truth:
                label = truth["label"].astype(np.int64)
                coord = truth["conf_coord"].astype(np.float64)
                pixel_A = float(truth["apix"])
                # the set has the position of the content, a pose the shift that centres it
                pose = Pose(torch.from_numpy(truth["R"]).double(), -torch.from_numpy(truth["shift"]).double())
        except FileNotFoundError:
            raise InputError(f"{folder} has no truth.npz: expected a folder that `cryomorph simulate` made") from None
        except (KeyError, ValueError, BadZipFile) as error:
            raise InputError(f"{path} cannot be read ({error}): make the set again") from None
        maps = tuple(sorted((folder / "maps").glob("*.mrc")))
        if len(maps) != len(coord) or not len(label) or label.max() >= len(coord):
            raise InputError(
                f"{folder}: {len(maps)} maps, {len(coord)} states in truth.npz, labels up to "
                f"{label.max(initial=-1)}: expected a map for each state; make the set again"
            )
        return cls(folder, label, coord.reshape(len(coord), -1), maps, len(read_map(maps[0])[0]), pixel_A, pose)

    def __len__(self) -> int:
        return len(self.label)

    @property
    def coord(self) -> Float[np.ndarray, "n d"]:
        """The true coordinate of every particle."""
        return self.state_coord[self.label]

    @property
    def states(self) -> int:
        """Number of states."""
        return len(self.maps)

    @property
    def discrete(self) -> bool:
        """Whether the states are discrete classes, not steps along a coordinate."""
        return self.states <= DISCRETE

    @property
    def particles(self) -> Path:
        """The metadata file of the particles."""
        return self.folder / "particles.star"

    @cached_property
    def name(self) -> str:
        """The name under which the set was simulated, or that of its folder."""
        made = self.folder / "made.json"
        try:
            return str(json.loads(made.read_text())["name"])
        except (OSError, ValueError, KeyError, TypeError):
            return self.folder.name

    def read_map(self, state: int) -> Float32[Tensor, "z y x"]:
        """The true map of a state."""
        return torch.from_numpy(read_map(self.maps[state])[0].copy())

    def pick(self, count: int, *, seed: int = 0) -> Int64[np.ndarray, " k"]:
        """Particles (0-based, ascending) spread evenly over the true coordinate: equally spaced ranks."""
        chance = np.random.default_rng(seed).random(len(self))
        order = np.lexsort((chance, *self.coord.T[::-1]))
        ranks = np.unique(np.linspace(0, len(self) - 1, min(count, len(self))).round().astype(np.int64))
        return np.sort(order[ranks])

    def truth_mask(self, state: int) -> Float32[Tensor, "z y x"]:
        """The soft mask of the map of a state."""
        return auto_mask(self.read_map(state), self.pixel_A)

    @cached_property
    def moving_mask(self) -> Float32[Tensor, "z y x"] | None:
        """Soft mask of where the true maps differ; None where there is one state.

        Voxels whose standard deviation over the states is above 0.35 of its 99.9th percentile, grown by two voxels.
        """
        if self.states < 2:
            return None
        # Welford: one map in memory at a time
        mean = torch.zeros(self.box, self.box, self.box, dtype=torch.float64)
        squares = torch.zeros_like(mean)
        for count, state in enumerate(range(self.states), 1):
            map = self.read_map(state).double()
            delta = map - mean
            mean += delta / count
            squares += delta * (map - mean)
        deviation = (squares / self.states).clamp(min=0).sqrt().float()
        level = 0.35 * float(np.percentile(deviation.numpy(), 99.9))
        return soften(deviation >= level, 1.0, dilate_A=2.0, edge_A=3.0)
