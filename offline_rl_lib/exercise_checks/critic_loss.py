"""Checkers for the exercises of the chapter on the critic loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from offline_rl_lib.teaching import NotDoneYet, WrongAnswer, call, checker, require_all


@checker("ex-critic-translate")
def check_translation(answer: Any) -> str:
    """Twice the paper's 5, half of 0.25, and eight times 0.25."""
    if not isinstance(answer, Mapping):
        raise WrongAnswer(f"A dictionary is expected; got {type(answer).__name__}.")
    expected = {"book": 10.0, "paper": 0.125, "own_rewards": 2.0}
    missing = [key for key in expected if key not in answer]
    if missing:
        raise WrongAnswer(f"These answers are missing: {', '.join(missing)}.")
    mistakes = {
        ("book", 2.5): "book: you halved. The paper's squared error has the 1/2, ours is larger.",
        ("book", 5.0): "book: the number does not stay. Multiply the paper's whole loss by 2.",
        ("paper", 0.5): "paper: you doubled. From this book to the paper the weight is halved.",
        ("paper", 0.25): "paper: the number does not stay. Divide our whole loss by 2.",
        ("own_rewards", 0.03125): "own_rewards: r is 8 times as large as (r + 8)/8, so Q is too.",
        ("own_rewards", 0.25): "own_rewards: w is in units of Q, and Q is 8 times as large on r.",
        ("own_rewards", 10.0): "own_rewards: the shift by 8 moves every Q alike; it tilts nothing.",
        ("own_rewards", 16.0): "own_rewards: the squared error grows by 64, the penalty with T = 8 "
        "by 8. Only their ratio counts.",
    }
    problems: list[str | None] = []
    for key, value in expected.items():
        if answer[key] is ...:
            continue
        given = _number(answer[key], key)
        general = f"{key}: {given:g} is not it. Write both losses down and compare the terms."
        right = abs(given - value) <= 1e-6
        problems.append(None if right else mistakes.get((key, given), general))
    require_all(problems)
    if any(answer[key] is ... for key in expected):
        raise NotDoneYet
    return "The weights are 10, 0.125 and 2."


@checker("ex-critic-decision")
def check_decision(answer: Any) -> str:
    """With equal Q both softmax shares are 1/2, and the weight follows."""
    for share, reward in (((0.95, 0.05), (1.0, 1.8)), ((0.7, 0.3), (-2.0, 0.5))):
        difference, advantage = 1 / share[1] - 1 / share[0], reward[1] - reward[0]
        expected = 4 * advantage / difference
        where = f"share={list(share)}, reward={list(reward)}"
        given = _number(call(answer, list(share), list(reward)), where)
        mistakes = [
            (
                expected / 2,
                "Half of it. Either 1/b stands for 1/(2b), though each p is 1/2, or this is w/2.",
            ),
            (-expected, "The sign is turned: the weight must be positive."),
            (expected / 4, "A quarter of it: the factors 2 of w/2 and of p = 1/2 are missing."),
            (4 * advantage / (share[0] - share[1]), "p is divided by beta, so 1 / beta counts."),
        ]
        if abs(given - expected) <= 1e-6 * expected:
            continue
        for mistake, message in mistakes:
            if abs(given - mistake) <= 1e-6 * abs(mistake):
                raise WrongAnswer(f"{message} ({where})")
        raise WrongAnswer(
            f"Got {given:.4f} for {where}. At that weight the two Q of the stationary equation, "
            "with p = 1/2 each, are not equal."
        )
    return "At this weight both actions have the same Q, for every temperature."


@checker("ex-critic-squares")
def check_squares(answer: Any) -> str:
    """Every value converges to the mean of all targets."""
    for size in (64, 3):
        target = torch.randn((size, 1), generator=torch.Generator().manual_seed(size))
        given = call(answer, target)
        where = f"a target of shape ({size}, 1)"
        if not isinstance(given, Tensor):
            raise WrongAnswer(f"A tensor is expected for {where}; got {type(given).__name__}.")
        if given.shape != (size,):
            raise WrongAnswer(
                f"The shape should be ({size},) for {where}; got {tuple(given.shape)}."
            )
        if torch.allclose(given.to(target), target[:, 0]):
            raise WrongAnswer(
                "Each q at its own target is what was intended. The table of differences holds "
                "every q against every target."
            )
        if torch.allclose(given.to(target), target.median().expand(size)):
            raise WrongAnswer("The median minimises absolute errors; these are squares.")
        if torch.allclose(given.to(target), target.sum().expand(size)):
            raise WrongAnswer("This is the sum of the targets; divide it by their number.")
        if not torch.allclose(given.to(target), target.mean().expand(size)):
            raise WrongAnswer(
                f"These values do not minimise the mean square for {where}. Set the derivative "
                "for one q to zero: it sums over all targets."
            )
    return "Every q converges to the mean of the minibatch's targets."


def _number(value: Any, where: str) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise WrongAnswer(
            f"A number is expected for {where}; got {type(value).__name__}."
        ) from None
