"""One self-contained HTML page: sections of figures, pictures of maps and tables, with captions that teach."""

from __future__ import annotations

import io
import re
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from jaxtyping import Float32

from cryomorph.config.errors import InputError
from cryomorph.io.atomic import atomic_path
from cryomorph.report.plots import styled

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.figure import Figure as Drawing

Rgba = Float32[np.ndarray, "h w 4"]
TEMPLATE = "report.html.jinja"
DASH = "\N{EN DASH}"  # a cell that has no number


@dataclass(frozen=True)
class Note:
    """A finding: `good` may be believed, `info` is a fact, `warning` asks for caution, `missing` is not known."""

    text: str
    level: Literal["good", "info", "warning", "missing"] = "info"


Cell = str | int | float | np.integer | Note


@dataclass(frozen=True)
class Figure:
    """A plot or an RGBA picture (0 to 1) with its caption.

    `alt` describes it to who cannot see it; `vector` embeds SVG (line plots: sharp and small); `wide` takes the whole
    width of the page.
    """

    image: Drawing | Rgba
    caption: str
    alt: str
    vector: bool = False
    wide: bool = False
    kind: ClassVar[str] = "figure"


@dataclass(frozen=True)
class Tile:
    """One card of a gallery: named pictures of the same thing side by side, a title and a line of facts."""

    title: str
    pictures: Mapping[str, Rgba]
    note: str = ""


@dataclass(frozen=True)
class Gallery:
    """Cards in rows under one caption; `stacked` puts the pictures of a card beneath each other."""

    tiles: tuple[Tile, ...]
    caption: str
    stacked: bool = False
    kind: ClassVar[str] = "gallery"


@dataclass(frozen=True)
class Table:
    """Rows of cells as they are shown, findings with their marks; columns of numbers are aligned to the right."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    caption: str
    kind: ClassVar[str] = "table"

    def __post_init__(self) -> None:
        for number, row in enumerate(self.rows):
            if len(row) != len(self.columns):
                raise InputError(f"table row {number} has {len(row)} cells: expected {len(self.columns)}")

    @property
    def numeric(self) -> tuple[bool, ...]:
        """Which columns hold numbers alone, or a dash where one is missing."""
        columns = [[cell for cell in column if cell != DASH] for column in zip(*self.rows, strict=True)]
        return tuple(bool(column) and all(map(is_number, column)) for column in columns) or (False,) * len(self.columns)


Block = Figure | Gallery | Table


@dataclass(frozen=True)
class Section:
    """A heading, a paragraph of introduction, and what is shown under it."""

    title: str
    blocks: tuple[Block, ...]
    intro: str = ""

    @property
    def anchor(self) -> str:
        """The heading as the target of a link in the page."""
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-") or "section"


@dataclass(frozen=True)
class Report:
    """What the page says: its title, facts of the run, findings in words, sections and where it all came from."""

    title: str
    sections: tuple[Section, ...]
    facts: Mapping[str, str] = field(default_factory=dict)
    findings: tuple[Note, ...] = ()
    provenance: Mapping[str, str] = field(default_factory=dict)
    subtitle: str = ""


def write_report(path: Path | str, report: Report) -> None:
    """Write the page as one file that needs nothing else: no network, no scripts, images inside it.

    Raises:
        InputError: two sections have the same heading.
    """
    path = Path(path)
    page = render_report(report)
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def render_report(report: Report) -> str:
    """The page as text; see `write_report`."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    anchors = [section.anchor for section in report.sections]
    twice = {anchor for anchor in anchors if anchors.count(anchor) > 1}
    if twice:
        raise InputError(f"report sections with the same heading: {', '.join(sorted(twice))}; give each its own")
    environment = Environment(
        loader=PackageLoader("cryomorph", "analysis"),
        autoescape=True,  # names of files and particles come from outside
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["source"] = embed
    environment.globals["picture_source"] = lambda picture: embed(picture, vector=False)
    environment.tests["note"] = lambda value: isinstance(value, Note)
    environment.filters["cell"] = show_cell
    environment.filters["words"] = with_code
    return environment.get_template(TEMPLATE).render(report=report)


@styled
def embed(image: Drawing | Rgba, *, vector: bool = False) -> str:
    """An image as a `data:` address: SVG for a figure where `vector`, PNG otherwise.

    SVG goes in as an image and not as elements of the page, since matplotlib's ids would clash between figures.
    """
    buffer = io.BytesIO()
    if isinstance(image, np.ndarray):
        from matplotlib.image import imsave

        imsave(buffer, image.clip(0, 1), format="png")
        return _address("png", buffer)
    if vector:
        image.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
        return _address("svg+xml", buffer)
    image.savefig(buffer, format="png", metadata={"Software": None})
    return _address("png", buffer)


def with_code(text: str) -> Markup:
    """Text as HTML: what stands between backticks is a command."""
    from markupsafe import Markup, escape

    return Markup(re.sub("`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def show_cell(value: Cell) -> str:
    """A table's cell as text: thousands are separated, other numbers have three significant digits."""
    if isinstance(value, int | np.integer):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:#.3g}".rstrip(".")
    return value.text if isinstance(value, Note) else value


def is_number(value: Cell) -> bool:
    """Whether a cell is aligned to the right: a number, or text that is one, such as `12 %` or an index."""
    return not isinstance(value, Note) and bool(re.fullmatch("[-+<\N{MINUS SIGN}]?[\\d.,]+\\s?%?", show_cell(value)))


def _address(kind: str, buffer: io.BytesIO) -> str:
    return f"data:image/{kind};base64,{b64encode(buffer.getvalue()).decode()}"
