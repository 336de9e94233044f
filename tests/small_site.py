"""A site of a few pages in a folder of its own, to build with the extensions under test."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.util.docutils import docutils_namespace


class SmallSite:
    """Pages are written below ``root`` and built into ``root/_build``."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def write(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def build(self, **options: Any) -> tuple[int, str]:
        """Return the exit status of a build with warnings as errors, and what it complained of."""
        complaints = io.StringIO()
        source, output = str(self.root), str(self.root / "_build")
        with docutils_namespace(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            app = Sphinx(
                *(source, source, output, f"{output}/.doctrees", "html"),
                status=None,
                warning=complaints,
                warningiserror=True,
                keep_going=True,
                **options,
            )
            app.build()
        return app.statuscode, complaints.getvalue()

    def html(self, name: str) -> str:
        return (self.root / "_build" / f"{name}.html").read_text(encoding="utf-8")
