"""Every page in a real browser, from disk, with the network cut."""

from __future__ import annotations

import re
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from test_site import PAGES

WIDE, PHONE = (1280, 900), (390, 844)
MATHEMATICS = "notebooks/04_tanh_normal"


def serious_findings(page: Any, rules: dict[str, Any]) -> list[str]:
    """Return what the accessibility engine calls serious or critical under the given rules."""
    options = {
        "preload": False,  # it would fetch the style sheets, which a page on disk may not do
        "resultTypes": ["violations"],
        **rules,
    }
    # Mathematics has the colour of the text around it, code has a handful of colours, and both have
    # thousands of elements: `code_colours` looks at those of the code.
    around = {"exclude": [["mjx-container"], ["pre"]]} if rules is CONTRAST else None
    findings = Axe().run(page, context=around, options=options).response["violations"]
    return [
        f"{finding['id']}: {finding['nodes'][0]['html'][:200]}"
        for finding in findings
        if finding["impact"] in ("serious", "critical")
    ]


CONTRAST = {"runOnly": {"type": "rule", "values": ["color-contrast"]}}
"""All that the theme changes, and most of the engine's time."""
STRUCTURE = {"rules": {"color-contrast": {"enabled": False}}}
"""All that it does not change."""
SCROLLING = {"runOnly": {"type": "rule", "values": ["scrollable-region-focusable"]}}
"""What a narrow window changes in the text of a page."""

CODE_COLOURS = """() => {
    const behind = element => {
        for (let at = element; at; at = at.parentElement) {
            const colour = getComputedStyle(at).backgroundColor
            if (!/, 0\\)$/.test(colour)) return colour
        }
        return "rgb(255, 255, 255)"
    }
    const text = [...document.querySelectorAll("pre, pre span")].filter(
        element => [...element.childNodes].some(node => node.nodeType === 3 && node.data.trim()))
    const pair = element => `${getComputedStyle(element).color} | ${behind(element)}`
    return [...new Set(text.map(pair))]
}"""


def contrast(one: str, other: str) -> float:
    """Contrast ratio of two opaque colours such as ``rgb(0, 0, 0)``, as WCAG 2 defines it."""

    def luminance(colour: str) -> float:
        parts = [int(part) / 255 for part in re.findall(r"\d+", colour)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        red, green, blue = linear
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    darker, lighter = sorted([luminance(one), luminance(other)])
    return (lighter + 0.05) / (darker + 0.05)


def faint_code(page: Any) -> list[str]:
    """Return the colours of code that stand out too little from what is behind them."""
    return [pair for pair in page.evaluate(CODE_COLOURS) if contrast(*pair.split(" | ")) < 4.5]


# The theme looks again for what scrolls a moment after the window has changed.
WHAT_SCROLLS_TAKES_FOCUS = """() =>
    [...document.querySelectorAll("pre, .pst-scrollable-table-container")].every(
    box => box.scrollWidth <= box.clientWidth || box.tabIndex === 0)"""


@pytest.mark.parametrize("name", [*PAGES, "search", "genindex"])
def test_page_is_whole_quiet_and_accessible(open_page: Any, name: str) -> None:
    opened = open_page(name, color_scheme="light")
    page = opened.page
    formulas = page.locator("article .math").count()
    assert page.locator("article .math mjx-container").count() >= formulas
    assert page.locator("mjx-merror, [data-mjx-error]").count() == 0, "a formula does not parse"
    for (width, height), rules in ((PHONE, SCROLLING), (WIDE, STRUCTURE)):
        page.set_viewport_size({"width": width, "height": height})
        across = page.evaluate("document.documentElement.scrollWidth")
        assert across <= width, f"the page scrolls sideways at {width} pixels"
        page.wait_for_function(WHAT_SCROLLS_TAKES_FOCUS)
        assert serious_findings(page, rules) == [], f"at {width} pixels"
    for theme in ("light", "dark"):
        page.emulate_media(color_scheme=theme)
        page.wait_for_function(f"document.documentElement.dataset.theme === '{theme}'")
        page.wait_for_function("document.getAnimations().every(a => a.playState !== 'running')")
        assert serious_findings(page, CONTRAST) == [], f"in the {theme} theme"
        assert faint_code(page) == [], f"in the {theme} theme"
    assert opened.problems == []


def test_the_menus_of_a_narrow_window_are_accessible(open_page: Any) -> None:
    page = open_page(MATHEMATICS).page
    page.set_viewport_size({"width": PHONE[0], "height": PHONE[1]})
    page.wait_for_function(WHAT_SCROLLS_TAKES_FOCUS)
    assert serious_findings(page, STRUCTURE) == []


def test_contrast_is_that_of_the_standard(open_page: Any) -> None:
    assert contrast("rgb(0, 0, 0)", "rgb(255, 255, 255)") == pytest.approx(21)
    assert contrast("rgb(118, 118, 118)", "rgb(255, 255, 255)") == pytest.approx(4.54, abs=0.01)
    page = open_page(MATHEMATICS).page
    assert faint_code(page) == []
    page.add_style_tag(content=".highlight .kn { color: #999 !important }")
    assert faint_code(page) != []


def test_mathematics_uses_the_fonts_of_the_book(open_page: Any) -> None:
    opened = open_page(MATHEMATICS)
    loaded = opened.page.evaluate(
        "document.fonts.ready.then(fonts => [...fonts].filter(f => f.status === 'loaded')"
        ".map(f => f.family))"
    )
    assert any("MJX" in family for family in loaded)
