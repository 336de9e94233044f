"""Checkers for the exercises of the chapter in which the policies are watched."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from offline_rl_lib.pendulum import evaluation_starts
from offline_rl_lib.teaching import NotDoneYet, WrongAnswer, call, checker, require_all
from offline_rl_lib.watching import TRAINED, forward, load_watched_policies, swing

FloatArray = npt.NDArray[np.float64]


def _array(value: Any, shape: tuple[int, ...], where: str) -> FloatArray:
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise WrongAnswer(f"{where} numbers are expected; got {type(value).__name__}.") from None
    if array.shape != shape:
        raise WrongAnswer(f"{where} the shape is {shape}, yours is {array.shape}.")
    if not np.isfinite(array).all():
        raise WrongAnswer(f"{where} your function returned {array}.")
    return array


def _compare(
    got: FloatArray, expected: FloatArray, mistakes: Mapping[str, FloatArray], where: str
) -> None:
    def same(other: FloatArray) -> bool:
        return np.allclose(got, other, rtol=1e-7, atol=1e-9)

    if same(expected):
        return
    reason = next(
        (why for why, wrong in mistakes.items() if same(wrong)), "work it out for small numbers"
    )
    first = f"{expected.flat[0]:.5g}, yours is {got.flat[0]:.5g}"
    raise WrongAnswer(f"{where} the (first) answer is {first}: {reason}.")


@checker("ex-watch-forward")
def check_forward(function: Callable[..., Any]) -> str:
    """The deterministic torque, for random networks and asymmetric bounds."""
    for seed, (low, high) in enumerate(((-2.0, 2.0), (-1.0, 3.0), (0.5, 0.7))):
        random = np.random.default_rng(seed)
        layers = tuple(
            (random.normal(size=(inputs, outputs)) / 3, random.normal(size=outputs))
            for inputs, outputs in ((3, 8), (8, 2))
        )
        observation = random.normal(size=(5, 3))
        where = f"For a random network and torques from {low} to {high}"
        got = _array(call(function, observation, layers, low, high), (5,), where)
        mean, log_std = forward(layers, observation).T
        (w1, b1), (w2, b2) = layers
        linear = ((observation @ w1 + b1) @ w2 + b2)[:, 0]
        middle, half = (high + low) / 2, (high - low) / 2
        mistakes = {
            "the tanh is missing": middle + half * mean,
            "the tanh is not scaled to the bounds": np.tanh(mean),
            "the middle of the bounds is missing": half * np.tanh(mean),
            "the half width is (high - low) / 2": middle + (high - low) * np.tanh(mean),
            "a ReLU belongs between the layers": middle + half * np.tanh(linear),
            "the first output is the mean, the second the log standard deviation": middle
            + half * np.tanh(log_std),
        }
        _compare(got, middle + half * np.tanh(mean), mistakes, where)
    return "It agrees with the library for three networks and three ranges of torque."


@checker("ex-watch-round")
def check_round(function: Callable[..., Any]) -> str:
    """The energy of a round, by adding up the work on the way."""
    angles = np.linspace(0, -2 * math.pi, 1001)
    for torque in (-2.0, -0.5, 1.0):
        where = f"For a torque of {torque} N m"
        got = _array(call(function, torque), (), where)
        work = float((3 * torque * np.diff(angles)).sum())
        mistakes = {
            "the sign is wrong: clockwise is negative, and so is the change of the angle": -work,
            "a torque of 1 N m accelerates by 3 rad/s^2": work / 3,
            "a whole round is 2 pi": work / 2,
            "a round is 2 pi, not one": work / (2 * math.pi),
            "the work of a brake is negative; do not take the size": abs(work),
        }
        compared = {why: np.array(wrong) for why, wrong in mistakes.items()}
        _compare(got, np.array(work), compared, where)
    return "It agrees with the work added up over a thousand pieces of the circle."


@checker("ex-watch-charge")
def check_charge(function: Callable[..., Any]) -> str:
    """The sum of the costs, from its telescoped form."""
    for seed, discount in enumerate((0.99, 0.5, 1.0)):
        random = np.random.default_rng(seed)
        reward, value = random.normal(size=30), random.normal(size=31)
        where = f"For 30 random steps and a discount of {discount}"
        got = _array(call(function, reward, value, discount), (), where)
        weight = discount ** np.arange(30)
        earned = float(weight @ reward)
        lost = value[0] - earned - discount**30 * value[-1]
        mistakes = {
            "each cost counts gamma^t": (value[:-1] - reward - discount * value[1:]).sum(),
            "the next value is discounted once more than the state's": weight
            @ (value[:-1] - reward - value[1:]),
            "the value of the last state is missing": value[0] - earned,
            "it is the value minus Q, not Q minus the value": -lost,
        }
        compared = {why: np.array(wrong) for why, wrong in mistakes.items() if discount != 1}
        _compare(got, np.array(lost), compared, where)
    return "It agrees with what is lost from first to last, without looking at any step."


@cache
def _spinners() -> dict[str, tuple[int, int]]:
    """For each trained policy the episodes that cover two rounds, and that end two rounds away."""
    watched, found = load_watched_policies(), {}
    angle, velocity = (x.numpy() for x in evaluation_starts())
    for name in TRAINED:
        angles = swing(watched.policies[name], angle, velocity).angle
        covered, one = np.ptp(angles, axis=0), 2 * math.pi
        found[name] = int((covered > 2 * one).sum()), int((covered > one).sum())
    return found


@checker("ex-watch-spins")
def check_spins(answer: Any) -> str:
    """The number of spinners of each trained policy."""
    if not isinstance(answer, Mapping):
        raise WrongAnswer("A dictionary from name to count is expected.")
    if any(value is ... for value in answer.values()):
        raise NotDoneYet
    if set(answer) != set(TRAINED):
        raise WrongAnswer(f"The names are {list(TRAINED)}; yours are {list(answer)}.")
    problems: list[str | None] = []
    for name, (two, one) in _spinners().items():
        got = _array(answer[name], (), f"For {name}")
        why = "count all 100 episodes"
        if got == one:
            why = "you counted one round; a spinner covers more than two"
        elif math.isclose(got, two / 100):
            why = "a count is asked for, not a share"
        wrong = f"For {name} there are {two}, yours is {got:g}: {why}."
        problems.append(None if got == two else wrong)
    require_all(problems)
    return "The counts are those of the stored policies."
