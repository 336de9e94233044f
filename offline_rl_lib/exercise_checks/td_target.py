"""Checkers for the exercises of the chapter on the TD target."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from offline_rl_lib.teaching import WrongAnswer, call, checker


@checker("ex-td-two-torques")
def check_two_torques(answer: Any) -> str:
    """The larger of two errors with spread 0.3 is 0.3 / sqrt(pi) too high, counted 99 times."""
    value = _number(answer)
    bias = 0.3 / math.sqrt(math.pi)
    if abs(value - 99 * bias) <= 0.06:
        return f"99 times 0.3 / sqrt(pi) = {99 * bias:.1f}."
    mistakes = [
        (bias, 6e-3, "This is the error of one target. It is counted 99 times."),
        (100 * bias, 0.06, "Close. The opinion is discounted, so the factor is 99 and not 100."),
        (
            99 * 0.3,
            0.06,
            "The larger of two is 0.56 standard deviations too high, not a whole one.",
        ),
        (-99 * bias, 0.06, "The sign: the larger of two estimates is too high, not too low."),
        (100 + 99 * bias, 0.06, "This is the value itself. By how much is it above 100?"),
        (99 / math.sqrt(math.pi), 0.06, "The standard deviation of the errors is 0.3, not 1."),
        (99 * 0.09 / math.sqrt(math.pi), 0.06, "Times the standard deviation, not the variance."),
    ]
    for mistake, tolerance, message in mistakes:
        if abs(value - mistake) <= tolerance:
            raise WrongAnswer(message)
    raise WrongAnswer(
        f"Got {value:.2f}. First the mean of the larger of two errors, then the factor of "
        "repeated counting."
    )


@checker("ex-td-max-backup")
def check_max_backup(answer: Any) -> str:
    """Compare with a plain loop over transitions and actions."""
    for batch, count, temperature in ((5, 4, 0.3), (3, 6, 1.5)):
        generator = torch.Generator().manual_seed(batch)
        reward = torch.randn(batch, generator=generator, dtype=torch.float64)
        next_q = torch.randn((2, batch, count), generator=generator, dtype=torch.float64)
        log_prob = torch.randn((batch, count), generator=generator, dtype=torch.float64)
        terminated = torch.arange(batch) % 3 == 1
        where = f"B={batch}, K={count}, temperature={temperature}"
        result = call(answer, reward, terminated, next_q, log_prob, temperature)
        if not isinstance(result, Tensor):
            raise WrongAnswer(f"A tensor is expected for {where}; got {type(result).__name__}.")
        if result.shape != (batch,):
            raise WrongAnswer(
                f"The shape should be ({batch},) for {where}; got {tuple(result.shape)}. A "
                "trailing axis of length 1, as gather leaves it, broadcasts to a table."
            )
        expected = _best_by_loop(reward, terminated, next_q, log_prob, temperature)
        if torch.allclose(result.double(), expected):
            continue
        alive = 1.0 - terminated.double()
        for wrong, message in _max_backup_mistakes(next_q, log_prob, temperature):
            for factor, suffix in ((alive, ""), (1.0, " And `terminated` is not used.")):
                if torch.allclose(result.double(), reward + 0.99 * factor * wrong):
                    raise WrongAnswer(f"{message}{suffix} ({where})")
        if torch.allclose(result[~terminated].double(), expected[~terminated]):
            raise WrongAnswer(
                "Transitions that terminate are wrong: their target is the reward alone, without "
                f"opinion and without entropy ({where})."
            )
        raise WrongAnswer(f"Wrong values for {where}. Compare one transition with a loop.")
    return "It agrees with a plain loop over transitions and actions."


def _best_by_loop(
    reward: Tensor, terminated: Tensor, next_q: Tensor, log_prob: Tensor, temperature: float
) -> Tensor:
    targets = []
    for row, this_reward in enumerate(reward.tolist()):
        smaller = [min(pair) for pair in zip(*next_q[:, row].tolist(), strict=True)]
        best = smaller.index(max(smaller))
        opinion = smaller[best] - temperature * log_prob[row, best].item()
        targets.append(this_reward + (0.0 if terminated[row] else 0.99 * opinion))
    return torch.tensor(targets, dtype=torch.float64)


def _max_backup_mistakes(q: Tensor, m: Tensor, alpha: float) -> list[tuple[Tensor, str]]:
    smaller = q.amin(0)
    best, index = smaller.max(-1)
    chosen = m.gather(-1, index.unsqueeze(-1)).squeeze(-1)
    maxima, indices = q.max(-1)
    first_max = maxima.amin(0)
    critic = maxima.argmin(0)
    of_first_max = m.gather(-1, indices.gather(0, critic[None])[0].unsqueeze(-1)).squeeze(-1)
    return [
        (best - alpha * chosen, "Everything after the reward vanishes where the task ends."),
        (best + alpha * chosen, "The log-density is subtracted: rare actions earn a bonus."),
        (best, "The entropy of the chosen action is missing."),
        (best - chosen, "The log-density is multiplied by the temperature."),
        (best - alpha * m.mean(-1), "Not the mean log-density: the chosen action's own."),
        (best - alpha * m[:, 0], "Not the first log-density: the chosen action's own."),
        (best - alpha * m.amax(-1), "Not the largest log-density: the chosen action's own."),
        ((smaller - alpha * m).amax(-1), "Choose by the smaller critic alone, then add entropy."),
        (first_max - alpha * of_first_max, "Minimum first: the smaller critic of each action."),
        (first_max - alpha * chosen, "Minimum first: the smaller critic of each action."),
        (q.amax(0).amax(-1) - alpha * chosen, "Of the two critics the smaller, not the larger."),
        (smaller.mean(-1) - alpha * m.mean(-1), "This is the mean over actions; take the best."),
    ]


@checker("ex-td-alive")
def check_alive(answer: Any) -> str:
    """The shift at which the values of both policies, summed step by step, are equal."""
    for cost, goal, discount in ((1.0, 10.0, 0.99), (0.5, 3.0, 0.9), (2.0, 0.0, 0.95)):
        shift = _number(call(answer, cost, goal, discount))
        where = f"cost={cost}, goal={goal}, discount={discount}"
        # With 4 steps of work; any other number gives the same.
        finish = sum(discount**t * (shift - cost) for t in range(4)) + discount**3 * goal
        never = (shift - cost) / (1 - discount)
        if abs(finish - never) <= 1e-6 * max(1.0, abs(never)):
            continue
        mistakes = [
            (cost, "At this shift a step costs nothing, but the goal still pays."),
            (cost + goal * (1 - discount), "`goal` is paid in the last working step, one step "
             "before the two policies part: there is one more discount."),
            (cost + goal / (1 - discount), "A reward b for ever is worth b / (1 - discount); you "
             "divided the goal by it as well."),
            (cost - goal * (1 - discount) / discount, "The sign: a goal makes finishing better, "
             "so the shift must be larger before it is overruled."),
            (goal * (1 - discount) / discount, "Without a shift every step costs `cost`; the "
             "shift has to make up for it first."),
        ]  # fmt: skip
        for mistake, message in mistakes:
            if math.isclose(shift, mistake, rel_tol=1e-9):
                raise WrongAnswer(f"{message} ({where})")
        raise WrongAnswer(
            f"At your shift, {shift:.3f}, finishing in 4 steps is worth {finish:.3f} and never "
            f"finishing {never:.3f} ({where}). They should be equal."
        )
    return "At this shift both policies are worth the same, whatever the number of steps."


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise WrongAnswer(f"A number is expected; got {type(value).__name__}.") from None
