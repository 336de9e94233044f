"""The cards at the head of the chapters agree with the one file, the contents and the glossary."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT
from test_glossary import ENTRIES

from book.extensions.cards import CardError, Chapter, card, listed, read_chapters, with_card
from tools.write_cards import main, write_card

CHAPTERS = read_chapters(ROOT)
CONTENTS = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
READING_ORDER = [
    Path(page["file"]).name
    for part in CONTENTS["parts"]
    for page in part["chapters"]
    if page["file"].startswith("notebooks/")
]
EXERCISE = re.compile(r"^`{3,}\{exercise\}.*?^:label: (ex-[a-z0-9-]+)$", re.M | re.S)


def notebook(stem: str) -> dict[str, Any]:
    return json.loads((ROOT / "notebooks" / f"{stem}.ipynb").read_text(encoding="utf-8"))


def markdown(stem: str) -> list[str]:
    cells = notebook(stem)["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]


@pytest.fixture(params=CHAPTERS.values(), ids=lambda chapter: chapter.stem)
def chapter(request: pytest.FixtureRequest) -> Chapter:
    return request.param


def test_every_chapter_has_an_entry_in_reading_order() -> None:
    assert list(CHAPTERS) == READING_ORDER


def test_the_stored_card_is_what_the_file_gives(chapter: Chapter) -> None:
    first = markdown(chapter.stem)[0]
    assert card(chapter) in first, "run: python tools/write_cards.py"
    assert with_card(first, chapter) == first, "one card"


def test_prerequisites_come_earlier(chapter: Chapter) -> None:
    position = READING_ORDER.index(chapter.stem)
    assert set(chapter.prerequisites) <= set(READING_ORDER[:position])


def test_the_exercises_are_those_of_the_chapter(chapter: Chapter) -> None:
    labels = [found for text in markdown(chapter.stem) for found in EXERCISE.findall(text)]
    assert list(chapter.exercise_minutes) == labels
    assert list(chapter.exercise_points) == labels
    assert all(points > 0 for points in chapter.exercise_points.values())
    assert all(3 <= minutes <= 20 for minutes in chapter.exercise_minutes.values())
    assert 10 <= chapter.reading_minutes <= 60


def test_new_words_are_in_the_glossary_and_it_points_back(chapter: Chapter) -> None:
    entries = {name: (names, text) for names, text in ENTRIES for name in names}
    prose = "\n".join(markdown(chapter.stem)).replace(card(chapter), "").lower()
    prose = prose.replace("$\\rho$", "ρ").replace("$\\mathcal h$", "h")
    for word in chapter.vocabulary:
        names, text = entries[word]
        assert f"{{doc}}`/notebooks/{chapter.stem}`" in text, word
        assert any(name.lower() in prose for name in names), f"the chapter does not use {word!r}"


def test_a_word_is_new_once() -> None:
    words = [word for chapter in CHAPTERS.values() for word in chapter.vocabulary]
    assert sorted(words) == sorted(set(words))


def test_sentences_of_a_card_end_once(chapter: Chapter) -> None:
    for text in (chapter.outcome, chapter.learn, chapter.background):
        assert not text.endswith("."), "the card puts the full stop"
    assert chapter.note == "" or chapter.note.endswith(".")
    assert not re.search(r"\.\.|\(\)|  ", card(chapter))


# ---- The tool ---------------------------------------------------------------------------------

STEM = "01_small"
ENTRY: dict[str, Any] = {
    "outcome": "see",
    "learn": "to look",
    "prerequisites": {"00_before": "eyes"},
    "background": "light",
    "reading_minutes": 10,
    "exercise_minutes": {"ex-a": 5, "ex-b": 7},
    "vocabulary": ["density"],
}
CELL = "# Small\n\n```{admonition} At a glance\n:class: tip\nold\n```\n\nText with \\d stays."


def a_book(root: Path, first_cell: str = CELL, **changes: Any) -> Path:
    entry = {key: value for key, value in (ENTRY | changes).items() if value is not None}
    (root / "book" / "teaching").mkdir(parents=True)
    (root / "notebooks").mkdir()
    (root / "book" / "teaching" / "chapters.yml").write_text(yaml.safe_dump({STEM: entry}))
    path = root / "notebooks" / f"{STEM}.ipynb"
    cells = [{"cell_type": "markdown", "source": first_cell.splitlines(keepends=True)}]
    cells.append({"cell_type": "code", "source": ["1 + 1"], "outputs": ["kept"]})
    path.write_text(json.dumps({"cells": cells}, indent=1) + "\n")
    return path


def test_the_tool_changes_the_card_and_nothing_else(tmp_path: Path) -> None:
    path = a_book(tmp_path)
    before = json.loads(path.read_text())
    assert main(tmp_path) == 0
    after = json.loads(path.read_text())
    text = "".join(after["cells"][0].pop("source"))
    before["cells"][0].pop("source")
    assert after == before
    assert text.startswith("# Small\n\n```{admonition} At a glance\n:class: tip\n**You will** see.")
    assert "**You need** eyes ({doc}`00_before`) and light.\n" in text
    assert "reading about 10 min, exercises about 10 min (both estimates)" in text
    assert "**New words** {term}`density`." in text
    assert text.endswith("\n```\n\nText with \\d stays.")
    assert not write_card(path, read_chapters(tmp_path)[STEM]), "the second time nothing changes"


@pytest.mark.parametrize("cell", ["# No card", CELL + "\n" + CELL])
def test_a_notebook_without_its_one_card_is_left_alone(
    tmp_path: Path, cell: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = a_book(tmp_path, cell)
    before = path.read_text()
    assert main(tmp_path) == 1
    assert path.read_text() == before
    assert "cards, not one" in capsys.readouterr().err


def test_a_missing_notebook_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a_book(tmp_path).unlink()
    assert main(tmp_path) == 1
    assert STEM in capsys.readouterr().err


@pytest.mark.parametrize("changes", [{"outcome": None}, {"colour": "blue"}])
def test_a_missing_or_unknown_field_is_named(tmp_path: Path, changes: dict[str, Any]) -> None:
    a_book(tmp_path, **changes)
    with pytest.raises(CardError, match=f"{STEM}.*{next(iter(changes))}"):
        read_chapters(tmp_path)


def test_a_chapter_without_new_words_has_no_such_line(tmp_path: Path) -> None:
    a_book(tmp_path, vocabulary=[])
    assert "New words" not in card(read_chapters(tmp_path)[STEM])


def test_lists_read_like_sentences() -> None:
    assert [listed(list("abc")[:n]) for n in (1, 2, 3)] == ["a", "a and b", "a, b and c"]
