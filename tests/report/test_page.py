"""The report page: one valid HTML file that loads nothing, shows everything and runs nobody's code."""

from __future__ import annotations

import io
import re
from base64 import b64decode
from html.parser import HTMLParser

import numpy as np
import pytest
from matplotlib.image import imread

from cryomorph.config.errors import InputError
from cryomorph.report.latent_plots import explained_variance
from cryomorph.report.page import (
    Figure,
    Gallery,
    Note,
    Report,
    Section,
    Table,
    Tile,
    is_number,
    render_report,
    show_cell,
    write_report,
)

HOSTILE = "000001@<script>alert('1')</script>\"><img src=x onerror=alert(2)>.mrcs"
VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """What a browser would see: elements with their attributes, the text, and whether tags are balanced."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.balanced = True
        self.feed(text)
        self.close()
        self.balanced &= not self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        self.balanced &= bool(self.open) and self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] != "style":
            self.text += data

    def attributes(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def _picture(seed: int):
    return np.random.default_rng(seed).random((12, 10, 4), dtype=np.float32)


@pytest.fixture(scope="module")
def report():
    line = explained_variance(np.array([0.7, 0.3]))
    tiles = tuple(
        Tile(f"Cluster {i}", {"decoded": _picture(i), "reconstructed": _picture(9 + i)}, "40 particles")
        for i in range(3)
    )
    sections = (
        Section(
            "Latent space",
            (Figure(line, "Variance <b>", HOSTILE, vector=True), Figure(line, "As PNG", "bars", wide=True)),
            "Where particles lie.",
        ),
        Section("Clusters", (Gallery(tiles, "Maps"), Gallery((), "None"))),
        Section("Outliers", (Table(("particle", "image", "|z|"), ((1234, HOSTILE, 7.123456),), HOSTILE),)),
    )
    return Report(
        HOSTILE,
        sections,
        {"particles": "5,000", "file": HOSTILE},
        (Note("4 of 4 components are reproducible.", "good"), Note(HOSTILE, "warning")),
        {"command": f"cryomorph analyze {HOSTILE}"},
    )


@pytest.fixture(scope="module")
def page(report):
    return Page(render_report(report))


def test_page_is_balanced_html_with_unique_ids_and_working_links(page):
    assert page.balanced
    names = [tag for tag, _ in page.elements]
    assert [names.count(tag) for tag in ("html", "head", "body", "main", "h1", "title")] == [1] * 6
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = [attributes["href"] for attributes in page.attributes("a")]
    assert links == ["#latent-space", "#clusters", "#outliers"]
    assert {link[1:] for link in links if link} <= set(ids)


def test_page_loads_nothing_and_runs_nothing(report, page):
    names = {tag for tag, _ in page.elements}
    assert not names & {"script", "link", "iframe", "object", "embed", "form", "base"}
    for _, attributes in page.elements:
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href", "srcset", "data", "action"):
            value = attributes.get(name) or "#"
            assert value.startswith(("data:image/", "#"))
    policy = next(a["content"] for a in page.attributes("meta") if "http-equiv" in a)
    assert policy is not None and policy.startswith("default-src 'none'")
    style = re.search(r"<style>(.*?)</style>", render_report(report), re.DOTALL)
    assert style is not None
    assert "url(" not in style[1] and "@import" not in style[1]


def test_hostile_names_are_shown_as_text(page):
    # title, h1, fact, summary, table cell, table caption and command
    assert page.text.count(HOSTILE) == 7
    assert page.attributes("img")[0]["alt"] == HOSTILE


def test_every_figure_and_picture_is_embedded_whole(page):
    sources = [attributes["src"] or "" for attributes in page.attributes("img")]
    assert len(sources) == 2 + 6
    kinds = [source.split(";")[0] for source in sources]
    assert kinds == ["data:image/svg+xml"] + ["data:image/png"] * 7
    contents = [b64decode(source.split(",", 1)[1]) for source in sources]
    svg = contents[0].decode()
    assert "</svg>" in svg and "<path" in svg
    # the pictures come back as they were given, to the 8 bits of a PNG
    order = [0, 9, 1, 10, 2, 11]
    for seed, content in zip(order, contents[2:], strict=True):
        np.testing.assert_allclose(imread(io.BytesIO(content)), _picture(seed), atol=1 / 255)
    assert all(attributes.get("alt") for attributes in page.attributes("img"))


def test_page_is_the_same_each_time(report):
    assert render_report(report) == render_report(report)


def test_write_report_leaves_one_file_or_none(report, tmp_path):
    write_report(tmp_path / "analysis" / "report.html", report)
    assert [path.name for path in (tmp_path / "analysis").iterdir()] == ["report.html"]
    twice = Report("x", (Section("Same", ()), Section("same!", ())))
    with pytest.raises(InputError, match="same heading: same"):
        write_report(tmp_path / "other.html", twice)
    assert not (tmp_path / "other.html").exists()


def test_report_of_nothing_but_a_title_is_valid():
    page = Page(render_report(Report("empty", ())))
    assert page.balanced and "empty" in page.text and "Summary" not in page.text


def test_verdicts_in_a_table_have_their_mark_and_commands_are_set_as_such():
    rows = (("a", 1, Note("Fine.", "good")), ("b", "\N{EN DASH}", Note(f"`run {HOSTILE}`", "missing")))
    table = Table(("asked", "value", "verdict"), rows, "See `help`")
    assert table.numeric == (False, True, False)
    text = render_report(Report("run", (Section("Trust", (table,)),)))
    page = Page(text)
    assert page.balanced and "<script" not in text
    marks = [a["class"] for a in page.attributes("span") if (a.get("class") or "").startswith("mark")]
    assert marks == ["mark good", "mark missing"]
    assert "not measured" in page.text and f"run {HOSTILE}" in page.text
    assert text.count("<code>") == text.count("</code>") == 2


def test_stacked_pictures_are_beneath_each_other():
    tile = Tile("State 0", {"decoded": _picture(0), "reconstructed": _picture(1)})
    for stacked in (False, True):
        page = Page(render_report(Report("run", (Section("States", (Gallery((tile,), "Maps", stacked=stacked),)),))))
        (classes,) = [a["class"] or "" for a in page.attributes("div") if (a.get("class") or "").startswith("tiles")]
        assert ("stacked" in classes.split()) == stacked


def test_cells_and_ragged_tables():
    shown = {12345: "12,345", 0.123456: "0.123", 11.0: "11.0", 100.0: "100", 12345.6: "12,346", "0.123456": "0.123456"}
    assert {value: show_cell(value) for value in shown} == shown
    assert show_cell(np.int64(5000)) == "5,000"
    assert [is_number(value) for value in (3, 0.5, "12.5%", "40 %", "-7", "a1", HOSTILE, "")] == [True] * 5 + [
        False
    ] * 3
    with pytest.raises(InputError, match="row 1 has 1 cells: expected 2"):
        Table(("a", "b"), ((1, 2), (3,)), "")
