"""The weight's live figure in the built site: datasets, weights, numbers and marks."""

from __future__ import annotations

import re
from typing import Any

import pytest
from test_browser_live_figures import LiveFigure

from offline_rl_lib.map import MAP, WEIGHTS, load_cells, short_name, weight_sweep

PAGE = "notebooks/16_when_conservatism_helps"


class Sweep(LiveFigure):
    """The figure with its choice of datasets."""

    def choose(self, dataset: str) -> None:
        self.root.locator("select").select_option(dataset)

    def heights(self, kind: str) -> list[float]:
        """Vertical positions of the marks of one kind, from the left, in the picture's units."""
        moves = self.root.locator(f"svg.picture path.{kind}").evaluate_all(
            "paths => paths.map(path => path.getAttribute('transform'))"
        )
        return [float(re.findall(r"[-\d.]+", move)[1]) for move in moves]


def opened(open_page: Any, **settings: Any) -> Sweep:
    page = open_page(PAGE, viewport={"width": 1280, "height": 900}, **settings).page
    return Sweep(page, "weight-sweep")


@pytest.fixture(scope="module")
def stored() -> dict[str, Any]:
    sweep: dict[str, Any] = weight_sweep(load_cells())["datasets"]
    return sweep


@pytest.fixture
def live(open_page: Any) -> Sweep:
    return opened(open_page)


def test_every_dataset_and_weight_shows_what_the_library_reads(
    live: Sweep, stored: dict[str, Any]
) -> None:
    names = live.root.locator("select option").all_inner_texts()
    assert names == [short_name(name) for name in MAP.datasets]
    for name in names:
        live.choose(name)
        rows = stored[name]
        assert live.data("rows") == rows
        for place, weight in enumerate((0.0, *WEIGHTS)):
            live.move("weight", place)
            assert live.number("weight") == weight
            assert live.number("behaviour") == rows["behaviour"]
            for key in ("score", "promised", "earned"):
                shown = [live.number(key + end) for end in ("", "Low", "High")]
                assert shown == rows[key][place], (name, weight, key)
        assert name in live.root.locator("p.note").inner_text()


def test_marks_stand_where_their_numbers_are(live: Sweep, stored: dict[str, Any]) -> None:
    for name, rows in stored.items():
        live.choose(name)
        values = {
            "score": [middle for middle, _, _ in rows["score"]],
            "both": [row[0] for key in ("promised", "earned") for row in rows[key]],
        }
        heights = {
            "score": live.heights("score"),
            "both": live.heights("promised") + live.heights("earned"),
        }
        for half, middles in values.items():
            # One straight line, falling: the picture's y grows downwards.
            lowest, highest = min(middles), max(middles)
            bottom, top = max(heights[half]), min(heights[half])
            for middle, height in zip(middles, heights[half], strict=True):
                share = (middle - lowest) / (highest - lowest)
                assert height == pytest.approx(bottom + share * (top - bottom), abs=0.05), name


def test_the_keyboard_reaches_everything(live: Sweep) -> None:
    select, slider = live.root.locator("select"), live.slider("weight")
    label = live.root.locator(f"label[for='{select.get_attribute('id')}']")
    assert label.inner_text() == "Dataset"
    slider.focus()
    live.page.keyboard.press("Home")
    assert live.number("weight") == 0
    for weight in WEIGHTS:
        live.page.keyboard.press("ArrowRight")
        assert live.number("weight") == weight
        assert slider.get_attribute("aria-valuetext") == f"{weight:.2f}"
    assert "weight 20" in live.root.locator("[role=status]").inner_text()
    select.focus()
    live.page.keyboard.press("Home")
    live.page.keyboard.press("ArrowDown")
    chosen = select.input_value()
    assert chosen == short_name(MAP.datasets[1])
    assert f"the {chosen} data" in live.root.locator("[role=status]").inner_text()
    assert live.number("weight") == 20, "another dataset keeps the weight"
    assert select.evaluate("box => getComputedStyle(box).outlineStyle") == "solid"


def test_the_mouse_moves_the_weight(live: Sweep) -> None:
    box = live.slider("weight").bounding_box()
    live.page.mouse.click(box["x"] + 0.98 * box["width"], box["y"] + box["height"] / 2)
    assert live.number("weight") == 20
    live.page.mouse.click(box["x"] + 0.02 * box["width"], box["y"] + box["height"] / 2)
    assert live.number("weight") == 0
    shown = live.root.locator("dd").first.inner_text().replace("−", "-")
    assert float(shown) == pytest.approx(live.number("score"), abs=0.051)


def test_the_picture_says_what_it_shows(live: Sweep, stored: dict[str, Any]) -> None:
    live.choose("medium")
    live.move("weight", 0)
    picture = live.root.locator("svg[role=img]")
    spoken = [
        live.root.locator(f"#{identifier}").text_content()
        for identifier in picture.get_attribute("aria-labelledby").split()
    ]
    score = stored["medium"]["score"][0][0]
    assert "weight of the penalty" in spoken[0]
    assert f"{score:.1f}" in spoken[1]
    assert "medium" in spoken[1]
    ticks = picture.locator("text").all_text_contents()
    assert sum(text == "0.25" for text in ticks) == 2, "a scale of weights under each half"


def test_a_still_picture_stands_in_on_paper_and_without_scripts(open_page: Any) -> None:
    page = opened(open_page).page
    still = page.locator("figure:has(.weight-sweep) .still-of-live-figure")
    assert still.count() == 1
    assert not still.is_visible()
    page.emulate_media(media="print")
    assert still.is_visible()
    scriptless = open_page(PAGE, java_script_enabled=False).page
    assert scriptless.locator("figure#fig-map-sweep img").is_visible()


def test_it_fits_a_phone(open_page: Any) -> None:
    page = open_page(PAGE, viewport={"width": 390, "height": 844}).page
    phone = Sweep(page, "weight-sweep")
    picture = phone.root.locator("svg.picture").bounding_box()
    assert picture["width"] <= 390
    for text in phone.root.locator("svg.picture text").all():
        box = text.bounding_box()
        assert box["x"] >= picture["x"] - 1
        assert box["x"] + box["width"] <= picture["x"] + picture["width"] + 1
