"""Pose search by branch and bound with frequency marching over SO(3) x R^2.

Zhong et al., ICLR 2020, appendix A; docs/methods.md, "Ab initio". Poses are searched against a map, or against a linear
subspace of maps with the latent point of every image integrated out. The loss of a slice S for an image X, centred by
t, expands to `|X|^2 - 2 Re <C X_t, S> + <C^2, |S|^2>`: matrix products with a bank of slices that all images share,
with the CTF and the shift applied to the image. The noise of a complex coefficient has variance 1, so that the
log-likelihood is minus the loss.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Complex64, Float32, Int64
from torch import Tensor

from cryomorph.models.gauss_newton import Unknowns, gauss_newton
from cryomorph.particles.store import Batch
from cryomorph.physics.disk import FourierDisk
from cryomorph.physics.pose import rotation_from_rotvec, shift_phase
from cryomorph.physics.slicing import PaddedGrid, locate_slices, padded_grid
from cryomorph.physics.so3_grid import CHILDREN, children, grid_rotations, grid_size
from cryomorph.poses.evidence import PoseEvidence
from cryomorph.poses.slice_bank import POINTS, SliceBank, shift_grid, shift_step
from cryomorph.representations.linear import LinearSubspace

MAX_SCORES = 1 << 22  # likelihoods held in memory at once
MAX_BANK = 1 << 25  # coefficients of a bank that is computed once, instead of a slice for each candidate
SHIFT_RANGE = 0.08  # of the box: largest distance of a particle from the image's centre (the paper's 10 pixels of 128)
SHIFTS_PER_AXIS = 3  # tried around the shift of a candidate
GAUSS_NEWTON_POINTS = 1 << 16  # coefficients whose derivatives are held in memory at once
POLISH_PRIOR = (0.2, 3.0)  # standard deviation in radians and pixels, which limits the steps of Gauss-Newton


@dataclass(frozen=True)
class Level:
    """One level of the search: level of the grid of SO(3), radius in Fourier pixels, and candidates kept per image."""

    grid: int
    radius: float | int
    beams: int


@dataclass(frozen=True)
class SearchPlan:
    """Levels from coarse to fine, and the shifts tried at the first.

    `shift_pixel` is the range in each direction along both axes. The first level tries shifts a third of the shortest
    wavelength apart; each further level halves the step around every candidate. After the last level the `polished`
    best candidates of each image are refined by `steps` of Gauss-Newton, at the last level's radius.
    """

    levels: tuple[Level, ...]
    shift_pixel: float
    polished: int = 2
    steps: int = 4


@dataclass(frozen=True)
class FoundPoses:
    """Best pose of each image: rotation, shift (pixels) that centres it, log-likelihood minus that of pure noise.

    `z` is the most probable latent point at that pose; `log_likelihood` includes its prior.
    """

    rotation: Float32[Tensor, "b 3 3"]
    shift: Float32[Tensor, "b 2"]
    z: Float32[Tensor, "b q"]
    log_likelihood: Float32[Tensor, " b"]

    @staticmethod
    def at(rotation: Float32[Tensor, "b 3 3"], shift: Float32[Tensor, "b 2"], zdim: int = 0) -> FoundPoses:
        """Given poses, with z = 0 and a log-likelihood of 0."""
        return FoundPoses(rotation, shift, shift.new_zeros(len(shift), zdim), shift.new_zeros(len(shift)))

    @staticmethod
    def cat(parts: Sequence[FoundPoses]) -> FoundPoses:
        """Concatenate the results of several batches."""
        names = ("rotation", "shift", "z", "log_likelihood")
        return FoundPoses(*(torch.cat([getattr(part, name) for part in parts]) for name in names))


def usual_plan(
    box: int, last: float | int, *, first: float | int = 8, beams: int = 24, shift_range: float | int = SHIFT_RANGE
) -> SearchPlan:
    """Three levels, at 15, 7.5 and 3.75 degrees, with radii that these steps resolve, up to `last`.

    Args:
        last: radius of the last level in Fourier pixels.
        first: radius of the first level, at most `last`. It does not depend on the box: the effect of a rotation by 15
            degrees depends on how many details fit across the image.
        beams: candidates of each image kept after the first level.
        shift_range: largest distance of a particle from the image's centre along each axis, as a fraction of the box.
    """
    first = min(first, last)
    middle = min(1.75 * first, last)
    levels = Level(1, first, beams), Level(2, middle, max(1, beams // 3)), Level(3, last, max(1, beams // 8))
    return SearchPlan(levels, shift_range * box)


@dataclass(frozen=True)
class MapsOnGrid:
    """Fourier transforms of the maps to search, and the banks of slices that are small enough to be computed once."""

    grid: PaddedGrid
    columns: Complex64[Tensor, "points c"]
    offset: Float32[Tensor, "3 3"]
    banks: dict[int, SliceBank]

    @classmethod
    def of(
        cls, maps: Float32[Tensor, "c z y x"], plan: SearchPlan, *, disk: FourierDisk, offset: Float32[Tensor, "3 3"]
    ) -> MapsOnGrid:
        """Transform maps, and slice them at the first level of a plan and at the others that `MAX_BANK` allows."""
        grid = padded_grid(maps.shape[-1])
        columns = grid.from_volumes(maps)
        banks = {
            level.grid: SliceBank.of(columns, grid, disk=disk.within(level.radius), level=level.grid, offset=offset)
            for level in plan.levels
            if level is plan.levels[0] or len(maps) * grid_size(level.grid) // 2 * disk.count(level.radius) <= MAX_BANK
        }
        return cls(grid, columns, offset, banks)

    def slices(self, beams: Candidates, disk: FourierDisk) -> Complex64[Tensor, "c b k m"]:
        """The slices of each candidate."""
        bank = self.banks.get(beams.level)
        if bank is not None:
            return bank.at(beams.cell)
        parts = locate_slices(self.grid, disk.frequency, beams.rotation.flatten(0, 1).to(self.columns.device))
        return parts.extract(self.columns).movedim(2, 0).unflatten(1, beams.cell.shape)


@dataclass(frozen=True)
class Candidates:
    """The remaining candidate poses of each image, best first: number of the rotation, and shift in pixels.

    `step` is the distance between the shifts that were tried, in pixels.
    """

    level: int
    step: float
    offset: Float32[Tensor, "3 3"]
    cell: Int64[Tensor, "b k"]
    shift: Float32[Tensor, "b k 2"]
    score: Float32[Tensor, "b k"]

    @staticmethod
    def cat(parts: Sequence[Candidates]) -> Candidates:
        """Concatenate the results of several batches."""
        cell, shift, score = (torch.cat([getattr(part, name) for part in parts]) for name in ("cell", "shift", "score"))
        return replace(parts[0], cell=cell, shift=shift, score=score)

    def rows(self, rows: slice) -> Candidates:
        """The candidates of some of the images."""
        return replace(self, cell=self.cell[rows], shift=self.shift[rows], score=self.score[rows])

    def best(self, count: int) -> Candidates:
        """The `count` most likely candidates of each image."""
        score, at = self.score.topk(min(count, self.score.shape[1]), dim=1)
        shift = self.shift.gather(1, at[..., None].expand(-1, -1, 2))
        return replace(self, cell=self.cell.gather(1, at), shift=shift, score=score)

    @property
    def rotation(self) -> Float32[Tensor, "b k 3 3"]:
        """Rotations of the candidates."""
        return (grid_rotations(self.level, self.cell.cpu()) @ self.offset.cpu()).to(self.shift)


@torch.no_grad()
def search_poses(
    subspace: LinearSubspace,
    batches: Iterable[Batch],
    plan: SearchPlan,
    *,
    disk: FourierDisk,
    offset: Float32[Tensor, "3 3"],
) -> FoundPoses:
    """The best pose of each image against a map, or a subspace of maps, by branch and bound, then Gauss-Newton.

    The first level tries every rotation with every shift. The most likely rotations are kept, each with its best shift;
    the next level tries their children at a larger radius, with shifts around the parent's.

    Args:
        subspace: with a box of at least twice the last level's radius.
        batches: whitened, uncentred images; their rotations are ignored.
        disk: the coefficients that the batches hold.
        offset: rotates the grid as a whole; drawn at random for each pass, so that its gaps are never the same.
    """
    searched = MapsOnGrid.of(subspace.maps, plan, disk=disk, offset=offset)
    found, last = [], disk.within(plan.levels[-1].radius)
    for batch in batches:
        candidates = candidates_of(batch, searched, plan, disk=disk)
        found.append(_polished(subspace, batch.within(last.size), candidates.best(plan.polished), plan=plan, disk=last))
    return FoundPoses.cat(found)


def candidates_of(batch: Batch, searched: MapsOnGrid, plan: SearchPlan, *, disk: FourierDisk) -> Candidates:
    """The candidates that remain after the last level of a plan, on its grid."""
    candidates = first_level(batch, searched, plan, disk=disk)
    for level in plan.levels[1:]:
        candidates = next_level(batch, searched, candidates, level=level, disk=disk)
    return candidates


def first_level(batch: Batch, searched: MapsOnGrid, plan: SearchPlan, *, disk: FourierDisk) -> Candidates:
    """Try every rotation with every shift; keep the most likely rotations, each with its best shift."""
    level = plan.levels[0]
    bank, within = searched.banks[level.grid], disk.within(level.radius)
    shifts = shift_grid(plan.shift_pixel, shift_step(disk.box, level.radius)).to(batch.ctf)
    step = float(shifts[1, 1] - shifts[0, 1]) if len(shifts) > 1 else 0.0
    phase = shift_phase(within.frequency.to(batch.ctf) / disk.box, shifts)
    parts = []
    for part in batch.within(within.size).split(
        max(1, MAX_SCORES // (bank.slices.shape[0] * len(shifts) * bank.columns))
    ):
        image = (part.ctf * part.image)[:, None] * phase
        score = PoseEvidence.of(*bank.products(image, part.ctf.square())).at_best().flatten(2)
        best, at = score.max(dim=1)
        top = best.topk(min(level.beams, best.shape[1]), dim=1)
        shift = shifts[at.gather(1, top.indices)]
        parts.append(Candidates(bank.level, step, bank.offset, bank.numbers(top.indices), shift, top.values))
    return Candidates.cat(parts)


def next_level(
    batch: Batch, searched: MapsOnGrid, candidates: Candidates, *, level: Level, disk: FourierDisk
) -> Candidates:
    """Try the children of all candidates with shifts around their parent's; keep the most likely ones."""
    within, step = disk.within(level.radius), candidates.step / 2
    frequency = within.frequency.to(batch.ctf) / disk.box
    line = torch.arange(SHIFTS_PER_AXIS).to(batch.ctf) - SHIFTS_PER_AXIS // 2
    near = step * torch.cartesian_prod(line, line) if step else batch.ctf.new_zeros(1, 2)
    fine = shift_phase(frequency, near)
    whole = batch.within(within.size)
    each = max(
        1, POINTS // (candidates.cell.shape[1] * max(CHILDREN * searched.columns.shape[1], len(fine)) * within.size)
    )
    parts = []
    for start in range(0, len(batch), each):
        part, parents = whole.rows(slice(start, start + each)), candidates.rows(slice(start, start + each))
        count = parents.cell.shape[1]
        children_of = replace(
            parents,
            level=level.grid,
            step=step,
            cell=children(parents.cell, parents.level).flatten(1),
            shift=parents.shift.repeat_interleave(CHILDREN, 1),
            score=parents.score.repeat_interleave(CHILDREN, 1),
        )
        slices = searched.slices(children_of, within)
        seen = torch.view_as_real(part.ctf[:, None] * slices).flatten(-2).movedim(0, 2)
        gram = (seen @ seen.mT).unflatten(1, (count, 1, CHILDREN))
        centre = shift_phase(frequency, parents.shift.flatten(0, 1)).unflatten(0, (-1, count))
        image = torch.view_as_real(((part.ctf * part.image)[:, None] * centre)[:, :, None] * fine).flatten(-2)
        overlap = image @ torch.view_as_real(slices).flatten(-2).unflatten(2, (count, CHILDREN)).mT
        best, at = PoseEvidence.of(overlap, gram).at_best().max(dim=2)
        moved = (parents.shift[:, :, None] + near[at]).flatten(1, 2)
        parts.append(replace(children_of, shift=moved, score=best.flatten(1)).best(level.beams))
    return Candidates.cat(parts)


def _polished(
    subspace: LinearSubspace, batch: Batch, candidates: Candidates, *, plan: SearchPlan, disk: FourierDisk
) -> FoundPoses:
    """Refine each candidate by Gauss-Newton; keep the best of each image."""
    tried = []
    for number in range(candidates.cell.shape[1]):
        begin = FoundPoses.at(candidates.rotation[:, number], candidates.shift[:, number], subspace.zdim)
        tried.append(polish(subspace, batch, begin, disk=disk, steps=plan.steps))
    best = torch.stack([found.log_likelihood for found in tried]).argmax(0)
    rows = torch.arange(len(batch), device=best.device)
    names = ("rotation", "shift", "z", "log_likelihood")
    return FoundPoses(*(torch.stack([getattr(found, name) for found in tried])[best, rows] for name in names))


def evidence_of(
    image: Complex64[Tensor, "b k m"], ctf: Float32[Tensor, "b m"], slices: Complex64[Tensor, "c b k m"]
) -> PoseEvidence:
    """The likelihood of k candidates of each image, (b, k).

    Args:
        image: centred by each candidate's shift.
        slices: of every map at each candidate's rotation.
    """
    seen = torch.view_as_real(ctf[:, None] * slices).flatten(-2).movedim(0, 2)
    shown = torch.view_as_real(image.expand(slices.shape[1:])).flatten(-2)
    return PoseEvidence.of((seen @ shown[..., None])[..., 0].movedim(2, 0), seen @ seen.mT)


@torch.no_grad()
def polish(subspace: LinearSubspace, batch: Batch, start: FoundPoses, *, disk: FourierDisk, steps: int) -> FoundPoses:
    """Refine poses and latent points by Gauss-Newton on SO(3) x R^2 x R^q.

    The maps are scaled to the images that are refined together, by the best amplitude of the mean.

    Args:
        batch: whitened, uncentred images.
        disk: the coefficients that the batch holds.
    """
    found = []
    empty_loss = batch.image.abs().square().sum(1)
    for rows in torch.arange(len(batch), device=batch.ctf.device).split(max(1, GAUSS_NEWTON_POINTS // disk.size)):
        part, z = batch.rows(rows), start.z[rows]
        phase = shift_phase(disk.frequency.to(part.ctf) / disk.box, start.shift[rows])
        part = replace(part, image=part.image * phase, rotation=start.rotation[rows])
        mean, components = subspace.tangents(torch.zeros_like(z), part.rotation, disk)
        of_maps = torch.cat([mean[None], components.movedim(2, 0)])
        one = evidence_of(part.image[:, None], part.ctf, of_maps[:, :, None])
        part = replace(part, ctf=part.ctf * (one.linear.sum() / one.quadratic.sum()).clamp(min=1e-6))
        if subspace.zdim:
            # the latent point first, at fixed pose: one step is exact
            latent = Unknowns(torch.ones_like(z))
            z = gauss_newton(subspace, part, z, unknowns=latent, disk=disk, iterations=1).value
        prior = part.ctf.new_tensor([1.0] * subspace.zdim + [POLISH_PRIOR[0]] * 3 + [POLISH_PRIOR[1]] * 2)
        unknowns = Unknowns(prior.expand(len(rows), -1), pose=True)
        begin = torch.cat([z, z.new_zeros(len(rows), 5)], dim=1)
        local = gauss_newton(subspace, part, begin, unknowns=unknowns, disk=disk, iterations=steps)
        z, turn, moved = local.value.split([subspace.zdim, 3, 2], dim=1)
        rotation, shift = rotation_from_rotvec(turn) @ part.rotation, start.shift[rows] + moved
        found.append(FoundPoses(rotation, shift, z, empty_loss[rows] - local.nll - 0.5 * z.square().sum(1)))
    return FoundPoses.cat(found)
