"""Every slide in a real browser, from disk, with the network cut."""

from __future__ import annotations

from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from bs4 import BeautifulSoup
from conftest import ROOT

from book.extensions.cards import read_chapters
from book.extensions.sessions import read_plans

PLANS = {
    name: plan
    for name, plan in read_plans(ROOT, read_chapters(ROOT)).items()
    if name.startswith("plan_")
}
STAGE = {"width": 1280, "height": 720}
LEAST = 24
"""Smallest text on the stage, in pixels: a thirtieth of the height of the screen."""
LIVE = {
    "fig-watch-swing": "time",
    "fig-offline-torque": "penalty",
    "fig-tanh-live": "std",
    "fig-logsumexp-gradient": "count",
}
"""Live figures of the longest plan, and a slider of each."""

# What leaves the stage or its part of the slide, and which text is too small. Formulas have small
# indices by design, so their size is that of the text around them.
FAULTS = """least => {
  const slide = Reveal.getCurrentSlide();
  const unseen = "aside, script, style, defs, mjx-assistive-mml, .spoken";
  const seen = element => !element.closest(unseen);
  const faults = [];
  const shown = slide.querySelector(".shown") ?? slide;
  const frame = shown.getBoundingClientRect();
  for (const element of slide.querySelectorAll("*")) {
    const box = element.getBoundingClientRect();
    if (!seen(element) || !box.width || !box.height) continue;
    const out = box.left < -1 || box.top < -1 || box.right > 1281 || box.bottom > 721;
    const over = shown.contains(element) && !element.closest("mjx-math") &&
      (box.top < frame.top - 2 || box.bottom > frame.bottom + 2);
    if (out || over) faults.push(`${element.tagName} leaves its place`);
  }
  const texts = document.createTreeWalker(slide, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const [text, parent] = [texts.currentNode, texts.currentNode.parentElement];
    const range = document.createRange();
    range.selectNodeContents(text);
    if (!text.data.trim() || !seen(parent) || !range.getBoundingClientRect().width) continue;
    if (parent.closest("mjx-math")) continue;
    // The pendulum's stage is 2.8 units wide, whatever its size.
    const stage = parent.closest("svg.stage")?.getBoundingClientRect();
    const drawn = stage ? stage.height / 2.8 : parent.currentCSSZoom;
    const size = parseFloat(getComputedStyle(parent).fontSize) * drawn;
    if (size < least - 0.1) faults.push(`${size.toFixed(1)} px: ${text.data}`);
    if (/\\\\[([]/.test(text.data)) faults.push(`not typeset: ${text.data}`);
  }
  for (const formula of slide.querySelectorAll("mjx-container")) {
    if (!seen(formula)) continue;
    if (parseFloat(getComputedStyle(formula).fontSize) < least) faults.push("small formula");
  }
  for (const image of slide.querySelectorAll("img")) {
    if (!image.complete || !image.naturalWidth) faults.push(`no picture ${image.src}`);
  }
  return faults;
}"""


class OpenDeck:
    """A deck on a stage of its own size."""

    def __init__(self, opened: Any) -> None:
        self.opened, self.page = opened, opened.page
        self.page.wait_for_function("window.Reveal?.isReady()")

    def show(self, number: int) -> None:
        self.page.evaluate("number => Reveal.slide(number)", number)

    def show_label(self, label: str) -> Any:
        slide = self.page.locator(f"section[data-label='{label}']").first
        self.show(slide.evaluate("slide => Reveal.getIndices(slide).h"))
        return slide

    def number(self) -> int:
        return int(self.page.evaluate("Reveal.getIndices().h"))


@pytest.fixture
def open_deck(open_page: Any) -> Any:
    return lambda name: OpenDeck(open_page(f"slides/{name}", viewport=STAGE))


@pytest.mark.parametrize("name", PLANS)
def test_every_slide_fits_its_stage_and_is_readable(open_deck: Any, name: str) -> None:
    deck = open_deck(name)
    requests: list[str] = []
    deck.page.on("request", lambda request: requests.append(request.url))
    faults = {}
    for number in range(deck.page.evaluate("Reveal.getTotalSlides()")):
        deck.show(number)
        # A live figure draws again when it gets its width.
        deck.page.evaluate(
            "() => new Promise(done => requestAnimationFrame(() => setTimeout(done)))"
        )
        if found := deck.page.evaluate(FAULTS, LEAST):
            faults[number + 1] = found[:5]
    assert faults == {}
    assert deck.page.locator("mjx-merror, [data-mjx-error]").count() == 0
    assert deck.page.locator(".slides mjx-container").count() > 5
    assert deck.opened.problems == []
    assert [url for url in requests if not url.startswith(("file:", "blob:", "data:"))] == []


@pytest.mark.parametrize("name", PLANS)
def test_every_label_of_the_plan_has_its_slide_and_its_time(site: Any, name: str) -> None:
    html = (site / "slides" / f"{name}.html").read_text(encoding="utf-8")
    deck = BeautifulSoup(html, "html.parser")
    shown = [slide["data-label"] for slide in deck.select("section[data-label]")]
    assert shown == [label for row in PLANS[name].rows for label in row.labels()]
    slides = deck.select(".slides > section")
    assert len(slides) <= PLANS[name].minutes
    for slide in slides:
        assert slide.select_one("aside.notes p"), "the speaker has something to say"
    for link in deck.select(".slides [href], .slides [src]"):
        path, _, anchor = str(link.get("href") or link.get("src")).partition("#")
        target = site / "slides" / path
        assert target.is_file(), path
        assert not anchor or f'id="{anchor}"' in target.read_text(encoding="utf-8"), anchor


@pytest.mark.parametrize(("label", "slider"), LIVE.items())
def test_live_figures_move_by_keyboard_and_keep_the_slide(
    open_deck: Any, label: str, slider: str
) -> None:
    deck = open_deck("plan_180")
    slide = deck.show_label(label)
    here = deck.number()
    drawn = slide.locator("svg.picture").inner_html()
    moved = slide.locator(f"input[name={slider}]")
    before = moved.input_value()
    moved.focus()
    deck.page.keyboard.press("ArrowRight")
    assert moved.input_value() != before
    assert slide.locator("svg.picture").inner_html() != drawn
    assert deck.number() == here
    moved.evaluate("input => input.blur()")
    deck.page.keyboard.press("ArrowRight")
    assert deck.number() == here + 1


def test_the_notes_open_in_a_window_from_disk_and_follow(open_deck: Any) -> None:
    deck = open_deck("plan_45")
    with deck.page.expect_popup() as opening:
        deck.page.keyboard.press("s")
    notes = opening.value.locator(".speaker-controls-notes .value")
    notes.get_by_text("Press F for the full screen").wait_for()
    deck.page.keyboard.press("ArrowRight")
    notes.get_by_text("0:00 to 0:04: 4 min, slide 1 of 2").wait_for()
    opening.value.keyboard.press("ArrowRight")
    deck.page.wait_for_function("Reveal.getIndices().h === 2")


def test_a_deck_has_no_finding(open_deck: Any) -> None:
    deck = open_deck("plan_45")
    options = {"preload": False, "resultTypes": ["violations"]}
    kinds = deck.page.locator(".slides > section").evaluate_all(
        "all => all.map(s => s.classList[0])"
    )
    for kind in sorted(set(kinds)):
        deck.show(kinds.index(kind))
        around = {"exclude": [["mjx-container"]]}
        found = Axe().run(deck.page, context=around, options=options).response["violations"]
        serious = [finding for finding in found if finding["impact"] in ("serious", "critical")]
        assert serious == [], f"on a slide of the kind {kind}"


def test_a_printed_deck_has_notes_and_stills(open_deck: Any) -> None:
    deck = open_deck("plan_45")
    deck.page.goto(deck.page.url.split("#")[0] + "?view=print&showNotes=separate-page")
    deck.page.wait_for_selector(".speaker-notes-pdf", state="attached")
    pages = deck.page.locator(".pdf-page").count()
    assert pages == deck.page.locator(".pdf-page > section").count() > 10
    assert pages == deck.page.locator(".speaker-notes-pdf").count()
    still = deck.page.locator("section.live img").first
    assert still.is_visible()
    assert not deck.page.locator(".live-figure").first.is_visible()
    assert deck.opened.problems == []
