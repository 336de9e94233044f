"""The slides of a session plan, made in a small book of their own, and the words in the plans."""

from __future__ import annotations

import json
import re
import struct
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from bs4 import BeautifulSoup, Tag
from conftest import ROOT
from small_site import SmallSite

from book.extensions.cards import read_chapters
from book.extensions.page_parts import BuiltPage, PartError
from book.extensions.sessions import Plan, read_plans
from book.extensions.slides import Deck, Slide, SlideError, spoken, words

SETTINGS = """
project = "Small book"
author = "Somebody"
extensions = ["myst_parser", "sphinx_proof", "sphinx_exercise", "book.extensions.teaching",
              "book.extensions.slides"]
myst_enable_extensions = ["dollarmath"]
html_theme = "basic"
numfig = True
"""
VIEW = '<script type="application/vnd.jupyter.widget-view+json">{"model_id": "m1"}</script>'
STATES = {"state": {"m1": {"state": {"_esm": "x </script> y"}}, "m2": {"state": {}}}}
ESCAPED = json.dumps(STATES).replace("</", "<\\/")
CHAPTER = f"""# Small

## What it is

```{{figure}} wide.png
:name: fig-wide
:alt: A wide one

What it shows: $x$.
```

```{{figure}} tall.png
:name: fig-live
:alt: A tall one

Below it is live.
```

```{{raw}} html
{VIEW}
```

## Why it *works*

$$ a = b $$ (eq-small)

```{{prf:property}} It holds
:label: claim-small

As {{eq}}`eq-small` says, see {{doc}}`02_next`.
```

```{{exercise}} Try it
:label: ex-small

Compute $a$.
```

```{{raw}} html
<script type="application/vnd.jupyter.widget-state+json">{ESCAPED}</script>
```
"""
PAGE = """# Five minutes

{slides}`Open <day>` or {slides-print}`print <day>`.

```{session-chapters} day
```

```{session-plan} day
```

```{session-words} day
```

## Take home

1. First.
2. Second, by {eq}`eq-small`.
"""
ROWS: list[dict[str, Any]] = [
    {
        "minutes": 4,
        "what": "**Ask.** What is it?",
        "show": ["fig-wide", "fig-live"],
        "late": "Go on.",
        "say": ["Look at {numref}`fig-wide`."],
        "slide": {"open": ["Which?", 'Is it "$a < b$"?'], "fig-live": ["It moves"]},
    },
    {
        "minutes": 3,
        "what": "Derive.",
        "show": ["eq-small", "claim-small", "01_small#Why it works"],
        "slide": {"01_small#Why it works": ["Why", "Because."]},
    },
    {"exercise": "ex-small", "what": "Try."},
    {"minutes": 2, "what": "Run.", "run": "01_small"},
    {"minutes": 1, "what": "**Take home.**"},
]
ENTRY = {
    "outcome": "see",
    "learn": "to look",
    "reading_minutes": 20,
    "exercise_minutes": {"ex-small": 5},
    "vocabulary": [],
}
MADE = [
    ("words", ""),
    ("wide", "fig-wide"),
    ("live", "fig-live"),
    ("equation", "eq-small"),
    ("claim", "claim-small"),
    ("words", "01_small#Why it works"),
    ("exercise", "ex-small"),
    ("words", ""),
    ("take-home", ""),
]


def picture(width: int, height: int) -> bytes:
    """A white PNG picture."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    rows = chunk(b"IDAT", zlib.compress(height * (b"\0" + width * b"\xff")))
    return b"\x89PNG\r\n\x1a\n" + header + rows + chunk(b"IEND", b"")


class SmallBook(SmallSite):
    """A plan with its page, one chapter that it shows, and one that it does not."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.write("conf.py", SETTINGS)
        self.write(
            "index.md", "# Book\n\n```{toctree}\nbook/teaching/day\nnotebooks/01_small\n```\n"
        )
        self.write("book/teaching/day.md", PAGE)
        self.write("notebooks/01_small.md", f"{CHAPTER}\n```{{toctree}}\n02_next\n```\n")
        self.write("notebooks/02_next.md", "# Next\n")
        self.write("book/teaching/chapters.yml", yaml.safe_dump({"01_small": ENTRY}))
        self.write("book/results/chapter_times.json", '{"01_small": {"seconds": 12.4}}')
        (root / "notebooks" / "wide.png").write_bytes(picture(30, 10))
        (root / "notebooks" / "tall.png").write_bytes(picture(10, 12))
        self.write_rows(ROWS)

    def write_rows(self, rows: list[dict[str, Any]]) -> None:
        plan = {"title": "A day", "minutes": 15, "chapters": ["01_small"], "rows": rows}
        # A second plan without a page of its own has no slides.
        week = plan | {"title": "A week"}
        self.write("book/teaching/plans.yml", yaml.safe_dump({"day": plan, "week": week}))

    @property
    def site(self) -> Path:
        return self.root / "_build"

    def plan(self) -> Plan:
        return read_plans(self.root, read_chapters(self.root))["day"]

    def deck(self, plan: Plan) -> Deck:
        page = BuiltPage(self.site, "book/teaching/day.html")
        return Deck(self.site, plan, page, [BuiltPage(self.site, "notebooks/01_small.html")])


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> SmallBook:
    made = SmallBook(tmp_path_factory.mktemp("book"))
    status, complaints = made.build()
    assert (status, complaints) == (0, "")
    return made


@pytest.fixture(scope="module")
def slides(book: SmallBook) -> list[Slide]:
    return book.deck(book.plan()).slides()


@pytest.fixture(scope="module")
def written(book: SmallBook) -> BeautifulSoup:
    return BeautifulSoup(book.html("slides/day"), "html.parser")


def changed(plan: Plan, number: int, **changes: Any) -> Plan:
    rows = list(plan.rows)
    rows[number] = replace(rows[number], **changes)
    return replace(plan, rows=rows)


# ---- What becomes a slide ---------------------------------------------------------------------


def test_slides_come_in_the_order_of_the_plan_with_the_question_first(
    slides: list[Slide], written: BeautifulSoup
) -> None:
    assert [(slide.kind, slide.label) for slide in slides] == MADE
    first, *sections = written.select(".slides > section")
    assert first.h1 is not None
    assert first.h1.get_text() == "Five minutes"
    assert "Small book" in first.get_text()
    assert [(s["class"], s.get("data-label", "")) for s in sections] == [
        ([kind], label) for kind, label in MADE
    ]
    numbers = [number.get_text() for number in written.select(".number")]
    assert numbers == [f"{n} / 10" for n in range(2, 11)]


def test_titles_are_those_of_the_plan_or_of_the_chapter(slides: list[Slide]) -> None:
    assert [slide.title for slide in slides] == [
        *("Which?", "What it is", "It moves", "Why it works", "It holds", "Why", "Try it"),
        *("Run", "Take home"),
    ]


def test_what_a_slide_shows_is_resolved_in_its_chapter(slides: list[Slide]) -> None:
    texts = [BeautifulSoup(slide.body, "html.parser").get_text(" ", strip=True) for slide in slides]
    assert texts[0] == "Is it “ \\(a < b\\) ”?"
    assert "Fig. 1" in texts[1]
    assert "(1)" in texts[3]
    assert "a = b" in texts[3]
    assert texts[4] == "As (1) says, see Next . Property 1"
    assert texts[5] == "Because. “Why it works”"
    assert texts[6] == "Compute \\(a\\) . Exercise 1 : 5 minutes"
    assert texts[7] == "Small : computes 12 s"
    assert texts[8] == "First. Second, by (1) ."


def test_notes_hold_clock_row_and_what_to_do_when_late(slides: list[Slide]) -> None:
    notes = [
        BeautifulSoup(slide.notes, "html.parser").get_text(" ", strip=True) for slide in slides
    ]
    assert notes[0] == (
        "0:00 to 0:04: 4 min, slide 1 of 3 Ask. What is it? Look at Fig. 1 . When late: Go on."
    )
    assert "slide 2 of 3" in notes[1]
    assert notes[2].startswith("Fig. 2 Below it is live. 0:00 to 0:04: 4 min, slide 3 of 3")
    assert notes[3] == "0:04 to 0:07: 3 min, slide 1 of 3 Derive."
    assert notes[6] == "0:07 to 0:12: 5 min Try."
    assert notes[8] == "0:14 to 0:15: 1 min Take home."


def test_links_and_pictures_lead_to_files_of_the_site(
    book: SmallBook, written: BeautifulSoup
) -> None:
    folder = book.site / "slides"
    targets = [
        tag.get("href") or tag.get("src") for tag in written.select("main [href], main [src]")
    ]
    assert {"../notebooks/01_small.html#equation-eq-small", "../notebooks/02_next.html"} <= {
        *targets
    }
    assert len(written.select("main img")) == 2
    for target in targets:
        path, _, anchor = str(target).partition("#")
        assert (folder / path).is_file(), target
        assert not anchor or f'id="{anchor}"' in (folder / path).read_text(encoding="utf-8")
    for image in written.select("main img"):
        assert (image["width"], image["height"]) in {("30", "10"), ("10", "12")}
    assert written.select("[id]") == [], "a part may be shown twice, an id only once"
    assert written.select(".slides section section") == [], "it would be a slide of its own"


def test_a_live_figure_brings_the_state_of_its_widget_and_of_no_other(
    written: BeautifulSoup,
) -> None:
    [slide] = written.select("section.live")
    view = slide.select_one("figure + script")
    assert isinstance(view, Tag)
    assert json.loads(view.get_text()) == {"model_id": "m1"}
    [states] = written.select('script[type$="widget-state+json"]')
    assert json.loads(states.get_text()) == {"state": {"m1": STATES["state"]["m1"]}}


def test_pages_link_to_the_slides(book: SmallBook) -> None:
    page = book.html("book/teaching/day")
    assert 'href="../../slides/day.html">Open</a>' in page
    assert 'href="../../slides/day.html?view=print&amp;showNotes=separate-page">print</a>' in page
    assert [path.name for path in (book.site / "slides").iterdir()] == ["day.html"]


def test_a_picture_as_wide_as_high_has_its_caption_beside_it(book: SmallBook) -> None:
    chapter = BuiltPage(book.site, "notebooks/01_small.html")
    chapter.text = chapter.text.replace(VIEW, "")
    deck = book.deck(book.plan())
    deck.chapters = [chapter]
    assert [slide.kind for slide in deck.slides()][:3] == ["words", "wide", "tall"]
    assert deck.models == {}


def test_words_know_formulas_and_quotes() -> None:
    assert words('It\'s "*so*": $a < b$') == (
        'It’s “<em>so</em>”: <span class="math inline">\\(a &lt; b\\)</span>'
    )


def test_notes_say_short_formulas_in_plain_signs() -> None:
    assert spoken("angle \\(\\pi/6\\), \\(\\mu = 0.5\\)") == "angle π/6, μ = 0.5"


# ---- What makes no slide ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "changes", "message"),
    [
        (0, {"show": ["fig-none"]}, r"day, row 1 \(.*\): no chapter of the session has 'fig-none'"),
        (1, {"show": ["eq-none"]}, r"row 2 .* 'eq-none'"),
        (1, {"show": [], "slide": {}}, r"row 2 .*shows nothing"),
        (1, {"slide": {"eq-other": ["Title"]}}, "too long for a slide"),
        (2, {"slide": {"eq-small": ["Title"]}}, "row 3 .*does not show eq-small"),
        (
            1,
            {"show": ["01_small#Not there"], "slide": {"01_small#Not there": ["a", "b"]}},
            "no sect",
        ),
        (
            1,
            {"show": ["02_next#Why"], "slide": {"02_next#Why": ["a", "b"]}},
            "02_next is no chapter",
        ),
    ],
)
def test_a_row_without_its_slides_is_named(
    book: SmallBook, number: int, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(SlideError, match=message):
        book.deck(changed(book.plan(), number, **changes)).slides()


def test_a_picture_that_is_no_png_is_named(book: SmallBook) -> None:
    deck = book.deck(book.plan())
    deck.chapters[0].text = deck.chapters[0].text.replace("../_images/wide.png", "01_small.html")
    with pytest.raises(SlideError, match=r"01_small\.html is no PNG"):
        deck.slides()


def test_a_plan_without_a_list_to_take_home_is_named(book: SmallBook) -> None:
    deck = book.deck(book.plan())
    deck.page.text = deck.page.text.replace("<ol", "<ul").replace("</ol>", "</ul>")
    with pytest.raises(SlideError, match="no list to take home"):
        deck.slides()


def test_the_build_fails_and_old_slides_go(tmp_path: Path) -> None:
    broken = SmallBook(tmp_path)
    broken.write_rows([ROWS[0] | {"show": ["fig-wide", "fig-live", "claim-none"]}])
    broken.write("index.md", (tmp_path / "index.md").read_text() + "\n{slides}`week`\n")
    broken.write("_build/slides/old.html", "")
    status, complaints = broken.build()
    assert status == 1
    assert "no chapter of the session has 'claim-none'" in complaints
    assert "no slides for 'week'" in complaints
    assert not (broken.site / "slides" / "old.html").exists()


# ---- Parts of a page --------------------------------------------------------------------------


@pytest.fixture
def page(tmp_path: Path) -> BuiltPage:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b.html").write_text(
        '<div data-id="x">no</div><div class="c" id="x"><div>1</div><a href="#y">2</a>'
        '<a class="headerlink" href="#x">#</a><a href="https://a.b/c">3</a></div>after'
        '<h2><span class="section-number">1.2. </span>A <em>&amp;</em> B'
        '<a class="headerlink" href="#ab">#</a></h2><p id="y">',
        encoding="utf-8",
    )
    return BuiltPage(tmp_path, "a/b.html")


def test_a_part_ends_where_its_tags_balance(page: BuiltPage) -> None:
    assert str(page.part("x")) == (
        '<div class="c"><div>1</div><a href="../a/b.html#y">2</a><a href="https://a.b/c">3</a></div>'
    )


def test_headings_are_found_without_their_markup_and_number(page: BuiltPage) -> None:
    assert page.section_anchor("A & B") == "ab"
    assert page.heading_before("y") == "A & B"
    assert page.heading_before("x") == ""


def test_a_missing_part_is_named(page: BuiltPage) -> None:
    assert not page.has("z")
    with pytest.raises(PartError, match=r"a/b\.html has nothing with the id 'z'"):
        page.part("z")
    with pytest.raises(PartError, match="no section 'B'"):
        page.section_anchor("B")
    with pytest.raises(PartError, match="does not end"):
        page.part("y")


# ---- The plans of the book --------------------------------------------------------------------

PLANS = read_plans(ROOT, read_chapters(ROOT))
WITH_SLIDES = [plan for plan in PLANS.values() if plan.name.startswith("plan_")]


@pytest.mark.parametrize("plan", WITH_SLIDES, ids=lambda plan: plan.name)
def test_a_question_is_on_the_screen_before_its_picture(plan: Plan) -> None:
    asking = [row for row in plan.rows if re.match(r"\*\*(Ask|Vote)", row.what)]
    assert asking
    assert all("open" in row.slide for row in asking)


@pytest.mark.parametrize("plan", WITH_SLIDES, ids=lambda plan: plan.name)
def test_a_slide_has_a_title_and_a_few_short_lines(plan: Plan) -> None:
    for row in plan.rows:
        for title, *lines in row.slide.values():
            assert len(title) <= 50
            assert len(lines) <= 4
            assert all(len(line) <= 170 for line in lines)
