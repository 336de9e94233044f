"""The glossary: in order, without repetition, and each entry used where it points to."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

BOOK = Path(__file__).resolve().parent.parent / "book"
Entry = tuple[list[str], str]


def entries() -> list[Entry]:
    """Names and text of each entry of the glossary directive."""
    found = re.search(
        r"```\{glossary\}\n(.*?)\n```", (BOOK / "glossary.md").read_text("utf-8"), re.S
    )
    assert found
    result: list[Entry] = []
    for block in found[1].split("\n\n"):
        lines = block.splitlines()
        names = [line for line in lines if not line.startswith(" ")]
        result.append((names, " ".join(line.strip() for line in lines[len(names) :])))
    return result


ENTRIES = entries()


def text_of(page: str) -> str:
    """Prose of the page that a link from the glossary leads to, in lower case."""
    path = (BOOK.parent / page.lstrip("/")) if page.startswith("/") else BOOK / page
    if path.parent.name == "notebooks":
        cells = json.loads(path.with_suffix(".ipynb").read_text("utf-8"))["cells"]
        texts = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]
        return "\n".join(texts).lower()
    return path.with_suffix(".md").read_text("utf-8").lower()


def alphabetical(name: str) -> str:
    return re.sub(r"[^a-z]", "", name.lower().replace("ρ", "rho"))


def test_entries_stand_in_alphabetical_order_and_once() -> None:
    first = [alphabetical(names[0]) for names, _ in ENTRIES]
    assert first == sorted(first)
    every = [name.lower() for names, _ in ENTRIES for name in names]
    assert len(every) == len(set(every))
    assert len(every) >= 80


@pytest.mark.parametrize(("names", "text"), ENTRIES, ids=[names[0] for names, _ in ENTRIES])
def test_the_page_that_an_entry_points_to_first_uses_the_term(names: list[str], text: str) -> None:
    pages = re.findall(r"\{doc\}`([^`<]+)`", text)
    assert pages, "an entry says where its term is explained"
    prose = text_of(pages[0]).replace("$\\mathcal h$", "h").replace("$\\rho$", "ρ")
    assert any(name.lower() in prose for name in names), f"{pages[0]} does not mention {names}"
    assert len(text.split()) >= 12, "one or two concrete sentences"
