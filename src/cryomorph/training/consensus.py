"""The consensus map of a run and the noise that it leaves."""

from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter

import torch
from jaxtyping import Float32
from torch import Tensor

from cryomorph.particles.store import ParticleStore
from cryomorph.runs.folder import RunFolder
from cryomorph.volumes.backproject import Reconstruction, reconstruct, residual_noise


@dataclass(frozen=True)
class Consensus:
    """One map of all particles, the precision of its prior by shell, and the residual noise power by shell."""

    map: Float32[Tensor, "z y x"]
    precision: Float32[Tensor, " shells"]
    noise: Float32[Tensor, " shells"]

    @classmethod
    def of(cls, result: Reconstruction, store: ParticleStore) -> Consensus:
        """The consensus of a reconstruction from all particles of a store."""
        return cls(result.map, result.precision, residual_noise(store, result))

    @classmethod
    def unknown(cls, store: ParticleStore) -> Consensus:
        """What is known before there is a map: the noise outside the particle."""
        nothing = torch.zeros(store.box // 2 + 1)
        return cls(torch.zeros(store.box, store.box, store.box), nothing, nothing + 1)

    @property
    def noise_power(self) -> Float32[Tensor, " shells"]:
        """Noise power by shell, in units of the store's.

        The surroundings of the particle contain some of its signal, the residual some of its heterogeneity: the lower
        of both estimates is closer to the noise.
        """
        noise = self.noise.clamp(max=1.0)
        noise[0] = noise[1]
        return noise


def reconstruct_consensus(run: RunFolder, store: ParticleStore) -> Consensus:
    """The consensus of a run: read if it is there, otherwise reconstructed in half sets and written with its FSC."""
    if not run.has_consensus:
        begin = perf_counter()
        result = reconstruct(store, description="consensus")
        run.save_consensus(result, residual_noise(store, result))
        run.log(
            f"consensus: {result.fsc.resolved(0.143)} at FSC 0.143, {result.fsc.resolved(0.5)} at 0.5; "
            f"{perf_counter() - begin:.1f} s"
        )
    spectra = run.spectra()
    return Consensus(run.consensus_map(), spectra.precision, spectra.noise)


def noise_whitening(store: ParticleStore, consensus: Consensus, noise: str) -> Float32[Tensor, " size"]:
    """Factor of each stored coefficient that gives it unit noise.

    Args:
        noise: the noise model, `radial` or `white`. The store's noise is measured outside the particle; the consensus
            lowers it wherever it leaves less.
    """
    shell = store.disk.shell
    if noise == "white":
        amplitude = store.noise_amplitude[shell]
        return amplitude / amplitude.square().mean().sqrt()
    return consensus.noise_power.rsqrt()[shell]
