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
    """Motions of the Gaussians of a run, of all of them or of regions, as maps, atomic models and arrows."""

    run: Positional[Path]
    """The run folder that `cryomorph train gaussians` wrote."""
    output: Annotated[Path | None, arg(aliases=["-o"])] = None
    """Output folder (default: RUN/motions)."""
    components: int = 3
    """Number of eigen-motions, principal components of the Gaussians' displacements, written as pc1, pc2 and so on.
    Those with less than 0.01 % of the variance are omitted."""
    region: tuple[Path, ...] | None = None
    """Motions of regions instead of eigen-motions, written as region1 and so on: for each mask (of any box and
    pixel size), the direction of latent space that moves its contents most and the rest least."""
    combine: tuple[str, ...] | None = None
    """Also write combinations of these motions, numbered from 1: 1+2 moves along both at once, 1-2 along the first and
    backwards along the second, each over the range of the particles."""
    points: int = 10
    """Points along each motion, from the 5th to the 95th percentile of the particles."""
    format: Literal["cif", "pdb"] = "cif"
    """Format of the Gaussians, and of the models: mmCIF or PDB."""
    maps: bool = True
    """Write the model's map at each point of a motion."""
    reconstruct: bool = False
    """Also back-project the particles near each point."""
    model: Path | None = None
    """An atomic model, PDB or mmCIF, that was fitted into a map of this run: it is morphed along each motion."""
    model_at: str = "auto"
    """Conformation to which the model was fitted, a 0-based particle number; auto chooses, of 50 particles across the
    latent space, the one whose map is most similar to the model."""
    flip_hand: bool = False
    """Write the mirror image of everything; masks and model are expected in that hand."""
    overwrite: bool = False
    """Replace existing motions."""

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
