"""The tracer: it reports what ran, in the order of the source, and disturbs nothing."""

from __future__ import annotations

import functools
import sys
from collections import namedtuple
from typing import Any

import pytest
import torch

from offline_rl_lib import tracing
from offline_rl_lib.tracing import Statement, describe, show_trace, trace

Pair = namedtuple("Pair", "left right")


def example(values: torch.Tensor, limit: int = 2) -> dict[str, Any]:
    """Never part of the record."""
    total = torch.zeros(())
    kept = []
    for place, value in enumerate(values):
        total = total + value * (place < 9)
        kept.append(value)
    if limit > 5:
        total = total * 100
    first, (second, *rest) = kept[0], kept[1:]
    values.zero_()
    return {
        "total": total,
        "rest": [number + second + first for number in rest],
    }


def record(function: Any, *arguments: Any) -> list[Statement]:
    return next(iter(trace(lambda: function(*arguments), function).values()))


def shown(statements: list[Statement], monkeypatch: pytest.MonkeyPatch) -> str:
    pages: list[str] = []
    monkeypatch.setattr(tracing, "display", lambda page: pages.append(page.data))
    show_trace(statements)
    return pages[0]


def test_statements_stand_in_the_order_of_the_source() -> None:
    sources = [statement.source for statement in record(example, torch.tensor([1.0, 2.0, 4.0]))]
    assert [source.splitlines()[0] for source in sources] == [
        "total = torch.zeros(())",
        "kept = []",
        "for place, value in enumerate(values):",
        "    total = total + value * (place < 9)",
        "    kept.append(value)",
        "if limit > 5:",
        "    total = total * 100",
        "first, (second, *rest) = kept[0], kept[1:]",
        "values.zero_()",
        "return {",
    ]
    assert sources[-1].splitlines()[1:] == [
        '    "total": total,',
        '    "rest": [number + second + first for number in rest],',
        "}",
    ]


def test_each_run_of_a_loop_is_recorded_and_its_end_is_not() -> None:
    statements = record(example, torch.tensor([1.0, 2.0, 4.0]))
    head, body = statements[2], statements[3]
    assert [run["place"] for run in head.runs] == [0, 1, 2]
    assert [run["total"].item() for run in body.runs] == [1.0, 3.0, 7.0]
    assert statements[4].runs == [{}, {}, {}]


def test_an_empty_loop_binds_nothing() -> None:
    def loop(things: list[int]) -> int:
        for thing in things:
            thing += 1
        return 5

    head, body, back = record(loop, [])
    assert (head.runs, body.runs) == ([], [])
    assert back.runs == [{"return": 5}]


def test_values_are_those_of_the_moment() -> None:
    """values.zero_() runs after the loop: without copies the record would hold zeros."""
    statements = record(example, torch.tensor([1.0, 2.0, 4.0]))
    assert [run["value"].item() for run in statements[2].runs] == [1.0, 2.0, 4.0]
    unpacked = statements[7].runs[0]
    assert (unpacked["first"].item(), unpacked["second"].item()) == (1.0, 2.0)
    assert [number.item() for number in unpacked["rest"]] == [4.0]
    assert statements[-1].runs[0]["return"]["total"].item() == 7.0


def test_what_did_not_run_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    statements = record(example, torch.tensor([1.0, 2.0, 4.0]))
    assert [statement.source.strip() for statement in statements if not statement.runs] == [
        "total = total * 100"
    ]
    assert shown(statements, monkeypatch).count("#   not run") == 1


def test_the_result_and_the_former_hook_are_left_alone() -> None:
    before = sys.gettrace()
    kept = []
    trace(lambda: kept.append(example(torch.tensor([1.0, 2.0]))["total"]), example)
    assert sys.gettrace() is before
    assert kept[0].item() == 3.0

    def fails(value: float) -> float:
        return value / 0

    with pytest.raises(ZeroDivisionError):
        trace(lambda: fails(1.0), fails)
    assert sys.gettrace() is before


def test_a_failed_statement_binds_nothing_and_the_next_ones_count() -> None:
    def survives(value: float) -> float:
        ratio = 7.0
        try:
            ratio = value / 0
        except ZeroDivisionError:
            ratio = -1.0
        return ratio

    runs = {s.source.strip(): s.runs for s in record(survives, 1.0)}
    assert runs["ratio = value / 0"] == []
    assert runs["ratio = -1.0"] == [{"ratio": -1.0}]
    assert runs["return ratio"] == [{"return": -1.0}]


def test_decorated_functions_and_inner_calls() -> None:
    def plain(function: Any) -> Any:
        @functools.wraps(function)
        def wrapper(*arguments: Any) -> Any:
            return function(*arguments)

        return wrapper

    @plain
    def inner(x: int) -> int:
        y = x + 1
        return y + 0

    @torch.no_grad()
    def outer(x: int) -> int:
        y = inner(x) * 10
        return y + 0

    records = trace(lambda: outer(1), outer, inner)
    names = [name.rpartition(".")[2] for name in records]
    assert names == ["outer", "inner"]
    first, second = records.values()
    assert first[0].runs == [{"y": 20}]
    assert second[0].runs == [{"y": 2}]


def test_parts_are_shown_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    value = {"a": Pair(torch.ones(2), [3, "text"]), "b": (torch.arange(4.0) - 1.0001,)}
    page = shown([Statement("x = ...", ("x",), runs=[{"x": value}])], monkeypatch)
    assert page == "\n".join(
        [
            "```python",
            "x = ...",
            '#   x["a"].left      (2,)          1.000 1.000',
            '#   x["a"].right[0]  3',
            '#   x["a"].right[1]  text',
            '#   x["b"][0]        (4,)          mean 0.500, from -1.000 to 2.000',
            "```",
        ]
    )


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (-0.0001, "0.000"),
        (2.0, "2.000"),
        (True, "True"),
        (torch.tensor(-0.00001), "()            0.000"),
        (torch.tensor([True, False, True, True]), "(4,)          mean 0.750, from 0.000 to 1.000"),
        (object(), "object"),
    ],
)
def test_descriptions(value: Any, text: str) -> None:
    assert describe(value) == text
