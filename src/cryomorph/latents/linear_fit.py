"""The schedule of a linear fit: half sets over a growing radius, compared and merged, then all particles."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64, Int64
from torch import Tensor

from cryomorph.latents.joint import JointPosterior
from cryomorph.latents.joint_em import Located, infer_from_halves, infer_jointly, joint_em_iteration
from cryomorph.latents.nuisance import NuisancePrior, Nuisances
from cryomorph.latents.ppca import EmProblem, Subspace
from cryomorph.particles.loader import ParticleLoader
from cryomorph.particles.store import Batch, ParticleStore
from cryomorph.physics.slicing import padded_grid
from cryomorph.volumes.backproject import batch_size_for
from cryomorph.volumes.grid import rebox, resize

FIRST_RADIUS = 6
GROWTH = 1.34
FIRST_REPEATS = 3  # the first radius starts at random and gets this many times the iterations
COMPONENT_POWER = 0.1  # prior power of a component, relative to the mean map's in each shell
START_AMPLITUDE = 0.3  # of random components, relative to their prior
LEAST_KNOWN = 1e-6
LOCATE = 4  # iterations of the last E-step
REPRODUCIBLE = 0.5  # agreement of the half sets from which a component is called reproducible

Advance = Callable[[float, str], None]


def _no_progress(amount: float, doing: str) -> None:
    """No progress bar."""


@dataclass(frozen=True)
class Schedule:
    """Radii and iterations of a fit, and what they share.

    `mean_precision` (shells,) is the prior's precision of the mean map at a grid point of each shell; `whitening`
    (size,) corrects the stored noise amplitude; `mask` is where particles may differ and `mean_mask` where their mean
    may have density, both in the images' box.
    """

    radii: tuple[int, ...]
    iterations: int
    final_iterations: int
    mean_precision: Float32[Tensor, " shells"]
    whitening: Float32[Tensor, " size"]
    mask: Float32[Tensor, "z y x"]
    mean_mask: Float32[Tensor, "z y x"]
    nuisances: NuisancePrior
    seed: int

    @property
    def half_steps(self) -> tuple[int, ...]:
        """The radius of every step of the half sets' fits."""
        repeats = [self.iterations * (FIRST_REPEATS if number == 0 else 1) for number in range(len(self.radii))]
        return tuple(radius for radius, times in zip(self.radii, repeats, strict=True) for _ in range(times))

    @property
    def steps(self) -> int:
        """Number of steps of the whole fit."""
        return len(self.half_steps) + self.final_iterations

    def work(self, store: ParticleStore, *radii: int) -> float:
        """Number of coefficients that steps at these radii process (default: all steps of the fit)."""
        # the half sets' nuisances, the iterations on all particles, their latent points, and those by half the data
        of_all = (*self.half_steps, *[self.radii[-1]] * (self.final_iterations + 3))
        return float(len(store) * sum(store.disk.count(radius) for radius in radii or of_all))

    def problem(self, radius: int, zdim: int) -> EmProblem:
        """What stays constant during EM at one radius."""
        mean = self.mean_precision[: radius + 1]
        # a prior that adapts to the components would collapse to zero from a random start: this one is fixed
        precision = torch.stack([mean] + [mean / COMPONENT_POWER] * zdim)
        # clipped because resampling overshoots
        mask, mean_mask = (resize(each, 2 * radius).clamp(0, 1) for each in (self.mask, self.mean_mask))
        return EmProblem(precision, self.whitening, mask, mean_mask)


@dataclass(frozen=True)
class HalfState:
    """State of the half sets' fits: `maps` (2, c, z, y, x), and the number of finished steps of the schedule.

    `located` is where each particle was found by the model of its half set, `priors` the nuisances' of each half set.
    """

    step: int
    maps: Float32[Tensor, "two c z y x"]
    located: Located
    priors: tuple[NuisancePrior, NuisancePrior]


@dataclass(frozen=True)
class LinearFit:
    """A fitted subspace in its reported basis.

    `maps` (q + 1, z, y, x): the mean, then components in descending order of the variance they explain, orthogonal and
    of equal norm, so that distances between latent points are proportional to distances between maps; scaled so that
    the first component of z has unit variance. `latent_mean`, `latent_std` (n, q); `latent_split` (2, n, q), the means
    by the even, then by the odd coefficients alone; `split_score` (n, q), see `split_scores`; `nuisances` and `prior`
    of each particle by the maps of its own half set; `log_likelihood` (n,) as in `JointPosterior`; `variance` (q,) of
    each component in units of map intensity squared, summed over voxels; `reproducibility` (q,) as in the function.
    """

    maps: Float32[Tensor, "c z y x"]
    latent_mean: Float32[Tensor, "n q"]
    latent_std: Float32[Tensor, "n q"]
    latent_split: Float32[Tensor, "two n q"]
    split_score: Float32[Tensor, "n q"]
    nuisances: Nuisances
    prior: NuisancePrior
    log_likelihood: Float32[Tensor, " n"]
    variance: Float32[Tensor, " q"]
    reproducibility: Float32[Tensor, " q"]


def growing_radii(last: int) -> tuple[int, ...]:
    """Radii from `FIRST_RADIUS` to `last`, each larger by the factor `GROWTH`."""
    radii: list[int] = []
    radius = float(FIRST_RADIUS)
    while radius < 0.9 * last:
        radii.append(round(radius))
        radius *= GROWTH
    return (*radii, last)


def fit_halves(
    store: ParticleStore,
    start_map: Float32[Tensor, "z y x"],
    schedule: Schedule,
    *,
    zdim: int,
    subset: Int64[Tensor, " k"] | None = None,
    resume: HalfState | None = None,
    report: Callable[[HalfState, float], None],
    advance: Advance = _no_progress,
) -> HalfState:
    """Fit a subspace to each half set independently, from random components.

    Args:
        start_map: the consensus map, from which the means start.
        subset: the particles to fit, ascending (default: all).
        resume: a state that `report` was given earlier, to continue from; the result is the same.
        report: called with the state and the mean log-likelihood after each step.
    """
    state = resume if resume is not None else _random_start(start_map, schedule, zdim, len(store))
    for step, radius in enumerate(schedule.half_steps):
        if step < state.step:
            advance(schedule.work(store, radius), "resuming")
            continue
        problem = schedule.problem(radius, zdim)
        maps, likelihood, priors = [], 0.0, []
        located = state.located.copy()
        for half in (0, 1):
            model = Subspace(padded_grid(2 * radius), rebox(state.maps[half], 2 * radius))
            own = (store.half == half).nonzero().squeeze(1) if subset is None else subset[store.half[subset] == half]
            label = f"linear: step {step + 1} of {schedule.steps}, radius {radius}, half {half + 1}"
            model, posterior = joint_em_iteration(
                _pass(store, radius, own, advance, label),
                model,
                problem,
                disk=store.disk.within(radius),
                prior=state.priors[half],
                known=located,
            )
            located.put(own, posterior, copies=store.copies)
            priors.append(state.priors[half].learnt(posterior.nuisances, posterior.shown(state.priors[half].empty)))
            maps.append(model.maps)
            likelihood += float(posterior.log_likelihood.double().sum())
        state = HalfState(step + 1, torch.stack(maps), located, (priors[0], priors[1]))
        report(state, likelihood / (len(store) if subset is None else len(subset)))
    return state


def merge_and_finish(
    store: ParticleStore,
    halves: HalfState,
    schedule: Schedule,
    *,
    report: Callable[[int, float], None],
    advance: Advance = _no_progress,
) -> LinearFit:
    """Fit one model to all particles, starting from what the half sets share, and infer all latent points.

    The nuisances that are reported are of the half sets' own maps: poses found with maps of all particles would let the
    half sets agree on their noise.
    """
    radius = schedule.radii[-1]
    zdim = halves.maps.shape[1] - 1
    problem = schedule.problem(radius, zdim)
    disk = store.disk.within(radius)
    everyone = torch.arange(len(store))
    own = halves.located.copy()
    for half in (0, 1):
        subset = (store.half == half).nonzero().squeeze(1)
        posterior = infer_jointly(
            _pass(store, radius, subset, advance, f"linear: poses of half set {half + 1}"),
            Subspace(padded_grid(2 * radius), halves.maps[half]),
            disk=disk,
            whitening=schedule.whitening,
            prior=halves.priors[half],
            known=own,
            iterations=LOCATE,
        )
        own.put(subset, posterior, copies=store.copies)
    model = Subspace(padded_grid(2 * radius), merged(halves.maps))
    prior = halves.priors[0].averaged(halves.priors[1])
    known = Located(torch.zeros(len(store), zdim), own.copy().nuisances)  # latent points are of other components
    for step in range(schedule.final_iterations):
        label = f"linear: step {len(schedule.half_steps) + step + 1} of {schedule.steps}, all particles"
        batches = _pass(store, radius, None, advance, label)
        model, posterior = joint_em_iteration(
            batches, model, problem, disk=disk, prior=prior, known=known, iterations=1 if step else 2
        )
        known.put(everyone, posterior, copies=store.copies)
        prior = prior.learnt(posterior.nuisances, posterior.shown(prior.empty))
        report(step + 1, float(posterior.log_likelihood.double().mean()))
    batches = _pass(store, radius, None, advance, "linear: latent coordinates")
    posterior = infer_jointly(
        batches, model, disk=disk, whitening=schedule.whitening, prior=prior, known=known, iterations=LOCATE
    )
    known.put(everyone, posterior, copies=store.copies)
    batches = _pass(store, radius, None, advance, "linear: latent coordinates from half of the coefficients")
    split = infer_from_halves(batches, model, disk=disk, whitening=schedule.whitening, prior=prior, known=known)
    fit = in_reported_basis(model.maps, posterior, split=split, halves=halves.maps, prior=prior)
    return replace(fit, nuisances=own.nuisances)


def merged(halves: Float32[Tensor, "two c z y x"]) -> Float32[Tensor, "c z y x"]:
    """Merge the half sets' models: the averaged mean, and the leading components of the averaged covariance."""
    zdim = halves.shape[1] - 1
    both = halves[:, 1:].flatten(0, 1).flatten(1) / 2**0.5
    _, values, right = _left_singular(both, zdim)
    components = (values[:, None] * right).unflatten(1, halves.shape[2:])
    return torch.cat([halves[:, 0].mean(0, keepdim=True), components])


def in_reported_basis(
    maps: Float32[Tensor, "c z y x"],
    posterior: JointPosterior,
    *,
    split: tuple[JointPosterior, JointPosterior],
    halves: Float32[Tensor, "two c z y x"],
    prior: NuisancePrior,
) -> LinearFit:
    """Rotate a fit to orthogonal components of equal norm, ordered by their variance over the particles."""
    shown = posterior.shown(prior.empty)
    centre = (posterior.mean * shown[:, None]).sum(0) / shown.sum()
    second = posterior.second_moment(shown) - torch.outer(centre, centre)
    spread = torch.linalg.cholesky(second.double())
    columns = maps[1:].flatten(1).double()
    # U S U^T = W diag(values^2) W^T with S = spread spread^T: the maps' covariance over the particles
    _, values, basis = _left_singular(spread.T @ columns, len(columns))
    sign = torch.sign((basis**3).sum(1))
    sign[sign == 0] = 1
    scale = values[0]
    turn = (sign / scale)[:, None] * (basis @ columns.T)
    mean_map = maps[0] + torch.tensordot(centre, maps[1:], dims=1)
    components = (sign * scale)[:, None] * basis

    def turned(found: JointPosterior) -> tuple[Float32[Tensor, "n q"], Float32[Tensor, "n q"]]:
        latent = (found.mean - centre).double() @ turn.T
        variance = torch.einsum("kq,nqr,kr->nk", turn, found.covariance.double(), turn)
        return latent.float(), variance.sqrt().float()

    latent, std = turned(posterior)
    return LinearFit(
        torch.cat([mean_map[None], components.unflatten(1, maps.shape[1:]).float()]),
        latent,
        std,
        torch.stack([turned(half)[0] for half in split]),
        split_scores(split, turn),
        posterior.nuisances,
        prior,
        posterior.log_likelihood,
        (values**2).float(),
        reproducibility(basis.float(), halves[:, 1:].flatten(2)),
    )


def split_scores(split: tuple[JointPosterior, JointPosterior], turn: Float64[Tensor, "k q"]) -> Float32[Tensor, "n k"]:
    """What even and odd coefficients say of each coordinate, less one another, in units of what they should differ by.

    The prior, which draws both to the same place, is taken out: `C^-1 - I` is what an image alone knows. Scores are
    normal with a deviation of 1 where the noise is what the model takes it for.
    """
    difference, spread = torch.zeros_like(split[0].mean).double(), 0.0
    for sign, half in zip((1, -1), split, strict=True):
        covariance = half.covariance.double()
        known = torch.linalg.inv(torch.eye(len(covariance[0])) * (1 + LEAST_KNOWN) - covariance)
        difference += sign * (known @ half.mean[..., None].double())[..., 0]
        spread = spread + covariance @ known
    deviation = torch.einsum("kq,nqr,kr->nk", turn, spread, turn).sqrt()
    return ((difference @ turn.T) / deviation).float()


def reproducibility(
    components: Float32[Tensor, "q voxels"], halves: Float32[Tensor, "two q voxels"]
) -> Float32[Tensor, " q"]:
    """Agreement of the half sets on each component: the correlation of its projections onto their two subspaces.

    1 if both subspaces contain the component, 0 if both contain independent noise.
    """
    projections = []
    for half in halves:
        basis = torch.linalg.qr(half.T.double()).Q
        projections.append(components.double() @ basis @ basis.T)
    a, b = projections
    return ((a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1)).clamp(min=1e-12)).float()


def is_reproducible(agreement: Float[np.ndarray, " q"]) -> Bool[np.ndarray, " q"]:
    """Which components the two half sets agree on, by their `reproducibility`."""
    return agreement >= REPRODUCIBLE


def _left_singular(rows: Tensor, keep: int) -> tuple[Tensor, Tensor, Tensor]:
    """Leading singular vectors and values of a few long rows, by way of their small Gram matrix."""
    values, vectors = torch.linalg.eigh((rows @ rows.T).double())
    values, vectors = values.flip(0)[:keep].clamp(min=1e-30).sqrt(), vectors.flip(1)[:, :keep]
    right = (vectors.T.to(rows) @ rows) / values[:, None].to(rows)
    return vectors, values.to(rows), right


def _random_start(start_map: Float32[Tensor, "z y x"], schedule: Schedule, zdim: int, n: int) -> HalfState:
    """The consensus map, and components of white noise shaped by the prior, independent for each half set.

    A start shared by the half sets would remain in both where the data carry no information, and pass for agreement.
    """
    radius = schedule.radii[0]
    generator = torch.Generator().manual_seed(schedule.seed)
    grid = padded_grid(2 * radius)
    mask = schedule.problem(radius, zdim).mask
    shell = grid.radius.round().long()
    inside = grid.radius < radius
    power = COMPONENT_POWER / (grid.padding**3 * schedule.mean_precision[shell.clamp(max=radius)])
    halves = []
    for _ in range(2):
        rows = grid.from_volumes(torch.randn(zdim, *(2 * radius,) * 3, generator=generator) * mask)
        rows = rows * (inside * START_AMPLITUDE * (power / rows[inside].abs().square().mean()).sqrt())[:, None]
        halves.append(torch.cat([rebox(start_map, 2 * radius)[None], grid.to_volumes(rows) * mask]))
    return HalfState(0, torch.stack(halves), Located.unknown(n, zdim), (schedule.nuisances, schedule.nuisances))


def _pass(
    store: ParticleStore, radius: int, subset: Int64[Tensor, " k"] | None, advance: Advance, label: str
) -> Iterator[Batch]:
    """All batches of a subset up to a radius; `advance` is called after each."""
    loader = ParticleLoader(store, batch_size_for(store.disk.count(radius)), radius=radius, subset=subset)
    for batch in loader:
        yield batch
        advance(float(batch.image.numel()), label)
