"""`cryomorph mask`: a soft mask from a map."""

from __future__ import annotations

from cryomorph.config.console import say
from cryomorph.config.mask import MaskConfig
from cryomorph.io.atomic import check_output


def mask(config: MaskConfig) -> None:
    """Make the mask and write it."""
    from cryomorph.io.mrc import write_map
    from cryomorph.volumes.load import load_map
    from cryomorph.volumes.masks import auto_mask

    check_output(config.output, inputs=(config.map,), overwrite=config.overwrite)
    given = load_map(config.map, config.pixel_A)
    soft = auto_mask(
        given.volume,
        given.pixel_A,
        threshold=config.threshold,
        dilate_A=config.dilate_A,
        edge_A=config.edge_A,
        lowpass_A=config.lowpass_A,
        largest_only=config.largest_only,
    )
    write_map(config.output, soft.numpy(), given.pixel_A, origin_A=given.origin_A)
    inside = 100 * float((soft > 0.5).float().mean())
    say(f"{config.output}: {inside:.1f} % of the box is inside")
