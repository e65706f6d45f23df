"""One self-contained HTML page: sections of figures, galleries of maps and tables, with captions."""

from __future__ import annotations

import io
import re
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from cryomorph.config.errors import InputError
from cryomorph.diagnostics.check import NOTHING, Check, Verdict
from cryomorph.io.atomic import atomic_path
from cryomorph.render.picture import Rgba
from cryomorph.report.style import styled

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.figure import Figure as Drawing

TEMPLATE = "report.html.jinja"


@dataclass(frozen=True)
class Note:
    """A sentence with its mark; `diagnostics.check` says what the marks mean."""

    text: str
    level: Verdict = "info"


Cell = str | int | float | np.integer | Note


@dataclass(frozen=True)
class Figure:
    """A plot or an RGBA picture (0 to 1) with its caption.

    `alt` describes it for screen readers; `vector` embeds SVG (line plots: sharp and small); `wide` takes the full
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
    """One card of a gallery: pictures of the same thing by name, a title and a line of facts."""

    title: str
    pictures: Mapping[str, Rgba]
    note: str = ""


@dataclass(frozen=True)
class Gallery:
    """Cards in rows above one caption; `stacked` puts the pictures of a card below each other."""

    tiles: tuple[Tile, ...]
    caption: str
    stacked: bool = False
    kind: ClassVar[str] = "gallery"


@dataclass(frozen=True)
class Table:
    """Rows of cells, notes with their marks; columns of numbers are right-aligned."""

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
        """Which columns hold only numbers, or dashes where one is missing."""
        columns = [[cell for cell in column if cell != NOTHING] for column in zip(*self.rows, strict=True)]
        return tuple(bool(column) and all(map(is_number, column)) for column in columns) or (False,) * len(self.columns)


Block = Figure | Gallery | Table


@dataclass(frozen=True)
class Section:
    """A heading, an introductory sentence, and the blocks below it."""

    title: str
    blocks: tuple[Block, ...]
    intro: str = ""

    @property
    def anchor(self) -> str:
        """The heading as the target of a link within the page."""
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-") or "section"


@dataclass(frozen=True)
class Report:
    """A page: its title, facts about the run, a summary, sections, and provenance."""

    title: str
    sections: tuple[Section, ...]
    facts: Mapping[str, str] = field(default_factory=dict)
    summary: tuple[Note, ...] = ()
    provenance: Mapping[str, str] = field(default_factory=dict)


def write_report(path: Path | str, report: Report) -> None:
    """Write the page as one self-contained file: images inside it, no scripts, nothing loaded from elsewhere.

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
        loader=PackageLoader("cryomorph", "report"),
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

    SVG is embedded as an image, not as elements of the page: matplotlib's ids would clash between figures.
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
    """Text as HTML; backticks mark commands."""
    from markupsafe import Markup, escape

    return Markup(re.sub("`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def show_cell(value: Cell) -> str:
    """A cell as text: integers with thousands separators, other numbers with three significant digits."""
    if isinstance(value, int | np.integer):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:#.3g}".rstrip(".")
    return value.text if isinstance(value, Note) else value


def is_number(value: Cell) -> bool:
    """Whether a cell is right-aligned: a number, or text that is one, such as `12 %`."""
    return not isinstance(value, Note) and bool(re.fullmatch("[-+<\N{MINUS SIGN}]?[\\d.,]+\\s?%?", show_cell(value)))


def note_of(check: Check) -> Note:
    """A check as one sentence of a summary: its name, what was measured, and what follows."""
    measured = check.name if check.value == NOTHING else f"{check.name}: {check.value}"
    return Note(f"{measured}. {check.meaning}", check.verdict)


def summarise(checks: Sequence[Check]) -> tuple[Note, ...]:
    """The checks that belong into a summary: warnings first, then headlines."""
    warnings = [check for check in checks if check.verdict == "warning"]
    headlines = [check for check in checks if check.headline and check.verdict != "warning"]
    return tuple(note_of(check) for check in (*warnings, *headlines))


def percent(count: int, of: int) -> str:
    """A share in percent; one that is not 0 is never rounded to 0."""
    return f"{count / of:.1%}" if count == 0 or count / of >= 0.0005 else "<0.1%"


def check_pictures(pictures: Sequence[Rgba | None], count: int, what: str) -> None:
    """Refuse pictures that are not one for each place.

    Raises:
        InputError: there are more or fewer.
    """
    if len(pictures) != count:
        raise InputError(f"{len(pictures)} {what} pictures for {count} places: expected one for each")


def _address(kind: str, buffer: io.BytesIO) -> str:
    return f"data:image/{kind};base64,{b64encode(buffer.getvalue()).decode()}"
