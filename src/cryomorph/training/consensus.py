"""The consensus map of a run and the noise that it leaves."""

from __future__ import annotations

from dataclasses import dataclass, replace
from time import perf_counter

import torch
from jaxtyping import Float32
from torch import Tensor

from cryomorph.particles.noise import NoiseModel
from cryomorph.particles.store import ParticleStore
from cryomorph.runs.folder import RunFolder
from cryomorph.runs.image_noise import NOISE, save_noise, with_noise
from cryomorph.volumes.backproject import Reconstruction, reconstruct, residual_noise
from cryomorph.volumes.image_noise import noise_by_group


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

    def whitened(self, noise: NoiseModel) -> Consensus:
        """The same for a store with a noise model, whose images have a noise of 1 in every shell."""
        return Consensus(self.map, self.precision / noise.mean_power(), torch.ones_like(self.noise))

    @property
    def noise_power(self) -> Float32[Tensor, " shells"]:
        """Noise power by shell, in units of the store's.

        The surroundings of the particle contain some of its signal, the residual some of its heterogeneity: the lower
        of both estimates is closer to the noise.
        """
        noise = self.noise.clamp(max=1.0)
        noise[0] = noise[1]
        return noise


def measure_noise(run: RunFolder, store: ParticleStore) -> ParticleStore:
    """The store with the noise of every image: read if the run has it, otherwise measured and written."""
    if not (run.path / NOISE).is_file():
        halves = torch.stack([run.consensus_map("half1"), run.consensus_map("half2")])
        found = noise_by_group(store, halves, torch.from_numpy(run.consensus_fsc().unmasked))
        if not found.outside:
            run.warn(
                "the images' surroundings have another noise than the particles (a window, or corners set to a "
                "constant): the noise is what the consensus leaves of the images"
            )
        save_noise(run.path, found.noise)
    return with_noise(run.path, store)


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
    return _read(run)


def correct_consensus(run: RunFolder, store: ParticleStore) -> Consensus:
    """The consensus with the poses, contrasts and noise that the run found, each half set's by its own maps.

    It replaces that of the given poses wherever maps are shown or compared.
    """
    if not run.has_corrected_consensus:
        begin = perf_counter()
        result = reconstruct(store, description="consensus at the corrected poses")
        run.save_consensus(result, residual_noise(store, result), corrected=True)
        run.log(
            f"consensus at the corrected poses: {result.fsc.resolved(0.143)} at FSC 0.143; "
            f"{perf_counter() - begin:.1f} s"
        )
    # the store's images have a noise of 1 as measured: what is left beyond it is not noise
    return replace(_read(run), noise=torch.ones(store.box // 2 + 1))


def _read(run: RunFolder) -> Consensus:
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
