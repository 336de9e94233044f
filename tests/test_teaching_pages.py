"""The tables of the session plans and the links to sections, in a small book of their own."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from small_site import SmallSite

PAGE = """# Teaching

{section}`01_small#Why it works`

```{session-chapters} day
```

```{session-plan} day
```

```{session-words} day
```

```{toctree}
notebooks/01_small
```
"""
CHAPTER = "# Small\n\n## What it is\n\nText.\n\n## Why it works\n\nText.\n"
SETTINGS = """
extensions = ["myst_parser", "book.extensions.teaching"]
html_theme = "basic"
"""
ENTRY = {
    "outcome": "see",
    "learn": "to look",
    "reading_minutes": 20,
    "exercise_minutes": {"ex-a": 5, "ex-b": 8},
    "vocabulary": [],
}
PLAN: dict[str, Any] = {
    "title": "A day",
    "minutes": 7,
    "chapters": ["01_small"],
    "rows": [
        {
            "minutes": 3,
            "what": "**Ask.**",
            "show": ["01_small#What it is"],
            "late": "Go on.",
            "say": ["Look *here*.", "See {section}`01_small#Why it works`."],
        },
        {"minutes": 4, "what": "Run.", "run": "01_small"},
    ],
}


class SmallBook(SmallSite):
    """A page for teachers and one chapter."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.write("conf.py", SETTINGS)
        self.write("index.md", PAGE)
        self.write("notebooks/01_small.md", CHAPTER)
        self.write("book/teaching/chapters.yml", yaml.safe_dump({"01_small": ENTRY}))
        self.write("book/results/chapter_times.json", json.dumps({"01_small": {"seconds": 12.4}}))
        self.write_plan()

    def write_plan(self, **changes: Any) -> None:
        self.write("book/teaching/plans.yml", yaml.safe_dump({"day": PLAN | changes}))

    def page(self) -> tuple[str, str]:
        """Build it, and return the page and what the build complained of."""
        _, complaints = self.build(freshenv=True)
        return self.html("index"), complaints


@pytest.fixture
def small_book(tmp_path: Path) -> SmallBook:
    return SmallBook(tmp_path)


def rows(page: str) -> list[list[str]]:
    """Text of every cell of the page's tables, row by row."""
    return [
        [re.sub(r"<[^>]+>", "", cell).strip() for cell in re.findall(r"<td>(.*?)</td>", row, re.S)]
        for row in re.findall(r"<tr[^>]*>(.*?)</tr>", page, re.S)
        if "<td>" in row
    ]


def test_the_tables_show_clock_links_and_minutes(small_book: SmallBook) -> None:
    page, complaints = small_book.page()
    assert complaints == ""
    assert rows(page) == [
        ["Small", "20 min", "15 min", "12 s"],
        ["together", "20 min", "15 min", "12 s"],
        ["0:00", "3", "Ask.", "“What it is” in Small", "Go on."],
        ["0:03", "4", "Run.", "Small: computes 12 s", ""],
    ]
    assert 'href="notebooks/01_small.html#why-it-works"' in page
    assert 'href="notebooks/01_small.html#what-it-is"' in page


def test_the_words_of_a_row_stand_below_its_time(small_book: SmallBook) -> None:
    page, complaints = small_book.page()
    assert complaints == ""
    [(term, anchor, lines)] = re.findall(
        r'<dt>(.*?)</dt>.*?<ul id="([^"]+)">(.*?)</ul>', page.replace(' class="simple"', ""), re.S
    )
    assert re.sub(r"<[^>]+>", "", term) == "0:00, 3 min: Ask"
    assert anchor == "day-say-1"
    assert [
        re.sub(r"<[^>]+>|\n", "", line) for line in re.findall(r"<li>.*?</li>", lines, re.S)
    ] == [
        "Look here.",
        "See “Why it works” in Small.",
    ]


def test_a_new_measurement_reaches_the_page(small_book: SmallBook) -> None:
    small_book.page()
    small_book.write("book/results/chapter_times.json", '{"01_small": {"seconds": 99}}')
    assert ["0:03", "4", "Run.", "Small: computes 99 s", ""] in rows(small_book.page()[0])


def test_homework_has_its_column_and_its_sum(small_book: SmallBook) -> None:
    small_book.write("notebooks/01_small.md", f"{CHAPTER}\n(ex-b)=\n## Exercises\n\nText.\n")
    small_book.write_plan(homework=["ex-b"])
    page, complaints = small_book.page()
    assert complaints == ""
    assert rows(page)[0][-1] == "Exercises (8\u00a0min)"
    assert rows(page)[1][-1] == "8 min"


def test_an_unknown_section_is_a_warning(small_book: SmallBook) -> None:
    small_book.write("notebooks/01_small.md", CHAPTER.replace("Why it works", "Why"))
    assert "no section 'Why it works' in notebooks/01_small" in small_book.page()[1]


def test_a_section_of_an_unknown_chapter_is_a_warning(small_book: SmallBook) -> None:
    small_book.write("index.md", PAGE.replace("01_small#Why", "02_none#Why"))
    assert "no section 'Why it works' in notebooks/02_none" in small_book.page()[1]


def test_an_unknown_plan_is_an_error(small_book: SmallBook) -> None:
    small_book.write("index.md", PAGE.replace("{session-plan} day", "{session-plan} night"))
    assert "no plan named 'night'" in small_book.page()[1]


def test_a_chapter_that_was_not_measured_is_an_error(small_book: SmallBook) -> None:
    small_book.write("book/results/chapter_times.json", "{}")
    assert "no measured time for ['01_small']" in small_book.page()[1]
