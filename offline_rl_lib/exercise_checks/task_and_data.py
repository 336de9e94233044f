"""Checkers of "The task and the data"."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from offline_rl_lib.teaching import WrongAnswer, call, checker


@checker("ex-task-hanging-return")
def hanging_return(function: Callable[..., Any]) -> str:
    """Check the return of a pendulum that hangs still, with and without discount."""
    for steps, discount in ((200, 1.0), (1, 0.9), (200, 0.99), (50, 0.5)):
        expected = sum(-(math.pi**2) * discount**step for step in range(steps))
        answer = float(call(function, steps, discount))
        where = f"For {steps} steps and discount {discount}"
        if math.isclose(answer, expected, rel_tol=1e-5):
            continue
        if math.isclose(answer, -expected, rel_tol=1e-5):
            raise WrongAnswer(
                f"{where} the size is right, but rewards are negative: a cost is paid."
            )
        if math.isclose(answer, discount * expected, rel_tol=1e-5):
            raise WrongAnswer(
                f"{where} your first reward is already discounted. The powers of the discount "
                "run from 0 to steps - 1."
            )
        if discount < 1 and math.isclose(answer, -(math.pi**2) / (1 - discount), rel_tol=1e-5):
            raise WrongAnswer(
                f"{where} you gave the sum over infinitely many steps. Stop after {steps}."
            )
        if math.isclose(answer, steps * -(math.pi**2), rel_tol=1e-5):
            raise WrongAnswer(f"{where} you left out the discount: that is the undiscounted sum.")
        scaled = expected / 8 + sum(discount**step for step in range(steps))
        if math.isclose(answer, scaled, rel_tol=1e-5):
            raise WrongAnswer(f"{where} you used the scaled reward; the equation takes r itself.")
        if math.isclose(answer, expected, rel_tol=1e-2):
            raise WrongAnswer(
                f"{where} the return is {expected:.4f}; got {answer:.4f}, which is close. Take pi "
                "from np.pi, not as a rounded number."
            )
        raise WrongAnswer(
            f"{where} the return is {expected:.4f}; got {answer:.4f}. Hanging down the angle is "
            "pi, and velocity and torque are zero."
        )
    return "Hanging still for an episode costs 200 pi^2, about 1974, undiscounted."


@checker("ex-task-td-target")
def td_target(function: Callable[..., Any]) -> str:
    """Check regression targets that bootstrap through time limits and not through endings."""
    reward = torch.tensor([-8.0, 0.0, -4.0, -16.0])
    next_value = torch.tensor([10.0, 20.0, 30.0, 40.0])
    terminated = torch.tensor([False, False, True, False])
    truncated = torch.tensor([False, True, False, False])
    scaled = (reward + 8) / 8
    expected = scaled + 0.99 * (~terminated) * next_value
    answer = torch.as_tensor(call(function, reward, next_value, terminated, truncated))
    if answer.shape != expected.shape:
        raise WrongAnswer(
            f"Four transitions need targets of shape (4,); got {tuple(answer.shape)}. Adding a "
            "column (4, 1) to a vector (4,) silently makes a (4, 4) table."
        )
    answer = answer.to(expected.dtype)
    if torch.allclose(answer, expected, atol=1e-5):
        return "Only the transition that terminated is cut; the truncated one bootstraps."
    mistakes = {
        "the bootstrap is cut at the time limit too (transition 1). A truncated state has a "
        "future; only terminated ends it": scaled + 0.99 * ~(terminated | truncated) * next_value,
        "transition 1 is cut and transition 2 is not: terminated and truncated are swapped": scaled
        + 0.99 * (~truncated) * next_value,
        "nothing is cut. Transition 2 terminated, so nothing is gained after it": scaled
        + 0.99 * next_value,
        "the reward is not shifted and scaled; use (reward + 8) / 8": reward
        + 0.99 * (~terminated) * next_value,
        "the discount is missing": scaled + (~terminated) * next_value,
        "8 / 8 is computed before the sum; the reward needs brackets, (reward + 8) / 8": reward
        + 1
        + 0.99 * (~terminated) * next_value,
        "the next value is divided by 8 as well; only the reward is scaled": scaled
        + 0.99 * (~terminated) * next_value / 8,
        "only what terminated has a future; turn the flag round with ~": scaled
        + 0.99 * terminated * next_value,
        "terminated takes away the reward too; it ends only what comes after it": expected
        * ~terminated,
    }
    for mistake, wrong in mistakes.items():
        if torch.allclose(answer, wrong, atol=1e-5):
            raise WrongAnswer(f"In your targets {mistake}.")
    raise WrongAnswer(
        f"The targets are {_listed(expected)}; got {_listed(answer)}. Each is the scaled reward "
        "plus 0.99 times the next value, without the second part where terminated is true."
    )


@checker("ex-task-episodes-needed")
def episodes_needed(function: Callable[..., Any]) -> str:
    """Check the number of paired starts at which a difference is two standard errors."""
    random = np.random.default_rng(0)
    start = random.normal(-150.0, 80.0, 40)
    for gap, noise in ((3.0, 20.0), (10.0, 15.0), (40.0, 5.0)):
        first = start + gap + random.normal(0.0, noise, start.size)
        second = start + random.normal(0.0, noise, start.size)
        difference = first - second
        mean = difference.mean()

        def count(variance: float, mean: float = mean) -> int:
            return math.ceil(4 * variance / mean**2)

        expected = count(difference.var(ddof=1))
        answer = call(function, first, second)
        if int(answer) == answer == expected:
            continue
        wrong = {
            "the starts are paired: take the spread of the differences, not the two spreads "
            "together": count(first.var(ddof=1) + second.var(ddof=1)),
            "the spread divides by n; a sample's variance divides by n - 1 (ddof=1)": count(
                difference.var(ddof=0)
            ),
            "one standard error is not enough; two are asked for": math.ceil(
                difference.var(ddof=1) / mean**2
            ),
            "the number grows with the square of spread over gap": math.ceil(
                2 * difference.std(ddof=1) / abs(mean)
            ),
        }
        for mistake, value in wrong.items():
            if answer == value:
                raise WrongAnswer(f"You found {answer} where {expected} are needed: {mistake}.")
        raise WrongAnswer(
            f"For differences of mean {mean:.2f} and standard deviation "
            f"{difference.std(ddof=1):.2f} the smallest whole number is {expected}; got {answer}. "
            "Solve 2 s / sqrt(n) <= |mean| for n and round up."
        )
    return "Paired starts need the spread of the differences only."


@checker("ex-task-time-limit")
def time_limit(function: Callable[..., Any]) -> str:
    """Check the shortest time limit at which the cut bootstrap costs at most a given share."""
    for discount, error in ((0.99, 0.01), (0.99, 0.5), (0.9, 0.1), (0.999, 0.05)):
        answer = call(function, discount, error)
        if int(answer) != answer or answer < 1:
            raise WrongAnswer(f"A number of steps is a whole number from 1; got {answer}.")
        steps = int(answer)
        where = f"With discount {discount} and an error of at most {error:.0%}"
        if _lost_share(steps, discount) > error * (1 + 1e-9):
            raise WrongAnswer(
                f"{where}, a limit of {steps} steps is too short: it loses "
                f"{_lost_share(steps, discount):.4%} of the value. Is your number rounded up?"
            )
        if steps > 1 and _lost_share(steps - 1, discount) <= error * (1 - 1e-9):
            raise WrongAnswer(
                f"{where}, {steps} steps are enough, but not the fewest: {steps - 1} lose only "
                f"{_lost_share(steps - 1, discount):.4%}."
            )
    return "With discount 0.99 an error of 1 % takes episodes of 9801 steps; Pendulum has 200."


def _lost_share(steps: int, discount: float) -> float:
    """Share of the loop's value that is lost if one in ``steps`` bootstraps is cut."""
    whole, cut = 1 / (1 - discount), 1 / (1 - discount * (1 - 1 / steps))
    return 1 - cut / whole


def _listed(values: torch.Tensor) -> str:
    return "[" + ", ".join(f"{value:.2f}" for value in values.tolist()) + "]"
