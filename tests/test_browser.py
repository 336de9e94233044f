"""Every page in a real browser, from disk, with the network cut; and the live figure's numbers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from axe_playwright_python.sync_playwright import Axe
from test_site import PAGES

from offline_rl_lib import TanhNormal

WIDE, PHONE = (1280, 900), (390, 844)
LIVE_PAGE = "notebooks/04_tanh_normal"


class OpenPage:
    """A page of the site opened over file:// while the browser is offline."""

    def __init__(self, browser: Any, path: Path, **settings: Any) -> None:
        self.context = browser.new_context(offline=True, **settings)
        self.context.set_default_timeout(120_000)  # a busy machine is slow, not wrong
        self.page = self.context.new_page()
        self.problems: list[str] = []
        self.page.on("pageerror", lambda error: self.problems.append(f"script: {error}"))
        self.page.on("requestfailed", lambda request: self.problems.append(f"load: {request.url}"))
        self.page.on(
            "console",
            lambda message: (
                self.problems.append(f"console: {message.text}")
                if message.type in ("error", "warning")
                else None
            ),
        )
        self.page.goto(path.as_uri())
        if settings.get("java_script_enabled") is False:
            return
        # MathJax says when it has finished; pages without mathematics do not load it.
        self.page.evaluate("() => window.MathJax?.startup?.promise")
        if self.page.locator('script[type="application/vnd.jupyter.widget-view+json"]').count():
            self.page.wait_for_selector(".live-figure", state="attached")


@pytest.fixture
def open_page(browser: Any, site: Path) -> Iterator[Any]:
    opened: list[OpenPage] = []

    def open_one(name: str, **settings: Any) -> OpenPage:
        opened.append(OpenPage(browser, site / f"{name}.html", **settings))
        return opened[-1]

    yield open_one
    for one in opened:
        one.context.close()


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


# The theme looks again for code that scrolls a moment after the window has changed.
SCROLLING_CODE_TAKES_FOCUS = """() => [...document.querySelectorAll("pre")].every(
    code => code.scrollWidth <= code.clientWidth || code.tabIndex === 0)"""


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
        page.wait_for_function(SCROLLING_CODE_TAKES_FOCUS)
        findings = serious_findings(page, colours=width == WIDE[0])
        assert findings == [], f"at {width} pixels"
    assert opened.problems == []


def test_mathematics_uses_the_fonts_of_the_book(open_page: Any) -> None:
    opened = open_page(LIVE_PAGE)
    loaded = opened.page.evaluate(
        "document.fonts.ready.then(fonts => [...fonts].filter(f => f.status === 'loaded')"
        ".map(f => f.family))"
    )
    assert any("MJX" in family for family in loaded)


# ---- The live figure --------------------------------------------------------------------------

SETTINGS = [
    {"mean": 0.0, "std": 0.5, "low": -2.0, "high": 2.0, "probe": 0.5},
    {"mean": 1.25, "std": 0.1, "low": -1.0, "high": 1.0, "probe": 0.83},
    {"mean": -2.0, "std": 2.0, "low": -0.5, "high": 3.3, "probe": 3.29},
    {"mean": 2.0, "std": 2.0, "low": -4.0, "high": 4.0, "probe": -3.99},
    {"mean": 0.0, "std": 0.75, "low": 1.1, "high": 1.3, "probe": 1.2},
    {"mean": 0.35, "std": 1.3, "low": -3.9, "high": -3.7, "probe": -3.71},
]


class LiveFigure:
    """The sliders of the tanh-normal figure and the numbers that it shows."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.root = page.locator(".tanh-normal").first
        self.root.scroll_into_view_if_needed()

    def slider(self, name: str) -> Any:
        return self.root.locator(f"input[name={name}]")

    def set(self, setting: dict[str, float]) -> None:
        """Move the sliders to the setting; the bounds first, so that nothing is pushed back."""
        for name in ("low", "high", "low", "mean", "std", "probe"):
            self.slider(name).evaluate(
                "(input, value) => { input.value = value;"
                " input.dispatchEvent(new Event('input', {bubbles: true})); }",
                str(setting[name]),
            )

    def number(self, name: str) -> float:
        return float(self.root.evaluate("(root, name) => root.dataset[name]", name))

    def setting(self) -> dict[str, float]:
        return {name: self.number(name) for name in ("mean", "std", "low", "high", "probe")}

    def curve(self) -> list[list[float]]:
        return json.loads(self.root.evaluate("root => root.dataset.curve"))


def density(setting: dict[str, float], actions: list[float]) -> list[float]:
    """Return the library's density at the actions."""

    def one(name: str) -> torch.Tensor:
        return torch.tensor([setting[name]], dtype=torch.float64)

    distribution = TanhNormal(one("mean"), one("std"), one("low"), one("high"))
    values = torch.tensor(actions, dtype=torch.float64)[:, None]
    return distribution.log_prob(values).exp().tolist()


@pytest.fixture
def live(open_page: Any) -> LiveFigure:
    opened = open_page(LIVE_PAGE, viewport={"width": 1280, "height": 900})
    return LiveFigure(opened.page)


@pytest.mark.parametrize("setting", SETTINGS)
def test_live_figure_agrees_with_the_library(live: LiveFigure, setting: dict[str, float]) -> None:
    live.set(setting)
    assert live.setting() == setting
    assert live.number("density") == pytest.approx(
        density(setting, [setting["probe"]])[0], rel=1e-6
    )
    actions, values = map(list, zip(*live.curve(), strict=True))
    assert len(actions) > 40
    assert values == pytest.approx(density(setting, actions), rel=1e-6, abs=1e-300)
    assert live.number("integral") == pytest.approx(1, abs=1e-6)
    shown = live.root.locator("dd").first.inner_text()
    assert shown == "1.000000"


def test_live_figure_moves_by_keyboard(live: LiveFigure) -> None:
    start = live.setting()
    path = live.root.locator("path.curve")
    before = path.get_attribute("d")
    mean = live.slider("mean")
    mean.focus()
    live.page.keyboard.press("ArrowRight")
    live.page.keyboard.press("ArrowRight")
    assert live.number("mean") == pytest.approx(start["mean"] + 0.1)
    assert path.get_attribute("d") != before
    assert mean.evaluate("input => getComputedStyle(input).outlineStyle") == "solid"
    live.page.keyboard.press("Tab")
    live.page.keyboard.press("End")
    assert live.number("std") == 2.0
    # The reader without a screen hears the result once the slider rests.
    assert f"{live.number('density'):.3g}"[:4] in live.root.locator("[role=status]").inner_text()


def test_live_figure_moves_by_mouse(live: LiveFigure) -> None:
    box = live.slider("std").bounding_box()
    live.page.mouse.click(box["x"] + 0.75 * box["width"], box["y"] + box["height"] / 2)
    assert live.number("std") == pytest.approx(0.1 + 0.75 * 1.9, abs=0.1)
    picture = live.root.locator("svg").bounding_box()
    middle = picture["y"] + picture["height"] / 2
    live.page.mouse.move(picture["x"] + 0.5 * picture["width"], middle)
    live.page.mouse.down()
    live.page.mouse.move(picture["x"] + 0.6 * picture["width"], middle, steps=4)
    live.page.mouse.up()
    setting = live.setting()
    assert 0.2 < setting["probe"] < 1.2
    assert live.number("density") == pytest.approx(
        density(setting, [setting["probe"]])[0], rel=1e-6
    )


def test_a_bound_pushes_the_other_and_keeps_the_probe_inside(live: LiveFigure) -> None:
    live.slider("low").focus()
    live.page.keyboard.press("End")
    setting = live.setting()
    assert setting["high"] == pytest.approx(setting["low"] + 0.2)
    assert setting["low"] < setting["probe"] < setting["high"]


def test_live_figure_names_its_parts(live: LiveFigure) -> None:
    for slider in live.root.locator("input").all():
        label = live.root.locator(f"label[for='{slider.get_attribute('id')}']")
        assert label.inner_text().strip()
    picture = live.root.locator("svg[role=img]")
    for identifier in picture.get_attribute("aria-labelledby").split():
        assert live.root.locator(f"#{identifier}").text_content().strip()
    texts = picture.locator("text").all_text_contents()
    assert "action (environment units)" in texts
    assert "density (per unit of action)" in texts


def test_still_picture_on_paper_and_without_scripts(open_page: Any) -> None:
    page = open_page(LIVE_PAGE).page
    still = page.locator(".still-of-live-figure")
    assert still.count() == 1
    assert not still.is_visible()
    page.emulate_media(media="print")
    assert still.is_visible()
    assert not page.locator(".live-figure").first.is_visible()
    code = page.locator("div.highlight pre").first
    assert code.evaluate("pre => getComputedStyle(pre).whiteSpace") == "pre-wrap"
    scriptless = open_page(LIVE_PAGE, java_script_enabled=False)
    assert scriptless.page.locator("figure img").first.is_visible()
