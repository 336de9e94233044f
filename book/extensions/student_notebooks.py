"""Student copies: every chapter without its solutions, made from the same notebook.

The build writes `student/<stem>.ipynb` beside the pages, puts a link to it under each chapter's
title, and the directive `{student-notebooks}` lists all of them. The archives of `bundles` hold
the same notebooks with all that they need.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.docutils import SphinxDirective

from book.extensions import bundles
from book.extensions.cards import read_chapters
from book.extensions.grading import read_questions
from book.extensions.pages import chapters, page_title

FOLDER = "student"


def write_student_copies(app: Sphinx, exception: Exception | None) -> None:
    """Write a student notebook for each chapter of the built site, and the two archives."""
    if exception is not None or app.builder.format != "html" or not chapters(app.env):
        return
    root, site = Path(app.srcdir), Path(app.outdir)
    sources = {Path(name).name: Path(app.env.doc2path(name)) for name in chapters(app.env)}
    notebooks = {
        stem: json.loads(path.read_text(encoding="utf-8")) for stem, path in sources.items()
    }
    graded = (read_chapters(root), read_questions(root))
    student = bundles.student_files(root, notebooks, *graded)
    for folder in (site / FOLDER, site / bundles.FOLDER):
        folder.mkdir(exist_ok=True)
    for path in (site / FOLDER).glob("*.ipynb"):
        path.unlink()  # chapters come and go
    for stem in notebooks:
        (site / FOLDER / f"{stem}.ipynb").write_bytes(student[f"notebooks/{stem}.ipynb"])
    bundles.write_zip(site / bundles.FOLDER / f"{bundles.STUDENT}.zip", student)
    teacher = bundles.teacher_files(root, notebooks, *graded)
    bundles.write_zip(site / bundles.FOLDER / f"{bundles.TEACHER}.zip", teacher)


class student_notebook_list(nodes.General, nodes.Element):  # type: ignore[misc]
    """Placeholder that becomes the list when the chapters are known."""


class StudentNotebooksDirective(SphinxDirective):
    """List the student notebook of every chapter."""

    def run(self) -> list[nodes.Node]:
        """Leave a placeholder; chapters come and go without this page changing."""
        self.env.note_reread()
        return [student_notebook_list()]


def fill_in(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Replace the placeholder by links, and link each chapter to its student copy."""
    for placeholder in list(doctree.findall(student_notebook_list)):
        items = [
            nodes.list_item("", nodes.paragraph("", "", _link(docname, name, app.env)))
            for name in chapters(app.env)
        ]
        empty = nodes.paragraph("", "No chapter is in the book yet.")
        placeholder.replace_self(nodes.bullet_list("", *items) if items else empty)
    if docname in chapters(app.env):
        title = next(iter(doctree.findall(nodes.title)))
        text = "Run this chapter yourself: download the student notebook (without solutions)"
        paragraph = nodes.paragraph("", "", _link(docname, docname, app.env, text))
        paragraph["classes"].append("student-notebook")
        title.parent.insert(title.parent.index(title) + 1, paragraph)


def _link(
    origin: str, chapter: str, env: BuildEnvironment, text: str | None = None
) -> nodes.reference:
    up = "../" * origin.count("/")
    uri = f"{up}{FOLDER}/{Path(chapter).name}.ipynb"
    return nodes.reference("", text or page_title(env, chapter), internal=True, refuri=uri)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register directives, role, node and events."""
    app.add_node(student_notebook_list)
    app.add_directive("student-notebooks", StudentNotebooksDirective)
    app.add_role("bundle", bundles.BundleRole())
    app.connect("doctree-resolved", fill_in)
    app.connect("build-finished", write_student_copies)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
