"""Every page in a real browser, from disk, with the network cut."""

from __future__ import annotations

from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from test_site import PAGES

WIDE, PHONE = (1280, 900), (390, 844)
MATHEMATICS = "notebooks/04_tanh_normal"


def serious_findings(page: Any, colours: bool) -> list[str]:
    """Return what the accessibility engine calls serious or critical.

    Most of its time goes into the contrast of each piece of text. Colours do not depend on the
    window's width, and mathematics has the colour of the text around it, so it is left out.
    """
    options = {
        "preload": False,  # it would fetch the style sheets, which a page on disk may not do
        "resultTypes": ["violations"],
        "rules": {"color-contrast": {"enabled": colours}},
    }
    around = {"exclude": [["mjx-container"]]} if colours else None
    findings = Axe().run(page, context=around, options=options).response["violations"]
    return [
        f"{finding['id']}: {finding['nodes'][0]['html'][:200]}"
        for finding in findings
        if finding["impact"] in ("serious", "critical")
    ]


# The theme looks again for what scrolls a moment after the window has changed.
WHAT_SCROLLS_TAKES_FOCUS = """() =>
    [...document.querySelectorAll("pre, .pst-scrollable-table-container")].every(
    box => box.scrollWidth <= box.clientWidth || box.tabIndex === 0)"""


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("name", [*PAGES, "search", "genindex"])
def test_page_is_whole_quiet_and_accessible(open_page: Any, name: str, theme: str) -> None:
    opened = open_page(name, color_scheme=theme)
    page = opened.page
    assert page.evaluate("document.documentElement.dataset.theme") == theme
    formulas = page.locator("article .math").count()
    assert page.locator("article .math mjx-container").count() >= formulas
    assert page.locator("mjx-merror, [data-mjx-error]").count() == 0, "a formula does not parse"
    for width, height in (WIDE, PHONE):
        page.set_viewport_size({"width": width, "height": height})
        across = page.evaluate("document.documentElement.scrollWidth")
        assert across <= width, f"the page scrolls sideways at {width} pixels"
        page.wait_for_function(WHAT_SCROLLS_TAKES_FOCUS)
        findings = serious_findings(page, colours=width == WIDE[0])
        assert findings == [], f"at {width} pixels"
    assert opened.problems == []


def test_mathematics_uses_the_fonts_of_the_book(open_page: Any) -> None:
    opened = open_page(MATHEMATICS)
    loaded = opened.page.evaluate(
        "document.fonts.ready.then(fonts => [...fonts].filter(f => f.status === 'loaded')"
        ".map(f => f.family))"
    )
    assert any("MJX" in family for family in loaded)
