"""Assignments for nbgrader, made from the chapters: what is filled in, what is checked, for what.

An exercise is one code cell in the book. In an assignment it is two: the stub, which a student
changes, and the call of its checker, which is locked and returns the points. Questions that no
program can judge come behind the exercises, and a teacher grades them by hand.
"""

from __future__ import annotations

import ast
import copy
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from book.extensions.cards import Chapter

Cell = dict[str, Any]
Notebook = dict[str, Any]

MARKING = Path("book", "teaching", "marking.yml")
CODE_STUB = "# Replace the dots, run this cell, then the next one: it checks your answer."
TEXT_STUB = "*Write your answer here.*"
"""What nbgrader puts where an answer was; `nbgrader_config.py` says the same."""
BEGIN, END = "### BEGIN SOLUTION", "### END SOLUTION"
SCHEMA = 3
LABEL = re.compile(r"^:label: (\S+)$", re.M)
# Everything else in a notebook's metadata belongs to a machine or a run, not to the text.
KEPT_METADATA = ("kernelspec", "language_info")


class GradingError(ValueError):
    """A chapter, or an entry of `marking.yml`, from which no assignment can be made."""


@dataclass(frozen=True)
class Criterion:
    """One thing that an answer may contain."""

    points: int
    what: str


@dataclass(frozen=True)
class HalfRight:
    """An answer that comes up, what it is worth, and why."""

    answer: str
    points: int
    why: str


@dataclass(frozen=True)
class OpenQuestion:
    """A question to be answered in prose, with its marking scheme."""

    id: str
    question: str
    answer: str
    earns: tuple[Criterion, ...]
    half_right: tuple[HalfRight, ...]

    @property
    def points(self) -> int:
        """What the best answer is worth."""
        return sum(criterion.points for criterion in self.earns)


def read_questions(root: Path) -> dict[str, list[OpenQuestion]]:
    """Return the open questions of each chapter, by its stem.

    Raises:
        GradingError: An entry lacks a field, or has one that no question knows.
    """
    entries = _marking(root)["questions"]
    return {stem: [_question(stem, entry) for entry in many] for stem, many in entries.items()}


def read_parts(root: Path) -> dict[str, str]:
    """Return, by exercise, what earns a part of its points; others are all or nothing."""
    return dict(_marking(root)["exercises"])


def _marking(root: Path) -> dict[str, Any]:
    return dict(yaml.safe_load((root / MARKING).read_text(encoding="utf-8")))


def _question(stem: str, entry: Mapping[str, Any]) -> OpenQuestion:
    try:
        earns = tuple(Criterion(**criterion) for criterion in entry["earns"])
        half_right = tuple(HalfRight(**answer) for answer in entry["half_right"])
        return OpenQuestion(**{**entry, "earns": earns, "half_right": half_right})
    except (KeyError, TypeError) as error:
        raise GradingError(f"{MARKING.as_posix()}, {stem}: {error}") from error


# ---- A chapter as an assignment -----------------------------------------------------------------


def assignment(
    notebook: Notebook, chapter: Chapter, questions: list[OpenQuestion], *, answers: bool
) -> Notebook:
    """Return a chapter as an assignment, without outputs and personal metadata.

    Args:
        notebook: the chapter.
        chapter: says what each exercise is worth.
        questions: the chapter's open questions.
        answers: put the answers between nbgrader's marks. `nbgrader generate_assignment` takes
            them out again, and its result is what this function returns without answers.

    Raises:
        GradingError: An exercise has no points, or its cell does not end in a call of `check`.
    """
    cells: list[Cell] = []
    original = copy.deepcopy(notebook["cells"])
    solutions = _solutions(original)
    for cell in original:
        tags = cell.get("metadata", {}).get("tags", [])
        if "solution" in tags:
            continue
        if "exercise" in tags:
            cells += _exercise_cells(cell, chapter, solutions if answers else None)
            continue
        if _source(cell).startswith("## References"):
            cells += _question_cells(questions, answers)
        cells.append(_cell(cell, {"tags": tags} if tags else {}))
    metadata = notebook["metadata"]
    kept = {key: metadata[key] for key in KEPT_METADATA if key in metadata}
    return {**notebook, "cells": cells, "metadata": kept}


def split_exercise(source: str) -> tuple[str, str, str]:
    """Return stub, label and checked expression of an exercise's or a solution's cell.

    Raises:
        GradingError: There is not exactly one call of `check`.
    """
    lines = source.splitlines(keepends=True)
    calls = [
        statement
        for statement in ast.parse(source).body
        if isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Call)
        and ast.unparse(statement.value.func) == "check"
    ]
    if len(calls) != 1:
        raise GradingError(f"one call of check is expected in\n{source}")
    [call] = calls
    assert isinstance(call.value, ast.Call)  # as was just asked
    label, answer = (ast.get_source_segment(source, part) or "" for part in call.value.args)
    before, after = "".join(lines[: call.lineno - 1]), "".join(lines[call.end_lineno :])
    rest = "\n\n\n".join(part.strip("\n") for part in (before, after) if part.strip())
    return rest, ast.literal_eval(label), answer


def _solutions(cells: list[Cell]) -> dict[str, str]:
    """Return, by label, the code of each solution without its check, ready to follow the stub."""
    found: dict[str, str] = {}
    label, parts = "", list[str]()
    for cell in cells:
        source = _source(cell)
        if start := re.match(r"`{3,}\{solution-start\} (\S+)", source):
            label, parts = start[1], []
        elif "solution" in cell.get("metadata", {}).get("tags", []):
            if cell["cell_type"] == "code":
                parts.append(source)
            elif "{solution-end}" in source:
                found[label] = "\n\n\n".join(parts)
    return found


def _answer_after(stub_answer: str, solution: str) -> str:
    """Return a solution's code, in which the stub's names end up with what it checks."""
    code, _, answer = split_exercise(solution)
    if answer == stub_answer or answer.isidentifier():
        return code
    return f"{code}\n{stub_answer} = {answer}".strip("\n")


def _exercise_cells(cell: Cell, chapter: Chapter, solutions: dict[str, str] | None) -> list[Cell]:
    stub, label, answer = split_exercise(_source(cell))
    if label not in chapter.exercise_points:
        raise GradingError(f"chapters.yml, {chapter.stem}: no points for {label}")
    filling = CODE_STUB
    if solutions is not None:
        filling = f"{BEGIN}\n{_answer_after(answer, solutions[label])}\n{END}"
    gap = "\n\n\n" if stub.splitlines()[-1].startswith(" ") else "\n"
    points = chapter.exercise_points[label]
    # Imported again: whatever a student calls `check`, this cell calls the library's.
    test = (
        f'from offline_rl_lib.teaching import check\n\ncheck("{label}", {answer}, points={points})'
    )
    return [
        _cell({**cell, "source": stub + gap + filling}, _marks(label, solution=True)),
        _cell(
            {**cell, "source": test, "id": f"check-{label}"},
            _marks(f"check-{label}", points=points),
        ),
    ]


def _question_cells(questions: list[OpenQuestion], answers: bool) -> list[Cell]:
    cells: list[Cell] = []
    for number, question in enumerate(questions):
        heading = "" if number else "## In your own words\n\n"
        worth = f"{question.points} points, graded by your teacher"
        text = f"{heading}{question.question.strip()} ({worth}.)"
        filling = f"{BEGIN}\n{question.answer.strip()}\n{END}" if answers else TEXT_STUB
        cells += [
            _cell({"cell_type": "markdown", "id": f"ask-{question.id}", "source": text}, {}),
            _cell(
                {"cell_type": "markdown", "id": question.id, "source": filling},
                _marks(question.id, points=question.points, solution=True),
            ),
        ]
    return cells


def _marks(grade_id: str, points: int | None = None, solution: bool = False) -> dict[str, Any]:
    """Return a cell's metadata; without points it is not graded itself."""
    tested = points is not None and not solution
    worth = {} if points is None else {"points": points}
    nbgrader = {
        "grade": points is not None,
        "grade_id": grade_id,
        "locked": tested,
        **worth,
        "schema_version": SCHEMA,
        "solution": solution,
        "task": False,
    }
    # What a student must not change also resists in JupyterLab; a deleted cell earns nothing.
    kept = {"deletable": False, "editable": False} if tested else {"deletable": False}
    return {**kept, "nbgrader": nbgrader}


def _cell(cell: Cell, metadata: dict[str, Any]) -> Cell:
    kept: Cell = {key: cell[key] for key in ("cell_type", "id") if key in cell}
    if cell["cell_type"] == "code":
        kept |= {"outputs": [], "execution_count": None}
    return kept | {"metadata": metadata, "source": _source(cell).splitlines(keepends=True)}


def _source(cell: Cell) -> str:
    return "".join(cell["source"])
