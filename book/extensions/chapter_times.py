"""The directive `{chapter-times}`: how long each chapter computes, and with which versions."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

from book.extensions.pages import chapters, data_table, page_link, page_title
from book.extensions.stored_values import RESULTS

TIME_HEADINGS = ("Chapter", "Computing time", "Slowest cell")
VERSION_HEADINGS = ("Component", "Version or value")
logger = logging.getLogger(__name__)


class chapter_times(nodes.General, nodes.Element):  # type: ignore[misc]
    """Placeholder that becomes the tables when the chapters are known."""


class ChapterTimesDirective(SphinxDirective):
    """Show the measured computing time of every chapter and the versions behind it."""

    def run(self) -> list[nodes.Node]:
        """Leave a placeholder; the results change without the page changing."""
        self.env.note_reread()
        placeholder = chapter_times()
        self.set_source_info(placeholder)
        return [placeholder]


def fill_in(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Replace the placeholder by a table of times and a table of versions."""
    for placeholder in list(doctree.findall(chapter_times)):
        times = _read(app, "chapter_times")
        rows: list[list[nodes.Node]] = []
        for chapter in chapters(app.env):
            entry = times.get(Path(chapter).name, {})
            if not entry:
                logger.warning(
                    "no measured time for %s; execute and store the notebooks again",
                    chapter,
                    location=placeholder,
                )
            link = page_link(app, docname, chapter, page_title(app.env, chapter))
            rows.append([link, _seconds(entry, "seconds"), _seconds(entry, "slowest_cell_seconds")])
        versions = [[nodes.Text(k), nodes.Text(v)] for k, v in _flat(_read(app, "environment"))]
        placeholder.replace_self(
            [
                data_table("Computing time of each chapter", TIME_HEADINGS, rows),
                data_table("Measured with", VERSION_HEADINGS, versions),
            ]
            if rows and versions
            else nodes.paragraph("", "No chapter has been measured yet.")
        )


def _read(app: Sphinx, stem: str) -> dict[str, Any]:
    path = Path(app.srcdir) / RESULTS / f"{stem}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _seconds(entry: dict[str, float], key: str) -> nodes.Node:
    return nodes.Text(f"{entry[key]:.1f} s" if key in entry else "not measured")


def _flat(values: dict[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}: ")
        else:
            yield f"{prefix}{key}", str(value)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register directive, node and event."""
    app.add_node(chapter_times)
    app.add_directive("chapter-times", ChapterTimesDirective)
    app.connect("doctree-resolved", fill_in)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
