"""Checkers for the exercises of the chapter on dynamic programming."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from offline_rl_lib.teaching import NotDoneYet, WrongAnswer, call, checker, require_all


@checker("ex-truth-hanging")
def check_hanging(answer: Any) -> str:
    """Hanging for ever costs pi squared a step: -987.0, or -23.4 in the agents' units."""
    if any(part is ... or part is None for part in answer):
        raise NotDoneYet
    try:
        value, scaled = (float(part) for part in answer)
    except (TypeError, ValueError):
        raise WrongAnswer("Two numbers are expected, the value and the scaled value.") from None
    expected = -100 * math.pi**2
    mistakes = [
        (-expected, "The sign is turned: the reward is minus the squared angle."),
        (-(math.pi**2), "This is one step. The sum runs over all steps, discounted."),
        (-200 * math.pi**2, "This is 200 steps without discount."),
        (
            expected * (1 - 0.99**200),
            "This stops after 200 steps. The task itself has no end: sum for ever.",
        ),
        (0.99 * expected, "The first step is not discounted: the sum starts with 1."),
    ]
    for mistake, message in mistakes:
        if abs(value - mistake) <= 0.06:
            raise WrongAnswer(message)
    if abs(value - expected) > 0.06:
        raise WrongAnswer(
            f"The value is {value:.1f}; expected is minus pi squared times the sum of 0.99^t."
        )
    if abs(scaled - expected / 8) <= 0.06:
        raise WrongAnswer(
            "Only the scale is applied. The shift of 8 is collected in every step, for ever.", 0.5
        )
    if abs(scaled - (expected + 8) / 8) <= 0.06:
        raise WrongAnswer("The shift is collected in every step, not once: 8 / (1 - 0.99).", 0.5)
    if abs(scaled - (expected / 8 + 100)) > 0.06:
        raise WrongAnswer(f"The scaled value is {scaled:.1f}; use Q / 8 + 100.", 0.5)
    return "Hanging for ever is worth -987.0, in the agents' units -23.4."


@checker("ex-truth-sweeps")
def check_sweeps(answer: Any) -> str:
    """The smallest k with discount^k / (1 - discount) * first <= goal."""
    for first, goal, discount in (
        (16.3, 1.0, 0.99),
        (10.0, 1e-3, 0.9),
        (5.0, 2.0, 0.5),
    ):
        inputs = f"first={first}, goal={goal}, discount={discount}"
        result = call(answer, first, goal, discount)
        if isinstance(result, Tensor) or int(result) != result:
            raise WrongAnswer(f"For {inputs} a whole number is expected; got {result}.")
        expected = _guaranteed(first, goal, discount)
        if result == expected:
            continue
        if result == _guaranteed(first, goal / (1 - discount), discount):
            raise WrongAnswer(
                f"For {inputs} the answer is {expected}; got {result}. That makes the *change* "
                "small. All changes still to come add up: divide by 1 - discount."
            )
        if result in (expected - 1, expected + 1):
            raise WrongAnswer(
                f"For {inputs} the answer is {expected}; got {result}. Off by one: after sweep k "
                "the change is at most discount^(k - 1) times the first one."
            )
        raise WrongAnswer(f"For {inputs} the answer is {expected}; got {result}.")
    return "It gives the guaranteed number of sweeps, for three discounts."


def _guaranteed(first: float, goal: float, discount: float) -> int:
    sweeps, bound = 1, first * discount / (1 - discount)
    while bound > goal:
        sweeps, bound = sweeps + 1, bound * discount
    return sweeps


@checker("ex-truth-lottery")
def check_lottery(answer: Any) -> str:
    """Compare with the definition on random numbers."""
    # With one state a forgotten sum is a wrong shape; with six it would be torch's own error.
    for states in (1, 6):
        _check_lottery(answer, states, count=4, discount=0.9)
    return "It agrees with the definition on random numbers, for 6 states and 4 torques."


def _check_lottery(answer: Any, states: int, count: int, discount: float) -> None:
    generator = torch.Generator().manual_seed(0)
    reward, next_value = torch.randn((2, states, count), generator=generator, dtype=torch.float64)
    weight = torch.rand((states, count), generator=generator, dtype=torch.float64)
    probability = weight / weight.sum(dim=1, keepdim=True)
    bonus = torch.rand(states, generator=generator, dtype=torch.float64)
    result = call(answer, reward, next_value, probability, bonus, discount)
    if not isinstance(result, Tensor) or result.shape != (states,):
        shape = tuple(result.shape) if isinstance(result, Tensor) else type(result).__name__
        raise WrongAnswer(
            f"For {states} state(s) and {count} torques a tensor of shape ({states},) is "
            f"expected; got {shape}. Did you sum over the torques?"
        )
    mean = (probability * (reward + discount * next_value)).sum(dim=1)
    mistakes = [
        (mean, "The bonus is missing."),
        (mean + discount * bonus, "The bonus of the state is paid now: it is not discounted."),
        (mean - bonus, "The bonus has the wrong sign."),
        (
            (reward + discount * next_value).mean(dim=1) + bonus,
            "All torques count alike in your version; weigh them by their probabilities.",
        ),
        (
            (reward + discount * next_value).amax(dim=1) + bonus,
            "The maximum belongs to the optimum. A given policy draws its torque.",
        ),
        (
            (probability * (reward + next_value)).sum(dim=1) + bonus,
            "The next value is not discounted.",
        ),
        (
            mean + count * bonus,
            "The bonus is inside the sum, so it is paid once for each torque; pay it once.",
        ),
        (
            reward.mean(dim=1) + (probability * discount * next_value).sum(dim=1) + bonus,
            "The probabilities must weigh the rewards too, not only the next value.",
        ),
        (
            (probability * reward).sum(dim=1) + discount * next_value.mean(dim=1) + bonus,
            "The probabilities must weigh the next value too, not only the reward.",
        ),
    ]
    if torch.allclose(result, mean + bonus):
        return
    for wrong, message in mistakes:
        if torch.allclose(result, wrong):
            raise WrongAnswer(message)
    raise WrongAnswer(f"Wrong values for random numbers, {states} state(s) and {count} torques.")


@checker("ex-truth-which")
def check_which(answer: Any) -> str:
    """Three of the four conclusions are wrong."""
    expected = {"optimum": False, "soft": False, "above_100": True, "one_start": False}
    reasons = {
        "optimum": "A critic estimates its own policy's value, and that may lie far below V*.",
        "soft": "A soft critic counts the entropy bonus, and the returns do not.",
        "above_100": "No reward is above 0, so no value is above 0, and 0 / 8 + 100 is 100.",
        "one_start": "On the cliff the grid's value itself can be off by that much.",
    }
    if not isinstance(answer, Mapping) or set(answer) != set(expected):
        raise WrongAnswer(f"A dictionary with the keys {', '.join(expected)} is expected.")
    if any(value is ... or value is None for value in answer.values()):
        raise NotDoneYet
    for key in expected:
        if not isinstance(answer[key], bool):
            raise WrongAnswer(f"{key!r}: True or False is expected; got {answer[key]!r}.")
    require_all(
        [
            None if answer[key] == truth else f"{key!r}: look again. {reasons[key]}"
            for key, truth in expected.items()
        ]
    )
    return "A fair comparison needs the same policy, the same units and the same bonus."
