"""The quizzes of the chapters: one file `book/quizzes/<notebook stem>.yml` each.

A file is a list of questions. Every option carries its explanation, under `right` or `wrong`:

    - id: task-time-limit
      prompt: What does `truncated` mean?
      options:
        - text: The recording ended.
          right: Nothing ended for the pendulum.
        - text: The task ended.
          wrong: That is what `terminated` says.
        - ...

All texts are MyST Markdown; the text of an option is a single paragraph.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

QUIZZES = Path("book", "quizzes")
LETTERS = "ABCD"
FEWEST_OPTIONS = 3
QUESTION_KEYS = {"id", "prompt", "options"}
OPTION_KEYS = {"text", "right", "wrong"}
IDENTIFIER = re.compile(r"[a-z0-9]+(-[a-z0-9]+)+")


class QuizError(ValueError):
    """A quiz that cannot be shown; the message names the file, the question and the fault."""


@dataclass(frozen=True)
class Option:
    """One answer to choose, and why it is right or wrong."""

    letter: str
    text: str
    right: bool
    explanation: str


@dataclass(frozen=True)
class Question:
    """A prompt with three or four options, exactly one of them right."""

    id: str
    prompt: str
    options: tuple[Option, ...]


@dataclass(frozen=True)
class Quiz:
    """The questions of one chapter."""

    chapter: str
    """Stem of the chapter's notebook."""
    questions: tuple[Question, ...]


def read_quiz(path: Path) -> Quiz:
    """Read and check the quiz in a file.

    Raises:
        QuizError: The file is missing or says too little, too much or something twice.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise QuizError(f"{path.name}: there is no such file in {QUIZZES.as_posix()}") from None
    except yaml.YAMLError as error:
        raise QuizError(f"{path.name}: this is not YAML: {error}") from error
    if not isinstance(content, list) or not content:
        raise QuizError(f"{path.name}: a quiz is a list of questions")
    questions = [_question(f"{path.name}, question {n}", q) for n, q in enumerate(content, 1)]
    _refuse_repetitions((path.name, question.id) for question in questions)
    return Quiz(path.stem, tuple(questions))


def read_quizzes(folder: Path) -> list[Quiz]:
    """Read all quizzes of a folder, in the order of the chapters.

    Raises:
        QuizError: A quiz is at fault, or two questions of the book share an id.
    """
    quizzes = [read_quiz(path) for path in sorted(folder.glob("*.yml"))]
    _refuse_repetitions(
        (f"{quiz.chapter}.yml", question.id) for quiz in quizzes for question in quiz.questions
    )
    return quizzes


def _question(where: str, entry: Any) -> Question:
    fields = _fields(where, entry, QUESTION_KEYS)
    identifier = _text(where, fields, "id")
    if not IDENTIFIER.fullmatch(identifier):
        raise QuizError(f"{where}: the id {identifier!r} is not words-with-hyphens in lower case")
    where = f"{where} ({identifier})"
    prompt, entries = _text(where, fields, "prompt"), fields.get("options")
    if not isinstance(entries, list) or not FEWEST_OPTIONS <= len(entries) <= len(LETTERS):
        raise QuizError(f"{where}: it needs {FEWEST_OPTIONS} to {len(LETTERS)} options")
    options = tuple(
        _option(f"{where}, option {letter}", letter, option)
        for letter, option in zip(LETTERS, entries, strict=False)
    )
    right = [option.letter for option in options if option.right]
    if len(right) != 1:
        found = " and ".join(right) or "none"
        raise QuizError(f"{where}: exactly one option is right, not {found}")
    if len({option.text for option in options}) < len(options):
        raise QuizError(f"{where}: two options say the same")
    return Question(identifier, prompt, options)


def _option(where: str, letter: str, entry: Any) -> Option:
    fields = _fields(where, entry, OPTION_KEYS)
    text, verdicts = _text(where, fields, "text"), {"right", "wrong"} & fields.keys()
    if len(verdicts) != 1:
        raise QuizError(f"{where}: it needs its explanation, under either 'right' or 'wrong'")
    verdict = verdicts.pop()
    return Option(letter, text, verdict == "right", _text(where, fields, verdict))


def _fields(where: str, entry: Any, known: set[str]) -> dict[str, Any]:
    if not isinstance(entry, dict):
        raise QuizError(f"{where}: expected the keys {', '.join(sorted(known))}")
    if unknown := {str(key) for key in entry} - known:
        raise QuizError(f"{where}: unknown key {', '.join(sorted(unknown))}")
    return entry


def _text(where: str, fields: dict[str, Any], key: str) -> str:
    value = fields.get(key)
    # YAML reads an unquoted 0.5 or yes as a number or a truth value.
    if not isinstance(value, str) or not value.strip():
        raise QuizError(f"{where}: {key!r} is missing, empty or not a text")
    return value.strip()


def _refuse_repetitions(identifiers: Iterable[tuple[str, str]]) -> None:
    seen: dict[str, str] = {}
    for file, identifier in identifiers:
        if identifier in seen:
            raise QuizError(f"{file}: the id {identifier} is taken, in {seen[identifier]}")
        seen[identifier] = file
