"""Chapters as assignments: cells, points and answers; what the checkers give for half an answer."""

from __future__ import annotations

import ast
import copy
import json
import math
import re
import sys
from typing import Any

import pytest
import torch
import yaml
from conftest import ROOT
from torch import Tensor

from book.extensions.cards import Chapter, read_chapters
from book.extensions.grading import (
    BEGIN,
    CODE_STUB,
    END,
    TEXT_STUB,
    GradingError,
    assignment,
    read_parts,
    read_questions,
    split_exercise,
)
from offline_rl_lib.exercise_checks.watch_it import _spinners
from offline_rl_lib.teaching import WrongAnswer, check, require_all

CHAPTERS = read_chapters(ROOT)
QUESTIONS = read_questions(ROOT)
PARTS = read_parts(ROOT)
Cell = dict[str, Any]


def stored(stem: str) -> dict[str, Any]:
    return json.loads((ROOT / "notebooks" / f"{stem}.ipynb").read_text(encoding="utf-8"))


def source(cell: Cell) -> str:
    return "".join(cell["source"])


def marked(notebook: dict[str, Any]) -> list[tuple[Cell, dict[str, Any]]]:
    pairs = [(cell, cell["metadata"].get("nbgrader")) for cell in notebook["cells"]]
    return [(cell, marks) for cell, marks in pairs if marks]


@pytest.fixture(params=CHAPTERS.values(), ids=lambda chapter: chapter.stem)
def chapter(request: pytest.FixtureRequest) -> Chapter:
    return request.param


# ---- Cells --------------------------------------------------------------------------------------


def test_an_exercise_becomes_a_stub_and_a_locked_check(chapter: Chapter) -> None:
    notebook = assignment(stored(chapter.stem), chapter, [], answers=False)
    marks = [marks for _, marks in marked(notebook)]
    stubs, checks = marks[::2], marks[1::2]
    assert [stub["grade_id"] for stub in stubs] == list(chapter.exercise_points)
    assert [c["grade_id"] for c in checks] == [
        f"check-{label}" for label in chapter.exercise_points
    ]
    assert [c["points"] for c in checks] == list(chapter.exercise_points.values())
    for stub, locked in zip(stubs, checks, strict=True):
        assert (stub["grade"], stub["solution"], stub["locked"]) == (False, True, False)
        assert (locked["grade"], locked["solution"], locked["locked"]) == (True, False, True)


def test_stub_and_check_together_are_the_cell_of_the_book(chapter: Chapter) -> None:
    original = stored(chapter.stem)
    in_the_book = [c for c in original["cells"] if "exercise" in c["metadata"].get("tags", [])]
    cells = [cell for cell, _ in marked(assignment(original, chapter, [], answers=False))]
    for whole, stub, test in zip(in_the_book, cells[::2], cells[1::2], strict=True):
        assert source(stub).endswith(CODE_STUB)
        code = source(stub).removesuffix(CODE_STUB)
        call = re.sub(r", points=\d+\)$", ")", source(test).splitlines()[-1])
        assert ast.dump(ast.parse(code + call)) == ast.dump(ast.parse(source(whole)))


def test_all_other_cells_are_those_of_the_book_without_outputs(chapter: Chapter) -> None:
    original = stored(chapter.stem)
    before = copy.deepcopy(original)
    made = assignment(original, chapter, QUESTIONS[chapter.stem], answers=False)
    assert original == before, "the chapter stays as it is"
    others = [
        source(cell)
        for cell in original["cells"]
        if not {"solution", "exercise"} & set(cell["metadata"].get("tags", []))
    ]
    kept = [
        source(cell)
        for cell in made["cells"]
        if "nbgrader" not in cell["metadata"] and not cell["id"].startswith("ask-open-")
    ]
    assert kept == others
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in made["cells"])
    assert set(made["metadata"]) <= {"kernelspec", "language_info"}
    names = [cell["id"] for cell in made["cells"]]
    assert len(names) == len(set(names))
    assert all(re.fullmatch(r"[a-zA-Z0-9-_]{1,64}", name) for name in names)


def test_the_answers_stand_between_the_marks_and_nowhere_else(chapter: Chapter) -> None:
    both = [
        assignment(stored(chapter.stem), chapter, QUESTIONS[chapter.stem], answers=answers)
        for answers in (True, False)
    ]
    for with_answers, without in zip(*(notebook["cells"] for notebook in both), strict=True):
        stub = CODE_STUB if with_answers["cell_type"] == "code" else TEXT_STUB
        region = re.compile(rf"^{BEGIN}\n.*?^{END}$", re.M | re.S)
        cleared, count = region.subn(stub, source(with_answers))
        assert cleared == source(without)
        assert count == ("nbgrader" in with_answers["metadata"] and not locked(with_answers))
        assert {**with_answers, "source": []} == {**without, "source": []}


def locked(cell: Cell) -> bool:
    return bool(cell["metadata"]["nbgrader"]["locked"])


def test_an_answer_binds_every_name_that_is_checked(chapter: Chapter) -> None:
    cells = [c for c, _ in marked(assignment(stored(chapter.stem), chapter, [], answers=True))]
    for stub, test in zip(cells[::2], cells[1::2], strict=True):
        answer = source(stub).split(BEGIN)[1].split(END)[0]
        bound = {
            node.name if isinstance(node, ast.FunctionDef) else node.id
            for node in ast.walk(ast.parse(answer))
            if isinstance(node, ast.FunctionDef)
            or (isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store))
        }
        asked = {n.id for n in ast.walk(ast.parse(source(test))) if isinstance(n, ast.Name)}
        assert asked - {"check"} <= bound, source(test)


@pytest.mark.parametrize("stem", CHAPTERS)
def test_open_questions_come_last_and_are_graded_by_hand(stem: str) -> None:
    made = assignment(stored(stem), CHAPTERS[stem], QUESTIONS[stem], answers=False)
    for cell, marks in marked(made)[-len(QUESTIONS[stem]) :]:
        assert (marks["grade"], marks["solution"], marks["locked"]) == (True, True, False)
        assert (cell["cell_type"], source(cell)) == ("markdown", TEXT_STUB)
    headings = [source(c).splitlines()[0] for c in made["cells"] if source(c).startswith("## ")]
    assert headings[-3:] == ["## Exercises", "## In your own words", "## References"]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ('x = ...\ncheck("ex-a", x)', ("x = ...", "ex-a", "x")),
        (
            'def f():\n    return 1\n\n\ncheck("ex-a", f)\nprint(1)',
            ("def f():\n    return 1\n\n\nprint(1)", "ex-a", "f"),
        ),
        ('check("ex-a", (1, "b"))', ("", "ex-a", '(1, "b")')),
    ],
)
def test_a_cell_is_split_at_its_check(source: str, expected: tuple[str, str, str]) -> None:
    assert split_exercise(source) == expected


@pytest.mark.parametrize("source", ["x = 1", 'check("ex-a", 1)\ncheck("ex-b", 2)'])
def test_a_cell_with_no_check_or_with_two_is_refused(source: str) -> None:
    with pytest.raises(GradingError, match="one call of check"):
        split_exercise(source)


def test_an_exercise_without_points_is_refused() -> None:
    chapter = Chapter("06_logsumexp_penalty", "", "", 1, {}, [])
    with pytest.raises(GradingError, match=r"06_.*no points for ex-logsumexp-volume"):
        assignment(stored(chapter.stem), chapter, [], answers=False)


# ---- The marking scheme -------------------------------------------------------------------------


def test_every_chapter_asks_for_words() -> None:
    assert [stem for stem in QUESTIONS if stem in CHAPTERS] == list(CHAPTERS)


@pytest.mark.parametrize(
    "question", [q for many in QUESTIONS.values() for q in many], ids=lambda question: question.id
)
def test_a_question_has_a_scheme_that_adds_up(question: Any) -> None:
    assert question.id.startswith("open-")
    assert question.points == 4
    assert len(question.earns) >= 2
    assert len(question.half_right) >= 2
    assert all(0 <= half.points < question.points for half in question.half_right)


def test_a_wrong_entry_is_named(tmp_path: Any) -> None:
    path = tmp_path / "book" / "teaching" / "marking.yml"
    path.parent.mkdir(parents=True)
    entry = {"id": "open-a", "question": "?", "earns": [{"points": 1}], "half_right": []}
    path.write_text(yaml.safe_dump({"exercises": {}, "questions": {"01_small": [entry]}}))
    with pytest.raises(GradingError, match=r"marking\.yml, 01_small"):
        read_questions(tmp_path)


# ---- Half an answer earns half the points -------------------------------------------------------


def unstable_mixture(log_densities: Tensor) -> Tensor:
    return log_densities.exp().mean(dim=0).log()


def turned_gradient(q: Tensor, log_density: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    softmax = torch.softmax(q / temperature - log_density, dim=1)
    return softmax / len(q), torch.full((len(q),), 1 / len(q))


def unstable_sigmoid(u: Tensor, mean: Tensor, std: Tensor, low: Tensor, high: Tensor) -> Tensor:
    s = torch.sigmoid(u)
    slope = (high - low) * s * (1 - s)
    return (torch.distributions.Normal(mean, std).log_prob(u) - slope.log()).sum(dim=-1)


def attached_loss(
    data_q: Tensor, target: Tensor, proposal_q: Tensor, log_density: Tensor, weight: float
) -> Tensor:
    soft = (proposal_q - log_density).logsumexp(-1) - torch.tensor(proposal_q.shape[-1]).log()
    return ((data_q - target).square().mean(-1) + weight * (soft - data_q).mean(-1)).sum()


def share_by_volume(target: float, low: list[float], high: list[float]) -> float:
    widths = torch.tensor(high, dtype=torch.float64) - torch.tensor(low, dtype=torch.float64)
    return float(torch.tensor(target, dtype=torch.float64).exp() / widths.prod())


def finds_short_ranges(sampler: Any, low: Tensor, high: Tensor) -> bool:
    drawn = sampler(2000)
    filled = (drawn.amax(0) - drawn.amin(0)) / (high - low)
    return bool((filled > 0.95).all() and (filled < 1.05).all())


def one_derivative() -> tuple[float, float]:
    squashed = math.tanh(-0.3)
    return 0.2 * squashed + 2 * (1 - squashed**2), 0.0


TARGET = -1 + math.log(0.25)
PRICE = 40 / (2 * math.pi) * math.exp(2 * TARGET - 1)


SHAPES = {
    "next_action": (32, 2),
    "next_q": (32,),
    "all_actions": (32, 12, 2),
    "q_values": (2, 32, 13),
    "log_densities": (32, 12),
    "td_loss": (2,),
}


def whole_mean(returns: Any, random: float, optimum: float) -> float:
    return float(100 * (returns.mean() - random) / (optimum - random))


def mean_of_the_bias(
    inputs: Tensor, weight: Tensor, bias: Tensor, gradient: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    below = gradient * (inputs @ weight + bias > 0)
    return below @ weight.mT, inputs.mT @ below, below.mean(dim=1, keepdim=True)


HALF_RIGHT: dict[str, tuple[Any, float]] = {
    "ex-truth-hanging": ((-986.96, -123.37), 1 / 2),
    "ex-truth-which": (
        {"optimum": False, "soft": True, "above_100": True, "one_start": True},
        1 / 2,
    ),
    "ex-offline-visible": ({"promise", "return"}, 2 / 5),
    "ex-tanh-normal-by-hand": (lambda: (0.693147, 0.0), 1 / 2),
    "ex-tanh-normal-sigmoid": (unstable_sigmoid, 1 / 2),
    "ex-uniform-detector": (finds_short_ranges, 4 / 7),
    "ex-logsumexp-mixture": (unstable_mixture, 1 / 2),
    "ex-logsumexp-gradient": (turned_gradient, 1 / 2),
    "ex-logsumexp-broadcast": (
        {"shape": (64,), "value_changes": False, "gradient_changes": 0, "clipping_changes": True},
        3 / 4,
    ),
    "ex-critic-translate": ({"book": 10, "paper": 0.5, "own_rewards": 2}, 2 / 3),
    "ex-actor-one-draw": (one_derivative, 1 / 2),
    "ex-actor-spike": ({"stays": 0.1, "leaves": 0.1}, 1 / 2),
    "ex-temperature-valve": (lambda: (TARGET, PRICE, 1.0), 2 / 3),
    "ex-temperature-share": (share_by_volume, 1 / 2),
    "ex-line-shapes": (SHAPES, 5 / 6),
    "ex-line-broken": ({"A": "td_target", "B": "critic_loss", "C": "actor_loss"}, 1 / 3),
    "ex-line-order": (
        {
            "actor_before_critics": True,
            "temperature_before_actor": True,
            "targets_before_temperature": True,
            "targets_before_actor": True,
            "targets_before_critics": True,
        },
        3 / 5,
    ),
    "ex-e2e-critic-loss": (attached_loss, 1 / 2),
    "ex-e2e-weight": (("fall", "fall"), 1 / 2),
    "ex-honest-sentences": ({"a", "b", "c"}, 4 / 6),
    "ex-map-cell": (whole_mean, 1 / 2),
    "ex-bug-unnamed": ({"A": "none", "B": "weight twice", "C": "none"}, 2 / 3),
    "ex-speed-layer": (mean_of_the_bias, 2 / 3),
    "ex-speed-which": ({"a": "safe", "b": "safe", "c": "argument", "d": "memory"}, 3 / 4),
}


def test_what_the_page_says_of_parts_is_what_is_tested_here() -> None:
    assert set(PARTS) == {*HALF_RIGHT, "ex-watch-spins"}
    points = {label for chapter in CHAPTERS.values() for label in chapter.exercise_points}
    assert set(PARTS) <= points


@pytest.mark.parametrize("label", HALF_RIGHT)
def test_half_an_answer_earns_its_part(label: str, capsys: pytest.CaptureFixture[str]) -> None:
    answer, share = HALF_RIGHT[label]
    assert check(label, answer, points=6) == round(6 * share, 2)
    verdict = capsys.readouterr().out
    assert verdict.startswith(f"{label}: not right yet. ")
    assert verdict.endswith(f"({round(6 * share, 2):g} of 6 points)\n")


def test_the_spinners_count_one_by_one() -> None:
    right = {name: two for name, (two, _) in _spinners().items()}
    assert check("ex-watch-spins", right, points=6) == 6
    assert check("ex-watch-spins", {**right, next(iter(right)): 101}, points=6) == 5


def test_points_are_returned_only_if_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert check("ex-truth-hanging", (-986.96, -23.37)) is None
    assert "points" not in capsys.readouterr().out
    assert check("ex-truth-hanging", (-986.96, -23.37), points=2) == 2
    assert check("ex-truth-hanging", (..., ...), points=2) == 0
    assert check("ex-truth-hanging", None, points=2) == 0
    assert (
        "not done yet. Replace the dots and run the cell again. (0 of 2" in capsys.readouterr().out
    )


def test_an_answer_without_return_and_one_that_stops_are_told_where(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def no_return(steps: int, discount: float) -> None:
        sum(discount**step for step in range(steps))

    def stops(steps: int, discount: float) -> float:
        powers = [discount**step for step in range(steps)]
        return powers[steps]

    check("ex-task-hanging-return", no_return)
    assert "not done yet. Your function returns None: is a `return` missing?" in (
        capsys.readouterr().out
    )
    check("ex-task-hanging-return", stops)
    line = stops.__code__.co_firstlineno + 2
    assert f"your code stopped in line {line}, `return powers[steps]`, with IndexError: " in (
        capsys.readouterr().out
    )
    check("ex-task-hanging-return", lambda steps: 0.0)
    assert "your code stopped with TypeError: " in capsys.readouterr().out


def test_a_warning_of_an_answer_costs_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    def warns(reward: Tensor, *_: Any) -> Tensor:
        print("a student's warning", file=sys.stderr)
        return reward

    assert check("ex-task-td-target", warns, points=2) == 0
    printed = capsys.readouterr()
    assert "a student's warning" in printed.out
    assert printed.err == ""


def test_parts_are_counted_and_the_first_wrong_one_is_named() -> None:
    require_all([None, None])
    with pytest.raises(WrongAnswer, match="second") as caught:
        require_all([None, "second", "third", None])
    assert caught.value.share == 0.5
