"""Checkers of *Training CQL, honestly*."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from offline_rl_lib.data import load_dataset
from offline_rl_lib.experiments import RESULTS, load_runs
from offline_rl_lib.intervals import interquartile_mean, stratified_bootstrap_interval
from offline_rl_lib.map import reference_returns
from offline_rl_lib.teaching import NotDoneYet, WrongAnswer, call, checker, require_all

FloatArray = npt.NDArray[np.float64]


@cache
def _returns(data: str, method: str) -> FloatArray:
    """Stored returns of a cell, (seeds, checkpoints, starts)."""
    runs = load_runs(RESULTS / "comparison.jsonl")
    cell = [r for r in runs if (r["dataset"], r["method"]) == (f"pendulum/{data}-v0", method)]
    return np.array([r["returns"] for r in sorted(cell, key=lambda r: int(r["seed"]))])


def _last(data: str, method: str) -> FloatArray:
    """Score of each run's last checkpoint, (seeds,)."""
    scores: FloatArray = _returns(data, method)[:, -1].mean(axis=-1)
    return scores


# ---- how many seeds ------------------------------------------------------------------------------


@checker("ex-honest-seeds")
def check_seeds(function: Callable[[FloatArray, float], int]) -> str:
    """The number of seeds for stored and for made-up differences."""
    made_up = np.random.default_rng(5).normal(3.0, 4.0, 6)
    cases = [
        ("the stored difference on the replay data", _difference(), 20.0),
        ("six made-up differences", made_up, 1.0),
        ("differences that hardly vary", np.array([9.9, 10.0, 10.1]), 5.0),
    ]
    for name, gains, reach in cases:
        got = call(function, gains, reach)
        if isinstance(got, bool) or not isinstance(got, int | float | np.number):
            raise WrongAnswer(f"For {name} a whole number is expected; got {got!r}.")
        exact = (1.96 * float(np.std(gains, ddof=1)) / reach) ** 2
        expected = max(2, math.ceil(exact))
        if got == expected:
            continue
        reason = _seeds_mistake(float(got), gains, reach)
        raise WrongAnswer(
            f"For {name} and a reach of {reach:g}, {expected} seeds are needed; yours is "
            f"{float(got):g}: {reason}."
        )
    return "Right for stored differences, for made-up ones, and where two seeds are enough."


def _difference() -> FloatArray:
    return _last("replay", "CQL") - _last("replay", "penalty off")


def _seeds_mistake(got: float, gains: FloatArray, reach: float) -> str:
    spread = float(np.std(gains, ddof=1))
    exact = (1.96 * spread / reach) ** 2
    if not got.is_integer():
        return "a whole number is expected, rounded up"
    if exact <= 1:
        return "two seeds at least: one run has no spread"
    likely_mistakes = {
        "the margin shrinks with the root of n, so square the quotient": 1.96 * spread / reach,
        "the factor 1.96 is missing": (spread / reach) ** 2,
        "divide by k - 1 in the variance: ddof=1": (1.96 * float(np.std(gains)) / reach) ** 2,
        "reach is the way to either side, not both together": 4 * exact,
    }
    for why, wrong in likely_mistakes.items():
        if got == math.ceil(wrong):
            return why
    if got == math.floor(exact):
        return "round up, or the margin is too wide"
    return "solve 1.96 s / sqrt(n) <= reach for n"


# ---- half of the peek ----------------------------------------------------------------------------


@checker("ex-honest-split")
def check_split(function: Callable[[FloatArray], float]) -> str:
    """The fair score of stored runs and of a made-up one in which halves disagree."""
    opposite = np.array([[9.0, 1.0, 9.0, 1.0], [2.0, 10.0, 2.0, 10.0], [3.0, 3.0, 3.0, 3.0]])
    cases = {"a made-up run whose halves disagree": opposite}
    for seed in range(3):
        cases[f"seed {seed} of BC on the replay data"] = _returns("replay", "BC")[seed]
    for name, returns in cases.items():
        got = call(function, returns)
        if not isinstance(got, int | float | np.number):
            raise WrongAnswer(f"For {name} one number is expected; got {got!r}.")
        even, odd = returns[:, ::2].mean(axis=1), returns[:, 1::2].mean(axis=1)
        expected = float(odd[even.argmax()])
        if math.isclose(float(got), expected, rel_tol=1e-6):
            continue
        everything = returns.mean(axis=1)
        likely_mistakes = {
            "this is the mean over the starts that chose": even.max(),
            "the odd starts chose; let the even ones choose": odd.max(),
            "even and odd are exchanged": even[odd.argmax()],
            "all starts chose and all starts report: that is the whole peek": everything.max(),
            "all starts chose; let the even ones choose": odd[everything.argmax()],
            "all starts report; only the odd ones may": everything[even.argmax()],
            "this is the last checkpoint; nothing was chosen": odd[-1],
            "this is the number of the checkpoint, not its score": float(even.argmax()),
        }
        reason = next(
            (w for w, wrong in likely_mistakes.items() if math.isclose(got, wrong, rel_tol=1e-6)),
            "choose with returns[:, ::2], report with returns[:, 1::2]",
        )
        raise WrongAnswer(
            f"For {name} the score is {expected:.1f}, yours is {float(got):.1f}: {reason}."
        )
    return "The starts that report are not the ones that chose."


# ---- which sentences -----------------------------------------------------------------------------

_REASONS = {
    "a": "compare the worst CQL run on the narrow data with the best BC run",
    "b": "an interval that holds zero does not show that a difference is zero",
    "c": "look at the interval of the paired differences on the replay data",
    "d": "it speaks of all data, and on the replay data the interval holds zero",
    "e": "look at the interval of CQL on the narrow data and at the behaviour's mean",
    "f": "compare the best of five checkpoints with random torques",
}


def supported_sentences() -> set[str]:
    """Letters of the sentences that the stored runs support, computed from them."""
    cql, bc = _last("narrow", "CQL"), _last("narrow", "BC")
    behaviour = load_dataset("pendulum/narrow-v0").episode_returns().numpy().mean()
    best = _returns("narrow", "penalty off").mean(axis=-1).max(axis=1)
    low, high = stratified_bootstrap_interval(_difference())
    replay_gain = _last("replay", "CQL") - _last("replay", "BC")
    holds = {
        "a": cql.min() > bc.max(),
        # Equality would need an interval so short that it rules out any difference that matters;
        # 50 points are less than a twentieth of the way from random torques to the optimum.
        "b": low > -50 and high < 50,
        "c": low < 0 < high,
        "d": cql.min() > bc.max() and stratified_bootstrap_interval(replay_gain)[0] > 0,
        "e": stratified_bootstrap_interval(cql)[0] > behaviour,
        "f": interquartile_mean(best) > reference_returns()["random"],
    }
    return {letter for letter, supported in holds.items() if supported}


@checker("ex-honest-sentences")
def check_sentences(answer: Any) -> str:
    """Compare the reader's letters with what the stored runs support."""
    if not isinstance(answer, set | frozenset | list | tuple | str):
        raise WrongAnswer('A set of letters is expected, such as {"a", "b"}.')
    letters = {str(letter).strip().lower() for letter in answer}
    if not letters:
        raise NotDoneYet
    unknown = sorted(letters - set(_REASONS))
    if unknown:
        raise WrongAnswer(f"The sentences have the letters a to f; got {', '.join(unknown)}.")
    supported = supported_sentences()
    says = {
        True: "Sentence {} says more than the runs do: {}.",
        False: "One more may be written. Look at {} again: {}.",
    }
    # What says too much is named before what is missing.
    require_all(
        [
            None
            if (letter in letters) == (letter in supported)
            else says[letter in letters].format(letter, _REASONS[letter])
            for letter in sorted(_REASONS, key=lambda letter: (letter not in letters, letter))
        ]
    )
    return f"The stored runs support {', '.join(sorted(supported))}, and no other."
