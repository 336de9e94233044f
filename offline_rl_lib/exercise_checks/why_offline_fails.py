"""Checkers for the exercises of the chapter on why offline learning fails."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from offline_rl_lib.teaching import (
    NotDoneYet,
    WrongAnswer,
    call,
    checker,
    finite_number,
    require_all,
)

FloatArray = npt.NDArray[np.float64]


def _compare(got: float, expected: float, mistakes: dict[str, float], where: str) -> None:
    if math.isclose(got, expected, rel_tol=1e-6, abs_tol=1e-9):
        return
    reason = next(
        (why for why, wrong in mistakes.items() if math.isclose(got, wrong, rel_tol=1e-6)),
        "work it out by hand for small numbers first",
    )
    raise WrongAnswer(f"{where} the answer is {expected:.5g}, yours is {got:.5g}: {reason}.")


# ---- the gap ------------------------------------------------------------------------------------


@checker("ex-offline-gap")
def check_gap(function: Callable[..., Any]) -> str:
    """The distance to the closest torque among the nearest states, on random data."""
    for seed, neighbours in ((0, 1), (1, 5), (2, 20)):
        random = np.random.default_rng(seed)
        states = random.normal(size=(60, 3)) * (0.3, 0.3, 4.0)
        torques, state = random.uniform(-2, 2, 60), random.normal(size=3) * (0.3, 0.3, 4.0)
        where = f"For 60 random states and k = {neighbours}"
        torque = 2.0 if seed else -2.0
        got = finite_number(call(function, states, torques, state, torque, neighbours), where)
        order = np.argsort(np.linalg.norm((states - state) / states.std(axis=0), axis=1))
        plain = np.argsort(np.linalg.norm(states - state, axis=1))
        near = torques[order[:neighbours]]
        expected = float(np.abs(near - torque).min())
        mistakes = {
            "this is the largest distance among the near torques; the smallest counts": np.abs(
                near - torque
            ).max(),
            "the gap is the distance to one torque, not to their mean": abs(near.mean() - torque),
            "divide each component of the states by its standard deviation first": np.abs(
                torques[plain[:neighbours]] - torque
            ).min(),
            "only the k nearest states count, not all": np.abs(torques - torque).min(),
            "you sorted from far to near": np.abs(torques[order[-neighbours:]] - torque).min(),
        }
        _compare(got, expected, {why: float(wrong) for why, wrong in mistakes.items()}, where)
    return "It agrees with a search by hand for three sets of states."


# ---- the feedback -------------------------------------------------------------------------------


@checker("ex-offline-feedback")
def check_feedback(function: Callable[..., Any]) -> str:
    """The steady error, by repeating the backup until nothing changes."""
    for share, follow, bias, discount in ((0.35, 1.0, 0.1, 0.99), (0.04, 0.5, 2.0, 0.9)):
        where = f"For rho = {share}, kappa = {follow}, b = {bias}, gamma = {discount}"
        got = finite_number(call(function, share, follow, bias, discount), where)
        error = 0.0
        for _ in range(20_000):
            error = discount * ((1 - share) * error + share * (follow * error + bias))
        stay = 1 - share + share * follow
        mistakes = (
            {
                "the error of the target is discounted: gamma is missing in front": share
                * bias
                / (1 - stay),
                "gamma is missing in the numerator": share * bias / (1 - discount * stay),
                "a share rho of the targets has the bias, not all of them": discount
                * bias
                / (1 - discount * stay),
                "the discount is an argument, not fixed at 0.99": 0.99
                * share
                * bias
                / (1 - 0.99 * stay),
                "the guess follows with kappa only, not fully": discount
                * share
                * bias
                / (1 - discount),
                "the guess follows the values: the term rho kappa is missing": discount
                * share
                * bias
                / (1 - discount * (1 - share)),
            }
            if stay < 1
            else {
                "gamma is missing in the numerator": share * bias / (1 - discount),
                "a share rho of the targets has the bias, not all of them": discount
                * bias
                / (1 - discount),
                "the guess follows the values: the term rho kappa is missing": discount
                * share
                * bias
                / (1 - discount * (1 - share)),
            }
        )
        _compare(got, error, mistakes, where)
    return "It agrees with twenty thousand backups, one after the other."


# ---- the reach ----------------------------------------------------------------------------------


@checker("ex-offline-reach")
def check_reach(function: Callable[..., Any]) -> str:
    """The critic's value after k updates along a known row of rewards."""
    for updates, rate, discount in ((0, 0.1, 0.9), (30, 0.1, 0.9), (500, 0.02, 0.99)):
        rewards = np.random.default_rng(updates).uniform(-1, 1, 40)
        where = f"For k = {updates}, tau = {rate}, gamma = {discount}"
        got = finite_number(call(function, rewards, updates, rate, discount), where)
        expected, slow = _run_critic(rewards, updates, rate, discount)
        t = np.arange(len(rewards))
        whole = float(rewards @ discount**t)
        mistakes = {
            "this is the target critic; the critic looks one step further": slow,
            "this is the whole value; after k updates it is not all seen": whole,
            "the discount is missing": _run_critic(rewards, updates, rate, 1.0)[0],
            "the discount is an argument, not fixed at 0.99": _run_critic(
                rewards, updates, rate, 0.99
            )[0],
            "Pr(N >= t) is wanted; use sf, not pmf": float(
                rewards @ (discount**t * stats.binom.pmf(t, updates, rate))
            ),
            "the mixture does not stop at the mean of N": float(
                rewards @ (discount**t * (t <= updates * rate))
            ),
        }
        _compare(got, expected, mistakes, where)
    return "It agrees with the recursion, run update by update, for three settings."


def _run_critic(
    rewards: FloatArray, updates: int, rate: float, discount: float
) -> tuple[float, float]:
    """Value of the first state for critic and target critic, along a chain of states."""
    slow = np.zeros(len(rewards) + 1)
    for _ in range(updates):
        slow[:-1] += rate * (rewards + discount * slow[1:] - slow[:-1])
    return float(rewards[0] + discount * slow[1]), float(slow[0])


# ---- what can be seen ---------------------------------------------------------------------------

VISIBLE = {
    "promise": (True, "It needs the critics and some states from the data, and nothing else."),
    "return": (False, "It needs episodes in the environment."),
    "outside": (True, "The policy and the data decide which torques are outside."),
    "promised gain": (True, "Both torques and both values come from the critics and the data."),
    "true gain": (False, "The true value needs the dynamics, or episodes."),
}


@checker("ex-offline-visible")
def check_visible(answer: Any) -> str:
    """Which quantities need no environment."""
    if isinstance(answer, str) or not isinstance(answer, Iterable):
        raise WrongAnswer(f"A set of words is expected; got {type(answer).__name__}.")
    named = set(answer)
    if ... in named or not named:
        raise NotDoneYet
    unknown = named - set(VISIBLE)
    if unknown:
        raise WrongAnswer(f"Unknown: {sorted(map(str, unknown))}. Choose from {sorted(VISIBLE)}.")
    verbs = {name: "can" if visible else "cannot" for name, (visible, _) in VISIBLE.items()}
    require_all(
        [
            None
            if (name in named) == visible
            else f"'{name}' {verbs[name]} be seen without the environment. {reason}"
            for name, (visible, reason) in VISIBLE.items()
        ]
    )
    return "Of the three, only the share outside has a scale of its own: the data's 5 %."
