"""The session plans add up, and everything that they show exists in the chapters they name."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import ROOT
from test_cards import READING_ORDER, notebook

from book.extensions.cards import read_chapters
from book.extensions.sessions import Plan, PlanError, Row, read_plans, reference
from book.extensions.teaching import on_the_screen

CHAPTERS = read_chapters(ROOT)
PLANS = read_plans(ROOT, CHAPTERS)
WEEKS = [plan for name, plan in PLANS.items() if name.startswith("week_")]
TEACHING = ROOT / "book" / "teaching"


@cache
def labels(stem: str) -> set[str]:
    """Labels of figures, equations, claims and exercises of a chapter, and its headings."""
    cells = notebook(stem)["cells"]
    figures = {cell["metadata"].get("mystnb", {}).get("figure", {}).get("name") for cell in cells}
    text = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    named = re.findall(r"^:label: (\S+)$|^\$\$ \((\S+)\)$", text, re.M)
    headings = {f"{stem}#{heading}" for heading in re.findall(r"^##+ (.+)$", text, re.M)}
    return {label for pair in named for label in pair if label} | (figures - {None}) | headings


@pytest.fixture(params=PLANS.values(), ids=lambda plan: plan.name)
def plan(request: pytest.FixtureRequest) -> Plan:
    return request.param


def test_the_minutes_of_the_rows_are_the_length_of_the_session(plan: Plan) -> None:
    assert sum(row.minutes for row in plan.rows) == plan.minutes
    assert all(row.minutes > 0 for row in plan.rows)


def test_the_clock_is_right(plan: Plan) -> None:
    minutes = [60 * int(hour) + int(minute) for hour, minute in map(split, plan.clock())]
    assert minutes[0] == 0
    for row, begin, end in zip(plan.rows, minutes, [*minutes[1:], plan.minutes], strict=True):
        assert end - begin == row.minutes


def split(time: str) -> list[str]:
    return time.split(":")


def test_everything_shown_is_in_the_chapters_of_the_session(plan: Plan) -> None:
    known = set().union(*(labels(stem) for stem in plan.chapters))
    shown = {label for row in plan.rows for label in [*row.show, row.exercise] if label}
    assert shown <= known
    assert shown
    assert {row.run for row in plan.rows if row.run} <= set(plan.chapters)
    assert set(plan.homework) <= known


def test_homework_was_not_done_in_class(plan: Plan) -> None:
    in_class = [row.exercise for row in plan.rows if row.exercise]
    assert in_class, "a session has an exercise"
    assert len(in_class) == len(set(in_class))
    assert not set(in_class) & set(plan.homework)


def test_whoever_is_late_can_leave_something_out(plan: Plan) -> None:
    assert sum(row.minutes for row in plan.rows if row.late) >= plan.minutes / 10


def test_a_chapter_is_run_in_less_time_than_its_row_has(plan: Plan) -> None:
    path = ROOT / "book" / "results" / "chapter_times.json"
    times = yaml.safe_load(path.read_text(encoding="utf-8"))
    for row in plan.rows:
        if row.run:
            assert 2 * times[row.run]["seconds"] <= 60 * row.minutes, "a slow laptop needs longer"


WITH_WORDS = [plan for name, plan in PLANS.items() if name.startswith("plan_")]
WORDS_A_MINUTE = 150


@pytest.mark.parametrize("plan", WITH_WORDS, ids=lambda plan: plan.name)
def test_a_teacher_knows_what_to_say_and_has_the_time(plan: Plan) -> None:
    for row in plan.rows:
        silent = row.what.startswith(("**Break", "**Take home"))
        assert bool(row.say) != silent, row.what
        assert all("$" not in line for line in row.say), "notes have no formulas"
        spoken = [line for line in row.say if not line.startswith("*They ask")]
        words = len(" ".join(spoken).split())
        assert words <= row.minutes * WORDS_A_MINUTE, row.what


@pytest.mark.parametrize("plan", WITH_WORDS, ids=lambda plan: plan.name)
def test_what_is_said_about_a_picture_is_said_while_it_is_shown(plan: Plan) -> None:
    for row in plan.rows:
        mentioned = set(re.findall(r"\{numref\}`([\w-]+)`", " ".join(row.say)))
        assert mentioned <= set(row.labels())


NEEDS = {
    "ex-task-td-target": {"eq-td-target"},
    "ex-tanh-normal-by-hand": {"eq-tanh-normal"},
    "ex-logsumexp-volume": {"eq-soft-maximum"},
    "ex-logsumexp-gradient": {"eq-penalty"},
    "ex-e2e-critic-loss": {"eq-critic-loss"},
    "ex-bug-repair": {"eq-log-mean-exp"},
}
"""What a class has to have seen before an exercise, or with it."""


def test_an_exercise_stands_after_the_equations_that_it_needs() -> None:
    for plan in WITH_WORDS:
        shown: set[str] = set()
        for row in plan.rows:
            shown |= set(row.show)
            assert shown >= NEEDS.get(row.exercise, set()), row.exercise


def test_the_letter_that_the_teacher_is_told_is_the_correct_program() -> None:
    source = "\n".join("".join(cell["source"]) for cell in notebook("17_silent_bug_lab")["cells"])
    found = re.search(r'zip\(\s*"([A-Z]+)",\s*\((.*?)\),\s*strict', source, re.S)
    assert found
    names = re.findall(r'"([^"]+)"', found[2])
    right = found[1][names.index("correct")]
    told = [" ".join(row.say) for plan in WITH_WORDS for row in plan.rows if "**Guess" in row.what]
    assert told
    assert all(f"The correct program is {right}." in text for text in told)


def test_no_two_tables_have_one_title() -> None:
    titles = [plan.title for plan in PLANS.values()]
    assert len(titles) == len(set(titles))


def test_the_chapters_stand_in_reading_order(plan: Plan) -> None:
    positions = [READING_ORDER.index(stem) for stem in plan.chapters]
    assert positions == sorted(positions)


def test_four_weeks_hold_every_chapter_once_and_none_before_its_prerequisites() -> None:
    assert [stem for week in WEEKS for stem in week.chapters] == READING_ORDER
    assert len(WEEKS) == 4


def test_the_chapter_for_volunteers_is_no_prerequisite() -> None:
    outline = (TEACHING / "outline.md").read_text(encoding="utf-8")
    [left_out] = re.findall(r"leave \{doc\}`/notebooks/(\w+)` to volunteers", outline)
    assert all(left_out not in chapter.prerequisites for chapter in CHAPTERS.values())


@pytest.mark.parametrize("name", PLANS)
def test_every_plan_is_shown_on_a_page_with_its_chapters(name: str) -> None:
    text = "\n".join(path.read_text(encoding="utf-8") for path in TEACHING.glob("*.md"))
    for directive in ("session-plan", "session-chapters"):
        assert text.count(f"```{{{directive}}} {name}\n```") == 1


def test_every_plan_page_has_its_parts() -> None:
    for name, plan in PLANS.items():
        if not name.startswith("plan_"):
            continue
        text = (TEACHING / f"{name}.md").read_text(encoding="utf-8")
        assert re.findall(r"^## (.+)$", text, re.M) == [
            "Outcomes",
            "What students need",
            "Minute by minute",
            "What to say",
            "When late",
            "What can go wrong",
            "Take home",
        ]
        assert f"{plan.minutes} minutes" in text.splitlines()[0]


# ---- Reading the file -------------------------------------------------------------------------


def some_plans(root: Path, row: dict[str, Any], **more: Any) -> dict[str, Plan]:
    folder = root / "book" / "teaching"
    folder.mkdir(parents=True)
    entry = {
        "title": "Five",
        "minutes": 5,
        "chapters": ["06_logsumexp_penalty"],
        "rows": [row],
    } | more
    (folder / "plans.yml").write_text(yaml.safe_dump({"plan_5": entry}))
    return read_plans(root, CHAPTERS)


def test_an_exercise_takes_its_minutes_from_the_chapters(tmp_path: Path) -> None:
    [row] = some_plans(tmp_path, {"what": "x", "exercise": "ex-logsumexp-mixture"})["plan_5"].rows
    expected = CHAPTERS["06_logsumexp_penalty"].exercise_minutes["ex-logsumexp-mixture"]
    assert row.minutes == expected


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"what": "x", "exercise": "ex-none"}, "no chapter has the exercise 'ex-none'"),
        ({"what": "x", "exercise": "ex-logsumexp-volume", "minutes": 3}, "come from"),
        ({"what": "x"}, "minutes"),
        ({"what": "x", "minutes": 3, "colour": "blue"}, "colour"),
    ],
)
def test_a_wrong_row_is_named(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        some_plans(tmp_path, row)


def test_an_unknown_field_of_a_plan_is_named(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="colour"):
        some_plans(tmp_path, {"what": "x", "minutes": 5}, colour="blue")


def test_homework_minutes_are_those_of_the_named_exercises() -> None:
    chapter = CHAPTERS["06_logsumexp_penalty"]
    volume, gradient = "ex-logsumexp-volume", "ex-logsumexp-gradient"
    expected = chapter.exercise_minutes[volume] + chapter.exercise_minutes[gradient]
    assert chapter.minutes_of([volume, gradient, "ex-of-another-chapter"]) == expected


def test_labels_become_roles() -> None:
    assert reference("eq-penalty") == "equation {eq}`eq-penalty`"
    assert reference("claim-shift") == "{prf:ref}`claim-shift`"
    assert reference("06_a#Why") == "{section}`06_a#Why`"
    with pytest.raises(PlanError, match="penalty"):
        reference("penalty")
    row = Row(minutes=1, what="x", show=["fig-a"], exercise="ex-b", run="06_a")
    assert on_the_screen(row, {"06_a": 12.4}) == (
        "{numref}`fig-a`, {ref}`ex-b`, {doc}`/notebooks/06_a`: computes 12 s"
    )


# ---- In class ---------------------------------------------------------------------------------

SESSIONS = [plan for plan in PLANS.values() if plan not in WEEKS]
IN_CLASS = sorted({row.exercise for plan in SESSIONS for row in plan.rows if row.exercise})
HOME = {label: chapter.stem for chapter in CHAPTERS.values() for label in chapter.exercise_minutes}


@pytest.mark.parametrize("label", IN_CLASS)
def test_an_exercise_in_class_needs_only_the_first_code_cell_of_its_chapter(
    label: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = notebook(HOME[label])["cells"]
    sources = [(cell["cell_type"], "".join(cell["source"])) for cell in cells]
    first = next(text for kind, text in sources if kind == "code")
    begin = next(n for n, (_, text) in enumerate(sources) if f"solution-start}} {label}\n" in text)
    end = next(n for n in range(begin, len(sources)) if "{solution-end}" in sources[n][1])
    monkeypatch.setenv("MPLBACKEND", "Agg")
    monkeypatch.chdir(ROOT / "notebooks")
    dtype = torch.get_default_dtype()
    names: dict[str, Any] = {}
    try:
        exec(first, names)
        for kind, text in sources[begin:end]:
            if kind == "code":
                exec(text, names)
    finally:
        torch.set_default_dtype(dtype)
    assert f"{label}: passed" in capsys.readouterr().out
