"""The quizzes: what the reader of the files refuses, what the directives show, what is asked."""

from __future__ import annotations

import copy
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from bs4 import BeautifulSoup, Tag
from conftest import ROOT
from small_site import SmallSite

from book.extensions.quizzes import (
    LETTERS,
    QUIZZES,
    Option,
    Question,
    Quiz,
    QuizError,
    read_quiz,
    read_quizzes,
)
from book.extensions.stored_values import find_source, look_up

SMALL: list[dict[str, Any]] = [
    {
        "id": "small-sum",
        "prompt": "How much is $1 + {value}`numbers:two`$?\n\nThat is {value}`numbers:two` more.",
        "options": [
            {"text": "$2$", "wrong": "Only *one* was added."},
            {"text": "$3$", "right": "$1 + 2$.\n\nCount again if in doubt."},
            {"text": "`4`", "wrong": "One too many."},
        ],
    },
    {
        "id": "small-words",
        "prompt": "Which comes first?",
        "options": [
            {"text": "Greek's alpha", "right": "It's the first letter."},
            {"text": "beta", "wrong": "It is the second."},
            {"text": "gamma", "wrong": "It is the third."},
            {"text": "delta", "wrong": "It is the fourth."},
        ],
    },
]


def write_quiz(folder: Path, name: str, content: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    text = content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False)
    path.write_text(text, encoding="utf-8")
    return path


# ---- Files -------------------------------------------------------------------------------------


def test_a_quiz_is_read_as_written(tmp_path: Path) -> None:
    quiz = read_quiz(write_quiz(tmp_path, "01_small.yml", SMALL))
    assert quiz.chapter == "01_small"
    assert quiz.questions[0].prompt == SMALL[0]["prompt"]
    assert quiz.questions[1] == Question(
        "small-words",
        "Which comes first?",
        (
            Option("A", "Greek's alpha", True, "It's the first letter."),
            Option("B", "beta", False, "It is the second."),
            Option("C", "gamma", False, "It is the third."),
            Option("D", "delta", False, "It is the fourth."),
        ),
    )


def options(content: list[dict[str, Any]]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = content[0]["options"]
    return found


FAULTS: dict[str, Callable[[list[dict[str, Any]]], Any]] = {
    "a quiz is a list of questions": list.clear,
    "question 1: expected the keys id, options, prompt": lambda c: c.insert(0, "text"),
    "question 2: unknown key title": lambda c: c[1].update(title="x"),
    "question 1: 'id' is missing": lambda c: c[0].pop("id"),
    "question 1: the id 'Small' is not words": lambda c: c[0].update(id="Small"),
    "question 1 (small-sum): 'prompt' is missing": lambda c: c[0].update(prompt="  "),
    "question 1 (small-sum): it needs 3 to 4 options": lambda c: options(c).pop(),
    "question 2 (small-words): it needs 3 to 4 options": lambda c: c[1]["options"].append({}),
    "question 1 (small-sum): exactly one option is right, not none": lambda c: options(c)[1].update(
        wrong=options(c)[1].pop("right")
    ),
    "question 1 (small-sum): exactly one option is right, not B and C": lambda c: options(c)[
        2
    ].update(right=options(c)[2].pop("wrong")),
    "question 1 (small-sum): two options say the same": lambda c: options(c)[2].update(text="$2$"),
    "option A: expected the keys": lambda c: options(c).__setitem__(0, "$2$"),
    "option A: unknown key because": lambda c: options(c)[0].update(because="x"),
    "option B: 'text' is missing, empty or not a text": lambda c: options(c)[1].update(text=3),
    "option B: it needs its explanation": lambda c: options(c)[1].pop("right"),
    "option C: it needs its explanation, under either": lambda c: options(c)[2].update(right="x"),
    "option C: 'wrong' is missing, empty or not a text": lambda c: options(c)[2].update(wrong=""),
    "the id small-sum is taken, in 01_small.yml": lambda c: c[1].update(id="small-sum"),
}


@pytest.mark.parametrize(("complaint", "spoil"), FAULTS.items(), ids=FAULTS)
def test_a_fault_is_named_with_its_file_and_place(
    tmp_path: Path, complaint: str, spoil: Callable[[Any], Any]
) -> None:
    content = copy.deepcopy(SMALL)
    spoil(content)
    path = write_quiz(tmp_path, "01_small.yml", content)
    with pytest.raises(QuizError, match=re.escape(complaint)) as caught:
        read_quiz(path)
    assert str(caught.value).startswith("01_small.yml")


def test_a_missing_or_unreadable_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(QuizError, match=r"09_none\.yml: there is no such file in book/quizzes"):
        read_quiz(tmp_path / "09_none.yml")
    with pytest.raises(QuizError, match=r"02_bad\.yml: this is not YAML"):
        read_quiz(write_quiz(tmp_path, "02_bad.yml", "- {id: ]"))


def test_two_chapters_may_not_share_an_id(tmp_path: Path) -> None:
    write_quiz(tmp_path, "01_small.yml", SMALL)
    write_quiz(tmp_path, "02_more.yml", SMALL[1:])
    with pytest.raises(QuizError, match=r"02_more\.yml: the id small-words is taken, in 01_small"):
        read_quizzes(tmp_path)


# ---- Pages -------------------------------------------------------------------------------------


class SmallBook(SmallSite):
    """A book of a chapter with a quiz, and of a page with the key."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        extensions = ["myst_parser", "book.extensions.stored_values", "book.extensions.quiz_pages"]
        settings = "myst_enable_extensions = ['dollarmath']\nhtml_theme = 'basic'\n"
        self.write("conf.py", f"extensions = {extensions}\n{settings}")
        self.write("index.md", "# Book\n\n```{toctree}\nnotebooks/01_small\nkey\n```\n")
        self.write("notebooks/01_small.md", "# A small chapter\n\n```{quiz} 01_small\n```\n")
        self.write("key.md", "# Teaching\n\n## Key\n\n```{quiz-key}\n```\n")
        self.write("book/results/numbers.json", '{"two": 2}')
        write_quiz(root / QUIZZES, "01_small.yml", SMALL)

    def page(self, name: str) -> BeautifulSoup:
        return BeautifulSoup(self.html(name), "html.parser")


@pytest.fixture
def small_book(tmp_path: Path) -> SmallBook:
    return SmallBook(tmp_path)


def words(tag: Tag | None) -> str:
    assert tag is not None
    return re.sub(r"\s+", " ", tag.get_text(" ", strip=True))


def test_a_question_is_a_group_of_radio_buttons_with_its_explanations(
    small_book: SmallBook,
) -> None:
    assert small_book.build() == (0, "")
    forms = small_book.page("notebooks/01_small").select(".quiz form")
    assert [form["id"] for form in forms] == ["quiz-small-sum", "quiz-small-words"]
    form = forms[0]
    assert form["method"] == "dialog", "without a script it must lead nowhere"
    group = form.select_one("fieldset")
    assert group is not None
    named = [words(form.find(id=name)) for name in str(group["aria-labelledby"]).split()]
    assert named[0] == words(group.select_one("legend")) == "Question 1"
    assert named[1].endswith("That is 2 more.")
    buttons = form.select("input[type=radio]")
    assert [button["value"] for button in buttons] == ["A", "B", "C"]
    assert {button["name"] for button in buttons} == {"quiz-small-sum"}
    labels = [words(form.select_one(f"label[for={button['id']}]")) for button in buttons]
    assert labels == [r"A. \(2\)", r"B. \(3\)", "C. 4"]
    assert len(form.select("label .math")) == 2
    assert not form.select("label p"), "a label holds no paragraph"
    told = form.select("details [data-option]")
    assert [(t["data-option"], t["data-verdict"]) for t in told] == [
        ("A", "wrong"),
        ("B", "right"),
        ("C", "wrong"),
    ]
    assert words(told[0]) == "A is wrong. Only one was added."
    assert words(told[1]) == r"B is right. \(1 + 2\) . Count again if in doubt."
    feedback = form.select_one("[role=status]")
    assert words(feedback) == ""
    assert form.select_one(".quiz-actions[hidden] button[type=submit]")
    told = [words(forms[1].select_one(part)) for part in ("label", "[data-option]")]
    assert told == ["A. Greek’s alpha", "A is right. It’s the first letter."], "typographic quotes"


def test_the_key_shows_everything_by_chapter(small_book: SmallBook) -> None:
    assert small_book.build() == (0, "")
    page = small_book.page("key")
    section = page.select_one("section section section#quiz-key-01-small")
    assert section is not None
    assert words(section.select_one("h3")).startswith("A small chapter")
    assert section.select_one("h3 a[href='notebooks/01_small.html']")
    assert not section.select("input")
    told = words(section)
    assert "Question 1: answer B How much" in told
    assert "Question 2: answer A Which" in told
    for question in SMALL:
        for letter, option in zip(LETTERS, question["options"], strict=False):
            verdict = "right" if "right" in option else "wrong"
            assert f"{letter} is {verdict}." in told
    assert "It is the fourth." in told
    assert section.select("dt .math")
    contents = page.select(".sphinxsidebar a[href='#quiz-key-01-small']")
    assert [words(link) for link in contents] == ["A small chapter"]


def test_the_key_follows_a_new_chapter(small_book: SmallBook) -> None:
    assert small_book.build() == (0, "")
    write_quiz(small_book.root / QUIZZES, "02_more.yml", [{**SMALL[1], "id": "more-words"}])
    small_book.write("notebooks/02_more.md", "# More\n\n```{quiz} 02_more\n```\n")
    small_book.write(
        "index.md", "# Book\n\n```{toctree}\nnotebooks/01_small\nnotebooks/02_more\nkey\n```\n"
    )
    assert small_book.build() == (0, "")
    assert small_book.page("key").select("#quiz-key-02-more")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (yaml.safe_dump(SMALL[:1]).replace("right", "wrong"), "exactly one option is right"),
        (yaml.safe_dump(SMALL).replace("gamma", "'- gamma'"), "has to be a single paragraph"),
        (yaml.safe_dump(SMALL).replace("numbers:two", "numbers:three"), "holds no key 'three'"),
    ],
)
def test_a_faulty_quiz_stops_the_build(small_book: SmallBook, text: str, complaint: str) -> None:
    write_quiz(small_book.root / QUIZZES, "01_small.yml", text)
    status, complaints = small_book.build()
    assert status == 1
    assert complaint in complaints
    assert "01_small" in complaints
    write_quiz(small_book.root / QUIZZES, "01_small.yml", SMALL)
    assert small_book.build() == (0, ""), "the page has to notice that its quiz has changed"


# ---- The book's own questions ------------------------------------------------------------------

BOOK = read_quizzes(ROOT / QUIZZES)


def by_chapter(quiz: Quiz) -> str:
    return quiz.chapter


def texts(quiz: Quiz) -> str:
    return "\n".join(
        "\n".join([question.prompt, *(f"{o.text}\n{o.explanation}" for o in question.options)])
        for question in quiz.questions
    )


@pytest.mark.parametrize("quiz", BOOK, ids=by_chapter)
def test_a_chapter_has_three_questions_with_answers_in_different_places(quiz: Quiz) -> None:
    assert (ROOT / "notebooks" / f"{quiz.chapter}.ipynb").is_file()
    right = [option.letter for q in quiz.questions for option in q.options if option.right]
    assert len(right) >= 3
    assert len(set(right)) > 1


def test_neither_place_nor_length_gives_the_answer_away() -> None:
    questions = [question for quiz in BOOK for question in quiz.questions]
    right = [next(option for option in q.options if option.right) for q in questions]
    assert len(questions) >= 48
    assert max(Counter(option.letter for option in right).values()) < 0.45 * len(questions)
    longest = [
        len(option.text) == max(len(other.text) for other in question.options)
        for option, question in zip(right, questions, strict=True)
    ]
    assert sum(longest) < 0.4 * len(questions)


@pytest.mark.parametrize("quiz", BOOK, ids=by_chapter)
def test_what_a_quiz_refers_to_stands_in_its_chapter(quiz: Quiz) -> None:
    chapter = (ROOT / "notebooks" / f"{quiz.chapter}.ipynb").read_text(encoding="utf-8")
    text = texts(quiz)
    for label in re.findall(r"\{eq\}`([^`]+)`", text):
        assert f"$$ ({label})" in chapter, label
    for label in re.findall(r"\{prf:ref\}`([^`]+)`", text):
        assert f":label: {label}\\n" in chapter, label
    for reference in re.findall(r"\{value\}`([^`]+)`", text):
        source, key = reference.split(":")[:2]
        assert look_up(find_source(ROOT, source), key) is not None
    # A relative link would lead elsewhere from the teacher's page.
    for target in re.findall(r"\{doc\}`(?:[^`<]*<)?([^`>]+)", text):
        assert target.startswith("/"), target


@pytest.mark.parametrize("quiz", BOOK, ids=by_chapter)
def test_every_question_is_on_its_page(site: Path, quiz: Quiz) -> None:
    path = site / "notebooks" / f"{quiz.chapter}.html"
    page = BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")
    shown = {
        str(form["id"]): len(form.select("input")) for form in page.select("#check-yourself form")
    }
    assert shown == {f"quiz-{q.id}": len(q.options) for q in quiz.questions}
