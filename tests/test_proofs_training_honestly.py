"""Proofs of *Training CQL, honestly*, and tests of its exercise checkers.

Every claim of the chapter is computed again from the stored runs, with means, intervals and counts
of its own, and compared with the number in the chapter's text.
"""

from __future__ import annotations

import ast
import itertools
import json
import math
import re
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
from scipy import integrate, special, stats

from offline_rl_lib.data import load_dataset
from offline_rl_lib.exercise_checks.training_honestly import supported_sentences
from offline_rl_lib.experiments import RESULTS, load_runs, stored_runs
from offline_rl_lib.map import normalised
from offline_rl_lib.post_run import POST_RUN
from offline_rl_lib.teaching import check

Deviation = Callable[..., None]
Array = np.ndarray

CHAPTER = RESULTS.parents[1] / "notebooks" / "15_training_honestly.ipynb"
DATA, METHODS = ("replay", "narrow"), ("BC", "penalty off", "CQL", "CQL, weight 5")
CELLS = list(itertools.product(DATA, METHODS))
POSTED = tuple(POST_RUN.methods)
RECOMPUTED = "computed again from the stored runs, distance from the text's number"
BOOTSTRAP = "second bootstrap with other draws, distance from the text's numbers"


# ---- The stored runs, read and summarised independently ------------------------------------------


@cache
def returns(data: str, method: str) -> Array:
    """Return per seed, checkpoint and start, (10, 5, 100)."""
    by_seed = {
        run["seed"]: run["returns"]
        for run in load_runs(RESULTS / "comparison.jsonl")
        if run["dataset"] == f"pendulum/{data}-v0" and run["method"] == method
    }
    assert sorted(by_seed) == list(range(10))
    return np.array([by_seed[seed] for seed in range(10)])


def last(data: str, method: str) -> Array:
    return returns(data, method)[:, -1].mean(axis=1)


@cache
def references() -> dict[str, float]:
    stored = json.loads((RESULTS / "reference_returns.json").read_text(encoding="utf-8"))
    return {name: policy["mean"] for name, policy in stored["policies"].items()}


def middle_half(scores: Array) -> Array:
    """Interquartile mean along the last axis, by sorting."""
    cut = scores.shape[-1] // 4
    return np.sort(scores, axis=-1)[..., cut : scores.shape[-1] - cut].mean(axis=-1)


def interval(*strata: Array, draws: int = 10_000) -> tuple[float, float]:
    generator = np.random.default_rng(11)
    drawn = [x[generator.integers(len(x), size=(draws, len(x)))] for x in strata]
    low, high = np.quantile(middle_half(np.concatenate(drawn, axis=-1)), [0.025, 0.975])
    return float(low), float(high)


@cache
def glued() -> dict[str, str]:
    """The numbers that the chapter's prose quotes."""
    found = {}
    for cell in json.loads(CHAPTER.read_text(encoding="utf-8"))["cells"]:
        for output in cell.get("outputs", []):
            name = output.get("metadata", {}).get("scrapbook", {}).get("name", "")
            if name.startswith("honest-"):
                text = "".join(output["data"]["application/papermill.record/text/plain"])
                found[name.removeprefix("honest-")] = str(ast.literal_eval(text))
    return found


def numbers(key: str) -> list[float]:
    """The numbers in a text that the chapter quotes, in their order."""
    return [float(n) for n in re.findall(r"[-+]?\d+(?:\.\d+)?", glued()[key])]


def number(key: str) -> float:
    (only,) = numbers(key)
    return only


def off_by(key: str, *expected: float) -> float:
    """Largest distance of a text's numbers from the expected ones."""
    quoted = numbers(key)
    assert len(quoted) == len(expected), f"{key}: {glued()[key]!r}"
    return max(abs(q - e) for q, e in zip(quoted, expected, strict=True))


def summary(scores: Array) -> tuple[float, float, float]:
    return float(middle_half(scores)), *interval(scores)


# ---- The equations -------------------------------------------------------------------------------


@pytest.mark.proves("eq-honest-normalised", method="ends, middle, and steps of equal size")
def test_the_scale_has_its_ends_and_is_straight(deviation: Deviation) -> None:
    low, high = references()["random"], references()["optimum"]
    deviation(float(np.abs(normalised([low, high]) - [0, 100]).max()), 1e-9)
    steps = np.diff(normalised(np.linspace(-2_000, 0, 50)))
    deviation(float(np.ptp(steps)), 1e-9)
    deviation(abs(float(steps[0]) - 100 * (2_000 / 49) / (high - low)), 1e-9)
    assert (normalised(last("narrow", "penalty off")) < 0).all(), "below random is below zero"


@pytest.mark.proves("eq-honest-variance", method="variance over all runs and pairs of starts")
@pytest.mark.parametrize(("data", "method"), CELLS)
def test_variance_of_a_score(deviation: Deviation, data: str, method: str) -> None:
    table = returns(data, method)[:, -1]
    run, start = table.mean(axis=1).var(), table.var(axis=1).mean()
    # Every run, every start (m = 1), and every ordered pair of starts (m = 2): nothing is drawn.
    pairs = (table[:, :, None] + table[:, None, :]) / 2
    deviation(abs(table.var() / (run + start) - 1), 1e-10)
    deviation(abs(pairs.var() / (run + start / 2) - 1), 1e-10)
    assert abs(pairs.var() / ((run + start) / 2) - 1) > 1e-3, "episodes are not runs"


@pytest.mark.proves("eq-honest-moving", method="covariance matrix of the smoothing matrix")
def test_spread_and_correlation_of_a_moving_average(deviation: Deviation) -> None:
    points, window = 60, 9
    smoothing = np.zeros((points - window + 1, points))
    for i in range(len(smoothing)):
        smoothing[i, i : i + window] = 1 / window
    covariance = smoothing @ smoothing.T  # of white noise with variance 1
    deviation(abs(covariance[20, 20] ** 0.5 - 1 / 3), 1e-12)
    for lag in range(window + 1):
        deviation(abs(covariance[20, 20 + lag] / covariance[20, 20] - (1 - lag / window)), 1e-12)
    assert abs(covariance[20, 21] / covariance[20, 20]) > 0.5, "neighbours are not independent"


def chapter_function(name: str, **names: Any) -> Any:
    """A function as the chapter's own cell defines it."""
    for cell in json.loads(CHAPTER.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] != "code" or "exercise" in cell["metadata"].get("tags", []):
            continue
        for node in ast.parse("".join(cell["source"])).body:
            if isinstance(node, ast.FunctionDef) and node.name == name:
                code = compile(ast.Module([node], []), name, "exec")
                scope: dict[str, Any] = {"np": np, "math": math} | names
                exec(code, scope)
                return scope[name]
    raise AssertionError(f"the chapter defines no {name}")


def test_the_moving_average_shrinks_at_its_ends() -> None:
    average = chapter_function("moving_average")
    series = np.random.default_rng(0).normal(size=100)
    smooth = average(series)
    assert len(smooth) == 100
    assert smooth[-1] == pytest.approx(series[-1]), "the last point is one episode"
    assert smooth[1] == pytest.approx(series[:3].mean())
    np.testing.assert_allclose(smooth[4:-4], np.convolve(series, np.ones(9) / 9, "valid"))


@pytest.mark.proves("eq-honest-peek", method="order statistics in closed form, and by drawing")
def test_mean_of_the_best_of_n(deviation: Deviation) -> None:
    def c(n: int) -> float:
        value, _ = integrate.quad(
            lambda x: x * n * stats.norm.pdf(x) * stats.norm.cdf(x) ** (n - 1), -10, 10
        )
        return value

    # Closed forms for 2, 3 and 5 (David and Nagaraja, Order Statistics).
    deviation(abs(c(2) - 1 / math.sqrt(math.pi)), 1e-8)
    deviation(abs(c(3) - 1.5 / math.sqrt(math.pi)), 1e-8)
    five = 5 / math.sqrt(math.pi) * (0.25 + 1.5 / math.pi * math.asin(1 / 3))
    deviation(abs(c(5) - five), 1e-8)
    drawn = np.random.default_rng(0).standard_normal((200_000, 5)).max(axis=1).mean()
    deviation(abs(c(5) - drawn) / 0.01, 1.0)
    assert abs(c(5) - special.ndtri(1 - 1 / 5)) > 0.1, "the quantile is another number"


@pytest.mark.proves("eq-honest-seeds", method="distance of the margin from the difference")
@pytest.mark.parametrize(("spread", "gain"), [(87.0, 30.0), (4.0, 1.0), (70.0, -55.0)])
def test_number_of_seeds(deviation: Deviation, spread: float, gain: float) -> None:
    rule = chapter_function("seeds_for")
    # Ten differences with exactly this mean and this sample spread.
    shape = np.array([-1, 1] * 5) * math.sqrt(9 / 10)
    gains = gain + spread * shape
    n = rule(gains)
    margin = 1.96 * spread / math.sqrt(n)
    deviation(max(0.0, margin - abs(gain)), 1e-9)
    assert 1.96 * spread / math.sqrt(n - 1) > abs(gain), "one seed less does not do"
    trials = gain + spread * np.random.default_rng(0).standard_normal((20_000, n))
    found = np.mean(np.sign(gain) * trials.mean(axis=1) > margin)
    deviation(max(0.0, abs(found - 0.5) - 0.08), 0.02)


# ---- Curves between rulers -----------------------------------------------------------------------


@pytest.mark.proves("claim-honest-students", method=RECOMPUTED)
def test_ten_students_do_not_agree(deviation: Deviation) -> None:
    votes = dict.fromkeys(METHODS[:3], 0)
    for student in range(10):
        seen = {m: returns("replay", m)[student, -1, student] for m in METHODS[:3]}
        votes[max(seen, key=lambda m: seen[m])] += 1
    deviation(off_by("votes", *votes.values()), 0)
    for first, second in itertools.combinations(METHODS[:3], 2):
        low, high = interval(last("replay", first) - last("replay", second))
        assert low < 0 < high
    low, high = interval(last("narrow", "CQL") - last("narrow", "BC"))
    assert not low < 0 < high, "an interval can leave zero out"


@pytest.mark.proves("claim-honest-behaviour", method=RECOMPUTED)
def test_who_beats_the_data(deviation: Deviation) -> None:
    for data in DATA:
        behaviour = load_dataset(f"pendulum/{data}-v0").episode_returns().numpy()
        above = [m for m in METHODS if interval(last(data, m))[0] > behaviour.mean()]
        assert glued()[f"above-{data}"] == (" and ".join(above) or "none")
        span = references()["optimum"] - references()["random"]
        score = 100 * (behaviour.mean() - references()["random"]) / span
        deviation(off_by(f"behaviour-{data}", score), 0.51)
        error = 100 * behaviour.std(ddof=1) / math.sqrt(len(behaviour)) / span
        deviation(off_by(f"behaviour-error-{data}", error), 0.51)


@pytest.mark.proves("claim-honest-pooled", method=BOOTSTRAP)
def test_no_run_has_the_pooled_score(deviation: Deviation) -> None:
    strata = [normalised(last(data, "penalty off")) for data in DATA]
    pooled = np.concatenate(strata)
    centre = float(middle_half(pooled))
    deviation(off_by("pooled-1", centre, *interval(*strata)), 1.5)
    deviation(off_by("nearest-1", float(np.abs(pooled - centre).min())), 0.51)
    assert number("nearest-1") > 20


# ---- Seeds ---------------------------------------------------------------------------------------


def clear_share(data: str, first: str, second: str, n: int) -> float:
    """Share of the choices of n seeds whose interval leaves zero out."""
    gains = last(data, first) - last(data, second)
    chosen = np.array([gains[list(seeds)] for seeds in itertools.combinations(range(10), n)])
    draws = np.random.default_rng(5).integers(n, size=(1_000, n))
    low, high = np.quantile(middle_half(chosen[:, draws]), [0.025, 0.975], axis=-1)
    return float(np.mean((low > 0) | (high < 0)))


@pytest.mark.proves("claim-honest-three-seeds", method=f"{BOOTSTRAP}, points of a hundred")
def test_few_seeds_make_discoveries(deviation: Deviation) -> None:
    pair = ("replay", "CQL", "penalty off")
    deviation(off_by("clear-three", 100 * clear_share(*pair, 3)), 4)
    deviation(off_by("clear-five", 100 * clear_share(*pair, 5)), 4)
    assert clear_share(*pair, 10) == 0
    assert clear_share(*pair, 3) > 0.2
    ends = interval(last("replay", "CQL") - last("replay", "penalty off"))
    deviation(off_by("replay-ends", *ends), 8)


@pytest.mark.proves("claim-honest-two-seeds", method=f"{BOOTSTRAP}, points of a hundred")
def test_a_large_effect_needs_two_seeds(deviation: Deviation) -> None:
    deviation(off_by("clear-two", 100 * clear_share("narrow", "CQL", "BC", 2)), 0)
    heavy = ("narrow", "CQL, weight 5", "BC")
    deviation(off_by("clear-weight", 100 * clear_share(*heavy, 5)), 6)
    assert clear_share(*heavy, 10) == 1
    assert (last("narrow", "CQL, weight 5") - last("narrow", "BC")).mean() < 0


# ---- Episodes ------------------------------------------------------------------------------------


@pytest.mark.proves("claim-honest-starts", method=RECOMPUTED)
def test_starts_vary_more_than_runs(deviation: Deviation) -> None:
    larger = 0
    for cell in CELLS:
        table = returns(*cell)[:, -1]
        larger += int(np.mean([row.var() for row in table]) > np.var([r.mean() for r in table]))
    deviation(off_by("start-larger", larger), 0)
    table = returns("replay", "CQL")[:, -1]
    deviation(off_by("one-one", table.std()), 0.51)
    within = np.mean([row.var() for row in table])
    ten = math.sqrt((table.mean(axis=1).var() + within / 100) / 10)
    deviation(off_by("ten-hundred", ten), 0.51)


def wins(data: str, first: str, second: str, *, paired: bool) -> float:
    """Share of pairs of episodes that first wins, counted pair by pair of runs."""
    a, b = returns(data, first)[:, -1], returns(data, second)[:, -1]
    won = 0.0
    for one, other in itertools.product(a, b):
        if paired:
            won += float((one > other).mean())
        else:
            won += np.searchsorted(np.sort(other), one).mean() / len(other)
    return won / 100


@pytest.mark.proves("claim-honest-paired", method=RECOMPUTED)
def test_paired_starts_settle_it(deviation: Deviation) -> None:
    for key, paired in (("narrow-separate", False), ("narrow-paired", True)):
        deviation(off_by(key, 100 * wins("narrow", "BC", "CQL", paired=paired)), 0.51)
    assert number("narrow-paired") < number("narrow-separate") / 4
    assert (last("narrow", "CQL") > last("narrow", "BC")).all()


@pytest.mark.proves("claim-honest-often", method=RECOMPUTED)
def test_winning_often_is_not_winning(deviation: Deviation) -> None:
    share = wins("replay", "penalty off", "CQL", paired=True)
    deviation(off_by("replay-paired", 100 * share), 0.51)
    assert share > 0.6
    low, high = interval(last("replay", "penalty off") - last("replay", "CQL"))
    assert low < 0 < high


@pytest.mark.proves("claim-honest-flat", method=RECOMPUTED)
def test_unchanging_policies_make_waves(deviation: Deviation) -> None:
    spans = []
    for cell in (("replay", "BC"), ("narrow", "CQL"), ("replay", "penalty off")):
        smooth = np.convolve(returns(*cell)[0, -1], np.ones(9) / 9, mode="valid")
        spans.append(smooth.max() - smooth.min())
    deviation(off_by("wave-least", min(spans)), 0.51)
    deviation(off_by("wave-most", max(spans)), 0.51)


# ---- The peek ------------------------------------------------------------------------------------


@pytest.mark.proves("claim-honest-best", method=BOOTSTRAP)
def test_the_peek_flatters_the_worst(deviation: Deviation) -> None:
    for data, (place, method) in itertools.product(DATA, enumerate(METHODS)):
        scores = returns(data, method).mean(axis=-1)
        deviation(off_by(f"best-{data}-{place}", *summary(scores.max(1) - scores[:, -1])), 5)
    off = returns("narrow", "penalty off").mean(axis=-1)
    deviation(off_by("best-off", float(middle_half(off.max(axis=1)))), 0.51)
    deviation(off_by("best-early", (off.argmax(axis=1) == 0).sum()), 0)
    deviation(off_by("random", references()["random"]), 0.51)
    assert middle_half(off.max(axis=1)) < references()["random"]
    cql = returns("narrow", "CQL").mean(axis=-1)
    deviation(off_by("best-unmoved", (cql.argmax(axis=1) == 4).sum()), 0)


@pytest.mark.proves("claim-honest-lucky", method=RECOMPUTED)
def test_best_episodes_beat_the_optimum(deviation: Deviation) -> None:
    lucky = sum(
        all(max(run[-1]) > references()["optimum"] for run in returns(*cell)) for cell in CELLS
    )
    deviation(off_by("lucky", lucky), 0)
    deviation(off_by("optimum", references()["optimum"]), 0.51)
    for cell in CELLS:
        assert (last(*cell) < references()["optimum"]).all(), "and no mean does"


# ---- The post's run ------------------------------------------------------------------------------


@cache
def post(method: str, name: str) -> Array:
    """A stored curve of the post's run, (10 seeds, 10 points)."""
    by_seed = {run["seed"]: run[name] for run in stored_runs(POST_RUN) if run["method"] == method}
    assert sorted(by_seed) == list(range(10))
    return np.array([by_seed[seed] for seed in range(10)])


@pytest.mark.proves("claim-honest-posted", method=BOOTSTRAP)
def test_the_posted_curve_looks_well(deviation: Deviation) -> None:
    curve = post("as posted", "returns")
    behaviour = float(load_dataset("pendulum/replay-v0").episode_returns().mean())
    deviation(off_by("posted-peak", 1 + middle_half(curve.T).argmax()), 0)
    for updates in (4, 10):
        centre, low, high = summary(curve[:, updates - 1])
        deviation(off_by(f"posted-{updates}", centre, low, high), 8)
        deviation(off_by(f"posted-spread-{updates}", curve[:, updates - 1].std(ddof=1)), 0.51)
        assert low < behaviour < high
    assert number("posted-spread-10") > number("posted-spread-4")
    assert interval(curve[:, 0])[1] < behaviour, "an interval can leave it out"


@pytest.mark.proves("claim-honest-post-promise", method=BOOTSTRAP)
def test_the_posted_promise_is_too_low(deviation: Deviation) -> None:
    promise, truth = (post("as posted", name) for name in ("promised", "earned_on_the_way"))
    deviation(off_by("posted-promised", *summary(promise[:, -1])), 0.5)
    deviation(off_by("posted-earned", *summary(truth[:, -1])), 1)
    deviation(off_by("posted-low", (promise < truth).all(axis=1).sum()), 0)
    # The reach of a perfect fit, update by update.
    slow = 0.0
    for _ in range(POST_RUN.updates):
        fitted = 1 + 0.99 * slow
        slow += 0.005 * (fitted - slow)
    deviation(off_by("posted-reach", 1 + 0.99 * slow), 0.51)


def post_difference(first: str, second: str, look: int = -1) -> tuple[float, float, float]:
    return summary(post(first, "returns")[:, look] - post(second, "returns")[:, look])


@pytest.mark.proves("claim-honest-post-fix", method=BOOTSTRAP)
def test_what_the_correction_is_worth(deviation: Deviation) -> None:
    early = post_difference("corrected", "as posted", 3)
    late = post_difference("corrected", "as posted")
    deviation(off_by("post-early", *early), 12)
    deviation(off_by("post-fix", *late), 12)
    assert early[2] < 0 < late[1], "behind at first, ahead in the end"


@pytest.mark.proves("claim-honest-post-off", method=BOOTSTRAP)
def test_what_the_penalty_is_worth(deviation: Deviation) -> None:
    centre, low, high = post_difference("corrected, penalty off", "corrected")
    deviation(off_by("post-off", centre, low, high), 12)
    assert low < 0 < high
    behaviour = float(load_dataset("pendulum/replay-v0").episode_returns().mean())
    for method in ("corrected, penalty off", "corrected"):
        assert interval(post(method, "returns")[:, -1])[0] > behaviour


@pytest.mark.proves("claim-honest-post-gap", method=BOOTSTRAP)
def test_promise_and_truth_of_the_corrected(deviation: Deviation) -> None:
    gaps = {}
    for key, method in enumerate(POSTED):
        gap = post(method, "promised")[:, -1] - post(method, "earned_on_the_way")[:, -1]
        gaps[method] = summary(gap)
        deviation(off_by(f"post-gap-{key}", *gaps[method]), 1)
        deviation(off_by(f"post-over-{key}", (gap > 0).sum()), 0)
    assert gaps["corrected, penalty off"][2] < gaps["corrected"][1], "the intervals are apart"


# ---- The narrow data -----------------------------------------------------------------------------


@cache
def failed(method: str, name: str) -> Array:
    """Last measurement of each narrow run, (10,)."""
    by_seed = {
        run["seed"]: run["points"][name][-1]
        for run in load_runs(RESULTS / "failure.jsonl")
        if run["method"] == method
    }
    return np.array([by_seed[seed] for seed in range(10)])


@pytest.mark.proves("claim-honest-error", method=BOOTSTRAP)
def test_errors_in_opposite_directions(deviation: Deviation) -> None:
    for method, key in (("penalty off", "off"), ("CQL", "cql")):
        error = failed(method, "predicted") - failed(method, "programmed")
        deviation(off_by(f"error-{key}-size", *summary(error)), 1)
        deviation(off_by(f"error-{key}", (error > 0).sum()), 0)
        # Playing on agrees with dynamic programming about the sign of the middle.
        played = failed(method, "predicted") - failed(method, "simulated")
        assert middle_half(played) * middle_half(error) > 0
    assert (failed("CQL", "predicted") < failed("CQL", "programmed")).all()


@pytest.mark.proves("claim-honest-ranks", method="rank correlation from the ranks themselves")
def test_promise_does_not_choose(deviation: Deviation) -> None:
    groups = [(failed(m, "predicted"), failed(m, "returns")) for m in ("penalty off", "CQL")]
    groups += [(post(m, "promised")[:, -1], post(m, "returns")[:, -1]) for m in POSTED]
    found = []
    for promise, score in groups:
        gaps = stats.rankdata(promise) - stats.rankdata(score)
        found.append(1 - 6 * float((gaps**2).sum()) / (10 * 99))
    deviation(off_by("ranks", min(found), max(found)), 0.02)
    # What chance gives: all orders equally likely.
    generator = np.random.default_rng(0)
    orders = generator.permuted(np.tile(np.arange(10.0), (100_000, 1)), axis=1)
    by_chance = 1 - 6 * ((orders - np.arange(10)) ** 2).sum(axis=1) / (10 * 99)
    deviation(abs(np.mean(np.abs(by_chance) >= 0.648) - 0.05), 0.005)
    deviation(off_by("ranks-groups", len(found)), 0)
    assert failed("penalty off", "predicted").min() > failed("CQL", "predicted").max()
    assert failed("penalty off", "returns").max() < failed("CQL", "returns").min()
    deviation(off_by("ranks-strong", sum(abs(r) > 0.648 for r in found)), 0)


# ---- Intervals -----------------------------------------------------------------------------------


@pytest.mark.proves("claim-honest-coverage", method="every resample, not drawn (n to 5)")
@pytest.mark.parametrize("n", [2, 3, 5, 10])
def test_coverage_of_few_runs(deviation: Deviation, n: int) -> None:
    generator, trials = np.random.default_rng(100 + n), 1_000
    if n <= 5:
        resamples = np.array(list(itertools.product(range(n), repeat=n)))
    else:
        resamples = generator.integers(n, size=(500, n))
    held = 0
    for block in np.split(generator.standard_normal((trials, n)), 10):
        means = middle_half(block[:, resamples])
        low, high = np.quantile(means, [0.025, 0.975], axis=-1, method="inverted_cdf")
        held += int(((low < 0) & (high > 0)).sum())
    deviation(off_by(f"coverage-{n}", 100 * held / trials), 4)
    if n <= 3:
        # Lowest and highest resample have more than 2.5 % each: the interval is [min, max].
        deviation(off_by(f"coverage-{n}", 100 * (1 - 2 * 0.5**n)), 3)
    assert held / trials < 0.95


@pytest.mark.proves("claim-honest-unit", method=RECOMPUTED)
def test_episodes_are_not_runs(deviation: Deviation) -> None:
    ratios = []
    for cell in CELLS:
        table = returns(*cell)[:, -1]
        runs = stats.sem(table.mean(axis=1))
        ratios.append(runs / (stats.sem(table.ravel()) * math.sqrt(999 / 1_000)))
    deviation(off_by("unit-most", max(ratios)), 0.051)
    deviation(off_by("unit-wider", sum(r > 1 for r in ratios)), 0)


@pytest.mark.proves("claim-honest-split", method="mean of the five best minus the five worst")
def test_a_method_against_itself(deviation: Deviation) -> None:
    scores = np.sort(last("replay", "penalty off"))
    deviation(off_by("split-gap", scores[5:].mean() - scores[:5].mean()), 0.51)
    gain = abs((last("replay", "CQL") - last("replay", "penalty off")).mean())
    deviation(off_by("split-real", gain), 0.51)
    assert scores[5:].mean() - scores[:5].mean() > gain


def test_votes_of_ten_episodes() -> None:
    generator = np.random.default_rng(8)
    for key, first, second in (("2", "CQL", "BC"), ("0", "BC", "CQL, weight 5")):
        means = []
        for method in (first, second):
            table = returns("narrow", method)[:, -1][generator.integers(10, size=4_000)]
            means.append([generator.choice(row, 10).mean() for row in table])
        share = 100 * np.mean(np.greater(*means))
        assert off_by(f"vote-narrow-{key}", share) < 3


def test_the_needed_seeds() -> None:
    gains = last("replay", "CQL") - last("replay", "penalty off")
    n = number("seeds-needed")
    spread, gain = gains.std(ddof=1), abs(gains.mean())
    assert 1.96 * spread / math.sqrt(n) <= gain < 1.96 * spread / math.sqrt(n - 1)


# ---- The exercises -------------------------------------------------------------------------------


def verdict(capsys: pytest.CaptureFixture[str], exercise: str, answer: Any) -> str:
    check(exercise, answer)
    return capsys.readouterr().out


def seeds(gains: Array, reach: float) -> Any:
    return max(2, math.ceil((1.96 * np.std(gains, ddof=1) / reach) ** 2))


SEEDS_MISTAKES: dict[str, Callable[[Array, float], Any]] = {
    "square the quotient": lambda g, r: math.ceil(1.96 * np.std(g, ddof=1) / r),
    "1.96 is missing": lambda g, r: math.ceil((np.std(g, ddof=1) / r) ** 2),
    "ddof=1": lambda g, r: math.ceil((1.96 * np.std(g) / r) ** 2),
    "either side": lambda g, r: math.ceil((2 * 1.96 * np.std(g, ddof=1) / r) ** 2),
    "rounded up": lambda g, r: (1.96 * np.std(g, ddof=1) / r) ** 2,
    "round up": lambda g, r: math.floor((1.96 * np.std(g, ddof=1) / r) ** 2),
    "two seeds at least": lambda g, r: math.ceil((1.96 * np.std(g, ddof=1) / r) ** 2),
    "solve": lambda g, r: 12,
    "whole number is expected": lambda g, r: "many",
}


def test_the_seeds_exercise(capsys: pytest.CaptureFixture[str]) -> None:
    assert "passed." in verdict(capsys, "ex-honest-seeds", seeds)
    for message, mistake in SEEDS_MISTAKES.items():
        said = verdict(capsys, "ex-honest-seeds", mistake)
        assert "not right yet" in said, message
        assert message in said, said


def fair(r: Array) -> Any:
    return float(r[r[:, ::2].mean(axis=1).argmax(), 1::2].mean())


SPLIT_MISTAKES: dict[str, Callable[[Array], Any]] = {
    "starts that chose": lambda r: r[:, ::2].mean(axis=1).max(),
    "the odd starts chose": lambda r: r[:, 1::2].mean(axis=1).max(),
    "exchanged": lambda r: r[r[:, 1::2].mean(axis=1).argmax(), ::2].mean(),
    "the whole peek": lambda r: r.mean(axis=1).max(),
    "only the odd ones may": lambda r: r[r[:, ::2].mean(axis=1).argmax()].mean(),
    "nothing was chosen": lambda r: r[-1, 1::2].mean(),
    "not its score": lambda r: int(r[:, ::2].mean(axis=1).argmax()),
    "one number is expected": lambda r: "best",
    "choose with": lambda r: -1234.5,
}


def test_the_split_exercise(capsys: pytest.CaptureFixture[str]) -> None:
    assert "passed." in verdict(capsys, "ex-honest-split", fair)
    for message, mistake in SPLIT_MISTAKES.items():
        said = verdict(capsys, "ex-honest-split", mistake)
        assert "not right yet" in said, message
        assert message in said, said


def test_the_sentences_exercise(capsys: pytest.CaptureFixture[str]) -> None:
    exercise = "ex-honest-sentences"
    assert supported_sentences() == {"a", "c", "e"}
    assert "passed." in verdict(capsys, exercise, {"a", "c", "e"})
    assert "passed." in verdict(capsys, exercise, "ace")
    for letter in "bdf":
        said = verdict(capsys, exercise, {"a", "c", "e", letter})
        assert f"Sentence {letter} says more" in said
    assert "Look at c again" in verdict(capsys, exercise, {"a", "e"})
    assert "letters a to f" in verdict(capsys, exercise, {"a", "x"})
    assert "set of letters" in verdict(capsys, exercise, 3.0)
    assert "not done yet" in verdict(capsys, exercise, ...)


@pytest.mark.parametrize("exercise", ["ex-honest-seeds", "ex-honest-split"])
def test_stubs_are_not_done_yet(exercise: str, capsys: pytest.CaptureFixture[str]) -> None:
    for stub in (lambda *arguments: ..., lambda *arguments: None, ...):
        assert "not done yet" in verdict(capsys, exercise, stub)
    assert "A function is expected" in verdict(capsys, exercise, 1.0)
