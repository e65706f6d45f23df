"""The encoder that sees gradients: against small steps of the neutral model, and the same in any batch."""

from __future__ import annotations

import pytest
import torch

from cryomorph.encoders import gradient
from cryomorph.encoders.gradient import GradientEncoder
from cryomorph.particles.store import Batch
from cryomorph.physics.disk import fourier_disk
from cryomorph.physics.gaussian_slices import Mixture, project_gaussians
from cryomorph.physics.pose import random_rotations
from cryomorph.physics.rings import ring_correlation

BOX, COUNT, ZDIM = 16, 6, 3
DISK = fourier_disk(BOX)


def neutral() -> Mixture:
    generator = torch.Generator().manual_seed(0)
    position = torch.randn(1, COUNT, 3, generator=generator) * 2
    width, amplitude = torch.rand(2, 1, COUNT, generator=generator) + 1
    return Mixture(position, width, amplitude)


def batch(n: int) -> Batch:
    generator = torch.Generator().manual_seed(1)
    image = torch.randn(n, DISK.size, dtype=torch.complex64, generator=generator)
    ctf = torch.randn(n, DISK.size, generator=generator)
    return Batch(torch.arange(n), image, ctf, random_rotations(n, generator))


def encoder(**options: object) -> GradientEncoder:
    torch.manual_seed(2)
    weight = torch.arange(BOX // 2 + 1).float()
    made = GradientEncoder(neutral(), ring_weight=weight, zdim=ZDIM, width=16, layers=2, **options)
    torch.nn.init.normal_(made.output.weight)
    return made


def agreement(mixture: Mixture, given: Batch) -> torch.Tensor:
    weight = torch.arange(BOX // 2 + 1).double()
    model = given.ctf * project_gaussians(mixture.turned(given.rotation), DISK)
    return ring_correlation(given.image, model, DISK.shell, rings=BOX // 2 + 1).double() @ weight / weight.sum()


def test_gradients_are_the_slopes_of_small_steps_for_each_image_by_itself():
    made, given = encoder(), batch(4)
    found = made.gradients(given)
    start = Mixture(*(part.expand(4, *part.shape[1:]).clone() for part in neutral()))
    for kind, part in enumerate(start):
        for place in ((2,), (5,)):
            step = torch.zeros_like(part)
            where = (slice(None), *place, 1) if part.ndim == 3 else (slice(None), *place)
            step[where] = 0.01
            ends = (start._replace(**{Mixture._fields[kind]: part + sign * step}) for sign in (1, -1))
            ahead, behind = (agreement(end, given) for end in ends)
            torch.testing.assert_close(found[kind][where].double(), (ahead - behind) / 0.02, rtol=0.02, atol=2e-5)


def test_features_do_not_turn_with_the_view():
    """The same molecule seen from elsewhere: gradients live on the molecule. A view and the one from behind."""
    made, given = encoder(), batch(1)
    half = torch.diag(torch.tensor([-1.0, -1.0, 1.0]))
    # an in-plane half turn of the image makes every coefficient its conjugate's mate: k to -k
    turned = Batch(given.index, given.image.conj(), given.ctf, half @ given.rotation)
    torch.testing.assert_close(made.features(turned), made.features(given), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("noisy", [False, True])
@pytest.mark.parametrize("size", [1, 7, 32])
def test_encodings_do_not_depend_on_the_batch(noisy, size):
    made, given = encoder(noisy=noisy).eval(), batch(35)
    with torch.no_grad():
        whole = made(given)
        parts = [made(part) for part in given.split(size)]
    torch.testing.assert_close(torch.cat([part.mean for part in parts]), whole.mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.cat([p.log_variance for p in parts]), whole.log_variance, rtol=1e-4, atol=1e-5)


def test_gradients_are_taken_where_none_are_asked_for():
    with torch.no_grad():
        assert bool(encoder()(batch(2)).mean.isfinite().all())


def test_calibration_gives_features_of_usual_size():
    made, given = encoder(), batch(50)
    made.calibrate(given)
    by_kind = made.features(given).split([3 * COUNT, COUNT, COUNT], dim=1)
    for kind in by_kind:
        assert float(kind.square().mean().sqrt()) == pytest.approx(1, rel=1e-3)


def test_a_fixed_spread_is_the_posterior_s():
    made = encoder(spread=0.1).eval()
    std = (0.5 * made(batch(3)).log_variance).exp()
    torch.testing.assert_close(std, torch.full((3, ZDIM), 0.1))


@pytest.mark.parametrize("options", [{}, {"noisy": True, "spread": 0.2}])
def test_it_is_made_again_from_its_state(options):
    made = encoder(**options).eval()
    made.calibrate(batch(5))
    again = GradientEncoder.of(made.state_dict()).eval()
    torch.testing.assert_close(again(batch(3)).mean, made(batch(3)).mean, rtol=0, atol=0)


def test_gradients_of_many_images_are_taken_a_few_at_a_time(monkeypatch):
    made, given = encoder(), batch(7)
    whole = made.gradients(given)
    monkeypatch.setattr(gradient, "TABLE_NUMBERS", 2 * BOX * COUNT)
    for found, expected in zip(made.gradients(given), whole, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
