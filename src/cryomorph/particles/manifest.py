"""What a particle store says of itself; read without the library that its tensors need."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path

from cryomorph.config.errors import InputError
from cryomorph.io.json_file import read_json, record, write_json

FORMAT = 1
MANIFEST, COEFFICIENTS, SOURCE_ROW = "manifest.json", "coefficients.npy", "source_row.npy"
AGAIN = "make the store again with `cryomorph prepare`, or the run that holds it with --overwrite"


@dataclass(frozen=True)
class Manifest:
    """What a store holds; written last, so that a folder without it is not a store.

    `n` particles, of the `rows` of the source file, whose images have `source_box` pixels of `source_pixel_A`; `box`
    and `pixel_A` are the store's. `metadata` is the file of the particles' columns.
    """

    format: int
    n: int
    rows: int
    box: int
    pixel_A: float
    source: str
    source_box: int
    source_pixel_A: float
    metadata: str
    inverted: bool
    contrast_reason: str
    left_out: list[int]
    ignored: list[str]

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """The manifest of a store.

        Raises:
            InputError: the folder is no store, or one of another format; or the manifest is damaged.
        """
        path = folder / MANIFEST
        if not path.is_file():
            raise InputError(
                f"{folder} is not a particle store (it has no {MANIFEST}): make one with `cryomorph prepare`"
            )
        content = read_json(path, again=AGAIN)
        if content.get("format") != FORMAT:
            raise InputError(f"{path} has format {content.get('format')}, expected {FORMAT}: {AGAIN}")
        unknown = sorted(content.keys() - {field.name for field in fields(cls)})
        if unknown:
            raise InputError(f"{path} cannot be read (unknown key {unknown[0]}): {AGAIN}")
        found = record(cls, content, path, again=AGAIN)
        sizes = 0 < found.n <= found.rows and 4 <= found.box <= found.source_box and found.box % 2 == 0
        if not sizes or not min(found.pixel_A, found.source_pixel_A) > 0:
            raise InputError(
                f"{path} cannot be read (n {found.n}, rows {found.rows}, box {found.box}, pixel_A {found.pixel_A:g} "
                f"do not go together): {AGAIN}"
            )
        if Path(found.metadata).name != found.metadata:
            raise InputError(f"{path} cannot be read (metadata {found.metadata!r} is no file name): {AGAIN}")
        return found

    def write(self, folder: Path) -> None:
        """Write the manifest: the last step of making a store."""
        write_json(folder / MANIFEST, asdict(self))
