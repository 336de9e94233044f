"""Checkers for the exercises of the chapter on when conservatism helps."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import integrate, stats

from offline_rl_lib.choosing import Evidence, Rule, always, chosen_scores, gather
from offline_rl_lib.intervals import interquartile_mean
from offline_rl_lib.map import load_cells, weight_methods
from offline_rl_lib.teaching import WrongAnswer, call, checker, finite_number

FloatArray = npt.NDArray[np.float64]


@checker("ex-map-cell")
def check_cell(function: Callable[..., Any]) -> str:
    """Returns in no order, with outliers on both sides."""
    for seed, (random, optimum) in enumerate(((-1270.0, -140.0), (0.0, 1.0), (-20.0, 80.0))):
        returns = np.random.default_rng(seed).normal(-500, 100, 10)
        returns[[3, 7]] = -1700.0, 900.0
        given = returns.copy()
        where = f"For returns around -500, random {random:g} and optimum {optimum:g}"
        got = finite_number(call(function, given, random, optimum), where)
        if not np.array_equal(given, returns):
            raise WrongAnswer("Your function changes the returns that it was given; copy them.")
        kept = np.sort(returns)
        mistakes = {
            "is that the mean of all ten?": returns.mean(),
            "the median is less than the middle six.": np.median(returns),
            "were the returns sorted before the ends were left out?": returns[2:8].mean(),
            "two are left out at each end, not one.": kept[1:9].mean(),
            "two are left out at each end, not three.": kept[3:7].mean(),
        }
        right, *wrong = (
            100 * (middle - random) / (optimum - random)
            for middle in (kept[2:8].mean(), *mistakes.values())
        )
        if np.isclose(got, right, rtol=1e-9):
            continue
        reasons = dict(zip(mistakes, wrong, strict=True)) | {
            "per cent, please: the optimum has 100.": right / 100,
            "random has 0, so take its return away first.": 100 * kept[2:8].mean() / optimum
            if optimum
            else np.nan,
            "divide by the whole way from random to the optimum.": 100
            * (kept[2:8].mean() - random)
            / optimum,
            "random has 0 and the optimum 100, not the other way round.": 100 - right,
            "put it on the scale from random, 0, to the optimum, 100.": kept[2:8].mean(),
            "a score may lie below 0 or above 100.": np.clip(
                100 * (kept - random) / (optimum - random), 0, 100
            )[2:8].mean(),
        }
        reason = next((why for why, value in reasons.items() if np.isclose(got, value)), None)
        raise WrongAnswer(
            f"{where} the score is {right:.4g}, yours is {got:.4g}: "
            + (reason or "the mean of the middle six, minus random, over optimum minus random."),
            share=0.5 if reason else 0.0,  # the middle or the scale is right
        )
    return "The middle six, on the scale from random to the optimum."


@checker("ex-map-luck")
def check_luck(function: Callable[..., Any]) -> str:
    """Compare with the integral of the maximum's distribution."""
    for k in (1, 2, 5, 20):
        got = finite_number(call(function, k), f"For k = {k}")
        right = expected_maximum(k)
        if abs(got - right) <= 0.02:
            continue
        reason = "draw more rows, or look at what is averaged."
        if k == 1 and abs(got) > 0.3:
            reason = "the best of one look is that look; average over many rows, one maximum each."
        elif k > 1 and np.isclose(got, np.sqrt(2 * np.log(k)), atol=0.01):
            reason = "sqrt(2 log k) is what it comes near to for very many looks; draw and average."
        elif k > 1 and np.isclose(got, stats.norm.ppf(0.5 ** (1 / k)), atol=0.01):
            reason = "that is the median of the largest; its mean is asked for."
        elif k > 1 and abs(got) <= 0.02:
            reason = "that is the mean of the looks; take the largest of each row first."
        elif k > 1 and got > right + 1:
            reason = "is that the largest of all rows, and not a mean over rows?"
        raise WrongAnswer(f"For k = {k} it is {right:.3f}, yours is {got:.3f}: {reason}")
    return "The more looks, the luckier the best of them."


def expected_maximum(k: int) -> float:
    """Mean of the largest of k standard normal numbers, by integration."""
    value, _ = integrate.quad(
        lambda x: x * k * stats.norm.pdf(x) * stats.norm.cdf(x) ** (k - 1), -10, 10
    )
    return float(value)


@cache
def _evidence() -> Evidence:
    return gather(load_cells())


@checker("ex-map-rule")
def check_rule(function: Callable[..., Any]) -> str:
    """Ask the rule for every dataset and seed, without the scores, and count what it costs."""
    evidence = _evidence()
    numbers = [evidence.methods.index(method) for method in weight_methods()]
    datasets, _, seeds = evidence.scores.shape
    choice, again = np.empty((2, datasets, seeds), dtype=np.int64)
    for taken, d, seed in itertools.product((choice, again), range(datasets), range(seeds)):
        answer = call(
            function,
            evidence.promised[d, numbers, seed].copy(),
            evidence.td_loss[d, numbers, seed].copy(),
            float(evidence.best_episode[d]),
            float(evidence.mean_episode[d]),
            float(evidence.spread[d]),
        )
        place = finite_number(answer, f"On {evidence.datasets[d]}")
        if place not in range(5):
            raise WrongAnswer(
                f"On {evidence.datasets[d]} your function returned {answer!r}; a place from 0 "
                "to 4 is expected, and not the weight itself."
            )
        taken[d, seed] = numbers[int(place)]
    if not np.array_equal(choice, again):
        raise WrongAnswer(
            f"Asked twice with the same numbers your rule answers differently in "
            f"{(choice != again).sum()} of {choice.size} cases. A rule does not draw by lot."
        )
    middles = interquartile_mean(evidence.scores[:, numbers], axis=-1)
    best = middles.max(axis=-1)
    cost = float((best - chosen_scores(evidence, choice)).mean())
    lots = Rule("a weight by lot", always(*weight_methods())).choose(evidence)
    by_lot = float(np.mean([best - chosen_scores(evidence, lot) for lot in lots]))
    if cost >= by_lot:
        raise WrongAnswer(
            f"It gives up {cost:.1f} points against the best of the five weights; a weight by lot "
            f"gives up {by_lot:.1f}. Which of the numbers says something about the data?"
        )
    return (
        f"It gives up {cost:.1f} points against the best of the five weights; a weight by lot "
        f"gives up {by_lot:.1f}."
    )
