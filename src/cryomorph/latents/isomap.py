"""A curved line in a latent space of several dimensions as one coordinate along it."""

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

LANDMARKS = 2000
NEIGHBOURS = 20
NODES = 120
DEGREE = 8
STIFFNESS = 3e-3  # of the information of all particles, times the square of a polynomial's degree
ITERATIONS = 60
CHUNK = 20_000


def unrolled(
    best: Float32[Tensor, "n q"], information: Float32[Tensor, "n q"], *, seed: int = 0
) -> tuple[Float32[Tensor, " n"], Float32[Tensor, " n"]]:
    """Coordinate of each particle along the curve that all of them make, and its standard deviation.

    A generative topographic map of one dimension (Bishop, Svensen and Williams 1998), with each particle's own noise:
    points on a smooth curve, a polynomial of the coordinate, are as likely as particles lie near them; the curve and
    these weights are fitted by expectation-maximisation. It starts from the distance along the landscape by Isomap
    (Tenenbaum et al. 2000); the first principal component of a curve folds where the curve turns back.

    Args:
        best: each particle's most likely point.
        information: inverse variance of each coordinate of it.

    Returns:
        the length along the curve, of mean 0 and standard deviation 1 over the particles, and its posterior's standard
        deviation.
    """
    best, information = best.double(), information.double()
    place = torch.linspace(-1, 1, NODES, dtype=torch.float64)
    start = along_landscape(best.float().numpy(), seed=seed)
    curve, weight = _curve_through(best, information, lambda rows: _near(start[rows], place))
    for _ in range(ITERATIONS - 1):
        share = partial(_share, best, information, curve, weight)
        curve, weight = _curve_through(best, information, share)
    step = (torch.diff(curve, dim=0).square() * information.mean(0)).sum(1).sqrt()
    node = torch.cat([step.new_zeros(1), step.cumsum(0)])  # the length along the curve, in units of the noise
    width = torch.gradient(node)[0]
    mean, std = [], []
    for rows in torch.arange(len(best)).split(CHUNK):
        share_of_rows = _share(best, information, curve, weight, rows)
        mean.append(share_of_rows @ node)
        spread = (share_of_rows @ node**2 - mean[-1] ** 2).clamp(min=0).sqrt()
        std.append(torch.maximum(spread, share_of_rows @ width))  # a node is a stretch of the curve, not a point
    along = torch.cat(mean)
    scale = along.std().clamp(min=1e-12)
    return ((along - along.mean()) / scale).float(), (torch.cat(std) / scale).float()


def _curve_through(
    best: Float64[Tensor, "n q"],
    information: Float64[Tensor, "n q"],
    share_of: Callable[[Int64[Tensor, " b"]], Float64[Tensor, "b nodes"]],
) -> tuple[Float64[Tensor, "nodes q"], Float64[Tensor, " nodes"]]:
    """The smooth curve that is nearest to the particles, each of which belongs to nodes by shares, and their weights.

    A polynomial of the node's place along the line for each coordinate; a straight line is free, what bends is held by
    `STIFFNESS`.
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


def along_landscape(points: Float32[np.ndarray, "n q"], *, seed: int = 0) -> Float64[Tensor, " n"]:
    """Distance along a curve by Isomap on landmarks, from -0.9 to 0.9; clusters apart are joined where nearest."""
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
    """Membership of particles in nodes near a coordinate."""
    return torch.softmax(-0.5 * ((start[:, None] - node) / 0.05) ** 2, dim=1)


def _share(
    best: Float64[Tensor, "n q"],
    information: Float64[Tensor, "n q"],
    curve: Float64[Tensor, "k q"],
    weight: Float64[Tensor, " k"],
    rows: Int64[Tensor, " b"],
) -> Float64[Tensor, "b k"]:
    return membership(best[rows], information[rows], curve, weight=weight)
