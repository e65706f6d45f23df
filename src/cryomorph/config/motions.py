"""Options of `cryomorph motions`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from cryomorph.config.errors import InputError
from cryomorph.config.minimum import check_minimum

COMBINATION = re.compile(r"\d+([+-]\d+)+")


@dataclass(frozen=True)
class MotionsConfig:
    """How the Gaussians of a run move: eigen-motions of all of them, or motions of regions; maps, models, arrows."""

    run: Positional[Path]
    """The run folder that `cryomorph train gaussians` wrote."""
    output: Annotated[Path | None, arg(aliases=["-o"])] = None
    """Where the results go; RUN/motions if not given."""
    components: int = 3
    """Eigen-motions: principal components of the Gaussians' displacements, written as pc1, pc2 and so on. Those with
    less than 0.01 % of the variance are left out."""
    region: tuple[Path, ...] | None = None
    """Instead of eigen-motions, motions of these regions, written as region1 and so on: for each mask in the working
    box, the direction of latent space that moves what is in it most, and the rest least."""
    combine: tuple[str, ...] | None = None
    """Also combinations of these motions, by number, counted from 1: 1+2 moves along both at once, 1-2 along one and
    back along the other, each as far as the particles spread."""
    points: int = 10
    """Points along each motion, from the 5th to the 95th percentile of the particles."""
    format: Literal["cif", "pdb"] = "cif"
    """Format of the Gaussians, and of the models: mmCIF or PDB."""
    maps: bool = True
    """Write the model's map at each point of a motion."""
    reconstruct: bool = False
    """Also back-project the particles nearest to each point."""
    model: Path | None = None
    """An atomic model, PDB or mmCIF, that was fitted into a map of this run: it is morphed along each motion."""
    model_at: str = "auto"
    """The conformation that the model was fitted to, a 0-based particle number; auto takes the one among 50 over the
    landscape whose map is most like the model."""
    flip_hand: bool = False
    """Write the mirror image of everything; masks and model are then taken to be of that hand."""
    overwrite: bool = False
    """Replace motions that are there already."""

    def __post_init__(self) -> None:
        check_minimum(self, components=1, points=2)
        for text in self.combine or ():
            if COMBINATION.fullmatch(text) is None:
                raise InputError(f"--combine {text}: expected numbers of motions such as 1+2 or 1-2")
        if self.model_at != "auto" and not self.model_at.isdecimal():
            raise InputError(f"--model-at {self.model_at}: expected auto or a 0-based particle number")
        if self.model_at != "auto" and self.model is None:
            raise InputError(f"--model-at {self.model_at} is for an atomic model: give it with --model")

    @property
    def particle(self) -> int | None:
        """The particle in whose conformation the model is; None where it is to be found."""
        return None if self.model_at == "auto" else int(self.model_at)
