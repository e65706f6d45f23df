"""`cryomorph fsc`: how well two maps agree, shell by shell."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cryomorph.config.console import say
from cryomorph.config.errors import InputError
from cryomorph.config.fsc import FscConfig

if TYPE_CHECKING:
    from torch import Tensor

PICTURES = (".png", ".svg", ".pdf")


def fsc(config: FscConfig) -> None:
    """Correlate two maps, print the resolutions, write the curves."""
    from cryomorph.volumes.fsc import half_map_fsc
    from cryomorph.volumes.masks import auto_mask

    if config.mask is not None and config.auto_mask:
        raise InputError("--mask and --auto-mask are both given: expected one of them")
    if config.plot is not None and config.plot.suffix not in PICTURES:
        raise InputError(f"--plot {config.plot}: expected a name that ends in {', '.join(PICTURES)}")
    map_a, pixel_A = load_map(config.map_a, config.pixel_A)
    map_b, mask = _matching(config.map_b, map_a, pixel_A, config), None
    if config.mask is not None:
        mask = _matching(config.mask, map_a, pixel_A, config)
    elif config.auto_mask:
        mask = auto_mask((map_a + map_b) / 2, pixel_A, lowpass_A=max(15.0, 5 * pixel_A))
    report = half_map_fsc(map_a, map_b, mask, pixel_A=pixel_A, seed=config.seed)
    print(f"{'':18}{'FSC = 0.143':>12}{'FSC = 0.5':>12}")
    print(f"{'unmasked':18}{report.unmasked_0143_A:10.2f} A{report.unmasked_05_A:10.2f} A")
    if mask is not None:
        print(f"{'masked, corrected':18}{report.resolution_0143_A:10.2f} A{report.resolution_05_A:10.2f} A")
    if min(report.unmasked_0143_A, report.resolution_0143_A) <= 2 * pixel_A:
        say(f"{2 * pixel_A:.2f} A is Nyquist: there the curve has not fallen below the threshold")
    if config.output is not None:
        report.write_csv(config.output)
        say(f"curves: {config.output}")
    if config.plot is not None:
        report.write_plot(config.plot)
        say(f"plot: {config.plot}")


def load_map(path: Path, pixel_A: float | None) -> tuple[Tensor, float]:
    """A map as a tensor `[z, y, x]`, and its pixel size, the given one in place of the file's.

    Raises:
        InputError: the file is no map, its sides differ, values are not finite, or no pixel size is known.
    """
    import torch

    from cryomorph.io.cube import read_cube

    volume, found_A = read_cube(path, pixel_A)
    return torch.from_numpy(volume.copy()), found_A  # what is read may be a read-only view of the file


def _matching(path: Path, map_a: Tensor, pixel_A: float, config: FscConfig) -> Tensor:
    """A map that must lie on the first one's grid."""
    volume, found_A = load_map(path, config.pixel_A)
    if volume.shape != map_a.shape:
        raise InputError(
            f"{path}: box {volume.shape[0]}, but {config.map_a} has box {map_a.shape[0]}; resample one to the other's"
        )
    if abs(found_A - pixel_A) > 1e-3 * pixel_A:
        raise InputError(
            f"{path}: pixel size {found_A:g} A, but {config.map_a} has {pixel_A:g} A; resample one of them, or give "
            "--pixel-A if a header is wrong"
        )
    return volume
