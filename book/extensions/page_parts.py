"""Parts of a built page: a figure, an equation, a claim or a section, to show somewhere else.

Numbers, captions, formulas and stored values are resolved in the page, so a part that is cut out
of it says the same as the page. Its links and pictures are turned to the place of the new page.
"""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

from bs4 import BeautifulSoup, Tag

VIEW = re.compile(r'<script type="application/vnd\.jupyter\.widget-view\+json">(.*?)</script>')
STATE = re.compile(
    r'<script type="application/vnd\.jupyter\.widget-state\+json">(.*?)</script>', re.S
)
HEADING = re.compile(r'<h[2-6]>(.*?)<a class="headerlink" href="#([^"]+)"', re.S)
TAGS = re.compile(r"<span class=\"section-number\">.*?</span>|<[^>]+>", re.S)


class PartError(LookupError):
    """A part that the page does not have."""


class BuiltPage:
    """The HTML of one page of the built site."""

    def __init__(self, site: Path, uri: str) -> None:
        self.uri = uri
        self.text = (site / uri).read_text(encoding="utf-8")

    def has(self, anchor: str) -> bool:
        """Return whether an element of the page has this id."""
        return self._start(anchor) is not None

    def part(self, anchor: str) -> Tag:
        """Return the element with this id, ready for a page in another folder of the site.

        Raises:
            PartError: No element has it.
        """
        start = self._start(anchor)
        if start is None:
            raise PartError(f"{self.uri} has nothing with the id {anchor!r}")
        # Parsing the whole page would take a second; an element ends where its tags balance.
        tag = re.escape(start[1])
        depth = 0
        for found in re.finditer(rf"<(/?){tag}\b", self.text[start.start() :]):
            depth += -1 if found[1] else 1
            if depth == 0:
                end = start.start() + found.end() + 1
                return self._moved(self.text[start.start() : end])
        raise PartError(f"{self.uri}: the element with the id {anchor!r} does not end")

    def section_anchor(self, heading: str) -> str:
        """Return the id of the section with this heading, its number left aside.

        Raises:
            PartError: No section has it.
        """
        for text, anchor in HEADING.findall(self.text):
            if html.unescape(TAGS.sub("", text)).strip() == heading:
                return anchor
        raise PartError(f"{self.uri} has no section {heading!r}")

    def heading_before(self, anchor: str) -> str:
        """Return the heading of the section in which an element stands, without its number."""
        start = self._start(anchor)
        headings = HEADING.findall(self.text[: start.start() if start else 0])
        return html.unescape(TAGS.sub("", headings[-1][0])).strip() if headings else ""

    def live_models(self) -> dict[str, str]:
        """Return the widget that takes the place of a figure, by the figure's label.

        As in the page, a widget belongs to the last figure before it in its own section.
        """
        models = {}
        for view in VIEW.finditer(self.text):
            begin = self.text.rfind("<figure", 0, view.start())
            between = self.text[max(begin, 0) : view.start()]
            label = re.match(r'<figure\b[^>]*\sid="([^"]+)"', between)
            depths = [0]
            for closing in re.findall(r"<(/?)section\b", between):
                depths.append(depths[-1] + (-1 if closing else 1))
            if label and min(depths) == depths[-1] == 0:
                models[label[1]] = str(json.loads(view[1])["model_id"])
        return models

    def widget_states(self) -> dict[str, Any]:
        """Return the stored state of every widget of the page, by its model."""
        stored = STATE.search(self.text)
        return dict(json.loads(stored[1])["state"]) if stored else {}

    def _start(self, anchor: str) -> re.Match[str] | None:
        return re.search(rf'<(\w+)\b[^<>]*\sid="{re.escape(anchor)}"', self.text)

    def _moved(self, fragment: str) -> Tag:
        part = BeautifulSoup(fragment, "html.parser").find()
        assert isinstance(part, Tag)
        for link in part.select("a.headerlink"):
            link.decompose()
        for element in [part, *part.find_all(True)]:
            # One part may be shown twice on the new page, and an id only once.
            element.attrs.pop("id", None)
            if element.name == "section":
                element.name = "div"
            for attribute in ("href", "src"):
                if attribute in element.attrs:
                    element[attribute] = self._from_folder(str(element[attribute]))
        return part

    def _from_folder(self, target: str) -> str:
        """Return a link of this page as it reads in a page one folder below the site's root."""
        if urlsplit(target).scheme:
            return target
        return f"../{urljoin(self.uri, target)}"
