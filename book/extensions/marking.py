"""The page for those who grade: `{marking-scheme}` shows what every answer earns.

Points come from `chapters.yml`, the rest from `marking.yml`.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

from book.extensions.cards import Chapter, read_chapters
from book.extensions.grading import OpenQuestion, read_parts, read_questions
from book.extensions.quiz_pages import QuizTexts

TITLE = re.compile(r"^`{3,}\{exercise\} (.+)\n:label: (\S+)$", re.M)


def exercise_titles(notebook: dict[str, Any]) -> dict[str, str]:
    """Return the titles of a chapter's exercises by label."""
    text = "\n\n".join("".join(cell["source"]) for cell in notebook["cells"])
    return {label: title for title, label in TITLE.findall(text)}


def exercise_table(chapter: Chapter, titles: dict[str, str], parts: dict[str, str]) -> str:
    """Return the table of a chapter's exercises as MyST text."""
    rows = [
        f"| {{ref}}`{titles[label]} <{label}>` | {points} | {parts.get(label, 'all or nothing')} |"
        for label, points in chapter.exercise_points.items()
    ]
    return "\n".join(["| Exercise | Points | A part of them |", "|---|---|---|", *rows])


def question_text(question: OpenQuestion) -> str:
    """Return a question with its marking scheme as MyST text."""
    earns = [f"| {criterion.points} | {criterion.what} |" for criterion in question.earns]
    comes_up = [f"| {half.points} | {half.answer} | {half.why} |" for half in question.half_right]
    return "\n".join(
        [
            f"**In your own words, {question.points} points.** {question.question}",
            f"*A good answer.* {question.answer}",
            *["| Points | for |", "|---|---|", *earns, ""],
            *["| Points | What also comes up | Why not more |", "|---|---|---|", *comes_up],
        ]
    )


class MarkingSchemeDirective(QuizTexts):
    """Show points, partial credit and open questions of every chapter."""

    def run(self) -> list[nodes.Node]:
        """Return one section a chapter."""
        root = Path(self.env.srcdir)
        questions, parts = read_questions(root), read_parts(root)
        sections: list[nodes.Node] = []
        for stem, chapter in read_chapters(root).items():
            path = root / "notebooks" / f"{stem}.ipynb"
            self.env.note_dependency(str(path))
            titles = exercise_titles(json.loads(path.read_text(encoding="utf-8")))
            [title] = self.blocks(f"{{doc}}`/notebooks/{stem}`")
            name = f"marking-{stem.replace('_', '-')}"
            section = nodes.section("", nodes.title("", "", *title.children), ids=[name])
            section += self.blocks(exercise_table(chapter, titles, parts))
            for question in questions.get(stem, []):
                section += self.blocks(question_text(question))
            sections.append(section)
        return sections


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive."""
    app.add_directive("marking-scheme", MarkingSchemeDirective)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
