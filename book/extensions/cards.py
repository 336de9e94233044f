"""The chapters' cards: what each chapter asks and gives, and the text at its head."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

CHAPTERS = Path("book", "teaching", "chapters.yml")
CARD = re.compile(r"^```\{admonition\} At a glance\n.*?^```$", re.M | re.S)


class CardError(ValueError):
    """An entry of `chapters.yml`, or a notebook, from which no card can be made."""


@dataclass(frozen=True)
class Chapter:
    """What the file says about one chapter; its first lines explain the fields."""

    stem: str
    outcome: str
    learn: str
    reading_minutes: int
    exercise_minutes: dict[str, int]
    vocabulary: list[str]
    prerequisites: dict[str, str] = field(default_factory=dict)
    exercise_points: dict[str, int] = field(default_factory=dict)
    background: str = ""
    note: str = ""

    @property
    def all_exercises_minutes(self) -> int:
        """Estimate for all exercises of the chapter together, to five minutes."""
        return 5 * round(self.minutes_of(self.exercise_minutes) / 5)

    def minutes_of(self, labels: Collection[str]) -> int:
        """Estimate for those exercises of the chapter that `labels` names."""
        return sum(self.exercise_minutes[name] for name in self.exercise_minutes if name in labels)


def read_chapters(root: Path) -> dict[str, Chapter]:
    """Return the entries of `chapters.yml` by stem, in the order of the file.

    Raises:
        CardError: An entry lacks a field, or has one that no card knows.
    """
    entries: dict[str, dict[str, Any]] = yaml.safe_load(
        (root / CHAPTERS).read_text(encoding="utf-8")
    )
    chapters = {}
    for stem, entry in entries.items():
        try:
            chapters[stem] = Chapter(stem, **entry)
        except TypeError as error:
            raise CardError(f"{CHAPTERS.as_posix()}, {stem}: {error}") from error
    return chapters


def card(chapter: Chapter) -> str:
    """Return the card as MyST text."""
    needs = [f"{what} ({{doc}}`{stem}`)" for stem, what in chapter.prerequisites.items()]
    needs += [chapter.background] if chapter.background else []
    terms = ", ".join(f"{{term}}`{word}`" for word in chapter.vocabulary)
    words = [f"**New words** {terms}."] if terms else []
    lines = [
        f"**You will** {chapter.outcome}.",
        f"**You will learn** {chapter.learn}.",
        f"**You need** {listed(needs)}. {chapter.note}".rstrip(),
        *words,
        f"**Time** reading about {chapter.reading_minutes} min, "
        f"exercises about {chapter.all_exercises_minutes} min (both estimates), "
        f"computing {{value}}`chapter_times:{chapter.stem}.seconds:.0f` s "
        "(measured on two cores).",
    ]
    return "```{admonition} At a glance\n:class: tip\n" + "\n\n".join(lines) + "\n```"


def listed(parts: list[str]) -> str:
    """Return "a", "a and b" or "a, b and c"."""
    return " and ".join(filter(None, [", ".join(parts[:-1]), *parts[-1:]]))


def with_card(source: str, chapter: Chapter) -> str:
    """Return the first cell of a chapter with today's card in the place of its card.

    Raises:
        CardError: The cell holds no card, or several.
    """
    text, count = CARD.subn(lambda _: card(chapter), source)
    if count != 1:
        raise CardError(f"{chapter.stem}: the first cell holds {count} cards, not one")
    return text
