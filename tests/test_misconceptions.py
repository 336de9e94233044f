"""Every question of the page has a short answer and a place in the chapters that settles it."""

from __future__ import annotations

import re

import pytest
from test_cards import READING_ORDER
from test_sessions import TEACHING, labels

PAGE = (TEACHING / "misconceptions.md").read_text(encoding="utf-8")
ENTRIES = [
    (title, body)
    for title, body in re.findall(r"^### ([^\n]+)\n\n(.*?)(?=^##|\Z)", PAGE, re.M | re.S)
]
KNOWN = {label for stem in READING_ORDER for label in labels(stem)}
PREFIX = {"eq": "eq-", "numref": "fig-", "prf:ref": "claim-", "ref": "ex-", "section": ""}


def test_there_are_at_least_twenty() -> None:
    titles = [title for title, _ in ENTRIES]
    assert len(titles) == PAGE.count("\n### ") >= 20
    assert len(titles) == len(set(titles))


@pytest.mark.parametrize(("title", "body"), ENTRIES, ids=[title[:40] for title, _ in ENTRIES])
def test_an_entry_answers_and_says_what_settles_it(title: str, body: str) -> None:
    answer, _, settled = body.partition("**Settled by** ")
    references = re.findall(r"\{([\w:]+)\}`([^`]+)`", settled)
    assert references, "a link to the place that settles it"
    for role, label in references:
        assert label in KNOWN, f"no chapter holds {label}"
        assert label.startswith(PREFIX[role]), f"{role} does not link to {label}"
    assert 8 <= len(answer.split()) <= 90, "a short answer"
