"""A build that failed on a warning must fail again until the cause is gone.

Sphinx warns about a page only while it reads the page. Without this module the second build of
a book with a broken reference reads nothing, says nothing and succeeds.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sphinx.application import ENV_PICKLE_FILENAME, Sphinx


def forget_pages(app: Sphinx, exception: Exception | None) -> None:
    """Delete Sphinx's memory of the pages, so that the next build reads all of them."""
    if exception is not None or app._warncount:
        Path(app.doctreedir, ENV_PICKLE_FILENAME).unlink(missing_ok=True)


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect to the end of the build."""
    app.connect("build-finished", forget_pages, priority=1000)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
