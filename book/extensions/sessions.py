"""The session plans of `book/teaching/plans.yml`: rows with minutes, and what they show."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from book.extensions.cards import Chapter

PLANS = Path("book", "teaching", "plans.yml")
# How a page refers to a label, by the label's first letters.
ROLES = {
    "fig-": "{{numref}}`{}`",
    "eq-": "equation {{eq}}`{}`",
    "ex-": "{{ref}}`{}`",
    "claim-": "{{prf:ref}}`{}`",
}


class PlanError(ValueError):
    """An entry of `plans.yml` that no table can be made of."""


@dataclass(frozen=True)
class Row:
    """One step of a session."""

    minutes: int
    what: str
    show: list[str] = field(default_factory=list)
    exercise: str = ""
    run: str = ""
    say: list[str] = field(default_factory=list)
    late: str = ""
    slide: dict[str, list[str]] = field(default_factory=dict)

    def labels(self) -> list[str]:
        """Return the labels of what is on the screen, in order."""
        return [*self.show, *([self.exercise] if self.exercise else [])]

    def references(self) -> list[str]:
        """Return what is on the screen, each as a MyST role."""
        return [reference(label) for label in self.labels()]


@dataclass(frozen=True)
class Plan:
    """A session with its rows, and the chapters behind it."""

    name: str
    title: str
    minutes: int
    chapters: list[str]
    rows: list[Row]
    homework: list[str] = field(default_factory=list)

    def say_anchor(self, number: int) -> str:
        """Return the id of the words for a row, where the plan's page has them."""
        return f"{self.name}-say-{number + 1}".replace("_", "-")

    def clock(self) -> list[str]:
        """Return the time at which each row begins, as hours and minutes of the session."""
        begins = [sum(row.minutes for row in self.rows[:n]) for n in range(len(self.rows))]
        return [f"{minute // 60}:{minute % 60:02d}" for minute in begins]


def read_plans(root: Path, chapters: dict[str, Chapter]) -> dict[str, Plan]:
    """Return the plans by name. A row with an exercise takes its minutes from the chapters.

    Raises:
        PlanError: A row has an unknown field, an unknown exercise, or no minutes.
    """
    exercises = {
        label: minutes
        for chapter in chapters.values()
        for label, minutes in chapter.exercise_minutes.items()
    }
    entries: dict[str, dict[str, Any]] = yaml.safe_load((root / PLANS).read_text(encoding="utf-8"))
    plans = {}
    for name, entry in entries.items():
        rows = [_row(name, row, exercises) for row in entry.pop("rows")]
        try:
            plans[name] = Plan(name=name, rows=rows, **entry)
        except TypeError as error:
            raise PlanError(f"{PLANS.as_posix()}, {name}: {error}") from error
    return plans


def _row(plan: str, entry: dict[str, Any], exercises: dict[str, int]) -> Row:
    where = f"{PLANS.as_posix()}, {plan}, {entry.get('what', entry)!r}"
    label = entry.get("exercise")
    if label is not None:
        if label not in exercises:
            raise PlanError(f"{where}: no chapter has the exercise {label!r}")
        if "minutes" in entry:
            raise PlanError(f"{where}: the minutes of an exercise come from the chapters' file")
        entry = entry | {"minutes": exercises[label]}
    try:
        return Row(**entry)
    except TypeError as error:
        raise PlanError(f"{where}: {error}") from error


def reference(label: str) -> str:
    """Return the role that links to a figure, equation, exercise, claim or `stem#Heading`."""
    if "#" in label:
        return f"{{section}}`{label}`"
    for prefix, role in ROLES.items():
        if label.startswith(prefix):
            return role.format(label)
    raise PlanError(f"{label!r} is no label of a figure, equation, exercise or claim")
