"""The role {value}`source:dotted.key:format`: a number of the text comes from its measurement.

`source` is the stem of `book/results/<source>.json`, or the stem of a notebook whose glued
values are meant. The format is Python's and may be left out.
"""

from __future__ import annotations

import ast
import json
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxRole

RESULTS = Path("book", "results")
NOTEBOOKS = Path("notebooks")
NUMBER = re.compile(r"\{(value|glue:text)\}`([^`]+)`")
logger = logging.getLogger(__name__)


class UnknownValueError(LookupError):
    """A source or key that does not exist."""


def find_source(root: Path, source: str) -> Path:
    """Return the file that holds the values of `source`, or raise UnknownValueError."""
    for path in (root / RESULTS / f"{source}.json", root / NOTEBOOKS / f"{source}.ipynb"):
        if path.is_file():
            return path
    raise UnknownValueError(
        f"no stored values named {source!r}: neither {RESULTS.as_posix()}/{source}.json "
        f"nor {NOTEBOOKS.as_posix()}/{source}.ipynb exists"
    )


def look_up(path: Path, key: str) -> Any:
    """Return the value at a dotted key, or raise UnknownValueError.

    A key may itself hold dots (`torch.version`): the longest match is tried first.
    """
    values = _read(path, path.stat().st_mtime_ns)
    found = _descend(values, key.split("."))
    if found is None:
        known = ", ".join(sorted(map(str, values))[:12]) if isinstance(values, dict) else "a list"
        raise UnknownValueError(f"{path.name} holds no key {key!r}; it starts with: {known}")
    return found


def _descend(values: Any, words: list[str]) -> Any:
    if not words:
        return values
    if isinstance(values, list) and words[0].lstrip("-").isdigit():
        position = int(words[0])
        inside = -len(values) <= position < len(values)
        return _descend(values[position], words[1:]) if inside else None
    if isinstance(values, dict):
        for count in range(len(words), 0, -1):
            key = ".".join(words[:count])
            if key in values:
                return _descend(values[key], words[count:])
    return None


@lru_cache(maxsize=64)
def _read(path: Path, _modified: int) -> Any:
    content = json.loads(path.read_text(encoding="utf-8"))
    return glued_values(content) if path.suffix == ".ipynb" else content


def glued_values(notebook: dict[str, Any]) -> dict[str, Any]:
    """Return the values that a notebook's stored outputs hold for the text, by their keys."""
    glued: dict[str, Any] = {}
    for cell in notebook["cells"]:
        for output in cell.get("outputs", []):
            record = output.get("metadata", {}).get("scrapbook")
            if record:
                text = "".join(output["data"][record.get("mime_prefix", "") + "text/plain"])
                try:
                    glued[record["name"]] = ast.literal_eval(text)
                except (ValueError, SyntaxError):
                    glued[record["name"]] = text
    return glued


def format_value(value: Any, specification: str) -> str:
    """Format a stored value; glued text that spells a number is formatted as that number."""
    if specification and isinstance(value, str):
        value = float(value)
    return format(value, specification) if specification else str(value)


def written_out(root: Path, notebook: dict[str, Any]) -> dict[str, Any]:
    """Return a notebook whose text holds the numbers themselves, as its page does.

    JupyterLab knows neither `{value}` nor `{glue:text}` and shows what stands behind them. A
    role whose value is not stored stays; on the page it is a warning.
    """
    glued = glued_values(notebook)

    def number(role: re.Match[str]) -> str:
        key, _, specification = role[2].partition(":")
        try:
            if role[1] == "value":
                path = find_source(root, key)
                key, _, specification = specification.partition(":")
                return format_value(look_up(path, key), specification)
            return format_value(glued[key], specification)
        except (LookupError, ValueError, TypeError):
            return role[0]

    cells = [
        {**cell, "source": NUMBER.sub(number, "".join(cell["source"]))}
        if cell["cell_type"] == "markdown"
        else cell
        for cell in notebook["cells"]
    ]
    return {**notebook, "cells": cells}


class ValueRole(SphinxRole):
    """Replace itself by a stored value; anything unknown is a warning, so it stops the build."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """Return the text node."""
        source, _, rest = self.text.partition(":")
        key, _, specification = rest.partition(":")
        try:
            path = find_source(Path(self.env.srcdir), source)
            self.env.note_dependency(str(path))
            text = format_value(look_up(path, key), specification)
        except (UnknownValueError, ValueError, TypeError) as error:
            logger.warning("value %r: %s", self.text, error, location=self.get_location())
            text = "(not stored)"
        return [nodes.inline(self.rawtext, text, classes=["stored-value"])], []


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the role."""
    app.add_role("value", ValueRole())
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
