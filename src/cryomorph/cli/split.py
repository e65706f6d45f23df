"""`cryomorph split`: particles divided at random into two files."""

from __future__ import annotations

from cryomorph.cli.select import say_where_images_are
from cryomorph.config.console import say
from cryomorph.config.split import SplitConfig


def run(config: SplitConfig) -> None:
    """Draw, write both parts, and say how many each has."""
    from cryomorph.analysis.select import check_free, write_selection
    from cryomorph.analysis.split import divide, source_of
    from cryomorph.particles.subset import WRITTEN

    check_free(config.output, overwrite=config.overwrite)
    source = source_of(config)
    parts = divide(source.numbers, config.random, seed=config.seed)
    for output, part in zip(config.output, parts, strict=True):
        write_selection(output, part, source.file, title=f"0-based {source.what} of {config.source}")
        say(f"{output}: {len(part):,} of {len(source.numbers):,} particles (seed {config.seed})")
    written = [output for output in config.output if output.suffix in WRITTEN]
    if source.file is not None and written:
        say_where_images_are(written[0], source.file)
