"""`cryomorph fsc`: Fourier shell correlation of two maps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryomorph.config.console import say
from cryomorph.config.errors import InputError
from cryomorph.config.fsc import FscConfig
from cryomorph.io.atomic import check_output

if TYPE_CHECKING:
    from cryomorph.volumes.fsc import FscReport

PICTURES = (".png", ".svg", ".pdf")


def fsc(config: FscConfig) -> None:
    """Correlate two maps, print the resolutions, write the curves."""
    from cryomorph.volumes.fsc import is_nyquist

    _check(config)
    report = _correlate(config)
    print(f"{'':18}{'FSC = 0.143':>12}{'FSC = 0.5':>12}")
    print(f"{'unmasked':18}{report.unmasked_0143_A:10.2f} A{report.unmasked_05_A:10.2f} A")
    if report.corrected is not None:
        print(f"{'masked, corrected':18}{report.resolution_0143_A:10.2f} A{report.resolution_05_A:10.2f} A")
    if is_nyquist(min(report.unmasked_0143_A, report.resolution_0143_A), report.pixel_A):
        say(f"{2 * report.pixel_A:.2f} A is Nyquist: the curve does not fall below the threshold")
    if config.output is not None:
        report.write_csv(config.output)
        say(f"curves: {config.output}")
    if config.plot is not None:
        report.write_plot(config.plot)
        say(f"plot: {config.plot}")


def _check(config: FscConfig) -> None:
    """Refuse options that contradict each other, and outputs that cannot be written."""
    if config.mask is not None and config.auto_mask:
        raise InputError("--mask and --auto-mask are both given: expected one of them")
    if config.plot is not None and config.plot.suffix not in PICTURES:
        raise InputError(f"--plot {config.plot}: expected a file name ending in {', '.join(PICTURES)}")
    for output in (config.output, config.plot):
        if output is not None:
            check_output(output, inputs=(config.map_a, config.map_b, config.mask), overwrite=config.overwrite)


def _correlate(config: FscConfig) -> FscReport:
    from cryomorph.volumes.fsc import half_map_fsc
    from cryomorph.volumes.load import load_map, load_map_like
    from cryomorph.volumes.masks import fsc_mask, read_mask
    from cryomorph.volumes.sharpen import fsc_weighted

    a = load_map(config.map_a, config.pixel_A)
    b = load_map_like(config.map_b, a, config.pixel_A)
    mask = None
    if config.mask is not None:
        mask = read_mask(config.mask, len(a.volume), a.pixel_A, given_A=config.pixel_A, whose="the maps' box")
    elif config.auto_mask:
        mask = fsc_mask(fsc_weighted(a.volume, b.volume), a.pixel_A)
    return half_map_fsc(a.volume, b.volume, mask, pixel_A=a.pixel_A, seed=config.seed)
