"""The page "Differences from the original post" names tests; they must exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
PAGE = TESTS.parent / "book" / "differences.md"
NAMED = sorted(set(re.findall(r"`(test_\w+\.py)::(test_\w+)`", PAGE.read_text(encoding="utf-8"))))


@pytest.mark.parametrize(("file", "name"), NAMED)
def test_every_test_that_the_page_names_exists(file: str, name: str) -> None:
    tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
    functions = [node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    assert name in functions, f"{PAGE.name} names {file}::{name}; {file} has no such test"


def test_every_difference_names_a_test() -> None:
    text = PAGE.read_text(encoding="utf-8")
    sections = [part.partition("\n") for part in re.split(r"^### ", text, flags=re.MULTILINE)[1:]]
    assert len(sections) >= 10
    without = [title for title, _, body in sections if "::test_" not in body]
    assert not without, f"no test is named for: {', '.join(without)}"
