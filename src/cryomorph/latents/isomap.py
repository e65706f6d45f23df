"""A one-dimensional coordinate along a curve in latent space: Isomap, then a generative topographic map."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64
from numpy.polynomial.legendre import legvander
from torch import Tensor

from cryomorph.latents.empirical_bayes import membership

LANDMARKS = 2000  # particles that Isomap is fitted to
NEIGHBOURS = 20
NODES = 120  # points on the curve
DEGREE = 8  # of the polynomial that the curve is in each coordinate
STIFFNESS = 3e-3  # penalty on a degree, divided by its square and by the information of all particles
ITERATIONS = 60
CHUNK = 20_000  # particles at once


def curve_coordinate(
    best: Float32[Tensor, "n q"], information: Float32[Tensor, "n q"], *, seed: int = 0
) -> tuple[Float32[Tensor, " n"], Float32[Tensor, " n"]]:
    """Coordinate of each particle along the smooth curve that fits all particles best, and its standard deviation.

    A one-dimensional generative topographic map (Bishop, Svensen and Williams 1998) with the noise of each particle:
    nodes on the curve, which is a polynomial of the coordinate, are weighted by how many particles are near them; curve
    and weights are fitted by expectation-maximisation. It starts from the Isomap coordinate (Tenenbaum et al. 2000),
    because a principal component folds where a curve turns back.

    Args:
        best: maximum-likelihood point of each particle.
        information: inverse variance of each of its coordinates.

    Returns:
        Arc length along the curve, with mean 0 and standard deviation 1 over the particles, and the standard deviation
        of its posterior.
    """
    best, information = best.double(), information.double()
    place = torch.linspace(-1, 1, NODES, dtype=torch.float64)
    start = isomap_coordinate(best.float().numpy(), seed=seed)
    curve, weight = _curve_through(best, information, lambda rows: _near(start[rows], place))
    for _ in range(ITERATIONS - 1):
        share = partial(_share, best, information, curve, weight)
        curve, weight = _curve_through(best, information, share)
    step = (torch.diff(curve, dim=0).square() * information.mean(0)).sum(1).sqrt()
    node = torch.cat([step.new_zeros(1), step.cumsum(0)])  # arc length in units of the noise
    width = torch.gradient(node)[0]
    mean, std = [], []
    for rows in torch.arange(len(best)).split(CHUNK):
        share_of_rows = _share(best, information, curve, weight, rows)
        mean.append(share_of_rows @ node)
        spread = (share_of_rows @ node**2 - mean[-1] ** 2).clamp(min=0).sqrt()
        std.append(torch.maximum(spread, share_of_rows @ width))  # a node stands for a stretch of the curve
    along = torch.cat(mean)
    scale = along.std().clamp(min=1e-12)
    return ((along - along.mean()) / scale).float(), (torch.cat(std) / scale).float()


def _curve_through(
    best: Float64[Tensor, "n q"],
    information: Float64[Tensor, "n q"],
    share_of: Callable[[Int64[Tensor, " b"]], Float64[Tensor, "b nodes"]],
) -> tuple[Float64[Tensor, "nodes q"], Float64[Tensor, " nodes"]]:
    """M-step: the smooth curve closest to the particles, given their memberships in nodes, and the nodes' weights.

    A polynomial of the node's position for each coordinate; `STIFFNESS` penalises the degrees above 1.
    """
    place = np.linspace(-1, 1, NODES)
    basis = torch.from_numpy(legvander(place, DEGREE))
    degree = torch.arange(DEGREE + 1, dtype=torch.float64)
    count = basis.new_zeros(NODES)
    known, moment = basis.new_zeros(NODES, best.shape[1]), basis.new_zeros(NODES, best.shape[1])
    for rows in torch.arange(len(best)).split(CHUNK):
        share = share_of(rows)
        count += share.sum(0)
        known += share.T @ information[rows]
        moment += share.T @ (information[rows] * best[rows])
    # one system for each coordinate of the space
    system = torch.einsum("ka,kq,kb->qab", basis, known, basis)
    system += STIFFNESS * known.sum(0)[:, None, None] * torch.diag(degree**2 * (degree > 1))
    curve = basis @ torch.linalg.solve(system, (basis.T @ moment).T[..., None])[..., 0].T
    return curve, (count + 1) / (count.sum() + NODES)


def isomap_coordinate(points: Float32[np.ndarray, "n q"], *, seed: int = 0) -> Float64[Tensor, " n"]:
    """Isomap coordinate from landmarks, scaled to -0.9 to 0.9; disconnected clusters are joined where closest."""
    from sklearn.manifold import Isomap

    order = np.random.default_rng(seed).permutation(len(points))[:LANDMARKS]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The number of connected components")
        warnings.filterwarnings("ignore", "Changing the sparsity structure")
        fitted = Isomap(n_neighbors=min(NEIGHBOURS, len(order) - 1), n_components=1).fit(points[order])
        parts = [fitted.transform(part)[:, 0] for part in np.array_split(points, -(-len(points) // CHUNK))]
    along = torch.from_numpy(np.concatenate(parts)).double()
    low, high = along.min(), along.max()
    return (along - low) / (high - low).clamp(min=1e-12) * 1.8 - 0.9


def _near(start: Float64[Tensor, " b"], node: Float64[Tensor, " k"]) -> Float64[Tensor, "b k"]:
    """Membership of particles in the nodes near their coordinate."""
    return torch.softmax(-0.5 * ((start[:, None] - node) / 0.05) ** 2, dim=1)


def _share(
    best: Float64[Tensor, "n q"],
    information: Float64[Tensor, "n q"],
    curve: Float64[Tensor, "k q"],
    weight: Float64[Tensor, " k"],
    rows: Int64[Tensor, " b"],
) -> Float64[Tensor, "b k"]:
    return membership(best[rows], information[rows], curve, weight=weight)
