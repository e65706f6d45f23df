"""Latent points located together with what else moves an image: its contrast, and the errors of its pose.

Gauss-Newton on each image by itself, linearised at every iteration about the particle's own map; the covariance at the
end is that of the latent point whatever the pose. See docs/methods.md, "Linear subspace".
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Complex64, Float32, Int64
from torch import Tensor

from cryomorph.latents.nuisance import SHIFT, NuisancePrior, Nuisances, within_reach
from cryomorph.latents.ppca import Subspace
from cryomorph.particles.store import Batch
from cryomorph.physics.slicing import PaddedGrid, Slices, locate_slices


@dataclass(frozen=True)
class JointPosterior:
    """Posterior of the particles of one pass, as a Gaussian about its mode.

    `mean` (n, q) and `covariance` (n, q, q) are of the latent point whatever the nuisances; `with_contrast` (n, q) and
    `with_shift` (n, q, 2) are its covariances with them, `shift_covariance` (n, 2, 2) is that of the shift alone;
    `log_likelihood` (n,) is marginal: how many nats more the model gives an image than noise alone does.
    """

    mean: Float32[Tensor, "n q"]
    covariance: Float32[Tensor, "n q q"]
    with_contrast: Float32[Tensor, "n q"]
    with_shift: Float32[Tensor, "n q 2"]
    shift_covariance: Float32[Tensor, "n 2 2"]
    nuisances: Nuisances
    log_likelihood: Float32[Tensor, " n"]

    @staticmethod
    def cat(parts: list[JointPosterior]) -> JointPosterior:
        """Concatenate the posteriors of several batches."""
        nuisances = Nuisances(
            torch.cat([part.nuisances.value for part in parts]), torch.cat([part.nuisances.variance for part in parts])
        )
        names = [f.name for f in fields(JointPosterior) if f.name != "nuisances"]
        tensors = {name: torch.cat([getattr(part, name) for part in parts]) for name in names}
        return JointPosterior(**tensors, nuisances=nuisances)

    def shown(self, empty: float) -> Float32[Tensor, " n"]:
        """Probability that each image shows a particle, where the given share of images does not."""
        return torch.sigmoid(self.log_likelihood + torch.logit(torch.tensor(1 - empty)))

    def second_moment(self, shown: Float32[Tensor, " n"]) -> Float32[Tensor, "q q"]:
        """`E[z z^T]` averaged over the images, each counting by the probability that it shows a particle."""
        total = (self.mean * shown[:, None]).T @ self.mean + (self.covariance * shown[:, None, None]).sum(0)
        return total / shown.sum()

    def moments(self) -> tuple[Float32[Tensor, "n c"], Float32[Tensor, "n c c"]]:
        """`E[a e]` and `E[a^2 e e^T]` of `e = (1, z)` and the contrast `a`, which are normal together."""
        a = self.nuisances.contrast[:, None]
        e = torch.cat([torch.ones_like(a), self.mean], dim=1)
        variance = self.nuisances.variance[:, 0, None, None]
        cross = torch.nn.functional.pad(self.with_contrast, (1, 0))
        spread = torch.nn.functional.pad(self.covariance, (1, 0, 1, 0))
        both = 2 * a[..., None] * e[:, :, None] * cross[:, None, :]
        second = (
            (a[..., None].square() + variance) * (e[:, :, None] * e[:, None, :] + spread)
            + both
            + both.mT
            + 2 * cross[:, :, None] * cross[:, None, :]
        )
        return a * e + cross, second


def seen_through_shifts(
    found: JointPosterior, first: Float32[Tensor, "b c"], cycles: Float32[Tensor, "m 2"]
) -> Complex64[Tensor, "b m c"]:
    """`E[a e exp(-2 pi i k t)]` over what remains unknown of the shift `t`: how far an image's phases can be trusted.

    Args:
        first: `E[a e]`.
        cycles: frequencies in cycles per pixel.
    """
    angular = 2 * torch.pi * cycles.to(first)
    attenuation = torch.exp(-0.5 * torch.einsum("mi,bij,mj->bm", angular, found.shift_covariance, angular))
    tilted = torch.einsum("mi,bqi->bmq", angular, found.with_shift) * found.nuisances.contrast[:, None, None]
    expected = torch.complex(first[:, None].expand(-1, len(cycles), -1), -torch.nn.functional.pad(tilted, (1, 0)))
    return expected * attenuation[..., None]


def gradient_rows(grid: PaddedGrid, maps: Float32[Tensor, "c z y x"]) -> Complex64[Tensor, "rows c4"]:
    """Grid rows of maps, then of the maps times x, y and z: their slices give the gradient of the maps' transform."""
    line = torch.arange(grid.box) - grid.box // 2
    moments = [maps, maps * line, maps * line[:, None], maps * line[:, None, None]]
    return grid.from_volumes(torch.cat(moments))


@dataclass(frozen=True)
class _Linearised:
    """A posterior to second order about a point: its height there, and the step to its mode and its covariance."""

    height: Float32[Tensor, " b"]
    log_likelihood: Float32[Tensor, " b"]
    step: Float32[Tensor, "b p"]
    covariance: Float32[Tensor, "b p p"]

    def where(self, better: Bool[Tensor, " b"], other: _Linearised) -> _Linearised:
        """This one for some particles, another for the rest."""
        chosen = {}
        for f in fields(self):
            mine, theirs = getattr(self, f.name), getattr(other, f.name)
            chosen[f.name] = torch.where(better.view(-1, *[1] * (mine.ndim - 1)), mine, theirs)
        return _Linearised(**chosen)


@dataclass(frozen=True)
class JointModel:
    """A subspace with all that the E-step needs of it.

    `frequency` (m, 2) holds the coefficients of the images, in Fourier pixels of their own `box`.
    """

    grid: PaddedGrid
    rows: Complex64[Tensor, "rows columns"]
    frequency: Int64[Tensor, "m 2"]
    box: int
    zdim: int
    prior: NuisancePrior

    @classmethod
    def of(cls, model: Subspace, prior: NuisancePrior, *, frequency: Int64[Tensor, "m 2"], box: int) -> JointModel:
        """Transform the maps; the gradients only where rotations are free."""
        rows = gradient_rows(model.grid, model.maps) if prior.rotation_rad else model.grid.from_volumes(model.maps)
        return cls(model.grid, rows, frequency, box, model.zdim, prior)

    @property
    def free(self) -> Int64[Tensor, " p"]:
        """Which of the latent coordinates, then the nuisances, are estimated."""
        return torch.tensor([*range(self.zdim), *(self.zdim + number for number in self.prior.free)])

    @property
    def precision(self) -> Float32[Tensor, " p"]:
        """The prior's precision of the latent coordinates, then of the nuisances that are free."""
        free = self.prior.deviation[self.prior.free]
        return torch.cat([torch.ones(self.zdim), free.square().reciprocal()])

    def columns(
        self, moved: Batch, slices: Slices, *, z: Float32[Tensor, "b q"], contrast: Float32[Tensor, " b"]
    ) -> tuple[Complex64[Tensor, "b m"], Complex64[Tensor, "b m p"]]:
        """The predicted image at contrast 1, and the derivatives of the prediction by all that is free."""
        count = self.zdim + 1
        sampled = slices.extract(self.rows) * moved.ctf[..., None]
        e = torch.cat([torch.ones(len(z), 1), z], dim=1).to(sampled.dtype)
        own = (sampled[..., :count] @ e[..., None])[..., 0]
        a = contrast[:, None]
        frequency = self.frequency.to(a)
        derivatives = [own]
        if self.prior.rotation_rad:
            gradient = (sampled[..., count:].unflatten(-1, (3, count)) @ e[:, None, :, None])[..., 0]
            # along the image's axes, where a turn by w moves the frequency (kx, ky, 0) by its cross product with w
            gx, gy, gz = (gradient @ moved.rotation.mT.to(gradient.dtype)).unbind(-1)
            kx, ky = (-2j * torch.pi / self.grid.box * frequency).T
            derivatives += [-a * ky * gz, a * kx * gz, a * (ky * gx - kx * gy)]
        else:
            derivatives += [own] * 3
        # moving the image by t is moving the model by -t
        derivatives += list((a[..., None] * own[..., None] * (2j * torch.pi / self.box) * frequency).unbind(-1))
        chosen = [derivatives[number] for number in self.prior.free]
        return own, torch.cat([a[..., None] * sampled[..., 1:count], *[c[..., None] for c in chosen]], dim=-1)

    def locate(
        self, batch: Batch, z: Float32[Tensor, "b q"], start: Float32[Tensor, "b 6"], *, iterations: int
    ) -> JointPosterior:
        """Iterate from a latent point and nuisances; the batch has unit noise and the given poses.

        A step that makes the posterior smaller is halved; the last one is not tried.
        """
        free, q = self.free, self.zdim
        at = best = torch.cat([z, start], dim=1)
        known = self._linearised(batch, at)
        step = known.step
        for iteration in range(iterations):
            if iteration:
                found = self._linearised(batch, at)
                better = found.height >= known.height
                best = torch.where(better[:, None], at, best)
                step = torch.where(better[:, None], found.step, step / 2)
                known = found.where(better, known)
            at = best.clone()
            at[:, free] += step
            at = torch.cat([at[:, :q], within_reach(at[:, q:])], dim=1)
        whole = torch.zeros(len(batch), q + 6, q + 6)
        whole[:, free[:, None], free] = known.covariance
        variance = whole.diagonal(dim1=1, dim2=2)[:, q:].clone()
        of_shifts = whole[:, q:, q:][:, SHIFT, SHIFT]
        return JointPosterior(
            at[:, :q],
            whole[:, :q, :q],
            whole[:, :q, q],
            whole[:, :q, q:][..., SHIFT],
            of_shifts,
            Nuisances(at[:, q:], variance),
            known.log_likelihood,
        )

    def _linearised(self, batch: Batch, at: Float32[Tensor, "b every"]) -> _Linearised:
        z, nuisance = at[:, : self.zdim], at[:, self.zdim :]
        moved = batch.moved(nuisance[:, 1:], self.frequency / self.box)
        slices = locate_slices(self.grid, self.frequency, moved.rotation)
        contrast = 1 + nuisance[:, 0]
        own, columns = self.columns(moved, slices, z=z, contrast=contrast)
        here, precision = at[:, self.free], self.precision
        residual = torch.view_as_real(moved.image - contrast[:, None] * own).flatten(1)
        real = torch.view_as_real(columns).transpose(2, 3).flatten(1, 2)
        # sums over the half-plane are half of those over the whole plane
        gram = 2 * real.mT @ real + torch.diag(precision)
        pull = 2 * (real.mT @ residual[..., None])[..., 0] - precision * here
        factor = torch.linalg.cholesky(gram)
        step = torch.cholesky_solve(pull[..., None], factor)[..., 0]
        height = -residual.square().sum(1) - 0.5 * (precision * here.square()).sum(1)
        likelihood = (
            torch.view_as_real(batch.image).square().sum((1, 2))
            + height
            + 0.5 * (pull * step).sum(1)
            - factor.diagonal(dim1=1, dim2=2).log().sum(1)
            + 0.5 * precision.log().sum()
        )
        return _Linearised(height, likelihood, step, torch.cholesky_inverse(factor))
