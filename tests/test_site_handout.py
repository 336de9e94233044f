"""The handout: what is taken from the built pages, and what a real Chromium prints of it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from bs4 import BeautifulSoup
from conftest import ROOT
from pypdf import PageObject, PdfReader

import run
from book.extensions.quizzes import QUIZZES, read_quiz
from tools import handout
from tools.browsers import HOW_TO_GET_ONE, find_browser
from tools.handout import Merged, Part

# ---- What is taken from the pages --------------------------------------------------------------

CHAPTERS = ("notebooks/10_temperature_step", "notebooks/11_target_networks")


@pytest.fixture(scope="module")
def merged(site: Path) -> Merged:
    return Merged(site, [Part("", ("book/notation",)), Part("The pieces", CHAPTERS)])


@pytest.fixture(scope="module")
def whole(site: Path) -> Merged:
    """The whole book, as it is printed when no chapter is named."""
    return Merged(site, handout.chosen(handout.read_parts(ROOT / "_toc.yml"), []))


@pytest.fixture(scope="module")
def document(merged: Merged) -> BeautifulSoup:
    return BeautifulSoup(merged.html("A title", "Its authors"), "html.parser")


def words(text: str) -> str:
    return " ".join(text.split())


def test_the_books_order_without_the_pages_for_teachers() -> None:
    parts = handout.read_parts(ROOT / "_toc.yml")
    pages = [page for part in parts for page in part.pages]
    contents = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    listed = [chapter["file"] for part in contents["parts"] for chapter in part["chapters"]]
    assert pages[0] == contents["root"]
    assert pages[1:] == [page for page in listed if not page.startswith("book/teaching/")]
    assert len(pages) < len(listed), "plans and answer keys are for teachers"


def cells(chapter: str, solution: bool) -> Iterator[str]:
    """Yield the code of a chapter's solutions, or all that its other cells hold."""
    notebook = json.loads((ROOT / f"{chapter}.ipynb").read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        solves = "solution" in cell["metadata"].get("tags", [])
        if solves is solution and (cell["cell_type"] == "code" or not solution):
            yield "".join(cell["source"])


def chapters_of(whole: Merged) -> list[str]:
    return [page for page in whole.articles if page.startswith("notebooks/")]


def test_the_whole_book_has_every_page_of_the_contents(whole: Merged) -> None:
    parts = handout.read_parts(ROOT / "_toc.yml")
    pages = [page for part in parts for page in part.pages]
    assert list(whole.articles) == pages
    assert len(chapters_of(whole)) == len(list((ROOT / "notebooks").glob("*.ipynb")))
    document = whole.html("A title", "Its authors")
    assert re.findall('<div class="page-of-book" id="([^"]+)"', document) == [
        *map(handout.slug, pages), "hints"
    ]  # fmt: skip
    for page in pages:
        line = handout.contents_line(handout.slug(page), whole.titles[page])
        assert document.count(line) == 1


def test_no_solution_is_in_it(whole: Merged) -> None:
    for chapter in chapters_of(whole):
        shown = [whole.articles[chapter], *whole.hints[chapter]]
        printed = words(" ".join(element.get_text() for element in shown))
        assert "Solution to" not in printed
        folded = whole.articles[chapter].select(".admonition-title:-soup-contains('Answers')")
        assert folded == [], chapter
        known = words("".join(cells(chapter, solution=False)))
        lines = {
            words(line) for cell in cells(chapter, solution=True) for line in cell.splitlines()
        }
        telling = {line for line in lines if len(line) > 30 and line not in known}
        assert len(telling) > 3, chapter
        assert [line for line in telling if line in printed] == [], chapter


def test_quizzes_are_asked_but_not_answered(whole: Merged) -> None:
    for chapter in chapters_of(whole):
        questions = read_quiz(ROOT / QUIZZES / f"{Path(chapter).name}.yml").questions
        page = whole.articles[chapter]
        asked = page.select(".quiz-question")
        assert [len(one.select(".quiz-option")) for one in asked] == [
            len(question.options) for question in questions
        ], chapter
        assert re.findall(r"\b[A-E] is (?:right|wrong)\.", words(page.get_text())) == [], chapter


def test_what_needs_a_screen_is_gone_and_stills_are_there(
    document: BeautifulSoup, site: Path
) -> None:
    body = document.body
    assert body is not None
    assert body.select("input, button, form, script, details.hide, .headerlink") == []
    live = BeautifulSoup((site / f"{CHAPTERS[1]}.html").read_text("utf-8"), "html.parser")
    views = live.select('script[type="application/vnd.jupyter.widget-view+json"]')
    assert len(views) == 1, "the chapter has a figure that moves"
    still = views[0].find_previous("figure")
    assert still is not None
    kept = body.find(id=f"{handout.slug(CHAPTERS[1])}--{still['id']}")
    assert kept is not None
    for figure in body.select("figure"):
        image = figure.select_one("img[alt]")
        assert image is not None
        assert Path(str(image["src"]).removeprefix("file://")).is_file()


def test_marks_stay_with_the_formula_before_them(document: BeautifulSoup) -> None:
    assert len(document.select(".with-mark > span.math")) > 20
    for formula in document.select(":not(.with-mark) > span.math"):
        assert not str(formula.next_sibling).startswith((".", ",", ";", ":", ")"))


def test_every_link_leads_into_the_document_or_outside(document: BeautifulSoup) -> None:
    anchors = [element["id"] for element in document.select("[id]")]
    assert len(anchors) == len(set(anchors)), "an anchor stands twice"
    targets = [str(link["href"]) for link in document.select("a[href]")]
    inside = [target for target in targets if target.startswith("#")]
    outside = [target for target in targets if not target.startswith("#")]
    assert len(inside) > 30
    assert {target[1:] for target in inside} <= set(anchors)
    assert all(target.startswith(("https://", "http://")) for target in outside)
    assert f"#{handout.slug(CHAPTERS[0])}" in inside, "chapters lead to chapters"


def test_hints_stand_at_the_end_and_lead_back(document: BeautifulSoup, site: Path) -> None:
    hints = document.select("#hints .admonition.hint")
    pages = [BeautifulSoup((site / f"{name}.html").read_text("utf-8"), "html.parser")
             for name in CHAPTERS]  # fmt: skip
    assert len(hints) == sum(len(page.select(".admonition.hint")) for page in pages) > 0
    for hint, link in zip(hints, document.select(".hint-link a"), strict=True):
        assert link["href"] == f"#{hint['id']}"
        back = hint.select_one(".admonition-title a")
        assert back is not None
        exercise = document.find(id=str(back["href"])[1:])
        assert exercise is not None
        assert "exercise" in exercise["class"]


def test_a_link_to_a_place_that_is_not_there_stops_the_handout(merged: Merged) -> None:
    with pytest.raises(ValueError, match="leads nowhere"):
        merged.target(CHAPTERS[0], "11_target_networks.html#no-such-place")
    assert merged.target(CHAPTERS[0], "../student/10_temperature_step.ipynb") is None
    assert merged.target(CHAPTERS[0], "14_theorems.html#elsewhere") is None
    assert merged.target(CHAPTERS[0], "https://example.org/#x") == "https://example.org/#x"


def test_no_browser_is_said_with_the_fix(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(handout, "find_browser", lambda: None)
    assert handout.main(["11"]) == 1
    assert HOW_TO_GET_ONE in capsys.readouterr().out


def test_pages_are_chosen_by_number_or_name_in_the_books_order() -> None:
    parts = handout.read_parts(ROOT / "_toc.yml")
    assert handout.chosen(parts, run.parser().parse_args(["handout"]).chapters) == parts
    kept = handout.chosen(parts, ["11", "10_temperature_step", "glossary"])
    assert [page for part in kept for page in part.pages] == [*CHAPTERS, "book/glossary"]
    assert [part.caption for part in kept] == ["The pieces", "Reference"]
    with pytest.raises(ValueError, match=r"No page 99\. There are: intro, .*11_target_networks"):
        handout.chosen(parts, ["10", "99"])


# ---- What is printed ---------------------------------------------------------------------------

SUM = "+".join(f"x_{{{number}}}" for number in range(60))
WIDE_LINE = "values = [" + ", ".join(f"{number:03d}" for number in range(60)) + "]"
FIRST = f"""<section id="one"><h1>1. The first chapter</h1>
<p>See <a href="second.html#place">the place</a>, <a href="https://example.org/paper">a paper</a>
and <a href="../student/first.ipynb">a file</a>.</p>
<div class="cell_input"><div class="highlight"><pre>{WIDE_LINE}</pre></div></div>
<div class="math">\\[{SUM}\\]</div>
{"<p>Filling.</p>" * 60}<h2 id="late">1.1. A section</h2><p>Text.</p></section>"""
SECOND = f"""<section id="two"><h1>2. The second chapter</h1>{"<p>Filling.</p>" * 60}
<h2 id="place">2.1. The place</h2><p>Here.</p>
<div class="exercise" id="ex"><p class="admonition-title">Exercise 2.1</p></div>
<div class="admonition hint"><p class="admonition-title">Hint</p><p>Take the logarithm.</p></div>
<div class="solution"><p>The answer is 42.</p></div></section>"""


def print_small(site: Path, root: Path, pages: dict[str, str]) -> Path:
    """Print a handout of short pages, with the styles and the mathematics of the site."""
    program = find_browser()
    if program is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"no Chromium: {HOW_TO_GET_ONE}")
    (root / "site" / "book").mkdir(parents=True)
    (root / "site" / "_static").symlink_to(site / "_static", target_is_directory=True)
    theme = '<link rel="stylesheet" href="../_static/styles/theme.css">'
    for name, text in pages.items():
        page = f'<html><head>{theme}</head><article class="bd-article">{text}</article></html>'
        (root / "site" / "book" / f"{name}.html").write_text(page, encoding="utf-8")
    parts = [Part(f"Part {name}", (f"book/{name}",)) for name in pages]
    return handout.make_handout(root / "site", parts, root / "out", program)


@pytest.fixture(scope="module")
def printed(site: Path, tmp_path_factory: pytest.TempPathFactory) -> PdfReader:
    root = tmp_path_factory.mktemp("handout")
    return PdfReader(print_small(site, root, {"first": FIRST, "second": SECOND}))


def outline(reader: PdfReader) -> list[tuple[str, int]]:
    """Return the entries of the outline, each with its page, counted from 1."""
    found: list[tuple[str, int]] = []

    def visit(entries: list[Any]) -> None:
        for entry in entries:
            if isinstance(entry, list):
                visit(entry)
            else:
                page = (reader.get_destination_page_number(entry) or 0) + 1
                found.append((entry.title, page))

    visit(reader.outline)
    return found


MARGIN = 18 / 25.4 * 72
"""Points left free at the sides and below, as in handout.css."""


def placed(page: PageObject) -> list[tuple[float, float, str]]:
    """Return the pieces of text on a page with the points where they begin, from lower left."""
    found: list[tuple[float, float, str]] = []

    def visit(text: str, cm: list[float], tm: list[float], _font: Any, _size: Any) -> None:
        if text.strip():
            x = tm[4] * cm[0] + tm[5] * cm[2] + cm[4]
            y = tm[4] * cm[1] + tm[5] * cm[3] + cm[5]
            found.append((x, y, text.strip()))

    page.extract_text(visitor_text=visit)
    return found


def footer(page: PageObject) -> str:
    """Return what stands below the text of a page."""
    return " ".join(text for _, y, text in placed(page) if y < MARGIN)


def test_the_pdf_is_tagged_and_names_its_language_and_title(printed: PdfReader) -> None:
    root = printed.root_object
    assert root["/MarkInfo"]["/Marked"]
    assert "/StructTreeRoot" in root
    assert root["/Lang"] == "en"
    assert printed.metadata is not None
    assert printed.metadata.title == "Conservative Q-Learning (CQL), step by step"


def test_the_outline_has_each_heading_once(printed: PdfReader) -> None:
    assert [title for title, _ in outline(printed)] == [
        "Contents", "1. The first chapter", "1.1. A section",
        "2. The second chapter", "2.1. The place", "Hints", "2. The second chapter",
    ]  # fmt: skip


def test_contents_and_footers_count_the_same_pages(printed: PdfReader) -> None:
    places = dict(reversed(outline(printed)))
    contents = words(printed.pages[places["Contents"] - 1].extract_text())
    for title in ("1. The first chapter", "2. The second chapter", "Hints"):
        number = places[title]
        assert f"{title} {number}" in contents
        assert footer(printed.pages[number - 1]) == str(number)
    assert footer(printed.pages[0]) == "", "the title page has no number"


def test_links_lead_to_pages_of_the_document_and_addresses_stay(printed: PdfReader) -> None:
    places = dict(outline(printed))
    page = printed.pages[places["1. The first chapter"] - 1]
    links = [link.get_object() for link in page["/Annots"]]
    addresses = [link["/A"]["/URI"] for link in links if "/URI" in link.get("/A", {})]
    assert addresses == ["https://example.org/paper"], "a file beside the site has no address"
    named = handout.pages_of_anchors(printed)
    assert named["book-second--place"] == places["2.1. The place"]


def test_nothing_is_cut_off_at_the_edge(printed: PdfReader) -> None:
    text = "".join(page.extract_text() for page in printed.pages)
    together = "".join(text.split())
    assert "".join(WIDE_LINE.split()) in together, "a long line breaks"
    edge = float(printed.pages[0].mediabox.width) - MARGIN
    beyond = [piece for page in printed.pages for piece in placed(page) if piece[0] > edge]
    assert beyond == []


def test_every_step_is_named_and_so_is_what_is_too_wide(
    site: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wide = '<h1>Wide</h1><div id="bar" style="width: 900px">It does not get narrower.</div>'
    print_small(site, tmp_path, {"first": wide})
    lines = capsys.readouterr().out.splitlines()
    steps = [
        "merging pages of the site: 1",
        "laying out",
        "all letters get smaller: book-first--bar",
        "printing once",
        "printing again",
    ]
    for line, step in zip(lines, steps, strict=True):
        assert step in line


def test_the_answer_is_not_printed_and_the_hint_is(printed: PdfReader) -> None:
    text = words(" ".join(page.extract_text() for page in printed.pages))
    assert "42" not in text.replace(WIDE_LINE, "").split()
    assert "Take the logarithm." in text
    assert "Hint: page" in text
