"""Find the Chromium that opens pages: for the browser tests and for the handout."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
HOW_TO_GET_ONE = (
    "install Chromium or Chrome, or run `python -m playwright install chromium`, "
    "or set the variable CHROMIUM to the program"
)
FLAGS = ("--no-sandbox", "--disable-background-networking")
"""Containers have no sandbox; the book's own pages need none and load nothing from outside."""


def find_browser() -> str | None:
    """Return the path of a Chromium: the variable CHROMIUM, the system's, or playwright's own."""
    named = os.environ.get("CHROMIUM")
    if named:
        return shutil.which(named)
    for name in NAMES:
        if found := shutil.which(name):
            return found
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        own = Path(playwright.chromium.executable_path)
    return str(own) if own.is_file() else None
