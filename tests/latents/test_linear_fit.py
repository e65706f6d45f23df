"""The schedule of a linear fit: bands, merging, the reported basis, half-set agreement, and interruptions."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.linalg import subspace_angles

from cryomorph.config.simulate import SimulateConfig
from cryomorph.latents.joint import JointPosterior
from cryomorph.latents.linear_fit import (
    FIRST_RADIUS,
    FIRST_REPEATS,
    HalfState,
    LinearFit,
    Schedule,
    fit_halves,
    growing_radii,
    in_reported_basis,
    merge_and_finish,
    merged,
    reproducibility,
    split_scores,
)
from cryomorph.latents.nuisance import NuisancePrior
from cryomorph.particles.metadata import read_particles
from cryomorph.particles.prepare import prepare
from cryomorph.particles.store import ParticleStore
from cryomorph.physics.pose import Pose
from cryomorph.simulation.sets import simulate_set
from cryomorph.volumes.backproject import reconstruct
from cryomorph.volumes.masks import spherical_mask
from fixtures.posteriors import of_latents

BOX = 6
FIXED = NuisancePrior(0.0, 0.0, 0.0, 0.0)


@pytest.mark.parametrize("last", [4, 6, 7, 8, 12, 16, 24, 32])
def test_bands_grow_from_the_first_to_the_last(last):
    radii = growing_radii(last)
    assert radii[-1] == last
    assert all(small < large for small, large in pairwise(radii))
    assert radii[0] == (FIRST_RADIUS if last > FIRST_RADIUS / 0.9 else last)
    assert all(isinstance(radius, int) for radius in radii)


def halves_of(seed: int, zdim: int = 3) -> torch.Tensor:
    return torch.randn(2, zdim + 1, BOX, BOX, BOX, generator=torch.Generator().manual_seed(seed))


def covariance(components: torch.Tensor) -> np.ndarray:
    columns = components.flatten(1).double().numpy()
    return columns.T @ columns


def test_merged_is_the_best_low_rank_covariance_of_both_halves():
    halves = halves_of(0)
    found = merged(halves)
    torch.testing.assert_close(found[0], halves[:, 0].mean(0))
    values, vectors = np.linalg.eigh((covariance(halves[0, 1:]) + covariance(halves[1, 1:])) / 2)
    best = (vectors[:, -3:] * values[-3:]) @ vectors[:, -3:].T
    np.testing.assert_allclose(covariance(found[1:]), best, atol=1e-3 * values[-1])


def test_merging_a_model_with_itself_changes_nothing():
    one = halves_of(1)[:1]
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(2))).Q
    turned = torch.cat([one[0, :1], torch.tensordot(turn, one[0, 1:], dims=1)])[None]
    found = merged(torch.cat([one, turned]))
    np.testing.assert_allclose(covariance(found[1:]), covariance(one[0, 1:]), atol=1e-2)


@pytest.fixture(scope="module")
def raw() -> tuple[torch.Tensor, JointPosterior]:
    """A model in a skew basis whose latent is off centre, and the posterior of 200 images."""
    rng = np.random.default_rng(4)
    maps = halves_of(3)[0]
    maps[2] += 2 * maps[1]
    mean = rng.normal(size=(200, 3)) @ np.array([[1.0, 0.4, 0.0], [0.0, 0.5, 0.3], [0.0, 0.0, 1.4]]) + [0.5, -1.0, 0.2]
    roots = rng.normal(size=(200, 3, 3)) * 0.3
    spread = roots @ roots.transpose(0, 2, 1) + 0.05 * np.eye(3)
    return maps, of_latents(torch.tensor(mean).float(), torch.tensor(spread).float())


@pytest.fixture(scope="module")
def reported(raw) -> LinearFit:
    return in_reported_basis(raw[0], raw[1], split=(raw[1], raw[1]), halves=halves_of(3), prior=FIXED)


def test_reported_components_are_orthogonal_and_of_equal_norm(reported):
    gram = covariance(reported.maps[1:].flatten(1).T.reshape(-1, 3))
    norm = gram[0, 0]
    np.testing.assert_allclose(gram, norm * np.eye(3), atol=1e-4 * norm)


def test_reported_maps_are_those_before_the_change_of_basis(raw, reported):
    maps, posterior = raw
    before = maps[0] + torch.tensordot(posterior.mean, maps[1:], dims=1)
    after = reported.maps[0] + torch.tensordot(reported.latent_mean, reported.maps[1:], dims=1)
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4)


def test_reported_latent_is_centred_ordered_and_scaled(raw, reported):
    z = reported.latent_mean.double()
    torch.testing.assert_close(z.mean(0), torch.zeros(3).double(), atol=1e-5, rtol=0)
    total = z.T @ z / len(z)
    # what a coordinate varies by: the means' spread and the posteriors' own; uncorrelated, descending, the first 1
    maps, posterior = raw
    change = np.linalg.lstsq((posterior.mean - posterior.mean.mean(0)).numpy(), z.numpy(), rcond=None)[0]
    total = total.numpy() + change.T @ posterior.covariance.double().mean(0).numpy() @ change
    np.testing.assert_allclose(total, np.diag(np.diag(total)), atol=1e-4)
    assert total[0, 0] == pytest.approx(1, abs=1e-4)
    assert (np.diff(np.diag(total)) < 0).all()
    # the variance of a component is that of the maps: z's times the component's squared norm
    norm = float(reported.maps[1].square().sum())
    np.testing.assert_allclose(reported.variance, np.diag(total) * norm, rtol=1e-4)
    columns = maps[1:].flatten(1).double().numpy()
    second = np.cov(posterior.mean.double().numpy().T, bias=True) + posterior.covariance.double().mean(0).numpy()
    assert float(reported.variance.sum()) == pytest.approx(np.trace(second @ columns @ columns.T), rel=1e-4)


def test_reported_spread_is_the_covariance_turned(raw, reported):
    _, posterior = raw
    centred = (posterior.mean - posterior.mean.mean(0)).double().numpy()
    change = np.linalg.lstsq(centred, reported.latent_mean.double().numpy(), rcond=None)[0]
    expected = np.stack([np.diag(change.T @ c @ change) for c in posterior.covariance.double().numpy()])
    np.testing.assert_allclose(reported.latent_std.numpy() ** 2, expected, rtol=1e-3, atol=1e-6)
    for half in reported.latent_split:
        torch.testing.assert_close(half, reported.latent_mean)


def test_scores_of_halves_with_the_noise_that_they_say_have_a_deviation_of_one():
    """Two measurements of the same points, each with a known precision, combined with the prior by Bayes's rule."""
    rng = np.random.default_rng(6)
    n, z, turn = 4000, rng.normal(size=(4000, 2)), np.array([[1.0, 0.4], [0.0, 2.0]])
    halves = []
    for _ in range(2):
        roots = rng.normal(size=(n, 2, 2)) * 0.7
        precision = roots @ roots.transpose(0, 2, 1) + 0.2 * np.eye(2)
        noise = np.linalg.cholesky(np.linalg.inv(precision)) @ rng.normal(size=(n, 2, 1))
        covariance = np.linalg.inv(precision + np.eye(2))
        mean = covariance @ precision @ (z[..., None] + noise)
        halves.append(of_latents(torch.from_numpy(mean[..., 0]).float(), torch.from_numpy(covariance).float()))
    score = split_scores((halves[0], halves[1]), torch.from_numpy(turn))
    np.testing.assert_allclose(score.std(0).numpy(), 1, atol=0.03)


def test_reproducibility_is_one_in_the_same_subspace_and_zero_in_orthogonal_ones():
    basis = torch.linalg.qr(torch.randn(50, 6, generator=torch.Generator().manual_seed(5))).Q.T.contiguous()
    skew = torch.tensor([[1.0, 2.0, 0.0], [0.0, 0.3, 1.0], [2.0, 0.0, 1.0]])
    same = torch.stack([basis[:3], skew @ basis[:3]])
    torch.testing.assert_close(reproducibility(basis[:3], same), torch.ones(3))
    apart = torch.stack([basis[:3], basis[3:]])
    mixed = (basis[:3] + basis[3:]) / 2**0.5
    torch.testing.assert_close(reproducibility(mixed, apart), torch.zeros(3), atol=1e-6, rtol=0)
    # components that neither half holds are not reproduced either, and divide by nothing
    assert bool(torch.isfinite(reproducibility(basis[3:], torch.stack([basis[:3], basis[:3]]))).all())


def test_reproducibility_is_the_cosine_between_two_directions():
    """One component each, at 60 degrees: the component halfway projects onto both, and these are 60 degrees apart."""
    a, b = torch.tensor([1.0, 0.0]), torch.tensor([0.5, 3**0.5 / 2])
    halfway = (a + b)[None] / (a + b).norm()
    found = reproducibility(halfway, torch.stack([a[None], b[None]]))
    assert float(found[0]) == pytest.approx(0.5, abs=1e-6)


def schedule_for(store: ParticleStore, precision: torch.Tensor, **changes) -> Schedule:
    plain = Schedule(
        radii=growing_radii(store.box // 2),
        iterations=2,
        final_iterations=2,
        mean_precision=precision,
        whitening=torch.ones(store.disk.size),
        mask=spherical_mask(store.box, 0.9 * store.box / 2, 0.1 * store.box / 2),
        mean_mask=spherical_mask(store.box, 0.9 * store.box / 2, 0.1 * store.box / 2),
        nuisances=FIXED,
        seed=0,
    )
    return replace(plain, **changes)


def schedule_of(run, **changes) -> Schedule:
    return schedule_for(run.store(), run.spectra().precision, **changes)


def fit(run, schedule: Schedule, resume: HalfState | None = None) -> tuple[list[HalfState], list[float], LinearFit]:
    states, likelihoods = [], []

    def report(state: HalfState, likelihood: float) -> None:
        states.append(state)
        likelihoods.append(likelihood)

    store = run.store()
    halves = fit_halves(store, run.consensus_map(), schedule, zdim=2, resume=resume, report=report)
    finished = merge_and_finish(store, halves, schedule, report=lambda step, likelihood: likelihoods.append(likelihood))
    return states, likelihoods, finished


def same(a: LinearFit, b: LinearFit) -> bool:
    names = [name for name in LinearFit.__dataclass_fields__ if name not in ("nuisances", "prior")]
    alike = all(torch.equal(getattr(a, name), getattr(b, name)) for name in names)
    return alike and torch.equal(a.nuisances.value, b.nuisances.value)


@pytest.fixture(scope="module")
def whole(tiny_run) -> tuple[list[HalfState], list[float], LinearFit]:
    return fit(tiny_run, schedule_of(tiny_run))


def test_fit_finds_the_hinge(whole, tiny_set):
    states, likelihoods, finished = whole
    assert len(states) == 2 * (FIRST_REPEATS + len(growing_radii(8)) - 1)
    assert [state.step for state in states] == list(range(1, len(states) + 1))
    assert len(likelihoods) == len(states) + 2
    coord = np.load(tiny_set / "truth.npz")["coord"]
    design = np.c_[np.ones(len(coord)), finished.latent_mean, finished.latent_mean**2]
    predicted = design @ np.linalg.lstsq(design, coord, rcond=None)[0]
    assert np.corrcoef(predicted, coord)[0, 1] > 0.9
    assert float(finished.reproducibility[0]) > 0.8
    assert bool((finished.latent_std > 0).all())


@pytest.mark.parametrize("step", [1, 6, 8])
def test_interrupted_fit_ends_the_same(tiny_run, whole, step):
    states, likelihoods, finished = whole
    again, rest, resumed = fit(tiny_run, schedule_of(tiny_run), resume=states[step - 1])
    assert same(resumed, finished)
    assert [state.step for state in again] == list(range(step + 1, len(states) + 1))
    assert rest == likelihoods[step:]


@pytest.mark.parametrize("kept", [slice(None), slice(100, 300)])
def test_halves_of_a_subset_are_those_of_a_store_that_holds_nothing_else(tiny_run, kept):
    """Particles that are left out could lie anywhere."""
    store, schedule = tiny_run.store(), schedule_of(tiny_run, radii=(6,), iterations=1)
    subset = torch.arange(len(store))[kept]
    pose = store.require_pose()
    rotation = torch.eye(3).repeat(len(store), 1, 1)
    rotation[subset] = pose.rotation[subset]
    options = {"zdim": 1, "report": lambda state, likelihood: None}
    start = tiny_run.consensus_map()
    found = fit_halves(store, start, schedule, subset=subset, **options)
    other = fit_halves(store.with_pose(Pose(rotation, pose.shift_A)), start, schedule, subset=subset, **options)
    assert torch.equal(found.maps, other.maps)
    everything = fit_halves(store, start, schedule, **options)
    assert torch.equal(found.maps, everything.maps) == (len(subset) == len(store))


def test_same_seed_is_bit_identical_and_another_is_not(tiny_run, whole):
    assert same(fit(tiny_run, schedule_of(tiny_run))[2], whole[2])
    other = fit(tiny_run, schedule_of(tiny_run, seed=1))[2]
    assert not torch.equal(other.latent_mean, whole[2].latent_mean)
    # yet the answer is the same: the first component is the data's, not the seed's
    angle = subspace_angles(other.maps[1].reshape(-1, 1).numpy(), whole[2].maps[1].reshape(-1, 1).numpy())
    assert np.rad2deg(angle[0]) < 15


def test_mask_follows_the_band_and_bounds_every_map(tiny_run):
    mask = torch.zeros(16, 16, 16)
    mask[4:12, 4:12, 5:12] = 1
    schedule = schedule_of(tiny_run, mask=mask)
    for radius in schedule.radii:
        small = schedule.problem(radius, 2).mask
        assert small.shape == (2 * radius,) * 3
        assert 0 <= float(small.min()) <= float(small.max()) <= 1
        assert float(small.mean()) == pytest.approx(float(mask.mean()), rel=0.2)
    assert torch.equal(schedule.problem(8, 2).mask, mask)
    finished = fit(tiny_run, schedule)[2]
    assert float(finished.maps[1:, mask == 0].abs().max()) < 1e-6 * float(finished.maps.abs().max())


def test_contrast_is_estimated_when_asked(tiny_run, whole):
    finished = fit(tiny_run, schedule_of(tiny_run, nuisances=NuisancePrior(0.2, 0.0, 0.0)))[2]
    assert float(finished.nuisances.contrast.std()) > 0
    assert float(finished.nuisances.contrast.mean()) == pytest.approx(1, abs=0.1)
    assert torch.equal(whole[2].nuisances.contrast, torch.ones(400))


def test_poses_of_a_half_set_are_those_of_its_own_maps(tiny_run, whole):
    """Whatever the other half set's maps are; the latent points come from both."""
    store, free = tiny_run.store(), NuisancePrior()
    state = replace(whole[0][-1], priors=(free, free))
    other = replace(state, maps=torch.stack([state.maps[0], state.maps[1].flip(1)]))
    schedule = schedule_of(tiny_run, final_iterations=1)
    a, b = (merge_and_finish(store, each, schedule, report=lambda step, likelihood: None) for each in (state, other))
    own = store.half == 0
    assert torch.equal(a.nuisances.value[own], b.nuisances.value[own])
    assert float(a.nuisances.value[own].abs().min()) > 0
    assert not (a.nuisances.value[~own] == b.nuisances.value[~own]).all(1).any()
    assert not torch.equal(a.latent_mean, b.latent_mean)


@pytest.fixture(scope="module")
def noise_store(tmp_path_factory) -> ParticleStore:
    """Images of next to nothing but noise."""
    folder: Path = tmp_path_factory.mktemp("noise")
    simulate_set(SimulateConfig("rigid", folder / "set", n=400, box=16, pixel_A=16.0, snr=1e-6, seed=5))
    return prepare(read_particles(folder / "set" / "particles.star"), folder / "store", invert="no")


def test_noise_is_not_reproduced(noise_store):
    consensus = reconstruct(noise_store)
    schedule = schedule_for(noise_store, consensus.precision, iterations=3)
    halves = fit_halves(noise_store, consensus.map, schedule, zdim=3, report=lambda state, likelihood: None)
    finished = merge_and_finish(noise_store, halves, schedule, report=lambda step, likelihood: None)
    assert float(finished.reproducibility.abs().max()) < 0.35
