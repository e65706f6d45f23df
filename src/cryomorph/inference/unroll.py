"""A curved line in a latent space of several dimensions as one coordinate along it."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from jaxtyping import Float32, Float64
from numpy.polynomial.legendre import legvander
from torch import Tensor

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
    node = torch.linspace(-1, 1, NODES, dtype=torch.float64)
    basis = torch.from_numpy(legvander(node.numpy(), DEGREE))
    degree = torch.arange(DEGREE + 1, dtype=torch.float64)
    # a straight line is free
    stiffness = torch.diag(degree**2 * (degree > 1))
    start = along_landscape(best.float().numpy(), seed=seed)
    weight = torch.full((NODES,), 1 / NODES, dtype=torch.float64)
    curve: Float64[Tensor, "nodes q"] | None = None
    for _ in range(ITERATIONS):
        count = torch.zeros(NODES, dtype=torch.float64)
        known, moment = basis.new_zeros(NODES, best.shape[1]), basis.new_zeros(NODES, best.shape[1])
        for chunk in torch.arange(len(best)).split(CHUNK):
            if curve is None:
                share = _near(start[chunk], node)
            else:
                share = _share(best[chunk], information[chunk], curve, weight)
            count += share.sum(0)
            known += share.T @ information[chunk]
            moment += share.T @ (information[chunk] * best[chunk])
        # one system for each coordinate of the space
        system = torch.einsum("ka,kq,kb->qab", basis, known, basis)
        system += STIFFNESS * known.sum(0)[:, None, None] * stiffness
        curve = basis @ torch.linalg.solve(system, (basis.T @ moment).T[..., None])[..., 0].T
        weight = (count + 1) / (count.sum() + NODES)
    step = (torch.diff(_required(curve), dim=0).square() * information.mean(0)).sum(1).sqrt()
    node = torch.cat([step.new_zeros(1), step.cumsum(0)])  # the length along the curve, in units of the noise
    mean, std = [], []
    for chunk in torch.arange(len(best)).split(CHUNK):
        share = _share(best[chunk], information[chunk], _required(curve), weight)
        mean.append(share @ node)
        std.append((share @ node**2 - mean[-1] ** 2).clamp(min=0).sqrt())
    along, spread = torch.cat(mean), torch.cat(std)
    scale = along.std().clamp(min=1e-12)
    least = step.mean() / scale  # a node's own width
    return ((along - along.mean()) / scale).float(), (spread / scale).clamp(min=least).float()


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
    best: Float64[Tensor, "b q"],
    information: Float64[Tensor, "b q"],
    curve: Float64[Tensor, "k q"],
    weight: Float64[Tensor, " k"],
) -> Float64[Tensor, "b k"]:
    """Posterior of the nodes for each particle."""
    distance = information @ (curve**2).T - 2 * (information * best) @ curve.T
    return torch.softmax(weight.log() - 0.5 * distance, dim=1)


def _required(curve: Float64[Tensor, "k q"] | None) -> Float64[Tensor, "k q"]:
    if curve is None:
        raise ValueError("no iteration was made")
    return curve
