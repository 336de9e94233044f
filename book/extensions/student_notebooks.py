"""Student copies: every chapter without its solutions, made from the same notebook.

The build writes `student/<stem>.ipynb` beside the pages, puts a link to it under each chapter's
title, and the directive `{student-notebooks}` lists all of them.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.docutils import SphinxDirective

from book.extensions.pages import chapters, page_title

FOLDER = "student"
# Everything else in a notebook's metadata belongs to a machine or a run, not to the text.
KEPT_METADATA = ("kernelspec", "language_info")
Notebook = dict[str, Any]


def student_copy(notebook: Notebook) -> Notebook:
    """Return the notebook without solution cells, outputs, counts and personal metadata."""
    copied = copy.deepcopy(notebook)
    copied["cells"] = [
        _unanswered(cell)
        for cell in copied["cells"]
        if "solution" not in cell.get("metadata", {}).get("tags", [])
    ]
    kept = {key: copied["metadata"][key] for key in KEPT_METADATA if key in copied["metadata"]}
    copied["metadata"] = kept
    return copied


def _unanswered(cell: dict[str, Any]) -> dict[str, Any]:
    if cell["cell_type"] == "code":
        cell["outputs"], cell["execution_count"] = [], None
    tags = cell.get("metadata", {}).get("tags", [])
    cell["metadata"] = {"tags": tags} if tags else {}
    return cell


def write_student_copies(app: Sphinx, exception: Exception | None) -> None:
    """Write one student notebook for each chapter of the built site."""
    if exception is not None or app.builder.format != "html":
        return
    folder = Path(app.outdir, FOLDER)
    folder.mkdir(exist_ok=True)
    wanted = {f"{Path(chapter).name}.ipynb": chapter for chapter in chapters(app.env)}
    for stale in (path for path in folder.glob("*.ipynb") if path.name not in wanted):
        stale.unlink()
    for name, chapter in wanted.items():
        notebook = json.loads(Path(app.env.doc2path(chapter)).read_text(encoding="utf-8"))
        text = json.dumps(student_copy(notebook), indent=1, ensure_ascii=False)
        (folder / name).write_text(text + "\n", encoding="utf-8")


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
    """Register directive, node and events."""
    app.add_node(student_notebook_list)
    app.add_directive("student-notebooks", StudentNotebooksDirective)
    app.connect("doctree-resolved", fill_in)
    app.connect("build-finished", write_student_copies)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
