"""Proofs of the chapter on when conservatism helps: its claims, computed from the stored runs.

Middles and intervals are computed here with sorting and quantiles of their own, with other random
numbers than the library's.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from conftest import ROOT
from scipy import special

from offline_rl_lib import choosing
from offline_rl_lib.data import load_dataset, shipped_datasets
from offline_rl_lib.exercise_checks import when_conservatism_helps as exercises
from offline_rl_lib.experiments import RESULTS, load_runs
from offline_rl_lib.intervals import compare
from offline_rl_lib.map import MAP, METHODS, PROPOSALS, load_cells, normalised, short_name
from offline_rl_lib.teaching import check

Deviation = Callable[..., None]
Array = npt.NDArray[np.float64]
NAMES = tuple(short_name(name) for name in MAP.datasets)
WEIGHTED = tuple(f"CQL, weight {weight}" for weight in ("0.25", "1", "5", "20"))
FIVE = ("penalty off", *WEIGHTED)
SLACK = 0.1  # points of score: other random numbers move the end of an interval


# ---- Stored runs, read without the library's loader ----------------------------------------------


@cache
def runs() -> dict[tuple[str, str], list[dict[str, Any]]]:
    """Stored runs by short name and method, in the order of their seeds."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for run in load_runs(RESULTS / "map.jsonl"):
        found.setdefault((short_name(run["dataset"]), run["method"]), []).append(run)
    return {key: sorted(cell, key=lambda run: run["seed"]) for key, cell in found.items()}


@cache
def ends() -> tuple[float, float]:
    stored = json.loads((RESULTS / "reference_returns.json").read_text(encoding="utf-8"))
    returns = [np.mean(stored["policies"][name]["returns"]) for name in ("random", "optimum")]
    return float(returns[0]), float(returns[1])


def scored(returns: npt.ArrayLike) -> Array:
    random, optimum = ends()
    return 100 * (np.asarray(returns) - random) / (optimum - random)


def scores(name: str, method: str) -> Array:
    """Last score of each of the ten seeds."""
    return scored([run["returns"][-1] for run in runs()[name, method]])


def middle(values: Array) -> Array:
    """Mean of the middle six of ten, along the last axis."""
    return np.sort(values, axis=-1)[..., 2:8].mean(axis=-1)


def drawn(values: Array, seed: int, count: int = 10_000) -> Array:
    """Middles of ten values drawn again and again."""
    return middle(values[np.random.default_rng(seed).integers(10, size=(count, 10))])


@cache
def interval(name: str, method: str) -> tuple[float, float]:
    low, high = np.quantile(drawn(scores(name, method), 1), [0.025, 0.975])
    return float(low), float(high)


@cache
def difference(name: str, method: str, other: str) -> tuple[float, float]:
    """95 % interval of the difference of two middles."""
    again = drawn(scores(name, method), 2) - drawn(scores(name, other), 3)
    low, high = np.quantile(again, [0.025, 0.975])
    return float(low), float(high)


def beats(name: str, method: str, other: str) -> bool:
    return difference(name, method, other)[0] > 0


@cache
def evidence() -> choosing.Evidence:
    return choosing.gather(load_cells())


@cache
def by_spread() -> list[str]:
    """Short names from little to much variety of torques near a state, found pair by pair."""

    def spread(name: str) -> float:
        dataset = load_dataset(f"pendulum/{name}-v0")
        points = dataset.observation.double()
        points = points / points.std(dim=0, correction=0)
        torque = dataset.action[:, 0].double()
        some = torch.linspace(0, len(points) - 1, 300).long()  # 300 of them say it well enough
        nearest = torch.cdist(points[some], points).topk(20, largest=False).indices
        return float(torque[nearest].std(dim=1, correction=0).mean())

    return sorted(NAMES, key=spread)


# ---- Equations ----------------------------------------------------------------------------------


@pytest.mark.proves("eq-map-score", method="shares of the way, in two units and through a mean")
def test_the_score_is_a_share_of_the_way(deviation: Deviation) -> None:
    random, optimum = ends()
    returns = np.linspace(-1800, 0, 13)
    # The share t of the way from random to the optimum, found by going there.
    for value, score in zip(returns, normalised(returns), strict=True):
        deviation(abs(random + score / 100 * (optimum - random) - value), 1e-9)
    deviation(abs(normalised([random, optimum]) - [0, 100]).max(), 1e-9)
    # The same scale in another unit, and the same middle before or after.
    shifted = 100 * (returns / 8 - random / 8) / (optimum / 8 - random / 8)
    deviation(abs(shifted - normalised(returns)).max(), 1e-9)
    ten = np.random.default_rng(0).normal(-500, 200, 10)
    deviation(abs(normalised(middle(ten)) - middle(normalised(ten))), 1e-9)
    wrong = 100 * (returns - optimum) / (random - optimum)
    assert abs(wrong - normalised(returns)).max() > 1


@pytest.mark.proves("eq-map-cost", method="loops over datasets and seeds")
def test_the_cost_is_what_a_choice_gives_up(deviation: Deviation) -> None:
    costs = choosing.costs_of(evidence(), resamples=2)
    for d, name in enumerate(NAMES):
        best = max(float(middle(scores(name, method))) for method in METHODS)
        picked = []
        for seed in range(10):
            cells = [runs()[name, method][seed] for method in FIVE]
            k = max(range(5), key=lambda k: cells[k]["promised"][-1])
            picked.append(cells[k]["returns"][-1])
        cost = best - float(middle(scored(picked)))
        deviation(abs(costs["highest promise"].per_dataset[d] - cost), 1e-9)
        for method in METHODS:
            cost = best - float(middle(scores(name, method)))
            deviation(abs(costs[f"always {method}"].per_dataset[d] - cost), 1e-9)
            assert cost >= 0
        mean_of_ten = best - float(scored(picked).mean())
        assert mean_of_ten != pytest.approx(costs["highest promise"].per_dataset[d], abs=1e-9)


# ---- Claims about the data -----------------------------------------------------------------------


@pytest.mark.proves("claim-map-limits", method="counting over episodes")
def test_datasets_have_time_limits_and_no_ends(deviation: Deviation) -> None:
    assert len(shipped_datasets()) == 11
    for name in shipped_datasets():
        dataset = load_dataset(name)
        ended = dataset.terminated.sum()
        episodes = len(dataset.episode.unique())
        deviation(float(ended), 0)
        deviation(abs(int(dataset.truncated.sum()) - episodes), 0)
        deviation(abs(len(dataset) - 200 * episodes), 0)


# ---- Claims about the map ------------------------------------------------------------------------


@pytest.mark.proves("claim-map-both", method="another bootstrap of the same runs")
def test_the_same_penalty_helps_and_harms(deviation: Deviation) -> None:
    found = {name: difference(name, "CQL, weight 0.25", "penalty off") for name in NAMES}
    higher = {name for name, (low, _) in found.items() if low > 0}
    deviation(abs(len(higher) - 8), 0)
    deviation(len(set(by_spread()[:6]) - higher), 0)
    deviation(max(0.0, *(-high for _, high in found.values())), 0)
    for name in ("early", "rare", "random"):
        _, high = difference(name, "CQL, weight 20", "penalty off")
        deviation(max(0.0, high), 0)


@pytest.mark.proves("claim-map-wide", method="another bootstrap of the same runs")
def test_wide_data_need_no_penalty(deviation: Deviation) -> None:
    deviation(max(0.0, 80 - interval("random", "penalty off")[0]), SLACK)
    deviation(max(0.0, interval("random", "BC")[1] - 5), SLACK)


@pytest.mark.proves("claim-map-narrow", method="another bootstrap of the same runs")
def test_narrow_data_ruin_the_agent_without_penalty(deviation: Deviation) -> None:
    for name in by_spread()[:6]:
        _, high = interval(name, "penalty off")
        deviation(max(0.0, high, high - interval(name, "BC")[0]), 0)
    for name in by_spread()[6:]:
        deviation(max(0.0, -interval(name, "penalty off")[0]), 0)


@pytest.mark.proves("claim-map-clones", method="another bootstrap of the same runs, counted")
def test_against_the_clones(deviation: Deviation) -> None:
    better = sum(beats(name, "CQL, weight 0.25", "BC") for name in NAMES)
    worse = sum(beats(name, "BC", "CQL, weight 0.25") for name in NAMES)
    deviation(max(0, worse + 1 - better), 0)
    for name in ("replay", "replay-small", "expert", "expert-small"):
        for method in WEIGHTED:
            deviation(max(0.0, difference(name, method, "BC")[1]), 0)


@pytest.mark.proves(
    "claim-map-lucky-starts", method="episodes read from the rewards; another bootstrap"
)
def test_the_best_episodes_were_lucky_starts(deviation: Deviation) -> None:
    for name in ("two-policies", "expert", "expert-small", "replay"):
        dataset = load_dataset(f"pendulum/{name}-v0")
        rewards = dataset.reward.view(-1, 200).sum(dim=1)
        best = rewards.argsort(descending=True)[: max(1, round(len(rewards) / 10))]
        cosine = dataset.observation[:, 0].view(-1, 200)[best]
        start = float(torch.rad2deg(torch.acos(cosine[:, 0].clamp(-1, 1))).max())
        deviation(max(0.0, start - 25), 0)
        deviation(max(0.0, -float(cosine.min())), 0)
        deviation(max(0.0, 60 - difference(name, "BC", "best BC")[0]), 0)
    for name in ("early", "narrow", "rare", "random"):
        assert beats(name, "best BC", "BC")
    for name in ("medium-small", "replay-small"):
        assert beats(name, "BC", "best BC")


@pytest.mark.proves("claim-map-peek", method="resampled seeds, by hand")
def test_a_peek_favours_the_unsteady(deviation: Deviation) -> None:
    random = np.random.default_rng(5)

    def again(method: str) -> Array:
        """Mean over the datasets of best minus last, of seeds drawn again."""
        total = np.zeros(10_000)
        for name in NAMES:
            curves = scored([run["returns"] for run in runs()[name, method]])
            gain = curves.max(axis=1) - curves[:, -1]
            assert (gain >= 0).all()
            total += gain[random.integers(10, size=(10_000, 10))].mean(axis=1)
        return total / len(NAMES)

    low = np.quantile(again("penalty off") - again("BC"), 0.025)
    deviation(max(0.0, -float(low)), 0)


@pytest.mark.proves("claim-map-snapshot", method="another bootstrap of the same runs")
def test_the_map_is_a_snapshot(deviation: Deviation) -> None:
    def last_step(name: str, method: str) -> tuple[float, float]:
        curves = scored([run["returns"] for run in runs()[name, method]])
        low, high = np.quantile(drawn(curves[:, -1] - curves[:, -2], 10), [0.025, 0.975])
        return float(low), float(high)

    for name in ("replay", "narrow", "expert"):
        deviation(max(0.0, -last_step(name, "CQL, weight 0.25")[0]), 0)
    for name in NAMES:
        deviation(max(0.0, last_step(name, "BC")[0]), 0)


@pytest.mark.proves("claim-map-no-weight", method="another bootstrap of the same runs")
def test_no_weight_is_right_everywhere(deviation: Deviation) -> None:
    for method in FIVE:
        beaten = [
            name
            for name in NAMES
            for other in FIVE
            if other != method and beats(name, other, method)
        ]
        deviation(float(not beaten), 0)


@pytest.mark.proves("claim-map-broken", method="another bootstrap of the same runs")
def test_broken_promises(deviation: Deviation) -> None:
    def lowest_excess(name: str, method: str) -> float:
        cell = runs()[name, method]
        excess = np.array([run["promised"][-1] - run["earned"] for run in cell])
        return float(np.quantile(drawn(excess, 4), 0.025))

    for name in by_spread()[:6]:
        deviation(max(0.0, -lowest_excess(name, "penalty off")), 0)
    for name in by_spread()[6:]:
        deviation(max(0.0, lowest_excess(name, "penalty off")), 0)
    for name in NAMES:
        for method in WEIGHTED:
            deviation(max(0.0, lowest_excess(name, method)), 0)


@pytest.mark.proves("claim-map-proposals", method="another bootstrap of the same runs")
def test_the_number_of_proposals(deviation: Deviation) -> None:
    found = {
        method: scored(
            [run["returns"][-1] for run in load_runs(RESULTS / "proposals.jsonl")
             if run["method"] == method]
        )
        for method in PROPOSALS.methods
    }  # fmt: skip
    for method in ("N = 1", "N = 20"):
        again = drawn(found[method], 6) - drawn(found["N = 5"], 7)
        low, high = np.quantile(again, [0.025, 0.975])
        deviation(max(0.0, float(low), -float(high)), 0)


# ---- Claims about choosing ------------------------------------------------------------------


@cache
def redrawn_costs(rule: str, count: int = 500) -> Array:
    """Mean cost of a rule when the seeds are drawn again, (count,), by loops over the datasets."""
    random = np.random.default_rng(8)
    total = np.zeros((count, len(NAMES)))
    (*options,) = choosing.RULES[rule].choose(evidence())
    for d, name in enumerate(NAMES):
        picked = random.integers(10, size=(count, 10))
        table = {method: scores(name, method) for method in METHODS}
        best = max(METHODS, key=lambda method: float(middle(table[method])))
        total[:, d] = middle(table[best][picked])
        for choice in options:
            own = np.array([table[evidence().methods[m]][s] for s, m in enumerate(choice[d])])
            total[:, d] -= middle(own[picked]) / len(options)
    return total.mean(axis=1)


@pytest.mark.proves("claim-map-highest-promise", method="seeds drawn again, by hand")
def test_the_highest_promise_is_worse_than_the_lot(deviation: Deviation) -> None:
    more = redrawn_costs("highest promise") - redrawn_costs("random weight")
    deviation(max(0.0, -float(np.quantile(more, 0.025))), 0)


@pytest.mark.proves("claim-map-rules", method="seeds drawn again, by hand")
def test_what_advice_from_elsewhere_costs(deviation: Deviation) -> None:
    (choice,) = choosing.RULES["best elsewhere"].choose(evidence())
    assert {evidence().methods[place] for place in choice.ravel()} == {"CQL, weight 0.25"}
    cost = redrawn_costs("best elsewhere")
    deviation(max(0.0, -float(np.quantile(cost, 0.025))), 0)
    more = cost - redrawn_costs("random method")
    deviation(max(0.0, float(np.quantile(more, 0.975))), 0)


@pytest.mark.proves("claim-map-false-alarm", method="simulation, all repetitions at once")
def test_ten_runs_cry_wolf(deviation: Deviation) -> None:
    random = np.random.default_rng(9)

    def alarms(ratio: float, repeats: int = 1_000, resamples: int = 400) -> float:
        found = 0
        for _ in range(repeats // 100):
            again = []
            for scale in (1.0, ratio):
                values = scale * random.normal(size=(100, 1, 10))
                picked = random.integers(10, size=(100, resamples, 10))
                again.append(middle(np.take_along_axis(values, picked, axis=-1)))
            low, high = np.quantile(again[0] - again[1], [0.025, 0.975], axis=1)
            found += int(((low > 0) | (high < 0)).sum())
        return found / repeats

    even, uneven = alarms(1.0), alarms(0.1)
    deviation(max(0.0, 0.03 - even, even - 0.08), 0)
    deviation(max(0.0, uneven - 0.12), 0)
    # And the library's own comparison, fewer times.
    found = [compare(random.normal(size=10), random.normal(size=10)).clear for _ in range(150)]
    assert np.mean(found) < 0.15


# ---- The chapter says what its runs say ------------------------------------------------------


def test_the_table_of_claims_names_tests_that_are_there() -> None:
    notebook = json.loads(
        (ROOT / "notebooks" / "16_when_conservatism_helps.ipynb").read_text(encoding="utf-8")
    )
    text = "\n".join("".join(cell["source"]) for cell in notebook["cells"])
    rows = [line for line in text.splitlines() if line.startswith("| {") and "`test_" in line]
    named = {row.split("`")[-2] for row in rows}
    labels = {row.split("`")[1] for row in rows}
    assert named <= set(globals())
    marked = {
        mark.args[0]
        for name, test in globals().items()
        if name.startswith("test_")
        for mark in getattr(test, "pytestmark", [])
        if mark.name == "proves"
    }
    assert labels == marked
    written = {line.split()[1] for line in text.splitlines() if line.startswith(":label: claim-")}
    assert written == {label for label in marked if label.startswith("claim-")}


# ---- Exercises ----------------------------------------------------------------------------------


@pytest.fixture
def verdict(capsys: pytest.CaptureFixture[str]) -> Callable[[str, Any], str]:
    def ask(exercise: str, answer: Any) -> str:
        check(exercise, answer)
        return capsys.readouterr().out

    return ask


def cell(pick: Callable[[Array], Any], scale: Callable[..., float] | None = None) -> Any:
    """Return an answer that takes this middle, on this scale."""
    on = scale or (lambda value, random, optimum: 100 * (value - random) / (optimum - random))
    return lambda returns, random, optimum: on(float(pick(returns)), random, optimum)


def test_a_cell_of_the_map(verdict: Callable[[str, Any], str]) -> None:
    def ask(*answer: Any) -> str:
        return verdict("ex-map-cell", cell(*answer))

    assert "passed" in ask(middle)
    assert "not done yet" in verdict("ex-map-cell", lambda returns, random, optimum: ...)
    assert "mean of all ten" in ask(np.mean)
    assert "median" in ask(np.median)
    assert "sorted" in ask(lambda returns: returns[2:8].mean())
    assert "not one" in ask(lambda returns: np.sort(returns)[1:9].mean())
    assert "not three" in ask(lambda returns: np.sort(returns)[3:7].mean())
    assert "per cent" in ask(middle, lambda v, random, optimum: (v - random) / (optimum - random))
    assert "random has 0" in ask(middle, lambda v, random, optimum: 100 * v / optimum)
    assert "number is expected" in verdict("ex-map-cell", lambda r, a, b: "many")
    assert "put it on the scale" in ask(middle, lambda v, random, optimum: v)
    assert "not the other way round" in ask(
        middle, lambda v, random, optimum: 100 * (v - optimum) / (random - optimum)
    )
    assert "the whole way" in ask(middle, lambda v, random, optimum: 100 * (v - random) / optimum)
    assert "below 0 or above 100" in ask(
        middle, lambda v, random, optimum: np.clip(100 * (v - random) / (optimum - random), 0, 100)
    )
    assert "minus random, over optimum minus random" in ask(np.max)
    assert check("ex-map-cell", cell(np.median), points=4) == 2
    assert check("ex-map-cell", cell(np.max), points=4) == 0

    def in_place(returns: Array, random: float, optimum: float) -> float:
        returns.sort()
        return float(100 * (returns[2:8].mean() - random) / (optimum - random))

    assert "copy them" in verdict("ex-map-cell", in_place)


def test_the_luck_of_the_best(verdict: Callable[[str, Any], str]) -> None:
    random = np.random.default_rng(2)

    def right(k: int) -> float:
        return float(random.normal(size=(100_000, k)).max(axis=1).mean())

    assert "passed" in verdict("ex-map-luck", right)
    assert "not done yet" in verdict("ex-map-luck", lambda k: ...)
    assert "mean of the looks" in verdict(
        "ex-map-luck", lambda k: float(random.normal(size=(100_000, k)).mean())
    )
    assert "largest of all rows" in verdict(
        "ex-map-luck", lambda k: 0.0 if k == 1 else float(random.normal(size=(100_000, k)).max())
    )
    assert "that look" in verdict("ex-map-luck", lambda k: 1.54)
    assert "for very many looks" in verdict("ex-map-luck", lambda k: np.sqrt(2 * np.log(k)))
    assert "median of the largest" in verdict(
        "ex-map-luck", lambda k: special.ndtri(0.5 ** (1 / k))
    )
    # Two looks: 1 / sqrt(pi); and by the inverse distribution for others.
    assert exercises.expected_maximum(2) == pytest.approx(1 / np.sqrt(np.pi), abs=1e-6)
    share = (np.arange(200_000) + 0.5) / 200_000
    for k in (1, 5, 20):
        by_quantiles = special.ndtri(share ** (1 / k)).mean()
        assert exercises.expected_maximum(k) == pytest.approx(by_quantiles, abs=1e-3)


def test_a_rule_of_ones_own(verdict: Callable[[str, Any], str]) -> None:
    def solution(promised: Any, td_loss: Any, best: float, mean: float, spread: float) -> int:
        return 0 if spread > 1.0 else 1

    assert "passed" in verdict("ex-map-rule", solution)
    assert "not done yet" in verdict("ex-map-rule", lambda *numbers: ...)
    assert "place from 0 to 4" in verdict("ex-map-rule", lambda *numbers: 20)
    assert "place from 0 to 4" in verdict("ex-map-rule", lambda *numbers: 0.25)
    assert "by lot" in verdict("ex-map-rule", lambda promised, *rest: int(np.argmax(promised)))
    assert "function is expected" in verdict("ex-map-rule", 3)
    lots = np.random.default_rng(4)
    assert "does not draw by lot" in verdict("ex-map-rule", lambda *numbers: lots.integers(5))
    seen: list[tuple[Any, ...]] = []

    def curious(*numbers: Any) -> int:
        seen.append(numbers)
        return solution(*numbers)

    said = verdict("ex-map-rule", curious)
    assert len(seen) == 2 * 110, "asked twice, for a rule that draws by lot answers differently"
    promised, td_loss, best, mean, spread = seen[13]  # second dataset, seed 3
    name = NAMES[1]
    cells = [runs()[name, method][3] for method in FIVE]
    assert promised.tolist() == [run["promised"][-1] for run in cells]
    assert td_loss.tolist() == [run["metrics"]["td_loss"][-1] for run in cells]
    assert best >= mean
    assert spread > 0
    cost = np.mean(
        [
            max(middle(scores(n, m)) for m in FIVE)
            - middle(scores(n, FIVE[solution(None, None, 0, 0, seen[10 * d][-1])]))
            for d, n in enumerate(NAMES)
        ]
    )
    assert f"gives up {cost:.1f} points" in said
