"""The neutral model: Gaussians seeded from a map and fitted to it, as many as are needed."""

from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from cryomorph.config.console import progress
from cryomorph.config.gaussians import ResolvedGaussians
from cryomorph.particles.store import ParticleStore
from cryomorph.physics.disk import FourierDisk
from cryomorph.physics.gaussian_slices import Mixture
from cryomorph.representations.gaussian_motion import GaussianShape
from cryomorph.representations.gaussians import Gaussians
from cryomorph.representations.linear import LinearSubspace
from cryomorph.runs.checkpoint import load_tensors, save_tensors
from cryomorph.runs.folder import RunFolder
from cryomorph.training.consensus import noise_whitening
from cryomorph.training.device import threads_for
from cryomorph.training.distillation import DistillationTargets, distil, rms_transfer
from cryomorph.training.linear_start import LinearStart
from cryomorph.training.session import Session
from cryomorph.volumes.fsc import fsc
from cryomorph.volumes.grid import apply_gain, frequency_grid, lowpass
from cryomorph.volumes.masks import auto_mask

NEUTRAL = "checkpoints/neutral.safetensors"
FLOOR = 0.15  # of a map's highest density: what is lower gets no Gaussians
SAMPLES = 20  # points of the density for each seed
LLOYD = 10
ELEMENTS = 2  # Gaussians for each resolution element of the molecule, to begin with
ENOUGH = 0.95  # mean FSC between the Gaussians and their map
GAIN = 0.02  # of that FSC: what more Gaussians must bring, or the rest is noise
FEWEST, MOST = 20, 50_000
DEAD = 0.02  # of the mean amplitude
STATES = 20
WHOLE = 0.95  # of the largest state's mass: such a state lacks nothing
BATCH = 16


@dataclass(frozen=True)
class NeutralModel:
    """Gaussians that match the neutral map, and the particle whose state that map is; None for the consensus."""

    mixture: Mixture
    particle: int | None


def neutral(session: Session[ResolvedGaussians]) -> None:
    """Fit Gaussians to the neutral map at the requested resolution; they are kept, so that a killed run resumes."""
    path = session.run.path / NEUTRAL
    with session.parallel.rank_zero_first() as is_rank_zero:
        if is_rank_zero and not path.is_file():
            begin = perf_counter()
            found, match, radius = fit_neutral(session)
            tensors = {name: value[0].cpu() for name, value in found.mixture._asdict().items()}
            save_tensors(path, tensors | {"particle": torch.tensor(-1 if found.particle is None else found.particle)})
            of = "the consensus" if found.particle is None else f"the state of particle {found.particle}"
            resolution_A = session.store.box * session.store.pixel_A / radius
            session.run.log(
                f"neutral: {found.mixture.position.shape[1]} Gaussians for {of}, mean FSC {match:.3f} with its map to "
                f"{resolution_A:.2f} A; {perf_counter() - begin:.1f} s"
            )


def read_neutral(run: RunFolder) -> NeutralModel:
    """The neutral model that the stage has left in a run."""
    tensors = load_tensors(run.path / NEUTRAL)[0]
    number = int(tensors["particle"])
    mixture = Mixture(*(tensors[name][None] for name in Mixture._fields))
    return NeutralModel(mixture, None if number < 0 else number)


def fit_neutral(session: Session[ResolvedGaussians]) -> tuple[NeutralModel, float, float]:
    """The neutral model, its mean FSC with its map, and the radius in Fourier pixels up to which they are compared."""
    config, store, device = session.config, session.store, session.parallel.device
    target, number = session.consensus.map, None
    if config.network.neutral == "state" and session.linear.mean.shape[1]:
        start = session.linear
        number = neutral_particle(start)
        state = start.subspace.volume(start.mean[number], store.box)
        beyond = frequency_grid(store.box) * store.box >= start.subspace.box / 2
        target = state + apply_gain(target, beyond.float())
    radius = target_radius(session)
    whitening = noise_whitening(store, session.consensus, config.training.noise)
    transfer = rms_transfer(store, whitening, seed=config.seed).to(device)
    element = store.box / radius  # voxels along a resolution element
    smooth = lowpass(target, 1.0, 2 * element)
    inside = auto_mask(smooth, 1.0, threshold=FLOOR * float(smooth.max()), dilate_A=element / 2, edge_A=element)
    target = target * inside
    voxels = float((smooth > FLOOR * smooth.max()).sum())
    count = config.network.gaussians or int(np.clip(ELEMENTS * voxels / element**3, FEWEST, MOST))
    fitted: tuple[Mixture, float] | None = None
    while True:
        seeds = seeded(target, count, radius=radius, seed=config.seed)
        model = Gaussians(GaussianShape(store.box, 0, count, parts=0), seeds).to(device)
        fit_to_map(model, target, transfer, store=store, radius=radius, config=config)
        mixture = reseed_dead(model.neutral)
        match = match_of(mixture, target, radius)
        if fitted is None or match >= fitted[1] + GAIN:
            fitted = mixture, match
        if fitted[0] is not mixture or config.network.gaussians or match >= ENOUGH or 2 * count > MOST:
            break
        count *= 2
    mixture, match = fitted
    return NeutralModel(mixture, number), match, radius


def target_radius(session: Session[ResolvedGaussians]) -> float:
    """The radius in Fourier pixels up to which Gaussians are to match their map."""
    store, resolution_A = session.store, session.config.network.resolution
    nyquist = store.box / 2
    if resolution_A is not None:
        return min(store.box * store.pixel_A / resolution_A, nyquist)
    curve = session.run.consensus_fsc().corrected
    below = np.flatnonzero(curve[1:] < 0.143)
    return float(min(max(below[0] + 1 if len(below) else nyquist, 6), nyquist))


def neutral_particle(start: LinearStart) -> int:
    """The particle in the middle of those states that lack no part of the molecule.

    States are cluster centres of the latent points; a state whose map has less mass than another lacks a part.
    """
    from sklearn.cluster import KMeans

    points = (start.mean / start.prior_std).numpy()
    states = min(STATES, len(points))
    centres = KMeans(states, n_init=1, random_state=0).fit(points).cluster_centers_
    nearest = np.array([int(((points - centre) ** 2).sum(1).argmin()) for centre in centres])
    maps = start.subspace.maps
    dense, mass = FLOOR * float(maps[0].max()), []
    for number in nearest:
        volume = maps[0] + torch.tensordot(start.mean[number], maps[1:], dims=1)
        mass.append(float(volume[volume > dense].sum()))
    whole = nearest[np.array(mass) >= WHOLE * max(mass)]
    middle = ((points[whole] - points.mean(0)) ** 2).sum(1).argmin()
    return int(whole[middle])


def seeded(volume: Float32[Tensor, "z y x"], count: int, *, radius: float, seed: int) -> Mixture:
    """Gaussians by k-means on points drawn from the density of a map; their masses are their shares of it.

    Lloyd's iterations on a k-d tree: 50,000 Gaussians take seconds, scikit-learn's an hour.
    """
    from scipy.spatial import KDTree

    box = len(volume)
    inside = volume > FLOOR * volume.max()
    density = volume[inside]
    generator = torch.Generator().manual_seed(seed)
    cumulative = density.double().cumsum(0)
    drawn = torch.rand(SAMPLES * count, generator=generator, dtype=torch.float64) * cumulative[-1]
    chosen = torch.searchsorted(cumulative, drawn).clamp(max=len(density) - 1)
    jitter = torch.rand(len(chosen), 3, generator=generator) - 0.5
    points = (inside.nonzero().flip(1) - box // 2)[chosen].float() + jitter
    centre = points[::SAMPLES].numpy()
    for _ in range(LLOYD):
        own = KDTree(centre).query(points.numpy())[1]
        size = np.bincount(own, minlength=count)
        summed = np.stack([np.bincount(own, points[:, axis].numpy(), minlength=count) for axis in range(3)], axis=1)
        centre = np.where(size[:, None] > 0, summed / np.maximum(size, 1)[:, None], centre)
    share = torch.from_numpy(size / len(points)).float()
    position = torch.from_numpy(centre).float()
    spacing = (float(inside.sum()) / count) ** (1 / 3)
    width = max(0.6 * spacing, 0.225 * box / radius)
    return Mixture(position[None], torch.full((1, count), width), (share * density.sum())[None])


def fit_to_map(
    model: Gaussians,
    volume: Float32[Tensor, "z y x"],
    transfer: Float32[Tensor, " size"],
    *,
    store: ParticleStore,
    radius: float,
    config: ResolvedGaussians,
) -> None:
    """Fit Gaussians to the slices of a map, up to half of the radius first."""
    nothing = torch.zeros(1, 0)
    targets = DistillationTargets(nothing, nothing, nothing, same_space=True)
    teacher = LinearSubspace(volume[None]).to(transfer.device)
    steps = config.neutral_steps
    with threads_for(transfer.device, BATCH) as threads, progress("neutral", 2 * steps) as advance:
        for limit in (radius / 2, radius):
            disk: FourierDisk = store.disk.within(max(limit, 4.0) + 0.5)
            distil(
                model,
                teacher,
                targets,
                transfer=transfer,
                disk=disk,
                steps=steps,
                batch_size=BATCH,
                seed=config.seed,
                half_precision=False,
                after_step=lambda step, share: advance(
                    1, f"neutral, {model.shape.count} Gaussians, {share:.1%} of the map missing"
                ),
                threads=threads,
            )


@torch.no_grad()
def reseed_dead(mixture: Mixture) -> Mixture:
    """Move each dead Gaussian next to one of the strongest, which shares its amplitude with it."""
    position, width, amplitude = (part[0].clone() for part in mixture)
    dead = (amplitude < DEAD * amplitude.mean()).nonzero().squeeze(1)[: len(amplitude) // 2]
    strongest = amplitude.argsort(descending=True)[: len(dead)]
    apart = torch.nn.functional.normalize(position[strongest] - position.mean(0), dim=1) * width[strongest, None] / 2
    position[dead], position[strongest] = position[strongest] + apart, position[strongest] - apart
    width[dead] = width[strongest]
    amplitude[strongest] /= 2
    amplitude[dead] = amplitude[strongest]
    return Mixture(position[None], width[None], amplitude[None])


def match_of(mixture: Mixture, volume: Float32[Tensor, "z y x"], radius: float) -> float:
    """Mean FSC between Gaussians and a map over the shells up to a radius."""
    model = Gaussians(GaussianShape(len(volume), 0, mixture.position.shape[1], parts=0), mixture)
    volume_of_model = model.cpu().volume(torch.zeros(0), len(volume))
    curve = fsc(volume_of_model, volume)
    return float(curve[1 : int(radius) + 1].mean())
