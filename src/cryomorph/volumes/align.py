"""Alignment of two maps: the rotation, shift and hand that make them correlate best, by a global search."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Complex64, Float32, Float64
from scipy.ndimage import affine_transform
from torch import Tensor
from torch.nn.functional import grid_sample, pad

from cryomorph.config.errors import InputError
from cryomorph.physics.pose import rotation_distance_deg, rotation_from_rotvec
from cryomorph.physics.slicing import padded_grid
from cryomorph.physics.so3_grid import grid_rotations, grid_spacing_deg
from cryomorph.volumes.backproject import mirror
from cryomorph.volumes.grid import cubic_box, fourier_crop, fourier_pad
from cryomorph.volumes.masks import spherical_mask

SEARCH_BOX, LEVEL = 16, 1  # of the exhaustive search: box, and level of the grid of rotations
REFINEMENT_BOXES = (24, 36, 64)
CANDIDATES = (16, 4, 1)  # of each hand, refined in each of these boxes
STEPS = (10, 8, 12)  # of Levenberg-Marquardt in each of these boxes
SAMPLES = 1 << 21  # of the transform, held in memory at once
OVERSAMPLED_UP_TO = 128  # voxels: box of maps that are resampled from a grid twice as fine


@dataclass(frozen=True)
class Alignment:
    """A map aligned to another: `moving(Q^-1 (r - d))`, or `moving(-Q^-1 (r - d))` if it is flipped.

    Args:
        moving: the given map `[z, y, x]`.
        rotation: Q (3, 3), from the moving map's coordinates (if flipped, those of its mirror image `V(-r)`) to the
            fixed map's.
        shift_voxel: d (3,), `(x, y, z)`.
        flipped: whether the mirror image is aligned.
        correlation: with the fixed map, without means, up to Nyquist of the map or of its crop to box 64.
        other_hand: the best alignment of the other hand, which is worse; None if it was not tried.
    """

    moving: Float32[Tensor, "z y x"]
    rotation: Float64[Tensor, "3 3"]
    shift_voxel: Float64[Tensor, " 3"]
    flipped: bool
    correlation: float
    other_hand: Alignment | None = None

    @cached_property
    def aligned(self) -> Float32[Tensor, "z y x"]:
        """The aligned map on the grid of the fixed one."""
        return moved_map(self.moving, self.rotation, self.shift_voxel, flipped=self.flipped)

    @property
    def angle_deg(self) -> float:
        """Angle of the rotation."""
        return float(rotation_distance_deg(self.rotation[None], torch.eye(3, dtype=torch.float64)[None]))


def align_maps(
    moving: Float32[Tensor, "z y x"], fixed: Float32[Tensor, "z2 y2 x2"], *, both_hands: bool = True
) -> Alignment:
    """Rotate and shift a map, and mirror it if that is better, so that it correlates best with another.

    All rotations of a 15-degree grid are tried at low resolution, each with all shifts at once by FFT. The best are
    refined by Gauss-Newton on the Fourier coefficients, `fixed = a moving` with `a` free, at increasing resolution and
    with fewer and fewer candidates. Density outside the sphere that fills the box is ignored.

    Args:
        both_hands: try the mirror image too.

    Raises:
        InputError: the boxes differ, are not cubic or are smaller than 8 voxels, or a map is constant or not finite.
    """
    box = _checked_box(moving, fixed)
    hands = []
    for flipped in (False, True)[: 1 + both_hands]:
        rotation, shift, correlation = _best(mirror(moving) if flipped else moving, fixed)
        if flipped:  # from a reflection in the plane z = 0 to the inversion V(-r)
            rotation = rotation @ torch.diag(torch.tensor([-1.0, -1.0, 1.0], dtype=torch.float64))
        hands.append(Alignment(moving, rotation, shift * box, flipped, correlation))
    best, *others = sorted(hands, key=lambda hand: -hand.correlation)
    return replace(best, other_hand=others[0] if others else None)


def moved_map(
    map: Float32[Tensor, "z y x"],
    rotation: Float64[Tensor, "3 3"],
    shift_voxel: Float64[Tensor, " 3"],
    *,
    flipped: bool = False,
) -> Float32[Tensor, "z y x"]:
    """A map, or if flipped its mirror image `map(-r)`, rotated about its origin, then shifted: `map(Q^-1 (r - d))`.

    Interpolated by cubic splines, up to box 128 on a grid twice as fine; density from outside the box is 0.
    """
    box = cubic_box(map)
    fine = 2 if box <= OVERSAMPLED_UP_TO else 1
    source = (fourier_pad(map, fine * box) if fine > 1 else map).cpu().numpy()
    # arrays are indexed (z, y, x)
    back = rotation.cpu().numpy().T[::-1, ::-1] * (-fine if flipped else fine)
    centre = np.full(3, box // 2)
    offset = np.full(3, fine * box // 2 if fine > 1 else box // 2) - back @ (centre + shift_voxel.cpu().numpy()[::-1])
    turned = affine_transform(source, back, offset, output_shape=(box,) * 3, output=np.float32, order=3)
    return torch.from_numpy(turned).to(map.device)


def _checked_box(moving: Tensor, fixed: Tensor) -> int:
    box = cubic_box(moving)
    if cubic_box(fixed) != box:
        raise InputError(f"maps of box {box} and {cubic_box(fixed)}: expected the same; resample one of them")
    if box < 8:
        raise InputError(f"maps of box {box}: expected at least 8 voxels per side")
    for name, volume in (("moving", moving), ("fixed", fixed)):
        if not bool(torch.isfinite(volume).all()):
            raise InputError(f"the {name} map has non-finite values: reconstruct it again")
        if float(volume.std()) <= 1e-6 * float(volume.abs().max()):
            raise InputError(f"the {name} map is constant: expected a map of a molecule")
    return box


@dataclass(frozen=True)
class _Band:
    """Fourier coefficients of two maps within `box / 2`: of `fixed` at the points `k` of half of the ball.

    `k` (m, 3) in Fourier pixels, `(x, y, z)`. `moving` is the transform of the moving map, then of its products with x,
    y and z, on a grid padded by two for `kx >= 0`, with real and imaginary parts as channels.
    """

    box: int
    k: Float32[Tensor, "m 3"]
    fixed: Complex64[Tensor, " m"]
    moving: Float32[Tensor, "1 channels kz ky kx"]

    @classmethod
    def of(cls, moving: Float32[Tensor, "z y x"], fixed: Float32[Tensor, "z y x"], box: int) -> _Band:
        box = min(box, moving.shape[-1] // 2 * 2)
        sphere = spherical_mask(box, 0.9 * box / 2, 0.1 * box / 2).to(fixed.device)
        moving, fixed = (fourier_crop(volume, box) * sphere for volume in (moving, fixed))
        ball = torch.cartesian_prod(*[torch.arange(1 - box // 2, box // 2)] * 3).flip(1)
        x, y, z = ball.T
        half = (x > 0) | ((x == 0) & ((y > 0) | ((y == 0) & (z > 0))))
        k = ball[half & (ball.square().sum(1) < (box / 2) ** 2)].to(fixed.device)
        transform = torch.fft.rfftn(torch.fft.ifftshift(fixed))
        x, y, z = k.T
        coefficient = transform[z % box, y % box, x]
        r = (torch.arange(box) - box // 2).to(fixed)
        moments = torch.stack([moving, moving * r, moving * r[:, None], moving * r[:, None, None]])
        return cls(box, k.to(fixed), coefficient / coefficient.norm(), _padded_transform(moments))

    def sample(self, rotation: Float32[Tensor, "b 3 3"], *, columns: int = 1) -> Complex64[Tensor, "columns b m"]:
        """Coefficients of the rotated map at `k`; with 4 columns also of the unrotated x, y and z times the map."""
        at = 2 * (self.k @ rotation)
        flipped = at[..., 0] < 0
        at = torch.where(flipped[..., None], -at, at)
        edge, half = self.moving.shape[-2:]
        scale = at.new_tensor([2 / (half - 1), 2 / (edge - 1), 2 / (edge - 1)])
        place = at * scale + at.new_tensor([-1.0, 1 / (edge - 1), 1 / (edge - 1)])
        found = grid_sample(self.moving[:, : 2 * columns], place[None, :, :, None], align_corners=True)[0, ..., 0]
        real, imaginary = found.unflatten(0, (columns, 2)).unbind(1)
        return torch.complex(real, torch.where(flipped, -imaginary, imaginary))

    def search(self, rotation: Float32[Tensor, "b 3 3"]) -> tuple[Float32[Tensor, " b"], Float32[Tensor, "b 3"]]:
        """Best correlation of each rotation over shifts by whole voxels, and that shift as a fraction of the box."""
        moving = self.sample(rotation)[0]
        x, y, z = self.k.long().T
        spectrum = moving.new_zeros(len(rotation), self.box, self.box, self.box // 2 + 1)
        # the inverse transform counts kx > 0 twice
        once = torch.where(x == 0, 2.0, 1.0)
        spectrum[:, z % self.box, y % self.box, x] = self.fixed * moving.conj() * once
        value = torch.fft.irfftn(spectrum, s=(self.box,) * 3, dim=(1, 2, 3), norm="forward").flatten(1)
        best, at = value.max(1)
        shift = torch.stack([at % self.box, at // self.box % self.box, at // self.box**2], dim=1)
        shift = (shift + self.box // 2) % self.box - self.box // 2
        return best / (2 * moving.norm(dim=1)), shift.to(rotation) / self.box


@dataclass(frozen=True)
class _State:
    """Candidates: rotation, shift as a fraction of the box, correlation, and the normal equations of a step."""

    rotation: Float32[Tensor, "b 3 3"]
    shift: Float32[Tensor, "b 3"]
    correlation: Float32[Tensor, " b"]
    normal: Float32[Tensor, "b 7 7"]
    right: Float32[Tensor, "b 7"]

    @classmethod
    def of(cls, band: _Band, rotation: Float32[Tensor, "b 3 3"], shift: Float32[Tensor, "b 3"]) -> _State:
        """Correlation, and the normal equations of `fixed = a moving` for a rotation `exp(w) Q`, a shift and `a`."""
        k = band.k
        phase = torch.exp(-2j * torch.pi * (shift @ k.T))
        value, *moments = band.sample(rotation, columns=4) * phase
        slope = torch.stack(moments, dim=-1) @ rotation.mT.to(value) * (-2j * torch.pi / band.box)
        power = value.abs().square().sum(1)
        cross = (value.conj() * band.fixed).real.sum(1)
        scale = (cross / power)[:, None, None]
        turned = -torch.linalg.cross(k.to(value).expand_as(slope), slope) * scale
        shifted = -2j * torch.pi * k * value[..., None] * scale
        jacobian = (
            torch.view_as_real(torch.cat([turned, shifted, value[..., None]], dim=-1)).movedim(-1, 2).flatten(1, 2)
        )
        left = torch.view_as_real(band.fixed - scale[..., 0] * value).flatten(1)
        normal = jacobian.mT @ jacobian
        return cls(rotation, shift, cross / power.sqrt(), normal, (jacobian.mT @ left[..., None])[..., 0])

    def step(self, damping: Float32[Tensor, " b"]) -> tuple[Float32[Tensor, "b 3 3"], Float32[Tensor, "b 3"]]:
        """Rotation and shift after a damped Gauss-Newton step."""
        diagonal = self.normal.diagonal(dim1=1, dim2=2)
        damped = self.normal + torch.diag_embed(damping[:, None] * diagonal + 1e-12)
        step = torch.linalg.solve(damped, self.right)
        return rotation_from_rotvec(step[:, :3].contiguous()) @ self.rotation, self.shift + step[:, 3:6]

    def where(self, better: Bool[Tensor, " b"], trial: _State) -> _State:
        """The rows of `trial` where it is better, these rows elsewhere."""
        rows = {f.name: (getattr(trial, f.name), getattr(self, f.name)) for f in fields(self)}
        return _State(**{n: torch.where(better.view(-1, *[1] * (a.dim() - 1)), a, b) for n, (a, b) in rows.items()})


def _best(moving: Tensor, fixed: Tensor) -> tuple[Float64[Tensor, "3 3"], Float64[Tensor, " 3"], float]:
    """Best rotation, shift (as a fraction of the box) and correlation of one hand."""
    band = _Band.of(moving, fixed, SEARCH_BOX)
    rotation = grid_rotations(LEVEL).to(moving.device)
    found = [band.search(part) for part in rotation.split(max(1, SAMPLES // band.box**3))]
    correlation, shift = (torch.cat(part) for part in zip(*found, strict=True))
    apart_deg = 1.3 * grid_spacing_deg(LEVEL)
    for box, count, steps in zip(REFINEMENT_BOXES, CANDIDATES, STEPS, strict=True):
        kept = _distinct(rotation, correlation, count, apart_deg=apart_deg)
        band = _Band.of(moving, fixed, box)
        state = _refine(band, rotation[kept], shift[kept], steps=steps)
        rotation, shift, correlation, apart_deg = state.rotation, state.shift, state.correlation, 3.0
    best = int(correlation.argmax())
    return rotation[best].double().cpu(), shift[best].double().cpu(), min(1.0, float(correlation[best]))


def _refine(band: _Band, rotation: Tensor, shift: Tensor, *, steps: int) -> _State:
    """Refine all candidates by Levenberg-Marquardt; none gets worse."""
    state = _State.of(band, rotation, shift)
    damping = torch.full_like(state.correlation, 1e-2)
    for _ in range(steps):
        trial = _State.of(band, *state.step(damping))
        better = trial.correlation > state.correlation
        state = state.where(better, trial)
        damping = torch.where(better, damping / 5, damping * 5).clamp(1e-6, 1e6)
    return state


def _distinct(rotation: Tensor, score: Tensor, count: int, *, apart_deg: float) -> list[int]:
    """The best candidates that are at least an angle away from all better ones."""
    left = score.clone()
    kept: list[int] = []
    while len(kept) < count and bool((left > -math.inf).any()):
        kept.append(int(left.argmax()))
        near = rotation_distance_deg(rotation, rotation[kept[-1]].expand_as(rotation)) < apart_deg
        left[near] = -math.inf
    return kept


def _padded_transform(volumes: Float32[Tensor, "c z y x"]) -> Float32[Tensor, "1 channels kz ky kx"]:
    """Transforms on a grid padded by two, `kz` and `ky` centred, for trilinear sampling."""
    box = volumes.shape[-1]
    padded = pad(volumes / padded_grid(box).attenuation.to(volumes), (box // 2,) * 6)
    axes = (1, 2, 3)
    transform = torch.fft.fftshift(torch.fft.rfftn(torch.fft.ifftshift(padded, dim=axes), dim=axes), dim=(1, 2))
    return torch.view_as_real(transform).movedim(-1, 1).flatten(0, 1)[None].contiguous()
