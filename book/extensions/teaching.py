"""What the pages for teachers show of the plans: tables, and links to sections of chapters.

The directive `{session-plan} name` shows a plan minute by minute, `{session-words} name` what to
say in its rows, `{session-chapters} name` the chapters behind it with their minutes, and the role
{section}`stem#Heading` links to a section.
"""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective, SphinxRole

from book.extensions.cards import CHAPTERS, Chapter, read_chapters
from book.extensions.pages import data_table, page_link
from book.extensions.sessions import PLANS, Plan, Row, read_plans, reference
from book.extensions.stored_values import RESULTS

TIMES = RESULTS / "chapter_times.json"
STEP_HEADINGS = ("From", "Minutes", "What happens", "On the screen", "When late")
# The homework is last: a session without homework has no such column.
CHAPTER_HEADINGS = (
    "Chapter",
    "Reading (estimate)",
    "All exercises (estimate)",
    "Computing (measured)",
    "Homework (estimate)",
)
logger = logging.getLogger(__name__)


class PlanDirective(SphinxDirective, ABC):
    """A directive whose argument is the name of a plan."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return the table."""
        root = Path(self.env.srcdir)
        for path in (CHAPTERS, PLANS, TIMES):
            self.env.note_dependency(str(root / path))
        chapters = read_chapters(root)
        plans = read_plans(root, chapters)
        times = json.loads((root / TIMES).read_text(encoding="utf-8"))
        seconds = {stem: float(entry["seconds"]) for stem, entry in times.items()}
        name = self.arguments[0]
        if name not in plans:
            raise self.error(f"no plan named {name!r} in {PLANS.as_posix()}")
        if missing := set(plans[name].chapters) - (chapters.keys() & seconds.keys()):
            raise self.error(f"{name}: no entry or no measured time for {sorted(missing)}")
        return [self.table(plans[name], chapters, seconds)]

    @abstractmethod
    def table(self, plan: Plan, chapters: dict[str, Chapter], seconds: dict[str, float]) -> Any:
        """Return the table of one plan."""

    def cell(self, text: str) -> nodes.Node:
        """Return one line of MyST as one inline node."""
        parsed = nodes.Element()
        self.state.nested_parse(StringList([text], self.get_source_info()[0]), 0, parsed)
        return nodes.inline("", "", *(child for part in parsed for child in part.children))


class SessionPlanDirective(PlanDirective):
    """Show a plan minute by minute."""

    def table(self, plan: Plan, chapters: dict[str, Chapter], seconds: dict[str, float]) -> Any:
        """Return one row for each step of the session."""
        rows = [
            [begin, str(row.minutes), row.what, on_the_screen(row, seconds), row.late]
            for begin, row in zip(plan.clock(), plan.rows, strict=True)
        ]
        return data_table(
            steps_title(plan),
            STEP_HEADINGS,
            [[self.cell(text) for text in row] for row in rows],
        )


class SessionWordsDirective(PlanDirective):
    """Show what to say in each row of a plan."""

    def table(self, plan: Plan, chapters: dict[str, Chapter], seconds: dict[str, float]) -> Any:
        """Return a list of lists: the words of a row below its time."""
        words = nodes.definition_list(classes=["session-words"])
        for number, (begin, row) in enumerate(zip(plan.clock(), plan.rows, strict=True)):
            if row.say:
                term = nodes.term("", f"{begin}, {row.minutes} min: ", self.cell(keyword(row.what)))
                said = [nodes.list_item("", nodes.paragraph("", "", self.cell(x))) for x in row.say]
                lines = nodes.bullet_list("", *said, ids=[plan.say_anchor(number)])
                words += nodes.definition_list_item("", term, nodes.definition("", lines))
        return words


def keyword(what: str) -> str:
    """Return the bold words at the head of a row, without their stars and full stop."""
    found = re.match(r"\*\*(.+?)\.?\*\*", what)
    return found[1] if found else what


def steps_title(plan: Plan) -> str:
    """Return the title of the table of a plan's steps."""
    return f"{plan.title}: step by step"


def on_the_screen(row: Row, seconds: dict[str, float]) -> str:
    """Return the links of a row, and how long the chapter computes that it runs."""
    texts = row.references()
    if row.run:
        texts.append(f"{{doc}}`/notebooks/{row.run}`: computes {seconds[row.run]:.0f} s")
    return ", ".join(texts)


class SessionChaptersDirective(PlanDirective):
    """Show the chapters behind a plan, their minutes, and the homework."""

    def table(self, plan: Plan, chapters: dict[str, Chapter], seconds: dict[str, float]) -> Any:
        """Return one row for each chapter and one for their sum."""
        used = [chapters[stem] for stem in plan.chapters]
        rows = [
            [
                f"{{doc}}`/notebooks/{chapter.stem}`",
                f"{chapter.reading_minutes} min",
                f"{chapter.all_exercises_minutes} min",
                f"{seconds[chapter.stem]:.0f} s",
                ", ".join(
                    f"{reference(label)} ({minutes}\u00a0min)"
                    for label, minutes in chapter.exercise_minutes.items()
                    if label in plan.homework
                ),
            ]
            for chapter in used
        ]
        homework = sum(chapter.minutes_of(plan.homework) for chapter in used)
        rows.append(
            [
                "**together**",
                f"{sum(chapter.reading_minutes for chapter in used)} min",
                f"{sum(chapter.all_exercises_minutes for chapter in used)} min",
                f"{sum(seconds[stem] for stem in plan.chapters):.0f} s",
                f"{homework} min",
            ]
        )
        columns = len(CHAPTER_HEADINGS) if plan.homework else len(CHAPTER_HEADINGS) - 1
        return data_table(
            f"{plan.title}: the chapters behind",
            CHAPTER_HEADINGS[:columns],
            [[self.cell(text) for text in row[:columns]] for row in rows],
        )


class section_link(nodes.Inline, nodes.TextElement):  # type: ignore[misc]
    """Placeholder that becomes a link when all headings are known."""


class SectionRole(SphinxRole):
    """Link to a section of a chapter by its heading: {section}`stem#Heading`."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """Return a placeholder."""
        stem, _, heading = self.text.partition("#")
        placeholder = section_link(self.rawtext, stem=stem, heading=heading)
        self.set_source_info(placeholder)
        return [placeholder], []


def link_sections(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Turn the placeholders of a page into links; an unknown heading is a warning."""
    for placeholder in list(doctree.findall(section_link)):
        stem, heading = placeholder["stem"], placeholder["heading"]
        target = f"notebooks/{stem}"
        entries = app.env.tocs.get(target, nodes.bullet_list()).findall(nodes.reference)
        anchors = {entry.astext(): str(entry["anchorname"]) for entry in entries}
        if heading not in anchors:
            logger.warning("no section %r in %s", heading, target, location=placeholder)
        anchor = anchors.get(heading, "").removeprefix("#")
        text = f"“{heading}” in {app.env.titles[target].astext()}" if anchors else heading
        placeholder.replace_self(page_link(app, docname, target, text, anchor))


def setup(app: Sphinx) -> dict[str, Any]:
    """Register directives, role, node and event."""
    app.add_node(section_link)
    app.add_directive("session-plan", SessionPlanDirective)
    app.add_directive("session-words", SessionWordsDirective)
    app.add_directive("session-chapters", SessionChaptersDirective)
    app.add_role("section", SectionRole())
    app.connect("doctree-resolved", link_sections)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
