"""Repair what the theme and the bibliography get wrong for assistive technology.

Each repair names the rule of the accessibility engine that finds the fault. Faults that only
exist once the theme's scripts have run are repaired in `site/repairs.js`.
"""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx


def repair_body(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    """Drop roles that contradict the element they are on."""
    body = context.get("body")
    if body:
        # aria-required-children, aria-deprecated-role, aria-allowed-role: the bibliography
        # announces a list whose entries are not list items.
        body = re.sub(r' role="(?:list|listitem|doc-biblioentry|doc-backlink)"', "", body)
        context["body"] = body


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect to the rendering of each page."""
    app.connect("html-page-context", repair_body)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
