"""The quizzes in a real browser: by keyboard, in both themes, without scripts, on paper."""

from __future__ import annotations

import re
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from conftest import ROOT

from book.extensions.quizzes import LETTERS, QUIZZES, Option, read_quiz

CHAPTER = "04_tanh_normal"
PAGE = f"notebooks/{CHAPTER}"
QUESTIONS = read_quiz(ROOT / QUIZZES / f"{CHAPTER}.yml").questions
WIDTHS = (1280, 390)
FOCUSED = "element => element === document.activeElement"


def chosen(number: int, right: bool) -> Option:
    """Return the first right, or the last wrong, option of a question."""
    fitting = [option for option in QUESTIONS[number].options if option.right is right]
    return fitting[-1]


class QuizForm:
    """One question on the page."""

    def __init__(self, page: Any, number: int = 0) -> None:
        self.page = page
        self.form = page.locator(f"form#quiz-{QUESTIONS[number].id}")
        self.check = self.form.get_by_role("button", name="Check")
        self.clear = self.form.get_by_role("button", name="Clear")
        self.feedback = self.form.get_by_role("status")
        self.folded = self.form.locator("details")

    def radio(self, option: Option) -> Any:
        return self.form.locator(f"input[value={option.letter}]")

    def answer(self, option: Option) -> None:
        self.radio(option).check()
        self.check.click()

    def said(self) -> str:
        return re.sub(r"\s+", " ", self.feedback.inner_text()).strip()


def tab_to(page: Any, target: Any, at_most: int) -> None:
    """Press Tab until the target has the focus."""
    for _ in range(at_most):
        page.keyboard.press("Tab")
        if target.evaluate(FOCUSED):
            return
    raise AssertionError(f"not reached with {at_most} stops")


@pytest.fixture(params=["light", "dark"])
def page(request: pytest.FixtureRequest, open_page: Any) -> Any:
    opened = open_page(PAGE, color_scheme=request.param)
    opened.page.wait_for_selector(".quiz button")
    yield opened.page
    assert opened.problems == []


def test_a_quiz_is_answered_by_keyboard_alone(page: Any) -> None:
    quiz, keys = QuizForm(page), page.keyboard
    wrong, right = chosen(0, right=False), chosen(0, right=True)
    page.evaluate("location.hash = '#check-yourself'")  # as a link in the contents does
    formulas = quiz.form.locator(".quiz-prompt mjx-container").count()
    tab_to(page, quiz.form.locator("input").first, at_most=formulas + 1)
    keys.press("Space")
    for _ in range(LETTERS.index(wrong.letter)):
        keys.press("ArrowDown")
    assert quiz.radio(wrong).is_checked()
    assert quiz.said() == "", "moving through the options must not judge them"
    tab_to(page, quiz.check, at_most=1)
    assert quiz.check.evaluate("b => getComputedStyle(b).outlineStyle") == "solid"
    keys.press("Enter")
    assert quiz.said().startswith(f"{wrong.letter} is wrong. The order of the draws stays")
    assert quiz.check.evaluate(FOCUSED), "the place in the page is kept"
    assert not quiz.folded.is_visible(), "the other explanations stay hidden"
    keys.press("Shift+Tab")
    for _ in range(LETTERS.index(wrong.letter) - LETTERS.index(right.letter)):
        keys.press("ArrowUp")
    keys.press("Enter")
    assert quiz.said().startswith(f"{right.letter} is right.")
    formulas = quiz.feedback.locator("mjx-container").count()
    assert formulas >= 2, "the copy has its formulas"
    links = quiz.feedback.locator("a").count()
    tab_to(page, quiz.folded.locator("summary"), at_most=2 + formulas + links + 1)
    keys.press("Enter")
    assert quiz.folded.locator("[data-option]").last.is_visible()


def test_an_answered_quiz_has_no_finding(page: Any) -> None:
    QuizForm(page, 0).answer(chosen(0, right=False))
    QuizForm(page, 1).answer(chosen(1, right=True))
    QuizForm(page, 1).folded.locator("summary").click()
    QuizForm(page, 2).check.click()
    options = {"preload": False, "resultTypes": ["violations"]}
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 844})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        findings = Axe().run(page, context={"include": [[".quiz"]]}, options=options)
        assert findings.response["violations"] == [], f"at {width} pixels"


def test_a_screen_reader_gets_names_and_verdicts(open_page: Any) -> None:
    page = open_page(PAGE).page
    group = page.get_by_role("group", name=re.compile("Question 2 Somebody forgets"))
    assert group.get_by_role("radio").count() == len(QUESTIONS[1].options)
    assert group.get_by_role("radio", name="B. 2", exact=True).count() == 1
    quiz = QuizForm(page, 1)
    quiz.check.click()
    assert quiz.said() == "Choose an answer first."
    looks = []
    for right in (False, True):
        quiz.answer(chosen(1, right))
        sign = quiz.feedback.locator("p").first.evaluate(
            "p => getComputedStyle(p, '::before').content"
        )
        line = quiz.feedback.evaluate("f => getComputedStyle(f).borderLeftStyle")
        looks.append((sign[1], line, quiz.said().split(".")[0][-5:]))
    # Colour is the fourth difference, not the only one.
    assert looks == [("✗", "dashed", "wrong"), ("✓", "solid", "right")]


def test_a_click_on_a_formula_chooses_its_option(open_page: Any) -> None:
    quiz = QuizForm(open_page(PAGE).page)
    formula = quiz.form.locator("label mjx-container")
    assert formula.count() == 1
    quiz.check.wait_for()
    assert formula.get_attribute("tabindex") is None, "no stop between option and check"
    formula.click()
    assert quiz.form.locator("input:checked").get_attribute("value") == "A"


def test_answers_are_kept_until_they_are_cleared(open_page: Any) -> None:
    page = open_page(PAGE).page
    quiz, wrong = QuizForm(page), chosen(0, right=False)
    quiz.answer(wrong)
    said = quiz.said()
    page.locator(".theme-switch-button").first.click()
    assert quiz.said() == said, "another theme is no other answer"
    page.reload()
    quiz.check.wait_for()
    assert quiz.radio(wrong).is_checked()
    assert quiz.said() == said
    assert QuizForm(page, 1).said() == ""
    quiz.clear.click()
    assert quiz.said() == ""
    assert not quiz.radio(wrong).is_checked()
    page.reload()
    quiz.check.wait_for()
    assert quiz.said() == ""
    assert quiz.form.locator("input:checked").count() == 0


def test_a_browser_that_stores_nothing_can_answer(open_page: Any) -> None:
    opened = open_page(PAGE)
    opened.context.add_init_script(
        "Object.defineProperty(window, 'localStorage', {get() { throw new Error('no'); }})"
    )
    opened.page.reload()
    quiz = QuizForm(opened.page, 1)
    quiz.answer(chosen(1, right=True))
    assert quiz.said().startswith("B is right.")


def test_without_scripts_the_explanations_are_one_click_away(open_page: Any) -> None:
    page = open_page(PAGE, java_script_enabled=False).page
    for number in range(len(QUESTIONS)):
        quiz = QuizForm(page, number)
        assert not quiz.form.locator("button").first.is_visible(), "it would do nothing"
        explanations = quiz.folded.locator("[data-option]")
        assert not explanations.first.is_visible()
        quiz.folded.locator("summary").click()
        assert explanations.count() == len(QUESTIONS[number].options)
        assert all(explanation.is_visible() for explanation in explanations.all())
    before = page.url
    QuizForm(page, 0).form.locator("input").first.press("Enter")
    assert page.url == before, "a form without a script leads nowhere"


@pytest.mark.parametrize("scripts", [True, False])
def test_paper_shows_all_explanations_and_no_buttons(open_page: Any, scripts: bool) -> None:
    page = open_page(PAGE, java_script_enabled=scripts).page
    page.emulate_media(media="print")
    for number in range(len(QUESTIONS)):
        quiz = QuizForm(page, number)
        assert all(told.is_visible() for told in quiz.folded.locator("[data-option]").all())
        assert not quiz.form.locator("button").first.is_visible()
