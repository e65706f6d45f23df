"""Options of `cryomorph simulate`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

SetName = Literal[
    "uniform", "cooperative", "noncontiguous", "compositional", "eight-state", "two-hinge", "trimer", "rigid", "model"
]


@dataclass(frozen=True)
class SimulateConfig:
    """Simulate a particle set with known ground truth."""

    name: tyro.conf.Positional[SetName]
    """The set: uniform, cooperative, noncontiguous (a hinge protein in 50 conformations), compositional (three nested
    complexes), eight-state (a dumbbell), two-hinge (two independent motions), trimer (C3 symmetry except for one arm
    that opens), rigid, or model (your own structure)."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """Folder for particles.mrcs, particles.star, truth.npz, made.json and maps/."""
    n: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 10_000
    """Number of particles."""
    box: int = 64
    """Image size in pixels, even."""
    pixel_A: float = 4.0
    """Pixel size in Angstrom."""
    resolution: float | None = None
    """Resolution of the maps in Angstrom, as in Chimera's molmap (default: 2.2 pixels)."""
    snr: float = 0.1
    """Variance of the noiseless images over the whole box, divided by the noise variance; inf for no noise."""
    shift: float | None = None
    """Largest in-plane shift along x and along y, in pixels (default: a sixteenth of the box)."""
    seed: int = 0
    """Seed of all random numbers: the same seed gives the same particles."""
    ctf: bool = True
    """Apply a CTF to the images."""
    ctf_from: Path | None = None
    """Draw CTF parameters from the particles of this .star or .cs file, instead of from the ranges below."""
    defocus: tuple[float, float] = (9000.0, 26000.0)
    """Range of the larger defocus in Angstrom."""
    astigmatism: float = 600.0
    """Largest difference between the two defocus values in Angstrom."""
    voltage: float = 300.0
    """Acceleration voltage in kV."""
    cs: float = 2.7
    """Spherical aberration in mm."""
    amplitude_contrast: float = 0.1
    """Amplitude contrast, as a fraction."""
    bfactor: float = 100.0
    """B-factor of the CTF envelope in Angstrom^2."""
    model: Path | None = None
    """PDB or mmCIF file of the structure for `simulate model`."""
    move: str | None = None
    """The part of the model that rotates about a hinge: chains with residue ranges, such as "A,B:2-115"."""
    pivot: str | None = None
    """A point on the hinge: x,y,z in the file's coordinates, or residues such as "B:115" (default: where the moving
    part joins the rest)."""
    axis: str | None = None
    """Direction of the hinge axis, x,y,z (default: perpendicular to both parts)."""
    span: float = 60.0
    """Angle in degrees through which the moving part swings, half of it to each side of the model."""
    target: Path | None = None
    """Morph the model linearly to this second structure after superposition, instead of rotating a part of it."""
    conformations: int = 50
    """Number of conformations of the model."""
    atoms: Literal["residue", "atom"] = "residue"
    """One Gaussian per residue of the model (faster), or per atom."""
    hydrogens: bool = False
    """Keep the model's hydrogen atoms."""
    waters: bool = False
    """Keep the model's water molecules."""
    overwrite: bool = False
    """Replace an existing simulated set."""
