"""The contrast transfer function: CTFFIND4's model with RELION's constants and sign."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Ctf:
    """CTF parameters of `n` particles, each a float tensor `(n,)`."""

    defocus_u_A: Float[Tensor, " n"]
    defocus_v_A: Float[Tensor, " n"]
    angle_deg: Float[Tensor, " n"]
    voltage_kV: Float[Tensor, " n"]
    cs_mm: Float[Tensor, " n"]
    amplitude_contrast: Float[Tensor, " n"]
    phase_shift_deg: Float[Tensor, " n"]
    bfactor_A2: Float[Tensor, " n"]
    scale: Float[Tensor, " n"]

    def __len__(self) -> int:
        return len(self.defocus_u_A)

    def __getitem__(self, index: Tensor | slice) -> Ctf:
        return Ctf(**{f.name: getattr(self, f.name)[index] for f in fields(self)})

    def to(self, device: torch.device | str) -> Ctf:
        """The same parameters on another device."""
        return Ctf(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})


def wavelength_A(voltage_kV: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """Relativistic electron wavelength in Angstrom: `12.2643247 / sqrt(V (1 + 0.978466e-6 V))`."""
    volts = voltage_kV * 1e3
    return 12.2643247 / torch.sqrt(volts * (1 + 0.978466e-6 * volts))


def evaluate_ctf(ctf: Ctf, frequency_per_A: Float[Tensor, "m 2"]) -> Float[Tensor, "n m"]:
    """CTF of each particle at spatial frequencies `(sx, sy)` in 1/Angstrom.

    `chi = pi lambda s^2 (df(angle) - lambda^2 s^2 Cs / 2) + phase`,
    `CTF = (sqrt(1 - w^2) sin chi + w cos chi) scale exp(-B s^2 / 4)`: positive at low resolution for underfocus
    (Rohou & Grigorieff 2015; the sign is RELION's with white particles).

    The two in-plane frequencies enter only through `s^2` and `cos 2(a - angle)`, so the trigonometry of the
    astigmatism is evaluated once per particle, not once per coefficient.
    """
    sx, sy = frequency_per_A.T
    s2 = sx**2 + sy**2
    lam = wavelength_A(ctf.voltage_kV)
    mean = 0.5 * (ctf.defocus_u_A + ctf.defocus_v_A)
    half_difference = 0.5 * (ctf.defocus_u_A - ctf.defocus_v_A)
    angle = 2 * torch.deg2rad(ctf.angle_deg)
    # s^2 df(a) = s^2 mean + half ((sx^2 - sy^2) cos 2angle + 2 sx sy sin 2angle): a sum of a few products
    basis = torch.stack([s2, sx**2 - sy**2, 2 * sx * sy, s2**2, torch.ones_like(s2)])
    pi_lam = torch.pi * lam
    weights = torch.stack(
        [
            pi_lam * mean,
            pi_lam * half_difference * torch.cos(angle),
            pi_lam * half_difference * torch.sin(angle),
            -0.5 * torch.pi * lam**3 * ctf.cs_mm * 1e7,
            torch.deg2rad(ctf.phase_shift_deg) + torch.asin(ctf.amplitude_contrast),
        ],
        dim=1,
    )
    # sqrt(1 - w^2) sin chi + w cos chi = sin(chi + asin w)
    # not a matrix product, whose rounding would depend on the number of images
    chi = weights[:, :1] * basis[0]
    for column, row in zip(weights.T[1:], basis[1:], strict=True):
        chi = torch.addcmul(chi, column[:, None], row)
    value = torch.sin(chi) * ctf.scale[:, None]
    if bool((ctf.bfactor_A2 != 0).any()):
        value = value * torch.exp(-0.25 * ctf.bfactor_A2[:, None] * s2)
    return value
